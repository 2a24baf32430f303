"""Two honest parties, whatever is lost between them: sums hold, each can get its due on chain, and no cost grows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from channel_support import close_transaction, digest, kernel_accepts
from exchange_support import (
    DEPOSIT,
    Side,
    close_all,
    over_the_wire,
    prepare,
    serve,
    settle,
    sync,
    two_parties,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from picopayments_cli.channel import duplex
from picopayments_cli.channel.duplex import Half
from picopayments_cli.channel.messages import SyncReply, SyncRequest
from picopayments_cli.channel.transactions import compose_close
from picopayments_cli.channel.values import Hash, hash160
from picopayments_cli.errors import AnchorsDiffer, RemainderMissing

AMOUNTS = st.integers(1, 300)


@dataclass
class Direction:
    """What one party signed to the other, as an onlooker of the wire sees it: hashes and quantities."""

    deposit: int
    signed: dict[Hash, int] = field(default_factory=dict)  # left the payer's machine
    held: set[Hash] = field(default_factory=set)  # reached the payee
    revealed: set[bytes] = field(default_factory=set)  # the secret left the payee's machine
    known: set[bytes] = field(default_factory=set)  # it reached the payer
    remainders: set[Hash] = field(default_factory=set)  # reached the payer

    def lost(self) -> int:
        return max((q for name, q in self.signed.items() if name not in self.known), default=0)

    def won(self) -> int:
        return max((self.signed[name] for name in self.held - self.revealed), default=0)


class Onlooker:
    """Both directions by the payer's name, read from the bodies as JSON."""

    def __init__(self, client: int, hub: int) -> None:
        self.by_payer = {"client": Direction(client), "hub": Direction(hub)}

    def leaves(self, name: str, body: dict[str, Any]) -> None:
        self.by_payer[_peer(name)].revealed |= {hash160(bytes.fromhex(item)) for item in body["revokes"]}
        if body["commit"]:
            self.by_payer[name].signed[_name(body["commit"])] = body["commit"]["quantity"]

    def arrives(self, sender: str, body: dict[str, Any]) -> None:
        back = self.by_payer[_peer(sender)]
        if body["remainder"]:
            back.remainders.add(_name(body["remainder"]))
        shown = {hash160(bytes.fromhex(item)) for item in body["revokes"]}
        assert shown <= back.remainders  # a secret is credited where the remainder is held
        back.known |= shown
        if body["commit"]:
            self.by_payer[sender].held.add(_name(body["commit"]))

    def guaranteed(self, name: str) -> int:
        own, other = self.by_payer[name], self.by_payer[_peer(name)]
        return own.deposit - own.lost() + other.won()


def _peer(name: str) -> str:
    return "hub" if name == "client" else "client"


def _name(item: dict[str, Any]) -> Hash:
    return Hash(bytes.fromhex(item["revoke_hash"]))


class Life(RuleBasedStateMachine):
    """Syncs, of which requests and replies get lost, and repairs; between two steps everything is loaded anew."""

    def __init__(self) -> None:
        super().__init__()
        self.client, self.hub = two_parties(DEPOSIT, 700)
        self.onlooker = Onlooker(DEPOSIT, 700)
        self.pending: SyncRequest | None = None
        self.bodies: list[dict[str, Any]] = []
        self.stored: tuple[Hash, dict[str, Any]] | None = None
        self.sent, self.got = 0, 0  # by the client, as it knows it

    def _sides(self) -> tuple[Side, Side]:
        return self.client, self.hub

    @rule(amount=AMOUNTS)
    def hub_owes(self, amount: int) -> None:
        self.hub.load(0, 2 * DEPOSIT)
        total = self.hub.due + amount
        if duplex.most_transferable(duplex.expecting(self.hub.now), total) == total:
            self.hub.due = total

    @precondition(lambda self: self.pending is None)
    @rule(amount=AMOUNTS)
    def client_prepares(self, amount: int) -> None:
        self.client.load(0, amount)
        amount = duplex.most_transferable(self.client.now, amount)
        self.pending = prepare(self.client, amount)
        self.bodies = [self.pending.as_json()]
        self.sent += amount
        self.onlooker.leaves("client", self.bodies[-1])

    @precondition(lambda self: self.pending is not None)
    @rule()
    def client_repairs(self) -> None:
        """The hub refused the payments: the same half again."""
        self.bodies.append(self.bodies[-1] | {"partial": False})

    @precondition(lambda self: self.pending is not None)
    @rule(reply_lost=st.booleans())
    def client_sends(self, reply_lost: bool) -> None:
        body, asked = over_the_wire(self.bodies[-1])
        request = SyncRequest.parse(body)
        if self.stored is None or self.stored[0] != request.next_hash:
            self.onlooker.arrives("client", body)
            answer = serve(self.hub, request, asked).as_json()
            self.onlooker.leaves("hub", answer)
            self.stored = request.next_hash, answer
        if reply_lost:
            return
        told, _ = over_the_wire(self.stored[1])
        self.onlooker.arrives("hub", told)
        self.got += settle(self.client, SyncReply.parse(told))
        self.pending = None

    @rule()
    def both_restart(self) -> None:
        for side in self._sides():
            side.load()

    @invariant()
    def each_can_get_its_due(self) -> None:
        for side in self._sides():
            assert side.now.guaranteed == self.onlooker.guaranteed(side.name)
        assert self.client.now.guaranteed == DEPOSIT - self.sent + self.got

    @invariant()
    def sums_hold(self) -> None:
        client, hub = (side.now.guaranteed for side in self._sides())
        assert client + hub <= DEPOSIT + 700
        if self.pending is None:
            assert client + hub == DEPOSIT + 700

    @invariant()
    def both_have_the_same_commits_once_it_is_quiet(self) -> None:
        if self.pending is None:
            for one, other in (self._sides(), self._sides()[::-1]):
                active = {name for name, row in one.signed.items() if row.secret is None}
                assert active == set(other.held)

    @invariant()
    def every_revoked_commit_can_be_punished(self) -> None:
        for side in self._sides():
            for name, row in side.signed.items():
                assert row.secret is None or (hash160(row.secret) == name and row.remainder is not None)

    def teardown(self) -> None:
        """Once a pending sync is answered, both agree on the close at what each has."""
        if self.pending is not None:
            self.client_sends(reply_lost=False)
        before = {side.name: side.now.guaranteed for side in self._sides()}
        outcome = close_all(self.client, self.hub, sign=True, rounds=1)
        assert outcome.c2h is not None
        assert outcome.h2c is not None
        paid, received = outcome.c2h.closing.quantity, outcome.h2c.closing.quantity
        assert before["client"] == DEPOSIT - paid + received
        assert before["hub"] == 700 - received + paid


TestLife = Life.TestCase
TestLife.settings = settings(stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow])


def test_an_agreed_close_is_valid_for_the_kernel() -> None:
    client, hub = two_parties()
    sync(client, hub, 300, 120)
    outcome = close_all(client, hub, sign=True)
    for side, agreed in ((client.now.sending, outcome.c2h), (client.now.receiving, outcome.h2c)):
        assert agreed is not None
        assert side.anchor is not None
        draft = compose_close(side.contract, side.anchor, agreed.closing.quantity)
        assert kernel_accepts(close_transaction(side, agreed), draft)


def test_nothing_but_the_rows_of_revoked_commits_grows_with_the_age_of_a_connection() -> None:
    """Rows loaded and written, and bytes sent, stay as they are in each of 1,000 syncs (slow profile: 10,000)."""
    client, hub = two_parties()
    count = 20 * settings().max_examples
    costs: list[tuple[int, ...]] = []
    for number in range(count):
        before = [(side.loaded, side.written) for side in (client, hub)]
        body = prepare(client, 10 + number % 7).as_json()
        hub.due += 10 + 3 * number % 7
        told = serve(hub, SyncRequest.parse(body), digest("asked")).as_json()
        settle(client, SyncReply.parse(told))
        rows = [(side.loaded - b[0], side.written - b[1]) for side, b in zip((client, hub), before, strict=True)]
        costs.append((*rows[0], *rows[1], len(json.dumps(body)), len(json.dumps(told))))
    young, old = costs[: count // 10], costs[-count // 10 :]
    assert [max(cost) for cost in zip(*old, strict=True)] == [max(cost) for cost in zip(*young, strict=True)]
    assert len(client.held) + len(hub.held) <= 3  # a payee keeps what it can still publish
    assert len(client.signed) + len(hub.signed) > count


def test_a_sync_on_another_anchor_is_refused() -> None:
    client, hub = two_parties()
    request = prepare(client, 5)
    for anchors in (replace(request.anchors, c2h=request.anchors.h2c), replace(request.anchors, h2c=None)):
        with pytest.raises(AnchorsDiffer) as refused:
            serve(hub, replace(request, anchors=anchors), digest("asked"))
        assert refused.value.data["c2h_anchor"] == str(anchors.c2h)
    assert serve(hub, request, digest("asked")).half.remainder is not None


def test_a_payee_gives_back_at_most_so_many_commits_at_once() -> None:
    client, hub = two_parties()
    for _ in range(300):
        sync(client, hub, 1)
    reply = sync(client, hub, 0, 290)
    assert len(reply.half.revokes) == 256
    assert reply.half.commit is not None
    assert reply.half.commit.quantity == 34


def test_the_hub_takes_no_new_sync_without_the_remainder() -> None:
    client, hub = two_parties()
    sync(client, hub, 0, 100)
    request = prepare(client, 5)
    half = Half(None, request.half.revokes, request.half.commit)
    with pytest.raises(RemainderMissing):
        duplex.accept(hub.now, half)

"""Two parties that exchange syncs and closes: each with tables of rows, of which it loads what the rules say only.

Each counts the rows that it loads and writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from channel_support import ASSET, digest, key, legacy
from envelope_support import counted_by

from picopayments_cli.channel import close, duplex
from picopayments_cli.channel.duplex import Duplex, Half
from picopayments_cli.channel.kept import Count
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.messages import CloseReply, CloseRequest, SyncReply, SyncRequest
from picopayments_cli.channel.opening import Party, Stake, check_parties, contract_of
from picopayments_cli.channel.standing import Found, Standing, doubts, learned, proofs, standing
from picopayments_cli.channel.state import (
    MOST_REVOKED,
    Changes,
    Held,
    Receiving,
    Sending,
    Signed,
    deepened,
    floor_of,
)
from picopayments_cli.channel.values import Coin, Handle, Hash, Outpoint, Quantity, Secret, hash_of
from picopayments_cli.channel.wire import Anchors, Figures

HANDLE = Handle(digest("handle"))
COUNT = counted_by(key("hub"), Count(HANDLE, 1, 0).as_json())
HEIGHT = 900_000
DEPOSIT = 1000


def over_the_wire(body: dict[str, Any]) -> tuple[Any, bytes]:
    """A body as it arrives, and its digest."""
    text = json.dumps(body, sort_keys=True)
    return json.loads(text), hashlib.sha256(text.encode()).digest()


@dataclass
class Side:
    """One party: what a database would hold of a connection."""

    name: str
    wallet: Key
    secrets: Secrets
    now: Duplex
    signed: dict[Hash, Signed] = field(default_factory=dict)  # all that were ever signed
    unrevoked: dict[Hash, Signed] = field(default_factory=dict)  # those of them without a secret
    held: dict[Hash, Held] = field(default_factory=dict)
    hashes: set[Hash] = field(default_factory=set)  # every one that the connection has seen
    due: int = 0
    loaded: int = 0
    written: int = 0

    def backup(self) -> Side:
        """A copy as it is now."""
        signed, unrevoked, held = dict(self.signed), dict(self.unrevoked), dict(self.held)
        return replace(self, signed=signed, unrevoked=unrevoked, held=held, hashes=set(self.hashes))

    def load(self, secrets_shown: int = 0, amount: int = 0) -> None:
        """Forget all active commits but those that a step needs by the rules, as after a restart."""
        active = sorted(self.unrevoked.values(), key=lambda r: r.quantity)
        top = active[-(secrets_shown + 1) :]
        sending = replace(self.now.sending, active=tuple(top), deeper=len(active) > len(top))
        self.now = replace(self.now, sending=sending, receiving=self._deep(amount))
        self.loaded += len(self.now.sending.active) + len(self.now.receiving.active)

    def _deep(self, amount: int) -> Receiving:
        held = sorted(self.held.values(), key=lambda r: r.quantity)
        receiving = replace(self.now.receiving, active=tuple(held[-1:]), deeper=len(held) > 1)
        least = floor_of(receiving, amount)
        above = [r for r in held[:-1] if r.quantity >= least]
        lower = [r for r in held[:-1] if r.quantity < least][-1:] + above
        lower = lower[-MOST_REVOKED:]
        return deepened(receiving, lower, len(held) > len(lower) + 1) if held else receiving

    def keep(self, after: Duplex, changes: Changes) -> None:
        """Write a state and the rows that it changes."""
        self.now = after
        self.written += len(changes.signed) + len(changes.held) + len(changes.given_back)
        for row in changes.signed:
            self.signed[row.revoke_hash] = row
            if row.secret is None:
                self.unrevoked[row.revoke_hash] = row
            else:
                self.unrevoked.pop(row.revoke_hash, None)
        for held in changes.held:
            self.held[held.revoke_hash] = held
        for held in changes.given_back:
            self.held.pop(held.revoke_hash, None)

    def transfer(self, amount: int) -> Half:
        """Move an amount with a half of a sync."""
        after, half, changes = duplex.transfer(self.now, amount, self.secrets)
        self.keep(after, changes)
        return half

    def hand_out(self) -> Hash:
        """A fresh hash for the peer."""
        self.now, own = duplex.hand_out(self.now, self.secrets)
        self.hashes.add(own)
        return own

    def request(self, peers_hash: Hash) -> None:
        """The peer's hash for a commit."""
        self.now = duplex.add_request(self.now, peers_hash, seen=peers_hash in self.hashes)
        self.hashes.add(peers_hash)

    def found(self, said: Standing) -> Found:
        """The rows that a standing's secrets and doubts find."""
        names = {hash_of(item) for item in said.revokes} | set(said.doubts)
        signed = [row for name, row in self.signed.items() if name in names]
        return Found(signed, [row for name, row in self.held.items() if name in names])

    def learn(self, said: Standing) -> None:
        """Take what the peer's standing shows."""
        self.load(MOST_REVOKED, 2 * DEPOSIT)
        self.keep(*learned(self.now, said, self.found(said), self.secrets))

    def stand(self, peers: Standing | None = None, left: Sequence[Secret] = ()) -> Standing:
        """How the connection stands, in answer to the peer's standing."""
        if peers is None:
            return standing(self.now, self.secrets, left)
        shown = proofs(peers.doubts, self.found(peers).signed)
        return standing(self.now, self.secrets, (*left, *shown), doubts(self.now.receiving, peers.commit))


def anchor(contract_name: str, value: int, script: bytes) -> Coin:
    """An anchor of its own for each name."""
    return Coin(Outpoint(digest(f"anchor {contract_name}"), 0), value, script, None)


def two_parties(client_deposit: int = DEPOSIT, hub_deposit: int = DEPOSIT) -> tuple[Side, Side]:
    """A client and a hub with an open connection, which have given each other a hash."""
    wallets = {name: key(f"{name}'s wallet") for name in ("client", "hub")}
    secrets = {name: Secrets(wallets[name], digest(f"{name}'s salt")[:16]) for name in wallets}
    parties = {name: Party(item.payer.xonly, item.payee.xonly, legacy(wallets[name])) for name, item in secrets.items()}
    check_parties(parties["client"], parties["hub"])
    c2h = contract_of(parties["client"], parties["hub"], ASSET, HEIGHT, Stake(Quantity(client_deposit), 14, 1))
    h2c = contract_of(parties["hub"], parties["client"], ASSET, HEIGHT, Stake(Quantity(hub_deposit), 20, 2))
    c2h_anchor = anchor("c2h", c2h.budget.anchor, c2h.deposit.output)
    h2c_anchor = anchor("h2c", h2c.budget.anchor, h2c.deposit.output)
    client = Duplex(Sending(c2h, c2h_anchor), Receiving(h2c, h2c_anchor))
    hub = Duplex(Sending(h2c, h2c_anchor), Receiving(c2h, c2h_anchor))
    sides = (
        Side("client", wallets["client"], secrets["client"], client),
        Side("hub", wallets["hub"], secrets["hub"], hub),
    )
    for one, other in (sides, sides[::-1]):
        one.request(other.hand_out())
    return sides


# Syncs --------------------------------------------------------------------------------------------------------------


def anchors_of(side: Side) -> Anchors:
    """Both anchors, that of the side's own deposit first, as a client names them."""
    sending, receiving = side.now.sending.anchor, side.now.receiving.anchor
    assert sending is not None
    assert receiving is not None
    return Anchors(sending.outpoint, receiving.outpoint)


def prepare(client: Side, amount: int) -> SyncRequest:
    """A client's next sync, which moves an amount to the hub."""
    client.load(0, amount)
    half = client.transfer(amount)
    return SyncRequest(HANDLE, anchors_of(client), half, (), client.hand_out(), 1)


def serve(hub: Side, request: SyncRequest, asked: bytes) -> SyncReply:
    """A hub's new reply, which moves as much as can be of what is due to the client. Raises what it refuses."""
    seen = anchors_of(hub)
    Anchors(seen.h2c, seen.c2h).check(request.anchors)
    hub.load(len(request.half.revokes))
    after, changes = duplex.accept(hub.now, request.half)
    hub.keep(after, changes)
    hub.load(0, hub.due)
    _, total = duplex.deliverable(hub.now, hub.due, ())
    half = hub.transfer(total)
    hub.due -= total
    hub.request(request.next_hash)
    return SyncReply(asked, half, (), (), hub.hand_out(), COUNT)


def settle(client: Side, reply: SyncReply, expected: int = 0) -> int:
    """The client takes a reply: what it moved beyond what was expected."""
    client.load(len(reply.half.revokes))
    after, changes, more = duplex.settle(client.now, reply.half, expected)
    client.keep(after, changes)
    client.request(reply.next_hash)
    return more


def sync(client: Side, hub: Side, amount: int = 0, due: int = 0) -> SyncReply:
    """One sync that moves an amount there, and what is due back, over the wire and without an accident."""
    hub.due += due
    body, asked = over_the_wire(prepare(client, amount).as_json())
    reply = serve(hub, SyncRequest.parse(body), asked)
    answer = SyncReply.parse(over_the_wire(reply.as_json())[0])
    settle(client, answer)
    return answer


# Closes -------------------------------------------------------------------------------------------------------------


def ask(
    client: Side,
    *,
    sign: bool,
    figures: Figures | None = None,
    peers: Standing | None = None,
    left: Sequence[Secret] = (),
) -> CloseRequest:
    """A client's mph_close."""
    said = client.stand(peers, left)
    wanted = figures or close.own_figures(client.now)
    client.now, request = close.ask(client.now, HANDLE, wanted, said, client.secrets, sign=sign)
    return CloseRequest.parse(over_the_wire(request.as_json())[0])


def answer(hub: Side, request: CloseRequest, *, owed: int = 0, stale: bool = False) -> tuple[CloseReply, close.Outcome]:
    """A hub's answer, which owes the client so much beyond what has moved."""
    hub.learn(request.standing)
    said = hub.stand(request.standing)
    hub.now, reply, outcome = close.answer(
        hub.now, request, digest("asked"), said, hub.secrets, owed=None if stale else owed
    )
    return CloseReply.parse(over_the_wire(reply.as_json())[0]), outcome


def judge(client: Side, request: CloseRequest, reply: CloseReply) -> close.Outcome:
    """What the client makes of an answer."""
    client.learn(reply.standing)
    client.now, outcome = close.judge(client.now, request, reply, client.secrets)
    return outcome


def close_all(
    client: Side, hub: Side, *, sign: bool, rounds: int = 4, owed: int = 0, stale: bool = False
) -> close.Outcome:
    """Ask and answer until both closes are signed, or the rounds are over."""
    request = ask(client, sign=sign)
    for _ in range(rounds):
        reply, _ = answer(hub, request, owed=owed, stale=stale)
        outcome = judge(client, request, reply)
        if outcome.c2h and outcome.h2c:
            break
        figures = close.next_figures(client.now, reply)
        request = ask(client, sign=True, figures=figures, peers=reply.standing)
    return outcome

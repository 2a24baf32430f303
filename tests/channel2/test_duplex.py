"""A connection's two channels: whatever two parties pay each other, sums hold and each gets its due on chain.

The oracle knows nothing of the code under test: it reads commits and secrets as they leave one machine and reach the
other, and a ledger in memory moves the asset as Counterparty reads the published transactions.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from arc4 import ARC4
from channel2_support import (
    ASSET,
    PAYEE,
    PAYER,
    ChannelParty,
    Ledger,
    connect,
    hashed,
    judge,
    open_channel,
    parsed,
    purse,
    secret,
    signed_spend,
    with_commits,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from picopayments_cli.channel.values import Hash, Outpoint, Quantity, hash160
from picopayments_cli.channel2.duplex import (
    Duplex,
    Half,
    accept,
    add_request,
    corrected,
    deliverable,
    hand_out,
    most_transferable,
    settle,
    standing,
    transfer,
    transferable,
)
from picopayments_cli.channel2.scripts import change_unlock, expire_unlock, payout_unlock, revoke_unlock
from picopayments_cli.channel2.state import (
    Channel,
    Commit,
    Revoked,
    accept_commit,
    commit,
    finished,
    give_back,
    request_commit,
)
from picopayments_cli.channel2.transactions import Input, Output, compose_recovery, find_secret
from picopayments_cli.errors import (
    AmountsDiffer,
    BadCommit,
    BadSecret,
    NotTransferable,
    RepeatedHash,
    UnknownRevokeHash,
)

# The oracle ---------------------------------------------------------------------------------------------------------


def quantity_in(raw: bytes) -> int:
    """The quantity that a commit sends, read from its bytes alone."""
    tx = parsed(raw)
    plain = ARC4(tx.vin[0].prevout.hash[::-1]).decrypt(tx.vout[1].scriptPubKey[2:])
    assert plain[:8] == b"CNTRPRTY"
    kind, asset, quantity = struct.unpack(">IQQ", plain[8:])
    assert (kind, asset) == (0, ASSET)
    return int(quantity)


def revoke_hash_in(script: bytes) -> Hash:
    """The revoke hash that stands in a commit's script."""
    return Hash(script[-57:-37])


@dataclass
class Direction:
    """Hashes and quantities that one party knows to have signed to the other, and those that the other knows."""

    deposit: int
    signed: dict[bytes, int] = field(default_factory=dict)  # left the payer's machine
    held: set[bytes] = field(default_factory=set)  # reached the payee
    told: set[bytes] = field(default_factory=set)  # the secret left the payee's machine
    learned: set[bytes] = field(default_factory=set)  # it reached the payer

    def lost(self) -> int:
        """Return what the payee could publish for all that the payer knows."""
        return max((self.signed[name] for name in self.signed.keys() - self.learned), default=0)

    def won(self) -> int:
        """Return what the payee can publish without being punished."""
        return max((self.signed[name] for name in self.held - self.told), default=0)


class Book:
    """Both directions, kept by the name of the payer."""

    def __init__(self, client_deposit: int, hub_deposit: int) -> None:
        self.by_payer = {"client": Direction(client_deposit), "hub": Direction(hub_deposit)}

    def leaves(self, name: str, half: Half) -> None:
        """A half leaves the machine of that party."""
        peer = "hub" if name == "client" else "client"
        self.by_payer[peer].told |= {hash160(data) for data in half.revokes}
        if half.offer:
            self.by_payer[name].signed[revoke_hash_in(half.offer.script)] = quantity_in(half.offer.raw)

    def arrives(self, sender: str, half: Half) -> None:
        """The peer of the sender has it."""
        peer = "hub" if sender == "client" else "client"
        self.by_payer[peer].learned |= {hash160(data) for data in half.revokes}
        if half.offer:
            self.by_payer[sender].held.add(revoke_hash_in(half.offer.script))

    def guaranteed(self, name: str) -> int:
        """Return what that party can get on chain alone, whatever the other does."""
        own = self.by_payer[name]
        (other,) = (direction for payer, direction in self.by_payer.items() if payer != name)
        return own.deposit - own.lost() + other.won()


# On chain -----------------------------------------------------------------------------------------------------------


def publish(ledger: Ledger, channel: Channel, chosen: Commit, payee: ChannelParty) -> tuple[Outpoint, Outpoint]:
    """Finish and publish a commit: where its output is, and the deposit's change."""
    raw = finished(channel, chosen, payee.key)
    assert channel.anchor is not None
    judge(raw, [Output(channel.anchor.value, channel.script.output)])
    tx = parsed(raw)
    moved = ledger.apply(tx, channel.script.output)
    assert moved == chosen.quantity
    return Outpoint(tx.GetTxid(), 0), Outpoint(tx.GetTxid(), 2)


def settle_on_chain(victim: ChannelParty, peer: ChannelParty, published: Commit | None, revoked: bool) -> int:
    """Return what ``victim`` has at last, if its peer publishes that commit and it publishes its own best."""
    out, back = victim.duplex.sending, victim.duplex.receiving
    ledger = Ledger({out.script.output: out.quantity, back.script.output: back.quantity})
    rate = out.budget.recovery_rate
    own, theirs = purse(victim.key, rate), purse(peer.key, rate)
    assert out.anchor is not None
    left, left_value = out.anchor.outpoint, out.anchor.value
    found = None
    if published:
        at, left = publish(ledger, out, published, peer)
        left_value -= out.budget.commit_fee + out.budget.commit_value
        script = out.commit_script(published.revoke_hash)
        output = Output(out.budget.commit_value, script.output)
        if revoked:
            (known,) = (item.secret for item in out.revoked if item.revoke_hash == published.revoke_hash)
            coin = Input(at, output.value, revoke_unlock(script, known))
            ledger.apply(signed_spend(compose_recovery([coin], own, ASSET), victim.key, output), script.output)
        else:
            unlock = payout_unlock(script, peer.secrets.spend)
            coin = Input(at, output.value, unlock, out.delay)
            payout = signed_spend(compose_recovery([coin], theirs, ASSET, 2), peer.key, output)
            ledger.apply(payout, script.output)
            found = find_secret(payout, out.script.spend_hash)
            assert found is not None
    output = Output(left_value, out.script.output)
    if found:
        coin, version = Input(left, left_value, change_unlock(out.script, found)), 1
    else:
        coin, version = Input(left, left_value, expire_unlock(out.script), out.script.expire), 2
    ledger.apply(signed_spend(compose_recovery([coin], own, ASSET, version), victim.key, output), out.script.output)
    if back.active:
        best = back.active[-1]
        at, _ = publish(ledger, back, best, victim)
        script = back.commit_script(best.revoke_hash)
        output = Output(back.budget.commit_value, script.output)
        coin = Input(at, output.value, payout_unlock(script, victim.secrets.spend), back.delay)
        ledger.apply(signed_spend(compose_recovery([coin], own, ASSET, 2), victim.key, output), script.output)
    assert sum(ledger.balances.values()) == out.quantity + back.quantity
    return ledger.balance(own.script)


# Any sequence of exchanges ------------------------------------------------------------------------------------------


@dataclass
class SyncUnderWay:
    """A sync on its way: the client's half and hash, what it is for, and the hub's answer once there is one."""

    half: Half
    own_hash: Hash
    accepted: int  # of what the half moves, so much is payments that the hub takes
    waiting: tuple[int, ...]  # payments to the client, oldest first
    unsaid: int  # how much of its reply the hub's list of payments does not name
    reply: Half | None = None
    moved: int = 0
    hub_hash: Hash | None = None


amounts = st.integers(0, 12) | st.integers(0, 400)
deposits = st.integers(1, 300)


class ConnectionMachine(RuleBasedStateMachine):
    """A client and a hub that pay each other, while requests and replies get lost and are repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.client, self.hub = connect()
        self.book = Book(1000, 1000)
        self.pending: SyncUnderWay | None = None
        self.owed = 0  # what the hub could not give back yet
        self.balance = 0  # the client's, by plain arithmetic
        self.newest = False  # whether the hub commits on the hash of this request, or of the one before
        self.commits: dict[str, dict[Hash, Commit]] = {"client": {}, "hub": {}}

    @initialize(
        client_deposit=st.integers(1, 300),
        hub_deposit=st.integers(1, 300),
        rate=st.integers(5, 100),
        newest=st.booleans(),
    )
    def open(self, client_deposit: int, hub_deposit: int, rate: int, newest: bool) -> None:
        self.client, self.hub = connect(client_deposit, hub_deposit, rate)
        self.book = Book(client_deposit, hub_deposit)
        self.balance = client_deposit
        self.newest = newest

    @precondition(lambda self: self.pending is None)
    @rule(
        amount=amounts,
        refused=st.sampled_from([0, 0, 0, 1, 7, 1000]),
        waiting=st.lists(amounts.filter(bool), max_size=3).map(tuple),
        unsaid=st.sampled_from([0, 0, 1]),
        fate=st.sampled_from(["answered", "answered", "answered", "request lost", "reply lost"]),
    )
    def sync(self, amount: int, refused: int, waiting: tuple[int, ...], unsaid: int, fate: str) -> None:
        amount = self.can_move(self.client, amount)
        half = self.move(self.client, amount)
        own_hash = self.client.draw()
        self.client.duplex = hand_out(self.client.duplex, own_hash)
        self.balance -= amount
        self.pending = SyncUnderWay(half, own_hash, max(amount - refused, 0), waiting, unsaid)
        self.book.leaves("client", half)
        if fate != "request lost":
            self.arrive(self.pending)
        if fate == "answered":
            self.finish()

    @precondition(lambda self: self.pending is not None)
    @rule()
    def finish(self) -> None:
        exchange = self.pending
        assert exchange is not None
        if exchange.reply is None:
            self.arrive(exchange)
        assert exchange.reply is not None
        assert exchange.hub_hash is not None
        unsaid = min(exchange.unsaid, exchange.moved)
        with pytest.raises(AmountsDiffer):
            settle(self.client.duplex, exchange.reply, exchange.moved + 1)
        self.client.duplex, more = settle(self.client.duplex, exchange.reply, exchange.moved - unsaid)
        assert more == unsaid
        self.client.duplex = add_request(self.client.duplex, exchange.hub_hash)
        self.book.arrives("hub", exchange.reply)
        self.balance += exchange.moved
        self.pending = None
        self.both_agree()

    def arrive(self, exchange: SyncUnderWay) -> None:
        """The hub takes the request, gives back what it refuses, and pays what waits for the client."""
        hub = self.hub
        hub.duplex, surplus = settle(hub.duplex, exchange.half, exchange.accepted)
        self.book.arrives("client", exchange.half)
        if self.newest:
            hub.duplex = add_request(hub.duplex, exchange.own_hash)
        due = self.owed + surplus
        count, exchange.moved = deliverable(hub.duplex, due, exchange.waiting)
        self.owed = max(due - exchange.moved, 0)
        assert exchange.moved == due - self.owed + sum(exchange.waiting[:count])
        exchange.reply = self.move(hub, exchange.moved)
        if not self.newest:
            hub.duplex = add_request(hub.duplex, exchange.own_hash)
        exchange.hub_hash = hub.draw()
        hub.duplex = hand_out(hub.duplex, exchange.hub_hash)
        self.book.leaves("hub", exchange.reply)

    def can_move(self, party: ChannelParty, amount: int) -> int:
        """The amount, or as much of it as can be moved; then the whole must be refused."""
        if transferable(party.duplex, amount):
            return amount
        with pytest.raises(NotTransferable):
            transfer(party.duplex, amount, party.key, party.secret_of)
        return most_transferable(party.duplex, amount)

    def move(self, party: ChannelParty, amount: int) -> Half:
        before = party.duplex.guaranteed
        party.duplex, half = transfer(party.duplex, amount, party.key, party.secret_of)
        assert party.duplex.guaranteed == before - amount
        if half.offer:
            made = party.duplex.sending.active[-1]
            self.commits[party.name][made.revoke_hash] = made
        return half

    def both_agree(self) -> None:
        """After a whole exchange both see the same, and nothing is in flight."""
        client, hub = self.client.duplex, self.hub.duplex
        assert client.net == -hub.net
        assert client.guaranteed == self.balance
        assert client.guaranteed + hub.guaranteed == client.sending.quantity + hub.sending.quantity
        for paying, paid in ((client.sending, hub.receiving), (hub.sending, client.receiving)):
            assert replace(paying, revoked=()) == paid
        assert client.sending.requested
        assert hub.sending.requested or self.newest

    @invariant()
    def nobody_has_more_or_less_than_the_oracle_says(self) -> None:
        client, hub = self.client.duplex, self.hub.duplex
        total = client.sending.quantity + hub.sending.quantity
        assert client.guaranteed == self.book.guaranteed("client")
        assert hub.guaranteed == self.book.guaranteed("hub")
        assert 0 <= client.guaranteed <= total
        assert 0 <= hub.guaranteed <= total
        assert client.guaranteed + hub.guaranteed <= total

    @invariant()
    def commits_rise_and_stay_in_their_deposits(self) -> None:
        for channel in (self.client.duplex.sending, self.client.duplex.receiving, self.hub.duplex.receiving):
            levels = [0, *(item.quantity for item in channel.active)]
            assert all(low < high for low, high in pairwise(levels))
            assert levels[-1] <= channel.quantity
            assert channel.room >= 0

    def teardown(self) -> None:
        """Each gets its guaranteed balance on chain, in whatever state they are left, answered or not."""
        for victim, peer in ((self.client, self.hub), (self.hub, self.client)):
            channel = victim.duplex.sending
            best = channel.active[-1] if channel.active else None
            assert settle_on_chain(victim, peer, best, revoked=False) == victim.duplex.guaranteed
            if channel.revoked:
                worst = max(channel.revoked, key=lambda item: item.quantity)
                cheat = self.commits[victim.name][worst.revoke_hash]
                kept = channel.quantity + victim.duplex.receiving.moved
                assert settle_on_chain(victim, peer, cheat, revoked=True) == kept


ConnectionMachine.TestCase.settings = settings(stateful_step_count=20)
TestConnection = ConnectionMachine.TestCase


# What can be moved, against brute force -----------------------------------------------------------------------------


def feasible(room: int, levels: Sequence[int], amount: int) -> bool:
    """Whether giving back some of the highest commits, and committing to the rest, moves exactly an amount."""
    tops = [0, *levels]
    returned = [tops[-1] - top for top in tops]
    return any(part <= amount and amount - part <= room for part in returned)


levels_of = st.sets(st.integers(1, 30), max_size=5).map(sorted)


def duplex_of(room: int, levels: Sequence[int]) -> Duplex:
    """A party that has room in its own deposit of 50, and has received those commits."""
    sending = with_commits(open_channel(50), [50 - room] if room < 50 else [])
    return Duplex(sending, with_commits(open_channel(30), levels))


@settings(max_examples=4 * settings().max_examples)
@given(st.integers(0, 40), levels_of, st.integers(0, 60))
def test_the_sum_that_can_be_moved_agrees_with_brute_force(room: int, levels: list[int], amount: int) -> None:
    duplex = duplex_of(room, levels)
    assert transferable(duplex, amount) == feasible(room, levels, amount)
    assert most_transferable(duplex, amount) == max(x for x in range(amount + 1) if feasible(room, levels, x))


@settings(max_examples=4 * settings().max_examples)
@given(st.integers(0, 40), levels_of, st.integers(0, 20), st.lists(st.integers(1, 20), max_size=4))
def test_the_sum_that_can_be_delivered_agrees_with_brute_force(
    room: int, levels: list[int], due: int, waiting: list[int]
) -> None:
    count, total = deliverable(duplex_of(room, levels), due, waiting)
    sums = [due + sum(waiting[:number]) for number in range(len(waiting) + 1)]
    whole = [number for number, moved in enumerate(sums) if feasible(room, levels, moved)]
    if whole:
        assert (count, total) == (whole[-1], sums[whole[-1]])
    else:
        assert (count, total) == (0, max(x for x in range(due + 1) if feasible(room, levels, x)))


def test_a_sum_can_be_moved_where_a_part_of_it_can_not() -> None:
    """One commit of 50 was received and the deposit is used up: 20 can't be moved, 50 can."""
    duplex = Duplex(with_commits(open_channel(100), [100]), with_commits(open_channel(100), [50]))
    assert not transferable(duplex, 20)
    assert transferable(duplex, 50)
    assert most_transferable(duplex, 49) == 0
    assert deliverable(duplex, 0, [20, 30, 1]) == (2, 50)
    assert deliverable(duplex, 0, [20, 31]) == (0, 0)
    with pytest.raises(NotTransferable) as refused:
        transfer(duplex, 20, PAYER, lambda _: secret("one"))
    assert refused.value.data == {"quantity": 20, "room": 0, "received": 50}


# Single refusals ----------------------------------------------------------------------------------------------------


def exchanged() -> tuple[ChannelParty, ChannelParty]:
    """A client and a hub after the client has paid 100 and 50 in two syncs."""
    client, hub = connect()
    for amount in (100, 50):
        client.duplex, half = transfer(client.duplex, amount, client.key, client.secret_of)
        hub.duplex, _ = settle(hub.duplex, half, amount)
        fresh = hub.draw()
        hub.duplex = hand_out(hub.duplex, fresh)
        client.duplex = add_request(client.duplex, fresh)
    return client, hub


def test_one_less_than_expected_is_refused_and_one_more_is_taken() -> None:
    client, hub = exchanged()
    hub.duplex, half = transfer(hub.duplex, 70, hub.key, hub.secret_of)
    assert len(half.revokes) == 1
    assert half.offer is not None
    before = client.duplex
    with pytest.raises(AmountsDiffer) as refused:
        settle(before, half, 71)
    assert refused.value.data == {"moved": 70, "expected": 71}
    for expected in (70, 69, 0):
        settled, correction = settle(before, half, expected)
        assert correction == 70 - expected
        assert settled.net - before.net == 70
    assert (before.sending.moved, before.receiving.moved) == (150, 0)


def test_a_half_counts_whole_or_not_at_all() -> None:
    client, hub = exchanged()
    hub.duplex, half = transfer(hub.duplex, 70, hub.key, hub.secret_of)
    (good,) = half.revokes
    for broken in (Half((good, good), half.offer), Half((secret("unknown"),), half.offer)):
        with pytest.raises(BadSecret):
            accept(client.duplex, broken)
    deaf = replace(client.duplex, receiving=replace(client.duplex.receiving, requested=()))
    with pytest.raises(UnknownRevokeHash):
        accept(deaf, half)
    assert (client.duplex.sending.moved, deaf.sending.moved) == (150, 150)
    assert accept(client.duplex, half).sending.moved == 100


def test_a_reply_taken_twice_is_refused() -> None:
    client, hub = exchanged()
    hub.duplex, half = transfer(hub.duplex, 20, hub.key, hub.secret_of)
    client.duplex, _ = settle(client.duplex, half, 20)
    with pytest.raises(UnknownRevokeHash):
        settle(client.duplex, half, 0)


def hashes_seen(client: ChannelParty) -> dict[str, Hash]:
    """Every hash of the client's connection, on either side."""
    sending, receiving = client.duplex.sending, client.duplex.receiving
    return {
        "own spend": receiving.script.spend_hash,
        "own requested": receiving.requested[-1],
        "own active": receiving.active[-1].revoke_hash,
        "peer's spend": sending.script.spend_hash,
        "peer's requested": sending.requested[-1],
        "peer's active": sending.active[-1].revoke_hash,
        "peer's revoked": sending.revoked[-1].revoke_hash,
    }


@pytest.mark.parametrize(
    "which",
    [
        "own spend",
        "own requested",
        "own active",
        "peer's spend",
        "peer's requested",
        "peer's active",
        "peer's revoked",
    ],
)
def test_a_hash_of_the_connection_is_not_taken_for_a_new_one(which: str) -> None:
    client, hub = exchanged()
    hub.duplex, half = transfer(hub.duplex, 70, hub.key, hub.secret_of)
    client.duplex, _ = settle(client.duplex, half, 70)
    client.duplex = hand_out(client.duplex, client.draw())
    client.duplex, half = transfer(client.duplex, 75, client.key, client.secret_of)
    assert half.offer is not None
    client.duplex = add_request(client.duplex, hub.draw())
    client.duplex = replace(client.duplex, receiving=with_one_commit(client.duplex.receiving))
    seen = hashes_seen(client)[which]
    with pytest.raises(RepeatedHash):
        add_request(client.duplex, seen)


def with_one_commit(channel: Channel) -> Channel:
    """A payee's channel that has an active commit."""
    return with_commits(channel, [5])


def test_a_commit_whose_secret_left_is_never_the_one_to_publish() -> None:
    """Sent and unanswered: the hub may hold the secret, so only the lower commit is left."""
    client, hub = exchanged()
    assert hub.duplex.guaranteed == 1150
    hub.duplex, half = transfer(hub.duplex, 50, hub.key, hub.secret_of)
    assert (len(half.revokes), half.offer) == (1, None)
    assert [item.quantity for item in hub.duplex.receiving.active] == [100]
    assert (hub.duplex.guaranteed, client.duplex.guaranteed) == (1100, 850)


def test_how_a_payer_stands() -> None:
    """Its highest commit as it left, and proof of what was given back and is not lower, for who has forgotten it."""
    fresh = open_channel()
    assert standing(fresh) == Half()
    assert standing(replace(fresh, anchor=None)) == Half()
    channel = fresh
    for quantity, name in ((100, "zero"), (300, "two"), (500, "three")):
        channel = request_commit(commit(channel, quantity, PAYER)[0], hashed(name))
    given_back = tuple(Revoked.by(Quantity(number), secret(f"back {number}")) for number in (499, 500, 501))
    channel = replace(channel, revoked=given_back)
    said = standing(channel)
    assert said.revokes == tuple(item.secret for item in given_back[1:])
    assert said.offer is not None
    (taken,) = accept_commit(request_commit(open_channel(hashes=()), hashed("two")), said.offer).active
    assert taken == channel.active[-1]
    assert standing(replace(channel, active=())).revokes == tuple(item.secret for item in given_back)
    assert standing(replace(channel, active=())).offer is None
    assert standing(replace(channel, anchor=None)).offer is None


def test_what_a_payer_shows_to_a_payee_with_an_old_state() -> None:
    """A commit proven to be given back is gone, one on a hash of the payee's own is taken; nothing else changes."""
    old = open_channel(hashes=())
    for quantity, name in ((300, "two"), (500, "three"), (700, "four")):
        asked = request_commit(old, hashed(name))
        old = accept_commit(asked, commit(asked, quantity, PAYER)[1])
    payer = commit(request_commit(replace(old, requested=()), hashed("five")), 900, PAYER)
    newer = payer[1]

    def of_five(revoke_hash: Hash) -> bool:
        return revoke_hash == hashed("five")

    def levels(channel: Channel) -> list[int]:
        return [item.quantity for item in channel.active]

    assert corrected(old, Half(), of_five) is old
    assert corrected(old, standing(old), of_five) is old
    assert levels(corrected(old, Half((secret("three"),)), of_five)) == [300, 700]
    found = corrected(old, Half((secret("four"), secret("three"), secret("else")), newer), of_five)
    assert levels(found) == [300, 900]
    assert found.active[-1] == payer[0].active[-1]
    assert finished(found, found.active[-1], PAYEE) == finished(payer[0], payer[0].active[-1], PAYEE)
    assert corrected(old, Half((), newer), lambda _: False) is old
    assert corrected(old, Half((secret("five"),), newer), of_five) is old
    lower = commit(request_commit(open_channel(hashes=()), hashed("five")), 400, PAYER)[1]
    assert levels(corrected(old, Half((), lower), of_five)) == [300, 400, 500, 700]
    broken = replace(newer, raw=newer.raw[:-1] + b"\1")
    with pytest.raises(BadCommit):
        corrected(old, Half((), broken), of_five)


def test_commits_below_the_highest_stay_to_fall_back_on() -> None:
    channel = open_channel()
    levels = []
    for name, quantity in (("one", 10), ("two", 30), ("three", 60)):
        channel = channel if name == "one" else replace(channel, requested=(hashed(name),))
        channel, _ = commit(channel, quantity, PAYER)
        levels.append(quantity)
    assert [item.quantity for item in channel.active] == levels
    assert give_back(channel, channel.active[1:]).moved == 10

"""Part: answers lost, late, repeated, reordered and garbled, while fee rates change, on short sessions of clients."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from hub_support import DEPOSIT

from faults.proxy import FAULTS, LATE
from faults.result import Budget, Result
from faults.town import ASSETS, FEE, PATIENCE, Party, Town, heard, running_town
from picopayments_cli.channel.stages import AGREED
from picopayments_cli.channel.values import Handle
from picopayments_cli.errors import BadAnswer, BadReply, FeeTooHigh, NodeBehind, PicopaymentsError, Unreachable

SCHEDULES, QUICK_SCHEDULES = 210, 6
IN_ONE_TOWN = 70
SHORT = 0.4  # seconds that a client waits while answers are lost
ALLOWED = (Unreachable, BadAnswer, BadReply, FeeTooHigh, NodeBehind)
RATES = (1, 1, 2, 5, 20)  # sat/vB


@dataclass
class Disturbed:
    """One town: its clients, each with a connection, and the payments that they have queued."""

    town: Town
    rng: random.Random
    result: Result
    parties: list[Party] = field(default_factory=list)
    handles: dict[str, Handle] = field(default_factory=dict)
    queued: dict[str, tuple[str, int]] = field(default_factory=dict)  # token to payer and amount

    def handle(self, party: Party) -> Handle:
        """A client's connection."""
        return self.handles[party.name]

    def disturb(self, party: Party, number: int) -> list[str]:
        """Have the next calls go wrong, fees change, and the client wait briefly; what will happen."""
        drawn = [self.rng.choice(FAULTS) for _ in range(number)]
        if drawn.count(LATE) > 1:
            drawn = [fault for n, fault in enumerate(drawn) if fault != LATE or n == drawn.index(LATE)]
        self.town.proxy.faults.extend(drawn)
        self.town.proxy.late_seconds = 2 * SHORT
        self.town.proxy.everything = not party.own_chain and self.rng.random() < 0.3
        self.town.node.rpc("feerate", rate=self.rng.choice(RATES))
        party.timeout = SHORT
        return drawn

    def calm(self, party: Party) -> None:
        """No more of that."""
        self.town.proxy.faults.clear()
        self.town.proxy.everything = False
        self.town.node.rpc("feerate", rate=1)
        party.timeout = PATIENCE

    def tried(self, party: Party, what: str, command: str, *args: object) -> bool:
        """Do a command that may be cut off; whether it succeeded. Only named causes of lost answers are allowed."""
        try:
            party.do(command, *args)
        except PicopaymentsError as error:
            self.result.hold(isinstance(error, ALLOWED), f"{what}: {error.name}: {error.message}")
            self.result.refused += 1
            return False
        return True


def run(rng: random.Random, budget: Budget) -> Result:
    """Towns of three clients; in each a number of schedules, then closes with lost answers, and settlement."""
    result = Result("lost answers")
    least = budget.share(SCHEDULES, QUICK_SCHEDULES)
    number = 0
    with heard():
        while budget.goes_on(result.trials, least):
            number += 1
            with running_town(budget.folder / f"town{number}", result) as town:
                it = Disturbed(town, rng, result)
                _open(it)
                here = 0
                while here < IN_ONE_TOWN and budget.goes_on(result.trials, least):
                    _schedule(it)
                    here += 1
                _deliver(it)
                _end(it)
    return result


def _open(it: Disturbed) -> None:
    """Three clients, one of which sees the chain through the hub; they connect while answers are lost."""
    for name, own_chain in (("alice", True), ("bob", True), ("carol", False)):
        party = Party(it.town, name, own_chain=own_chain, packages=name == "alice")
        drawn = it.disturb(party, 3)
        connected = it.tried(party, f"connect {drawn}", "connect", "XCP", DEPOSIT, 300, 2)
        it.calm(party)
        it.result.trials += 1
        if not connected:
            party.sync()  # finishes what was agreed on this side
            if not party.handles():
                party.connect()
            it.result.recovered += 1
        handles = party.handles()
        it.result.hold(len(handles) == 1, f"{name} has {len(handles)} connections")
        it.town.mine(3)
        party.sync()
        it.result.hold(party.connection(handles[0]).stage == AGREED, f"{name} is not open")
        it.result.keep(ASSETS - DEPOSIT, party.held, f"{name}, having deposited once")
        it.parties.append(party)
        it.handles[name] = handles[0]


def _schedule(it: Disturbed) -> None:
    """One short session: payments queued, syncs disturbed, and one that is not."""
    rng = it.rng
    actor = rng.choice(it.parties)
    for payer in (actor, rng.choice(it.parties)):
        for _ in range(rng.randrange(3)):
            _queue(it, payer, rng.choice(it.parties))
    if rng.random() < 0.5:
        rng.choice(it.parties).sync()
    drawn: list[str] = []
    for _ in range(rng.choice((1, 1, 2))):
        before = actor.guaranteed(it.handle(actor))
        waiting = sum(payment.amount for payment in actor.connection(it.handle(actor)).queue)
        drawn = it.disturb(actor, rng.randrange(1, 5))
        done = it.tried(actor, f"sync {drawn}", "sync")
        it.calm(actor)
        has = actor.guaranteed(it.handle(actor))
        it.result.keep(before - waiting - 2 * FEE, has, f"{actor.name} after {drawn}")
        it.result.trials += 1
        it.result.recovered += not done
    _repair(it, actor, drawn)


def _queue(it: Disturbed, payer: Party, payee: Party) -> None:
    if payer is payee:
        return
    amount = it.rng.choice((1, 2, 10, 100, it.rng.randrange(1, 3000)))
    token = payer.queue(it.handle(payer), it.handle(payee), amount)
    it.queued[token] = (it.handle(payer).hex(), amount)


def _repair(it: Disturbed, party: Party, drawn: Sequence[str]) -> None:
    """The next sync, undisturbed, brings all to its end: hub and client agree, to the satoshi."""
    handle = it.handle(party)
    kept = party.connection(handle)
    leaves = sum(payment.amount for payment in kept.queue) + FEE if kept.queue or kept.pending is None else 0
    party.sync()
    after = party.connection(handle)
    it.result.keep(kept.duplex.guaranteed - leaves, after.duplex.guaranteed, f"{party.name}, repaired")
    it.result.hold(after.pending is None, f"a sync is pending after {drawn}")
    right = by_the_book(party, handle) - after.owed
    it.result.hold(after.duplex.guaranteed == right, f"{party.name} has {after.duplex.guaranteed}, not {right}")
    hubs, net = it.town.account(handle).channels.net, after.duplex.net
    it.result.hold(hubs == -net, f"the hub counts {hubs} where {party.name} counts {net}, after {drawn}")


def by_the_book(party: Party, handle: Handle) -> int:
    """Return what a client has by its history."""
    events = party.history(handle)
    sums = {
        name: sum(event.get("amount", 0) for event in events if event["action"] == name)
        for name in ("sent", "received")
    }
    fees = sum(event["sync_fee"] for event in events if event["action"] == "fee")
    return int(DEPOSIT + sums["received"] - sums["sent"] - fees)


def _deliver(it: Disturbed) -> None:
    """Check that all payments under way arrive, each once."""
    for _ in range(2):
        for party in it.parties:
            _repair(it, party, ())
    received: dict[str, list[tuple[str, int]]] = {}
    for party in it.parties:
        for event in party.history(it.handle(party)):
            if event["action"] == "received":
                received.setdefault(event["token"], []).append((event["payer_handle"], event["amount"]))
    for token, expected in it.queued.items():
        found = received.get(token, [])
        it.result.hold(found in ([], [expected]), f"payment {token} arrived as {found}, not as {expected}")
        it.result.in_flight += not found
        it.result.hold(found, f"payment {token} of {expected[1]} is lost")


def _end(it: Disturbed) -> None:
    """All close while answers are lost, settle, and hold on chain what was guaranteed."""
    guaranteed = {}
    for party in it.parties:
        handle = it.handle(party)
        drawn = it.disturb(party, 3)
        it.tried(party, f"close {drawn}", "close", handle.hex())
        it.calm(party)
        it.result.trials += 1
        still_open = party.connection(handle).stage == AGREED  # and so syncs once more when it closes
        guaranteed[party.name] = party.guaranteed(handle) - (FEE if still_open else 0)
    for party in it.parties:
        it.result.hold(party.settle(), f"{party.name} is not settled")
        it.result.recovered += 1
    for party in it.parties:
        it.result.keep(guaranteed[party.name], party.held - ASSETS + DEPOSIT, f"{party.name} on chain")

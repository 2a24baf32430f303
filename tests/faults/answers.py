"""Part: answers lost, late, repeated, reordered and garbled, on short sessions of clients of one hub."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from network_support import ASSETS, DEPOSIT, FEE, Network, running_network

from faults.harness_client import EXPIRE, PATIENCE, HarnessClient, heard, hub_balance
from faults.proxy import FAULTS, LATE, Proxy, between
from faults.result import Budget, Result
from picopayments_cli.errors import BadAnswer, BadReply, PicopaymentsError, Unreachable

SCHEDULES, QUICK_SCHEDULES = 210, 20
IN_ONE_NETWORK = 70
SHORT = 0.4  # seconds that a client waits while answers are lost
ALLOWED = (Unreachable, BadAnswer, BadReply)


@dataclass
class Session:
    """One network: its clients, each with a connection, and the payments that they have queued."""

    network: Network
    proxy: Proxy
    rng: random.Random
    result: Result
    parties: list[HarnessClient] = field(default_factory=list)
    handles: dict[str, str] = field(default_factory=dict)
    queued: dict[str, tuple[str, int]] = field(default_factory=dict)  # token to payee and amount

    def handle(self, party: HarnessClient) -> str:
        """A client's connection."""
        return self.handles[party.name]


def run(rng: random.Random, budget: Budget) -> Result:
    """Networks of three clients; on each a number of schedules, then closes with lost answers, and settlement."""
    result = Result("lost answers")
    least = budget.share(SCHEDULES, QUICK_SCHEDULES)
    number = 0
    with heard():
        while budget.goes_on(result.trials, least):
            folder = budget.folder / f"network{number}"
            folder.mkdir()
            number += 1
            with running_network(folder) as network, between(network.hub_url) as proxy:
                session = Session(network, proxy, rng, result)
                _open(session)
                here = 0
                while here < IN_ONE_NETWORK and budget.goes_on(result.trials, least):
                    _schedule(session)
                    here += 1
                _deliver(session)
                _end(session)
    return result


def _disturb(session: Session, party: HarnessClient, number: int) -> list[str]:
    """Have the next calls go wrong, and the client wait briefly; what will happen."""
    drawn = [session.rng.choice(FAULTS) for _ in range(number)]
    if drawn.count(LATE) > 1:
        drawn = [fault for n, fault in enumerate(drawn) if fault != LATE or n == drawn.index(LATE)]
    session.proxy.faults.extend(drawn)
    session.proxy.late_seconds = 2 * SHORT
    session.proxy.everything = party.chain_url is None and session.rng.random() < 0.3
    party.timeout = SHORT
    return drawn


def _calm(session: Session, party: HarnessClient) -> None:
    session.proxy.faults.clear()
    session.proxy.everything = False
    party.timeout = PATIENCE


def _tried(session: Session, party: HarnessClient, what: str, command: str, *args: object) -> bool:
    """Do a command that may be cut off; whether it succeeded. Only named causes of lost answers are allowed."""
    try:
        party.do(command, *args)
    except PicopaymentsError as error:
        session.result.hold(isinstance(error, ALLOWED), f"{what}: {error.name}: {error.message}")
        session.result.refused += 1
        return False
    return True


def _open(session: Session) -> None:
    """Three clients, one of which sees the chain through the hub; they connect while answers are lost."""
    for name, own_chain in (("alice", True), ("bob", True), ("carol", False)):
        party = HarnessClient(session.network, name, session.proxy.url, own_chain=own_chain).fund()
        drawn = _disturb(session, party, 3)
        connected = _tried(session, party, f"connect {drawn}", "connect", "XCP", DEPOSIT, EXPIRE)
        _calm(session, party)
        session.result.trials += 1
        if not connected:
            party.do("sync")  # finishes what was agreed on this side
            if not party.handles():
                party.do("connect", "XCP", DEPOSIT, EXPIRE)
            session.result.recovered += 1
        handles = party.handles()
        session.result.hold(len(handles) == 1, f"{name} has {len(handles)} connections")
        party.wait_open(handles[0])
        session.result.keep(ASSETS - DEPOSIT, party.held(), f"{name}, having deposited once")
        session.parties.append(party)
        session.handles[name] = handles[0]


def _schedule(session: Session) -> None:
    """One short session: payments queued, syncs disturbed, and one that is not."""
    rng = session.rng
    actor = rng.choice(session.parties)
    for payer in (actor, rng.choice(session.parties)):
        for _ in range(rng.randrange(3)):
            _queue(session, payer, rng.choice(session.parties))
    if rng.random() < 0.5:
        rng.choice(session.parties).do("sync")
    for _ in range(rng.choice((1, 1, 2))):
        before = actor.guaranteed(session.handle(actor))
        waiting = sum(payment.amount for payment in actor.connection(session.handle(actor)).queue)
        drawn = _disturb(session, actor, rng.randrange(1, 5))
        done = _tried(session, actor, f"sync {drawn}", "sync")
        _calm(session, actor)
        has = actor.guaranteed(session.handle(actor))
        session.result.keep(before - waiting - 2 * FEE, has, f"{actor.name} after {drawn}")
        session.result.trials += 1
        session.result.recovered += not done
    _repair(session, actor, drawn)


def _queue(session: Session, payer: HarnessClient, payee: HarnessClient) -> None:
    if payer is payee:
        return
    amount = session.rng.choice((1, 2, 10, 100, session.rng.randrange(1, 3000)))
    token = payer.do("queuepayment", session.handle(payer), session.handle(payee), amount)
    session.queued[token] = (session.handle(payee), amount)


def _repair(session: Session, party: HarnessClient, drawn: Sequence[str]) -> None:
    """The next sync, undisturbed, brings all to its end: hub and client agree, to the satoshi."""
    handle = session.handle(party)
    kept = party.connection(handle)
    leaves = sum(payment.amount for payment in kept.queue) + FEE if kept.queue or kept.pending is None else 0
    party.do("sync")
    after = party.connection(handle)
    session.result.keep(kept.duplex.guaranteed - leaves, after.duplex.guaranteed, f"{party.name}, repaired")
    session.result.hold(after.pending is None, f"a sync is pending after {drawn}")
    events = party.do("history", handle)
    sums = {name: sum(event.get("amount", 0) for event in events if event["action"] == name)
            for name in ("sent", "received")}  # fmt: skip
    fees = sum(event["sync_fee"] for event in events if event["action"] == "fee")
    right = DEPOSIT + sums["received"] - sums["sent"] - fees - after.owed
    session.result.hold(after.duplex.guaranteed == right, f"{party.name} has {after.duplex.guaranteed}, not {right}")
    hubs = hub_balance(session.network, handle)
    both = 2 * DEPOSIT - after.duplex.guaranteed
    session.result.hold(hubs == both, f"the hub counts {hubs} where {party.name} counts {both}, after {drawn}")


def _deliver(session: Session) -> None:
    """Check that all payments under way arrive, each once."""
    for _ in range(2):
        for party in session.parties:
            _repair(session, party, ())
    received: dict[str, list[tuple[str, int]]] = {}
    for party in session.parties:
        for event in party.do("history", session.handle(party)):
            if event["action"] == "received":
                received.setdefault(event["token"], []).append((event["handle"], event["amount"]))
    for token, expected in session.queued.items():
        found = received.get(token, [])
        session.result.hold(found in ([], [expected]), f"payment {token} arrived as {found}, not as {expected}")
        session.result.in_flight += not found
        session.result.hold(found, f"payment {token} of {expected[1]} is lost")


def _end(session: Session) -> None:
    """All close while answers are lost, settle, and hold on chain what was guaranteed."""
    guaranteed = {}
    for party in session.parties:
        handle = session.handle(party)
        drawn = _disturb(session, party, 3)
        _tried(session, party, f"close {drawn}", "close", handle)
        _calm(session, party)
        session.result.trials += 1
        still_open = party.connection(handle).stage == "agreed"  # and so syncs once more when it closes
        guaranteed[party.name] = party.guaranteed(handle) - (FEE if still_open else 0)
    for party in session.parties:
        session.result.hold(party.settle(), f"{party.name} is not settled")
        session.result.recovered += 1
    for party in session.parties:
        has = party.held() - ASSETS + DEPOSIT
        session.result.keep(guaranteed[party.name], has, f"{party.name} on chain")

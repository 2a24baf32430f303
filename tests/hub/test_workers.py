"""A hub of several processes on one database: what one of them does the others know in time, and any of them may die.

Two hubs stand for two processes here, each with what it would have in memory; one test has real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from books_support import ON_POSTGRES
from faults import dying_workers
from faults.result import Budget
from hub_support import FEE, Client, Desk, amounts, clients, payment, states
from network_support import running_hub, wait_until
from postgres_support import server
from regtest_support import REGTEST, running_node
from workers_support import Rounding, processes_of

from picopayments_cli.channel.values import Handle
from picopayments_cli.channel.waiting import WaitingReply, WaitingRequest
from picopayments_cli.errors import HubDraining, HubUnreachable, StoreLocked
from picopayments_cli.hub.database import Database
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.hearing import Hearing
from picopayments_cli.hub.hub import Hub, Urls
from picopayments_cli.hub.lease import SECONDS
from picopayments_cli.hub.marks import Marks
from picopayments_cli.hub.methods import Methods
from picopayments_cli.hub.operator_socket import ask
from picopayments_cli.hub.terms import nothing_yet
from picopayments_cli.rpc import controls_of

on_postgres = pytest.mark.skipif(not ON_POSTGRES, reason="tox -e postgres")


class Answering(Desk):
    """Another process of the hub, which only answers. ``hearing`` hears where a test says so, or once it is started."""

    def __init__(self, desk: Desk) -> None:
        self.folder, self.node, self.books = desk.folder, desk.node, desk.books
        self.database = Database(self.books.url, "there answers")
        urls = Urls(desk.chain_url, desk.node.url + "bitcoin/")
        self.hub = Hub(REGTEST, self.folder.key(), nothing_yet(REGTEST), self.database, urls, self.folder.marks_path)
        self.hub.fresh_seconds = desk.hub.fresh_seconds
        self.hearing = Hearing(self.hub)
        self.table = {**Methods(self.hub).table()}

    def stop(self) -> None:
        self.hearing.stop()
        self.database.close()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    with running_node(folder / "node", 0) as node:
        running = Rounding(folder, node)
        yield running
        running.stop()


@pytest.fixture(scope="module")
def open_clients(desk: Desk) -> Iterator[Client]:
    return clients(desk)


@pytest.fixture
def other(desk: Desk) -> Iterator[Answering]:
    desk.rounds.once()
    running = Answering(desk)
    yield running
    running.stop()


@contextlib.contextmanager
def asking(client: Client, desk: Desk) -> Iterator[None]:
    """Have a client ask this process."""
    before, client.desk = client.desk, desk
    try:
        yield
    finally:
        client.desk = before


# What one does the other knows --------------------------------------------------------------------------------------


@on_postgres
def test_what_one_books_the_other_pays_out(desk: Desk, other: Answering, alice: Client, bob: Client) -> None:
    alice.sync(payment(bob.handle, 7))
    with asking(bob, other), asking(alice, other):
        assert amounts(bob.sync()) == [7]
        bob.sync(payment(alice.handle, 3))
    assert amounts(alice.sync()) == [3]
    assert states(desk, alice) == [(7, "done")]


@on_postgres
def test_who_waits_at_one_hears_within_a_second_of_what_the_other_booked(
    desk: Desk, other: Answering, alice: Client, bob: Client
) -> None:
    body = bob.sealed("mph_waiting", WaitingRequest(os.urandom(32), (bob.handle,), 20).as_json())
    booked: list[float] = []

    async def both() -> Any:
        waits = asyncio.ensure_future(other.table["mph_waiting"](body))
        while not other.hub.book.arrivals.awaited():
            await asyncio.sleep(0.01)
        await asyncio.to_thread(alice.sync, payment(bob.handle, 9))
        booked.append(time.monotonic())
        return await waits

    other.hearing.start()
    reply = asyncio.run(asyncio.wait_for(both(), 15))
    assert time.monotonic() - booked[0] < 1
    assert [item.total for item in WaitingReply.parse(json.loads(reply.text)).waiting] == [9]
    bob.sync()


@on_postgres
def test_terms_and_draining_reach_all_at_once(desk: Desk, other: Answering) -> None:
    members = desk.hub.offer.members
    terms = members["XCP"] or {}
    other.hub.put_on_offer(
        other.hub.offer.changed({**members, "XCP": {**terms, "sync_fee": 5}})
    )  # as its operator does
    desk.rounds.once()
    assert json.loads(desk.call("mph_status", {}))["current_terms"]["XCP"]["sync_fee"] == 5
    desk.rounds.take_offer(desk.hub.offer.changed(members))
    assert json.loads(other.call("mph_status", {}))["current_terms"]["XCP"]["sync_fee"] == FEE
    desk.hub.drain()
    try:
        with pytest.raises(HubDraining):
            Client(other, "new").request()
    finally:
        desk.hub.sharing.tell_draining(False)
        desk.rounds.once()


@on_postgres
def test_a_close_that_one_signs_is_carried_out_by_the_rounds_of_the_other(
    desk: Desk, other: Answering, open_clients: Iterator[Client]
) -> None:
    leaves = next(open_clients)
    leaves.sync()
    with asking(leaves, other):
        leaves.agree_close()
    assert desk.rows("select handle from asked") == [(leaves.handle,)]
    assert leaves.handle in Marks(desk.folder.marks_path).handles
    desk.hub.marks.refresh()
    assert leaves.handle in desk.hub.marks.handles
    desk.rounds.once()
    assert desk.rows("select handle from asked") == []
    assert desk.rows("select txid from sent where handle = :of", leaves.handle) != []


@on_postgres
def test_who_hears_nothing_new_signs_nothing_new(desk: Desk, other: Answering, bob: Client) -> None:
    other.hub.fresh_seconds = 0.3
    time.sleep(0.3)  # in which nobody looks at the chain
    other.hearing.once()
    request, moved = bob.sync_request(FEE)
    assert other.name_of("mph_sync", bob.sealed("mph_sync", request.as_json())) == "NodeBehind"
    with desk.database.transaction("a clock was set") as db:
        db.exec_driver_sql("update shared set seen = seen + 3600")
    other.hearing.once()
    time.sleep(0.3)
    other.hearing.once()
    assert other.name_of("mph_sync", bob.sealed("mph_sync", request.as_json())) == "NodeBehind"
    other.hub.fresh_seconds = 30.0  # a busy machine's round takes longer than the limit above
    desk.rounds.once()
    other.hearing.once()
    with asking(bob, other):
        bob.take(bob.parsed(other.call("mph_sync", bob.sealed("mph_sync", request.as_json()))), moved)


@on_postgres
def test_a_round_that_one_asks_for_is_done_by_the_other(desk: Desk, other: Answering) -> None:
    desk.rounds.start()
    desk.node.rpc("generate", blocks=1)
    other.hearing.await_round()
    assert other.hub.follower.height == desk.node.bitcoin("getblockcount")
    assert other.hub.rate == desk.hub.rate


@on_postgres
def test_two_that_pay_each_other_at_the_same_moment_by_two_processes_are_both_paid(
    desk: Desk, other: Answering, alice: Client, bob: Client
) -> None:
    def pay(payer: Client, payee: Client, at: Desk) -> None:
        with asking(payer, at):
            for _ in range(10):
                payer.sync(payment(payee.handle, 3 * FEE))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(pay, alice, bob, desk), pool.submit(pay, bob, alice, other)]:
            done.result(60)
    for hand in (alice, bob, alice, bob):
        hand.sync()
    assert states(desk, alice) == states(desk, bob) == [(3 * FEE, "done")] * 10
    assert (alice.paid, bob.paid) == (12 * FEE, 12 * FEE)


@on_postgres
def test_what_only_others_have_written_is_counted_beside_the_database(
    desk: Desk, other: Answering, bob: Client
) -> None:
    def counted() -> int:
        return int(json.loads(desk.folder.witness_path.read_text())["count"])

    desk.rounds.once()
    desk.rounds.stop()  # which notes what was written
    before = counted()
    with asking(bob, other):
        bob.sync()
    other.hearing.once()
    desk.rounds.once()
    desk.rounds.stop()
    assert counted() == before + 1


def test_marks_of_several_are_all_on_disk_and_known_to_each(tmp_path: Path) -> None:
    several = [Marks(tmp_path / "marks") for _ in range(4)]
    every = {Handle(bytes([number]) * 32) for number in range(80)}
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(several[handle[0] % 4].add, handle) for handle in every]:
            done.result(20)
    assert set(Marks(tmp_path / "marks").handles) == every
    several[0].refresh()
    assert set(several[0].handles) == every


# Who does the rounds ------------------------------------------------------------------------------------------------


@on_postgres
def test_one_does_the_rounds_and_another_takes_over_within_seconds() -> None:
    url = server().url(server().database()).render_as_string()
    first, second = Database(url, "here a"), Database(url, "there b")
    assert first.join()
    first.lease.keep()
    assert not second.join()
    assert second.lease.machine() == "here"
    first.lease._stop.set()  # as one that was killed: it renews no more, and gives nothing back
    first.lease._thread.join()
    begun = time.monotonic()
    assert second.join()
    assert time.monotonic() - begun < SECONDS + 1
    assert not first.lease.try_take()
    second.close()
    first.close()


@on_postgres
def test_a_hub_of_one_process_shares_its_database_with_nobody() -> None:
    url = server().url(server().database()).render_as_string()
    alone = Database(url)
    several = Database(url, "here several")
    with pytest.raises(StoreLocked, match="without --workers"):
        several.join()
    alone.close()
    assert several.join()
    several.lease.keep()
    with pytest.raises(StoreLocked, match="Another hub"):
        Database(url)
    several.close()


def test_sqlite_is_of_one_process(tmp_path: Path) -> None:
    words = ["--regtest", "--basedir", str(tmp_path / "hub"), "--workers", "2"]
    command = [sys.executable, "-m", "picopayments_cli.hub.cli", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["name"] == "InvalidSetting"
    assert "name a PostgreSQL database in --database" in error["message"]


# Real processes -----------------------------------------------------------------------------------------------------


@on_postgres
def test_whatever_process_is_killed_the_hub_goes_on(tmp_path: Path) -> None:
    url = server().url(server().database()).render_as_string()
    with running_hub(tmp_path / "hub", "--database", url, "--workers", "2") as hub:
        node = controls_of(hub.ready["chain_url"])
        path = Folder(tmp_path / "hub", REGTEST).socket_path

        def height() -> int:
            with contextlib.suppress(HubUnreachable):  # while the socket's own process is away
                return int(ask(path, "status", {}, 10)["height"])
            return 0

        found = set(processes_of(hub.process.pid))
        assert len(found) == 3
        tip = height()
        for killed in found:
            os.kill(killed, signal.SIGKILL)
            node.call("generate", {"blocks": 1}, retry=False)
            tip += 1
            wait_until(lambda tip=tip: height() == tip, "the block to be read")  # type: ignore[misc]
            assert hub.rpc.call("mph_status", {}, retry=True)["connections"] == {}
            wait_until(lambda: len(processes_of(hub.process.pid).keys() - found) >= 1, "another one in its place")
        wait_until(lambda: len(processes_of(hub.process.pid).keys() - found) == 3, "all of them anew")
        assert hub.end(signal.SIGTERM) == 0
        assert processes_of(hub.process.pid) == {}
    assert [line["event"] for line in hub.logged()].count("a process ended") == 3


@pytest.mark.timeout(600)
@on_postgres
def test_nothing_is_lost_or_doubled_whatever_is_killed_while_clients_pay(tmp_path: Path) -> None:
    result = dying_workers.run(random.Random(1), Budget(tmp_path, quick=True))
    assert result.passed, result.failures
    assert result.trials == result.recovered == 3

"""A hub on PostgreSQL: payments of the same moment, a server that dies, and one hub alone.

``tox -e postgres`` has the server, and runs other tests of this folder on it, too.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager

import pytest
import requests
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from books_support import ON_POSTGRES
from hub_support import DEPOSIT, FEE, Client, Desk, amounts, payment, serving, states
from postgres_support import server
from sqlalchemy import text

from picopayments_cli.channel.messages import SyncReply
from picopayments_cli.errors import DatabaseBusy, DatabaseUnusable, PicopaymentsError, StoreLocked
from picopayments_cli.hub.book import Book, UnitOfWork
from picopayments_cli.hub.database import Database, meta_get, meta_set
from picopayments_cli.hub.schema import METADATA

pytestmark = pytest.mark.skipif(not ON_POSTGRES, reason="tox -e postgres")

TAKE_OVER = "update leases set holder = 'another', until = extract(epoch from now()) + 60"


@pytest.fixture
def url() -> str:
    return server().url(server().database()).render_as_string()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


def at_once(*calls: Callable[[], object]) -> list[object]:
    """Call all at the same moment, and return their results. Raises what any raises."""
    barrier = threading.Barrier(len(calls))

    def call(step: Callable[[], object]) -> object:
        barrier.wait(20)
        return step()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [done.result(60) for done in [pool.submit(call, step) for step in calls]]


def execute(database: Database, statement: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(text(statement))


# Tables -------------------------------------------------------------------------------------------------------------


def test_migrations_make_the_tables_that_the_program_uses(database: Database) -> None:
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_a_reader_sees_one_state_whatever_is_written_meanwhile(database: Database) -> None:
    with database.reading() as reader:
        assert meta_get(reader, "a") is None
        with database.transaction("test") as writer:
            meta_set(writer, "a", "1")
        assert meta_get(reader, "a") is None
    with database.reading() as reader:
        assert meta_get(reader, "a") == "1"


# At the same moment -------------------------------------------------------------------------------------------------


def test_two_that_pay_each_other_at_the_same_moment_are_both_paid(
    desk: Desk, alice: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    transaction = desk.hub.book.transaction

    def counted(label: str) -> AbstractContextManager[UnitOfWork]:
        begun.append(label)
        return transaction(label)

    def pay(payer: Client, payee: Client) -> None:
        payer.sync(payment(payee.handle, 3 * FEE))

    monkeypatch.setattr(desk.hub.book, "transaction", counted)
    for _ in range(15):
        at_once(lambda: pay(alice, bob), lambda: pay(bob, alice))
    assert begun == ["sync"] * 30, "none had to be run again for a deadlock"
    for hand in (alice, bob, alice, bob):
        hand.sync()  # the second one shows that what the first has listed arrived
    assert states(desk, alice) == states(desk, bob) == [(3 * FEE, "done")] * 15
    assert (alice.paid, bob.paid) == (17 * FEE, 17 * FEE)


def test_two_that_pay_one_at_the_same_moment_never_pay_more_than_it_can_take(
    desk: Desk, open_clients: Iterator[Client]
) -> None:
    payers, payee = [next(open_clients) for _ in range(2)], next(open_clients)
    requests = [payer.sync_request(DEPOSIT - 1, payment(payee.handle, DEPOSIT * 3 // 5))[0] for payer in payers]

    def send(payer: Client, body: dict[str, object]) -> object:
        return payer.call("mph_sync", body)["refused"]

    found = at_once(*(lambda p=p, r=r: send(p, r.as_json()) for p, r in zip(payers, requests, strict=True)))
    assert sorted(len(refused) for refused in found) == [0, 1]  # type: ignore[arg-type]
    ((waits,),) = desk.rows("select count(*) from payments where payee = :of", payee.handle)
    assert waits == 1


def test_who_waits_for_a_row_holds_up_nobody_else(desk: Desk, alice: Client, bob: Client) -> None:
    def ask(hand: Client) -> SyncReply:
        request, moved = hand.sync_request(FEE)
        asked = {"jsonrpc": "2.0", "id": 1, "method": "mph_sync", "params": hand.sealed("mph_sync", request.as_json())}
        answer = requests.post(served, json=asked, timeout=60).json()
        return hand.take(SyncReply.parse(answer["result"]), moved)

    with serving(desk) as served, ThreadPoolExecutor(1) as pool:
        with desk.hub.book.transaction("test") as work:
            work.get(alice.handle)
            waits = pool.submit(ask, alice)
            assert not wait([waits], 0.5).done
            ask(bob)
            assert not waits.done()
        waits.result(60)


def test_a_deadlock_is_run_again_until_both_are_written(desk: Desk, alice: Client, bob: Client) -> None:
    barrier, attempts = threading.Barrier(2), []

    def take(first: Client, second: Client) -> None:
        def step(work: UnitOfWork) -> None:
            attempts.append(first)
            work.put(work.get(first.handle))
            if attempts.count(first) == 1:
                barrier.wait(20)  # each has one, and wants the other's
            work.put(work.get(second.handle))

        desk.hub.book.run("test", step)

    versions = [desk.account(hand.handle).version for hand in (alice, bob)]
    at_once(lambda: take(alice, bob), lambda: take(bob, alice))
    assert len(attempts) == 3
    assert [desk.account(hand.handle).version for hand in (alice, bob)] == [version + 2 for version in versions]


def test_a_serialisation_failure_is_run_again(database: Database) -> None:
    seen: list[int] = []
    with database.transaction("test") as connection:
        meta_set(connection, "count", "1")

    def step(work: UnitOfWork) -> None:
        work.db.execute(text("set transaction isolation level repeatable read"))
        count = int(meta_get(work.db, "count") or 0)
        if not seen:
            execute(database, "update meta set value = '10' where key = 'count'")  # by another one, meanwhile
        seen.append(count)
        meta_set(work.db, "count", str(count + 1))

    Book(database).run("test", step)
    assert seen == [1, 10]
    with database.reading() as connection:
        assert meta_get(connection, "count") == "11"


def test_what_is_never_written_is_refused_by_name_once_the_attempts_are_used_up(database: Database) -> None:
    attempts = []

    def step(work: UnitOfWork) -> None:
        attempts.append(work)
        meta_set(work.db, "a", "1")
        work.db.execute(text("do $$ begin raise exception using errcode = '40001'; end $$"))

    with pytest.raises(DatabaseBusy, match="'test', and nothing of it was written"):
        Book(database).run("test", step)
    assert len(attempts) == 6
    with database.reading() as connection:
        assert meta_get(connection, "a") is None


# A server that dies -------------------------------------------------------------------------------------------------


def test_nothing_is_lost_or_doubled_where_the_server_dies_amid_syncs(desk: Desk, alice: Client, bob: Client) -> None:
    """Requests are repeated until they are answered, as clients do; the server is killed three times meanwhile."""
    calm, done = threading.Event(), threading.Event()
    failures: list[str] = []
    paid, got = [0], [0]

    def answered(hand: Client, total: int, *payments: object) -> SyncReply:
        request, moved = hand.sync_request(total, *payments)  # type: ignore[arg-type]
        sealed = hand.sealed("mph_sync", request.as_json())
        for _ in range(2000):
            try:
                return hand.take(SyncReply.parse(json.loads(desk.call("mph_sync", sealed))), moved)
            except PicopaymentsError as error:
                failures.append(error.name)
                calm.wait(0.05)
        raise AssertionError("the server did not come back")

    def pay() -> None:
        while not done.is_set():
            answered(alice, 2 + FEE, payment(bob.handle, 2))
            paid[0] += 2

    def fetch() -> None:
        while not done.is_set():
            got[0] += sum(amounts(answered(bob, FEE)))

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(pay), pool.submit(fetch)]
        try:
            for _ in range(3):
                before = paid[0]
                while paid[0] < before + 10 and not any(item.done() for item in running):
                    time.sleep(0.01)
                server().kill()
                server().start()
        finally:
            done.set()
        for item in running:
            item.result(60)
    got[0] += sum(amounts(answered(bob, FEE)))
    assert paid[0] == got[0] > 30
    assert set(failures) == {"DatabaseUnusable"}
    assert sum(amount for amount, _ in states(desk, alice)) == paid[0]
    desk.mine()  # the rounds go on, too


def test_a_server_that_is_away_is_told_in_one_line(url: str) -> None:
    gone = server().url("nosuchdatabase").render_as_string()
    nowhere = "postgresql+psycopg://hub:geheim@127.0.0.1:1/hub"
    for named in (gone, nowhere):
        with pytest.raises(DatabaseUnusable, match="can't be opened") as caught:
            Database(named)
        assert "\n" not in caught.value.message
        assert "geheim" not in caught.value.message
        assert caught.value.exit_code == 4


@pytest.mark.parametrize("setting", ["synchronous_commit"])
def test_a_server_that_may_forget_what_was_committed_is_refused(url: str, setting: str) -> None:
    opened = Database(url)
    name = opened.engine.url.database
    execute(opened, f"alter database {name} set {setting} = off")
    opened.close()
    with pytest.raises(DatabaseUnusable, match=f"set {setting} to on"):
        Database(url)


# One hub ------------------------------------------------------------------------------------------------------------


def test_a_database_is_of_one_hub(url: str) -> None:
    first = Database(url)
    with pytest.raises(StoreLocked, match="Another hub uses the database"):
        Database(url)
    with first.transaction("test") as connection:
        meta_set(connection, "goes", "on")
    first.close()
    began = time.monotonic()
    Database(url).close()
    assert time.monotonic() - began < 5, "it was given back"


def test_who_lost_the_database_to_another_hub_writes_and_answers_nothing_more(database: Database) -> None:
    execute(database, TAKE_OVER)
    with pytest.raises(DatabaseUnusable, match="taken the database over"):
        database.confirm()  # as before each transaction that the hub publishes
    with (
        pytest.raises(DatabaseUnusable, match="taken the database over"),
        database.fenced(),
        database.transaction("chores"),
    ):
        raise AssertionError
    with pytest.raises(DatabaseUnusable, match="taken the database over"), database.reading():
        raise AssertionError


def test_nobody_takes_the_database_over_amid_a_chore(database: Database) -> None:
    took = threading.Thread(target=execute, args=(database, TAKE_OVER))
    with database.fenced(), database.transaction("chores") as connection:
        took.start()
        took.join(0.3)
        assert took.is_alive()
        meta_set(connection, "a", "1")
    took.join(20)
    with database.engine.connect() as connection:
        assert meta_get(connection, "a") == "1"

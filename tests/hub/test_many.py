"""What a hub asks its database follows from what has changed, not from how many connections there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_support import Client, Desk, open_all, payment, running_desk
from sqlalchemy import event

from picopayments_cli.channel.stages import AGREED, CLOSING, OPEN
from picopayments_cli.hub import stale_database
from picopayments_cli.hub.database import Database, default_url

MOST_STATEMENTS = 14  # of a sync with a payment, BEGIN among them


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(stale_database, "NOTED_EVERY", math.inf)  # what is noted now and then is not counted
    with running_desk(tmp_path) as found:
        yield found


def statements(desk: Desk, step: Callable[[], object]) -> int:
    """How many statements a step takes."""
    found: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        found.append(statement)

    event.listen(desk.database.engine, "before_cursor_execute", note)
    step()
    event.remove(desk.database.engine, "before_cursor_execute", note)
    return len(found)


def check_totals(desk: Desk) -> None:
    """Hold the running sums to the rows."""
    counted = desk.rows("select asset, stage, count(*) from connections group by asset, stage order by asset, stage")
    assert desk.rows("select * from totals where number > 0 order by asset, stage") == counted
    assert desk.rows("select * from totals where number < 0") == []


def test_a_start_a_block_and_the_status_cost_no_more_with_more_connections(desk: Desk) -> None:
    def costs() -> list[int]:
        desk.stop()
        desk.start()
        start = statements(desk, desk.rounds.once)  # the first one after a start
        desk.node.rpc("generate", blocks=1)
        block = statements(desk, desk.rounds.once)
        return [start, block, statements(desk, lambda: desk.call("mph_status", {}))]

    open_all(desk, Client(desk, "first"))
    desk.mine(2)  # what its deposit brings is over
    few = costs()
    open_all(desk, *(Client(desk, f"client {number}") for number in range(4)))
    desk.mine(2)
    assert costs() == few
    check_totals(desk)


def test_a_sync_takes_few_statements(desk: Desk) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    open_all(desk, alice, bob)
    for _ in range(3):
        alice.sync(payment(bob.handle, 100))
        bob.sync(payment(alice.handle, 40))
    assert statements(desk, lambda: alice.sync(payment(bob.handle, 100))) <= MOST_STATEMENTS


def test_what_happens_to_a_connection_is_seen_by_the_next_process_where_one_dies_before_its_round(desk: Desk) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    open_all(desk, alice, bob)
    desk.node.rpc("reorganise", depth=8)
    desk.hub.follower.catch_up()  # and dies
    desk.stop()
    desk.start()
    with desk.database.reading() as db:
        assert desk.hub.follower.touched(db) == {alice.handle: True, bob.handle: True}
    desk.rounds.once()
    assert {desk.account(hand.handle).stage for hand in (alice, bob)} == {AGREED}
    with desk.database.reading() as db:
        assert desk.hub.follower.touched(db) == {}
    desk.mine(8)
    assert {desk.account(hand.handle).stage for hand in (alice, bob)} == {OPEN}
    check_totals(desk)


def test_a_database_of_before_has_its_columns_sums_and_awaited_addresses_filled(desk: Desk) -> None:
    asked, agreed, closing = (Client(desk, name) for name in ("asked", "agreed", "closing"))
    open_all(desk, closing)
    asked.request()
    agreed.agree()
    closing.ask_close()
    tables = {name: f"select * from {name} order by 1, 2" for name in ("connections", "awaited", "totals")}
    before = {name: desk.rows(statement) for name, statement in tables.items()}
    assert len(before["awaited"]) == 2
    desk.stop()
    database = Database(default_url(desk.folder.basedir, "regtest"))
    with database.transaction("as it was") as connection:
        for name in ("stage_handle", "stage_due_height", "stage_expiry"):
            connection.exec_driver_sql(f"drop index ix_connections_{name}")
        for name in ("asset", "agreed_at", "expiry", "promised"):
            connection.exec_driver_sql(f"alter table connections drop column {name}")
        for name in ("awaited", "totals", "touched"):
            connection.exec_driver_sql(f"drop table {name}")
        connection.exec_driver_sql("create index ix_connections_stage on connections (stage)")
        connection.exec_driver_sql("create index ix_connections_due_height on connections (due_height)")
        connection.exec_driver_sql("update alembic_version set version_num = '3_0001'")
    database.close()
    desk.start()
    assert {name: desk.rows(statement) for name, statement in tables.items()} == before
    with desk.database.reading() as db:
        assert desk.hub.follower.touched(db) == {agreed.handle: False, closing.handle: False}
    assert desk.account(closing.handle).stage == CLOSING


def test_all_connections_are_listed_page_by_page(desk: Desk) -> None:
    hands = [Client(desk, f"client {number}") for number in range(5)]
    for hand in hands:
        hand.agree()
    hands[0].ask_close()
    with desk.hub.book.reading() as book:
        first = book.connections(limit=2)
        rest = book.connections(first[-1].handle, limit=9)
        assert [item.handle for item in (*first, *rest)] == sorted(hand.handle for hand in hands)
        assert {item.handle for item in book.connections(stage=AGREED, asset="XCP")} == {
            hand.handle for hand in hands[1:]
        }
        assert book.connections(asset="NONE") == []
        assert [item.balance for item in first] == [desk.account(item.handle).channels.guaranteed for item in first]

"""What a hub asks its database follows from what has changed, not from how many connections there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from hub_support import Client, Desk, open_all, payment, running_desk
from sqlalchemy import create_engine, event, insert, inspect, select

from picopayments_cli.channel.stages import AGREED, OPEN
from picopayments_cli.hub import stale_database
from picopayments_cli.hub.database import Database, default_url
from picopayments_cli.hub.schema import awaited, connections, totals

MOST_STATEMENTS = 15  # of a sync with a payment, BEGIN among them


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
    desk.node.rpc("reorganise", depth=4)
    desk.hub.follower.catch_up()  # and dies
    desk.stop()
    desk.start()
    with desk.database.reading() as db:
        assert desk.hub.follower.touched(db) == {alice.handle: True, bob.handle: True}
    desk.rounds.once()
    assert {desk.account(hand.handle).stage for hand in (alice, bob)} == {AGREED}
    with desk.database.reading() as db:
        assert desk.hub.follower.touched(db) == {}
    desk.mine(4)
    assert {desk.account(hand.handle).stage for hand in (alice, bob)} == {OPEN}
    check_totals(desk)


def test_a_database_of_before_has_its_columns_sums_and_awaited_addresses_filled(desk: Desk, tmp_path: Path) -> None:
    asked, agreed, closing = (Client(desk, name) for name in ("asked", "agreed", "closing"))
    open_all(desk, closing)
    asked.request()
    agreed.agree()
    closing.ask_close()
    (tmp_path / "old").mkdir(mode=0o700)
    url = default_url(tmp_path / "old", "regtest")
    old, config = create_engine(url), Config()
    config.set_main_option("script_location", str(Path(stale_database.__file__).parent / "migrations"))
    with old.begin() as connection, desk.database.reading() as db:
        config.attributes["connection"] = connection
        command.upgrade(config, "3_0001")
        names = {column["name"] for column in inspect(connection).get_columns("connections")}
        for row in db.execute(select(connections)).mappings():
            connection.execute(insert(connections), {name: row[name] for name in names})
    old.dispose()
    Path(str(url.database)).chmod(0o600)
    database = Database(url)
    with desk.database.reading() as db, database.reading() as upgraded:
        for table in (connections, awaited, totals):
            asking = select(table).order_by(*table.primary_key)
            asking = asking.where(totals.c.number != 0) if table is totals else asking
            assert upgraded.execute(asking).all() == db.execute(asking).all()
        assert desk.hub.follower.touched(upgraded) == {agreed.handle: False, closing.handle: False}
    database.close()


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

"""A connection does not wear: its last sync costs what the first ones did, and a sync asks the chain nothing.

Its last is the 2,000th, with ``HYPOTHESIS_PROFILE=slow`` the 10,000th.

A hub with its real database, and a client that keeps its state in memory. What is counted is what there is to do, as
times are the machine's.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

import pytest
import requests
from hub_support import DEPOSIT, Client, Desk, open_all, payment, running_desk
from hypothesis import settings
from sqlalchemy import event

SYNCS, SAMPLE = (10_000 if settings().max_examples > 100 else 2000), 500
WITHIN_A_BLOCK = 1000
MOST_OF_A_LOOK = 10  # questions to the node
FRESH = 3600.0  # seconds that the hub may not have looked, where no round is done
STEPS = 50  # of SQLite's machine, that are counted as one


@dataclass(frozen=True)
class Cost:
    """What one sync takes: statements, rows written, steps of the database's machine, and bytes there and back."""

    statements: int
    rows: int
    steps: int
    asked: int
    told: int


class CountingClient(Client):
    """A client that counts what its hub does for each call, which need not last: nothing is flushed to the disk."""

    def __init__(self, desk: Desk, name: str) -> None:
        super().__init__(desk, name)
        self.count: Counter[str] = Counter()
        self.costs: list[Cost] = []
        event.listen(desk.database.engine, "after_cursor_execute", self._executed)
        event.listen(desk.database.engine, "checkout", self._taken)

    def _taken(self, connection: Any, *_: Any) -> None:
        connection.set_progress_handler(self._stepped, STEPS)
        connection.execute("PRAGMA synchronous=OFF")

    def _executed(self, _connection: Any, cursor: Any, *_: Any) -> None:
        self.count["statements"] += 1
        self.count["rows"] += max(cursor.rowcount, 0)

    def _stepped(self) -> int:
        self.count["steps"] += 1
        return 0

    def call(self, method: str, body: Any) -> dict[str, Any]:
        self.count.clear()
        result = super().call(method, body)
        statements, rows, steps = (self.count[name] for name in ("statements", "rows", "steps"))
        self.costs.append(Cost(statements, rows, steps, len(json.dumps(body)), len(json.dumps(result))))
        return result

    def pay_itself(self, number: int) -> None:
        """One sync with a payment both ways."""
        self.sync(payment(self.handle, 10 + number % 7))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountingClient]:
    """A client whose connection has had so many syncs."""
    with running_desk(tmp_path_factory.mktemp("old")) as desk:
        alice = CountingClient(desk, "alice")
        open_all(desk, alice)
        desk.hub.fresh_seconds = FRESH
        alice.costs.clear()
        for number in range(SYNCS):
            alice.pay_itself(number)
        yield alice


def test_the_last_sync_costs_what_the_first_ones_did(old: CountingClient) -> None:
    young, late = old.costs[:SAMPLE], old.costs[-SAMPLE:]
    most = [[max(column) for column in zip(*map(astuple, part), strict=True)] for part in (young, late)]
    assert len(old.costs) == SYNCS
    assert most[0][:2] == most[1][:2]
    assert most[1][2] <= most[0][2] * 1.1
    assert all(abs(now - then) <= 16 for then, now in zip(most[0][3:], most[1][3:], strict=True))  # longer numbers
    assert old.duplex.guaranteed == DEPOSIT - SYNCS  # but for the fees nothing has moved


def test_a_thousand_syncs_within_a_block_ask_the_node_nothing(
    old: CountingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the hub's regular look does, and that asks the same few things each time, however much goes on."""
    asked: Counter[str] = Counter()
    looks = 0
    send, catch_up = requests.Session.send, old.desk.hub.follower.catch_up

    def sent(self: requests.Session, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        asked[threading.current_thread().name] += 1
        return send(self, request, **kwargs)

    def looked() -> Any:
        nonlocal looks
        looks += 1
        return catch_up()

    monkeypatch.setattr(requests.Session, "send", sent)
    monkeypatch.setattr(old.desk.hub.follower, "catch_up", looked)
    old.desk.rounds.start()
    for number in range(WITHIN_A_BLOCK):
        old.pay_itself(number)
    old.desk.rounds.stop()
    assert asked[threading.current_thread().name] == 0
    assert looks > 0
    assert asked.total() <= MOST_OF_A_LOOK * looks

"""Events: each thing that happens is told once, in words that stay."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel.stages import CLOSED, CLOSING, OPEN, OPENING
from picopayments_cli.client.happenings import Life, Told, begin, news, troubles, unheard
from picopayments_cli.errors import HubUnreachable, NodeBehind, UnknownHandle

NAMES = (
    *("payment_received", "payment_sent", "payment_refused"),
    *("connection_opened", "connection_closing", "connection_closed"),
    *("punished", "error", "error_over", "delivery_failed", "events_lost"),
)
A = "aa" * 32
XCP = {"asset": "XCP"}
RECEIVED = {
    "index": 8, "state": "received", "handle": A, "asset": "XCP", "number": 3, "time": "then", "amount": 5, "fee": 1,
    "payer_handle": "bb" * 32, "token": "c0ffee",
}  # fmt: skip


def life(status: str | None, *published: str) -> dict[str, Life]:
    return {A: Life(status, published, XCP)}


def names(told: Told, lives: dict[str, Life], published: list[dict[str, Any]] | None = None) -> tuple[list[str], Told]:
    events, after = news(told, [], lives, published or [])
    return [event["event"] for event in events], after


def test_a_payment_is_told_with_its_index_and_without_the_historys_number() -> None:
    (event,), told = news(Told(7), [RECEIVED], {}, [])
    assert event == {
        "event": "payment_received", "index": 8, "handle": A, "asset": "XCP", "amount": 5, "fee": 1,
        "payer_handle": "bb" * 32, "token": "c0ffee",
    }  # fmt: skip
    assert told.payments == 8
    states = [RECEIVED | {"state": state, "index": n} for n, state in enumerate(("sent", "refused"), 9)]
    assert [event["event"] for event in news(told, states, {}, [])[0]] == ["payment_sent", "payment_refused"]


def test_a_connections_life_is_told_once_each_step() -> None:
    told, seen = Told(), []
    for status in (OPENING, None, OPENING, OPEN, OPEN, None, CLOSING, CLOSING, CLOSED, CLOSED):
        found, told = names(told, life(status))
        seen.append(found)
    assert seen == [
        *([], [], []),
        *(["connection_opened"], [], []),
        *(["connection_closing"], []),
        *(["connection_closed"], []),
    ]
    assert names(told, life(CLOSING))[0] == ["connection_closing"]  # a reorganisation


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (OPENING, CLOSED, ["connection_closing", "connection_closed"]),
        (OPEN, CLOSED, ["connection_closing", "connection_closed"]),
        (OPEN, OPENING, []),
        ("", OPEN, []),
        ("", CLOSED, []),
    ],
)
def test_steps_between_two_looks_are_told_and_those_before_the_first_are_not(
    before: str, now: str, expected: list[str]
) -> None:
    assert names(Told(0, {A: (before, 0)}), life(now))[0] == expected


def test_a_connection_that_was_culled_before_it_was_seen_closed_is_told_as_closed() -> None:
    found, told = names(Told(0, {A: (CLOSING, 0)}), {})
    assert found == ["connection_closed"]
    assert names(told, {})[0] == []
    assert names(Told(0, {A: (CLOSED, 0)}), {})[0] == []


def test_a_connection_whose_file_is_missing_is_not_told_as_closed() -> None:
    told = names(Told(), life(OPEN))[1]
    events, after = news(told, [], {}, [], [A])
    assert (events, after) == ([], told)
    assert names(after, life(CLOSING))[0] == ["connection_closing"]


def test_a_punishment_is_told_by_its_txid_and_other_transactions_are_not() -> None:
    told = Told(0, {A: (CLOSING, 1)})
    lives = life(CLOSING, "t0", "t1", "t2")
    assert unheard(told, lives) == [A]
    history = [{"handle": A, "txid": f"t{n}", "kind": kind} for n, kind in enumerate(("revoke", "close", "revoke"))]
    events, after = news(told, [], lives, history)
    assert events == [{"event": "punished", "handle": A, "asset": "XCP", "txid": "t2"}]
    assert unheard(after, lives) == []


def test_what_was_before_the_beginning_is_no_news() -> None:
    told = begin(8, life(OPEN, "t0"))
    assert news(told, [], life(OPEN, "t0"), []) == ([], told)
    told = begin(8, life(None))
    assert names(told, life(CLOSED))[0] == []
    assert names(told, {**life(CLOSED), "bb" * 32: Life(OPEN, (), XCP)})[0] == ["connection_opened"]


def test_an_error_is_told_once_and_its_end_once() -> None:
    away, behind = HubUnreachable("Away.", url="u"), NodeBehind("Behind.")
    first = troubles({}, {"hub": away})
    assert first == [{"event": "error", "source": "hub", "name": "HubUnreachable", "message": "Away.",
                      "data": {"url": "u"}}]  # fmt: skip
    assert troubles({"hub": "HubUnreachable"}, {"hub": away}) == []
    both = troubles({"hub": "HubUnreachable"}, {"hub": behind, A: UnknownHandle("?")})
    assert [event["source"] for event in both] == ["hub", A]
    assert troubles({"hub": "NodeBehind"}, {}) == [{"event": "error_over", "source": "hub", "name": "NodeBehind"}]


@given(st.integers(0, 2**60), st.dictionaries(st.text(), st.tuples(st.text(), st.integers(0, 99))))
def test_how_far_it_was_told_survives_a_file(payments: int, connections: dict[str, tuple[str, int]]) -> None:
    told = Told(payments, connections)
    assert Told.parse(json.loads(json.dumps(told.as_json()))) == told
    wrong: list[Any] = [{}, {"payments": -1, "connections": {}}, {"payments": 1, "connections": []}, []]
    for broken in wrong:
        with pytest.raises((KeyError, TypeError, ValueError)):
            Told.parse(broken)


@given(st.lists(st.sampled_from([OPENING, OPEN, CLOSING, CLOSED, None])))
def test_nothing_is_told_twice_for_one_look(statuses: list[str | None]) -> None:
    told = Told()
    for status in statuses:
        lives = life(status)
        found, told = names(told, lives)
        assert set(found) <= set(NAMES)
        assert names(told, lives) == ([], replace(told))

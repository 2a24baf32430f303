"""A watcher does what is free whenever it is due, pays for an exchange only for a cause, and looks in time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel.stages import CLOSED, CLOSING, OPEN, OPENING
from picopayments_cli.client.due import (
    BLOCK_SECONDS,
    JITTER,
    MOST_BACKED_OFF,
    MOST_REST,
    REST,
    Act,
    Rest,
    Standing,
    act,
    pause,
    worth,
)

STANDINGS = st.builds(
    Standing,
    st.sampled_from([OPENING, OPEN, CLOSING, CLOSED]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2000),
    st.integers(1, 72),
)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (Standing(OPENING), Act.STEP),
        (Standing(CLOSING), Act.STEP),
        (Standing(CLOSED), Act.NOTHING),
        (Standing(CLOSED, settled=True), Act.STEP),
        (Standing(OPEN), Act.NOTHING),
        (Standing(OPEN, pending=True), Act.EXCHANGE),
        (Standing(OPEN, wants=True), Act.EXCHANGE),
        (Standing(OPEN, wants=True, rested=False), Act.NOTHING),
        (Standing(OPEN, pending=True, rested=False), Act.EXCHANGE),
        (Standing(OPEN, trades=True), Act.STEP),
        (Standing(OPEN, wants=True, trades=True, rested=False), Act.STEP),
    ],
)
def test_each_standing_has_its_act(item: Standing, expected: Act) -> None:
    assert act(item) is expected


@given(STANDINGS)
def test_nothing_is_paid_for_an_idle_connection(item: Standing) -> None:
    assert act(replace(item, pending=False, wants=False)) is not Act.EXCHANGE


@given(STANDINGS)
def test_what_opens_or_closes_is_never_left_alone(item: Standing) -> None:
    if item.status in (OPENING, CLOSING):
        assert act(item) is Act.STEP


def test_nothing_is_fetched_that_costs_what_it_brings() -> None:
    assert [worth(total, 5) for total in (0, 5, 6)] == [False, False, True]


@given(st.lists(STANDINGS), st.floats(0.1, 3600), st.integers(0, 100), st.floats(0, 1))
def test_a_round_comes_within_half_of_the_time_that_any_connection_has(
    items: list[Standing], every: float, failures: int, chance: float
) -> None:
    seconds = pause(items, every, failures, chance)
    assert 0 < seconds <= max(every, MOST_BACKED_OFF)
    for item in items:
        if item.status != CLOSED:
            assert seconds <= BLOCK_SECONDS / 2 * max(1, min(item.blocks, item.check_every))


def test_rounds_come_as_often_as_is_said_less_the_jitter_and_seldomer_after_failures() -> None:
    assert [pause([], 60, 0, chance) for chance in (0, 1)] == [60, 60 * (1 - JITTER)]
    assert [pause([], 60, failures, 0) for failures in (1, 2, 3, 4, 50)] == [120, 240, 480, 600, 600]
    assert pause([], 3600, 3, 0) == 3600
    assert pause([Standing(OPEN, check_every=1, blocks=900)], 3600, 9, 0) == 300
    assert pause([Standing(OPEN, check_every=72, blocks=3)], 3600, 9, 0) == 900
    assert pause([Standing(CLOSED)], 3600, 0, 0) == 3600


def test_exchanges_that_bring_nothing_become_rare() -> None:
    rest, now, seconds = Rest(), 100.0, []
    for _ in range(12):
        rest = rest.after(brought=False, now=now)
        seconds.append(rest.until - now)
        now = rest.until
    assert seconds[:4] == [REST, 2 * REST, 4 * REST, 8 * REST]
    assert seconds[-1] == MOST_REST
    rest = rest.after(brought=True, now=now)
    assert rest.until == now + REST
    assert rest.after(brought=False, now=now).until == now + REST

"""When a connection opens, must close, and how often its owner looks: each at its border."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parties_support import CONTRACT, START, Q, commit_draft, honest_payee, honest_payer, paid, paying

from picopayments_cli.channel.deadlines import (
    MAX_MARGIN,
    MIN_MARGIN,
    Expiry,
    at_risk,
    check_delay,
    check_every,
    counts_late,
    default_delay,
    is_open,
    is_short,
    latest_begun,
    must_close,
    starts,
)
from picopayments_cli.channel.facts import Deposit, Facts, Seen
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.values import Height
from picopayments_cli.errors import InvalidTime

SAFE = 7


@pytest.mark.parametrize(
    ("time", "margin"),
    [(12, 6), (48, 6), (55, 6), (56, 7), (144, 18), (1024, 128), (1151, 143), (1152, 144), (65535, 144)],
)
def test_a_payee_settles_a_margin_before_the_expiry(time: int, margin: int) -> None:
    assert Expiry(900_000, time).settle_height == 900_000 - margin


@given(st.integers(12, 65535))
def test_the_margin_lies_in_its_bounds_and_leaves_time(time: int) -> None:
    assert MIN_MARGIN <= Expiry(900_000, time).margin <= min(MAX_MARGIN, time - 1)


def test_time_to_live_ends_six_blocks_before_the_expiry() -> None:
    expiry = Expiry(1_000, 144)
    assert [expiry.time_to_live(tip) for tip in (900, 993, 994, 1_100)] == [94, 1, 0, 0]
    assert [expiry.left(tip) for tip in (900, 999, 1_000, 1_100)] == [100, 1, 0, 0]


def test_a_hub_does_not_deposit_with_less_than_half_of_the_time_left() -> None:
    expiry = Expiry(1_000, 145)
    assert expiry.may_deposit(927)
    assert not expiry.may_deposit(928)


def test_a_deposit_that_counts_inside_the_margin_and_safe_depth_is_never_used() -> None:
    expiry = Expiry(1_000, 144)
    assert expiry.may_open(1_000 - 18 - SAFE - 1, SAFE)
    assert not expiry.may_open(1_000 - 18 - SAFE, SAFE)


@pytest.mark.parametrize(("delay", "blocks"), [(2, 1), (3, 1), (14, 7), (2016, 1008)])
def test_a_payer_looks_twice_in_the_delay(delay: int, blocks: int) -> None:
    assert check_every(delay) == blocks


@pytest.mark.parametrize(
    ("network", "least", "default"), [("mainnet", 14, 144), ("testnet4", 2, 2), ("signet", 2, 2), ("regtest", 2, 2)]
)
def test_the_limits_of_the_delay(network: str, least: int, default: int) -> None:
    there = NETWORKS[network]
    assert default_delay(there) == default
    for delay in (least, default, 2016):
        check_delay(delay, there)
    for delay in (least - 1, 0, -1, 2017):
        with pytest.raises(InvalidTime):
            check_delay(delay, there)
    assert [is_short(delay) for delay in (2, 13, 14)] == [True, True, False]


# Open, and closing --------------------------------------------------------------------------------------------------

EXPIRY = Expiry(CONTRACT.deposit.height, 1_000)


def facts(tip: int, depth: int = SAFE) -> Facts:
    return Facts(Height(tip), Seen(b"\1" * 32, Height(tip - depth + 1)), None)


def spent() -> Facts:
    payer = honest_payer([300])
    assert payer.side.anchor is not None
    payer.chain.submit(commit_draft(payer.side.anchor, 300))
    return payer.case.facts


def test_a_connection_is_open_while_both_deposits_are_buried_and_unspent_until_the_margin() -> None:
    last = EXPIRY.settle_height - 1
    assert is_open(EXPIRY, [facts(START), facts(START)], SAFE)
    assert is_open(EXPIRY, [facts(last), facts(last)], SAFE)
    assert not is_open(EXPIRY, [facts(last + 1), facts(last + 1)], SAFE)
    for wrong in (facts(START, SAFE - 1), replace(facts(START), deposit=None), spent()):
        assert not is_open(EXPIRY, [facts(START), wrong], SAFE)
        assert not is_open(EXPIRY, [wrong, facts(START)], SAFE)


def test_a_connection_closes_when_a_deposit_is_spent_or_void_or_at_the_deadline() -> None:
    last, begins = EXPIRY.settle_height - 1, EXPIRY.settle_height
    assert not must_close(EXPIRY, begins, [facts(last), facts(last)])
    assert must_close(EXPIRY, begins, [facts(last + 1), facts(last + 1)])
    assert must_close(EXPIRY, last, [facts(last), facts(last)])  # as many share the coins
    assert must_close(EXPIRY, begins + 10, [facts(last + 1), facts(last + 1)])
    assert must_close(EXPIRY, begins, [facts(START), spent()])
    assert must_close(EXPIRY, begins, [spent(), facts(START)])
    both = [facts(START), facts(START)]
    assert must_close(EXPIRY, begins, both, [Deposit.COUNTS, Deposit.VOID])
    assert not must_close(EXPIRY, begins, both, [Deposit.COUNTS, Deposit.UNMINED])


def test_a_last_answer_counts_while_its_commit_can_still_be_mined_before_the_expiry() -> None:
    latest = EXPIRY.height - (EXPIRY.margin + 1) // 2
    assert counts_late(EXPIRY, facts(START))
    assert counts_late(EXPIRY, facts(latest))
    assert not counts_late(EXPIRY, facts(latest + 1))
    assert not counts_late(EXPIRY, facts(EXPIRY.height + 9))
    assert not counts_late(EXPIRY, spent())  # its payer may have it back already


def test_at_risk_is_the_greatest_exposure_and_what_was_received() -> None:
    payee = honest_payee([50, 70])
    anchor = payee.side.anchor
    assert anchor is not None
    received, none = paid(anchor, [50, 70]), paid(anchor, [])
    assert at_risk(paying(anchor, []), none) == 0
    assert at_risk(paying(anchor, [200]), received) == 70
    assert at_risk(paying(anchor, [150, 200], [150]), received) == 70
    assert at_risk(paying(anchor, [200, 300, Q], [300, Q]), received) == Q - 200 + 70


# Many connections ---------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1_000, 1_050), st.integers(12, 2_000)), max_size=40), st.integers(0, 5))
def test_no_more_closes_are_under_way_than_there_are_coins(expiries: list[tuple[int, int]], coins: int) -> None:
    connections = [Expiry(height, time) for height, time in expiries]
    begun = starts(connections, coins)
    assert len(begun) == len(connections)
    assert all(begin <= item.settle_height for begin, item in zip(begun, connections, strict=True))
    assert [*starts(connections[:1], coins)] == [item.settle_height for item in connections[:1]]


@given(
    st.lists(st.tuples(st.integers(1_000, 1_050), st.integers(12, 2_000)), max_size=40),
    st.integers(1, 5),
    st.integers(900, 1_060),
)
def test_those_that_expire_late_have_no_part_in_who_begins_by_now(
    expiries: list[tuple[int, int]], coins: int, tip: int
) -> None:
    connections = [Expiry(height, time) for height, time in expiries]
    near = [item for item in connections if item.height <= latest_begun(tip, len(connections), coins)]
    due = {number for number, item in enumerate(connections) if item.settle_height <= tip}
    places = [number for number, item in enumerate(connections) if item in near]
    some = {place for place, begin in zip(places, starts(near, coins), strict=True) if begin <= tip}
    assert some | due == {number for number, begin in enumerate(starts(connections, coins)) if begin <= tip}


def test_two_hundred_that_expire_at_once_begin_one_after_the_other() -> None:
    begun = starts([Expiry(100_000, 48)] * 200, 10)
    latest = max(begun)
    assert latest == 100_000 - MIN_MARGIN
    for height in range(min(begun), latest):
        assert sum(begin <= height < begin + MIN_MARGIN for begin in begun) <= 10

"""The fee engine: what is believed, aimed at, paid and kept back. Each attack that emptied a wallet has its test."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel.fees import (
    INCREMENT,
    NOTHING,
    PATIENCE,
    Bid,
    FeeFrac,
    Shape,
    child_bid,
    chunks,
    deposit_bid,
    lifting_fee,
    may_raise,
    may_take,
    own_bid,
    replacing_fee,
)
from picopayments_cli.channel.rates import (
    ALONE,
    DRIFT,
    MAX_AGREED,
    PACKAGE_MAX,
    RESCUE,
    Aim,
    Bounds,
    Rate,
    Urgency,
    aim,
    asked_rate,
    believed,
    may_open,
    payee_agrees,
    payer_agrees,
)
from picopayments_cli.channel.reserve import Chore, Reserve, beginnings, missing, reserve_for, spendable, turn

COMMIT, REVOKE, CHILD, PAYOUT = 257, 181, 234, 192  # vB; the child with one P2PKH coin
BOUNDS = Bounds(1, 100)

bounds_any = st.tuples(st.integers(1, 50), st.integers(0, 200)).map(lambda pair: Bounds(pair[0], sum(pair)))
rates = st.builds(Rate, st.integers(1, 500), st.booleans())
feefracs = st.builds(FeeFrac, st.integers(1, 50_000), st.integers(100, 1_000))
shapes_any = st.lists(st.builds(Shape, st.integers(100, 1_000), st.integers(-500, 200_000)), min_size=1, max_size=5)
urgencies = st.builds(
    Urgency,
    st.none() | st.integers(-5, 200),
    st.integers(0, 144),
    st.integers(0, 2**63 - 1),
    st.integers(1, 2**63 - 1),
)


@st.composite
def aims(draw: st.DrawFn) -> Aim:
    return aim(draw(rates), draw(bounds_any), draw(urgencies))


# The rate believed ---------------------------------------------------------------------------------------------------


def test_a_node_without_an_estimate_is_not_a_node_that_says_1() -> None:
    assert believed(None, 29, 7, BOUNDS) == Rate(29, guess=True)
    assert believed(None, None, 7, BOUNDS) == Rate(7, guess=True)
    assert believed(None, None, None, Bounds(3, 100)) == Rate(3, guess=True)
    assert believed(0, -1, 0, Bounds(3, 100)) == Rate(3, guess=True)
    assert believed(12, 29, 7, BOUNDS) == Rate(12, guess=False)


def test_no_connection_is_opened_on_a_guess_nor_above_the_ceiling() -> None:
    bounds = Bounds(3, 100)
    assert not any(may_open(Rate(value, guess=True), bounds) for value in (2, 3, 100, 101))
    assert [may_open(Rate(value, guess=False), bounds) for value in (2, 3, 100, 101)] == [True, True, True, False]


@pytest.mark.parametrize(("floor", "ceiling"), [(0, 5), (6, 5), (-1, 5)])
def test_bounds_that_leave_no_rate_are_refused(floor: int, ceiling: int) -> None:
    with pytest.raises(ValueError, match="floor"):
        Bounds(floor, ceiling)


# The commits' rate ---------------------------------------------------------------------------------------------------


def test_terms_asked_for_at_34_are_not_used_at_1() -> None:
    """And the mirror: a hub with high terms against a client whose own node says 1."""
    asked = asked_rate(Rate(34, guess=False), packages=False)
    assert asked == MAX_AGREED
    for high in (asked, 34, 7):
        assert not payer_agrees(high, Rate(1, guess=False), BOUNDS)
    assert not payee_agrees(5, Rate(34, guess=False), packages=False)


def test_commits_pay_what_their_payee_can_raise_them_from() -> None:
    rates = [Rate(value, guess=False) for value in (1, 3, 5, 30, 80)]
    assert [asked_rate(rate, packages=True) for rate in rates] == [1, 3, 5, 5, 5]
    assert [asked_rate(rate, packages=False) for rate in rates] == [5, 9, 15, 90, 100]


def test_a_payer_signs_no_commits_above_its_ceiling() -> None:
    assert payer_agrees(20, Rate(50, guess=False), Bounds(1, 20))
    assert not payer_agrees(21, Rate(50, guess=False), Bounds(1, 20))


def test_a_payee_without_packages_opens_nothing_where_the_highest_commit_rate_would_not_be_relayed() -> None:
    assert payee_agrees(MAX_AGREED, Rate(MAX_AGREED, guess=False), packages=False)
    assert not payee_agrees(MAX_AGREED, Rate(MAX_AGREED + 1, guess=False), packages=False)


@given(st.integers(1, 33), st.data(), st.booleans())
def test_two_honest_parties_agree_on_a_rate(value: int, data: st.DataObject, packages: bool) -> None:
    """Their estimates differ up to twice, and the payee's may have moved since it named its rate."""
    payee = Rate(value, guess=False)
    agreed = asked_rate(payee, packages=packages)
    others = st.integers(-(-value // DRIFT), value * DRIFT)
    assert payer_agrees(agreed, Rate(data.draw(others), guess=False), BOUNDS)
    assert payee_agrees(agreed, Rate(data.draw(others), guess=False), packages=packages)


@given(st.integers(1, 10_000))
def test_who_can_submit_packages_asks_for_1_to_5_and_others_for_enough(value: int) -> None:
    assert 1 <= asked_rate(Rate(value, guess=False), packages=True) <= PACKAGE_MAX
    alone = asked_rate(Rate(value, guess=False), packages=False)
    assert alone >= PACKAGE_MAX
    assert alone == MAX_AGREED or alone >= ALONE * value


# The rate aimed at ---------------------------------------------------------------------------------------------------


@given(rates, bounds_any, urgencies)
def test_the_aim_never_falls_towards_the_deadline(rate: Rate, bounds: Bounds, urgency: Urgency) -> None:
    if urgency.left is None:
        return
    now, then = aim(rate, bounds, urgency), aim(rate, bounds, replace(urgency, left=urgency.left - 1))
    assert then.rate >= now.rate
    assert then.most >= now.most
    raising = 1 <= urgency.left - 1 < urgency.span
    assert not raising or then.rate > now.rate or then.rate == then.most or urgency.left == 2


@given(rates, bounds_any, urgencies)
def test_the_aim_stays_within_the_ceiling_except_late_with_something_at_risk(
    rate: Rate, bounds: Bounds, urgency: Urgency
) -> None:
    aimed = aim(rate, bounds, urgency)
    assert bounds.floor <= aimed.rate <= aimed.most <= RESCUE * bounds.ceiling
    late = urgency.left is not None and 2 * urgency.left <= max(urgency.span, 2) + 1
    assert aimed.most <= bounds.ceiling or (late and urgency.at_risk > 0)


@given(rates, bounds_any, st.integers(2, 144), st.integers(1, 2**63 - 1))
def test_the_last_block_gets_the_most_and_the_first_the_estimate(
    rate: Rate, bounds: Bounds, span: int, deposit: int
) -> None:
    whole = Urgency(span, span, deposit, deposit)
    assert aim(rate, bounds, whole).rate == bounds.within(rate.value)
    assert aim(rate, bounds, replace(whole, left=1)).rate == RESCUE * bounds.ceiling
    assert aim(rate, bounds, replace(whole, left=1, at_risk=0)).rate == bounds.ceiling
    assert aim(rate, bounds, replace(whole, left=None)).rate == bounds.within(rate.value)


def test_a_cheat_for_a_hundredth_of_the_deposit_costs_hardly_more_than_the_ceiling() -> None:
    assert aim(Rate(1, guess=False), BOUNDS, Urgency(1, 144, 1, 100)).rate == 103


def test_the_way_up_is_the_square_of_the_time_passed_and_a_step_each_block() -> None:
    whole = Urgency(13, 13, 1, 1)
    climbed = [aim(Rate(1, guess=False), BOUNDS, replace(whole, left=left)).rate for left in (14, 13, 12, 10, 7, 4, 1)]
    assert climbed == [1, 1, 4, 26, 101, 226, 400]
    slow = [aim(Rate(1, guess=False), BOUNDS, Urgency(left, 144)).rate for left in (144, 143, 142, 141)]
    assert slow == [1, 2, 3, 4]


@given(rates, bounds_any, urgencies)
def test_a_higher_estimate_never_lowers_the_aim(rate: Rate, bounds: Bounds, urgency: Urgency) -> None:
    higher = replace(rate, value=rate.value + 1)
    assert aim(higher, bounds, urgency).rate >= aim(rate, bounds, urgency).rate


# Replacement ---------------------------------------------------------------------------------------------------------


def test_the_rules_of_replacement() -> None:
    assert replacing_fee(200, ()) == 0
    assert replacing_fee(200, (FeeFrac(1_000, 200),)) == 1_200
    assert replacing_fee(200, (FeeFrac(1_000, 100),)) == 2_001  # more than its rate
    assert replacing_fee(200, (FeeFrac(100, 200), FeeFrac(300, 200))) == 600
    assert chunks(FeeFrac(100, 100), None) == (FeeFrac(100, 100),)
    assert chunks(FeeFrac(100, 100), FeeFrac(200, 100)) == (FeeFrac(300, 200),)
    assert chunks(FeeFrac(200, 100), FeeFrac(100, 100)) == (FeeFrac(200, 100), FeeFrac(100, 100))


@given(feefracs, st.integers(100, 1_000), st.integers(1, 400))
def test_the_lifting_fee_is_the_least_that_lifts(parent: FeeFrac, size: int, rate: int) -> None:
    fee = lifting_fee(parent, size, rate)
    assert (parent + FeeFrac(fee, size)).rate >= rate
    assert fee == 0 or (parent + FeeFrac(fee - 1, size)).rate < rate


@given(shapes_any, aims(), feefracs, st.none() | feefracs, st.lists(feefracs, max_size=2), st.integers(0, 50_000))
def test_a_child_is_affordable_replaces_what_is_there_and_stays_within_the_most(
    shapes: list[Shape], aimed: Aim, parent: FeeFrac, child: FeeFrac | None, rivals: list[FeeFrac], last: int
) -> None:
    bid = child_bid(shapes, aimed, parent, child, rivals, last)
    if bid is None:
        return
    made = FeeFrac(bid.fee, bid.shape.size)
    assert bid.shape in shapes
    assert 0 < bid.fee <= bid.shape.funds
    assert (parent + made).rate <= aimed.most
    assert made.rate > parent.rate
    if child is not None:
        assert bid.fee >= child.fee + INCREMENT * made.size
        assert made.rate > child.rate
    if rivals:
        together = parent + made
        assert together.fee >= sum(rival.fee for rival in rivals) + INCREMENT * together.size
        assert together.rate > max(rival.rate for rival in rivals)


@given(shapes_any, aims(), st.none() | feefracs, st.lists(feefracs, max_size=2), st.just(NOTHING) | feefracs)
def test_an_own_transaction_is_affordable_replaces_what_is_there_and_stays_within_the_most(
    shapes: list[Shape], aimed: Aim, mine: FeeFrac | None, rivals: list[FeeFrac], parent: FeeFrac
) -> None:
    bid = own_bid(shapes, aimed, mine, rivals, parent)
    if bid is None:
        return
    made = FeeFrac(bid.fee, bid.shape.size)
    assert 0 < bid.fee <= bid.shape.funds
    assert min(made.rate, (parent + made).rate) <= aimed.most
    there = [*rivals, *([] if mine is None else [mine])]
    if there:
        assert bid.fee >= sum(other.fee for other in there) + INCREMENT * made.size
        assert made.rate > max(other.rate for other in there)


@given(aims(), feefracs, st.integers(100, 1_000), st.integers(1, 100_000))
def test_the_best_rate_is_paid_where_the_aim_cannot_be_reached(
    aimed: Aim, parent: FeeFrac, size: int, funds: int
) -> None:
    bid = child_bid([Shape(size, funds)], aimed, parent)
    if bid is not None and (parent + FeeFrac(bid.fee, size)).rate < aimed.rate:
        assert bid.fee == funds


@given(shapes_any, aims(), feefracs)
def test_raising_ends(shapes: list[Shape], aimed: Aim, parent: FeeFrac) -> None:
    """Once sent, the same aim asks for nothing more."""
    bid = child_bid(shapes, aimed, parent)
    if bid is not None:
        made = FeeFrac(bid.fee, bid.shape.size)
        again = child_bid([bid.shape], aimed, parent, made)
        assert again is None


@given(shapes_any, shapes_any, aims(), aims(), feefracs)
def test_two_that_raise_the_same_close_end(
    ours: list[Shape], theirs: list[Shape], our_aim: Aim, their_aim: Aim, parent: FeeFrac
) -> None:
    """Each child pays more than the one before, so that somebody's most or coins are reached."""
    child: FeeFrac | None = None
    idle = turns = 0
    while idle < 2:
        shapes, aimed = (ours, our_aim) if turns % 2 else (theirs, their_aim)
        bid = child_bid(shapes, aimed, parent, child)
        if bid is None:
            idle += 1
        else:
            assert child is None or bid.fee > child.fee
            child, idle = FeeFrac(bid.fee, bid.shape.size), 0
        turns += 1
        assert turns < 20


def test_the_cheapest_shape_that_reaches_the_aim_is_taken() -> None:
    small, large, poor = Shape(200, 10_000), Shape(350, 99_000), Shape(150, 100)
    assert own_bid([large, poor, small], Aim(10, 100)) == Bid(small, 2_000)
    assert own_bid([large, poor, small], Aim(90, 100)) == Bid(large, 31_500)
    assert own_bid([poor, small], Aim(90, 100)) == Bid(small, 10_000)


def test_a_child_of_a_parent_that_pays_enough_is_not_sent() -> None:
    assert child_bid([Shape(CHILD, 50_000)], Aim(5, 100), FeeFrac(5 * COMMIT, COMMIT)) is None
    poor, rich = FeeFrac(300, CHILD), FeeFrac(30 * CHILD, CHILD)
    assert child_bid([Shape(CHILD, 50_000)], Aim(10, 100), FeeFrac(COMMIT, COMMIT), rich) is None
    assert child_bid([Shape(CHILD, 50_000)], Aim(10, 100), FeeFrac(COMMIT, COMMIT), poor) is not None


def test_a_parent_that_pays_enough_gets_a_child_where_others_spend_its_inputs() -> None:
    rival, commit = FeeFrac(20 * 168, 168), FeeFrac(5 * COMMIT, COMMIT)
    bid = child_bid([Shape(CHILD, 50_000)], Aim(5, 100), commit, rivals=(rival,))
    assert bid is not None
    assert (commit + FeeFrac(bid.fee, CHILD)).rate > rival.rate


def test_an_own_transaction_pays_the_rate_itself_beside_a_rich_parent() -> None:
    parent, shape = FeeFrac(90 * COMMIT, COMMIT), Shape(REVOKE, 50_000)
    assert own_bid([shape], Aim(10, 100), parent=parent) == Bid(shape, 10 * REVOKE)
    assert own_bid([shape], Aim(10, 100), mine=FeeFrac(REVOKE, REVOKE), parent=parent) == Bid(shape, 10 * REVOKE)


def test_a_child_that_would_not_lift_its_parent_is_not_sent() -> None:
    assert child_bid([Shape(CHILD, 4 * CHILD)], Aim(50, 100), FeeFrac(5 * COMMIT, COMMIT)) is None


# The attacks ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), rates, bounds_any, urgencies)
def test_a_punishment_that_cannot_pay_the_estimate_goes_out_from_its_own_output(
    agreed: int, rate: Rate, bounds: Bounds, urgency: Urgency
) -> None:
    """No coin at all: its own output's satoshis are the fee, at the commits' rate at least where that is needed."""
    own = Shape(REVOKE, PAYOUT * agreed)
    aimed = aim(rate, bounds, urgency)
    bid = own_bid([own], aimed)
    assert bid is not None
    assert bid.fee == min(own.funds, REVOKE * aimed.rate)


def test_a_punishment_at_1_is_replaced_once_the_estimate_is_29() -> None:
    shapes = [Shape(REVOKE, 192), Shape(REVOKE + 148, 20_000)]
    mine = FeeFrac(181, REVOKE)
    bid = own_bid(shapes, aim(Rate(29, guess=False), BOUNDS, Urgency(144, 144, 1, 1)), mine=mine)
    assert bid == Bid(shapes[1], 29 * 329)


@given(st.integers(1, 99), st.integers(1, 20))
def test_a_punishment_is_replaced_every_block_while_it_pays_less_than_the_rate(paid: int, more: int) -> None:
    mine = FeeFrac(paid * REVOKE, REVOKE)
    aimed = aim(Rate(min(paid + more, 100), guess=False), BOUNDS, Urgency(None, 144))
    bid = own_bid([Shape(REVOKE, 50_000)], aimed, mine=mine)
    assert bid is not None
    assert bid.fee == aimed.rate * REVOKE


def test_a_punishment_takes_the_place_of_the_cheats_payout_whatever_that_pays() -> None:
    payout = chunks(FeeFrac(29 * PAYOUT, PAYOUT), FeeFrac(60 * 150, 150))
    aimed = aim(Rate(1, guess=False), BOUNDS, Urgency(0, 144, 1, 1))
    bid = own_bid([Shape(329, 100_000)], replace(aimed, rate=1), rivals=payout)
    assert bid is not None
    assert bid.fee == replacing_fee(329, payout) > 29 * PAYOUT + 60 * 150


def test_a_punishment_waits_for_the_block_where_the_cheats_child_pays_more_than_it_may() -> None:
    sibling = FeeFrac(500 * CHILD, CHILD)
    aimed = aim(Rate(5, guess=False), BOUNDS, Urgency(144, 144, 1, 1))
    commit = FeeFrac(COMMIT, COMMIT)
    assert own_bid([Shape(329, 1_000_000)], aimed, rivals=(sibling,), parent=commit) is None
    bid = own_bid([Shape(329, 1_000_000)], aimed, rivals=(FeeFrac(300, CHILD),), parent=commit)
    assert bid == Bid(Shape(329, 1_000_000), 5 * (COMMIT + 329) - COMMIT)


def test_small_connections_of_strangers_do_not_drain_the_reserve() -> None:
    """Deposits get what is beyond the reserve, and none while it is not whole; a punishment gets every coin."""
    reserve = Reserve(3, 20_000)
    coins = [500_000, 20_000, 19_999, 30_000, 25_000]
    assert spendable(coins, reserve, Chore.DEPOSIT) == (0, 2)
    assert spendable(coins[:4], reserve, Chore.DEPOSIT) == (2,)
    assert spendable(coins[:3], reserve, Chore.DEPOSIT) == ()
    assert spendable(coins[:3], reserve, Chore.COLLECT) == (2,)
    assert spendable(coins, reserve, Chore.PUNISH) == spendable(coins, reserve, Chore.CLOSE) == (0, 1, 2, 3, 4)


def test_one_large_coin_is_no_reserve() -> None:
    """Its change is unconfirmed for a block, when the next close needs a coin."""
    assert missing([100_000_000], Reserve(3, 20_000)) == 2
    assert spendable([100_000_000], Reserve(3, 20_000), Chore.DEPOSIT) == ()


@given(st.lists(st.integers(0, 100_000), max_size=12), st.integers(0, 6), st.integers(1, 60_000))
def test_deposits_leave_the_whole_reserve(values: list[int], coins: int, each: int) -> None:
    reserve = Reserve(coins, each)
    given_out = spendable(values, reserve, Chore.DEPOSIT)
    if given_out:
        assert missing([value for index, value in enumerate(values) if index not in given_out], reserve) == 0


def test_each_coin_of_the_reserve_lifts_a_commit_to_the_ceiling() -> None:
    commit = FeeFrac(COMMIT, COMMIT)
    reserve = reserve_for(2, commit, CHILD, BOUNDS, 546)
    assert reserve == Reserve(2, 100 * (COMMIT + CHILD) - COMMIT + 546)
    bid = child_bid([Shape(CHILD, reserve.each - 546)], Aim(100, 100), commit)
    assert bid is not None
    assert (commit + FeeFrac(bid.fee, CHILD)).rate == 100


def test_punishments_come_first_and_deposits_last() -> None:
    chores = [(Chore.DEPOSIT, 1), (Chore.CLOSE, 9), (Chore.PUNISH, 8), (Chore.CLOSE, None), (Chore.CLOSE, 0)]
    ordered = sorted(chores, key=lambda chore: turn(*chore))
    assert ordered == [chores[2], chores[4], chores[1], chores[3], chores[0]]


@pytest.mark.parametrize("estimate", [4, 6, 20])
def test_an_estimate_over_commits_that_pay_5_costs_no_payment_that_a_raise_saves(estimate: int) -> None:
    commit, rate = FeeFrac(5 * COMMIT, COMMIT), Rate(estimate, guess=False)
    cost = estimate * (COMMIT + CHILD) - 5 * COMMIT
    taken = [
        may_take(commit, Shape(CHILD, funds), rate, BOUNDS, left=19, span=18, packages=True)
        for funds in (max(cost, 0), cost - 1)
    ]
    assert taken == [True, cost <= 0]


def test_nothing_is_taken_without_packages_on_commits_below_the_estimate() -> None:
    commit, shape = FeeFrac(5 * COMMIT, COMMIT), Shape(CHILD, 100_000)
    for estimate, taken in ((4, True), (5, True), (6, False)):
        rate = Rate(estimate, guess=False)
        assert may_take(commit, shape, rate, BOUNDS, left=19, span=18, packages=False) is taken


def test_nothing_is_taken_once_the_blocks_for_raising_have_begun_or_above_the_ceiling() -> None:
    commit, shape = FeeFrac(5 * COMMIT, COMMIT), Shape(CHILD, 1_000_000)
    for left, value, taken in ((19, 100, True), (18, 100, False), (19, 101, False)):
        rate = Rate(value, guess=False)
        assert may_take(commit, shape, rate, BOUNDS, left=left, span=18, packages=True) is taken


@given(rates, bounds_any, st.integers(1, 5), st.integers(100, 1_000), st.integers(0, 100_000))
def test_what_is_taken_can_be_raised_at_once(rate: Rate, bounds: Bounds, agreed: int, size: int, funds: int) -> None:
    commit, shape = FeeFrac(agreed * COMMIT, COMMIT), Shape(size, funds)
    if may_take(commit, shape, rate, bounds, left=7, span=6, packages=True):
        aimed = aim(rate, bounds, Urgency(6, 6))
        bid = child_bid([shape], aimed, commit)
        raised = commit if bid is None else commit + FeeFrac(bid.fee, size)
        assert raised.rate >= aimed.rate


def test_a_deposit_that_was_refused_for_its_fee_is_made_anew() -> None:
    shapes, sent = [Shape(220, 100_000)], FeeFrac(220, 220)
    today = Rate(6, guess=False)
    assert deposit_bid(shapes, today, BOUNDS, sent=sent, there=False, depended=False) == Bid(shapes[0], 6 * 220)
    assert deposit_bid(shapes, Rate(1, guess=False), BOUNDS, sent=sent, there=False, depended=False) == Bid(
        shapes[0], 440
    )
    assert deposit_bid(shapes, today, BOUNDS, sent=sent, there=False, depended=True) is None
    assert deposit_bid(shapes, Rate(101, guess=False), BOUNDS, sent=sent, there=False, depended=False) is None
    assert deposit_bid(shapes, Rate(2, guess=True), Bounds(3, 100), sent=None, there=False, depended=False) is None
    assert deposit_bid(shapes, today, BOUNDS, sent=None, there=False, depended=False) == Bid(shapes[0], 6 * 220)


@given(shapes_any, rates, bounds_any, feefracs, st.booleans())
def test_no_deposit_is_sent_again_unchanged(
    shapes: list[Shape], rate: Rate, bounds: Bounds, sent: FeeFrac, there: bool
) -> None:
    bid = deposit_bid(shapes, rate, bounds, sent=sent, there=there, depended=False)
    assert bid is None or (bid.fee > sent.fee and bid.fee <= bounds.ceiling * bid.shape.size)


def test_a_deposit_in_the_mempool_is_replaced_only_where_the_rate_of_the_day_is_higher() -> None:
    shapes, sent = [Shape(220, 100_000)], FeeFrac(5 * 220, 220)
    for value, fee in ((5, None), (4, None), (6, 6 * 220)):
        bid = deposit_bid(shapes, Rate(value, guess=False), BOUNDS, sent=sent, there=True, depended=False)
        assert (bid.fee if bid else None) == fee


@given(st.integers(1, 99), st.integers(1, 400))
def test_an_evicted_child_goes_out_again_and_pays_more_up_to_the_most(rate: int, rounds: int) -> None:
    """Replacement cycling: the attacker's child evicts ours, and is replaced itself; nothing is there each time."""
    commit, shape, last = FeeFrac(COMMIT, COMMIT), Shape(CHILD, 1_000_000), 0
    aimed, most = Aim(max(rate, 2), 100), lifting_fee(commit, CHILD, 100)
    for _ in range(rounds):
        bid = child_bid([shape], aimed, commit, last=last)
        assert bid is not None
        assert last < bid.fee <= most or bid.fee == last == most
        last = bid.fee


def test_a_close_is_raised_by_the_payee_first() -> None:
    assert [may_raise(payer=False, waited=waited) for waited in (0, 9)] == [True, True]
    assert [may_raise(payer=True, waited=waited) for waited in (0, PATIENCE - 1, PATIENCE)] == [False, False, True]


@given(st.lists(st.integers(1_000, 1_100), max_size=40), st.integers(1, 8), st.integers(1, 20))
def test_closes_that_end_in_one_fee_spike_are_staggered(deadlines: list[int], coins: int, span: int) -> None:
    begins = beginnings(deadlines, coins, span)
    assert all(begin <= deadline - span for begin, deadline in zip(begins, deadlines, strict=True))
    for begin in begins:
        assert sum(begin <= other < begin + span for other in begins) <= coins


def test_closes_that_do_not_overlap_begin_no_earlier_than_their_margin() -> None:
    assert beginnings([100, 120], 1, 18) == (82, 102)
    assert beginnings([100, 110], 1, 18) == (74, 92)
    assert beginnings([100, 110], 2, 18) == (82, 92)
    assert min(beginnings([5_000] * 200, 20, 18)) == 5_000 - 10 * 18


@pytest.mark.parametrize(("coins", "span"), [(0, 6), (1, 0)])
def test_closes_without_a_coin_or_a_block_are_refused(coins: int, span: int) -> None:
    with pytest.raises(ValueError, match="need"):
        beginnings([100], coins, span)

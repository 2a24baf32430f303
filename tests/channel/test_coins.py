"""The one rule by which the wallet's coins are chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from channel_support import DEPOSIT, PAYEE_WALLET, PAYER_WALLET, coin, legacy, purse, segwit
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel.coins import Purse, fund, offers
from picopayments_cli.channel.drafts import DUST, Draft, Output
from picopayments_cli.errors import InsufficientBitcoin

TARGET = Output(5_000, legacy(PAYEE_WALLET))
WALLETS = st.sampled_from([legacy(PAYER_WALLET), segwit(PAYER_WALLET)])


def shape(script: bytes) -> Draft:
    """A payment of 5,000 satoshis with change."""
    return Draft((), (TARGET, Output(DUST, script)))


def values_of(draft: Draft) -> list[int]:
    return [spent.coin.value for spent in draft.inputs]


@given(st.lists(st.integers(1, 20_000), max_size=12), st.integers(1, 60), WALLETS)
def test_as_few_coins_as_suffice_pay_exactly_what_is_asked(values: list[int], rate: int, script: bytes) -> None:
    wallet = purse(values, rate, script)
    worthy = [held for held in wallet.coins if wallet.worth(held) > 0]
    try:
        draft = fund(shape(script), wallet, left=1)
    except InsufficientBitcoin as error:
        refused, everything = error.data, shape(script).plus(worthy)
        assert everything.fee < rate * everything.size
        assert refused["available"] == sum(held.value for held in worthy) < refused["needed"]
        return
    assert draft.fee == rate * draft.size
    assert draft.outputs[0] == TARGET
    assert draft.outputs[1].value >= DUST
    assert len({spent.coin.outpoint for spent in draft.inputs}) == len(draft.inputs)
    largest = sorted(worthy, key=lambda held: -held.value)
    fewer = shape(script).plus(largest[: len(draft.inputs) - 1])
    assert fewer.fee < rate * fewer.size
    if len(draft.inputs) > 1:
        assert values_of(draft) == [held.value for held in largest[: len(draft.inputs)]]


def test_of_coins_that_suffice_alone_the_smallest_is_taken() -> None:
    assert values_of(fund(shape(legacy(PAYER_WALLET)), purse([90_000, 7_000, 5_500, 30_000]), left=1)) == [7_000]


def test_nothing_is_taken_where_nothing_is_needed() -> None:
    paid = shape(legacy(PAYER_WALLET)).plus([coin("enough", 50_000, legacy(PAYER_WALLET))])
    draft = fund(paid, purse([90_000]), left=1)
    assert values_of(draft) == [50_000]
    assert draft.fee == draft.size


def test_the_order_of_the_coins_is_nothing_to_the_choice() -> None:
    wallet = purse([2_000, 2_500, 3_000, 2_500])
    turned = replace(wallet, coins=wallet.coins[::-1])
    one, other = (fund(shape(wallet.script), coins, left=1) for coins in (wallet, turned))
    assert one == other


def test_coins_that_are_not_confirmed_or_not_a_wallets_are_left_alone() -> None:
    script = legacy(PAYER_WALLET)
    coins = (coin("waiting", 90_000, script, None), coin("channel", 90_000, DEPOSIT.output))
    with pytest.raises(InsufficientBitcoin) as refused:
        fund(shape(script), Purse(script, coins, 1), left=1)
    assert refused.value.data["available"] == 0


def test_coins_worth_less_than_they_cost_are_left_alone() -> None:
    script = legacy(PAYER_WALLET)
    wallet = purse([148, 149, 9_000], 1, script)
    assert [wallet.worth(held) > 0 for held in wallet.coins] == [False, True, True]
    dusted = purse([600] * 5_000, 10, script)
    with pytest.raises(InsufficientBitcoin) as refused:
        fund(shape(script), dusted, left=1)
    assert refused.value.data == {
        "needed": 5_000 + DUST + 10 * shape(script).plus(dusted.coins[:1]).size,
        "available": 0,
    }


@pytest.mark.parametrize(("script", "count"), [(legacy(PAYER_WALLET), 6), (segwit(PAYER_WALLET), 13)])
def test_a_size_that_must_not_be_passed_is_not_passed(script: bytes, count: int) -> None:
    payment = shape(script)
    ways = offers(payment, purse([1_000] * 40, 1, script), most=1000)
    assert max(payment.plus(coins).size for coins in ways) <= 1000
    assert max(len(coins) for coins in ways) == count


def test_a_purse_forgets_the_coins_that_a_draft_takes() -> None:
    wallet = purse([7_000, 8_000, 9_000])
    first = fund(shape(wallet.script), wallet, left=1)
    rest = wallet.without(first)
    assert {held.value for held in rest.coins} == {8_000, 9_000}
    assert values_of(fund(shape(wallet.script), rest, left=1)) == [8_000]

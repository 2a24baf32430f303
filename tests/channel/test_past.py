"""How long a wallet's own transaction holds its coins: the rule, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest
from channel_support import CONTRACT, purse

from picopayments_cli.channel.drafts import Draft, Input, Output, parse_transaction
from picopayments_cli.channel.past import Own, Told, as_told, rival
from picopayments_cli.channel.values import Coin, Entry, Height

DEPTH, TIP = 7, Height(1000)
COIN, OTHER = purse([50_000, 60_000]).coins


def spending(*coins: Coin) -> Own:
    """A transaction that spends these coins."""
    draft = Draft(tuple(map(Input, coins)), (Output(1000, CONTRACT.payer_wallet),))
    return Own(draft.stripped([b"" for _ in coins]))


OWN, RIVAL = spending(COIN, OTHER), spending(COIN)


def entry(own: Own, depth: int) -> Entry:
    """It in a history, so deep."""
    return Entry(own.txid, own.raw, None if depth == 0 else Height(TIP - depth + 1))


def told(*history: Entry, known: bool = False, truncated: bool = False) -> Told:
    return Told(TIP, history, {OWN.txid} if known else (), (), truncated)


def test_it_holds_its_coins_until_it_is_buried() -> None:
    assert as_told(OWN, told(known=True), DEPTH) == OWN  # whatever the list of coins says
    assert as_told(OWN, told(entry(OWN, 0)), DEPTH) == OWN
    assert as_told(OWN, told(entry(OWN, DEPTH - 1)), DEPTH) == replace(OWN, height=Height(TIP - DEPTH + 2))
    assert as_told(OWN, told(entry(OWN, DEPTH)), DEPTH) is None


def test_it_holds_its_coins_until_another_spend_of_one_is_buried() -> None:
    assert as_told(OWN, told(entry(RIVAL, DEPTH - 1)), DEPTH) == replace(OWN, missing=TIP)
    assert as_told(OWN, told(entry(RIVAL, DEPTH)), DEPTH) is None
    assert as_told(OWN, told(entry(RIVAL, DEPTH), known=True), DEPTH) is None


@pytest.mark.parametrize(("blocks", "free"), [(0, False), (DEPTH - 1, False), (DEPTH, True), (DEPTH + 5, True)])
def test_it_holds_its_coins_until_no_node_has_known_it_for_so_long(blocks: int, free: bool) -> None:
    lost = replace(OWN, missing=Height(TIP - blocks))
    assert as_told(lost, told(), DEPTH) == (None if free else lost)
    assert as_told(lost, told(known=True), DEPTH) == OWN  # it came back, and counts anew


def test_a_reorganisation_to_a_lower_tip_does_not_make_it_wait_longer() -> None:
    assert as_told(replace(OWN, missing=Height(TIP + 3)), told(), DEPTH) == replace(OWN, missing=TIP)


def test_a_cut_history_leaves_out_what_is_old() -> None:
    cut = told(known=True, truncated=True)
    assert as_told(OWN, cut, DEPTH) is None
    assert as_told(OWN, replace(cut, listed={COIN.outpoint}), DEPTH) == OWN


def test_no_transaction_is_its_own_rival() -> None:
    assert rival(OWN.raw, [entry(OWN, DEPTH)], TIP, DEPTH) is None
    assert rival(OWN.raw, [entry(RIVAL, 0)], TIP, DEPTH) is None
    assert rival(OWN.raw, [entry(RIVAL, DEPTH)], TIP, DEPTH) == entry(RIVAL, DEPTH)
    assert parse_transaction(OWN.raw) is not None

"""What a connection waits for, until when, and what of it is not in the wallet yet: on a chain in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from channel_support import compose_expire
from parties_support import (
    CONTRACT,
    EXPIRY,
    PAYER_SCRIPT,
    Party,
    Q,
    agreed,
    anchor_of,
    cheat,
    countered,
    finish,
    honest_payee,
    honest_payer,
    run,
    run_to,
)

from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.facts import Facts, Seen
from picopayments_cli.channel.fees import PATIENCE
from picopayments_cli.channel.outlook import OWN_STEP, Outlook, WaitsFor, closing, opening, outside
from picopayments_cli.channel.values import Height

DEPTH, HEIGHT = 7, EXPIRY.height


def awaited(party: Party) -> Outlook:
    return closing([party.case], DEPTH, party.rate)


def seen(height: int | None) -> Seen:
    return Seen(bytes(32), None if height is None else Height(height))


# Opening ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deposit", "counts", "expected"),
    [
        (None, False, OWN_STEP),  # sync publishes it again
        (seen(None), False, Outlook(WaitsFor.DEPOSIT, 107)),
        (seen(100), False, Outlook(WaitsFor.DEPOSIT, 106)),
        (seen(95), False, Outlook(WaitsFor.DEPOSIT, 101)),
        (seen(94), False, Outlook(WaitsFor.DEPOSIT, 101)),  # buried, and the ledger does not show it yet
        (seen(94), True, Outlook(WaitsFor.HUB_DEPOSIT, 107)),
    ],
)
def test_an_opening_waits_for_one_deposit_and_then_for_the_other(
    deposit: Seen | None, counts: bool, expected: Outlook
) -> None:
    assert opening(Facts(Height(100), deposit, None), counts=counts, safe_depth=DEPTH) == expected


# Closing ------------------------------------------------------------------------------------------------------------


def test_a_payee_waits_for_a_close_then_for_its_delay_then_for_confirmations() -> None:
    payee = honest_payee([300])
    countered(payee, 300, whole=False)
    since = payee.chain.tip
    assert awaited(payee) == Outlook(WaitsFor.HUB, since + PATIENCE)
    run(payee, PATIENCE)
    assert awaited(payee) == OWN_STEP  # its commit
    payee.act()
    assert awaited(payee) == Outlook(WaitsFor.CONFIRMATIONS, payee.chain.tip + DEPTH)
    payee.chain.mine()
    until = payee.chain.tip + CONTRACT.delay - 1
    for _ in range(CONTRACT.delay - 1):
        assert awaited(payee) == Outlook(WaitsFor.DELAY, until)
        payee.chain.mine()
    assert (payee.chain.tip, awaited(payee)) == (until, OWN_STEP)  # its payout
    payee.act()
    payee.chain.mine()
    until = payee.chain.tip + DEPTH - 1
    for _ in range(DEPTH - 1):
        assert awaited(payee) == Outlook(WaitsFor.CONFIRMATIONS, until)
        payee.chain.mine()
    assert payee.over()
    assert (payee.chain.tip, awaited(payee)) == (until, OWN_STEP)


def test_a_payee_whose_state_may_be_old_waits_until_its_deadline_which_does_not_move() -> None:
    payee = honest_payee([300])
    countered(payee, 300, whole=False)
    for since in (payee.chain.tip, None):
        for _ in range(PATIENCE + 2):
            case = replace(payee.case, stale=True, since=since)
            assert closing([case], DEPTH, payee.rate) == Outlook(WaitsFor.HUB, EXPIRY.settle_height)
            payee.chain.mine()


def test_a_payer_waits_for_the_hub_or_for_its_expiry() -> None:
    payer = honest_payer([300])
    assert awaited(payer) == Outlook(WaitsFor.HUB, HEIGHT)
    agreed(payer, 300)
    assert awaited(payer) == OWN_STEP  # the close
    payer.act()
    assert awaited(payer).waits_for is WaitsFor.CONFIRMATIONS
    payer.chain.mine()
    assert awaited(payer) == OWN_STEP  # the rest
    payer.act()
    payer.chain.mine()
    assert awaited(payer) == Outlook(WaitsFor.CONFIRMATIONS, payer.chain.tip + DEPTH - 1)


def test_a_rest_that_the_hub_has_not_signed_is_waited_for_until_the_expiry() -> None:
    payer = honest_payer([300], remainders=False)
    cheat(payer, 300)  # an honest close by the hub's commit
    payer.chain.mine()
    assert awaited(payer) == Outlook(WaitsFor.EXPIRY, HEIGHT)
    payer.chain.tip = HEIGHT - 1
    assert awaited(payer) == Outlook(WaitsFor.EXPIRY, HEIGHT)
    payer.chain.tip = HEIGHT
    assert awaited(payer) == OWN_STEP


def test_a_cheat_is_the_own_step_and_then_confirmations() -> None:
    payer = honest_payer([300, 100], revoked=[300])
    cheat(payer, 300)
    payer.chain.mine()
    assert awaited(payer) == OWN_STEP
    payer.act()
    assert awaited(payer).waits_for is WaitsFor.CONFIRMATIONS


def test_the_end_that_is_last_is_told() -> None:
    payer, payee = honest_payer([300]), honest_payee([300])
    countered(payee, 300, whole=False)
    cases = [payer.case, payee.case]
    assert closing(cases, DEPTH, 1) == closing(cases[::-1], DEPTH, 1) == Outlook(WaitsFor.HUB, HEIGHT)
    agreed(payer, 300)
    assert closing([payer.case, payee.case], DEPTH, 1) == OWN_STEP


# The balance --------------------------------------------------------------------------------------------------------


def both(party: Party, due: int) -> int:
    """What the party has in its wallet and in the channel."""
    return party.balance + outside(party.case, due)


@pytest.mark.parametrize("quantity", [0, 300, Q])
def test_through_an_agreed_close_a_payers_money_is_counted_once(quantity: int) -> None:
    payer = honest_payer([300, Q])
    agreed(payer, quantity)
    due = Q - quantity
    for _ in range(DEPTH + 5):
        assert both(payer, due) == due
        payer.act()
        assert both(payer, due) == due
        payer.chain.mine()
    assert payer.over()
    assert payer.balance == due


@pytest.mark.parametrize("whole", [True, False])
def test_through_a_close_a_payees_money_is_counted_once(whole: bool) -> None:
    payee = honest_payee([300])
    countered(payee, 300, whole=whole)
    for _ in range(PATIENCE + CONTRACT.delay + DEPTH + 3):
        assert both(payee, 300) == 300
        payee.act()
        assert both(payee, 300) == 300
        payee.chain.mine()
    assert payee.over()
    assert payee.balance == 300


@pytest.mark.parametrize("remainders", [True, False])
def test_with_a_silent_hub_a_payers_money_is_counted_once(remainders: bool) -> None:
    payer = honest_payer([300], remainders=remainders)
    if remainders:
        cheat(payer, 300)
    for tip in (payer.chain.tip, payer.chain.tip + 1, HEIGHT - 1, HEIGHT):
        run_to(payer, tip)
        due = Q - 300
        assert both(payer, due) == (due if remainders else due if payer.case.facts.spend is None else Q)
        payer.chain.mine()


def test_what_is_punished_is_the_payers() -> None:
    payer = honest_payer([300, 100], revoked=[300])
    assert both(payer, Q - 100) == Q - 100
    cheat(payer, 300)
    for _ in range(4):
        assert both(payer, Q - 100) == Q
        payer.act()
        payer.chain.mine()
    finish(payer)
    assert payer.balance == Q


def test_a_payee_that_came_too_late_has_nothing_there_any_more() -> None:
    payee = honest_payee([300])
    purse = Purse(PAYER_SCRIPT, payee.chain.coins(PAYER_SCRIPT), 1)
    payee.chain.tip = HEIGHT
    payee.chain.submit(compose_expire(CONTRACT, [anchor_of(payee)], CONTRACT.asset_id, purse))
    assert outside(payee.case, 300) == 300
    payee.chain.mine()
    assert outside(payee.case, 300) == 0

"""Each thing that may be taken back, and when: judged by Bitcoin Core's kernel and a ledger in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from channel2_support import PAYEE, PAYER, SPEND_SECRET, hashed, size_of
from recovery_support import DEPOSIT, EXPIRE, SAFE, XCP, Scene, purse

from picopayments_cli.channel.values import Outpoint
from picopayments_cli.channel2 import recovery
from picopayments_cli.channel2.deadlines import exposed
from picopayments_cli.channel2.facts import shown_secret
from picopayments_cli.channel2.recovery import MOST_INPUTS
from picopayments_cli.channel2.state import (
    commit,
    request_commit,
)
from picopayments_cli.channel2.transactions import DUST
from picopayments_cli.errors import InsufficientBitcoin

# The payout ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("delay", "safe"), [(1, 1), (2, 6), (6, 6), (7, 6), (12, 6)])
def test_a_payout_waits_until_the_commit_is_ripe_and_buried(delay: int, safe: int) -> None:
    scene = Scene(300, delay=delay)
    scene.publish_commit(300)
    assert scene.payouts(safe=safe) == []
    for _ in range(max(delay, safe) - 1):
        scene.chain.mine()
        assert scene.payouts(safe=safe) == []
    scene.chain.mine()
    (draft,) = scene.payouts(safe=safe)
    assert (draft.version, draft.inputs[0].sequence) == (2, delay)
    scene.publish(draft, PAYEE)
    assert scene.home(PAYEE) == 300
    assert scene.payouts(safe=safe) == []


def test_a_payout_is_of_a_commit_that_was_not_given_back() -> None:
    scene = Scene(300, 400)
    scene.publish_commit(400)
    scene.chain.mine(20)
    assert scene.payouts()
    scene.give_back(400)
    assert scene.payouts() == []


def test_an_old_coin_on_the_address_of_an_unpublished_commit_is_no_reason_for_a_payout() -> None:
    scene = Scene(300)
    scene.chain.fund(scene.commit_address(scene.commits[300]), 6000)
    scene.chain.mine(50)
    assert scene.payouts() == []


def test_an_older_coin_on_the_address_of_a_commit_waits_for_the_commit_and_rides_along() -> None:
    scene = Scene(300, delay=10)
    old = scene.chain.fund(scene.commit_address(scene.commits[300]), 6000)
    scene.chain.mine(20)
    out = Outpoint(scene.publish_commit(300), 0)
    scene.chain.mine(9)
    young = scene.chain.fund(scene.commit_address(scene.commits[300]), 6000)
    assert scene.payouts() == []
    scene.chain.mine()
    (draft,) = scene.payouts()
    assert [coin.outpoint for coin in draft.inputs] == [out, old]
    assert young not in [coin.outpoint for coin in draft.inputs]
    scene.publish(draft, PAYEE)
    assert scene.home(PAYEE) == 300


def test_what_comes_to_a_commits_address_after_its_payout_is_paid_out_too() -> None:
    scene = Scene(300, delay=3)
    scene.publish_commit(300)
    scene.chain.mine(6)
    scene.publish(scene.payouts()[0], PAYEE)
    scene.chain.mine()
    late = scene.chain.fund(scene.commit_address(scene.commits[300]), 6000)
    scene.chain.mine(1)
    assert scene.payouts() == []
    scene.chain.mine(1)
    (draft,) = scene.payouts()
    assert [coin.outpoint for coin in draft.inputs] == [late]
    scene.publish(draft, PAYEE)


def test_no_payout_where_something_else_spent_the_anchor() -> None:
    scene = Scene(300)
    scene.publish(scene.changes(given=True)[0], PAYER)
    scene.chain.fund(scene.commit_address(scene.commits[300]), 6000)
    scene.chain.mine(50)
    assert scene.payouts() == []


def test_a_payout_that_a_reorganisation_unconfirms_is_not_made() -> None:
    scene = Scene(300)
    scene.publish_commit(300)
    scene.chain.mine(6)
    assert scene.payouts()
    scene.chain.disconnect(6)
    assert scene.payouts() == []


def test_an_asset_that_comes_to_a_paid_out_commits_address_is_fetched_with_a_coin() -> None:
    scene = Scene(300, delay=3)
    scene.publish_commit(300)
    scene.chain.mine(6)
    scene.publish(scene.payouts()[0], PAYEE)
    scene.chain.mine()
    script = scene.commit_address(scene.commits[300])
    scene.chain.grant(script, XCP, 7)
    (paid,) = scene.payouts([scene.wallet_coin(PAYEE, 50_000)])
    assert (paid.outputs[0].value, paid.outputs[0].script) == (DUST, script)
    scene.publish(paid, PAYEE)
    coin = scene.wallet_coin(PAYEE, 50_000)
    assert scene.payouts([coin]) == []
    scene.chain.mine(2)
    assert scene.payouts([coin]) == []
    scene.chain.mine()
    (taken,) = scene.payouts([coin])
    scene.publish(taken, PAYEE)
    assert scene.payouts([coin]) == []
    assert scene.home(PAYEE, XCP) == 7


def test_every_asset_on_a_commits_address_is_paid_out_in_turn() -> None:
    scene = Scene(300)
    scene.publish_commit(300)
    scene.chain.fund(scene.commit_address(scene.commits[300]), 6000)
    scene.chain.grant(scene.commit_address(scene.commits[300]), XCP, 7)
    scene.chain.mine(6)
    unasked = recovery.payouts(scene.channel, scene.facts(asked=False), SPEND_SECRET, purse(PAYEE), SAFE)
    (one,) = unasked
    assert len(one.outputs) == 2
    first, second = scene.payouts()
    scene.publish(first, PAYEE)
    assert (scene.home(PAYEE), scene.home(PAYEE, XCP)) == (300, 0)
    scene.publish(second, PAYEE)
    assert scene.home(PAYEE, XCP) == 7


# The change ---------------------------------------------------------------------------------------------------------


def test_change_by_a_given_secret_takes_the_anchor_at_once() -> None:
    scene = Scene()
    assert scene.changes() == []
    (draft,) = scene.changes(given=True)
    assert scene.channel.anchor is not None
    assert scene.channel.anchor.outpoint in [coin.outpoint for coin in draft.inputs]
    assert (draft.version, len(draft.inputs)) == (1, 2)
    scene.publish(draft, PAYER)
    assert scene.home(PAYER) == DEPOSIT


def test_change_leaves_what_is_not_confirmed() -> None:
    scene = Scene()
    loose = scene.chain.fund(scene.channel.script.output, 6000, mined=False)
    (draft,) = scene.changes(given=True)
    assert loose not in [coin.outpoint for coin in draft.inputs]


@pytest.mark.parametrize("safe", [2, 6, 20])
def test_change_by_a_secret_that_a_payout_shows_waits_until_the_commit_is_buried(safe: int) -> None:
    scene = Scene(300)
    scene.publish_commit(300)
    scene.chain.mine(2)
    scene.publish(scene.payouts(safe=2)[0], PAYEE)
    for depth in range(2, safe):
        assert scene.changes(safe=safe) == [], depth
        scene.chain.mine()
    (draft,) = scene.changes(safe=safe)
    assert len(draft.inputs) == 2  # the commit's change, and the spare
    scene.publish(draft, PAYER)
    assert scene.home(PAYER) == DEPOSIT - 300
    assert scene.home(PAYEE) == 300


def test_change_never_takes_the_anchor_by_a_shown_secret() -> None:
    scene = Scene(300)
    txid = scene.publish_commit(300)
    scene.chain.mine(6)
    payout = scene.publish(scene.payouts()[0], PAYEE)
    known = scene.facts()
    scene.chain.drop(payout)
    scene.chain.drop(txid)
    forked = replace(scene.facts(), commit_history=known.commit_history)
    assert list(recovery.changes(scene.channel, forked, None, purse(PAYER), SAFE)) == []
    assert shown_secret(scene.channel, forked, SAFE) is None


def test_a_spend_that_shows_no_secret_is_no_reason_for_a_change() -> None:
    scene = Scene(300, 400)
    scene.publish_commit(400)
    scene.revoke(400)
    scene.publish(scene.punish()[0], PAYER)
    scene.chain.mine(20)
    assert scene.changes() == []


# The expiry ---------------------------------------------------------------------------------------------------------


def test_a_deposit_expires_at_its_age_and_not_a_block_sooner() -> None:
    scene = Scene()
    scene.chain.mine(EXPIRE - 2)
    assert scene.expiries() == []
    scene.chain.mine()
    (draft,) = scene.expiries()
    assert (draft.version, len(draft.inputs)) == (2, 2)
    assert {coin.sequence for coin in draft.inputs} == {EXPIRE}
    scene.publish(draft, PAYER)
    assert scene.home(PAYER) == DEPOSIT
    assert scene.expiries() == []


def test_the_spare_frees_the_rest_of_a_deposit_whose_commit_came_late() -> None:
    scene = Scene(300)
    scene.chain.mine(EXPIRE - 10)
    scene.publish_commit(300)
    scene.chain.mine(9)
    (draft,) = scene.expiries([scene.wallet_coin(PAYER, 50_000)])
    assert draft.inputs[0].outpoint == Outpoint(scene.deposit, 3)
    scene.publish(draft, PAYER)
    assert scene.home(PAYER) == DEPOSIT - 300
    assert scene.expiries() == []
    scene.chain.mine(EXPIRE)
    (rest,) = scene.expiries()  # the commit's change, of bitcoins only
    assert len(rest.outputs) == 1
    scene.publish(rest, PAYER)


def test_a_young_coin_does_not_stop_what_has_expired() -> None:
    scene = Scene()
    scene.chain.mine(EXPIRE - 1)
    young = scene.chain.fund(scene.channel.script.output, 6000)
    (draft,) = scene.expiries()
    assert young not in [coin.outpoint for coin in draft.inputs]
    scene.publish(draft, PAYER)
    assert scene.home(PAYER) == DEPOSIT


def test_nothing_expires_whose_secret_is_known() -> None:
    scene = Scene(300)
    scene.publish_commit(300)
    scene.chain.mine(6)
    scene.publish(scene.payouts()[0], PAYEE)
    scene.chain.mine(EXPIRE)
    assert scene.expiries() == []
    assert scene.changes()
    other = Scene()
    other.chain.mine(EXPIRE)
    assert other.expiries(given=True) == []
    assert other.expiries()


def test_an_asset_without_a_coin_gets_one_once() -> None:
    scene = Scene()
    scene.chain.mine(EXPIRE)
    scene.publish(scene.expiries()[0], PAYER)
    scene.chain.mine()
    assert scene.expiries() == []
    scene.chain.grant(scene.channel.script.output, XCP, 7)
    with pytest.raises(InsufficientBitcoin):
        scene.expiries()
    (draft,) = scene.expiries([scene.wallet_coin(PAYER, 50_000)])
    assert draft.outputs[0].script == scene.channel.script.output
    assert draft.outputs[0].value == DUST
    scene.publish(draft, PAYER)
    coin = scene.wallet_coin(PAYER, 50_000)
    assert scene.expiries([coin]) == []  # the coin is on its way
    scene.chain.mine(EXPIRE - 1)
    assert scene.expiries([coin]) == []
    scene.chain.mine()
    (taken,) = scene.expiries([coin])
    scene.publish(taken, PAYER)
    assert scene.home(PAYER, XCP) == 7


# The punishment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mined", [False, True])
def test_a_revoked_commit_is_punished_in_the_mempool_or_in_a_block(mined: bool) -> None:
    scene = Scene(300, 400)
    assert scene.punish() == []
    out = Outpoint(scene.publish_commit(400), 0)
    assert scene.punish() == []  # not revoked
    scene.revoke(400)
    if mined:
        scene.chain.mine(5)
    (draft,) = scene.punish()
    assert [coin.outpoint for coin in draft.inputs] == [out]
    scene.publish(draft, PAYER)
    assert scene.home(PAYER) == 400
    assert scene.punish() == []


def test_dust_on_the_address_of_a_published_revoked_commit_goes_behind_its_output() -> None:
    scene = Scene(300, 400)
    dust = scene.chain.fund(scene.commit_address(scene.commits[400]), 600)
    scene.revoke(400)
    (item,) = scene.channel.revoked
    scene.publish_commit(400)
    (draft,) = scene.punish(item)
    assert [coin.outpoint for coin in draft.inputs[1:]] == [dust]
    scene.publish(draft, PAYER)
    assert scene.home(PAYER) == 400


def test_dust_of_exposed_revoked_commits_is_taken_before_anything_is_published() -> None:
    scene = Scene(300, 350, 400)
    for quantity in (350, 400):
        scene.chain.fund(scene.commit_address(scene.commits[quantity]), 2000, mined=False)
    scene.revoke(350, 400)
    (draft,) = scene.punish(*scene.channel.revoked)
    assert len(draft.inputs) == 2
    assert len(draft.outputs) == 1  # no asset, no message
    assert draft.version == 1
    scene.publish(draft, PAYER)


def test_dust_is_taken_from_the_greatest_exposure_first_and_the_oldest_first() -> None:
    scene = Scene(300, 350, 400)
    found: dict[int, list[Outpoint]] = {350: [], 400: []}
    for quantity in (350, 400, 350, 400):
        found[quantity].append(scene.chain.fund(scene.commit_address(scene.commits[quantity]), 2000))
        scene.chain.mine(1)
    scene.revoke(350, 400)
    facts = scene.facts(*scene.channel.revoked)
    facts = replace(facts, revoked_coins=facts.revoked_coins[::-1])
    (draft,) = recovery.punish(scene.channel, facts, purse(PAYER, [scene.wallet_coin(PAYER, 100_000)]))
    taken = [coin.outpoint for coin in draft.inputs if coin.outpoint in (*found[350], *found[400])]
    assert taken == [*found[400], *found[350]]


def test_no_flood_of_dust_keeps_a_commit_from_being_punished() -> None:
    """No node relays a transaction of more than 100,000 bytes."""
    scene = Scene(300, 350, 400)
    for quantity in (350, 400):
        for _ in range(MOST_INPUTS):
            scene.chain.fund(scene.commit_address(scene.commits[quantity]), DUST)
    scene.revoke(350, 400)
    out = Outpoint(scene.publish_commit(400), 0)
    first, *others = scene.punish(*scene.channel.revoked)
    assert (first.inputs[0].outpoint, len(first.inputs)) == (out, MOST_INPUTS)
    assert sum(len(draft.inputs) for draft in others) == MOST_INPUTS
    assert all(size_of(draft) < 100_000 for draft in (first, *others))
    scene.publish(first, PAYER)
    assert scene.home(PAYER) == 400


def test_dust_that_the_wallet_cant_pay_for_keeps_no_commit_from_being_punished() -> None:
    scene = Scene(300, 400)
    for _ in range(20):
        scene.chain.fund(scene.commit_address(scene.commits[400]), DUST)
    scene.revoke(400)
    out = Outpoint(scene.publish_commit(400), 0)
    wallet = purse(PAYER, [scene.wallet_coin(PAYER, 3_000)], rate=5)
    first = next(recovery.punish(scene.channel, scene.facts(*scene.channel.revoked), wallet))
    assert first.inputs[0].outpoint == out
    assert 1 < len(first.inputs) < 20
    scene.publish(first, PAYER)
    assert scene.home(PAYER) == 400


def test_coins_in_no_block_yet_are_swept_apart() -> None:
    """They may have more ancestors than a node relays."""
    scene = Scene(300, 400)
    mined = scene.chain.fund(scene.commit_address(scene.commits[400]), 2000)
    fresh = scene.chain.fund(scene.commit_address(scene.commits[400]), 2000, mined=False)
    scene.revoke(400)
    out = Outpoint(scene.publish_commit(400), 0)
    drafts = scene.punish(*scene.channel.revoked)
    assert [[coin.outpoint for coin in draft.inputs] for draft in drafts] == [[out, mined], [fresh]]


def test_a_flooded_deposit_is_taken_back_in_parts() -> None:
    scene = Scene(300)
    for _ in range(MOST_INPUTS + 8):
        scene.chain.fund(scene.channel.script.output, 600)
    (draft,) = scene.changes(given=True)
    assert (len(draft.inputs), size_of(draft) < 100_000) == (MOST_INPUTS, True)
    scene.publish(draft, PAYER)
    assert scene.home(PAYER) == DEPOSIT
    (rest,) = scene.changes(given=True)
    assert len(rest.inputs) == 8 + 2  # anchor and spare


def test_dust_of_a_revoked_commit_that_would_take_nothing_is_left() -> None:
    scene = Scene(300, 350)
    scene.revoke(350)
    again, _ = commit(request_commit(scene.channel, hashed("again")), 350, PAYER)
    scene.chain.fund(scene.commit_address(scene.channel.revoked[0]), 2000)
    assert len(scene.punish(*scene.channel.revoked)) == 1
    scene.channel = again
    assert exposed(scene.channel) == ()
    assert scene.punish(*scene.channel.revoked) == []


def test_punishing_is_urgent_and_may_use_the_reserve() -> None:
    scene = Scene(300, 400)
    scene.revoke(400)
    scene.publish_commit(400)
    coin = scene.wallet_coin(PAYER, 90_000)
    (draft,) = scene.punish(wallet=purse(PAYER, [coin], rate=100, reserve=90_000))
    assert [item.outpoint for item in draft.inputs[1:]] == [coin.outpoint]
    with pytest.raises(InsufficientBitcoin):
        scene.punish(wallet=purse(PAYER, rate=100))

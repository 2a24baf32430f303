"""A recovery is paid for by the wallet's coins, its reserve and coins of dust, and brings its assets home."""

from __future__ import annotations

from dataclasses import replace

import pytest
from channel2_support import ASSET, PAYEE, PAYER, SPEND_SECRET, wallet_script
from recovery_support import DEPOSIT, EXPIRE, OTHER, SAFE, XCP, Scene, purse

from picopayments_cli.channel.values import Coin, Outpoint
from picopayments_cli.channel2 import recovery
from picopayments_cli.channel2.duplex import Duplex
from picopayments_cli.channel2.recovery import Step
from picopayments_cli.channel2.scripts import change_unlock
from picopayments_cli.channel2.transactions import DUST, Draft, Purse, draft_size
from picopayments_cli.errors import BroadcastRefused, InsufficientBitcoin

# What pays for it ---------------------------------------------------------------------------------------------------


def test_wallet_coins_go_behind_the_channels_and_leave_the_reserve() -> None:
    scene = Scene(300)
    out = Outpoint(scene.publish_commit(300), 0)
    scene.chain.mine(6)
    small, large = scene.wallet_coin(PAYEE, 20_000), scene.wallet_coin(PAYEE, 60_000)

    def payout(reserve: int) -> Draft:
        wallet = purse(PAYEE, [small, large], rate=50, reserve=reserve)
        (draft,) = recovery.payouts(scene.channel, scene.facts(), SPEND_SECRET, wallet, SAFE)
        return draft

    draft = payout(0)
    assert [coin.outpoint for coin in draft.inputs] == [out, large.outpoint]
    paid = draft.fee - draft.inputs[0].value  # the fee of the wallet's own coin included
    assert payout(80_000 - paid) == draft
    with pytest.raises(InsufficientBitcoin):
        payout(80_000 - paid + 1)
    scene.publish(draft, PAYEE)
    assert scene.home(PAYEE) == 300


def steps(scene: Scene, wallet: Purse, sending: Scene | None = None) -> tuple[Step, ...]:
    """Return what PAYEE may take of the scene's channel; ``sending``: of one that it pays on."""
    out = sending or scene
    idle = replace(out.facts(), coins=(), history=()) if sending is None else out.facts()
    return recovery.recoveries(
        Duplex(out.channel, scene.channel),
        idle,
        scene.facts(),
        secret=SPEND_SECRET,
        given=None,
        purse=wallet,
        safe_depth=SAFE,
    )


def test_one_recovery_that_waits_does_not_stop_the_others() -> None:
    paid, paying = Scene(300), Scene(300, 400)
    paying.revoke(400)
    paying.publish_commit(400)
    paid.publish_commit(300)
    paid.chain.mine(6)
    poor = steps(paid, purse(PAYEE, rate=4), paying)
    assert [(step.name, step.draft is None) for step in poor] == [("revoke", True), ("payout", True)]
    assert all(step.waits is not None for step in poor)
    coins = [paid.wallet_coin(PAYEE, 5_000), paid.wallet_coin(PAYEE, 5_000)]
    rich = steps(paid, purse(PAYEE, coins, rate=4), paying)
    assert [(step.name, step.waits) for step in rich] == [("revoke", None), ("payout", None)]
    used = [coin.outpoint for step in rich if step.draft for coin in step.draft.inputs[1:]]
    assert sorted(used) == sorted(coin.outpoint for coin in coins)  # each once
    half = steps(paid, purse(PAYEE, coins[:1], rate=4), paying)
    assert [(step.name, step.draft is None) for step in half] == [("revoke", False), ("payout", True)]


# Other assets -------------------------------------------------------------------------------------------------------


def test_every_asset_on_the_address_comes_home_the_channels_first() -> None:
    scene = Scene()
    scene.chain.grant(scene.channel.script.output, XCP, 7)
    scene.chain.grant(scene.channel.script.output, OTHER, 9)
    scene.chain.fund(scene.channel.script.output, 6000)
    scene.chain.fund(scene.channel.script.output, 5000)
    scene.chain.mine()
    drafts = scene.changes(given=True)
    assert [len(draft.inputs) for draft in drafts] == [1, 1, 2]
    for draft in drafts:
        scene.publish(draft, PAYER)
    assert [scene.home(PAYER, asset) for asset in (ASSET, XCP, OTHER)] == [DEPOSIT, 7, 9]
    assert scene.changes(given=True) == []


def test_where_coins_are_fewer_than_assets_the_next_round_pays_one() -> None:
    scene = Scene()
    scene.chain.grant(scene.channel.script.output, XCP, 7)
    scene.chain.grant(scene.channel.script.output, OTHER, 9)
    wallet = [scene.wallet_coin(PAYER, 50_000)]

    def changes() -> list[Draft]:
        drafts = recovery.changes(scene.channel, scene.facts(), SPEND_SECRET, purse(PAYER, wallet), SAFE)
        found = list(drafts)
        for draft in found:
            scene.publish(draft, PAYER)
        scene.chain.mine()
        wallet[:] = [scene.wallet_coin(PAYER, 50_000)]
        return found

    assert len(changes()) == 2  # anchor and spare
    assert [scene.home(PAYER, asset) for asset in (ASSET, XCP, OTHER)] == [DEPOSIT, 7, 0]
    (paid,) = changes()
    assert paid.outputs[0].script == scene.channel.script.output
    (taken,) = changes()
    assert taken.outputs[0].script == wallet_script(PAYER)
    assert scene.home(PAYER, OTHER) == 9
    assert changes() == []


@pytest.mark.parametrize("rate", [1, 3])
@pytest.mark.parametrize("held", [True, False])
def test_a_coin_is_worth_taking_along_when_it_brings_more_than_it_costs(rate: int, held: bool) -> None:
    scene = Scene()
    unlock = change_unlock(scene.channel.script, SPEND_SECRET)
    cost = rate * (draft_size([unlock, unlock], [25]) - draft_size([unlock], [25]))
    coins = {value: scene.chain.fund(scene.channel.script.output, value) for value in (cost, cost + 1)}
    facts = replace(scene.facts(), assets=(ASSET,) if held else ())
    (draft,) = recovery.changes(scene.channel, facts, SPEND_SECRET, purse(PAYER, rate=rate), SAFE)
    taken = {coin.outpoint for coin in draft.inputs}
    assert [outpoint in taken for outpoint in coins.values()] == [False, True]


@pytest.mark.parametrize("by", ["change", "expire"])
def test_where_the_ledger_was_not_asked_the_channels_asset_is_taken(by: str) -> None:
    scene = Scene()
    scene.chain.mine(EXPIRE)
    facts = scene.facts(asked=False)
    taken = {
        "change": recovery.changes(scene.channel, facts, SPEND_SECRET, purse(PAYER), SAFE),
        "expire": recovery.expiries(scene.channel, facts, None, purse(PAYER), SAFE),
    }
    (draft,) = taken[by]
    scene.publish(draft, PAYER)
    assert scene.home(PAYER) == DEPOSIT


@pytest.mark.parametrize("given", [True, False])
def test_the_channels_asset_goes_before_others(given: bool) -> None:
    scene = Scene()
    scene.chain.grant(scene.channel.script.output, XCP, 7)
    scene.chain.fund(scene.channel.script.output, 6000)
    scene.chain.mine(EXPIRE)
    first, second = scene.changes(given=True) if given else scene.expiries()
    scene.publish(first, PAYER)
    assert (scene.home(PAYER), scene.home(PAYER, XCP)) == (DEPOSIT, 0)
    scene.publish(second, PAYER)
    assert scene.home(PAYER, XCP) == 7


def test_coins_without_an_asset_are_taken_where_they_bring_more_than_they_cost() -> None:
    scene = Scene()
    scene.publish(scene.changes(given=True)[0], PAYER)
    scene.chain.mine()
    scene.chain.fund(scene.channel.script.output, 6000)
    (swept,) = scene.changes(given=True)
    assert (len(swept.inputs), len(swept.outputs)) == (1, 1)
    scene.publish(swept, PAYER)
    scene.chain.mine()
    scene.chain.fund(scene.channel.script.output, 600)
    assert scene.changes(given=True) == []


def test_a_stolen_secret_or_a_wrong_age_helps_nobody() -> None:
    scene = Scene(300)
    (draft,) = scene.changes(given=True)
    with pytest.raises(BroadcastRefused):
        scene.publish(draft, PAYEE)
    scene.publish_commit(300)
    scene.chain.mine(6)
    (payout,) = scene.payouts()
    with pytest.raises(BroadcastRefused):
        scene.publish(payout, PAYER)
    early = replace(payout, inputs=(replace(payout.inputs[0], sequence=1),))
    with pytest.raises(BroadcastRefused):
        scene.publish(early, PAYEE)


def own_steps(scene: Scene, coin: Coin, *, given: bool) -> tuple[Step, ...]:
    """Return what PAYER may take of the scene's channel at a rate that its wallet must help with."""
    idle = replace(scene.facts(), history=(), coins=())
    return recovery.recoveries(
        Duplex(scene.channel, Scene().channel),
        scene.facts(),
        idle,
        secret=SPEND_SECRET,
        given=SPEND_SECRET if given else None,
        purse=purse(PAYER, [coin], rate=50),
        safe_depth=SAFE,
    )


def test_change_and_expire_are_steps_that_the_wallet_helps_with() -> None:
    scene = Scene()
    coin = scene.wallet_coin(PAYER, 60_000)
    assert own_steps(scene, coin, given=False) == ()
    (change,) = own_steps(scene, coin, given=True)
    scene.chain.mine(EXPIRE)
    (expire,) = own_steps(scene, coin, given=False)
    (still,) = own_steps(scene, coin, given=True)
    assert [step.name for step in (change, expire, still)] == ["change", "expire", "change"]
    for step in (change, expire, still):
        assert step.draft is not None
        assert step.draft.inputs[-1].outpoint == coin.outpoint
    assert expire.draft is not None
    scene.publish(expire.draft, PAYER)
    assert scene.home(PAYER) == DEPOSIT


# What is there once a revoked commit was punished -------------------------------------------------------------------


def punished() -> Scene:
    """A scene whose commit of 400 was revoked, published and punished; that of 350 is revoked, too."""
    scene = Scene(300, 350, 400)
    scene.revoke(350, 400)
    scene.publish_commit(400)
    scene.publish(scene.punish()[0], PAYER)
    assert scene.home(PAYER) == 400
    return scene


def test_an_asset_that_comes_to_a_punished_commits_address_is_fetched_with_a_coin() -> None:
    scene = punished()
    script = scene.commit_address(scene.commits[400])
    assert scene.punish() == []
    scene.chain.grant(script, XCP, 7)
    coins = [scene.wallet_coin(PAYER, 50_000)]
    (paid,) = scene.punish(wallet=purse(PAYER, coins))
    assert (paid.outputs[0].value, paid.outputs[0].script) == (DUST, script)
    scene.publish(paid, PAYER)
    coins = [scene.wallet_coin(PAYER, 50_000)]
    (taken,) = scene.punish(wallet=purse(PAYER, coins))
    scene.publish(taken, PAYER)
    assert scene.punish(wallet=purse(PAYER, coins)) == []  # the mempool holds what takes it
    assert scene.home(PAYER, XCP) == 7


def test_what_is_left_after_a_punishment_can_wait_and_shares_the_wallet() -> None:
    scene = punished()
    scene.chain.grant(scene.commit_address(scene.commits[400]), XCP, 7)
    left = scene.chain.fund(scene.commit_address(scene.commits[400]), 600)
    dust = scene.chain.fund(scene.commit_address(scene.commits[350]), 600)
    revoked = scene.channel.revoked
    one, two = scene.wallet_coin(PAYER, 30_000), scene.wallet_coin(PAYER, 20_000)
    urgent, rest = scene.punish(*revoked, wallet=purse(PAYER, [one, two], rate=20))
    assert [coin.outpoint for coin in urgent.inputs] == [dust, one.outpoint]
    assert [coin.outpoint for coin in rest.inputs] == [left, two.outpoint]
    with pytest.raises(InsufficientBitcoin):
        scene.punish(wallet=purse(PAYER, [one, two], rate=20, reserve=50_000))
    for draft in (urgent, rest):
        scene.publish(draft, PAYER)
    assert scene.home(PAYER, XCP) == 7

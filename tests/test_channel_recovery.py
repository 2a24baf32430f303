"""What may be taken back, and when: each rule at its border, judged by Bitcoin Core's kernel and a ledger in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from channel_support import ASSET, PAYEE, PAYER, SPEND_SECRET, deposit_script, hashed, secret, wallet_script
from memory_support import MemoryChain

from picopayments_cli.channel import recovery
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.errors import BroadcastRefused, InsufficientBitcoin
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.recovery import MOST_INPUTS, Facts, Step
from picopayments_cli.channel.scripts import change_unlock, wallet_unlock
from picopayments_cli.channel.state import (
    Channel,
    Commit,
    Revoked,
    commit,
    finished,
    give_back,
    request_commit,
    revoke,
)
from picopayments_cli.channel.transactions import DUST, Draft, Purse, compose_deposit, draft_size
from picopayments_cli.channel.values import Height, Outpoint, Quantity

XCP, OTHER = 1, 26**3
EXPIRE, SAFE = 144, 6
DEPOSIT = 1000


def purse(owner: Key, coins: Iterable[tuple[Outpoint, int]] = (), *, rate: int = 1, reserve: int = 0) -> Purse:
    return Purse(wallet_unlock(owner.pubkey, wallet_script(owner)), tuple(coins), rate, reserve)


class Scene:
    """A channel from PAYER to PAYEE on a chain, its deposit confirmed at START + 1, with commits of some quantities."""

    def __init__(self, *quantities: int, delay: int = 2, expire: int = EXPIRE) -> None:
        self.chain = MemoryChain()
        self.chain.grant(wallet_script(PAYER), ASSET, DEPOSIT)
        channel = Channel(ASSET, deposit_script(expire), Quantity(DEPOSIT), delay, 5)
        coin = self.chain.fund(wallet_script(PAYER), 100_000)
        draft = compose_deposit(
            [(coin, 100_000)], purse(PAYER).unlock, channel.script, ASSET, DEPOSIT, channel.budget, 1
        )
        self.deposit = self.publish(draft, PAYER)
        self.chain.mine()
        held = self.chain.held(channel.script.output, ASSET)
        self.channel = recovery.see_deposit(channel, self.chain.facts(channel), held, 1)
        assert self.channel.anchor is not None
        for quantity in quantities:
            self.channel, _ = commit(request_commit(self.channel, hashed(f"c{quantity}")), quantity, PAYER)
        self.commits: dict[int, Commit] = {item.quantity: item for item in self.channel.active}

    @property
    def tip(self) -> Height:
        return self.chain.tip

    def facts(self, *revoked: Revoked, asked: bool = True) -> Facts:
        return self.chain.facts(self.channel, revoked, asked=asked)

    def publish(self, draft: Draft, owner: Key) -> bytes:
        return self.chain.broadcast(draft.signed(owner).serialize())

    def publish_commit(self, quantity: int) -> bytes:
        return self.chain.broadcast(finished(self.channel, self.commits[quantity], PAYEE))

    def revoke(self, *quantities: int) -> None:
        """The payer learns the secrets of these commits."""
        self.channel = revoke(self.channel, [secret(f"c{quantity}") for quantity in quantities])

    def give_back(self, *quantities: int) -> None:
        """The payee reveals them."""
        self.channel = give_back(self.channel, [self.commits[quantity] for quantity in quantities])

    def commit_address(self, chosen: Commit | Revoked) -> bytes:
        return self.channel.commit_script(chosen.revoke_hash).output

    # Drafts ------------------------------------------------------------------------------------------------------

    def payouts(self, coins: Iterable[tuple[Outpoint, int]] = (), *, safe: int = SAFE) -> list[Draft]:
        return list(recovery.payouts(self.channel, self.facts(), SPEND_SECRET, purse(PAYEE, coins), safe))

    def changes(self, *, given: bool = False, safe: int = SAFE) -> list[Draft]:
        secret_given = SPEND_SECRET if given else None
        return list(recovery.changes(self.channel, self.facts(), secret_given, purse(PAYER), safe))

    def expiries(
        self, coins: Iterable[tuple[Outpoint, int]] = (), *, given: bool = False, safe: int = SAFE
    ) -> list[Draft]:
        secret_given = SPEND_SECRET if given else None
        return list(recovery.expiries(self.channel, self.facts(), secret_given, purse(PAYER, coins), safe))

    def punish(self, *revoked: Revoked, wallet: Purse | None = None) -> list[Draft]:
        return list(recovery.punish(self.channel, self.facts(*revoked), wallet or purse(PAYER)))

    def home(self, owner: Key, asset: int = ASSET) -> int:
        """What the owner's wallet holds, once all that is published is mined."""
        self.chain.mine()
        return self.chain.held(wallet_script(owner), asset)

    def wallet_coin(self, owner: Key, value: int) -> tuple[Outpoint, int]:
        return self.chain.fund(wallet_script(owner), value), value


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
    assert recovery.shown_secret(scene.channel, forked, SAFE) is None


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
    assert all(draft.size < 100_000 for draft in (first, *others))
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
    assert (len(draft.inputs), draft.size < 100_000) == (MOST_INPUTS, True)
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
    assert recovery.exposed(scene.channel) == ()
    assert scene.punish(*scene.channel.revoked) == []


def test_punishing_is_urgent_and_may_use_the_reserve() -> None:
    scene = Scene(300, 400)
    scene.revoke(400)
    scene.publish_commit(400)
    coin = scene.wallet_coin(PAYER, 90_000)
    (draft,) = scene.punish(wallet=purse(PAYER, [coin], rate=100, reserve=90_000))
    assert [item.outpoint for item in draft.inputs[1:]] == [coin[0]]
    with pytest.raises(InsufficientBitcoin):
        scene.punish(wallet=purse(PAYER, rate=100))


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
    assert [coin.outpoint for coin in draft.inputs] == [out, large[0]]
    paid = draft.fee + DUST - draft.inputs[0].value  # the fee of the wallet's own coin included
    assert payout(80_000 - paid) == draft
    with pytest.raises(InsufficientBitcoin):
        payout(80_000 - paid + 1)
    scene.publish(draft, PAYEE)
    assert scene.home(PAYEE) == 300


def steps(scene: Scene, wallet: Purse, sending: Scene | None = None) -> tuple[Step, ...]:
    """What PAYEE may take of the scene's channel; ``sending``: of one that it pays on."""
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
    assert sorted(used) == sorted(outpoint for outpoint, _ in coins)  # each once
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


def own_steps(scene: Scene, coin: tuple[Outpoint, int], *, given: bool) -> tuple[Step, ...]:
    """What PAYER may take of the scene's channel at a rate that its wallet must help with."""
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
        assert step.draft.inputs[-1].outpoint == coin[0]
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
    assert [coin.outpoint for coin in urgent.inputs] == [dust, one[0]]
    assert [coin.outpoint for coin in rest.inputs] == [left, two[0]]
    with pytest.raises(InsufficientBitcoin):
        scene.punish(wallet=purse(PAYER, [one, two], rate=20, reserve=50_000))
    for draft in (urgent, rest):
        scene.publish(draft, PAYER)
    assert scene.home(PAYER, XCP) == 7

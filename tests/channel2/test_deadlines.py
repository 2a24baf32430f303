"""When a connection opens, must close, and is over: as heights and histories say, each at its border."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from channel2_support import ASSET, PAYEE, PAYER, deposit_script, hashed, wallet_coin, wallet_script, with_commits
from hypothesis import given
from hypothesis import strategies as st
from memory_support import START, MemoryChain
from recovery_support import DEPOSIT, EXPIRE, XCP, Scene, purse

from picopayments_cli.channel.values import Coin, Entry, Hash, Height, Outpoint, Quantity, Secret
from picopayments_cli.channel2 import recovery
from picopayments_cli.channel2.deadlines import (
    MAX_MARGIN,
    MIN_MARGIN,
    at_risk,
    check_every,
    connection_ttl,
    exposed,
    is_open,
    must_close,
    settle_height,
    time_to_live,
)
from picopayments_cli.channel2.duplex import Duplex
from picopayments_cli.channel2.facts import deposit_depth, first_output, is_recovered, see_deposit, unspent
from picopayments_cli.channel2.scripts import DepositScript
from picopayments_cli.channel2.state import Channel, Revoked
from picopayments_cli.channel2.transactions import compose_deposit, txid_of

DEPTH = 1
AGREED = START  # the height at which both addresses had no history


def channel_of(expire: int) -> Channel:
    return Channel(ASSET, deposit_script(expire), Quantity(DEPOSIT), 2, 5)


# Deadlines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expire", "margin"),
    [(12, 6), (48, 6), (55, 6), (56, 7), (144, 18), (1024, 128), (1151, 143), (1152, 144), (65535, 144)],
)
def test_a_payee_settles_a_margin_before_anything_can_expire(expire: int, margin: int) -> None:
    assert settle_height(channel_of(expire), 500) == 501 + expire - margin


@given(st.integers(12, 65535))
def test_the_margin_lies_in_its_bounds_and_leaves_time(expire: int) -> None:
    margin = 1 + expire - settle_height(channel_of(expire), 0)
    assert MIN_MARGIN <= margin <= MAX_MARGIN
    assert 0 < margin < expire


def test_time_to_live_ends_six_blocks_before_the_oldest_coin_can_expire() -> None:
    scene = Scene(expire=20)
    assert time_to_live(scene.channel, scene.facts()) == 20 - 1 - 6
    scene.chain.mine(12)
    assert time_to_live(scene.channel, scene.facts()) == 1
    scene.chain.mine(1)
    assert time_to_live(scene.channel, scene.facts()) == 0
    scene.chain.mine(30)
    assert time_to_live(scene.channel, scene.facts()) == 0


def test_dust_sent_before_the_deposit_ends_its_time_to_live_sooner() -> None:
    chain = MemoryChain()
    script = deposit_script(20)
    chain.grant(wallet_script(PAYER), ASSET, DEPOSIT)
    chain.fund(script.output, 600)
    chain.mine(5)
    coin = wallet_coin(chain.fund(wallet_script(PAYER), 100_000), 100_000)
    channel = channel_of(20)
    draft = compose_deposit(purse(PAYER, [coin]), script, ASSET, DEPOSIT, channel.budget)
    chain.broadcast(draft.signed(PAYER).serialize())
    assert time_to_live(channel, chain.facts(channel)) is None
    chain.mine()
    seen = see_deposit(channel, chain.facts(channel), DEPOSIT, DEPTH)
    assert seen.anchor is not None
    assert seen.anchor.outpoint == Outpoint(txid_of(draft.signed(PAYER).serialize()), 0)
    assert deposit_depth(seen, chain.facts(channel)) == 1
    assert time_to_live(seen, chain.facts(channel)) == 20 - 7 - 6


def test_no_time_to_live_while_a_deposit_is_not_in_a_block() -> None:
    scene = Scene()
    scene.chain.disconnect(1)
    assert time_to_live(scene.channel, scene.facts()) is None
    assert deposit_depth(scene.channel, scene.facts()) == 0
    unknown = replace(scene.channel, anchor=None)
    assert deposit_depth(unknown, scene.facts()) == 0
    assert deposit_depth(scene.channel, replace(scene.facts(), history=())) == 0


def test_a_connection_lives_as_long_as_its_first_deposit_to_expire() -> None:
    long, short = Scene(expire=100), Scene(expire=50)
    pair = Duplex(long.channel, short.channel)
    assert connection_ttl(pair, long.facts(), short.facts()) == 50 - 1 - 6
    turned = Duplex(short.channel, long.channel)
    assert connection_ttl(turned, short.facts(), long.facts()) == 50 - 1 - 6
    short.chain.disconnect(1)
    assert connection_ttl(pair, long.facts(), short.facts()) is None


@pytest.mark.parametrize(("delay", "blocks"), [(1, 1), (2, 1), (3, 2), (2016, 2015)])
def test_how_often_a_payer_looks(delay: int, blocks: int) -> None:
    assert check_every(replace(channel_of(144), delay=delay)) == blocks


# The deposit --------------------------------------------------------------------------------------------------------


def test_a_deposit_counts_once_it_is_buried_and_the_ledger_shows_the_asset() -> None:
    scene = Scene()
    unseen = replace(scene.channel, anchor=None)
    scene.chain.mine(4)  # the deposit is 5 blocks deep

    def seen(held: int, safe: int) -> bool:
        return see_deposit(unseen, scene.facts(), held, safe).anchor is not None

    assert seen(DEPOSIT, 5)
    assert seen(DEPOSIT + 1, 5)
    assert not seen(DEPOSIT, 6)
    assert not seen(DEPOSIT - 1, 5)


def test_what_else_pays_to_the_address_is_no_deposit_and_hides_none() -> None:
    scene = Scene()
    stray = scene.chain.fund(scene.channel.script.output, 6000)
    scene.chain.entries.sort(key=lambda entry: entry.txid != stray.txid)
    damaged = Entry(b"\1" * 32, b"no transaction", Height(START))
    scene.chain.mine(3)
    facts = scene.facts()
    facts = replace(facts, history=(damaged, *facts.history))
    unseen = replace(scene.channel, anchor=None)
    assert see_deposit(unseen, facts, DEPOSIT, DEPTH).anchor == scene.channel.anchor
    only = replace(facts, history=(damaged, facts.history[1]))
    assert see_deposit(unseen, only, DEPOSIT, DEPTH).anchor is None


def test_a_deposit_that_is_known_stays_what_it_was() -> None:
    scene = Scene()
    assert see_deposit(scene.channel, replace(scene.facts(), history=()), 0, 6) is scene.channel


def test_unspent_outputs_come_out_of_the_whole_history_in_any_order() -> None:
    scene = Scene(300)
    txid = scene.publish_commit(300)
    history = scene.chain.facts(scene.channel).history
    assert scene.channel.anchor is not None
    value = scene.channel.anchor.value - scene.channel.budget.commit_fee - scene.channel.budget.commit_value
    script = scene.channel.script.output
    expected = {
        Coin(Outpoint(scene.deposit, 3), 546, script, Height(START + 1)),
        Coin(Outpoint(txid, 2), value, script, None),
    }
    damaged = Entry(b"\1" * 32, b"no transaction", Height(START))
    assert set(unspent(script, [damaged, *history])) == expected
    assert set(unspent(script, history[::-1])) == expected
    assert first_output(damaged) == b""


# Open, and closing --------------------------------------------------------------------------------------------------


class Two:
    """A connection as PAYER sees it: it pays on one scene's channel, and is paid on another's."""

    def __init__(self, expire: int = EXPIRE) -> None:
        self.out, self.back = Scene(300, 400, expire=expire), Scene(300, expire=expire)

    @property
    def pair(self) -> Duplex:
        return Duplex(self.out.channel, self.back.channel)

    def mine(self, blocks: int) -> None:
        self.out.chain.mine(blocks)
        self.back.chain.mine(blocks)

    def open(self, safe: int = DEPTH) -> bool:
        return is_open(self.pair, self.out.facts(), self.back.facts(), AGREED, safe)

    def must_close(self) -> bool:
        return must_close(self.pair, self.out.facts(), self.back.facts(), AGREED)


def test_a_connection_is_open_until_its_deadline() -> None:
    two = Two()
    assert (two.open(), two.must_close()) == (True, False)
    two.mine(settle_height(two.back.channel, AGREED) - 1 - two.back.tip)
    assert (two.open(), two.must_close()) == (True, False)
    two.mine(1)
    assert (two.open(), two.must_close()) == (False, True)


@pytest.mark.parametrize("side", ["out", "back"])
def test_a_history_that_can_not_be_seen_whole_closes(side: str) -> None:
    two = Two()
    facts = {"out": two.out.facts(), "back": two.back.facts()}
    facts[side] = replace(facts[side], truncated=True)
    assert must_close(two.pair, facts["out"], facts["back"], AGREED)


@pytest.mark.parametrize("side", ["out", "back"])
def test_a_connection_is_open_once_both_deposits_are_buried(side: str) -> None:
    two = Two()
    two.mine(5)
    assert two.open(6)
    scene: Scene = getattr(two, side)
    scene.chain.tip = Height(scene.chain.tip - 1)
    assert not two.open(6)
    scene.chain.disconnect(10)
    assert (two.open(), two.must_close()) == (False, False)


@pytest.mark.parametrize("side", ["out", "back"])
def test_a_connection_closes_when_a_deposit_is_spent(side: str) -> None:
    two = Two()
    getattr(two, side).publish_commit(300)  # in the mempool already
    assert (two.open(), two.must_close()) == (False, True)


@pytest.mark.parametrize("side", ["out", "back"])
def test_a_connection_closes_when_a_deposit_is_mined_under_another_txid(side: str) -> None:
    two = Two()
    scene: Scene = getattr(two, side)
    anchor = scene.channel.anchor
    assert anchor is not None
    scene.channel = replace(scene.channel, anchor=replace(anchor, outpoint=Outpoint(b"\1" * 32, 0)))
    assert (two.open(), two.must_close()) == (False, True)
    scene.chain.disconnect(10)
    assert (two.open(), two.must_close()) == (False, False)  # it is not in a block yet


@pytest.mark.parametrize("side", ["out", "back"])
def test_a_connection_closes_when_early_dust_shortens_its_life(side: str) -> None:
    two = Two()
    scene: Scene = getattr(two, side)
    scene.chain.tip = Height(scene.chain.tip - EXPIRE + 6 + 1 + 1)
    early = scene.chain.fund(scene.channel.script.output, 600)
    scene.chain.tip = Height(START + 1)
    assert (two.open(), two.must_close()) == (True, False)
    assert early.vout == 0
    two.mine(1)
    assert (two.open(), two.must_close()) == (False, True)


# Watching -----------------------------------------------------------------------------------------------------------


def revoked(quantity: int) -> Revoked:
    return Revoked.by(Quantity(quantity), Secret(bytes([quantity % 256]) * 32))


def test_exposed_are_the_revoked_commits_above_the_highest_active_one() -> None:
    channel = replace(
        with_commits(channel_of(144), [200]), revoked=tuple(revoked(n) for n in (200, 201, 150, 900, 300))
    )
    assert [item.quantity for item in exposed(channel)] == [900, 300, 201]


def test_at_risk_is_the_greatest_exposure_and_what_was_received() -> None:
    out, back = with_commits(channel_of(144), [200]), with_commits(channel_of(144), [50, 70])
    assert at_risk(Duplex(out, back)) == 70
    assert at_risk(Duplex(replace(out, revoked=(revoked(150),)), back)) == 70
    assert at_risk(Duplex(replace(out, revoked=(revoked(900), revoked(300))), back)) == 700 + 70
    assert at_risk(Duplex(channel_of(144), channel_of(144))) == 0


# The end ------------------------------------------------------------------------------------------------------------


def over(two: Two, *, safe: int = DEPTH, deposited: bool = True, **changes: Any) -> bool:
    sending, receiving = two.out.facts(), two.back.facts()
    return recovery.is_over(
        changes.get("pair", two.pair),
        changes.get("sending", sending),
        changes.get("receiving", receiving),
        purse=purse(PAYER),
        safe_depth=safe,
        deposited=deposited,
        agreed=AGREED,
    )


def received_nothing(two: Two) -> Duplex:
    return Duplex(two.out.channel, replace(two.back.channel, active=()))


def test_over_once_the_own_deposit_is_back_and_buried() -> None:
    two = Two()
    idle = received_nothing(two)
    assert not over(two, pair=idle)
    two.out.publish(two.out.changes(given=True)[0], PAYER)
    assert not over(two, pair=idle)
    two.mine(1)
    assert over(two, pair=idle)
    assert not over(two, pair=idle, safe=2)
    assert not over(two)  # a commit received is not paid out
    two.out.chain.grant(two.out.channel.script.output, XCP, 1)
    assert not over(two, pair=idle)


def test_a_deposit_that_the_peer_emptied_is_not_back() -> None:
    two = Two()
    idle = received_nothing(two)
    two.out.publish_commit(400)
    two.mine(10)
    assert not over(two, pair=idle)


def test_over_only_when_the_own_commit_is_paid_out_and_buried() -> None:
    two = Two()
    two.out.publish(two.out.changes(given=True)[0], PAYER)
    two.back.publish_commit(300)
    two.mine(6)
    assert not over(two)
    two.back.publish(two.back.payouts()[0], PAYEE)
    assert not over(two)
    two.mine(1)
    assert over(two)
    assert not over(two, safe=2)
    late = replace(two.back.facts(), commit_assets=(XCP,))
    assert not over(two, receiving=late)


def test_what_the_peer_took_from_its_own_deposit_does_not_keep_a_connection() -> None:
    two = Two()
    two.out.publish(two.out.changes(given=True)[0], PAYER)
    two.mine(EXPIRE)
    two.back.publish(two.back.expiries()[0], PAYER)
    assert not over(two)  # what was received is lost once that is buried, and not before
    two.mine(1)
    assert over(two)


def test_not_over_while_a_published_revoked_commit_is_not_punished() -> None:
    two = Two()
    idle = received_nothing(two)
    two.out.publish_commit(400)
    two.out.revoke(400)
    two.mine(EXPIRE + 1)
    two.out.publish(two.out.expiries()[0], PAYER)
    two.mine(1)
    assert not over(two, pair=Duplex(two.out.channel, idle.receiving))
    two.out.publish(two.out.punish()[0], PAYER)
    assert not over(two, pair=Duplex(two.out.channel, idle.receiving))
    two.mine(1)
    assert over(two, pair=Duplex(two.out.channel, idle.receiving))


def test_a_deposit_that_never_came_may_come_until_it_would_have_expired() -> None:
    two = Two()
    idle = received_nothing(two)
    nothing = replace(two.out.facts(), history=(), coins=(), assets=())
    assert over(two, pair=idle, sending=nothing, deposited=False)
    last = AGREED + EXPIRE
    assert not over(two, pair=idle, sending=replace(nothing, tip=Height(last - 1)))
    assert over(two, pair=idle, sending=replace(nothing, tip=Height(last)))


def test_a_payment_of_somebody_elses_to_the_wallet_is_no_recovery() -> None:
    two = Two()
    facts = two.out.facts()
    assert not is_recovered(facts, two.out.channel.script.output, wallet_script(PAYER))
    other = DepositScript(PAYEE.pubkey, PAYER.pubkey, Hash(hashed("x")), EXPIRE)
    two.out.publish(two.out.changes(given=True)[0], PAYER)
    damaged = Entry(b"\1" * 32, b"no transaction", Height(START))
    facts = replace(two.out.facts(), history=(damaged, *two.out.facts().history))
    assert is_recovered(facts, two.out.channel.script.output, wallet_script(PAYER))
    assert not is_recovered(facts, other.output, wallet_script(PAYER))
    assert not is_recovered(facts, two.out.channel.script.output, wallet_script(PAYEE))


def test_not_over_while_a_coin_of_the_deposit_is_left_that_brings_more_than_it_costs() -> None:
    two = Two()
    idle = received_nothing(two)
    two.mine(EXPIRE - 10)
    two.out.publish_commit(400)
    two.mine(9)
    two.out.publish(two.out.expiries([two.out.wallet_coin(PAYER, 50_000)])[0], PAYER)
    two.mine(1)
    assert not over(two, pair=idle)  # the commit's change
    two.mine(EXPIRE)
    two.out.publish(two.out.expiries()[0], PAYER)
    two.mine(1)
    assert over(two, pair=idle)
    two.out.chain.fund(two.out.channel.script.output, 6000)  # somebody else's never keeps it
    assert over(two, pair=idle)


def test_a_deposits_own_anchor_is_such_a_coin() -> None:
    two = Two()
    two.out.publish(two.out.changes(given=True)[0], PAYER)
    two.mine(1)
    idle = received_nothing(two)
    assert over(two, pair=idle)
    facts = two.out.facts()
    anchor = two.out.channel.anchor
    assert anchor is not None
    left = Coin(anchor.outpoint, anchor.value, two.out.channel.script.output, Height(START + 1))
    assert not over(two, pair=idle, sending=replace(facts, coins=(left,)))
    assert over(two, pair=idle, sending=replace(facts, coins=(replace(left, value=200),)))


def test_an_asset_on_a_punished_commits_address_keeps_a_connection() -> None:
    two = Two()
    two.out.publish_commit(400)
    two.out.revoke(400)
    two.out.publish(two.out.punish()[0], PAYER)
    two.mine(EXPIRE + 1)
    two.out.publish(two.out.expiries()[0], PAYER)
    two.mine(1)
    idle = Duplex(two.out.channel, received_nothing(two).receiving)
    assert over(two, pair=idle)
    two.out.chain.grant(two.out.commit_address(two.out.commits[400]), XCP, 7)
    assert not over(two, pair=idle)


def test_a_commit_on_a_deposit_that_vanished_counts_until_it_would_have_expired() -> None:
    two = Two()
    two.out.publish(two.out.changes(given=True)[0], PAYER)
    two.mine(1)
    gone = replace(two.back.facts(), history=(), coins=())
    last = AGREED + EXPIRE
    assert not over(two, receiving=replace(gone, tip=Height(last - 1)))
    assert over(two, receiving=replace(gone, tip=Height(last)))
    assert not over(two, receiving=replace(two.back.facts(), tip=Height(last)))

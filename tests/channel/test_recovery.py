"""What either party does to have its own back: each rule at its border, and honest parties against whatever comes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from channel_support import (
    ASSET,
    OTHER_ASSET,
    PAYEE,
    PAYEE_WALLET,
    PAYER,
    PAYER_WALLET,
    compose_expire,
    hashed,
    kernel_accepts,
)
from parties_support import (
    BOUNDS,
    CONTRACT,
    EXPIRY,
    PAYEE_SCRIPT,
    PAYER_SCRIPT,
    START,
    Party,
    Q,
    agreed,
    anchor_of,
    cheat,
    commit_draft,
    countered,
    finish,
    honest_payee,
    honest_payer,
    names,
    run,
    run_to,
)

from picopayments_cli.channel.facts import Kind, Paid, Paying
from picopayments_cli.channel.fees import FETCH_BLOCKS, PATIENCE
from picopayments_cli.channel.steps import Name, Wait
from picopayments_cli.channel.transactions import compose_close, compose_payout

DELAY = CONTRACT.delay
HEIGHT = EXPIRY.height


# The payee ----------------------------------------------------------------------------------------------------------


def test_a_payee_without_an_agreed_close_publishes_its_highest_commit_and_its_payout() -> None:
    payee = honest_payee([300, 400])
    payee.closing = False
    assert names(payee) == []
    payee.closing = True
    (step,) = payee.act()
    assert (step.name, step.draft) == (Name.COMMIT, commit_draft(anchor_of(payee), 400))
    for _ in range(DELAY):
        payee.chain.mine()
        assert payee.balance == 0
        payee.act()
    assert payee.case.facts.spend is not None
    assert payee.case.facts.spend.first is not None  # the block after the delay may hold it
    payee.chain.mine()
    assert payee.balance == 400
    assert not payee.over()
    run(payee, payee.safe_depth - 1)
    assert payee.over()


def test_the_payout_does_not_go_out_a_block_too_early() -> None:
    payee = honest_payee([300])
    payee.act()
    for depth in range(DELAY):
        assert Name.PAYOUT not in names(payee), depth
        payee.chain.mine()
    assert names(payee) == [Name.PAYOUT]


@pytest.mark.parametrize("margin", [False, True])
def test_a_commit_goes_out_at_the_margin_though_nothing_was_closed(margin: bool) -> None:
    payee = honest_payee([300])
    payee.closing = False
    payee.chain.tip = EXPIRY.settle_height - (0 if margin else 1)
    assert (names(payee) == [Name.COMMIT]) is margin


def test_the_close_of_both_is_preferred_and_where_it_never_comes_the_commit() -> None:
    payee = honest_payee([300])
    countered(payee, 300, whole=False)
    for _ in range(PATIENCE):
        assert names(payee) == []
        payee.chain.mine()
    assert names(payee) == [Name.COMMIT]
    payee.chain.tip -= PATIENCE
    countered(payee, 300)
    assert names(payee) == [Name.CLOSE]
    payee.act()
    payee.chain.mine()
    assert payee.balance == 300
    run(payee, payee.safe_depth)
    assert payee.over()


def test_at_the_margin_nobody_waits_for_an_agreed_close() -> None:
    payee = honest_payee([300])
    countered(payee, 300, whole=False)
    payee.chain.tip = payee.since = EXPIRY.settle_height
    assert names(payee) == [Name.COMMIT]


def test_a_close_of_less_than_the_highest_commit_is_not_raised_but_replaced() -> None:
    payee = honest_payee([300])
    countered(payee, 200)
    payee.chain.submit(compose_close(CONTRACT, anchor_of(payee), 200))
    (step,) = payee.act()
    assert step.name is Name.COMMIT
    assert step.child is not None
    payee.chain.mine()
    run(payee, DELAY + 1)
    assert payee.balance == 300


@pytest.mark.parametrize("quantity", [200, 0])
def test_a_hub_that_owes_takes_the_close_that_gives_it_less(quantity: int) -> None:
    payee = honest_payee([300])
    assert isinstance(payee.side, Paid)
    payee.side = replace(payee.side, owed=300 - quantity)
    countered(payee, quantity)
    assert names(payee) == [Name.CLOSE]
    payee.act()
    payee.chain.mine()
    assert payee.balance == quantity
    run(payee, payee.safe_depth)
    assert payee.over()


def test_a_hub_that_owes_waits_longer_for_the_close_of_less_but_not_where_its_margin_is_near() -> None:
    payee = honest_payee([300])
    assert isinstance(payee.side, Paid)
    payee.side = replace(payee.side, owed=100)
    countered(payee, 200, whole=False)
    assert names(payee) == []
    payee.chain.submit(compose_close(CONTRACT, anchor_of(payee), 200))
    assert names(payee) == []  # it is what was agreed on
    payee.chain.drop(compose_close(CONTRACT, anchor_of(payee), 200).txid)
    payee.chain.tip += FETCH_BLOCKS - 1
    assert names(payee) == []  # the client may come yet
    payee.chain.tip += 1
    assert names(payee) == [Name.COMMIT]
    payee.chain.tip = payee.since = EXPIRY.settle_height - FETCH_BLOCKS + 1
    assert names(payee) == []
    payee.chain.tip += PATIENCE
    assert names(payee) == [Name.COMMIT]


def test_where_something_else_spends_the_anchor_nobody_waits_for_an_agreed_close() -> None:
    payee = honest_payee([300])
    countered(payee, 300, whole=False)
    assert names(payee) == []
    payee.chain.submit(compose_close(CONTRACT, anchor_of(payee), 200))
    assert names(payee) == [Name.COMMIT]


def test_a_close_in_the_mempool_is_raised_by_the_payee_at_once_and_by_the_payer_after_some_blocks() -> None:
    payee = honest_payee([300])
    countered(payee, 300, whole=False)
    close = compose_close(CONTRACT, anchor_of(payee), 300)
    payee.chain.submit(close)
    assert names(payee) == []  # it pays enough
    payee.rate = 20
    (step,) = payee.steps()
    assert (step.name, step.draft) == (Name.CLOSE, None)
    assert step.child is not None
    payer = Party(payee.chain, Paying(CONTRACT, anchor_of(payee)), PAYER_SCRIPT, closing=True, since=payee.since)
    payer.rate = 20
    agreed(payer, 300)
    for _ in range(PATIENCE):
        assert names(payer) == []
        payer.chain.mine(rate=10)
    assert names(payer) == [Name.CLOSE]
    run(payer, 1, rate=10)
    assert payee.balance == 300
    finish(payer)
    assert payer.balance == Q - 300


def test_a_commit_is_raised_again_whenever_its_child_is_gone_and_pays_more() -> None:
    payee = honest_payee([300])
    payee.rate = 10
    fees = []
    for _ in range(5):
        (step,) = payee.act()
        assert step.child is not None
        fees.append(step.child.fee)
        payee.chain.drop(step.child.txid)  # it was cycled out
    assert fees == sorted(set(fees))
    payee.act()
    assert names(payee) == []  # while it is there nothing is to be done
    payee.chain.mine(rate=10)
    assert payee.case.facts.spend is not None
    assert payee.case.facts.spend.seen.height is not None


def test_the_way_to_the_expiry_is_paid_more_each_block() -> None:
    payee = honest_payee([900])
    payee.chain.tip = EXPIRY.settle_height
    fees = []
    while payee.chain.tip < HEIGHT:
        payee.act()
        seen = payee.case.facts.spend
        assert seen is not None
        fees.append(seen.seen.child.feefrac.fee if seen.seen.child and seen.seen.child.feefrac else 0)
        payee.chain.mine(rate=10_000)
    assert fees == sorted(fees)
    assert fees[-1] > 400 * BOUNDS.ceiling


def test_a_commit_takes_the_place_of_an_expiry_in_the_mempool() -> None:
    payee = honest_payee([300])
    payee.chain.tip = HEIGHT
    expire = compose_expire(
        CONTRACT, [anchor_of(payee)], ASSET, Party(payee.chain, payee.side, PAYER_SCRIPT).means.purse
    )
    payee.chain.submit(expire)
    assert payee.case.facts.spend is not None
    assert payee.case.facts.spend.kind is Kind.EXPIRE
    payee.act()
    assert expire.txid not in payee.chain.items
    run(payee, DELAY + 2)
    assert payee.balance == 300


def test_with_require_memo_the_payout_waits_and_a_close_is_not_published() -> None:
    payee = honest_payee([300])
    payee.home = False
    countered(payee, 300)
    assert names(payee) == [Name.COMMIT]
    run(payee, DELAY + 5)
    (step,) = payee.steps()
    assert (step.name, step.waits, step.draft) == (Name.PAYOUT, Wait.MEMO, None)
    payee.home = True
    run(payee, 1)
    assert payee.balance == 300


def test_what_nobody_can_explain_is_told_and_does_not_stop_anything() -> None:
    payee = honest_payee([300])
    payee.chain.submit(commit_draft(anchor_of(payee), 350))
    payee.chain.mine()
    (step,) = payee.steps()
    assert step.waits is Wait.UNKNOWN
    assert not payee.over()
    run(payee, 7)
    assert payee.over()
    payee.chain.disconnect(8)
    payee.chain.drop(commit_draft(anchor_of(payee), 350).txid)
    payee.act()
    run(payee, DELAY + 1)
    assert payee.balance == 300


# The payer ----------------------------------------------------------------------------------------------------------


def test_a_remainder_goes_out_from_the_block_after_the_commit() -> None:
    payer = honest_payer([300])
    cheat(payer, 300)
    assert names(payer) == []
    payer.chain.mine()
    assert names(payer) == [Name.REMAINDER]
    run(payer, 1)
    assert payer.balance == Q - 300
    finish(payer)


def test_without_a_remainder_the_rest_comes_home_by_the_expiry() -> None:
    payer = honest_payer([300], remainders=False)
    cheat(payer, 300)
    run(payer, 3)
    assert payer.balance == 0
    payer.chain.tip = HEIGHT - 1
    assert names(payer) == []
    payer.chain.tip = HEIGHT
    assert names(payer) == [Name.EXPIRE]
    finish(payer)
    assert payer.balance == Q - 300


def test_an_agreed_close_and_its_rest_bring_the_payer_home() -> None:
    payer = honest_payer([300])
    agreed(payer, 300)
    payer.closing = False
    assert names(payer) == []
    payer.closing = True
    assert names(payer) == [Name.CLOSE]
    payer.act()
    assert names(payer) == []
    payer.chain.mine()
    assert names(payer) == [Name.REST]
    finish(payer)
    assert payer.balance == Q - 300
    assert payer.chain.held(PAYEE_SCRIPT, ASSET) == 300


@pytest.mark.parametrize("quantity", [0, Q])
def test_a_close_of_all_to_one_side_has_no_rest(quantity: int) -> None:
    payer = honest_payer([300])
    agreed(payer, quantity)
    finish(payer)
    assert payer.balance == Q - quantity


def test_the_expiry_is_tried_at_its_height_and_raised_at_the_rate_of_the_day() -> None:
    payer = honest_payer([])
    payer.chain.tip = HEIGHT - 1
    assert names(payer) == []
    payer.chain.tip = HEIGHT
    (step,) = payer.act()
    assert (step.name, names(payer)) == (Name.EXPIRE, [])
    payer.rate = 30
    (again,) = payer.act()
    assert again.draft is not None
    assert again.draft.fee >= 30 * again.draft.size
    run(payer, 1, rate=30)
    assert payer.balance == Q
    finish(payer)


def test_a_commit_in_the_mempool_is_let_pass_at_the_expiry_but_not_for_ever() -> None:
    payer = honest_payer([300])
    commit = cheat(payer, 300)
    payer.chain.fund(CONTRACT.deposit.output, 5_000)  # any coin there could take the whole asset
    payer.chain.tip = HEIGHT + EXPIRY.margin - 1
    assert names(payer) == []
    payer.chain.tip += 1
    payer.act()
    assert commit.txid not in payer.chain.items
    payer.chain.mine()
    assert payer.balance == Q


def test_an_address_without_assets_is_not_emptied_at_the_wallets_cost() -> None:
    payer = honest_payer([Q], remainders=False)
    cheat(payer, Q)
    payer.chain.mine()
    payer.rate = 20
    payer.chain.tip = HEIGHT
    assert names(payer) == []
    assert payer.over()


def test_dust_on_the_deposits_address_drains_nobody() -> None:
    payer = honest_payer([])
    for _ in range(30):
        payer.chain.fund(CONTRACT.deposit.output, 330)
    valuable = payer.chain.fund(CONTRACT.deposit.output, 90_000)
    payer.chain.tip = HEIGHT
    payer.rate = 20
    (step,) = payer.steps()
    assert step.draft is not None
    assert [spent.coin.outpoint for spent in step.draft.inputs] == [anchor_of(payer).outpoint, valuable.outpoint]
    finish(payer)
    assert payer.balance == Q


def test_every_other_asset_on_the_deposits_address_comes_home_in_turn_and_one_without_a_coin_gets_one() -> None:
    payer = honest_payer([])
    payer.chain.grant(CONTRACT.deposit.output, OTHER_ASSET, 7)
    payer.chain.grant(CONTRACT.deposit.output, 26**3 + 5, 9)
    payer.chain.fund(CONTRACT.deposit.output, 330)
    payer.chain.tip = HEIGHT
    assert names(payer) == [Name.EXPIRE, Name.EXPIRE]
    run(payer, 1)
    assert names(payer) == [Name.COIN]
    finish(payer)
    assert [payer.chain.held(PAYER_SCRIPT, asset) for asset in (ASSET, OTHER_ASSET, 26**3 + 5)] == [Q, 7, 9]


def test_an_expiry_of_more_coins_than_fit_takes_the_most_valuable() -> None:
    payer = honest_payer([])
    for number in range(600):
        payer.chain.fund(CONTRACT.deposit.output, 600 + number)
    payer.chain.tip = HEIGHT
    (step,) = payer.steps()
    assert step.draft is not None
    taken = [spent.coin.value for spent in step.draft.inputs if spent.leaf is not None]
    assert len(taken) == 500
    assert min(taken[1:]) == 600 + 101
    assert step.draft.size < 100_000


def test_a_coin_that_lies_on_the_address_alone_comes_home_only_where_it_is_worth_it() -> None:
    payer = honest_payer([])
    payer.chain.tip = HEIGHT
    finish(payer)
    payer.chain.fund(CONTRACT.deposit.output, 60)
    assert payer.over()
    assert names(payer) == []
    payer.chain.fund(CONTRACT.deposit.output, 5_000)
    assert not payer.over()
    assert names(payer) == [Name.EXPIRE]
    finish(payer)


# Punishing ----------------------------------------------------------------------------------------------------------


def test_a_revoked_commit_is_punished_as_a_child_of_the_unconfirmed_one_with_confirmed_coins() -> None:
    payer = honest_payer([300, 500], [500])
    payer.rate = 10
    commit = cheat(payer, 500)
    (step,) = payer.act()
    assert step.name is Name.REVOKE
    assert step.draft is not None
    assert step.draft.inputs[0].coin.outpoint == commit.coin(0).outpoint
    assert all(spent.coin.height is not None for spent in step.draft.inputs[1:])
    assert len(step.draft.inputs) <= 6
    payer.chain.mine(rate=10)
    assert payer.balance == 500
    finish(payer)
    assert payer.balance == Q


def test_a_revoke_pays_more_than_the_cheats_child_or_waits_for_the_block() -> None:
    payer = honest_payer([300, 500], [500])
    cheat(payer, 500, child_fee=3_000)
    (step,) = payer.act()
    assert step.draft is not None
    assert step.draft.fee > 3_000
    assert step.draft.txid in payer.chain.items
    dear = honest_payer([300, 500], [500])
    cheat(dear, 500, child_fee=1_000_000)
    (waiting,) = dear.act()
    assert waiting.waits is Wait.COINS
    dear.chain.mine()
    assert names(dear) == [Name.REVOKE, Name.REMAINDER]
    finish(dear)
    assert dear.balance == Q


def test_a_revoke_is_replaced_each_block_with_the_only_coin_that_there_is() -> None:
    payer = honest_payer([300, 500], [500])
    spare = [coin for coin in payer.chain.coins(PAYER_SCRIPT) if coin.outpoint in payer.chain.made]
    for coin in spare:
        del payer.chain.made[coin.outpoint]
    assert len(payer.means.purse.coins) == 1  # the deposit's change
    cheat(payer, 500)
    payer.chain.mine()
    fees = []
    for _ in range(DELAY - 1):
        payer.act()
        spend = payer.case.facts.spend
        assert spend is not None
        assert spend.first is not None
        assert spend.first.feefrac is not None
        fees.append(spend.first.feefrac.fee)
        payer.chain.mine(rate=10_000)
    assert fees == sorted(fees)
    assert fees[-1] > fees[0]
    payer.chain.mine()
    assert payer.balance >= 500


def test_a_payout_in_the_mempool_is_what_a_late_revoke_takes_the_place_of() -> None:
    payer = honest_payer([300, 500], [500])
    commit = cheat(payer, 500)
    for _ in range(DELAY):
        payer.chain.mine()
    payout = compose_payout(CONTRACT, commit, hashed("commit 500"))
    payer.chain.submit(payout)
    (step, *_) = payer.act()
    assert step.name is Name.REVOKE
    assert payout.txid not in payer.chain.items
    payer.chain.mine()
    assert payer.balance >= 500


def test_a_punishment_goes_again_after_a_reorganisation() -> None:
    payer = honest_payer([300, 500], [500])
    commit = cheat(payer, 500)
    run(payer, 2)
    assert payer.balance == Q
    payer.chain.disconnect(2)
    for txid in list(payer.chain.items):
        if payer.chain.items[txid].height is None and txid in payer.chain.items:
            payer.chain.drop(txid)
    assert names(payer) == []
    payer.chain.submit(commit)
    run(payer, 2)
    assert payer.balance == Q


def test_with_require_memo_a_punishment_waits_half_the_delay_and_what_it_leaves_is_fetched_later() -> None:
    payer = honest_payer([300, 500], [500])
    payer.home = False
    cheat(payer, 500)
    assert [step.waits for step in payer.steps()] == [Wait.MEMO]
    payer.chain.mine()
    for _ in range(DELAY // 2 - 1):
        assert payer.steps()[0].waits is Wait.MEMO
        payer.chain.mine()
    assert payer.steps()[0].waits is None


def test_other_assets_on_a_punished_commits_address_come_home_and_dust_stays() -> None:
    payer = honest_payer([300, 500], [500])
    script = CONTRACT.commit_script(hashed("commit 500")).output
    cheat(payer, 500)
    run(payer, 3)
    for _ in range(30):
        payer.chain.fund(script, 5_000)
    payer.chain.tip = HEIGHT
    run(payer, 8)
    assert payer.over()
    before = payer.chain.coins(script)
    payer.chain.grant(script, OTHER_ASSET, 7)
    assert not payer.over()
    finish(payer)
    assert payer.chain.held(PAYER_SCRIPT, OTHER_ASSET) == 7
    assert len(before) - len(payer.chain.coins(script)) == 1


def test_an_asset_on_a_punished_commits_address_without_a_coin_gets_one() -> None:
    payer = honest_payer([300, 500], [500])
    cheat(payer, 500)
    run(payer, 3)
    payer.chain.grant(CONTRACT.commit_script(hashed("commit 500")).output, OTHER_ASSET, 7)
    assert names(payer) == [Name.COIN]
    finish(payer)
    assert payer.chain.held(PAYER_SCRIPT, OTHER_ASSET) == 7


def test_not_over_while_a_revoked_commit_is_not_punished() -> None:
    payer = honest_payer([300, 500], [500])
    payer.rate = 10
    cheat(payer, 500)
    payer.chain.mine()
    for _ in range(DELAY - 2):
        payer.chain.mine()
        assert not payer.over()


# A deposit that a reorganisation takes away ------------------------------------------------------------------------


@pytest.mark.parametrize("payer", [True, False])
def test_after_a_reorganisation_first_the_deposit_goes_out_and_is_mined_and_then_the_commit(payer: bool) -> None:
    party = honest_payer([300]) if payer else honest_payee([300])
    deposit = party.chain.items[anchor_of(party).outpoint.txid].draft
    party.side = replace(party.side, deposit=b"the deposit")
    party.chain.disconnect(8)
    party.chain.drop(deposit.txid)
    (step,) = party.steps()
    assert (step.name, step.raw, step.draft) == (Name.DEPOSIT, b"the deposit", None)
    party.chain.submit(deposit)
    assert names(party) == []
    party.chain.mine()
    assert names(party) == ([] if payer else [Name.COMMIT])


def test_a_deposit_that_never_counted_comes_home_by_the_expiry() -> None:
    payer = honest_payer([])
    payer.side = replace(payer.side, anchor=None, deposit=b"sent")
    assert not payer.over()
    payer.chain.tip = HEIGHT
    assert names(payer) == [Name.EXPIRE]
    run(payer, 1)
    assert payer.balance == Q


# Signing ------------------------------------------------------------------------------------------------------------


def test_every_step_is_finished_to_what_the_kernel_accepts() -> None:
    payee = honest_payee([300])
    payee.rate = 10
    judged = []

    def judge(party: Party, *, payer: bool) -> None:
        key, wallet = (PAYER, PAYER_WALLET) if payer else (PAYEE, PAYEE_WALLET)
        for step in party.act():
            drafts = [draft for draft in (step.draft, step.child) if draft is not None]
            for raw, draft in zip(step.finish(key, wallet, payer=payer), drafts, strict=True):
                assert kernel_accepts(raw, draft), step.name
            judged.append(step.name)
        party.chain.mine()

    payer = Party(payee.chain, honest_payer([300]).side, PAYER_SCRIPT, closing=True, rate=5)
    for _ in range(DELAY + 1):
        judge(payee, payer=False)
        judge(payer, payer=True)
    other = honest_payer([300, 500], [500])
    agreed(other, 300)
    cheat(other, 500)
    judge(other, payer=True)
    closed = honest_payer([300])
    agreed(closed, 300)
    closed.since = START - 100
    closed.rate = 5
    judge(closed, payer=True)
    judge(closed, payer=True)
    expired = honest_payer([])
    run_to(expired, HEIGHT - 1)
    expired.chain.tip = HEIGHT
    judge(expired, payer=True)
    assert {Name.COMMIT, Name.PAYOUT, Name.REMAINDER, Name.REVOKE, Name.CLOSE, Name.REST, Name.EXPIRE} <= set(judged)

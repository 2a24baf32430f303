"""Honest parties against whatever comes: events in any order, cheats at every moment, many channels at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from channel_support import ASSET, OTHER_ASSET, compose_expire, hashed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parties_support import (
    BOUNDS,
    CHEAT,
    CONTRACT,
    EXPIRY,
    PAYEE_SCRIPT,
    PAYER_SCRIPT,
    START,
    Party,
    Q,
    anchor_of,
    cheat,
    commit_draft,
    countered,
    finish,
    honest_payee,
    honest_payer,
    junk_child,
    run,
)
from tiny_chain_support import Refused

from picopayments_cli.channel.drafts import DUST
from picopayments_cli.channel.facts import Paid
from picopayments_cli.channel.recovery import tasks
from picopayments_cli.channel.steps import Name, plan
from picopayments_cli.channel.transactions import compose_close, compose_payout

DELAY = CONTRACT.delay
HEIGHT = EXPIRY.height


# Whatever comes -----------------------------------------------------------------------------------------------------

RATES = st.integers(1, BOUNDS.ceiling)
FEES = st.integers(0, 40_000)
ONES = st.one_of(
    st.tuples(st.just("mine"), RATES),
    st.tuples(st.just("rate"), RATES),
    st.tuples(st.just("reorganise"), st.integers(1, 3)),
    st.tuples(st.just("evict"), FEES),
    st.tuples(st.just("cycle"), FEES),
    st.tuples(st.just("dust"), st.integers(330, 5_000)),
    st.tuples(st.just("asset"), st.integers(330, 5_000)),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 400)),
)
CHEATS = st.one_of(
    ONES,
    st.tuples(st.sampled_from(["publish 300", "publish 500", "publish 900"]), FEES),
    st.tuples(st.just("payout"), FEES),
)
PAYERS = st.one_of(ONES, st.tuples(st.just("expire"), st.integers(1, 60)))


def happen(party: Party, event: tuple[str, int], draw: random.Random) -> None:
    """An event that is nobody's, or that anybody can bring about."""
    kind, number = event
    chain = party.chain
    waiting = [item.draft for item in chain.items.values() if item.height is None and len(item.draft.outputs) > 2]
    if kind == "mine":
        chain.mine(number)
    elif kind == "rate":
        party.rate = number
    elif kind == "reorganise" and chain.tip - number > START + 7:
        chain.disconnect(number)
        for _ in range(number):
            chain.mine(draw.choice((1, 10_000)))
        chain.mine()
    elif kind in ("evict", "cycle") and waiting:
        child = junk_child(chain, draw.choice(waiting), number)
        attempt(lambda: chain.submit(child))
        if kind == "cycle" and child.txid in chain.items:
            chain.drop(child.txid)
    elif kind in ("dust", "asset"):
        scripts = [CONTRACT.commit_script(hashed(f"commit {q}")).output for q in (300, 500, 900)]
        there = draw.choice([CONTRACT.deposit.output, *scripts])
        chain.fund(there, number)
        if kind == "asset":  # anybody's, or the channel's own
            chain.grant(there, draw.choice((OTHER_ASSET, ASSET)), number)
    elif kind == "restart":
        party.side = replace(party.side, sent=())


def attempt(submit: Callable[[], object]) -> None:
    try:
        submit()
    except Refused:
        return


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(CHEATS, max_size=25), st.integers(0, 2**32), st.booleans())
def test_a_payer_that_acts_ends_with_all_but_what_it_owes(
    events: list[tuple[str, int]], seed: int, remainders: bool
) -> None:
    payer, draw = honest_payer([300, 500, 900], [500, 900], remainders=remainders), random.Random(seed)
    chain = payer.chain
    for kind, number in events:
        payer.act()
        if kind.startswith("publish"):
            attempt(partial(cheat, payer, int(kind.split()[1]), number))
        elif kind == "payout":
            for quantity in (300, 500, 900):
                payout = compose_payout(
                    CONTRACT, commit_draft(anchor_of(payer), quantity), hashed(f"commit {quantity}")
                )
                attempt(partial(chain.submit, payout.plus([chain.fund(CHEAT, number + 300)])))
        elif kind != "wait":
            happen(payer, (kind, number), draw)
        payer.act()
    payer.rate = 1
    run(payer, DELAY + 10)
    chain.tip = max(chain.tip, HEIGHT)
    finish(payer, 40)
    assert payer.balance >= Q - 300
    assert chain.held(CONTRACT.deposit.output, OTHER_ASSET) == 0
    given = sum(quantity for script, asset, quantity in chain.granted if asset == ASSET)
    assert chain.held(PAYER_SCRIPT, ASSET) + chain.held(PAYEE_SCRIPT, ASSET) <= given


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PAYERS, max_size=25), st.integers(0, 2**32), st.sampled_from([None, 300, 350]), st.booleans())
def test_a_payee_that_acts_ends_with_what_it_received(
    events: list[tuple[str, int]], seed: int, close: int | None, late: bool
) -> None:
    payee, draw = honest_payee([100, 300]), random.Random(seed)
    payee.closing = False
    chain = payee.chain
    if late:  # six blocks are left, and the payer may take the deposit after them
        payee.expiry = replace(EXPIRY, time=48)
        chain.tip = payee.expiry.settle_height
        events = [event for event in events if event[0] != "reorganise"]
    if close is not None:
        countered(payee, close, whole=draw.random() < 0.5)
        payee.closing, payee.since = True, chain.tip
    for kind, number in events:
        payee.act()
        if kind == "wait":
            if payee.case.facts.spend is None and chain.tip + number <= payee.expiry.settle_height:
                chain.tip += number
        elif kind == "expire":
            purse = replace(Party(chain, payee.side, PAYER_SCRIPT).means.purse, rate=number)
            attempt(partial(chain.submit, compose_expire(CONTRACT, [anchor_of(payee)], ASSET, purse)))
        elif close is not None and kind == "dust":
            attempt(lambda: chain.submit(compose_close(CONTRACT, anchor_of(payee), close or 0)))
        else:
            happen(payee, (kind, number), draw)
        payee.act()
    chain.tip = max(chain.tip, payee.expiry.settle_height) if payee.case.facts.spend is None else chain.tip
    for _ in range(DELAY + 30):
        run(payee, 1)
    assert payee.over()
    assert payee.balance >= 300


# Many at once -------------------------------------------------------------------------------------------------------


def test_two_hundred_connections_that_expire_in_one_fee_spike_share_the_reserve() -> None:
    payee = honest_payee([300])
    cases = [
        replace(payee.case, label=str(number), expiry=replace(EXPIRY, height=HEIGHT - number % 7))
        for number in range(200)
    ]
    for _ in range(150 - len(payee.means.purse.coins)):
        payee.chain.fund(PAYEE_SCRIPT, 60_000)
    payee.chain.tip = EXPIRY.settle_height
    payee.rate = 40
    steps = plan([task for case in cases for task in tasks(case)], payee.means)
    assert len(steps) == 200
    raised = [step for step in steps if step.child is not None]
    assert len(raised) == 150
    used = [spent.coin.outpoint for step in raised if step.child for spent in step.child.inputs[1:]]
    assert len(used) == len(set(used)) == 150  # a coin each
    lefts = [step.left for step in steps]
    assert lefts == sorted(lefts, key=lambda left: left or 0)  # the most urgent have the coins
    assert all(step.draft is not None and step.short for step in steps[150:])  # the others go out as they are


def test_a_punishment_gets_its_coin_before_everything_else() -> None:
    payer = honest_payer([300, 500], [500])
    cheat(payer, 500)
    payer.rate = 20
    idle = honest_payee([300])
    means = replace(payer.means, purse=replace(payer.means.purse, coins=payer.means.purse.coins[:1]))
    steps = plan([*tasks(idle.case), *tasks(payer.case)], means)
    assert [(step.name, step.short) for step in steps] == [(Name.REVOKE, False), (Name.COMMIT, True)]


def test_the_reserve_is_not_spent_for_what_can_wait() -> None:
    payer = honest_payer([])
    payer.chain.tip = HEIGHT
    payer.rate = 20
    payer.reserve = replace(payer.reserve, coins=10, each=DUST)
    (step,) = payer.steps()
    assert step.short  # only what the deposit itself can pay
    payer.reserve = replace(payer.reserve, coins=2)
    (step,) = payer.steps()
    assert not step.short


def test_an_honest_payee_and_an_honest_payer_both_come_home() -> None:
    payee = honest_payee([300])
    payer = Party(payee.chain, honest_payer([300]).side, PAYER_SCRIPT, closing=True)
    assert anchor_of(payer) == anchor_of(payee)
    for _ in range(DELAY + 2):
        payer.act()
        payee.act()
        payee.chain.mine()
    assert (payer.balance, payee.balance) == (Q - 300, 300)


def test_a_client_without_a_bitcoin_node_acts_by_the_txids_that_it_knows() -> None:
    payer = honest_payer([300, 500], [500])
    payer.by_outpoint = False
    cheat(payer, 500)
    finish(payer)
    assert payer.balance == Q
    payee = honest_payee([300])
    payee.by_outpoint = False
    finish(payee)
    assert payee.balance == 300
    assert isinstance(payee.side, Paid)

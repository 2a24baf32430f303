"""What the chain shows of a channel: which deposit counts, and what spends it; each rule broken once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from channel_support import ASSET, OTHER_ASSET, PAYER_WALLET, digest, hashed
from parties_support import CONTRACT, EXPIRY, PAYEE_SCRIPT, PAYER_SCRIPT, agreed, commit_draft, countered, honest_payee
from parties_support import honest_payer as payer_of
from tiny_chain_support import TinyChain

from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.drafts import Draft, Output
from picopayments_cli.channel.facts import (
    Deposit,
    Kind,
    Paid,
    Paying,
    Questions,
    Seen,
    SendRow,
    View,
    find_anchor,
    is_deposit,
    judge_deposit,
    look,
    questions,
)
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.transactions import Contract, compose_close, compose_deposit
from picopayments_cli.channel.values import Coin, Entry, Height, Outpoint

TIP, SAFE = 899_100, 7
SCRIPT = CONTRACT.deposit.output


def deposit(name: str, contract: Contract = CONTRACT) -> Draft:
    """A deposit from a coin of its own."""
    coin = Coin(Outpoint(digest(name), 0), 100_000, PAYER_SCRIPT, Height(1))
    return compose_deposit(contract, Purse(PAYER_SCRIPT, (coin,), 2))


def entry(draft: Draft, height: int = TIP - SAFE + 1) -> Entry:
    return Entry(draft.txid, finish_wallet(draft, PAYER_WALLET), Height(height))


def row(draft: Draft, number: int = 1, **changes: Any) -> SendRow:
    right = SendRow(draft.txid, number, "send", "valid", ASSET, SCRIPT, CONTRACT.quantity)
    return replace(right, **changes)


ONE, TWO = deposit("one"), deposit("two")


def found(rows: list[SendRow], entries: list[Entry]) -> bytes | None:
    anchor = find_anchor(CONTRACT, rows, entries, TIP, SAFE)
    return None if anchor is None else anchor.outpoint.txid


# The deposit --------------------------------------------------------------------------------------------------------


def test_a_deposit_is_found_with_its_coin() -> None:
    anchor = find_anchor(CONTRACT, [row(ONE)], [entry(ONE)], TIP, SAFE)
    assert anchor == ONE.coin(0)


@pytest.mark.parametrize(
    "changes",
    [
        {"send_type": "move"},
        {"send_type": "attach"},
        {"send_type": "detach"},
        {"status": "invalid: insufficient funds"},
        {"asset_id": OTHER_ASSET},
        {"destination": None},
        {"destination": PAYEE_SCRIPT},
        {"quantity": CONTRACT.quantity - 1},
        {"quantity": CONTRACT.quantity + 1},
        {"quantity": 0},
    ],
)
def test_only_the_ledgers_own_valid_send_of_exactly_the_quantity_counts(changes: dict[str, Any]) -> None:
    assert not is_deposit(CONTRACT, row(ONE, **changes))
    assert found([row(ONE, **changes)], [entry(ONE)]) is None


def test_a_deposit_is_buried() -> None:
    assert found([row(ONE)], [entry(ONE, TIP - SAFE + 2)]) is None
    assert found([row(ONE)], [replace(entry(ONE), height=None)]) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda draft: replace(draft, outputs=(draft.outputs[0],)),
        lambda draft: replace(draft, outputs=(draft.outputs[0], draft.outputs[2], draft.outputs[1])),
        lambda draft: replace(draft, outputs=(*draft.outputs, Output(600, PAYEE_SCRIPT))),
        lambda draft: replace(
            draft, outputs=(replace(draft.outputs[0], value=CONTRACT.budget.anchor - 1), *draft.outputs[1:])
        ),
        lambda draft: replace(draft, outputs=(replace(draft.outputs[0], script=PAYEE_SCRIPT), *draft.outputs[1:])),
    ],
)
def test_a_deposit_has_its_form_and_its_satoshis(spoil: Callable[[Draft], Draft]) -> None:
    wrong = spoil(ONE)
    assert found([row(wrong)], [entry(wrong)]) is None


def test_bytes_that_are_another_transaction_or_none_are_passed_over() -> None:
    swapped = replace(entry(TWO), txid=ONE.txid)
    assert found([row(ONE)], [swapped]) is None
    assert found([row(ONE)], [replace(entry(ONE), raw=b"none")]) is None
    assert found([row(ONE)], []) is None
    assert found([], [entry(ONE)]) is None


def test_the_earliest_by_the_ledgers_order_is_the_anchor_and_a_copy_with_few_satoshis_never() -> None:
    assert found([row(TWO, 5), row(ONE, 4)], [entry(TWO), entry(ONE)]) == ONE.txid
    assert found([row(ONE, 5), row(TWO, 4)], [entry(TWO), entry(ONE)]) == TWO.txid
    poor = replace(TWO, outputs=(replace(TWO.outputs[0], value=600), *TWO.outputs[1:]))
    assert found([row(poor, 1), row(ONE, 4)], [entry(poor), entry(ONE)]) == ONE.txid


def test_a_deposit_in_two_steps_is_none() -> None:
    """600 and then 400 leave 1,000 on the address; commits of more than one part could not be trusted."""
    parts = [row(ONE, 1, quantity=600), row(TWO, 2, quantity=400)]
    assert found(parts, [entry(ONE), entry(TWO)]) is None


def test_a_named_anchor_stays_while_it_is_mined_and_its_send_is_what_was_agreed() -> None:
    anchor, mined = TWO.coin(0), Seen(TWO.txid, Height(TIP))

    def judged(rows: list[SendRow], entries: list[Entry], seen: Seen | None) -> Deposit:
        return judge_deposit(CONTRACT, anchor, rows, entries, seen, TIP, SAFE)

    both = [row(ONE, 1), row(TWO, 2)]
    assert judged(both, [entry(ONE), entry(TWO)], mined) is Deposit.COUNTS  # though another is earlier
    assert judged([row(TWO, quantity=1)], [entry(TWO)], mined) is Deposit.VOID
    assert judged([], [entry(TWO)], mined) is Deposit.VOID
    for seen in (None, Seen(TWO.txid)):
        assert judged([row(ONE)], [entry(ONE)], seen) is Deposit.VOID
        assert judged([row(ONE)], [entry(ONE, TIP)], seen) is Deposit.UNMINED  # it may go again
        assert judged([], [], seen) is Deposit.UNMINED


# What spends it -----------------------------------------------------------------------------------------------------


def spent(chain: TinyChain, side: Paying | Paid, *, by_outpoint: bool = True) -> Kind | None:
    spend = chain.facts(side, by_outpoint=by_outpoint).spend
    return None if spend is None else spend.kind


@pytest.mark.parametrize("by_outpoint", [True, False])
@pytest.mark.parametrize("mined", [True, False])
def test_commits_and_closes_are_known_by_their_txids(by_outpoint: bool, mined: bool) -> None:
    def kind(side: Paying | Paid, draft: Draft | None) -> Kind | None:
        chain = payer_of([]).chain
        if draft is not None:
            chain.submit(draft)
        if mined:
            chain.mine()
        return spent(chain, side, by_outpoint=by_outpoint)

    payer, payee = payer_of([300, 500], [500]), honest_payee([300])
    agreed(payer, 250)
    countered(payee, 350)
    anchor = payer.side.anchor
    assert anchor is not None
    assert kind(payer.side, None) is None
    assert kind(payer.side, commit_draft(anchor, 300)) is Kind.COMMIT
    assert kind(payer.side, commit_draft(anchor, 500)) is Kind.REVOKED
    assert kind(payer.side, compose_close(CONTRACT, anchor, 250)) is Kind.CLOSE
    assert kind(payee.side, commit_draft(anchor, 300)) is Kind.COMMIT
    assert kind(payee.side, compose_close(CONTRACT, anchor, 350)) is Kind.CLOSE
    stranger = kind(payee.side, commit_draft(anchor, 400))
    assert stranger is (Kind.UNKNOWN if by_outpoint else None)  # nobody asks for what nobody knows


def test_from_the_expiry_on_what_nobody_can_build_is_the_payers_own() -> None:
    side = payer_of([300]).side
    assert side.anchor is not None
    seen = Seen(digest("stranger"), Height(EXPIRY.height))

    def kind(found: Seen, tip: int) -> Kind | None:
        facts = look(side, View(Height(tip), spenders={side.anchor.outpoint: found} if side.anchor else {}))
        return facts.spend.kind if facts.spend else None

    assert kind(seen, EXPIRY.height) is Kind.UNKNOWN
    assert kind(replace(seen, height=Height(EXPIRY.height + 1)), EXPIRY.height + 1) is Kind.EXPIRE
    assert kind(replace(seen, height=None), EXPIRY.height - 1) is Kind.UNKNOWN
    assert kind(replace(seen, height=None), EXPIRY.height) is Kind.EXPIRE


def test_the_expiry_of_ones_own_is_seen_by_outpoint_and_by_what_was_sent() -> None:
    payer = payer_of([])
    payer.chain.tip = EXPIRY.height
    payer.act()
    assert spent(payer.chain, payer.side) is Kind.EXPIRE
    assert spent(payer.chain, payer.side, by_outpoint=False) is Kind.EXPIRE


def test_a_channel_without_an_anchor_shows_nothing() -> None:
    side = replace(payer_of([]).side, anchor=None)
    facts = look(side, View(Height(TIP)))
    assert (facts.deposit, facts.spend, facts.funded) == (None, None, False)


# What is asked ------------------------------------------------------------------------------------------------------


def test_while_a_connection_is_open_only_the_anchor_is_asked_for() -> None:
    for party in (payer_of([300]), honest_payee([300])):
        anchor = party.side.anchor
        assert anchor is not None
        facts = party.chain.facts(party.side, closing=False)
        for known in (None, facts):
            wanted = questions(party.side, known)
            assert wanted == Questions((anchor.outpoint.txid,), (anchor.outpoint,))


def test_who_can_not_ask_by_outpoint_asks_for_the_txids_of_all_commits_closes_and_what_it_sent() -> None:
    payer = payer_of([300, 500], [500])
    agreed(payer, 250)
    anchor = payer.side.anchor
    assert anchor is not None
    wanted = questions(payer.side, by_outpoint=False)
    drafts = [commit_draft(anchor, 300), commit_draft(anchor, 500), compose_close(CONTRACT, anchor, 250)]
    assert wanted.txids == (anchor.outpoint.txid, *(draft.txid for draft in drafts))
    assert (wanted.outpoints, wanted.scripts) == ((), ())


def test_coins_are_asked_for_where_the_payer_may_take_them() -> None:
    payer = payer_of([300, 500], [500])

    def scripts(*, closing: bool = True) -> tuple[bytes, ...]:
        return questions(payer.side, payer.chain.facts(payer.side), closing=closing).scripts

    assert scripts() == ()
    payer.chain.tip = EXPIRY.height
    assert scripts() == (SCRIPT,)
    assert scripts(closing=False) == ()
    payer.chain.tip = EXPIRY.height - 500
    assert payer.side.anchor is not None
    payer.chain.submit(commit_draft(payer.side.anchor, 500))
    assert scripts() == ()
    payer.act()
    there = CONTRACT.commit_script(hashed("commit 500")).output
    assert scripts() == (there,)
    payer.chain.mine()
    assert set(scripts()) == {SCRIPT, there}

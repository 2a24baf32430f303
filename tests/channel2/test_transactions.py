"""Sizes, fees and the deposit's budget: what is composed can be paid for, relayed and read by Counterparty."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pytest
from bitcoin.core import CTransaction
from channel2_support import (
    ASSET,
    PAYEE,
    PAYER,
    SPEND_SECRET,
    Ledger,
    deposit_script,
    hashed,
    judge,
    kernel_accepts,
    key,
    parsed,
    purse,
    secret,
    signed_spend,
    size_of,
    wallet_coin,
    wallet_script,
)
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel.counterparty import is_address, pack_send, read_transaction, unpack_send
from picopayments_cli.channel.values import MAX_QUANTITY, Outpoint, hash160
from picopayments_cli.channel2.keys import Key
from picopayments_cli.channel2.scripts import (
    CommitScript,
    DepositScript,
    change_unlock,
    expire_unlock,
    payout_unlock,
    push,
    revoke_unlock,
    wallet_unlock,
)
from picopayments_cli.channel2.transactions import (
    CHANGE_SIZE,
    COMMIT_SIZE,
    DUST,
    MAX_COMMIT_RATE,
    PAYOUT_SIZE,
    Anchor,
    Budget,
    Draft,
    Input,
    Output,
    Purse,
    check_deposit,
    commit_rate,
    compose_commit,
    compose_deposit,
    compose_payment,
    compose_recovery,
    compose_send,
    draft_size,
    finish_commit,
    output_of,
    parse_transaction,
)
from picopayments_cli.errors import BadDeposit, BadPreviousTransaction, InsufficientBitcoin

LONGEST_EXPIRE, LONGEST_DELAY = 65535, 2016
DEPOSIT = deposit_script(LONGEST_EXPIRE)
COMMIT = CommitScript(PAYER.pubkey, PAYEE.pubkey, hashed("spend"), hashed("one"), LONGEST_DELAY)
WALLET = wallet_unlock(PAYER.pubkey, wallet_script(PAYER))
RATES = st.integers(5, 100)


def outpoint(number: int) -> Outpoint:
    return Outpoint(hashlib.sha256(number.to_bytes(8, "big")).digest(), number % 4)


def ordered(number: int) -> Outpoint:
    """An outpoint that sorts by its number."""
    return Outpoint(bytes([number]) * 32, 0)


def filled(values: Sequence[int], rate: int) -> Purse:
    """The payer's wallet with coins of these values."""
    return purse(PAYER, rate, [wallet_coin(outpoint(number), value) for number, value in enumerate(values)])


def all_signed(draft: Draft, key: Key) -> CTransaction:
    """The transaction signed, with every wallet input judged and the fee as the draft says."""
    tx = draft.signed(key)
    judge(tx.serialize(), [Output(coin.value, coin.unlock.script) for coin in draft.inputs])
    return tx


# Sizes --------------------------------------------------------------------------------------------------------------


def recoveries(deposit: DepositScript, commit: CommitScript, value: int = 100_000) -> dict[str, Draft]:
    """A recovery of each kind, as its owner makes it."""
    coins = {
        "payout": (Input(outpoint(1), value, payout_unlock(commit, SPEND_SECRET), commit.delay), PAYEE, 2),
        "revoke": (Input(outpoint(1), value, revoke_unlock(commit, secret("one"))), PAYER, 1),
        "change": (Input(outpoint(1), value, change_unlock(deposit, SPEND_SECRET)), PAYER, 1),
        "expire": (Input(outpoint(1), value, expire_unlock(deposit), deposit.expire), PAYER, 2),
    }
    return {
        name: compose_recovery([coin], purse(owner, 1), ASSET, version)
        for name, (coin, owner, version) in coins.items()
    }


def test_the_sizes_that_deposits_are_budgeted_by_are_the_worst() -> None:
    anchor = Anchor(outpoint(0), Budget(5).anchor)
    worst = recoveries(DEPOSIT, COMMIT)
    assert size_of(compose_commit(anchor, DEPOSIT, COMMIT, ASSET, MAX_QUANTITY, Budget(5))) == COMMIT_SIZE
    assert (size_of(worst["payout"]), size_of(worst["revoke"])) == (PAYOUT_SIZE, PAYOUT_SIZE)
    assert (size_of(worst["change"]), size_of(worst["expire"])) == (CHANGE_SIZE, 379)


@given(st.integers(1, 2**250), st.integers(1, 65535), st.integers(1, 2016), st.integers(1, MAX_QUANTITY))
def test_nothing_signed_is_larger_than_was_paid_for(seed: int, expire: int, delay: int, quantity: int) -> None:
    payer, payee = (Key(hashlib.sha256(name + seed.to_bytes(32, "big")).digest()) for name in (b"payer", b"payee"))
    deposit = DepositScript(payer.pubkey, payee.pubkey, hashed("spend"), expire)
    commit = CommitScript(payer.pubkey, payee.pubkey, hashed("spend"), hashed("one"), delay)
    for name, draft in recoveries(deposit, commit).items():
        size = len(draft.signed(payee if name == "payout" else payer).serialize())
        assert size <= size_of(draft) <= size + 10  # far shorter signatures are rare
        assert draft.fee == size_of(draft)
    anchor = Anchor(outpoint(seed % 1000), Budget(5).anchor)
    draft = compose_commit(anchor, deposit, commit, ASSET, quantity, Budget(5))
    half = draft.signed(payer)
    signature = bytes(half.vin[0].scriptSig)[2 : 2 + half.vin[0].scriptSig[1]]
    whole = len(finish_commit(draft, deposit, signature, payee).serialize())
    assert len(half.serialize()) <= size_of(draft) <= COMMIT_SIZE
    assert whole <= size_of(draft) <= whole + 20
    assert whole <= draft.fee // 5


def test_sizes_with_many_inputs_and_outputs() -> None:
    for count in (1, 2, 252, 253, 300):
        coins = tuple(Input(outpoint(number), 1000, WALLET) for number in range(count))
        draft = Draft(coins, tuple(Output(600, WALLET.script) for _ in range(count)))
        size = len(draft.with_signatures([bytes(72)] * count).serialize())
        assert size_of(draft) == size == draft_size([WALLET] * count, [25] * count)


# The deposit's budget -----------------------------------------------------------------------------------------------


def test_commit_rates_are_thrice_the_estimate_within_bounds() -> None:
    assert [commit_rate(estimate) for estimate in (0, 1, 2, 10, 33, 34, 1000)] == [5, 5, 6, 30, 99, 100, 100]
    assert commit_rate(10**6) == MAX_COMMIT_RATE


@pytest.mark.parametrize("rate", [*range(5, 101, 5), 6, 7, 99])
def test_a_deposit_pays_for_commit_payout_and_change(rate: int) -> None:
    """With nothing added by the wallet: what the commit leaves suffices for both recoveries, exactly at worst."""
    budget = Budget(rate)
    anchor = Anchor(outpoint(0), budget.anchor)
    assert budget.recovery_rate == rate // 3
    draft = compose_commit(anchor, DEPOSIT, COMMIT, ASSET, 700, budget)
    assert draft.fee == budget.commit_fee >= rate * size_of(draft)
    half = draft.signed(PAYER)
    signature = bytes(half.vin[0].scriptSig)[2 : 2 + half.vin[0].scriptSig[1]]
    tx = finish_commit(draft, DEPOSIT, signature, PAYEE)
    judge(tx.serialize(), [Output(anchor.value, DEPOSIT.output)])
    ledger = Ledger({DEPOSIT.output: 1000})
    assert ledger.apply(tx, DEPOSIT.output) == 700

    commit_out, _, change_out = (Output(out.nValue, bytes(out.scriptPubKey)) for out in tx.vout)
    assert commit_out.value == budget.commit_value
    payout = Input(Outpoint(tx.GetTxid(), 0), commit_out.value, payout_unlock(COMMIT, SPEND_SECRET), LONGEST_DELAY)
    change = Input(Outpoint(tx.GetTxid(), 2), change_out.value, change_unlock(DEPOSIT, SPEND_SECRET))
    for coin, owner, version, spent in ((payout, PAYEE, 2, commit_out), (change, PAYER, 1, change_out)):
        recovery = compose_recovery([coin], purse(owner, budget.recovery_rate), ASSET, version)
        assert recovery.outputs[0].value == DUST
        ledger.apply(signed_spend(recovery, owner, spent), spent.script)
        with pytest.raises(InsufficientBitcoin):
            compose_recovery([coin], purse(owner, budget.recovery_rate + 1), ASSET, version)
    assert (ledger.balance(wallet_script(PAYEE)), ledger.balance(wallet_script(PAYER))) == (700, 300)


def test_an_anchor_too_small_for_a_commit_makes_none() -> None:
    budget = Budget(5)
    least = budget.commit_fee + budget.commit_value + DUST
    assert compose_commit(Anchor(outpoint(0), least), DEPOSIT, COMMIT, ASSET, 1, budget).outputs[2].value == DUST
    with pytest.raises(BadDeposit) as refused:
        compose_commit(Anchor(outpoint(0), least - 1), DEPOSIT, COMMIT, ASSET, 1, budget)
    assert refused.value.data == {"anchor": least - 1, "needed": budget.anchor}


# From the wallet ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 120_000), max_size=8), RATES, st.integers(1, 50))
def test_a_deposit_takes_what_coins_it_needs_and_is_as_agreed(values: list[int], commits: int, rate: int) -> None:
    budget = Budget(commits)
    try:
        draft = compose_deposit(filled(values, rate), DEPOSIT, ASSET, 1000, budget)
    except InsufficientBitcoin as error:
        refused = error.data
        assert refused["available"] == sum(values) < refused["needed"]
        assert refused["needed"] >= budget.anchor + DUST + DUST
        return
    anchor, data, change, spare = draft.outputs
    assert (anchor, spare) == (Output(budget.anchor, DEPOSIT.output), Output(DUST, DEPOSIT.output))
    assert (data.value, change.script) == (0, WALLET.script)
    assert change.value >= DUST
    assert draft.fee == rate * size_of(draft)
    chosen = sorted((coin.value for coin in draft.inputs), reverse=True)
    assert chosen == sorted(values, reverse=True)[: len(chosen)]
    spared = draft_size([WALLET] * (len(chosen) - 1), [len(out.script) for out in draft.outputs])
    assert len(chosen) == 1 or sum(chosen[:-1]) - budget.anchor - DUST - rate * spared < DUST
    assert len({coin.outpoint for coin in draft.inputs}) == len(chosen)


@pytest.mark.parametrize("values", [[200_000], [20_000, 30_000, 4_000, 9_000], [1000] * 60])
def test_a_deposit_is_accepted_by_its_payee_and_read_by_counterparty(values: list[int]) -> None:
    budget = Budget(5)
    draft = compose_deposit(filled(values, 5), DEPOSIT, ASSET, 1000, budget)
    tx = all_signed(draft, PAYER)
    assert kernel_accepts(tx.serialize(), [Output(coin.value, WALLET.script) for coin in draft.inputs])
    assert len(tx.serialize()) <= size_of(draft)
    anchor = check_deposit(tx, DEPOSIT, ASSET, 1000, budget)
    assert anchor == Anchor(Outpoint(tx.GetTxid(), 0), budget.anchor)
    reading = read_transaction(tx, wallet_script(PAYER))
    assert reading is not None
    assert (reading.source, reading.destinations) == (wallet_script(PAYER), (DEPOSIT.output,))
    assert reading.btc_amount == budget.anchor
    send = unpack_send(reading.message or b"")
    assert send is not None
    assert (send.asset_id, send.quantity, send.destination) == (ASSET, 1000, None)


def test_a_send_pays_exactly_and_says_what_is_missing() -> None:
    target = Output(10_000, wallet_script(PAYEE))
    fee = 3 * draft_size([WALLET], [25, 30, 25])
    enough = 10_000 + fee + DUST
    draft = compose_send(filled([enough], 3), target, pack_send(ASSET, 5))
    assert [out.value for out in draft.outputs] == [10_000, 0, DUST]
    ledger = Ledger({WALLET.script: 7})
    assert ledger.apply(all_signed(draft, PAYER), WALLET.script) == 5
    assert ledger.balance(target.script) == 5
    with pytest.raises(InsufficientBitcoin) as refused:
        compose_send(filled([enough - 1], 3), target, pack_send(ASSET, 5))
    assert refused.value.data == {"needed": enough, "available": enough - 1}
    with pytest.raises(InsufficientBitcoin) as refused:
        compose_send(filled([], 3), target, pack_send(ASSET, 5))
    assert refused.value.data == {"needed": enough, "available": 0}


@pytest.mark.parametrize("message", [pack_send(ASSET, 5), None])
def test_a_send_or_a_payment_leaves_the_reserve_to_the_satoshi(message: bytes | None) -> None:
    target = Output(10_000, wallet_script(PAYEE))
    enough = 10_000 + 3 * draft_size([WALLET], [25, 30, 25] if message else [25, 25]) + 20_000

    def composed(value: int) -> Draft:
        wallet = replace(filled([value], 3), reserve=20_000)
        return compose_payment(wallet, target) if message is None else compose_send(wallet, target, message)

    assert sum(out.value for out in composed(enough).outputs[1:]) == 20_000
    with pytest.raises(InsufficientBitcoin) as refused:
        composed(enough - 1)
    assert refused.value.data == {"needed": enough, "available": enough - 1}
    assert "20000 of which must stay in the wallet for fees that can't wait" in refused.value.message


def test_the_message_is_encrypted_for_the_first_input_whatever_the_order_of_the_coins() -> None:
    wallet = filled([9000, 8000, 7000, 6000], 1)
    drafts = [
        compose_send(replace(wallet, coins=given_order), Output(20_000, PAYEE_SCRIPT), pack_send(ASSET, 5))
        for given_order in (wallet.coins, wallet.coins[::-1])
    ]
    assert drafts[0] == drafts[1]
    assert len(drafts[0].inputs) == 3
    assert Ledger({WALLET.script: 9}).apply(all_signed(drafts[0], PAYER), WALLET.script) == 5


def test_coins_of_one_value_are_taken_in_the_order_of_their_outpoints() -> None:
    wallet = purse(PAYER, 1, [wallet_coin(ordered(number), 5000) for number in (3, 1, 2)])
    target = Output(8000, wallet_script(PAYEE))
    draft = compose_send(wallet, target, b"message")
    assert [coin.outpoint for coin in draft.inputs] == [ordered(1), ordered(2)]
    paid = compose_payment(wallet, target)
    assert [coin.outpoint for coin in paid.inputs] == [ordered(1), ordered(2)]
    larger = purse(PAYER, 1, [wallet_coin(ordered(1), 5000), wallet_coin(ordered(2), 90_000)])
    assert [coin.outpoint for coin in compose_payment(larger, target).inputs] == [ordered(2)]


def test_a_plain_payment_pays_exactly_and_returns_the_rest() -> None:
    target = Output(DUST, wallet_script(PAYEE))

    def paid(value: int, rate: int = 3) -> tuple[Output, ...]:
        draft = compose_payment(purse(PAYER, rate, [wallet_coin(ordered(1), value)]), target)
        assert draft.fee == rate * size_of(draft)
        assert draft.version == 1
        return draft.outputs

    fee = 3 * draft_size([WALLET], [25, 25])
    assert paid(10_000) == (target, Output(10_000 - DUST - fee, WALLET.script))
    assert paid(2 * DUST + fee)[1].value == DUST
    with pytest.raises(InsufficientBitcoin) as caught:
        paid(2 * DUST + fee - 1)
    assert caught.value.data["available"] == 2 * DUST + fee - 1


def test_a_purse_can_leave_out_the_coins_that_a_draft_spends() -> None:
    one, two = wallet_coin(ordered(1), 5000), wallet_coin(ordered(2), 4000)
    wallet = Purse(WALLET, (one, two), 1, 700)
    draft = compose_payment(wallet, Output(DUST, wallet_script(PAYEE)))
    assert wallet.without(draft) == replace(wallet, coins=(two,))
    assert wallet.without_coins() == replace(wallet, coins=())
    assert key("payer").pubkey == PAYER.pubkey


def test_a_wallets_coin_is_unlocked_by_signature_and_key_alone() -> None:
    signature = PAYER.sign(bytes(32)) + b"\x01"
    unlock = wallet_unlock(PAYER.pubkey, wallet_script(PAYER))
    assert unlock.script_sig(signature) == push(signature) + push(PAYER.pubkey)


PAYEE_SCRIPT = wallet_script(PAYEE)


# Recoveries ---------------------------------------------------------------------------------------------------------


def test_a_recovery_takes_all_of_the_asset_and_all_the_coins() -> None:
    spent = [Output(value, DEPOSIT.output) for value in (600, 30_000, 700)]
    unlock = change_unlock(DEPOSIT, SPEND_SECRET)
    coins = [Input(outpoint(number), out.value, unlock) for number, out in enumerate(spent)]
    draft = compose_recovery(coins, purse(PAYER, 4), ASSET)
    tx = draft.signed(PAYER)
    judge(tx.serialize(), spent)
    assert kernel_accepts(tx.serialize(), spent)
    assert draft.fee == 4 * size_of(draft) == 31_300 - tx.vout[0].nValue
    ledger = Ledger({DEPOSIT.output: MAX_QUANTITY, b"elsewhere": 3})
    assert ledger.apply(tx, DEPOSIT.output) == MAX_QUANTITY
    assert ledger.balance(wallet_script(PAYER)) == MAX_QUANTITY


def test_a_recovery_leaves_dust_or_is_refused_with_its_numbers() -> None:
    fee = 7 * size_of(recoveries(DEPOSIT, COMMIT)["change"])

    def recovered(held: int) -> Draft:
        coin = Input(outpoint(1), held, change_unlock(DEPOSIT, SPEND_SECRET))
        return compose_recovery([coin], purse(PAYER, 7), ASSET)

    assert recovered(fee + DUST).outputs[0].value == DUST
    with pytest.raises(InsufficientBitcoin) as refused:
        recovered(fee + DUST - 1)
    assert refused.value.data == {"needed": fee + DUST, "available": fee + DUST - 1}


@pytest.mark.parametrize("name", ["payout", "expire"])
def test_a_relative_lock_one_block_short_or_in_version_1_is_refused(name: str) -> None:
    """By script alone: the kernel refuses what does not commit to the age that the script asks for."""
    draft = recoveries(DEPOSIT, COMMIT)[name]
    owner = PAYEE if name == "payout" else PAYER
    (coin,) = draft.inputs
    spent = [Output(coin.value, hash_output(coin))]
    assert kernel_accepts(draft.signed(owner).serialize(), spent)
    for sequence, version in ((coin.sequence - 1, 2), (coin.sequence, 1), (0xFFFFFFFF, 2), (0xFFFFFFFD, 2)):
        early = Draft((Input(coin.outpoint, coin.value, coin.unlock, sequence),), draft.outputs, version)
        assert not kernel_accepts(early.signed(owner).serialize(), spent)


def hash_output(coin: Input) -> bytes:
    """The P2SH output that a coin's redeem script unlocks."""
    return b"\xa9\x14" + hash160(coin.unlock.script) + b"\x87"


@pytest.mark.parametrize("name", ["payout", "revoke", "change", "expire"])
def test_each_recovery_is_its_owners_alone(name: str) -> None:
    draft = recoveries(DEPOSIT, COMMIT)[name]
    owner, other = (PAYEE, PAYER) if name == "payout" else (PAYER, PAYEE)
    spent = [Output(draft.inputs[0].value, hash_output(draft.inputs[0]))]
    assert is_address(spent[0].script)
    assert kernel_accepts(draft.signed(owner).serialize(), spent)
    assert not kernel_accepts(draft.signed(other).serialize(), spent)


def test_a_recovery_with_another_secret_is_refused() -> None:
    for unlock, owner, sequence, version in (
        (payout_unlock(COMMIT, secret("other")), PAYEE, LONGEST_DELAY, 2),
        (revoke_unlock(COMMIT, SPEND_SECRET), PAYER, 0xFFFFFFFD, 1),
        (change_unlock(DEPOSIT, secret("one")), PAYER, 0xFFFFFFFD, 1),
    ):
        coin = Input(outpoint(1), 100_000, unlock, sequence)
        tx = compose_recovery([coin], purse(owner, 1), ASSET, version).signed(owner)
        assert not kernel_accepts(tx.serialize(), [Output(100_000, hash_output(coin))])


# Previous transactions ----------------------------------------------------------------------------------------------


def test_a_value_counts_only_out_of_the_bytes_that_hash_to_the_txid() -> None:
    tx = compose_send(filled([50_000], 1), Output(9_000, PAYEE_SCRIPT), b"m" * 20).signed(PAYER)
    raw, txid = tx.serialize(), tx.GetTxid()
    assert output_of(raw, Outpoint(txid, 0)) == Output(9_000, PAYEE_SCRIPT)
    assert output_of(raw, Outpoint(txid, 2)).script == WALLET.script
    dearer = bytearray(raw)
    at = raw.index((9_000).to_bytes(8, "little"))
    dearer[at] += 1
    assert parsed(bytes(dearer)).vout[0].nValue == 9_001
    for given_raw, wanted in (
        (bytes(dearer), Outpoint(txid, 0)),
        (raw, Outpoint(txid, 3)),
        (raw, Outpoint(txid[::-1], 0)),
        (raw + b"\x00", Outpoint(txid, 0)),
        (b"", Outpoint(txid, 0)),
    ):
        with pytest.raises(BadPreviousTransaction):
            output_of(given_raw, wanted)


def test_a_transaction_has_one_serialisation() -> None:
    raw = compose_send(filled([50_000], 1), Output(9_000, PAYEE_SCRIPT), b"m").signed(PAYER).serialize()
    assert raw[4] == 1
    long_count = raw[:4] + b"\xfd\x01\x00" + raw[5:]
    empty_witness = raw[:4] + b"\x00\x01" + raw[4:-4] + b"\x00" + raw[-4:]
    assert parse_transaction(raw) is not None
    for broken in (long_count, empty_witness, raw[:-1], raw + b"\x00"):
        assert parse_transaction(broken) is None

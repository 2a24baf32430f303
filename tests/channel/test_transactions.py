"""Every row of the table of transactions: shape, numbers, sizes, satoshis, and what Counterparty reads in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from bitcoin.core import CTransaction, CTxOut
from bitcoin.core.script import CScript
from channel_support import (
    ASSET,
    CONTRACT,
    DEPOSIT,
    ONE,
    OTHER_ASSET,
    PAYEE,
    PAYEE_WALLET,
    PAYER,
    PAYER_WALLET,
    SEGWIT,
    anchor_of,
    coin,
    compose_child,
    compose_expire,
    compose_revoke,
    hashed,
    kernel_accepts,
    legacy,
    purse,
    secret,
    segwit,
    vsize,
)
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel.counterparty import data_script, message_of, p2sh, pack_send, unpack_send
from picopayments_cli.channel.drafts import DUST, REPLACEABLE, Draft, Input, Output, coin_of, parse_transaction
from picopayments_cli.channel.keys import NUMS
from picopayments_cli.channel.scripts import P2A, CommitScript, DepositScript, pays_to, push_number
from picopayments_cli.channel.signing import (
    ALL_ANYONECANPAY,
    finish_alone,
    finish_both,
    finish_wallet,
    sign_leaf,
)
from picopayments_cli.channel.transactions import (
    CLOSE_SIZE,
    COMMIT_SIZE,
    PAYOUT_SIZE,
    Contract,
    check_deposit,
    compose_close,
    compose_commit,
    compose_deposit,
    compose_payout,
    compose_remainder,
    compose_rest,
    compose_send,
    deposit_size,
)
from picopayments_cli.channel.values import MAX_QUANTITY, Coin, Hash, Outpoint, Quantity
from picopayments_cli.errors import (
    BadCommitQuantity,
    BadDeposit,
    BadPreviousTransaction,
    BadWalletScript,
    InsufficientBitcoin,
    InvalidTime,
)

RATES = st.integers(1, 100)
MAX = MAX_QUANTITY


def sent(draft: Draft) -> tuple[int, int]:
    """The asset and quantity of the classic send in a transaction, as keyed by its first input."""
    message = message_of(draft.outputs[1].script, draft.inputs[0].coin.outpoint.txid)
    send = unpack_send(message or b"")
    assert send is not None
    assert send.destination is None
    assert draft.outputs[1].value == 0
    return send.asset_id, send.quantity


def of(contract: Contract, quantity: int = 300) -> dict[str, Draft]:
    """One transaction of each row, as the contract makes it with its least anchor."""
    anchor = anchor_of(contract)
    commit = compose_commit(contract, anchor, quantity, ONE)
    close = compose_close(contract, anchor, quantity)
    return {
        "commit": commit,
        "payout": compose_payout(contract, commit, ONE),
        "remainder": compose_remainder(contract, commit),
        "revoke": compose_revoke(contract, commit.coin(0), ONE, ASSET, purse()),
        "expire": compose_expire(contract, [anchor], ASSET, purse()),
        "close": close,
        "rest": compose_rest(contract, close),
        "close of nothing": compose_close(contract, anchor, 0),
        "close of all": compose_close(contract, anchor, contract.quantity),
    }


TABLE: dict[str, tuple[int, int, int, tuple[int, int]]] = {
    # version, locktime, sequence of the first input, message
    "commit": (3, 0, REPLACEABLE, (ASSET, 300)),
    "payout": (3, 0, 14, (ASSET, MAX)),
    "remainder": (3, 0, 1, (ASSET, MAX)),
    "revoke": (3, 0, REPLACEABLE, (ASSET, MAX)),
    "expire": (2, 900_000, REPLACEABLE, (ASSET, MAX)),
    "close": (3, 0, REPLACEABLE, (ASSET, 300)),
    "rest": (3, 0, REPLACEABLE, (ASSET, MAX)),
    "close of nothing": (3, 0, REPLACEABLE, (ASSET, MAX)),
    "close of all": (3, 0, REPLACEABLE, (ASSET, 1000)),
}


@pytest.mark.parametrize("name", TABLE)
def test_each_transaction_is_as_the_table_says(name: str) -> None:
    draft = of(CONTRACT)[name]
    (spent,) = draft.inputs
    assert (draft.version, draft.locktime, spent.sequence, sent(draft)) == TABLE[name]


OUTPUTS = {
    "commit": [(738, CONTRACT.commit_script(ONE).output), (738, DEPOSIT.output), (240, P2A)],
    "payout": [(546, CONTRACT.payee_wallet)],
    "remainder": [(546, CONTRACT.payer_wallet)],
    "revoke": [(738 - 181, CONTRACT.payer_wallet)],
    "expire": [(1973 - 168, CONTRACT.payer_wallet)],
    "close": [(546, CONTRACT.payee_wallet), (939, DEPOSIT.output), (240, P2A)],
    "rest": [(747, CONTRACT.payer_wallet)],
    "close of nothing": [(1485, CONTRACT.payer_wallet), (240, P2A)],
    "close of all": [(546, CONTRACT.payee_wallet), (939, CONTRACT.payer_wallet), (240, P2A)],
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_each_transaction_pays_whom_the_table_says_in_this_order(name: str) -> None:
    draft = of(CONTRACT)[name]
    assert draft.outputs[1].script[:1] == b"\x6a"
    paid = [(out.value, out.script) for out in (draft.outputs[0], *draft.outputs[2:])]
    assert paid == OUTPUTS[name]


def test_the_anyone_can_spend_output_is_written_as_published() -> None:
    assert P2A.hex() == "51024e73"


# Sizes and satoshis -------------------------------------------------------------------------------------------------

SIZES = {"commit": 257, "payout": 192, "remainder": 192, "revoke": 181, "expire": 168, "close": 248, "rest": 192}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_the_stated_ones(name: str) -> None:
    assert (COMMIT_SIZE, PAYOUT_SIZE, CLOSE_SIZE) == (257, 192, 248)
    draft = of(CONTRACT)[name]
    assert draft.size == SIZES[name]
    assert draft.fee == SIZES[name]  # at 1 sat/vB
    assert of(replace(CONTRACT, rate=7))[name].fee == (7 if name not in ("revoke", "expire") else 1) * SIZES[name]


def signed(name: str, draft: Draft) -> bytes:
    """A transaction as its publisher signs it."""
    halves = {
        "payout": (sign_leaf(draft, PAYER, ALL_ANYONECANPAY), sign_leaf(draft, PAYEE)),
        "remainder": (sign_leaf(draft, PAYER), sign_leaf(draft, PAYEE, ALL_ANYONECANPAY)),
        "rest": (sign_leaf(draft, PAYER), sign_leaf(draft, PAYEE, ALL_ANYONECANPAY)),
    }
    if name in ("revoke", "expire"):
        return finish_alone(draft, PAYER, secret=secret("one") if name == "revoke" else None)
    return finish_both(draft, *halves.get(name, (sign_leaf(draft, PAYER), sign_leaf(draft, PAYEE))))


@pytest.mark.parametrize("name", TABLE)
def test_nothing_signed_is_larger_than_was_paid_for(name: str) -> None:
    """Signatures of 65 bytes are counted, of which the payee's and one's own have 64: a byte of size at most."""
    draft = of(CONTRACT)[name]
    raw = signed(name, draft)
    assert kernel_accepts(raw, draft)
    assert draft.size - 1 <= vsize(raw, draft) <= draft.size
    tx = parse_transaction(raw)
    assert tx is not None
    assert tx.GetTxid() == draft.txid


@pytest.mark.parametrize("name", TABLE)
def test_the_first_word_of_the_first_witness_is_a_signature_that_counterparty_takes(name: str) -> None:
    """It looks at nothing else: 64 bytes count as ALL, 65 must end in 01 or 81."""
    tx = parse_transaction(signed(name, of(CONTRACT)[name]))
    assert tx is not None
    word = bytes(tx.wit.vtxinwit[0].scriptWitness.stack[0])
    assert (len(word), word[64:]) == ((65, b"\x81") if name == "payout" else (64, b""))


def test_a_p2wpkh_wallet_makes_nothing_larger() -> None:
    assert all(of(SEGWIT)[name].size <= of(CONTRACT)[name].size for name in TABLE)


@pytest.mark.parametrize(("rate", "anchor"), [(1, 1973), (5, 4537), (50, 33_382)])
def test_the_least_anchor_pays_for_everything_and_leaves_no_dust(rate: int, anchor: int) -> None:
    contract = replace(CONTRACT, rate=rate)
    assert contract.budget.anchor == anchor == 257 * rate + 240 + 2 * (546 + 192 * rate)
    for name, draft in of(contract).items():
        assert all(out.value >= DUST for out in draft.outputs if out.script not in (P2A, draft.outputs[1].script))
        if name not in ("revoke", "expire"):
            assert draft.fee >= rate * draft.size
    (payout, remainder) = (of(contract)[name].outputs[0].value for name in ("payout", "remainder"))
    assert (payout, remainder) == (DUST, DUST)


@given(RATES, st.integers(0, 10_000), st.integers(1, 1000))
def test_no_satoshi_is_lost_whatever_the_rate_and_the_anchor(rate: int, more: int, quantity: int) -> None:
    contract = replace(CONTRACT, rate=rate)
    budget, anchor = contract.budget, anchor_of(contract, more)
    commit = compose_commit(contract, anchor, quantity, ONE)
    payout, remainder = compose_payout(contract, commit, ONE), compose_remainder(contract, commit)
    assert (commit.fee, payout.fee, remainder.fee) == (257 * rate, 192 * rate, 192 * rate)
    assert payout.outputs[0].value == DUST
    assert remainder.outputs[0].value == DUST + more
    close = compose_close(contract, anchor, quantity)
    assert close.fee == 248 * rate
    assert budget.anchor + more == sum(out.value for out in close.outputs) + close.fee
    if quantity < contract.quantity:
        assert compose_rest(contract, close).outputs[0].value >= DUST + more


@pytest.mark.parametrize("rate", [1, 5, 50])
def test_an_anchor_one_satoshi_short_makes_nothing(rate: int) -> None:
    contract = replace(CONTRACT, rate=rate)
    short = anchor_of(contract, -1)
    makers: list[Callable[[], Any]] = [lambda: compose_commit(contract, short, 1, ONE)]
    makers += [lambda q=q: compose_close(contract, short, q) for q in (0, 1, 1000)]  # type: ignore[misc]
    for make in makers:
        with pytest.raises(BadDeposit) as refused:
            make()
        assert refused.value.data == {"anchor": short.value, "needed": short.value + 1}


def test_an_anchor_on_another_address_makes_nothing() -> None:
    elsewhere = replace(anchor_of(CONTRACT), script=replace(DEPOSIT, height=7).output)
    with pytest.raises(ValueError, match="does not lie on"):
        compose_commit(CONTRACT, elsewhere, 1, ONE)
    with pytest.raises(ValueError, match="does not lie on"):
        compose_close(CONTRACT, elsewhere, 1)


# Limits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantity", [-1, 0, 1001, MAX])
def test_a_commit_moves_something_and_not_more_than_the_deposit(quantity: int) -> None:
    with pytest.raises(BadCommitQuantity) as refused:
        compose_commit(CONTRACT, anchor_of(CONTRACT), quantity, ONE)
    assert refused.value.data == {"quantity": quantity, "deposit": 1000}


@pytest.mark.parametrize("quantity", [-1, 1001])
def test_a_close_moves_at_most_the_deposit(quantity: int) -> None:
    with pytest.raises(BadCommitQuantity):
        compose_close(CONTRACT, anchor_of(CONTRACT), quantity)


def test_the_largest_quantity_fits() -> None:
    contract = replace(CONTRACT, quantity=Quantity(MAX))
    assert sent(compose_commit(contract, anchor_of(contract), MAX, ONE)) == (ASSET, MAX)


@pytest.mark.parametrize("delay", [-1, 0, 1, 2017])
def test_a_delay_outside_its_bounds_is_refused(delay: int) -> None:
    with pytest.raises(InvalidTime):
        replace(CONTRACT, delay=delay)


@pytest.mark.parametrize("delay", [2, 2016])
def test_the_delay_is_the_payouts_sequence(delay: int) -> None:
    assert of(replace(CONTRACT, delay=delay))["payout"].inputs[0].sequence == delay


@pytest.mark.parametrize("height", [-1, 0, 500_000_000, 2**32])
def test_an_expiry_that_is_no_height_is_refused(height: int) -> None:
    with pytest.raises(InvalidTime):
        replace(DEPOSIT, height=height)


@pytest.mark.parametrize("script", [b"", DEPOSIT.output, p2sh(bytes(20)), P2A, b"\x00\x20" + bytes(32), bytes(25)])
def test_a_wallet_of_another_kind_is_refused(script: bytes) -> None:
    with pytest.raises(BadWalletScript):
        replace(CONTRACT, payer_wallet=script)
    with pytest.raises(BadWalletScript):
        replace(CONTRACT, payee_wallet=script)


@pytest.mark.parametrize("size", [0, 19, 21, 32])
def test_a_revoke_hash_has_20_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="revoke hash"):
        compose_commit(CONTRACT, anchor_of(CONTRACT), 1, Hash(bytes(size)))


# Scripts ------------------------------------------------------------------------------------------------------------


def test_the_scripts_are_written_as_the_design_says() -> None:
    payer, payee = PAYER.xonly.data.hex(), PAYEE.xonly.data.hex()
    both = f"20{payee}ad20{payer}ac"
    assert DEPOSIT.both.script.hex() == both
    assert DEPOSIT.expire.script.hex() == f"03a0bb0db17520{payer}ac"
    commit = CommitScript(PAYER.xonly, PAYEE.xonly, ONE)
    assert commit.both.script.hex() == both
    assert commit.revoke.script.hex() == f"a914{ONE.hex()}8820{payer}ac"
    for leaf in (DEPOSIT.both, DEPOSIT.expire, commit.both, commit.revoke):
        assert len(leaf.control) == 65
        assert leaf.control[0] in (0xC0, 0xC1)
        assert leaf.control[1:33] == NUMS.data
    assert DEPOSIT.both.control[33:] == DEPOSIT.expire.hash


def test_the_smallest_numbers_are_pushed_by_an_opcode() -> None:
    pushed = [push_number(number).hex() for number in (0, 1, 15, 16, 17, 127, 128, 255, 256)]
    assert pushed == ["00", "51", "5f", "60", "0111", "017f", "028000", "02ff00", "020001"]


@given(st.integers(0, 2**31 - 1))
def test_a_number_is_pushed_as_short_as_can_be(number: int) -> None:
    """As the rule of minimal pushes reads it: no byte more than sign and value need."""
    pushed = push_number(number)
    if number <= 16:
        assert pushed == (bytes((0x50 + number,)) if number else b"\x00")
        return
    assert pushed[0] == len(pushed) - 1
    assert int.from_bytes(pushed[1:], "little") == number
    assert pushed[-1] < 0x80
    assert pushed[-1] or pushed[-2] >= 0x80


@given(st.sampled_from([1, 16, 17, 127, 128, 255, 256, 32767, 32768, 8_388_607, 8_388_608, 499_999_999]))
def test_an_expiry_of_any_height_can_be_spent_at_it_and_not_before(height: int) -> None:
    contract = replace(CONTRACT, deposit=replace(DEPOSIT, height=height))
    draft = compose_expire(contract, [anchor_of(contract)], ASSET, purse())
    assert draft.locktime == height
    assert kernel_accepts(finish_alone(draft, PAYER), draft)
    for broken in (replace(draft, locktime=height - 1), with_sequence(draft, 0xFFFFFFFF)):
        assert not kernel_accepts(finish_alone(broken, PAYER), broken)


def with_sequence(draft: Draft, sequence: int) -> Draft:
    return replace(draft, inputs=(replace(draft.inputs[0], sequence=sequence), *draft.inputs[1:]))


def test_each_value_of_a_script_makes_another_address() -> None:
    others: list[DepositScript | CommitScript] = [
        DEPOSIT,
        replace(DEPOSIT, height=900_001),
        DepositScript(PAYEE.xonly, PAYER.xonly, 900_000),
        CommitScript(PAYER.xonly, PAYEE.xonly, ONE),
        CommitScript(PAYEE.xonly, PAYER.xonly, ONE),
        CommitScript(PAYER.xonly, PAYEE.xonly, hashed("two")),
    ]
    assert len({script.output for script in others}) == len(others)


# The deposit --------------------------------------------------------------------------------------------------------


def deposit_of(contract: Contract, rate: int = 3) -> tuple[Draft, CTransaction]:
    """A deposit from the payer's wallet, signed."""
    draft = compose_deposit(contract, purse([1000, 2000, 1500], rate, contract.payer_wallet))
    raw = finish_wallet(draft, PAYER_WALLET)
    assert kernel_accepts(raw, draft)
    return draft, CTransaction.deserialize(raw)


@pytest.mark.parametrize("contract", [CONTRACT, SEGWIT])
def test_a_deposit_is_what_its_payee_accepts(contract: Contract) -> None:
    draft, tx = deposit_of(contract)
    assert (draft.version, draft.locktime, {spent.sequence for spent in draft.inputs}) == (2, 0, {REPLACEABLE})
    anchor, _, change = draft.outputs
    assert anchor == Output(1973, DEPOSIT.output)
    assert sent(draft) == (ASSET, 1000)
    assert change.script == contract.payer_wallet
    assert change.value >= DUST
    assert draft.fee - 3 * draft.size >= 0
    assert check_deposit(contract, tx) == Coin(Outpoint(tx.GetTxid(), 0), 1973, DEPOSIT.output, None)


def rebuilt(tx: CTransaction, outputs: list[Output]) -> CTransaction:
    """A transaction with other outputs."""
    return CTransaction(tx.vin, [CTxOut(out.value, CScript(out.script)) for out in outputs], 0, 2)


def test_a_deposit_of_another_shape_is_none() -> None:
    draft, tx = deposit_of(CONTRACT)
    anchor, data, change = draft.outputs
    first = draft.inputs[0].coin.outpoint
    check_deposit(CONTRACT, rebuilt(tx, [anchor, data]))
    check_deposit(CONTRACT, rebuilt(tx, [replace(anchor, value=5000), data, change]))
    for outputs in (
        [anchor],
        [data, anchor, change],
        [anchor, change, data],
        [change, data, anchor],
        [anchor, data, change, change],
        [anchor, data, data],
        [anchor, data, Output(0, b"\x6a")],
        [replace(anchor, script=change.script), data, change],
        [replace(anchor, script=CONTRACT.commit_script(ONE).output), data, change],
        [anchor, CONTRACT.message(999, first), change],
        [anchor, CONTRACT.message(1001, first), change],
        [anchor, replace(CONTRACT, asset_id=OTHER_ASSET).message(1000, first), change],
        [anchor, CONTRACT.message(1000, Outpoint(bytes(32), 0)), change],
        [anchor, replace(data, value=1), change],
    ):
        with pytest.raises(BadDeposit):
            check_deposit(CONTRACT, rebuilt(tx, outputs))
    with pytest.raises(BadDeposit) as refused:
        check_deposit(CONTRACT, rebuilt(tx, [replace(anchor, value=1972), data, change]))
    assert refused.value.data == {"anchor": 1972, "needed": 1973}


@pytest.mark.parametrize("script", [legacy(PAYER_WALLET), segwit(PAYER_WALLET)])
def test_a_wallet_sends_with_and_without_a_message(script: bytes) -> None:
    target = Output(7_000, legacy(PAYEE_WALLET))
    for packed in (None, pack_send(ASSET, 5)):
        draft = compose_send(purse([5_000, 4_000, 90], 2, script), target, packed)
        raw = finish_wallet(draft, PAYER_WALLET)
        assert kernel_accepts(raw, draft)
        assert draft.outputs[0] == target
        assert draft.outputs[-1].script == script
        assert draft.fee >= 2 * vsize_of(raw)
        if packed is not None:
            assert draft.outputs[1].script == data_script(packed, draft.inputs[0].coin.outpoint.txid)


@pytest.mark.parametrize("script", [legacy(PAYER_WALLET), segwit(PAYER_WALLET)])
@pytest.mark.parametrize(("values", "coins"), [([100_000], 1), ([1_500, 1_500], 2)])
def test_the_size_of_a_deposit_is_known_before_it_is_made(script: bytes, values: list[int], coins: int) -> None:
    draft = compose_deposit(CONTRACT, purse(values, 1, script))
    assert (len(draft.inputs), draft.size) == (coins, deposit_size(script, coins))


def vsize_of(raw: bytes) -> int:
    tx = CTransaction.deserialize(raw)
    return (3 * len(tx.serialize({"include_witness": False})) + len(raw) + 3) // 4


# What the payer takes back alone ------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [legacy(PAYER_WALLET), segwit(PAYER_WALLET)])
def test_an_expiry_takes_all_that_lies_there_and_adds_what_the_fee_needs(script: bytes) -> None:
    coins = [coin(str(value), value, DEPOSIT.output) for value in (600, 700, 1973)]
    draft = compose_expire(CONTRACT, coins, OTHER_ASSET, purse([40_000, 25_000], 50, script))
    assert [spent.coin.value for spent in draft.inputs] == [1973, 700, 600, 25_000]
    assert sent(draft) == (OTHER_ASSET, MAX)
    assert draft.outputs[0].script == CONTRACT.payer_wallet
    raw = finish_alone(draft, PAYER, PAYER_WALLET)
    assert kernel_accepts(raw, draft)
    assert 50 * vsize_of(raw) <= draft.fee <= 50 * (vsize_of(raw) + 4)


@pytest.mark.parametrize("script", [legacy(PAYER_WALLET), segwit(PAYER_WALLET)])
def test_a_revoke_pays_for_its_commit_too_and_stays_a_child(script: bytes) -> None:
    commit = of(CONTRACT)["commit"]
    wallet = purse([5000] * 12, 20, script)
    draft = compose_revoke(CONTRACT, commit.coin(0), ONE, ASSET, wallet, commit)
    raw = finish_alone(draft, PAYER, PAYER_WALLET, secret("one"))
    assert kernel_accepts(raw, draft)
    assert draft.version == 3
    assert vsize_of(raw) <= draft.size <= 1000
    assert draft.fee + commit.fee >= 20 * (draft.size + commit.size)
    mined = compose_revoke(CONTRACT, commit.coin(0), ONE, ASSET, wallet)
    assert mined.fee < draft.fee - 19 * commit.size + 20


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_revoke_needs_the_secret_and_the_payer(name: str) -> None:
    draft = of(CONTRACT)["revoke"]
    assert kernel_accepts(finish_alone(draft, PAYER, secret=secret(name)), draft) == (name == "one")
    assert not kernel_accepts(finish_alone(draft, PAYEE, secret=secret(name)), draft)


# Children -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [legacy(PAYER_WALLET), segwit(PAYER_WALLET)])
@pytest.mark.parametrize(
    ("name", "index"),
    [("commit", 3), ("close", 3), ("close of nothing", 2), ("close of all", 3), ("remainder", 0), ("rest", 0)],
)
def test_a_child_raises_its_parent(name: str, index: int, script: bytes) -> None:
    contract = replace(CONTRACT, payer_wallet=script)
    parent = of(contract)[name]
    child = compose_child(parent, index, purse([9_000, 15_000, 60_000], 30, script))
    assert child.version == 3
    assert child.inputs[0].coin == parent.coin(index)
    assert [out.script for out in child.outputs] == [script]
    assert child.size <= 1000
    assert parent.fee + child.fee - 30 * (parent.size + child.size) >= 0
    raw = finish_wallet(child, PAYER_WALLET)
    assert vsize_of(raw) <= child.size
    assert kernel_accepts(raw, child)


def test_a_child_of_a_parent_that_pays_enough_pays_for_itself() -> None:
    parent = of(replace(CONTRACT, rate=50))["commit"]
    child = compose_child(parent, 3, purse([9_000], 2))
    assert child.fee == 2 * child.size


def test_no_child_is_larger_than_a_child_may_be() -> None:
    """Six coins of P2PKH and the P2A output are 976 vB: the seventh that this would take is not."""
    commit = of(CONTRACT)["commit"]
    child = compose_child(commit, 3, purse([10_000] * 40, 47))
    assert (len(child.inputs), child.size) == (7, 976)
    dearer = purse([10_000] * 40, 50)
    with pytest.raises(InsufficientBitcoin):
        compose_child(commit, 3, dearer)
    with pytest.raises(InsufficientBitcoin):
        compose_revoke(CONTRACT, commit.coin(0), ONE, ASSET, dearer, commit)


# Bytes --------------------------------------------------------------------------------------------------------------


def test_a_value_counts_only_out_of_the_bytes_that_hash_to_the_txid() -> None:
    _, tx = deposit_of(SEGWIT)
    raw, txid = tx.serialize(), tx.GetTxid()
    assert coin_of(raw, Outpoint(txid, 0)) == Coin(Outpoint(txid, 0), 1973, DEPOSIT.output, None)
    assert coin_of(raw, Outpoint(txid, 2)).script == SEGWIT.payer_wallet
    dearer = raw.replace((1973).to_bytes(8, "little"), (1974).to_bytes(8, "little"))
    for given_raw, wanted in (
        (dearer, Outpoint(txid, 0)),
        (raw, Outpoint(txid, 3)),
        (raw, Outpoint(txid[::-1], 0)),
        (raw + b"\x00", Outpoint(txid, 0)),
        (b"", Outpoint(txid, 0)),
    ):
        with pytest.raises(BadPreviousTransaction):
            coin_of(given_raw, wanted)


def test_a_txid_is_known_before_the_signatures_only_where_they_are_witnesses() -> None:
    draft, tx = deposit_of(SEGWIT)
    assert draft.txid == tx.GetTxid()
    draft, _ = deposit_of(CONTRACT)
    with pytest.raises(ValueError, match="P2PKH"):
        _ = draft.txid


def test_only_ones_own_coins_are_signed() -> None:
    draft = compose_send(purse([9_000]), Output(600, legacy(PAYEE_WALLET)))
    with pytest.raises(ValueError, match="not a coin of the wallet"):
        finish_wallet(draft, PAYEE_WALLET)
    with pytest.raises(ValueError, match="nothing spends"):
        _ = Draft((Input(coin("odd", 600, p2sh(bytes(20)))),), ()).size
    for odd in (p2sh(PAYER_WALLET.pubkey_hash), b"odd" + PAYER_WALLET.pubkey_hash, DEPOSIT.output):
        assert not pays_to(PAYER_WALLET, odd)
    commit = of(CONTRACT)["commit"]
    with pytest.raises(ValueError, match="not a channel's"):
        finish_both(draft, b"", b"")
    with pytest.raises(ValueError, match="not spent by a leaf"):
        sign_leaf(draft, PAYER)
    mixed = replace(commit, inputs=(*draft.inputs, *commit.inputs))
    with pytest.raises(ValueError, match="not a channel's"):
        finish_alone(mixed, PAYER, PAYER_WALLET)

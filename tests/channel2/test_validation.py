"""Each check of a commit or deposit that a peer sends, broken alone, is refused by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bitcoin.core import COutPoint, CTransaction, CTxIn, CTxOut
from bitcoin.core.script import CScript
from channel2_support import (
    ASSET,
    PAYEE,
    PAYER,
    changed,
    deposit_script,
    half_signed,
    hashed,
    high_s,
    judge,
    kernel_accepts,
    key,
    numbers_of,
    open_channel,
    parsed,
    purse,
    wallet_coin,
    wallet_script,
    with_payer_signature,
    with_script_sig,
)

from picopayments_cli.channel.counterparty import data_script, p2sh, pack_enhanced_send, pack_send
from picopayments_cli.channel.values import (
    MAX_QUANTITY,
    Outpoint,
)
from picopayments_cli.channel2.scripts import PLACEHOLDER, CommitScript, push, push_number
from picopayments_cli.channel2.state import Offer, accept_commit, commit, finished, request_commit
from picopayments_cli.channel2.transactions import Budget, Output, check_deposit, commit_quantity, compose_deposit
from picopayments_cli.errors import (
    BadCommit,
    BadCommitQuantity,
    BadCommitScript,
    BadDeposit,
    BadPayerSignature,
    PicopaymentsError,
    UnknownRevokeHash,
)

# Commits: the transaction -------------------------------------------------------------------------------------------

CHANNEL = open_channel(hashes=("zero",))
CHANNEL, _FIRST = commit(CHANNEL, 100, PAYER)
CHANNEL = request_commit(CHANNEL, hashed("one"))
DEPOSIT = CHANNEL.script
_, OFFER = commit(CHANNEL, 400, PAYER)
TX = parsed(OFFER.raw)
COMMIT_OUT, DATA_OUT, CHANGE_OUT = TX.vout
TXID = TX.vin[0].prevout.hash
SIGNATURE = bytes(TX.vin[0].scriptSig)[2 : 2 + TX.vin[0].scriptSig[1]]


def message(quantity: int, asset: int = ASSET, txid: bytes = TXID) -> CTxOut:
    return CTxOut(0, CScript(data_script(pack_send(asset, quantity), txid)))


def other_value(at: int, more: int) -> CTransaction:
    outs = list(TX.vout)
    outs[at] = CTxOut(outs[at].nValue + more, outs[at].scriptPubKey)
    return changed(TX, vout=outs)


def other_data(script: bytes) -> CTransaction:
    return changed(TX, vout=[COMMIT_OUT, CTxOut(0, CScript(script)), CHANGE_OUT])


def other_input(**members: Any) -> CTransaction:
    coin = {"prevout": TX.vin[0].prevout, "nSequence": TX.vin[0].nSequence, **members}
    return changed(TX, vin=[CTxIn(coin["prevout"], CScript(b""), coin["nSequence"])])


def broken_transactions() -> dict[str, CTransaction]:
    """A commit as the payer would sign it with one thing about it changed."""
    extra_in = CTxIn(COutPoint(b"\x05" * 32, 0))
    extra_out = CTxOut(600, CScript(wallet_script(PAYER)))
    data = bytes(DATA_OUT.scriptPubKey)
    enhanced = pack_enhanced_send(ASSET, 400, COMMIT_OUT.scriptPubKey)
    moved = other_input(prevout=COutPoint(b"\x05" * 32, 0))
    return {
        "version 2": changed(TX, nVersion=2),
        "lock time": changed(TX, nLockTime=1),
        "final sequence": other_input(nSequence=0xFFFFFFFF),
        "relative lock": other_input(nSequence=5),
        "other output spent": other_input(prevout=COutPoint(TXID, 3)),
        "other transaction spent": moved,
        "other transaction spent, message encrypted for it": changed(
            moved, vout=[COMMIT_OUT, message(400, txid=b"\x05" * 32), CHANGE_OUT]
        ),
        "additional input": changed(TX, vin=[*TX.vin, extra_in]),
        "additional input before": changed(TX, vin=[extra_in, *TX.vin]),
        "no input": changed(TX, vin=[TX.vin[0]], vout=[]),
        "additional output before": changed(TX, vout=[extra_out, *TX.vout]),
        "additional output before the message": changed(TX, vout=[COMMIT_OUT, extra_out, DATA_OUT, CHANGE_OUT]),
        "additional output behind": changed(TX, vout=[*TX.vout, extra_out]),
        "message first": changed(TX, vout=[DATA_OUT, COMMIT_OUT, CHANGE_OUT]),
        "change first": changed(TX, vout=[CHANGE_OUT, DATA_OUT, COMMIT_OUT]),
        "change before message": changed(TX, vout=[COMMIT_OUT, CHANGE_OUT, DATA_OUT]),
        "no change": changed(TX, vout=[COMMIT_OUT, DATA_OUT]),
        "commit output a satoshi less": other_value(0, -1),
        "commit output a satoshi more": other_value(0, 1),
        "satoshi on the message": other_value(1, 1),
        "change a satoshi less": other_value(2, -1),
        "change a satoshi more": other_value(2, 1),
        "change elsewhere": changed(TX, vout=[COMMIT_OUT, DATA_OUT, CTxOut(CHANGE_OUT.nValue, extra_out.scriptPubKey)]),
        "other destination": changed(
            TX, vout=[CTxOut(COMMIT_OUT.nValue, CHANGE_OUT.scriptPubKey), DATA_OUT, CHANGE_OUT]
        ),
        "other asset": other_data(message(400, ASSET + 1).scriptPubKey),
        "one byte more": other_data(data_script(pack_send(ASSET, 400) + b"\x00", TXID)),
        "one byte less": other_data(data_script(pack_send(ASSET, 400)[:-1], TXID)),
        "additional push": other_data(data + b"\x01\x05"),
        "additional opcode": other_data(data + b"\x51"),
        "longer push": other_data(b"\x6a\x4c" + data[1:]),
        "message in clear": other_data(b"\x6a\x1cCNTRPRTY" + pack_send(ASSET, 400)),
        "enhanced send": other_data(data_script(enhanced, TXID)),
        "no message": other_data(b"\x6a"),
        "message of more than there is": other_data(data_script(pack_send(ASSET, 2**64 - 1), TXID)),
    }


EXPECTED: dict[str, type[PicopaymentsError]] = {"message of more than there is": BadCommitQuantity}


def refused(error: type[PicopaymentsError], raw: bytes, script: bytes = OFFER.script) -> None:
    with pytest.raises(error) as caught:
        accept_commit(CHANNEL, Offer(raw, script))
    assert type(caught.value) is error
    json.dumps(caught.value.as_json())


def test_the_commit_that_the_others_are_made_of_is_accepted() -> None:
    assert half_signed(TX, DEPOSIT, PAYER) == OFFER.raw
    taken = accept_commit(CHANNEL, OFFER)
    assert (taken.moved, taken.requested) == (400, ())


@pytest.mark.parametrize(("name", "tx"), broken_transactions().items(), ids=broken_transactions())
def test_a_commit_that_is_not_byte_for_byte_the_agreed_one(name: str, tx: CTransaction) -> None:
    refused(EXPECTED.get(name, BadCommit), half_signed(tx, DEPOSIT, PAYER))


@pytest.mark.parametrize("quantity", [0, 1, 99, 100, 1001, MAX_QUANTITY])
def test_a_commit_that_moves_nothing_or_more_than_the_deposit(quantity: int) -> None:
    tx = other_data(message(quantity).scriptPubKey)
    refused(BadCommitQuantity, half_signed(tx, DEPOSIT, PAYER))


@pytest.mark.parametrize("quantity", [101, 1000])
def test_a_commit_of_any_other_quantity_is_one(quantity: int) -> None:
    tx = other_data(message(quantity).scriptPubKey)
    assert accept_commit(CHANNEL, Offer(half_signed(tx, DEPOSIT, PAYER), OFFER.script)).moved == quantity


def test_bytes_that_are_no_transaction_of_the_form() -> None:
    for raw in (b"", b"\x00", OFFER.raw[:-1], OFFER.raw + b"\x00", OFFER.raw[:60], OFFER.raw[1:]):
        refused(BadCommit, raw)


def test_a_commit_with_a_witness_is_refused() -> None:
    empty = OFFER.raw[:4] + b"\x00\x01" + OFFER.raw[4:-4] + b"\x00" + OFFER.raw[-4:]
    full = OFFER.raw[:4] + b"\x00\x01" + OFFER.raw[4:-4] + b"\x01\x01\x05" + OFFER.raw[-4:]
    for raw in (empty, full):
        refused(BadCommit, raw)


def test_a_commit_by_an_enhanced_send_is_refused() -> None:
    channel = open_channel()
    tx: CTransaction = parsed(commit(channel, 300, PAYER)[1].raw)
    message = pack_enhanced_send(ASSET, 300, p2sh(bytes(20)))
    data = CTxOut(0, CScript(data_script(message, tx.vin[0].prevout.hash)))
    with pytest.raises(BadCommit):
        commit_quantity(changed(tx, vout=[tx.vout[0], data, tx.vout[2]]).serialize(), ASSET)


# Commits: the words -------------------------------------------------------------------------------------------------


def broken_words() -> dict[str, bytes]:
    """The words of a half-signed commit, one of them changed."""
    signature, placeholder, redeem = push(SIGNATURE), push(PLACEHOLDER), push(DEPOSIT.redeem)
    long_signature = b"\x4c" + signature
    return {
        "no placeholder": b"\x00" + signature + b"\x51" + redeem,
        "another word in its place": b"\x00" + signature + b"\x01\x05" + b"\x51" + redeem,
        "a number in its place": b"\x00" + signature + b"\x00\x51" + redeem,
        "a signature in its place": b"\x00" + signature + signature + b"\x51" + redeem,
        "two placeholders": b"\x00" + signature + placeholder + placeholder + b"\x51" + redeem,
        "no dummy": signature + placeholder + b"\x51" + redeem,
        "another dummy": b"\x51" + signature + placeholder + b"\x51" + redeem,
        "a longer push of the dummy": b"\x4c\x00" + signature + placeholder + b"\x51" + redeem,
        "a longer push of the signature": b"\x00" + long_signature + placeholder + b"\x51" + redeem,
        "a longer push of the selector": b"\x00" + signature + placeholder + b"\x01\x01" + redeem,
        "a longer push of the script": b"\x00"
        + signature
        + placeholder
        + b"\x51\x4d"
        + len(DEPOSIT.redeem).to_bytes(2, "little")
        + DEPOSIT.redeem,
        "another selector": b"\x00" + signature + placeholder + b"\x00" + redeem,
        "another script": b"\x00" + signature + placeholder + b"\x51" + push(DEPOSIT.redeem[:-1] + b"\x69"),
        "an opcode": b"\x00" + signature + placeholder + b"\x51" + redeem + b"\x61",
        "the order": b"\x00" + placeholder + signature + b"\x51" + redeem,
        "no signature": b"\x00\x00" + placeholder + b"\x51" + redeem,
        "nothing": b"",
        "one word": b"\x00",
    }


@pytest.mark.parametrize("words", broken_words().values(), ids=broken_words())
def test_a_commit_whose_words_are_not_those_of_a_half_signed_one(words: bytes) -> None:
    refused(BadCommit, with_script_sig(TX, words))


def broken_signatures() -> dict[str, bytes]:
    """Return what is pushed in place of the payer's signature, the rest as it should be."""
    der = SIGNATURE[:-1]
    r, s = numbers_of(der)
    first, second = der[2 : 4 + der[3]], der[4 + der[3] :]
    padded = b"\x02" + bytes((second[1] + 1, 0)) + second[2:]
    negative = b"\x02\x20" + (2**255 | s).to_bytes(32, "big")
    return {
        "other key": half_signature(key("stranger")),
        "payee's key": half_signature(PAYEE),
        "other transaction": half_signature(PAYER, other_value(0, 1)),
        "hash type 02": half_signature(PAYER, hash_type=0x02),
        "hash type 03": half_signature(PAYER, hash_type=0x03),
        "hash type 81": half_signature(PAYER, hash_type=0x81),
        "hash type 00": der + b"\x00",
        "no hash type": der,
        "hash type twice": SIGNATURE + b"\x01",
        "padded number": b"\x30" + bytes((len(first) + len(padded),)) + first + padded + b"\x01",
        "negative number": b"\x30" + bytes((len(first) + len(negative),)) + first + negative + b"\x01",
        "long length": b"\x30\x81" + der[1:] + b"\x01",
        "byte behind the numbers": b"\x30" + bytes((der[1] + 1,)) + der[2:] + b"\x00\x01",
        "byte behind the sequence": der + b"\x00\x01",
        "other tag": b"\x31" + SIGNATURE[1:],
        "cut": SIGNATURE[:20] + b"\x01",
        "compact": r.to_bytes(32, "big") + s.to_bytes(32, "big") + b"\x01",
        "only a hash type": b"\x01",
        "s of zero": b"\x30" + bytes((len(first) + 3,)) + first + b"\x02\x01\x00\x01",
    }


def half_signature(owner: Any, tx: CTransaction = TX, hash_type: int = 1) -> bytes:
    script_sig = bytes(parsed(half_signed(tx, DEPOSIT, owner, hash_type)).vin[0].scriptSig)
    return script_sig[2 : 2 + script_sig[1]]


@pytest.mark.parametrize("signature", broken_signatures().values(), ids=broken_signatures())
def test_a_commit_without_the_payers_valid_signature(signature: bytes) -> None:
    refused(BadPayerSignature, with_payer_signature(TX, DEPOSIT, signature))


def test_a_signature_with_high_s_is_normalised() -> None:
    raised = high_s(SIGNATURE[:-1]) + b"\x01"
    assert raised != SIGNATURE
    taken = accept_commit(CHANNEL, Offer(with_payer_signature(TX, DEPOSIT, raised), OFFER.script))
    assert taken.active[-1].signature == SIGNATURE
    assert taken.anchor is not None
    spent = [Output(taken.anchor.value, DEPOSIT.output)]
    raw = finished(taken, taken.active[-1], PAYEE)
    judge(raw, spent)
    assert kernel_accepts(raw, spent)


# Commits: the script ------------------------------------------------------------------------------------------------


def test_a_script_of_other_values_is_refused() -> None:
    stranger = key("stranger").pubkey
    good = CommitScript.parse(OFFER.script)
    for script, error in (
        (CommitScript(stranger, good.payee, good.spend_hash, good.revoke_hash, 2), BadCommitScript),
        (CommitScript(good.payer, stranger, good.spend_hash, good.revoke_hash, 2), BadCommitScript),
        (CommitScript(good.payee, good.payer, good.spend_hash, good.revoke_hash, 2), BadCommitScript),
        (CommitScript(good.payer, good.payee, hashed("stranger"), good.revoke_hash, 2), BadCommitScript),
        (CommitScript(good.payer, good.payee, good.spend_hash, good.revoke_hash, 3), BadCommitScript),
        (CommitScript(good.payer, good.payee, good.spend_hash, good.revoke_hash, 0), BadCommitScript),
        (CommitScript(good.payer, good.payee, good.spend_hash, good.revoke_hash, 65535), BadCommitScript),
        (CommitScript(good.payer, good.payee, good.spend_hash, hashed("never"), 2), UnknownRevokeHash),
        (CommitScript(good.payer, good.payee, good.spend_hash, hashed("zero"), 2), UnknownRevokeHash),
        (CommitScript(good.payer, good.payee, good.spend_hash, good.spend_hash, 2), UnknownRevokeHash),
    ):
        refused(error, OFFER.raw, script.redeem)
        pays_it = changed(TX, vout=[CTxOut(COMMIT_OUT.nValue, CScript(script.output)), DATA_OUT, CHANGE_OUT])
        refused(error, half_signed(pays_it, DEPOSIT, PAYER), script.redeem)


def test_a_script_of_another_form_is_refused() -> None:
    long_delay = OFFER.script.replace(b"\x63" + push_number(2), b"\x63\x01\x02", 1)
    for script in (b"", b"\x63", OFFER.script[:-1], OFFER.script + b"\x61", DEPOSIT.redeem, long_delay):
        refused(BadCommitScript, OFFER.raw, script)


def test_a_hash_is_good_for_one_commit() -> None:
    taken = accept_commit(CHANNEL, OFFER)
    higher = parsed(half_signed(other_data(message(500).scriptPubKey), DEPOSIT, PAYER)).serialize()
    for raw in (OFFER.raw, higher):
        with pytest.raises(UnknownRevokeHash):
            accept_commit(taken, Offer(raw, OFFER.script))


# Deposits -----------------------------------------------------------------------------------------------------------

BUDGET = Budget(5)
COINS = [wallet_coin(Outpoint(b"\x07" * 32, 1), 60_000), wallet_coin(Outpoint(b"\x08" * 32, 0), 5_000)]
DEPOSIT_TX = compose_deposit(purse(PAYER, 5, COINS), DEPOSIT, ASSET, 1000, BUDGET).signed(PAYER)
ANCHOR_OUT, SEND_OUT, WALLET_OUT, SPARE_OUT = DEPOSIT_TX.vout


def checked(tx: CTransaction) -> Outpoint:
    return check_deposit(tx, DEPOSIT, ASSET, 1000, BUDGET).outpoint


def with_outputs(*outs: CTxOut) -> CTransaction:
    return changed(DEPOSIT_TX, vout=list(outs))


def paying(out: CTxOut, value: int | None = None, script: bytes | None = None) -> CTxOut:
    return CTxOut(out.nValue if value is None else value, CScript(out.scriptPubKey if script is None else script))


def sent(asset: int, quantity: int, txid: bytes = b"\x07" * 32) -> CTxOut:
    return CTxOut(0, CScript(data_script(pack_send(asset, quantity), txid)))


def broken_deposits() -> dict[str, CTransaction]:
    """A deposit with one output, or the key of its message, changed."""
    elsewhere = wallet_script(PAYEE)
    enhanced = CTxOut(0, CScript(data_script(pack_enhanced_send(ASSET, 1000, DEPOSIT.output), b"\x07" * 32)))
    other_expiry = deposit_script(1023).output
    data = bytes(SEND_OUT.scriptPubKey)
    return {
        "anchor elsewhere": with_outputs(paying(ANCHOR_OUT, script=elsewhere), SEND_OUT, WALLET_OUT, SPARE_OUT),
        "anchor of another expiry": with_outputs(
            paying(ANCHOR_OUT, script=other_expiry), SEND_OUT, WALLET_OUT, SPARE_OUT
        ),
        "anchor short": with_outputs(paying(ANCHOR_OUT, BUDGET.anchor - 1), SEND_OUT, WALLET_OUT, SPARE_OUT),
        "spare short": with_outputs(ANCHOR_OUT, SEND_OUT, WALLET_OUT, paying(SPARE_OUT, 545)),
        "spare elsewhere": with_outputs(ANCHOR_OUT, SEND_OUT, WALLET_OUT, paying(SPARE_OUT, script=elsewhere)),
        "no spare": with_outputs(ANCHOR_OUT, SEND_OUT, WALLET_OUT),
        "no change": with_outputs(ANCHOR_OUT, SEND_OUT, SPARE_OUT),
        "spare before the change": with_outputs(ANCHOR_OUT, SEND_OUT, SPARE_OUT, WALLET_OUT),
        "spare before the message": with_outputs(ANCHOR_OUT, SPARE_OUT, SEND_OUT, WALLET_OUT),
        "message first": with_outputs(SEND_OUT, ANCHOR_OUT, WALLET_OUT, SPARE_OUT),
        "two spares": with_outputs(ANCHOR_OUT, SEND_OUT, WALLET_OUT, SPARE_OUT, SPARE_OUT),
        "change before the message": with_outputs(ANCHOR_OUT, WALLET_OUT, SEND_OUT, SPARE_OUT),
        "less": with_outputs(ANCHOR_OUT, sent(ASSET, 999), WALLET_OUT, SPARE_OUT),
        "more": with_outputs(ANCHOR_OUT, sent(ASSET, 1001), WALLET_OUT, SPARE_OUT),
        "other asset": with_outputs(ANCHOR_OUT, sent(ASSET + 1, 1000), WALLET_OUT, SPARE_OUT),
        "encrypted with another key": with_outputs(ANCHOR_OUT, sent(ASSET, 1000, b"\x08" * 32), WALLET_OUT, SPARE_OUT),
        "enhanced send": with_outputs(ANCHOR_OUT, enhanced, WALLET_OUT, SPARE_OUT),
        "longer push": with_outputs(ANCHOR_OUT, CTxOut(0, CScript(b"\x6a\x4c" + data[1:])), WALLET_OUT, SPARE_OUT),
        "satoshi on the message": with_outputs(ANCHOR_OUT, paying(SEND_OUT, 1), WALLET_OUT, SPARE_OUT),
        "inputs in another order": changed(
            DEPOSIT_TX, vin=[CTxIn(COutPoint(b"\x09" * 32, 0), DEPOSIT_TX.vin[0].scriptSig), *DEPOSIT_TX.vin]
        ),
    }


def test_the_deposit_that_the_others_are_made_of_is_accepted() -> None:
    assert checked(DEPOSIT_TX) == Outpoint(DEPOSIT_TX.GetTxid(), 0)


@pytest.mark.parametrize("tx", broken_deposits().values(), ids=broken_deposits())
def test_a_deposit_that_is_not_of_the_agreed_form(tx: CTransaction) -> None:
    with pytest.raises(BadDeposit) as caught:
        checked(tx)
    assert caught.value.data["txid"] == tx.GetTxid()[::-1].hex()


def test_a_deposit_with_more_bitcoin_than_agreed_is_one() -> None:
    richer = with_outputs(paying(ANCHOR_OUT, BUDGET.anchor + 1), SEND_OUT, WALLET_OUT, paying(SPARE_OUT, 547))
    assert check_deposit(richer, DEPOSIT, ASSET, 1000, BUDGET).value == BUDGET.anchor + 1

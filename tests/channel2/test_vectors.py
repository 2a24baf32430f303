"""Scripts, spends, envelopes and keys against recorded ones, byte for byte, in both directions."""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import suppress
from typing import Any

import coincurve
import pytest
from bitcoin.core.script import CScript
from channel2_support import high_s, judge, parsed, size_of, vectors, with_script_sig
from pycoin.coins.SolutionChecker import ScriptError

from picopayments_cli.channel import envelope, values
from picopayments_cli.channel.counterparty import is_p2sh, p2pkh
from picopayments_cli.channel.envelope import canonical, digest, named_key, seal, signed_by
from picopayments_cli.channel.networks import (
    NETWORKS,
    address_of_script,
    script_of_address,
    secret_of_wif,
    wif_of_secret,
)
from picopayments_cli.channel.values import Hash, Pubkey, Secret, hash160, hash_of
from picopayments_cli.channel2.keys import Key, normalise, verify
from picopayments_cli.channel2.scripts import (
    CommitScript,
    DepositScript,
    Unlock,
    change_unlock,
    commit_unlock,
    expire_unlock,
    half_commit_unlock,
    payout_unlock,
    push,
    push_number,
    revoke_unlock,
    wallet_unlock,
)
from picopayments_cli.channel2.transactions import (
    Draft,
    Input,
    Output,
    find_secret,
    finish_commit,
    output_of,
    payer_signature,
    spent_outpoints,
    txid_of,
)
from picopayments_cli.errors import BadCommitScript, BadDepositScript, InvalidAddress, InvalidKey

VECTORS = vectors("channel")
SPENDS = VECTORS["spends"]
PAYER = Key(bytes.fromhex(VECTORS["keys"]["payer"]["secret"]))
PAYEE = Key(bytes.fromhex(VECTORS["keys"]["payee"]["secret"]))
SPEND_SECRET = Secret(bytes.fromhex(VECTORS["secrets"]["spend"]["secret"]))
REVOKE_SECRET = Secret(bytes.fromhex(VECTORS["secrets"]["revoke"]["secret"]))
SPEND_HASH = Hash(bytes.fromhex(VECTORS["secrets"]["spend"]["hash"]))
REVOKE_HASH = Hash(bytes.fromhex(VECTORS["secrets"]["revoke"]["hash"]))
DEPOSIT = DepositScript(PAYER.pubkey, PAYEE.pubkey, SPEND_HASH, 1024)
COMMIT = CommitScript(PAYER.pubkey, PAYEE.pubkey, SPEND_HASH, REVOKE_HASH, 2)
WALLET = wallet_unlock(PAYER.pubkey, p2pkh(Hash(hash_of(Secret(PAYER.pubkey)))))


def raw_of(step: str) -> bytes:
    return bytes.fromhex(SPENDS[step]["signed"])


def spent_by(step: str) -> list[Output]:
    sources = [bytes.fromhex(SPENDS["funding"]), raw_of("deposit"), raw_of("finalized_commit")]
    by_txid = {txid_of(raw): raw for raw in sources}
    return [output_of(by_txid[outpoint.txid], outpoint) for outpoint in spent_outpoints(parsed(raw_of(step)))]


def redone(step: str, unlock: Unlock) -> Draft:
    """The draft that a recorded spend was signed from, its amounts and sequence taken from the record."""
    tx = parsed(raw_of(step))
    coin = Input(spent_outpoints(tx)[0], spent_by(step)[0].value, unlock, tx.vin[0].nSequence)
    return Draft((coin,), tuple(Output(out.nValue, bytes(out.scriptPubKey)) for out in tx.vout), tx.nVersion)


# Keys and scripts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["payer", "payee"])
@pytest.mark.parametrize(("network", "address", "wif"), [("testnet", "XTN", "wif"), ("mainnet", "BTC", "wif_BTC")])
def test_keys_are_the_recorded_ones(name: str, network: str, address: str, wif: str) -> None:
    recorded = VECTORS["keys"][name]
    key = Key(bytes.fromhex(recorded["secret"]))
    assert key.pubkey.hex() == recorded["pubkey"]
    assert wif_of_secret(NETWORKS[network], key.secret) == recorded[wif]
    assert secret_of_wif(NETWORKS[network], recorded[wif] + "\n") == key.secret
    script = p2pkh(hash_of(Secret(key.pubkey)))
    assert address_of_script(NETWORKS[network], script) == recorded[f"address_{address}"]
    assert script_of_address(NETWORKS[network], recorded[f"address_{address}"]) == script


def test_keys_and_addresses_of_another_network_are_refused() -> None:
    payer = VECTORS["keys"]["payer"]
    with pytest.raises(InvalidKey):
        secret_of_wif(NETWORKS["mainnet"], payer["wif"])
    with pytest.raises(InvalidAddress):
        script_of_address(NETWORKS["mainnet"], payer["address_XTN"])
    with pytest.raises(InvalidAddress):
        script_of_address(NETWORKS["testnet"], payer["address_XTN"][:-1] + "m")


def test_the_secret_key_is_not_printed() -> None:
    assert PAYER.secret.hex() not in repr(PAYER)
    assert str(int.from_bytes(PAYER.secret, "big")) not in repr(PAYER)


def test_no_signature_is_that_of_a_key_that_is_none() -> None:
    digest = hashlib.sha256(b"x").digest()
    assert verify(PAYER.pubkey, digest, PAYER.sign(digest))
    assert not verify(Pubkey(b"\x02" + b"\xff" * 32), digest, PAYER.sign(digest))


def test_hashes_are_the_published_ones() -> None:
    assert hash_of(SPEND_SECRET) == SPEND_HASH
    assert hash_of(REVOKE_SECRET) == REVOKE_HASH


def test_hashes_are_the_same_without_openssls_ripemd(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = bytes.fromhex("bb1be98c142444d7a56aa3981c3942a978e4dc33")  # of b"abc"
    assert hash160(b"abc") == expected
    monkeypatch.setattr(values, "_OPENSSL_RIPEMD", False)
    assert hash160(b"abc") == expected


@pytest.mark.parametrize(
    ("size", "head"), [(0, "00"), (75, "4b"), (76, "4c4c"), (255, "4cff"), (256, "4d0001"), (520, "4d0802")]
)
def test_pushes_are_the_shortest(size: int, head: str) -> None:
    assert push(bytes(size)) == bytes.fromhex(head) + bytes(size)


@pytest.mark.parametrize("recorded", VECTORS["deposit_scripts"], ids=lambda item: str(item["blocks"]))
def test_deposit_scripts_are_the_recorded_ones(recorded: dict[str, Any]) -> None:
    made = DepositScript(PAYER.pubkey, PAYEE.pubkey, SPEND_HASH, recorded["blocks"])
    assert made.redeem.hex() == recorded["script"]
    assert DepositScript.parse(bytes.fromhex(recorded["script"])) == made
    check_addresses(made.output, recorded)


@pytest.mark.parametrize("recorded", VECTORS["commit_scripts"], ids=lambda item: str(item["blocks"]))
def test_commit_scripts_are_the_recorded_ones(recorded: dict[str, Any]) -> None:
    made = CommitScript(PAYER.pubkey, PAYEE.pubkey, SPEND_HASH, REVOKE_HASH, recorded["blocks"])
    assert made.redeem.hex() == recorded["script"]
    assert CommitScript.parse(bytes.fromhex(recorded["script"])) == made
    check_addresses(made.output, recorded)


def check_addresses(script: bytes, recorded: dict[str, Any]) -> None:
    assert is_p2sh(script)
    for name, code in (("testnet", "XTN"), ("regtest", "XTN"), ("mainnet", "BTC")):
        assert address_of_script(NETWORKS[name], script) == recorded[f"address_{code}"]
        assert script_of_address(NETWORKS[name], recorded[f"address_{code}"]) == script


def test_every_number_of_blocks_is_its_own_shortest_push() -> None:
    seen = set()
    for number in range(0x10000):
        pushed = push_number(number)
        seen.add(pushed)
        if not number % 251:
            assert CommitScript.parse(CommitScript(*four(), delay=number).redeem).delay == number
            assert DepositScript.parse(DepositScript(*four()[:3], expire=number).redeem).expire == number
            assert bytes(CScript([number])) == pushed
    assert len(seen) == 0x10000


def four() -> tuple[Pubkey, Pubkey, Hash, Hash]:
    return PAYER.pubkey, PAYEE.pubkey, SPEND_HASH, REVOKE_HASH


def longer_numbers() -> list[bytes]:
    """Numbers that no deposit or commit script has: padded, too large, negative, pushed the long way."""
    texts = ("0102", "0110", "020200", "03000001", "4c0111", "4f", "0181", "0400000000")
    return [bytes.fromhex(text) for text in texts]


@pytest.mark.parametrize("number", longer_numbers(), ids=bytes.hex)
def test_scripts_with_another_push_of_their_number_are_refused(number: bytes) -> None:
    with pytest.raises(BadDepositScript):
        DepositScript.parse(DEPOSIT.redeem.replace(push_number(1024) + b"\xb2", number + b"\xb2"))
    with pytest.raises(BadCommitScript):
        CommitScript.parse(COMMIT.redeem.replace(b"\x63\x52", b"\x63" + number))


def test_scripts_of_another_form_are_refused() -> None:
    """One byte changed anywhere gives another script of the form, or none; cut or lengthened gives none."""
    for script, parse, error in (
        (DEPOSIT.redeem, DepositScript.parse, BadDepositScript),
        (COMMIT.redeem, CommitScript.parse, BadCommitScript),
    ):
        for at in range(len(script)):
            broken = bytearray(script)
            broken[at] ^= 0x01
            with suppress(error):
                assert parse(bytes(broken)).redeem == broken
        for broken_size in (b"", script[:-1], script[1:], script + b"\x00", b"\x61" + script, script[:60]):
            with pytest.raises(error):
                parse(broken_size)


def test_the_three_payer_keys_of_a_deposit_must_agree() -> None:
    for count in (1, 2):
        mixed = DEPOSIT.redeem.replace(PAYER.pubkey, PAYEE.pubkey)
        mixed = mixed.replace(PAYEE.pubkey, PAYER.pubkey, count)
        with pytest.raises(BadDepositScript):
            DepositScript.parse(mixed)


# Spends -------------------------------------------------------------------------------------------------------------

UNLOCKS = {
    "deposit": (WALLET, PAYER),
    "created_commit": (half_commit_unlock(DEPOSIT), PAYER),
    "change": (change_unlock(DEPOSIT, SPEND_SECRET), PAYER),
    "expire": (expire_unlock(DEPOSIT), PAYER),
    "payout": (payout_unlock(COMMIT, SPEND_SECRET), PAYEE),
    "revoke": (revoke_unlock(COMMIT, REVOKE_SECRET), PAYER),
}


@pytest.mark.parametrize("step", UNLOCKS)
def test_spends_signed_again_are_the_recorded_ones(step: str) -> None:
    unlock, signer = UNLOCKS[step]
    draft = redone(step, unlock)
    tx = draft.signed(signer)
    assert tx.serialize() == raw_of(step)
    assert bytes(tx.vin[0].scriptSig).hex() == SPENDS[step]["scriptsig"]
    assert tx.GetTxid()[::-1].hex() == SPENDS[step]["txid"]
    assert txid_of(raw_of(step))[::-1].hex() == SPENDS[step]["txid"]
    assert len(raw_of(step)) <= size_of(draft)


def test_a_commit_is_finished_as_recorded() -> None:
    draft = redone("created_commit", half_commit_unlock(DEPOSIT))
    signature = payer_signature(raw_of("created_commit"), draft, DEPOSIT)
    tx = finish_commit(draft, DEPOSIT, signature, PAYEE)
    assert tx.serialize() == raw_of("finalized_commit")
    assert tx.GetTxid()[::-1].hex() == SPENDS["finalized_commit"]["txid"]
    assert tx.vin[0].scriptSig == commit_unlock(DEPOSIT, signature).script_sig(PAYEE.sign(draft.digest()) + b"\x01")


@pytest.mark.parametrize("step", ["deposit", "finalized_commit", "change", "expire", "payout", "revoke"])
def test_recorded_spends_pass_the_interpreter(step: str) -> None:
    judge(raw_of(step), spent_by(step))


def test_a_half_signed_commit_does_not_pass_the_interpreter() -> None:
    with pytest.raises(ScriptError):
        judge(raw_of("created_commit"), spent_by("created_commit"))


@pytest.mark.parametrize("step", ["change", "payout"])
def test_the_spend_secret_is_found_where_it_was_spent(step: str) -> None:
    tx = parsed(raw_of(step))
    assert find_secret(tx, SPEND_HASH) == SPEND_SECRET
    assert find_secret(tx, REVOKE_HASH) is None


def test_a_secret_is_found_wherever_it_is_pushed() -> None:
    tx = parsed(raw_of("payout"))
    for script_sig in (
        push(b"x" * 32) + push(SPEND_SECRET) + push(COMMIT.redeem),
        b"\x4c\x20" + SPEND_SECRET + b"\x01\x05" + push(COMMIT.redeem),
    ):
        assert find_secret(parsed(with_script_sig(tx, script_sig)), SPEND_HASH) == SPEND_SECRET
    assert find_secret(parsed(with_script_sig(tx, b"\x4c\xff")), SPEND_HASH) is None


# Envelopes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recorded", VECTORS["envelopes"], ids=lambda item: str(len(item["body"])))
def test_envelopes_are_the_recorded_ones(recorded: dict[str, Any]) -> None:
    sealed = seal(PAYER, recorded["body"])
    assert canonical(sealed) == recorded["canonical"]
    assert digest(sealed).hex() == recorded["sha256"]
    assert digest(recorded["signed"]).hex() == recorded["sha256"]
    signature = bytes.fromhex(recorded["signed"]["signature"])
    lowered = normalise(signature)
    assert lowered is not None
    assert sealed == {**recorded["signed"], "signature": lowered.hex()}


@pytest.mark.parametrize("recorded", VECTORS["envelopes"], ids=lambda item: str(len(item["body"])))
def test_envelopes_are_accepted_with_either_s(recorded: dict[str, Any]) -> None:
    signed = json.loads(json.dumps(recorded["signed"]))
    low = normalise(bytes.fromhex(signed["signature"]))
    assert low is not None
    for signature in (signed["signature"], low.hex(), high_s(low).hex()):
        body = {**signed, "signature": signature}
        assert signed_by(body, PAYER.pubkey) == bytes.fromhex(recorded["sha256"])
    assert high_s(low) != low
    assert named_key(signed) == PAYER.pubkey


def tampered() -> list[dict[str, Any]]:
    signed = VECTORS["envelopes"][0]["signed"]
    signature = signed["signature"]
    without_url = {name: value for name, value in signed.items() if name != "url"}
    return [
        VECTORS["tampered_envelope"],
        without_url,
        {**signed, "more": 1},
        {**signed, "url": ""},
        {**signed, "pubkey": PAYEE.pubkey.hex()},
        {**signed, "pubkey": signed["pubkey"].upper()},
        {**signed, "pubkey": None},
        {**signed, "signature": None},
        {**signed, "signature": ""},
        {**signed, "signature": signature.upper()},
        {**signed, "signature": signature[:-2]},
        {**signed, "signature": signature + "00"},
        {**signed, "signature": signature[:-2] + "00"},
        {**signed, "url": float("nan")},
        {name: value for name, value in signed.items() if name != "signature"},
        {name: value for name, value in signed.items() if name != "pubkey"},
    ]


@pytest.mark.parametrize("body", tampered())
def test_tampered_envelopes_are_refused(body: dict[str, Any]) -> None:
    assert signed_by(body, PAYER.pubkey) is None


def test_an_envelope_that_names_another_key_than_its_signers_is_refused() -> None:
    body = {"a": 1, "pubkey": PAYEE.pubkey.hex()}
    signed = {**body, "signature": PAYER.sign(digest(body)).hex()}
    assert signed_by(signed, PAYER.pubkey) is None
    assert signed_by(signed, PAYEE.pubkey) is None


def test_an_envelope_of_another_key_is_refused() -> None:
    assert signed_by(seal(PAYEE, {"a": 1}), PAYER.pubkey) is None
    assert signed_by(seal(PAYEE, {"a": 1}), PAYEE.pubkey) is not None


@pytest.mark.parametrize("text", [None, 1, "", "02", "ff" * 33, "02" + "ff" * 32, "04" + "11" * 64])
def test_a_text_that_is_no_key_is_not_named(text: Any) -> None:
    assert named_key({"pubkey": text}) is None


def test_numbers_keep_their_kind_in_the_signed_text() -> None:
    assert canonical({"b": 1.0, "a": 1, "c": {"z": None, "y": [1e22, True]}}) == (
        '{"a": 1, "b": 1.0, "c": {"y": [1e+22, true], "z": null}}'
    )


def test_a_signed_message_tells_its_key() -> None:
    text = "a message"
    data = base64.b64decode(envelope.sign_message(PAYER, text))
    assert len(data) == 65
    assert 31 <= data[0] <= 34
    magic = b"\x18Bitcoin Signed Message:\n\x09" + text.encode()
    hashed_text = hashlib.sha256(hashlib.sha256(magic).digest()).digest()
    found = coincurve.PublicKey.from_signature_and_message(data[1:] + bytes((data[0] - 31,)), hashed_text, hasher=None)
    assert found.format() == PAYER.pubkey

"""Signed envelopes, keys and the hashes of secrets against recorded ones, byte for byte."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from btclib_secp256k1 import recovery
from channel_support import vectors
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel import envelope, values
from picopayments_cli.channel.counterparty import p2pkh
from picopayments_cli.channel.envelope import canonical, digest, named_key, seal, signed_by
from picopayments_cli.channel.keys import Key, verify
from picopayments_cli.channel.networks import (
    NETWORKS,
    address_of_script,
    script_of_address,
    secret_of_wif,
    wif_of_secret,
)
from picopayments_cli.channel.values import Pubkey, Secret, hash160, hash_of
from picopayments_cli.errors import InvalidAddress, InvalidKey

VECTORS = vectors("channel")
PAYER = Key(bytes.fromhex(VECTORS["keys"]["payer"]["secret"]))
PAYEE = Key(bytes.fromhex(VECTORS["keys"]["payee"]["secret"]))
SIGNED = VECTORS["envelopes"][0]["signed"]
USE = envelope.asking("mph_sync", PAYEE.pubkey)
HIGH_S = [item for item in VECTORS["envelopes"] if "high_s" in item]


# Keys ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["payer", "payee"])
@pytest.mark.parametrize(("network", "address", "wif"), [("testnet", "XTN", "wif"), ("mainnet", "BTC", "wif_BTC")])
def test_keys_are_the_recorded_ones(name: str, network: str, address: str, wif: str) -> None:
    recorded = VECTORS["keys"][name]
    key = Key(bytes.fromhex(recorded["secret"]))
    assert key.pubkey.hex() == recorded["pubkey"]
    assert wif_of_secret(NETWORKS[network], key.secret) == recorded[wif]
    assert secret_of_wif(NETWORKS[network], recorded[wif] + "\n") == key.secret
    script = p2pkh(key.pubkey_hash)
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
    text = hashlib.sha256(b"x").digest()
    assert verify(PAYER.pubkey, text, PAYER.sign(text))
    assert not verify(Pubkey(b"\x02" + b"\xff" * 32), text, PAYER.sign(text))


@given(st.binary(max_size=80))
def test_no_bytes_make_the_check_of_a_signature_fail(data: bytes) -> None:
    text = hashlib.sha256(b"x").digest()
    assert verify(PAYER.pubkey, text, data) == (data == PAYER.sign(text))


def test_the_hash_of_a_secret_is_the_published_one() -> None:
    recorded = VECTORS["secrets"]["revoke"]
    assert hash_of(Secret(bytes.fromhex(recorded["secret"]))).hex() == recorded["hash"]


def test_hashes_are_the_same_without_openssls_ripemd(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = bytes.fromhex("bb1be98c142444d7a56aa3981c3942a978e4dc33")  # of b"abc"
    assert hash160(b"abc") == expected
    monkeypatch.setattr(values, "_OPENSSL_RIPEMD", False)
    assert hash160(b"abc") == expected


# Envelopes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recorded", VECTORS["envelopes"], ids=lambda item: str(len(item["body"])))
def test_envelopes_are_the_recorded_ones(recorded: dict[str, Any]) -> None:
    sealed = seal(PAYER, recorded["body"], USE)
    assert USE.line == VECTORS["line"]
    assert canonical(sealed) == recorded["canonical"]
    assert digest(sealed, USE).hex() == recorded["sha256"]
    assert sealed == recorded["signed"]
    assert signed_by(sealed, PAYER.pubkey, USE) == bytes.fromhex(recorded["sha256"])
    assert named_key(sealed) == PAYER.pubkey


@pytest.mark.parametrize("recorded", HIGH_S, ids=lambda item: str(len(item["body"])))
def test_a_request_has_one_signature(recorded: dict[str, Any]) -> None:
    """The other one, with high S, which anybody can make of it, is none."""
    assert signed_by({**recorded["signed"], "signature": recorded["high_s"]}, PAYER.pubkey, USE) is None


def tampered() -> list[dict[str, Any]]:
    signature = SIGNED["signature"]
    without_url = {name: value for name, value in SIGNED.items() if name != "url"}
    return [
        VECTORS["tampered_envelope"],
        without_url,
        {**SIGNED, "more": 1},
        {**SIGNED, "url": ""},
        {**SIGNED, "pubkey": PAYEE.pubkey.hex()},
        {**SIGNED, "pubkey": SIGNED["pubkey"].upper()},
        {**SIGNED, "pubkey": None},
        {**SIGNED, "signature": None},
        {**SIGNED, "signature": ""},
        {**SIGNED, "signature": signature.upper()},
        {**SIGNED, "signature": signature[:-2]},
        {**SIGNED, "signature": signature + "00"},
        {**SIGNED, "signature": signature[:-2] + "00"},
        {**SIGNED, "url": float("nan")},
        {name: value for name, value in SIGNED.items() if name != "signature"},
        {name: value for name, value in SIGNED.items() if name != "pubkey"},
    ]


@pytest.mark.parametrize("body", tampered())
def test_tampered_envelopes_are_refused(body: dict[str, Any]) -> None:
    assert signed_by(body, PAYER.pubkey, USE) is None


def test_an_envelope_that_names_another_key_than_its_signers_is_refused() -> None:
    body = {"a": 1, "pubkey": PAYEE.pubkey.hex()}
    signed = {**body, "signature": PAYER.sign(digest(body, USE)).hex()}
    assert signed_by(signed, PAYER.pubkey, USE) is None
    assert signed_by(signed, PAYEE.pubkey, USE) is None


def test_an_envelope_of_another_key_is_refused() -> None:
    assert signed_by(seal(PAYEE, {"a": 1}, USE), PAYER.pubkey, USE) is None
    assert signed_by(seal(PAYEE, {"a": 1}, USE), PAYEE.pubkey, USE) is not None


@pytest.mark.parametrize(
    "use",
    [
        envelope.asking("mph_key", PAYEE.pubkey),
        envelope.asking("mph_sync", PAYER.pubkey),
        envelope.answering("mph_sync", PAYEE.pubkey),
        envelope.counting(PAYEE.pubkey),
    ],
)
def test_an_envelope_is_good_for_its_own_method_and_hub_alone(use: envelope.Use) -> None:
    assert signed_by(SIGNED, PAYER.pubkey, USE) is not None
    assert signed_by(SIGNED, PAYER.pubkey, use) is None


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
    assert recovery.recover(hashed_text, data[1:], data[0] - 31) == PAYER.pubkey

"""Channel keys and secrets: lengths, the curve, no two equal, no two uses of one."""

from __future__ import annotations

import hashlib

import pytest
from channel_support import CONTRACT, ONE, PAYEE, PAYER, PAYER_WALLET, coin, digest, kernel_accepts, key
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel import envelope
from picopayments_cli.channel.drafts import SHARED, Draft, Output, Unlock, by_both
from picopayments_cli.channel.keys import NUMS, Key, Secrets, XOnly, check_distinct, read_secret, verify
from picopayments_cli.channel.scripts import CommitScript, DepositScript, both_witness
from picopayments_cli.channel.signing import sign_leaf
from picopayments_cli.channel.taproot import Tree
from picopayments_cli.errors import BadChannelKey, BadSecret, RepeatedKey

ORDER_OF_CURVE = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.mark.parametrize("data", [b"", PAYER.xonly.data[:31], PAYER.pubkey, PAYER.xonly.data + b"\x00"])
def test_a_key_of_another_length_is_refused(data: bytes) -> None:
    with pytest.raises(BadChannelKey) as refused:
        XOnly(data)
    assert refused.value.data == {"key": data.hex(), "size": len(data)}


@pytest.mark.parametrize("data", [bytes(32), b"\xff" * 32, b"\x05".rjust(32, b"\x00")])
def test_a_key_that_is_no_point_is_refused(data: bytes) -> None:
    with pytest.raises(BadChannelKey):
        XOnly(data)


def test_a_key_of_33_bytes_would_let_any_signature_pass() -> None:
    """The attack that the exact length stops: the kernel takes 64 bytes of nonsense for the payee's signature."""
    script = b"\x21" + PAYEE.pubkey + b"\xad\x20" + PAYER.xonly.data + b"\xac"
    tree = Tree(script, b"\x51")
    spent = by_both(coin("on it", 10_000, tree.output), tree.leaves[0])
    draft = Draft((spent,), (Output(9_000, CONTRACT.payer_wallet),), SHARED)
    raw = draft.signed([Unlock(witness=both_witness(tree.leaves[0], sign_leaf(draft, PAYER), b"\x01" * 64))])
    assert kernel_accepts(raw, draft)


def test_equal_keys_are_refused_anywhere() -> None:
    keys = [key(name).xonly for name in "abcd"]
    check_distinct(keys)
    for repeated in (*keys, NUMS):
        with pytest.raises(RepeatedKey):
            check_distinct([*keys, repeated])
    for make in (lambda: DepositScript(keys[0], keys[0], 5), lambda: CommitScript(keys[0], keys[0], ONE)):
        with pytest.raises(RepeatedKey):
            make()


def test_the_same_key_negated_is_the_same_key() -> None:
    negated = Key((ORDER_OF_CURVE - int.from_bytes(PAYER.secret, "big")).to_bytes(32, "big"))
    with pytest.raises(RepeatedKey):
        DepositScript(PAYER.xonly, negated.xonly, 5)


# Signatures ---------------------------------------------------------------------------------------------------------


def test_signatures_are_the_published_ones() -> None:
    """RFC 6979's nonce with low S, as wallets have recorded it for the key 1; and BIP 340's first vector."""
    der = Key(int.to_bytes(1, 32, "big")).sign(hashlib.sha256(b"Satoshi Nakamoto").digest())
    assert der.hex() == (
        "3045022100934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8"
        "02202442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5"
    )
    assert Key(int.to_bytes(3, 32, "big")).sign_schnorr(bytes(32)).hex() == (
        "e907831f80848d1069a5371b402410364bdf1c5f8307b0084c55f1ce2dca8215"
        "25f66a4a85ea8b71e482a74f382d2ce5ebeee8fdb2172f477df4900d310536c0"
    )


def test_a_signature_with_high_s_or_of_another_digest_is_none() -> None:
    signed = digest("this")
    der = PAYER.sign(signed)
    assert verify(PAYER.pubkey, signed, der)
    assert not verify(PAYER.pubkey, digest("that"), der)
    assert not verify(PAYEE.pubkey, signed, der)
    assert not verify(PAYER.pubkey, signed, der[:-1])
    size = der[3]
    high = ORDER_OF_CURVE - int.from_bytes(der[6 + size :], "big")
    twin = der[2 : 4 + size] + b"\x02\x21\x00" + high.to_bytes(32, "big")
    assert not verify(PAYER.pubkey, signed, bytes((0x30, len(twin))) + twin)


# What is derived ----------------------------------------------------------------------------------------------------


def test_keys_and_secrets_differ_by_wallet_salt_and_purpose() -> None:
    all_of = [
        secrets
        for wallet in (key("one"), key("other"))
        for salt in (digest("salt")[:16], digest("another")[:16])
        for secrets in [Secrets(wallet, salt)]
    ]
    drawn = [
        data
        for secrets in all_of
        for data in (secrets.key.secret, secrets.payer.secret, secrets.payee.secret, *map(secrets.revoke, range(3)))
    ]
    assert len(set(drawn)) == len(all_of) * 6 - 2  # each of the two wallets' keys stands there twice
    assert all(len(data) == 32 for data in drawn)
    check_distinct(party.xonly for secrets in all_of for party in (secrets.payer, secrets.payee))


def test_what_is_derived_is_always_the_same() -> None:
    """A wallet restored from its backup must find them again, whatever version wrote it."""
    secrets = Secrets(Key(bytes(31) + b"\x01"), bytes(16))
    assert secrets.payer.secret.hex() == "0304af1e1492994ad692eae95247c84eba871ff18e89d57705100ccb43b0af6f"
    assert secrets.payee.secret.hex() == "aea9fa065ea826651dc1452594c74c34e3728734afb3414df74eefd44e39adcf"
    assert secrets.revoke(0).hex() == "350c20a75a02d93679998e1376e07bda874a9c1b52054dd5e2402bf01cf98360"


def test_a_salt_of_another_length_is_refused() -> None:
    for size in (0, 15, 17):
        with pytest.raises(ValueError, match="salt"):
            Secrets(PAYER_WALLET, bytes(size))


def test_a_forgotten_number_is_found_again_among_the_next() -> None:
    secrets = Secrets(PAYER_WALLET, bytes(16))
    assert secrets.number_of(secrets.revoke_hash(7), 5) == 7
    assert secrets.number_of(secrets.revoke_hash(4), 5) is None


@pytest.mark.parametrize("size", [0, 31, 32, 33, 64])
def test_a_secret_has_exactly_32_bytes(size: int) -> None:
    if size == 32:
        assert read_secret(bytes(size)) == bytes(size)
        return
    with pytest.raises(BadSecret) as refused:
        read_secret(bytes(size))
    assert refused.value.data == {"size": size}


def test_no_secret_is_printed() -> None:
    secrets = Secrets(PAYER_WALLET, bytes(16))
    assert PAYER_WALLET.secret.hex() not in repr(secrets) + repr(PAYER_WALLET)
    assert str(PAYER_WALLET.secret) not in repr(secrets) + repr(PAYER_WALLET)


# Signatures ---------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32), st.integers(0, 63), st.integers(1, 255))
def test_a_signature_is_of_one_key_and_one_message(message: bytes, at: int, flip: int) -> None:
    signature = PAYER.sign_schnorr(message)
    assert signature == PAYER.sign_schnorr(message)
    assert PAYER.xonly.verify(message, signature)
    assert not PAYEE.xonly.verify(message, signature)
    assert not PAYER.xonly.verify(message[:31] + bytes((message[31] ^ flip,)), signature)
    broken = bytearray(signature)
    broken[at] ^= flip
    assert not PAYER.xonly.verify(message, bytes(broken))
    for other in (signature[:63], signature + b"\x00", b""):
        assert not PAYER.xonly.verify(message, other)


def test_a_wallets_key_signs_the_envelope() -> None:
    use = envelope.asking("mph_sync", PAYER.pubkey)
    body = envelope.seal(PAYER_WALLET, {"quantity": 7}, use)
    assert envelope.signed_by(body, PAYER_WALLET.pubkey, use) == envelope.digest(body, use)
    assert envelope.signed_by(body, PAYER.pubkey, use) is None
    assert len(envelope.sign_message(PAYER_WALLET, "text")) == 88

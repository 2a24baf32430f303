"""The published vectors of BIP 32 and BIP 84: other wallets find the coins of ours."""

from __future__ import annotations

import hashlib

import pytest
from pycoin.encoding.b58 import a2b_hashed_base58

from picopayments_cli.channel.derivation import HARDENED, Branch, wallet_key
from picopayments_cli.channel.networks import NETWORKS, address_of_script, wif_of_secret
from picopayments_cli.channel.scripts import p2wpkh

ABOUT = "abandon " * 11 + "about"
SEEDS = {
    1: "000102030405060708090a0b0c0d0e0f",
    2: "fffcf9f6f3f0edeae7e4e1dedbd8d5d2cfccc9c6c3c0bdbab7b4b1aeaba8a5a2"
    "9f9c999693908d8a8784817e7b7875726f6c696663605d5a5754514e4b484542",
    3: "4b381541583be4423346c643850da4b320e46a87ae3d2a4e6da11eba819cd4ac"
    "ba45d239319ac14f863b8d5ab5a0d0c64d2e8a1e7d1457df2e5a3c51c73235be",
    4: "3ddd5602285899a946114506157c7997e5444528f3003f6134712147db19b678",
}


@pytest.mark.parametrize(
    ("seed", "path", "extended"),
    [
        (
            *(1, ()),
            "xprv9s21ZrQH143K3QTDL4LXw2F7HEK3wJUD2nW2nRk4stbPy6cq3jPPqjiChkVv"
            "vNKmPGJxWUtg6LnF5kejMRNNU3TGtRBeJgk33yuGBxrMPHi",
        ),
        (
            *(1, (0 + HARDENED,)),
            "xprv9uHRZZhk6KAJC1avXpDAp4MDc3sQKNxDiPvvkX8Br5ngLNv1TxvUxt4cV1rG"
            "L5hj6KCesnDYUhd7oWgT11eZG7XnxHrnYeSvkzY7d2bhkJ7",
        ),
        (
            *(1, (0 + HARDENED, 1)),
            "xprv9wTYmMFdV23N2TdNG573QoEsfRrWKQgWeibmLntzniatZvR9BmLnvSxqu53K"
            "w1UmYPxLgboyZQaXwTCg8MSY3H2EU4pWcQDnRnrVA1xe8fs",
        ),
        (
            *(2, (0, 2**31 - 1 + HARDENED, 1, 2**31 - 2 + HARDENED, 2)),
            "xprvA2nrNbFZABcdryreWet9Ea4LvTJcGsqrMzxHx98MMrotbir7yrKCEXw7nadn"
            "HM8Dq38EGfSh6dqA9QWTyefMLEcBYJUuekgW4BYPJcr9E7j",
        ),
        (
            *(3, (0 + HARDENED,)),
            "xprv9uPDJpEQgRQfDcW7BkF7eTya6RPxXeJCqCJGHuCJ4GiRVLzkTXBAJMu2qaMW"
            "PrS7AANYqdq6vcBcBUdJCVVFceUvJFjaPdGZ2y9WACViL4L",
        ),
        (
            *(4, (0 + HARDENED, 1 + HARDENED)),
            "xprv9xJocDuwtYCMNAo3Zw76WENQeAS6WGXQ55RCy7tDJ8oALr4FWkuVoHJeHVAc"
            "AqiZLE7Je3vZJHxspZdFHfnBEjHqU5hG1Jaj32dVoS6XLT1",
        ),
    ],
)
def test_the_branches_are_those_of_bip_32(seed: int, path: tuple[int, ...], extended: str) -> None:
    """The third and the fourth seed have a zero at the beginning of a key and of a chain code."""
    branch = Branch.of_seed(bytes.fromhex(SEEDS[seed]))
    for index in path:
        branch = branch.child(index)
    recorded = a2b_hashed_base58(extended)
    assert (branch.code, branch.key.secret) == (recorded[13:45], recorded[46:])


def seed_of(words: str) -> bytes:
    """BIP 39, without the library."""
    return hashlib.pbkdf2_hmac("sha512", words.encode(), b"mnemonic", 2048)


def test_the_key_is_the_first_of_bip_84() -> None:
    mainnet, testnet = NETWORKS["mainnet"], NETWORKS["testnet"]
    key = wallet_key(seed_of(ABOUT), mainnet)
    assert wif_of_secret(mainnet, key.secret) == "KyZpNDKnfs94vbrwhJneDi77V6jF64PWPF8x5cdJb8ifgg2DUc9d"
    assert address_of_script(mainnet, p2wpkh(key.pubkey_hash)) == "bc1qcr8te4kr609gcawutmrza0j4xv80jy8z306fyu"
    others = {wallet_key(seed_of(ABOUT), NETWORKS[name]) for name in ("testnet", "testnet4", "signet", "regtest")}
    assert len(others) == 1
    assert key not in others
    (other,) = others
    assert address_of_script(testnet, p2wpkh(other.pubkey_hash)) == "tb1q6rz28mcfaxtmd6v789l9rrlrusdprr9pqcpvkl"


def test_no_secret_shows() -> None:
    branch = Branch.of_seed(bytes.fromhex(SEEDS[1]))
    assert branch.code.hex() not in repr(branch)
    assert branch.key.secret.hex() not in repr(branch)
    assert repr(branch.code) not in repr(branch)

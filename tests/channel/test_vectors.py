"""The published vectors of BIP 340, BIP 341 and BIP 143, number by number."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from bitcoin.core import CTransaction
from channel_support import vectors

from picopayments_cli.channel.drafts import Draft, Input, Output
from picopayments_cli.channel.keys import NUMS, Key, XOnly
from picopayments_cli.channel.signing import ALL_ANYONECANPAY, taproot_message, witness_digest
from picopayments_cli.channel.taproot import Tree, branch_hash, leaf_hash, tagged_hash
from picopayments_cli.channel.values import Coin, Outpoint
from picopayments_cli.errors import BadChannelKey

SPEND = vectors("taproot")["bip341_spend"]


def unsigned(raw: str, spent: list[tuple[int, str]]) -> Draft:
    """A vector's transaction as a draft."""
    tx = CTransaction.deserialize(bytes.fromhex(raw))
    coins = [
        Coin(Outpoint(txin.prevout.hash, txin.prevout.n), value, bytes.fromhex(script), None)
        for txin, (value, script) in zip(tx.vin, spent, strict=True)
    ]
    inputs = tuple(Input(coin, sequence=txin.nSequence) for coin, txin in zip(coins, tx.vin, strict=True))
    outputs = tuple(Output(out.nValue, bytes(out.scriptPubKey)) for out in tx.vout)
    return Draft(inputs, outputs, tx.nVersion, tx.nLockTime)


# BIP 340 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("taproot")["bip340"], ids=lambda vector: vector["signature"][:8])
def test_signatures_verify_or_do_not(vector: dict[str, Any]) -> None:
    try:
        key = XOnly(bytes.fromhex(vector["key"]))
    except BadChannelKey:
        assert not vector["valid"]
        return
    verified = key.verify(bytes.fromhex(vector["message"]), bytes.fromhex(vector["signature"]))
    assert verified == vector["valid"]


def test_a_signature_without_randomness_is_that_of_the_vectors() -> None:
    zeros = [row for row in vectors("taproot")["bip340"] if row["aux"] == "00" * 32 and len(row["message"]) == 64]
    assert zeros
    for row in zeros:
        key = Key(bytes.fromhex(row["secret"]))
        assert key.xonly == XOnly(bytes.fromhex(row["key"]))
        assert key.sign_schnorr(bytes.fromhex(row["message"])).hex() == row["signature"]


# BIP 341 ------------------------------------------------------------------------------------------------------------


def hashes_of(tree: Any) -> tuple[bytes, list[bytes], list[bytes]]:
    """The root of a tree, the hashes of its leaves, and the path of each from the leaf upwards."""
    if isinstance(tree, str):
        hashed = leaf_hash(bytes.fromhex(tree))
        return hashed, [hashed], [b""]
    (one, leaves, paths), (other, more, others) = (hashes_of(branch) for branch in tree)
    joined = [*(path + other for path in paths), *(path + one for path in others)]
    return branch_hash(one, other), [*leaves, *more], joined


@pytest.mark.parametrize("vector", vectors("taproot")["bip341_trees"], ids=lambda vector: vector["internal"][:8])
def test_trees_make_their_outputs_and_control_blocks(vector: dict[str, Any]) -> None:
    internal = XOnly(bytes.fromhex(vector["internal"]))
    root, leaves, paths = hashes_of(vector["tree"])
    assert [leaf.hex() for leaf in leaves] == vector["leaf_hashes"]
    assert root.hex() == vector["root"]
    key, parity = internal.tweaked(tagged_hash("TapTweak", internal.data + root))
    assert "5120" + key.hex() == vector["output"]
    controls = [bytes((0xC0 | parity,)) + internal.data + path for path in paths]
    assert [control.hex() for control in controls] == vector["controls"]


def test_a_tree_of_two_leaves_is_that_of_the_vectors() -> None:
    trees = vectors("taproot")["bip341_trees"]
    (vector,) = [vector for vector in trees if all(isinstance(leaf, str) for leaf in vector["tree"])]
    first, second = (bytes.fromhex(leaf) for leaf in vector["tree"])
    tree = Tree(first, second, XOnly(bytes.fromhex(vector["internal"])))
    assert tree.output.hex() == vector["output"]
    assert [leaf.control.hex() for leaf in tree.leaves] == vector["controls"]
    assert [leaf.hash.hex() for leaf in tree.leaves] == vector["leaf_hashes"]
    assert [leaf.script for leaf in tree.leaves] == [first, second]


@pytest.mark.parametrize("vector", SPEND["signatures"], ids=lambda vector: f"type {vector['hash_type']:02x}")
def test_messages_of_signatures_are_those_of_the_vectors(vector: dict[str, Any]) -> None:
    draft = unsigned(SPEND["unsigned"], SPEND["spent"])
    message = taproot_message(draft, vector["index"], vector["hash_type"], b"")
    assert message.hex() == vector["message"]
    digest = tagged_hash("TapSighash", message)
    assert digest.hex() == vector["digest"]
    signer = XOnly(draft.inputs[vector["index"]].coin.script[2:])
    assert signer.verify(digest, bytes.fromhex(vector["signature"])[:64])


def test_the_vectors_hold_every_hash_type_in_use_and_no_other_is_signed() -> None:
    assert {vector["hash_type"] for vector in SPEND["signatures"]} == {0, 1, ALL_ANYONECANPAY}
    draft = unsigned(SPEND["unsigned"], SPEND["spent"])
    for hash_type in {*range(256)} - {0, 1, ALL_ANYONECANPAY}:
        with pytest.raises(ValueError, match="hash type"):
            taproot_message(draft, 0, hash_type, b"")


def test_the_internal_key_is_the_point_of_the_bip() -> None:
    x = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    y = "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"
    assert NUMS.data == hashlib.sha256(bytes.fromhex("04" + x + y)).digest()


# BIP 143 ------------------------------------------------------------------------------------------------------------


def test_the_digest_of_a_p2wpkh_coin_is_that_of_the_vector() -> None:
    vector = vectors("taproot")["bip143"]
    draft = unsigned(vector["unsigned"], vector["spent"])
    assert witness_digest(draft, vector["index"]).hex() == vector["digest"]
    assert Key(bytes.fromhex(vector["secret"])).pubkey_hash.hex() == vector["hash"]
    assert draft.stripped([b"", b""]).hex() == vector["unsigned"]

"""Taproot outputs and spends built by hand from BIP 340 to 342 for tests of the node, and children that raise fees."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from bitcoin.core import COutPoint, CTransaction, CTxIn, CTxInWitness, CTxOut, CTxWitness
from bitcoin.core.script import SIGHASH_ALL, CScript, CScriptWitness, SignatureHash
from btclib_secp256k1 import keys, ssa
from regtest_support import script_of_key

from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.values import Outpoint

NUMS = bytes.fromhex("50929b74c1a04954b78b4b6035e97a5e078a5a0f28ec96d547bfee9ace803ac0")
P2A = bytes.fromhex("51024e73")
ANCHOR = (240, P2A)
SEQUENCE = 0xFFFFFFFD
Coin = tuple[Outpoint, int]


def tagged(tag: str, data: bytes) -> bytes:
    """BIP 340's tagged hash."""
    name = hashlib.sha256(tag.encode()).digest()
    return hashlib.sha256(name + name + data).digest()


def x_only(key: Key) -> bytes:
    """The key as taproot knows it."""
    return key.pubkey[1:]


def compact(data: bytes) -> bytes:
    """Data behind its length, of less than 2^16 bytes."""
    return (bytes((len(data),)) if len(data) < 253 else b"\xfd" + struct.pack("<H", len(data))) + data


@dataclass(frozen=True)
class Tree:
    """A taproot output of one leaf, or two."""

    leaves: Sequence[bytes]
    internal: bytes = NUMS
    version: int = 0xC0

    def _hash(self, leaf: bytes) -> bytes:
        return tagged("TapLeaf", bytes((self.version,)) + compact(leaf))

    def _root(self) -> bytes:
        hashes = sorted(map(self._hash, self.leaves))
        return hashes[0] if len(hashes) == 1 else tagged("TapBranch", b"".join(hashes))

    def _tweaked(self) -> tuple[bytes, int]:
        tweak = tagged("TapTweak", self.internal + self._root())
        point = keys.pubkey_tweak_add(b"\x02" + self.internal, tweak)
        return point[1:], point[0] & 1

    @property
    def script(self) -> bytes:
        """The scriptPubKey."""
        return b"\x51\x20" + self._tweaked()[0]

    def control(self, number: int) -> bytes:
        """The control block of a leaf."""
        others = b"".join(self._hash(leaf) for place, leaf in enumerate(self.leaves) if place != number)
        return bytes((self.version | self._tweaked()[1],)) + self.internal + others

    def sighash(self, number: int, tx: CTransaction, spent: Sequence[tuple[int, bytes]], hash_type: int) -> bytes:
        """What a signature of the first input by that leaf signs (BIP 341, 342)."""
        first = tx.vin[0]
        outs = b"".join(out.serialize() for out in tx.vout)
        message = bytes((0, hash_type)) + struct.pack("<iI", tx.nVersion, tx.nLockTime)
        if not hash_type & 0x80:
            message += _sha(b"".join(txin.prevout.serialize() for txin in tx.vin))
            message += _sha(b"".join(struct.pack("<q", value) for value, _ in spent))
            message += _sha(b"".join(compact(script) for _, script in spent))
            message += _sha(b"".join(struct.pack("<I", txin.nSequence) for txin in tx.vin))
        if hash_type & 3 < 2:
            message += _sha(outs)
        message += b"\x02"
        if hash_type & 0x80:
            message += first.prevout.serialize() + struct.pack("<q", spent[0][0]) + compact(spent[0][1])
            message += struct.pack("<I", first.nSequence)
        else:
            message += struct.pack("<I", 0)
        if hash_type & 3 == 3:
            message += _sha(tx.vout[0].serialize())
        return tagged("TapSighash", message + self._hash(self.leaves[number]) + b"\x00" + b"\xff" * 4)


def _sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def sign_schnorr(key: Key, digest: bytes, hash_type: int = 0) -> bytes:
    """64 bytes, or 65 where there is a hash type."""
    signature = ssa.sign(digest, key.secret)
    return signature + (bytes((hash_type,)) if hash_type else b"")


def unsigned(
    coins: Sequence[Outpoint], outputs: Sequence[tuple[int, bytes]], version: int = 3, locktime: int = 0
) -> CTransaction:
    """A transaction without signatures."""
    vin = [CTxIn(COutPoint(coin.txid, coin.vout), nSequence=SEQUENCE) for coin in coins]
    return CTransaction(vin, [CTxOut(value, CScript(script)) for value, script in outputs], locktime, version)


def with_witness(tx: CTransaction, *items: bytes) -> bytes:
    """The raw transaction with a witness of its first input."""
    stacks = [CTxInWitness(CScriptWitness(items)), *(CTxInWitness() for _ in tx.vin[1:])]
    raw: bytes = CTransaction(tx.vin, tx.vout, tx.nLockTime, tx.nVersion, CTxWitness(stacks)).serialize()
    return raw


def leaf_spend(
    tree: Tree, coin: Coin, outputs: Sequence[tuple[int, bytes]], key: Key, hash_type: int = 0, leaf: int = 0
) -> bytes:
    """A spend of a tree's coin by a leaf that asks for one signature."""
    tx = unsigned([coin[0]], outputs)
    digest = tree.sighash(leaf, tx, [(coin[1], tree.script)], hash_type)
    return with_witness(tx, sign_schnorr(key, digest, hash_type), tree.leaves[leaf], tree.control(leaf))


def sign_first(tx: CTransaction, key: Key, number: int = 0) -> CTransaction:
    """The transaction with a P2PKH input signed."""
    digest = SignatureHash(CScript(script_of_key(key)), tx, number, SIGHASH_ALL)
    vin = list(tx.vin)
    script_sig = CScript([key.sign(digest) + bytes((SIGHASH_ALL,)), key.pubkey])
    vin[number] = CTxIn(vin[number].prevout, script_sig, vin[number].nSequence)
    return CTransaction(vin, tx.vout, tx.nLockTime, tx.nVersion, tx.wit)


def payment(key: Key, coin: Coin, fee: int, *outputs: tuple[int, bytes], version: int = 3) -> bytes:
    """A spend of a P2PKH coin: the change first, then what is asked for."""
    change = coin[1] - fee - sum(value for value, _ in outputs)
    raw: bytes = sign_first(unsigned([coin[0]], [(change, script_of_key(key)), *outputs], version), key).serialize()
    return raw


def raising(key: Key, anchor: Outpoint, coin: Coin, fee: int, version: int = 3, outputs: int = 1) -> bytes:
    """A child that spends a P2A output and a P2PKH coin, whose change it splits into so many outputs."""
    share = (240 + coin[1] - fee) // outputs
    outs = [(240 + coin[1] - fee - share * (outputs - 1), script_of_key(key))] + [(share, script_of_key(key))] * (
        outputs - 1
    )
    raw: bytes = sign_first(unsigned([anchor, coin[0]], outs, version), key, 1).serialize()
    return raw


def txid_of(raw: bytes) -> bytes:
    """The txid, in wire order."""
    return bytes(CTransaction.deserialize(raw).GetTxid())


def shown(raw: bytes) -> str:
    """The txid as people write it."""
    return txid_of(raw)[::-1].hex()


def wtxid_of(raw: bytes) -> str:
    """The txid with the witness, as people write it."""
    return bytes(CTransaction.deserialize(raw).GetHash())[::-1].hex()


def vsize_of(raw: bytes) -> int:
    """The size in vB."""
    tx = CTransaction.deserialize(raw)
    return (3 * len(tx.serialize({"include_witness": False})) + len(raw) + 3) // 4

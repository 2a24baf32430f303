"""Building blocks of the regtest chain: coinbase, merkle root, witness commitment, proof of work."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from bitcoin.core import (
    CBlock,
    COutPoint,
    CTransaction,
    CTxIn,
    CTxInWitness,
    CTxOut,
    CTxWitness,
    VarIntSerializer,
)
from bitcoin.core.script import CScript, CScriptWitness

BITS = 0x207FFFFF
BLOCK_VERSION = 0x20000000
COIN = 100_000_000
HALVING = 150  # blocks
MATURITY = 100  # blocks that a coinbase waits for its first spend
_TARGET = 0x7FFFFF << 8 * (0x20 - 3)
_HEADER = struct.Struct("<i32s32sIII")
_COMMITMENT = b"\x6a\x24\xaa\x21\xa9\xed"


@dataclass(frozen=True)
class Template:
    """Where a block is to stand and whom it pays: ``fees`` in satoshis, ``nonce`` makes its coinbase unique."""

    previous: bytes
    height: int
    time: int
    fees: int
    payout_script: bytes
    nonce: int


def double_sha256(data: bytes) -> bytes:
    """Return Bitcoin's hash of blocks and transactions, in wire order."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def subsidy(height: int) -> int:
    """Return the new satoshis of the block at a height: 50 bitcoins, halved every 150 blocks."""
    return 50 * COIN >> height // HALVING


def build_block(template: Template, transactions: Sequence[CTransaction]) -> tuple[bytes, bytes]:
    """Return a mined block of these transactions: its hash and its raw bytes."""
    coinbase = _coinbase(template, transactions)
    body = [coinbase, *transactions]
    root = _merkle_root([bytes(tx.GetTxid()) for tx in body])
    head = (BLOCK_VERSION, template.previous, root, template.time, BITS)
    nonce = 0
    while True:
        header = _HEADER.pack(*head, nonce)
        found = double_sha256(header)
        if int.from_bytes(found, "little") <= _TARGET:
            count: bytes = VarIntSerializer.serialize(len(body))
            return found, header + count + b"".join(tx.serialize() for tx in body)
        nonce += 1


def parse_block(raw: bytes) -> CBlock:
    """Return a raw block with its transactions."""
    return CBlock.deserialize(raw)


def _coinbase(template: Template, transactions: Sequence[CTransaction]) -> CTransaction:
    reserved = bytes(32)
    witness_root = _merkle_root([bytes(32), *(double_sha256(tx.serialize()) for tx in transactions)])
    return CTransaction(
        [CTxIn(COutPoint(), CScript([template.height, template.nonce.to_bytes(8, "big")]), 0xFFFFFFFF)],
        [
            CTxOut(subsidy(template.height) + template.fees, CScript(template.payout_script)),
            CTxOut(0, CScript(_COMMITMENT + double_sha256(witness_root + reserved))),
        ],
        witness=CTxWitness([CTxInWitness(CScriptWitness([reserved]))]),
    )


def _merkle_root(hashes: list[bytes]) -> bytes:
    while len(hashes) > 1:
        if len(hashes) % 2:
            hashes = [*hashes, hashes[-1]]
        hashes = [double_sha256(hashes[n] + hashes[n + 1]) for n in range(0, len(hashes), 2)]
    return hashes[0]

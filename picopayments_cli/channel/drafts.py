"""Transactions before they are signed: their bytes, sizes and txids. Amounts are satoshis, sizes virtual bytes (vB)."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bitcoin.core import CTransaction
from bitcoin.core.serialize import SerializationError

from picopayments_cli.channel.counterparty import is_p2pkh, script_pushes
from picopayments_cli.channel.scripts import P2A, is_p2wpkh
from picopayments_cli.channel.taproot import Leaf, compact_size
from picopayments_cli.channel.values import Coin, Outpoint
from picopayments_cli.errors import BadPreviousTransaction, InvalidQuantity

REPLACEABLE = 0xFFFFFFFD
DUST = 546  # below it an output to a P2PKH address is not relayed
SHARED = 3  # the version of what both sign and of every revoke: TRUC (BIP 431)
OWN = 2  # the version of what one signs alone
MAX_SIZE = 100_000  # vB of a transaction that is relayed
MAX_CHILD = 1_000  # vB of a version 3 transaction that spends an unconfirmed one
# With the longest signatures: 65 bytes of BIP 340 with a hash type, 72 of DER with low S and a hash type.
_SIGNATURE, _DER_SIGNATURE, _PUBKEY = 1 + 65, 1 + 72, 1 + 33
_EMPTY_INPUT = 41


@dataclass(frozen=True)
class Output:
    """Satoshis to a scriptPubKey."""

    value: int
    script: bytes

    @cached_property
    def raw(self) -> bytes:
        """The output's bytes."""
        return self.value.to_bytes(8, "little") + compact_size(len(self.script)) + self.script


@dataclass(frozen=True)
class Input:
    """A coin to be spent: by a leaf, or where there is none by its script (a wallet's, or P2A's, which anybody may).

    ``words``: the longest of what the leaf's script takes, in witness bytes.
    """

    coin: Coin
    leaf: Leaf | None = None
    words: int = 0
    sequence: int = REPLACEABLE

    @property
    def weight(self) -> int:
        """Its part of the weight of a transaction with witnesses."""
        script = self.coin.script
        if self.leaf is not None:
            witness = 1 + self.words + 1 + len(self.leaf.script) + 1 + len(self.leaf.control)
            return 4 * _EMPTY_INPUT + witness
        if is_p2pkh(script):
            return 4 * (_EMPTY_INPUT + _DER_SIGNATURE + _PUBKEY) + 1
        if is_p2wpkh(script):
            return 4 * _EMPTY_INPUT + 1 + _DER_SIGNATURE + _PUBKEY
        if script == P2A:
            return 4 * _EMPTY_INPUT + 1
        raise ValueError(f"nothing spends an output of script {script.hex()}")

    @property
    def prevout(self) -> bytes:
        """The outpoint's bytes."""
        return self.coin.outpoint.txid + self.coin.outpoint.vout.to_bytes(4, "little")


def by_both(coin: Coin, leaf: Leaf, sequence: int = REPLACEABLE) -> Input:
    """A coin that both spend."""
    return Input(coin, leaf, 2 * _SIGNATURE, sequence)


def by_payer(coin: Coin, leaf: Leaf, secret_size: int = 0) -> Input:
    """A coin that the payer spends, with a secret where the leaf takes one."""
    return Input(coin, leaf, _SIGNATURE + (1 + secret_size if secret_size else 0))


@dataclass(frozen=True)
class Unlock:
    """The contents of a signed input: scriptSig and witness; one of them is empty, or for P2A both."""

    script_sig: bytes = b""
    witness: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Draft:
    """A transaction before it is signed: everything but the signatures."""

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    version: int = OWN
    locktime: int = 0

    @property
    def fee(self) -> int:
        """Return what the outputs leave, in satoshis."""
        return sum(spent.coin.value for spent in self.inputs) - sum(out.value for out in self.outputs)

    @cached_property
    def weight(self) -> int:
        """The weight with the longest signatures, all counted as with witnesses (two units more, if there are none)."""
        counts = len(compact_size(len(self.inputs))) + len(compact_size(len(self.outputs)))
        fixed = 4 * (8 + counts + sum(len(out.raw) for out in self.outputs)) + 2
        return fixed + sum(spent.weight for spent in self.inputs)

    @property
    def size(self) -> int:
        """The size in vB with the longest signatures."""
        return (self.weight + 3) // 4

    @cached_property
    def outputs_raw(self) -> bytes:
        """The outputs' bytes, without their number."""
        return b"".join(out.raw for out in self.outputs)

    @cached_property
    def prevouts_raw(self) -> bytes:
        """The outpoints' bytes, one behind the other."""
        return b"".join(spent.prevout for spent in self.inputs)

    @cached_property
    def sequences_raw(self) -> bytes:
        """The sequences' bytes, one behind the other."""
        return b"".join(spent.sequence.to_bytes(4, "little") for spent in self.inputs)

    def body(self, script_sigs: Sequence[bytes]) -> bytes:
        """Inputs and outputs with their numbers."""
        parts = [compact_size(len(self.inputs))]
        for spent, script_sig in zip(self.inputs, script_sigs, strict=True):
            parts += (spent.prevout, compact_size(len(script_sig)), script_sig, struct.pack("<I", spent.sequence))
        return b"".join((*parts, compact_size(len(self.outputs)), self.outputs_raw))

    def stripped(self, script_sigs: Sequence[bytes]) -> bytes:
        """The transaction without witnesses, whose hash is the txid."""
        return struct.pack("<I", self.version) + self.body(script_sigs) + struct.pack("<I", self.locktime)

    @cached_property
    def txid(self) -> bytes:
        """The txid in wire order, known before anybody has signed, as no input is signed outside of its witness."""
        if any(is_p2pkh(spent.coin.script) for spent in self.inputs):
            raise ValueError("the txid of a transaction with P2PKH inputs is known only once it is signed")
        return double_sha256(self.stripped([b""] * len(self.inputs)))

    def coin(self, index: int) -> Coin:
        """One of its outputs, not confirmed."""
        out = self.outputs[index]
        return Coin(Outpoint(self.txid, index), out.value, out.script, None)

    def plus(self, coins: Sequence[Coin]) -> Draft:
        """The draft with wallet coins that add to its fee, behind its inputs: what was signed with 81 stays valid."""
        return replace(self, inputs=(*self.inputs, *(Input(coin) for coin in coins)))

    def signed(self, unlocks: Sequence[Unlock]) -> bytes:
        """The transaction's bytes, with what unlocks each input."""
        script_sigs = [unlock.script_sig for unlock in unlocks]
        if not any(unlock.witness for unlock in unlocks):
            return self.stripped(script_sigs)
        witnesses = b"".join(_stack(unlock.witness) for unlock in unlocks)
        head, tail = struct.pack("<IBB", self.version, 0, 1), struct.pack("<I", self.locktime)
        return head + self.body(script_sigs) + witnesses + tail


def check_dust(satoshis: int, advice: str) -> None:
    """Refuse an output that nodes do not relay; ``advice``: the verb of what its user does. Raises InvalidQuantity."""
    if satoshis < DUST:
        raise InvalidQuantity(
            f"Nodes relay no output of less than {DUST} satoshis. {advice} {DUST} or more.", value=satoshis, least=DUST
        )


def _stack(items: Sequence[bytes]) -> bytes:
    return compact_size(len(items)) + b"".join(compact_size(len(item)) + item for item in items)


def double_sha256(data: bytes) -> bytes:
    """SHA-256, twice."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


# Transactions of others ---------------------------------------------------------------------------------------------


def parse_transaction(raw: bytes) -> CTransaction | None:
    """A transaction from exactly these bytes, or None."""
    try:
        tx = CTransaction.deserialize(raw)
    except (SerializationError, ValueError):
        return None
    return tx if tx.serialize() == raw else None


def txid_of(raw: bytes) -> bytes:
    """The txid, in wire order, of a transaction that was parsed once already."""
    return bytes(CTransaction.deserialize(raw).GetTxid())


def shown_keys(tx: CTransaction) -> list[bytes]:
    """The public key by which each input spends a P2PKH or P2WPKH coin; where it spends another, its last word."""
    witnesses = [list(item.scriptWitness.stack) for item in tx.wit.vtxinwit] or [[] for _ in tx.vin]
    words = (stack or script_pushes(bytes(spent.scriptSig)) for stack, spent in zip(witnesses, tx.vin, strict=True))
    return [bytes(found[-1]) if found else b"" for found in words]


def spent_outpoints(tx: CTransaction) -> tuple[Outpoint, ...]:
    """The outpoints that a transaction spends, in order."""
    return tuple(Outpoint(spent.prevout.hash, spent.prevout.n) for spent in tx.vin)


def coin_of(raw: bytes, outpoint: Outpoint) -> Coin:
    """The coin that an outpoint names, from its transaction. Raises BadPreviousTransaction.

    A signature of a P2PKH coin doesn't commit to the value that it spends, so a value counts only when it comes out of
    bytes that hash to the txid.
    """
    made = outputs_of(raw, outpoint.txid)
    if outpoint.vout >= len(made):
        raise BadPreviousTransaction(
            f"Another transaction was given as that of {outpoint}. Nothing was signed. Ask another node or hub.",
            outpoint=str(outpoint),
        )
    out = made[outpoint.vout]
    return Coin(outpoint, out.value, out.script, None)


def outputs_of(raw: bytes, txid: bytes) -> tuple[Output, ...]:
    """The outputs of a transaction; none where these are not its bytes."""
    tx = parse_transaction(raw)
    if tx is None or tx.GetTxid() != txid:
        return ()
    return tuple(Output(out.nValue, bytes(out.scriptPubKey)) for out in tx.vout)


def check_coin(coin: Coin, raw: bytes) -> None:
    """Compare a coin as it was named with the transaction that made it. Raises BadPreviousTransaction."""
    made = coin_of(raw, coin.outpoint)
    if (made.value, made.script) != (coin.value, coin.script):
        raise BadPreviousTransaction(
            f"The coin {coin.outpoint} holds {made.value} satoshis, not the {coin.value} that were named. "
            "Nothing was signed.",
            outpoint=str(coin.outpoint),
            value=made.value,
            named=coin.value,
        )

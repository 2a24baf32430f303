"""Refuse witnesses that a node does not relay, though blocks may: sizes, annexes, what a later rule could change.

Where a tapscript's key is not plainly one of 32 bytes it is refused: any signature fulfils a key of another size.
"""

from __future__ import annotations

from collections.abc import Sequence

from bitcoin.core import CTransaction
from bitcoin.core.script import CScript, CScriptInvalidError

from picopayments_cli.channel.counterparty import is_p2sh, script_pushes

P2A = bytes.fromhex("51024e73")
_MAX_SCRIPT, _MAX_ITEMS, _MAX_ITEM = 3600, 100, 80  # of P2WSH; the last one of tapscripts, too
_ANNEX, _TAPSCRIPT, _LEAF_MASK = b"\x50", 0xC0, 0xFE
_CHECKS = (0xAC, 0xAD, 0xBA)  # CHECKSIG, CHECKSIGVERIFY, CHECKSIGADD
_LOCKS = (0xB1, 0xB2)  # CHECKLOCKTIMEVERIFY, CHECKSEQUENCEVERIFY
_NOPS = (0xB0, *range(0xB3, 0xBA))
_SUCCESSES = frozenset(
    (0x50, 0x62, *range(0x7E, 0x82), *range(0x83, 0x87), 0x89, 0x8A, 0x8D, 0x8E, *range(0x95, 0x9A), *range(0xBB, 0xFF))
)


def is_witness_program(script: bytes) -> bool:
    """Tell whether a scriptPubKey is a segwit output of any version."""
    return 4 <= len(script) <= 42 and (script[0] == 0 or 0x51 <= script[0] <= 0x60) and script[1] == len(script) - 2


def is_p2tr(script: bytes) -> bool:
    """Tell whether a scriptPubKey is a taproot output."""
    return len(script) == 34 and script[:2] == b"\x51\x20"


def witness_of(tx: CTransaction, number: int) -> list[bytes]:
    """Return the witness of an input, item by item."""
    if number >= len(tx.wit.vtxinwit):
        return []
    return [bytes(item) for item in tx.wit.vtxinwit[number].scriptWitness.stack]


def is_standard_witness(script: bytes, script_sig: bytes, witness: Sequence[bytes]) -> bool:
    """Tell whether a witness is of a relayed form for the scriptPubKey that it spends."""
    if not witness:
        return True
    if is_p2sh(script):
        script = (script_pushes(script_sig) or [b""])[-1]
    elif is_p2tr(script):
        return _standard_taproot(witness)
    if script[:2] == b"\0\x20" and len(script) == 34:
        items = witness[:-1]
        return len(witness[-1]) <= _MAX_SCRIPT and len(items) <= _MAX_ITEMS and _small(items)
    return is_witness_program(script) and script != P2A


def _standard_taproot(witness: Sequence[bytes]) -> bool:
    if len(witness) == 1:
        return True
    if witness[-1][:1] in (_ANNEX, b""):
        return False
    return witness[-1][0] & _LEAF_MASK != _TAPSCRIPT or _small(witness[:-2])


def _small(items: Sequence[bytes]) -> bool:
    return all(len(item) <= _MAX_ITEM for item in items)


def tapscript_fault(witness: Sequence[bytes]) -> str | None:
    """Tell why a node does not relay a taproot spend that consensus allows, or None where it does."""
    if len(witness) == 1:
        return None
    if witness[-1][0] & _LEAF_MASK != _TAPSCRIPT:
        return "Taproot version reserved for soft-fork upgrades"
    try:
        words = [(opcode, data) for opcode, data, _ in CScript(witness[-2]).raw_iter()]
    except CScriptInvalidError:
        return "OP_SUCCESSx reserved for soft-fork upgrades"  # nothing else lets such a script through
    return next((fault for fault in map(_fault, [(0, None), *words], words) if fault is not None), None)


def _fault(before: tuple[int, bytes | None], word: tuple[int, bytes | None]) -> str | None:
    opcode, data = word
    if opcode in _SUCCESSES:
        return "OP_SUCCESSx reserved for soft-fork upgrades"
    if opcode in _NOPS:
        return "NOPx reserved for soft-fork upgrades"
    if opcode in _CHECKS and (before[1] is None or len(before[1]) != 32):
        return "Public key version reserved for soft-fork upgrades"
    if data is not None and opcode != _shortest(data):
        return "Data push larger than necessary"
    if opcode in _LOCKS and before[1] is not None and not _minimal_number(before[1]):
        return "non-minimally encoded script number"
    return None


def _shortest(data: bytes) -> int:
    """Return the opcode that pushes data in the fewest bytes."""
    if len(data) == 1 and 1 <= data[0] <= 16:
        return 0x50 + data[0]
    if data == b"\x81":
        return 0x4F
    if len(data) <= 75:
        return len(data)
    return 0x4C if len(data) <= 255 else 0x4D


def _minimal_number(data: bytes) -> bool:
    return not data or bool(data[-1] & 0x7F) or (len(data) > 1 and bool(data[-2] & 0x80))

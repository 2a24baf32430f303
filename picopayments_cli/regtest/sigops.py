"""Count the signature checks of scripts and transactions, by which blocks are bounded as by their weight."""

from __future__ import annotations

from collections.abc import Sequence

from bitcoin.core import CTransaction
from bitcoin.core.script import CScript, CScriptInvalidError

from picopayments_cli.channel.counterparty import is_p2sh, script_pushes
from picopayments_cli.regtest.index import Output
from picopayments_cli.regtest.witness import witness_of

MAX_BLOCK_COST = 80_000
MAX_COST = 16_000  # of a transaction that nodes relay
COINBASE_COST = 400  # that a block's template leaves to its coinbase
MAX_KEYS = 20  # of a multisig
_LEGACY = 4  # what a check costs outside of a witness
_OP_1, _OP_16 = 0x51, 0x60
_CHECKSIG, _CHECKSIGVERIFY, _CHECKMULTISIG, _CHECKMULTISIGVERIFY = 0xAC, 0xAD, 0xAE, 0xAF


def sigops(script: bytes, *, accurate: bool) -> int:
    """Count the signature checks in a script, up to where it can't be read.

    A multisig counts 20, and where ``accurate`` its number of keys, if that stands before it.
    """
    count, before = 0, 0
    try:
        for opcode, _, _ in CScript(script).raw_iter():
            if opcode in (_CHECKSIG, _CHECKSIGVERIFY):
                count += 1
            elif opcode in (_CHECKMULTISIG, _CHECKMULTISIGVERIFY):
                count += before - _OP_1 + 1 if accurate and _OP_1 <= before <= _OP_16 else MAX_KEYS
            before = opcode
    except CScriptInvalidError:
        pass
    return count


def redeem_sigops(script_sig: bytes) -> int:
    """Count the signature checks in the script that a P2SH input redeems."""
    return sigops((script_pushes(script_sig) or [b""])[-1], accurate=True)


def cost(tx: CTransaction, spent: Sequence[Output]) -> int:
    """Return what a transaction takes of a block's 80,000: four for each check, one for each in a witness."""
    scripts = [*(bytes(txin.scriptSig) for txin in tx.vin), *(bytes(out.scriptPubKey) for out in tx.vout)]
    total = _LEGACY * sum(sigops(script, accurate=False) for script in scripts)
    for number, (txin, out) in enumerate(zip(tx.vin, spent, strict=True)):
        program, script_sig = out.script, bytes(txin.scriptSig)
        if is_p2sh(program):
            total += _LEGACY * redeem_sigops(script_sig)
            program = (script_pushes(script_sig) or [b""])[-1]
        total += _witness_sigops(program, witness_of(tx, number))
    return total


def _witness_sigops(program: bytes, witness: Sequence[bytes]) -> int:
    """Count the checks of a version 0 witness; those of taproot have a budget of their own."""
    if program[:2] == b"\0\x14" and len(program) == 22:
        return 1
    if program[:2] == b"\0\x20" and len(program) == 34 and witness:
        return sigops(witness[-1], accurate=True)
    return 0

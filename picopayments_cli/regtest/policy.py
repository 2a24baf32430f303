"""Refuse what no node of the network relays, whatever the mempool holds: standardness, dust, locks, scripts.

Reasons are named as Bitcoin Core names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from bitcoin.core import CTransaction
from bitcoin.core.script import CScript

from picopayments_cli.channel.counterparty import is_address, is_p2sh, script_pushes
from picopayments_cli.consensus import spends_validly
from picopayments_cli.regtest.blocks import COIN, MATURITY
from picopayments_cli.regtest.index import Index, Output
from picopayments_cli.regtest.sigops import MAX_COST, cost, redeem_sigops
from picopayments_cli.regtest.witness import (
    P2A,
    is_p2tr,
    is_standard_witness,
    is_witness_program,
    tapscript_fault,
    witness_of,
)

MAX_VSIZE = 100_000  # vB
MAX_MONEY = 21_000_000 * COIN
MIN_SIZE = 65  # bytes without witness
MAX_SCRIPT_SIG = 1650
MAX_P2SH_SIGOPS = 15
MIN_RELAY_RATE = 1  # sat/vB
MAX_FEE_RATE = 10_000  # sat/vB: what sendrawtransaction takes for a slip of the hand
DUST_RATE = 3  # sat/vB
_LOCK_IS_TIME = 500_000_000
_SEQUENCE_DISABLED, _SEQUENCE_IS_TIME, _SEQUENCE_MASK = 1 << 31, 1 << 22, 0xFFFF
_FINAL = 0xFFFFFFFF


class Refused(Exception):
    """The mempool does not take a transaction; ``code`` is that of Bitcoin Core's sendrawtransaction."""

    def __init__(self, reason: str, code: int = -26) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class FeeTooLow(Refused):
    """A transaction pays too little by itself: its child may still pay for both, in a package."""


# Sizes --------------------------------------------------------------------------------------------------------------


def weight(tx: CTransaction) -> int:
    """Return the weight units: three times the size without witness, and the size with it."""
    return 3 * len(tx.serialize({"include_witness": False})) + len(tx.serialize())


def vsize(tx: CTransaction) -> int:
    """Return the virtual size in vB."""
    return (weight(tx) + 3) // 4


def dust_limit(script: bytes) -> int:
    """Return the satoshis below which an output costs more to spend than it holds.

    546 for P2PKH, 540 for P2SH, 330 for P2TR and P2WSH, 294 for P2WPKH, 240 for P2A, 0 for data.
    """
    if script[:1] == b"\x6a":
        return 0
    size = 8 + (1 if len(script) < 253 else 3) + len(script)
    return DUST_RATE * (size + (67 if is_witness_program(script) else 148))


# A transaction by itself --------------------------------------------------------------------------------------------


def check_sane(tx: CTransaction) -> None:
    """Check the rules that need no chain: some input, some output, amounts in range, no output spent twice."""
    if not tx.vin:
        raise Refused("bad-txns-vin-empty")
    if not tx.vout:
        raise Refused("bad-txns-vout-empty")
    if any(out.nValue < 0 for out in tx.vout):
        raise Refused("bad-txns-vout-negative")
    if sum(out.nValue for out in tx.vout) > MAX_MONEY:
        raise Refused("bad-txns-txouttotal-toolarge")
    if len({txin.prevout for txin in tx.vin}) < len(tx.vin):
        raise Refused("bad-txns-inputs-duplicate")
    if tx.is_coinbase():
        raise Refused("coinbase")
    if any(txin.prevout.is_null() for txin in tx.vin):
        raise Refused("bad-txns-prevout-null")


def check_standard(tx: CTransaction) -> None:
    """Refuse what is valid but not relayed: versions, sizes, forms of scripts, dust."""
    if not 1 <= tx.nVersion <= 3:
        raise Refused("version")
    if vsize(tx) > MAX_VSIZE:
        raise Refused("tx-size")
    for txin in tx.vin:
        script_sig = bytes(txin.scriptSig)
        if len(script_sig) > MAX_SCRIPT_SIG:
            raise Refused("scriptsig-size")
        if not _push_only(script_sig):
            raise Refused("scriptsig-not-pushonly")
    for out in tx.vout:
        if not _standard_output(bytes(out.scriptPubKey)):
            raise Refused("scriptpubkey")
    for out in tx.vout:
        if out.nValue < dust_limit(bytes(out.scriptPubKey)):
            raise Refused("dust")
        if out.nValue and out.scriptPubKey[:1] == b"\x6a":
            raise Refused("Unspendable output exceeds maximum configured by user (maxburnamount)", -25)
    if len(tx.serialize({"include_witness": False})) < MIN_SIZE:
        raise Refused("tx-size-small")


def _push_only(script: bytes) -> bool:
    return script_pushes(script) is not None and bool(CScript(script).is_push_only())


def _standard_output(script: bytes) -> bool:
    if script[:1] == b"\x6a":
        return _push_only(script[1:])
    pays_key = len(script) in (35, 67) and script[0] == len(script) - 2 and script[-1] == 0xAC
    return is_address(script) or is_witness_program(script) or pays_key


# Locks --------------------------------------------------------------------------------------------------------------


def is_final(tx: CTransaction, height: int, median_time: int) -> bool:
    """Tell whether nLockTime lets a transaction into the block at that height, on a chain of that median time past."""
    limit = height if tx.nLockTime < _LOCK_IS_TIME else median_time
    return bool(tx.nLockTime < limit) or all(txin.nSequence == _FINAL for txin in tx.vin)


def locks_met(tx: CTransaction, spent: Sequence[Output], index: Index) -> bool:
    """Tell whether the relative locks (BIP 68) of all inputs let a transaction into the next block."""
    if tx.nVersion < 2:
        return True
    tip = index.height
    for txin, out in zip(tx.vin, spent, strict=True):
        if txin.nSequence & _SEQUENCE_DISABLED:
            continue
        base = tip + 1 if out.height is None else out.height
        value = txin.nSequence & _SEQUENCE_MASK
        if txin.nSequence & _SEQUENCE_IS_TIME:
            if index.median_time(max(base - 1, 0)) + (value << 9) > index.median_time(tip):
                return False
        elif base + value > tip + 1:
            return False
    return True


# Inputs -------------------------------------------------------------------------------------------------------------


def check_inputs(tx: CTransaction, spent: Sequence[Output], tip: int) -> int:
    """Check that the outputs exist, are mature and of a standard form; the fee in satoshis."""
    for out in spent:
        if out.coinbase and out.height is not None and tip + 1 - out.height < MATURITY:
            raise Refused("bad-txns-premature-spend-of-coinbase")
    fee = sum(out.value for out in spent) - sum(out.nValue for out in tx.vout)
    if fee < 0:
        raise Refused("bad-txns-in-belowout")
    for number, (txin, out) in enumerate(zip(tx.vin, spent, strict=True)):
        if not _standard_input(out.script) or (
            is_p2sh(out.script) and redeem_sigops(bytes(txin.scriptSig)) > MAX_P2SH_SIGOPS
        ):
            raise Refused("bad-txns-nonstandard-inputs")
        if not is_standard_witness(out.script, bytes(txin.scriptSig), witness_of(tx, number)):
            raise Refused("bad-witness-nonstandard")
    if cost(tx, spent) > MAX_COST:
        raise Refused("bad-txns-too-many-sigops")
    return int(fee)


def _standard_input(script: bytes) -> bool:
    known = script[:1] == b"\0" or is_p2tr(script) or script == P2A
    return _standard_output(script) and (known or not is_witness_program(script))


def check_scripts(raw: bytes, spent: Sequence[Output]) -> None:
    """Check that every input fulfils its script, first by the rules of blocks, then by the stricter ones of relay.

    The stricter: strict DER and low S, minimal pushes, null dummy, clean stack, no unknown opcode or hash type.
    """
    if not spends_validly(raw, [(out.value, out.script) for out in spent]):
        raise Refused("mandatory-script-verify-flag-failed (the script failed or left no true value)")
    tx = _pycoin_tx().from_bin(raw)
    tx.set_unspents([_pycoin_tx().TxOut(out.value, out.script) for out in spent])
    for number, out in enumerate(spent):
        if out.script == P2A:
            continue
        if is_p2tr(out.script):  # the interpreter below does not know it
            fault = tapscript_fault([bytes(item) for item in tx.txs_in[number].witness])
            if fault is not None:
                raise Refused(f"non-mandatory-script-verify-flag ({fault})")
            continue
        try:
            tx.check_solution(number, flags=_policy_flags())
        except _script_error() as error:
            text = error.args[0] if error.args else "script error"
            raise Refused(f"non-mandatory-script-verify-flag ({text})") from error


@cache
def _pycoin_tx() -> Any:
    from pycoin.networks.registry import network_for_netcode

    return network_for_netcode("XRT").tx


@cache
def _script_error() -> type[Exception]:
    from pycoin.coins.SolutionChecker import ScriptError

    found: type[Exception] = ScriptError
    return found


@cache
def _policy_flags() -> int:
    from pycoin.satoshi import flags

    # named one by one: by default the interpreter judges neither CHECKLOCKTIMEVERIFY nor CHECKSEQUENCEVERIFY
    names = (
        "P2SH STRICTENC DERSIG LOW_S NULLDUMMY MINIMALDATA DISCOURAGE_UPGRADABLE_NOPS CLEANSTACK "
        "CHECKLOCKTIMEVERIFY CHECKSEQUENCEVERIFY WITNESS DISCOURAGE_UPGRADABLE_WITNESS_PROGRAM MINIMALIF NULLFAIL "
        "WITNESS_PUBKEYTYPE"
    )
    return sum(int(getattr(flags, f"VERIFY_{name}")) for name in names.split())

"""Replacement by fee: when new transactions throw out what they conflict with.

The rules of BIP 125 with every transaction replaceable: no new unconfirmed input, the fees of all that goes and the
relay of what comes paid on top, at most 100 thrown out, a higher rate than each that conflicts. Beside them the rule of
newer nodes, that no part of what goes may pay a better rate than what comes: nodes take either, so this one takes what
fulfils both.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from picopayments_cli.regtest.graph import Entry, rate, totals
from picopayments_cli.regtest.policy import FeeTooLow, Refused

MAX_REPLACED = 100
INCREMENTAL_RATE = 1  # sat/vB that a replacement pays on top


def check_replacement(new: Entry, direct: Sequence[Entry], gone: Sequence[Entry]) -> None:
    """Check that a transaction may replace ``direct``, its conflicts, and with them all of ``gone``. Raises Refused."""
    shown = new.item.txid[::-1].hex()
    known = frozenset[bytes]().union(*(old.parents for old in direct))
    if not new.parents.isdisjoint(old.item.txid for old in gone):
        raise Refused(f"bad-txns-spends-conflicting-tx, {shown} spends conflicting transaction")
    if not new.parents <= known:
        raise Refused(f"replacement-adds-unconfirmed, replacement {shown} adds unconfirmed input")
    if len(gone) > MAX_REPLACED:
        raise Refused(f"too many potential replacements, rejecting replacement {shown}")
    why = f"insufficient fee, rejecting replacement {shown}"
    if rate([new]) <= max(rate([old]) for old in direct):
        raise FeeTooLow(f"{why}; new feerate is not higher than the old one")
    _check_fees([new], gone, why)


def check_package_replacement(parent: Entry, child: Entry, gone: Sequence[Entry]) -> None:
    """Check that a parent and its child together may replace what they conflict with. Raises Refused."""
    why = "package RBF failed: "
    if parent.parents or child.parents != {parent.item.txid}:
        raise Refused(f"{why}new transaction cannot have mempool ancestors")
    if len(gone) > MAX_REPLACED:
        raise Refused(f"{why}too many potential replacements")
    if rate([parent, child]) <= rate([parent]):
        raise Refused(f"{why}package feerate is less than or equal to parent feerate")
    shown = child.item.txid[::-1].hex()
    _check_fees([parent, child], gone, f"{why}insufficient anti-DoS fees, rejecting replacement {shown}")


def _check_fees(new: Sequence[Entry], gone: Sequence[Entry], why: str) -> None:
    (fee, vsize), (fees, _) = totals(new), totals(gone)
    if fee < fees:
        raise FeeTooLow(f"{why}, less fees than conflicting txs; {fee} < {fees}")
    if fee - fees < vsize * INCREMENTAL_RATE:
        raise FeeTooLow(f"{why}, not enough additional fees to relay; {fee - fees} < {vsize * INCREMENTAL_RATE}")
    if rate(new) <= _best_rate(gone):
        raise FeeTooLow(f"{why}; does not improve feerate diagram")


def _best_rate(gone: Sequence[Entry]) -> Fraction:
    """Return the best rate of any part of these that could be mined by itself; more where that is hard to say."""
    by_txid = {entry.item.txid: entry for entry in gone}
    inside = {txid: [parent for parent in entry.parents if parent in by_txid] for txid, entry in by_txid.items()}
    spent = [parent for parents in inside.values() for parent in parents]
    if len(set(spent)) < len(spent) or any(len(parents) > 1 for parents in inside.values()):
        return max(rate([entry]) for entry in gone)
    best = Fraction(0)
    for entry in gone:  # each stands in a chain: its parts that can be mined are those from the top down
        chain = [entry]
        while above := inside[chain[-1].item.txid]:
            chain.append(by_txid[above[0]])
        best = max(best, rate(chain))
    return best

"""Packages: a parent and its child, judged together by what both pay, as submitpackage takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bitcoin.core import CTransaction

from picopayments_cli.regtest.graph import Entry
from picopayments_cli.regtest.index import outpoint_of
from picopayments_cli.regtest.mempool import Mempool, PairRefused
from picopayments_cli.regtest.policy import FeeTooLow, Refused
from picopayments_cli.regtest.truc import VIOLATION

MAX_PACKAGE = 25
SUCCESS, FAILED = "success", "transaction failed"
_MISSING = "bad-txns-inputs-missingorspent"


@dataclass
class Verdict:
    """The verdict on a package: a message, and by txid why one is refused, what was here before, and what is new.

    ``taken``: for each new one the transactions that it was judged with, itself included.
    """

    message: str = SUCCESS
    errors: dict[bytes, str] = field(default_factory=dict)
    known: dict[bytes, Entry] = field(default_factory=dict)
    taken: dict[bytes, tuple[Entry, ...]] = field(default_factory=dict)
    replaced: list[Entry] = field(default_factory=list)


def check_package(txs: Sequence[CTransaction]) -> None:
    """Check that a package is one transaction, or a parent and its child, with nothing spent twice. Raises Refused."""
    if not 1 <= len(txs) <= MAX_PACKAGE:
        raise Refused(f"Array must contain between 1 and {MAX_PACKAGE} transactions.", -8)
    spent = {txin.prevout.hash for tx in txs[1:] for txin in tx.vin}
    if len(txs) > 2 or any(bytes(tx.GetTxid()) not in spent for tx in txs[:-1]):
        raise Refused("package topology disallowed. not child-with-parents or parents depend on each other.", -25)


def submit(mempool: Mempool, txs: Sequence[CTransaction]) -> Verdict:
    """Take a package into the mempool: each transaction by itself where it can, else both together.

    More than two transactions are refused (``check_package``): a node of the network judges those parent by parent.
    """
    verdict = Verdict()
    if len(txs) == 2 and not {outpoint_of(txin) for txin in txs[0].vin}.isdisjoint(map(outpoint_of, txs[1].vin)):
        verdict.message = "conflict-in-package"
        return verdict
    left = []
    for tx in txs:
        txid = bytes(tx.GetTxid())
        try:
            _take_one(mempool, tx, txid, verdict)
        except Refused as error:
            verdict.errors[txid] = error.reason
            left.append(tx)
            if not isinstance(error, FeeTooLow) and error.reason != _MISSING:
                verdict.message = FAILED
    if left and (len(left) < 2 or len(txs) < 2):
        verdict.message = FAILED
    elif left and verdict.message == SUCCESS:
        _take_both(mempool, left[0], left[1], verdict)
    return verdict


def _take_one(mempool: Mempool, tx: CTransaction, txid: bytes, verdict: Verdict) -> None:
    if txid in mempool.entries:
        verdict.known[txid] = mempool.entries[txid]
        return
    verdict.replaced += mempool.take(tx)
    verdict.taken[txid] = (mempool.entries[txid],)


def _take_both(mempool: Mempool, parent: CTransaction, child: CTransaction, verdict: Verdict) -> None:
    try:
        verdict.replaced += mempool.accept_pair(parent, child)
    except PairRefused as error:
        if error.reason.startswith(VIOLATION) and error.txid == bytes(child.GetTxid()):
            verdict.message = error.reason  # of the two together: each keeps the fault that it has alone
        else:
            verdict.message = FAILED
            verdict.errors[error.txid] = error.reason
    except Refused as error:
        verdict.message = error.reason
    else:
        verdict.errors.clear()
        both = tuple(mempool.entries[bytes(tx.GetTxid())] for tx in (parent, child))
        verdict.taken = {entry.item.txid: both for entry in both}

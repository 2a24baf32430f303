"""Transactions that wait and hang on each other: what is above one, what is below it, what they pay together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from picopayments_cli.regtest.index import Tx


@dataclass(frozen=True)
class Entry:
    """A transaction in the mempool: fee in satoshis, size in vB, the mempool transactions that it spends.

    ``since`` is the height of the tip when it came, ``sigops`` what its signature checks take of a block.
    """

    item: Tx
    fee: int
    vsize: int
    parents: frozenset[bytes]
    since: int = 0
    sigops: int = 0


Entries = Mapping[bytes, Entry]  # by txid, parents before children


def ancestors(entries: Entries, txids: Iterable[bytes]) -> set[bytes]:
    """Return these transactions and all that they hang on."""
    found: set[bytes] = set()
    pending = list(txids)
    while pending:
        txid = pending.pop()
        if txid not in found:
            found.add(txid)
            pending.extend(entries[txid].parents)
    return found


def descendants(below: Callable[[bytes], Iterable[bytes]], txids: Iterable[bytes]) -> set[bytes]:
    """Return these transactions and all that hangs on them; ``below`` tells the children of one."""
    found: set[bytes] = set()
    pending = list(txids)
    while pending:
        txid = pending.pop()
        if txid not in found:
            found.add(txid)
            pending.extend(below(txid))
    return found


def cluster(
    entries: Entries, below: Callable[[bytes], Iterable[bytes]], txids: Iterable[bytes], gone: Collection[bytes]
) -> set[bytes]:
    """Return all that hangs together with these transactions, up or down, if those that are ``gone`` are not there."""
    found: set[bytes] = set()
    pending = list(txids)
    while pending:
        txid = pending.pop()
        if txid not in found and txid not in gone:
            found.add(txid)
            pending.extend(entries[txid].parents)
            pending.extend(below(txid))
    return found


def totals(entries: Iterable[Entry]) -> tuple[int, int]:
    """Return the fee and size of transactions together."""
    listed = list(entries)
    return sum(entry.fee for entry in listed), sum(entry.vsize for entry in listed)


def rate(entries: Iterable[Entry]) -> Fraction:
    """Return what transactions pay together, in sat/vB."""
    return Fraction(*totals(entries))

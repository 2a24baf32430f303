"""Version 3 (TRUC, BIP 431): one unconfirmed parent, one unconfirmed child, both of version 3, the child small."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from picopayments_cli.regtest.graph import Entries, Entry
from picopayments_cli.regtest.policy import Refused

TRUC = 3
VIOLATION = "TRUC-violation"
MAX_VSIZE, MAX_CHILD_VSIZE = 10_000, 1000  # vB


def check_truc(
    entry: Entry, entries: Entries, below: Callable[[bytes], Iterable[bytes]], replaced: Collection[bytes]
) -> bytes | None:
    """Check that a new transaction keeps to the rules; the sibling that has to go for it, if there is one.

    ``below`` tells the children of a transaction, ``replaced`` holds the txids of what this one conflicts with. Raises
    Refused.
    """
    for parent in entry.parents:
        _check_versions(entry, entries[parent])
    if entry.item.tx.nVersion != TRUC:
        return None
    if entry.vsize > MAX_VSIZE:
        raise _violation(f"version=3 {_named(entry)} is too big: {entry.vsize} > {MAX_VSIZE} virtual bytes")
    if not entry.parents:
        return None
    parents = [entries[parent] for parent in entry.parents]
    if len(parents) > 1 or parents[0].parents:
        raise _violation(f"{_named(entry)} would have too many ancestors")
    if entry.vsize > MAX_CHILD_VSIZE:
        raise _violation(f"version=3 child {_named(entry)} is too big: {entry.vsize} > {MAX_CHILD_VSIZE} virtual bytes")
    siblings = list(below(parents[0].item.txid))
    if not siblings or not set(siblings).isdisjoint(replaced):
        return None
    if len(siblings) > 1:
        raise _violation(f"{_named(parents[0])} would exceed descendant count limit")
    return siblings[0]


def _check_versions(entry: Entry, parent: Entry) -> None:
    if (entry.item.tx.nVersion == TRUC) == (parent.item.tx.nVersion == TRUC):
        return
    own, other = ("version=3", "non-version=3") if entry.item.tx.nVersion == TRUC else ("non-version=3", "version=3")
    raise _violation(f"{own} {_named(entry)} cannot spend from {other} {_named(parent)}")


def _named(entry: Entry) -> str:
    return f"tx {entry.item.txid[::-1].hex()} (wtxid={bytes(entry.item.tx.GetHash())[::-1].hex()})"


def _violation(why: str) -> Refused:
    return Refused(f"{VIOLATION}, {why}")

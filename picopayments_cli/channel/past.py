"""How long a wallet's own transaction holds the coins that it spends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from picopayments_cli.channel.drafts import parse_transaction, spent_outpoints, txid_of
from picopayments_cli.channel.values import Entry, Height, Outpoint


@dataclass(frozen=True)
class Own:
    """A transaction that was handed to the network, and how it was seen last.

    ``height``: of its block. ``missing``: the tip at which it was neither in a block nor in a mempool any more.
    """

    raw: bytes
    height: Height | None = None
    missing: Height | None = None

    @property
    def txid(self) -> bytes:
        """Its txid in wire order."""
        return txid_of(self.raw)

    @property
    def spends(self) -> frozenset[Outpoint]:
        """The outputs that it spends."""
        return _spent(self.raw)


@dataclass(frozen=True)
class Told:
    """A chain's answer, as of ``tip``: a wallet's history, the txids that a node knows, the coins listed as unspent.

    ``truncated``: whether the history is only its newest part.
    """

    tip: Height
    history: Sequence[Entry]
    known: Collection[bytes]
    listed: Collection[Outpoint]
    truncated: bool = False


def as_told(own: Own, told: Told, safe_depth: int) -> Own | None:
    """Say how an own transaction stands; None where its coins are free, or gone, for good.

    It holds its coins, whatever a list of unspent ones says, until it is buried by ``safe_depth`` blocks, or another
    transaction that spends one of them is; or until no node has known it for ``safe_depth`` blocks. A history that is
    not told whole may leave out one that is older, whose coins are listed no more.
    """
    entry = next((item for item in told.history if item.txid == own.txid), None)
    if entry is not None and entry.depth(told.tip) >= safe_depth:
        return None
    if rival(own.raw, told.history, told.tip, safe_depth) is not None:
        return None
    if entry is not None or own.txid in told.known:
        if entry is None and told.truncated and own.spends.isdisjoint(told.listed):
            return None
        return replace(own, height=None if entry is None else entry.height, missing=None)
    missing = told.tip if own.missing is None else min(own.missing, told.tip)
    return None if told.tip - missing >= safe_depth else replace(own, height=None, missing=missing)


def rival(raw: bytes, history: Sequence[Entry], tip: int, safe_depth: int) -> Entry | None:
    """Find what keeps a transaction from ever being mined: another one that spends a coin of it and is buried."""
    spends, txid = _spent(raw), txid_of(raw)
    buried = (item for item in history if item.txid != txid and item.depth(tip) >= safe_depth)
    return next((item for item in buried if not spends.isdisjoint(_spent(item.raw))), None)


def _spent(raw: bytes) -> frozenset[Outpoint]:
    tx = parse_transaction(raw)
    return frozenset() if tx is None else frozenset(spent_outpoints(tx))

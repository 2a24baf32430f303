"""The chain as client and hub see it: one question, one view, whatever answers it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from picopayments_cli.channel.counterparty import asset_members, both_names
from picopayments_cli.channel.fees import FeeFrac
from picopayments_cli.channel.values import Coin, Entry, Height, Outpoint
from picopayments_cli.errors import MemoRequired

__all__ = ["Asset", "Chain", "Coin", "Entry", "Query", "View", "Waiting"]

REQUIRE_MEMO = 1  # of an address's options: the ledger takes no send to it without a memo


@dataclass(frozen=True)
class Query:
    """A question about one moment: addresses for each kind of fact, and wire-order txids."""

    coins: Sequence[str] = ()
    history: Sequence[str] = ()
    balances: Sequence[str] = ()
    options: Sequence[str] = ()
    transactions: Sequence[bytes] = ()


@dataclass(frozen=True)
class View:
    """The answer to a query, as of block ``height``; every address and txid asked for is a key.

    ``fee_rate`` in sat/vB (at least 1), None where the node estimates none. ``coins`` leaves out what the mempool
    spends and includes what it makes. ``history`` is complete, but for ``truncated``. ``balances`` count the confirmed
    ledger, BTC included (confirmed coins), attached holdings left out. ``options`` are what the owner of an address has
    set for it, 0 for none. ``longnames``: of the subassets in the balances, as the source tells them; for showing, and
    for nothing else. ``transactions`` are raw and hash to their txid; unknown ones are left out. ``truncated``:
    addresses with a longer history than the source lists. The list has its newest part and all that made the address's
    coins, so that the coins follow from it, and whether there ever was a transaction.
    """

    height: Height
    fee_rate: int | None
    coins: Mapping[str, tuple[Coin, ...]] = field(default_factory=dict)
    history: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)
    balances: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    longnames: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, int] = field(default_factory=dict)
    transactions: Mapping[bytes, bytes] = field(default_factory=dict)
    truncated: frozenset[str] = frozenset()

    def check_takes_sends(self, address: str) -> None:
        """Refuse an address that gets nothing without a memo, as nothing has one here. Raises MemoRequired."""
        if self.options[address] & REQUIRE_MEMO:
            raise MemoRequired(
                f"The owner of {address} has set its option to require a memo: the ledger would refuse what is sent "
                'to it from here, and what connections pay back. A broadcast of "options 0" from that address takes '
                "the option away.",
                address=address,
            )


@dataclass(frozen=True)
class Asset:
    """An asset as the ledger knows it: its name, its id, whether a unit has 8 decimals, a subasset's long name.

    The ``name`` of a subasset is ``A`` and its id.
    """

    name: str
    number: int
    divisible: bool
    longname: str | None = None

    def __str__(self) -> str:
        return both_names(self.name, self.longname)

    @property
    def members(self) -> dict[str, str]:
        """Return the members of a JSON object that name it."""
        return asset_members(self.name, self.longname)


@dataclass(frozen=True)
class Waiting:
    """A transaction in the mempool: its own fee and size, and what spends outputs of it."""

    feefrac: FeeFrac
    children: tuple[bytes, ...]


class Chain(Protocol):
    """The one interface to the chain."""

    def view(self, query: Query) -> View:
        """Return all that the query asks, in as few round trips as the source allows. Raises Unreachable."""

    def asset(self, name: str) -> Asset:
        """Find the asset of exactly this name, or of this long name. Raises UnknownAsset, with other spellings."""

    def attached(self, outpoints: Collection[Outpoint]) -> set[Outpoint]:
        """Tell which of these confirmed coins have assets attached: a spend of such a coin moves them."""

    def broadcast(self, raw: bytes) -> bytes:
        """Hand a signed transaction to the network; the wire-order txid.

        A transaction that the node has already is no error. Raises BroadcastRefused with the node's reason.
        """

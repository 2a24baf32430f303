"""Coins and transactions of an address as JSON, in the shapes of the counterparty methods that clients know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from picopayments_cli.chain import View
from picopayments_cli.channel.values import Coin, Entry

_COIN = 100_000_000
_Value = TypeVar("_Value")


def by_longname(of_assets: Mapping[str, _Value], longnames: Mapping[str, str]) -> dict[str, _Value]:
    """Return a map from asset to anything, where subassets go by their long names."""
    return {longnames.get(asset, asset): value for asset, value in of_assets.items()}


def coins_shown(view: View, address: str, unconfirmed: bool) -> list[dict[str, Any]]:
    """Return the coins of an address, by txid; with ``unconfirmed`` those of the mempool too."""
    coins = [coin for coin in view.coins[address] if unconfirmed or coin.height is not None]
    return [_coin(coin, view.height) for coin in sorted(coins, key=lambda coin: str(coin.outpoint))]


def history_shown(view: View, address: str, unconfirmed: bool) -> list[dict[str, Any]]:
    """Show the transactions of an address: with ``unconfirmed`` the mempool's first, then from oldest to newest.

    Each says ``truncated`` where these are not all.
    """
    entries = [entry for entry in view.history[address] if unconfirmed or entry.height is not None]
    entries.sort(key=lambda entry: (entry.height is not None, entry.height or 0))
    mark = {"truncated": True} if address in view.truncated else {}
    return [_entry(entry, view.height) | mark for entry in entries]


def _coin(coin: Coin, tip: int) -> dict[str, Any]:
    return {
        "txid": coin.outpoint.txid[::-1].hex(),
        "vout": coin.outpoint.vout,
        "amount": coin.value / _COIN,  # the nearest double: its 8 decimals are exact
        "value": coin.value,
        "confirmations": coin.depth(tip),
        "scriptPubKey": coin.script.hex(),
    }


def _entry(entry: Entry, tip: int) -> dict[str, Any]:
    told: dict[str, Any] = {"txid": entry.txid[::-1].hex(), "hex": entry.raw.hex()}
    return told if entry.height is None else told | {"confirmations": entry.depth(tip)}

"""Write and read what mph_status asks and tells: to everybody, and not signed as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from picopayments_cli.channel.stages import CLOSING, OPEN, OPENING
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.values import HANDLE_SIZE, MAX_QUANTITY, Handle
from picopayments_cli.channel.wire import (
    MAX_ASSET_SIZE,
    MAX_CAUSE_SIZE,
    MAX_HEIGHT,
    Reader,
    read_terms,
    terms_json,
)
from picopayments_cli.errors import BadReply, BadRequest

MOST_ASSETS, MOST_HANDLES = 1000, 100  # in one question
_FUNDS = {"address", "message", "signature", "liquidity"}
_COUNTED = (OPENING, OPEN, CLOSING)
_CONNECTION = {"asset", "asset_longname", "balance", "ttl", "status"}


@dataclass(frozen=True)
class StatusRequest:
    """Asks for what the hub offers in these assets (None: in all), and for these connections."""

    assets: tuple[str, ...] | None = None
    handles: tuple[Handle, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The params."""
        assets = None if self.assets is None else list(self.assets)
        return {"assets": assets, "handles": [handle.hex() for handle in self.handles]}

    @staticmethod
    def parse(body: Any) -> StatusRequest:
        """Raises BadRequest."""
        reader = Reader(body, BadRequest)
        names, handles = None, tuple[Handle, ...]()
        if reader.body.get("assets") is not None:
            names = reader.array("assets", MOST_ASSETS)
            if not all(isinstance(name, str) and 0 < len(name) <= MAX_ASSET_SIZE for name in names):
                raise reader.refused("assets", "are not all names")
        if reader.body.get("handles") is not None:
            handles = tuple(map(Handle, reader.hexes("handles", HANDLE_SIZE, MOST_HANDLES)))
        return StatusRequest(None if names is None else tuple(names), handles)


@dataclass(frozen=True)
class ShownConnection:
    """A connection as the hub shows it to all who know its handle.

    ``balance`` is the hub's, ``ttl`` in blocks (None: not open).
    """

    asset: str
    longname: str | None
    balance: int
    ttl: int | None
    status: str


@dataclass(frozen=True)
class StatusReply:
    """The hub's funds (by asset, with a signed message of their address), terms, and those connections asked for.

    ``totals``: the number of all connections in the assets asked for, by ``OPENING``, ``OPEN`` and ``CLOSING``.
    """

    address: str
    message: str
    signature: str
    liquidity: Mapping[str, int]
    terms: Mapping[str, Terms]
    longnames: Mapping[str, str]
    totals: Mapping[str, int]
    connections: Mapping[Handle, ShownConnection]

    def as_json(self) -> dict[str, Any]:
        """The body."""
        funds = {"address": self.address, "message": self.message, "signature": self.signature}
        return {
            "funds": {**funds, "liquidity": dict(self.liquidity)},
            "current_terms": {asset: terms_json(terms) for asset, terms in self.terms.items()},
            "longnames": dict(self.longnames),
            "totals": dict(self.totals),
            "connections": {handle.hex(): _shown_json(shown) for handle, shown in self.connections.items()},
        }

    @staticmethod
    def parse(body: Any) -> StatusReply:
        """Raises BadReply, BadTerms."""
        reader = Reader(body, BadReply)
        funds = reader.item("funds", _FUNDS)
        liquidity = Reader(dict(funds.mapping("liquidity")), BadReply)
        for name in ("BTC", *(asset for asset, _ in reader.mapping("current_terms"))):
            liquidity.member(name)
        longnames = Reader(dict(reader.mapping("longnames")), BadReply)
        totals = reader.item("totals", set(_COUNTED))
        handles = Reader({"handle": None}, BadReply)
        return StatusReply(
            funds.text("address", 1000),
            funds.text("message", 1000),
            funds.text("signature", 1000),
            {asset: liquidity.number(asset, 0, MAX_QUANTITY) for asset in liquidity.body},
            {asset: read_terms(terms) for asset, terms in reader.mapping("current_terms")},
            {asset: longnames.text(asset, MAX_ASSET_SIZE) for asset in longnames.body},
            {name: totals.number(name, 0, MAX_QUANTITY) for name in _COUNTED},
            {
                Handle(handles.raw(name, "handle", HANDLE_SIZE)): _shown(Reader(item, BadReply, _CONNECTION))
                for name, item in reader.mapping("connections")
            },
        )


def _shown_json(shown: ShownConnection) -> dict[str, Any]:
    told = {"asset": shown.asset, "asset_longname": shown.longname, "balance": shown.balance}
    return {**told, "ttl": shown.ttl, "status": shown.status}


def _shown(item: Reader) -> ShownConnection:
    return ShownConnection(
        item.text("asset", MAX_ASSET_SIZE),
        item.optional("asset_longname", lambda name: item.text(name, MAX_ASSET_SIZE)),
        item.number("balance", 0, MAX_QUANTITY),
        item.optional("ttl", lambda name: item.number(name, 0, MAX_HEIGHT)),
        item.text("status", MAX_CAUSE_SIZE),
    )

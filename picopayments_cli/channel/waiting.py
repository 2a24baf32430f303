"""The message by which a hub tells a client what waits for it, for nothing: at once, or when something comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from picopayments_cli.channel.values import HANDLE_SIZE, MAX_QUANTITY, Handle
from picopayments_cli.channel.wire import NONCE_SIZE, Reader, of_request, reply_json, request_json
from picopayments_cli.errors import BadReply

MOST_NAMED = 100  # connections in one request
MOST_SECONDS = 30  # that an answer may take
_ITEM = {"handle", "count", "sum", "oldest"}


@dataclass(frozen=True)
class Waits:
    """The payments that wait for a connection. ``oldest``: when the hub took the first, by its clock (Unix time)."""

    handle: Handle
    count: int
    total: int
    oldest: int


@dataclass(frozen=True)
class WaitingRequest:
    """Asks what waits for some of the signer's own connections; where nothing does, for up to so many seconds.

    ``nonce``: drawn for each request, so that no older answer passes for this one's.
    """

    nonce: bytes
    handles: tuple[Handle, ...]
    seconds: int = 0

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        handles = [handle.hex() for handle in self.handles]
        return request_json({"nonce": self.nonce.hex(), "handles": handles, "seconds": self.seconds})

    @staticmethod
    @of_request
    def parse(reader: Reader) -> WaitingRequest:
        """Raises BadRequest."""
        handles = reader.hexes("handles", HANDLE_SIZE, MOST_NAMED)
        return WaitingRequest(
            reader.hex("nonce", NONCE_SIZE),
            tuple(Handle(handle) for handle in handles),
            reader.number("seconds", 0, MOST_SECONDS),
        )


@dataclass(frozen=True)
class WaitingReply:
    """The connections for which something waits; the others are left out, and so are those of other clients."""

    request: bytes
    waiting: Sequence[Waits] = ()

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        items = [
            {"handle": item.handle.hex(), "count": item.count, "sum": item.total, "oldest": item.oldest}
            for item in self.waiting
        ]
        return reply_json(self.request, {"waiting": items})

    @staticmethod
    def parse(body: Any) -> WaitingReply:
        """Raises BadReply."""
        reader = Reader(body, BadReply)
        items = (
            Waits(
                item.handle(),
                item.number("count", 1, MAX_QUANTITY),
                item.quantity("sum"),
                item.time("oldest"),
            )
            for item in reader.items("waiting", _ITEM, MOST_NAMED)
        )
        return WaitingReply(reader.request(), tuple(items))

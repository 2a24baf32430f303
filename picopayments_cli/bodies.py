"""Read a request's body in bounded size and time; its address pays for what came in, answered or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Receive, Scope

from picopayments_cli.held import PATIENCE, Held
from picopayments_cli.limits import Spending, TooMuch

BODY_SECONDS = 30.0


class TooLarge(Exception):
    """The body exceeds the limit."""


class Disconnected(Exception):
    """The client went away before its body was complete."""


def head_size(scope: Scope) -> int:
    """Count the bytes of a request's head that its address pays for."""
    return sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope.get("raw_path") or b"")


@dataclass(frozen=True)
class Desk:
    """Where bodies are read: of at most ``max_bytes`` each, in so many seconds, and ``held`` together."""

    max_bytes: int
    seconds: float
    held: Held = field(default_factory=Held)

    async def read(self, scope: Scope, receive: Receive, spend: Spending, hold: Callable[[int], None]) -> bytes:
        """Read a request's body; ``spend`` and ``hold`` are told of each part as it comes in.

        Raises TooLarge, Disconnected, TooMuch, and asyncio.TimeoutError, where others need its room, too.
        """
        reading = asyncio.create_task(self._read(scope, receive, spend, hold))
        with self.held.slow(reading):
            await asyncio.wait([reading], timeout=self.seconds)
            if not reading.done() or reading.cancelled():
                raise asyncio.TimeoutError
            return reading.result()

    async def _read(self, scope: Scope, receive: Receive, spend: Spending, hold: Callable[[int], None]) -> bytes:
        spend(1, head_size(scope))
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not declared.isdigit() or int(declared) > self.max_bytes:
            raise TooLarge
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            spend(size=len(chunk))
            hold(len(chunk))
            if size > self.max_bytes:
                raise TooLarge
            if not self.held.may_grow(size):
                raise TooMuch(PATIENCE)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

"""Bound the bytes of all answers together that are made and not read yet, and send them in parts."""

from __future__ import annotations

import asyncio
import time

from starlette.responses import Response
from starlette.types import Scope, Send

MOST = 32_000_000  # bytes; beyond it no answer to many calls grows
FEW = 65_536  # bytes that an answer may have whatever is held, and of a part
PATIENCE = 2.0  # seconds after which one that is not read makes room for others
READ_SECONDS, LEAST_READ = 10.0, 65_536  # in which a client reads an answer, and a second more for so many bytes of it


class Held:
    """The answers of one server that are being made or read."""

    def __init__(self) -> None:
        self._size = 0
        self._sending: dict[asyncio.Task[None], float] = {}  # since when, the earliest first

    def add(self, size: int) -> None:
        """Take note of so many bytes more, or less."""
        self._size += size

    def may_grow(self, size: int) -> bool:
        """Whether an answer that has so many bytes may have more; where not, one that is not read is cut off."""
        if size < FEW or self._size < MOST:
            return True
        earliest = next(iter(self._sending), None)
        if earliest is not None and time.monotonic() - self._sending[earliest] > PATIENCE:
            earliest.cancel()
        return False

    async def send(self, response: Response, scope: Scope, send: Send) -> bool:
        """Send an answer in parts, each once the one before is on its way; False where the client did not read it."""
        size = len(response.body)
        sending = asyncio.create_task(_in_parts(response, send))
        self._sending[sending] = time.monotonic()
        self.add(size)
        self.may_grow(size)
        try:
            await asyncio.wait([sending], timeout=READ_SECONDS + size / LEAST_READ)
        finally:
            del self._sending[sending]
            self.add(-size)
            sending.cancel()
        if not sending.done() or sending.cancelled():
            return False
        sending.result()
        return True


async def _in_parts(response: Response, send: Send) -> None:
    body = memoryview(bytes(response.body))
    start = {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    await send(start)
    for at in range(0, len(body), FEW):
        await send({"type": "http.response.body", "body": bytes(body[at : at + FEW]), "more_body": True})
    await send({"type": "http.response.body"})

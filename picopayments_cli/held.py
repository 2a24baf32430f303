"""Bound the bytes of all requests together that are under way, and of all answers that are not read yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.responses import Response
from starlette.types import Send

MOST = 32_000_000  # bytes of a kind: beyond it nothing large grows
FEW = 65_536  # bytes that one may have whatever is held, and of a part
PATIENCE = 2.0  # seconds after which one that a client does not send, or read, makes room for others
READ_SECONDS, LEAST_READ = 10.0, 65_536  # in which a client reads an answer, and a second more for so many bytes of it


class Held:
    """The bytes of one kind that a server holds for its clients."""

    def __init__(self) -> None:
        self._size = 0
        self._slow: dict[asyncio.Task[object], float] = {}  # since when, the earliest first

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Count bytes for the length of a ``with`` block; what it yields takes note of so many more."""
        own = 0

        def more(size: int) -> None:
            nonlocal own
            own += size
            self._size += size

        try:
            yield more
        finally:
            self._size -= own

    def may_grow(self, size: int) -> bool:
        """Whether what has so many bytes may have more; where not, the client that is waited for longest is cut off."""
        if size < FEW or self._size < MOST:
            return True
        earliest = next(iter(self._slow), None)
        if earliest is not None and time.monotonic() - self._slow[earliest] > PATIENCE:
            earliest.cancel()
        return False

    @contextmanager
    def slow(self, task: asyncio.Task[object]) -> Iterator[None]:
        """Let a task that waits for a client be cancelled where others need its room, and at the end."""
        self._slow[task] = time.monotonic()
        try:
            yield
        finally:
            del self._slow[task]
            task.cancel()

    async def send(self, response: Response, send: Send) -> None:
        """Send an answer in parts, each once the one before is on its way. A client that does not read is left."""
        size = len(response.body)
        sending = asyncio.create_task(_in_parts(response, send))
        with self.holding() as hold, self.slow(sending):
            hold(size)
            self.may_grow(size)
            await asyncio.wait([sending], timeout=READ_SECONDS + size / LEAST_READ)
            if sending.done() and not sending.cancelled():
                sending.result()


async def _in_parts(response: Response, send: Send) -> None:
    body = memoryview(bytes(response.body))
    start = {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    await send(start)
    for at in range(0, len(body), FEW):
        await send({"type": "http.response.body", "body": bytes(body[at : at + FEW]), "more_body": True})
    await send({"type": "http.response.body"})

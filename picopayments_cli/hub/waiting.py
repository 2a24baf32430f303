"""Answers ``mph_waiting``: what waits for a client, at once or when something comes. It writes nothing."""

from __future__ import annotations

from asyncio import Semaphore
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from picopayments_cli.channel import envelope
from picopayments_cli.channel.values import Handle
from picopayments_cli.channel.waiting import WaitingReply, WaitingRequest, Waits
from picopayments_cli.errors import BadClientSignature
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.sealing import Sealing
from picopayments_cli.web import RawJson, caller

_LOOKING = 2  # threads that read for those who ask
REMEMBERED = 10_000  # requests that have waited: one that comes again is a copy


class Waiting:
    """``mph_waiting`` of one hub."""

    def __init__(self, hub: Hub, sealing: Sealing) -> None:
        self._hub = hub
        self._sealing = sealing
        self._waited: OrderedDict[bytes, None] = OrderedDict()
        self._looking = Semaphore(_LOOKING)

    async def waiting(self, body: Mapping[str, Any]) -> RawJson:
        """Tell what waits for those of the named connections that are the signer's own.

        A copy of a request that has waited is answered at once: who repeats it learns no more by it, and takes
        nobody's place. Raises BadRequest, BadClientSignature.
        """
        async with self._looking:
            digest, own, seconds = await run_in_threadpool(self._asked, body)
        found = await self._found(own)
        if not found and seconds and self._is_new(digest):
            found = await self._when_it_comes(own, seconds)
        return self._sealing.reply(WaitingReply(digest, found).as_json())

    def _asked(self, body: Mapping[str, Any]) -> tuple[bytes, list[Handle], int]:
        """The request's digest, the signer's own of its connections, and for how long it waits."""
        request = WaitingRequest.parse(body)
        client = envelope.named_key(body)
        if client is None:
            raise BadClientSignature("The request names no public key.")
        digest = self._sealing.signed(body, client)
        with self._hub.book.reading() as book:
            return digest, book.owned(client, request.handles), request.seconds

    async def _when_it_comes(self, own: Sequence[Handle], seconds: int) -> list[Waits]:
        with self._hub.book.arrivals.place(own, caller.get()) as place:
            found = await self._found(own)  # it may have come before there was a place
            if place is None or found:
                return found
            await place.wait(seconds)
            return await self._found(own)

    async def _found(self, own: Sequence[Handle]) -> list[Waits]:
        def found() -> list[Waits]:
            with self._hub.book.reading() as book:
                return book.waiting(own)

        async with self._looking:
            return await run_in_threadpool(found)

    def _is_new(self, digest: bytes) -> bool:
        """Whether a request has not waited before; from now on it has."""
        if digest in self._waited:
            return False
        self._waited[digest] = None
        if len(self._waited) > REMEMBERED:
            self._waited.popitem(last=False)
        return True

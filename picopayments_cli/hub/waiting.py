"""Answers ``mph_waiting``: what waits for a client, at once or when something comes. It writes nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from picopayments_cli.channel import envelope
from picopayments_cli.channel.values import Handle
from picopayments_cli.channel.waiting import WaitingReply, WaitingRequest, Waits
from picopayments_cli.errors import BadClientSignature
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.sealing import Sealing
from picopayments_cli.lanes import Lane
from picopayments_cli.web import RawJson, caller, spending

T = TypeVar("T")

_LOOKING, _EACH = 2, 1  # threads that read for those who ask, and of them for one address
MOST_BYTES = 16_384  # of a request: MOST_NAMED handles take 6,800, what no member takes 4,096
REMEMBERED = 10_000  # requests that have waited: one that comes again is a copy


class Waiting:
    """``mph_waiting`` of one hub."""

    def __init__(self, hub: Hub, sealing: Sealing) -> None:
        self._hub = hub
        self._sealing = sealing
        self._waited: OrderedDict[bytes, None] = OrderedDict()
        self._looking = Lane(_LOOKING, _EACH)

    async def waiting(self, body: Mapping[str, Any]) -> RawJson:
        """Tell what waits for those of the named connections that are the signer's own.

        A copy of a request that has waited is answered at once: who repeats it learns no more by it, and takes
        nobody's place. Raises BadRequest, BadClientSignature.
        """
        digest, own, seconds, found = await self._look(lambda: self._asked(body))
        if not found and seconds and self._is_new(digest):
            found = await self._when_it_comes(own, seconds)
        return self._sealing.reply(WaitingReply(digest, found).as_json())

    async def _look(self, work: Callable[[], T]) -> T:
        """Read something, at the cost of the address that asks: the one comes first that has asked least."""
        return await self._looking.run(work, spending.get())

    def _asked(self, body: Mapping[str, Any]) -> tuple[bytes, list[Handle], int, list[Waits]]:
        """The request's digest, the signer's own of its connections, for how long it waits, and what is there."""
        request = WaitingRequest.parse(body)
        client = envelope.named_key(body)
        if client is None:
            raise BadClientSignature("The request names no public key.")
        digest = self._sealing.signed(body, client)
        with self._hub.book.reading() as book:
            own = book.owned(client, request.handles)
            return digest, own, request.seconds, book.waiting(own)

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

        return await self._look(found)

    def _is_new(self, digest: bytes) -> bool:
        """Whether a request has not waited before; from now on it has."""
        if digest in self._waited:
            return False
        self._waited[digest] = None
        if len(self._waited) > REMEMBERED:
            self._waited.popitem(last=False)
        return True

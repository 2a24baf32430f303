"""Holds those who wait for something to arrive for their connections: no thread each, and never too many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Lock

from picopayments_cli.channel.values import Handle

MOST = 200  # in all: of the server's connections most stay free for others
MOST_EACH = 10  # of one address: half of the requests that it may have under way


@dataclass(eq=False)
class Place:
    """The place of one who waits in an event loop."""

    handles: frozenset[Handle]
    party: str | None  # what the address is counted by; None for this machine's own
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self, seconds: float) -> None:
        """Wait until something has come, the place is needed, or the time is over."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.woken.wait(), seconds)

    def wake(self) -> None:
        """End the waiting; from any thread."""
        self.loop.call_soon_threadsafe(self.woken.set)


class Arrivals:
    """The places, by connection: one for each. Who comes later for a connection takes the place of the earlier one."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._places: dict[Handle, Place] = {}
        self._held: set[Place] = set()
        self._closed = False

    @contextmanager
    def place(self, handles: Collection[Handle], party: str | None) -> Iterator[Place | None]:
        """Give a place to wait for these connections; None where no more may wait."""
        place = self._take(handles, party)
        try:
            yield place
        finally:
            if place is not None:
                self._leave(place)

    def tell(self, handles: Iterable[Handle]) -> None:
        """Wake those who wait for these connections; from any thread."""
        with self._lock:
            for place in {self._places[handle] for handle in handles if handle in self._places}:
                place.wake()

    def awaited(self) -> list[Handle]:
        """The connections for which something is waited for."""
        with self._lock:
            return list(self._places)

    def close(self) -> None:
        """Wake all, and let nobody wait any more: the server stops."""
        with self._lock:
            self._closed = True
            for place in self._held:
                place.wake()

    def _take(self, handles: Collection[Handle], party: str | None) -> Place | None:
        with self._lock:
            earlier = {self._places[handle] for handle in handles if handle in self._places}
            others = self._held - earlier
            of_party = sum(place.party == party for place in others) if party is not None else 0
            if self._closed or not handles or len(others) >= MOST or of_party >= MOST_EACH:
                return None
            for place in earlier:
                self._drop(place)
                place.wake()
            taken = Place(frozenset(handles), party)
            self._held.add(taken)
            self._places.update(dict.fromkeys(taken.handles, taken))
            return taken

    def _leave(self, place: Place) -> None:
        with self._lock:
            self._drop(place)

    def _drop(self, place: Place) -> None:
        self._held.discard(place)
        for handle in place.handles:
            if self._places.get(handle) is place:
                del self._places[handle]

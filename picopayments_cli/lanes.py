"""Run methods that take long in threads, so many of a kind and of an address at a time, and measure what each costs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from picopayments_cli.limits import Spending, TooMuch

T = TypeVar("T")


class Divided:
    """A clock for what others work on: so many as wait for them at a time pay for each second together."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._running = 0
        self._at = self._value = 0.0

    def begin(self) -> float:
        """Begin to wait; what it returns ``end`` takes."""
        return self._change(1)

    def end(self, begun: float) -> float:
        """End the waiting; the seconds that it is charged."""
        return self._change(-1) - begun

    def _change(self, more: int) -> float:
        with self._lock:
            now = self._clock()
            if self._running:
                self._value += (now - self._at) / self._running
            self._at = now
            self._running += more
            return self._value


class Own:
    """A clock for what a method computes itself, in its thread."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self.begin = clock

    def end(self, begun: float) -> float:
        """Return the seconds since."""
        return self.begin() - begun


@dataclass(eq=False)
class _Asker:
    """One who waits for a place. ``spend`` is that of all requests of an address."""

    spend: Spending
    place: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Lane:
    """Threads for methods of one kind, ``at_once`` at a time, ``each`` of them for one address.

    Of those who wait the one comes first whose address has most left: who has asked nothing waits for nobody else's.
    ``clock`` tells what a method has cost its caller.
    """

    def __init__(self, at_once: int, each: int | None = None, clock: Divided | Own | None = None) -> None:
        self._free = at_once
        self._each = at_once if each is None else each
        self._clock = clock or Own()
        self._running: Counter[int] = Counter()
        self._waiting: list[_Asker] = []

    async def run(self, work: Callable[[], T], spend: Spending) -> T:
        """Do something in a thread, once one is free. Raises what it raises.

        Raises TooMuch where others of the address have used up its time meanwhile.
        """

        def timed() -> T:
            begun = self._clock.begin()
            try:
                return work()
            finally:
                seconds.append(self._clock.end(begun))

        seconds: list[float] = []
        async with self._place(spend):
            if spend.owed > 0:
                raise TooMuch(spend.owed + 1)
            try:
                return await run_in_threadpool(timed)
            finally:
                spend(work=sum(seconds))

    @asynccontextmanager
    async def _place(self, spend: Spending) -> AsyncIterator[None]:
        asker = _Asker(spend)
        self._waiting.append(asker)
        self._admit()
        try:
            await asker.place
            yield
        finally:
            if asker in self._waiting:
                self._waiting.remove(asker)
            else:
                self._leave(spend)

    def _admit(self) -> None:
        """Give free places to those who may have one."""
        while self._free and (able := [asker for asker in self._waiting if self._may_run(asker)]):
            chosen = max(able, key=lambda asker: asker.spend.work)
            self._waiting.remove(chosen)
            self._free -= 1
            self._running[id(chosen.spend)] += 1
            chosen.place.set_result(None)

    def _may_run(self, asker: _Asker) -> bool:
        """Whether one still waits, and its address may have one more place."""
        spend = asker.spend
        return not asker.place.done() and (not spend.counted or self._running[id(spend)] < self._each)

    def _leave(self, spend: Spending) -> None:
        self._free += 1
        self._running[id(spend)] -= 1
        if not self._running[id(spend)]:
            del self._running[id(spend)]
        self._admit()

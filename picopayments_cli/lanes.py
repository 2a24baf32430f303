"""Run methods that take long in threads, so many of a kind at a time, and measure what each costs its caller."""

from __future__ import annotations

import time
from asyncio import Semaphore
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from picopayments_cli.limits import Spending


@dataclass(frozen=True)
class Lane:
    """Threads for methods of one kind, so many at a time; ``clock`` tells what one has cost its caller.

    By ``time.thread_time`` it is the time that the method computes, by ``time.monotonic`` the time that others do, too.
    """

    at_once: int
    clock: Callable[[], float] = time.thread_time
    _free: Semaphore = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_free", Semaphore(self.at_once))

    async def run(self, work: Callable[[], str], spend: Spending) -> str:
        """Do something in a thread, once one is free. Raises what it raises."""

        def timed() -> str:
            begun = self.clock()
            try:
                return work()
            finally:
                seconds.append(self.clock() - begun)

        seconds: list[float] = []
        async with self._free:
            try:
                return await run_in_threadpool(timed)
            finally:
                spend(work=sum(seconds))

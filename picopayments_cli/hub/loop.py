"""A thread that does the hub's rounds over and over: sooner where it is woken, later where they fail."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

PASS_SECONDS = 1.0
REGTEST_PASS_SECONDS = 0.2
GATHER_SECONDS = 0.1  # that a round waits for more to do once it is called: a busy hub is asked for one all the time
MAX_PASS_SECONDS = 30.0
_IDLE_FACTOR = 1.1  # by which a pause grows, up to PASS_SECONDS, with each round that nobody called for
STOP_SECONDS = 10


class Loop:
    """Repeats ``once``, which tells whether it succeeded, with ``pause`` seconds between; ``woken`` shortens that.

    Where nobody wakes it the pauses grow, up to PASS_SECONDS.
    """

    def __init__(self, once: Callable[[], bool], woken: threading.Event, pause: float) -> None:
        self._once = once
        self._woken = woken
        self._pause = pause
        self._waiting: SimpleQueue[threading.Event] = SimpleQueue()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Do rounds over and over in a thread, until ``stop``."""
        self._thread = threading.Thread(target=self._work, name="chores", daemon=True)
        self._thread.start()

    def await_round(self) -> None:
        """Have the thread do a round that begins from now on, and wait until it, or the thread, has ended."""
        done = threading.Event()
        self._waiting.put(done)
        self._woken.set()
        while not done.wait(PASS_SECONDS) and self._thread is not None and self._thread.is_alive():
            pass

    def stop(self) -> None:
        """End the thread, which finishes the round under way."""
        self._stop.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _work(self) -> None:
        pause = self._pause
        while not self._stop.is_set():
            called = self._woken.wait(pause)
            if called and self._waiting.empty():
                self._stop.wait(GATHER_SECONDS)
            self._woken.clear()
            waiting = [self._waiting.get() for _ in range(self._waiting.qsize())]
            if self._stop.is_set():
                return
            pause = self._after(pause, called=called) if self._once() else min(2 * pause, MAX_PASS_SECONDS)
            for done in waiting:
                done.set()

    def _after(self, pause: float, *, called: bool) -> float:
        """The pause behind a round that succeeded."""
        failed_before = pause > PASS_SECONDS
        return self._pause if called or failed_before else min(pause * _IDLE_FACTOR, PASS_SECONDS)


def pause_on(network_name: str) -> float:
    """The seconds between two rounds on a network."""
    return REGTEST_PASS_SECONDS if network_name == "regtest" else PASS_SECONDS

"""The loop of the hub's rounds: a quiet hub looks around less often, a called one at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from picopayments_cli.hub.loop import MAX_PASS_SECONDS, PASS_SECONDS, Loop

PAUSE = 0.001  # seconds
ROUNDS = 120  # in which the pauses grow to their end: nobody waits for these


class Bell(threading.Event):
    """An event that notes how long is waited for it, and waits no longer than a test has time."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout or 0.0)
        return super().wait(PAUSE)


def pauses(once: Callable[[int], bool], rounds: int, bell: Bell) -> list[float]:
    """The pauses before so many rounds, each of which is given its number."""
    done = threading.Event()
    number = 0

    def count() -> bool:
        nonlocal number
        number += 1
        if number >= rounds:
            done.set()
        return once(number)

    loop = Loop(count, bell, PAUSE)
    loop.start()
    assert done.wait(30)
    loop.stop()
    return bell.pauses[:rounds]


def test_where_nobody_calls_the_pauses_grow_to_a_second() -> None:
    found = pauses(lambda _: True, ROUNDS, Bell())
    assert found[0] == PAUSE
    assert found == sorted(found)
    assert found[-1] == PASS_SECONDS


def test_a_call_makes_them_short_again() -> None:
    bell = Bell()

    def once(number: int) -> bool:
        if number == ROUNDS:
            bell.set()
        return True

    found = pauses(once, ROUNDS + 2, bell)
    assert found[ROUNDS - 1] == PASS_SECONDS
    assert found[ROUNDS + 1] == PAUSE


def test_failures_double_them_and_a_success_makes_them_short_again() -> None:
    found = pauses(lambda number: number > 20, 22, Bell())
    assert found[:4] == [PAUSE, 2 * PAUSE, 4 * PAUSE, 8 * PAUSE]
    assert found[20] == MAX_PASS_SECONDS
    assert found[21] == PAUSE

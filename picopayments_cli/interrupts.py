"""Have SIGTERM and SIGHUP end a command as Ctrl-C does, with its last words and the exit code of the signal."""

from __future__ import annotations

import signal
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_last = [signal.SIGINT]  # at its end the signal that has ended the command


@contextmanager
def told_alike() -> Iterator[None]:
    """Raise KeyboardInterrupt at each of these signals that is not ignored, as nohup has SIGHUP be.

    Elsewhere than in the main thread signals are somebody else's.
    """
    before = {}
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, _interrupt)
    except ValueError:  # another thread
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, _: object) -> None:
    _last.append(signal.Signals(number))
    raise KeyboardInterrupt


def exit_code() -> int:
    """The exit code of a command that a signal has ended."""
    return 128 + _last[-1]

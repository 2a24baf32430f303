"""Runs a hub as several processes on this machine: one that does the rounds, and so many that answer requests.

It binds the sockets that they inherit, starts anew what dies, and ends them all with itself. It uses no database while
they run, and does nothing that could make it die.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from picopayments_cli.errors import HubUnreachable, PicopaymentsError
from picopayments_cli.hub.metrics import COUNTED_IN
from picopayments_cli.hub.worker import DRAINED, FAILED, READY, Orders
from picopayments_cli.processes import end, python, told_error

log = logging.getLogger(__name__)

STOP_SECONDS = 20  # for a round under way, and requests
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds before one that died is started anew, twice as long each time
_FORGIVEN = 60.0  # seconds after which a death is not counted any more


@dataclass(eq=False)
class _Child:
    """One process, and what became of those before it. ``due``: when it is started, by the monotonic clock."""

    orders: Orders
    process: subprocess.Popen[str] | None = None
    due: float = 0.0
    ready: bool = False
    deaths: list[float] = field(default_factory=list)
    heard: bytes = b""  # of a line that is not whole yet


class Supervisor:
    """The processes of one hub on this machine, once ``run`` has started them."""

    def __init__(self, orders: Orders, bound: list[socket.socket], workers: int) -> None:
        """``orders``: of the process that does the rounds; ``bound``: where the others serve, so many ``workers``."""
        self._bound = bound
        serving = replace(orders, sockets=tuple(one.fileno() for one in bound))
        self._rounds = _Child(orders)
        self._serving = [_Child(serving) for _ in range(workers)]
        self._url: str | None = None  # once one of them serves there
        self._events = selectors.DefaultSelector()
        self._ending = False
        self._failed: PicopaymentsError | None = None

    def run(self, ready: Callable[[str], None]) -> None:
        """Run them until SIGINT or SIGTERM, or until a draining hub has all its own back.

        ``ready`` gets the URL once all of them serve. Raises what keeps one of them from its first start.
        """
        with ExitStack() as stack:
            self._environment = {**os.environ, COUNTED_IN: stack.enter_context(tempfile.TemporaryDirectory())}
            stack.enter_context(self._woken_by_signals())
            stack.callback(self._end_all)
            self._start_and_wait([self._rounds])
            self._start_and_wait(self._serving)
            if not self._ending:
                ready(self._url or "")
            while not self._ending:
                self._turn()
        if self._failed is not None:
            raise self._failed

    def _start_and_wait(self, children: list[_Child]) -> None:
        for child in children:
            if not self._ending:
                self._start(child)
        while not self._ending and not all(child.ready for child in children):
            if any(child.process is None and not child.ready for child in children):
                self._fail(HubUnreachable("A process of the hub ended as it started: its log stands above."))
            else:
                self._turn()

    def _fail(self, error: PicopaymentsError) -> None:
        self._failed, self._ending = self._failed or error, True

    # One child ------------------------------------------------------------------------------------------------------

    def _start(self, child: _Child) -> None:
        # It has a session of its own, so that Ctrl-C reaches the supervisor alone.
        try:
            child.process = subprocess.Popen(  # noqa: S603
                python("picopayments_cli.hub.worker", _does(child)),  # the word is for who lists processes
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                pass_fds=child.orders.sockets,
                env=self._environment,
            )
        except OSError as error:  # the machine has no memory, or no process, to spare now: the others go on
            log.error("a process can't be started", extra={"fields": {"does": _does(child), "reason": str(error)}})
            self._put_off(child)
            return
        child.heard = b""
        self._events.register(self._output(child), selectors.EVENT_READ, child)
        if child.process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended already, which its output tells
                child.process.stdin.write(child.orders.text())
                child.process.stdin.flush()

    @staticmethod
    def _output(child: _Child) -> int:
        if child.process is None or child.process.stdout is None:
            raise ValueError("it does not run")
        return child.process.stdout.fileno()

    def _listen(self, child: _Child) -> None:
        """Take what a process says, or its end."""
        said = os.read(self._output(child), 65536)
        if not said:
            self._bury(child)
            return
        *lines, child.heard = (child.heard + said).split(b"\n")
        for line in lines:
            try:
                word = json.loads(line)
            except ValueError:
                word = None
            if isinstance(word, dict):
                self._take(child, word)
            else:
                log.warning("a process said", extra={"fields": {"line": line.decode("utf-8", "replace")}})

    def _take(self, child: _Child, said: dict[str, Any]) -> None:
        if READY in said:
            child.ready = True
            self._url = said[READY] if child.orders.sockets else self._url
        if DRAINED in said:
            self._ending = True
        if FAILED in said:
            error = told_error(said[FAILED])
            log.error("a process failed", extra={"fields": {"does": _does(child), "error": said[FAILED]}})
            if not child.ready and error is not None:
                self._fail(error)

    def _bury(self, child: _Child) -> None:
        """Take note of a process that ended, and start another one in its place: later where many have."""
        self._events.unregister(self._output(child))
        process, child.process = child.process, None
        if process is not None:
            end(process, STOP_SECONDS)
        self._put_off(child)
        if not self._ending:
            code = None if process is None else process.returncode
            log.warning("a process ended", extra={"fields": {"does": _does(child), "exit_code": code}})

    @staticmethod
    def _put_off(child: _Child) -> None:
        """Have one started anew after a while, the longer the more often it has died."""
        now = time.monotonic()
        child.deaths = [*(at for at in child.deaths if at > now - _FORGIVEN), now]
        child.due = now + min(_FIRST_PAUSE * 2.0 ** (len(child.deaths) - 1), _LONGEST_PAUSE)

    # All of them ----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Wait until something comes about, and do what is due."""
        children = [self._rounds, *self._serving]
        due = [child for child in children if child.process is None and child.ready]
        pause = min((child.due for child in due), default=None)
        for key, _ in self._events.select(None if pause is None else max(pause - time.monotonic(), 0)):
            if isinstance(key.data, _Child):
                self._listen(key.data)
            else:
                key.data.recv(4096)
        for child in due:
            if not self._ending and child.process is None and time.monotonic() >= child.due:
                self._start(child)

    @contextmanager
    def _woken_by_signals(self) -> Iterator[None]:
        """Have signals wake ``_turn``, and do their part: end, or pass SIGHUP on."""
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        self._events.register(near, selectors.EVENT_READ, near)
        woken = signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
        handlers = {signal.SIGTERM: self._end, signal.SIGINT: self._end, signal.SIGHUP: self._pass_on}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(woken)
            self._events.close()
            near.close()
            far.close()

    def _end(self, _number: int, _frame: Any) -> None:
        self._ending = True

    def _pass_on(self, number: int, _frame: Any) -> None:
        for child in (self._rounds, *self._serving):
            if child.process is not None and child.ready:
                child.process.send_signal(number)

    def _end_all(self) -> None:
        """End those that answer, then the one that does the rounds: it counts what the others have written."""
        for children in (self._serving, [self._rounds]):
            running = [child.process for child in children if child.process is not None]
            for process in running:
                process.terminate()
            for process in running:
                end(process, STOP_SECONDS)


def _does(child: _Child) -> str:
    return "answers" if child.orders.sockets else "rounds"

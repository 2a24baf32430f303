"""Starts processes of the program as forks of one that has its modules loaded: that saves each the seconds of imports.

As a program, ``forked.py FD``, it is that one: it forks for each request on the socket FD.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import IO, Any

LOADED = (
    "alembic.command",
    "alembic.config",
    "alembic.runtime.migration",
    "mnemonic",
    "nacl.bindings",
    "picopayments_cli.api",
    "picopayments_cli.cli",
    "picopayments_cli.client.serve",
    "picopayments_cli.hub.embedded",
    "picopayments_cli.hub.operator_socket",
    "picopayments_cli.hub.proxy",
    "picopayments_cli.hub.rounds",
    "picopayments_cli.hub.serving",
    "picopayments_cli.hub.stale_database",
    "picopayments_cli.jsonlog",
    "picopayments_cli.passphrases",
    "picopayments_cli.regtest.node",
    "picopayments_cli.regtest.server",
    "pycoin.symbols.xrt",
    "sqlalchemy.dialects.sqlite",
    "uvicorn.lifespan.on",
    "uvicorn.loops.asyncio",
)
_MOST = 1 << 16  # bytes of a request
_NUMBER = 8  # bytes of a process id, and of how a process ended


class ForkedProcess:
    """A process like ``python -m MODULE ...`` or ``python -c CODE ...``; ``words`` begin with -m or -c.

    It has the members of subprocess.Popen that tests use. ``stdin`` and ``stdout`` are pipes, if asked for, for text;
    ``stderr`` is a file, or nowhere.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        stdin: bool = False,
        stdout: int | IO[Any] = subprocess.PIPE,
        stderr: int | IO[Any] = subprocess.DEVNULL,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.returncode: int | None = None
        self.stdin: IO[str] | None = None
        self.stdout: IO[str] | None = None
        with contextlib.ExitStack() as stack:
            nowhere = stack.enter_context(open(os.devnull, "r+b")).fileno()
            ends = [nowhere, _fd(stdout, nowhere), _fd(stderr, nowhere)]
            if stdin:
                ends[0], writing = os.pipe()
                stack.callback(os.close, ends[0])
                self.stdin = os.fdopen(writing, "w", encoding="utf-8")
            if stdout == subprocess.PIPE:
                reading, ends[1] = os.pipe()
                stack.callback(os.close, ends[1])
                self.stdout = os.fdopen(reading, encoding="utf-8")
            self._told, told = socket.socketpair()
            stack.enter_context(told)
            request = {"words": list(words), "folder": os.getcwd(), "environ": dict(environ or os.environ)}
            socket.send_fds(_forking(), [json.dumps(request).encode()], [*ends, told.fileno()])
        self.pid = self._number()

    def _number(self) -> int:
        data = self._told.recv(_NUMBER)
        if len(data) < _NUMBER:
            raise RuntimeError("the process that forks has ended")
        return int.from_bytes(data, "big", signed=True)

    def poll(self) -> int | None:
        """The exit code, or the signal's number below zero; None while it runs."""
        with contextlib.suppress(TimeoutError):
            self._wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired."""
        try:
            return self._wait(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0) from None

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None:
            self._told.settimeout(timeout)
            try:
                self.returncode = self._number()
            except BlockingIOError:
                raise TimeoutError from None
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def completed(words: Sequence[str], timeout: float, environ: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run a process to its end: exit code, stdout and stderr. Raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = ForkedProcess(words, stdout=out, stderr=err, environ=environ)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        for file in (out, err):
            file.seek(0)
        return code, out.read().decode(), err.read().decode()


def _fd(file: int | IO[Any], nowhere: int) -> int:
    """The number of an open file; of a pipe that is still to be made nothing."""
    if isinstance(file, int):
        return nowhere if file in (subprocess.DEVNULL, subprocess.PIPE) else file
    return file.fileno()


@functools.cache
def _forking() -> socket.socket:
    """The socket of the process that forks; it ends with this one."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with far:
        command = [sys.executable, __file__, str(far.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[far.fileno()])
    atexit.register(process.wait)
    atexit.register(near.close)
    return near


# The process that forks ---------------------------------------------------------------------------------------------


def _serve(server: socket.socket) -> dict[str, Any] | None:
    """Fork for each request until there can be no more. Return the request in a fork, and None at the end."""
    running: dict[int, socket.socket] = {}
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _ignore)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        selector.register(near, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if near in ready:
                near.recv(_MOST)
                _tell_ends(running)
            if server not in ready:
                continue
            data, fds, _, _ = socket.recv_fds(server, _MOST, 4)
            if not data:
                return None
            told = socket.socket(fileno=fds.pop())
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for inherited in (server, near, far, told, *running.values()):
                    inherited.close()
                _become(fds)
                return dict(json.loads(data))
            running[pid] = told
            told.send(pid.to_bytes(_NUMBER, "big", signed=True))
            for fd in fds:
                os.close(fd)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Have a signal wake the selector."""


def _tell_ends(running: dict[int, socket.socket]) -> None:
    """Tell the ends of all forks that have ended."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            with running.pop(found[0]) as told, contextlib.suppress(OSError):
                told.send(os.waitstatus_to_exitcode(found[1]).to_bytes(_NUMBER, "big", signed=True))


def _become(fds: list[int]) -> None:
    """Take signals as a process does that has just begun, and the files."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)


def _run(request: Mapping[str, Any]) -> None:
    """Do what Python does with ``-m MODULE`` or ``-c CODE``."""
    kind, subject, *rest = request["words"]
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.path[0] = ""
    sys.argv[:] = [kind, *rest]
    if kind == "-m":
        runpy.run_module(subject, run_name="__main__", alter_sys=True)
    else:
        exec(subject, {"__name__": "__main__"})


def _run_to_the_end(request: Mapping[str, Any]) -> None:
    """Run, and end as Python does, but for taking apart what is loaded: five sixths of a fork's time go into that.

    Where anything but an exit code ends it, or what is printed goes nowhere, Python ends it.
    """
    code = 0
    try:
        _run(request)
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        code = end.code or 0
    threading._shutdown()  # type: ignore[attr-defined]  # waits for all threads but daemons
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(code)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()
    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        _run_to_the_end(asked)

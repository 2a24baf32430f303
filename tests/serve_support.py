"""``serve`` as a process of its own, and calls to it."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from forked import ForkedProcess
from network_support import NOBODY, WAIT, Client


class Served:
    """``serve`` as a process of its own, and what it has printed."""

    def __init__(self, basedir: Path, hub_url: str, *options: str) -> None:
        words = Client(basedir, hub_url).words("serve", *(options or ("--port", "0")))
        with (basedir.parent / "serve.log").open("ab") as log:
            self.process = ForkedProcess(["-m", "picopayments_cli", *words], stderr=log)
        assert self.process.stdout is not None
        self.first = self.process.stdout.readline()
        if self.first:
            ready = json.loads(self.first)
            assert sorted(ready) == ["cookie", "receive_cookie", "url"]
            self.url: str = ready["url"]
            self.cookie = Path(ready["cookie"])
            self.receive_cookie = Path(ready["receive_cookie"])
            self.secret = self.cookie.read_text()

    def post(self, body: Any, **settings: Any) -> requests.Response:
        """One request, as a well-behaved program sends it but for ``settings``."""
        user, _, password = self.secret.partition(":")
        return requests.request(**{
            "method": "POST", "url": self.url, "json": body, "auth": (user, password), "timeout": WAIT, **settings
        })  # fmt: skip

    def call(self, method: str, params: Any = None) -> Any:
        """The whole reply to a call."""
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {} if params is None else params}
        answer = self.post(body)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        reply = answer.json()
        assert (reply["id"], reply["jsonrpc"]) == (7, "2.0")
        return reply

    def result(self, method: str, params: Any = None) -> Any:
        """The result of a call."""
        return self.call(method, params)["result"]

    def error(self, method: str, params: Any = None) -> tuple[str, str]:
        """Name and message of the error that answers a call."""
        data = self.call(method, params)["error"]["data"]
        return data["type"], data["message"]

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """The exit code after a signal, and what was printed since the start."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(WAIT)
        assert self.process.stdout is not None
        rest = "" if self.process.stdout.closed else self.process.stdout.read()
        self.process.stdout.close()
        return code, rest


@contextlib.contextmanager
def served(basedir: Path, hub_url: str = NOBODY, *options: str) -> Iterator[Served]:
    """``serve`` for the length of a ``with`` block."""
    server = Served(basedir, hub_url, *options)
    try:
        yield server
    finally:
        server.end()

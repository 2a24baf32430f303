"""Somebody between clients and a hub: loses, delays, repeats, garbles or changes what goes either way."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests
from envelope_support import answered, digest_of

from picopayments_cli.channel.keys import Key

WAIT = 30.0
PASS = "pass"
LOST_BEFORE, LOST_AFTER = "lost before the hub acted", "lost after the hub acted"
BUSY_BEFORE, BUSY_AFTER = "502 before the hub acted", "502 after the hub acted"
LATE, SLOW = "later than the client waits", "late"
TWICE, OLDER_FIRST = "request delivered twice", "an older request delivered again, before"
TRICKLE, CUT = "byte by byte", "cut off"
OLD_ANSWER, GARBAGE, EMPTY = "an older answer", "something else than JSON", "nothing in it"
FAULTS = (
    *(LOST_BEFORE, LOST_AFTER, BUSY_BEFORE, BUSY_AFTER, LATE, SLOW, TWICE, OLDER_FIRST),
    *(TRICKLE, CUT, OLD_ANSWER, GARBAGE, EMPTY),
)
Change = Callable[[str, Mapping[str, Any], Any], Any]


@dataclass(frozen=True)
class AnsweredCall:
    """A call that the hub answered: method, params, and the whole reply."""

    method: str
    params: Any
    reply: Any


class Proxy:
    """An HTTP server on a free port before the hub's.

    ``faults`` are what happens to the next calls of the hub's own methods (with ``everything``: to all), one each;
    ``change`` makes of method, params and result the result that the client gets, ``capture`` an answer that keeps a
    call from the hub, ``refuse`` an error in the place of the hub's answer. ``asked`` keeps all calls, ``seen`` those
    that the hub answered.
    """

    def __init__(self, hub: str | Callable[[bytes], bytes]) -> None:
        """``hub``: its URL, or what answers a body in its place."""
        self._forward = hub if callable(hub) else lambda body: requests.post(hub, data=body, timeout=WAIT).content
        self.faults: deque[str] = deque()
        self.everything = False
        self.change: Change | None = None
        self.capture: Callable[[str, Any], Any] | None = None
        self.refuse: Callable[[str, Any], Mapping[str, Any] | None] | None = None
        self.asked: list[tuple[str, Any]] = []
        self.seen: list[AnsweredCall] = []
        self.late_seconds = 0.0
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else a body waits 40 ms for the delayed ACK of its head

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    proxy.exchange(self, body)
                except OSError:  # the hub did not answer, or the client hung up
                    _hang_up(self)

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/api/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Give the port back."""
        self._server.shutdown()
        self._server.server_close()

    def exchange(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """One request of a client."""
        asked = json.loads(body)
        calls = asked if isinstance(asked, list) else [asked]
        methods = [call["method"] for call in calls]
        with self._lock:
            self.asked += [(call["method"], call.get("params")) for call in calls]
            concerned = self.everything or methods[0].startswith("mph_")
            fault = self.faults.popleft() if self.faults and concerned else PASS
        if fault == LOST_BEFORE:
            _hang_up(handler)
            return
        if fault == BUSY_BEFORE:
            _say(handler, b"", 502)
            return
        if fault == OLDER_FIRST:
            self._deliver_older(methods[0])
        if fault == TWICE:
            self._forward(body)
        older = self._older(methods[0]) if fault == OLD_ANSWER else None
        answer = older if older is not None else self._answer(calls, isinstance(asked, list), body)
        self._reply(handler, fault, answer)

    def _reply(self, handler: BaseHTTPRequestHandler, fault: str, answer: bytes) -> None:
        if fault == LOST_AFTER:
            _hang_up(handler)
        elif fault == BUSY_AFTER:
            _say(handler, b"", 502)
        elif fault == GARBAGE:
            _say(handler, b"<html>It works!</html>")
        elif fault == EMPTY:
            _say(handler, b"")
        elif fault in (LATE, SLOW):
            time.sleep(self.late_seconds if fault == LATE else 0.05)
            _say(handler, answer)
        elif fault == CUT:
            _say(handler, answer, length=2 * len(answer))
            _hang_up(handler)
        elif fault == TRICKLE:
            _trickle(handler, answer)
        else:
            _say(handler, answer)

    def _answer(self, calls: list[Any], batch: bool, body: bytes) -> bytes:
        if self.capture is not None and not batch:
            captured = self.capture(calls[0]["method"], calls[0].get("params"))
            if captured is not None:
                return json.dumps({"result": captured, "id": calls[0]["id"], "jsonrpc": "2.0"}).encode()
        if self.refuse is not None and not batch:
            error = self.refuse(calls[0]["method"], calls[0].get("params"))
            if error is not None:
                return json.dumps({"error": error, "id": calls[0]["id"], "jsonrpc": "2.0"}).encode()
        answer = self._forward(body)
        said = json.loads(answer)
        replies = said if isinstance(said, list) else [said]
        for call, reply in zip(calls, replies, strict=False):
            with self._lock:
                self.seen.append(AnsweredCall(call["method"], call.get("params"), json.loads(json.dumps(reply))))
            if self.change is not None and "result" in reply:
                reply["result"] = self.change(call["method"], call.get("params"), reply["result"])
        return answer if self.change is None else json.dumps(said).encode()

    def _older(self, method: str) -> bytes | None:
        with self._lock:
            found = [item.reply for item in self.seen if item.method == method]
        return json.dumps(found[0 if len(found) < 3 else len(found) // 2]).encode() if found else None

    def _deliver_older(self, method: str) -> None:
        with self._lock:
            found = [item for item in self.seen if item.method == method]
        for item in found[-3:]:
            self._forward(json.dumps({"method": item.method, "params": item.params, "id": 0}).encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is nothing to tell of."""


def _hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)


def _say(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, length: int | None = None) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


def _trickle(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    step = max(len(body) // 10, 1)
    for start in range(0, len(body), step):
        handler.wfile.write(body[start : start + step])
        handler.wfile.flush()
        time.sleep(0.01)


def signed_error(error: Mapping[str, Any], key: Key, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON-RPC error as a hub with that key says it to a request of a method."""
    said = {**error["data"], "request_sha256": digest_of(method, key.pubkey, params).hex()}
    return {**error, "data": answered(method, key, said)}


@contextlib.contextmanager
def between(hub: str | Callable[[bytes], bytes]) -> Iterator[Proxy]:
    """A proxy for the length of a ``with`` block."""
    proxy = Proxy(hub)
    try:
        yield proxy
    finally:
        proxy.stop()

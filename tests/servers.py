"""Real HTTP servers for tests: well-behaved ones by web.py, and sockets that say exactly what they are told."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from picopayments_cli.web import JsonRpcEndpoint, WebServer

Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def serving(app: ASGIApp, **settings: Any) -> Iterator[str]:
    """An ASGI application behind a free port, in a thread; ``settings`` are WebServer's."""
    server = WebServer(app, **settings)
    ready: queue.Queue[str] = queue.Queue()
    thread = threading.Thread(target=server.run, args=(ready.put,))
    thread.start()
    try:
        yield ready.get(timeout=20)
    finally:
        server.stop()
        thread.join(20)


@contextlib.contextmanager
def json_rpc(
    methods: Mapping[str, Callable[..., Any]], *, server: Mapping[str, str] | None = None, **settings: Any
) -> Iterator[str]:
    """The URL of a JSON-RPC server of these methods; ``server``: WebServer's settings, the rest: JsonRpcEndpoint's."""
    app = Starlette(routes=[Mount("/", JsonRpcEndpoint(methods, **settings))])
    with serving(app, **(server or {})) as url:
        yield f"{url}/api/"


@contextlib.contextmanager
def talking(talk: Talk) -> Iterator[tuple[str, list[bytes]]]:
    """A server that reads each request and hands its connection to ``talk``; and what it has read."""
    heard: list[bytes] = []

    def one(connection: socket.socket) -> None:
        heard.append(_request(connection))
        talk(connection)

    with serving_socket(one) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", heard


@contextlib.contextmanager
def serving_socket(talk: Talk) -> Iterator[socket.socket]:
    """A listening socket, each of whose connections is handed to ``talk``."""
    listener = socket.create_server(("127.0.0.1", 0))

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            talk(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    while length and len(body) < int(length[1]):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def saying(body: bytes | str | Any, status: str = "200 OK", headers: str = "") -> Talk:
    """A talk of one reply: bytes as they are, anything else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n{headers}\r\n"
    return lambda connection: connection.sendall(head.encode() + data)


def in_turn(*talks: Talk) -> Talk:
    """These talks, one for each connection."""
    following = iter(talks)
    return lambda connection: next(following)(connection)  # noqa: PLW0108


def busy_once(body: Any) -> Talk:
    """A talk of HTTP 502 at first, and of this reply the next time."""
    return in_turn(saying(b"", "502 Bad Gateway"), saying(body))


def port_of(url: str) -> int:
    """The port that a URL names."""
    return urlsplit(url).port or 0


class Relay:
    """A TCP server on a free port that hands on what comes either way to another port, and keeps it."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._streams: list[bytearray] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as far:
            for end in (near, far):  # else a body waits for the delayed ACK of its head, 40 ms each time
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
            back.start()
            self._pump(near, far)
            back.join()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        kept = bytearray()
        self._streams.append(kept)
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                kept += data
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def traffic(self) -> bytes:
        """All that passed, without the header that is there for passwords."""
        whole = b"\n".join(bytes(stream) for stream in self._streams)
        return re.sub(rb"(?im)^authorization: [^\r\n]*", b"", whole)

    def paths(self) -> set[str]:
        """The paths asked for, without what follows a question mark."""
        found = re.findall(rb"(?m)^(?:GET|POST|PUT|DELETE) ([^ ?]*)[^ ]* HTTP/1\.1\r$", self.traffic())
        return {path.decode() for path in found}

    def stop(self) -> None:
        """Give the port back."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

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
    listener = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            heard.append(_request(connection))
            talk(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", heard
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

"""Take connections: of each address so many, and where all places are taken the address with most gives one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from asyncio import sslproto
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from picopayments_cli.http_connection import ANSWERED, HttpConnection
from picopayments_cli.limits import party

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 500  # stays below the usual limit of 1,024 open files
MAX_CONNECTIONS_EACH = 100  # of one address
AT_ONCE = 25  # of one socket, before others are served: those that have to give their places are closed meanwhile
TLS_SECONDS = 10.0  # in which a client has to have agreed on keys
_TLS_END_SECONDS = 5.0  # in which it has to have said goodbye
_TLS_BUFFER = 32_768  # bytes that one reads into: 256 kB of asyncio's own stay until garbage is collected
_BACKLOG = 100  # that the system holds until they are taken
_RETRY_SECONDS = 1.0  # where the system had no descriptor left
_REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@dataclass(eq=False)
class _Place:
    """Of one connection. ``holder``: its address; a connection from this machine itself counts for itself."""

    holder: Hashable
    connection: HttpConnection
    serving: asyncio.Task[None] = field(init=False)


class Door:
    """Where connections come in; ``make`` makes what serves one, ``tls`` is there where they are encrypted."""

    def __init__(self, make: Callable[[], HttpConnection], tls: ssl.SSLContext | None) -> None:
        self._make = make
        self._tls = tls
        self._tls_times: dict[str, Any] = {}
        if tls is not None:
            sslproto.SSLProtocol.max_size = _TLS_BUFFER
            self._tls_times = {"ssl_handshake_timeout": TLS_SECONDS, "ssl_shutdown_timeout": _TLS_END_SECONDS}
        self._loop = asyncio.get_running_loop()
        self._listeners: Sequence[socket.socket] = []
        self._places: set[_Place] = set()

    def open(self, listeners: Sequence[socket.socket]) -> None:
        """Take connections of these sockets from now on."""
        self._listeners = listeners
        for listener in listeners:
            listener.setblocking(False)
            listener.listen(_BACKLOG)
            self._watch(listener)

    def close(self) -> None:
        """Take no more, and end those of which nobody knows yet whom they are with."""
        for listener in self._listeners:
            self._loop.remove_reader(listener)
        self._listeners = []
        for place in self._places:
            if not place.connection.met:
                place.serving.cancel()

    def _watch(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                taken, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("no connection can be taken", extra={"fields": {"error": str(error)}})
                self._loop.remove_reader(listener)
                self._loop.call_later(_RETRY_SECONDS, self._watch, listener)
                return
            taken.setblocking(False)
            self._admit(taken, party(address[0]))

    def _admit(self, taken: socket.socket, name: str | None) -> None:
        """Serve a connection, or refuse it: its address has all that it may, or nobody can make room for it."""
        counts = Counter(place.holder for place in self._places)
        if (name is not None and counts[name] >= MAX_CONNECTIONS_EACH) or not self._has_room(name, counts):
            with taken, contextlib.suppress(OSError):
                if self._tls is None:
                    taken.send(_REFUSAL)
            return
        place = _Place(name or object(), self._make())
        place.serving = self._loop.create_task(self._serve(taken, place.connection))
        place.serving.add_done_callback(lambda _: self._leave(place, taken))
        self._places.add(place)

    def _has_room(self, name: str | None, counts: Counter[Hashable]) -> bool:
        """Whether there is a place for an address; where all are taken, the address that holds most gives one.

        It gives the one that does least, and that has for longest. A request that is whole is given up only for one
        whose address has fewer.
        """
        if len(self._places) < MAX_CONNECTIONS:
            return True
        counts[name] += 1
        place = min(
            self._places,
            key=lambda place: (-counts[place.holder], place.connection.doing, place.connection.since),
        )
        if place.connection.doing == ANSWERED and counts[place.holder] <= (counts[name] if name else 1):
            return False
        self._places.discard(place)
        place.serving.cancel()
        return True

    async def _serve(self, taken: socket.socket, connection: HttpConnection) -> None:
        """See a connection through, its handshake and all; cancelled, it is closed."""
        try:
            with contextlib.suppress(OSError):  # they do not agree on keys
                await self._loop.connect_accepted_socket(lambda: connection, taken, ssl=self._tls, **self._tls_times)
            if connection.met:
                await connection.gone
        except asyncio.CancelledError:
            if connection.met:
                connection.transport.abort()

    def _leave(self, place: _Place, taken: socket.socket) -> None:
        self._places.discard(place)
        if not place.connection.met:  # else its transport closes it
            taken.close()

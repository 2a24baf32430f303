"""Keep one HTTP connection within bounds: of time, of what a request's head holds, of requests that wait."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from picopayments_cli import held
from picopayments_cli.bodies import BODY_SECONDS

HEAD_SECONDS = 30.0  # for a request's line and headers
KEEP_ALIVE_SECONDS = 75  # from an answer to the next request
MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 100
MAX_PIPELINED = 2  # requests of a connection that came before the answer to an earlier one
GRACE = 5.0  # seconds beyond a body's own, in which the request is refused by an answer

# How busy a connection is, from what is missed least to what is missed most where it has to go.
CLOSING, IDLE, UNFINISHED, ANSWERED = range(4)


class HttpConnection(HttpToolsProtocol):
    """Uvicorn's, but each request is bounded in time and size, and has to be read whole before another one follows.

    One deadline runs at all times at which no whole request is being answered: until a request begins, until its head
    is there, until its body is. Bytes that bring none of these nearer move none. ``gone`` is done at its end.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gone: asyncio.Future[None] = self.loop.create_future()
        self.since = self.loop.time()  # when it began to do what it does
        self.met = False  # whether its client speaks HTTP with it, or TLS where that is due
        self._in_head = self._in_body = False
        self._may_stay = True  # once the request that is being read is there whole
        self._refusal = 400
        self._head_bytes = self._body_bytes = self._content_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client may begin a request; with TLS, once keys are agreed on."""
        super().connection_made(transport)
        self.met = True
        self._allow(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer outlasts the connection."""
        self._allow(None)
        self._has_read()
        super().connection_lost(exc)
        if not self.gone.done():
            self.gone.set_result(None)

    @property
    def doing(self) -> int:
        """Say how busy it is; one of which only a head has begun, or whose client speaks no TLS yet, is idle."""
        if not self.met:
            return IDLE
        if self.transport.is_closing():
            return CLOSING
        if self._in_body and not self.pipeline:
            return UNFINISHED
        return ANSWERED if self._is_answering else IDLE

    @property
    def _is_answering(self) -> bool:
        return bool(self.pipeline) or (self.cycle is not None and not self.cycle.response_complete)

    # Reading

    def data_received(self, data: bytes) -> None:
        """Parts of a head, or of a body, are bounded together."""
        if self._in_body:
            self._body_bytes += len(data)
        else:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES or self._body_bytes > MAX_HEAD_BYTES + 2 * self._content_bytes:
            self.transport.close()  # of what came behind the head more than half is sizes of chunks, and the like

    def on_message_begin(self) -> None:
        """A head has begun."""
        super().on_message_begin()
        self._in_head = True
        self._allow(HEAD_SECONDS)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header is one too many where so many came before it."""
        if len(self.headers) >= MAX_HEADERS:  # those behind the body count, too
            self._refusal = 431
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A body is due; an answer that comes before its end is the connection's last."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at a time")
        self._in_head, self._in_body = False, True
        self._head_bytes = self._body_bytes = self._content_bytes = 0
        self.since = self.loop.time()
        self._allow(BODY_SECONDS + GRACE)
        super().on_headers_complete()
        self._may_stay, self.cycle.keep_alive = self.cycle.keep_alive, False

    def on_body(self, body: bytes) -> None:
        """A part of a body is there, without what stands around it."""
        self._content_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there whole: no deadline runs while it is answered."""
        self._in_body = False
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._may_stay
        self._allow(None)
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, or too much of one; beside an answer under way it would be taken for that."""
        if not self._is_answering:
            head = STATUS_LINE[self._refusal] + b"connection: close\r\ncontent-length: 0\r\n\r\n"
            self.transport.write(head)
        self.transport.close()

    def shutdown(self) -> None:
        """The server ends: a request that is being read is the last one."""
        self._may_stay = False
        super().shutdown()

    def _allow(self, seconds: float | None) -> None:
        """Close the connection in so many seconds, unless this is called again; None: for now never."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._end, seconds)

    def _end(self, seconds: float) -> None:
        behind = bool(self.pipeline) if self._in_body else self._in_head and self._is_answering
        if behind:  # an earlier request of its own, during which nothing was read of this one
            self._allow(seconds)
        else:
            self.transport.close()

    # Answering

    def on_response_complete(self) -> None:
        """The next request may begin."""
        super().on_response_complete()
        self.since = self.loop.time()
        if not (self._in_head or self._in_body or self._is_answering):
            self._allow(KEEP_ALIVE_SECONDS)
        self._await_reader()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._has_read()

    def _await_reader(self) -> None:
        """Cut a client off that does not read what was written, whether the connection is to be closed or not."""
        waiting = self.transport.get_write_buffer_size()
        if waiting == 0:
            self._has_read()
        elif self._reader is None:
            self._reader = self.loop.call_later(held.READ_SECONDS + waiting / held.LEAST_READ, self._cut_off)

    def _cut_off(self) -> None:
        self._reader = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _has_read(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

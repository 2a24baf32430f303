"""Server plumbing that hub, regtest node and ``serve`` share: JSON-RPC over HTTP, and a server that stops cleanly."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import uvicorn
from jsonrpc.exceptions import (
    JSONRPCInvalidParams,
    JSONRPCInvalidRequest,
    JSONRPCMethodNotFound,
    JSONRPCParseError,
    JSONRPCServerError,
)
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from picopayments_cli import listening
from picopayments_cli.errors import InvalidSetting, PicopaymentsError
from picopayments_cli.jsontext import parse_json
from picopayments_cli.limits import Limiter, Limits, TooMuch, party

log = logging.getLogger(__name__)

MAX_BATCH = 1000
BODY_SECONDS = 30.0
KEEP_ALIVE_SECONDS = 75
STOP_SECONDS = 5
MAX_CONNECTIONS = 500  # stays below the usual limit of 1,024 open files
MAX_CONNECTIONS_EACH = 100  # of one address
HEAD_SECONDS = 30.0  # for a request's line and headers
MAX_HEAD_BYTES = 65_536
# What the address is counted by whose request is being answered; None for this machine's own.
caller: ContextVar[str | None] = ContextVar("caller", default=None)
_INVALID_REQUEST = {"code": JSONRPCInvalidRequest.CODE, "message": JSONRPCInvalidRequest.MESSAGE}
_PARSE_ERROR = {"code": JSONRPCParseError.CODE, "message": JSONRPCParseError.MESSAGE}
_NOT_FOUND = {"code": JSONRPCMethodNotFound.CODE, "message": JSONRPCMethodNotFound.MESSAGE}


@dataclass(frozen=True)
class RawJson:
    """A method's result that is JSON text already: it goes into the reply byte for byte."""

    text: str


@dataclass(frozen=True)
class Refused:
    """A method's refusal, as ``refusal`` makes it, or with more members: they go into the reply's ``error.data``."""

    details: Mapping[str, Any]


_encode = json.JSONEncoder(allow_nan=False).encode


class _TooLarge(Exception):
    """The body exceeds the limit."""


class _Disconnected(Exception):
    """The client went away before its body was complete."""


async def _read(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if not declared.isdigit() or int(declared) > max_bytes:
        raise _TooLarge
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _TooLarge
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


# The endpoint -------------------------------------------------------------------------------------------------------


def log_unexpected(method: str, error: Exception) -> None:
    """Write the traceback to the log, not to the peer: the default of JsonRpcEndpoint's ``on_error``."""
    log.error("unexpected error in %s", method, exc_info=error)


class JsonRpcEndpoint:
    """An ASGI application that answers JSON-RPC 2.0: any verb, any Content-Type, HTTP 200 for errors too.

    ``methods`` maps names to callables, called with the members of ``params`` as keyword arguments (or a list's as
    positional ones); a callable whose attribute ``takes_params`` is true gets the whole params object as its one
    argument. Methods run one at a time in the event loop; those named in ``slow`` in a thread; coroutines are awaited.
    Those named in ``alone`` may take long, and are refused in a batch, where one would follow the other.
    A PicopaymentsError is answered with its name, message and data; any other exception goes to ``on_error`` and is
    answered as InternalError. Bodies over ``max_bytes`` are refused with 413, those not complete in 30 s with 408, and
    what goes beyond the ``limits`` of an address with 429; behind a proxy on this machine the address is the one that
    ``X-Forwarded-For`` names.
    """

    def __init__(
        self,
        methods: Mapping[str, Callable[..., Any]],
        *,
        max_bytes: int = 1_000_000,
        slow: Container[str] = (),
        alone: Container[str] = (),
        on_error: Callable[[str, Exception], None] = log_unexpected,
        limits: Limits | None = None,
    ) -> None:
        self._methods = methods
        self._max_bytes = max_bytes
        self._slow = slow
        self._alone = alone
        self._on_error = on_error
        self._limiter = Limiter(limits) if limits is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a request in bounded size and time, and answer it."""
        status, close = 200, False
        headers = {}
        client = scope.get("client")
        address = client[0] if client else None
        caller.set(party(address))
        try:
            if self._limiter is None:
                text = await self.answer(await self._body(scope, receive))
            else:
                with self._limiter.request(address) as spend:
                    body = await self._body(scope, receive)
                    spend(1, len(body))
                    text = await self.answer(body, lambda calls: spend(calls - 1, 0))
        except TooMuch as error:
            status, close = 429, True
            text = _error_reply(_INVALID_REQUEST | {"message": str(error)}, None)
            headers["retry-after"] = f"{error.seconds:.0f}"
        except _Disconnected:
            return
        except _TooLarge:
            status, close = 413, True
            text = _error_reply(_INVALID_REQUEST | {"data": f"Larger than {self._max_bytes} bytes."}, None)
        except asyncio.TimeoutError:
            status, close = 408, True
            text = _error_reply(_INVALID_REQUEST | {"data": f"Not complete in {BODY_SECONDS:.0f} s."}, None)
        if close:
            headers["connection"] = "close"
        response = Response(text, status if text else 204, headers, "application/json")
        await response(scope, receive, send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        return await asyncio.wait_for(_read(scope, receive, self._max_bytes), BODY_SECONDS)

    async def answer(self, body: bytes, spend: Callable[[int], None] | None = None) -> str:
        """Answer a request's body by JSON text; empty for notifications. ``spend`` is told the size of a batch."""
        try:
            request = parse_json(body)
        except ValueError:
            return _error_reply(_PARSE_ERROR, None)
        if not isinstance(request, list):
            return await self._answer_one(request) or ""
        if not 0 < len(request) <= MAX_BATCH:
            return _error_reply(_INVALID_REQUEST | {"data": f"A batch has 1 to {MAX_BATCH} requests."}, None)
        if spend is not None:
            spend(len(request))
        replies = []
        for item in request:
            replies.append(await self._answer_one(item, in_batch=True))
            await asyncio.sleep(0)  # let others in between
        texts = [reply for reply in replies if reply is not None]
        return f"[{','.join(texts)}]" if texts else ""

    async def _answer_one(self, request: Any, *, in_batch: bool = False) -> str | None:
        if not isinstance(request, dict):
            return _error_reply(_INVALID_REQUEST, None)
        name, params, number = request.get("method"), request.get("params"), request.get("id")
        if not isinstance(number, (str, int, float, type(None))):
            return _error_reply(_INVALID_REQUEST, None)
        if not isinstance(name, str) or not isinstance(params, (dict, list, type(None))):
            return _error_reply(_INVALID_REQUEST, number)
        if in_batch and name in self._alone:
            return _error_reply(_INVALID_REQUEST | {"data": f"{name} is called by itself, not in a batch."}, number)
        reply = await self._call(name, {} if params is None or params == [] else params, number)
        return None if "id" not in request and request.get("jsonrpc") == "2.0" else reply

    async def _call(self, name: str, params: dict[str, Any] | list[Any], number: Any) -> str:
        method = self._methods.get(name)
        if method is None:
            return _error_reply(_NOT_FOUND, number)
        if getattr(method, "takes_params", False):
            if isinstance(params, list):
                return _error_reply(_invalid_params("params must be an object"), number)
            args: list[Any] = [params]
            kwargs: dict[str, Any] = {}
        else:
            args, kwargs = ([], params) if isinstance(params, dict) else (params, {})
        try:
            if name in self._slow:
                result = await run_in_threadpool(method, *args, **kwargs)
            else:
                result = method(*args, **kwargs)
            if inspect.isawaitable(result):
                result = await result
            return _reply(result, number)
        except PicopaymentsError as error:
            return _error_reply(_server_error(refusal(error.name, error.message, error.data)), number)
        except Exception as error:
            if isinstance(error, TypeError) and not _takes(method, args, kwargs):
                return _error_reply(_invalid_params(str(error)), number)
            self._on_error(name, error)
            text = "The server failed; its operator finds the cause in its log."
            return _error_reply(_server_error(refusal("InternalError", text, {})), number)


def _reply(result: Any, number: Any) -> str:
    if isinstance(result, Refused):
        return _error_reply(_server_error(result.details), number)
    text = result.text if isinstance(result, RawJson) else _encode(result)
    return f'{{"result":{text},"id":{_encode(number)},"jsonrpc":"2.0"}}'


def _takes(method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> bool:
    try:
        inspect.signature(method).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def refusal(name: str, text: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a reply says of an error, as its ``error.data``."""
    details: dict[str, Any] = {"type": name, "args": [text], "message": text}
    if data:
        details["data"] = data
    return details


def _server_error(details: Mapping[str, Any]) -> dict[str, Any]:
    return {"code": JSONRPCServerError.CODE, "message": JSONRPCServerError.MESSAGE, "data": details}


def _invalid_params(text: str) -> dict[str, Any]:
    details = {"type": "TypeError", "args": [text], "message": text}
    return {"code": JSONRPCInvalidParams.CODE, "message": JSONRPCInvalidParams.MESSAGE, "data": details}


def _error_reply(error: Mapping[str, Any], number: Any) -> str:
    return json.dumps({"error": error, "id": number, "jsonrpc": "2.0"}, default=str)


# The server ---------------------------------------------------------------------------------------------------------


class WebServer:
    """An HTTP(S) server of an ASGI application (whose lifespan it runs) on sockets that it binds itself.

    Raises PortUnusable where the port can't be had and InvalidSetting for a certificate that can't be used.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_cert: str | None = None,
        ssl_key: str | None = None,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=_Protocol,
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
            limit_concurrency=MAX_CONNECTIONS,
            ssl_certfile=ssl_cert,
            ssl_keyfile=ssl_key,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            raise _unusable_certificate(ssl_cert, error) from error
        self._config, self._certificate = config, (ssl_cert, ssl_key)
        self._sockets = listening.bind(host, port)
        self._server = _Server(config)
        self.when_stopping: Callable[[], None] = lambda: None  # called before requests under way are waited for
        shown = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        shown = f"[{shown}]" if ":" in shown else shown
        self.url = f"{'https' if ssl_cert else 'http'}://{shown}:{self._sockets[0].getsockname()[1]}"

    def run(self, ready: Callable[[str], None]) -> None:
        """Serve until SIGINT, SIGTERM or ``stop``; ``ready`` gets the URL once requests are accepted.

        Where ``ready`` raises it stops, and raises that.
        """
        failed: list[Exception] = []

        def started() -> None:
            try:
                ready(self.url)
            except Exception as error:  # raised in the server's loop it would leave the application's lifespan open
                failed.append(error)
                self.stop()

        self._server.when_started = started
        self._server.when_stopping = self.when_stopping
        try:
            with _stopped_by_signals(self._server):
                self._server.run(sockets=self._sockets)
        finally:
            for bound in self._sockets:
                bound.close()
        if failed:
            raise failed[0]

    def reload_certificate(self) -> None:
        """Read certificate and key anew, for new connections; callable from any thread. Raises InvalidSetting.

        They are tried apart first: a certificate with another one's key leaves the old pair.
        """
        cert, key = self._certificate
        if cert is None or self._config.ssl is None:
            return
        try:
            for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self._config.ssl):
                context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            raise _unusable_certificate(cert, error) from error

    def stop(self) -> None:
        """Let ``run`` return soon; callable from any thread."""
        self._server.should_exit = True


def _unusable_certificate(cert: str | None, error: Exception) -> InvalidSetting:
    return InvalidSetting(f"The TLS certificate {cert} or its key can't be used: {error}.")


class _Protocol(HttpToolsProtocol):
    """Uvicorn's, but no address takes all connections, and none waits for ever, or without end, for a request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._in_body = False
        self._head_bytes = 0
        self._patience: asyncio.TimerHandle | None = None
        self._party = party(self.client[0]) if self.client else None
        same = [other for other in self.connections if isinstance(other, _Protocol) and other._party == self._party]
        if self._party is not None and len(same) > MAX_CONNECTIONS_EACH:
            transport.write(b"HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            transport.close()
            return
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._in_body = True
        self._head_bytes = 0
        self._head_is_there()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def _wait_for_head(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _head_is_there(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class _Server(uvicorn.Server):
    when_started: Callable[[], None]
    when_stopping: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.when_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.when_stopping()
        await super().shutdown(sockets)


def run(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    ready: Callable[[str], None],
    ssl_cert: str | None = None,
    ssl_key: str | None = None,
    shutdown: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then call ``shutdown`` and return.

    ``port`` 0 takes a free port; ``ready`` gets the URL (``http://127.0.0.1:PORT``) once requests are accepted.
    Raises PortUnusable, InvalidSetting (a certificate that can't be used).
    """
    try:
        WebServer(app, host=host, port=port, ssl_cert=ssl_cert, ssl_key=ssl_key).run(ready)
    finally:
        if shutdown is not None:
            shutdown()


@contextmanager
def _stopped_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Let a signal end nothing that uvicorn raises again once it has stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

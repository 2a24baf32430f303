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
from collections.abc import AsyncIterator, Callable, Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from jsonrpc.exceptions import (
    JSONRPCInvalidParams,
    JSONRPCInvalidRequest,
    JSONRPCMethodNotFound,
    JSONRPCParseError,
    JSONRPCServerError,
)
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from picopayments_cli import held, listening
from picopayments_cli.bodies import BODY_SECONDS, Desk, Disconnected, TooLarge
from picopayments_cli.door import Door
from picopayments_cli.errors import InvalidSetting, PicopaymentsError, TooMuchAsked
from picopayments_cli.http_connection import KEEP_ALIVE_SECONDS, HttpConnection
from picopayments_cli.jsontext import parse_json
from picopayments_cli.lanes import Lane, Own
from picopayments_cli.limits import UNCOUNTED, Limiter, Limits, Spending, TooMuch, party
from picopayments_cli.sparing import spare_logs

log = logging.getLogger(__name__)

MAX_BATCH = 1000
MAX_VALUES = 20_000  # of a request's JSON: more take long to parse, all at once; a sync of 1,000 payments has 5,000
_QUICK_BYTES = 50_000  # of a request's JSON, that takes no time to parse
_PARSING, _PARSING_EACH = 2, 1  # threads that parse larger ones, and of them for one address
MAX_ANSWER_BYTES = 8_000_000  # of a request, those to all calls of a batch together
STOP_SECONDS = 5
# The name by which the address is counted whose request is being answered; None for this machine's own.
caller: ContextVar[str | None] = ContextVar("caller", default=None)
# The share that its address has left: a method without a lane charges its own cost.
spending: ContextVar[Spending] = ContextVar("spending", default=UNCOUNTED)
_INVALID_REQUEST = {"code": JSONRPCInvalidRequest.CODE, "message": JSONRPCInvalidRequest.MESSAGE}
_PARSE_ERROR = {"code": JSONRPCParseError.CODE, "message": JSONRPCParseError.MESSAGE}
_NOT_FOUND: dict[str, Any] = {"code": JSONRPCMethodNotFound.CODE, "message": JSONRPCMethodNotFound.MESSAGE}


@dataclass(frozen=True)
class RawJson:
    """A method's result that is JSON text already: it goes into the reply byte for byte."""

    text: str


@dataclass(frozen=True)
class Refused:
    """A method's refusal, as ``refusal`` makes it, or with more members: they go into the reply's ``error.data``."""

    details: Mapping[str, Any]


@dataclass
class _Turn:
    """The answer to one request under way: how many bytes may be in it still, and what its calls were answered.

    ``made``: how many bytes the calls of a batch were answered by so far; ``hold`` is told of each answer's. ``size``:
    bytes of the request. ``is_gone``: whether nobody waits for the answer any more.
    """

    left: int
    spend: Spending = field(default_factory=lambda: UNCOUNTED)
    made: int = 0
    hold: Callable[[int], None] = lambda _: None
    is_gone: Callable[[], bool] = lambda: False
    size: int = 0
    is_batch: bool = False
    known: dict[str, str] = field(default_factory=dict)


_encode = json.JSONEncoder(allow_nan=False).encode


# The endpoint -------------------------------------------------------------------------------------------------------


def log_unexpected(method: str, error: Exception) -> None:
    """Write the traceback to the log, not to the peer: the default of JsonRpcEndpoint's ``on_error``."""
    log.error("unexpected error in %s", method, exc_info=error)


class JsonRpcEndpoint:
    """An ASGI application that answers JSON-RPC 2.0: any verb, any Content-Type, HTTP 200 for errors too.

    ``methods`` maps names to callables, called with the members of ``params`` as keyword arguments (or a list's as
    positional ones); a callable whose attribute ``takes_params`` is true gets the whole params object as its one
    argument. Methods run one at a time in the event loop; those of ``lanes`` in threads; coroutines are awaited.
    Those named in ``alone`` may take long, and are refused in a batch, where one would follow the other, and in a body
    of more bytes than it says. Those named in ``once`` run once for all calls of a batch that are the same.
    A batch ends where its client goes away.
    A PicopaymentsError is answered with its name, message and data; any other exception goes to ``on_error`` and is
    answered as InternalError. Bodies over ``max_bytes`` are refused with 413, those not complete in 30 s with 408, and
    what goes beyond the ``limits`` of an address with 429; behind a proxy on this machine the address is the one that
    ``X-Forwarded-For`` names. Calls whose answers would make the whole larger than 8 MB, or come when
    their address has used up its time or bytes, are refused by TooMuchAsked.
    """

    def __init__(
        self,
        methods: Mapping[str, Callable[..., Any]],
        *,
        max_bytes: int = 1_000_000,
        lanes: Mapping[str, Lane] | None = None,
        alone: Mapping[str, int] | None = None,
        once: Container[str] = (),
        on_error: Callable[[str, Exception], None] = log_unexpected,
        limits: Limits | None = None,
    ) -> None:
        self._methods = methods
        self._max_bytes = max_bytes
        self._lanes = lanes or {}
        self._alone = alone or {}
        self._once = once
        self._on_error = on_error
        self._limiter = Limiter(limits) if limits is not None else None
        self._bodies = Desk(max_bytes, BODY_SECONDS)
        self._parsing = Lane(_PARSING, _PARSING_EACH)
        self._answers = held.Held()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a request in bounded size and time, and answer it."""
        status, close = 200, False
        headers = {}
        client = scope.get("client")
        address = client[0] if client else None
        caller.set(party(address))
        try:
            limited = nullcontext(UNCOUNTED) if self._limiter is None else self._limiter.request(address)
            with limited as spend, self._bodies.held.holding() as hold:
                text = await self.answer(await self._bodies.read(scope, receive, spend, hold), spend, receive)
        except TooMuch as error:
            status, close = 429, True
            text = _error_reply(_INVALID_REQUEST | {"message": str(error)}, None)
            headers["retry-after"] = f"{error.seconds:.0f}"
        except Disconnected:
            return
        except TooLarge:
            status, close = 413, True
            text = _error_reply(_INVALID_REQUEST | {"data": f"Larger than {self._max_bytes} bytes."}, None)
        except asyncio.TimeoutError:
            status, close = 408, True
            text = _error_reply(_INVALID_REQUEST | {"data": f"Not complete in {BODY_SECONDS:.0f} s."}, None)
        if close:
            headers["connection"] = "close"
        response = Response(text, status if text else 204, headers, "application/json")
        del text
        if len(response.body) < held.FEW:
            await response(scope, receive, send)
        else:
            await self._answers.send(response, send)

    async def answer(self, body: bytes, spend: Spending = UNCOUNTED, receive: Receive | None = None) -> str:
        """Answer a request's body by JSON text; empty for notifications. ``spend`` is told what it costs.

        ``receive`` returns once its client has gone away. Raises TooMuch where other requests have used up what was
        left since this one began, and Disconnected for a batch that nobody waits for any more.
        """
        if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_VALUES:
            return _error_reply(_INVALID_REQUEST | {"data": f"More than {MAX_VALUES} values."}, None)
        try:
            request = await self._parsed(body, spend)
        except ValueError:
            return _error_reply(_PARSE_ERROR, None)
        spending.set(spend)
        turn = _Turn(MAX_ANSWER_BYTES, spend, size=len(body), is_batch=isinstance(request, list))
        if not isinstance(request, list):
            if spend.owed > 0:  # no refusal of a call: one that nobody signs would look like another hub's
                raise TooMuch(spend.owed + 1)
            return await self._answer_one(request, turn) or ""
        if not 0 < len(request) <= MAX_BATCH:
            return _error_reply(_INVALID_REQUEST | {"data": f"A batch has 1 to {MAX_BATCH} requests."}, None)
        spend(len(request) - 1)
        with self._answers.holding() as turn.hold, _departure(receive) as turn.is_gone:
            texts = [reply async for reply in self._replies(request, turn) if reply is not None]
        return f"[{','.join(texts)}]" if texts else ""

    async def _parsed(self, body: bytes, spend: Spending) -> Any:
        """Parse a body, at the cost of its address. Raises ValueError, TooMuch."""
        if len(body) >= _QUICK_BYTES:
            return await self._parsing.run(lambda: parse_json(body), spend)
        clock = Own()
        begun = clock.begin()
        try:
            return parse_json(body)
        finally:
            spend(work=clock.end(begun))

    async def _replies(self, request: list[Any], turn: _Turn) -> AsyncIterator[str | None]:
        for item in request:
            yield await self._answer_one(item, turn)
            await asyncio.sleep(0)  # let others in between
            if turn.is_gone():
                raise Disconnected

    async def _answer_one(self, request: Any, turn: _Turn) -> str | None:
        if not isinstance(request, dict):
            return _error_reply(_INVALID_REQUEST, None)
        name, params, number = request.get("method"), request.get("params"), request.get("id")
        if not isinstance(number, (str, int, float, type(None))):
            return _error_reply(_INVALID_REQUEST, None)
        if not isinstance(name, str) or not isinstance(params, (dict, list, type(None))):
            return _error_reply(_INVALID_REQUEST, number)
        if turn.is_batch and name in self._alone:
            return _error_reply(_INVALID_REQUEST | {"data": f"{name} is called by itself, not in a batch."}, number)
        if turn.size > self._alone.get(name, turn.size):
            told = f"{name} takes a body of at most {self._alone[name]} bytes."
            return _error_reply(_INVALID_REQUEST | {"data": told}, number)
        known = turn.known if turn.is_batch and name in self._once else None
        outcome = await self._outcome(name, {} if params is None or params == [] else params, turn, known)
        return None if "id" not in request and request.get("jsonrpc") == "2.0" else _reply(outcome, number)

    async def _outcome(
        self, name: str, params: dict[str, Any] | list[Any], turn: _Turn, known: dict[str, str] | None
    ) -> str:
        """The members of a reply that say what came of a call. ``known``: by call, what came of the others."""
        if turn.left < 0:
            return _refused(_too_large())
        if turn.spend.owed > 0:
            return _refused(_too_much(turn.spend.owed))
        if not self._answers.may_grow(turn.made):
            return _refused(_too_busy())
        key = "" if known is None else f"{name} {_encode(params)}"
        outcome = known.get(key) if known is not None else None
        if outcome is None:
            try:
                outcome = await self._call(name, params, turn.spend)
            except TooMuch as error:
                if not turn.is_batch:
                    raise
                return _refused(_too_much(error.seconds - 1))
            if known is not None:
                known[key] = outcome
        turn.left -= len(outcome)
        if turn.left < 0:
            outcome = _refused(_too_large())
        turn.spend(sent=len(outcome))
        if turn.is_batch:
            turn.made += len(outcome)
            turn.hold(len(outcome))
        return outcome

    async def _call(self, name: str, params: dict[str, Any] | list[Any], spend: Spending) -> str:
        method, lane = self._methods.get(name), self._lanes.get(name)
        if method is None:
            told = refusal("UnknownMethod", "There is no such method.", {})
            return _error(_NOT_FOUND | {"data": told})
        whole = getattr(method, "takes_params", False)
        if whole and isinstance(params, list):
            return _error(_invalid_params("params must be an object"))
        args: list[Any] = [params] if whole else params if isinstance(params, list) else []
        kwargs = params if isinstance(params, dict) and not whole else {}
        try:
            if lane is None:
                result = method(*args, **kwargs)
                return _result(await result if inspect.isawaitable(result) else result)
            return await lane.run(lambda: _result(method(*args, **kwargs)), spend)
        except PicopaymentsError as error:
            return _refused(error)
        except TooMuch:
            raise
        except Exception as error:
            return self._failed(name, error, fits=_takes(method, args, kwargs))

    def _failed(self, name: str, error: Exception, *, fits: bool) -> str:
        if isinstance(error, TypeError) and not fits:
            return _error(_invalid_params(str(error)))
        self._on_error(name, error)
        text = "The server failed; its operator finds the cause in its log."
        return _error(_server_error(refusal("InternalError", text, {})))


@contextmanager
def _departure(receive: Receive | None) -> Iterator[Callable[[], bool]]:
    """Yield what tells whether a request's client has gone away: behind its body nothing else is received."""
    if receive is None:
        yield lambda: False
        return
    gone = asyncio.ensure_future(receive())
    try:
        yield gone.done
    finally:
        gone.cancel()


def _result(result: Any) -> str:
    if isinstance(result, Refused):
        return _error(_server_error(result.details))
    return f'"result":{result.text if isinstance(result, RawJson) else _encode(result)}'


def _error(error: Mapping[str, Any]) -> str:
    return f'"error":{json.dumps(error, default=str)}'


def _refused(error: PicopaymentsError) -> str:
    return _error(_server_error(refusal(error.name, error.message, error.data)))


def _too_large() -> TooMuchAsked:
    text = f"The answer would have more than {MAX_ANSWER_BYTES} bytes: ask for less at a time."
    return TooMuchAsked(text, limit=MAX_ANSWER_BYTES)


def _too_busy() -> TooMuchAsked:
    text = "The server holds as much in large answers to others as it can: ask for less at a time, or later."
    return TooMuchAsked(text, limit=held.FEW)


def _too_much(seconds: float) -> TooMuchAsked:
    return TooMuchAsked(
        f"The calls of this address have cost the server too much: wait {seconds + 1:.0f} s, and ask less at a time.",
        seconds=round(seconds + 1),
    )


def _reply(outcome: str, number: Any) -> str:
    return f'{{{outcome},"id":{_encode(number)},"jsonrpc":"2.0"}}'


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
    return _reply(_error(error), number)


# The server ---------------------------------------------------------------------------------------------------------


class WebServer:
    """An HTTP(S) server of an ASGI application (whose lifespan it runs) on sockets that it binds itself.

    ``sockets``: those that another process has bound for it, at the same host. Raises PortUnusable where the port can't
    be had and InvalidSetting for a certificate that can't be used.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_cert: str | None = None,
        ssl_key: str | None = None,
        sockets: list[socket.socket] | None = None,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=HttpConnection,
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
            ssl_certfile=ssl_cert,
            ssl_keyfile=ssl_key,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            raise _unusable_certificate(ssl_cert, error) from error
        spare_logs()
        self._config, self._certificate = config, (ssl_cert, ssl_key)
        self._sockets = listening.bind(host, port) if sockets is None else sockets
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
    return InvalidSetting(f"The TLS certificate {cert} or its key can't be used: {error}. Name others.")


class _Server(uvicorn.Server):
    when_started: Callable[[], None]
    when_stopping: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        self._door = Door(self._connection, self.config.ssl)
        self._door.open(sockets or [])
        self.when_started()

    def _connection(self) -> HttpConnection:
        return HttpConnection(self.config, self.server_state, self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.when_stopping()
        self._door.close()
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

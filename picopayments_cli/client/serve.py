"""Serve the commands as JSON-RPC to programs of this machine that have a token, one call at a time; watch meanwhile.

Who can read a cookie file, which is private, may call: with one of them all methods, with the other those that move
nothing (``RECEIVING``). A web page that the user visits can not: its browser names the
page's origin, or, where the page's name was made to point here, a foreign host.
"""

from __future__ import annotations

import asyncio
import csv
import hmac
import io
import ipaddress
import logging
import os
import secrets
import signal
import threading
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from picopayments_cli.client.delivery import (
    LineSink,
    ProgramSink,
    ShownSink,
    Sink,
    WebhookSink,
    delivering,
    webhook_secret,
)
from picopayments_cli.client.outbox import Outbox
from picopayments_cli.client.payments import SENT
from picopayments_cli.client.payments_shown import as_csv
from picopayments_cli.client.wallet import Unlocker
from picopayments_cli.client.watcher import Watcher
from picopayments_cli.config import Settings
from picopayments_cli.errors import MethodNotAllowed, PicopaymentsError, StoreLocked, StoreUnusable, UsageError
from picopayments_cli.web import JsonRpcEndpoint, WebServer

log = logging.getLogger(__name__)
USER, RECEIVING_USER = "__cookie__", "__receive__"
RECEIVING = ("version", "status", "payments", "request", "decode")  # for a program that only is paid
TOKEN_SIZE = 32
STOP_SECONDS = 5.0  # that the watcher, and a delivery under way, may take to stop
Commands = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Watch:
    """How the wallet is watched: seconds between two rounds, and where events go.

    ``events``: a file, ``-`` for ``show``; ``program`` is started for each; ``webhook``: a URL. ``unlocker`` has opened
    the wallet; ``typed`` writes out the commands that an event names.
    """

    show: Callable[[dict[str, Any]], None]
    typed: Callable[[Any], Any]
    every: float = 60.0
    events: str | None = None
    program: str | None = None
    webhook: str | None = None
    unlocker: Unlocker | None = None


def serve(
    settings: Settings,
    given_basedir: Path | None,
    commands: Commands,
    ready: Callable[[dict[str, str]], None],
    watch: Watch,
    *,
    host: str,
    port: int | None,
) -> None:
    """Serve, and watch, until SIGINT, SIGTERM or SIGHUP; ``ready`` is told the URL and the files of both cookies.

    ``commands`` check what they are called with, values by place or by name; they are run one at a time, in a thread.
    ``port`` None: 1000 above the network's hub; 0: a free one. Raises UsageError where
    ``host`` is not of this machine, PortUnusable, StoreLocked, StoreUnusable, StoreDamaged, InvalidUrl.
    """
    address, name = _loopback(host), settings.network.name
    cookies = {
        "cookie": (settings.basedir / f"{name}.cookie", USER),
        "receive_cookie": (settings.basedir / f"{name}.receive.cookie", RECEIVING_USER),
    }
    with ExitStack() as stack:
        stack.enter_context(_only_one(settings.basedir / f"{name}.serve.lock"))
        sinks = _sinks(settings, watch)
        tokens = {user: secrets.token_hex(TOKEN_SIZE) for _, user in cookies.values()}
        cookie = cookies["cookie"][0]
        methods = _in_turn(commands, lambda: _check_there(cookie))
        apps = {
            f"{user}:{tokens[user]}": JsonRpcEndpoint(own, on_error=_log_fault)
            for user, own in ((USER, methods), (RECEIVING_USER, _receiving(methods)))
        }
        chosen = settings.network.hub_port + 1000 if port is None else port
        server = WebServer(Starlette(routes=[Mount("/", app=Gate(apps))]), host=address, port=chosen)
        paths = {
            member: str(stack.enter_context(_cookie(path, user, tokens[user])))
            for member, (path, user) in cookies.items()
        }
        outbox = Outbox(settings.basedir / f"{name}.events.jsonl", [sink.name for sink in sinks]) if sinks else None
        if outbox is not None:
            stack.enter_context(delivering(outbox, sinks, STOP_SECONDS))
        watcher = Watcher(settings, given_basedir, lambda: _check_there(cookie), outbox, watch.every, watch.unlocker)
        watcher.typed = watch.typed
        stack.enter_context(_hangup_stops(server))

        def started(url: str) -> None:
            ready({"url": f"{url}/", **paths})
            watcher.start()

        try:
            server.run(started)
        finally:
            watcher.stop(STOP_SECONDS)


def _in_turn(commands: Commands, check: Callable[[], None]) -> Commands:
    """Have commands run one at a time, each in a thread; ``check`` goes before each."""
    lock = asyncio.Lock()

    def in_turn(command: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(*values: Any, **members: Any) -> Any:
            async with lock:
                check()
                try:
                    return await run_in_threadpool(command, *values, **members)
                except PicopaymentsError as error:
                    if error.result is not None:
                        error.data = {**error.data, "result": error.result}
                    raise

        return answer

    return {name: in_turn(run) for name, run in commands.items()}


def _receiving(methods: Commands) -> Commands:
    """The methods of the cookie for programs that only are paid: the others are refused by name."""

    def refusing(name: str) -> Callable[..., Any]:
        def refuse(*_: Any, **__: Any) -> Any:
            raise MethodNotAllowed(
                f"This cookie is for programs that are paid, and {name} is not for them. Use the other cookie.",
                method=name,
            )

        return refuse

    def unproven(payments: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(*values: Any, **members: Any) -> Any:
            return _without_receipts(await payments(*values, **members))

        return answer

    allowed = {name: run if name in RECEIVING else refusing(name) for name, run in methods.items()}
    return {name: unproven(run) if name == "payments" else run for name, run in allowed.items()}


def _without_receipts(told: Any) -> Any:
    """Leave the receipts of sent payments out of what ``payments`` tells: who shows one seems to be who has paid."""
    rows: Iterable[Mapping[str, Any]] = csv.DictReader(io.StringIO(told)) if isinstance(told, str) else told
    kept = [{name: row[name] for name in row if name != "receipt" or row["state"] != SENT} for row in rows]
    return as_csv(kept) if isinstance(told, str) else kept


def _sinks(settings: Settings, watch: Watch) -> list[Sink]:
    """Make those who get the events. Raises UsageError, InvalidUrl, StoreDamaged, StoreUnusable."""
    found: list[Sink] = []
    if watch.events is not None:
        found.append(ShownSink(watch.show) if watch.events == "-" else LineSink(Path(watch.events).absolute()))
    if watch.program is not None:
        found.append(ProgramSink(watch.program))
    if watch.webhook is not None:
        secret = webhook_secret(settings.basedir / f"{settings.network.name}.webhook.secret")
        found.append(WebhookSink(watch.webhook, secret))
    return found


@contextmanager
def _hangup_stops(server: WebServer) -> Iterator[None]:
    """Stop a server cleanly at SIGHUP, too: its terminal was closed. One that nohup has started goes on."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, lambda *_: server.stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _loopback(host: str) -> str:
    """Check that a host is this machine alone: a loopback address, or localhost, which is all of them.

    Raises UsageError.
    """
    if host != "localhost" and not _is_loopback(host):
        raise UsageError(
            f"{host} is not an address of this machine alone: serve is for programs on it, at 127.0.0.1, ::1 or "
            "localhost.",
            host=host,
        )
    return host


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _log_fault(command: str, error: Exception) -> None:
    log.error("%s failed: %s: %s", command, type(error).__name__, error, exc_info=log.isEnabledFor(logging.DEBUG))


# Access -------------------------------------------------------------------------------------------------------------


class Gate:
    """Lets through what a program of this machine sends that has a token, to the application of that token."""

    def __init__(self, apps: Mapping[str, ASGIApp]) -> None:
        """``apps``: by user and token, as a cookie file has them."""
        self._apps = [(b"Basic " + b64encode(cookie.encode()), app) for cookie, app in apps.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, 401, 405 or 415, or hand on."""
        app = self._chosen(scope) if scope["type"] == "http" else self._apps[0][1]
        await app(scope, receive, send)

    def _chosen(self, scope: Scope) -> ASGIApp:
        values: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            values.setdefault(name, []).append(value)
        port = scope["server"][1]
        hosts = values.get(b"host", [b""])
        origins = values.get(b"origin", [])
        if not all(_is_here(host, port) for host in hosts) or not all(
            origin.startswith(b"http://") and _is_here(origin[len(b"http://") :], port) for origin in origins
        ):
            return _refused(403, "Only programs of this machine are served, not web pages.")
        sent = values.get(b"authorization", [b""])[0]
        allowed = [app for expected, app in self._apps if hmac.compare_digest(sent, expected)]
        if not allowed:
            realm = {"WWW-Authenticate": 'Basic realm="picopayments-cli"'}
            return _refused(401, "HTTP Basic authentication with the content of a cookie file is needed.", realm)
        if scope["method"] != "POST":
            return _refused(405, "JSON-RPC comes by POST.", {"Allow": "POST"})
        media = values.get(b"content-type", [b""])[0].partition(b";")[0].strip().lower()
        if media != b"application/json":
            return _refused(415, "JSON-RPC comes as application/json.")
        return allowed[0]


def _is_here(host: bytes, port: int) -> bool:
    """Tell whether a Host header names this machine itself and the port that is served."""
    name, colon, number = host.decode("latin-1").rpartition(":")
    name = name.lower().removeprefix("[").removesuffix("]")
    return bool(colon) and number == str(port) and (name == "localhost" or _is_loopback(name))


def _refused(status: int, text: str, headers: Mapping[str, str] | None = None) -> PlainTextResponse:
    return PlainTextResponse(text + "\n", status, {"Connection": "close", **(headers or {})})


# Files --------------------------------------------------------------------------------------------------------------


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the right to serve a network of a basedir. Raises StoreLocked, StoreUnusable."""
    lock = FileLock(path, mode=0o600, fallback_to_soft=False)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreLocked(
            f"Another process serves {path.parent} already: use that one, or stop it.", basedir=str(path.parent)
        ) from None
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _cookie(path: Path, user: str, token: str) -> Iterator[Path]:
    """Keep user and token in a file for the time of serving. Raises StoreUnusable."""
    try:
        path.unlink(missing_ok=True)  # left by a process that was killed
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{user}:{token}")
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        yield path
    finally:
        with suppress(OSError):
            path.unlink()


def _check_there(cookie: Path) -> None:
    """Refuse to begin anew in a folder that was removed. Raises StoreUnusable."""
    if not cookie.exists():
        raise StoreUnusable(
            f"{cookie} is gone: the folder was taken away or emptied while it is served. Nothing was done. Stop this "
            "server, put the folder's files back, and start it again.",
            path=str(cookie),
        )


def _unusable(path: Path, error: OSError) -> StoreUnusable:
    reason = error.strerror or error
    return StoreUnusable(f"{path} can't be used: {reason}. Mend that and run the command again.", path=str(path))

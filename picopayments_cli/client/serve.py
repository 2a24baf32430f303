"""Serve the commands as JSON-RPC to programs of this machine that have the token, one call at a time.

Who can read the cookie file, which is private, may call. A web page that the user visits can not: its browser names the
page's origin, or, where the page's name was made to point here, a foreign host.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import os
import secrets
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from picopayments_cli.config import Settings
from picopayments_cli.errors import PicopaymentsError, StoreLocked, StoreUnusable, UsageError
from picopayments_cli.web import JsonRpcEndpoint, WebServer

log = logging.getLogger(__name__)
USER = "__cookie__"
TOKEN_SIZE = 32


def serve(
    settings: Settings,
    commands: Mapping[str, Callable[..., Any]],
    ready: Callable[[dict[str, str]], None],
    *,
    host: str,
    port: int | None,
) -> None:
    """Serve until SIGINT or SIGTERM; ``ready`` gets URL and cookie file once requests are accepted.

    ``commands`` check what they are called with, values by place or by name; they are run one at a time, in a thread.
    ``port`` None: 1000 above the network's hub; 0: a free one. Raises UsageError where
    ``host`` is not of this machine, PortUnusable, StoreLocked, StoreUnusable.
    """
    address = _loopback(host)
    lock = asyncio.Lock()
    name = settings.network.name
    cookie = settings.basedir / f"{name}.cookie"

    def in_turn(command: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(*values: Any, **members: Any) -> Any:
            async with lock:
                _check_there(cookie)
                try:
                    return await run_in_threadpool(command, *values, **members)
                except PicopaymentsError as error:
                    if error.result is not None:
                        error.data = {**error.data, "result": error.result}
                    raise

        return answer

    with _only_one(settings.basedir / f"{name}.serve.lock"):
        token = secrets.token_hex(TOKEN_SIZE)
        endpoint = JsonRpcEndpoint({command: in_turn(run) for command, run in commands.items()}, on_error=_log_fault)
        chosen = settings.network.hub_port + 1000 if port is None else port
        app = Starlette(routes=[Mount("/", app=Gate(endpoint, token))])
        server = WebServer(app, host=address, port=chosen)
        with _cookie(cookie, token) as path:
            server.run(lambda url: ready({"url": f"{url}/", "cookie": str(path)}))


def _loopback(host: str) -> str:
    """Find the address of this machine that a host names. Raises UsageError."""
    address = "127.0.0.1" if host == "localhost" else host
    if not _is_loopback(address):
        raise UsageError(
            f"{host} is not an address of this machine alone: serve is for programs on it, at 127.0.0.1, ::1 or "
            "localhost.",
            host=host,
        )
    return address


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _log_fault(command: str, error: Exception) -> None:
    log.error("%s failed: %s: %s", command, type(error).__name__, error, exc_info=log.isEnabledFor(logging.DEBUG))


# Access -------------------------------------------------------------------------------------------------------------


class Gate:
    """Lets through to ``app`` what a program of this machine sends that has the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = b"Basic " + b64encode(f"{USER}:{token}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, 401, 405 or 415, or hand on."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
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
        if not hmac.compare_digest(sent, self._expected):
            realm = {"WWW-Authenticate": 'Basic realm="picopayments-cli"'}
            return _refused(401, "HTTP Basic authentication with the content of the cookie file is needed.", realm)
        if scope["method"] != "POST":
            return _refused(405, "JSON-RPC comes by POST.", {"Allow": "POST"})
        media = values.get(b"content-type", [b""])[0].partition(b";")[0].strip().lower()
        if media != b"application/json":
            return _refused(415, "JSON-RPC comes as application/json.")
        return None


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
def _cookie(path: Path, token: str) -> Iterator[Path]:
    """Keep user and token in a file for the time of serving. Raises StoreUnusable."""
    try:
        path.unlink(missing_ok=True)  # left by a process that was killed
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{USER}:{token}")
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

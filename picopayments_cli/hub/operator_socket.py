"""The way to a running hub for who runs it: JSON-RPC on a Unix socket in its basedir, for its owner only."""

from __future__ import annotations

import http.client
import inspect
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import uvicorn

from picopayments_cli import errors
from picopayments_cli.errors import (
    HubRefused,
    HubUnreachable,
    InvalidParams,
    PicopaymentsError,
    StoreUnusable,
    UnknownMethod,
)
from picopayments_cli.files import check_private, usable
from picopayments_cli.jsontext import parse_json
from picopayments_cli.lanes import Lane
from picopayments_cli.web import JsonRpcEndpoint

STOP_SECONDS = 5
ANSWER_SECONDS = 60.0
MAX_BYTES = 10_000_000
AT_ONCE = 4  # methods
MAX_PATH = 100  # bytes of a socket's name that every system takes
# How a parameter's annotation names what it takes, by the type that JSON has for it, and in words.
_TYPES: dict[str, tuple[type, str]] = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "bool": (bool, "true or false"),
    "Mapping[str, Any]": (dict, "an object"),
    "None": (type(None), "null"),
}


# The hub ------------------------------------------------------------------------------------------------------------


@contextmanager
def served(path: Path, methods: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Answer these methods at a socket, each in a thread, for the length of a ``with`` block. Raises StoreUnusable.

    The caller holds the folder's lock: what lies there by that name was left by a process that is gone.
    """
    checked = {name: _checked(method) for name, method in methods.items()}
    app = JsonRpcEndpoint(checked, max_bytes=MAX_BYTES, lanes=dict.fromkeys(methods, Lane(AT_ONCE)))
    config = uvicorn.Config(
        app, loop="asyncio", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False
    )
    config.timeout_graceful_shutdown = STOP_SECONDS
    server = uvicorn.Server(config)
    bound = _bound(path)
    own = _place(path)
    thread = threading.Thread(target=server.run, args=([bound],), name="operator", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(STOP_SECONDS + 1)
        bound.close()
        with suppress(OSError):
            if _place(path) == own:  # else one that was started meanwhile has put its own there
                path.unlink()


def _checked(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, which refuses arguments of other types than it is annotated with: null is no false, true no 1."""
    signature = inspect.signature(method)
    taken = {
        name: [_TYPES[each] for each in parameter.annotation.split(" | ")]
        for name, parameter in signature.parameters.items()
    }

    @wraps(method)
    def called(*values: Any, **members: Any) -> Any:
        for name, value in signature.bind(*values, **members).arguments.items():
            if type(value) not in (kind for kind, _ in taken[name]):
                words = " or ".join(word for _, word in taken[name])
                raise InvalidParams(f"{name} must be {words}. Nothing was done.", member=name)
        return method(*values, **members)

    return called


def _place(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _bound(path: Path) -> socket.socket:
    """Bind a socket that nobody else may open: it listens only once it is private."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with usable(path):
            path.unlink(missing_ok=True)
            with _short(path) as name:
                bound.bind(name)
            path.chmod(0o600)
            bound.listen()
    except BaseException:
        bound.close()
        raise
    return bound


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield a name of a socket's path that the system takes, which bounds its length. Raises StoreUnusable."""
    if len(os.fsencode(path)) <= MAX_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        name = Path(f"/proc/self/fd/{folder}")
        if not name.exists() or len(path.name) > MAX_PATH // 2:
            raise StoreUnusable(
                f"{path} is too long a name for a socket: name a --basedir whose path is shorter.", path=str(path)
            )
        yield str(name / path.name)
    finally:
        os.close(folder)


# Its operator -------------------------------------------------------------------------------------------------------


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._patience = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._patience)
        with _short(self._path) as name:
            self.sock.connect(name)


def ask(path: Path, method: str, params: Mapping[str, Any], seconds: float | None = ANSWER_SECONDS) -> Any:
    """Call a method of the hub that runs on a folder; its result. ``seconds`` None: wait for it without end.

    Raises HubUnreachable where none runs there, StoreUnusable for a socket that is not this user's alone, and the
    hub's refusal.
    """
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    _check(path)
    connection = _Connection(path, seconds)
    try:
        connection.request("POST", "/", body, {"Content-Type": "application/json"})
        answer = parse_json(connection.getresponse().read())
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise _nobody(path) from error
    except TimeoutError as error:
        raise HubUnreachable(
            f"The hub did not answer {method} within {seconds:g} s. It may carry it out all the same: see its log, and "
            "`picopayments-hub status`.",
            path=str(path),
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise HubUnreachable(
            f"The hub at {path} broke off: {error or type(error).__name__}. See its log, and whether it still runs.",
            path=str(path),
        ) from error
    finally:
        connection.close()
    if "error" in answer:
        raise _refusal(method, answer["error"])
    return answer["result"]


def _check(path: Path) -> None:
    """See that the socket is this user's. Raises HubUnreachable, StoreUnusable."""
    with usable(path):
        if not path.exists():
            raise _nobody(path)
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise StoreUnusable(f"{path} is no socket: move it away, and start the hub again.", path=str(path))
        check_private(path)


def _nobody(path: Path) -> HubUnreachable:
    return HubUnreachable(
        f"No hub runs on {path.parent}: start it, or name the network and the --basedir of the one that runs.",
        path=str(path),
    )


def _refusal(method: str, error: Mapping[str, Any]) -> PicopaymentsError:
    """Make the error that the hub has raised: it is on this machine, and may say what is wrong with its files."""
    details = error.get("data") if isinstance(error.get("data"), dict) else None
    if details is None or error.get("code") == -32601:
        return UnknownMethod(f"The hub has no command {method}: it is of another version.", call=method)
    found = getattr(errors, str(details.get("type")), HubRefused)
    known = isinstance(found, type) and issubclass(found, PicopaymentsError)
    return (found if known else HubRefused)(str(details.get("message")), **details.get("data", {}))

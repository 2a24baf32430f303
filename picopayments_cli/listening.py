"""Bind a server at every address that its host has, as at one that is left out somebody else could serve."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from picopayments_cli.errors import PortUnusable

_LOOPBACK = ("127.0.0.1", "::1")  # of localhost, however this machine resolves it: others resolve it otherwise
_TRIES = 20  # for a port that is free at all addresses


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind a port, 0 for a free one, at all addresses of a host. Raises PortUnusable where one of them is taken."""
    addresses = _addresses(host, port)
    for _ in range(_TRIES if port == 0 and len(addresses) > 1 else 1):
        try:
            return _bound(addresses, port)
        except OSError as error:
            failed = error
        except OverflowError as error:
            raise _unusable(host, port, error) from error
    raise _unusable(host, port, failed) from failed


def _addresses(host: str, port: int) -> list[str]:
    if host == "localhost":
        return [address for address in _LOOPBACK if address == _LOOPBACK[0] or _is_here(address)]
    if not host or ":" in host or host.replace(".", "").isdecimal():
        return [host]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _unusable(host, port, error) from error
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def _is_here(address: str) -> bool:
    """Whether this machine has an address."""
    try:
        _socket(address, 0).close()
    except OSError:
        return False
    return True


def _bound(addresses: list[str], port: int) -> list[socket.socket]:
    """Bind the same port at all addresses, or none. Raises OSError, OverflowError."""
    made: list[socket.socket] = []
    with ExitStack() as stack:
        for address in addresses:
            made.append(stack.enter_context(_socket(address, made[0].getsockname()[1] if made else port)))
        stack.pop_all()
    return made


def _socket(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # without: Nagle's 40 ms with every reply
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address, port))
    except BaseException:
        bound.close()
        raise
    return bound


def _unusable(host: str, port: int, error: Exception) -> PortUnusable:
    reason = getattr(error, "strerror", None) or str(error)
    return PortUnusable(
        f"Port {port} of {host} can't be used: {reason}. Choose another one, or 0 for a free one.",
        host=host,
        port=port,
        reason=reason,
    )

"""Read a request's body in bounded size, and charge its address for what came in, whether or not it is answered."""

from __future__ import annotations

from starlette.types import Receive, Scope

from picopayments_cli.limits import Spending


class TooLarge(Exception):
    """The body exceeds the limit."""


class Disconnected(Exception):
    """The client went away before its body was complete."""


async def read(scope: Scope, receive: Receive, max_bytes: int, spend: Spending) -> bytes:
    """Read a request's body; ``spend`` is told of the head, and of each part as it comes in.

    Raises TooLarge, Disconnected.
    """
    spend(1, sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope.get("raw_path") or b""))
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if not declared.isdigit() or int(declared) > max_bytes:
        raise TooLarge
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        spend(size=len(chunk))
        if size > max_bytes:
            raise TooLarge
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)

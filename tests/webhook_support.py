"""A receiver of webhooks, as a shop would write one: it checks the signature and counts each number once."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

from network_support import wait_until
from servers import saying, talking


class Receiver:
    """What was posted to ``url``. ``status``: what it answers; ``secret`` gives the key of the signatures."""

    def __init__(self, url: str, heard: list[bytes], secret: Callable[[], bytes]) -> None:
        self.url = url + "paid"
        self.status = "204 No Content"
        self._heard = heard
        self._secret = secret

    def talk(self, connection: socket.socket) -> None:
        """Answer a request."""
        saying(b"", self.status)(connection)

    @property
    def tries(self) -> int:
        """How many requests came."""
        return len(self._heard)

    def events(self) -> list[dict[str, Any]]:
        """The events, each number once, in the order in which they came; their signatures are right."""
        found: dict[int, dict[str, Any]] = {}
        for request in list(self._heard):
            head, _, body = request.partition(b"\r\n\r\n")
            signed = re.search(rb"(?im)^x-picopayments-signature: sha256=([0-9a-f]{64})\r?$", head)
            assert signed
            assert signed[1].decode() == hmac.new(self._secret(), body, hashlib.sha256).hexdigest()
            assert re.search(rb"(?im)^content-type: application/json\r?$", head)
            event = json.loads(body)
            assert found.setdefault(event["number"], event) == event
        return list(found.values())

    def named(self, name: str) -> list[dict[str, Any]]:
        """The events of a name."""
        return [event for event in self.events() if event["event"] == name]

    def wait(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until so many events of a name have come."""
        wait_until(lambda: len(self.named(name)) >= count, f"{count} of {name} among {self.events()[-5:]}")
        return self.named(name)


@contextlib.contextmanager
def receiving(secret: Callable[[], bytes]) -> Iterator[Receiver]:
    """A receiver for the length of a ``with`` block."""
    made: list[Receiver] = []
    with talking(lambda connection: made[0].talk(connection)) as (url, heard):  # noqa: PLW0108
        made.append(Receiver(url, heard, secret))
        yield made[0]

"""How the hub signs what it answers, and what it refuses: a refusal may end a connection, so only a hub may say it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from picopayments_cli.channel import envelope
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.messages import HubRefusal
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.web import RawJson, Refused


class Sealing:
    """Signs with the hub's key."""

    def __init__(self, key: Key) -> None:
        self._key = key

    def reply(self, body: Mapping[str, Any]) -> RawJson:
        """A reply, signed."""
        return RawJson(json.dumps(envelope.seal(self._key, body)))

    def whole(self, method: Callable[[Mapping[str, Any]], RawJson]) -> Callable[..., RawJson | Refused]:
        """A method that takes all its params as one: what is signed is signed with its unknown members."""

        def called(params: Mapping[str, Any]) -> RawJson | Refused:
            try:
                return method(params)
            except PicopaymentsError as error:
                refusal = HubRefusal(envelope.digest(params), error.name, error.message, error.data)
                return Refused(envelope.seal(self._key, refusal.as_json()))

        called.takes_params = True  # type: ignore[attr-defined]
        return called

"""Check who signed a request of a method, and sign its answers, refusals too, as these may end a connection."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from picopayments_cli.channel import envelope
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.messages import HubRefusal
from picopayments_cli.channel.values import Pubkey
from picopayments_cli.errors import BadClientSignature, PicopaymentsError
from picopayments_cli.hub.discretion import for_strangers
from picopayments_cli.web import RawJson, Refused


class Sealing:
    """The envelopes of one method: its requests to this hub, and its answers, which the hub's key signs."""

    def __init__(self, key: Key, method: str) -> None:
        self._key = key
        self._asking, self._answering = envelope.asking(method, key.pubkey), envelope.answering(method, key.pubkey)

    def digest(self, body: Mapping[str, Any]) -> bytes:
        """The digest of a request."""
        return envelope.digest(body, self._asking)

    def signed(self, body: Mapping[str, Any], client: Pubkey) -> bytes:
        """Check that its client has signed a request to this hub, and return its digest. Raises BadClientSignature.

        Call it before a transaction: it takes long for a large body, and others would wait for the stranger who sent
        it.
        """
        digest = envelope.signed_by(body, client, self._asking)
        if digest is None:
            raise BadClientSignature("The request is not signed by the connection's key, for this method of this hub.")
        return digest

    def reply(self, body: Mapping[str, Any]) -> RawJson:
        """A reply, signed."""
        return RawJson(json.dumps(envelope.seal(self._key, body, self._answering)))

    def whole(self, method: Callable[[Mapping[str, Any]], RawJson]) -> Callable[..., RawJson | Refused]:
        """A method that takes all its params as one: what is signed is signed with its unknown members."""

        def called(params: Mapping[str, Any]) -> RawJson | Refused:
            try:
                return method(params)
            except PicopaymentsError as caught:
                return self._refusal(params, caught)

        called.takes_params = True  # type: ignore[attr-defined]
        return called

    def awaited(
        self, method: Callable[[Mapping[str, Any]], Awaitable[RawJson]]
    ) -> Callable[..., Awaitable[RawJson | Refused]]:
        """A method as ``whole`` makes one, that is awaited."""

        async def called(params: Mapping[str, Any]) -> RawJson | Refused:
            try:
                return await method(params)
            except PicopaymentsError as caught:
                return self._refusal(params, caught)

        called.takes_params = True  # type: ignore[attr-defined]
        return called

    def _refusal(self, params: Mapping[str, Any], caught: PicopaymentsError) -> Refused:
        error = for_strangers(caught)
        refusal = HubRefusal(self.digest(params), error.name, error.message, error.data)
        return Refused(envelope.seal(self._key, refusal.as_json(), self._answering))

"""Answers ``mph_state``: gives a client back what the hub keeps for it, and signs how many syncs there have been."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from picopayments_cli.channel import envelope
from picopayments_cli.channel.halves import Commit, sign_commit, sign_remainder
from picopayments_cli.channel.kept import MOST_ROWS, Count, StateReply, StateRequest
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.state import Held, Signed, known_anchor
from picopayments_cli.hub.account import Account
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.sealing import Sealing
from picopayments_cli.web import RawJson


def signed_count(key: Key, account: Account) -> Mapping[str, Any]:
    """How many syncs a connection has had until now, signed."""
    return envelope.seal(
        key, Count(account.handle, account.counter, int(time.time())).as_json(), envelope.counting(key.pubkey)
    )


class Kept:
    """``mph_state`` of one hub."""

    def __init__(self, hub: Hub, sealing: Sealing) -> None:
        self._hub = hub
        self._sealing = sealing

    def state(self, body: Mapping[str, Any]) -> RawJson:
        """Give the connection's client its newest request, the result of it, and the commits of both channels.

        A hub whose database is not the newest signs no count. Raises BadRequest, UnknownHandle, BadClientSignature.
        """
        request = StateRequest.parse(body)
        digest = self._sealing.signed(body, self._hub.book.client(request.handle))
        with self._hub.book.reading() as book:
            account = book.get(request.handle)
            received, sent = book.kept(request.handle, request.after or b"", MOST_ROWS)
            asked = book.last_request(request.handle) if request.after is None else None
        secrets = account.fixed.secrets(self._hub.key)
        answered = account.last_reply or account.deposit_reply
        reply = StateReply(
            digest,
            None if account.stale else signed_count(self._hub.key, account),
            None if asked is None else json.loads(asked),
            None if asked is None or answered is None else json.loads(answered),
            tuple(_as_signed(account, secrets, received)),
            tuple(_as_held(account, secrets, sent)),
        )
        return self._sealing.reply(reply.as_json())


def _as_signed(account: Account, secrets: Secrets, received: Iterable[tuple[Held, bool]]) -> Iterator[Signed]:
    """The client's commits as the client had them: with the remainders, and the secrets of those given back."""
    for item, is_back in received:
        side, made = account.channels.receiving, item.commit
        remainder = sign_remainder(side.contract, known_anchor(side), made, secrets.payee).signature
        yield Signed(made.quantity, made.revoke_hash, remainder, secrets.revoke(item.number) if is_back else None)


def _as_held(account: Account, secrets: Secrets, sent: Iterable[Signed]) -> Iterator[Commit]:
    """The commits to the client as they left, signed again."""
    for item in sent:
        side = account.channels.sending
        yield sign_commit(side.contract, known_anchor(side), item.quantity, item.revoke_hash, secrets.payer)

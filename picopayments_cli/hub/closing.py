"""``mph_close``: the connection is stopped, what the client shows is applied, then the hub answers and signs.

The row that stops the connection is written before, so that every sync is before it or refused; so is the mark outside
the database, before any signature of the hub's on a close leaves.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from picopayments_cli.chain import REQUIRE_MEMO, Query
from picopayments_cli.channel.close import Outcome, answer
from picopayments_cli.channel.messages import CloseReply, CloseRequest
from picopayments_cli.channel.standing import Standing, doubts, learned, proofs, standing
from picopayments_cli.channel.state import MOST_REVOKED
from picopayments_cli.channel.values import Handle
from picopayments_cli.errors import ConnectionNotOpen, PicopaymentsError
from picopayments_cli.hub.account import Account
from picopayments_cli.hub.book import UnitOfWork
from picopayments_cli.hub.hub import Ask, Hub
from picopayments_cli.hub.logs import note
from picopayments_cli.hub.sealing import Sealing
from picopayments_cli.hub.stopping import give_up_noticed, stop
from picopayments_cli.web import RawJson

log = logging.getLogger(__name__)


class Closes:
    """``mph_close`` of one hub."""

    def __init__(self, hub: Hub, sealing: Sealing) -> None:
        self._hub = hub
        self._sealing = sealing

    def close(self, body: Mapping[str, Any]) -> RawJson:
        """Close a connection; the identical request is answered with the stored reply.

        Raises UnknownHandle, ConnectionNotOpen, BadClientSignature.
        """
        request = CloseRequest.parse(body)
        book = self._hub.book
        digest = self._sealing.signed(body, book.client(request.handle))
        home = self._is_home()
        stored = book.run("close", lambda work: self._stop(work, request.handle, digest))
        if stored is not None:
            return stored
        self._hub.marks.add(request.handle)
        reply, noticed = book.run("close answered", lambda work: self._answer(work, request, digest, home=home))
        if noticed:
            give_up_noticed(self._hub, request.handle)
        self._hub.ask(Ask.NOW, request.handle)
        self._hub.wake()
        return reply

    def _stop(self, work: UnitOfWork, handle: Handle, digest: bytes) -> RawJson | None:
        """Stop the connection; None, or the reply to the identical request."""
        work.lock_with_payers(handle)
        account = work.get(handle)
        if account.duplex is None:
            raise ConnectionNotOpen("The connection has no deposit yet: there is nothing to close.")
        if digest == account.close_digest and account.close_reply is not None:
            return RawJson(account.close_reply)
        stop(self._hub, work, account)
        return None

    def _is_home(self) -> bool:
        """Whether the hub's address takes sends without a memo, as far as a node tells: a close pays there."""
        address = self._hub.address
        try:
            return not self._hub.chain.view(Query(options=[address])).options[address] & REQUIRE_MEMO
        except PicopaymentsError:
            return False

    def _answer(self, work: UnitOfWork, request: CloseRequest, digest: bytes, *, home: bool) -> tuple[RawJson, bool]:
        """The reply, and whether it was the request that revealed the database to be old."""
        account = work.get(request.handle, MOST_REVOKED)
        secrets, said = account.fixed.secrets(self._hub.key), request.standing
        found = work.found(account.handle, said.revokes, said.doubts)
        duplex, changes = learned(account.channels, said, found, secrets)
        noticed = duplex.receiving.next_number > account.channels.receiving.next_number and not account.stale
        gained = max(duplex.net - account.channels.net, 0)  # by what no sync has booked: one that was refused, say
        account = replace(account, stale=account.stale or noticed, due=account.due + gained)
        shown = proofs(said.doubts, found.signed)
        own: Standing = standing(duplex, secrets, shown, doubts(duplex.receiving, said.commit))
        owed = None if account.stale else account.pending
        duplex, reply, outcome = answer(duplex, request, digest, own, secrets, owed=owed, home=home)
        for error in outcome.refused:
            note(log, "close not signed", account, error=error.as_json())
        self._keep(work, account, reply, outcome)
        text = self._sealing.reply(reply.as_json())
        work.put(replace(account, duplex=duplex, close_digest=digest, close_reply=text.text), changes)
        return text, noticed

    @staticmethod
    def _keep(work: UnitOfWork, account: Account, reply: CloseReply, outcome: Outcome) -> None:
        """Keep what the hub may publish: its own channel's close where it is whole, and what it has signed as payee."""
        if outcome.h2c is not None:
            closing = outcome.h2c.closing
            work.add_close(account.handle, closing.quantity, closing.signature, closing.rest_signature, payer=True)
        if reply.c2h_close is not None:
            whole = None if outcome.c2h is None else outcome.c2h.payer_signature
            work.add_close(account.handle, reply.c2h_close.quantity, whole, None, payer=False)

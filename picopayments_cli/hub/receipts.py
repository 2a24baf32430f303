"""Answers ``mph_receipts``: keeps the receipts that payees give, and hands them to those who have paid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from picopayments_cli.channel.payment_request import token_of
from picopayments_cli.channel.receipts import ReceiptsReply, ReceiptsRequest
from picopayments_cli.hub.book import UnitOfWork
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.sealing import Sealing
from picopayments_cli.web import RawJson


class Receipts:
    """``mph_receipts`` of one hub."""

    def __init__(self, hub: Hub, sealing: Sealing) -> None:
        self._hub = hub
        self._sealing = sealing

    def receipts(self, body: Mapping[str, Any]) -> RawJson:
        """Keep what is given for payments that the connection has received; tell what there is for those it has sent.

        A receipt that fits no payment is passed over. Raises BadRequest, UnknownHandle, BadClientSignature.
        """
        request = ReceiptsRequest.parse(body)
        digest = self._sealing.signed(body, self._hub.book.client(request.handle))
        if request.given:
            self._hub.book.run("receipts", lambda work: _keep(work, request))
        with self._hub.book.reading() as book:
            found = (book.receipt(request.handle, token) for token in request.tokens)
            return self._sealing.reply(
                ReceiptsReply(digest, tuple(item for item in found if item is not None)).as_json()
            )


def _keep(work: UnitOfWork, request: ReceiptsRequest) -> None:
    work.lock([request.handle])  # its syncs write the same rows
    for item in request.given:
        work.keep_receipt(item.payer, request.handle, token_of(item.receipt), item.receipt)

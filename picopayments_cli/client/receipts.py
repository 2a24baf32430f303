"""Judge payments by what was requested, and exchange receipts with the hub: those one owes, and those one waits for."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from picopayments_cli.channel.payment_request import PAID, Requested, receipt_of
from picopayments_cli.channel.receipts import MOST_RECEIPTS, Given, ReceiptsReply, ReceiptsRequest
from picopayments_cli.channel.values import Token
from picopayments_cli.channel.wire import NONCE_SIZE, Payment, Receipt, RefusedPayment
from picopayments_cli.client import history
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.history import Action
from picopayments_cli.client.session import Session
from picopayments_cli.errors import LocalFiles, PicopaymentsError

log = logging.getLogger(__name__)
MOST_DUE = 1000  # receipts that a connection waits for


def judged(connection: Connection, arrived: Iterable[Receipt]) -> tuple[Sequence[str | None], tuple[Requested, ...]]:
    """Judge payments in their order: a verdict for each, None where nothing was requested; and the requests then.

    Only those of the very connection count: elsewhere another asset would pay.
    """
    known = {item.token: item for item in connection.requests}
    verdicts: list[str | None] = []
    for payment in arrived:
        asked = known.get(payment.token)
        verdicts.append(None if asked is None else asked.judge(payment.amount, payment.time))
        if asked is not None and verdicts[-1] == PAID:
            known[payment.token] = replace(asked, payer=payment.payer)
    return verdicts, tuple(known.values())


def due_after(connection: Connection, sent: Iterable[Payment], refused: Iterable[RefusedPayment]) -> tuple[Token, ...]:
    """List the tokens whose receipts a connection waits for, once a sync has taken payments of requests."""
    back = {item.token for item in refused}
    new = (item.token for item in sent if item.expires is not None and item.token not in back)
    return tuple(dict.fromkeys((*connection.receipts_due, *new)))[-MOST_DUE:]


def trade(session: Session, connection: Connection) -> Connection:
    """Give the hub the receipts of what was paid, which is on disk, and fetch those that there are by now.

    For nothing. Where the hub does not answer it is done later.
    """
    owing, due = _owing(connection), connection.receipts_due
    for first in range(0, max(len(owing), len(due)), MOST_RECEIPTS):
        part = slice(first, first + MOST_RECEIPTS)
        try:
            connection = _trade(session, connection, owing[part], due[part])
        except LocalFiles:
            raise
        except PicopaymentsError as error:
            log.warning("receipts are exchanged with the hub later: %s", error.message)
            break
    return connection


def are_open(connection: Connection) -> bool:
    """Tell whether receipts are to be given to the hub, or to be fetched."""
    return bool(_owing(connection) or connection.receipts_due)


def _owing(connection: Connection) -> list[Requested]:
    return [item for item in connection.requests if item.payer is not None and not item.given]


def _trade(session: Session, connection: Connection, owing: Sequence[Requested], due: Sequence[Token]) -> Connection:
    key, handle = session.wallet.key, connection.handle
    given = [Given(item.payer, receipt_of(key, handle, item.salt)) for item in owing if item.payer is not None]
    request = ReceiptsRequest(os.urandom(NONCE_SIZE), handle, tuple(given), tuple(due))
    body = session.sealed("mph_receipts", request.as_json(), connection.hub_key)
    reply = session.call("mph_receipts", [body], connection.hub_key)
    found = ReceiptsReply.parse(reply.body).by_token
    came = [token for token in due if token in found]
    if not owing and not came:
        return connection
    done = {item.token for item in owing}
    traded = replace(
        connection,
        requests=tuple(replace(item, given=item.given or item.token in done) for item in connection.requests),
        receipts_due=tuple(token for token in connection.receipts_due if token not in came),
    )
    actions: list[Action] = [history.receipt(token, found[token]) for token in came]
    return session.save(traded, "receipts traded", *actions)

"""Pay: see that a payment can be made, queue it, have a sync take it, and tell what became of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from picopayments_cli.channel.payment_request import PREFIX
from picopayments_cli.channel.stages import CLOSED, CLOSING
from picopayments_cli.channel.status import StatusReply, StatusRequest
from picopayments_cli.channel.values import Handle, Token, check_token
from picopayments_cli.channel.wire import Payment
from picopayments_cli.client import hubs, life, reports, requesting, tokens
from picopayments_cli.client.arguments import own_handle, payee_handle, quantity_of
from picopayments_cli.client.closing import Outcome
from picopayments_cli.client.connection import Connection, Pending
from picopayments_cli.client.consent import check_consent
from picopayments_cli.client.history import told
from picopayments_cli.client.payments import REFUSED, SENT, Entry
from picopayments_cli.client.payments_shown import with_receipts
from picopayments_cli.client.session import Session
from picopayments_cli.errors import (
    AssetMismatch,
    LocalFiles,
    PaymentNotSent,
    PaymentRefused,
    PaymentToSelf,
    PicopaymentsError,
    StaleRequest,
    UnknownHandle,
    Unreachable,
    UsageError,
)

log = logging.getLogger(__name__)
TOKEN_SIZE = 32
_ADVICE = {  # by the cause that the hub names
    "UnknownHandle": "It knows no such connection: see with the payee that the handle is right.",
    "ConnectionNotOpen": "The payee's connection is not open: wait, or ask the payee for another one.",
    "AssetMismatch": "The payee's connection is in another asset.",
    "PaymentExceedsReceivable": "The payee can't take so much now: pay less, or once the payee has synced or paid.",
    "AmountExceedsSpendable": "Pay less, or receive a payment first.",
    "RequestExpired": "It came too late: ask the payee for another request.",
}


@dataclass(frozen=True)
class Order:
    """A payment that a user orders from a connection, and how far it has come: one of ``tokens``, None if it is new.

    ``live``: the wallet's connections, where the user named the token.
    """

    payer: Handle
    payment: Payment
    how_far: str | None = None
    live: Mapping[Handle, Connection] = field(default_factory=dict)


def order(session: Session, payer: Handle, payee: Handle, quantity: int | str, token: str | None) -> Order:
    """Read what a user orders, with a token drawn where none is given. With one, the whole history is read for it.

    Raises InvalidHex, InvalidQuantity, UnknownHandle, TokenInUse.
    """
    if token is None:  # one that is drawn is new: nothing needs to be read for it
        amount = quantity_of(session, quantity, session.connection(payer).asset)
        return Order(payer, Payment(payee, amount, Token(os.urandom(TOKEN_SIZE))))
    named, live = check_token(token), session.connections()
    known = {**session.archived(), **live}
    connection = known.get(payer) or session.connection(payer)
    payment = Payment(payee, quantity_of(session, quantity, connection.asset), named)
    return Order(payer, payment, tokens.earlier(session, payer, payment, known), live)


def named(session: Session, source: str, destination: str, quantity: int | str | None, token: str | None) -> Order:
    """Read what a user orders in words: a handle, a quantity and a token, or a payment request, which names them.

    Raises UsageError, and what ``order`` and ``order_requested`` raise.
    """
    requested = requesting.is_request(destination)
    if requested and (quantity is not None or token is not None):
        also = "QUANTITY" if quantity is not None else "--token"
        raise UsageError(
            f"A payment request names quantity and token itself: leave {also} out. `picopayments-cli decode REQUEST` "
            "shows what it asks for."
        )
    if not requested and quantity is None:
        raise UsageError(
            f"The DESTINATION {destination[:20]!r} is no payment request. To pay a handle, name a QUANTITY, too. A "
            f"payment request begins with {PREFIX}: copy all of it."
        )
    payer = own_handle(session, source)
    if quantity is None:
        return order_requested(session, payer, destination)
    return order(session, payer, payee_handle(destination), quantity, token)


def order_requested(session: Session, payer: Handle, text: str) -> Order:
    """Read what a payment request orders.

    Raises UnknownHandle, InvalidRequest, WrongNetwork, WrongHub, AssetMismatch, TokenInUse, RequestExpired.
    """
    live = session.connections()
    known = {**session.archived(), **live}
    connection = known.get(payer) or session.connection(payer)
    payment, memo = requesting.payment_of(session, connection, text)
    about = f", for {memo!r}" if memo else ""
    asked = connection.longname or connection.asset
    log.info("The request asks for %d satoshis of %s%s.", payment.amount, asked, about)
    how_far = tokens.earlier(session, payer, payment, known)
    if how_far is None:
        requesting.check_time(payment)
    return Order(payer, payment, how_far, live)


def queue(session: Session, ordered: Order, *, yes: bool, at_once: bool = False) -> None:
    """Queue a payment that is new. ``yes``: do not ask; ``at_once``: the hub must be there, as it is to be paid now.

    Raises PaymentToSelf, ConnectionNotOpen, NotTransferable, UnknownHandle, AssetMismatch, NotConfirmed, Unreachable.
    """
    payment, connection = ordered.payment, session.connection(ordered.payer)
    life.check_queue(connection, payment)
    _check_payee(session, connection, payment, at_once=at_once)
    check_consent(session, "pay", payment.amount, connection.longname or connection.asset, yes=yes)
    life.queue(session, connection, payment)
    for other in ordered.live.values():
        if other.handle != ordered.payer:  # it is closing, and would show the payment as queued for ever
            life.unqueue(session, other, payment.token)


def _check_payee(session: Session, connection: Connection, payment: Payment, *, at_once: bool) -> None:
    """Refuse a payee whom the hub could not pay. Where it does not tell, the next sync does.

    Raises PaymentToSelf, UnknownHandle, AssetMismatch, and Unreachable if the hub is to pay at once.
    """
    payee = payment.payee
    if payee is None:
        return
    if payee == connection.handle:
        raise PaymentToSelf(
            "The payment would go to the connection that it comes from. Name the payee's connection.",
            handle=connection.handle.hex(),
        )
    at, *_ = hubs.ways_to(session, connection)
    try:
        answer = at.rpc.call("mph_status", StatusRequest((), (payee,)).as_json(), retry=False)
        shown = StatusReply.parse(answer).connections.get(payee)
    except PicopaymentsError as error:
        if isinstance(error, LocalFiles):
            raise
        if isinstance(error, Unreachable) and at_once:
            error.message += " Nothing was paid or queued."
            raise
        log.info(
            "The hub does not answer now (%s): only the next `picopayments-cli sync` tells whether it knows the payee. "
            "The payment is queued all the same. Run again without --token %s the command would queue another one.",
            error.name,
            payment.token.hex(),
        )
        return
    if shown is None:
        raise UnknownHandle(
            f"The hub has no open connection {payee.hex()}: nothing was queued. See with the payee that the handle is "
            "right, and that the connection is with this hub.",
            handle=payee.hex(),
        )
    if shown.asset != connection.asset:
        raise AssetMismatch(
            f"The payee is connected in {shown.longname or shown.asset}, not in "
            f"{connection.longname or connection.asset}: nothing was queued.",
            asset=connection.asset,
            payee=shown.asset,
        )


def pay(session: Session, ordered: Order, *, yes: bool) -> dict[str, Any]:
    """Queue a payment, unless it is on its way already, and sync its connection until the hub has taken it.

    The payment as ``payments`` shows it. Raises PaymentRefused; what stands in the way of a sync, or PaymentNotSent,
    which tell how the payment stands; and as ``queue``.
    """
    since = session.store.payments.last
    if ordered.how_far == tokens.SENT:
        log.info("A payment with this token was sent before: nothing was paid now. That earlier payment is shown.")
        return _told(session, _newest(session, ordered, 0) or _sent_long_ago(ordered))
    if ordered.how_far is None:
        queue(session, ordered, yes=yes, at_once=True)
    try:
        entry = _sync(session, ordered, since)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(session, ordered)) from None
    except PicopaymentsError as error:
        found = _newest(session, ordered, since)
        if found is None:
            raise _telling_how_it_stands(session, ordered, error) from None
        log.warning("%s", error.message)
        entry = found
    if entry["state"] == REFUSED:
        raise _refused(entry)
    return _told(session, entry)


def _sync(session: Session, ordered: Order, since: int) -> Entry:
    """Sync until the hub has taken or refused the payment; the entry that says so.

    ``since``: the newest index before. Raises PaymentNotSent where a sync leaves it, and what a sync fails with.
    """
    connection = session.connection(ordered.payer)
    while True:
        (group,) = hubs.seen(session, [connection])
        life.sync(group.session, connection, group.look(), Outcome())
        entry = _newest(session, ordered, 0 if ordered.how_far == tokens.REFUSED else since)
        if entry is not None:
            return entry
        after = session.connection(ordered.payer)
        if len(after.queue) >= len(connection.queue):
            raise PaymentNotSent(
                "The sync did not take the payment: the connection is not open (`picopayments-cli status` shows it), "
                "or can't move so much now.",
                handle=ordered.payer.hex(),
            )
        connection = after


def _newest(session: Session, ordered: Order, since: int) -> Entry | None:
    """Find what became of a payment after an index; None if nothing did."""
    handle, token = ordered.payer.hex(), ordered.payment.token.hex()
    for entry in session.store.payments.newest(about=f'"{token}"'):
        if entry["index"] <= since:
            return None
        if (entry["handle"], entry["token"]) == (handle, token) and entry["state"] in (SENT, REFUSED):
            return entry
    return None


def _told(session: Session, entry: Entry) -> dict[str, Any]:
    """Report the payment, and name how many others wait for a ``sync`` to report them."""
    reports.report(session, [entry] if entry["index"] is not None else [])
    store = session.store
    others = set(store.notes.reported().waiting(store.payments.last)) - {entry["index"]}
    if others:
        log.info("%d more payments were sent, received or refused: `picopayments-cli sync` reports them.", len(others))
    return with_receipts(session, [entry])[0]


def _sent_long_ago(ordered: Order) -> Entry:
    """Describe a payment that has no index: version 1.0.4 sent it."""
    members = {"index": None, "state": SENT, "handle": ordered.payer.hex()}
    return {**members, **told(ordered.payment)}


def _refused(entry: Entry) -> PaymentRefused:
    advice = _ADVICE.get(entry["cause"], "`picopayments-cli status --verbose` shows the connection.")
    return PaymentRefused(
        f"The hub did not take the payment of {entry['amount']} to {entry['payee_handle']} ({entry['cause']}). "
        f"Its amount stays with you, or comes back. {advice}",
        **{name: entry[name] for name in ("token", "handle", "payee_handle", "amount", "cause", "index")},
    )


def _how_to_go_on(session: Session, ordered: Order) -> str:
    """Tell whoever interrupted a payment whether it may have left, and which command goes on with it."""
    token = ordered.payment.token
    connection = session.connections().get(ordered.payer)
    if connection is not None and any(item.token == token for item in connection.queue):
        stands = (
            f"The payment is queued and has not left: `picopayments-cli cancelpayment {token.hex()}` takes it back, "
            "the next `picopayments-cli sync` makes it."
        )
    else:
        stands = "The payment may have left: the next `picopayments-cli sync` brings the answer."
    return f"Interrupted. {stands} Run again with --token {token.hex()} the command pays it once."


def _telling_how_it_stands(session: Session, ordered: Order, error: PicopaymentsError) -> PicopaymentsError:
    """Add to an error whether the payment may have left; take it out of the queue if this command put it there."""
    token = ordered.payment.token
    error.data = {**error.data, "token": token.hex()}
    with suppress(LocalFiles):
        connection = session.connection(ordered.payer)
        pending = connection.pending
        if pending is not None and any(item.token == token for item in pending.payments):
            error.message += _unanswered(connection, pending, error)
        elif ordered.how_far is not None:
            error.message += " The payment stays queued."
        elif life.unqueue(session, connection, token):
            error.message += " Nothing was paid, and the payment is not queued any more."
    return error


def _unanswered(connection: Connection, pending: Pending, error: PicopaymentsError) -> str:
    """Tell how a payment stands whose sync has no result."""
    over = isinstance(error, StaleRequest) or connection.stage in (CLOSING, CLOSED)
    if over and pending.cause is not None:
        return " The payment was not made: it is listed as refused once the connection is closed."
    if isinstance(error, StaleRequest):
        return " Whether the payment was made, only the newest copy tells."
    return (
        " The payment is in a sync that left, or may have, and has no answer yet. Run the command again with --token "
        f"{error.data['token']}: it pays once."
    )

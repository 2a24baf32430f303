"""See that a token pays once, from whichever connection of the wallet it was queued on.

A queued payment may be cancelled, and one that was refused and came back is no more in a sync: their token is free. A
payment that has left the machine holds its token for good, answered or not; so does one that is said to be refused and
does not come back, as the payee may have got it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from picopayments_cli.channel.stages import AGREED, PROPOSED
from picopayments_cli.channel.values import Handle
from picopayments_cli.channel.wire import Payment
from picopayments_cli.client import legacy
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.history import Event, told
from picopayments_cli.client.session import Session
from picopayments_cli.errors import TokenInUse

# How far a payment has come.
QUEUED = "queued already: the next sync makes it"
UNANSWERED = "in a sync that was sent, or may have been, and has no answer yet: it is not queued again"
REFUSED = "refused, but its amount has not come back yet: it is not queued again before that"
SENT = "sent already: it is not queued again"


def earlier(session: Session, source: Handle, payment: Payment, connections: Mapping[Handle, Connection]) -> str | None:
    """Look through the whole history for how far a payment has come, as ``standing`` says.

    Raises TokenInUse; StoreDamaged and its kind, too, where not all connections can be read: one may hold the token.
    """
    session.check_all_usable()
    text = f'"{payment.token.hex()}"'
    events = [*legacy.read_payments(session.store.basedir, session.network), *session.store.history(about=text)]
    return standing(source, payment, connections.values(), events)


def standing(
    source: Handle, payment: Payment, connections: Iterable[Connection], events: Sequence[Event]
) -> str | None:
    """Tell how far a payment from ``source`` has come: one of the above; None if its token is free.

    ``connections``: all of the wallet, culled ones too; ``events``: of their histories, in any order. Raises TokenInUse
    where the token is another payment's: from another connection, to another payee or of another amount.
    """
    wanted = _named(source, payment)
    known = list(connections)
    other = None
    for how_far, found in _uses(known, events):
        if found["token"] != wanted["token"]:
            continue
        if all(found.get(name) == value for name, value in wanted.items()):
            return how_far
        other = other or found
    if other is None:
        _check_own_requests(payment, known)
        return None
    advice = "leave --token out for a new one" if payment.expires is None else "ask the payee for another request"
    raise TokenInUse(
        f"The token is that of a payment of {other.get('amount')} to {other.get('payee_handle') or 'the hub'} from the "
        f"connection {other['handle']}: {advice}.",
        token=wanted["token"],
        quantity=other.get("amount"),
        handle=other["handle"],
        payee_handle=other.get("payee_handle"),
    )


def _check_own_requests(payment: Payment, connections: Iterable[Connection]) -> None:
    """Refuse a token of one's own request for another payee: what came back of it would count as paid by that one."""
    for item in connections:
        if item.handle != payment.payee and payment.token in {request.token for request in item.requests}:
            raise TokenInUse(
                f"The token is that of a payment request of your own, for the connection {item.handle.hex()}: do not "
                "pay it, and ask the payee for another request.",
                token=payment.token.hex(),
                handle=item.handle.hex(),
            )


def _uses(connections: Iterable[Connection], events: Sequence[Event]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """List every payment that holds its token, and how far it has come, the furthest first."""
    known = list(connections)
    yield from ((SENT, event) for event in events if event["action"] == "sent" and "token" in event)
    for item in known:
        if item.pending is not None:
            yield from ((UNANSWERED, _named(item.handle, payment)) for payment in item.pending.payments)
    yield from ((UNANSWERED, event) for event in events if event["action"] == "queued")  # 1.0.4 may have sent it
    for item in known:
        if item.stage in (PROPOSED, AGREED):  # a connection that closes never sends its queue
            yield from ((QUEUED, _named(item.handle, payment)) for payment in item.queue)
    owing = {item.handle.hex() for item in known if item.owed}
    yield from ((REFUSED, event) for event in events if event["action"] == "refused" and event["handle"] in owing)


def _named(source: Handle, payment: Payment) -> dict[str, Any]:
    return {"handle": source.hex(), **told(payment)}

"""Describe the actions of a connection's life as events, in order. Amounts in satoshis, txids in hex.

An event has ``handle``, ``number`` (inside the connection, from 0), ``time`` (UTC) and ``action``; an action has the
last only, and what belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from picopayments_cli.channel.values import Handle, Token
from picopayments_cli.channel.wire import Payment, Receipt, RefusedPayment

Action = Mapping[str, Any]
Event = dict[str, Any]


def connected(asset: Mapping[str, str], quantity: int, txid: str, address: str) -> Action:
    """Describe that both sides agreed on a deposit, which is published from here on. ``address``: the wallet's."""
    return {"action": "connected", **asset, "quantity": quantity, "txid": txid, "address": address}


def synced(
    payments: Iterable[Payment], refusals: Iterable[RefusedPayment], fee: int, received: Iterable[Action]
) -> list[Action]:
    """Describe an answered sync: the payments it carried, its fee, and what it brought as ``received`` describes it."""
    causes = {refusal.token: refusal.cause for refusal in refusals}
    actions = [
        refused(payment, causes[payment.token]) if payment.token in causes else sent(payment) for payment in payments
    ]
    if fee:
        actions.append({"action": "fee", "sync_fee": fee})
    return [*actions, *received]


def locked(fee: int) -> Action:
    """Describe that the fee was paid for which the hub locks its deposit."""
    return {"action": "locked", "amount": fee}


def received(payment: Receipt, verdict: str | None, proof: bytes | None) -> Action:
    """Describe a payment received. ``verdict``: what it comes to, where it was requested; ``proof``: its receipt."""
    payer, token = payment.payer.hex(), payment.token.hex()
    action = {"action": "received", "payer_handle": payer, "amount": payment.amount, "token": token}
    action |= {} if verdict is None else {"request": verdict}
    return action if proof is None else {**action, "receipt": proof.hex()}


def receipt(token: Token, proof: bytes) -> Action:
    """Describe that the receipt of a payment that was made has come."""
    return {"action": "receipt", "token": token.hex(), "receipt": proof.hex()}


def sent(payment: Payment) -> Action:
    """Describe a payment that the hub has taken; ``expires`` is there where it pays a request."""
    expires = {} if payment.expires is None else {"expires": time_shown(payment.expires)}
    return {"action": "sent", **told(payment), **expires}


def time_shown(seconds: int) -> str:
    """Write a Unix time as text, in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")


def refused(payment: Payment, cause: str) -> Action:
    """Describe a payment that the hub refused; its amount stays, or comes back. ``cause``: the error's name."""
    return {"action": "refused", **told(payment), "cause": cause}


def told(payment: Payment) -> dict[str, Any]:
    """Describe a payment, as every event does that is about one."""
    payee = payment.payee.hex() if payment.payee else None
    return {"payee_handle": payee, "amount": payment.amount, "token": payment.token.hex()}


def closing() -> Action:
    """Describe that from here on the connection only closes."""
    return {"action": "closing"}


def closed() -> Action:
    """Describe that nothing of the connection is left, or that nothing was ever deposited."""
    return {"action": "closed"}


def published(kind: str, txid: str) -> Action:
    """Describe a transaction that was published: commit, close, payout, remainder, rest, revoke or expire."""
    return {"action": "published", "kind": kind, "txid": txid}


def events_of(handle: Handle, actions: Sequence[Action], first: int) -> list[Event]:
    """Make events of this moment from the actions of a connection, numbered from ``first``."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return [
        {"handle": handle.hex(), "number": number, "time": now, **action}
        for number, action in enumerate(actions, first)
    ]


def in_order(events: Iterable[Event]) -> list[Event]:
    """Sort the events of many connections, which bear their ``handle``: each once, oldest first.

    Inside a connection the numbers decide, whatever became of the machine's clock.
    """
    known = {(event["handle"], event["number"], event["time"]): event for event in events}
    latest: dict[str, str] = {}
    places = {}
    for key in sorted(known):
        handle, number, time = key
        latest[handle] = max(latest.get(handle, ""), time)
        places[key] = (latest[handle], handle, number)
    return [known[key] for key in sorted(known, key=lambda key: places[key])]

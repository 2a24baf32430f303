"""The actions of a connection's life, as events: what each tells, and their order. Amounts in satoshis, txids in hex.

An event has ``handle``, ``number`` (inside the connection, from 0), ``time`` (UTC) and ``action``; an action has the
last only, and what belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from picopayments_cli.channel.messages import Payment, Receipt, Refusal
from picopayments_cli.channel.values import Handle

Action = Mapping[str, Any]
Event = dict[str, Any]


def connected(asset: Mapping[str, str], quantity: int, txid: str) -> Action:
    """A deposit was agreed on by both sides, and is published from here on."""
    return {"action": "connected", **asset, "quantity": quantity, "txid": txid}


def synced(
    payments: Iterable[Payment], refusals: Iterable[Refusal], fee: int, received: Iterable[Receipt]
) -> list[Action]:
    """One answered sync: the payments it carried, its fee, what was received."""
    causes = {refusal.token: refusal.cause for refusal in refusals}
    actions = [
        refused(payment, causes[payment.token]) if payment.token in causes else {"action": "sent", **told(payment)}
        for payment in payments
    ]
    if fee:
        actions.append({"action": "fee", "sync_fee": fee})
    for receipt in received:
        payer, token = receipt.payer.hex(), receipt.token.hex()
        actions.append({"action": "received", "payer_handle": payer, "amount": receipt.amount, "token": token})
    return actions


def refused(payment: Payment, cause: str) -> Action:
    """A payment that the hub did not take; its amount stays, or comes back. ``cause``: the error's name."""
    return {"action": "refused", **told(payment), "cause": cause}


def told(payment: Payment) -> dict[str, Any]:
    """What an event tells of a payment."""
    payee = payment.payee.hex() if payment.payee else None
    return {"payee_handle": payee, "amount": payment.amount, "token": payment.token.hex()}


def closing() -> Action:
    """From here on the connection is only settled."""
    return {"action": "closing"}


def closed() -> Action:
    """Nothing of the connection is left, or nothing was ever deposited."""
    return {"action": "closed"}


def published(kind: str, txid: str) -> Action:
    """A transaction of the connection went out: commit, payout, change, revoke or expire."""
    return {"action": "published", "kind": kind, "txid": txid}


def events_of(handle: Handle, actions: Sequence[Action], first: int) -> list[Event]:
    """The actions of a connection as events of this moment, numbered from ``first``."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return [
        {"handle": handle.hex(), "number": number, "time": now, **action}
        for number, action in enumerate(actions, first)
    ]


def in_order(events: Iterable[Event]) -> list[Event]:
    """The events of many connections, which bear their ``handle``: each once, oldest first.

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

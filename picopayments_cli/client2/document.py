"""Write a connection as the JSON document that it is on disk, and read it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from picopayments_cli.channel.counterparty import asset_members
from picopayments_cli.channel.values import (
    HANDLE_SIZE,
    PUBKEY_SIZE,
    SECRET_SIZE,
    Handle,
    Hash,
    Pubkey,
    Quantity,
    Secret,
    check_quantity,
    check_token,
    from_hex,
)
from picopayments_cli.channel2.document import agreement_json, channel_of
from picopayments_cli.channel2.duplex import Duplex
from picopayments_cli.channel2.messages import Payment, SyncRequest
from picopayments_cli.channel2.state import Channel, Commit, Revoked
from picopayments_cli.channel2.terms import Terms
from picopayments_cli.client import kinds
from picopayments_cli.client2.connection import STAGES, Connection, Pending


def to_document(connection: Connection) -> dict[str, Any]:
    """Write a connection as a JSON document, without its handle."""
    duplex, pending = connection.duplex, connection.pending
    kept = connection.own_hashes
    return {
        "hub_url": connection.hub_url,
        "hub_key": connection.hub_key.hex(),
        **asset_members(connection.asset, connection.longname),
        "asset_id": str(duplex.sending.asset_id),
        "terms": connection.terms.as_json(),
        "salt": connection.salt.hex(),
        "stage": connection.stage,
        "c2h": _channel_json(duplex.sending),
        "h2c": _channel_json(duplex.receiving),
        "proposal": dict(connection.proposal),
        "deposit": connection.deposit_raw.hex(),
        "agreed_height": connection.agreed_height,
        "next_number": connection.next_number,
        "numbers": {item.hex(): number for item, number in connection.numbers.items() if item in kept},
        "queue": [_payment_json(payment) for payment in connection.queue],
        "pending": {
            "bodies": [dict(body) for body in pending.bodies],
            "payments": [_payment_json(payment) for payment in pending.payments],
        }
        if pending
        else None,
        "owed": connection.owed,
        "hub_secret": _hex(connection.hub_secret),
        "revealed": connection.revealed,
        "told": connection.told,
        "commit": _hex(connection.commit_raw),
        "final": connection.final,
        "publishing": connection.publishing,
        "published": list(connection.published),
    }


def from_document(handle: Handle, document: Mapping[str, Any]) -> Connection:
    """Read a connection. Raises KeyError, TypeError, ValueError, PicopaymentsError if the document is damaged."""
    terms = Terms.parse(document["terms"])
    asset_id = int(kinds.text(document["asset_id"]))
    pending, publishing = document["pending"], document["publishing"]
    if document["stage"] not in STAGES:
        raise ValueError("a connection is in no such stage")
    return Connection(
        handle=handle,
        hub_url=kinds.text(document["hub_url"]),
        hub_key=Pubkey(from_hex(document["hub_key"], "hub's key", PUBKEY_SIZE)),
        asset=kinds.text(document["asset"]),
        terms=terms,
        salt=bytes.fromhex(document["salt"]),
        duplex=Duplex(
            _channel(document["c2h"], asset_id, terms.fee_rate), _channel(document["h2c"], asset_id, terms.fee_rate)
        ),
        stage=document["stage"],
        proposal=kinds.members(document["proposal"]),
        deposit_raw=bytes.fromhex(document["deposit"]),
        agreed_height=kinds.whole(document["agreed_height"]),
        next_number=kinds.whole(document["next_number"]),
        numbers={
            Hash(bytes.fromhex(item)): kinds.whole(number)
            for item, number in kinds.members(document["numbers"]).items()
        },
        queue=_payments(document["queue"]),
        pending=None if pending is None else _pending(pending),
        owed=kinds.whole(document["owed"]),
        hub_secret=_secret(document["hub_secret"]),
        revealed=kinds.switch(document["revealed"]),
        told=kinds.switch(document["told"]),
        commit_raw=_bytes(document["commit"]),
        final=kinds.switch(document.get("final", False)),
        publishing=None if publishing is None else (kinds.text(publishing[0]), _txid(publishing[1])),
        published=tuple(_txid(item) for item in kinds.items(document["published"])),
        longname=None if document.get("asset_longname") is None else kinds.text(document["asset_longname"]),
    )


def _pending(body: Mapping[str, Any]) -> Pending:
    bodies = tuple(kinds.members(item) for item in kinds.items(body["bodies"]))
    for item in bodies:
        SyncRequest.parse(item)
    if not bodies:
        raise ValueError("a sync that waits for its answer has a body")
    return Pending(bodies, _payments(body["payments"]))


# A document may hold anything. What is of another kind is refused here, not where it is used. ---------------------


def _txid(value: Any) -> str:
    return from_hex(value, "txid", 32).hex()


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _secret(text: str | None) -> Secret | None:
    return None if text is None else Secret(from_hex(text, "secret", SECRET_SIZE))


def _payment_json(payment: Payment) -> dict[str, Any]:
    return {"payee": _hex(payment.payee), "amount": payment.amount, "token": payment.token.hex()}


def _payment(body: Mapping[str, Any]) -> Payment:
    payee = None if body["payee"] is None else Handle(from_hex(body["payee"], "payee", HANDLE_SIZE))
    return Payment(payee, check_quantity(body["amount"]), check_token(body["token"]))


def _payments(value: Any) -> tuple[Payment, ...]:
    return tuple(_payment(item) for item in kinds.items(value))


def _channel_json(channel: Channel) -> dict[str, Any]:
    return {
        **agreement_json(channel),
        "requested": [item.hex() for item in channel.requested],
        "active": [[item.quantity, item.revoke_hash.hex(), item.signature.hex()] for item in channel.active],
        "revoked": [[item.quantity, item.secret.hex()] for item in channel.revoked],
    }


def _channel(body: Mapping[str, Any], asset_id: int, fee_rate: int) -> Channel:
    return replace(
        channel_of(body, asset_id, fee_rate),
        requested=tuple(Hash(bytes.fromhex(item)) for item in kinds.items(body["requested"])),
        active=tuple(
            Commit(_quantity(quantity), Hash(bytes.fromhex(revoke_hash)), bytes.fromhex(signature))
            for quantity, revoke_hash, signature in kinds.items(body["active"])
        ),
        revoked=tuple(
            Revoked.by(_quantity(quantity), Secret(bytes.fromhex(secret)))
            for quantity, secret in kinds.items(body["revoked"])
        ),
    )


def _quantity(value: Any) -> Quantity:
    return Quantity(kinds.whole(value))

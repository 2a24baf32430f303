"""A connection as the client keeps it: one value, and the JSON document that it is on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.messages import Payment
from picopayments_cli.channel.scripts import DepositScript
from picopayments_cli.channel.state import Channel, Commit, Revoked
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.transactions import Anchor
from picopayments_cli.channel.values import Handle, Hash, Outpoint, Pubkey, Quantity, Secret, Token

# How far a connection has come: a handle asked for; the deposit agreed to by this side, by both; being settled; over.
ASKED, PROPOSED, AGREED, CLOSING, CLOSED = "asked", "proposed", "agreed", "closing", "closed"


@dataclass(frozen=True)
class Pending:
    """A sync that was sent, or is about to be, and has no answer yet.

    ``bodies``: its signed versions, newest last. They differ in the payments only: commit, revocations and hash are the
    same, because what left the machine counts.
    """

    bodies: tuple[Mapping[str, Any], ...] = field(repr=False)
    payments: tuple[Payment, ...]


@dataclass(frozen=True)
class Connection:
    """A connection: this party sends on c2h and receives on h2c.

    ``numbers``: of the own revoke hashes that are requested or active. ``proposal``: the signed mph_deposit.
    ``owed``: refused payments that have not come back yet. ``hub_secret``: the spend secret of c2h, that the hub gave
    at the close; ``revealed``: whether the own one has left; ``told``: whether the hub has answered the close.
    ``final``: closed, and too deep in the chain to be looked at again.
    ``publishing``: name and txid (hex) of the transaction that is about to leave; ``published``: txids of those that
    left. ``own_spend``: the own spend secret of a connection of the original client, which drew its secrets.
    """

    handle: Handle
    hub_url: str
    hub_key: Pubkey
    asset: str
    terms: Terms
    salt: bytes = field(repr=False)
    duplex: Duplex
    stage: str
    proposal: Mapping[str, Any]
    deposit_raw: bytes
    agreed_height: int = 0
    next_number: int = 0
    numbers: Mapping[Hash, int] = field(default_factory=dict)
    queue: tuple[Payment, ...] = ()
    pending: Pending | None = None
    owed: int = 0
    hub_secret: Secret | None = field(default=None, repr=False)
    revealed: bool = False
    told: bool = False
    commit_raw: bytes | None = None
    final: bool = False
    publishing: tuple[str, str] | None = None
    published: tuple[str, ...] = ()
    own_spend: Secret | None = field(default=None, repr=False)

    def spend_secret(self, key: Key) -> Secret:
        """This party's own spend secret."""
        return self.own_spend or self.secrets(key).spend

    def secrets(self, key: Key) -> Secrets:
        """This party's own secrets of the connection."""
        return Secrets(key, self.salt)


def to_document(connection: Connection) -> dict[str, Any]:
    """The JSON document of a connection, without its handle."""
    duplex, pending = connection.duplex, connection.pending
    kept = {*duplex.receiving.requested, *(commit.revoke_hash for commit in duplex.receiving.active)}
    return {
        "hub_url": connection.hub_url,
        "hub_key": connection.hub_key.hex(),
        "asset": connection.asset,
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
        "own_spend": _hex(connection.own_spend),
    }


def from_document(handle: Handle, document: Mapping[str, Any]) -> Connection:
    """The connection of a document. Raises KeyError, TypeError, ValueError, PicopaymentsError where it is damaged."""
    terms = Terms.parse(document["terms"])
    asset_id = int(document["asset_id"])
    pending = document["pending"]
    secret = _bytes(document["hub_secret"])
    own_spend = _bytes(document.get("own_spend"))
    return Connection(
        handle=handle,
        hub_url=document["hub_url"],
        hub_key=Pubkey(bytes.fromhex(document["hub_key"])),
        asset=document["asset"],
        terms=terms,
        salt=bytes.fromhex(document["salt"]),
        duplex=Duplex(
            _channel(document["c2h"], asset_id, terms.fee_rate), _channel(document["h2c"], asset_id, terms.fee_rate)
        ),
        stage=document["stage"],
        proposal=dict(document["proposal"]),
        deposit_raw=bytes.fromhex(document["deposit"]),
        agreed_height=document["agreed_height"],
        next_number=document["next_number"],
        numbers={Hash(bytes.fromhex(item)): number for item, number in document["numbers"].items()},
        queue=tuple(_payment(item) for item in document["queue"]),
        pending=Pending(tuple(map(dict, pending["bodies"])), tuple(_payment(item) for item in pending["payments"]))
        if pending
        else None,
        owed=document["owed"],
        hub_secret=Secret(secret) if secret else None,
        revealed=document["revealed"],
        told=document["told"],
        commit_raw=_bytes(document["commit"]),
        final=document.get("final", False) is True,
        publishing=None if document["publishing"] is None else (document["publishing"][0], document["publishing"][1]),
        published=tuple(document["published"]),
        own_spend=Secret(own_spend) if own_spend else None,
    )


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _payment_json(payment: Payment) -> dict[str, Any]:
    return {"payee": _hex(payment.payee), "amount": payment.amount, "token": payment.token.hex()}


def _payment(body: Mapping[str, Any]) -> Payment:
    payee = _bytes(body["payee"])
    return Payment(Handle(payee) if payee else None, Quantity(body["amount"]), Token(bytes.fromhex(body["token"])))


def _channel_json(channel: Channel) -> dict[str, Any]:
    anchor = channel.anchor
    return {
        "script": channel.script.redeem.hex(),
        "quantity": channel.quantity,
        "delay": channel.delay,
        "anchor": [str(anchor.outpoint), anchor.value] if anchor else None,
        "requested": [item.hex() for item in channel.requested],
        "active": [[item.quantity, item.revoke_hash.hex(), item.signature.hex()] for item in channel.active],
        "revoked": [[item.quantity, item.secret.hex()] for item in channel.revoked],
    }


def _channel(body: Mapping[str, Any], asset_id: int, fee_rate: int) -> Channel:
    anchor = body["anchor"]
    return Channel(
        asset_id,
        DepositScript.parse(bytes.fromhex(body["script"])),
        Quantity(body["quantity"]),
        body["delay"],
        fee_rate,
        Anchor(Outpoint.parse(anchor[0]), anchor[1]) if anchor else None,
        tuple(Hash(bytes.fromhex(item)) for item in body["requested"]),
        tuple(
            Commit(Quantity(quantity), Hash(bytes.fromhex(revoke_hash)), bytes.fromhex(signature))
            for quantity, revoke_hash, signature in body["active"]
        ),
        tuple(Revoked(Quantity(quantity), Secret(bytes.fromhex(secret))) for quantity, secret in body["revoked"]),
    )

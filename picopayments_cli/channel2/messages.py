"""Write and read what client and hub tell each other, and nobody else does: one class for each message of mph_*.

Hex becomes bytes here. The items of ``commit``, ``sends`` and ``receive`` are closed schemas; unknown members at the
top level are signed and passed over. A signed reply or refusal names its request by ``request_sha256``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from picopayments_cli.channel import envelope
from picopayments_cli.channel.values import (
    HANDLE_SIZE,
    HASH_SIZE,
    MAX_QUANTITY,
    Handle,
    Hash,
    Quantity,
    Secret,
    Token,
    check_quantity,
    check_token,
    from_hex,
)
from picopayments_cli.channel2.duplex import Half
from picopayments_cli.channel2.state import Offer
from picopayments_cli.errors import BadAnswer, BadReply, BadRequest, InvalidHex, InvalidQuantity, PicopaymentsError

PROTOCOL = 2  # of our own programs; the originals name none
_COMMIT = {"rawtx", "script"}
_SEND = {"payee_handle", "amount", "token"}
_RECEIPT = {"payer_handle", "amount", "token"}


class _Reader:
    """Takes members out of a body; what is missing or of another type is refused with the given class."""

    def __init__(self, body: Any, error: type[PicopaymentsError]) -> None:
        if not isinstance(body, Mapping):
            raise error("The message is not an object.")
        self.body = body
        self.error = error

    def member(self, name: str) -> Any:
        if name not in self.body:
            raise self.error(f"The message has no {name}.", member=name)
        return self.body[name]

    def hex(self, name: str, size: int | None = None) -> bytes:
        try:
            return from_hex(self.member(name), name, size)
        except InvalidHex as refused:
            raise self.error(refused.message, member=name) from refused

    def optional_hex(self, name: str, size: int | None = None) -> bytes | None:
        return None if self.member(name) is None else self.hex(name, size)

    def quantity(self, name: str) -> Quantity:
        try:
            return check_quantity(self.member(name), name)
        except InvalidQuantity as refused:
            raise self.error(refused.message, member=name) from refused

    def number(self, name: str) -> int:
        value = self.member(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(f"The message's {name} is not a whole number.", member=name)
        return value

    def items(self, name: str, members: set[str]) -> list[_Reader]:
        found = [_Reader(item, self.error) for item in self.list(name)]
        if any(set(item.body) != members for item in found):
            raise self.error(f"An item of {name} has other members than {', '.join(sorted(members))}.", member=name)
        return found

    def list(self, name: str) -> list[Any]:
        value = self.member(name)
        if not isinstance(value, list):
            raise self.error(f"The message's {name} is not a list.", member=name)
        return value

    def token(self) -> Token:
        try:
            return check_token(self.member("token"))
        except InvalidHex as refused:
            raise self.error(refused.message, member="token") from refused

    def object(self, name: str) -> _Reader:
        if not isinstance(self.member(name), Mapping):
            raise self.error(f"The message's {name} is not an object.", member=name)
        return _Reader(self.body[name], self.error)

    def text(self, name: str) -> str:
        if not isinstance(self.member(name), str):
            raise self.error(f"The message's {name} is not a text.", member=name)
        return str(self.body[name])

    def handle(self) -> Handle:
        """Read the member ``handle``. Raises InvalidHex."""
        return Handle(from_hex(self.body.get("handle"), "handle", HANDLE_SIZE))

    def standing(self) -> Half | None:
        """Tell how a deposit stands by a message of mph_close; None in the originals'."""
        return self.half() if "commit" in self.body else None

    def half(self) -> Half:
        """Return the members ``revokes`` and ``commit``."""
        revokes = []
        for item in self.list("revokes"):
            try:
                revokes.append(Secret(from_hex(item, "revoke secret")))
            except InvalidHex as refused:
                raise self.error(refused.message, member="revokes") from refused
        body = self.member("commit")
        if body is None:
            return Half(tuple(revokes))
        commit = _Reader(body, self.error)
        if set(commit.body) != _COMMIT:
            raise self.error("A commit has exactly the members rawtx and script.", member="commit")
        return Half(tuple(revokes), Offer(commit.hex("rawtx"), commit.hex("script")))


def _half_json(half: Half) -> dict[str, Any]:
    offer = half.offer
    return {
        "revokes": [secret.hex() for secret in half.revokes],
        "commit": {"rawtx": offer.raw.hex(), "script": offer.script.hex()} if offer else None,
    }


# Every reply --------------------------------------------------------------------------------------------------------


def answering(body: Mapping[str, Any], request: bytes) -> dict[str, Any]:
    """Add to a reply or refusal the digest of the request that it answers."""
    return {**body, "request_sha256": request.hex()}


def answers(body: Mapping[str, Any], request: Mapping[str, Any]) -> bool:
    """Tell whether a reply or refusal names this request."""
    return bool(body.get("request_sha256") == envelope.digest(request).hex())


def refuses(body: Mapping[str, Any], cause: str, request: Mapping[str, Any]) -> bool:
    """Tell whether a refusal is one of this request, for the cause of that name."""
    return body.get("type") == cause and answers(body, request)


# mph_status ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StatusRequest:
    """Asks for what the hub offers in one asset, or in all."""

    asset: str | None

    def as_json(self) -> dict[str, Any]:
        """Return the params."""
        return {"assets": None if self.asset is None else [self.asset]}


@dataclass(frozen=True)
class StatusReply:
    """The hub's address and a text signed with its key, and by asset what it holds, its terms and its long name.

    ``connections``: the JSON object that shows each, by handle in hex.
    """

    address: str
    message: str
    signature: str
    liquidity: Mapping[str, int]
    terms: Mapping[str, Any]
    longnames: Mapping[str, Any]
    connections: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return the result, unsigned."""
        return {
            "funds": {
                "address": self.address,
                "message": self.message,
                "signature": self.signature,
                "liquidity": dict(self.liquidity),
            },
            "current_terms": dict(self.terms),
            "longnames": dict(self.longnames),
            "connections": dict(self.connections),
        }

    @staticmethod
    def parse(body: Any) -> StatusReply:
        """Read a status from a body.

        Raises BadAnswer, also where it is not told how much the hub holds of BTC or of an asset with terms.
        """
        reader = _Reader(body, BadAnswer)
        funds, terms = reader.object("funds"), reader.object("current_terms").body
        liquidity = funds.object("liquidity")
        for name in ("BTC", *terms):
            if not 0 <= liquidity.number(name) <= MAX_QUANTITY:
                raise BadAnswer(f"The hub can't hold {liquidity.number(name)} of {name}.", member=name)
        longnames = {} if reader.body.get("longnames") is None else reader.object("longnames").body
        connections = reader.object("connections").body
        message, signature = str(funds.body.get("message")), str(funds.body.get("signature"))  # a client needs neither
        return StatusReply(funds.text("address"), message, signature, liquidity.body, terms, longnames, connections)


# mph_key ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeyRequest:
    """Asks the hub to sign a reply that can't be an old one. That has no members of its own."""

    nonce: bytes

    def as_json(self) -> dict[str, Any]:
        """Return the body, unsigned."""
        return {"nonce": self.nonce.hex()}


# mph_request --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConnectRequest:
    """Asks for a connection: the asset's name, and the hash of the client's spend secret (for the hub's deposit)."""

    asset: str
    spend_hash: Hash

    def as_json(self) -> dict[str, Any]:
        """Return the body, unsigned."""
        return {"asset": self.asset, "spend_secret_hash": self.spend_hash.hex(), "url": None, "protocol": PROTOCOL}

    @staticmethod
    def parse(body: Any) -> ConnectRequest:
        """Read a request for a connection from a body. Raises BadRequest."""
        reader = _Reader(body, BadRequest)
        asset = reader.member("asset")
        if not isinstance(asset, str) or not 0 < len(asset) <= 250:
            raise BadRequest("The asset is not named by a text.", member="asset")
        return ConnectRequest(asset, Hash(reader.hex("spend_secret_hash", HASH_SIZE)))


@dataclass(frozen=True)
class ConnectReply:
    """The handle, the hash of the hub's spend secret (for the client's deposit), and the terms' JSON object."""

    handle: Handle
    spend_hash: Hash
    terms: Any

    def as_json(self) -> dict[str, Any]:
        """Return the body, unsigned."""
        return {
            "handle": self.handle.hex(),
            "spend_secret_hash": self.spend_hash.hex(),
            "channel_terms": self.terms,
        }

    @staticmethod
    def parse(body: Any) -> ConnectReply:
        """Read the answer to a request from a body. Raises BadReply."""
        reader = _Reader(body, BadReply)
        return ConnectReply(
            Handle(reader.hex("handle", HANDLE_SIZE)),
            Hash(reader.hex("spend_secret_hash", HASH_SIZE)),
            reader.member("channel_terms"),
        )


# mph_deposit --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DepositMessage:
    """A deposit and the first hash for commits to its payer: the reply of mph_deposit, and most of its request.

    ``delay`` (blocks) of the commits on the named deposit; ``quantity`` that the deposit will hold.
    """

    script: bytes
    next_hash: Hash
    quantity: Quantity
    delay: int

    def as_json(self) -> dict[str, Any]:
        """Return the body, unsigned."""
        return {
            "deposit_script": self.script.hex(),
            "next_revoke_secret_hash": self.next_hash.hex(),
            "quantity": self.quantity,
            "delay_time": self.delay,
        }

    @staticmethod
    def parse(body: Any, error: type[PicopaymentsError]) -> DepositMessage:
        """Read a deposit from a body. Raises the given class."""
        reader = _Reader(body, error)
        return DepositMessage(
            reader.hex("deposit_script"),
            Hash(reader.hex("next_revoke_secret_hash", HASH_SIZE)),
            reader.quantity("quantity"),
            reader.number("delay_time"),
        )


@dataclass(frozen=True)
class DepositRequest:
    """The client's deposit, and the connection that it is for. A hub knows the asset by the handle."""

    deposit: DepositMessage
    asset: str
    handle: Handle

    def as_json(self) -> dict[str, Any]:
        """Return the body, unsigned."""
        return {**self.deposit.as_json(), "asset": self.asset, "handle": self.handle.hex()}

    @staticmethod
    def parse(body: Any) -> DepositRequest:
        """Read a proposal of a deposit from a body. Raises BadRequest, InvalidHex."""
        deposit = DepositMessage.parse(body, BadRequest)
        return DepositRequest(deposit, str(body.get("asset", "")), _Reader(body, BadRequest).handle())


# mph_sync -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Payment:
    """A payment on its way; payee None: the hub itself."""

    payee: Handle | None
    amount: Quantity
    token: Token


@dataclass(frozen=True)
class Receipt:
    """A payment received."""

    payer: Handle
    amount: Quantity
    token: Token


@dataclass(frozen=True)
class Refusal:
    """A payment that the hub gave back: its token, and the name of the cause."""

    token: Token
    cause: str


@dataclass(frozen=True)
class SyncRequest:
    """The client's half of a sync, its payments, and a fresh hash for a later commit to it.

    ``partial``: a payment that the hub refuses does not refuse the others; an original client does not ask for that.
    """

    handle: Handle
    half: Half
    payments: tuple[Payment, ...]
    next_hash: Hash
    partial: bool = True

    def as_json(self) -> dict[str, Any]:
        """Return the body, unsigned."""
        sends = [
            {
                "payee_handle": payment.payee.hex() if payment.payee else None,
                "amount": payment.amount,
                "token": payment.token.hex(),
            }
            for payment in self.payments
        ]
        return {
            "handle": self.handle.hex(),
            "next_revoke_secret_hash": self.next_hash.hex(),
            "sends": sends,
            "partial": self.partial,
            **_half_json(self.half),
        }

    @staticmethod
    def parse(body: Any) -> SyncRequest:
        """Read a sync from a body. Raises BadRequest."""
        reader = _Reader(body, BadRequest)
        payments = []
        for item in reader.items("sends", _SEND):
            payee = item.optional_hex("payee_handle", HANDLE_SIZE)
            payments.append(Payment(Handle(payee) if payee else None, item.quantity("amount"), item.token()))
        return SyncRequest(
            Handle(reader.hex("handle", HANDLE_SIZE)),
            reader.half(),
            tuple(payments),
            Hash(reader.hex("next_revoke_secret_hash", HASH_SIZE)),
            reader.body.get("partial") is True,
        )

    @staticmethod
    def without_payments(body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body with nothing but its payments left out, to be signed anew."""
        return {**body, "sends": []}


@dataclass(frozen=True)
class SyncReply:
    """The hub's half of a sync, the payments that it settles, those it refused, and its next hash."""

    half: Half
    receipts: tuple[Receipt, ...]
    next_hash: Hash
    refused: tuple[Refusal, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Return the body, unsigned."""
        receive = [
            {"payer_handle": receipt.payer.hex(), "amount": receipt.amount, "token": receipt.token.hex()}
            for receipt in self.receipts
        ]
        return {
            "receive": receive,
            "next_revoke_secret_hash": self.next_hash.hex(),
            "refused": [{"token": refusal.token.hex(), "name": refusal.cause} for refusal in self.refused],
            **_half_json(self.half),
        }

    @staticmethod
    def parse(body: Any) -> SyncReply:
        """Read the answer to a sync from a body. Raises BadReply."""
        reader = _Reader(body, BadReply)
        receipts = tuple(
            Receipt(Handle(item.hex("payer_handle", HANDLE_SIZE)), item.quantity("amount"), item.token())
            for item in reader.items("receive", _RECEIPT)
        )
        refused = []
        for item in reader.items("refused", {"token", "name"}) if "refused" in reader.body else []:
            name = item.member("name")
            if not isinstance(name, str) or not name.isidentifier() or len(name) > 64:
                raise BadReply("A refused payment has no name of its cause.", member="refused")
            refused.append(Refusal(item.token(), name))
        next_hash = Hash(reader.hex("next_revoke_secret_hash", HASH_SIZE))
        return SyncReply(reader.half(), receipts, next_hash, tuple(refused))


# mph_close ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CloseRequest:
    """Closes a connection, with the client's spend secret where nothing received is left to pay out.

    ``standing``: how the client's deposit stands, as ``duplex.standing`` has it; an original client says none.
    """

    handle: Handle
    spend_secret: Secret | None
    standing: Half | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the body, unsigned."""
        return {"handle": self.handle.hex(), **_close_json(self.spend_secret, self.standing)}

    @staticmethod
    def parse(body: Any) -> CloseRequest:
        """Read a close from a body. Raises BadRequest, InvalidHex. The secret may be of any size."""
        reader = _Reader(body, BadRequest)
        given, standing = reader.optional_hex("spend_secret"), reader.standing()
        return CloseRequest(reader.handle(), None if given is None else Secret(given), standing)


@dataclass(frozen=True)
class CloseReply:
    """The hub's spend secret where nothing received is left to pay out, and how the hub's deposit stands.

    ``standing``: an original hub says none. ``unreadable``: why a standing was not taken, which must not hold the
    secret back.
    """

    spend_secret: Secret | None
    standing: Half | None = None
    unreadable: PicopaymentsError | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the body, unsigned."""
        return _close_json(self.spend_secret, self.standing)

    @staticmethod
    def parse(body: Any) -> CloseReply:
        """Read the answer to a close from a body. Raises BadReply. The secret may be of any size."""
        reader = _Reader(body, BadReply)
        given = reader.optional_hex("spend_secret")
        secret = None if given is None else Secret(given)
        try:
            return CloseReply(secret, reader.standing())
        except BadReply as error:
            return CloseReply(secret, unreadable=error)


def _close_json(secret: Secret | None, standing: Half | None) -> dict[str, Any]:
    body = {"spend_secret": secret.hex() if secret else None}
    return body if standing is None else body | _half_json(standing)

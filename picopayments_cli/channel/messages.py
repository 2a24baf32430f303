"""What client and hub tell each other: the bodies of mph_request, mph_deposit, mph_sync and mph_close.

Hex becomes bytes here and nowhere else. The items of ``commit``, ``sends`` and ``receive`` are closed schemas; unknown
members at the top level are signed and passed over. Between programs of our own, requests carry ``protocol`` and
replies ``request_sha256``, the digest of the request that they answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from picopayments_cli.channel.duplex import Half
from picopayments_cli.channel.state import Offer
from picopayments_cli.channel.values import (
    HANDLE_SIZE,
    HASH_SIZE,
    MAX_TOKEN_SIZE,
    Handle,
    Hash,
    Quantity,
    Secret,
    Token,
    check_quantity,
    from_hex,
)
from picopayments_cli.errors import BadReply, BadRequest, InvalidHex, InvalidQuantity, PicopaymentsError

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
        token = self.hex("token")
        if len(token) > MAX_TOKEN_SIZE:
            raise self.error(f"A token has at most {MAX_TOKEN_SIZE} bytes.", member="token", size=len(token))
        return Token(token)

    def half(self) -> Half:
        """The members ``revokes`` and ``commit``."""
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


# mph_request --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConnectRequest:
    """Asks for a connection: the asset's name, and the hash of the client's spend secret (for the hub's deposit)."""

    asset: str
    spend_hash: Hash

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        return {"asset": self.asset, "spend_secret_hash": self.spend_hash.hex(), "url": None, "protocol": PROTOCOL}

    @staticmethod
    def parse(body: Any) -> ConnectRequest:
        """Raises BadRequest."""
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
        """The body, unsigned."""
        return {
            "handle": self.handle.hex(),
            "spend_secret_hash": self.spend_hash.hex(),
            "channel_terms": self.terms,
        }

    @staticmethod
    def parse(body: Any) -> ConnectReply:
        """Raises BadReply."""
        reader = _Reader(body, BadReply)
        return ConnectReply(
            Handle(reader.hex("handle", HANDLE_SIZE)),
            Hash(reader.hex("spend_secret_hash", HASH_SIZE)),
            reader.member("channel_terms"),
        )


# mph_deposit --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DepositMessage:
    """A deposit's script and what its payer will put there, and the first hash for commits to the sender.

    ``delay`` (blocks) of the commits on the named deposit; ``quantity`` that the deposit will hold.
    """

    script: bytes
    next_hash: Hash
    quantity: Quantity
    delay: int

    def as_json(self, asset: str | None = None, handle: Handle | None = None) -> dict[str, Any]:
        """The body, unsigned; a request names asset and handle too."""
        body = {
            "deposit_script": self.script.hex(),
            "next_revoke_secret_hash": self.next_hash.hex(),
            "quantity": self.quantity,
            "delay_time": self.delay,
        }
        return body if handle is None else {**body, "asset": asset, "handle": handle.hex()}

    @staticmethod
    def parse(body: Any, error: type[PicopaymentsError]) -> DepositMessage:
        """Raises the given class."""
        reader = _Reader(body, error)
        return DepositMessage(
            reader.hex("deposit_script"),
            Hash(reader.hex("next_revoke_secret_hash", HASH_SIZE)),
            reader.quantity("quantity"),
            reader.number("delay_time"),
        )


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
    """The client's half of a sync, its payments, and a fresh hash for a later commit to it."""

    handle: Handle
    half: Half
    payments: tuple[Payment, ...]
    next_hash: Hash

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned. ``partial``: a payment that the hub refuses does not refuse the others."""
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
            "partial": True,
            **_half_json(self.half),
        }

    @staticmethod
    def parse(body: Any) -> SyncRequest:
        """Raises BadRequest."""
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
        )


@dataclass(frozen=True)
class SyncReply:
    """The hub's half of a sync, the payments that it settles, those it refused, and its next hash."""

    half: Half
    receipts: tuple[Receipt, ...]
    next_hash: Hash
    refused: tuple[Refusal, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
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
        """Raises BadReply."""
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


def close_request(handle: Handle, spend_secret: Secret | None, standing: Half | None = None) -> dict[str, Any]:
    """The body of mph_close, unsigned: the spend secret where nothing received is left to pay out.

    ``standing``: how the client's deposit stands, as ``duplex.standing`` has it; the original client says none.
    """
    body = {"handle": handle.hex(), "spend_secret": spend_secret.hex() if spend_secret else None}
    return body if standing is None else body | _half_json(standing)


def close_reply(spend_secret: Secret | None, standing: Half) -> dict[str, Any]:
    """The result of mph_close, unsigned: the hub's spend secret where nothing received is left to pay out.

    ``standing``: how the hub's deposit stands.
    """
    return {"spend_secret": spend_secret.hex() if spend_secret else None, **_half_json(standing)}


def standing_in(body: Mapping[str, Any], error: type[PicopaymentsError]) -> Half | None:
    """How a deposit stands by a request or reply of mph_close; None in the originals'. Raises the given class."""
    return _Reader(body, error).half() if "commit" in body else None


def spend_secret_in(body: Any, error: type[PicopaymentsError]) -> bytes | None:
    """The spend secret in a request or reply of mph_close, or None. Raises the given class."""
    return _Reader(body, error).optional_hex("spend_secret")

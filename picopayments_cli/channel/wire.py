"""How values of protocol 3 stand in messages, read and written: hex, numbers, keys, and the items made of them.

Bytes are lower-case hex of exact sizes, outpoints ``<txid>:<number>``; items have exactly the members named here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

from picopayments_cli.channel.duplex import Half
from picopayments_cli.channel.halves import Closing, Commit, Remainder
from picopayments_cli.channel.keys import SCHNORR_SIZE, XONLY_SIZE, XOnly
from picopayments_cli.channel.opening import Party, Stake
from picopayments_cli.channel.rates import MAX_AGREED
from picopayments_cli.channel.scripts import LOCK_IS_TIME, is_wallet
from picopayments_cli.channel.standing import Standing
from picopayments_cli.channel.state import MOST_REVOKED
from picopayments_cli.channel.terms import MAX_RATIO, Terms
from picopayments_cli.channel.transactions import MAX_DELAY, MIN_DELAY
from picopayments_cli.channel.values import (
    HANDLE_SIZE,
    HASH_SIZE,
    MAX_QUANTITY,
    MAX_TOKEN_SIZE,
    SECRET_SIZE,
    Handle,
    Hash,
    Outpoint,
    Quantity,
    Secret,
    Token,
    from_hex,
)
from picopayments_cli.errors import AnchorsDiffer, BadChannelKey, BadRequest, BadTerms, InvalidHex, PicopaymentsError

PROTOCOL = 3
MAX_CAUSE_SIZE = 64
MOST_UNKNOWN = 4096  # characters of JSON: the envelope of a request, and the members that this version does not know
MAX_ASSET_SIZE = 250
DIGEST_SIZE = 32
NONCE_SIZE = 32  # bytes, drawn for each request that asks for something
MAX_HEIGHT = LOCK_IS_TIME - 1
MAX_TIME = 253_402_300_799  # Unix time: the end of the year 9999
LONG_SIZE = SCHNORR_SIZE + 1  # of a signature with its hash type
_COMMIT = {"quantity", "revoke_hash", "signature", "payout_signature"}
_REMAINDER = {"quantity", "revoke_hash", "signature"}
_CLOSE = {"signature", "rest_signature"}
_PARTY = {"payer_key", "payee_key", "wallet_script"}
_STAKE = {"quantity", "delay_time", "fee_rate"}
_TERMS = (
    "deposit_max", "deposit_min", "deposit_ratio", "expire_max", "expire_min", "fee_rate", "fee_rate_max", "lock_base",
    "lock_rate", "sync_fee",
)  # fmt: skip
_FREE = {"lock_base": 0, "lock_rate": 0}  # in a file that knows of no such fee

T = TypeVar("T")


@dataclass(frozen=True)
class Anchors:
    """The outputs that the commits of c2h and of h2c spend; None where no deposit counts."""

    c2h: Outpoint | None
    h2c: Outpoint | None

    def as_json(self) -> dict[str, Any]:
        """The members ``c2h_anchor`` and ``h2c_anchor``."""
        return {f"{name}_anchor": found and str(found) for name, found in (("c2h", self.c2h), ("h2c", self.h2c))}

    def check(self, named: Anchors) -> None:
        """Refuse a sync of a peer that names other anchors than these, one's own. Raises AnchorsDiffer."""
        if named != self:
            raise AnchorsDiffer(
                "The peer's commits would spend other outputs than the deposits that count here. Nothing was taken. "
                "See that both nodes are at the chain's tip, or close the connection.",
                **named.as_json(),
            )


@dataclass(frozen=True)
class Figures:
    """The quantities that the two channels are to be closed at; 0 where no deposit counts."""

    c2h: int
    h2c: int


@dataclass(frozen=True)
class Payment:
    """A payment on its way; payee None: the hub itself.

    ``expires``: of one that pays a request, until when the hub may take it, by its clock (Unix time).
    """

    payee: Handle | None
    amount: Quantity
    token: Token
    expires: int | None = None


@dataclass(frozen=True)
class Receipt:
    """A payment received. ``time``: when the hub took it, by its clock (Unix time)."""

    payer: Handle
    amount: Quantity
    token: Token
    time: int


@dataclass(frozen=True)
class RefusedPayment:
    """A payment that the hub gave back: its token, and the name of the cause."""

    token: Token
    cause: str


class Reader:
    """Takes members out of a body; what is missing or of another type is refused with the given class."""

    def __init__(self, body: Any, error: type[PicopaymentsError], members: set[str] | None = None) -> None:
        if not isinstance(body, Mapping):
            raise error("The message, or an item of it, is not an object.")
        if members is not None and set(body) != members:
            raise error(f"An item has other members than {', '.join(sorted(members))}.", members=sorted(map(str, body)))
        self.body = body
        self.error = error
        self._read: set[str] = set()

    def refused(self, name: str, why: str) -> PicopaymentsError:
        """The error for a member that is not as it must be."""
        return self.error(f"The message's {name} {why}.", member=name)

    def member(self, name: str) -> Any:
        """A member, whatever it is."""
        if name not in self.body:
            raise self.error(f"The message has no {name}.", member=name)
        self._read.add(name)
        return self.body[name]

    def check_unknown(self) -> None:
        """Refuse large members that nobody has read: they are signed, so they cost work, and would be kept."""
        size = len(json.dumps({name: value for name, value in self.body.items() if name not in self._read}))
        if size > MOST_UNKNOWN:
            raise self.error(
                f"The message's unknown members have {size} characters, of at most {MOST_UNKNOWN}.",
                size=size,
                most=MOST_UNKNOWN,
            )

    def optional(self, name: str, read: Callable[[str], T]) -> T | None:
        """A member read by one of these methods, or None where it is null."""
        return None if self.member(name) is None else read(name)

    def hex(self, name: str, size: int | None = None) -> bytes:
        """Bytes, of exactly that size where one is given."""
        return self.raw(self.member(name), name, size)

    def raw(self, value: Any, name: str, size: int | None) -> bytes:
        """The bytes of hex that stands somewhere in a member."""
        try:
            return from_hex(value, name, size)
        except InvalidHex as refused:
            raise self.error(refused.message, member=name) from refused

    def blob(self, name: str, most: int) -> bytes:
        """Bytes, at most so many."""
        data = self.hex(name)
        if len(data) > most:
            raise self.refused(name, f"has more than {most} bytes")
        return data

    def hexes(self, name: str, size: int, most: int) -> list[bytes]:
        """A list of bytes of one size."""
        return [self.raw(item, name, size) for item in self.array(name, most)]

    def number(self, name: str, least: int, most: int) -> int:
        """A whole number from ``least`` to ``most``."""
        value = self.member(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.refused(name, f"is not a whole number from {least} to {most}")
        return value

    def quantity(self, name: str) -> Quantity:
        """A quantity of an asset that is not zero."""
        return Quantity(self.number(name, 1, MAX_QUANTITY))

    def height(self, name: str) -> int:
        """The height of a block."""
        return self.number(name, 1, MAX_HEIGHT)

    def rate(self, name: str) -> int:
        """A fee rate of commits, in sat/vB."""
        return self.number(name, 1, MAX_AGREED)

    def time(self, name: str) -> int:
        """A time, as Unix time."""
        return self.number(name, 0, MAX_TIME)

    def signature(self, name: str) -> bytes:
        """A signature that counts for everything, without a hash type."""
        return self.hex(name, SCHNORR_SIZE)

    def text(self, name: str, most: int) -> str:
        """A text that is not empty."""
        value = self.member(name)
        if not isinstance(value, str) or not 0 < len(value) <= most:
            raise self.refused(name, f"is not a text of 1 to {most} characters")
        return value

    def cause(self, name: str) -> str:
        """An error's name."""
        value = self.text(name, MAX_CAUSE_SIZE)
        if not (value.isascii() and value.isidentifier()):
            raise self.refused(name, "is not the name of a cause")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.member(name)
        if not isinstance(value, bool):
            raise self.refused(name, "is neither true nor false")
        return value

    def array(self, name: str, most: int) -> list[Any]:
        """A list of at most so many items."""
        value = self.member(name)
        if not isinstance(value, list) or len(value) > most:
            raise self.refused(name, f"is not a list of at most {most}")
        return value

    def items(self, name: str, members: set[str], most: int) -> list[Reader]:
        """A list of items with exactly those members."""
        return [Reader(item, self.error, members) for item in self.array(name, most)]

    def item(self, name: str, members: set[str]) -> Reader:
        """An item with exactly those members."""
        return Reader(self.member(name), self.error, members)

    def mapping(self, name: str) -> list[tuple[str, Any]]:
        """The members of an object whose names are free."""
        value = self.member(name)
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise self.refused(name, "is not an object")
        return list(value.items())

    # Values of the protocol ---------------------------------------------------------------------------------------

    def protocol(self) -> None:
        """Refuse another protocol than this one."""
        self.number("protocol", PROTOCOL, PROTOCOL)

    def request(self) -> bytes:
        """The digest of the request that is answered."""
        return self.hex("request_sha256", DIGEST_SIZE)

    def handle(self, name: str = "handle") -> Handle:
        """A handle."""
        return Handle(self.hex(name, HANDLE_SIZE))

    def revoke_hash(self, name: str) -> Hash:
        """The hash of a revoke secret."""
        return Hash(self.hex(name, HASH_SIZE))

    def key(self, name: str) -> XOnly:
        """A channel's key, on the curve."""
        try:
            return XOnly(self.hex(name, XONLY_SIZE))
        except BadChannelKey as refused:
            raise self.error(refused.message, member=name) from refused

    def outpoint(self, name: str) -> Outpoint:
        """An outpoint."""
        text = self.text(name, 75)
        try:
            outpoint = Outpoint.parse(text)
        except InvalidHex as refused:
            raise self.error(refused.message, member=name) from refused
        if str(outpoint) != text:
            raise self.refused(name, "is an outpoint written in an unusual way")
        return outpoint

    def token(self) -> Token:
        """A token of a payment."""
        return Token(self.blob("token", MAX_TOKEN_SIZE))

    def commit(self, name: str = "commit") -> Commit:
        """A commit with its payout signature."""
        return _commit(self.item(name, _COMMIT))

    def commits(self, name: str, most: int) -> tuple[Commit, ...]:
        """A list of commits."""
        return tuple(_commit(item) for item in self.items(name, _COMMIT, most))

    def remainder(self, name: str = "remainder") -> Remainder:
        """The signature of a remainder."""
        item = self.item(name, _REMAINDER)
        return Remainder(item.quantity("quantity"), item.revoke_hash("revoke_hash"), item.hex("signature", LONG_SIZE))

    def revokes(self) -> tuple[Secret, ...]:
        """Revoke secrets."""
        return tuple(Secret(data) for data in self.hexes("revokes", SECRET_SIZE, MOST_REVOKED))

    def half(self) -> Half:
        """One party's half of a sync."""
        return Half(self.optional("remainder", self.remainder), self.revokes(), self.optional("commit", self.commit))

    def standing(self) -> Standing:
        """How a connection stands by one party."""
        return Standing(
            self.optional("commit", self.commit),
            self.optional("remainder", self.remainder),
            self.revokes(),
            tuple(Hash(data) for data in self.hexes("doubts", HASH_SIZE, MOST_REVOKED)),
        )

    def closing(self, name: str, quantity: int) -> Closing | None:
        """The payee's signatures of a close of that quantity, or None."""
        if self.member(name) is None:
            return None
        item = self.item(name, _CLOSE)
        rest = item.optional("rest_signature", lambda member: item.hex(member, LONG_SIZE))
        return Closing(quantity, item.hex("signature", SCHNORR_SIZE), rest)

    def party(self, name: str) -> Party:
        """One side's keys and wallet."""
        item = self.item(name, _PARTY)
        wallet = item.hex("wallet_script")
        if not is_wallet(wallet):
            raise self.refused("wallet_script", "is neither P2PKH nor P2WPKH")
        return Party(item.key("payer_key"), item.key("payee_key"), wallet)

    def stake(self, name: str) -> Stake:
        """Return what is agreed of one channel."""
        item = self.item(name, _STAKE)
        return Stake(
            item.quantity("quantity"),
            item.number("delay_time", MIN_DELAY, MAX_DELAY),
            item.rate("fee_rate"),
        )

    def anchors(self) -> Anchors:
        """The anchors of both channels."""
        return Anchors(self.optional("c2h_anchor", self.outpoint), self.optional("h2c_anchor", self.outpoint))


def of_request(read: Callable[[Reader], T]) -> Callable[[Any], T]:
    """Make the parser of a request of this protocol out of what reads its members. It raises BadRequest."""

    @wraps(read)
    def parse(body: Any) -> T:
        reader = Reader(body, BadRequest)
        reader.protocol()
        found = read(reader)
        reader.check_unknown()
        return found

    return parse


def _commit(item: Reader) -> Commit:
    return Commit(
        item.quantity("quantity"),
        item.revoke_hash("revoke_hash"),
        item.hex("signature", SCHNORR_SIZE),
        item.hex("payout_signature", LONG_SIZE),
    )


def optional_hex(data: bytes | None) -> str | None:
    """Hex, or None."""
    return None if data is None else data.hex()


def commit_json(commit: Commit | None) -> dict[str, Any] | None:
    """A commit, or null."""
    if commit is None:
        return None
    return {
        "quantity": commit.quantity,
        "revoke_hash": commit.revoke_hash.hex(),
        "signature": commit.signature.hex(),
        "payout_signature": commit.payout_signature.hex(),
    }


def half_json(half: Half | Standing) -> dict[str, Any]:
    """The members ``remainder``, ``revokes`` and ``commit``."""
    remainder = half.remainder
    return {
        "remainder": remainder
        and {
            "quantity": remainder.quantity,
            "revoke_hash": remainder.revoke_hash.hex(),
            "signature": remainder.signature.hex(),
        },
        "revokes": [secret.hex() for secret in half.revokes],
        "commit": commit_json(half.commit),
    }


def standing_json(said: Standing) -> dict[str, Any]:
    """Those, and ``doubts``."""
    return {**half_json(said), "doubts": [item.hex() for item in said.doubts]}


def closing_json(closing: Closing | None) -> dict[str, Any] | None:
    """The signatures of a close, or null."""
    if closing is None:
        return None
    return {"signature": closing.signature.hex(), "rest_signature": optional_hex(closing.rest_signature)}


def party_json(party: Party) -> dict[str, Any]:
    """One side's keys and wallet."""
    keys = {"payer_key": str(party.payer_key), "payee_key": str(party.payee_key)}
    return {**keys, "wallet_script": party.wallet.hex()}


def stake_json(stake: Stake) -> dict[str, Any]:
    """Return what is agreed of one channel."""
    return {"quantity": stake.quantity, "delay_time": stake.delay, "fee_rate": stake.rate}


def request_json(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a request."""
    return {"protocol": PROTOCOL, **body}


def reply_json(request: bytes, body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a reply."""
    return {"request_sha256": request.hex(), **body}


# Terms ----------------------------------------------------------------------------------------------------------------


def terms_json(terms: Terms) -> dict[str, Any]:
    """The terms as they stand in a reply."""
    return {name: getattr(terms, name) for name in _TERMS}


def read_terms(body: Any) -> Terms:
    """The terms in a hub's reply. Raises BadTerms where no honest hub offers them."""
    reader = Reader(body, BadTerms, set(_TERMS))
    numbers = {name: reader.number(name, 0, MAX_QUANTITY) for name in _TERMS if name != "deposit_ratio"}
    ratio = reader.member("deposit_ratio")
    if not isinstance(ratio, (int, float)) or isinstance(ratio, bool) or not 0 <= ratio <= MAX_RATIO:
        raise BadTerms("The hub's terms have no usable deposit_ratio.", member="deposit_ratio", value=ratio)
    return Terms(deposit_ratio=float(ratio), **numbers)


def kept_terms(body: Any) -> Terms:
    """The terms in a file, which may be older than fees for locking. Raises as ``read_terms``."""
    return read_terms({**_FREE, **body} if isinstance(body, Mapping) else body)

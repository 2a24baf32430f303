"""The messages of protocol 3: one class for each, with every member that it has and the most of it.

Nobody else reads or writes any. ``as_json`` gives a body without the envelope (``pubkey``, ``signature``), ``parse``
takes a signed one. Unknown members at the top level are signed and passed over; those of a request are small. Requests
carry ``protocol``, replies ``request_sha256``: the digest of the request that they answer (``request`` in the classes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from picopayments_cli.channel.duplex import Half
from picopayments_cli.channel.halves import Closing
from picopayments_cli.channel.kept import MOST_COUNTER, MOST_STATE, Count
from picopayments_cli.channel.keys import SALT_SIZE
from picopayments_cli.channel.opening import Party, Stake
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, OPEN, OPENING, REQUESTED
from picopayments_cli.channel.standing import Standing
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.values import MAX_QUANTITY, Handle, Hash
from picopayments_cli.channel.wire import (
    MAX_ASSET_SIZE,
    NONCE_SIZE,
    Anchors,
    Figures,
    Payment,
    Reader,
    Receipt,
    RefusedPayment,
    closing_json,
    half_json,
    of_request,
    optional_hex,
    party_json,
    read_terms,
    reply_json,
    request_json,
    stake_json,
    standing_json,
    terms_json,
)
from picopayments_cli.errors import BadReply

MOST_PAYMENTS = 1000  # in one message
MOST_RECOVERED = 100  # connections in one answer of mph_key
OUTPUT_SIZE = 34  # of a scriptPubKey of taproot
# How a connection stands at the hub, as the ``stage`` of a refusal says it.
STAGES = (REQUESTED, AGREED, OPENING, OPEN, CLOSING, CLOSED)

_SEND = {"payee_handle", "amount", "token", "expires"}
_RECEIPT = {"payer_handle", "amount", "token", "time"}
_REFUSED = {"token", "name"}
_RECOVERED = {"handle", "asset", "salt", "client", "hub", "expiry_height", "c2h", "h2c", "c2h_anchor", "h2c_anchor"}


def request_of(body: Any) -> bytes:
    """The digest of the request that a reply or a refusal says it answers. Raises BadReply."""
    return Reader(body, BadReply).request()


# Refusals -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HubRefusal:
    """A refusal, which the hub signs, too: ``error.data`` of a JSON-RPC reply, in the form of every server's.

    ``cause``: an error's name; ``data``: the numbers involved. Among them ``stage``, one of ``STAGES``, where the stage
    of a connection is why.
    """

    request: bytes
    cause: str
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> str | None:
        """The stage that the connection has at the hub, where that is why."""
        found = self.data.get("stage")
        return found if found in STAGES else None

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        told: dict[str, Any] = {"type": self.cause, "args": [self.message], "message": self.message}
        return reply_json(self.request, {**told, "data": dict(self.data)} if self.data else told)

    @staticmethod
    def parse(body: Any) -> HubRefusal:
        """Raises BadReply."""
        reader = Reader(body, BadReply)
        data = dict(reader.mapping("data")) if "data" in reader.body else {}
        return HubRefusal(reader.request(), reader.cause("type"), reader.text("message", 10_000), data)


# mph_key ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeyRequest:
    """Asks the hub to prove its key, by a nonce that nobody has seen before.

    Where the client signs it with its wallet's key, it asks for its own connections, too: those behind the handle
    ``after``, ascending.
    """

    nonce: bytes
    after: Handle | None = None

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        return request_json({"nonce": self.nonce.hex(), "after": optional_hex(self.after)})

    @staticmethod
    @of_request
    def parse(reader: Reader) -> KeyRequest:
        """Raises BadRequest."""
        return KeyRequest(reader.hex("nonce", NONCE_SIZE), reader.optional("after", reader.handle))


@dataclass(frozen=True)
class Recovered:
    """All that a client needs, beside its wallet's key, to close a connection whose file it has lost."""

    handle: Handle
    asset: str
    salt: bytes
    client: Party
    hub: Party
    height: int
    c2h: Stake
    h2c: Stake
    anchors: Anchors

    def as_json(self) -> dict[str, Any]:
        """The item."""
        return {
            "handle": self.handle.hex(),
            "asset": self.asset,
            "salt": self.salt.hex(),
            "client": party_json(self.client),
            "hub": party_json(self.hub),
            "expiry_height": self.height,
            "c2h": stake_json(self.c2h),
            "h2c": stake_json(self.h2c),
            **self.anchors.as_json(),
        }

    @staticmethod
    def read(item: Reader) -> Recovered:
        """Raises the reader's error."""
        return Recovered(
            item.handle(),
            item.text("asset", MAX_ASSET_SIZE),
            item.hex("salt", SALT_SIZE),
            item.party("client"),
            item.party("hub"),
            item.height("expiry_height"),
            item.stake("c2h"),
            item.stake("h2c"),
            item.anchors(),
        )


@dataclass(frozen=True)
class KeyReply:
    """The proof is the envelope. ``connections``: those agreed with the key that signed the request, if one did."""

    request: bytes
    connections: tuple[Recovered, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        return reply_json(self.request, {"connections": [item.as_json() for item in self.connections]})

    @staticmethod
    def parse(body: Any) -> KeyReply:
        """Raises BadReply."""
        reader = Reader(body, BadReply)
        items = reader.items("connections", _RECOVERED, MOST_RECOVERED)
        return KeyReply(reader.request(), tuple(Recovered.read(item) for item in items))


# mph_request --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConnectRequest:
    """Asks for a connection in an asset. The hub keeps ``salt``, and gives it back in mph_key."""

    asset: str
    client: Party
    salt: bytes

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        return request_json({"asset": self.asset, "client": party_json(self.client), "salt": self.salt.hex()})

    @staticmethod
    @of_request
    def parse(reader: Reader) -> ConnectRequest:
        """Raises BadRequest. Whose wallet it is, ``opening.check_wallet`` tells."""
        return ConnectRequest(
            reader.text("asset", MAX_ASSET_SIZE), reader.party("client"), reader.hex("salt", SALT_SIZE)
        )


@dataclass(frozen=True)
class ConnectReply:
    """The connection's handle, the hub's keys and wallet, and the terms."""

    request: bytes
    handle: Handle
    hub: Party
    terms: Terms

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        told = {"handle": self.handle.hex(), "hub": party_json(self.hub), "channel_terms": terms_json(self.terms)}
        return reply_json(self.request, told)

    @staticmethod
    def parse(body: Any) -> ConnectReply:
        """Raises BadReply, BadTerms."""
        reader = Reader(body, BadReply)
        terms = read_terms(reader.member("channel_terms"))
        return ConnectReply(reader.request(), reader.handle(), reader.party("hub"), terms)


# mph_deposit --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DepositRequest:
    """Agrees on both deposits, before any money moves.

    ``stake`` of c2h: its rate is the terms'. ``h2c_rate``: of the commits to the client, which it names. ``height``:
    at which both deposits expire. ``output``: the scriptPubKey of the c2h deposit, as the client makes it out.
    ``state``: the client's, sealed, as the hub keeps it for it; empty where there is none.
    """

    handle: Handle
    stake: Stake
    h2c_rate: int
    height: int
    output: bytes
    next_hash: Hash
    state: bytes = field(default=b"", repr=False)

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        return request_json(
            {
                "handle": self.handle.hex(),
                "c2h": stake_json(self.stake),
                "h2c_fee_rate": self.h2c_rate,
                "expiry_height": self.height,
                "deposit_output": self.output.hex(),
                "next_revoke_hash": self.next_hash.hex(),
                "state": self.state.hex(),
            }
        )

    @staticmethod
    @of_request
    def parse(reader: Reader) -> DepositRequest:
        """Raises BadRequest."""
        return DepositRequest(
            reader.handle(),
            reader.stake("c2h"),
            reader.rate("h2c_fee_rate"),
            reader.height("expiry_height"),
            reader.hex("deposit_output", OUTPUT_SIZE),
            reader.revoke_hash("next_revoke_hash"),
            reader.blob("state", MOST_STATE),
        )


@dataclass(frozen=True)
class DepositReply:
    """The hub's deposit, with the same expiry. ``output``: the scriptPubKey of the h2c deposit.

    ``deposit_by``: the last block that may hold the client's deposit. ``lock_fee``: that is paid before the hub's.
    """

    request: bytes
    stake: Stake
    height: int
    output: bytes
    next_hash: Hash
    deposit_by: int
    lock_fee: int = 0

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        return reply_json(
            self.request,
            {
                "h2c": stake_json(self.stake),
                "expiry_height": self.height,
                "deposit_output": self.output.hex(),
                "next_revoke_hash": self.next_hash.hex(),
                "deposit_by": self.deposit_by,
                "lock_fee": self.lock_fee,
            },
        )

    @staticmethod
    def parse(body: Any) -> DepositReply:
        """Raises BadReply."""
        reader = Reader(body, BadReply)
        return DepositReply(
            reader.request(),
            reader.stake("h2c"),
            reader.height("expiry_height"),
            reader.hex("deposit_output", OUTPUT_SIZE),
            reader.revoke_hash("next_revoke_hash"),
            reader.height("deposit_by"),
            reader.number("lock_fee", 0, MAX_QUANTITY),
        )


# mph_sync -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SyncRequest:
    """The client's half of a sync, its payments, and a fresh hash for a later commit to it.

    ``anchors``: both, as the client sees them. ``counter``: the number of this sync, from 1; ``state``: the client's as
    it stands with this request, sealed, empty where there is none. ``partial``: a payment that is refused does not
    refuse the others.
    """

    handle: Handle
    anchors: Anchors
    half: Half
    payments: tuple[Payment, ...]
    next_hash: Hash
    counter: int
    state: bytes = field(default=b"", repr=False)
    partial: bool = True

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        sends = [
            {
                "payee_handle": optional_hex(item.payee),
                "amount": item.amount,
                "token": item.token.hex(),
                "expires": item.expires,
            }
            for item in self.payments
        ]
        return request_json(
            {
                "handle": self.handle.hex(),
                **self.anchors.as_json(),
                **half_json(self.half),
                "sends": sends,
                "partial": self.partial,
                "next_revoke_hash": self.next_hash.hex(),
                "counter": self.counter,
                "state": self.state.hex(),
            }
        )

    @staticmethod
    @of_request
    def parse(reader: Reader) -> SyncRequest:
        """Raises BadRequest."""
        payments = (
            Payment(
                item.optional("payee_handle", item.handle),
                item.quantity("amount"),
                item.token(),
                item.optional("expires", item.time),
            )
            for item in reader.items("sends", _SEND, MOST_PAYMENTS)
        )
        return SyncRequest(
            reader.handle(),
            reader.anchors(),
            reader.half(),
            tuple(payments),
            reader.revoke_hash("next_revoke_hash"),
            reader.number("counter", 1, MOST_COUNTER),
            reader.blob("state", MOST_STATE),
            reader.flag("partial"),
        )


@dataclass(frozen=True)
class SyncReply:
    """The hub's half of a sync, the payments that it settles, those it refused, its next hash, and its signed count."""

    request: bytes
    half: Half
    receipts: tuple[Receipt, ...]
    refused: tuple[RefusedPayment, ...]
    next_hash: Hash
    count: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        receive = [
            {"payer_handle": item.payer.hex(), "amount": item.amount, "token": item.token.hex(), "time": item.time}
            for item in self.receipts
        ]
        told = {
            **half_json(self.half),
            "receive": receive,
            "refused": [{"token": item.token.hex(), "name": item.cause} for item in self.refused],
            "next_revoke_hash": self.next_hash.hex(),
            "count": dict(self.count),
        }
        return reply_json(self.request, told)

    @staticmethod
    def parse(body: Any) -> SyncReply:
        """Raises BadReply."""
        reader = Reader(body, BadReply)
        receipts = (
            Receipt(item.handle("payer_handle"), item.quantity("amount"), item.token(), item.time("time"))
            for item in reader.items("receive", _RECEIPT, MOST_PAYMENTS)
        )
        refused = (
            RefusedPayment(item.token(), item.cause("name"))
            for item in reader.items("refused", _REFUSED, MOST_PAYMENTS)
        )
        count = dict(reader.mapping("count"))
        Count.parse(count)
        next_hash = reader.revoke_hash("next_revoke_hash")
        return SyncReply(reader.request(), reader.half(), tuple(receipts), tuple(refused), next_hash, count)


# mph_close ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CloseRequest:
    """Closes a connection: how it stands by the client, at which figures it would close, and what it signs of that.

    ``h2c_close``: its signatures as payee, first. ``c2h_signature``: as payer, once it has verified the hub's.
    """

    handle: Handle
    anchors: Anchors
    figures: Figures
    standing: Standing
    h2c_close: Closing | None = None
    c2h_signature: bytes | None = None

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        return request_json(
            {
                "handle": self.handle.hex(),
                **_close_json(self.anchors, self.figures, self.standing),
                "h2c_close": closing_json(self.h2c_close),
                "c2h_signature": optional_hex(self.c2h_signature),
            }
        )

    @staticmethod
    @of_request
    def parse(reader: Reader) -> CloseRequest:
        """Raises BadRequest."""
        anchors, figures, standing = _close(reader)
        return CloseRequest(
            reader.handle(),
            anchors,
            figures,
            standing,
            reader.closing("h2c_close", figures.h2c),
            reader.optional("c2h_signature", reader.signature),
        )


@dataclass(frozen=True)
class CloseReply:
    """How the connection stands by the hub, its own figures, and its signatures where the request's equal them.

    ``c2h_close``: as payee; ``h2c_signature``: as payer, given for the client's valid ones as payee.
    """

    request: bytes
    anchors: Anchors
    figures: Figures
    standing: Standing
    c2h_close: Closing | None = None
    h2c_signature: bytes | None = None

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        told = {
            **_close_json(self.anchors, self.figures, self.standing),
            "c2h_close": closing_json(self.c2h_close),
            "h2c_signature": optional_hex(self.h2c_signature),
        }
        return reply_json(self.request, told)

    @staticmethod
    def parse(body: Any) -> CloseReply:
        """Raises BadReply."""
        reader = Reader(body, BadReply)
        anchors, figures, standing = _close(reader)
        return CloseReply(
            reader.request(),
            anchors,
            figures,
            standing,
            reader.closing("c2h_close", figures.c2h),
            reader.optional("h2c_signature", reader.signature),
        )


def _close_json(anchors: Anchors, figures: Figures, standing: Standing) -> dict[str, Any]:
    told = {"c2h_quantity": figures.c2h, "h2c_quantity": figures.h2c}
    return {**anchors.as_json(), **told, **standing_json(standing)}


def _close(reader: Reader) -> tuple[Anchors, Figures, Standing]:
    c2h, h2c = (reader.number(name, 0, MAX_QUANTITY) for name in ("c2h_quantity", "h2c_quantity"))
    return reader.anchors(), Figures(c2h, h2c), reader.standing()

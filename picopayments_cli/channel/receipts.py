"""The message by which receipts go from payees to payers: the one gives them to the hub, the other asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from picopayments_cli.channel.payment_request import TOKEN_SIZE, token_of
from picopayments_cli.channel.values import Handle, Token
from picopayments_cli.channel.wire import NONCE_SIZE, Reader, of_request, reply_json, request_json
from picopayments_cli.errors import BadReply

MOST_RECEIPTS = 100  # in one message, of either kind
RECEIPT_SIZE = 32
_GIVEN = {"payer_handle", "receipt"}
_FOUND = {"receipt"}


@dataclass(frozen=True)
class Given:
    """A receipt that the payee gives to a payer of its request."""

    payer: Handle
    receipt: bytes


@dataclass(frozen=True)
class ReceiptsRequest:
    """Gives receipts for payments received on a connection, and asks for those of payments sent from it.

    ``nonce``: drawn for each request, so that no older answer passes for this one's.
    """

    nonce: bytes
    handle: Handle
    given: tuple[Given, ...]
    tokens: tuple[Token, ...]

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        given = [{"payer_handle": item.payer.hex(), "receipt": item.receipt.hex()} for item in self.given]
        tokens = [token.hex() for token in self.tokens]
        return request_json({"nonce": self.nonce.hex(), "handle": self.handle.hex(), "given": given, "tokens": tokens})

    @staticmethod
    @of_request
    def parse(reader: Reader) -> ReceiptsRequest:
        """Raises BadRequest."""
        items = reader.items("given", _GIVEN, MOST_RECEIPTS)
        return ReceiptsRequest(
            reader.hex("nonce", NONCE_SIZE),
            reader.handle(),
            tuple(Given(item.handle("payer_handle"), item.hex("receipt", RECEIPT_SIZE)) for item in items),
            tuple(Token(token) for token in reader.hexes("tokens", TOKEN_SIZE, MOST_RECEIPTS)),
        )


@dataclass(frozen=True)
class ReceiptsReply:
    """The receipts that the hub has of those asked for; each is known by its token."""

    request: bytes
    receipts: tuple[bytes, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        return reply_json(self.request, {"receipts": [{"receipt": receipt.hex()} for receipt in self.receipts]})

    @staticmethod
    def parse(body: Any) -> ReceiptsReply:
        """Raises BadReply."""
        reader = Reader(body, BadReply)
        items = reader.items("receipts", _FOUND, MOST_RECEIPTS)
        return ReceiptsReply(reader.request(), tuple(item.hex("receipt", RECEIPT_SIZE) for item in items))

    @property
    def by_token(self) -> dict[Token, bytes]:
        """The receipts, each by the token that it proves the payment of."""
        return {token_of(receipt): receipt for receipt in self.receipts}

"""Payment requests: what a payee asks for, written as one word that it has signed, and the receipt that proves payment.

A receipt is 32 bytes that the payee alone can make, until it gives them away. Their SHA-256 is the request's token.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from base64 import b32decode, b32encode
from binascii import Error
from dataclasses import dataclass

from picopayments_cli.channel.counterparty import BTC_ID, asset_name
from picopayments_cli.channel.keys import SCHNORR_SIZE, XONLY_SIZE, Key, XOnly, is_pubkey
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.values import HANDLE_SIZE, MAX_QUANTITY, PUBKEY_SIZE, Handle, Pubkey, Quantity, Token
from picopayments_cli.channel.wire import MAX_TIME
from picopayments_cli.errors import BadChannelKey, InvalidAsset, InvalidRequest

PREFIX = "picopay"  # before a digit, the version
VERSION = "1"
SALT_SIZE = 16
TOKEN_SIZE = 32
MAX_MEMO = 200  # bytes of UTF-8
MAX_URL = 200
MAX_LETTERS = 1200  # of any request
_FIXED = f">{HANDLE_SIZE}sQQQ{SALT_SIZE}s{TOKEN_SIZE}s{PUBKEY_SIZE}s{XONLY_SIZE}s"
_FIXED_SIZE = struct.calcsize(_FIXED)


@dataclass(frozen=True)
class PaymentRequest:
    """All that a payer needs to know. ``expires``: until when the payment counts (Unix time); ``payee``: who signed.

    ``salt`` makes the receipt of each request another one. Raises InvalidRequest for what no request can hold.
    """

    network: str
    hub_url: str
    hub_key: Pubkey
    handle: Handle
    asset_id: int
    quantity: Quantity
    expires: int
    salt: bytes
    token: Token
    payee: XOnly
    memo: str = ""

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise _invalid(f"it is for the network {self.network!r}, which this program does not know")
        sizes = (len(self.handle), len(self.salt), len(self.token))
        if sizes != (HANDLE_SIZE, SALT_SIZE, TOKEN_SIZE) or self.asset_id == BTC_ID:
            raise _invalid("its handle, its salt, its token or its asset is none")
        if not 0 < self.quantity <= MAX_QUANTITY or not 0 < self.expires <= MAX_TIME or not is_pubkey(self.hub_key):
            raise _invalid("its quantity, its time or its hub's key is none")
        if not self.hub_url.startswith(("http://", "https://")) or "@" in self.hub_url or " " in self.hub_url:
            raise _invalid("its hub's URL is none")
        if not self.hub_url.isascii() or not self.hub_url.isprintable() or len(self.hub_url) > MAX_URL:
            raise _invalid(f"its hub's URL has other than printable letters, or more than {MAX_URL}")
        if not takes_memo(self.memo):
            raise _invalid(f"its memo has more than {MAX_MEMO} bytes, or what can't be printed")
        try:
            asset_name(self.asset_id)
        except InvalidAsset:
            raise _invalid("it is in no asset") from None

    @property
    def asset(self) -> str:
        """The asset's name on the ledger."""
        return asset_name(self.asset_id)


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(f"This payment request can't be used: {why}. Ask the payee for another one.")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _invalid("its memo is no text") from None


# Receipts -----------------------------------------------------------------------------------------------------------


def receipt_of(key: Key, handle: Handle, salt: bytes) -> bytes:
    """Derive the receipt of a request on a connection from the wallet's key: no file can lose it."""
    return hmac.digest(key.secret, b"picopayments receipt 1" + handle + salt, "sha256")


def token_of(receipt: bytes) -> Token:
    """Return the token that a receipt proves the payment of."""
    return Token(hashlib.sha256(receipt).digest())


# The text -----------------------------------------------------------------------------------------------------------


def takes_memo(memo: str) -> bool:
    """Tell whether a request can have this memo."""
    return memo.isprintable() and len(_utf8(memo)) <= MAX_MEMO


def write(request: PaymentRequest, key: Key) -> str:
    """Write a request as one word, signed by its payee's key."""
    if key.xonly != request.payee:
        raise ValueError("the key is not the payee's")
    body = _packed(request)
    return _text(body + key.sign_schnorr(_digest(body)))


def read(text: str) -> PaymentRequest:
    """Read a request in small or in capital letters, and check its signature. Raises InvalidRequest."""
    letters = text.lower() if text.isupper() else text
    if not letters.startswith(PREFIX) or len(letters) > MAX_LETTERS or not letters.isascii():
        raise InvalidRequest(
            f"This is no payment request: one begins with {PREFIX}{VERSION}, in small or in capital letters. Copy it "
            "whole, in one piece."
        )
    if not letters.startswith(PREFIX + VERSION):
        raise _invalid(f"its version is {letters[len(PREFIX) :][:1]!r}, which this program does not know")
    try:
        coded = letters[len(PREFIX) + 1 :].upper()
        data = b32decode(coded + "=" * (-len(coded) % 8))
    except Error:
        raise _changed() from None
    body, signature = data[:-SCHNORR_SIZE], data[-SCHNORR_SIZE:]
    if _text(data) != letters:
        raise _changed()  # the last letter has bits to spare
    request = _unpacked(body)
    if not request.payee.verify(_digest(body), signature):
        raise _changed()
    return request


def _changed() -> InvalidRequest:
    return _invalid("it was cut off or changed on its way, or its payee did not sign it")


def _digest(body: bytes) -> bytes:
    """Hash a request for its signature: as BIP 340 tags hashes, so that it signs nothing else."""
    tag = hashlib.sha256(b"picopayments payment request 1").digest()
    return hashlib.sha256(tag + tag + body).digest()


def _text(data: bytes) -> str:
    return PREFIX + VERSION + b32encode(data).decode().rstrip("=").lower()


def _packed(request: PaymentRequest) -> bytes:
    texts = [request.network.encode(), request.hub_url.encode(), _utf8(request.memo)]
    return struct.pack(
        _FIXED,
        request.handle,
        request.asset_id,
        request.quantity,
        request.expires,
        request.salt,
        request.token,
        request.hub_key,
        request.payee.data,
    ) + b"".join(bytes((len(part),)) + part for part in texts)


def _unpacked(body: bytes) -> PaymentRequest:
    if len(body) < _FIXED_SIZE:
        raise _changed()
    handle, asset, quantity, expires, salt, token, hub, payee = struct.unpack(_FIXED, body[:_FIXED_SIZE])
    texts, rest = [], body[_FIXED_SIZE:]
    while rest:
        size = rest[0]
        if len(rest) <= size:
            raise _changed()
        texts.append(rest[1 : size + 1])
        rest = rest[size + 1 :]
    try:
        network, url, memo = (part.decode() for part in texts)
        signer = XOnly(payee)
    except (ValueError, BadChannelKey):
        raise _changed() from None
    return PaymentRequest(
        *(network, url, Pubkey(hub), Handle(handle), asset, Quantity(quantity), expires, salt, Token(token), signer),
        memo,
    )


# Payments of a request ----------------------------------------------------------------------------------------------


def is_over(expires: int, now: float) -> bool:
    """Tell whether a request's time is over, in whole seconds, as payer, hub and payee all judge it."""
    return int(now) > expires


PAID, AGAIN, TOO_LITTLE, TOO_LATE = "paid", "again", "too_little", "too_late"


@dataclass(frozen=True)
class Requested:
    """A request as its payee keeps it. ``payer``: who has paid it; ``given``: whether the hub has its receipt."""

    token: Token
    salt: bytes
    quantity: Quantity
    expires: int
    payer: Handle | None = None
    given: bool = False

    def judge(self, amount: int, time: int) -> str:
        """Say what a payment with the request's token comes to. ``time``: when the hub took it, by its clock."""
        if self.payer is not None:
            return AGAIN
        if amount < self.quantity:
            return TOO_LITTLE
        return TOO_LATE if is_over(self.expires, time) else PAID

"""The values that everything is made of: each with its own type, checked where it enters."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, NewType

from bitcoin.core.contrib.ripemd160 import ripemd160

from picopayments_cli.errors import InvalidHex, InvalidQuantity

Handle = NewType("Handle", bytes)  # names a connection: 32 bytes drawn by the hub
Token = NewType("Token", bytes)  # names a payment: drawn by the payer, or given
Secret = NewType("Secret", bytes)  # 32 bytes; revealing one opens a path of a script
Hash = NewType("Hash", bytes)  # RIPEMD160(SHA256(secret)), 20 bytes
Pubkey = NewType("Pubkey", bytes)  # compressed, 33 bytes
Quantity = NewType("Quantity", int)  # of an asset, in its smallest unit ("satoshis")
Height = NewType("Height", int)  # of a block

MAX_QUANTITY = 2**63 - 1
SECRET_SIZE = 32
HASH_SIZE = 20
PUBKEY_SIZE = 33
HANDLE_SIZE = 32
LEAST_DIGITS = 8  # of a handle that is not given, or not shown, in full: fewer may mean another one tomorrow
MAX_TOKEN_SIZE = 256
_OPENSSL_RIPEMD = "ripemd160" in hashlib.algorithms_available
HEX_DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True, order=True)
class Outpoint:
    """One output of a transaction; ``txid`` in wire order (little-endian), as it stands in an input."""

    txid: bytes
    vout: int

    def __str__(self) -> str:
        return f"{self.txid[::-1].hex()}:{self.vout}"

    @staticmethod
    def parse(text: str) -> Outpoint:
        """Read the outpoint written ``<txid in display order>:<vout>``. Raises InvalidHex."""
        txid, _, vout = text.partition(":")
        if not (vout.isascii() and vout.isdecimal() and len(vout) <= 10 and int(vout) < 2**32):
            raise InvalidHex(f"{text!r} is not an outpoint: <txid>:<number>.", value=text)
        return Outpoint(from_hex(txid, "txid", 32)[::-1], int(vout))


@dataclass(frozen=True)
class Coin:
    """An unspent output: satoshis, scriptPubKey, and the height of its block (None: in the mempool)."""

    outpoint: Outpoint
    value: int
    script: bytes
    height: Height | None

    def depth(self, tip: int) -> int:
        """Return the confirmations as of ``tip``: 0 in the mempool, 1 in the tip's block."""
        return _depth(self.height, tip)


@dataclass(frozen=True)
class Entry:
    """A transaction in an address's history: wire-order txid, raw bytes, height (None: in the mempool)."""

    txid: bytes
    raw: bytes
    height: Height | None

    def depth(self, tip: int) -> int:
        """Return the confirmations as of ``tip``: 0 in the mempool, 1 in the tip's block."""
        return _depth(self.height, tip)


def _depth(height: int | None, tip: int) -> int:
    return 0 if height is None else tip - height + 1


def hash160(data: bytes) -> bytes:
    """Return RIPEMD160(SHA256(data)): by hashlib where OpenSSL offers it, else in Python, 100 times slower."""
    inner = hashlib.sha256(data).digest()
    return hashlib.new("ripemd160", inner).digest() if _OPENSSL_RIPEMD else bytes(ripemd160(inner))


def hash_of(secret: Secret) -> Hash:
    """Return the hash that is handed out for a secret."""
    return Hash(hash160(secret))


def looks_like_signature(push: bytes) -> bool:
    """Tell whether Counterparty Core takes a scriptSig push for a signature, of whatever length.

    It looks at the sizes of a DER sequence of two integers and one byte behind it, and at nothing else.
    """
    size = len(push)
    if size < 7 or push[0] != 0x30 or push[1] != size - 3 or push[2] != 0x02:
        return False
    second = 4 + push[3]
    return second + 1 < size and push[second] == 0x02 and second + 2 + push[second + 1] + 1 == size


def from_hex(value: Any, what: str, size: int | None = None) -> bytes:
    """Return the bytes of lower-case hex, of exactly ``size`` bytes where given. Raises InvalidHex."""
    if not isinstance(value, str) or not HEX_DIGITS.issuperset(value):
        raise InvalidHex(f"The {what} must be lower-case hex.", what=what)
    if size is None and len(value) % 2:
        raise InvalidHex(
            f"The {what} must have an even number of hex digits, two for each byte, not {len(value)}.",
            what=what,
            digits=len(value),
        )
    if size is not None and len(value) != 2 * size:
        raise InvalidHex(
            f"The {what} must be {size} bytes of hex ({2 * size} digits), not {len(value)} digits.",
            what=what,
            expected=2 * size,
            digits=len(value),
        )
    return bytes.fromhex(value)


def check_token(value: Any) -> Token:
    """Read the token of a payment from hex: 1 to MAX_TOKEN_SIZE bytes. Raises InvalidHex."""
    token = from_hex(value, "token")
    if not 0 < len(token) <= MAX_TOKEN_SIZE:
        raise InvalidHex(f"A token has 1 to {MAX_TOKEN_SIZE} bytes.", what="token", size=len(token))
    return Token(token)


def check_quantity(value: Any, what: str = "quantity") -> Quantity:
    """Check a positive whole number of an asset's smallest unit, at most 2^63 - 1. Raises InvalidQuantity."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_QUANTITY:
        raise InvalidQuantity(
            f"The {what} must be a whole number from 1 to {MAX_QUANTITY} (in satoshis, the asset's smallest unit).",
            what=what,
            value=value if isinstance(value, (int, float, str)) else None,
        )
    return Quantity(value)

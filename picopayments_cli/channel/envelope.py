"""Signed envelopes: the text that is signed, and the check of who signed it, and for what use.

The text is the JSON object without its ``signature`` member, keys sorted at every depth, ``", "`` and ``": "``
between, everything but ASCII escaped. The SHA-256 of a line that names the use, and the text, is signed with ECDSA:
DER, low S. So what is said to one hub, or in one method, is worth nothing to another.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from picopayments_cli.channel.keys import Key, is_pubkey, verify
from picopayments_cli.channel.values import PUBKEY_SIZE, Pubkey, from_hex
from picopayments_cli.errors import InvalidHex

_ENCODER = json.JSONEncoder(sort_keys=True, allow_nan=False)


@dataclass(frozen=True)
class Use:
    """The use that a body is signed for: a word for what is said, and the hub that says it or is told."""

    word: str
    hub: Pubkey

    @property
    def line(self) -> str:
        """The line that is signed before the text."""
        return f"picopayments {self.word} {self.hub.hex()}\n"


def asking(method: str, hub: Pubkey) -> Use:
    """Return the use of a request of this method to a hub."""
    return Use(f"{method} request", hub)


def answering(method: str, hub: Pubkey) -> Use:
    """Return the use of a hub's reply to a request of this method, a refusal too."""
    return Use(f"{method} reply", hub)


def counting(hub: Pubkey) -> Use:
    """Return the use of a hub's count of syncs."""
    return Use("count", hub)


def canonical(body: Mapping[str, Any]) -> str:
    """Return the text that is signed: all members but ``signature``."""
    return _ENCODER.encode({name: value for name, value in body.items() if name != "signature"})


def text_digest(text: str) -> bytes:
    """Return the SHA-256 of a canonical text, all ASCII."""
    return hashlib.sha256(text.encode("ascii")).digest()


def seal(key: Key, body: Mapping[str, Any], use: Use) -> dict[str, Any]:
    """Return the body with ``pubkey`` (hex) and ``signature`` (DER hex, low S) added."""
    signed = {**body, "pubkey": key.pubkey.hex()}
    signed["signature"] = key.sign(digest(signed, use)).hex()
    return signed


def digest(body: Mapping[str, Any], use: Use) -> bytes:
    """Return what is signed of a body, the SHA-256 of its use and text, by which a reply also names its request."""
    return text_digest(use.line + canonical(body))


def signed_by(body: Mapping[str, Any], pubkey: Pubkey, use: Use) -> bytes | None:
    """Return the digest of a body that this key, named in it, has signed for this use; None where it has not."""
    try:
        signature = from_hex(body.get("signature"), "signature")
        if from_hex(body.get("pubkey"), "pubkey", PUBKEY_SIZE) != pubkey:
            return None  # before the digest, which takes long for a large body
        signed = digest(body, use)
    except (InvalidHex, ValueError):
        return None
    return signed if verify(pubkey, signed, signature) else None


def named_key(body: Mapping[str, Any]) -> Pubkey | None:
    """Return the public key that a body names, where it is one."""
    text = body.get("pubkey")
    try:
        data = from_hex(text, "pubkey", PUBKEY_SIZE)
    except InvalidHex:
        return None
    return Pubkey(data) if is_pubkey(data) else None


def sign_message(key: Key, text: str) -> str:
    """Return a Bitcoin signed message (base64): proof that the owner of the key's address wrote the text, of ASCII."""
    magic = b"\x18Bitcoin Signed Message:\n" + bytes((len(text),)) + text.encode("ascii")
    hashed = hashlib.sha256(hashlib.sha256(magic).digest()).digest()
    return base64.b64encode(key.sign_recoverable(hashed)).decode("ascii")

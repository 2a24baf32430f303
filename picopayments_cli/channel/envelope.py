"""Signed envelopes: the text that is signed, and the check of who signed it.

The text is the JSON object without its ``signature`` member, keys sorted at every depth, ``", "`` and ``": "``
between, everything but ASCII escaped; its SHA-256 is signed with ECDSA: DER, low S.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from picopayments_cli.channel.keys import Key, is_pubkey, verify
from picopayments_cli.channel.values import PUBKEY_SIZE, Pubkey, from_hex
from picopayments_cli.errors import InvalidHex

_ENCODER = json.JSONEncoder(sort_keys=True, allow_nan=False)


def canonical(body: Mapping[str, Any]) -> str:
    """Return the text that is signed: all members but ``signature``."""
    return _ENCODER.encode({name: value for name, value in body.items() if name != "signature"})


def text_digest(text: str) -> bytes:
    """Return the SHA-256 of a canonical text, all ASCII."""
    return hashlib.sha256(text.encode("ascii")).digest()


def seal(key: Key, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body with ``pubkey`` (hex) and ``signature`` (DER hex, low S) added."""
    signed = {**body, "pubkey": key.pubkey.hex()}
    signed["signature"] = key.sign(text_digest(canonical(signed))).hex()
    return signed


def digest(body: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 of a signed body's canonical text, by which a reply names its request."""
    return text_digest(canonical(body))


def signed_by(body: Mapping[str, Any], pubkey: Pubkey) -> bytes | None:
    """Return the digest of a body that this key, named in it, has signed; None where it has not."""
    try:
        signature = from_hex(body.get("signature"), "signature")
        if from_hex(body.get("pubkey"), "pubkey", PUBKEY_SIZE) != pubkey:
            return None  # before the digest, which takes long for a large body
        signed = digest(body)
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

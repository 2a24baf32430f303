"""Requests and replies signed as a client or a hub signs them, for those who say them by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from picopayments_cli.channel import envelope
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.values import Pubkey

ENVELOPE = ("pubkey", "signature")  # the members that a signature adds


def bare(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body without its envelope."""
    return {name: value for name, value in body.items() if name not in ENVELOPE}


def asked(method: str, key: Key, hub: Pubkey, body: Mapping[str, Any]) -> dict[str, Any]:
    """A request of a method to a hub, signed."""
    return envelope.seal(key, body, envelope.asking(method, hub))


def answered(method: str, key: Key, body: Mapping[str, Any]) -> dict[str, Any]:
    """A hub's reply, signed with its key."""
    return envelope.seal(key, body, envelope.answering(method, key.pubkey))


def counted_by(key: Key, body: Mapping[str, Any]) -> dict[str, Any]:
    """A hub's count, signed with its key."""
    return envelope.seal(key, body, envelope.counting(key.pubkey))


def digest_of(method: str, hub: Pubkey, body: Mapping[str, Any]) -> bytes:
    """The digest by which a reply names its request."""
    return envelope.digest(body, envelope.asking(method, hub))

"""Take a value out of a document that may hold anything, or refuse it: what is of another kind is not used."""

from __future__ import annotations

from typing import Any

from picopayments_cli.channel.drafts import parse_transaction
from picopayments_cli.channel.past import Own
from picopayments_cli.channel.values import Height


def of_kind(value: Any, kind: type) -> Any:
    """Check that a value is of exactly a kind. Raises TypeError."""
    if type(value) is not kind:  # a boolean is no number
        raise TypeError(f"it should be {kind.__name__}")
    return value


def text(value: Any) -> str:
    """Take a text. Raises TypeError."""
    return str(of_kind(value, str))


def switch(value: Any) -> bool:
    """Take a boolean. Raises TypeError."""
    return bool(of_kind(value, bool))


def items(value: Any) -> list[Any]:
    """Take a list. Raises TypeError."""
    return list(of_kind(value, list))


def members(value: Any) -> dict[str, Any]:
    """Take an object. Raises TypeError."""
    return dict(of_kind(value, dict))


def whole(value: Any) -> int:
    """Take a whole number from 0. Raises TypeError, ValueError."""
    if of_kind(value, int) < 0:
        raise ValueError("it should be 0 at least")
    return int(value)


def own_transaction(value: Any) -> Own:
    """Take a transaction of the wallet's own, and since when it is seen, or missing. Raises TypeError, ValueError."""
    raw_hex, *seen = items(value)
    height, missing = (None if number is None else Height(whole(number)) for number in seen)
    raw = bytes.fromhex(text(raw_hex))
    if parse_transaction(raw) is None:
        raise ValueError("it should be a transaction")
    return Own(raw, height, missing)

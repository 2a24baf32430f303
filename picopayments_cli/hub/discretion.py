"""Tell strangers that the hub's nodes failed, and neither where these are nor what they said."""

from __future__ import annotations

from picopayments_cli.errors import NodeBehind, PicopaymentsError, TooMuchAsked, Unreachable

_AWAY = "The hub can't reach the blockchain now. Repeat the command later, or ask the hub's operator."


def for_strangers(error: PicopaymentsError) -> PicopaymentsError:
    """The error as it may leave the hub; any other than a node's failure is as it was."""
    if not isinstance(error, Unreachable):
        return error
    numbers = {name: value for name, value in error.data.items() if isinstance(value, (int, float))}
    return type(error)(error.message if isinstance(error, (NodeBehind, TooMuchAsked)) else _AWAY, **numbers)

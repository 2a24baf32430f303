"""Tell strangers that the hub's nodes or its database failed, and neither where these are nor what they said."""

from __future__ import annotations

from picopayments_cli.errors import DatabaseUnusable, NodeBehind, PicopaymentsError, TooMuchAsked, Unreachable

_AWAY = "The hub can't reach the blockchain now. Repeat the command later, or ask the hub's operator."
_NO_BOOKS = "The hub can't use its database now. Repeat the command later, or ask the hub's operator."


def for_strangers(error: PicopaymentsError) -> PicopaymentsError:
    """The error as it may leave the hub; any other than a failure of a node or the database is as it was."""
    if isinstance(error, DatabaseUnusable):
        return DatabaseUnusable(_NO_BOOKS)
    if not isinstance(error, Unreachable):
        return error
    numbers = {name: value for name, value in error.data.items() if isinstance(value, (int, float))}
    return type(error)(error.message if isinstance(error, (NodeBehind, TooMuchAsked)) else _AWAY, **numbers)

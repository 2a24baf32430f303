"""Show many connections by a few columns of each: a page of all, or those named, by one statement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, Connection, Row, ScalarSelect, Select, bindparam, func, select

from picopayments_cli.channel.values import Handle
from picopayments_cli.hub.schema import commits, connections

_HANDLES: BindParameter[Any] = bindparam("handles", expanding=True)


@dataclass(frozen=True)
class Summary:
    """A connection in short. ``expiry``, ``balance``: None before mph_deposit; the balance is the hub's guaranteed."""

    handle: Handle
    asset: str
    stage: str
    expiry: int | None
    balance: int | None


def _moved(*, sent: bool) -> ScalarSelect[Any]:
    """The highest commit that was not given back, of one channel."""
    highest = select(func.max(commits.c.quantity)).where(
        commits.c.handle == connections.c.handle, commits.c.sent.is_(sent), commits.c.active.is_(True)
    )
    return highest.correlate(connections).scalar_subquery()


_SHOWN = (*(connections.c[name] for name in ("handle", "asset", "stage", "expiry", "promised")),)
_ALL: Select[Any] = select(*_SHOWN, _moved(sent=True).label("sent"), _moved(sent=False).label("received"))
_NAMED = _ALL.where(connections.c.handle.in_(_HANDLES))
_PAGE = _ALL.where(connections.c.handle > bindparam("after")).order_by(connections.c.handle).limit(bindparam("most"))


def named(db: Connection, handles: Iterable[Handle]) -> list[Summary]:
    """Show those of the handles that there are."""
    asked = list(dict.fromkeys(handles))
    return [_summary(row) for row in db.execute(_NAMED, {"handles": asked})] if asked else []


def page(db: Connection, after: bytes, limit: int, stage: str | None, asset: str | None) -> Sequence[Summary]:
    """Show so many connections behind a handle, by handle; in one stage, and of one asset, where these are named."""
    statement, asked = _PAGE, {"after": after, "most": limit}
    if stage is not None:
        statement, asked = statement.where(connections.c.stage == bindparam("in_stage")), {**asked, "in_stage": stage}
    if asset is not None:
        statement, asked = statement.where(connections.c.asset == bindparam("of")), {**asked, "of": asset}
    return [_summary(row) for row in db.execute(statement, asked)]


def _summary(row: Row[Any]) -> Summary:
    balance = None if row.promised is None else row.promised + (row.received or 0) - (row.sent or 0)
    return Summary(Handle(bytes(row.handle)), row.asset, row.stage, row.expiry, balance)

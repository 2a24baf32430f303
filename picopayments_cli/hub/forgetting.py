"""End promises that nobody has paid for, and drop what nothing needs any more: some hundred rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam, exists, func, not_, or_, select

from picopayments_cli.channel.deadlines import lapsed_since
from picopayments_cli.channel.networks import Network
from picopayments_cli.channel.stages import AGREED, CLOSED, REQUESTED
from picopayments_cli.channel.values import Handle
from picopayments_cli.hub.account import DONE, LISTED, RETURNED, WAITING
from picopayments_cli.hub.batches import AT_ONCE
from picopayments_cli.hub.book import UnitOfWork
from picopayments_cli.hub.database import meta_get, meta_set
from picopayments_cli.hub.schema import connections, deposits, hashes, heads, payments, promises

KEPT_SECONDS = 30 * 86_400  # that a payment is kept for its receipt once it has arrived
_PAYMENTS = "payments forgotten"  # the number up to which they were looked at
_SOME: BindParameter[Any] = bindparam("some", expanding=True)
_PAID_TO = exists().where(deposits.c.handle == connections.c.handle)
_NEVER_FUNDED = (
    connections.c.c2h_anchor.is_(None),
    connections.c.h2c_anchor.is_(None),
    connections.c.deposit_raw.is_(None),
)
_OF_CLOSED = exists().where(connections.c.handle == payments.c.payee, connections.c.stage == CLOSED)
_LAPSED = (
    select(connections.c.handle, connections.c.asset)
    .join(heads, heads.c.handle == connections.c.handle)
    .where(connections.c.stage == AGREED, connections.c.agreed_at <= bindparam("agreed_by"))
    .where(*_NEVER_FUNDED, ~_PAID_TO)
    .order_by(connections.c.handle)
    .limit(AT_ONCE)
    .with_for_update()
)
_LAPSE = (
    heads.update().where(heads.c.handle.in_(_SOME)).values(version=heads.c.version + 1),
    connections.update()
    .where(connections.c.handle.in_(_SOME))
    .values(stage=CLOSED, since=bindparam("tip"), due_height=bindparam("tip")),
    promises.delete().where(promises.c.handle.in_(_SOME)),
)
_CLOSED_BETWEEN = select(connections.c.handle).where(
    connections.c.stage == CLOSED,
    connections.c.due_height > bindparam("after"),
    connections.c.due_height <= bindparam("height"),
)
_REQUESTED = (
    select(connections.c.handle, connections.c.asset)
    .where(connections.c.stage == REQUESTED, connections.c.due_height <= bindparam("height"))
    .order_by(connections.c.handle)
    .limit(AT_ONCE)
    .with_for_update()
)
_OLDEST = (
    select(connections.c.handle, connections.c.asset)
    .join(heads, heads.c.handle == connections.c.handle)
    .where(connections.c.stage == REQUESTED)
    .order_by(connections.c.due_height, connections.c.handle)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)  # one that is being agreed on stays
)
# A payment to one that was closed all the same is no deposit that counts; a payment since then is looked at first.
_UNTOLD = _PAID_TO.where(or_(deposits.c.height.is_(None), deposits.c.height > connections.c.due_height))
_UNPAID = (
    select(connections.c.handle, connections.c.asset)
    .where(connections.c.handle.in_(_SOME), connections.c.stage == CLOSED, *_NEVER_FUNDED, not_(_UNTOLD))
    .order_by(connections.c.handle)
    .with_for_update()
)
_AT_CURSOR = (
    select(payments.c.number, payments.c.state, payments.c.time, _OF_CLOSED.label("closed"))
    .where(
        payments.c.number > bindparam("after"),
        payments.c.number < select(func.max(payments.c.number)).scalar_subquery(),
    )
    .order_by(payments.c.number)
    .limit(AT_ONCE)
)
_DROP_PAYMENTS = payments.delete().where(payments.c.number.in_(_SOME))
_DROP_RECEIVED = payments.delete().where(
    payments.c.payee.in_(_SOME), payments.c.number <= bindparam("after"), payments.c.state != WAITING
)
_DROP = tuple(table.delete().where(table.c.handle.in_(_SOME)) for table in (connections, heads, hashes, promises))


def lapse(work: UnitOfWork, tip: int, network: Network) -> int:
    """Close promises whose time is over and to which nobody has paid anything; how many, some hundred at most.

    Bitcoin Core alone tells that, and nothing is to be taken back.
    """
    rows = work.db.execute(_LAPSED, {"agreed_by": lapsed_since(tip, network)}).all()
    for statement in _LAPSE if rows else ():
        work.db.execute(statement, {"some": [row.handle for row in rows], "tip": tip})
    _move(work, rows, AGREED, CLOSED)
    work.wrote = work.wrote or bool(rows)
    return len(rows)


def closed_between(db: Connection, after: int, height: int) -> list[Handle]:
    """The handles of connections that were closed behind one height and by another."""
    rows = db.execute(_CLOSED_BETWEEN, {"after": after, "height": height})
    return [Handle(bytes(row.handle)) for row in rows]


def forget_requests(work: UnitOfWork, height: int) -> int:
    """Drop connections that were asked for and never agreed on in time; how many, some hundred at most."""
    return _drop(work, work.db.execute(_REQUESTED, {"height": height}).all(), REQUESTED)


def make_room(work: UnitOfWork, most: int) -> None:
    """Drop the oldest connections that were asked for and never agreed on, so that there are fewer than so many.

    Nothing was promised to them, and there is no deposit that could be theirs.
    """
    number = sum(number for (_, stage), number in work.totals().items() if stage == REQUESTED)
    if number >= most:
        _drop(work, work.db.execute(_OLDEST, {"most": min(number - most + 1, AT_ONCE)}).all(), REQUESTED)


def forget_promises(work: UnitOfWork, closed: Sequence[Handle]) -> int:
    """Drop those of a few closed connections that never had a deposit; how many."""
    return _drop(work, work.db.execute(_UNPAID, {"some": closed}).all(), CLOSED)


def forget_payments(work: UnitOfWork, now: float) -> int:
    """Look at some hundred of the oldest payments, and drop what nobody asks for any more; how many were looked at.

    That is what arrived, or returned, a month ago: until then its payer may ask for a receipt. The last number stays,
    which tells how many there were.
    """
    after = int(meta_get(work.db, _PAYMENTS) or 0)
    rows = [row for row in work.db.execute(_AT_CURSOR, {"after": after}) if row.time < now - KEPT_SECONDS]
    gone = [row.number for row in rows if row.state in (DONE, RETURNED) or (row.state == LISTED and row.closed)]
    if gone:
        work.db.execute(_DROP_PAYMENTS, {"some": gone})
    if rows:
        meta_set(work.db, _PAYMENTS, str(rows[-1].number))
    return len(rows)


def forget_received(work: UnitOfWork, closed: Sequence[Handle]) -> None:
    """Drop the payments to connections that closed long ago which waited, or were listed, for more than a month."""
    work.db.execute(_DROP_RECEIVED, {"some": closed, "after": int(meta_get(work.db, _PAYMENTS) or 0)})


def _drop(work: UnitOfWork, rows: Sequence[Any], stage: str) -> int:
    for statement in _DROP if rows else ():
        work.db.execute(statement, {"some": [row.handle for row in rows]})
    _move(work, rows, stage, None)
    return len(rows)


def _move(work: UnitOfWork, rows: Sequence[Any], before: str, after: str | None) -> None:
    for row in rows:
        work.moves.add(row.asset, before, after)

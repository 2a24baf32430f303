"""Columns, indices and sums by which the hub asks for what changed, whatever the number of its connections."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "size_01"
down_revision = "3_0001"

_AT_ONCE = 1000


def upgrade() -> None:
    """Make them, and fill them from the rows that there are."""
    _add_columns()
    op.create_table(
        "totals",
        sa.Column("asset", sa.Text, primary_key=True),
        sa.Column("stage", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "awaited",
        sa.Column("script", sa.LargeBinary, primary_key=True),
        sa.Column("handle", sa.LargeBinary, nullable=False, index=True),
    )
    op.create_table(
        "touched",
        sa.Column("handle", sa.LargeBinary, primary_key=True),
        sa.Column("shaken", sa.Boolean, nullable=False),
    )
    _fill()


def _add_columns() -> None:
    op.add_column("connections", sa.Column("asset", sa.Text, nullable=False, server_default=""))
    op.add_column("connections", sa.Column("agreed_at", sa.Integer))
    op.add_column("connections", sa.Column("expiry", sa.Integer))
    op.add_column("connections", sa.Column("promised", sa.BigInteger))
    op.drop_index("ix_connections_stage", "connections")
    op.drop_index("ix_connections_due_height", "connections")
    op.create_index("ix_connections_stage_handle", "connections", ["stage", "handle"])
    op.create_index("ix_connections_stage_due_height", "connections", ["stage", "due_height"])
    op.create_index("ix_connections_stage_expiry", "connections", ["stage", "expiry"])


def _fill() -> None:
    """Fill columns, sums and awaited addresses; those to which anything may have happened are looked at again."""
    db, after = op.get_bind(), b""
    page = sa.text(
        "SELECT handle, stage, fixed, c2h_anchor, h2c_anchor FROM connections WHERE handle > :after ORDER BY handle "
        "LIMIT :most"
    )
    while rows := db.execute(page, {"after": after, "most": _AT_ONCE}).all():
        columns = [_columns(row) for row in rows]
        db.execute(
            sa.text(
                "UPDATE connections SET asset = :asset, agreed_at = :agreed_at, expiry = :expiry, promised = :promised "
                "WHERE handle = :handle"
            ),
            columns,
        )
        awaited = [item for row in rows for item in _awaited(row)]
        if awaited:
            db.execute(sa.text("INSERT INTO awaited (script, handle) VALUES (:script, :handle)"), awaited)
        after = bytes(rows[-1].handle)
    db.execute(
        sa.text(
            "INSERT INTO totals (asset, stage, number) "
            "SELECT asset, stage, count(*) FROM connections GROUP BY asset, stage"
        )
    )
    db.execute(
        sa.text(
            "INSERT INTO touched (handle, shaken) SELECT handle, :shaken FROM connections "
            "WHERE stage IN ('agreed', 'open', 'closing')"
        ),
        {"shaken": False},
    )


def _columns(row: Any) -> dict[str, Any]:
    told = json.loads(row.fixed)
    agreed = "height" in told
    return {
        "handle": row.handle,
        "asset": told["asset"],
        "agreed_at": told["height"] - told["time"] if agreed else None,
        "expiry": told["height"] if agreed else None,
        "promised": int(told["h2c"]["quantity"]) if agreed else None,
    }


def _awaited(row: Any) -> list[dict[str, Any]]:
    """The scripts of deposits that are not there yet."""
    if row.stage not in ("agreed", "closing") or None not in (row.c2h_anchor, row.h2c_anchor):
        return []
    from picopayments_cli.hub.account import fixed_of

    sending, receiving = fixed_of(row.fixed).contracts
    sides = ((row.h2c_anchor, sending), (row.c2h_anchor, receiving))
    return [{"script": contract.deposit.output, "handle": row.handle} for anchor, contract in sides if anchor is None]

"""The table of what is promised to whom, by which it is bounded."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "liquidity_01"
down_revision = "postgres_01"
branch_labels = None
depends_on = None

_ASKED = sa.text(
    "SELECT handle, client, fixed FROM connections WHERE stage IN ('requested', 'agreed') AND h2c_anchor IS NULL"
)


def upgrade() -> None:
    """Make the table, and note in it the connections that were asked for."""
    promises = op.create_table(
        "promises",
        sa.Column("handle", sa.LargeBinary, primary_key=True),
        sa.Column("asset", sa.Text, nullable=False),
        sa.Column("client", sa.LargeBinary, nullable=False),
        sa.Column("asker", sa.Text),
        sa.Column("quantity", sa.BigInteger, nullable=False),
        sa.Column("matching", sa.BigInteger, nullable=False),
        sa.Column("backed", sa.Boolean, nullable=False),
    )
    for name in ("asset", "asker", "client"):
        op.create_index(f"ix_promises_{name}", "promises", [name])
    rows = []
    for row in op.get_bind().execute(_ASKED):
        fixed = json.loads(row.fixed)
        c2h, h2c = (fixed[name]["quantity"] if name in fixed else 0 for name in ("c2h", "h2c"))
        told = {"asset": fixed["asset"], "client": bytes(row.client), "asker": None}
        rows.append({"handle": bytes(row.handle), **told, "quantity": c2h, "matching": h2c, "backed": False})
    if rows:
        op.bulk_insert(promises, rows)

"""What the processes of one hub tell each other: how it stands, in one row, and which connections to look at."""

import sqlalchemy as sa
from alembic import op

revision = "workers_01"
down_revision = "operator_01"


def upgrade() -> None:
    """Make both tables, and the one row."""
    shared = op.create_table(
        "shared",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("seen", sa.Double, nullable=False),
        sa.Column("height", sa.Integer),
        sa.Column("rate", sa.Integer, nullable=False),
        sa.Column("guess", sa.Boolean, nullable=False),
        sa.Column("asked", sa.BigInteger, nullable=False),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("written", sa.BigInteger, nullable=False),
        sa.Column("draining", sa.Boolean, nullable=False),
        sa.Column("terms", sa.Text, nullable=False),
        sa.Column("terms_version", sa.BigInteger, nullable=False),
    )
    counts = {"asked": 0, "done": 0, "written": 0, "terms_version": 0}
    op.bulk_insert(
        shared,
        [{"name": "hub", "seen": 0.0, "rate": 1, "guess": True, "draining": False, "terms": "{}", **counts}],
    )
    op.create_table(
        "asked",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("handle", sa.LargeBinary, nullable=False),
    )

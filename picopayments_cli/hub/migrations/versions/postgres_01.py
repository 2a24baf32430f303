"""The lease by which one hub alone works on a database that many machines reach."""

import sqlalchemy as sa
from alembic import op

revision = "postgres_01"
down_revision = "size_01"


def upgrade() -> None:
    """Make the table, and its one row, which nobody holds yet."""
    leases = op.create_table(
        "leases",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.bulk_insert(leases, [{"name": "hub", "holder": "", "until": 0.0}])

"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables of the meta data and of the chain's index."""
    op.create_table(
        "meta",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    _create_chain_index()


def _create_chain_index() -> None:
    op.create_table(
        "blocks",
        sa.Column("height", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "scripts",
        sa.Column("script", sa.LargeBinary, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("since_height", sa.Integer, nullable=False),
    )
    op.create_table(
        "transactions",
        sa.Column("txid", sa.LargeBinary, primary_key=True),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("height", sa.Integer, index=True),
    )
    op.create_table(
        "outputs",
        sa.Column("txid", sa.LargeBinary, primary_key=True),
        sa.Column("vout", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("script", sa.LargeBinary, nullable=False, index=True),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.Column("spent_by", sa.LargeBinary, index=True),
    )
    op.create_table(
        "reservations",
        sa.Column("txid", sa.LargeBinary, primary_key=True),
        sa.Column("vout", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("purpose", sa.Text, nullable=False, index=True),
    )

"""The operator's own transactions, until they are buried."""

import sqlalchemy as sa
from alembic import op

revision = "operator_01"
down_revision = "liquidity_01"


def upgrade() -> None:
    """Make the table of what leaves the wallet for the operator."""
    op.create_table(
        "withdrawals",
        sa.Column("txid", sa.LargeBinary, primary_key=True),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("asset_id", sa.Text, nullable=False),
        sa.Column("quantity", sa.BigInteger, nullable=False),
        sa.Column("coins", sa.Text, nullable=False),
    )

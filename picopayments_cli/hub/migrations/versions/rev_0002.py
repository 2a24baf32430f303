"""The tables of connections, commits and payments."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables that hold money."""
    op.create_table(
        "connections",
        sa.Column("handle", sa.LargeBinary, primary_key=True),
        sa.Column("stage", sa.Text, nullable=False, index=True),
        sa.Column("fixed", sa.Text, nullable=False),
        sa.Column("sending_script", sa.LargeBinary, index=True),
        sa.Column("receiving_script", sa.LargeBinary, index=True),
        sa.Column("due_height", sa.Integer, nullable=False, index=True),
    )
    op.create_table(
        "heads",
        sa.Column("handle", sa.LargeBinary, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("head", sa.Text, nullable=False),
        sa.Column("last_hash", sa.LargeBinary),
        sa.Column("last_reply", sa.Text),
    )
    op.create_table(
        "hashes",
        sa.Column("handle", sa.LargeBinary, primary_key=True),
        sa.Column("hash", sa.LargeBinary, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "commits",
        sa.Column("handle", sa.LargeBinary, primary_key=True),
        sa.Column("revoke_hash", sa.LargeBinary, primary_key=True),
        sa.Column("sent", sa.Boolean, nullable=False),
        sa.Column("quantity", sa.BigInteger, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("script", sa.LargeBinary, index=True),
        sa.Column("number", sa.Integer),
        sa.Column("revoked", sa.Boolean, nullable=False),
        sa.Column("secret", sa.LargeBinary),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "payments",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("payer", sa.LargeBinary, nullable=False),
        sa.Column("payee", sa.LargeBinary),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("token", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_index("ix_payments_payee_state", "payments", ["payee", "state"])

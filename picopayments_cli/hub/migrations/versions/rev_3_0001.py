"""The tables of protocol 3."""

import sqlalchemy as sa
from alembic import op

revision = "3_0001"
down_revision = None


def upgrade() -> None:
    """Make the tables: what the chain showed, the connections, and what moves on them."""
    _create_chain()
    _create_connections()
    _create_movements()


def _create_chain() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "blocks",
        sa.Column("height", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "watched",
        sa.Column("txid", sa.LargeBinary, primary_key=True),
        sa.Column("vout", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("handle", sa.LargeBinary, nullable=False, index=True),
        sa.Column("anchor", sa.Boolean, nullable=False),
    )
    op.create_table(
        "spends",
        sa.Column("txid", sa.LargeBinary, primary_key=True),
        sa.Column("vout", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("spender", sa.LargeBinary, nullable=False, index=True),
        sa.Column("height", sa.Integer, index=True),
    )
    op.create_table(
        "deposits",
        sa.Column("txid", sa.LargeBinary, primary_key=True),
        sa.Column("handle", sa.LargeBinary, nullable=False, index=True),
        sa.Column("script", sa.LargeBinary, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("height", sa.Integer, index=True),
    )
    op.create_table(
        "sent",
        sa.Column("txid", sa.LargeBinary, primary_key=True),
        sa.Column("handle", sa.LargeBinary, nullable=False, index=True),
        sa.Column("payer", sa.Boolean, nullable=False),
        sa.Column("spends", sa.Text, nullable=False),
        sa.Column("fee", sa.BigInteger, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("coins", sa.Text, nullable=False),
    )


def _create_connections() -> None:
    op.create_table(
        "connections",
        sa.Column("handle", sa.LargeBinary, primary_key=True),
        sa.Column("client", sa.LargeBinary, nullable=False, index=True),
        sa.Column("stage", sa.Text, nullable=False, index=True),
        sa.Column("due_height", sa.Integer, nullable=False, index=True),
        sa.Column("fixed", sa.Text, nullable=False),
        sa.Column("deposit_digest", sa.LargeBinary),
        sa.Column("deposit_reply", sa.Text),
        sa.Column("deposit_raw", sa.LargeBinary),
        sa.Column("c2h_anchor", sa.Text),
        sa.Column("h2c_anchor", sa.Text),
        sa.Column("since", sa.Integer),
        sa.Column("stale", sa.Boolean, nullable=False),
        sa.Column("close_digest", sa.LargeBinary),
        sa.Column("close_reply", sa.Text),
    )
    op.create_table(
        "heads",
        sa.Column("handle", sa.LargeBinary, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("head", sa.Text, nullable=False),
        sa.Column("last_hash", sa.LargeBinary),
        sa.Column("last_reply", sa.Text),
    )


def _create_movements() -> None:
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
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("quantity", sa.BigInteger, nullable=False),
        sa.Column("remainder", sa.LargeBinary),
        sa.Column("secret", sa.LargeBinary),
        sa.Column("number", sa.Integer),
        sa.Column("signature", sa.LargeBinary),
        sa.Column("payout_signature", sa.LargeBinary),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "closes",
        sa.Column("handle", sa.LargeBinary, primary_key=True),
        sa.Column("payer", sa.Boolean, primary_key=True),
        sa.Column("quantity", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("signature", sa.LargeBinary),
        sa.Column("rest_signature", sa.LargeBinary),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "payments",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("payer", sa.LargeBinary, nullable=False),
        sa.Column("payee", sa.LargeBinary),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("token", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("receipt", sa.LargeBinary),
    )
    op.create_index("ix_commits_handle_sent_active_quantity", "commits", ["handle", "sent", "active", "quantity"])
    op.create_index("ix_payments_payee_state", "payments", ["payee", "state"])
    op.create_index("ix_payments_payer_token", "payments", ["payer", "token"])

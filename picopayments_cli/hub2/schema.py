"""The tables of the hub's database: the chain's index, the connections and their payments."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, Table, Text

# The conventions of index names, so that revisions made later can name what they alter.
METADATA = MetaData(naming_convention={"ix": "ix_%(table_name)s_%(column_0_name)s"})

meta = Table("meta", METADATA, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))

# The chain's index. A txid stands in wire order. What is in the mempool has the height NULL.
blocks = Table(
    "blocks",
    METADATA,
    Column("height", Integer, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
)
scripts = Table(
    "scripts",
    METADATA,
    Column("script", LargeBinary, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("since_height", Integer, nullable=False),
)
transactions = Table(
    "transactions",
    METADATA,
    Column("txid", LargeBinary, primary_key=True),
    Column("raw", LargeBinary, nullable=False),
    Column("height", Integer, index=True),
)
outputs = Table(
    "outputs",
    METADATA,
    Column("txid", LargeBinary, primary_key=True),
    Column("vout", Integer, primary_key=True, autoincrement=False),
    Column("script", LargeBinary, nullable=False, index=True),
    Column("value", BigInteger, nullable=False),
    Column("spent_by", LargeBinary, index=True),
)
# Kept apart from the outputs: a coin that a reorganisation hides for a while stays reserved.
reservations = Table(
    "reservations",
    METADATA,
    Column("txid", LargeBinary, primary_key=True),
    Column("vout", Integer, primary_key=True, autoincrement=False),
    Column("purpose", Text, nullable=False, index=True),
)

connections = Table(
    "connections",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("stage", Text, nullable=False, index=True),
    Column("fixed", Text, nullable=False),  # what changes once or twice in a connection's life
    Column("sending_script", LargeBinary, index=True),
    Column("receiving_script", LargeBinary, index=True),
    Column("due_height", Integer, nullable=False, index=True),  # when it must settle, or is forgotten
)
# What every sync changes, apart: the fewer pages of the file a sync touches, the sooner it is on disk.
heads = Table(
    "heads",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("head", Text, nullable=False),
    Column("last_hash", LargeBinary),
    Column("last_reply", Text),
)
hashes = Table(
    "hashes",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("hash", LargeBinary, primary_key=True),
    sqlite_with_rowid=False,
)
commits = Table(
    "commits",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("revoke_hash", LargeBinary, primary_key=True),
    Column("sent", Boolean, nullable=False),  # the hub is its payer
    Column("quantity", BigInteger, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("script", LargeBinary, index=True),  # that it pays to, where the hub is its payer
    Column("number", Integer),  # of the hub's own revoke secret
    Column("revoked", Boolean, nullable=False),
    Column("secret", LargeBinary),  # that the client revealed
    sqlite_with_rowid=False,
)
payments = Table(
    "payments",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("payer", LargeBinary, nullable=False),
    Column("payee", LargeBinary),
    Column("amount", BigInteger, nullable=False),
    Column("token", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
)
Index("ix_payments_payee_state", payments.c.payee, payments.c.state)

"""The tables of the hub's database: what it saw on the chain, the connections, their commits, closes and payments."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, Table, Text

from picopayments_cli.hub2 import schema as before

METADATA = MetaData(naming_convention={"ix": "ix_%(table_name)s_%(column_0_name)s"})

meta = before.meta.to_metadata(METADATA)
blocks = before.blocks.to_metadata(METADATA)
hashes = before.hashes.to_metadata(METADATA)  # that clients gave
payments = before.payments.to_metadata(METADATA)

# The chain, by outpoint. A txid stands in wire order. What is in the mempool has the height NULL.
watched = Table(
    "watched",
    METADATA,
    Column("txid", LargeBinary, primary_key=True),
    Column("vout", Integer, primary_key=True, autoincrement=False),
    Column("handle", LargeBinary, nullable=False, index=True),
    Column("anchor", Boolean, nullable=False),  # what spends it stops the connection, and is watched too
)
spends = Table(
    "spends",
    METADATA,
    Column("txid", LargeBinary, primary_key=True),
    Column("vout", Integer, primary_key=True, autoincrement=False),
    Column("spender", LargeBinary, nullable=False, index=True),
    Column("height", Integer, index=True),
)
# Transactions whose first output pays a deposit's address while its connection opens.
deposits = Table(
    "deposits",
    METADATA,
    Column("txid", LargeBinary, primary_key=True),
    Column("handle", LargeBinary, nullable=False, index=True),
    Column("script", LargeBinary, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("height", Integer, index=True),
)

connections = Table(
    "connections",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("client", LargeBinary, nullable=False, index=True),
    Column("stage", Text, nullable=False, index=True),
    Column("due_height", Integer, nullable=False, index=True),  # to settle by, or when it is forgotten, or was closed
    Column("fixed", Text, nullable=False),  # what never changes once mph_deposit is answered
    Column("deposit_digest", LargeBinary),
    Column("deposit_reply", Text),
    Column("deposit_raw", LargeBinary),  # the hub's own
    Column("c2h_anchor", Text),
    Column("h2c_anchor", Text),
    Column("since", Integer),  # the tip when it was stopped
    Column("close_digest", LargeBinary),
    Column("close_reply", Text),
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
# One row for each commit ever signed or received. Only remainder, secret and ``active`` change later.
commits = Table(
    "commits",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("revoke_hash", LargeBinary, primary_key=True),
    Column("sent", Boolean, nullable=False),  # the hub is its payer
    Column("active", Boolean, nullable=False),  # neither revoked nor given back
    Column("quantity", BigInteger, nullable=False),
    Column("remainder", LargeBinary),  # the client's signature, of a commit that was sent
    Column("secret", LargeBinary),  # that the client revealed
    Column("number", Integer),  # of the hub's own secret, of a commit that was received
    Column("signature", LargeBinary),  # the client's, of such a one
    Column("payout_signature", LargeBinary),
    sqlite_with_rowid=False,
)
Index("ix_commits_handle_sent_active_quantity", *(commits.c[name] for name in ("handle", "sent", "active", "quantity")))
closes = Table(
    "closes",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("payer", Boolean, primary_key=True),  # the hub is the payer
    Column("quantity", BigInteger, primary_key=True, autoincrement=False),
    Column("signature", LargeBinary),  # the client's of the close
    Column("rest_signature", LargeBinary),
    sqlite_with_rowid=False,
)
# What a node has taken of the hub's own transactions, with what it pays.
sent = Table(
    "sent",
    METADATA,
    Column("txid", LargeBinary, primary_key=True),
    Column("handle", LargeBinary, nullable=False, index=True),
    Column("payer", Boolean, nullable=False),  # of the channel that it is for
    Column("spends", Text, nullable=False),
    Column("fee", BigInteger, nullable=False),
    Column("size", Integer, nullable=False),
    Column("coins", Text, nullable=False),
)

"""The tables of the hub's database: what it saw on the chain, the connections, their commits, closes and payments."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, LargeBinary, MetaData, Table, Text

# The conventions of index names, so that revisions made later can name what they alter.
METADATA = MetaData(naming_convention={"ix": "ix_%(table_name)s_%(column_0_name)s"})

meta = Table("meta", METADATA, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))

# The chain, by outpoint. A txid stands in wire order. Rows of the mempool have the height NULL.
blocks = Table(
    "blocks",
    METADATA,
    Column("height", Integer, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
)
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
# The addresses of deposits that are waited for, as scripts.
awaited = Table(
    "awaited",
    METADATA,
    Column("script", LargeBinary, primary_key=True),
    Column("handle", LargeBinary, nullable=False, index=True),
)
# The connections to which the chain has done something, until a round has looked at them.
touched = Table(
    "touched",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("shaken", Boolean, nullable=False),  # a reorganisation took something of it back
)

connections = Table(
    "connections",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("client", LargeBinary, nullable=False, index=True),
    Column("stage", Text, nullable=False),
    Column("due_height", Integer, nullable=False),  # to settle by, or when it is forgotten, or was closed
    Column("fixed", Text, nullable=False),  # what never changes once mph_deposit is answered
    Column("deposit_digest", LargeBinary),
    Column("deposit_reply", Text),
    Column("deposit_raw", LargeBinary),  # the hub's own
    Column("c2h_anchor", Text),
    Column("h2c_anchor", Text),
    Column("since", Integer),  # the tip when it was stopped
    Column("stale", Boolean, nullable=False),  # its newest state may be missing here
    Column("close_digest", LargeBinary),
    Column("close_reply", Text),
    # Out of ``fixed``, for statements that ask by them:
    Column("asset", Text, nullable=False, server_default=""),
    Column("agreed_at", Integer),  # the tip when both deposits were agreed on
    Column("expiry", Integer),
    Column("promised", BigInteger),  # the hub's deposit
)
Index("ix_connections_stage_handle", connections.c.stage, connections.c.handle)
Index("ix_connections_stage_due_height", connections.c.stage, connections.c.due_height)
Index("ix_connections_stage_expiry", connections.c.stage, connections.c.expiry)
# How many connections there are, see ``totals.py``.
totals = Table(
    "totals",
    METADATA,
    Column("asset", Text, primary_key=True),
    Column("stage", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
)
# Connections asked for, until the hub's own deposit counts: what is promised to whom. 0: no deposit is agreed on yet.
promises = Table(
    "promises",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("asset", Text, nullable=False, index=True),
    Column("client", LargeBinary, nullable=False, index=True),
    Column("asker", Text, index=True),  # the address that asked, by which it is counted
    Column("quantity", BigInteger, nullable=False),  # that the client is to deposit
    Column("matching", BigInteger, nullable=False),  # that the hub is to
    Column("backed", Boolean, nullable=False),  # whether the client's wallet held it when it was agreed on
)
# The columns that every sync changes, apart: the fewer pages of the file a sync touches, the sooner it is on disk.
heads = Table(
    "heads",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("head", Text, nullable=False),
    Column("last_hash", LargeBinary),
    Column("last_reply", Text),
    Column("last_request", Text),  # that was answered last, as its client signed it, with the client's sealed state
)
# That the clients gave: one that is used again is refused.
hashes = Table(
    "hashes",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("hash", LargeBinary, primary_key=True),
    sqlite_with_rowid=False,
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
payments = Table(
    "payments",
    METADATA,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("payer", LargeBinary, nullable=False),
    Column("payee", LargeBinary),
    Column("amount", BigInteger, nullable=False),
    Column("token", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("time", BigInteger, nullable=False),  # when it was booked, by the hub's clock, in seconds since 1970
    Column("receipt", LargeBinary),  # that the payee has given, 32 bytes whose SHA-256 is the token
)
Index("ix_payments_payee_state", payments.c.payee, payments.c.state)
Index("ix_payments_payer_token", payments.c.payer, payments.c.token)
# The hub's own transactions that a node has taken, each with its fee.
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
# Who works on a database that many machines reach, and until when, by the database's clock in seconds since 1970.
leases = Table(
    "leases",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("until", Double, nullable=False),
)
# How a hub of several processes stands, in one row: what each of them must know that one of them has changed.
shared = Table(
    "shared",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("seen", Double, nullable=False),  # when the chain was seen whole, by the database's clock
    Column("height", Integer),
    Column("rate", Integer, nullable=False),
    Column("guess", Boolean, nullable=False),  # of the rate
    Column("asked", BigInteger, nullable=False),  # rounds that were asked for, and that were done
    Column("done", BigInteger, nullable=False),
    Column("written", BigInteger, nullable=False),  # grows where others than the rounds have written connections
    Column("draining", Boolean, nullable=False),
    Column("terms", Text, nullable=False),  # as a file would have them
    Column("terms_version", BigInteger, nullable=False),
)
# The connections that the next round is to look at, by who does not do the rounds.
asked = Table(
    "asked",
    METADATA,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("handle", LargeBinary, nullable=False),
)
# The operator's own transactions, until they are buried: their coins and quantities are spoken for.
withdrawals = Table(
    "withdrawals",
    METADATA,
    Column("txid", LargeBinary, primary_key=True),
    Column("raw", LargeBinary, nullable=False),
    Column("asset_id", Text, nullable=False),  # in decimal digits, as some exceed what a database counts to
    Column("quantity", BigInteger, nullable=False),
    Column("coins", Text, nullable=False),
)

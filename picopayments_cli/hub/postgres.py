"""PostgreSQL, and what speaks its protocol: how the hub connects to it, and which of its failures pass by themselves.

Isolation is READ COMMITTED with rows locked before they are read, in ascending order of their handles: what a sync
decides rests on few rows, all of which it locks. SERIALIZABLE takes whole pages of an index for read, and would make
syncs that have nothing in common fail each other. A reader sees one state (REPEATABLE READ), and locks nothing.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from picopayments_cli.errors import DatabaseUnusable

# Serialisation failure, deadlock, and a lock that another transaction held for too long: all is undone, and may be done
# again.
_PASSING = frozenset(("40001", "40P01", "55P03"))
_POOL_SIZE = 20  # connections that are kept, and as many more that are made: one for each thread that answers
_POOL_SECONDS = 10
_CONNECT_SECONDS = 10
# One whose machine is gone must not hold its locks for hours.
_SETTINGS = "SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '5min'"
_NOT_DURABLE = "SELECT name FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit') AND setting = 'off'"


def is_postgres(url: URL) -> bool:
    """Whether a URL names such a database."""
    return url.get_backend_name() == "postgresql"


def writing_engine(url: URL) -> Engine:
    """Connect as writers do. Raises ImportError where the driver is not installed."""
    if url.get_driver_name() != "psycopg":
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,  # the server may have been restarted
        pool_size=_POOL_SIZE,
        max_overflow=_POOL_SIZE,
        pool_timeout=_POOL_SECONDS,
        hide_parameters=True,
        connect_args={"connect_timeout": int(url.query.get("connect_timeout", _CONNECT_SECONDS))},  # type: ignore[arg-type]
    )
    event.listen(engine, "connect", _set_up)
    return engine


def reading_engine(engine: Engine) -> Engine:
    """The connections of the same pool, for readers."""
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _set_up(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_SETTINGS)
    connection.commit()


def check_durable(connection: Connection) -> None:
    """Refuse a server that calls kept what a loss of power takes away. Raises DatabaseUnusable."""
    off = sorted(connection.exec_driver_sql(_NOT_DURABLE).scalars())
    if off:
        raise DatabaseUnusable(
            f"The database would lose money with its power: set {' and '.join(off)} to on in its settings.",
            settings=off,
        )


def passes(error: DBAPIError) -> bool:
    """Whether a transaction that failed so may be done again: nothing of it was written."""
    return getattr(error.orig, "sqlstate", None) in _PASSING

"""The hub's database: one door through which its tables are written, another through which they are read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, create_engine, event, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError

from picopayments_cli.errors import DatabaseUnusable
from picopayments_cli.hub.schema import meta
from picopayments_cli.hub.sqlite_file import SqliteFile

# Statements are built once: building one takes longer than SQLite takes to run it.
_META_GET = select(meta.c.value).where(meta.c.key == bindparam("k"))
_META_DELETE = meta.delete().where(meta.c.key == bindparam("k"))
_META_INSERT = meta.insert()

_BUSY_TIMEOUT_MS = 10_000
_WRITING = "picopayments_writing"
_PROTOCOL_2 = {"0001", "0002"}  # revisions of the former program
_MIGRATIONS = Path(__file__).parent / "migrations"


def meta_get(connection: Connection, key: str) -> str | None:
    """Return the text kept under a key, or None."""
    value: str | None = connection.execute(_META_GET, {"k": key}).scalar()
    return value


def meta_set(connection: Connection, key: str, value: str) -> None:
    """Keep a text under a key, in place of what was there."""
    connection.execute(_META_DELETE, {"k": key})
    connection.execute(_META_INSERT, {"key": key, "value": value})


def meta_drop(connection: Connection, key: str) -> None:
    """Keep nothing under a key."""
    connection.execute(_META_DELETE, {"k": key})


def default_url(basedir: Path, network: str) -> URL:
    """Return the URL of the SQLite file that a hub uses where no other database is named."""
    return URL.create("sqlite", database=str(basedir / f"{network}.db"))


class Database:
    """One database, open. Written by one transaction at a time, read by any thread meanwhile."""

    def __init__(self, url: str | URL) -> None:
        """Open it, and bring its tables up to date.

        Raises DatabaseUnusable, StoreLocked and StoreUnusable, with nothing changed.
        """
        self._lock = threading.RLock()
        try:
            with ExitStack() as stack:
                path = sqlite_path(url)
                self._file = None if path is None else stack.enter_context(closing(SqliteFile(path)))
                self.engine = _engine(url)
                stack.callback(self.engine.dispose)
                _prepare(self.engine)
                # One connection is kept for writing: taking one from the pool for each transaction costs a third more.
                self._writer = stack.enter_context(self.engine.connect()).execution_options(**{_WRITING: True})
                self._open = stack.pop_all()
        except (ArgumentError, NoSuchModuleError, ImportError, OSError, DBAPIError) as error:
            raise _cannot_be_opened(error) from error

    @contextmanager
    def transaction(self, label: str) -> Iterator[Connection]:
        """Run one writing transaction: durable once the block is left, undone if an error leaves it.

        ``label`` names what is written. Transactions of a process wait for one another. Raises DatabaseUnusable
        where the database fails, and SQLAlchemy's IntegrityError where a row breaks a table's rules.
        """
        with self._lock:
            self._check_file()
            try:
                with self._writer.begin():
                    yield self._writer
            except IntegrityError:
                raise
            except DBAPIError as error:
                raise DatabaseUnusable(
                    f"The hub's database failed at {label!r}, and nothing of it was written: {_reason(error)}. "
                    "Check the disk's free space and the rights to the database.",
                    label=label,
                ) from error
            self._check_file()  # else what was written is lost with the process

    def _check_file(self) -> None:
        if self._file is not None:
            self._file.check()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read one consistent state; never wait for a writer. Raises DatabaseUnusable."""
        self._check_file()
        try:
            with self.engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise DatabaseUnusable(f"The hub's database can't be read: {_reason(error)}.") from error

    def close(self) -> None:
        """Give back every connection; waits for the transaction under way."""
        with self._lock:
            self._open.close()


def sqlite_path(url: str | URL) -> Path | None:
    """Return the file of a SQLite database, None for another kind. Raises DatabaseUnusable for memory, or no URL."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise _cannot_be_opened(error) from error
    if parsed.get_backend_name() != "sqlite":
        return None
    if parsed.database in (None, "", ":memory:"):
        raise DatabaseUnusable("A database in memory would lose money with the process: name a file in --database.")
    return Path(str(parsed.database))


def _cannot_be_opened(error: Exception) -> DatabaseUnusable:
    if isinstance(error, ImportError):
        driver = error.name or "its driver"
        return DatabaseUnusable(
            f"The driver {driver} of the hub's database is not installed: run `pip install {driver}` in the hub's "
            "environment, or name another database in --database.",
            driver=driver,
        )
    return DatabaseUnusable(
        f"The hub's database can't be opened: {_reason(error)}. Check --database, and the rights to its folder."
    )


def _reason(error: Exception) -> str:
    """Return the database's own words, without statement and parameters: these hold secrets."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).strip().rstrip(".") or type(cause).__name__


def _engine(url: str | URL) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True, hide_parameters=True)
    engine = create_engine(
        parsed, hide_parameters=True, connect_args={"check_same_thread": False, "isolation_level": None}
    )
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA synchronous = FULL")  # what was committed survives a loss of power
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and takes the write lock later could fail in between: take it at once.
    writing = connection.get_execution_options().get(_WRITING, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _prepare(engine: Engine) -> None:
    """Bring the tables to this program's revision, in one transaction."""
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    known = {revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()}
    with engine.connect().execution_options(**{_WRITING: True}) as connection:
        with connection.begin():
            present = set(MigrationContext.configure(connection).get_current_heads())
            if present & _PROTOCOL_2:
                raise DatabaseUnusable(
                    "The hub's database is of protocol 2, whose connections this program can't go on with. Let the "
                    "former program close them all (its --drain ends when it has), then move the database away, or "
                    "name another one in --database.",
                    revisions=sorted(present),
                )
            if not present <= known:
                raise DatabaseUnusable(
                    "The hub's database was written by a newer version of this program: upgrade the program.",
                    revisions=sorted(present - known),
                )
            if not present and inspect(connection).get_table_names():
                raise DatabaseUnusable(
                    "The database holds another program's tables: name another one in --database, or move it away."
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        _write_ahead(connection)


def _write_ahead(connection: Connection) -> None:
    """Switch SQLite to the write-ahead log, where readers do not wait; the mode stays with the file."""
    if connection.dialect.name != "sqlite":
        return
    cursor = connection.connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()

"""The hub's database: one door through which its tables are written, another through which they are read.

SQLite has one writer at a time, PostgreSQL as many as lock different rows.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine, bindparam, create_engine, event, inspect, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, TimeoutError

from picopayments_cli.errors import DatabaseBusy, DatabaseUnusable
from picopayments_cli.hub.lease import Lease, patiently
from picopayments_cli.hub.postgres import check_durable, is_postgres, passes, reading_engine, writing_engine
from picopayments_cli.hub.schema import leases, meta
from picopayments_cli.hub.sqlite_file import SqliteFile

if TYPE_CHECKING:
    from alembic.config import Config

T = TypeVar("T")

# Statements are built once: building one takes longer than SQLite takes to run it.
_META_GET = select(meta.c.value).where(meta.c.key == bindparam("k"))
_META_DELETE = meta.delete().where(meta.c.key == bindparam("k"))
_META_SET = text(
    "INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)

_ATTEMPTS = 6  # at a transaction that others keep from being written
_FIRST_PAUSE = 0.002  # seconds, twice as long each time
_fenced: ContextVar[bool] = ContextVar("fenced", default=False)
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
    connection.execute(_META_SET, {"key": key, "value": value})


def meta_drop(connection: Connection, key: str) -> None:
    """Keep nothing under a key."""
    connection.execute(_META_DELETE, {"k": key})


def default_url(basedir: Path, network: str) -> URL:
    """Return the URL of the SQLite file that a hub uses where no other database is named."""
    return URL.create("sqlite", database=str(basedir / f"{network}.db"))


def again(attempt: Callable[[], T]) -> T:
    """Run a whole transaction, and run it again while others keep it from being written. Raises DatabaseBusy."""
    for number in range(_ATTEMPTS - 1):
        try:
            return attempt()
        except DatabaseBusy:
            time.sleep(random.uniform(0, _FIRST_PAUSE * 2**number))
    return attempt()


class Database:
    """One database, open, of one hub. Any thread writes and reads; SQLite has writers wait for one another.

    ``shared``: whether other processes of the hub write to it, too. ``lease``: of a server's database.
    """

    def __init__(self, url: str | URL, member: str | None = None) -> None:
        """Open it, and bring its tables up to date.

        ``member``: the name by which this process takes the lease for the rounds, where it is one of a hub's several;
        None: it is the only one. Raises DatabaseUnusable, StoreLocked and StoreUnusable, with nothing changed.
        """
        path = sqlite_path(url)
        self._turns: AbstractContextManager[object] = nullcontext() if path is None else threading.RLock()
        self.shared = member is not None
        self._lease: Lease | None = None
        try:
            with ExitStack() as stack:
                if path is None:
                    self._open_postgres(make_url(url), member, stack)
                else:
                    self._open_sqlite(make_url(url), path, stack)
                self._open = stack.pop_all()
        except (ArgumentError, NoSuchModuleError, ImportError, OSError, DBAPIError, TimeoutError) as error:
            raise _cannot_be_opened(error) from error

    def _open_sqlite(self, url: URL, path: Path, stack: ExitStack) -> None:
        self._check = stack.enter_context(closing(SqliteFile(path))).check
        self.engine = self._readers = _sqlite_engine(url)
        stack.callback(self.engine.dispose)
        _prepare(self.engine)
        # One connection is kept for writing: taking one from the pool for each transaction costs a third more.
        writer = stack.enter_context(self.engine.connect()).execution_options(**{_WRITING: True})
        self._writer: Callable[[], AbstractContextManager[Connection]] = lambda: nullcontext(writer)

    def _open_postgres(self, url: URL, member: str | None, stack: ExitStack) -> None:
        self.engine = writing_engine(url)
        stack.callback(self.engine.dispose)
        self._readers, self._writer = reading_engine(self.engine), self.engine.connect
        self._lease = lease = Lease(self.engine, member)
        self._check = lambda: None if self.shared else lease.check()
        patiently(lambda: _prepare(self.engine, lease, alone=not self.shared))
        if not self.shared:
            lease.keep()
        stack.callback(lease.give_back)

    @property
    def lease(self) -> Lease:
        """The lease of a server's database."""
        if self._lease is None:
            raise ValueError("a file is of one process")
        return self._lease

    def join(self) -> bool:
        """Take the lease to begin with, from who died once it is over; False where its holder goes on.

        Raises StoreLocked where that shares nothing, DatabaseUnusable.
        """
        try:
            return self.lease.take_unless_renewed()
        except (DBAPIError, TimeoutError) as error:
            raise _unreadable(error) from error

    @contextmanager
    def transaction(self, label: str) -> Iterator[Connection]:
        """Run one writing transaction: durable once the block is left, undone if an error leaves it.

        ``label`` names what is written. Raises DatabaseUnusable where the database fails, DatabaseBusy where others
        kept it from being written, and SQLAlchemy's IntegrityError where a row breaks a table's rules.
        """
        with self._turns:
            self._check()
            committing = False
            try:
                with self._writer() as connection, connection.begin():
                    if self._lease is not None and _fenced.get():
                        self._lease.fence(connection)
                    yield connection
                    committing = True
            except IntegrityError:
                raise
            except (DBAPIError, TimeoutError) as error:
                raise _failed(label, error, certain=self._lease is None or not committing) from error
            self._check()  # else what was written is lost with the process

    def confirm(self) -> None:
        """See, before anything leaves, that the database is this hub's still. Raises DatabaseUnusable."""
        self._check()
        if self._lease is not None:
            try:
                self._lease.confirm()
            except (DBAPIError, TimeoutError) as error:
                raise _unreadable(error) from error

    @contextmanager
    def fenced(self) -> Iterator[None]:
        """Have this thread's transactions fail from the moment on at which another hub has taken the database over."""
        token = _fenced.set(True)
        try:
            yield
        finally:
            _fenced.reset(token)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read one consistent state; never wait for a writer. Raises DatabaseUnusable."""
        self._check()
        try:
            with self._readers.connect() as connection:
                yield connection
        except (DBAPIError, TimeoutError) as error:
            raise _unreadable(error) from error

    def close(self) -> None:
        """Give back every connection; waits for the transaction under way."""
        with self._turns:
            self._open.close()


def sqlite_path(url: str | URL) -> Path | None:
    """Return the file of a SQLite database, None for PostgreSQL. Raises DatabaseUnusable for any other, and memory."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise _cannot_be_opened(error) from error
    if is_postgres(parsed):
        return None
    if parsed.get_backend_name() != "sqlite":
        raise DatabaseUnusable("The hub keeps its books in SQLite or PostgreSQL: name one of them in --database.")
    if parsed.database in (None, "", ":memory:"):
        raise DatabaseUnusable("A database in memory would lose money with the process: name a file in --database.")
    return Path(str(parsed.database))


def _cannot_be_opened(error: Exception) -> DatabaseUnusable:
    if isinstance(error, ImportError):
        return DatabaseUnusable(
            "The driver of the hub's database is not installed: run `pip install 'picopayments-cli[postgres]'` in the "
            "hub's environment, or name another database in --database.",
            driver=error.name or "psycopg",
        )
    return DatabaseUnusable(
        f"The hub's database can't be opened: {_reason(error)}. Check --database, that its server runs, and the rights."
    )


def _unreadable(error: DBAPIError | TimeoutError) -> DatabaseUnusable:
    return DatabaseUnusable(
        f"The hub's database can't be read: {_reason(error)}. Check its file or server, and the rights to it."
    )


def _failed(label: str, error: DBAPIError | TimeoutError, *, certain: bool) -> DatabaseBusy | DatabaseUnusable:
    """Make the error of a transaction; ``certain``: whether it is known that nothing was written."""
    if isinstance(error, DBAPIError) and passes(error):
        return DatabaseBusy(
            f"Others kept the hub from writing {label!r}, and nothing of it was written: try again.", label=label
        )
    outcome = "and nothing of it was written" if certain else "and it is not known whether it was written"
    return DatabaseUnusable(
        f"The hub's database failed at {label!r}, {outcome}: {_reason(error)}. Check its server, the disk's free space "
        "and the rights to the database.",
        label=label,
    )


def _reason(error: Exception) -> str:
    """Return the database's own words, without statement and parameters: these hold secrets."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).strip().partition("\n")[0].rstrip(".") or type(cause).__name__


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url, hide_parameters=True, connect_args={"check_same_thread": False, "isolation_level": None}
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


def migrations() -> Config:
    """Make Alembic's settings, which knows the tables' revisions."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _prepare(engine: Engine, lease: Lease | None = None, *, alone: bool = True) -> None:
    """Bring the tables to this program's revision, in one transaction, which takes the lease where there is one.

    One of several processes (not ``alone``) takes it for a change of tables only.
    """
    from alembic import command
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = migrations()
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
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
            if lease is not None:
                check_durable(connection)
                upgrades = present != set(script.get_heads())
                if (alone or upgrades) and inspect(connection).has_table(leases.name):
                    lease.take(connection)  # before another hub's tables are changed under it
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            if lease is not None and alone:
                lease.take(connection)
        _write_ahead(connection)


def _write_ahead(connection: Connection) -> None:
    """Switch SQLite to the write-ahead log, where readers do not wait; the mode stays with the file."""
    if connection.dialect.name != "sqlite":
        return
    cursor = connection.connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()

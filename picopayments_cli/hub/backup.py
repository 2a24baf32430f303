"""Writes into one file what a hub needs to come back, database and terms; its key opens the file, and is not in it.

It is a file of sealed parts. The first one tells ``time``, ``revisions`` of the tables, and ``terms`` as their file has
them. Each further one has rows of a table: a line with ``table`` and ``columns``, and a line for each row, in which
bytes stand as a list of their hex. The last one counts the ``rows`` of each table. All this is the same whether the
database is SQLite or PostgreSQL.

The witness and the marks are not in it: beside them, and without them, a database from a backup is refused as one that
is not the newest, so that nobody goes on with it by mistake.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Table, select

from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import Network
from picopayments_cli.errors import StoreUnusable
from picopayments_cli.files import flush_folder, usable
from picopayments_cli.hub.database import Database
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.schema import METADATA, leases
from picopayments_cli.sealed_file import Owner, Place, part

FORMAT = "picopayments-hub-backup"
_ROWS = 1000  # in a part


def owner_of(network: Network, key: Key) -> Owner:
    """Tell who seals the backups of a hub."""
    return Owner(FORMAT, network.name, key.secret)


def back_up(folder: Folder, database: Database, target: Path, outdate: Callable[[], None]) -> dict[str, Any]:
    """Write a backup, for its owner only, and wait until it is on disk; its path, size, and rows of each table.

    ``outdate`` is called once the database is copied, and makes the copy older than the database from then on. Raises
    StoreUnusable where the file is there already or can't be written, DatabaseUnusable.
    """
    owner = owner_of(folder.network, folder.key())
    with usable(target):
        if target.exists() or target.is_symlink():
            raise _taken(target)
        terms = folder.terms_path.read_text("utf-8")
        with _temporary(target) as temporary:
            with temporary.open("wb") as file, database.reading() as connection:
                file.write(owner.line)
                place = Place.first(owner)
                counted: dict[str, int] = {}
                for data in _parts(connection, terms, counted):
                    sealed, place = part(owner, place, data)
                    file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            outdate()
            try:
                os.link(temporary, target)  # which replaces nothing
            except FileExistsError:
                raise _taken(target) from None
        flush_folder(target.parent)
        return {"file": str(target), "bytes": target.stat().st_size, "rows": counted}


def _parts(connection: Connection, terms: str, counted: dict[str, int]) -> Iterator[bytes]:
    """Read one state of the database, and write its parts. ``counted`` gets the rows of each table."""
    tables = [table for table in METADATA.sorted_tables if table is not leases]  # which are of those who run now
    heads = MigrationContext.configure(connection).get_current_heads()
    time = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    yield json.dumps({"time": time, "revisions": sorted(heads), "terms": terms}).encode()
    for table in tables:
        counted[table.name] = 0
        for rows in _rows(connection, table):
            counted[table.name] += len(rows)
            head = json.dumps({"table": table.name, "columns": table.columns.keys()})
            yield "\n".join((head, *rows)).encode()
    yield json.dumps({"rows": counted}).encode()


def _rows(connection: Connection, table: Table) -> Iterator[list[str]]:
    """Read a table, some rows at a time, each as a line."""
    for rows in connection.execution_options(yield_per=_ROWS).execute(select(table)).partitions():
        yield [json.dumps([_told(value) for value in row], separators=(",", ":")) for row in rows]


def _told(value: Any) -> Any:
    return [value.hex()] if isinstance(value, (bytes, memoryview)) else value


def _taken(target: Path) -> StoreUnusable:
    return StoreUnusable(f"{target} is there already, and stays as it is: name a new file.", path=str(target))


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """Keep an empty file beside the target, for its owner only. Raises OSError."""
    path = target.with_name(f"{target.name}.tmp")
    path.unlink(missing_ok=True)  # left by a process that was killed
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield path
    finally:
        with suppress(OSError):
            path.unlink()

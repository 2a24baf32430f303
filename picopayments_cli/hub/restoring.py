"""Reads a hub's backup through, and puts one into an empty database, from which a hub only closes (``--restored``)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, Table, create_engine, func, inspect, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError

from picopayments_cli.channel.keys import Key
from picopayments_cli.errors import DatabaseUnusable, FolderNotEmpty, StoreDamaged
from picopayments_cli.files import check_own, flush_folder, replace_file, usable
from picopayments_cli.hub.backup import owner_of
from picopayments_cli.hub.database import migrations, sqlite_path
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.postgres import writing_engine
from picopayments_cli.sealed_file import Owner, not_whole, parts

Row = list[Any]
_KEPT = ("alembic_version", "leases")  # which are as new


@dataclass(frozen=True)
class _Rows:
    """Some rows of a table."""

    table: str
    columns: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class _Backup:
    """A backup that was read through: when it was made, of which tables' revisions, the terms, and how many rows."""

    time: str
    revisions: list[str]
    terms: str
    rows: dict[str, int]

    def shown(self, path: Path, folder: Folder) -> dict[str, Any]:
        """Show what is in it."""
        made = datetime.fromisoformat(self.time.replace("Z", "+00:00"))
        age = max(int((datetime.now(timezone.utc) - made).total_seconds()), 0)
        told = {"file": str(path), "network": folder.network.name, "made": self.time, "age": age}
        return {**told, "revisions": self.revisions, "rows": self.rows}


def verify(folder: Folder, path: Path) -> dict[str, Any]:
    """Read a backup through, and tell what is in it; nothing is changed. The key is the folder's.

    Raises BackupDamaged, ForeignBackup, StoreNewer, StoreDamaged, StoreUnusable.
    """
    return _read(path, owner_of(folder.network, _key(folder))).shown(path, folder)


def restore(folder: Folder, url: str | URL, path: Path) -> dict[str, Any]:
    """Put a backup into an empty database, and the terms into the folder where it has none; what was in it.

    Raises as ``verify`` does, FolderNotEmpty, DatabaseUnusable; then nothing is there.
    """
    with folder.locked():
        owner = owner_of(folder.network, _key(folder))
        found = _read(path, owner)
        file = sqlite_path(url)
        if file is None:
            _fill(writing_engine(make_url(url)), found, path, owner)
        else:
            _make(file, found, path, owner)
        with usable(folder.terms_path):
            if not folder.terms_path.exists():
                replace_file(folder.terms_path, found.terms.encode())
        return found.shown(path, folder)


def _key(folder: Folder) -> Key:
    """Read the hub's key, which is made nowhere here. Raises StoreDamaged."""
    with usable(folder.wif_path):
        if not folder.wif_path.exists():
            raise StoreDamaged(
                f"{folder.wif_path} is not there, and the hub's key is what opens a backup: put your copy of it there, "
                "readable for you alone (chmod 600). Nothing was changed.",
                path=str(folder.wif_path),
            )
    return folder.key()


# Reading ------------------------------------------------------------------------------------------------------------


def _read(path: Path, owner: Owner) -> _Backup:
    """Read a backup through. Raises as ``verify`` does."""
    counted: dict[str, int] = {}
    last: dict[str, Any] = {}
    with usable(path):
        check_own(path)
        items = _items(path, owner)
        try:
            head = next(items)
            for item in items:
                if last:
                    raise ValueError("something is behind its last part")
                if isinstance(item, _Rows):
                    counted[item.table] = counted.get(item.table, 0) + len(item.rows)
                else:
                    last = item
            told = str(head["time"]), [*map(str, head["revisions"])], str(head["terms"])
            rows = dict(last["rows"])
        except (KeyError, TypeError, ValueError, RecursionError, StopIteration):
            raise not_whole(path, "its last part is missing, or a part of it is none that a hub writes") from None
    if {name: count for name, count in rows.items() if count} != counted:
        raise not_whole(path, "rows of it are missing")
    return _Backup(*told, rows)


def _items(path: Path, owner: Owner) -> Iterator[Any]:
    """Read the parts of a backup: rows, or what the first and the last one tell. Raises OSError, ValueError too."""
    with path.open("rb") as file:
        for data, _ in parts(file, path, owner):
            line, *lines = data.decode().split("\n")
            told = json.loads(line)
            if "table" in told:
                rows = [[_value(item) for item in json.loads(row)] for row in lines]
                yield _Rows(told["table"], told["columns"], rows)
            else:
                yield told


def _value(told: Any) -> Any:
    return bytes.fromhex(told[0]) if isinstance(told, list) else told


# Writing ------------------------------------------------------------------------------------------------------------


def _make(file: Path, backup: _Backup, path: Path, owner: Owner) -> None:
    """Make a SQLite database, which is there whole or not at all. Raises FolderNotEmpty, StoreUnusable."""
    temporary = file.with_name(f"{file.name}.restoring")
    with usable(file):
        for end in ("", "-wal", "-shm", "-journal"):  # SQLite would put what is left of another database into this one
            part = file.with_name(file.name + end)
            if part.exists():
                raise _not_empty(str(part))
        temporary.unlink(missing_ok=True)  # left by a process that was killed
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            _fill(create_engine(URL.create("sqlite", database=str(temporary))), backup, path, owner)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
        flush_folder(file.parent)


def _fill(engine: Engine, backup: _Backup, path: Path, owner: Owner) -> None:
    """Make the tables as they were, and put the rows in, all in one transaction.

    Raises FolderNotEmpty, DatabaseUnusable.
    """
    from alembic import command
    from alembic.script import ScriptDirectory

    try:
        with engine.begin() as connection:
            if inspect(connection).get_table_names():
                raise _not_empty("The database")
            config = migrations()
            config.attributes["connection"] = connection
            known = {item.revision for item in ScriptDirectory.from_config(config).walk_revisions()}
            if not known.issuperset(backup.revisions):
                raise DatabaseUnusable(
                    f"{path} was written by a newer version of this program: install that version.",
                    revisions=backup.revisions,
                )
            for revision in backup.revisions:
                command.upgrade(config, revision)
            _insert_all(connection, (item for item in _items(path, owner) if isinstance(item, _Rows)))
    except DBAPIError as error:
        raise DatabaseUnusable(
            f"The database takes no backup: {str(error.orig).strip().partition(chr(10))[0]}. Nothing was changed in it."
        ) from error
    finally:
        engine.dispose()


def _insert_all(connection: Connection, rows: Iterable[_Rows]) -> None:
    """Put rows into tables that are as new. Their numbers go on behind the greatest."""
    metadata = MetaData()
    metadata.reflect(connection)
    tables = {name: table for name, table in metadata.tables.items() if name not in _KEPT}
    for table in tables.values():
        connection.execute(table.delete())  # what a revision has put there
    for item in rows:
        values = [dict(zip(item.columns, row, strict=True)) for row in item.rows]
        connection.execute(tables[item.table].insert(), values)
    if connection.dialect.name == "postgresql":
        for table in tables.values():
            _number_on(connection, table)


def _number_on(connection: Connection, table: Table) -> None:
    """Have PostgreSQL number on behind the rows that are there, where it numbers a table's rows."""
    for column in table.primary_key:
        sequence = func.pg_get_serial_sequence(table.name, column.name)
        name = connection.execute(select(sequence)).scalar()
        most = connection.execute(select(func.max(column))).scalar() if name is not None else None
        if most is not None:
            connection.execute(text("SELECT setval(:name, :most)"), {"name": name, "most": most})


def _not_empty(what: str) -> FolderNotEmpty:
    return FolderNotEmpty(
        f"{what} is not empty, and a backup takes the place of nothing: name another --database or --basedir, or move "
        "it away. Nothing was changed."
    )

"""Copy into one archive what a hub needs to come back: its database as it stands now, its key and its terms.

The witness and the marks are not in it: beside them, and without them, a database from an archive is refused as one
that is not the newest, so that nobody goes on with it by mistake.
"""

from __future__ import annotations

import os
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from picopayments_cli.errors import DatabaseUnusable, StoreUnusable
from picopayments_cli.files import flush_folder, usable
from picopayments_cli.hub.database import Database
from picopayments_cli.hub.folder import Folder


def back_up(folder: Folder, database: Database, target: Path, outdate: Callable[[], None]) -> dict[str, Any]:
    """Write the archive, for its owner only, and wait until it is on disk; its path and size.

    ``outdate`` is called once the database is copied, and makes the copy older than the database from then on. Raises
    StoreUnusable where the file is there already or can't be written, DatabaseUnusable.
    """
    source = _sqlite_file(database)
    with usable(target):
        if target.exists() or target.is_symlink():
            raise _taken(target)
        with _temporary(target, ".db") as copy, _temporary(target, ".tar") as archive:
            _copy(database, copy)
            outdate()
            with archive.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    _add(tar, copy, source.name)
                    for path in (folder.wif_path, folder.terms_path):
                        _add(tar, path, path.name)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(archive, target)  # which replaces nothing
            except FileExistsError:
                raise _taken(target) from None
        flush_folder(target.parent)
        return {"file": str(target), "bytes": target.stat().st_size}


def _taken(target: Path) -> StoreUnusable:
    return StoreUnusable(f"{target} is there already, and stays as it is: name a new file.", path=str(target))


def _sqlite_file(database: Database) -> Path:
    """The file of the database. Raises DatabaseUnusable for a server's."""
    url = database.engine.url
    if url.get_backend_name() != "sqlite":
        raise DatabaseUnusable(
            "The hub's database is on a server: copy it by the server's own means, and key and terms as files. "
            "Nothing was written."
        )
    return Path(str(url.database))


@contextmanager
def _temporary(target: Path, end: str) -> Iterator[Path]:
    """Keep an empty file beside the target, for its owner only. Raises OSError."""
    path = target.with_name(f"{target.name}{end}.tmp")
    path.unlink(missing_ok=True)  # left by a process that was killed
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield path
    finally:
        with suppress(OSError):
            path.unlink()


def _copy(database: Database, target: Path) -> None:
    """Copy the database as SQLite does it: one state, whatever is written meanwhile. Raises DatabaseUnusable."""
    with database.reading() as connection, closing(sqlite3.connect(target)) as copy:
        connection.connection.driver_connection.backup(copy)  # type: ignore[union-attr]
        copy.execute("PRAGMA journal_mode = DELETE")  # all of it is in this one file


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """Add a file by a name without a folder, with nobody's name at it."""
    with path.open("rb") as file:
        entry = tar.gettarinfo(arcname=name, fileobj=file)
        entry.mode, entry.uid, entry.gid, entry.uname, entry.gname = 0o600, 0, 0, "", ""
        tar.addfile(entry, file)

"""The file of a SQLite database: of one process alone, and missed where it is taken away.

SQLite goes on writing into a file that has no name any more, and all that is lost with the process.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from picopayments_cli.errors import DatabaseUnusable, StoreLocked
from picopayments_cli.files import check_private, real


class SqliteFile:
    """A database's file, locked until ``close``: the lock is the file's own, and so can't be taken away without it.

    Must be made before SQLite opens the file, and closed after SQLite has closed it: closing any descriptor of a file
    gives up SQLite's own locks on it.
    """

    def __init__(self, path: Path) -> None:
        """Make the file where there is none, for its owner only. Raises StoreLocked, StoreUnusable, OSError."""
        path = real(path)  # where SQLite keeps the others, too
        self._parts = tuple(path.with_name(path.name + end) for end in ("", "-wal", "-shm"))
        self._known: dict[Path, tuple[int, int]] = {}
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            for part in self._parts:
                check_private(part)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise StoreLocked(
                f"Another hub uses the database {path}: stop it, or name another --database.", path=str(path)
            ) from None
        except BaseException:
            os.close(self._descriptor)
            raise

    def check(self) -> None:
        """Check that the files are those that they were. Raises DatabaseUnusable."""
        for part in self._parts:
            try:
                status = os.stat(part)
            except FileNotFoundError:
                found = None
            else:
                found = (status.st_dev, status.st_ino)
            if found is not None:
                self._known.setdefault(part, found)
            if found != self._known.get(part):
                raise DatabaseUnusable(
                    f"{part} was taken away, or replaced, while the hub uses it. Nothing more is written or answered. "
                    "Stop the hub, put the newest database in place, and start it again.",
                    path=str(part),
                )

    def close(self) -> None:
        """Give up the lock."""
        os.close(self._descriptor)

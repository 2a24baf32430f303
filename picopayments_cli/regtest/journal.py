"""Keep the node's data on disk: raw blocks in the order of their arrival, the mempool, and a few named values."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from picopayments_cli.errors import StoreDamaged, StoreUnusable
from picopayments_cli.files import newer

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS blocks (number INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, raw BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS mempool (number INTEGER PRIMARY KEY, raw BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS named (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""


class Journal:
    """The node's SQLite file; hashes in wire order.

    A write is with the operating system when the call returns, so it survives the process's death at any time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._readable():
            self._db = sqlite3.connect(path, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise
        self._depth = 0

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise newer(self.path, version, _VERSION)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA user_version={_VERSION}")

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Raise StoreDamaged, or StoreUnusable for what passes, in place of the database's own errors."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreUnusable(
                f"The regtest chain's journal {self.path} can't be used now: {error}. Nothing of it is lost: see that "
                "the disk has room, and that the file's rights are right, and start again.",
                path=str(self.path),
            ) from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the second, where its message quotes the file
            raise StoreDamaged(
                f"{self.path} can't be read as the regtest chain's journal ({error}). Start in another folder, or "
                "remove this one: its coins are worth nothing.",
                path=str(self.path),
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Write all that happens inside at once, or, when it raises or the process dies, nothing of it."""
        self._depth += 1
        try:
            with self._readable():
                if self._depth == 1:
                    self._db.execute("BEGIN")
                yield
                if self._depth == 1:
                    self._db.execute("COMMIT")
        except BaseException:
            if self._depth == 1 and self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        finally:
            self._depth -= 1

    def get(self, name: str) -> bytes | None:
        """Return a named value."""
        with self._readable():
            row = self._db.execute("SELECT value FROM named WHERE name = ?", (name,)).fetchone()
            return None if row is None else _blob(row[0])

    def put(self, name: str, value: bytes) -> None:
        """Write a named value."""
        with self._readable():
            self._db.execute("INSERT OR REPLACE INTO named VALUES (?, ?)", (name, value))

    def add_block(self, block_hash: bytes, raw: bytes) -> None:
        """Append a block."""
        with self._readable():
            self._db.execute("INSERT INTO blocks (hash, raw) VALUES (?, ?)", (block_hash, raw))

    def drop_block(self, block_hash: bytes) -> None:
        """Forget a block that the kernel refused."""
        with self._readable():
            self._db.execute("DELETE FROM blocks WHERE hash = ?", (block_hash,))

    def blocks(self) -> Iterator[tuple[bytes, bytes]]:
        """Return the hash and raw bytes of all blocks, stale ones included, in the order of their arrival."""
        with self._readable():
            for found, raw in self._db.execute("SELECT hash, raw FROM blocks ORDER BY number"):
                yield _blob(found), _blob(raw)

    def block(self, block_hash: bytes) -> bytes | None:
        """Return a raw block, stale or not."""
        row = self._db.execute("SELECT raw FROM blocks WHERE hash = ?", (block_hash,)).fetchone()
        return None if row is None else bytes(row[0])

    def next_number(self) -> int:
        """Return a number that no block in the journal has."""
        return int(self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM blocks").fetchone()[0])

    def mempool(self) -> list[bytes]:
        """Return the raw transactions of the mempool, parents first."""
        with self._readable():
            return [_blob(row[0]) for row in self._db.execute("SELECT raw FROM mempool ORDER BY number")]

    def set_mempool(self, raws: Sequence[bytes]) -> None:
        """Replace the mempool."""
        with self.batch():
            self._db.execute("DELETE FROM mempool")
            self._db.executemany("INSERT INTO mempool (raw) VALUES (?)", [(raw,) for raw in raws])


def _blob(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise sqlite3.DataError("a value is of another type")
    return value

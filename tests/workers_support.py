"""A hub of several processes on PostgreSQL: the one that does the rounds, inside a test's process, and real ones."""

from __future__ import annotations

import contextlib
from pathlib import Path

from books_support import PostgresBooks
from hub_support import Desk

from picopayments_cli.hub.database import Database


class Rounding(Desk):
    """The process that does the rounds; it answers, too."""

    def start(self, *, restored: bool = False) -> None:
        if not isinstance(self.books, PostgresBooks):
            self.books = PostgresBooks()
        self.database = Database(self.books.url, "here rounds")
        assert self.database.join()
        self.database.lease.keep()
        self._begin(restored)

    def _made(self) -> None:
        self.hub.follows = True
        self.hub.put_on_offer(self.hub.offer)


def processes_of(supervisor: int) -> dict[int, str]:
    """What each of a hub's processes does, by its number: ``answers`` or ``rounds``; without its node."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "cmdline").read_text().split("\0")
            if parent == supervisor and any("hub.worker" in word for word in words):
                found[int(path.name)] = words[-2]
    return found

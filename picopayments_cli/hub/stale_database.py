"""A count of what is written, in the database and beside it: by it a hub notices that its database is not the newest.

So it does by a mark beside the database on a connection that goes on in it; and later by its clients, see ``stopping``.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from picopayments_cli.channel.stages import AGREED, OPEN
from picopayments_cli.errors import DatabaseOutdated
from picopayments_cli.files import replace_file, usable
from picopayments_cli.hub.book import Book
from picopayments_cli.hub.database import Database, meta_get, meta_set
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.marks import Marks
from picopayments_cli.hub.stopping import give_up

log = logging.getLogger(__name__)

NOTED_EVERY = 1.0  # seconds between two notes, at least
_KEY = "witness"
_EVER = 2**31 - 1  # as a count: later than all


@dataclass(frozen=True)
class _Note:
    """Which database it is, and how often something was written since it was noted first."""

    database: str
    count: int

    @staticmethod
    def parse(text: str | None) -> _Note | None:
        """Read a note; None where there is no text, and a note that no database has where it is garbled."""
        if text is None:
            return None
        try:
            body = json.loads(text)
            return _Note(str(body["database"]), int(body["count"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            return _Note("", _EVER)

    def text(self) -> str:
        """Write it as JSON."""
        return json.dumps({"database": self.database, "count": self.count})


class Witness:
    """A count in the database and, a moment later, in a file that no backup of the database brings back."""

    def __init__(self, path: Path, database: Database, book: Book) -> None:
        self._path = path
        self._database = database
        self._book = book
        self._noted_at = 0.0

    def check(self) -> None:
        """Compare the two. Raises DatabaseOutdated where the file knows a newer database, or another one."""
        beside, inside = self._beside(), self._inside()
        if inside is None and (beside is None or beside.count == 0):
            self.begin()
        elif beside is None:
            raise self._outdated("is not there, in which this database was counted")
        elif inside is None or inside.database != beside.database:
            raise self._outdated("was written with another database")
        elif inside.count < beside.count:
            raise self._outdated("was written with a newer state of this database")

    def check_marks(self, marks: Marks) -> None:
        """Look for what goes on in the database though a mark says that it was stopped. Raises DatabaseOutdated."""
        with self._book.reading() as book:
            if book.among(marks.handles, AGREED, OPEN):
                raise self._outdated("was written with a newer state of this database", marks.path)

    def _outdated(self, why: str, path: Path | None = None) -> DatabaseOutdated:
        return DatabaseOutdated(
            f"{path or self._path} {why}. Commits that were revoked since may be missing: use the newest database. If "
            "there is none, start once with --restored: the hub closes all connections then, at their clients' word.",
            path=str(path or self._path),
        )

    def begin(self) -> None:
        """Take the database as it is for the newest."""
        note = _Note(os.urandom(16).hex(), 0)
        with usable(self._path):
            replace_file(self._path, note.text().encode())  # first: a file of count 0 hinders nothing
        self._keep(note)

    def note(self, at_once: bool) -> None:
        """Count what was written to the book, in the database and then beside it: ``at_once``, or now and then."""
        due = at_once or time.monotonic() >= self._noted_at + NOTED_EVERY
        inside = self._inside() if self._book.changed and due else None
        if inside is None:
            return
        self._book.changed = False
        self._noted_at = time.monotonic()
        note = replace(inside, count=inside.count + 1)
        self._keep(note)
        self._write(note)

    def copy(self) -> None:
        """Note beside what stands in the database, which another process counts."""
        inside = self._inside()
        if inside is not None and inside != self._beside():
            self._write(inside)

    def _write(self, note: _Note) -> None:
        try:
            replace_file(self._path, note.text().encode())
        except OSError as error:
            log.warning("not noted", extra={"fields": {"path": str(self._path), "reason": str(error)}})

    def outdate_copies(self) -> None:
        """Count once more, so that no copy of the database that was made before passes for the newest."""
        self._book.changed = True
        self.note(True)

    def _beside(self) -> _Note | None:
        return _Note.parse(self._path.read_text("utf-8", "replace") if self._path.exists() else None)

    def _inside(self) -> _Note | None:
        with self._database.reading() as connection:
            return _Note.parse(meta_get(connection, _KEY))

    def _keep(self, note: _Note) -> None:
        with self._database.transaction("note") as connection:
            meta_set(connection, _KEY, note.text())


def see_age(hub: Hub, witness: Witness, *, restored: bool) -> None:
    """Refuse a database that is not the newest there was, unless the operator says that it was restored.

    Raises DatabaseOutdated.
    """
    if restored:
        give_up(hub)
        witness.begin()
    else:
        witness.check()
        witness.check_marks(hub.marks)

"""The database of a hub under test: SQLite, or PostgreSQL where the environment says ``HUB_DATABASE=postgresql``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from postgres_support import server
from sqlalchemy.engine import URL

from picopayments_cli.hub.database import default_url

ON_POSTGRES = os.environ.get("HUB_DATABASE") == "postgresql"


class SqliteBooks:
    """The file in the hub's folder."""

    def __init__(self, basedir: Path) -> None:
        self._basedir = basedir
        self.url = default_url(basedir, "regtest")

    def copy(self, folder: Path) -> None:
        """Copy the database, which nobody uses now, into a folder."""
        shutil.copy(self._basedir / "regtest.db", folder / "regtest.db")

    def put_back(self, folder: Path) -> None:
        """Put the copy of a folder in the place of the database, which nobody uses now."""
        for part in self._basedir.glob("regtest.db*"):
            part.unlink()
        shutil.copy(folder / "regtest.db", self._basedir / "regtest.db")


class PostgresBooks:
    """A database of a server's; a folder with a copy holds its name."""

    def __init__(self) -> None:
        self._name = server().database()

    @property
    def url(self) -> URL:
        """The database's URL."""
        return server().url(self._name)

    def copy(self, folder: Path) -> None:
        """Copy the database, which nobody uses now."""
        (folder / "database").write_text(server().database(self._name))

    def put_back(self, folder: Path) -> None:
        """Use a copy of the copy from now on."""
        server().drop(self._name)
        self._name = server().database((folder / "database").read_text())


def books_of(basedir: Path) -> SqliteBooks | PostgresBooks:
    """A new hub's database."""
    return PostgresBooks() if ON_POSTGRES else SqliteBooks(basedir)

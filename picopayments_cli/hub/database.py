"""The hub's database with the tables of protocol 3."""

from __future__ import annotations

from sqlalchemy import Engine, inspect
from sqlalchemy.engine import URL

from picopayments_cli.errors import DatabaseUnusable
from picopayments_cli.hub.schema import METADATA
from picopayments_cli.hub2 import database
from picopayments_cli.hub2.schema import METADATA as FORMER


class Database(database.Database):
    """One database, open, with these tables."""

    def __init__(self, url: str | URL) -> None:
        """Open it, and make the tables where there are none. Raises as before."""
        super().__init__(url, _prepare)


def _prepare(engine: Engine) -> None:
    present = set(inspect(engine).get_table_names())
    if present & (FORMER.tables.keys() - METADATA.tables.keys()):
        raise DatabaseUnusable(
            "The database is of protocol 2, whose connections this hub can't go on with: let the former version of the "
            "program close them, then name another --database."
        )
    METADATA.create_all(engine)
    with engine.connect() as connection:
        database.write_ahead(connection)

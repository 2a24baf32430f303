"""The number of connections of each asset in each stage, kept as rows that a change of stage moves one between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from sqlalchemy import Connection, select, text

from picopayments_cli.hub.schema import totals

_ALL = select(totals).where(totals.c.number > 0)
_ADD = text(
    "INSERT INTO totals (asset, stage, number) VALUES (:asset, :stage, :more) "
    "ON CONFLICT (asset, stage) DO UPDATE SET number = totals.number + excluded.number"
)


class Moves:
    """How many connections come into each stage, less those that leave it, in one transaction."""

    def __init__(self) -> None:
        self._found: Counter[tuple[str, str]] = Counter()

    def add(self, asset: str, before: str | None, after: str | None, number: int = 1) -> None:
        """Take note of connections that go from one stage to another; None: they are not there."""
        if after is not None:
            self._found[(asset, after)] += number
        if before is not None:
            self._found[(asset, before)] -= number

    def write(self, db: Connection) -> None:
        """Write the sums, last in the transaction and in one order, so that two of them wait for one another."""
        for (asset, stage), more in sorted(self._found.items()):
            if more:
                db.execute(_ADD, {"asset": asset, "stage": stage, "more": more})
        self._found.clear()


def read_totals(db: Connection) -> Mapping[tuple[str, str], int]:
    """Return the numbers by asset and stage, of those that have any."""
    return {(row.asset, row.stage): row.number for row in db.execute(_ALL)}

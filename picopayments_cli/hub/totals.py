"""The number of connections of each asset in each stage, kept as rows that a change of stage moves one between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam, select

from picopayments_cli.hub.schema import totals

_ASSET: BindParameter[Any] = bindparam("of")
_STAGE: BindParameter[Any] = bindparam("in_stage")
_ALL = select(totals).where(totals.c.number > 0)
_ADD = (
    totals.update()
    .where(totals.c.asset == _ASSET, totals.c.stage == _STAGE)
    .values(number=totals.c.number + bindparam("more"))
)
_BEGIN = totals.insert()


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
            if more and not db.execute(_ADD, {"of": asset, "in_stage": stage, "more": more}).rowcount:
                db.execute(_BEGIN, {"asset": asset, "stage": stage, "number": more})
        self._found.clear()


def read_totals(db: Connection) -> Mapping[tuple[str, str], int]:
    """Return the numbers by asset and stage, of those that have any."""
    return {(row.asset, row.stage): row.number for row in db.execute(_ALL)}

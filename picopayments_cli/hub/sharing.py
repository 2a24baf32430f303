"""The rows by which the processes of one hub tell each other how it stands: view of the chain, rate, terms, wishes.

One process does the rounds, and writes what it has seen. The others read that in time; what they change they write.
Times are told by the database's clock, so that machines need not agree on theirs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Double, bindparam, extract, func, select

from picopayments_cli.channel.rates import Rate
from picopayments_cli.channel.values import Handle, Height
from picopayments_cli.hub.database import Database
from picopayments_cli.hub.schema import asked, shared

_LONG_AGO = 1e9  # seconds: where the chain was never seen whole
_OWN = shared.c.name == "hub"
_NOW = extract("epoch", func.now())
_READ = select(shared, (_NOW - shared.c.seen).label("age")).where(_OWN)
_TERMS = select(shared.c.terms, shared.c.terms_version).where(_OWN)
_SEEN = (
    shared.update()
    .where(_OWN)
    .values(
        seen=_NOW - bindparam("since", type_=Double),
        height=bindparam("at"),
        rate=bindparam("value"),
        guess=bindparam("guessed"),
    )
)
_OFFER = shared.update().where(_OWN).values(terms=bindparam("text"), terms_version=shared.c.terms_version + 1)
_OFFER = _OFFER.returning(shared.c.terms_version)
_OFFER_AGAIN = _OFFER.where(shared.c.terms_version == bindparam("known"))
_DRAINING = shared.update().where(_OWN).values(draining=bindparam("drains"))
_ASK_ROUND = shared.update().where(_OWN).values(asked=shared.c.asked + 1).returning(shared.c.asked)
_ROUND_DONE = shared.update().where(_OWN).values(done=bindparam("number"))
_WROTE = shared.update().where(_OWN).values(written=shared.c.written + 1)
_ASK = asked.insert()
_ASKED = select(asked)
_LOOKED_AT = asked.delete().where(asked.c.number == bindparam("one"))


@dataclass(frozen=True)
class Told:
    """How the hub stands by its row.

    ``seen_at``: when the chain was seen whole, by this process's monotonic clock, or before. ``asked``, ``done``: the
    rounds that were asked for, and done. ``written`` grows where others than the rounds have written connections.
    """

    seen_at: float
    height: Height | None
    rate: Rate
    asked: int
    done: int
    written: int
    draining: bool
    terms_version: int


class Sharing:
    """The rows of one hub. All but ``on`` are for processes that share a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.on = database.shared
        self._seen = 0.0  # by the database's clock, as it was read last
        self._changed_at = float("-inf")  # when that was read first

    # How it stands --------------------------------------------------------------------------------------------------

    def read(self) -> Told:
        """Read the row. Raises DatabaseUnusable."""
        begun = time.monotonic()
        with self._database.reading() as db:
            row = db.execute(_READ).one()
        if row.seen != self._seen:  # who tells nothing new is not believed for longer because a clock was set
            self._seen, self._changed_at = row.seen, time.monotonic()
        return Told(
            seen_at=min(begun - float(row.age), self._changed_at),
            height=None if row.height is None else Height(row.height),
            rate=Rate(row.rate, guess=bool(row.guess)),
            asked=row.asked,
            done=row.done,
            written=row.written,
            draining=bool(row.draining),
            terms_version=row.terms_version,
        )

    def tell_seen(self, seen_at: float, height: Height, rate: Rate) -> None:
        """Tell when the chain was seen whole, by this process's monotonic clock, up to which block, and the rate."""
        since = min(time.monotonic() - seen_at, _LONG_AGO)
        row = {"since": since, "at": height, "value": rate.value, "guessed": rate.guess}
        with self._database.transaction("seen") as db:
            db.execute(_SEEN, row)

    def tell_draining(self, drains: bool) -> None:
        """Tell whether the hub takes new connections."""
        with self._database.transaction("draining") as db:
            db.execute(_DRAINING, {"drains": drains})

    # Terms ----------------------------------------------------------------------------------------------------------

    def terms(self) -> tuple[dict[str, dict[str, Any] | None], int]:
        """What is on offer, as ``Offer.members`` has it, and its version."""
        with self._database.reading() as db:
            row = db.execute(_TERMS).one()
        return json.loads(row.terms), row.terms_version

    def tell_terms(self, members: Mapping[str, Any], known: int | None = None) -> int | None:
        """Put something else on offer, with ``known`` in place of that version only. Return the new version, or None.

        None: another process was quicker.
        """
        text = {"text": json.dumps(members)}
        with self._database.transaction("terms") as db:
            found = db.execute(_OFFER, text) if known is None else db.execute(_OFFER_AGAIN, {**text, "known": known})
            version: int | None = found.scalar()
        return version

    # Wishes ---------------------------------------------------------------------------------------------------------

    def ask(self, handle: Handle) -> None:
        """Have the next round look at a connection."""
        with self._database.transaction("asked") as db:
            db.execute(_ASK, {"handle": handle})

    @staticmethod
    def asked(db: Connection) -> dict[int, Handle]:
        """The connections that others have asked a round to look at, by the number of each wish."""
        return {row.number: Handle(bytes(row.handle)) for row in db.execute(_ASKED)}

    @staticmethod
    def looked_at(db: Connection, wishes: Collection[int]) -> None:
        """Drop wishes that were fulfilled."""
        if wishes:
            db.execute(_LOOKED_AT, [{"one": number} for number in wishes])

    def ask_round(self) -> int:
        """Ask for a round that begins from now on; the number that ``done`` has reached once it is over."""
        with self._database.transaction("round asked") as db:
            return int(db.execute(_ASK_ROUND).scalar_one())

    def round_done(self, number: int) -> None:
        """Tell that the rounds are done that were asked for up to a number."""
        with self._database.transaction("round done") as db:
            db.execute(_ROUND_DONE, {"number": number})

    def tell_written(self) -> None:
        """Tell that this process has written connections."""
        with self._database.transaction("written") as db:
            db.execute(_WROTE)

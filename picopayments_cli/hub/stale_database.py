"""A stale database: how the hub notices that it is not the newest, and how connections end then.

What the hub gave back, and the hashes that it handed out, after a backup was made are not in it. A commit that it holds
may be revoked, and who publishes that loses it all: so none is published at first, and no sync is answered. The client
names the highest commit that was not given back, with the secrets of those that were; what it can't show to be given
back counts. Where no client comes the highest known is published at the deadline: there is nothing to lose any more.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from picopayments_cli.channel.stages import AGREED, CLOSING, OPEN
from picopayments_cli.channel.values import Handle, Hash
from picopayments_cli.channel2.duplex import Half, corrected
from picopayments_cli.channel2.keys import Key
from picopayments_cli.channel2.scripts import CommitScript
from picopayments_cli.channel2.state import Offer
from picopayments_cli.errors import DatabaseOutdated, HubRestored, UnknownRevokeHash
from picopayments_cli.files import replace_file
from picopayments_cli.hub2.account import Account
from picopayments_cli.hub2.book import Book, UnitOfWork
from picopayments_cli.hub2.database import Database, meta_get, meta_set
from picopayments_cli.hub2.hub import Ask, Hub

log = logging.getLogger(__name__)

NOTED_EVERY = 1.0  # seconds between two notes, at least
_KEY = "witness"
_EVER = 2**31 - 1  # as a height: later than all


# Noticed at the start -----------------------------------------------------------------------------------------------


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

    def _outdated(self, why: str) -> DatabaseOutdated:
        return DatabaseOutdated(
            f"{self._path} {why}. What is missing could be what was revoked since: use the newest database. If there "
            "is none, start once with --restored: it closes all connections, and relies on their clients' word.",
            path=str(self._path),
        )

    def begin(self) -> None:
        """Take the database as it is for the newest."""
        note = _Note(os.urandom(16).hex(), 0)
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
        try:
            replace_file(self._path, note.text().encode())
        except OSError as error:
            log.warning("not noted", extra={"fields": {"path": str(self._path), "reason": str(error)}})

    def _beside(self) -> _Note | None:
        return _Note.parse(self._path.read_text("utf-8", "replace") if self._path.exists() else None)

    def _inside(self) -> _Note | None:
        with self._database.reading() as connection:
            return _Note.parse(meta_get(connection, _KEY))

    def _keep(self, note: _Note) -> None:
        with self._database.transaction("note") as connection:
            meta_set(connection, _KEY, note.text())


# Noticed by what a client says --------------------------------------------------------------------------------------


def own_number(account: Account, key: Key, revoke_hash: Hash) -> int | None:
    """Return the number of a revoke hash of the hub's own, even of a forgotten one; None for another's."""
    known = account.numbers.get(revoke_hash)
    return account.secrets(key).number_of(revoke_hash, account.next_number) if known is None else known


def notice(hub: Hub, account: Account, offer: Offer | None) -> bool:
    """Give up all connections if a commit reveals that the database is stale. Return whether it does.

    Such a commit is on a hash of the hub's own that is not in it: only the hub can have handed that out.
    """
    if offer is None or account.stage not in (AGREED, OPEN):
        return False
    revoke_hash = CommitScript.parse(offer.script).revoke_hash
    if revoke_hash in account.numbers or own_number(account, hub.key, revoke_hash) is None:
        return False
    log.error("the database is not the newest there was", extra={"fields": {"handle": account.handle.hex()}})
    give_up(hub)
    return True


# How connections end ------------------------------------------------------------------------------------------------


def give_up(hub: Hub) -> None:
    """Close all connections that go on as if their newest state were missing."""
    with hub.book.transaction("restored") as work:
        handles = work.in_stage(AGREED, OPEN)
        for handle in handles:
            work.put(replace(work.get(handle), stage=CLOSING, waiting=(), restored=True))
        work.forget(_EVER)
    for handle in handles:
        hub.ask(Ask.NOW, handle)
    log.warning("connections given up", extra={"fields": {"number": len(handles)}})


def refusal(handle: Handle) -> HubRestored:
    """Make the refusal for a connection whose newest state may be missing."""
    return HubRestored(
        "The hub has been restored from a backup, and does not know the newest state of the connection: close it.",
        handle=handle.hex(),
    )


def believe(hub: Hub, work: UnitOfWork, account: Account, standing: Half) -> Account:
    """Take over the commit that a client names as its highest, and keep those that it may not deny.

    Raises UnknownRevokeHash where what it names can't be its highest, and what ``duplex.corrected`` raises.
    """
    before = account.channels.receiving
    numbers: dict[Hash, int | None] = {}

    def is_own(revoke_hash: Hash) -> bool:
        numbers[revoke_hash] = own_number(account, hub.key, revoke_hash)
        return numbers[revoke_hash] is not None

    after = corrected(before, standing, is_own)
    named = CommitScript.parse(standing.offer.script).revoke_hash if standing.offer else None
    if named is not None and all(item.revoke_hash != named for item in after.active):
        raise UnknownRevokeHash("The commit is on a hash that was given back, or was never given.", hash=named.hex())
    work.revoke(account.handle, [(item.revoke_hash, None) for item in before.active if item not in after.active])
    own = {item: number for item, number in numbers.items() if number is not None}
    account = replace(account, numbers={**account.numbers, **own})
    for made in after.active:
        if made not in before.active:
            work.add_commit(account, made, sent=False)
    return replace(account, duplex=replace(account.channels, receiving=after), restored=False)

"""Keeps a database that many machines reach to one hub: a row that its holder renews, by the database's own clock."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import Connection, Engine, bindparam, extract, func, or_, select
from sqlalchemy.exc import DBAPIError, TimeoutError

from picopayments_cli.errors import DatabaseUnusable, StoreLocked
from picopayments_cli.hub.schema import leases

log = logging.getLogger(__name__)

SECONDS = 6.0  # that a lease lasts behind its last renewal: so long the hub of a lost machine keeps others out
RENEWED_EVERY = 1.5

_NAME = "hub"
_NOW = extract("epoch", func.now())
_MINE = (leases.c.name == _NAME, leases.c.holder == bindparam("me"))
_TAKE = (
    leases.update()
    .where(leases.c.name == _NAME, or_(leases.c.holder == bindparam("me"), leases.c.until < _NOW))
    .values(holder=bindparam("me"), until=_NOW + SECONDS)
)
_RENEW = leases.update().where(*_MINE).values(until=_NOW + SECONDS)
_GIVE_BACK = leases.update().where(*_MINE).values(until=0.0)
_CHECK = select(leases.c.holder).where(*_MINE).with_for_update(read=True)


class Lease:
    """One hub's hold on a database, until ``give_back``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._me = {"me": secrets.token_hex(16)}
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def take(self, connection: Connection) -> None:
        """Take the lease in a transaction. Raises StoreLocked where another hub holds it."""
        if connection.execute(_TAKE, self._me).rowcount != 1:
            raise StoreLocked(
                "Another hub uses the database: stop it, or name another --database. One that was killed keeps the "
                f"database for {SECONDS:.0f} seconds."
            )

    def keep(self) -> None:
        """Renew the lease from now on, in a thread."""
        self._thread.start()

    def check(self) -> None:
        """Refuse to go on once another hub has taken the database over. Raises DatabaseUnusable."""
        if self._lost:
            raise DatabaseUnusable(
                "Another hub has taken the database over, since this one did not renew its lease in time. Nothing more "
                "is written or answered: stop this hub."
            )

    def confirm(self) -> None:
        """See that the lease is held now. Raises DatabaseUnusable, and what the database raises."""
        with self._engine.begin() as connection:
            self.fence(connection)

    def fence(self, connection: Connection) -> None:
        """Let nobody take the lease before this transaction is over. Raises DatabaseUnusable where somebody has."""
        if connection.execute(_CHECK, self._me).first() is None:
            self._lost = True
        self.check()

    def give_back(self) -> None:
        """Renew no more, and let another hub begin at once."""
        self._stop.set()
        self._thread.join()
        with suppress(DBAPIError, TimeoutError), self._engine.begin() as connection:  # else it ends by itself
            connection.execute(_GIVE_BACK, self._me)

    def _renew(self) -> None:
        while not self._stop.wait(RENEWED_EVERY):
            try:
                with self._engine.begin() as connection:
                    self._lost = connection.execute(_RENEW, self._me).rowcount != 1
            except (DBAPIError, TimeoutError) as error:
                log.warning("lease not renewed", extra={"fields": {"reason": type(error).__name__}})
            if self._lost:
                log.error("another hub has taken the database over")
                return


def patiently(take: Callable[[], None]) -> None:
    """Do what takes a lease, again for as long as the lease of a hub that was killed may last. Raises StoreLocked."""
    deadline = time.monotonic() + SECONDS + RENEWED_EVERY
    while True:
        try:
            return take()
        except StoreLocked:
            if time.monotonic() > deadline:
                raise
            time.sleep(RENEWED_EVERY / 10)

"""Keeps what only one process may do to that one: a row that its holder renews, by the database's own clock.

A hub of one process holds it for all that it does. Of several processes it is held by the one that does the rounds.
"""

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
_ALONE = "alone "  # begins the name of a holder that is the only process of its hub
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
_HELD = select(leases.c.holder, leases.c.until).where(leases.c.name == _NAME)


class Lease:
    """One process's hold on a database, until ``give_back``."""

    def __init__(self, engine: Engine, holder: str | None = None) -> None:
        """``holder``: the name by which it is held, ``MACHINE TOKEN``; None: this process is a hub's only one."""
        self._engine = engine
        self._me = {"me": holder or _ALONE + secrets.token_hex(16)}
        self._lost = False
        self._when_lost: Callable[[], None] = lambda: None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def take(self, connection: Connection) -> None:
        """Take the lease in a transaction. Raises StoreLocked where another hub holds it."""
        if connection.execute(_TAKE, self._me).rowcount != 1:
            raise StoreLocked(
                "Another hub uses the database: stop it, or name another --database. One that was killed keeps the "
                f"database for {SECONDS:.0f} seconds."
            )

    def try_take(self) -> bool:
        """Take the lease where nobody holds it; whether it is held now. Raises as the database does."""
        with self._engine.begin() as connection:
            taken = connection.execute(_TAKE, self._me).rowcount == 1
        self._lost = not taken
        return taken

    def take_unless_renewed(self) -> bool:
        """Take the lease, from who died once it is over; False where its holder goes on renewing it.

        Raises StoreLocked where that is a hub of one process, which shares nothing.
        """
        before: float | None = None
        while not self.try_take():
            with self._engine.begin() as connection:
                held = connection.execute(_HELD).one()
            if before is not None and held.until > before:
                if held.holder.startswith(_ALONE):
                    raise StoreLocked(
                        "A hub without --workers uses the database: stop it, and start it with --workers, too."
                    )
                return False
            before = held.until
            time.sleep(RENEWED_EVERY / 10)
        return True

    def machine(self) -> str:
        """The name of the machine whose process holds the lease, or held it last."""
        with self._engine.begin() as connection:
            return str(connection.execute(_HELD).one().holder.rpartition(" ")[0])

    def keep(self, when_lost: Callable[[], None] = lambda: None) -> None:
        """Renew the lease from now on, in a thread, which calls ``when_lost`` once another process has taken it."""
        self._when_lost = when_lost
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
        if self._thread.is_alive():
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
                self._when_lost()
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

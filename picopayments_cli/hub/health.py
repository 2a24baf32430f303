"""Tell in one word whether the hub can do its work, and by name why not: it asks no node, and costs next to nothing."""

from __future__ import annotations

import threading
import time

from picopayments_cli.errors import DatabaseUnusable, NodeBehind, PicopaymentsError
from picopayments_cli.hub.database import meta_set
from picopayments_cli.hub.hub import Hub

EVERY_SECONDS = 10.0  # between two trials of the database
TRIAL_SECONDS = 10.0  # that one may take
_KEY = "last trial"


class Health:
    """The health of one hub. Any thread may ask, as often as it likes."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._trying = threading.Lock()
        self._begun = self._due = float("-inf")
        self._writes = True

    def reasons(self) -> list[str]:
        """Name what is wrong, by the errors that clients get: a chain not seen just now, a database not writable."""
        found = []
        if not self._hub.follower.is_fresh(self._hub.fresh_seconds):
            found.append(NodeBehind.__name__)
        if not self._can_write():
            found.append(DatabaseUnusable.__name__)
        return found

    def _can_write(self) -> bool:
        """Whether the last trial succeeded; one that takes too long has not."""
        if time.monotonic() < self._due:
            return self._writes
        if not self._trying.acquire(blocking=False):
            return self._writes and time.monotonic() < self._begun + TRIAL_SECONDS
        try:
            self._begun = time.monotonic()
            self._try()
        finally:
            self._due = time.monotonic() + EVERY_SECONDS
            self._trying.release()
        return self._writes

    def _try(self) -> None:
        try:
            with self._hub.database.transaction("trial") as db:
                meta_set(db, _KEY, str(int(time.time())))
            self._writes = True
        except PicopaymentsError:
            self._writes = False

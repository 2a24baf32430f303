"""Has a process that does not do the rounds hear of what others have changed, and tell them of what it has.

It takes the place of the rounds in such a process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from picopayments_cli.channel.stages import AGREED, OPEN
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.hub.hub import Hub

log = logging.getLogger(__name__)

HEARD_EVERY = 0.25  # seconds
ROUND_SECONDS = 60.0  # that a round may take which somebody waits for
_STOP_SECONDS = 10


class Hearing:
    """A thread of one process that reads how its hub stands, a few times a second."""

    def __init__(self, hub: Hub) -> None:
        """Hear once. Raises DatabaseUnusable."""
        self.hub = hub
        self.steps: list[Callable[[], None]] = []  # that are done beside it, each time
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="hearing", daemon=True)
        self._named: tuple[str, ...] | None = None
        self._silent = False
        hub.hear()

    def start(self) -> None:
        """Hear from now on."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and tell what was written last."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)
        with suppress(PicopaymentsError):
            self._tell_written()

    def await_round(self) -> None:
        """Have the process that does them do a round that begins from now on, and wait until it is over."""
        number = self.hub.sharing.ask_round()
        deadline = time.monotonic() + ROUND_SECONDS
        while time.monotonic() < deadline and not self._stop.wait(HEARD_EVERY / 10):
            told = self.hub.hear()
            if told is None or told.done >= number:
                return

    def _work(self) -> None:
        while not self._stop.wait(HEARD_EVERY):
            try:
                self.once()
                self._silent = False
            except Exception as error:
                if not self._silent:
                    level = logging.WARNING if isinstance(error, PicopaymentsError) else logging.ERROR
                    log.log(level, "nothing heard", exc_info=error)
                self._silent = True

    def once(self) -> None:
        """Hear, tell, and wake those who wait for what another process has booked. Raises DatabaseUnusable."""
        hub = self.hub
        hub.hear()
        hub.marks.refresh()
        self._tell_written()
        if awaited := hub.book.arrivals.awaited():
            with hub.book.reading() as book:
                arrived = book.arrived(awaited)
            hub.book.arrivals.tell(arrived)
        for step in self.steps:
            step()
        if hub.offer.assets != self._named:
            self._named = hub.offer.assets
            threading.Thread(target=self._look_up_names, daemon=True).start()  # a node may take long

    def _tell_written(self) -> None:
        book = self.hub.book
        if book.changed:
            book.changed = False
            try:
                self.hub.sharing.tell_written()
            except PicopaymentsError:
                book.changed = True
                raise

    def _look_up_names(self) -> None:
        """Learn the long names of what is on offer, and of what is in use, for showing."""
        hub = self.hub
        with hub.book.reading() as book:
            used = {asset for asset, stage in book.totals() if stage in (AGREED, OPEN)}
        for asset in {*hub.offer.assets, *used}:
            hub.longname(asset)

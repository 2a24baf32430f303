"""Watches over the wallet beside the commands: looks at the chain, settles, punishes, sends and fetches payments.

It looks without the lock of the folder, and takes that only for what is due (``due``), if it is free and never for
long: commands go before it. It goes on whatever fails.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event as Flag
from threading import Lock, Thread
from typing import Any

from picopayments_cli.channel.counterparty import asset_members
from picopayments_cli.channel.deadlines import check_every
from picopayments_cli.channel.stages import AGREED, CLOSED
from picopayments_cli.channel.values import Handle, Pubkey
from picopayments_cli.channel.waiting import MOST_SECONDS
from picopayments_cli.client import happenings, hubs, life, lost, receipts
from picopayments_cli.client.closing import Outcome, over
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.due import Act, Rest, Standing, act, pause, worth
from picopayments_cli.client.happenings import PUBLISHED, Event, Life, Told
from picopayments_cli.client.listen import Line, asked_together, brought_more, lines_to
from picopayments_cli.client.outbox import Outbox
from picopayments_cli.client.payments import Entry
from picopayments_cli.client.restore_marks import is_to_ask
from picopayments_cli.client.session import Home, Session
from picopayments_cli.client.wallet import Unlocker
from picopayments_cli.config import Settings
from picopayments_cli.errors import LocalFiles, OldProtocol, PicopaymentsError, StoreLocked

log = logging.getLogger(__name__)
MOST_TIMEOUT = 10.0  # seconds for one answer: a command waits for the lock for longer
LONGEST = 10.0  # seconds after which the lock is given back, if only for a moment
MOMENT = 0.2
LOCKED_PAUSE = 1.0  # before it tries again where a command has the lock
MOST_LOCKED = 600.0  # seconds of that, after which it is an error
ASK_AGAIN, MOST_ASK_AGAIN = 2.0, 60.0  # where no hub tells what waits
HUB, CHAIN, WALLET = "hub", "chain", "wallet"  # sources of errors beside the connections' handles


class InternalError(PicopaymentsError):
    """A fault of this program, which the log has more of."""


@dataclass(frozen=True)
class Loaded:
    """The wallet as the files have it: a session that is closed, all connections, and what was not told yet."""

    session: Session
    connections: Mapping[Handle, Connection]
    last: int
    payments: Sequence[Entry]
    published: Sequence[Mapping[str, Any]]


class Watcher:
    """A thread that watches, with the settings and the basedir of ``serve``."""

    def __init__(
        self,
        settings: Settings,
        given_basedir: Path | None,
        check: Callable[[], None],
        outbox: Outbox | None,
        every: float,
        unlocker: Unlocker | None = None,
    ) -> None:
        """``check`` raises where nothing may be written any more; ``every``: seconds between two rounds."""
        self.typed: Callable[[Any], Any] = lambda event: event  # writes out the commands that it names
        self._unlocker = unlocker
        self._settings = replace(settings, timeout=min(settings.timeout, MOST_TIMEOUT))
        self._given_basedir = given_basedir
        self._check = check
        self._outbox = outbox
        self._every = every
        self._stopped = Flag()
        self._busy = Lock()  # while it does more than wait
        self._thread = Thread(target=self._run, name="watcher", daemon=True)
        self._asking = Session(self._settings, given_basedir)  # asks hubs, and opens no files
        self._ways: dict[Pubkey, Sequence[Session]] = {}
        self._lines: Sequence[Line] = ()
        self._standings: dict[Handle, Standing] = {}  # as the last look has shown them
        self._rests: dict[Handle, Rest] = {}
        self._unusable: dict[str, PicopaymentsError] = {}  # why connections can't be used, or are missing
        self._troubles: dict[str, PicopaymentsError] = {}  # the errors of the last round, by their source
        self._hub_silent: dict[str, str] = {}  # the error with which a hub was asked what waits
        self._failures = 0
        self._unasked: str | None = ""  # why the hub was not asked yet for lost connections, None once it was

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Begin nothing any more, and wait for so long for what is under way, though that may be cut off anywhere."""
        self._stopped.set()
        if self._busy.acquire(timeout=seconds):
            self._busy.release()

    def _run(self) -> None:
        while not self._stopped.is_set():
            with self._busy:
                end = time.monotonic() + self.round()
            failed: dict[str, PicopaymentsError] = {}
            with self._surviving(failed):
                self._wait(end)
            if failed:
                self._stopped.wait(self._every)

    # Rounds ---------------------------------------------------------------------------------------------------------

    def round(self) -> float:
        """Look at everything, and do what is due; the seconds until the next round. Errors become events."""
        failed: dict[str, PicopaymentsError] = {}
        seen: dict[Handle, Standing] = {}
        with self._surviving(failed):
            loaded = self._load()
            seen = self._look(loaded, failed)
            self._tell(loaded)
            if self._carry_out({handle: act(item) for handle, item in seen.items()}, failed):
                self._tell(self._load())
        if self._stopped.is_set():
            return 0.0
        self._failures = self._failures + 1 if failed and not seen else 0
        failed |= self._unusable
        resting = {handle.hex() for handle, item in seen.items() if item.wants and not item.rested}
        failed = {source: error for source, error in self._troubles.items() if source in resting} | failed
        self._event(happenings.troubles({source: error.name for source, error in self._troubles.items()}, failed))
        self._troubles = failed
        return pause(self._standings.values(), self._every, self._failures, random.random())

    @contextmanager
    def _surviving(self, failed: dict[str, PicopaymentsError]) -> Iterator[None]:
        """Go on whatever fails inside."""
        try:
            yield
        except PicopaymentsError as error:
            log.warning(error.message)
            failed[WALLET] = error
        except Exception as error:  # a fault of this program ends no watch
            log.error("%s: %s", type(error).__name__, error, exc_info=log.isEnabledFor(logging.DEBUG))
            failed[WALLET] = InternalError(f"A fault of this program: {type(error).__name__}: {error}")

    @contextmanager
    def _opened(self) -> Iterator[Session]:
        """Open a session of its own once no command has the lock. Raises StoreLocked where that does not come."""
        end = time.monotonic() + MOST_LOCKED
        while True:
            self._check()
            home = Home(self._settings, 0, self._unlocker)
            home.begins = False
            session = Session(self._settings, self._given_basedir, home)
            try:
                session.wallet  # noqa: B018 - takes the lock, and reads the key
                break
            except StoreLocked:
                if self._stopped.wait(LOCKED_PAUSE) or time.monotonic() > end:
                    raise
        try:
            yield session
            session.keep_rate()
        finally:
            session.close()

    def _load(self) -> Loaded:
        """Read the files, and close them again: for looks and questions nobody else has to wait."""
        with self._opened() as session:
            if self._unasked is not None or session.unusable or is_to_ask(session.store.basedir, session.network):
                self._ask_for_lost(session)
            connections = session.connections()
            self._note_unusable(session)
            live = [item for item in connections.values() if item.stage == AGREED]
            self._lines = lines_to(self._asking, session.wallet.key, live, self._ways)
            payments = session.store.payments
            published: list[Mapping[str, Any]] = []
            told = self._outbox.told if self._outbox is not None else None
            if told is None:
                return Loaded(session, connections, payments.last, (), ())
            unheard = happenings.unheard(told, self._lives(connections))
            if unheard:
                published = [item for item in session.store.history() if item["action"] == PUBLISHED]
            return Loaded(session, connections, payments.last, list(payments.after(told.payments)), published)

    def _ask_for_lost(self, session: Session) -> None:
        """Take back what the hub has of this wallet; say why it can't be asked, once for each reason."""
        error = lost.take_back(session)
        if error is not None and error.message != self._unasked:
            log.warning("whether the hub has connections of this wallet is not known: %s", error.message)
        self._unasked = None if error is None else error.message

    def _note_unusable(self, session: Session) -> None:
        """Note which connections can't be used, or are missing; those of an older protocol are not watched at all."""
        found = {
            handle.hex(): error for handle, error in session.unusable.items() if not isinstance(error, OldProtocol)
        }
        for name in found.keys() - self._unusable.keys():
            log.warning("connection %s: %s", name, found[name].message)
        self._unusable = found

    def _look(self, loaded: Loaded, failed: dict[str, PicopaymentsError]) -> dict[Handle, Standing]:
        """See how each connection stands; one that can't be seen is among the ``failed``."""
        found: dict[Handle, Standing] = {}
        for group in hubs.seen(loaded.session, [item for item in loaded.connections.values() if not item.final]):
            if isinstance(group.outcome, PicopaymentsError):
                failed[CHAIN] = group.outcome
                log.warning(group.outcome.message)
                continue
            for item in group.connections:
                try:
                    found[item.handle] = self._standing(group, item)
                except PicopaymentsError as error:
                    failed[item.handle.hex()] = error
                    log.warning("connection %s: %s", item.handle.hex(), error.message)
        final = {item.handle: Standing(CLOSED) for item in loaded.connections.values() if item.final}
        known = {handle: item for handle, item in self._standings.items() if handle in loaded.connections}
        self._standings = {**known, **final, **found}
        return found

    def _standing(self, group: hubs.Seen, item: Connection) -> Standing:
        """See how a connection stands. Raises what stands in the way."""
        session, look = group.session, group.look()
        item = life.as_seen(session, item, look)
        if item.stage == CLOSED:
            return Standing(CLOSED, settled=over(session, item, look, life.FINAL_DEPTH))
        seen, look, deposits = life.observe(session, item, look)
        return Standing(
            life.status(session, seen, look, deposits),
            pending=item.pending is not None,
            wants=_wants(item),
            trades=receipts.are_open(item),
            rested=self._rests.get(item.handle, Rest()).until <= time.monotonic(),
            blocks=max(item.expiry.settle_height - look.view.height, 0),
            check_every=check_every(item.duplex.sending.contract.delay),
        )

    # Doing ----------------------------------------------------------------------------------------------------------

    def _carry_out(self, due: Mapping[Handle, Act], failed: dict[str, PicopaymentsError]) -> bool:
        """Do what is due, free things first; whether any of it brought something."""
        order = (Act.STEP, Act.EXCHANGE, Act.FETCH)
        left = {handle: what for wanted in order for handle, what in due.items() if what is wanted}
        brought = False
        while left and not self._stopped.is_set():
            with self._opened() as session:
                begun = time.monotonic()
                for handle, brings in self._steps(session, dict(left), failed):
                    del left[handle]
                    brought = brought or brings
                    if time.monotonic() - begun > LONGEST:
                        break
            if left:
                self._stopped.wait(MOMENT)
        return brought

    def _steps(
        self, session: Session, due: Mapping[Handle, Act], failed: dict[str, PicopaymentsError]
    ) -> Iterator[tuple[Handle, bool]]:
        """Sync each connection; whether that brought something.

        A command may have sent meanwhile what was seen in the queue: then nothing is paid.
        """
        known = session.connections()
        yield from ((handle, False) for handle in due.keys() - known.keys())
        for group in hubs.seen(session, [known[handle] for handle in due if handle in known]):
            for item in group.connections:
                outcome, before = Outcome(), session.store.payments.last
                what = due[item.handle]
                pays = what is Act.FETCH or (what is Act.EXCHANGE and (item.pending is not None or _wants(item)))
                try:
                    life.sync(group.session, item, group.look(), outcome, pays=pays)
                except LocalFiles:
                    raise
                except PicopaymentsError as error:
                    failed[item.handle.hex()] = error
                    log.warning("connection %s: %s", item.handle.hex(), error.message)
                new = list(session.store.payments.after(before))
                moved = bool(new) and (bool(item.queue or item.pending) or brought_more(item, new))
                if pays:
                    self._rest(item.handle, brought=moved)
                yield item.handle, moved or bool(outcome.txids)

    def _rest(self, handle: Handle, *, brought: bool) -> None:
        self._rests[handle] = self._rests.get(handle, Rest()).after(brought=brought, now=time.monotonic())

    # Waiting --------------------------------------------------------------------------------------------------------

    def _wait(self, end: float) -> None:
        """Wait for the next round, and fetch meanwhile what comes; at once where a hub answers that was silent."""
        silent = 0
        while (left := end - time.monotonic()) > 0 and not self._stopped.is_set():
            lines = self._rested()
            if not lines:
                self._stopped.wait(min(left, ASK_AGAIN))
                continue
            begun = time.monotonic()
            waits, error = asked_together(lines, min(left, MOST_SECONDS))
            was_silent = bool(self._hub_silent)
            self._tell_hub(error)
            if was_silent and error is None:
                return
            fees = {handle: fee for line in lines for handle, fee in line.fees.items()}
            self._fetch([item.handle for item in waits if worth(item.total, fees[item.handle])])
            for item in waits:
                if not worth(item.total, fees[item.handle]):
                    self._rest(item.handle, brought=False)
            if waits or time.monotonic() - begun >= ASK_AGAIN:
                silent = 0
            else:  # there is nobody to wait with
                self._stopped.wait(min(ASK_AGAIN * 2 ** min(silent, 10), MOST_ASK_AGAIN, left))
                silent += 1

    def _rested(self) -> list[Line]:
        """The lines, without the connections that rest."""
        now = time.monotonic()
        found = []
        for line in self._lines:
            fees = {handle: fee for handle, fee in line.fees.items() if self._rests.get(handle, Rest()).until <= now}
            if fees:
                found.append(replace(line, fees=fees))
        return found

    def _fetch(self, handles: Sequence[Handle]) -> None:
        """Fetch what waits for these connections; an error that stays is told by the next round."""
        if handles and not self._stopped.is_set():
            with self._busy, self._surviving({}):
                self._carry_out(dict.fromkeys(handles, Act.FETCH), {})
                self._tell(self._load())

    # Telling --------------------------------------------------------------------------------------------------------

    def _lives(self, connections: Mapping[Handle, Connection]) -> dict[str, Life]:
        found = {}
        for handle, item in connections.items():
            standing = self._standings.get(handle)
            asset = asset_members(item.asset, item.longname)
            found[handle.hex()] = Life(None if standing is None else standing.status, item.published, asset)
        return found

    def _tell(self, loaded: Loaded) -> None:
        """Make events of what was not told yet."""
        if self._outbox is None:
            return
        told, lives = self._outbox.told, self._lives(loaded.connections)
        if told is None:
            self._event([], happenings.begin(loaded.last, lives))
            return
        events, after = happenings.news(told, loaded.payments, lives, loaded.published, self._unusable)
        after = replace(after, payments=min(after.payments, loaded.last))  # an older folder was put back
        if events or after != told:
            self._event(events, after)

    def _tell_hub(self, error: PicopaymentsError | None) -> None:
        failed = {} if error is None else {HUB: error}
        self._event(happenings.troubles(self._hub_silent, failed))
        self._hub_silent = {source: found.name for source, found in failed.items()}

    def _event(self, events: Sequence[Event], told: Told | None = None) -> None:
        if self._outbox is not None and (events or told is not None):
            try:
                self._outbox.add([self.typed(event) for event in events], told)
            except PicopaymentsError as error:
                log.warning(error.message)


def _wants(item: Connection) -> bool:
    """Tell whether an exchange would send or fetch something, as far as the files tell."""
    return bool(item.queue) or worth(item.returnable, item.terms.sync_fee)

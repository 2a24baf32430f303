"""Wait for payments: sync what something waits for, by the hubs' word, and give each payment as it arrives.

Nothing is locked while it waits, so other commands run meanwhile, and what they receive is given as well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.stages import AGREED
from picopayments_cli.channel.values import Handle, Pubkey
from picopayments_cli.channel.waiting import MOST_SECONDS, Waits
from picopayments_cli.client import ask_waiting, hubs, life, receipts
from picopayments_cli.client.closing import Outcome
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.due import Rest, worth
from picopayments_cli.client.payments import RECEIVED, Entry
from picopayments_cli.client.session import Home, Session
from picopayments_cli.errors import LocalFiles, PicopaymentsError, WaitRanOut

log = logging.getLogger(__name__)
PAUSE = 2.0  # seconds, where a hub can't be asked, or answers before its time
MOST_SILENT = 10.0  # seconds above those asked for, after which a hub's answer is not waited for any more
_LEFT_OUT = ("state", "number", "time", "fee")


@dataclass(frozen=True)
class Line:
    """The ways to one hub, and the connections there that are asked about in one request, each with its sync's fee."""

    ways: Sequence[Session]
    key: Key
    hub_key: Pubkey
    fees: Mapping[Handle, int]


class Listener:
    """One command that listens, with the settings of a session, which stays closed.

    ``show`` is given each payment; ``after``: the index behind which they begin, None for those from now on.
    """

    def __init__(self, session: Session, show: Callable[[dict[str, Any]], None], after: int | None) -> None:
        self._session = session
        self._show = show
        self._after = after
        self._told: list[int] = []  # indexes of payments that were given
        self._any = False
        self._began = False  # whether the files were open before
        self._ways: dict[Pubkey, Sequence[Session]] = {}  # to each hub; they open no files
        self._failed: PicopaymentsError | None = None  # why a hub could not be asked the last time
        self._rests: dict[Handle, Rest] = {}  # of connections that are left alone for now

    def listen(self, seconds: float | None) -> None:
        """Listen for so many seconds, None for ever.

        Raises WaitRanOut where no payment arrived; where a hub could not be asked in the end, that error.
        """
        if seconds is None:
            log.info("Listening until Ctrl-C: `picopayments-cli listen --timeout SECONDS` ends by itself.")
        end = None if seconds is None else time.monotonic() + seconds
        try:
            while self._turn(end):
                pass
        finally:
            self._note()
        if not self._any:
            raise self._failed or WaitRanOut(f"No payment arrived within {seconds:g} seconds.", seconds=seconds)

    def _turn(self, end: float | None) -> bool:
        """Give what has arrived, wait until something waits, and fetch it; whether there is time for more."""
        with self._opened() as session:
            self._trade(session)
            arrived, lines = self._arrived(session), self._lines(session)
        for entry in arrived:
            self._show(payment_shown(entry))
            self._told.append(entry["index"])
            self._any = True
        self._note()
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            return False
        chosen = self._await(lines, left)
        if chosen:
            with self._opened() as session:
                self._fetch(session, chosen)
        return True

    @contextmanager
    def _opened(self) -> Iterator[Session]:
        """Open a session of its own for one turn, after which the files are free for others."""
        home = Home(self._session.settings, unlocker=self._session.home.unlocker)
        home.begins = not self._began
        turn = Session(self._session.settings, self._session.given_basedir, home)
        try:
            yield turn
            self._began = True
            turn.keep_rate()
        finally:
            turn.close()

    def _trade(self, session: Session) -> None:
        """Exchange receipts with the hubs, for nothing, as long as they answer: the files are locked meanwhile."""
        if self._failed is None:
            for item in session.connections().values():
                if item.stage == AGREED:
                    receipts.trade(hubs.ways_to(session, item)[0], item)

    def _arrived(self, session: Session) -> list[Entry]:
        """Take the payments that are new."""
        payments = session.store.payments
        begin = payments.last if self._after is None else self._after
        self._after = max(begin, payments.last)
        return [entry for entry in payments.after(begin) if entry["state"] == RECEIVED]

    def _note(self) -> None:
        """Write down that the payments that were given are reported, so that ``sync`` does not report them again."""
        if self._told:
            with self._opened() as session:
                store = session.store
                store.notes.save_reported(store.notes.reported().after(self._told, store.payments.last))
            self._told.clear()

    # Asking ---------------------------------------------------------------------------------------------------------

    def _lines(self, session: Session) -> list[Line]:
        """Find whom to ask, about the connections that are not left alone for now."""
        now = time.monotonic()
        live = [
            item
            for item in session.connections().values()
            if item.stage == AGREED and self._rests.get(item.handle, Rest()).until <= now
        ]
        return lines_to(self._session, session.wallet.key, live, self._ways)

    def _await(self, lines: Sequence[Line], left: float | None) -> list[Handle]:
        """Wait until something waits at a hub, or for a while; the connections that are worth a sync."""
        longest = min(MOST_SECONDS, MOST_SECONDS if left is None else left)
        begun = time.monotonic()
        waits, self._failed = asked_together(lines, longest)
        fees = {handle: fee for line in lines for handle, fee in line.fees.items()}
        chosen = [item.handle for item in waits if worth(item.total, fees[item.handle])]
        for item in waits:
            if item.handle not in chosen:
                self._put_off(item.handle)
        if not waits and time.monotonic() - begun < min(PAUSE, longest):
            time.sleep(min(PAUSE, longest))  # there was nobody to wait with
        return chosen

    # Fetching -------------------------------------------------------------------------------------------------------

    def _fetch(self, session: Session, handles: Iterable[Handle]) -> None:
        """Sync these connections. One whose sync brings nothing is left alone for a while, each time for longer."""
        known = session.connections()
        for group in hubs.seen(session, [known[handle] for handle in handles if handle in known]):
            for item in group.connections:
                try:
                    brought = _brings(group, item)
                except LocalFiles:
                    raise
                except PicopaymentsError as error:
                    log.warning("connection %s: %s", item.handle.hex(), error.message)
                    self._put_off(item.handle)
                    continue
                if brought:
                    self._rests.pop(item.handle, None)
                else:
                    self._put_off(item.handle, brought_nothing=True)

    def _put_off(self, handle: Handle, *, brought_nothing: bool = False) -> None:
        """Leave a connection alone for a while, after a sync that brought nothing for longer than the last time."""
        rest, now = self._rests.get(handle, Rest()), time.monotonic()
        longer = rest.after(brought=False, now=now)
        self._rests[handle] = longer if brought_nothing else replace(rest, until=now + 5 * PAUSE)


def lines_to(
    session: Session, key: Key, connections: Iterable[Connection], ways: dict[Pubkey, Sequence[Session]]
) -> list[Line]:
    """Find whom to ask about connections of a wallet's key. ``ways`` keeps the sessions at hubs: they open no files."""
    found = []
    for group in hubs.by_hub(connections):
        fees = {item.handle: item.terms.sync_fee for item in group}
        to = ways[group[0].hub_key] = ways.get(group[0].hub_key) or hubs.ways_to(session, group[0])
        for part in ask_waiting.in_parts(list(fees)):
            found.append(Line(to, key, group[0].hub_key, {handle: fees[handle] for handle in part}))
    return found


def _brings(group: hubs.Seen, item: Connection) -> bool:
    """Sync a connection; whether that brought more than it cost. Raises what a sync fails with."""
    payments = group.session.store.payments
    before = payments.last
    life.sync(group.session, item, group.look(), Outcome())
    return brought_more(item, payments.after(before))


def brought_more(connection: Connection, new: Iterable[Entry]) -> bool:
    """Tell whether these payments brought a connection more than its fee: a hub could send a unit, again and again."""
    own = (entry for entry in new if entry["handle"] == connection.handle.hex())
    return worth(sum(entry["amount"] for entry in own if entry["state"] == RECEIVED), connection.terms.sync_fee)


def asked_together(lines: Sequence[Line], seconds: float) -> tuple[list[Waits], PicopaymentsError | None]:
    """Ask several hubs at a time; the first answer in which something waits, else why the last hub was silent."""
    answers: SimpleQueue[Sequence[Waits] | Exception] = SimpleQueue()

    def ask(line: Line) -> None:
        try:
            answers.put(_asked(line, seconds))
        except Exception as error:  # handed over to the thread that listens
            answers.put(error)

    for line in lines:
        Thread(target=ask, args=(line,), daemon=True).start()
    failed: PicopaymentsError | None = None
    end = time.monotonic() + seconds + MOST_SILENT
    for _ in lines:
        try:
            answer = answers.get(timeout=max(end - time.monotonic(), 0))
        except Empty:
            break
        if isinstance(answer, PicopaymentsError):
            failed = answer
            log.warning(failed.message)
        elif isinstance(answer, Exception):
            raise answer
        elif answer:
            return list(answer), None
    return [], failed


def _asked(line: Line, seconds: float) -> Sequence[Waits]:
    """Ask one hub, wherever it is; its answer is signed with the connections' hub's key."""
    failed: PicopaymentsError | None = None
    for at in line.ways:
        patience = int(min(seconds, at.settings.timeout / 2))
        try:
            return ask_waiting.ask(at, line.key, line.hub_key, list(line.fees), patience)
        except PicopaymentsError as error:
            failed = failed or error
    raise failed or ValueError("there is no way to the hub")


def payment_shown(entry: Entry) -> dict[str, Any]:
    """Show a payment that was received."""
    return {name: value for name, value in entry.items() if name not in _LEFT_OUT}

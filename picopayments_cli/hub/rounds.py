"""The hub's rounds: follow the chain, then do the chores of the connections to which something has happened."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from picopayments_cli.chain import Query
from picopayments_cli.channel.deadlines import latest_begun, starts
from picopayments_cli.channel.stages import AGREED, CLOSING, OPEN
from picopayments_cli.channel.values import Handle
from picopayments_cli.errors import (
    BadAnswer,
    InsufficientBitcoin,
    InsufficientFunds,
    MemoRequired,
    NodeBehind,
    NodeUnreachable,
    PicopaymentsError,
    UnknownMethod,
)
from picopayments_cli.hub.batches import AT_ONCE, batches
from picopayments_cli.hub.book import UnitOfWork
from picopayments_cli.hub.chores import Work, guarded
from picopayments_cli.hub.database import meta_get, meta_set
from picopayments_cli.hub.follower import KEPT_BLOCKS
from picopayments_cli.hub.forgetting import (
    closed_between,
    forget_payments,
    forget_promises,
    forget_received,
    forget_requests,
    lapse,
)
from picopayments_cli.hub.hub import MARKS_SEEN, Ask, Hub
from picopayments_cli.hub.loop import Loop, pause_on
from picopayments_cli.hub.reading import Reading
from picopayments_cli.hub.stopping import asked_to_end, closes_by, keep_on_offer
from picopayments_cli.hub.terms import Offer
from picopayments_cli.hub.wallet import look, recall

log = logging.getLogger(__name__)

RETRY_ROUNDS = 25  # after which what failed is tried again, at the latest
_RATE_SECONDS = 10.0
_FORGOTTEN = "forgotten"  # the height by which closed connections are watched no more
_PAYMENT_BATCHES = 100  # that are looked at in a block's round: some ten thousand payments
_FUNDED = "funded by the faucet"
_FUNDS_COINS, _FUNDS_SATOSHIS, _FUNDS_XCP = 20, 50_000_000, 1_000_000_000_000


class Rounds:
    """The rounds of one hub; ``once`` is one round. Others ask the hub for what is to be looked at."""

    def __init__(self, hub: Hub, note: Callable[[bool], None] | None = None) -> None:
        """``note`` is called after each round, and with True at the end."""
        self.hub = hub
        self.when_drained: Callable[[], None] | None = None  # called once a draining hub has no connection left
        self.timed: Callable[[], AbstractContextManager[object]] = nullcontext  # each round is in such a one
        self.reloads: dict[str, Callable[[], None]] = {}  # by name, what ``ask_reload`` has done
        self.turn = threading.RLock()  # of a round, or of what must not come about in the middle of one
        self._reload_asked = threading.Event()
        self._note = note
        self._loop = Loop(self.round, hub.woken, pause_on(hub.network.name))
        self._tip: int | None = None  # that the last round looked at
        self._unfinished: set[Handle] = set()  # of a round that failed
        self._lapsing = False  # whether more promises are over than the last round ended
        self._count = 0
        self._offered: tuple[bool, tuple[str, ...]] | None = None  # as of the last round
        self._rate_read = float("-inf")
        self._asked: dict[Ask, set[Handle]] = {when: set() for when in Ask}
        self._wished = self._done = 0  # rounds that other processes have asked for, and that were done
        self._written = 0  # as of what they have told
        self._offer = hub.offer  # as of the last round

    def prepare(self) -> None:
        """Read the chain, and fund the wallet on regtest: before the first request.

        A hub that has seen its wallet before starts without its Counterparty node. Raises NodeUnreachable and its kind,
        InvalidSetting for terms of what is no asset.
        """
        with self.hub.database.fenced():
            self._prepare()

    def _prepare(self) -> None:
        hub = self.hub
        self._hear()
        hub.follower.catch_up()
        hub.read_rate()
        hub.tell_seen()
        known = recall(hub)
        try:
            self._ask_ledger()
        except (BadAnswer, NodeBehind, NodeUnreachable) as error:
            if not known:
                raise
            log.warning("the hub starts without its Counterparty node", extra={"fields": {"error": error.as_json()}})
            self._include_used()
        keep_on_offer(hub)
        if hub.draining:
            with hub.book.transaction("draining") as work:
                closes_by(hub, work)
        hub.tell_terms()

    def _ask_ledger(self) -> None:
        """See what the wallet holds, fund it on regtest, and look up the assets that are on offer or in use."""
        hub = self.hub
        try:
            hub.chain.view(Query(options=[hub.address])).check_takes_sends(hub.address)
        except MemoRequired as error:  # what is open goes on, what is new is refused
            log.error(error.message)
        look(hub)
        if hub.network.name == "regtest":
            self._fund()
        self._look_up_assets()

    def _look_up_assets(self) -> None:
        hub = self.hub
        hub.offer.resolve(hub.chain)
        for asset in (*hub.offer.assets, *self._include_used()):
            hub.longname(asset)

    def _include_used(self) -> set[str]:
        """Find the assets of the connections that go on; on regtest they stay on offer."""
        with self.hub.book.reading() as book:
            used = {asset for asset, stage in book.totals() if stage in (AGREED, OPEN)}
        if self.hub.network.name == "regtest":
            self.hub.offer.include(used)
        return used

    def _fund(self) -> None:
        """Let the regtest node's faucet fund the wallet, once, with coins enough for many transactions at a time."""
        hub = self.hub
        with hub.database.reading() as db:
            if meta_get(db, _FUNDED) is not None:
                return
        try:
            for _ in range(_FUNDS_COINS):
                hub.controls.call("faucet", {"address": hub.address, "btc": _FUNDS_SATOSHIS}, retry=False)
            hub.controls.call("faucet", {"address": hub.address, "asset": "XCP", "quantity": _FUNDS_XCP}, retry=False)
            hub.controls.call("generate", {"blocks": 1}, retry=False)
        except (InsufficientBitcoin, InsufficientFunds, UnknownMethod) as error:  # a node of another make, or many hubs
            log.warning("not funded", extra={"fields": {"address": hub.address}}, exc_info=error)
        with hub.database.transaction("funded") as db:
            meta_set(db, _FUNDED, "yes")
        hub.follower.catch_up()

    def round(self) -> bool:
        """Do ``once`` and tell whether it succeeded. A failure is logged: the next round may succeed."""
        try:
            with self.turn, self.timed():
                self.once()
        except Exception as error:
            level = logging.WARNING if isinstance(error, PicopaymentsError) else logging.ERROR
            log.log(level, "round failed", exc_info=error)
            return False
        finally:
            guarded(self._tell_done)
        return True

    def once(self) -> None:
        """Follow the chain to its tip, then do every chore once. Raises what either raises."""
        with self.hub.database.fenced():
            self._once()

    def _once(self) -> None:
        hub = self.hub
        self.reload_where_asked()
        self._hear()
        height = hub.follower.catch_up()
        if hub.network.name == "regtest" or time.monotonic() - self._rate_read > _RATE_SECONDS:
            hub.read_rate()
            self._rate_read = time.monotonic()
        hub.tell_seen()
        fresh = height != self._tip
        if not hub.offer.resolved and self._count % RETRY_ROUNDS == 0:
            guarded(self._look_up_assets)
        self._run()
        if fresh and hub.network.name == "regtest":
            self._offer_holdings()
        hub.tell_terms()
        self._offer = hub.offer
        if self._note is not None:
            self._note(False)

    def _hear(self) -> None:
        """Take over what other processes have changed."""
        told = self.hub.hear()
        if told is None:
            return
        self._wished, self._done = told.asked, told.done
        if told.written != self._written:
            self._written, self.hub.book.changed = told.written, True
        if self.hub.offer is not self._offer:
            self._tip = None  # on regtest what the wallet holds is on offer, too

    def _tell_done(self) -> None:
        """Tell other processes that the rounds are done which they have asked for."""
        if self._wished > self._done:
            with self.hub.database.fenced():
                self.hub.sharing.round_done(self._wished)
            self._done = self._wished

    def _offer_holdings(self) -> None:
        """On regtest, offer what the wallet holds."""
        self.hub.offer.include(self.hub.wallet.assets)
        for asset in self.hub.wallet.assets:
            self.hub.longname(asset)

    def ask_reload(self) -> None:
        """Have the next round read anew what the operator may have changed; in a handler of signals too."""
        self._reload_asked.set()
        self.hub.wake()

    def reload_where_asked(self) -> None:
        """Read terms and certificate anew; what can't be used leaves the old ones, and is logged."""
        if not self._reload_asked.is_set():
            return
        self._reload_asked.clear()
        for name, step in self.reloads.items():
            try:
                step()
                log.info("read anew", extra={"fields": {"name": name}})
            except PicopaymentsError as error:
                log.error("not read anew", extra={"fields": {"name": name, "error": error.as_json()}})

    def take_offer(self, offer: Offer) -> None:
        """Offer something else from now on. Raises as ``Offer.resolve``; then all is as it was."""
        hub = self.hub
        offer.resolve(hub.chain)
        hub.put_on_offer(offer)
        for asset in (*offer.assets, *self._include_used()):
            hub.longname(asset)
        keep_on_offer(hub)
        self._tip = None  # on regtest what the wallet holds is on offer, too

    def _run(self) -> None:
        """Do the chores of what blocks, transactions, deadlines and failures bring, until they bring nothing more."""
        hub = self.hub
        self._count += 1
        with hub.book.reading() as book:
            tip, touched = hub.follower.tip(book.db), hub.follower.touched(book.db)
            wishes = hub.sharing.asked(book.db) if hub.sharing.on else {}
            offered = (hub.draining, hub.offer.assets)
            fresh = tip != self._tip
            self._unfinished |= self._asked_for(fresh=fresh)  # kept until they were looked at, whatever fails
            now = self._unfinished | touched.keys() | set(wishes.values())
            begins = self._begins(book, tip) if fresh else {}
            if fresh:
                now.update(book.opening(tip), book.in_stage(CLOSING), book.due(tip))
            if offered != self._offered:
                now.update(self._leaving(book))
            now.update(handle for handle, height in begins.items() if height <= tip)
            now |= hub.follower.unconfirmed(book.db)  # a child that was evicted goes out again at once
            now -= book.settled(now, tip - KEPT_BLOCKS)
        self._unfinished = now
        shaken = {handle for handle, taken_back in touched.items() if taken_back}
        Work(hub, now, begins, shaken, fresh).do()
        self._unfinished, self._tip, self._offered = set(), tip, offered
        if touched or wishes:
            with hub.database.transaction("looked at") as db:
                hub.follower.looked_at(db, touched)
                hub.sharing.looked_at(db, wishes)
        if fresh or self._lapsing:
            self._lapse(tip)
        if fresh:
            self._forget(tip)
        if hub.draining and self.when_drained is not None and not self._going_on():
            self.when_drained()

    def _asked_for(self, *, fresh: bool) -> set[Handle]:
        """Take the connections that were asked for off the lists."""
        found = self._taken(Ask.NOW)
        found |= self._taken(Ask.LATER) if self._count % RETRY_ROUNDS == 0 else set()
        return found | (self._taken(Ask.LEAVING) if fresh else set())

    def _begins(self, book: Reading, tip: int) -> dict[Handle, int]:
        """When those settle, by the coins that there are for it, of which any may begin by now."""
        number = book.counted()
        coins = self.hub.reserve_of(number).coins
        expiries = book.expiries(latest_begun(tip, number, coins))
        return dict(zip(expiries, starts(tuple(expiries.values()), coins), strict=True))

    def _leaving(self, book: Reading) -> list[Handle]:
        """Find those whose asset is not offered any more, or that are to end; all of them where the hub drains."""
        hub = self.hub
        assets = {asset for asset, stage in book.totals() if stage in (AGREED, OPEN)}
        leaving = [asset for asset in assets if hub.draining or hub.offer.has_withdrawn(asset)]
        return [*book.going_on(leaving), *asked_to_end(book.db)]

    def _lapse(self, tip: int) -> None:
        """End some of the promises that nobody has paid for in time; rounds that come soon end the others."""
        hub = self.hub
        number = hub.book.run("round", lambda work: lapse(work, tip, hub.network))
        self._lapsing = number == AT_ONCE
        if self._lapsing:
            hub.wake()
        if number:
            log.info("promises lapsed", extra={"fields": {"number": number}})

    def _forget(self, tip: int) -> None:
        """Drop what is over for good since the last block: requests without a deposit, and what was watched."""
        hub, below = self.hub, tip - KEPT_BLOCKS
        with hub.book.reading() as book:
            kept = meta_get(book.db, _FORGOTTEN)
            closed = closed_between(book.db, -1 if kept is None else int(kept), below)
        forgotten = sum(self._drop(partial(self._forget_closed, some)) for some in batches(closed))
        while some_requests := self._drop(lambda work: forget_requests(work, tip)):
            forgotten += some_requests
        for _ in range(_PAYMENT_BATCHES):
            if not self._drop(lambda work: forget_payments(work, time.time())):
                break
        with hub.book.transaction("round") as work:
            meta_set(work.db, _FORGOTTEN, str(below))
            if (place := hub.marks.place()) is not None:  # those connections were stopped before they were marked
                meta_set(work.db, MARKS_SEEN, place)
        if forgotten:
            log.info("requests forgotten", extra={"fields": {"number": forgotten}})

    def _drop(self, step: Callable[[UnitOfWork], int]) -> int:
        """Do a step of what may be much, and see that the last look at the chain does not grow old over it."""
        guarded(self.hub.follower.keep_fresh)
        return self.hub.book.run("round", step)

    def _forget_closed(self, closed: Sequence[Handle], work: UnitOfWork) -> int:
        number = forget_promises(work, closed)  # while who was paid to is known
        forget_received(work, closed)
        self.hub.follower.forget(work.db, closed)
        return number

    def _going_on(self) -> bool:
        """Whether any connection is not over yet."""
        with self.hub.book.reading() as book:
            return any(stage in (AGREED, OPEN, CLOSING) for _, stage in book.totals())

    def _taken(self, when: Ask) -> set[Handle]:
        """Take the connections that are to be looked at then off the list."""
        for _ in range(self.hub.asked.qsize()):
            asked, handle = self.hub.asked.get()
            self._asked[asked].add(handle)
        taken, self._asked[when] = self._asked[when], set()
        return taken

    # The thread -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Do ``round`` over and over in a thread, until ``stop``."""
        self._loop.start()

    def await_round(self) -> None:
        """Have the thread do a round that begins from now on, and wait until it, or the thread, has ended."""
        self._loop.await_round()

    def stop(self) -> None:
        """End the thread, which finishes the round under way."""
        self._loop.stop()
        if self._note is not None:
            guarded(self._hear)
            self._note(True)

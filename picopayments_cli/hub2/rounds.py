"""The hub's rounds: each follows the chain and does the chores.

A round looks at the connections that something has happened to: a block, a transaction of theirs, a deadline, a failure
before. A step that fails is logged, tried again in a later round, and does not stop the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from picopayments_cli.chain import Query
from picopayments_cli.channel.stages import AGREED, CLOSING, OPEN
from picopayments_cli.channel.values import Handle
from picopayments_cli.errors import (
    InsufficientBitcoin,
    InsufficientFunds,
    MemoRequired,
    PicopaymentsError,
    UnknownMethod,
)
from picopayments_cli.hub.loop import Loop, pause_on
from picopayments_cli.hub2.chores import CHECKED_AT_ONCE, check_hashes, guarded, learn_coins, settle
from picopayments_cli.hub2.database import meta_get, meta_set
from picopayments_cli.hub2.follower import KEPT_BLOCKS
from picopayments_cli.hub2.hub import Ask, Hub

log = logging.getLogger(__name__)

RETRY_ROUNDS = 25  # after which what failed is tried again, at the latest
WALLET = "wallet"  # the kind of script that the hub's own address is
_FUNDED = "funded by the faucet"
_FUNDS_COINS, _FUNDS_SATOSHIS, _FUNDS_XCP = 20, 50_000_000, 1_000_000_000_000


class Rounds:
    """The rounds of one hub. ``once`` is one round; ``start`` begins to repeat it in a thread, ``stop`` ends that.

    One thread does the rounds, and it alone knows what they are to look at: others ask the hub for it.
    """

    def __init__(self, hub: Hub, note: Callable[[bool], None] | None = None) -> None:
        """``note`` is called after each round, and with True at the end."""
        self.hub = hub
        self.when_drained: Callable[[], None] | None = None  # called once a draining hub has no connection left
        self._note = note
        self._looked_at = -1  # the height of the last look at the wallet's assets
        self._tip: int | None = None  # that the last round looked at
        self._shaken = False  # blocks were taken away since the ledger was asked about the wallet's coins
        self._count = 0
        self._asked: dict[Ask, set[Handle]] = {when: set() for when in Ask}  # in memory: the first round looks at all
        self._loop = Loop(self.round, hub.woken, pause_on(hub.network.name))

    # Before the first request ---------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read the chain, watch the wallet, and fund it on regtest: all this before the first request.

        Raises NodeUnreachable and its kind, InvalidSetting for terms of what is no asset.
        """
        hub = self.hub
        hub.follower.catch_up()
        hub.follower.import_address(hub.chain, hub.address, WALLET)
        try:
            hub.chain.view(Query(options=[hub.address])).check_takes_sends(hub.address)
        except MemoRequired as error:  # what is open goes on, what is new is refused
            log.error(error.message)
        hub.offer.resolve(hub.chain)
        with hub.book.reading() as book:
            used = {book.get(handle).asset for handle in book.in_stage(AGREED, OPEN)}
        if hub.network.name == "regtest":
            self._fund()
            hub.offer.include(used)
        for asset in (*hub.offer.assets, *used):
            hub.longname(asset)

    def _fund(self) -> None:
        """Let the regtest node's faucet fund the wallet, once, with coins enough for many transactions at a time."""
        hub = self.hub
        with hub.database.reading() as connection:
            if meta_get(connection, _FUNDED) is not None:
                return
        try:
            for _ in range(_FUNDS_COINS):
                hub.node.call("faucet", {"address": hub.address, "btc": _FUNDS_SATOSHIS}, retry=False)
            hub.node.call("faucet", {"address": hub.address, "asset": "XCP", "quantity": _FUNDS_XCP}, retry=False)
            hub.node.call("generate", {"blocks": 1}, retry=False)
        except (InsufficientBitcoin, InsufficientFunds, UnknownMethod) as error:  # a node of another make, or many hubs
            log.warning("not funded", extra={"fields": {"address": hub.address}}, exc_info=error)
        with hub.database.transaction("funded") as connection:
            meta_set(connection, _FUNDED, "yes")
        hub.follower.catch_up()

    # One round ------------------------------------------------------------------------------------------------------

    def round(self) -> bool:
        """Do ``once`` and tell whether it succeeded. A failure is logged: the next round may succeed."""
        try:
            self.once()
        except Exception as error:
            level = logging.WARNING if isinstance(error, PicopaymentsError) else logging.ERROR
            log.log(level, "round failed", exc_info=error)
            return False
        return True

    def once(self) -> None:
        """Follow the chain to its tip, then do every chore once. Raises what either raises."""
        before = frozenset(self.hub.spent)
        self._offer_holdings(self.hub.follower.catch_up())
        self.hub.spent -= before  # the index knows
        self._run()
        if self._note is not None:
            self._note(False)

    def _offer_holdings(self, height: int) -> None:
        """On regtest, offer what the wallet holds; look once in each block."""
        hub = self.hub
        if hub.network.name != "regtest" or height == self._looked_at:
            return
        held = hub.chain.view(Query(balances=[hub.address])).balances[hub.address]
        found = [asset for asset, quantity in held.items() if quantity and asset != "BTC"]
        hub.offer.include(found)
        for asset in found:
            hub.longname(asset)
        self._looked_at = height

    def _run(self) -> None:
        """Do the chores. Raises what the database raises; then the next round looks at everything."""
        hub, now = self.hub, self._asked[Ask.NOW]
        self._count += 1
        if self._count % RETRY_ROUNDS == 0:
            now |= self._taken(Ask.LATER)
        try:
            self._plan(now)
        except PicopaymentsError:
            self._tip = None
            raise
        if guarded(partial(learn_coins, hub, anew=self._shaken)):
            self._shaken = False
        unchecked = hub.book.unchecked()
        for start in range(0, len(unchecked), CHECKED_AT_ONCE):
            guarded(partial(check_hashes, hub, unchecked[start : start + CHECKED_AT_ONCE]))
        self._take_in()
        for handle in sorted(now):
            if not guarded(partial(settle, hub, handle), handle):
                hub.ask(Ask.LATER, handle)
            now.discard(handle)
        if hub.draining and self.when_drained is not None:
            with hub.book.reading() as book:
                left = book.in_stage(AGREED, OPEN, CLOSING)
            if not left:
                self.when_drained()

    def _plan(self, now: set[Handle]) -> None:
        """Add the connections that blocks, transactions and deadlines bring."""
        hub = self.hub
        touched, shaken = hub.follower.take_changes()
        with hub.book.reading() as book:
            tip = hub.follower.tip(book.db)
            for script in touched:
                now.update(book.touching(script))
            self._shaken |= shaken
            if shaken or self._tip is None:
                now.update(book.in_stage(AGREED, OPEN, CLOSING), book.closed_since(tip - KEPT_BLOCKS))
            elif tip != self._tip:
                now.update(book.in_stage(AGREED, CLOSING), book.due(tip), self._taken(Ask.LEAVING))
        if tip != self._tip:
            with hub.book.transaction("round") as work:
                forgotten = work.forget(tip)
            if forgotten:
                log.info("requests forgotten", extra={"fields": {"number": forgotten}})
        self._tip = tip

    def _taken(self, when: Ask) -> set[Handle]:
        """Take the connections that are to be looked at then off the list."""
        self._take_in()
        taken, self._asked[when] = self._asked[when], set()
        return taken

    def _take_in(self) -> None:
        """Take over what was asked for."""
        for _ in range(self.hub.asked.qsize()):
            when, handle = self.hub.asked.get()
            self._asked[when].add(handle)

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
            self._note(True)

"""Do what the hub does by itself with the connections to which something has happened, all of them at a time.

First each one's stage: deposits that count, open, stopped, over. Then one plan for all that is to be published, since
one wallet pays for it: punishments first. A step writes what it decides before it speaks, and bears repetition.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from picopayments_cli.chain import REQUIRE_MEMO, Query
from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.deadlines import must_close
from picopayments_cli.channel.drafts import parse_transaction
from picopayments_cli.channel.duplex import half_left
from picopayments_cli.channel.facts import Deposit, Sent, Side
from picopayments_cli.channel.recovery import Case, is_over, tasks
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, OPEN
from picopayments_cli.channel.steps import Means, Name, Step, Task, plan
from picopayments_cli.channel.values import Handle
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.hub.account import Account
from picopayments_cli.hub.book import UnitOfWork
from picopayments_cli.hub.chainview import facts_of, note_sent, promised_coins, sides_of
from picopayments_cli.hub.hub import Ask, Hub
from picopayments_cli.hub.opening import fund, judged, open_facts, restage, see_deposits
from picopayments_cli.hub.stopping import stop

log = logging.getLogger(__name__)

UNFUNDED_BLOCKS = 144  # without the client's deposit, after which the hub's promise is dropped


def guarded(step: Callable[[], None], handle: Handle | None = None) -> bool:
    """Do a step and tell whether it succeeded. A failure is logged."""
    try:
        step()
    except PicopaymentsError as error:
        fields = {"handle": handle.hex() if handle else None, "error": error.as_json()}
        log.warning("chore failed", extra={"fields": fields})
        return False
    return True


@dataclass
class Work:
    """One round: the connections that are looked at, the heights at which they settle, and what has failed."""

    hub: Hub
    handles: Collection[Handle]
    begins: dict[Handle, int]
    shaken: bool = False
    home: bool = True

    def do(self) -> None:
        """Do all that these connections need now. What fails is asked for again."""
        for handle in sorted(self.handles):
            self._guarded(partial(self._look_at, handle), handle)
        if not self.handles:
            return
        means = self._means()
        cases = [case for handle in sorted(self.handles) for case in self._cases(handle)]
        todo = [task for case in cases for task in tasks(case)]
        self._publish_all(todo, means)
        for handle in self._in_stage(CLOSING, CLOSED):
            self._guarded(partial(self._end, handle), handle)

    def _guarded(self, step: Callable[[], None], handle: Handle) -> None:
        if not guarded(step, handle):
            self.hub.ask(Ask.LATER, handle)

    def _in_stage(self, *stages: str) -> list[Handle]:
        with self.hub.book.reading() as book:
            return sorted(set(book.in_stage(*stages)) & set(self.handles))

    # Stages ---------------------------------------------------------------------------------------------------------

    def _look_at(self, handle: Handle) -> None:
        """See what a connection's deposits are, and open or stop it."""
        hub = self.hub
        account = hub.book.look_up(handle)
        if account.duplex is None:
            return
        duplex = account.duplex
        if account.stage in (AGREED, CLOSING) and None in (duplex.sending.anchor, duplex.receiving.anchor):
            see_deposits(hub, handle)
        with hub.book.transaction("look") as work:
            account = work.get(handle)
            if account.stage in (AGREED, OPEN):
                self._restage(work, account)
            elif account.waiting and account.stage == CLOSING:
                stop(hub, work, account)
        if self.shaken and account.stage in (AGREED, OPEN) and Deposit.VOID in judged(hub, handle):
            with hub.book.transaction("void") as work:
                stop(hub, work, work.get(handle))

    def _restage(self, work: UnitOfWork, account: Account) -> None:
        facts = open_facts(self.hub, work, account)
        expiry = account.fixed.agreed.expiry
        begins = self.begins.get(account.handle, expiry.settle_height)
        tip = facts[0].tip
        unfunded = account.channels.receiving.anchor is None and tip > expiry.height - expiry.time + UNFUNDED_BLOCKS
        if unfunded or self._leaves(account) or must_close(expiry, begins, facts):
            stop(self.hub, work, account)
        else:
            restage(self.hub, work, account, facts)

    def _leaves(self, account: Account) -> bool:
        """Whether the hub ends a connection by itself, since it has stopped offering the asset.

        Not before its client has fetched what waits for it: where all close at once, nobody is there to take it back.
        """
        withdrawn = self.hub.draining or account.fixed.asset not in self.hub.offer.assets
        if withdrawn and account.waiting:
            self.hub.ask(Ask.LEAVING, account.handle)
            return False
        return withdrawn

    # Publishing -----------------------------------------------------------------------------------------------------

    def _cases(self, handle: Handle) -> list[Case]:
        """Both channels of a connection, as the chain shows them; none where the nodes don't tell."""
        found: list[Case] = []
        self._guarded(lambda: found.extend(cases_of(self.hub, handle, home=self.home)), handle)
        return found

    def _means(self) -> Means:
        """Return what the hub pays with now, and whether its own address takes sends without a memo."""
        hub = self.hub
        view = hub.chain.view(Query(coins=[hub.address], options=[hub.address]))
        self.home = not view.options[hub.address] & REQUIRE_MEMO
        confirmed = [coin for coin in view.coins[hub.address] if coin.height is not None]
        attached = hub.chain.attached([coin.outpoint for coin in confirmed]) if confirmed else set()
        with hub.book.reading() as book:
            kept = attached | promised_coins(book)
        coins = tuple(coin for coin in confirmed if coin.outpoint not in kept)
        return Means(Purse(hub.script, coins, hub.rate.value), hub.rate, hub.bounds, hub.reserve)

    def _publish_all(self, todo: Sequence[Task], means: Means) -> None:
        """Publish what is to be done now, the most urgent first; what is left in the wallet pays for deposits."""
        for step in plan(todo, means):
            means = means.without(step)
            handle, payer = _of_label(step.label)
            self._guarded(partial(publish, self.hub, step, handle, payer=payer), handle)
        for handle in self._in_stage(AGREED):
            means = self._fund(handle, means)

    def _fund(self, handle: Handle, means: Means) -> Means:
        left = [means]
        self._guarded(lambda: left.append(fund(self.hub, handle, means)), handle)
        return left[-1]

    # The end --------------------------------------------------------------------------------------------------------

    def _end(self, handle: Handle) -> None:
        """Close what holds nothing more, finally; what a reorganisation has brought back is closing again."""
        hub = self.hub
        cases = cases_of(hub, handle, home=self.home)
        over = all(is_over(case, hub.network.safe_depth, hub.rate.value) for case in cases)
        with hub.book.transaction("end") as work:
            account = work.get(handle)
            over = over and not self._awaits_deposit(work, account)
            stage = CLOSED if over else CLOSING
            if account.duplex is not None and account.stage != stage and account.stage in (CLOSING, CLOSED):
                log.info("closed" if over else "no longer closed", extra={"fields": {"handle": handle.hex()}})
                work.put(replace(account, stage=stage, due_height=hub.follower.tip(work.db)))

    def _awaits_deposit(self, work: UnitOfWork, account: Account) -> bool:
        """Whether a deposit was made that does not count yet."""
        if account.duplex is None or self.hub.follower.tip(work.db) >= account.fixed.agreed.expiry.height:
            return False
        sides = [side for side in (account.duplex.sending, account.duplex.receiving) if side.anchor is None]
        return any(self.hub.follower.deposits_to(work.db, side.contract.deposit.output) for side in sides)


def cases_of(hub: Hub, handle: Handle, *, home: bool) -> list[Case]:
    """Both channels of a connection, as the hub stands in them; none before mph_deposit.

    Raises what the nodes raise.
    """
    with hub.book.reading() as book:
        account = book.get(handle)
        if account.duplex is None:
            return []
        closing = account.stage in (CLOSING, CLOSED)
        found = []
        paying, paid = sides_of(hub, book, account)
        sides: tuple[tuple[Side, bool], ...] = ((paying, True), (paid, False))
        for side, payer in sides:
            facts = facts_of(hub, book, side, closing=closing)
            label, expiry = _label(handle, payer=payer), account.fixed.agreed.expiry
            found.append(Case(label, side, facts, expiry, closing, account.since, home=home, stale=account.stale))
        return found


def publish(hub: Hub, step: Step, handle: Handle, *, payer: bool) -> None:
    """Publish one step, a draft and its child as a package, and keep what a node has taken of it.

    Before the hub's half of a commit leaves, its database and the mark outside of it say so. Raises BroadcastRefused.
    """
    if step.waits is not None:
        fields = {"handle": handle.hex(), "step": step.name.value, "waits": step.waits.value}
        log.warning("waits", extra={"fields": fields})
        return
    if step.name is Name.COMMIT and step.draft is not None:
        hub.marks.add(handle)
        with hub.book.transaction("half") as work:
            account = work.get(handle)
            work.put(replace(account, duplex=half_left(account.channels)))
    secrets = hub.book.look_up(handle).fixed.secrets(hub.key)
    raws = step.finish(secrets.payer if payer else secrets.payee, hub.key, payer=payer)
    hub.bitcoin.submit(raws)
    drafts = [draft for draft in (step.draft, step.child) if draft is not None]
    with hub.book.transaction("published") as work:
        for draft, raw in zip(drafts, raws[-len(drafts) :] if drafts else (), strict=True):
            tx = parse_transaction(raw)
            if tx is not None:
                note_sent(work, handle, Sent.of(draft, tx.GetTxid()), payer=payer)
    log.info("published", extra={"fields": {"handle": handle.hex(), "step": step.name.value, "short": step.short}})


def _label(handle: Handle, *, payer: bool) -> str:
    return f"{handle.hex()} {'h2c' if payer else 'c2h'}"


def _of_label(label: str) -> tuple[Handle, bool]:
    text, _, channel = label.partition(" ")
    return Handle(bytes.fromhex(text)), channel == "h2c"

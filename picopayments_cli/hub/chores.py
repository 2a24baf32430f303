"""Do what the hub does by itself with the connections to which something has happened, all of them at a time.

First what takes revoked commits, found by what spends an anchor: it waits for no other connection. Then each one's
stage: deposits that count, open, stopped, over. Then one plan for all that is to be published, since one wallet pays
for it, the most urgent first. A step writes what it decides before it speaks, and bears repetition. A connection that
can't be looked at, whatever the cause, keeps no other one waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from picopayments_cli.channel.deadlines import must_close
from picopayments_cli.channel.drafts import txid_of
from picopayments_cli.channel.duplex import half_left
from picopayments_cli.channel.facts import Deposit, Sent, Side
from picopayments_cli.channel.recovery import Case, is_over, tasks
from picopayments_cli.channel.reserve import Chore
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, OPEN
from picopayments_cli.channel.steps import Means, Name, Step, Task, plan
from picopayments_cli.channel.values import Handle
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.hub.account import Account
from picopayments_cli.hub.book import UnitOfWork
from picopayments_cli.hub.chainview import facts_of, note_sent, sides_of
from picopayments_cli.hub.hub import Ask, Hub
from picopayments_cli.hub.opening import fund, judged, open_facts, restage, see_deposits
from picopayments_cli.hub.stopping import closes_by, ends_by, stop
from picopayments_cli.hub.wallet import look, means_of, split
from picopayments_cli.hub.withdrawing import follow_withdrawals

log = logging.getLogger(__name__)


def guarded(step: Callable[[], None], handle: Handle | None = None) -> bool:
    """Do a step and tell whether it succeeded. A failure is logged, a fault of the program with its traceback."""
    fields: dict[str, Any] = {"handle": handle.hex() if handle else None}
    try:
        step()
    except PicopaymentsError as error:
        log.warning("chore failed", extra={"fields": {**fields, "error": error.as_json()}})
        return False
    except Exception as error:
        log.error("chore failed", extra={"fields": fields}, exc_info=error)
        return False
    return True


@dataclass
class Work:
    """One round: the connections that are looked at, the heights at which they settle, and what has failed.

    ``shaken``: those of which a reorganisation took something back. ``fresh``: whether there is a block that no round
    has seen. ``away``: why the Counterparty node did not answer, once it did not: it is asked no more in this round,
    and goes without what Bitcoin Core can't tell.
    """

    hub: Hub
    handles: Collection[Handle]
    begins: dict[Handle, int]
    shaken: Collection[Handle] = ()
    fresh: bool = False
    away: PicopaymentsError | None = None
    unseen: set[Handle] = field(default_factory=set)  # whose deposits nobody could tell
    versions: dict[Handle, int] = field(default_factory=dict)  # of connections, as they were planned by

    def do(self) -> None:
        """Do all that these connections need now. A step that fails is asked for again."""
        if not self.handles and not self.fresh:
            return
        self._look_at_wallet()
        if self.fresh:
            guarded(partial(follow_withdrawals, self.hub))
        punished = self._punish()
        for handle in self._in_turn():
            self._guarded(partial(self._look_at, handle), handle)
        means = means_of(self.hub, looked=self.away is None)
        for step in punished:
            means = means.without(step)
        shown = {handle: found for handle in self._in_turn() if (found := self._show(handle)) is not None}
        self.versions = {handle: found.version for handle, found in shown.items()}
        done, todo = {_of_label(step.label)[0] for step in punished}, []
        for handle, found in shown.items():
            todo += self._tasks(handle, found, punish=handle not in done)
        self._publish_all(todo, means)
        for handle in self._in_stage(CLOSING, CLOSED):
            if handle in shown and shown[handle].whole:
                self._guarded(partial(self._end, handle, shown[handle]), handle)

    def _in_turn(self) -> Iterator[Handle]:
        """The connections one after the other; the last look at the chain does not grow old over many of them."""
        for handle in sorted(self.handles):
            guarded(self.hub.follower.keep_fresh)
            yield handle

    def _punish(self) -> list[Step]:
        """Publish what takes revoked commits, by Bitcoin Core alone. Return the steps."""
        hub = self.hub
        with hub.book.reading() as book:
            spent = sorted(hub.follower.spent(book.db).intersection(self.handles))
        todo = []
        for handle in spent:
            found = self._shown(handle, addresses=False)
            todo += [] if found is None else self._tasks(handle, found, punish=True)
        steps = plan([task for task in todo if task.chore is Chore.PUNISH], means_of(hub, looked=self.away is None))
        for step in steps:
            self._publish(step)
        return list(steps)

    def _tasks(self, handle: Handle, found: Shown, *, punish: bool) -> list[Task]:
        """All that is to be done for a connection, with its punishments or without them."""
        todo: list[Task] = []
        self._guarded(lambda: todo.extend(task for case in found.cases for task in tasks(case)), handle)
        return [self._by_itself(task, handle) for task in todo if punish or task.chore is not Chore.PUNISH]

    def _by_itself(self, task: Task, handle: Handle) -> Task:
        """The task, which comes to nothing where it fails."""

        def made(means: Means) -> Step:
            steps = [Step("", Name.COIN, task.chore)]
            self._guarded(lambda: steps.append(task.make(means)), handle)
            return steps[-1]

        return replace(task, make=made)

    def _look_at_wallet(self) -> None:
        try:
            look(self.hub)
        except PicopaymentsError as error:
            self.away = error
            log.warning("the chain is seen by Bitcoin Core alone", extra={"fields": {"error": error.as_json()}})

    def _guarded(self, step: Callable[[], None], handle: Handle) -> bool:
        done = guarded(step, handle)
        if not done:
            self.hub.ask(Ask.LATER, handle)
        return done

    def _in_stage(self, *stages: str) -> list[Handle]:
        with self.hub.book.reading() as book:
            return sorted(book.among(self.handles, *stages))

    # Stages ---------------------------------------------------------------------------------------------------------

    def _look_at(self, handle: Handle) -> None:
        """See what a connection's deposits are, and open or stop it."""
        hub = self.hub
        account = hub.book.look_up(handle)
        if account.duplex is None:
            return
        duplex = account.duplex
        opening = account.stage in (AGREED, CLOSING) and None in (duplex.sending.anchor, duplex.receiving.anchor)
        if opening and not self._guarded(partial(self._see_deposits, handle), handle):
            self.unseen.add(handle)
        if self._is_void(account):
            with hub.book.transaction("void") as work:
                work.lock_with_payers(handle)
                stop(hub, work, work.get(handle))
            return
        with hub.book.transaction("look") as work:
            work.lock_with_payers(handle)
            account = work.get(handle)
            if account.stage in (AGREED, OPEN):
                self._restage(work, account)
            elif account.waiting and account.stage == CLOSING and not account.channels.close_signed:
                stop(hub, work, account)

    def _see_deposits(self, handle: Handle) -> None:
        """Take the deposits that count. Raises what the chain raises, or has raised in this round."""
        if self.away is not None:
            raise self.away
        see_deposits(self.hub, handle)

    def _is_void(self, account: Account) -> bool:
        """Whether a deposit was mined with less than was agreed on, which a reorganisation can bring about.

        It may come back blocks later: judged is whatever is to open. While the ledger is silent nothing is open. Raises
        what the chain raises.
        """
        if account.stage != AGREED and not (account.stage == OPEN and account.handle in self.shaken):
            return False
        try:
            if self.away is not None:
                raise self.away
            return Deposit.VOID in judged(self.hub, account.handle)
        except PicopaymentsError:
            with self.hub.book.transaction("not judged") as work:
                account = work.get(account.handle)
                if account.stage == OPEN:
                    work.put(replace(account, stage=AGREED))
            raise

    def _restage(self, work: UnitOfWork, account: Account) -> None:
        facts = open_facts(self.hub, work, account)
        expiry = account.fixed.agreed.expiry
        begins = self.begins.get(account.handle, expiry.settle_height)
        tip = facts[0].tip
        if self._lapsed(account, tip) or self._leaves(work, account) or must_close(expiry, begins, facts):
            stop(self.hub, work, account)
        else:
            restage(self.hub, work, account, facts)

    def _lapsed(self, account: Account, tip: int) -> bool:
        """Whether the hub's promise is over: no deposit that counts has come in time, or no lock fee.

        While the ledger is silent nobody can tell which deposit counts, and nobody is promised anything either.
        """
        expiry, network = account.fixed.agreed.expiry, self.hub.network
        if account.channels.receiving.anchor is None:
            return account.handle not in self.unseen and expiry.is_unfunded(tip, network)
        return account.lock_due > 0 and tip > expiry.fee_by(expiry.deposit_by(network))

    def _leaves(self, work: UnitOfWork, account: Account) -> bool:
        """Whether the hub ends a connection by itself: it has stopped offering the asset, or its operator asks for it.

        Up to a height not before its client has fetched what waits for it: where all close at once, nobody is there to
        take it back.
        """
        asset, draining = account.fixed.asset, self.hub.draining
        asked = ends_by(work, account.handle)
        withdrawn = draining or asked is not None or self.hub.offer.has_withdrawn(asset)
        if withdrawn and account.waiting:
            until = asked if asked is not None else closes_by(self.hub, work, None if draining else asset)
            if self.hub.follower.tip(work.db) < until:
                self.hub.ask(Ask.LEAVING, account.handle)
                return False
        return withdrawn

    # Publishing -----------------------------------------------------------------------------------------------------

    def _show(self, handle: Handle) -> Shown | None:
        """A connection as the chain shows it, by Bitcoin Core alone if need be; None where that is silent too."""
        found = self._shown(handle) if self.away is None else None
        if found is not None:
            return found
        self.hub.ask(Ask.LATER, handle)
        return self._shown(handle, addresses=False)

    def _shown(self, handle: Handle, *, addresses: bool = True) -> Shown | None:
        found: list[Shown] = []
        self._guarded(lambda: found.append(show(self.hub, handle, addresses=addresses)), handle)
        return found[0] if found else None

    def _publish_all(self, todo: Sequence[Task], means: Means) -> None:
        """Publish what is to be done now, the most urgent first; what is left in the wallet pays for deposits."""
        for step in plan(todo, means):
            means = means.without(step)
            self._publish(step)
        if self.away is not None:
            return  # deposits need the ledger
        means = self._left(partial(split, self.hub, means), means)
        for handle in self._in_stage(AGREED):
            means = self._left(partial(fund, self.hub, handle, means), means, handle)

    def _publish(self, step: Step) -> None:
        handle, payer = _of_label(step.label)
        version = self.versions.get(handle)
        self._guarded(partial(publish, self.hub, step, handle, payer=payer, version=version), handle)

    def _left(self, step: Callable[[], Means], means: Means, handle: Handle | None = None) -> Means:
        """Return what a step leaves in the wallet, all of it where it fails."""
        left = [means]
        if not guarded(lambda: left.append(step()), handle) and handle is not None:
            self.hub.ask(Ask.LATER, handle)
        return left[-1]

    # The end --------------------------------------------------------------------------------------------------------

    def _end(self, handle: Handle, shown: Shown) -> None:
        """Close what holds nothing more, finally; what a reorganisation has brought back is closing again."""
        hub = self.hub
        over = all(is_over(case, hub.network.safe_depth, hub.rate.value) for case in shown.cases)
        with hub.book.transaction("end") as work:
            account = work.get(handle)
            if account.version != shown.version:
                return  # something has come about meanwhile
            over = over and not self._awaits_deposit(work, account)
            stage = CLOSED if over else CLOSING
            if account.duplex is not None and account.stage != stage and account.stage in (CLOSING, CLOSED):
                log.info("closed" if over else "no longer closed", extra={"fields": {"handle": handle.hex()}})
                work.put(replace(account, stage=stage, due_height=hub.follower.tip(work.db)))

    def _awaits_deposit(self, work: UnitOfWork, account: Account) -> bool:
        """Whether a deposit was made that does not count yet, and still may.

        A payment twice as deep as a deposit that counts is none: dust, or too little. One in the mempool is waited for:
        its client gets it back by an agreed close as soon as it is in a block.
        """
        hub, tip = self.hub, self.hub.follower.tip(work.db)
        if account.duplex is None or tip >= account.fixed.agreed.expiry.height:
            return False
        for side in (account.duplex.sending, account.duplex.receiving):
            entries = hub.follower.deposits_to(work.db, side.contract.deposit.output) if side.anchor is None else []
            moot = 2 * hub.network.safe_depth
            if any(entry.depth(tip) < moot or account.handle in self.unseen for entry in entries):
                return True
        return False


@dataclass(frozen=True)
class Shown:
    """A connection as the hub stood in its channels at a version of its row; no channels before mph_deposit.

    ``whole``: whether it is known, too, what lies on the channels' addresses.
    """

    version: int
    cases: tuple[Case, ...] = ()
    whole: bool = True


def show(hub: Hub, handle: Handle, *, addresses: bool = True) -> Shown:
    """Look at both channels of a connection; ``addresses``: as of ``facts_of``. Raises what the nodes raise."""
    with hub.book.reading() as book:
        account = book.get(handle)
        if account.duplex is None:
            return Shown(account.version)
        closing = account.stage in (CLOSING, CLOSED)
        found = []
        paying, paid = sides_of(hub, book, account)
        sides: tuple[tuple[Side, bool], ...] = ((paying, True), (paid, False))
        for side, payer in sides:
            facts = facts_of(hub, book, side, closing=closing, addresses=addresses)
            label, expiry = _label(handle, payer=payer), account.fixed.agreed.expiry
            home = hub.wallet.home
            found.append(Case(label, side, facts, expiry, closing, account.since, home=home, stale=account.stale))
        return Shown(account.version, tuple(found), addresses)


def publish(hub: Hub, step: Step, handle: Handle, *, payer: bool, version: int | None = None) -> None:
    """Publish one step, a draft and its child as a package, and keep what a node has taken of it.

    Before the hub's half of a commit leaves, its database and the mark outside of it say so. One that was planned by
    another ``version`` of the connection stays: it may have been given back since. Raises BroadcastRefused.
    """
    if step.waits is not None:
        fields = {"handle": handle.hex(), "step": step.name.value, "waits": step.waits.value}
        log.warning("waits", extra={"fields": fields})
        return
    if step.name is Name.COMMIT and step.draft is not None:
        hub.marks.add(handle)
        with hub.book.transaction("half") as work:
            account = work.get(handle)
            if account.version != version:
                hub.ask(Ask.NOW, handle)
                return
            work.put(replace(account, duplex=half_left(account.channels)))
    secrets = hub.book.look_up(handle).fixed.secrets(hub.key)
    raws = step.finish(secrets.payer if payer else secrets.payee, hub.key, payer=payer)
    hub.submit(raws)
    drafts = [draft for draft in (step.draft, step.child) if draft is not None]
    with hub.book.transaction("published") as work:
        for draft, raw in zip(drafts, raws[-len(drafts) :] if drafts else (), strict=True):
            note_sent(work, handle, Sent.of(draft, txid_of(raw)), payer=payer)
    log.info("published", extra={"fields": {"handle": handle.hex(), "step": step.name.value, "short": step.short}})


def _label(handle: Handle, *, payer: bool) -> str:
    return f"{handle.hex()} {'h2c' if payer else 'c2h'}"


def _of_label(label: str) -> tuple[Handle, bool]:
    text, _, channel = label.partition(" ")
    return Handle(bytes.fromhex(text)), channel == "h2c"

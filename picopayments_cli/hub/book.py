"""Change the hub's book of connections inside one transaction of the database; nothing is kept beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from sqlalchemy import (
    Connection,
    LargeBinary,
    bindparam,
    exists,
    false,
    func,
    select,
)
from sqlalchemy.exc import IntegrityError

from picopayments_cli.channel.stages import AGREED, CLOSING, OPEN
from picopayments_cli.channel.state import Changes, Signed
from picopayments_cli.channel.values import Handle, Hash, Pubkey, Token
from picopayments_cli.channel.wire import Payment
from picopayments_cli.errors import DatabaseUnusable, StaleRequest
from picopayments_cli.hub.account import (
    DONE,
    LISTED,
    RETURNED,
    WAITING,
    Account,
    Queue,
    Waiting,
    fixed_row,
    head_row,
    held_row,
    rarely_changed,
    signed_row,
)
from picopayments_cli.hub.arrivals import Arrivals
from picopayments_cli.hub.database import Database, again, meta_set
from picopayments_cli.hub.reading import GOING_ON, OF, PAID, Reading
from picopayments_cli.hub.schema import (
    closes,
    commits,
    connections,
    hashes,
    heads,
    payments,
    promises,
    touched,
)
from picopayments_cli.hub.totals import Moves

T = TypeVar("T")

# Statements are built once: building one takes longer than SQLite takes to run it.
_LOCK = (
    select(connections.c.handle)
    .join(heads, heads.c.handle == connections.c.handle)
    .where(connections.c.handle == OF)
    .with_for_update()
)
_ADD, _ADD_HEAD = connections.insert(), heads.insert()
_WRITE_HEAD = (
    heads.update()
    .where(heads.c.handle == OF, heads.c.version == bindparam("before"))
    .values({name: bindparam(name) for name in ("version", "head", "last_hash", "last_reply")})
)
_WRITE_REQUEST = _WRITE_HEAD.values(last_request=bindparam("last_request"))
_WRITE_FIXED = (
    connections.update()
    .where(connections.c.handle == OF)
    .values({name: bindparam(name) for name in (item.name for item in connections.c) if name != "handle"})
)
_DROP_PROMISE = promises.delete().where(promises.c.handle == OF)
_GOING = select(connections.c.handle).where(GOING_ON)
_GIVE_UP = (
    touched.delete().where(touched.c.handle.in_(_GOING)),
    touched.insert().from_select(["handle", "shaken"], select(connections.c.handle, false()).where(GOING_ON)),
    heads.update().where(heads.c.handle.in_(_GOING)).values(version=heads.c.version + 1),
    connections.update().where(GOING_ON).values(stage=CLOSING, since=bindparam("tip"), stale=True),
)
_TAKER, _TAKEN = bindparam("of", type_=LargeBinary), bindparam("hash", type_=LargeBinary)
_ADD_HASH = (
    hashes.insert()
    .from_select(
        ["handle", "hash"],
        select(_TAKER, _TAKEN).where(~exists().where(commits.c.handle == _TAKER, commits.c.revoke_hash == _TAKEN)),
    )
    .execution_options(preserve_rowcount=True)
)  # else told of UPDATE and DELETE alone, on PostgreSQL
_ADD_COMMIT = commits.insert()
_THIS = (commits.c.handle == OF, commits.c.revoke_hash == bindparam("hash"))
_CHANGE_SIGNED = (
    commits.update()
    .where(*_THIS, commits.c.sent.is_(True))
    .values(remainder=bindparam("remainder"), secret=bindparam("secret"), active=bindparam("active"))
)
_GIVE_BACK = commits.update().where(*_THIS).values(active=False)
_CLOSE_KEY = (closes.c.handle == OF, closes.c.payer == bindparam("by"), closes.c.quantity == bindparam("at"))
_DROP_CLOSE, _ADD_CLOSE = closes.delete().where(*_CLOSE_KEY), closes.insert()
_PAYERS = select(payments.c.payer).where(payments.c.payee == OF, payments.c.state == WAITING).distinct()
_WAITING_FROM = select(func.count()).where(
    payments.c.payee == OF, payments.c.state == WAITING, payments.c.payer == bindparam("by")
)
_KEEP_RECEIPT = (
    payments.update()
    .where(*PAID, payments.c.payee == bindparam("to"), payments.c.state.in_((LISTED, DONE)))
    .values(receipt=bindparam("given"))
)
_ADD_PAYMENT = payments.insert()
_LIST = payments.update().where(payments.c.number == OF).values(state=LISTED)
_RETURN = payments.update().where(payments.c.number == OF).values(state=RETURNED)
_DONE = payments.update().where(payments.c.payee == OF, payments.c.state == LISTED).values(state=DONE)


class UnitOfWork(Reading):
    """The book inside one writing transaction; ``db`` is that transaction.

    A connection that is read is locked until it is over. Who reads several names them to ``lock`` first.
    """

    _locks = True

    def __init__(self, db: Connection) -> None:
        super().__init__(db)
        self._shared = db.dialect.name != "sqlite"  # with other writers
        self._touched: dict[Handle, Account] = {}
        self._stored: dict[Handle, Account] = {}  # of these, as their rows are
        self.moves = Moves()  # of stages
        self.wrote = False  # a connection
        self.payees: set[Handle] = set()  # of payments that wait from now on
        self._shares: dict[tuple[Handle, Handle], int] = {}  # of payers of what waits for payees

    def get(self, handle: Handle, revoked: int = 0) -> Account:
        """A connection as this transaction has left it. Raises UnknownHandle."""
        if handle not in self._touched:
            self._touched[handle] = self._stored[handle] = super().get(handle, revoked)
        return self._touched[handle]

    def read(self, handles: Iterable[Handle], revoked: int = 0) -> None:
        """Read a few connections at once that ``get`` is asked for next, of those that there are."""
        fresh = [handle for handle in dict.fromkeys(handles) if handle not in self._touched]
        for account in self._load(fresh, revoked) if fresh else ():
            self._touched[account.handle] = self._stored[account.handle] = account

    def lock(self, handles: Iterable[Handle]) -> None:
        """Lock connections in ascending order, in which all lock them: so no two transactions wait for each other."""
        for handle in sorted(set(handles)) if self._shared else ():
            self.db.execute(_LOCK, {"of": handle})

    def lock_with_payers(self, handle: Handle) -> None:
        """Lock a connection that may be stopped, and those to which what waits for it then returns."""
        if self._shared:
            self.lock([handle, *(Handle(bytes(row.payer)) for row in self.db.execute(_PAYERS, {"of": handle}))])

    def queue(self, name: str) -> None:
        """Let no other transaction that asks for this name go on before this one is over. Ask before reading."""
        if self._shared:
            meta_set(self.db, f"queue of {name}", "")

    def add(self, account: Account) -> None:
        """Add a connection."""
        self.db.execute(_ADD, {"handle": account.handle, **fixed_row(account)})
        self.db.execute(_ADD_HEAD, {"handle": account.handle, **head_row(account)})
        self._touched[account.handle] = self._stored[account.handle] = account
        self.moves.add(account.fixed.asset, None, account.stage)

    def put(self, account: Account, changes: Changes | None = None) -> Account:
        """Write a connection, and the commits that changed. Raises DatabaseUnusable where another hub wrote."""
        self.get(account.handle)
        if changes is not None:
            self._apply(account.handle, changes)
        written = replace(account, version=account.version + 1)
        row = {"of": account.handle, "before": account.version, **head_row(written)}
        statement = _WRITE_HEAD
        if written.last_request is not None:
            statement, row["last_request"] = _WRITE_REQUEST, written.last_request
        if self.db.execute(statement, row).rowcount != 1:
            raise DatabaseUnusable(
                "Another hub has written to this database: stop all of them but one.", handle=account.handle.hex()
            )
        if rarely_changed(written) != rarely_changed(self._stored[account.handle]):
            self.db.execute(_WRITE_FIXED, {"of": account.handle, **fixed_row(written)})
            if not written.is_promise:
                self.db.execute(_DROP_PROMISE, {"of": account.handle})
        self.moves.add(account.fixed.asset, self._stored[account.handle].stage, written.stage)
        self._touched[account.handle] = self._stored[account.handle] = written
        self.wrote = True
        return written

    def keep(self, account: Account) -> None:
        """Take note of a connection that ``put`` writes later, or of payments, whose rows are all that is written."""
        self._touched[account.handle] = account

    def _apply(self, handle: Handle, changes: Changes) -> None:
        made = [item for item in changes.signed if item.remainder is None and item.secret is None]
        changed = [item for item in changes.signed if item not in made]
        added = [*(signed_row(handle, item) for item in made), *(held_row(handle, item) for item in changes.held)]
        if changed:
            self._change_signed(handle, changed)
        if added:
            self.db.execute(_ADD_COMMIT, added)
        if changes.given_back:
            self.db.execute(_GIVE_BACK, [{"of": handle, "hash": item.revoke_hash} for item in changes.given_back])

    def _change_signed(self, handle: Handle, changed: Sequence[Signed]) -> None:
        """Write remainder, secret and whether it is active of commits that the hub has signed before."""
        rows = [signed_row(handle, item) for item in changed]
        names = ("remainder", "secret", "active")
        asked = [{"of": handle, "hash": row["revoke_hash"], **{name: row[name] for name in names}} for row in rows]
        if self.db.execute(_CHANGE_SIGNED, asked).rowcount != len(asked):
            raise DatabaseUnusable(
                "The database lacks a commit that the hub has signed. Stop the hub: put the newest database back.",
                handle=handle.hex(),
            )

    def give_up(self, tip: int) -> int:
        """Stop all connections that go on as stale, and have the next round look at them. Return how many.

        By a few statements, as they may be many; what waits for them stays, until the round returns it.
        """
        found = {key: number for key, number in self.totals().items() if key[1] in (AGREED, OPEN)}
        for statement in _GIVE_UP:
            self.db.execute(statement, {"tip": tip})
        for (asset, stage), number in found.items():
            self.moves.add(asset, stage, CLOSING, number)
        self.wrote = True
        return sum(found.values())

    def take_hash(self, handle: Handle, taken: Hash) -> bool:
        """Enter a hash that the client gave; whether no commit of the connection is on it, on either side.

        Raises StaleRequest where it was given before.
        """
        try:
            return self.db.execute(_ADD_HASH, {"of": handle, "hash": taken}).rowcount == 1
        except IntegrityError:
            raise StaleRequest(
                "The request's hash was used in an earlier one, which has been answered and overtaken.",
                handle=handle.hex(),
            ) from None

    def add_close(
        self, handle: Handle, quantity: int, signature: bytes | None, rest: bytes | None, *, payer: bool
    ) -> None:
        """Keep the client's signatures of a close, in place of those that were there for that quantity."""
        self.db.execute(_DROP_CLOSE, {"of": handle, "by": payer, "at": quantity})
        row = {"handle": handle, "payer": payer, "quantity": quantity, "signature": signature, "rest_signature": rest}
        self.db.execute(_ADD_CLOSE, row)

    def share(self, payee: Handle, payer: Handle) -> int:
        """How many payments of a payer wait for a payee."""
        if (payee, payer) not in self._shares:
            found = self.db.execute(_WAITING_FROM, {"of": payee, "by": payer}).scalar_one()
            self._shares[(payee, payer)] = int(found)
        return self._shares[(payee, payer)]

    def add_payment(self, payer: Handle, payment: Payment) -> Queue:
        """Book a payment; one to the hub itself is done at once. Return what it adds to what waits for its payee."""
        payee, amount, token, now = payment.payee, payment.amount, payment.token, int(time.time())
        state = DONE if payee is None else WAITING
        row = {"payer": payer, "payee": payee, "amount": amount, "token": token, "state": state, "time": now}
        self.db.execute(_ADD_PAYMENT, row)
        if payee is not None:
            self.payees.add(payee)
            if (payee, payer) in self._shares:
                self._shares[(payee, payer)] += 1
        return Queue(1, amount)

    def keep_receipt(self, payer: Handle, payee: Handle, token: Token, receipt: bytes) -> None:
        """Keep the receipt of a payment that its payee has got, where there is such a one."""
        self.db.execute(_KEEP_RECEIPT, {"of": payer, "to": payee, "named": token, "given": receipt})

    def list_payments(self, listed: Sequence[Waiting]) -> None:
        """Mark payments as listed in the reply."""
        if listed:
            self.db.execute(_LIST, [{"of": item.number} for item in listed])

    def return_payment(self, item: Waiting) -> None:
        """Mark a payment as returned to its payer."""
        self.db.execute(_RETURN, {"of": item.number})

    def finish_payments(self, payee: Handle) -> None:
        """Mark the payments of the last reply as done: the next request shows that they arrived."""
        self.db.execute(_DONE, {"of": payee})


class Book:
    """All connections of one hub."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.arrivals = Arrivals()
        self.changed = False  # since somebody took note of it

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Read what was committed. A reader waits for no writer, and no writer for a reader."""
        with self._database.reading() as db:
            yield Reading(db)

    def look_up(self, handle: Handle) -> Account:
        """A connection as it was committed. Raises UnknownHandle."""
        with self.reading() as book:
            return book.get(handle)

    def client(self, handle: Handle) -> Pubkey:
        """The key of a connection's client, as ``Reading.client``. It holds for a transaction that follows."""
        with self.reading() as book:
            return book.client(handle)

    @contextmanager
    def transaction(self, label: str) -> Iterator[UnitOfWork]:
        """Run one writing transaction, undone where an error leaves it; then tell whom something has come for."""
        with self._database.transaction(label) as db:
            work = UnitOfWork(db)
            yield work
            work.moves.write(db)
        self.arrivals.tell(work.payees)
        if work.wrote:
            self.changed = True

    def run(self, label: str, step: Callable[[UnitOfWork], T]) -> T:
        """Run a step in a writing transaction, and all of it again while others keep it from being written.

        The step changes nothing but the book. Raises what it raises, and DatabaseBusy.
        """

        def attempt() -> T:
            with self.transaction(label) as work:
                return step(work)

        return again(attempt)

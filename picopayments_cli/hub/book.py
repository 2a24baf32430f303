"""The hub's book of connections, read and written inside one transaction of the database; nothing is kept beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import BindParameter, Connection, Row, bindparam, exists, func, not_, or_, select
from sqlalchemy.exc import IntegrityError

from picopayments_cli.channel.deadlines import Expiry
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.facts import Counter, Paid, Paying
from picopayments_cli.channel.halves import Closing
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, OPEN, REQUESTED
from picopayments_cli.channel.standing import Found
from picopayments_cli.channel.state import MOST_REVOKED, Changes, Held, Receiving, Signed, deepened, floor_of
from picopayments_cli.channel.values import Handle, Hash, Pubkey, Secret, Token, hash_of
from picopayments_cli.channel.waiting import Waits
from picopayments_cli.channel.wire import Payment
from picopayments_cli.errors import DatabaseUnusable, StaleRequest, UnknownHandle
from picopayments_cli.hub.account import (
    DONE,
    LISTED,
    RETURNED,
    WAITING,
    Account,
    Queue,
    Waiting,
    account_of,
    fixed_of,
    fixed_row,
    head_row,
    held_of,
    held_row,
    rarely_changed,
    signed_of,
    signed_row,
    waiting_of,
)
from picopayments_cli.hub.arrivals import Arrivals
from picopayments_cli.hub.database import Database
from picopayments_cli.hub.schema import closes, commits, connections, deposits, hashes, heads, payments

UNFUNDED_BLOCKS = 144  # without the client's deposit, after which the hub's promise is dropped

# Statements are built once: building one takes longer than SQLite takes to run it.
_OF: BindParameter[Any] = bindparam("of")
_LOAD = (
    select(connections, heads.c.version, heads.c.head, heads.c.last_hash, heads.c.last_reply)
    .join(heads, heads.c.handle == connections.c.handle)
    .where(connections.c.handle == _OF)
)
_ADD, _ADD_HEAD = connections.insert(), heads.insert()
_WRITE_HEAD = (
    heads.update()
    .where(heads.c.handle == _OF, heads.c.version == bindparam("before"))
    .values({name: bindparam(name) for name in ("version", "head", "last_hash", "last_reply")})
)
_WRITE_FIXED = (
    connections.update()
    .where(connections.c.handle == _OF)
    .values({name: bindparam(name) for name in (item.name for item in connections.c) if name != "handle"})
)
_IN_STAGE = select(connections.c.handle).where(connections.c.stage == bindparam("stage"))
_EXPIRIES = select(connections.c.handle, connections.c.fixed).where(
    connections.c.stage.in_((AGREED, OPEN)), connections.c.h2c_anchor.is_not(None)
)
_PAID_TO = exists().where(deposits.c.handle == connections.c.handle)
_CLOSED_SINCE = select(connections.c.handle).where(
    connections.c.stage == CLOSED,
    connections.c.due_height > bindparam("height"),
    or_(connections.c.c2h_anchor.is_not(None), connections.c.deposit_raw.is_not(None), _PAID_TO),
)
_FUNDING = select(connections.c.handle).where(
    connections.c.stage == AGREED, or_(connections.c.c2h_anchor.is_not(None), _PAID_TO)
)
_PROMISED = select(connections.c.handle, connections.c.fixed).where(
    connections.c.stage == AGREED, connections.c.c2h_anchor.is_(None), not_(_PAID_TO)
)
_UNDEPOSITED = select(connections.c.fixed).where(connections.c.stage == AGREED, connections.c.h2c_anchor.is_(None))
_COUNTED = (
    select(func.count())
    .select_from(connections)
    .where(connections.c.stage.in_((AGREED, OPEN, CLOSING)), connections.c.c2h_anchor.is_not(None))
)
_CLOSED_BY = select(connections.c.handle).where(
    connections.c.stage == CLOSED, connections.c.due_height <= bindparam("height")
)
_SETTLED = _CLOSED_BY.where(connections.c.handle == _OF)
_OF_CLIENT = (
    select(connections.c.handle)
    .where(connections.c.client == bindparam("client"), connections.c.handle > bindparam("after"))
    .where(connections.c.stage != REQUESTED)
    .order_by(connections.c.handle)
    .limit(bindparam("most"))
)
_FORGOTTEN = select(connections.c.handle).where(
    connections.c.stage == REQUESTED, connections.c.due_height <= bindparam("height")
)
_FORGET = tuple(table.delete().where(table.c.handle == _OF) for table in (connections, heads, hashes))
_ADD_HASH = hashes.insert()
_TOP = (
    select(commits)
    .where(commits.c.handle == _OF, commits.c.sent == bindparam("sent"), commits.c.active.is_(True))
    .order_by(commits.c.quantity.desc())
    .limit(bindparam("most"))
)
_LOWER = _TOP.where(commits.c.quantity < bindparam("below"), commits.c.quantity >= bindparam("least"))
_BY_HASH = select(commits).where(commits.c.handle == _OF, commits.c.revoke_hash == bindparam("hash"))
_ALL_SENT = select(commits).where(commits.c.handle == _OF, commits.c.sent.is_(True))
_ADD_COMMIT = commits.insert()
_THIS = (commits.c.handle == _OF, commits.c.revoke_hash == bindparam("hash"))
_CHANGE_SIGNED = (
    commits.update()
    .where(*_THIS, commits.c.sent.is_(True))
    .values(remainder=bindparam("remainder"), secret=bindparam("secret"), active=bindparam("active"))
)
_GIVE_BACK = commits.update().where(*_THIS).values(active=False)
_CLOSES = select(closes).where(closes.c.handle == _OF)
_CLOSE_KEY = (closes.c.handle == _OF, closes.c.payer == bindparam("by"), closes.c.quantity == bindparam("at"))
_DROP_CLOSE, _ADD_CLOSE = closes.delete().where(*_CLOSE_KEY), closes.insert()
_PENDING = (
    select(payments)
    .where(payments.c.payee == _OF, payments.c.state == WAITING)
    .order_by(payments.c.number)
    .limit(bindparam("most"))
)
_WAITING_FROM = select(func.count()).where(
    payments.c.payee == _OF, payments.c.state == WAITING, payments.c.payer == bindparam("by")
)
_OWNER = select(connections.c.client).where(connections.c.handle == _OF)
_WAITING = select(func.count(), func.sum(payments.c.amount), func.min(payments.c.time)).where(
    payments.c.payee == _OF, payments.c.state == WAITING
)
_PAID = (payments.c.payer == _OF, payments.c.token == bindparam("named"))
_KEEP_RECEIPT = (
    payments.update()
    .where(*_PAID, payments.c.payee == bindparam("to"), payments.c.state.in_((LISTED, DONE)))
    .values(receipt=bindparam("given"))
)
_RECEIPT = select(payments.c.receipt).where(*_PAID, payments.c.receipt.is_not(None)).limit(1)
_ADD_PAYMENT = payments.insert()
_LIST = payments.update().where(payments.c.number == _OF).values(state=LISTED)
_RETURN = payments.update().where(payments.c.number == _OF).values(state=RETURNED)
_DONE = payments.update().where(payments.c.payee == _OF, payments.c.state == LISTED).values(state=DONE)


class Reading:
    """The book in one consistent state; ``db`` reads it."""

    def __init__(self, db: Connection) -> None:
        self.db = db

    def get(self, handle: Handle, revoked: int = 0) -> Account:
        """A connection with as many of its highest commits as are revoked on either channel, and one more.

        Raises UnknownHandle.
        """
        row = self.db.execute(_LOAD, {"of": handle}).first()
        if row is None:
            raise UnknownHandle("The hub knows no connection of that handle.", handle=handle.hex())
        count, amount, _ = self.db.execute(_WAITING, {"of": handle}).one()
        account = account_of(row, Queue(count, int(amount or 0)))
        if account.duplex is None:
            return account
        sent, deeper_sent = self._top(handle, revoked + 1, sent=True)
        held, deeper_held = self._top(handle, revoked + 1, sent=False)
        sending = replace(account.duplex.sending, active=tuple(map(signed_of, sent)), deeper=deeper_sent)
        receiving = replace(account.duplex.receiving, active=tuple(map(held_of, held)), deeper=deeper_held)
        return replace(account, duplex=replace(account.duplex, sending=sending, receiving=receiving))

    def _top(self, handle: Handle, most: int, *, sent: bool) -> tuple[list[Row[Any]], bool]:
        """The highest active commits, ascending, and whether there are lower ones."""
        rows = self.db.execute(_TOP, {"of": handle, "sent": sent, "most": most + 1}).all()
        return list(reversed(rows[:most])), len(rows) > most

    def oldest(self, handle: Handle, most: int) -> list[Waiting]:
        """The payments that wait for a connection for longest."""
        return [waiting_of(row) for row in self.db.execute(_PENDING, {"of": handle, "most": most})]

    def to_move(self, account: Account, amount: int) -> Account:
        """The connection with the commits loaded that moving an amount to its client may give back."""
        duplex = account.channels
        return replace(account, duplex=self._deepened(account.handle, duplex, amount))

    def _deepened(self, handle: Handle, duplex: Duplex, amount: int) -> Duplex:
        receiving, floor = duplex.receiving, floor_of(duplex.receiving, amount)
        if not receiving.deeper or receiving.active[0].quantity < floor:
            return duplex
        lower, deeper = self._lower(handle, receiving, floor)
        return replace(duplex, receiving=deepened(receiving, lower, deeper))

    def _lower(self, handle: Handle, receiving: Receiving, floor: int) -> tuple[list[Held], bool]:
        asked = {"of": handle, "sent": False, "below": receiving.active[0].quantity}
        rows = list(self.db.execute(_LOWER, {**asked, "least": floor, "most": MOST_REVOKED + 1}))
        if len(rows) > MOST_REVOKED:
            return [held_of(row) for row in reversed(rows)], True
        below = rows[-1].quantity if rows else asked["below"]
        beneath = self.db.execute(_LOWER, {**asked, "below": below, "least": 0, "most": 2}).all()
        return [held_of(row) for row in reversed([*rows, *beneath[:1]])], len(beneath) > 1

    def found(self, handle: Handle, secrets: Iterable[Secret], doubted: Iterable[Hash]) -> Found:
        """The rows of commits that secrets open, or that are doubted."""
        names = dict.fromkeys((*map(hash_of, secrets), *doubted))
        rows = [row for name in names for row in self.db.execute(_BY_HASH, {"of": handle, "hash": name})]
        held = [held_of(row) for row in rows if not row.sent and row.active]
        return Found([signed_of(row) for row in rows if row.sent], held)

    def knows_hash(self, handle: Handle, revoke_hash: Hash) -> bool:
        """Whether a commit of the connection is on that hash, on either side."""
        return self.db.execute(_BY_HASH, {"of": handle, "hash": revoke_hash}).first() is not None

    def sides(self, account: Account) -> tuple[Paying, Paid]:
        """All that is held of both channels, for what is to be taken back; ``sent`` is left out."""
        duplex, handle = account.channels, account.handle
        signed = tuple(signed_of(row) for row in self.db.execute(_ALL_SENT, {"of": handle}))
        held, _ = self._top(handle, 2**31, sent=False)
        closings, counters = [], []
        for row in self.db.execute(_CLOSES, {"of": handle}):
            if row.payer:
                closings.append(Closing(row.quantity, bytes(row.signature), row.rest_signature))
            else:
                counters.append(Counter(row.quantity, row.signature))
        sending, receiving = duplex.sending, duplex.receiving
        return (
            Paying(sending.contract, sending.anchor, signed, tuple(closings), account.deposit_raw),
            Paid(receiving.contract, receiving.anchor, tuple(held_of(row).commit for row in held), tuple(counters)),
        )

    def in_stage(self, *stages: str) -> list[Handle]:
        """The handles of all connections in these stages."""
        return [Handle(bytes(row.handle)) for stage in stages for row in self.db.execute(_IN_STAGE, {"stage": stage})]

    def closed_since(self, height: int) -> list[Handle]:
        """The handles of connections that were closed after a height, of those to which anything was paid."""
        return [Handle(bytes(row.handle)) for row in self.db.execute(_CLOSED_SINCE, {"height": height})]

    def closed_by(self, height: int) -> list[Handle]:
        """The handles of connections that were closed by a height."""
        return [Handle(bytes(row.handle)) for row in self.db.execute(_CLOSED_BY, {"height": height})]

    def settled(self, handles: Iterable[Handle], height: int) -> set[Handle]:
        """Those of them that were closed by a height."""
        return {one for one in handles if self.db.execute(_SETTLED, {"of": one, "height": height}).first() is not None}

    def expiries(self) -> dict[Handle, Expiry]:
        """When the connections expire that may still move something: a promise without deposits costs nothing."""
        rows = self.db.execute(_EXPIRIES)
        return {Handle(bytes(row.handle)): fixed_of(row.fixed).agreed.expiry for row in rows}

    def opening(self, tip: int) -> list[Handle]:
        """The handles of connections that a block may bring further while they open.

        Those to which nobody has paid anything yet are read in one go, as they cost strangers nothing: they are among
        them once their time is over.
        """
        found = [Handle(bytes(row.handle)) for row in self.db.execute(_FUNDING)]
        for row in self.db.execute(_PROMISED):
            told = json.loads(row.fixed)
            expiry = Expiry(told["height"], told["time"])
            if tip > expiry.height - expiry.time + UNFUNDED_BLOCKS or tip >= expiry.settle_height:
                found.append(Handle(bytes(row.handle)))
        return found

    def promised(self, asset: int) -> int:
        """Add up the deposits of an asset that the hub has agreed to and that do not count yet."""
        rows = map(json.loads, self.db.execute(_UNDEPOSITED).scalars())
        return sum(int(told["h2c"]["quantity"]) for told in rows if told["asset_id"] == asset)

    def counted(self) -> int:
        """How many connections that are not over have a deposit of their client's."""
        return int(self.db.execute(_COUNTED).scalar_one())

    def of_client(self, client: Pubkey, after: bytes, most: int) -> list[Handle]:
        """The handles of a client's connections behind one, ascending."""
        rows = self.db.execute(_OF_CLIENT, {"client": client, "after": after, "most": most})
        return [Handle(bytes(row.handle)) for row in rows]

    def owned(self, client: Pubkey, handles: Iterable[Handle]) -> list[Handle]:
        """Those of the handles whose connections are a client's."""
        return [one for one in dict.fromkeys(handles) if self.db.execute(_OWNER, {"of": one}).scalar() == client]

    def waiting(self, handles: Iterable[Handle]) -> list[Waits]:
        """The payments that wait for connections, of those for which any does."""
        rows = ((handle, self.db.execute(_WAITING, {"of": handle}).one()) for handle in handles)
        return [Waits(handle, count, int(total), oldest) for handle, (count, total, oldest) in rows if count]

    def receipt(self, payer: Handle, token: Token) -> bytes | None:
        """The receipt that there is for a payment that a connection has made."""
        found = self.db.execute(_RECEIPT, {"of": payer, "named": token}).scalar()
        return None if found is None else bytes(found)


class UnitOfWork(Reading):
    """The book inside one writing transaction; ``db`` is that transaction."""

    def __init__(self, db: Connection) -> None:
        super().__init__(db)
        self._touched: dict[Handle, Account] = {}
        self._stored: dict[Handle, Account] = {}  # of these, as their rows are
        self.wrote = False  # a connection
        self.payees: set[Handle] = set()  # of payments that wait from now on
        self._shares: dict[tuple[Handle, Handle], int] = {}  # of payers of what waits for payees

    def get(self, handle: Handle, revoked: int = 0) -> Account:
        """A connection as this transaction has left it. Raises UnknownHandle."""
        if handle not in self._touched:
            self._touched[handle] = self._stored[handle] = super().get(handle, revoked)
        return self._touched[handle]

    def add(self, account: Account) -> None:
        """Add a connection."""
        self.db.execute(_ADD, {"handle": account.handle, **fixed_row(account)})
        self.db.execute(_ADD_HEAD, {"handle": account.handle, **head_row(account)})
        self._touched[account.handle] = self._stored[account.handle] = account

    def put(self, account: Account, changes: Changes | None = None) -> Account:
        """Write a connection, and the commits that changed. Raises DatabaseUnusable where another hub wrote."""
        self.get(account.handle)
        if changes is not None:
            self._apply(account.handle, changes)
        written = replace(account, version=account.version + 1)
        row = {"of": account.handle, "before": account.version, **head_row(written)}
        if self.db.execute(_WRITE_HEAD, row).rowcount != 1:
            raise DatabaseUnusable(
                "Another hub has written to this database: stop all of them but one.", handle=account.handle.hex()
            )
        if rarely_changed(written) != rarely_changed(self._stored[account.handle]):
            self.db.execute(_WRITE_FIXED, {"of": account.handle, **fixed_row(written)})
        self._touched[account.handle] = self._stored[account.handle] = written
        self.wrote = True
        return written

    def keep(self, account: Account) -> None:
        """Take note of a connection that ``put`` writes later, or of payments, whose rows are all that is written."""
        self._touched[account.handle] = account

    def _apply(self, handle: Handle, changes: Changes) -> None:
        for item in changes.signed:
            self._write_signed(handle, item)
        for held in changes.held:
            self.db.execute(_ADD_COMMIT, held_row(handle, held))
        for held in changes.given_back:
            self.db.execute(_GIVE_BACK, {"of": handle, "hash": held.revoke_hash})

    def _write_signed(self, handle: Handle, item: Signed) -> None:
        row = signed_row(handle, item)
        changed = {name: row[name] for name in ("remainder", "secret", "active")}
        if not self.db.execute(_CHANGE_SIGNED, {"of": handle, "hash": item.revoke_hash, **changed}).rowcount:
            self.db.execute(_ADD_COMMIT, row)

    def forget(self, height: int) -> int:
        """Drop connections that were asked for and never deposited on in time. Return how many."""
        handles = [bytes(row.handle) for row in self.db.execute(_FORGOTTEN, {"height": height})]
        for statement in _FORGET if handles else ():
            self.db.execute(statement, [{"of": handle} for handle in handles])
        return len(handles)

    def take_hash(self, handle: Handle, taken: Hash) -> None:
        """Enter a hash that the client gave. Raises StaleRequest where it was given before."""
        try:
            self.db.execute(_ADD_HASH, {"handle": handle, "hash": taken})
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

    @contextmanager
    def transaction(self, label: str) -> Iterator[UnitOfWork]:
        """Run one writing transaction, undone where an error leaves it; then tell whom something has come for."""
        with self._database.transaction(label) as db:
            work = UnitOfWork(db)
            yield work
        self.arrivals.tell(work.payees)
        if work.wrote:
            self.changed = True

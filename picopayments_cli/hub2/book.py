"""The hub's book of connections: each as one value, read from the database once and kept, written as it changes.

Connections are changed inside ``Book.transaction`` only, so that what is kept is what was committed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from sqlalchemy import Connection, bindparam, not_, or_, select
from sqlalchemy.exc import IntegrityError

from picopayments_cli.channel.stages import AGREED, CLOSED, OPEN, REQUESTED
from picopayments_cli.channel.values import Coin, Handle, Hash, Height, Outpoint, Quantity, Secret, Token
from picopayments_cli.channel2.state import Commit, Revoked
from picopayments_cli.errors import DatabaseUnusable, StaleRequest, UnknownHandle
from picopayments_cli.hub2.account import (
    DONE,
    LISTED,
    RETURNED,
    WAITING,
    Account,
    Waiting,
    account_of,
    fixed_part,
    fixed_row,
    head_row,
    numbers_in_use,
)
from picopayments_cli.hub2.database import Database
from picopayments_cli.hub2.schema import commits, connections, hashes, heads, outputs, payments, transactions

_LOAD = (
    select(connections, heads.c.version, heads.c.head, heads.c.last_hash, heads.c.last_reply)
    .join(heads, heads.c.handle == connections.c.handle)
    .where(connections.c.handle == bindparam("of"))
)
_ADD = connections.insert()
_ADD_HEAD = heads.insert()
_WRITE_HEAD = (
    heads.update()
    .where(heads.c.handle == bindparam("of"), heads.c.version == bindparam("before"))
    .values(
        version=bindparam("version"),
        head=bindparam("head"),
        last_hash=bindparam("last_hash"),
        last_reply=bindparam("last_reply"),
    )
)
_WRITE_FIXED = (
    connections.update()
    .where(connections.c.handle == bindparam("of"))
    .values(
        stage=bindparam("stage"),
        fixed=bindparam("fixed"),
        sending_script=bindparam("sending_script"),
        receiving_script=bindparam("receiving_script"),
        due_height=bindparam("due_height"),
    )
)
_IN_STAGE = select(connections.c.handle).where(connections.c.stage == bindparam("stage"))
_DUE = select(connections.c.handle).where(
    connections.c.stage.in_((AGREED, OPEN)), connections.c.due_height <= bindparam("height")
)
_CLOSED_SINCE = select(connections.c.handle).where(
    connections.c.stage == CLOSED, connections.c.due_height > bindparam("height")
)
_FORGOTTEN = select(connections.c.handle).where(
    connections.c.stage == REQUESTED, connections.c.due_height <= bindparam("height")
)
_FORGET = connections.delete().where(connections.c.handle == bindparam("of"))
_FORGET_HEAD = heads.delete().where(heads.c.handle == bindparam("of"))
_FORGET_HASHES = hashes.delete().where(hashes.c.handle == bindparam("of"))
_BY_SCRIPT = select(connections.c.handle).where(
    or_(connections.c.sending_script == bindparam("script"), connections.c.receiving_script == bindparam("script"))
)
_BY_COMMIT = select(commits.c.handle).where(commits.c.script == bindparam("script"))
_REVOKED_COINS = (
    select(commits.c.quantity, commits.c.revoke_hash, commits.c.secret, outputs, transactions.c.height)
    .join(outputs, outputs.c.script == commits.c.script)
    .join(transactions, transactions.c.txid == outputs.c.txid)
    .where(commits.c.handle == bindparam("of"), commits.c.secret.is_not(None), outputs.c.spent_by.is_(None))
)
_PAID_REVOKED = (
    select(commits.c.revoke_hash)
    .join(outputs, outputs.c.script == commits.c.script)
    .where(
        commits.c.handle == bindparam("of"),
        commits.c.secret.is_not(None),
        commits.c.quantity > bindparam("above"),
        commits.c.quantity <= bindparam("up_to"),
    )
    .limit(1)
)
_ADD_HASH = hashes.insert()
_COMMITS = (
    select(commits)
    .where(commits.c.handle == bindparam("of"), or_(commits.c.sent, not_(commits.c.revoked)))
    .order_by(commits.c.quantity)
)
_ADD_COMMIT = commits.insert()
_REVOKE = (
    commits.update()
    .where(commits.c.handle == bindparam("of"), commits.c.revoke_hash == bindparam("hash"))
    .values(revoked=True, secret=bindparam("secret"))
)
_ADD_PAYMENT = payments.insert()
_PENDING = (
    select(payments)
    .where(payments.c.payee == bindparam("of"), payments.c.state.in_((WAITING, LISTED)))
    .order_by(payments.c.number)
)
_LIST = payments.update().where(payments.c.number == bindparam("of")).values(state=LISTED)
_RETURN = payments.update().where(payments.c.number == bindparam("of")).values(state=RETURNED)
_DONE = payments.update().where(payments.c.payee == bindparam("of"), payments.c.state == LISTED).values(state=DONE)


class Reading:
    """The book in one consistent state; ``db`` reads it."""

    def __init__(self, db: Connection, kept: Mapping[Handle, Account]) -> None:
        self.db = db
        self._kept = kept

    def get(self, handle: Handle) -> Account:
        """Return a connection. Raises UnknownHandle."""
        return self._kept.get(handle) or _load(self.db, handle)

    def in_stage(self, *stages: str) -> list[Handle]:
        """Return the handles of all connections in these stages."""
        return [Handle(bytes(row.handle)) for stage in stages for row in self.db.execute(_IN_STAGE, {"stage": stage})]

    def closed_since(self, height: int) -> list[Handle]:
        """Return the handles of connections that were closed after a height."""
        return [Handle(bytes(row.handle)) for row in self.db.execute(_CLOSED_SINCE, {"height": height})]

    def due(self, height: int) -> list[Handle]:
        """Return the handles of connections whose time to settle has come."""
        return [Handle(bytes(row.handle)) for row in self.db.execute(_DUE, {"height": height})]

    def touching(self, script: bytes) -> list[Handle]:
        """Return the handles of connections with that deposit's, or that commit's, scriptPubKey."""
        rows = [*self.db.execute(_BY_SCRIPT, {"script": script}), *self.db.execute(_BY_COMMIT, {"script": script})]
        return [Handle(bytes(row.handle)) for row in rows]

    def revoked_coins(self, handle: Handle) -> tuple[tuple[Revoked, Coin], ...]:
        """Return the unspent outputs on the addresses of commits that the client has revoked."""
        return tuple(
            (
                Revoked(Quantity(row.quantity), Hash(bytes(row.revoke_hash)), Secret(bytes(row.secret))),
                Coin(
                    Outpoint(bytes(row.txid), row.vout),
                    row.value,
                    bytes(row.script),
                    None if row.height is None else Height(row.height),
                ),
            )
            for row in self.db.execute(_REVOKED_COINS, {"of": handle})
        )

    def paid_revoked(self, handle: Handle, above: int, up_to: int) -> Hash | None:
        """Return the hash of a revoked commit, of a quantity in these bounds, to whose address somebody ever paid."""
        row = self.db.execute(_PAID_REVOKED, {"of": handle, "above": above, "up_to": up_to}).first()
        return None if row is None else Hash(bytes(row.revoke_hash))


class UnitOfWork(Reading):
    """The book inside one writing transaction; ``db`` is that transaction."""

    def __init__(self, db: Connection, kept: Mapping[Handle, Account]) -> None:
        super().__init__(db, kept)
        self.touched: dict[Handle, Account] = {}
        self._stored: dict[Handle, Account] = {}  # of these, as their rows are
        self.wrote = False  # a connection

    def get(self, handle: Handle) -> Account:
        """Return a connection. Raises UnknownHandle."""
        if handle not in self.touched:
            self.touched[handle] = self._stored[handle] = super().get(handle)
        return self.touched[handle]

    def add(self, account: Account) -> None:
        """Add a connection."""
        self.db.execute(_ADD, {"handle": account.handle, **fixed_row(account)})
        self.db.execute(_ADD_HEAD, {"handle": account.handle, **head_row(account)})
        self.touched[account.handle] = self._stored[account.handle] = account

    def put(self, account: Account) -> Account:
        """Write what a sync changes, and the rest where it has changed.

        Raises DatabaseUnusable where another hub wrote.
        """
        self.get(account.handle)
        written = replace(account, version=account.version + 1, numbers=numbers_in_use(account))
        row = {"of": account.handle, "before": account.version, **head_row(written)}
        if self.db.execute(_WRITE_HEAD, row).rowcount != 1:
            raise DatabaseUnusable(
                "Another hub has written to this database: stop all of them but one.", handle=account.handle.hex()
            )
        if fixed_part(written) != fixed_part(self._stored[account.handle]):
            self.db.execute(_WRITE_FIXED, {"of": account.handle, **fixed_row(written)})
        self.touched[account.handle] = self._stored[account.handle] = written
        self.wrote = True
        return written

    def forget(self, height: int) -> int:
        """Drop connections that were asked for and never deposited on in time. Return how many."""
        handles = [bytes(row.handle) for row in self.db.execute(_FORGOTTEN, {"height": height})]
        for statement in (_FORGET, _FORGET_HEAD, _FORGET_HASHES) if handles else ():
            self.db.execute(statement, [{"of": handle} for handle in handles])
        return len(handles)

    def take_hash(self, handle: Handle, *taken: Hash) -> None:
        """Enter hashes that the client gave. Raises StaleRequest where one was given before."""
        try:
            self.db.execute(_ADD_HASH, [{"handle": handle, "hash": item} for item in taken])
        except IntegrityError:
            raise StaleRequest(
                "The request's hash was used in an earlier one, which has been answered and overtaken.",
                handle=handle.hex(),
            ) from None

    def add_commit(self, account: Account, made: Commit, *, sent: bool) -> None:
        """Add a commit that the hub signed (``sent``) or received."""
        row = {
            "handle": account.handle,
            "revoke_hash": made.revoke_hash,
            "sent": sent,
            "quantity": made.quantity,
            "signature": made.signature,
            "script": account.channels.sending.commit_script(made.revoke_hash).output if sent else None,
            "number": None if sent else account.numbers[made.revoke_hash],
            "revoked": False,
            "secret": None,
        }
        self.db.execute(_ADD_COMMIT, row)

    def revoke(self, handle: Handle, revoked: Iterable[tuple[Hash, Secret | None]]) -> None:
        """Mark commits as revoked; keep the secret where the client revealed it."""
        rows = [{"of": handle, "hash": revoke_hash, "secret": secret} for revoke_hash, secret in revoked]
        if rows:
            self.db.execute(_REVOKE, rows)

    def keep(self, account: Account) -> None:
        """Take note of payments booked to a connection: their rows are all that is written."""
        self.touched[account.handle] = account

    def add_payment(self, payer: Handle, payee: Handle | None, amount: Quantity, token: Token) -> Waiting:
        """Book a payment; one to the hub itself is done at once."""
        state = DONE if payee is None else WAITING
        row = {"payer": payer, "payee": payee, "amount": amount, "token": token, "state": state}
        key = self.db.execute(_ADD_PAYMENT, row).inserted_primary_key
        return Waiting(int(key[0]) if key else 0, payer, amount, token)

    def list_payments(self, listed: Iterable[Waiting]) -> None:
        """Mark payments as listed in the reply."""
        rows = [{"of": item.number} for item in listed]
        if rows:
            self.db.execute(_LIST, rows)

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
        self.changed = False  # since somebody took note of it
        self._kept: dict[Handle, Account] = {}
        self._unchecked: set[Handle] = set()
        self._lock = threading.RLock()

    def unchecked(self) -> list[Handle]:
        """Return the connections with hashes whose commit addresses nobody has looked at yet."""
        with self._lock:
            return sorted(self._unchecked)

    def lacks_checked_hash(self, handle: Handle) -> bool:
        """Tell whether a kept connection has hashes from its client, but none whose address was looked at."""
        account = self._kept.get(handle)
        return bool(account and account.unchecked and account.duplex and not account.duplex.sending.requested)

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Read what was committed. A reader waits for no writer, and no writer for a reader."""
        with self._database.reading() as db:
            yield Reading(db, self._kept)

    def look_up(self, handle: Handle) -> Account:
        """Return a connection as it was committed. Raises UnknownHandle."""
        with self.reading() as reading:
            return reading.get(handle)

    @contextmanager
    def transaction(self, label: str) -> Iterator[UnitOfWork]:
        """Run one writing transaction; keep what it changed once it is committed, and forget it where it fails."""
        with self._lock:  # held until what is kept is what was committed
            work: UnitOfWork | None = None
            try:
                with self._database.transaction(label) as db:
                    work = UnitOfWork(db, self._kept)
                    yield work
            except BaseException:
                for handle in work.touched if work else ():
                    self._kept.pop(handle, None)
                raise
            self.changed |= work.wrote
            for handle, account in work.touched.items():
                if account.stage != REQUESTED:  # anybody may ask, as often as they like: such a one is read again
                    self._kept[handle] = account
                if account.unchecked and account.stage in (AGREED, OPEN):
                    self._unchecked.add(handle)
                else:
                    self._unchecked.discard(handle)


def _load(db: Connection, handle: Handle) -> Account:
    of = {"of": handle}
    row = db.execute(_LOAD, of).first()
    if row is None:
        raise UnknownHandle("The hub knows no connection of that handle.", handle=handle.hex())
    return account_of(row, db.execute(_COMMITS, of).all(), db.execute(_PENDING, of).all())

"""The hub's book of connections, read and written inside one transaction of the database; nothing is kept beside it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeVar

from sqlalchemy import (
    BindParameter,
    CompoundSelect,
    Connection,
    LargeBinary,
    Row,
    Select,
    bindparam,
    exists,
    false,
    func,
    or_,
    select,
    union_all,
)
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
from picopayments_cli.hub.batches import batches
from picopayments_cli.hub.database import Database, again, meta_set
from picopayments_cli.hub.schema import (
    closes,
    commits,
    connections,
    deposits,
    hashes,
    heads,
    payments,
    promises,
    touched,
)
from picopayments_cli.hub.summaries import Summary, named, page
from picopayments_cli.hub.totals import Moves, read_totals

T = TypeVar("T")

WINDOW = 4  # of the highest commits received that are read at least: most of what is given back lies among them

# Statements are built once: building one takes longer than SQLite takes to run it.
_OF: BindParameter[Any] = bindparam("of")
_LOCK = select(connections.c.handle).join(heads, heads.c.handle == connections.c.handle)
_LOCK = _LOCK.where(connections.c.handle == _OF).with_for_update()
_ADD, _ADD_HEAD = connections.insert(), heads.insert()
_WRITE_HEAD = (
    heads.update()
    .where(heads.c.handle == _OF, heads.c.version == bindparam("before"))
    .values({name: bindparam(name) for name in ("version", "head", "last_hash", "last_reply")})
)
_WRITE_REQUEST = _WRITE_HEAD.values(last_request=bindparam("last_request"))
_LAST_REQUEST = select(heads.c.last_request).where(heads.c.handle == _OF)
_WRITE_FIXED = (
    connections.update()
    .where(connections.c.handle == _OF)
    .values({name: bindparam(name) for name in (item.name for item in connections.c) if name != "handle"})
)
_IN_STAGE = select(connections.c.handle).where(connections.c.stage == bindparam("stage"))
_HANDLES: BindParameter[Any] = bindparam("handles", expanding=True)
_AMONG = select(connections.c.handle).where(
    connections.c.handle.in_(_HANDLES), connections.c.stage.in_(bindparam("stages", expanding=True))
)
_GOING_ON = connections.c.stage.in_((AGREED, OPEN))
_EXPIRIES = select(connections.c.handle, connections.c.agreed_at, connections.c.expiry).where(
    _GOING_ON, connections.c.h2c_anchor.is_not(None), connections.c.expiry <= bindparam("height")
)
_DUE = select(connections.c.handle).where(_GOING_ON, connections.c.due_height <= bindparam("height"))
_IN_ASSETS = select(connections.c.handle).where(_GOING_ON, connections.c.asset.in_(bindparam("assets", expanding=True)))
_PAID_TO = exists().where(deposits.c.handle == connections.c.handle)
_OPENING = select(connections.c.handle).where(
    connections.c.stage == AGREED,
    or_(
        connections.c.c2h_anchor.is_not(None),
        _PAID_TO,
        connections.c.due_height <= bindparam("height"),
    ),
)
_DROP_PROMISE = promises.delete().where(promises.c.handle == _OF)
_FUNDED = (
    select(func.count())
    .select_from(connections)
    .where(connections.c.stage.in_((AGREED, CLOSING)), connections.c.c2h_anchor.is_not(None))
)
_SETTLED = select(connections.c.handle).where(
    connections.c.stage == CLOSED,
    connections.c.due_height <= bindparam("height"),
    connections.c.handle.in_(_HANDLES),
)
_OF_CLIENT = (
    select(connections.c.handle)
    .where(connections.c.client == bindparam("client"), connections.c.handle > bindparam("after"))
    .where(connections.c.stage != REQUESTED)
    .order_by(connections.c.handle)
    .limit(bindparam("most"))
)
_GOING = select(connections.c.handle).where(_GOING_ON)
_GIVE_UP = (
    touched.delete().where(touched.c.handle.in_(_GOING)),
    touched.insert().from_select(["handle", "shaken"], select(connections.c.handle, false()).where(_GOING_ON)),
    heads.update().where(heads.c.handle.in_(_GOING)).values(version=heads.c.version + 1),
    connections.update().where(_GOING_ON).values(stage=CLOSING, since=bindparam("tip"), stale=True),
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
_LOWER = (
    select(commits)
    .where(commits.c.handle == _OF, commits.c.sent.is_(False), commits.c.active.is_(True))
    .where(commits.c.quantity < bindparam("below"), commits.c.quantity >= bindparam("least"))
    .order_by(commits.c.quantity.desc())
    .limit(bindparam("most"))
)
_BY_HASH = select(commits).where(commits.c.handle == _OF, commits.c.revoke_hash == bindparam("hash"))
_ALL_HELD = (
    select(commits)
    .where(commits.c.handle == _OF, commits.c.sent.is_(False), commits.c.active.is_(True))
    .order_by(commits.c.quantity)
)
_ALL_SENT = select(commits).where(commits.c.handle == _OF, commits.c.sent.is_(True))
# Of the client's commits all, of the hub's those that were not given back.
_KEPT = (
    select(commits)
    .where(commits.c.handle == _OF, commits.c.revoke_hash > bindparam("after"))
    .where(or_(commits.c.sent.is_(False), commits.c.active.is_(True)))
    .order_by(commits.c.revoke_hash)
    .limit(bindparam("most"))
)
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
_PAYERS = select(payments.c.payer).where(payments.c.payee == _OF, payments.c.state == WAITING).distinct()
_PENDING = (
    select(payments)
    .where(payments.c.payee == _OF, payments.c.state == WAITING)
    .order_by(payments.c.number)
    .limit(bindparam("most"))
)
_WAITING_FROM = select(func.count()).where(
    payments.c.payee == _OF, payments.c.state == WAITING, payments.c.payer == bindparam("by")
)
_OWNER = select(connections.c.client).where(
    connections.c.handle == _OF, _GOING_ON, connections.c.c2h_anchor.is_not(None)
)
_WAITING = select(func.count(), func.sum(payments.c.amount), func.min(payments.c.time)).where(
    payments.c.payee == _OF, payments.c.state == WAITING
)
_ARRIVED = (
    select(payments.c.payee)
    .where(payments.c.payee.in_(bindparam("handles", expanding=True)), payments.c.state == WAITING)
    .distinct()
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


_quantity = attrgetter("quantity")


@lru_cache
def _loading(count: int, *, locks: bool) -> tuple[Select[Any], Select[Any], CompoundSelect[Any]]:
    """Make the statements that read so many connections: their rows, what waits for them, their highest commits.

    ``locks``: both rows of each. SQLite, where one transaction writes at a time, leaves that out.
    """
    names: list[BindParameter[Any]] = [bindparam(f"handle_{number}") for number in range(count)]
    rows = (
        select(connections, heads.c.version, heads.c.head, heads.c.last_hash, heads.c.last_reply)
        .join(heads, heads.c.handle == connections.c.handle)
        .where(connections.c.handle.in_(names))
        .order_by(connections.c.handle)
    )
    pending = (
        select(payments.c.payee, func.count().label("number"), func.sum(payments.c.amount).label("amount"))
        .where(payments.c.payee.in_(names), payments.c.state == WAITING)
        .group_by(payments.c.payee)
    )
    sides = [(name, sent) for name in names for sent in (True, False)]
    rows = rows.with_for_update() if locks else rows
    return rows, pending, union_all(*(select(_highest(name, sent=sent).subquery()) for name, sent in sides))


def _highest(name: BindParameter[Any], *, sent: bool) -> Select[Any]:
    return (
        select(commits)
        .where(commits.c.handle == name, commits.c.sent.is_(sent), commits.c.active.is_(True))
        .order_by(commits.c.quantity.desc())
        .limit(bindparam("most_sent" if sent else "most_held"))
    )


class Reading:
    """The book in one consistent state; ``db`` reads it."""

    _locks = False

    def __init__(self, db: Connection) -> None:
        self.db = db

    def get(self, handle: Handle, revoked: int = 0) -> Account:
        """A connection with as many of its highest commits as are revoked on either channel, and one more.

        Raises UnknownHandle.
        """
        for account in self._load([handle], revoked):
            return account
        raise UnknownHandle("The hub knows no connection of that handle.", handle=handle.hex())

    def _load(self, handles: Sequence[Handle], revoked: int) -> list[Account]:
        """Read a few connections with their highest commits, by three statements."""
        named = {f"handle_{number}": handle for number, handle in enumerate(handles)}
        rows, pending, highest = _loading(len(handles), locks=self._locks)
        sides = defaultdict(list)
        found = self.db.execute(rows, named).all()
        waiting = {item.payee: Queue(item.number, int(item.amount)) for item in self.db.execute(pending, named)}
        most = {"most_sent": revoked + 2, "most_held": max(revoked + 1, WINDOW) + 1}
        for item in self.db.execute(highest, {**named, **most}):
            sides[item.handle, item.sent].append(item)
        return [
            _with_commits(
                account_of(row, waiting.get(row.handle, Queue())),
                sides[row.handle, True],
                sides[row.handle, False],
                most,
            )
            for row in found
        ]

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
        asked = {"of": handle, "below": receiving.active[0].quantity}
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

    def last_request(self, handle: Handle) -> str | None:
        """The text of the newest request with the client's state."""
        found = self.db.execute(_LAST_REQUEST, {"of": handle}).scalar()
        return None if found is None else str(found)

    def kept(self, handle: Handle, after: bytes, most: int) -> tuple[list[tuple[Held, bool]], list[Signed]]:
        """So many commits behind a hash, in its order: the client's, and the hub's that were not given back.

        With each of the client's stands whether the hub has given it back.
        """
        rows = self.db.execute(_KEPT, {"of": handle, "after": after, "most": most}).all()
        received = [(held_of(row), not row.active) for row in rows if not row.sent]
        return received, [signed_of(row) for row in rows if row.sent]

    def sides(self, account: Account) -> tuple[Paying, Paid]:
        """All that is held of both channels, for what is to be taken back; ``sent`` is left out."""
        duplex, handle = account.channels, account.handle
        signed = tuple(signed_of(row) for row in self.db.execute(_ALL_SENT, {"of": handle}))
        held = [held_of(row) for row in self.db.execute(_ALL_HELD, {"of": handle})]
        closings, counters = [], []
        for row in self.db.execute(_CLOSES, {"of": handle}):
            if row.payer:
                closings.append(Closing(row.quantity, bytes(row.signature), row.rest_signature))
            else:
                counters.append(Counter(row.quantity, row.signature))
        sending, receiving = duplex.sending, duplex.receiving
        return (
            Paying(sending.contract, sending.anchor, signed, tuple(closings), account.deposit_raw),
            Paid(receiving.contract, receiving.anchor, tuple(item.commit for item in held), tuple(counters)),
        )

    def in_stage(self, *stages: str) -> list[Handle]:
        """The handles of all connections in these stages."""
        return [Handle(bytes(row.handle)) for stage in stages for row in self.db.execute(_IN_STAGE, {"stage": stage})]

    def connections(
        self, after: bytes = b"", limit: int = 100, stage: str | None = None, asset: str | None = None
    ) -> Sequence[Summary]:
        """Show so many connections behind a handle, in one stage and of one asset where these are named."""
        return page(self.db, after, limit, stage, asset)

    def named(self, handles: Iterable[Handle]) -> list[Summary]:
        """Show those of the handles that there are."""
        return named(self.db, handles)

    def totals(self) -> Mapping[tuple[str, str], int]:
        """Count the connections by asset and stage."""
        return read_totals(self.db)

    def among(self, handles: Collection[Handle], *stages: str) -> set[Handle]:
        """Those of the handles that are in these stages."""
        return self._those(_AMONG, handles, stages=stages)

    def settled(self, handles: Collection[Handle], height: int) -> set[Handle]:
        """Those of the handles that were closed by a height."""
        return self._those(_SETTLED, handles, height=height)

    def _those(self, statement: Select[Any], handles: Collection[Handle], **asked: Any) -> set[Handle]:
        found: set[Handle] = set()
        for some in batches(handles):
            found.update(Handle(bytes(row.handle)) for row in self.db.execute(statement, {"handles": some, **asked}))
        return found

    def due(self, tip: int) -> list[Handle]:
        """The handles of connections that go on and must settle at this tip, whatever others do."""
        return [Handle(bytes(row.handle)) for row in self.db.execute(_DUE, {"height": tip})]

    def expiries(self, height: int) -> dict[Handle, Expiry]:
        """When those expire, by a height, that may still move something: a promise without deposits costs nothing."""
        rows = self.db.execute(_EXPIRIES, {"height": height})
        return {Handle(bytes(row.handle)): Expiry(row.expiry, row.expiry - row.agreed_at) for row in rows}

    def going_on(self, assets: Collection[str]) -> list[Handle]:
        """The handles of connections in these assets that go on."""
        rows = self.db.execute(_IN_ASSETS, {"assets": list(assets)}) if assets else ()
        return [Handle(bytes(row.handle)) for row in rows]

    def opening(self, tip: int) -> list[Handle]:
        """The handles of connections that a block may bring further while they open.

        Those to which nobody has paid anything yet, as they cost strangers nothing, are none of them.
        """
        rows = self.db.execute(_OPENING, {"height": tip})
        return [Handle(bytes(row.handle)) for row in rows]

    def counted(self) -> int:
        """How many connections that are not over have a deposit of their client's; none is open without it."""
        are_open = sum(number for (_, stage), number in self.totals().items() if stage == OPEN)
        return are_open + int(self.db.execute(_FUNDED).scalar_one())

    def of_client(self, client: Pubkey, after: bytes, most: int) -> list[Handle]:
        """The handles of a client's connections behind one, ascending."""
        rows = self.db.execute(_OF_CLIENT, {"client": client, "after": after, "most": most})
        return [Handle(bytes(row.handle)) for row in rows]

    def owned(self, client: Pubkey, handles: Iterable[Handle]) -> list[Handle]:
        """Those of the handles whose connections are a client's and have a deposit of its: nothing waits for others."""
        return [one for one in dict.fromkeys(handles) if self.db.execute(_OWNER, {"of": one}).scalar() == client]

    def waiting(self, handles: Iterable[Handle]) -> list[Waits]:
        """The payments that wait for connections, of those for which any does."""
        rows = ((handle, self.db.execute(_WAITING, {"of": handle}).one()) for handle in handles)
        return [Waits(handle, count, int(total), oldest) for handle, (count, total, oldest) in rows if count]

    def arrived(self, handles: Collection[Handle]) -> list[Handle]:
        """Those of the connections for which a payment waits."""
        rows = (row for some in batches(handles) for row in self.db.execute(_ARRIVED, {"handles": some}))
        return [Handle(bytes(row.payee)) for row in rows]

    def receipt(self, payer: Handle, token: Token) -> bytes | None:
        """The receipt that there is for a payment that a connection has made."""
        found = self.db.execute(_RECEIPT, {"of": payer, "named": token}).scalar()
        return None if found is None else bytes(found)


def _with_commits(account: Account, sent: list[Row[Any]], held: list[Row[Any]], most: Mapping[str, int]) -> Account:
    """The connection with its highest commits, of which there are lower ones where as many rows were found as asked."""
    if account.duplex is None:
        return account
    sent.sort(key=_quantity)
    held.sort(key=_quantity)
    deeper_sent, deeper_held = len(sent) == most["most_sent"], len(held) == most["most_held"]
    sending, receiving = account.duplex.sending, account.duplex.receiving
    sending = replace(sending, active=tuple(map(signed_of, sent[deeper_sent:])), deeper=deeper_sent)
    receiving = replace(receiving, active=tuple(map(held_of, held[deeper_held:])), deeper=deeper_held)
    return replace(account, duplex=replace(account.duplex, sending=sending, receiving=receiving))


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
            raise DatabaseUnusable("The database lacks a commit that the hub has signed.", handle=handle.hex())

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

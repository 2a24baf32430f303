"""Read the hub's book of connections inside one transaction of the database; `book` changes it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    BindParameter,
    CompoundSelect,
    Connection,
    Row,
    Select,
    bindparam,
    exists,
    func,
    or_,
    select,
    union_all,
)

from picopayments_cli.channel.deadlines import Expiry
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.facts import Counter, Paid, Paying
from picopayments_cli.channel.halves import Closing
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, OPEN, REQUESTED
from picopayments_cli.channel.standing import Found
from picopayments_cli.channel.state import MOST_REVOKED, Held, Receiving, Signed, deepened, floor_of
from picopayments_cli.channel.values import Handle, Hash, Pubkey, Secret, Token, hash_of
from picopayments_cli.channel.waiting import Waits
from picopayments_cli.errors import UnknownHandle
from picopayments_cli.hub.account import (
    WAITING,
    Account,
    Queue,
    Waiting,
    account_of,
    held_of,
    signed_of,
    waiting_of,
)
from picopayments_cli.hub.batches import batches
from picopayments_cli.hub.schema import (
    closes,
    commits,
    connections,
    deposits,
    heads,
    payments,
)
from picopayments_cli.hub.summaries import Summary, named, page
from picopayments_cli.hub.totals import read_totals

WINDOW = 4  # of the highest commits received that are read at least: most of what is given back lies among them

# Statements are built once: building one takes longer than SQLite takes to run it.
OF: BindParameter[Any] = bindparam("of")
_LAST_REQUEST = select(heads.c.last_request).where(heads.c.handle == OF)
_IN_STAGE = select(connections.c.handle).where(connections.c.stage == bindparam("stage"))
_HANDLES: BindParameter[Any] = bindparam("handles", expanding=True)
_AMONG = select(connections.c.handle).where(
    connections.c.handle.in_(_HANDLES), connections.c.stage.in_(bindparam("stages", expanding=True))
)
GOING_ON = connections.c.stage.in_((AGREED, OPEN))
_EXPIRIES = select(connections.c.handle, connections.c.agreed_at, connections.c.expiry).where(
    GOING_ON, connections.c.h2c_anchor.is_not(None), connections.c.expiry <= bindparam("height")
)
_DUE = select(connections.c.handle).where(GOING_ON, connections.c.due_height <= bindparam("height"))
_IN_ASSETS = select(connections.c.handle).where(GOING_ON, connections.c.asset.in_(bindparam("assets", expanding=True)))
_PAID_TO = exists().where(deposits.c.handle == connections.c.handle)
_OPENING = select(connections.c.handle).where(
    connections.c.stage == AGREED,
    or_(
        connections.c.c2h_anchor.is_not(None),
        _PAID_TO,
        connections.c.due_height <= bindparam("height"),
    ),
)
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
_LOWER = (
    select(commits)
    .where(commits.c.handle == OF, commits.c.sent.is_(False), commits.c.active.is_(True))
    .where(commits.c.quantity < bindparam("below"), commits.c.quantity >= bindparam("least"))
    .order_by(commits.c.quantity.desc())
    .limit(bindparam("most"))
)
_BY_HASH = select(commits).where(commits.c.handle == OF, commits.c.revoke_hash == bindparam("hash"))
_ALL_HELD = (
    select(commits)
    .where(commits.c.handle == OF, commits.c.sent.is_(False), commits.c.active.is_(True))
    .order_by(commits.c.quantity)
)
_ALL_SENT = select(commits).where(commits.c.handle == OF, commits.c.sent.is_(True))
# Of the client's commits all, of the hub's those that were not given back.
_KEPT = (
    select(commits)
    .where(commits.c.handle == OF, commits.c.revoke_hash > bindparam("after"))
    .where(or_(commits.c.sent.is_(False), commits.c.active.is_(True)))
    .order_by(commits.c.revoke_hash)
    .limit(bindparam("most"))
)
_CLOSES = select(closes).where(closes.c.handle == OF)
_PENDING = (
    select(payments)
    .where(payments.c.payee == OF, payments.c.state == WAITING)
    .order_by(payments.c.number)
    .limit(bindparam("most"))
)
_CLIENT = select(connections.c.client).where(connections.c.handle == OF)
_OWNER = select(connections.c.client).where(connections.c.handle == OF, GOING_ON, connections.c.c2h_anchor.is_not(None))
_WAITING = select(func.count(), func.sum(payments.c.amount), func.min(payments.c.time)).where(
    payments.c.payee == OF, payments.c.state == WAITING
)
_ARRIVED = (
    select(payments.c.payee)
    .where(payments.c.payee.in_(bindparam("handles", expanding=True)), payments.c.state == WAITING)
    .distinct()
)
PAID = (payments.c.payer == OF, payments.c.token == bindparam("named"))
_RECEIPT = select(payments.c.receipt).where(*PAID, payments.c.receipt.is_not(None)).limit(1)
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
        raise _unknown(handle)

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
            Paid(
                receiving.contract,
                receiving.anchor,
                tuple(item.commit for item in held),
                tuple(counters),
                owed=0 if account.stale else account.pending,
            ),
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

    def client(self, handle: Handle) -> Pubkey:
        """The key of a connection's client, which never changes. Raises UnknownHandle."""
        found = self.db.execute(_CLIENT, {"of": handle}).scalar()
        if found is None:
            raise _unknown(handle)
        return Pubkey(bytes(found))

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


def _unknown(handle: Handle) -> UnknownHandle:
    return UnknownHandle("The hub knows no connection of that handle.", handle=handle.hex())


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

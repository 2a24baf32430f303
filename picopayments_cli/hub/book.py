"""The hub's book of connections: each as one value, read from the database once and kept, written as it changes.

Connections are read and changed inside ``Book.transaction`` only, so that what is kept is what was committed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    bindparam,
    not_,
    or_,
    select,
)
from sqlalchemy.exc import IntegrityError

from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.errors import DatabaseUnusable, StaleRequest, UnknownHandle
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.scripts import DepositScript
from picopayments_cli.channel.state import KEPT_REQUESTS, Channel, Commit, Revoked
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.transactions import Anchor
from picopayments_cli.channel.values import (
    Coin,
    Handle,
    Hash,
    Height,
    Outpoint,
    Pubkey,
    Quantity,
    Secret,
    Token,
)
from picopayments_cli.hub.database import METADATA, Database, outputs, transactions

REQUESTED, AGREED, OPEN, CLOSING, CLOSED = "requested", "agreed", "open", "closing", "closed"
WAITING, LISTED, DONE, RETURNED = "waiting", "listed", "done", "returned"

connections = Table(
    "connections",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("stage", Text, nullable=False, index=True),
    Column("fixed", Text, nullable=False),  # what changes once or twice in a connection's life
    Column("sending_script", LargeBinary, index=True),
    Column("receiving_script", LargeBinary, index=True),
    Column("due_height", Integer, nullable=False, index=True),  # when it must settle, or is forgotten
)
# What every sync changes, apart: the fewer pages of the file a sync touches, the sooner it is on disk.
heads = Table(
    "heads",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("head", Text, nullable=False),
    Column("last_hash", LargeBinary),
    Column("last_reply", Text),
)
hashes = Table(
    "hashes",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("hash", LargeBinary, primary_key=True),
    sqlite_with_rowid=False,
)
commits = Table(
    "commits",
    METADATA,
    Column("handle", LargeBinary, primary_key=True),
    Column("revoke_hash", LargeBinary, primary_key=True),
    Column("sent", Boolean, nullable=False),  # the hub is its payer
    Column("quantity", BigInteger, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("script", LargeBinary, index=True),  # that it pays to, where the hub is its payer
    Column("number", Integer),  # of the hub's own revoke secret
    Column("revoked", Boolean, nullable=False),
    Column("secret", LargeBinary),  # that the client revealed
    sqlite_with_rowid=False,
)
payments = Table(
    "payments",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("payer", LargeBinary, nullable=False),
    Column("payee", LargeBinary),
    Column("amount", BigInteger, nullable=False),
    Column("token", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
)
Index("ix_payments_payee_state", payments.c.payee, payments.c.state)

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
_DONE = (
    payments.update().where(payments.c.payee == bindparam("of"), payments.c.state == LISTED).values(state=DONE)
)


@dataclass(frozen=True)
class Waiting:
    """A payment booked to a connection and not yet in a reply to it."""

    number: int
    payer: Handle
    amount: Quantity
    token: Token


@dataclass(frozen=True)
class Account:
    """A connection as the hub knows it: it sends on h2c and receives on c2h.

    ``due``: what the hub owes the client beyond what has moved. ``unchecked``: the client's hashes for commits whose
    addresses have not been looked at yet. ``due_height``: when it must settle; before mph_deposit, when it is
    forgotten; once closed, when that was. ``listed``: whether the last reply listed payments.
    ``numbers``: of the hub's own revoke hashes. ``client_secret``: the spend secret of h2c, that the client gave at its
    close; ``revealed``: whether the hub's own has left. ``deposit_raw``, ``commit_raw``: signed, ready to publish.
    ``restored``: whether its newest state may be missing, and its client has not told it yet.
    """

    handle: Handle
    client: Pubkey
    asset: str
    asset_id: int
    terms: Terms
    salt: bytes = field(repr=False)
    client_hash: Hash
    stage: str = REQUESTED
    duplex: Duplex | None = None
    agreed_height: int = 0
    deposit_digest: bytes = b""
    deposit_reply: str = ""
    deposit_raw: bytes | None = None
    commit_raw: bytes | None = None
    client_secret: Secret | None = field(default=None, repr=False)
    revealed: bool = False
    restored: bool = False
    due: int = 0
    next_number: int = 0
    unchecked: tuple[Hash, ...] = ()
    due_height: int = 0
    listed: bool = False
    last_hash: Hash | None = None
    last_reply: str | None = None
    version: int = 0
    waiting: tuple[Waiting, ...] = ()
    numbers: dict[Hash, int] = field(default_factory=dict, compare=False)

    def secrets(self, key: Key) -> Secrets:
        """The hub's own secrets of this connection."""
        return Secrets(key, self.salt)

    @property
    def channels(self) -> Duplex:
        """The two channels. Raises UnknownHandle before mph_deposit has made them."""
        if self.duplex is None:
            raise UnknownHandle("The connection has no deposit yet: call mph_deposit first.", handle=self.handle.hex())
        return self.duplex


class Work:
    """The book inside one writing transaction; ``db`` is that transaction."""

    def __init__(self, db: Connection, kept: dict[Handle, Account]) -> None:
        self.db = db
        self._kept = kept
        self.touched: dict[Handle, Account] = {}
        self.wrote = False  # a connection

    def get(self, handle: Handle) -> Account:
        """A connection. Raises UnknownHandle."""
        account = self.touched.get(handle) or self._kept.get(handle) or _load(self.db, handle)
        self.touched.setdefault(handle, account)
        return account

    def add(self, account: Account) -> None:
        """A new connection."""
        self.db.execute(_ADD, {"handle": account.handle, **_fixed_row(account)})
        self.db.execute(_ADD_HEAD, {"handle": account.handle, **_head_row(account)})
        self.touched[account.handle] = account

    def put(self, account: Account, *, fixed: bool = False) -> Account:
        """Write what a sync changes; with ``fixed``, and with a new stage, the rest too.

        Raises DatabaseUnusable where another hub wrote.
        """
        written = replace(account, version=account.version + 1, numbers=_numbers_in_use(account))
        row = {"of": account.handle, "before": account.version, **_head_row(written)}
        if self.db.execute(_WRITE_HEAD, row).rowcount != 1:
            raise DatabaseUnusable(
                "Another hub has written to this database: stop all of them but one.", handle=account.handle.hex()
            )
        if fixed or account.stage != self.get(account.handle).stage:
            self.db.execute(_WRITE_FIXED, {"of": account.handle, **_fixed_row(written)})
        self.touched[account.handle] = written
        self.wrote = True
        return written

    def in_stage(self, *stages: str) -> list[Handle]:
        """The handles of all connections in these stages."""
        return [Handle(bytes(row.handle)) for stage in stages for row in self.db.execute(_IN_STAGE, {"stage": stage})]

    def closed_since(self, height: int) -> list[Handle]:
        """The handles of connections that were closed after a height."""
        return [Handle(bytes(row.handle)) for row in self.db.execute(_CLOSED_SINCE, {"height": height})]

    def due(self, height: int) -> list[Handle]:
        """The handles of connections whose time to settle has come."""
        return [Handle(bytes(row.handle)) for row in self.db.execute(_DUE, {"height": height})]

    def touching(self, script: bytes) -> list[Handle]:
        """The handles of connections with that deposit's, or that commit's, scriptPubKey."""
        rows = [*self.db.execute(_BY_SCRIPT, {"script": script}), *self.db.execute(_BY_COMMIT, {"script": script})]
        return [Handle(bytes(row.handle)) for row in rows]

    def forget(self, height: int) -> int:
        """Drop connections that were asked for and never deposited on in time; how many."""
        handles = [bytes(row.handle) for row in self.db.execute(_FORGOTTEN, {"height": height})]
        for statement in (_FORGET, _FORGET_HEAD, _FORGET_HASHES) if handles else ():
            self.db.execute(statement, [{"of": handle} for handle in handles])
        for handle in handles:
            self._kept.pop(Handle(handle), None)
        return len(handles)

    def revoked_coins(self, handle: Handle) -> tuple[tuple[Revoked, Coin], ...]:
        """The unspent outputs on the addresses of commits that the client has revoked."""
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
        """The hash of a revoked commit of a quantity in these bounds to whose address somebody has paid, ever."""
        row = self.db.execute(_PAID_REVOKED, {"of": handle, "above": above, "up_to": up_to}).first()
        return None if row is None else Hash(bytes(row.revoke_hash))

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
        """A commit that the hub signed (``sent``) or received."""
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
        """Commits that count no longer; with the secret where the client revealed it."""
        rows = [{"of": handle, "hash": revoke_hash, "secret": secret} for revoke_hash, secret in revoked]
        if rows:
            self.db.execute(_REVOKE, rows)

    def keep(self, account: Account) -> None:
        """Take note of payments booked to a connection: their rows are all that is written."""
        self.touched[account.handle] = account

    def add_payment(self, payer: Handle, payee: Handle | None, amount: Quantity, token: Token) -> Waiting:
        """A payment booked; one to the hub itself is done at once."""
        state = DONE if payee is None else WAITING
        row = {"payer": payer, "payee": payee, "amount": amount, "token": token, "state": state}
        key = self.db.execute(_ADD_PAYMENT, row).inserted_primary_key
        return Waiting(int(key[0]) if key else 0, payer, amount, token)

    def list_payments(self, listed: Iterable[Waiting]) -> None:
        """Payments that stand in the reply."""
        rows = [{"of": item.number} for item in listed]
        if rows:
            self.db.execute(_LIST, rows)

    def return_payment(self, item: Waiting) -> None:
        """A payment that goes back to its payer."""
        self.db.execute(_RETURN, {"of": item.number})

    def finish_payments(self, payee: Handle) -> None:
        """The payments of the last reply have arrived: the next request says so."""
        self.db.execute(_DONE, {"of": payee})


class Book:
    """All connections of one hub."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.changed = False  # since somebody took note of it
        self._kept: dict[Handle, Account] = {}
        self._lock = threading.RLock()

    def lacks_checked_hash(self, handle: Handle) -> bool:
        """Whether a kept connection has hashes from its client, but none whose address was looked at."""
        account = self._kept.get(handle)
        return bool(account and account.unchecked and account.duplex and not account.duplex.sending.requested)

    @contextmanager
    def transaction(self, label: str) -> Iterator[Work]:
        """One writing transaction; what it changed is kept once it is committed, and forgotten where it fails."""
        with self._lock:  # held until what is kept is what was committed
            work: Work | None = None
            try:
                with self._database.transaction(label) as db:
                    work = Work(db, self._kept)
                    yield work
            except BaseException:
                for handle in work.touched if work else ():
                    self._kept.pop(handle, None)
                raise
            self.changed |= work.wrote
            for handle, account in work.touched.items():
                if account.stage != REQUESTED:  # anybody may ask, as often as they like: such a one is read again
                    self._kept[handle] = account


# Rows ---------------------------------------------------------------------------------------------------------------


def _numbers_in_use(account: Account) -> dict[Hash, int]:
    """The numbers without those of hashes that are gone; looked through once they make up half."""
    if account.duplex is None:
        return account.numbers
    receiving = account.duplex.receiving
    if len(account.numbers) <= 2 * (len(receiving.active) + KEPT_REQUESTS):
        return account.numbers
    in_use = (*receiving.requested, *(item.revoke_hash for item in receiving.active))
    return {item: account.numbers[item] for item in in_use}


def _head_row(account: Account) -> dict[str, Any]:
    return {
        "version": account.version,
        "head": json.dumps(_head(account)),
        "last_hash": account.last_hash,
        "last_reply": account.last_reply,
    }


def _head(account: Account) -> dict[str, Any]:
    head: dict[str, Any] = {"due": account.due, "next": account.next_number, "listed": account.listed}
    if account.duplex is not None:
        head["unchecked"] = [item.hex() for item in account.unchecked]
        head["asked"] = [item.hex() for item in account.duplex.sending.requested]
        head["given"] = [[item.hex(), account.numbers[item]] for item in account.duplex.receiving.requested]
    return head


def _fixed_row(account: Account) -> dict[str, Any]:
    duplex = account.duplex
    return {
        "stage": account.stage,
        "fixed": _fixed_text(account),
        "sending_script": duplex.sending.script.output if duplex else None,
        "receiving_script": duplex.receiving.script.output if duplex else None,
        "due_height": account.due_height,
    }


def _fixed_text(account: Account) -> str:
    fixed: dict[str, Any] = {
        "client": account.client.hex(),
        "asset": account.asset,
        "asset_id": account.asset_id,
        "terms": account.terms.as_json(),
        "salt": account.salt.hex(),
        "client_hash": account.client_hash.hex(),
        "deposit_digest": account.deposit_digest.hex(),
        "deposit_reply": account.deposit_reply,
        "deposit_raw": account.deposit_raw.hex() if account.deposit_raw else None,
        "commit_raw": account.commit_raw.hex() if account.commit_raw else None,
        "client_secret": account.client_secret.hex() if account.client_secret else None,
        "revealed": account.revealed,
        "restored": account.restored,
        "agreed_height": account.agreed_height,
    }
    if account.duplex is not None:
        fixed["sending"] = _channel_json(account.duplex.sending)
        fixed["receiving"] = _channel_json(account.duplex.receiving)
    return json.dumps(fixed)


def _channel_json(channel: Channel) -> dict[str, Any]:
    anchor = channel.anchor
    return {
        "script": channel.script.redeem.hex(),
        "quantity": channel.quantity,
        "delay": channel.delay,
        "anchor": [str(anchor.outpoint), anchor.value] if anchor else None,
    }


def _load(db: Connection, handle: Handle) -> Account:
    row = db.execute(_LOAD, {"of": handle}).first()
    if row is None:
        raise UnknownHandle("The hub knows no connection of that handle.", handle=handle.hex())
    fixed, head = json.loads(row.fixed), json.loads(row.head)
    terms = Terms.parse(fixed["terms"])
    account = Account(
        handle=handle,
        client=Pubkey(bytes.fromhex(fixed["client"])),
        asset=fixed["asset"],
        asset_id=fixed["asset_id"],
        terms=terms,
        salt=bytes.fromhex(fixed["salt"]),
        client_hash=Hash(bytes.fromhex(fixed["client_hash"])),
        stage=row.stage,
        agreed_height=fixed["agreed_height"],
        deposit_digest=bytes.fromhex(fixed["deposit_digest"]),
        deposit_reply=fixed["deposit_reply"],
        deposit_raw=_optional_bytes(fixed["deposit_raw"]),
        commit_raw=_optional_bytes(fixed["commit_raw"]),
        client_secret=Secret(secret) if (secret := _optional_bytes(fixed["client_secret"])) else None,
        revealed=fixed["revealed"],
        restored=fixed.get("restored", False),
        due=head["due"],
        unchecked=tuple(Hash(bytes.fromhex(text)) for text in head.get("unchecked", ())),
        due_height=row.due_height,
        next_number=head["next"],
        listed=head["listed"],
        last_hash=Hash(bytes(row.last_hash)) if row.last_hash else None,
        last_reply=row.last_reply,
        version=row.version,
    )
    return _with_channels(db, account, fixed, head) if "sending" in fixed else account


def _optional_bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _with_channels(db: Connection, account: Account, fixed: dict[str, Any], head: dict[str, Any]) -> Account:
    sent: list[Commit] = []
    received: list[Commit] = []
    revoked: list[Revoked] = []
    for row in db.execute(_COMMITS, {"of": account.handle}):
        made = Commit(Quantity(row.quantity), Hash(bytes(row.revoke_hash)), bytes(row.signature))
        if row.revoked:
            revoked.append(Revoked(made.quantity, made.revoke_hash, Secret(bytes(row.secret))))
        elif row.sent:
            sent.append(made)
        else:
            received.append(made)
            account.numbers[made.revoke_hash] = row.number
    given = [(Hash(bytes.fromhex(text)), number) for text, number in head["given"]]
    account.numbers.update(given)
    asked = tuple(Hash(bytes.fromhex(text)) for text in head["asked"])
    sending = _channel(account, fixed["sending"], asked, sent, revoked)
    receiving = _channel(account, fixed["receiving"], tuple(item for item, _ in given), received, [])
    waiting = tuple(
        Waiting(row.number, Handle(bytes(row.payer)), Quantity(row.amount), Token(bytes(row.token)))
        for row in db.execute(_PENDING, {"of": account.handle})
        if row.state == WAITING
    )
    return replace(account, duplex=Duplex(sending, receiving), waiting=waiting)


def _channel(
    account: Account,
    fixed: dict[str, Any],
    requested: tuple[Hash, ...],
    active: list[Commit],
    revoked: list[Revoked],
) -> Channel:
    anchor = fixed["anchor"]
    return Channel(
        account.asset_id,
        DepositScript.parse(bytes.fromhex(fixed["script"])),
        Quantity(fixed["quantity"]),
        fixed["delay"],
        account.terms.fee_rate,
        Anchor(Outpoint.parse(anchor[0]), anchor[1]) if anchor else None,
        requested,
        tuple(active),
        tuple(revoked),
    )

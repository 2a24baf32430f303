"""Follows the chain by outpoint: reads blocks and mempool, and writes what spends the watched outputs.

Watched are the anchors, and of what spends them outputs 0 and 2; and the wallet's coins in the hub's own deposits,
which never come where something else spends one. Addresses are watched only while a connection opens,
for its deposits. Who spends an anchor stops its connection, in the transaction that writes it; which connections
something has happened to is written with it, too. Nothing of them is kept in memory: the database is asked for what a
block's transactions spend and pay.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from math import isinf
from threading import RLock
from typing import Any

from bitcoin.core import CBlock, CTransaction
from sqlalchemy import BindParameter, Connection, Row, and_, bindparam, exists, or_, select, text

from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.channel.facts import Seen
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, OPEN
from picopayments_cli.channel.values import Entry, Handle, Height, Outpoint
from picopayments_cli.errors import DatabaseUnusable, NodeBehind
from picopayments_cli.hub.batches import batches
from picopayments_cli.hub.database import Database
from picopayments_cli.hub.schema import awaited, blocks, connections, deposits, spends, touched, watched
from picopayments_cli.hub.totals import Moves

log = logging.getLogger(__name__)

REFRESH_SECONDS = 3.0  # after which one who takes long looks again, well before the last look is too old
KEPT_BLOCKS = 200  # how deep a reorganisation can be followed
_FETCHED_AT_ONCE = 500  # transactions of the mempool in one batch
_NOWHERE = -1  # the height of a deposit that was there, and that neither a block nor the mempool has now
_ATTEMPTS = 20  # to read blocks and mempool at one and the same tip

_TIP = select(blocks.c.height, blocks.c.hash).order_by(blocks.c.height.desc()).limit(1)
_BLOCKS = select(blocks.c.height, blocks.c.hash).order_by(blocks.c.height.desc())
_FORGET_BLOCKS = blocks.delete().where(blocks.c.height <= bindparam("below"))
_AT: BindParameter[Any] = bindparam("at")
_TAKE_BACK = (
    blocks.delete().where(blocks.c.height == _AT),
    spends.update().where(spends.c.height == _AT).values(height=None),
    deposits.update().where(deposits.c.height == _AT).values(height=None),
)
_ID: BindParameter[Any] = bindparam("id")
_N: BindParameter[Any] = bindparam("n")
_OF: BindParameter[Any] = bindparam("of")
_SPEND = select(spends).where(spends.c.txid == _ID, spends.c.vout == _N)
_DROP_SPEND = spends.delete().where(spends.c.txid == _ID, spends.c.vout == _N)
_WATCH = select(watched).where(watched.c.txid == _ID, watched.c.vout == _N)
_DEPOSIT = select(deposits).where(deposits.c.txid == _ID)
_DEPOSIT_AT = deposits.update().where(deposits.c.txid == _ID).values(height=_AT)
_DEPOSITS = select(deposits).where(deposits.c.script == bindparam("script"))
_GONE = (
    select(spends.c.spender).where(spends.c.height.is_(None)),
    select(deposits.c.txid).where(deposits.c.height.is_(None)),
)
_SPENT = and_(watched.c.txid == spends.c.txid, watched.c.vout == spends.c.vout)
_WAITING = (
    select(watched.c.handle)
    .join(spends, _SPENT)
    .where(spends.c.height.is_(None), ~exists().where(deposits.c.txid == spends.c.spender))
)
_OWNERS_OF_SPENDS = select(watched.c.handle).join(spends, _SPENT)
_SPENT_BY = _OWNERS_OF_SPENDS.where(spends.c.spender == _ID)
_DEPOSITED_BY = select(deposits.c.handle).where(deposits.c.txid == _ID)
_TAKEN_BACK = (
    _OWNERS_OF_SPENDS.where(spends.c.height == _AT),
    select(deposits.c.handle).where(deposits.c.height == _AT),
)
# Closed was what lay deeper: what a reorganisation brings back was closed in the blocks that it takes.
_CLOSED_FROM = select(connections.c.handle).where(
    connections.c.stage == CLOSED,
    connections.c.due_height >= _AT,
    or_(
        connections.c.c2h_anchor.is_not(None),
        connections.c.deposit_raw.is_not(None),
        exists().where(deposits.c.handle == connections.c.handle),
    ),
)
_FORGET_SPENDER = spends.delete().where(spends.c.spender == _ID, spends.c.height.is_(None))
_LOSE_DEPOSIT = deposits.update().where(deposits.c.txid == _ID, deposits.c.height.is_(None)).values(height=_NOWHERE)
_STAGE_OF = (
    select(connections.c.asset, connections.c.stage)
    .where(connections.c.handle == _OF, connections.c.stage.in_((AGREED, OPEN)))
    .with_for_update()
)
_SPENT_ANCHORS = _OWNERS_OF_SPENDS.where(watched.c.anchor.is_(True))
_STOP = (
    connections.update()
    .where(connections.c.handle == _OF, connections.c.stage.in_((AGREED, OPEN)))
    .values(stage=CLOSING, since=bindparam("tip"))
)
_SOME: BindParameter[Any] = bindparam("some", expanding=True)
_WATCHED_OF = select(watched.c.txid, watched.c.vout).where(watched.c.handle.in_(_SOME))
_FORGET_CONNECTIONS = tuple(table.delete().where(table.c.handle.in_(_SOME)) for table in (watched, deposits, awaited))
_WATCHED_AMONG = select(watched).where(watched.c.txid.in_(_SOME))
_DEPOSITS_AMONG = select(deposits.c.txid, deposits.c.handle).where(deposits.c.txid.in_(_SOME))
_AWAITED_AMONG = select(awaited).where(awaited.c.script.in_(_SOME))
_AWAIT = awaited.insert()
_FOUND = awaited.delete().where(awaited.c.script == bindparam("script"))
_TOUCHED = select(touched)
_UNTOUCH = touched.delete().where(touched.c.handle == _OF)
_TOUCH = text(
    "INSERT INTO touched (handle, shaken) VALUES (:handle, :shaken) "
    "ON CONFLICT (handle) DO UPDATE SET shaken = touched.shaken OR excluded.shaken"
)


_Tx = tuple[bytes, CTransaction]  # with its txid, which takes a while to compute


@dataclass
class _Known:
    """The part of the index that concerns some transactions; grows as outputs of theirs are watched."""

    outpoints: dict[tuple[bytes, int], tuple[Handle, bool]] = field(default_factory=dict)
    deposits: dict[bytes, Handle] = field(default_factory=dict)
    scripts: dict[bytes, Handle] = field(default_factory=dict)
    touched: set[Handle] = field(default_factory=set)
    stopped: set[Handle] = field(default_factory=set)

    @staticmethod
    def load(db: Connection, txs: Sequence[_Tx]) -> _Known:
        """Ask the database for what these transactions spend, are, and pay first."""
        known = _Known()
        for some in batches({item.prevout.hash for _, tx in txs for item in tx.vin}):
            for row in db.execute(_WATCHED_AMONG, {"some": some}):
                known.outpoints[(bytes(row.txid), row.vout)] = Handle(bytes(row.handle)), bool(row.anchor)
        for some in batches([txid for txid, _ in txs]):
            for row in db.execute(_DEPOSITS_AMONG, {"some": some}):
                known.deposits[bytes(row.txid)] = Handle(bytes(row.handle))
        for some in batches({bytes(tx.vout[0].scriptPubKey) for _, tx in txs}):
            for row in db.execute(_AWAITED_AMONG, {"some": some}):
                known.scripts[bytes(row.script)] = Handle(bytes(row.handle))
        return known

    def concerns(self, txid: bytes, tx: CTransaction) -> bool:
        """Whether a transaction spends what is watched, or pays a deposit."""
        spent = any((item.prevout.hash, item.prevout.n) in self.outpoints for item in tx.vin)
        return spent or self.pays(txid, tx) is not None

    def pays(self, txid: bytes, tx: CTransaction) -> Handle | None:
        """The connection to whose deposit's address a transaction pays first."""
        return self.scripts.get(bytes(tx.vout[0].scriptPubKey)) or self.deposits.get(txid)


class Follower:
    """The hub's view of its watched outputs, as of the last ``catch_up``; one thread at a time follows.

    ``seen_at``: the monotonic time of the last answer of a node with a current tip that was read whole.
    """

    def __init__(self, database: Database, bitcoin: BitcoinNode) -> None:
        self._database = database
        self._bitcoin = bitcoin
        self._lock = RLock()
        self._seen: set[bytes] = set()  # the mempool at the last look
        self._touched: set[Handle] = set()  # since ``touched`` was asked last
        self.seen_at = float("-inf")
        self.height: Height | None = None

    def is_fresh(self, seconds: float) -> bool:
        """Whether the chain was seen, whole and current, within so many seconds."""
        return time.monotonic() - self.seen_at <= seconds

    @property
    def seconds_since_look(self) -> float | None:
        """The seconds since the chain was seen, whole and current; None where it was not yet."""
        return None if isinf(self.seen_at) else round(max(time.monotonic() - self.seen_at, 0), 1)

    def touched(self, db: Connection) -> dict[Handle, bool]:
        """The connections that something has happened to since they were looked at; whether it was taken back."""
        self._touched.clear()
        return {Handle(bytes(row.handle)): bool(row.shaken) for row in db.execute(_TOUCHED)}

    def looked_at(self, db: Connection, handles: Collection[Handle]) -> None:
        """Drop these from them, but those to which something has happened again since ``touched`` was asked."""
        gone = [{"of": handle} for handle in handles if handle not in self._touched]
        if gone:
            db.execute(_UNTOUCH, gone)

    # Following ------------------------------------------------------------------------------------------------------

    def catch_up(self) -> Height:
        """Read what the node has and the index lacks: blocks first, then the mempool. Return the tip's height.

        The first call ever starts at the node's tip. Raises NodeUnreachable and its kind, and DatabaseUnusable
        where the node follows another chain than this database.
        """
        with self._lock:
            for _ in range(_ATTEMPTS):
                begun = time.monotonic()
                current = self._bitcoin.tip_is_current()
                self.height, tip = self._follow_blocks()
                mempool = self._bitcoin.mempool()
                if self._bitcoin.best_block() == tip:  # else a block may have taken what the mempool lacks
                    self._follow_mempool(mempool)
                    self.seen_at = begun if current else self.seen_at
                    return self.height
            raise NodeBehind("The Bitcoin node's blocks change faster than they can be read; trying again.")

    def keep_fresh(self) -> None:
        """Catch up where the last look is some seconds old: for one who takes long. Raises as ``catch_up``."""
        if not self.is_fresh(REFRESH_SECONDS):
            self.catch_up()

    def _follow_blocks(self) -> tuple[Height, bytes]:
        with self._database.reading() as db:
            row = db.execute(_TIP).first()
        if row is None:
            return self._begin()
        height, tip = Height(row.height), bytes(row.hash)
        if self._bitcoin.block_hash(height) != tip:
            height, tip = self._walk_back()
        while (following := self._bitcoin.block_hash(height + 1)) is not None:
            block = CBlock.deserialize(self._bitcoin.block(following))
            if block.hashPrevBlock != tip:
                break  # reorganised meanwhile: the next round walks back
            height, tip = Height(height + 1), following
            self._connect(height, tip, block)
        return height, tip

    def _walk_back(self) -> tuple[Height, bytes]:
        """Take back the blocks that the node's chain lacks."""
        with self._database.reading() as db:
            known = [(row.height, bytes(row.hash)) for row in db.execute(_BLOCKS)]
        common = next(((height, tip) for height, tip in known if self._bitcoin.block_hash(height) == tip), None)
        if common is None:
            raise DatabaseUnusable(
                f"The Bitcoin node's chain has none of the last {len(known)} blocks that this hub has read (up to "
                f"{known[0][0]}): it is another chain, or not current. Name the right node, or another basedir.",
                height=known[0][0],
            )
        if self._bitcoin.block_hash(common[0] + 1) is None:  # a branch that wins is longer: this node only lags
            raise NodeBehind(
                f"The Bitcoin node stands at block {common[0]}, the hub has read {known[0][0]}: wait until the node is "
                "current.",
                node=common[0],
                hub=known[0][0],
            )
        for height, _ in known[: known.index(common)]:
            with self._database.transaction("block taken back") as db:
                found = [row for one in (*_TAKEN_BACK, _CLOSED_FROM) for row in db.execute(one, {"at": height})]
                self._touch(db, {Handle(bytes(row.handle)) for row in found}, shaken=True)
                for statement in _TAKE_BACK:
                    db.execute(statement, {"at": height})
            log.warning("block taken back", extra={"fields": {"height": height}})
        self._seen = set()  # what was in those blocks may be in the mempool now
        return Height(common[0]), common[1]

    def _begin(self) -> tuple[Height, bytes]:
        tip = self._bitcoin.best_block()
        height = Height(self._bitcoin.height_of(tip))
        with self._database.transaction("first block") as db:
            db.execute(blocks.insert(), {"height": height, "hash": tip})
        return height, tip

    def _connect(self, height: Height, tip: bytes, block: CBlock) -> None:
        txs = [(bytes(tx.GetTxid()), tx) for tx in block.vtx]
        with self._database.reading() as db:
            known = _Known.load(db, txs)
        with self._database.transaction("block") as db:
            db.execute(blocks.insert(), {"height": height, "hash": tip})
            db.execute(_FORGET_BLOCKS, {"below": height - KEPT_BLOCKS})
            self._record(db, known, txs, height)

    def _follow_mempool(self, mempool: Sequence[bytes]) -> None:
        present = set(mempool)
        fresh = [txid for txid in mempool if txid not in self._seen]
        raws: dict[bytes, bytes] = {}
        for start in range(0, len(fresh), _FETCHED_AT_ONCE):
            raws |= self._bitcoin.transactions(fresh[start : start + _FETCHED_AT_ONCE])
        txs = [(txid, CTransaction.deserialize(raw)) for txid, raw in raws.items()]
        with self._database.reading() as db:
            waiting = {bytes(row[0]) for statement in _GONE for row in db.execute(statement)}
            known = _Known.load(db, txs)
        gone = waiting - present
        if gone or any(known.concerns(txid, tx) for txid, tx in txs):
            with self._database.transaction("mempool") as db:
                for txid in gone:  # before what may replace it
                    known.touched |= _forget(db, txid)
                self._record(db, known, txs, None)
        self._seen = present - (set(fresh) - raws.keys())  # what came and went may come again

    def _record(self, db: Connection, known: _Known, txs: Sequence[_Tx], height: Height | None) -> None:
        """Write what concerns the watched outputs, children behind their parents whatever the order."""
        more = True
        while more:
            before = len(known.outpoints)
            for txid, tx in txs:
                if known.concerns(txid, tx):
                    self._record_one(db, known, (txid, tx), height)
            more = len(known.outpoints) > before
        self._stop(db, known.stopped, height)
        self._touch(db, known.touched)

    def _record_one(self, db: Connection, known: _Known, found: _Tx, height: Height | None) -> None:
        txid, tx = found
        handle = known.pays(txid, tx)
        if handle is not None:
            self._record_deposit(db, known, handle, found, height)
        for item in tx.vin:
            outpoint = Outpoint(bytes(item.prevout.hash), item.prevout.n)
            owner = known.outpoints.get((outpoint.txid, outpoint.vout))
            if owner is not None:
                handle, anchor = owner
                self._record_spend(db, outpoint, txid, height)
                known.touched.add(handle)
                if anchor:
                    known.stopped.add(handle)
                    for vout in (0, 2):
                        self._watch(db, known, Outpoint(txid, vout), handle, anchor=False)

    def _touch(self, db: Connection, handles: Collection[Handle], *, shaken: bool = False) -> None:
        """Have the next round look at connections; ``shaken``: a reorganisation took something of them back."""
        self._touched.update(handles)
        if handles:
            db.execute(_TOUCH, [{"handle": one, "shaken": shaken} for one in sorted(handles)])

    def _stop(self, db: Connection, handles: Collection[Handle], height: Height | None) -> None:
        """Stop those that go on, in the order in which all lock connections."""
        moves = Moves()
        for handle in sorted(handles):
            row = db.execute(_STAGE_OF, {"of": handle}).first()
            if row is not None:
                db.execute(_STOP, {"of": handle, "tip": self.height if height is None else height})
                moves.add(row.asset, row.stage, CLOSING)
        moves.write(db)

    def _record_deposit(self, db: Connection, known: _Known, handle: Handle, found: _Tx, height: Height | None) -> None:
        txid, tx = found
        there = db.execute(_DEPOSIT, {"id": txid}).first()
        if there is not None:
            if height is not None or there.height == _NOWHERE:
                db.execute(_DEPOSIT_AT, {"id": txid, "at": height})
        else:
            script = bytes(tx.vout[0].scriptPubKey)
            row = {"txid": txid, "handle": handle, "script": script, "raw": tx.serialize(), "height": height}
            db.execute(deposits.insert(), row)
            known.deposits[txid] = handle
            self._watch(db, known, Outpoint(txid, 0), handle, anchor=True)
        known.touched.add(handle)

    def _watch(self, db: Connection, known: _Known, outpoint: Outpoint, handle: Handle, *, anchor: bool) -> None:
        self.watch(db, outpoint, handle, anchor=anchor)
        known.outpoints[(outpoint.txid, outpoint.vout)] = handle, anchor

    @staticmethod
    def _record_spend(db: Connection, outpoint: Outpoint, spender: bytes, height: Height | None) -> None:
        key = {"id": outpoint.txid, "n": outpoint.vout}
        known = db.execute(_SPEND, key).first()
        if known is not None and known.height is not None and height is None:
            return
        db.execute(_DROP_SPEND, key)
        row = {"txid": outpoint.txid, "vout": outpoint.vout, "spender": spender, "height": height}
        db.execute(spends.insert(), row)

    # Watching -------------------------------------------------------------------------------------------------------

    @staticmethod
    def watch(db: Connection, outpoint: Outpoint, handle: Handle, *, anchor: bool) -> None:
        """Write what spends an output from the next ``catch_up`` on; watching again changes nothing."""
        if db.execute(_WATCH, {"id": outpoint.txid, "n": outpoint.vout}).first() is None:
            row = {"txid": outpoint.txid, "vout": outpoint.vout, "handle": handle, "anchor": anchor}
            db.execute(watched.insert(), row)

    @staticmethod
    def await_deposits(db: Connection, handle: Handle, scripts: Iterable[bytes]) -> None:
        """Write transactions that pay to these deposits' addresses from the next ``catch_up`` on."""
        db.execute(_AWAIT, [{"script": script, "handle": handle} for script in scripts])

    @staticmethod
    def found_deposit(db: Connection, script: bytes) -> None:
        """Look no more for transactions that pay to a deposit's address: its output is watched since it came."""
        db.execute(_FOUND, {"script": script})

    @staticmethod
    def forget(db: Connection, closed: Iterable[Handle]) -> None:
        """Watch nothing any more of connections that are closed for good, and drop what was seen of them."""
        for some in batches(closed):
            spent = [{"id": row.txid, "n": row.vout} for row in db.execute(_WATCHED_OF, {"some": some})]
            if spent:
                db.execute(_DROP_SPEND, spent)
            for statement in _FORGET_CONNECTIONS:
                db.execute(statement, {"some": some})

    @staticmethod
    def unconfirmed(db: Connection) -> set[Handle]:
        """The connections of which something waits in the mempool, deposits aside."""
        return {Handle(bytes(row.handle)) for row in db.execute(_WAITING)}

    @staticmethod
    def spent(db: Connection) -> set[Handle]:
        """The connections of which something spends an anchor, in a block or in the mempool."""
        return {Handle(bytes(handle)) for handle in db.execute(_SPENT_ANCHORS).scalars()}

    # Queries --------------------------------------------------------------------------------------------------------

    @staticmethod
    def tip(db: Connection) -> Height:
        """The height of the last block read. Raises NodeBehind before the first ``catch_up``."""
        row = db.execute(_TIP).first()
        if row is None:
            raise NodeBehind("The hub has not read a block yet.")
        return Height(row.height)

    @staticmethod
    def spend(db: Connection, outpoint: Outpoint) -> Seen | None:
        """Return what spends a watched output, in a block or in the mempool."""
        row = db.execute(_SPEND, {"id": outpoint.txid, "n": outpoint.vout}).first()
        return None if row is None else Seen(bytes(row.spender), _height(row.height))

    @staticmethod
    def deposit(db: Connection, txid: bytes) -> Entry | None:
        """A transaction that pays to a deposit's address first."""
        row = db.execute(_DEPOSIT, {"id": txid}).first()
        return None if row is None or row.height == _NOWHERE else _entry(row)

    @staticmethod
    def deposit_raw(db: Connection, txid: bytes) -> bytes | None:
        """The bytes of such a transaction, wherever it is: a reorganisation may have taken it out of the chain."""
        row = db.execute(_DEPOSIT, {"id": txid}).first()
        return None if row is None else bytes(row.raw)

    @staticmethod
    def deposits_to(db: Connection, script: bytes) -> list[Entry]:
        """All transactions that paid to a deposit's address first."""
        rows = db.execute(_DEPOSITS, {"script": script})
        return [_entry(row) for row in rows if row.height != _NOWHERE]


def _forget(db: Connection, txid: bytes) -> set[Handle]:
    """Forget what the mempool has no more, but keep a deposit's bytes. Connections that it has stopped stay stopped.

    Return the connections of which it was.
    """
    rows = [row for statement in (_SPENT_BY, _DEPOSITED_BY) for row in db.execute(statement, {"id": txid})]
    db.execute(_FORGET_SPENDER, {"id": txid})
    db.execute(_LOSE_DEPOSIT, {"id": txid})
    return {Handle(bytes(row.handle)) for row in rows}


def _entry(row: Row[Any]) -> Entry:
    return Entry(bytes(row.txid), bytes(row.raw), _height(row.height))


def _height(value: int | None) -> Height | None:
    return None if value is None else Height(value)

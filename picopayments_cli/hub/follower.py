"""Follows the chain by outpoint: reads blocks and mempool, and writes what spends the watched outputs.

Watched are the anchors, and of what spends them outputs 0 and 2; and the wallet's coins in the hub's own deposits,
which never come where something else spends one. Addresses are watched only while a connection opens,
for its deposits. Who spends an anchor stops its connection, in the transaction that writes it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from threading import RLock
from typing import Any

from bitcoin.core import CBlock, CTransaction
from sqlalchemy import BindParameter, Connection, Row, and_, bindparam, select

from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.channel.facts import Seen
from picopayments_cli.channel.stages import AGREED, CLOSING, OPEN
from picopayments_cli.channel.values import Entry, Handle, Height, Outpoint
from picopayments_cli.errors import DatabaseUnusable, NodeBehind
from picopayments_cli.hub.database import Database
from picopayments_cli.hub.schema import blocks, connections, deposits, spends, watched

log = logging.getLogger(__name__)

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
_WAITING = select(spends).where(spends.c.height.is_(None))
_SPENT_BY = select(spends).where(spends.c.spender == _ID)
_FORGET_SPENDER = spends.delete().where(spends.c.spender == _ID, spends.c.height.is_(None))
_LOSE_DEPOSIT = deposits.update().where(deposits.c.txid == _ID, deposits.c.height.is_(None)).values(height=_NOWHERE)
_SPENT = (
    select(watched.c.handle)
    .join(spends, and_(spends.c.txid == watched.c.txid, spends.c.vout == watched.c.vout))
    .where(watched.c.anchor.is_(True))
)
_WATCHED_OF = select(watched).where(watched.c.handle == bindparam("of"))
_FORGET_CONNECTION = tuple(table.delete().where(table.c.handle == bindparam("of")) for table in (watched, deposits))
_STOP = (
    connections.update()
    .where(connections.c.handle == bindparam("of"), connections.c.stage.in_((AGREED, OPEN)))
    .values(stage=CLOSING, since=bindparam("tip"))
)


class Follower:
    """The hub's view of its watched outputs, as of the last ``catch_up``; one thread at a time follows.

    ``seen_at``: the monotonic time of the last answer of a node with a current tip that was read whole.
    """

    def __init__(self, database: Database, bitcoin: BitcoinNode) -> None:
        self._database = database
        self._bitcoin = bitcoin
        self._lock = RLock()
        self._touched: set[Handle] = set()
        self._shaken = False
        self._seen: set[bytes] = set()  # the mempool at the last look
        self._scripts: dict[bytes, Handle] = {}  # of deposits that are waited for
        self.seen_at = float("-inf")
        self.height: Height | None = None
        with database.reading() as db:
            rows = db.execute(select(watched))
            self._outpoints = {(bytes(r.txid), r.vout): (Handle(bytes(r.handle)), r.anchor) for r in rows}
            self._deposits = {bytes(r.txid): Handle(bytes(r.handle)) for r in db.execute(select(deposits))}

    def is_fresh(self, seconds: float) -> bool:
        """Whether the chain was seen, whole and current, within so many seconds."""
        return time.monotonic() - self.seen_at <= seconds

    def take_changes(self) -> tuple[set[Handle], bool]:
        """The connections touched since the last call, and whether a block was taken back."""
        with self._lock:
            touched, shaken = self._touched, self._shaken
            self._touched, self._shaken = set(), False
        return touched, shaken

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
                f"{known[0][0]}): it is another chain, or not synchronised. Name the right node, or another basedir.",
                height=known[0][0],
            )
        if self._bitcoin.block_hash(common[0] + 1) is None:  # a branch that wins is longer: this node only lags
            raise NodeBehind(
                f"The Bitcoin node stands at block {common[0]}, the hub has read {known[0][0]}: wait until the node is "
                "synchronised.",
                node=common[0],
                hub=known[0][0],
            )
        for height, _ in known[: known.index(common)]:
            with self._database.transaction("block taken back") as db:
                for statement in _TAKE_BACK:
                    db.execute(statement, {"at": height})
            self._shaken = True
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
        with self._database.transaction("block") as db:
            db.execute(blocks.insert(), {"height": height, "hash": tip})
            db.execute(_FORGET_BLOCKS, {"below": height - KEPT_BLOCKS})
            self._record(db, block.vtx, height)

    def _follow_mempool(self, mempool: Sequence[bytes]) -> None:
        present = set(mempool)
        fresh = [txid for txid in mempool if txid not in self._seen]
        raws: dict[bytes, bytes] = {}
        for start in range(0, len(fresh), _FETCHED_AT_ONCE):
            raws |= self._bitcoin.transactions(fresh[start : start + _FETCHED_AT_ONCE])
        with self._database.reading() as db:
            waiting = {bytes(row[0]) for statement in _GONE for row in db.execute(statement)}
        gone = waiting - present
        txs = [CTransaction.deserialize(raw) for raw in raws.values()]
        if gone or any(map(self._concerns, txs)):
            with self._database.transaction("mempool") as db:
                for txid in gone:  # before what may replace it
                    self._forget(db, txid)
                self._record(db, txs, None)
        self._seen = present - (set(fresh) - raws.keys())  # what came and went may come again

    def _forget(self, db: Connection, txid: bytes) -> None:
        """Forget what the mempool has no more, but keep a deposit's bytes. What it has stopped stays stopped."""
        for row in db.execute(_SPENT_BY, {"id": txid}).all():
            self._touched.add(self._outpoints[(bytes(row.txid), row.vout)][0])
        if txid in self._deposits:
            self._touched.add(self._deposits[txid])
        db.execute(_FORGET_SPENDER, {"id": txid})
        db.execute(_LOSE_DEPOSIT, {"id": txid})

    def _concerns(self, tx: CTransaction) -> bool:
        spent = any((item.prevout.hash, item.prevout.n) in self._outpoints for item in tx.vin)
        return spent or self._pays(tx) is not None

    def _pays(self, tx: CTransaction) -> Handle | None:
        """The connection to whose deposit's address a transaction pays first."""
        return self._scripts.get(bytes(tx.vout[0].scriptPubKey)) or self._deposits.get(tx.GetTxid())

    def _record(self, db: Connection, txs: Iterable[CTransaction], height: Height | None) -> None:
        """Write what concerns the watched outputs, children behind their parents whatever the order."""
        left = list(txs)
        while left:
            found = [tx for tx in left if self._concerns(tx)]
            before = len(self._outpoints)
            for tx in found:
                self._record_one(db, tx, height)
            if len(self._outpoints) == before:
                return

    def _record_one(self, db: Connection, tx: CTransaction, height: Height | None) -> None:
        txid = tx.GetTxid()
        handle = self._pays(tx)
        if handle is not None:
            self._record_deposit(db, handle, tx, height)
        for item in tx.vin:
            outpoint = Outpoint(bytes(item.prevout.hash), item.prevout.n)
            known = self._outpoints.get((outpoint.txid, outpoint.vout))
            if known is not None:
                handle, anchor = known
                self._record_spend(db, outpoint, txid, height)
                self._touched.add(handle)
                if anchor:
                    db.execute(_STOP, {"of": handle, "tip": self.height if height is None else height})
                    for vout in (0, 2):
                        self.watch(db, Outpoint(txid, vout), handle, anchor=False)

    def _record_deposit(self, db: Connection, handle: Handle, tx: CTransaction, height: Height | None) -> None:
        txid = tx.GetTxid()
        known = db.execute(_DEPOSIT, {"id": txid}).first()
        if known is not None:
            if height is not None or known.height == _NOWHERE:
                db.execute(_DEPOSIT_AT, {"id": txid, "at": height})
        else:
            script = bytes(tx.vout[0].scriptPubKey)
            row = {"txid": txid, "handle": handle, "script": script, "raw": tx.serialize(), "height": height}
            db.execute(deposits.insert(), row)
            self._deposits[txid] = handle
            self.watch(db, Outpoint(txid, 0), handle, anchor=True)
        self._touched.add(handle)

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

    def watch(self, db: Connection, outpoint: Outpoint, handle: Handle, *, anchor: bool) -> None:
        """Write what spends an output from the next ``catch_up`` on; watching again changes nothing."""
        if db.execute(_WATCH, {"id": outpoint.txid, "n": outpoint.vout}).first() is None:
            row = {"txid": outpoint.txid, "vout": outpoint.vout, "handle": handle, "anchor": anchor}
            db.execute(watched.insert(), row)
        self._outpoints[(outpoint.txid, outpoint.vout)] = (handle, anchor)

    def await_deposits(self, handle: Handle, scripts: Iterable[bytes]) -> None:
        """Write transactions that pay to these deposits' addresses from the next ``catch_up`` on."""
        self._scripts.update(dict.fromkeys(scripts, handle))

    def found_deposit(self, script: bytes) -> None:
        """Look no more for transactions that pay to a deposit's address: its output is watched since it came."""
        self._scripts.pop(script, None)

    def forget(self, db: Connection, closed: Iterable[Handle]) -> None:
        """Watch nothing any more of connections that are closed for good, and drop what was seen of them."""
        watching = {handle for handle, _ in self._outpoints.values()} | {*self._scripts.values()}
        gone = watching.intersection(closed)
        for handle in gone:
            for row in db.execute(_WATCHED_OF, {"of": handle}).all():
                db.execute(_DROP_SPEND, {"id": row.txid, "n": row.vout})
            for statement in _FORGET_CONNECTION:
                db.execute(statement, {"of": handle})
        for kept in (self._deposits, self._scripts):
            for key in [key for key, of in list(kept.items()) if of in gone]:
                kept.pop(key, None)
        if gone:
            self._outpoints = {key: item for key, item in self._outpoints.items() if item[0] not in gone}

    def unconfirmed(self, db: Connection) -> set[Handle]:
        """The connections of which something waits in the mempool, deposits aside."""
        rows = [row for row in db.execute(_WAITING) if bytes(row.spender) not in self._deposits]
        return {self._outpoints[(bytes(row.txid), row.vout)][0] for row in rows}

    @staticmethod
    def spent(db: Connection) -> set[Handle]:
        """The connections of which something spends an anchor, in a block or in the mempool."""
        return {Handle(bytes(handle)) for handle in db.execute(_SPENT).scalars()}

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


def _entry(row: Row[Any]) -> Entry:
    return Entry(bytes(row.txid), bytes(row.raw), _height(row.height))


def _height(value: int | None) -> Height | None:
    return None if value is None else Height(value)

"""Follows the chain: reads blocks and mempool from a Bitcoin node and keeps an index of the watched scripts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bitcoin.core import CBlock, CTransaction
from sqlalchemy import Connection, Row, bindparam, or_, select

from picopayments_cli.chain import Chain, Query
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.channel.counterparty import is_p2sh
from picopayments_cli.channel.networks import Network, script_of_address
from picopayments_cli.channel.values import Coin, Entry, Height, Outpoint
from picopayments_cli.errors import DatabaseUnusable, NodeBehind
from picopayments_cli.hub2.database import Database
from picopayments_cli.hub2.schema import blocks, outputs, reservations, scripts, transactions

log = logging.getLogger(__name__)

DEPOSIT, COMMIT = "deposit", "commit"  # kinds of scripts: what spends the one is watched where it pays first
KEPT_BLOCKS = 200  # how deep a reorganisation can be followed
_FETCHED_AT_ONCE = 500  # transactions of the mempool in one batch
_FEE_SECONDS = 10.0
_ATTEMPTS = 20  # to read blocks, mempool or an address at one and the same tip

_TIP = select(blocks.c.height, blocks.c.hash).order_by(blocks.c.height.desc()).limit(1)
_BLOCKS = select(blocks.c.height, blocks.c.hash).order_by(blocks.c.height.desc())
_ADD_BLOCK = blocks.insert()
_FORGET_BLOCKS = blocks.delete().where(blocks.c.height <= bindparam("below"))
_DROP_BLOCK = blocks.delete().where(blocks.c.height == bindparam("at"))
_DROP_HEIGHT = transactions.update().where(transactions.c.height == bindparam("at")).values(height=None)

_SCRIPTS = select(scripts.c.script, scripts.c.kind)
_SCRIPT = select(scripts.c.kind).where(scripts.c.script == bindparam("of"))
_ADD_SCRIPT = scripts.insert()

_OUTPOINTS = select(outputs.c.txid, outputs.c.vout, outputs.c.script)
_OUTPUT = select(outputs.c.vout).where(outputs.c.txid == bindparam("id"), outputs.c.vout == bindparam("n"))
_ADD_OUTPUT = outputs.insert()
_SPEND = (
    outputs.update()
    .where(outputs.c.txid == bindparam("id"), outputs.c.vout == bindparam("n"))
    .values(spent_by=bindparam("by"))
)
_UNSPEND = outputs.update().where(outputs.c.spent_by == bindparam("by")).values(spent_by=None)
_DROP_OUTPUTS = outputs.delete().where(outputs.c.txid == bindparam("id"))

_TRANSACTION = select(transactions).where(transactions.c.txid == bindparam("id"))
_ADD_TRANSACTION = transactions.insert()
_CONFIRM = transactions.update().where(transactions.c.txid == bindparam("id")).values(height=bindparam("at"))
_DROP_TRANSACTION = transactions.delete().where(transactions.c.txid == bindparam("id"))
_UNCONFIRMED = select(transactions.c.txid).where(transactions.c.height.is_(None))

_COINS = (
    select(outputs, transactions.c.height)
    .join(transactions, transactions.c.txid == outputs.c.txid)
    .where(outputs.c.script == bindparam("of"), outputs.c.spent_by.is_(None))
    .order_by(transactions.c.height, outputs.c.txid, outputs.c.vout)
)
_SPENDABLE = _COINS.outerjoin(
    reservations, (reservations.c.txid == outputs.c.txid) & (reservations.c.vout == outputs.c.vout)
).where(reservations.c.purpose.is_(None))
_HISTORY = (
    select(transactions)
    .where(
        or_(
            transactions.c.txid.in_(select(outputs.c.txid).where(outputs.c.script == bindparam("of"))),
            transactions.c.txid.in_(select(outputs.c.spent_by).where(outputs.c.script == bindparam("of"))),
        )
    )
    .order_by(transactions.c.height.is_(None), transactions.c.height, transactions.c.txid)
)
_RESERVE = reservations.insert()
_RELEASE = reservations.delete().where(reservations.c.purpose == bindparam("of"))


@dataclass(frozen=True)
class _Match:
    """A transaction that pays or spends what is watched."""

    txid: bytes
    raw: bytes
    paid: Sequence[tuple[int, bytes, int]]  # vout, script, satoshis
    spent: Sequence[Outpoint]
    commit: bytes | None  # where it pays first, if it spends a deposit


class Follower:
    """The hub's view of the coins and transactions of its watched scripts, as of the last ``catch_up``.

    Methods that take a connection read or write inside the caller's transaction. A transaction that a
    reorganisation takes out of its block is unconfirmed from then on, and is forgotten once the node has it
    neither in its mempool nor in a block.
    """

    def __init__(self, database: Database, bitcoin: BitcoinNode, network: Network) -> None:
        self._database = database
        self._bitcoin = bitcoin
        self._network = network
        self._lock = threading.RLock()
        self._touched: set[bytes] = set()
        self._shaken = False
        self._seen: set[bytes] = set()  # the mempool at the last look
        self._fee_rate = 1
        self._fee_read = float("-inf")
        with database.reading() as connection:
            self._scripts = {bytes(script): str(kind) for script, kind in connection.execute(_SCRIPTS)}
            found = connection.execute(_OUTPOINTS)
            self._outpoints = {(bytes(txid), vout): bytes(script) for txid, vout, script in found}

    def take_changes(self) -> tuple[set[bytes], bool]:
        """Return the watched scripts paid or spent since the last call, and whether anything was taken back."""
        with self._lock:
            touched, shaken = self._touched, self._shaken
            self._touched, self._shaken = set(), False
        return touched, shaken

    def _note(self, matches: Iterable[_Match]) -> None:
        for match in matches:
            self._touched.update(script for _, script, _ in match.paid)
            self._touched.update(self._outpoints[(item.txid, item.vout)] for item in match.spent)

    # Following ------------------------------------------------------------------------------------------------------

    def catch_up(self) -> Height:
        """Read what the node has and the index lacks: blocks first, then the mempool. Return the tip's height.

        The first call ever starts at the node's tip. Raises NodeUnreachable and its kind, and DatabaseUnusable
        where the node follows another chain than this database.
        """
        with self._lock:
            for _ in range(_ATTEMPTS):
                height, tip = self._follow_blocks()
                mempool = self._bitcoin.mempool()
                if self._bitcoin.best_block() == tip:  # else a block may have taken what the mempool lacks
                    self._follow_mempool(mempool)
                    self._read_fee_rate()
                    return height
            raise NodeBehind("The Bitcoin node's blocks change faster than they can be read; trying again.")

    def _follow_blocks(self) -> tuple[Height, bytes]:
        with self._database.reading() as connection:
            row = connection.execute(_TIP).first()
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
        with self._database.reading() as connection:
            known = [(row.height, bytes(row.hash)) for row in connection.execute(_BLOCKS)]
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
            with self._database.transaction("block taken back") as connection:
                connection.execute(_DROP_BLOCK, {"at": height})
                connection.execute(_DROP_HEIGHT, {"at": height})
            self._shaken = True
            log.warning("block taken back", extra={"fields": {"height": height}})
        return Height(common[0]), common[1]

    def _begin(self) -> tuple[Height, bytes]:
        tip = self._bitcoin.best_block()
        height = Height(self._bitcoin.height_of(tip))
        with self._database.transaction("first block") as connection:
            connection.execute(_ADD_BLOCK, {"height": height, "hash": tip})
        return height, tip

    def _connect(self, height: Height, tip: bytes, block: CBlock) -> None:
        matches = self._matches(block.vtx)
        with self._database.transaction("block") as connection:
            connection.execute(_ADD_BLOCK, {"height": height, "hash": tip})
            connection.execute(_FORGET_BLOCKS, {"below": height - KEPT_BLOCKS})
            _record(connection, [(match, height) for match in matches])
        self._note(matches)

    def _follow_mempool(self, mempool: Sequence[bytes]) -> None:
        present = set(mempool)
        fresh = [txid for txid in mempool if txid not in self._seen]
        raws: list[bytes] = []
        for start in range(0, len(fresh), _FETCHED_AT_ONCE):
            raws += self._bitcoin.transactions(fresh[start : start + _FETCHED_AT_ONCE]).values()
        matches = self._matches([CTransaction.deserialize(raw) for raw in raws])
        with self._database.reading() as connection:
            known = {bytes(txid) for (txid,) in connection.execute(_UNCONFIRMED)}
        gone = known - present
        if matches or gone:
            with self._database.transaction("mempool") as connection:
                for txid in gone:  # before what may replace it
                    _forget(connection, txid)
                _record(connection, [(match, None) for match in matches])
            self._note(matches)
            self._shaken |= bool(gone)
        self._seen = present

    def _matches(self, txs: Sequence[CTransaction]) -> list[_Match]:
        """Find the transactions that pay or spend what is watched; their order does not matter.

        A commit is found by what it spends, and from then on its own address is watched, for the payout.
        """
        paid: dict[int, list[tuple[int, bytes, int]]] = {}
        for position, tx in enumerate(txs):
            found = [
                (n, bytes(out.scriptPubKey), out.nValue)
                for n, out in enumerate(tx.vout)
                if out.scriptPubKey in self._scripts
            ]
            if found:
                paid[position] = found
                txid = tx.GetTxid()
                self._outpoints.update(((txid, n), script) for n, script, _ in found)
        matches = []
        for position, tx in enumerate(txs):
            spent = [
                Outpoint(bytes(item.prevout.hash), item.prevout.n)
                for item in tx.vin
                if (item.prevout.hash, item.prevout.n) in self._outpoints
            ]
            if spent or position in paid:
                commit = self._commit_script(tx, spent)
                matches.append(_Match(tx.GetTxid(), tx.serialize(), paid.get(position, []), spent, commit))
        fresh = {match.commit for match in matches if match.commit is not None} - self._scripts.keys()
        if not fresh:
            return matches
        self._scripts.update(dict.fromkeys(fresh, COMMIT))
        return self._matches(txs)

    def _commit_script(self, tx: CTransaction, spent: Sequence[Outpoint]) -> bytes | None:
        kinds = (self._scripts.get(self._outpoints[(item.txid, item.vout)]) for item in spent)
        paid = bytes(tx.vout[0].scriptPubKey)
        return paid if DEPOSIT in kinds and is_p2sh(paid) else None

    def _read_fee_rate(self) -> None:
        # on regtest it is set by hand, and who set it goes on at once
        if time.monotonic() - self._fee_read > _FEE_SECONDS or self._network.name == "regtest":
            self._fee_rate = self._bitcoin.fee_rate()
            self._fee_read = time.monotonic()

    # Watching -------------------------------------------------------------------------------------------------------

    def watch(self, connection: Connection, script: bytes, kind: str) -> None:
        """Index a script's coins and transactions from the next ``catch_up`` on; its past is not looked for.

        Watching again changes nothing.
        """
        _add_script(connection, script, kind)
        self._scripts.setdefault(script, kind)

    def import_address(self, chain: Chain, address: str, kind: str) -> None:
        """Watch an address that may have a past, and read that past from ``chain``; once for each address.

        Raises Unreachable and its kind, and NodeBehind where chain and follower do not come to the same tip.
        """
        script = script_of_address(self._network, address)
        with self._lock:
            with self._database.reading() as connection:
                if connection.execute(_SCRIPT, {"of": script}).first() is not None:
                    return
            for _ in range(_ATTEMPTS):
                height = self.catch_up()
                view = chain.view(Query(history=[address]))
                if view.height == height:
                    self._import(script, kind, view.history[address])
                    return
                time.sleep(0.1)
        raise NodeBehind("Counterparty node and Bitcoin node do not stand at the same block: wait, and try again.")

    def _import(self, script: bytes, kind: str, history: Iterable[Entry]) -> None:
        self._scripts[script] = kind
        entries = {entry.txid: entry for entry in history}
        with self._database.transaction("imported address") as connection:
            self.watch(connection, script, kind)
            matches = self._matches([CTransaction.deserialize(entry.raw) for entry in entries.values()])
            _record(connection, [(match, entries[match.txid].height) for match in matches])

    # Queries --------------------------------------------------------------------------------------------------------

    @staticmethod
    def tip(connection: Connection) -> Height:
        """Return the height of the last block read. Raises NodeBehind before the first ``catch_up``."""
        row = connection.execute(_TIP).first()
        if row is None:
            raise NodeBehind("The hub has not read a block yet.")
        return Height(row.height)

    def fee_rate(self) -> int:
        """Return the node's estimate for 3 blocks in sat/vB, at least 1; at most 10 s older than the last round."""
        return self._fee_rate

    @staticmethod
    def coins(connection: Connection, script: bytes) -> list[Coin]:
        """Return the unspent outputs of a script, as the mempool leaves them."""
        return [_coin(row) for row in connection.execute(_COINS, {"of": script})]

    @staticmethod
    def spendable(connection: Connection, script: bytes) -> list[Coin]:
        """Return the coins of a script that are not reserved, those of the mempool included."""
        return [_coin(row) for row in connection.execute(_SPENDABLE, {"of": script})]

    @staticmethod
    def transaction(connection: Connection, txid: bytes) -> Entry | None:
        """Return a transaction that touches a watched script, by its wire-order txid."""
        row = connection.execute(_TRANSACTION, {"id": txid}).first()
        return None if row is None else _entry(row)

    @staticmethod
    def history(connection: Connection, script: bytes) -> list[Entry]:
        """Return the transactions that pay or spend a script since it is watched: by height, the mempool's last."""
        return [_entry(row) for row in connection.execute(_HISTORY, {"of": script})]

    # Reservations ---------------------------------------------------------------------------------------------------

    @staticmethod
    def reserve(connection: Connection, outpoints: Iterable[Outpoint], purpose: str) -> None:
        """Keep coins for one purpose, until it is released. A coin that is reserved already is an IntegrityError."""
        for outpoint in outpoints:
            connection.execute(_RESERVE, {"txid": outpoint.txid, "vout": outpoint.vout, "purpose": purpose})

    @staticmethod
    def release(connection: Connection, purpose: str) -> None:
        """Give back what a purpose had reserved."""
        connection.execute(_RELEASE, {"of": purpose})


def _add_script(connection: Connection, script: bytes, kind: str) -> None:
    if connection.execute(_SCRIPT, {"of": script}).first() is None:
        since = Follower.tip(connection)
        connection.execute(_ADD_SCRIPT, {"script": script, "kind": kind, "since_height": since})


def _record(connection: Connection, found: Sequence[tuple[_Match, Height | None]]) -> None:
    """Enter transactions and their heights, in whatever order they come.

    They prevail over what the index has for the spender of the same outputs.
    """
    for match, height in found:
        if connection.execute(_TRANSACTION, {"id": match.txid}).first() is None:
            connection.execute(_ADD_TRANSACTION, {"txid": match.txid, "raw": match.raw, "height": height})
        elif height is not None:
            connection.execute(_CONFIRM, {"id": match.txid, "at": height})
        if match.commit is not None:
            _add_script(connection, match.commit, COMMIT)
        for vout, script, value in match.paid:
            if connection.execute(_OUTPUT, {"id": match.txid, "n": vout}).first() is None:
                row = {"txid": match.txid, "vout": vout, "script": script, "value": value, "spent_by": None}
                connection.execute(_ADD_OUTPUT, row)
    for match, _ in found:
        for outpoint in match.spent:
            connection.execute(_SPEND, {"id": outpoint.txid, "n": outpoint.vout, "by": match.txid})


def _forget(connection: Connection, txid: bytes) -> None:
    connection.execute(_UNSPEND, {"by": txid})
    connection.execute(_DROP_OUTPUTS, {"id": txid})
    connection.execute(_DROP_TRANSACTION, {"id": txid})


def _coin(row: Row[tuple[bytes, int, bytes, int, bytes | None, int | None]]) -> Coin:
    height = None if row.height is None else Height(row.height)
    return Coin(Outpoint(bytes(row.txid), row.vout), row.value, bytes(row.script), height)


def _entry(row: Row[tuple[bytes, bytes, int | None]]) -> Entry:
    return Entry(bytes(row.txid), bytes(row.raw), None if row.height is None else Height(row.height))

"""The mempool: transactions that wait for a block, taken by the rules of a node of the network."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

from bitcoin.core import CTransaction
from bitcoin.core.serialize import SerializationError

from picopayments_cli.channel.values import Outpoint
from picopayments_cli.regtest import sigops
from picopayments_cli.regtest.graph import Entry, ancestors, cluster, descendants, rate, totals
from picopayments_cli.regtest.index import Index, Output, Tx, outpoint_of, outputs_of
from picopayments_cli.regtest.policy import (
    MAX_FEE_RATE,
    MIN_RELAY_RATE,
    FeeTooLow,
    Refused,
    check_inputs,
    check_sane,
    check_scripts,
    check_standard,
    is_final,
    locks_met,
    vsize,
)
from picopayments_cli.regtest.replacement import check_package_replacement, check_replacement
from picopayments_cli.regtest.truc import check_truc

MAX_CHAIN = 25  # transactions above one, or below one, itself included
MAX_CHAIN_VSIZE = 101_000  # vB of them
MAX_CLUSTER = 64  # transactions that hang together in any way; of as many vB as a chain
RELAY_MINIMUM = 1000 * MIN_RELAY_RATE  # sat/kvB
_CACHED_SCRIPTS = 10_000


@dataclass(frozen=True)
class Plan:
    """The effect of taking a transaction in: ``direct`` is what it conflicts with, ``gone`` what goes with that."""

    entry: Entry
    direct: tuple[Entry, ...]
    gone: tuple[Entry, ...]


class PairRefused(Refused):
    """The fault of one of two transactions, ``txid``, that came together."""

    def __init__(self, fault: Refused, txid: bytes) -> None:
        super().__init__(fault.reason, fault.code)
        self.txid = txid


def decode(raw: bytes) -> CTransaction:
    """Return a transaction of raw bytes. Raises Refused."""
    try:
        return CTransaction.deserialize(raw)
    except (SerializationError, ValueError, struct.error) as error:
        raise Refused("TX decode failed. Make sure the tx has at least one input.", -22) from error


class Mempool:
    """Holds only what fits the next block: entries are in order, parents before children.

    ``sequence`` counts what came and what went, but for what a block took.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._entries: dict[bytes, Entry] = {}
        self._spenders: dict[Outpoint, bytes] = {}
        self._coins: dict[Outpoint, Output] = {}
        self._scripts_seen: dict[bytes, None] = {}
        self._minimum = RELAY_MINIMUM
        self.sequence = 1

    # Queries ---------------------------------------------------------------------------------------------------

    @property
    def entries(self) -> Mapping[bytes, Entry]:
        """Return all entries by txid, parents before children."""
        return self._entries

    def spender(self, outpoint: Outpoint) -> bytes | None:
        """Return the txid in the mempool that spends an output."""
        return self._spenders.get(outpoint)

    def children(self, txid: bytes) -> list[bytes]:
        """Return the transactions here that spend one that is here."""
        outputs = range(len(self._entries[txid].item.tx.vout))
        found = (self._spenders.get(Outpoint(txid, number)) for number in outputs)
        return list(dict.fromkeys(spender for spender in found if spender is not None))

    def coin(self, outpoint: Outpoint) -> Output | None:
        """Return an output that nothing spends, in the mempool or confirmed."""
        if outpoint in self._spenders:
            return None
        return self._coins.get(outpoint) or self._index.coins.get(outpoint)

    def coins_of(self, script: bytes) -> dict[Outpoint, Output]:
        """Return the outputs of a script that the mempool makes and nothing spends."""
        return {
            outpoint: out
            for outpoint, out in self._coins.items()
            if out.script == script and outpoint not in self._spenders
        }

    def history(self, script: bytes) -> list[bytes]:
        """Return the txids of the transactions that pay or spend a script, in order."""
        return [txid for txid, entry in self._entries.items() if script in entry.item.scripts()]

    @property
    def minimum(self) -> int:
        """Return the sat/kvB that a transaction pays at least, by itself or in a package."""
        return self._minimum

    # Taking in -------------------------------------------------------------------------------------------------

    def accept(self, raw: bytes) -> bytes:
        """Take a raw transaction in, as ``take`` does; its txid. One that is here already is no error."""
        tx = decode(raw)
        txid = bytes(tx.GetTxid())
        if self._is_mined(tx, txid):
            raise Refused("Transaction outputs already in utxo set", -27)
        if txid not in self._entries:
            self.take(tx)
        return txid

    def take(self, tx: CTransaction) -> tuple[Entry, ...]:
        """Take a transaction in, replacing what conflicts with it and pays less; what it replaced. Raises Refused.

        One that pays too little by itself is a FeeTooLow: it may still come in a package.
        """
        plan = self._judge(tx)
        self._check_minimum(plan.entry.fee, plan.entry.vsize)
        if plan.gone:
            check_replacement(plan.entry, plan.direct, plan.gone)
        self._check_scripts(plan.entry.item)
        self._carry_out(plan)
        self._trim()
        return plan.gone

    def accept_pair(self, parent: CTransaction, child: CTransaction) -> list[Entry]:
        """Take in a parent and its child, neither of them here, judged by what they pay together; what they replace.

        Raises Refused, of the package as a whole; PairRefused where the fault is the parent's or the child's own.
        """
        with self.undone_when_refused():
            first = self._part(parent)
            self._carry_out(first)
            second = self._part(child, forbidden=first.entry)
            gone = [*first.gone, *second.gone]
            self._check_pair_fee(first.entry, second.entry)
            if gone:
                check_package_replacement(first.entry, second.entry, gone)
            for plan in (first, second):
                with _blaming(plan.entry.item.txid):
                    self._check_scripts(plan.entry.item)
            self._carry_out(second)
        self._trim()
        return gone

    def _part(self, tx: CTransaction, forbidden: Entry | None = None) -> Plan:
        with _blaming(bytes(tx.GetTxid())):
            plan = self._judge(tx)
            if forbidden is not None and forbidden in plan.gone:
                raise Refused("conflict-in-package")
            return plan

    def _check_pair_fee(self, parent: Entry, child: Entry) -> None:
        with _blaming(child.item.txid):
            self._check_minimum(*totals([parent, child]))

    @contextmanager
    def undone_when_refused(self) -> Iterator[None]:
        """Take back all that was done inside where it ends with an exception."""
        before = dict(self._entries), dict(self._spenders), dict(self._coins), self.sequence
        try:
            yield
        except BaseException:
            self._entries, self._spenders, self._coins, self.sequence = before
            raise

    def rebuild(self, candidates: Iterable[bytes]) -> None:
        """Start anew with what is still acceptable of these raw transactions, parents first, whatever they pay."""
        before, sequence = self._entries, self.sequence
        self._entries, self._spenders, self._coins = {}, {}, {}
        for raw in candidates:
            try:
                self._take_back(decode(raw), before)
            except Refused:
                continue  # mined, in conflict with a block, or not final any more
        went = sum(txid not in self._entries and self._index.find(txid) is None for txid in before)
        self.sequence = sequence + went + sum(txid not in before for txid in self._entries)
        self._trim()

    def _take_back(self, tx: CTransaction, before: Mapping[bytes, Entry]) -> None:
        plan = self._judge(tx, before.get(bytes(tx.GetTxid())))
        if plan.gone:
            raise Refused("txn-mempool-conflict")
        self._check_scripts(plan.entry.item)
        self._carry_out(plan)

    # Judging ---------------------------------------------------------------------------------------------------

    def _judge(self, tx: CTransaction, before: Entry | None = None) -> Plan:
        """Check all rules but those on fees and scripts. ``before``: its entry from before a block. Raises Refused."""
        check_sane(tx)
        check_standard(tx)
        if not is_final(tx, self._index.height + 1, self._index.median_time(self._index.height)):
            raise Refused("non-final")
        txid = bytes(tx.GetTxid())
        item = Tx(tx, tx.serialize(), txid, self._spent(tx, txid))
        if not locks_met(tx, item.spent, self._index):
            raise Refused("non-BIP68-final")
        fee = check_inputs(tx, item.spent, self._index.height)
        parents = frozenset(txin.prevout.hash for txin in tx.vin if txin.prevout.hash in self._entries)
        since = self._index.height if before is None else min(before.since, self._index.height)
        entry = Entry(item, fee, vsize(tx), parents, since, sigops.cost(tx, item.spent))
        if fee > entry.vsize * MAX_FEE_RATE:
            raise Refused("Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)", -25)
        direct = dict.fromkeys(found for txin in tx.vin if (found := self._spenders.get(outpoint_of(txin))) is not None)
        sibling = check_truc(entry, self._entries, self.children, direct)
        if sibling is not None:
            direct[sibling] = None
        gone = descendants(self.children, direct) if direct else set()
        self._check_chain(entry, gone)
        ordered = [old for old_txid, old in self._entries.items() if old_txid in gone] if gone else []
        return Plan(entry, tuple(self._entries[old] for old in direct), tuple(ordered))

    def _spent(self, tx: CTransaction, txid: bytes) -> tuple[Output, ...]:
        found = []
        for txin in tx.vin:
            outpoint = outpoint_of(txin)
            out = self._coins.get(outpoint) or self._index.coins.get(outpoint)
            if out is None:
                if self._is_mined(tx, txid):
                    raise Refused("txn-already-known")
                raise Refused("bad-txns-inputs-missingorspent", -25)
            found.append(out)
        return tuple(found)

    def _is_mined(self, tx: CTransaction, txid: bytes) -> bool:
        """Tell whether an output of a transaction is there unspent in the chain."""
        return any(Outpoint(txid, number) in self._index.coins for number in range(len(tx.vout)))

    def _check_minimum(self, fee: int, size: int) -> None:
        asked = -(-size * self._minimum // 1000)
        if fee < asked:
            name = "min relay" if self._minimum == RELAY_MINIMUM else "mempool min"
            raise FeeTooLow(f"{name} fee not met, {fee} < {asked}")

    def _check_chain(self, entry: Entry, gone: Collection[bytes]) -> None:
        """Check the limits of nodes before version 31, of what is above and below, and those since, of a cluster."""
        if entry.parents.issubset(gone):
            return
        above = ancestors(self._entries, entry.parents.difference(gone)).difference(gone)
        _check_length("ancestors", [self._entries[txid] for txid in above], entry)
        for txid in above:
            others = descendants(self.children, [txid]).difference(gone)
            _check_length("descendants", [self._entries[other] for other in others], entry)
        together = [self._entries[txid] for txid in cluster(self._entries, self.children, entry.parents, gone)]
        if len(together) >= MAX_CLUSTER or totals(together)[1] + entry.vsize > MAX_CHAIN_VSIZE:
            raise Refused("too-large-cluster")

    def _check_scripts(self, item: Tx) -> None:
        # the txid fixes what is spent, so a second look (after a block, after a reorganisation) finds the same
        key = hashlib.sha256(item.raw).digest()
        if key in self._scripts_seen:
            return
        check_scripts(item.raw, item.spent)
        self._scripts_seen[key] = None
        if len(self._scripts_seen) > _CACHED_SCRIPTS:
            del self._scripts_seen[next(iter(self._scripts_seen))]

    # Changing --------------------------------------------------------------------------------------------------

    def set_minimum(self, sat_per_kvb: int) -> list[bytes]:
        """Ask that rate of every transaction from now on, as a full mempool does; the txids that go for it."""
        self._minimum = max(sat_per_kvb, RELAY_MINIMUM)
        return self._trim()

    def _trim(self) -> list[bytes]:
        """Throw out what pays less than a minimum above that of relay: with all below it, and without."""
        went: list[bytes] = []
        while self._minimum > RELAY_MINIMUM:
            worst = min(self._entries, key=self._worth, default=None)
            if worst is None or 1000 * self._worth(worst) >= self._minimum:
                break
            for txid in descendants(self.children, [worst]):
                self._remove(txid)
                went.append(txid)
        return went

    def _worth(self, txid: bytes) -> Fraction:
        """Return what a transaction pays, by itself or together with all that hangs on it."""
        together = rate(self._entries[other] for other in descendants(self.children, [txid]))
        return max(rate([self._entries[txid]]), together)

    def _carry_out(self, plan: Plan) -> None:
        for old in plan.gone:
            self._remove(old.item.txid)
        self._add(plan.entry)

    def _add(self, entry: Entry) -> None:
        item = entry.item
        self._entries[item.txid] = entry
        for txin in item.tx.vin:
            self._spenders[outpoint_of(txin)] = item.txid
        self._coins.update(outputs_of(item, None))
        self.sequence += 1

    def _remove(self, txid: bytes) -> None:
        item = self._entries.pop(txid).item
        for txin in item.tx.vin:
            self._spenders.pop(outpoint_of(txin), None)
        for outpoint, _ in outputs_of(item, None):
            self._coins.pop(outpoint, None)
        self.sequence += 1


@contextmanager
def _blaming(txid: bytes) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise PairRefused(error, txid) from error


def _check_length(name: str, chain: Collection[Entry], entry: Entry) -> None:
    if len(chain) >= MAX_CHAIN:
        raise Refused(f"too-long-mempool-chain, too many unconfirmed {name} [limit: {MAX_CHAIN}]")
    size = totals(chain)[1] + entry.vsize
    if size > MAX_CHAIN_VSIZE:
        raise Refused(f"too-long-mempool-chain, exceeds size limit of {name} [limit: {MAX_CHAIN_VSIZE}]")

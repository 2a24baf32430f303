"""The mempool: transactions that wait for a block, taken by the rules of a node of the network."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bitcoin.core import CTransaction
from bitcoin.core.serialize import SerializationError

from picopayments_cli.channel.values import Outpoint
from picopayments_cli.regtest.index import Index, Output, Tx, outpoint_of, outputs_of
from picopayments_cli.regtest.policy import (
    MAX_FEE_RATE,
    MIN_RELAY_RATE,
    Refused,
    check_inputs,
    check_sane,
    check_scripts,
    check_standard,
    is_final,
    locks_met,
    vsize,
)

MAX_ANCESTORS = 25  # the transaction itself included
MAX_REPLACED = 100
MAX_BLOCK_VSIZE = 950_000  # vB of transactions in one block
INCREMENTAL_RATE = 1  # sat/vB that a replacement pays on top
_CACHED_SCRIPTS = 10_000


@dataclass(frozen=True)
class Entry:
    """A transaction in the mempool: fee in satoshis, size in vB, and the mempool transactions that it spends."""

    item: Tx
    fee: int
    vsize: int
    parents: frozenset[bytes]


def decode(raw: bytes) -> CTransaction:
    """A transaction of raw bytes. Raises Refused."""
    try:
        return CTransaction.deserialize(raw)
    except (SerializationError, ValueError, struct.error) as error:
        raise Refused("TX decode failed. Make sure the tx has at least one input.", -22) from error


class Mempool:
    """Holds only what fits the next block: entries are in order, parents before children."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._entries: dict[bytes, Entry] = {}
        self._spenders: dict[Outpoint, bytes] = {}
        self._coins: dict[Outpoint, Output] = {}
        self._scripts_seen: dict[bytes, None] = {}

    # What it holds ---------------------------------------------------------------------------------------------

    @property
    def entries(self) -> Mapping[bytes, Entry]:
        """All entries by txid, parents before children."""
        return self._entries

    def spender(self, outpoint: Outpoint) -> bytes | None:
        """The txid in the mempool that spends an output."""
        return self._spenders.get(outpoint)

    def coin(self, outpoint: Outpoint) -> Output | None:
        """An output that nothing spends, in the mempool or confirmed."""
        if outpoint in self._spenders:
            return None
        return self._coins.get(outpoint) or self._index.coins.get(outpoint)

    def coins_of(self, script: bytes) -> dict[Outpoint, Output]:
        """The outputs of a script that the mempool makes and nothing spends."""
        return {
            outpoint: out
            for outpoint, out in self._coins.items()
            if out.script == script and outpoint not in self._spenders
        }

    def history(self, script: bytes) -> list[bytes]:
        """Txids of the transactions that pay or spend a script, in order."""
        return [txid for txid, entry in self._entries.items() if script in entry.item.scripts()]

    def select(self) -> list[Entry]:
        """What the next block holds: as much as fits, in order."""
        chosen: list[Entry] = []
        room = MAX_BLOCK_VSIZE
        for entry in self._entries.values():
            room -= entry.vsize
            if room < 0:
                break
            chosen.append(entry)
        return chosen

    # Taking in -------------------------------------------------------------------------------------------------

    def accept(self, raw: bytes) -> bytes:
        """Take a transaction in, replacing what conflicts with it and pays less; its txid. Raises Refused.

        One that is here already is no error.
        """
        tx = decode(raw)
        txid = bytes(tx.GetTxid())
        if txid in self._entries:
            return txid
        check_sane(tx)
        check_standard(tx)
        if not is_final(tx, self._index.height + 1, self._index.median_time(self._index.height)):
            raise Refused("non-final")
        replaced = self._conflicts(tx)
        item = Tx(tx, tx.serialize(), txid, self._spent(tx, txid))
        if not locks_met(tx, item.spent, self._index):
            raise Refused("non-BIP68-final")
        fee = check_inputs(tx, item.spent, self._index.height)
        parents = frozenset(txin.prevout.hash for txin in tx.vin if txin.prevout.hash in self._entries)
        entry = Entry(item, fee, vsize(tx), parents)
        self._check_fee(entry, replaced)
        self._check_ancestors(entry, replaced)
        self._check_scripts(item)
        for old in replaced:
            self._remove(old)
        self._add(entry)
        return txid

    def rebuild(self, candidates: Iterable[bytes]) -> None:
        """Start anew with what is still acceptable of these raw transactions, parents first."""
        self._entries.clear()
        self._spenders.clear()
        self._coins.clear()
        for raw in candidates:
            try:
                self.accept(raw)
            except Refused:
                continue  # mined, in conflict with a block, or not final any more

    def _spent(self, tx: CTransaction, txid: bytes) -> tuple[Output, ...]:
        found = []
        for txin in tx.vin:
            outpoint = outpoint_of(txin)
            out = self._coins.get(outpoint) or self._index.coins.get(outpoint)
            if out is None:
                if any(Outpoint(txid, number) in self._index.coins for number in range(len(tx.vout))):
                    raise Refused("Transaction outputs already in utxo set", -27)
                raise Refused("bad-txns-inputs-missingorspent", -25)
            found.append(out)
        return tuple(found)

    def _conflicts(self, tx: CTransaction) -> list[bytes]:
        """What taking a transaction in would throw out: spenders of its inputs and all that hangs on them."""
        doomed = self._direct_conflicts(tx)
        for txid, entry in self._entries.items():
            if not entry.parents.isdisjoint(doomed):
                doomed.append(txid)
        return list(dict.fromkeys(doomed))

    def _direct_conflicts(self, tx: CTransaction) -> list[bytes]:
        return [txid for txin in tx.vin if (txid := self._spenders.get(outpoint_of(txin))) is not None]

    def _check_fee(self, entry: Entry, replaced: list[bytes]) -> None:
        shown = entry.item.txid[::-1].hex()
        if entry.fee > entry.vsize * MAX_FEE_RATE:
            raise Refused("Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)", -25)
        if entry.fee < entry.vsize * MIN_RELAY_RATE:
            raise Refused(f"min relay fee not met, {entry.fee} < {entry.vsize * MIN_RELAY_RATE}")
        if not replaced:
            return
        if not entry.parents.isdisjoint(replaced):
            raise Refused(f"bad-txns-spends-conflicting-tx, {shown} spends conflicting transaction")
        if len(replaced) > MAX_REPLACED:
            raise Refused(f"too many potential replacements, rejecting replacement {shown}")
        direct = [self._entries[txid] for txid in self._direct_conflicts(entry.item.tx)]
        fees = sum(self._entries[txid].fee for txid in replaced)
        why = f"insufficient fee, rejecting replacement {shown}"
        if any(entry.fee * old.vsize <= old.fee * entry.vsize for old in direct):
            raise Refused(f"{why}; new feerate is not higher than the old one")
        if entry.fee < fees:
            raise Refused(f"{why}, less fees than conflicting txs; {entry.fee} < {fees}")
        if entry.fee - fees < entry.vsize * INCREMENTAL_RATE:
            raise Refused(f"{why}, not enough additional fees to relay; {entry.fee - fees} < {entry.vsize}")

    def _check_ancestors(self, entry: Entry, replaced: list[bytes]) -> None:
        found: set[bytes] = set()
        pending = list(entry.parents.difference(replaced))
        while pending:
            txid = pending.pop()
            if txid not in found:
                found.add(txid)
                pending.extend(self._entries[txid].parents)
        if len(found) >= MAX_ANCESTORS:
            raise Refused(f"too-long-mempool-chain, too many unconfirmed ancestors [limit: {MAX_ANCESTORS}]")

    def _check_scripts(self, item: Tx) -> None:
        # the txid fixes what is spent, so a second look (after a block, after a reorganisation) finds the same
        key = hashlib.sha256(item.raw).digest()
        if key in self._scripts_seen:
            return
        check_scripts(item.raw, item.spent)
        self._scripts_seen[key] = None
        if len(self._scripts_seen) > _CACHED_SCRIPTS:
            del self._scripts_seen[next(iter(self._scripts_seen))]

    def _add(self, entry: Entry) -> None:
        item = entry.item
        self._entries[item.txid] = entry
        for txin in item.tx.vin:
            self._spenders[outpoint_of(txin)] = item.txid
        self._coins.update(outputs_of(item, None))

    def _remove(self, txid: bytes) -> None:
        item = self._entries.pop(txid).item
        for txin in item.tx.vin:
            self._spenders.pop(outpoint_of(txin), None)
        for outpoint, _ in outputs_of(item, None):
            self._coins.pop(outpoint, None)

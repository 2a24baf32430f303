"""The active chain as the node sees it: blocks, transactions, unspent outputs, and what concerns each script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bitcoin.core import CTransaction, CTxIn

from picopayments_cli.channel.values import Outpoint
from picopayments_cli.regtest.blocks import parse_block

MEDIAN_SPAN = 11  # blocks


@dataclass(frozen=True)
class Output:
    """An output: satoshis, scriptPubKey, height of its block (None: in the mempool), whether a coinbase made it."""

    value: int
    script: bytes
    height: int | None
    coinbase: bool = False


@dataclass(frozen=True)
class Tx:
    """A transaction with the outputs that it spends, one per input (none for a coinbase); txid in wire order."""

    tx: CTransaction
    raw: bytes
    txid: bytes
    spent: tuple[Output, ...] = ()

    @property
    def fee(self) -> int:
        """Return the satoshis that its outputs leave to the miner; 0 for a coinbase."""
        return sum(out.value for out in self.spent) - sum(out.nValue for out in self.tx.vout) if self.spent else 0

    def scripts(self) -> list[bytes]:
        """Return the scripts that it pays or spends, each once."""
        paid = (bytes(out.scriptPubKey) for out in self.tx.vout)
        return list(dict.fromkeys((*(out.script for out in self.spent), *paid)))


@dataclass(frozen=True)
class Block:
    """A block of the active chain; hash in wire order, time in seconds."""

    hash: bytes
    height: int
    time: int
    transactions: tuple[Tx, ...]


def outpoint_of(txin: CTxIn) -> Outpoint:
    """Return what an input spends."""
    return Outpoint(bytes(txin.prevout.hash), int(txin.prevout.n))


def outputs_of(item: Tx, height: int | None) -> Iterator[tuple[Outpoint, Output]]:
    """Return the outputs of a transaction that can ever be spent; ``height``: its block's, None in the mempool."""
    coinbase = bool(item.tx.is_coinbase())
    for number, out in enumerate(item.tx.vout):
        script = bytes(out.scriptPubKey)
        if script[:1] != b"\x6a":
            yield Outpoint(item.txid, number), Output(int(out.nValue), script, height, coinbase)


class Index:
    """Follows the active chain block by block, forward (``connect``) and back (``disconnect``)."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.coins: dict[Outpoint, Output] = {}
        self._heights: dict[bytes, int] = {}
        self._places: dict[bytes, tuple[int, int]] = {}
        self._coins_of: dict[bytes, dict[Outpoint, Output]] = {}
        self._history: dict[bytes, list[bytes]] = {}

    # Queries ---------------------------------------------------------------------------------------------------

    @property
    def height(self) -> int:
        """Return the height of the tip; -1 before the first block."""
        return len(self.blocks) - 1

    def height_of(self, block_hash: bytes) -> int | None:
        """Return the height of a block of the active chain."""
        return self._heights.get(block_hash)

    def median_time(self, height: int) -> int:
        """Return the median time past as of a block: of it and the ten before it."""
        times = sorted(block.time for block in self.blocks[max(0, height + 1 - MEDIAN_SPAN) : height + 1])
        return times[len(times) // 2]

    def find(self, txid: bytes) -> tuple[Tx, Block] | None:
        """Return a confirmed transaction and its block."""
        place = self._places.get(txid)
        if place is None:
            return None
        block = self.blocks[place[0]]
        return block.transactions[place[1]], block

    def coins_of(self, script: bytes) -> Mapping[Outpoint, Output]:
        """Return the unspent outputs of a script."""
        return self._coins_of.get(script, {})

    def coins_at(self, script: bytes, height: int) -> Mapping[Outpoint, Output]:
        """Return the outputs of a script that were unspent as of the block at a height."""
        found = dict(self.coins_of(script))
        for block in reversed(self.blocks[max(0, height + 1) :]):
            for item in reversed(block.transactions):
                for txin, out in zip(item.tx.vin, item.spent, strict=False):
                    if out.script == script:
                        found[outpoint_of(txin)] = out
                for outpoint, _ in outputs_of(item, block.height):
                    found.pop(outpoint, None)
        return found

    def history(self, script: bytes) -> list[bytes]:
        """Return the txids of all transactions that pay or spend a script, oldest first."""
        return list(self._history.get(script, ()))

    # Following -------------------------------------------------------------------------------------------------

    def connect(self, raw: bytes, block_hash: bytes) -> Block:
        """Put a block, which the kernel found valid, on top."""
        parsed = parse_block(raw)
        height = len(self.blocks)
        txs = []
        for position, tx in enumerate(parsed.vtx):
            txs.append(self._connect_tx(tx, height))
            self._places[txs[-1].txid] = (height, position)
        block = Block(block_hash, height, int(parsed.nTime), tuple(txs))
        self.blocks.append(block)
        self._heights[block_hash] = height
        return block

    def disconnect(self) -> Block:
        """Take the tip's block away again."""
        block = self.blocks.pop()
        del self._heights[block.hash]
        for item in reversed(block.transactions):
            for outpoint, _ in outputs_of(item, block.height):
                self._remove(outpoint)
            for txin, out in zip(item.tx.vin, item.spent, strict=False):
                self._add(outpoint_of(txin), out)
            for script in item.scripts():
                self._history[script].pop()
            del self._places[item.txid]
        return block

    def _connect_tx(self, tx: CTransaction, height: int) -> Tx:
        spent = () if tx.is_coinbase() else tuple(self._remove(outpoint_of(txin)) for txin in tx.vin)
        item = Tx(tx, tx.serialize(), bytes(tx.GetTxid()), spent)
        if height:  # nobody can spend what the genesis block pays
            for outpoint, out in outputs_of(item, height):
                self._add(outpoint, out)
        for script in item.scripts():
            self._history.setdefault(script, []).append(item.txid)
        return item

    def _add(self, outpoint: Outpoint, out: Output) -> None:
        self.coins[outpoint] = out
        self._coins_of.setdefault(out.script, {})[outpoint] = out

    def _remove(self, outpoint: Outpoint) -> Output:
        out = self.coins.pop(outpoint)
        del self._coins_of[out.script][outpoint]
        return out

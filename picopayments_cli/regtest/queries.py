"""Questions about addresses and transactions that every interface of the node asks alike."""

from __future__ import annotations

from typing import Any

from picopayments_cli.channel.networks import NETWORKS, script_of_address
from picopayments_cli.channel.values import from_hex
from picopayments_cli.errors import InvalidHex, UnknownTransaction
from picopayments_cli.regtest.index import Block, Tx
from picopayments_cli.regtest.mempool import RELAY_MINIMUM
from picopayments_cli.regtest.node import Node
from picopayments_cli.regtest.replacement import INCREMENTAL_RATE
from picopayments_cli.regtest.shapes import bitcoins, display, esplora_coin, esplora_tx

VERSION = "11.5.0"  # of Counterparty Core, whose interface and whose rules these are
_REGTEST = NETWORKS["regtest"]
_MIN_ESTIMATE = 1024  # sat/kvB: what Counterparty Core shows at least


def script_of(address: str) -> bytes:
    """Return the scriptPubKey of a regtest address. Raises InvalidAddress."""
    return script_of_address(_REGTEST, address)


def txid_of(text: Any) -> bytes:
    """Return the wire-order txid of a display-order one. Raises InvalidHex."""
    return from_hex(text, "txid", 32)[::-1]


def find(node: Node, txid: bytes) -> tuple[Tx, Block | None]:
    """Return a transaction and its block, None while it waits in the mempool. Raises UnknownTransaction."""
    entry = node.mempool.entries.get(txid)
    if entry is not None:
        return entry.item, None
    found = node.index.find(txid)
    if found is None:
        raise UnknownTransaction(
            "No such mempool or blockchain transaction. Check the txid, or broadcast it again.", txid=display(txid)
        )
    return found


def raw_of(text: Any) -> bytes:
    """Return the bytes of a transaction in hex of either case. Raises InvalidHex."""
    if not isinstance(text, str):
        raise InvalidHex("The transaction must be hex.", what="transaction")
    return from_hex(text.lower(), "transaction")


def coins(node: Node, script: bytes, unconfirmed: bool) -> list[dict[str, Any]]:
    """Return the unspent outputs as Esplora shows them; what the mempool spends is left out in both cases."""
    if node.index_delay is not None:
        past = node.index.coins_at(script, node.index.height - node.index_delay)
        return [esplora_coin(node, outpoint, out) for outpoint, out in past.items()]
    found = {
        outpoint: out for outpoint, out in node.index.coins_of(script).items() if node.mempool.spender(outpoint) is None
    }
    if unconfirmed:
        found |= node.mempool.coins_of(script)
    return [esplora_coin(node, outpoint, out) for outpoint, out in found.items()]


def history(node: Node, script: bytes, unconfirmed: bool) -> list[dict[str, Any]]:
    """Return all transactions of a script as Esplora shows them: the mempool's first, then the newest first."""
    late = node.index_delay is not None
    waiting = node.mempool.history(script) if unconfirmed and not late else []
    txids = [*reversed(waiting), *reversed(node.index.history(script))]
    found = [find(node, txid) for txid in txids]
    last = node.index.height - (node.index_delay or 0)
    return [esplora_tx(item, block) for item, block in found if block is None or block.height <= last]


def estimate(node: Node) -> int | None:
    """Return the fee rate in sat/kvB as Counterparty Core shows it."""
    return None if node.fee_rate is None else max(node.fee_rate, _MIN_ESTIMATE)


def mempool_info(node: Node) -> dict[str, Any]:
    """Return the mempool as a whole."""
    entries = node.mempool.entries.values()
    return {
        "loaded": True,
        "size": len(entries),
        "bytes": sum(entry.vsize for entry in entries),
        "usage": sum(len(entry.item.raw) for entry in entries),
        "total_fee": sum(entry.fee for entry in entries) / 100_000_000,
        "maxmempool": 300_000_000,
        "mempoolminfee": bitcoins(node.mempool.minimum),
        "minrelaytxfee": bitcoins(RELAY_MINIMUM),
        "incrementalrelayfee": bitcoins(1000 * INCREMENTAL_RATE),
        "unbroadcastcount": 0,
        "fullrbf": True,
    }

"""The calls of the node's Bitcoin Core interface that concern the mempool: what waits there, and how it gets there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bitcoin.core import CTransaction

from picopayments_cli.channel.values import Outpoint
from picopayments_cli.regtest.codes import DESERIALIZATION, INVALID_PARAMETER, NOT_FOUND, RpcError
from picopayments_cli.regtest.graph import Entry, ancestors, descendants, rate, totals
from picopayments_cli.regtest.mempool import decode
from picopayments_cli.regtest.node import Node
from picopayments_cli.regtest.packages import Verdict
from picopayments_cli.regtest.policy import Refused, weight
from picopayments_cli.regtest.queries import mempool_info, raw_of, txid_of
from picopayments_cli.regtest.shapes import bitcoins, display


class _Untaken(Exception):
    """A trial is over: what it did is to be undone."""


class MempoolRpc:
    """Every public method is a call of the interface; hashes in display order, amounts in bitcoins."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # Queries ---------------------------------------------------------------------------------------------------

    def getrawmempool(self, verbose: bool = False, mempool_sequence: bool = False) -> Any:
        """Return the txids that wait, parents first; by txid with sizes and fees where verbose.

        With ``mempool_sequence`` an object: the txids, and a number that grows with all that comes and goes but for
        what a block takes.
        """
        mempool = self._node.mempool
        if verbose:
            if mempool_sequence:
                raise RpcError(INVALID_PARAMETER, "Verbose results cannot contain mempool sequence values.")
            return {display(txid): self._entry(entry) for txid, entry in mempool.entries.items()}
        txids = [display(txid) for txid in mempool.entries]
        return {"txids": txids, "mempool_sequence": mempool.sequence} if mempool_sequence else txids

    def getmempoolentry(self, txid: str) -> dict[str, Any]:
        """Return a transaction that waits, with what hangs together with it."""
        entry = self._node.mempool.entries.get(txid_of(txid))
        if entry is None:
            raise RpcError(NOT_FOUND, "Transaction not in mempool")
        return self._entry(entry)

    def _entry(self, entry: Entry) -> dict[str, Any]:
        mempool, txid = self._node.mempool, entry.item.txid
        above = [mempool.entries[other] for other in ancestors(mempool.entries, [txid])]
        below = [mempool.entries[other] for other in descendants(mempool.children, [txid])]
        (fee_above, size_above), (fee_below, size_below) = totals(above), totals(below)
        return {
            "vsize": entry.vsize,
            "weight": weight(entry.item.tx),
            "time": self._node.index.blocks[entry.since].time,
            "height": entry.since,
            "descendantcount": len(below),
            "descendantsize": size_below,
            "ancestorcount": len(above),
            "ancestorsize": size_above,
            "wtxid": _wtxid(entry.item.tx),
            "fees": {
                "base": bitcoins(entry.fee),
                "modified": bitcoins(entry.fee),
                "ancestor": bitcoins(fee_above),
                "descendant": bitcoins(fee_below),
            },
            "depends": [display(parent) for parent in entry.parents],
            "spentby": [display(child) for child in mempool.children(txid)],
            "bip125-replaceable": True,
            "unbroadcast": False,
        }

    def getmempoolinfo(self) -> dict[str, Any]:
        """Return the mempool as a whole."""
        return mempool_info(self._node)

    def gettxspendingprevout(self, outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tell for each output which transaction in the mempool spends it; left out where none does."""
        if not outputs:
            raise RpcError(INVALID_PARAMETER, "Invalid parameter, outputs are missing")
        return [self._spender(output) for output in outputs]

    def _spender(self, output: Mapping[str, Any]) -> dict[str, Any]:
        number = output.get("vout")
        if isinstance(number, bool) or not isinstance(number, int) or set(output) != {"txid", "vout"}:
            raise RpcError(INVALID_PARAMETER, "Invalid parameter, an output is a txid and a vout")
        if number < 0:
            raise RpcError(INVALID_PARAMETER, "Invalid parameter, vout cannot be negative")
        outpoint = Outpoint(txid_of(output["txid"]), number)
        spender = self._node.mempool.spender(outpoint)
        asked = {"txid": display(outpoint.txid), "vout": number}
        return asked if spender is None else asked | {"spendingtxid": display(spender)}

    def estimatesmartfee(self, conf_target: int, estimate_mode: str = "economical") -> dict[str, Any]:
        """Return the fee rate that was set, in BTC/kvB, or none, as on a real regtest chain."""
        rate = self._node.fee_rate
        if rate is None:
            return {"errors": ["Insufficient data or no feerate found"], "blocks": 0}
        return {"feerate": bitcoins(rate), "blocks": conf_target}

    # Arrivals --------------------------------------------------------------------------------------------------

    def sendrawtransaction(self, hexstring: str, maxfeerate: Any = None, maxburnamount: Any = None) -> str:
        """Broadcast; answers when, by the mining policy, the transaction stands in a block."""
        try:
            return display(self._node.submit([raw_of(hexstring)])[0])
        except Refused as error:
            raise RpcError(error.code, error.reason) from error

    def testmempoolaccept(self, rawtxs: list[str], maxfeerate: Any = None) -> list[dict[str, Any]]:
        """Tell whether the mempool would take a transaction, by itself; nothing changes."""
        if len(rawtxs) != 1:
            raise RpcError(INVALID_PARAMETER, "This node tries one transaction at a time.")
        tx = _decoded(rawtxs[0])
        txid, mempool = bytes(tx.GetTxid()), self._node.mempool
        answer: dict[str, Any] = {"txid": display(txid), "wtxid": _wtxid(tx)}
        if txid in mempool.entries:
            return [answer | {"allowed": False, "reject-reason": "txn-already-in-mempool"}]
        try:
            with mempool.undone_when_refused():
                mempool.take(tx)
                taken = mempool.entries[txid]
                raise _Untaken
        except Refused as error:
            return [answer | {"allowed": False, "reject-reason": error.reason}]
        except _Untaken:
            return [answer | {"allowed": True, "vsize": taken.vsize, "fees": _fees(taken, [taken])}]

    def submitpackage(self, package: list[str], maxfeerate: Any = None, maxburnamount: Any = None) -> dict[str, Any]:
        """Take a parent and its child (or one transaction) in, judged by what they pay together."""
        txs = [_decoded(text) for text in package]
        try:
            verdict = self._node.submit_package(txs)
        except Refused as error:
            raise RpcError(error.code, error.reason) from error
        return {
            "package_msg": verdict.message,
            "tx-results": {_wtxid(tx): _result(tx, verdict) for tx in txs},
            "replaced-transactions": [display(entry.item.txid) for entry in verdict.replaced],
        }


def _decoded(text: str) -> CTransaction:
    try:
        return decode(raw_of(text))
    except Refused as error:
        raise RpcError(DESERIALIZATION, f"TX decode failed: {text} Make sure the tx has at least one input.") from error


def _wtxid(tx: CTransaction) -> str:
    return display(bytes(tx.GetHash()))


def _result(tx: CTransaction, verdict: Verdict) -> dict[str, Any]:
    """Return what became of one transaction of a package."""
    txid = bytes(tx.GetTxid())
    shown: dict[str, Any] = {"txid": display(txid)}
    if txid in verdict.errors:
        return shown | {"error": verdict.errors[txid]}
    if txid in verdict.taken:
        judged = verdict.taken[txid]
        entry = next(entry for entry in judged if entry.item.txid == txid)
        return shown | {"vsize": entry.vsize, "fees": _fees(entry, judged)}
    known = verdict.known.get(txid)
    if known is None:
        return shown | {"error": "package-not-validated"}
    if _wtxid(known.item.tx) != _wtxid(tx):
        return shown | {"other-wtxid": _wtxid(known.item.tx)}
    return shown | {"vsize": known.vsize, "fees": {"base": bitcoins(known.fee)}}


def _fees(entry: Entry, judged: Sequence[Entry]) -> dict[str, Any]:
    """Return what a new transaction pays, and the rate per kvB of all that it was judged with."""
    return {
        "base": bitcoins(entry.fee),
        "effective-feerate": bitcoins(int(1000 * rate(judged))),
        "effective-includes": [_wtxid(one.item.tx) for one in judged],
    }

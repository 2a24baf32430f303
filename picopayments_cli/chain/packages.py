"""Ask the nodes for what protocol 3 needs: packages, what waits in the mempool, sends of the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from picopayments_cli.chain.answers import member, members, satoshis_of, txid_of, whole
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.counterparty import asset_id
from picopayments_cli.channel.facts import SendRow
from picopayments_cli.channel.fees import FeeFrac
from picopayments_cli.channel.networks import Network, script_of_address
from picopayments_cli.errors import (
    BadAnswer,
    BroadcastRefused,
    InvalidAddress,
    InvalidAsset,
    NodeRefused,
)

_NOT_FOUND = -5
_KNOWN = ("txn-already-known", "txn-already-in-mempool", "already in utxo set", "already in block chain")


@dataclass(frozen=True)
class Waiting:
    """A transaction in the mempool: its own fee and size, and what spends outputs of it."""

    feefrac: FeeFrac
    children: tuple[bytes, ...]


class PackageNode(BitcoinNode):
    """A Bitcoin node that takes packages."""

    def tip_is_current(self) -> bool:
        """Whether the node has every block that it knows the header of, and has peers where it needs any."""
        info = self._call("getblockchaininfo")
        current = whole(info, "blocks") == whole(info, "headers")
        if member(info, "chain", str) == "regtest":
            return current
        peers = whole(self._call("getnetworkinfo"), "connections")
        return current and not member(info, "initialblockdownload", bool) and peers > 0

    def waiting(self, txid: bytes) -> Waiting | None:
        """A transaction in the mempool, None where it is not there."""
        try:
            entry = self._call("getmempoolentry", txid[::-1].hex())
        except NodeRefused as error:
            if error.data.get("code") != _NOT_FOUND:
                raise
            return None
        fee = int(satoshis_of(member(member(entry, "fees", dict), "base", (int, float))))
        children = tuple(txid_of(text) for text in members(entry.get("spentby"), "spentby"))
        return Waiting(FeeFrac(fee, whole(entry, "vsize", 1)), children)

    def submit(self, raws: Sequence[bytes]) -> None:
        """Hand a transaction, or a parent and its child, to the network. Raises BroadcastRefused."""
        if len(raws) == 1:
            self.broadcast(raws[0])
            return
        answer = self.package(raws)
        if member(answer, "package_msg", str) != "success":
            results = member(answer, "tx-results", dict).values()
            reasons = [str(item["error"]) for item in results if isinstance(item, dict) and item.get("error")]
            if not reasons or not all(any(known in reason for known in _KNOWN) for reason in reasons):
                raise _refused("; ".join(reasons) or answer["package_msg"])

    def package(self, raws: Sequence[bytes]) -> dict[str, Any]:
        """Hand a parent and its child to the network; Core's answer, which tells what became of each.

        Raises BroadcastRefused where the node judges neither.
        """
        try:
            answer = self._call("submitpackage", [raw.hex() for raw in raws])
        except NodeRefused as error:
            raise _refused(error.message) from error
        found: dict[str, Any] = member({"package": answer}, "package", dict)
        return found


def _refused(reason: str) -> BroadcastRefused:
    return BroadcastRefused(f"The node refused the package: {reason}", reason=reason)


class LedgerChain(NodeChain):
    """The chain as a Counterparty node tells it, with the ledger's rows of sends."""

    def sends_to(self, network: Network, address: str) -> tuple[SendRow, ...]:
        """The rows of sends to an address, valid or not. Raises NodeUnreachable, BadAnswer."""
        script_of_address(network, address)  # nothing but an address goes into a path
        return send_rows(network, self._pages(f"v2/addresses/{address}/receives", {}))


def send_rows(network: Network, rows: Iterable[Any]) -> tuple[SendRow, ...]:
    """Read rows of the ledger's sends, without those whose asset or quantity the ledger could not read.

    Raises BadAnswer.
    """
    found = (_send_row(network, row) for row in rows)
    return tuple(row for row in found if row is not None)


def _send_row(network: Network, row: Any) -> SendRow | None:
    """A row of the ledger's; None where its asset or its quantity could not be read by the ledger."""
    if member(row, "asset", str, None) is None or member(row, "quantity", int, None) is None:
        return None
    destination = member(row, "destination", str, None)
    try:
        number = asset_id(row["asset"])
    except InvalidAsset as error:
        raise BadAnswer(f"The answer tells of an impossible asset: {error.message}") from error
    try:
        script = None if destination is None else script_of_address(network, destination)
    except InvalidAddress:
        script = None  # a ``txid:n``
    return SendRow(
        txid_of(member(row, "tx_hash", str)),
        whole(row, "tx_index"),
        member(row, "send_type", str),
        member(row, "status", str),
        number,
        script,
        whole(row, "quantity"),
    )

"""Answer clients without a node what protocol 3 asks beside the chain: the ledger's sends, and packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from picopayments_cli.chain.answers import txid_to_broadcast
from picopayments_cli.chain.packages import LedgerChain, PackageNode
from picopayments_cli.channel.counterparty import asset_name
from picopayments_cli.channel.facts import SendRow
from picopayments_cli.channel.networks import Network, address_of_script
from picopayments_cli.channel.values import from_hex
from picopayments_cli.errors import InvalidParams, UnknownMethod
from picopayments_cli.hub2 import proxy
from picopayments_cli.hub2.proxy import MAX_TRANSACTION, Method

MAX_PACKAGE = 2  # transactions: a parent and its child


@dataclass(frozen=True)
class Nodes(proxy.Nodes):
    """Where the answers come from."""

    chain: LedgerChain
    bitcoin: PackageNode


class Proxy(proxy.Proxy):
    """The methods, with those of protocol 3 among them."""

    def __init__(
        self, network: Network, nodes: Nodes, fee_rate: Callable[[], int], after: Callable[[], object]
    ) -> None:
        """``fee_rate``: the estimate in sat/vB; ``after`` runs when a call may have made a block on regtest."""
        super().__init__(network, nodes, fee_rate, after)
        self._nodes = nodes

    def methods(self) -> dict[str, Method]:
        """Return the methods on offer."""
        return {**super().methods(), "get_sends": self.get_sends, "submitpackage": self.submitpackage}

    def get_sends(self, filters: Any = ()) -> list[dict[str, Any]]:
        """Return the ledger's confirmed sends to one address, valid or not, without those that it could not read."""
        rows = self._nodes.chain.sends_to(self._network, self._destination(filters))
        return [_send_shown(self._network, row) for row in rows]

    def _destination(self, filters: Any) -> str:
        """Read the one filter that there must be."""
        found = filters[0] if isinstance(filters, list) and len(filters) == 1 else filters
        if not isinstance(found, Mapping) or found.get("field") != "destination" or found.get("op") not in ("=", "=="):
            raise InvalidParams('get_sends needs one filter {"field": "destination", "op": "==", "value": ADDRESS}.')
        return self._address(found.get("value"))

    def submitpackage(self, package: Any) -> dict[str, Any]:
        """Hand a parent and its child, or one transaction, to the network; Core's answer. Raises BroadcastRefused."""
        if not isinstance(package, list) or not 1 <= len(package) <= MAX_PACKAGE:
            raise InvalidParams(f"package must be a list of 1 to {MAX_PACKAGE} transactions.", limit=MAX_PACKAGE)
        raws = [from_hex(text, "transaction") for text in package]
        if any(len(raw) > MAX_TRANSACTION for raw in raws):
            raise InvalidParams(f"A transaction has at most {MAX_TRANSACTION} bytes.", limit=MAX_TRANSACTION)
        for raw in raws:
            txid_to_broadcast(raw)
        try:
            answer = self._nodes.bitcoin.package(raws)
        except UnknownMethod as error:
            raise UnknownMethod("The hub's node takes no packages.", call="submitpackage") from error
        if self._network.name == "regtest":
            self._after()  # the node may have mined it at once
        return answer


def _send_shown(network: Network, row: SendRow) -> dict[str, Any]:
    return {
        "tx_hash": row.txid[::-1].hex(),
        "tx_index": row.number,
        "send_type": row.send_type,
        "status": row.status,
        "asset": asset_name(row.asset_id),
        "destination": None if row.destination is None else address_of_script(network, row.destination),
        "quantity": row.quantity,
    }

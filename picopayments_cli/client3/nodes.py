"""What protocol 3 asks of a node beside a view: the ledger's sends, the mempool's entries, packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from picopayments_cli.chain import Chain
from picopayments_cli.chain.answers import member, members, satoshis_of, txid_of, txid_to_broadcast, whole
from picopayments_cli.channel.counterparty import asset_id
from picopayments_cli.channel.networks import Network, address_of_script, script_of_address
from picopayments_cli.channel3.facts import SendRow
from picopayments_cli.channel3.fees import FeeFrac
from picopayments_cli.errors import BroadcastRefused, InvalidAddress, NodeRefused, UnknownMethod
from picopayments_cli.rpc import RestClient, RpcClient

_LIMIT = 1000
_NOT_FOUND = -5


@dataclass(frozen=True)
class Waiting:
    """A transaction in the mempool: its own fee and size, and what spends outputs of it."""

    feefrac: FeeFrac
    children: tuple[bytes, ...]


class Nodes(Protocol):
    """Whoever answers: one's own nodes, or the hub."""

    packages: bool

    def sends(self, script: bytes) -> tuple[SendRow, ...]:
        """The ledger's sends to a scriptPubKey, confirmed ones."""

    def waiting(self, txids: Sequence[bytes]) -> dict[bytes, Waiting]:
        """Those that are in the mempool, where somebody says so."""

    def submit(self, raws: Sequence[bytes]) -> tuple[bytes, ...]:
        """Hand a parent and its child to the network; the txids that are taken. Raises BroadcastRefused."""


class OwnNodes:
    """A Counterparty node and, where there is one, a Bitcoin node of one's own."""

    def __init__(self, chain: Chain, rest: RestClient, network: Network, bitcoin: RpcClient | None) -> None:
        self.packages = bitcoin is not None
        self._chain, self._rest, self._network, self._bitcoin = chain, rest, network, bitcoin

    def sends(self, script: bytes) -> tuple[SendRow, ...]:
        """The ledger's sends to a scriptPubKey. Raises NodeUnreachable, BadAnswer, NodeRefused."""
        path = f"v2/addresses/{address_of_script(self._network, script)}/receives"
        rows: list[SendRow] = []
        cursor: dict[str, str | int] = {}
        while True:
            answer = self._rest.rest_get(path, {"limit": _LIMIT, **cursor})
            rows += _rows(self._network, answer.get("result"))
            following = answer.get("next_cursor")
            if not isinstance(following, (int, str)) or {"cursor": following} == cursor:
                return tuple(rows)
            cursor = {"cursor": following}

    def waiting(self, txids: Sequence[bytes]) -> dict[bytes, Waiting]:
        """What the Bitcoin node's mempool says of them."""
        if self._bitcoin is None:
            return {}
        found = {}
        for txid in txids:
            try:
                entry = self._bitcoin.call("getmempoolentry", [txid[::-1].hex()], retry=True)
            except NodeRefused as error:
                if error.data.get("code") != _NOT_FOUND:
                    raise
                continue
            fee = int(satoshis_of(member(member(entry, "fees", dict), "base", (int, float))))
            children = tuple(map(txid_of, member(entry, "spentby", list)))
            found[txid] = Waiting(FeeFrac(fee, whole(entry, "vsize", 1)), children)
        return found

    def submit(self, raws: Sequence[bytes]) -> tuple[bytes, ...]:
        """By a package where the Bitcoin node takes one, else one after the other. Raises BroadcastRefused."""
        if self._bitcoin is None or len(raws) < 2:
            return _one_by_one(self._chain, raws)
        return _taken(self._bitcoin.call("submitpackage", [[raw.hex() for raw in raws]], retry=True), raws)


class HubNodes:
    """The hub, which asks its nodes."""

    packages = False  # a hub that is silent raises nothing

    def __init__(self, chain: Chain, rpc: RpcClient, network: Network) -> None:
        self._chain, self._rpc, self._network = chain, rpc, network

    def sends(self, script: bytes) -> tuple[SendRow, ...]:
        """The ledger's sends to a scriptPubKey, by the hub's word. Raises HubUnreachable, BadAnswer."""
        wanted = {"field": "destination", "op": "==", "value": address_of_script(self._network, script)}
        rows = self._rpc.call("get_sends", {"filters": [wanted]}, retry=True)
        return tuple(_rows(self._network, rows))

    def waiting(self, txids: Sequence[bytes]) -> dict[bytes, Waiting]:
        """Nothing: the hub does not say."""
        return {}

    def submit(self, raws: Sequence[bytes]) -> tuple[bytes, ...]:
        """By the hub's node as a package, where it offers that, else one after the other. Raises BroadcastRefused."""
        if len(raws) < 2:
            return _one_by_one(self._chain, raws)
        try:
            answer = self._rpc.call("submitpackage", {"package": [raw.hex() for raw in raws]}, retry=True)
        except UnknownMethod:
            return _one_by_one(self._chain, raws)
        return _taken(answer, raws)


def _one_by_one(chain: Chain, raws: Sequence[bytes]) -> tuple[bytes, ...]:
    """A child may lift a parent that is refused alone only as a package; the parent that is taken counts."""
    taken: list[bytes] = []
    for raw in raws:
        try:
            taken.append(chain.broadcast(raw))
        except BroadcastRefused:
            if not taken:
                raise
    return tuple(taken)


def _taken(answer: Any, raws: Sequence[bytes]) -> tuple[bytes, ...]:
    """The transactions of a package that the mempool has now. Raises BroadcastRefused where it has none."""
    results: Mapping[str, Any] = member(answer, "tx-results", dict)
    told = {member(item, "txid", str): member(item, "error", str, None) for item in results.values()}
    txids = [txid_to_broadcast(raw) for raw in raws]
    taken = tuple(txid for txid in txids if told.get(txid[::-1].hex(), "unknown") is None)
    if not taken:
        reason = next(filter(None, told.values()), None) or member(answer, "package_msg", str)
        raise BroadcastRefused(f"The node refused the transactions: {reason}", txid=txids[0][::-1].hex(), reason=reason)
    return taken


def _rows(network: Network, items: Any) -> list[SendRow]:
    """The rows of the ledger's sends, without those of which it could not read the asset or the quantity.

    A destination that is no address (a ``txid:n``) is none.
    """
    found = []
    for item in members(items, "sends"):
        if member(item, "asset", str, None) is None or member(item, "quantity", int, None) is None:
            continue  # a stranger's void message
        destination = member(item, "destination", str, None)
        try:
            script = None if destination is None else script_of_address(network, destination)
        except InvalidAddress:
            script = None
        found.append(
            SendRow(
                txid_of(member(item, "tx_hash", str)),
                whole(item, "tx_index"),
                member(item, "send_type", str),
                member(item, "status", str),
                asset_id(item["asset"]),
                script,
                whole(item, "quantity"),
            )
        )
    return found

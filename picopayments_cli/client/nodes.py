"""Ask nodes for more than a view: the ledger's sends, the mempool's entries, packages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from picopayments_cli.chain import Chain, Waiting
from picopayments_cli.chain.answers import member, members, package_fault, send_rows, txid_to_broadcast
from picopayments_cli.chain.hub import only_of_the_chain
from picopayments_cli.channel.facts import SendRow
from picopayments_cli.channel.networks import Network, address_of_script
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.errors import BroadcastRefused, UnknownMethod
from picopayments_cli.rpc import RpcClient

if TYPE_CHECKING:  # a client that sees the chain by its hub loads neither
    from picopayments_cli.chain.bitcoin import BitcoinNode
    from picopayments_cli.chain.node import NodeChain

_OUTPUTS = 3  # of a channel's transactions, at most


class Nodes(Protocol):
    """The answering side: one's own nodes, or the hub."""

    packages: bool

    def sends(self, script: bytes) -> tuple[SendRow, ...]:
        """The ledger's sends to a scriptPubKey, confirmed ones."""

    def waiting(self, txids: Sequence[bytes]) -> dict[bytes, Waiting]:
        """Those that are in the mempool, where somebody says so."""

    def spent(self, outpoints: Collection[Outpoint]) -> set[Outpoint]:
        """Those that something spends or that don't exist, the mempool included, where somebody but a list says so."""

    def has(self, txid: bytes) -> bool:
        """Whether a Bitcoin node of one's own shows a transaction."""

    def submit(self, raws: Sequence[bytes]) -> tuple[bytes, ...]:
        """Hand a parent and its child to the network; the txids that are taken. Raises BroadcastRefused."""

    def check_current(self, now: float) -> None:
        """Refuse a ledger that stands, where only its own heights tell. Raises NodeBehind."""

    @property
    def bitcoin(self) -> BitcoinNode | None:
        """A Bitcoin node of one's own."""


class OwnNodes:
    """A Counterparty node and, where there is one, a Bitcoin node of one's own."""

    def __init__(self, chain: NodeChain, network: Network, bitcoin: BitcoinNode | None) -> None:
        self.packages = bitcoin is not None
        self._chain, self._network, self._bitcoin = chain, network, bitcoin

    @property
    def bitcoin(self) -> BitcoinNode | None:
        """The Bitcoin node, where there is one."""
        return self._bitcoin

    def check_current(self, now: float) -> None:
        """Refuse a ledger that stands. A Bitcoin node's height is compared with the ledger's in each view anyway."""
        if self._bitcoin is None:
            self._chain.check_current(now)

    def sends(self, script: bytes) -> tuple[SendRow, ...]:
        """The ledger's sends to a scriptPubKey. Raises NodeUnreachable, BadAnswer, NodeRefused."""
        return self._chain.sends_to(str(address_of_script(self._network, script)))

    def waiting(self, txids: Sequence[bytes]) -> dict[bytes, Waiting]:
        """Those that are in the Bitcoin node's mempool."""
        if self._bitcoin is None:
            return {}
        found = {txid: self._bitcoin.waiting(txid) for txid in txids}
        return {txid: waiting for txid, waiting in found.items() if waiting is not None}

    def spent(self, outpoints: Collection[Outpoint]) -> set[Outpoint]:
        """Those that the Bitcoin node does not have any more, whose word counts more than an address index's."""
        if self._bitcoin is None:
            return set()
        return set(outpoints) - self._bitcoin.unspent(outpoints)

    def has(self, txid: bytes) -> bool:
        """Whether the Bitcoin node shows a transaction, in its mempool or by an output that nothing spends."""
        if self._bitcoin is None:
            return False
        outputs = [Outpoint(txid, number) for number in range(_OUTPUTS)]
        return self._bitcoin.waiting(txid) is not None or bool(self._bitcoin.unspent(outputs, mempool=False))

    def submit(self, raws: Sequence[bytes]) -> tuple[bytes, ...]:
        """By a package where the Bitcoin node takes one, else one after the other. Raises BroadcastRefused."""
        if self._bitcoin is None or len(raws) < 2:
            return _one_by_one(self._chain, raws)
        return _taken(self._bitcoin.package(raws), raws)


class HubNodes:
    """The hub, which asks its nodes."""

    packages = False  # a hub that is silent raises nothing
    bitcoin = None

    def __init__(self, chain: Chain, rpc: RpcClient, network: Network) -> None:
        self._chain, self._rpc, self._network = chain, rpc, network

    def check_current(self, now: float) -> None:
        """Nothing: the hub is believed, which does not say when its last block was."""

    def sends(self, script: bytes) -> tuple[SendRow, ...]:
        """The ledger's sends to a scriptPubKey, by the hub's word. Raises HubUnreachable, BadAnswer."""
        wanted = {"field": "destination", "op": "==", "value": address_of_script(self._network, script)}
        with only_of_the_chain():
            rows = self._rpc.call("get_sends", {"filters": [wanted]}, retry=True)
        return send_rows(self._network, members(rows, "sends"))

    def waiting(self, txids: Sequence[bytes]) -> dict[bytes, Waiting]:
        """Nothing: the hub does not say."""
        return {}

    def spent(self, outpoints: Collection[Outpoint]) -> set[Outpoint]:
        """None: the hub does not say."""
        return set()

    def has(self, txid: bytes) -> bool:
        """Not known: the hub does not say."""
        return False

    def submit(self, raws: Sequence[bytes]) -> tuple[bytes, ...]:
        """By the hub's node as a package, where it offers that, else one after the other. Raises BroadcastRefused."""
        if len(raws) < 2:
            return _one_by_one(self._chain, raws)
        try:
            with only_of_the_chain():
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
        reason = package_fault(answer)
        raise BroadcastRefused(f"The node refused the transactions: {reason}", txid=txids[0][::-1].hex(), reason=reason)
    return taken

"""One hub: all that its methods and chores work on."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from enum import Enum
from queue import SimpleQueue

from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.counterparty import asset_id, asset_name, p2pkh
from picopayments_cli.channel.networks import Network, address_of_script
from picopayments_cli.channel.values import Handle, Outpoint, hash160
from picopayments_cli.channel2.keys import Key
from picopayments_cli.errors import NodeUnreachable, PicopaymentsError
from picopayments_cli.hub2.book import Book
from picopayments_cli.hub2.database import Database
from picopayments_cli.hub2.follower import Follower
from picopayments_cli.hub2.terms import Offer
from picopayments_cli.rpc import RpcClient

log = logging.getLogger(__name__)


class Ask(Enum):
    """When the rounds are to look at a connection."""

    NOW = "now"
    LATER = "later"  # after a while: something failed
    LEAVING = "leaving"  # at each block: it closes once its client has fetched what waits


@dataclass(frozen=True)
class Urls:
    """Where the hub's nodes are: Counterparty Core's API, and Bitcoin Core's JSON-RPC."""

    chain: str = field(repr=False)  # either may have a password in it
    bitcoin: str = field(repr=False)


class Hub:
    """One hub, with all that its methods and chores work on."""

    def __init__(self, network: Network, key: Key, offer: Offer, database: Database, urls: Urls) -> None:
        self.network = network
        self.key = key
        self.script = p2pkh(hash160(key.pubkey))
        self.address = str(address_of_script(network, self.script))
        self.offer = offer
        self.database = database
        self.book = Book(database)
        # Of commits to clients, in blocks: so the hub can punish one again whose punishment a reorganisation took away.
        self.delay = 2 * network.safe_depth
        self.bitcoin = BitcoinNode(urls.bitcoin)
        self.chain = NodeChain(urls.chain, network)
        self.node = RpcClient(urls.chain.rstrip("/") + "/v1/", unreachable=NodeUnreachable)
        self.chain_url = self.node.url.removesuffix("v1/")  # without credentials
        self.follower = Follower(database, self.bitcoin, network)
        self.longnames: dict[str, str | None] = {}  # of the numbered assets that ``longname`` has found: they stay
        self.draining = False  # no new connections; those that are open are closed
        self.asked: SimpleQueue[tuple[Ask, Handle]] = SimpleQueue()  # put there by any thread, taken by the rounds'
        self.woken = threading.Event()
        self.spending = threading.Lock()  # held from the choice of the wallet's coins until they are in ``spent``
        self.spent: set[Outpoint] = set()  # coins of the wallet that are spent, while the index may not know it
        self.plain: set[Outpoint] = set()  # coins of the wallet that the ledger says no assets are attached to
        self.attached: set[Outpoint] = set()  # and those that it says have some: never spent

    def longname(self, asset: str) -> str | None:
        """The long name of a subasset, for showing; None where it has none, or the node can't tell now."""
        if asset.startswith("A") and asset not in self.longnames:
            try:
                self.longnames[asset] = self.chain.asset(asset_name(asset_id(asset))).longname
            except PicopaymentsError:
                return None
        return self.longnames.get(asset)

    def broadcast(self, raw: bytes, label: str) -> None:
        """Hand one of the hub's own transactions to the network; ``label`` names it. Raises as ``Chain.broadcast``."""
        txid = self.chain.broadcast(raw)
        log.debug("broadcast", extra={"fields": {"label": label, "txid": txid[::-1].hex()}})

    def ask(self, when: Ask, handle: Handle) -> None:
        """Ask the rounds to look at a connection; from any thread."""
        self.asked.put((when, handle))

    def wake(self) -> None:
        """Let the next round begin soon."""
        self.woken.set()

"""One hub: what it owns, and the thread that follows the chain and does the chores."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from picopayments_cli.chain import Query
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.counterparty import asset_id, asset_name, p2pkh
from picopayments_cli.channel.errors import (
    InsufficientBitcoin,
    InsufficientFunds,
    MemoRequired,
    NodeUnreachable,
    PicopaymentsError,
    UnknownMethod,
)
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import Network, address_of_script
from picopayments_cli.channel.values import Handle, Outpoint, hash160
from picopayments_cli.hub.book import AGREED, OPEN, Book
from picopayments_cli.hub.database import Database, meta_get, meta_set
from picopayments_cli.hub.follower import Follower
from picopayments_cli.hub.terms import Offer
from picopayments_cli.rpc import RpcClient

log = logging.getLogger(__name__)

PASS_SECONDS = 1.0
REGTEST_PASS_SECONDS = 0.2
GATHER_SECONDS = 0.1  # that a round waits for more to do once it is called: a busy hub is asked for one all the time
MAX_PASS_SECONDS = 30.0
STOP_SECONDS = 10
WALLET = "wallet"  # the kind of script that the hub's own address is
_FUNDED = "funded by the faucet"
_FUNDS_COINS, _FUNDS_SATOSHIS, _FUNDS_XCP = 20, 50_000_000, 1_000_000_000_000


def _do_nothing() -> None:
    """What a hub does that nobody asked to end."""


def _note_nothing(_at_once: bool) -> None:
    """What a hub notes of what it writes that nobody gave a place for it."""


@dataclass
class Agenda:
    """What the next round of chores has to look at; in memory, since the first round looks at everything."""

    tip: int | None = None  # that the last round looked at
    handles: set[Handle] = field(default_factory=set)  # besides what the chain brings
    later: set[Handle] = field(default_factory=set)  # what failed, and is tried again after a while
    rounds: int = 0
    unchecked: deque[Handle] = field(default_factory=deque)  # connections with hashes whose address is to be looked at
    leaving: set[Handle] = field(default_factory=set)  # what closes once its client has fetched what waits
    spent: set[Outpoint] = field(default_factory=set)  # coins of the wallet that this round has used


@dataclass(frozen=True)
class Urls:
    """Where the hub's nodes are: Counterparty Core's API, and Bitcoin Core's JSON-RPC."""

    chain: str = field(repr=False)  # either may have a password in it
    bitcoin: str = field(repr=False)


class Hub:
    """One hub, with all that its methods and chores work on. ``once`` is one round of following and chores."""

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
        self._looked_at = -1  # the height of the last look at the wallet's assets
        self.longnames: dict[str, str | None] = {}  # of the numbered assets that ``longname`` has found: they stay
        self.draining = False  # no new connections; those that are open are closed
        self.when_drained: Callable[[], None] = _do_nothing  # called once none is left then
        self.note: Callable[[bool], None] = _note_nothing  # called after each round, and with True at the end
        self.agenda = Agenda()
        self._passing = threading.RLock()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def prepare(self) -> None:
        """What comes before the first request: the chain read, the wallet watched, on regtest funded.

        Raises NodeUnreachable and its kind, InvalidSetting for terms of what is no asset.
        """
        self.follower.catch_up()
        self.follower.import_address(self.chain, self.address, WALLET)
        try:
            self.chain.view(Query(options=[self.address])).check_takes_sends(self.address)
        except MemoRequired as error:  # what is open goes on, what is new is refused
            log.error(error.message)
        self.offer.resolve(self.chain)
        with self.book.transaction("offer") as work:
            used = {work.get(handle).asset for handle in work.in_stage(AGREED, OPEN)}
        if self.network.name == "regtest":
            self._fund()
            self.offer.include(used)
        for asset in (*self.offer.assets, *used):
            self.longname(asset)

    def _fund(self) -> None:
        """Let the regtest node's faucet fund the wallet, once, with coins enough for many transactions at a time."""
        with self.database.reading() as connection:
            if meta_get(connection, _FUNDED) is not None:
                return
        try:
            for _ in range(_FUNDS_COINS):
                self.node.call("faucet", {"address": self.address, "btc": _FUNDS_SATOSHIS}, retry=False)
            self.node.call("faucet", {"address": self.address, "asset": "XCP", "quantity": _FUNDS_XCP}, retry=False)
            self.node.call("generate", {"blocks": 1}, retry=False)
        except (InsufficientBitcoin, InsufficientFunds, UnknownMethod) as error:  # a node of another make, or many hubs
            log.warning("not funded", extra={"fields": {"address": self.address}}, exc_info=error)
        with self.database.transaction("funded") as connection:
            meta_set(connection, _FUNDED, "yes")
        self.follower.catch_up()

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

    def once(self) -> None:
        """Follow the chain to its tip, then do every chore once. Raises what either raises."""
        from picopayments_cli.hub import chores

        with self._passing:
            self._offer_holdings(self.follower.catch_up())
            chores.run(self)
            self.note(False)

    def _offer_holdings(self, height: int) -> None:
        """On regtest, offer what the wallet holds; looked at once in each block."""
        if self.network.name != "regtest" or height == self._looked_at:
            return
        held = self.chain.view(Query(balances=[self.address])).balances[self.address]
        found = [asset for asset, quantity in held.items() if quantity and asset != "BTC"]
        self.offer.include(found)
        for asset in found:
            self.longname(asset)
        self._looked_at = height

    def wake(self) -> None:
        """Let the next round begin soon."""
        self._wake.set()

    def start(self) -> None:
        """Do ``round`` over and over in a thread, until ``stop``."""
        self._thread = threading.Thread(target=self._work, name="chores", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, which finishes the round under way, and close the database."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
        self.note(True)
        self.database.close()

    def round(self) -> bool:
        """Do ``once``; a failure is logged, and the answer is False: the next round may succeed."""
        try:
            self.once()
        except Exception as error:
            level = logging.WARNING if isinstance(error, PicopaymentsError) else logging.ERROR
            log.log(level, "round failed", exc_info=error)
            return False
        return True

    def _work(self) -> None:
        usual = REGTEST_PASS_SECONDS if self.network.name == "regtest" else PASS_SECONDS
        pause = usual
        while not self._stop.is_set():
            if self._wake.wait(pause):
                self._stop.wait(GATHER_SECONDS)
            self._wake.clear()
            if self._stop.is_set():
                return
            pause = usual if self.round() else min(2 * pause, MAX_PASS_SECONDS)

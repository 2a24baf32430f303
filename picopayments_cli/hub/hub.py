"""One hub: all that its methods and chores work on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from queue import SimpleQueue

from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.counterparty import asset_id, asset_name, p2pkh
from picopayments_cli.channel.deadlines import Expiry
from picopayments_cli.channel.drafts import DUST
from picopayments_cli.channel.fees import FeeFrac, Shape, may_take
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.networks import Network, address_of_script
from picopayments_cli.channel.opening import Party
from picopayments_cli.channel.rates import Bounds, Rate, believed
from picopayments_cli.channel.reserve import Reserve, reserve_for
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.transactions import CHILD_SIZE, COMMIT_SIZE, Contract
from picopayments_cli.channel.values import Coin, Handle, Outpoint
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.hub.book import Book
from picopayments_cli.hub.database import Database, meta_get, meta_set
from picopayments_cli.hub.follower import Follower
from picopayments_cli.hub.marks import Marks
from picopayments_cli.hub.sharing import Sharing, Told
from picopayments_cli.hub.terms import Offer
from picopayments_cli.rpc import controls_of

log = logging.getLogger(__name__)

FRESH_SECONDS = 10.0  # that the last look at the chain may be old where something new is signed
BOUNDS = Bounds(1, 100)  # sat/vB
RESERVE_COINS = 10  # closes that can be under way at a time
MARKS_SEEN = "marks seen"  # how much of them, by this database
_LAST_RATE = "last good fee rate"


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


@dataclass(frozen=True)
class Wallet:
    """The hub's wallet as the nodes showed it: confirmed coins without assets, and ``home`` (see ``Case``).

    ``assets``: what it holds, on regtest.
    """

    coins: tuple[Coin, ...] = ()
    home: bool = True
    assets: tuple[str, ...] = ()


class Hub:
    """One hub, with all that its methods and chores work on.

    Where several processes share its database, ``follows`` is true in the one that follows the chain and does the
    chores. The others ``hear`` from it what it has seen.
    """

    def __init__(
        self, network: Network, key: Key, offer: Offer, database: Database, urls: Urls, marks_path: Path
    ) -> None:
        self.network = network
        self.key = key
        self.script = p2pkh(key.pubkey_hash)
        self.address = str(address_of_script(network, self.script))
        self.offer = offer
        self.database = database
        self.sharing = Sharing(database)
        self.follows = not self.sharing.on
        self._hearing = threading.Lock()
        self._terms_version = 0  # of what is on offer here
        self._terms_told = offer.members
        self.book = Book(database)
        with database.reading() as db:
            self.marks = Marks(marks_path, meta_get(db, MARKS_SEEN))
        # Of commits to clients, in blocks: so the hub can punish one again whose punishment a reorganisation took away.
        self.delay = 2 * network.safe_depth
        self.bounds = BOUNDS
        self.fresh_seconds = FRESH_SECONDS
        self.bitcoin = BitcoinNode(urls.bitcoin)
        self.chain = NodeChain(urls.chain, network, bitcoin=self.bitcoin)
        self.chain_url = self.chain.url
        self.controls = controls_of(urls.chain)  # of a regtest network
        self.follower = Follower(database, self.bitcoin)
        with database.reading() as db:
            kept = meta_get(db, _LAST_RATE)
        self._last_rate = None if kept is None else int(kept)
        self.rate: Rate = believed(None, self._last_rate, None, self.bounds)
        self.longnames: dict[str, str | None] = {}  # of the numbered assets that ``longname`` has found: they stay
        self.proven: set[tuple[Outpoint, int]] = set()  # the wallet's coins with values that were looked up
        self.wallet = Wallet()  # as of the last look
        self.draining = False  # no new connections; those that are open are closed
        self.asked: SimpleQueue[tuple[Ask, Handle]] = SimpleQueue()  # put there by any thread, taken by the rounds'
        self.woken = threading.Event()

    def party(self, secrets: Secrets) -> Party:
        """The hub's keys and wallet in a connection."""
        return Party(secrets.payer.xonly, secrets.payee.xonly, self.script)

    def terms(self, asset: str) -> Terms | None:
        """The terms of an asset now; None where it is not offered."""
        return self.offer.terms(asset, self.rate, self.bounds)

    @property
    def reserve(self) -> Reserve:
        """Return what the wallet keeps at least."""
        return self.reserve_of(0)

    def reserve_of(self, connections: int) -> Reserve:
        """Return what the wallet keeps for what can't wait: closes, and cheats on so many connections at once.

        In a block a coin pays for one punishment, so that these must be over in half of the delay. The coins are
        doubled when they are too few: what opens connections waits for them.
        """
        coins = RESERVE_COINS
        while 2 * connections > coins * self.delay:
            coins *= 2
        return reserve_for(coins, FeeFrac(COMMIT_SIZE, COMMIT_SIZE), CHILD_SIZE, self.bounds, DUST)

    def may_take(self, contract: Contract, expiry: Expiry) -> bool:
        """Whether a commit of a contract could be raised now, and all blocks for that are left."""
        commit = FeeFrac(COMMIT_SIZE * contract.rate, COMMIT_SIZE)
        shape = Shape(CHILD_SIZE, self.reserve.each - DUST)
        left = expiry.left(self.follower.height or 0)
        return may_take(commit, shape, self.rate, self.bounds, left=left, span=expiry.margin, packages=True)

    def read_rate(self) -> None:
        """Ask the node for its estimate, and keep it for the time when there is none."""
        estimate = self.bitcoin.estimate()
        self.rate = believed(estimate, self._last_rate, None, self.bounds)
        if not self.rate.guess and self.rate.value != self._last_rate:
            self._last_rate = self.rate.value
            with self.database.transaction("fee rate") as db:
                meta_set(db, _LAST_RATE, str(self.rate.value))

    def submit(self, raws: Sequence[bytes]) -> None:
        """Publish the hub's own transactions, unless another hub has taken over. Raises as ``BitcoinNode.submit``."""
        self.database.confirm()
        self.bitcoin.submit(raws)

    def longname(self, asset: str) -> str | None:
        """The long name of a subasset, for showing; None where it has none, or the node can't tell now."""
        if asset.startswith("A") and asset not in self.longnames:
            try:
                self.longnames[asset] = self.chain.asset(asset_name(asset_id(asset))).longname
            except PicopaymentsError:
                return None
        return self.longnames.get(asset)

    def ask(self, when: Ask, handle: Handle) -> None:
        """Ask the rounds to look at a connection; from any thread."""
        if self.follows:
            self.asked.put((when, handle))
        else:
            self.sharing.ask(handle)

    def wake(self) -> None:
        """Let the next round begin soon."""
        self.woken.set()

    # With other processes on the database ----------------------------------------------------------------------------

    def hear(self) -> Told | None:
        """Take over what other processes have changed; None where there are none. Raises DatabaseUnusable."""
        if not self.sharing.on:
            return None
        with self._hearing:
            told = self.sharing.read()
            if not self.follows:
                self.follower.height, self.follower.seen_at, self.rate = told.height, told.seen_at, told.rate
            self.draining = told.draining
            if told.terms_version != self._terms_version:
                members, self._terms_version = self.sharing.terms()
                self._terms_told = members
                self.offer = self.offer.changed(members)
        return told

    def tell_seen(self) -> None:
        """Tell the other processes what this one, which follows the chain, has seen."""
        if self.sharing.on and self.follower.height is not None:
            self.sharing.tell_seen(self.follower.seen_at, self.follower.height, self.rate)

    def drain(self) -> None:
        """Take no new connections from now on, in any process."""
        self.draining = True
        if self.sharing.on:
            self.sharing.tell_draining(True)

    def put_on_offer(self, offer: Offer) -> None:
        """Offer something else from now on, in all processes."""
        with self._hearing:
            if self.sharing.on:
                self._terms_version = self.sharing.tell_terms(offer.members) or self._terms_version
                self._terms_told = offer.members
            self.offer = offer

    def tell_terms(self) -> None:
        """Tell the other processes what has come onto the offer since, unless another one has changed it."""
        with self._hearing:
            members = self.offer.members
            if not self.sharing.on or members == self._terms_told:
                return
            version = self.sharing.tell_terms(members, self._terms_version)
            if version is not None:
                self._terms_version, self._terms_told = version, members

"""A chain whose miner can be bribed, and on it one connection of a party that cheats with an honest one."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
from bitcoin.core import CBlock, CTransaction
from channel_support import finish_commit, finish_payout
from regtest_support import NodeProcess, address_of
from starlette.routing import Route

from faults.result import Result
from picopayments_cli.chain import Query
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.coins import pay
from picopayments_cli.channel.drafts import DUST, Draft, Output
from picopayments_cli.channel.duplex import Duplex, Half
from picopayments_cli.channel.halves import Commit
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.signing import finish_alone, finish_wallet
from picopayments_cli.channel.state import Receiving, Sending, Signed, known_anchor
from picopayments_cli.channel.transactions import (
    child_shape,
    compose_commit,
    compose_payout,
    expire_shape,
)
from picopayments_cli.channel.values import Coin
from picopayments_cli.errors import BroadcastRefused, PicopaymentsError
from picopayments_cli.regtest.node import BlockRefused, Node
from picopayments_cli.regtest.server import create_app
from picopayments_cli.rpc import RpcClient
from picopayments_cli.web import JsonRpcEndpoint, WebServer

WAIT = 20.0  # seconds
XCP = 1
DEPTH = 3  # confirmations with which something is final: one more than the deepest reorganisation
DEEPEST = DEPTH - 1
DELAY = 2 * DEPTH
EXPIRE = 40
LAST = EXPIRE + 40  # blocks after which a connection is over, whatever its peer does
Chore = Callable[[], object]
Change = Callable[[Any, Half], Half]  # what a duel's cheat makes of a half of a sync


class BribedNode(NodeProcess):
    """The regtest node in this process, with a miner that mines whatever it is paid for."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/"
        self.session = requests.Session()
        self._miner = RpcClient(f"{url}/miner/")

    def mine_exactly(self, *raws: bytes) -> None:
        """Mine a block of exactly these transactions. Raises BroadcastRefused where consensus forbids it."""
        self._miner.call("mine", {"raws": [raw.hex() for raw in raws]}, retry=False)


@contextlib.contextmanager
def bribed_node(folder: Path) -> Iterator[BribedNode]:
    """Such a node for the length of a ``with`` block, in a thread of its own."""
    servers: queue.Queue[WebServer] = queue.Queue()
    ready: queue.Queue[str] = queue.Queue()

    def run() -> None:
        node = Node(folder, 0)
        app = create_app(node)

        def mine(raws: list[str]) -> str:
            try:
                return node.mine([bytes.fromhex(raw) for raw in raws]).hex()
            except BlockRefused as error:
                raise BroadcastRefused(str(error)) from error

        app.router.routes.append(
            Route("/miner/", JsonRpcEndpoint({"mine": mine}, max_bytes=20_000_000), methods=["POST"])
        )
        server = WebServer(app)
        servers.put(server)
        try:
            server.run(ready.put)
        finally:
            node.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield BribedNode(ready.get(timeout=WAIT))
    finally:
        servers.get(timeout=WAIT).stop()
        thread.join(WAIT)


class Duel(ABC):
    """One connection of a party that cheats with an honest one, which must not lose what is guaranteed to it.

    What is abstract the two ways differ in: who is the hub. Quantities are the asset's; ``stake`` is each deposit's.
    """

    secrets: Secrets
    key: Key
    script: bytes  # the cheat's wallet
    honest: bytes  # the honest party's wallet
    received: list[Commit]  # by the cheat: all of them
    stake: int
    used_hash: bytes  # of the honest party's, that had its commit

    def __init__(self, node: BribedNode, rng: random.Random, result: Result) -> None:
        self.node, self.rng, self.result = node, rng, result
        self.chain = NodeChain(node.url, NETWORKS["regtest"])
        self.bitcoin = BitcoinNode(f"{node.url}bitcoin/")
        self.guaranteed: int | None = None

    # The two ways ---------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def duplex(self) -> Duplex:
        """The connection, as the cheat stands in it."""

    @property
    @abstractmethod
    def honests(self) -> Duplex:
        """The connection, as it is on the honest party's disk."""

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether the honest party has closed it."""

    @property
    @abstractmethod
    def honest_deadline(self) -> int:
        """The last height at which the honest party may begin to settle."""

    @property
    @abstractmethod
    def opens(self) -> bool:
        """Whether it is open, for the honest party."""

    @abstractmethod
    def agree(self) -> None:
        """Agree on it; the cheat has deposited nothing yet."""

    @abstractmethod
    def opened(self, deposit: bytes) -> None:
        """Mine until it is open, by this deposit of the cheat's."""

    @abstractmethod
    def open(self) -> None:
        """Open it, and have a peer that answers."""

    @abstractmethod
    def stop(self) -> None:
        """Have the honest party close, with a peer that does not answer."""

    @abstractmethod
    def give(self, quantity: int) -> None:
        """Have the honest party move a quantity to the cheat."""

    @abstractmethod
    def take(self, quantity: int) -> None:
        """Have the cheat move a quantity to the honest party: it gives back what it can."""

    @abstractmethod
    def say(self, changes: Mapping[str, Change]) -> dict[str, str | None]:
        """Have the cheat say its half of one sync with each of these changes, then as it is; what refused each."""

    @abstractmethod
    def answer(self) -> None:
        """Have the cheat answer again."""

    @abstractmethod
    def act(self) -> None:
        """Have the honest party look, and do what it finds right; the cheat answers nothing."""

    # The chain ------------------------------------------------------------------------------------------------------

    def mine(self, blocks: int = 1) -> None:
        """Mine while nobody looks."""
        if blocks > 0:
            self.node.rpc("generate", blocks=blocks)

    def until(self, height: int) -> None:
        """Mine up to a height while nobody looks."""
        self.mine(height - self.tip)

    @property
    def tip(self) -> int:
        """The height."""
        return int(self.node.bitcoin("getblockcount"))

    @property
    def expires(self) -> int:
        """The height from which on deposits go back."""
        return self.duplex.sending.contract.deposit.height

    def reorganise(self, depth: int = DEEPEST) -> None:
        """Replace the last blocks by a longer branch; what they held is forgotten."""
        self.node.rpc("reorganise", depth=depth, forget=True)

    def depth(self, raw: bytes) -> int:
        """The confirmations of a transaction."""
        txid = CTransaction.deserialize(raw).GetTxid()[::-1].hex()
        return int(self.node.bitcoin("getrawtransaction", txid, True)["confirmations"])

    def spike(self, rate: int) -> None:
        """Set what fees are, in sat/vB; when they are high, the mempool takes nothing that pays the least."""
        self.node.rpc("feerate", rate=rate, minimum=1 if rate < 8 else 3)

    def mempool(self) -> list[str]:
        """The txids in the mempool."""
        return list(self.node.bitcoin("getrawmempool"))

    def held(self, script: bytes | None = None, asset: str = "XCP") -> int:
        """What a script holds, by default the honest wallet."""
        address = address_of(script or self.honest)
        return self.chain.view(Query(balances=[address])).balances[address].get(asset, 0)

    def coins(self, script: bytes) -> tuple[Coin, ...]:
        """The confirmed coins of a script."""
        address = address_of(script)
        return tuple(c for c in self.chain.view(Query(coins=[address])).coins[address] if c.height is not None)

    def faucet(self, script: bytes, satoshis: int, asset: str = "XCP", quantity: int = 0) -> None:
        """Have a stranger pay to a script."""
        self.node.rpc("faucet", address=address_of(script), btc=satoshis, asset=asset, quantity=quantity)

    def tries(self, *raws: bytes) -> bool:
        """Whether the network takes a transaction, or a package."""
        try:
            self.bitcoin.submit(raws)
        except BroadcastRefused:
            return False
        return True

    def would_mine(self, *raws: bytes) -> bool:
        """Have the miner mine a block of exactly these; whether consensus allows it."""
        try:
            self.node.mine_exactly(*raws)
        except BroadcastRefused:
            return False
        return True

    # What the cheat makes -------------------------------------------------------------------------------------------

    def commit(self, made: Commit) -> bytes:
        """A commit that it received, ready to be published, revoked or not."""
        side = self.duplex.receiving
        return finish_commit(side.contract, known_anchor(side), made, self.secrets.payee)

    def payout(self, made: Commit) -> bytes:
        """The payout of such a commit."""
        side = self.duplex.receiving
        return finish_payout(side.contract, known_anchor(side), made, self.secrets.payee)

    def drafted(self, made: Commit) -> Draft:
        """Such a commit, unsigned."""
        return drafted(self.duplex.receiving, made)

    def honest_commit(self) -> Draft:
        """The commit that the honest party would publish."""
        side = self.duplex.sending
        return drafted(side, side.active[-1])

    def child(self, parent: Draft, rate: int, index: int = 3) -> bytes:
        """A child of an output, that pays for its parent too; its coin is the wallet's most valuable one."""
        shape, coins = child_shape(parent, index, self.script), self._coin()
        fee = rate * (shape.plus(coins).size + parent.size) - parent.fee
        return finish_wallet(pay(shape, coins, fee), self.key)

    def payout_child(self, made: Commit, rate: int) -> bytes:
        """A child of the payout."""
        side = self.duplex.receiving
        return self.child(compose_payout(side.contract, self.drafted(made), made.revoke_hash), rate, 0)

    def elsewhere(self, rate: int) -> bytes:
        """A payment of the child's coin to itself: it takes the child's place."""
        shape, coins = Draft((), (Output(DUST, self.script),)), self._coin()
        return finish_wallet(pay(shape, coins, rate * shape.plus(coins).size), self.key)

    def expire(self, coins: Sequence[Coin], rate: int) -> bytes:
        """Coins on its deposit's address back to itself."""
        contract, coin = self.duplex.sending.contract, self._coin()
        shape = expire_shape(contract, coins, contract.asset_id)
        draft = pay(shape, coin, rate * shape.plus(coin).size)
        return finish_alone(draft, self.secrets.payer, self.key, None)

    def _coin(self) -> tuple[Coin]:
        return (max(self.coins(self.script), key=lambda coin: (coin.value, coin.outpoint)),)

    def rob(self, *stolen: Commit) -> None:
        """Take whatever the network lets it take: payouts, its deposit. What is stolen is published again, too."""
        for made in stolen:
            if not self.tries(self.commit(made)) and self.rng.random() < 0.3:
                with contextlib.suppress(ValueError):  # no coins are left for it
                    self.tries(self.commit(made), self.child(self.drafted(made), self.rng.choice((5, 35, 60))))
        for made in stolen or self.received:
            self.tries(self.payout(made))
        if self.tip >= self.expires:
            side = self.duplex.sending
            lies = self.coins(side.contract.deposit.output) or ((side.anchor,) if side.anchor else ())
            with contextlib.suppress(ValueError):  # no coins are left for it
                for rate in (3, 50) if lies else ():
                    self.tries(self.expire(lies, rate))

    # What both have done --------------------------------------------------------------------------------------------

    def part(self, least: float, most: float) -> int:
        """A quantity by chance, as a part of a deposit."""
        return self.rng.randint(int(least * self.stake), int(most * self.stake))

    def give_back(self, quantity: int | None = None) -> Commit:
        """The cheat receives by a commit, and gives all that it received back; that commit."""
        self.give(quantity or self.part(0.3, 0.8))
        stolen = max(self.received, key=lambda made: made.quantity)
        self.take(self.duplex.receiving.moved)
        self.result.hold(not self.duplex.receiving.active, "not all is given back: the trial is none")
        return stolen

    def dealt(self) -> Commit:
        """An open connection on which the cheat gave a commit back, and the honest party has received by another."""
        self.open()
        stolen = self.give_back()
        self.take(self.part(0.05, 0.2))
        self.fault()
        return stolen

    def fault(self) -> int:
        """Take note of what is guaranteed, as it is on the honest party's disk now."""
        self.guaranteed = self.honests.guaranteed
        self.result.hold(
            self.guaranteed + self.duplex.guaranteed <= 2 * self.stake, "more is guaranteed than was deposited"
        )
        return self.guaranteed

    # The end --------------------------------------------------------------------------------------------------------

    def settle(self, what: str, also: Chore = bool, last: Chore = bool, spikes: Sequence[int] | None = None) -> None:
        """Mine, with the honest party looking before each block, until its connection is over; then hold the sums.

        The cheat acts before it, ``also``, and behind it, ``last``. ``spikes``: the fee rates of the next blocks.
        """
        rates = [*(self.rng.choices((1, 2, 8, 30, 120), k=self.rng.randrange(12)) if spikes is None else spikes)]
        for _ in range(LAST):
            if self.over:
                break
            self.spike(rates.pop(0) if rates else 1)
            also()
            self.act()
            last()
            self.mine()
        self.result.hold(self.over, f"{what}: the connection is not over")
        guaranteed = self.fault() if self.guaranteed is None else self.guaranteed
        self.result.keep(guaranteed, self.held() - self.had + self.stake, what)
        lost, fees = self._bitcoins()
        self.result.hold(lost <= fees, f"{what}: {lost} satoshis are gone where {fees} were paid as fees")

    def begin(self) -> None:
        """Take note of what the honest party holds before it deposits."""
        self.had, self.begun = self.held(), self.tip

    def _bitcoins(self) -> tuple[int, int]:
        """The satoshis that the honest wallet has lost since, and what deposits and its transactions' fees took."""
        lost = taken = 0
        for height in range(self.begun + 1, self.tip + 1):
            block_hash = self.bitcoin.block_hash(height)
            assert block_hash is not None
            for tx in CBlock.deserialize(self.bitcoin.block(block_hash)).vtx[1:]:
                spent = [self._output(txin.prevout.hash, txin.prevout.n) for txin in tx.vin]
                made = [(out.nValue, bytes(out.scriptPubKey)) for out in tx.vout]
                own = [value for value, script in spent if script == self.honest]
                lost += sum(own) - sum(value for value, script in made if script == self.honest)
                if own:
                    taken += sum(value for value, _ in spent) - sum(value for value, _ in made)
                    taken += sum(value for value, script in made if script[:2] == b"\x51\x20")
        return lost, taken

    def _output(self, txid: bytes, number: int) -> tuple[int, bytes]:
        (raw,) = self.bitcoin.transactions([txid]).values()
        out = CTransaction.deserialize(raw).vout[number]
        return out.nValue, bytes(out.scriptPubKey)


def drafted(side: Sending | Receiving, made: Commit | Signed) -> Draft:
    """A commit, unsigned."""
    return compose_commit(side.contract, known_anchor(side), made.quantity, made.revoke_hash)


def refusal(step: Chore) -> str | None:
    """The name of the error that a step is refused with."""
    try:
        step()
    except PicopaymentsError as error:
        return error.name
    return None

"""A network for cheats: a chain whose miner can be bribed, an honest hub, honest clients, and who has what."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import requests
from cheats import DEPOSIT, Town
from network_support import WAIT, Client, key_in
from regtest_support import NodeProcess, address_of, script_of_key
from servers import json_rpc
from starlette.routing import Route

from faults.cheating_parties import DELAY, EXPIRE, CheatingClient, CheatingHub, shown_secret
from faults.result import Result
from picopayments_cli.chain import Query
from picopayments_cli.channel.stages import CLOSED
from picopayments_cli.channel.values import Height
from picopayments_cli.channel2.state import Commit
from picopayments_cli.config import SAFE_DEPTH
from picopayments_cli.errors import BroadcastRefused, HubDraining
from picopayments_cli.regtest.node import BlockRefused, Node
from picopayments_cli.regtest.server import create_app
from picopayments_cli.rpc import RpcClient
from picopayments_cli.web import JsonRpcEndpoint, WebServer

DEPTH, DEEPEST = 7, 6  # confirmations with which something is final, as on a real network; the deepest reorganisation
METHODS = ("mph_request", "mph_deposit", "mph_sync", "mph_close")
WATCHED, AFTERWARDS = 24, 60  # blocks after a fault in which a cheater acts, and after the deposits expire
PAYEE = "ab" * 32  # of payments that a cheating hub keeps
Chore = Callable[[], object]


class BribedNode(NodeProcess):
    """The regtest node in this process, with a miner that mines whatever it is paid for."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/"
        self.session = requests.Session()
        self._miner = RpcClient(f"{url}/miner/")

    def mine_exactly(self, *raws: bytes) -> None:
        """Mine a block of exactly these transactions. Raises BroadcastRefused where consensus forbids it."""
        self._miner.call("mine", {"raws": [raw.hex() for raw in raws]}, retry=False)

    def would_mine(self, raw: bytes) -> bool:
        """Mine a block of one transaction, if consensus allows it; whether it does."""
        try:
            self.mine_exactly(raw)
        except BroadcastRefused:
            return False
        return True


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

        miner = JsonRpcEndpoint({"mine": mine}, max_bytes=20_000_000)
        app.router.routes.append(Route("/miner/", miner, methods=["POST"]))
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


class CheatNetwork(Town):
    """A town on such a node."""

    def __init__(self, folder: Path, node: BribedNode, rng: random.Random, result: Result) -> None:
        super().__init__(folder, node)
        self.miner = node
        self.rng = rng
        self.result = result
        self._clients = 0

    @property
    def hub_script(self) -> bytes:
        """The scriptPubKey of the honest hub's wallet."""
        return script_of_key(key_in(self.basedir / "hub.regtest.wif"))

    def held(self, script: bytes) -> int:
        """Return what a script holds of the asset."""
        address = address_of(script)
        return self.chain.view(Query(balances=[address])).balances[address].get("XCP", 0)

    def reorganise(self, depth: int) -> None:
        """Replace the last blocks by a longer branch; what they held is forgotten."""
        self.node.rpc("reorganise", depth=depth, forget=True)

    def mined_at(self, txid: str) -> Height | None:
        """The height of the block that holds a transaction; None where none does."""
        found = self.node.bitcoin("getrawtransaction", txid, True)
        confirmations = int(found.get("confirmations", 0))
        return Height(self.height - confirmations + 1) if confirmations else None

    def honest_client(self, hub_url: str) -> Client:
        """A client with funds, that sees the chain by the node."""
        self._clients += 1
        client = Client(self.folder / f"client{self._clients}", hub_url)
        client.basedir.mkdir(parents=True)
        (client.basedir / "regtest.cfg").write_text(json.dumps({"chain_url": self.node.url}))
        client.run("faucet")
        self.mine()
        return client


@contextlib.contextmanager
def running_cheat_network(folder: Path, rng: random.Random, result: Result) -> Iterator[CheatNetwork]:
    """A network for cheats, for the length of a ``with`` block; everybody on it waits as on a real network."""
    with patch.dict(os.environ, {SAFE_DEPTH: str(DEPTH)}), bribed_node(folder / "chain") as node:
        town = CheatNetwork(folder, node, rng, result)
        try:
            yield town
        finally:
            town.stop_hub()


# An honest client and its hub, which cheats -------------------------------------------------------------------------


class CheatedClient:
    """An honest client with a connection to a hub that cheats, and what it must not lose."""

    def __init__(self, town: CheatNetwork, hub: CheatingHub, url: str) -> None:
        self.town = town
        self.hub = hub
        self.cheater = hub.cheater
        self.cheater.fund()
        self.alice = town.honest_client(url)
        self.had = town.held(self.alice.wallet_script)
        self.guaranteed: int | None = None
        self.handle = ""

    def open(self, expire: int = EXPIRE, delay: int = DELAY) -> None:
        """Open the connection."""
        self.connect(expire, delay)
        self.hub.fund_deposit()
        self.town.mine_until(lambda: self.status() == "open", "an open connection")

    def connect(self, expire: int = EXPIRE, delay: int = DELAY) -> None:
        """Agree on the connection; the client's deposit is in the mempool."""
        words = ("--expire_time", str(expire), "--delay_time", str(delay))
        self.handle = self.alice.run("connect", "XCP", str(DEPOSIT), *words)["handle"]
        self.hub.see(self.alice.connection(self.handle).duplex.sending.anchor)

    def status(self) -> str:
        """Return what the client's status says."""
        return str(self.alice.shown(self.handle)["status"])

    def sync(self) -> str | None:
        """Sync the client; the name of the error that it fails with."""
        done = self.alice.done("sync")
        return None if done.code == 0 else str(done.error["name"])

    def pay(self, amount: int) -> None:
        """The client pays somebody, by a commit to the hub."""
        self.alice.run("queuepayment", self.handle, PAYEE, str(amount))
        self.alice.run("sync")

    def receive(self, amount: int) -> None:
        """Somebody pays the client, by what the hub gives back and a commit of the hub's."""
        self.hub.to_pay.append(amount)
        self.alice.run("sync")

    def give_back(self) -> tuple[int, int]:
        """The client pays 100 and 5000, and receives all of the latter back; what it had moved before and since.

        The commits above the first 100 are revoked then.
        """
        self.pay(100)
        self.pay(5000)
        before = self.hub.c2h.moved
        self.receive(5002)
        return before, self.hub.c2h.moved

    def paid(self) -> int:
        """Have the client receive 3000 by a commit; what is guaranteed to it then."""
        self.pay(100)
        self.receive(3000)
        self.town.result.hold(self.hub.h2c.moved > 2000, "nothing was received by a commit")
        return self.fault()

    def publish(self, commit: Commit) -> None:
        """The hub publishes a commit that it received, revoked or not."""
        self.town.broadcast(self.cheater.finished(self.hub.c2h, commit))

    def payout(self, commit: Commit) -> bytes:
        """The hub's payout of a commit."""
        return self.cheater.payout(self.hub.c2h, commit.revoke_hash, self.hub.secrets.spend)

    def grabs(self, commit: Commit) -> bool:
        """The hub pays a commit out, if the network lets it."""
        return self.cheater.tries(lambda: self.payout(commit))

    def rob(self) -> bool:
        """The hub takes its whole deposit back, where the client has shown its secret; and what has expired."""
        secret = shown_secret(self.town, self.hub.h2c)
        if secret is not None:
            self.cheater.tries(lambda: self.cheater.change(self.hub.h2c, secret))
        return self.cheater.tries(lambda: self.cheater.expire(self.hub.h2c))

    def silence(self) -> None:
        """The hub refuses everything from now on."""
        self.hub.refuses = HubDraining("No.")

    def fault(self) -> int:
        """Take note of the guaranteed balance, as it is on the client's disk now."""
        self.guaranteed = self.alice.connection(self.handle).duplex.guaranteed
        return self.guaranteed

    def end(self, what: str, also: Chore = bool) -> None:
        """Mine and sync until the client's connection is over, ``also`` doing what a cheater does after each block.

        Blocks in which nothing is due are mined without anybody looking.
        """
        if self.guaranteed is None:
            self.fault()
        for number in range(WATCHED + AFTERWARDS):
            if self.alice.connection(self.handle).stage == CLOSED:
                break
            if number == WATCHED:
                self.town.mine_to(max(self.expires, self.town.height))
            self.town.mine()
            also()
            self.sync()
        self.town.result.hold(self.status() == "closed", f"{what}: the client's connection is {self.status()}")
        has = self.town.held(self.alice.wallet_script) - self.had + DEPOSIT
        self.town.result.keep(self.guaranteed or 0, has, what)

    @property
    def expires(self) -> int:
        """The last height at which nothing on the deposits can have expired."""
        connection = self.alice.connection(self.handle)
        return connection.agreed_height + connection.duplex.sending.script.expire - 1


@contextlib.contextmanager
def cheated_client(town: CheatNetwork) -> Iterator[CheatedClient]:
    """A client and a cheating hub for the length of a ``with`` block."""
    hub = CheatingHub(town, town.rng)
    with json_rpc({name: hub.method(name) for name in METHODS}) as url:
        yield CheatedClient(town, hub, url)


# The honest hub and its client, who cheats --------------------------------------------------------------------------


class CheatedHub:
    """Clients that cheat on open connections with the honest hub, and what the hub must not lose."""

    def __init__(self, town: CheatNetwork, clients: int = 1) -> None:
        if not town.hub_lives:
            town.start_hub()
        self.town = town
        self.clients = [CheatingClient(town, town.rng) for _ in range(clients)]
        self.mallory = self.clients[0]
        self.others: list[str] = []  # handles
        for client in self.clients:
            client.fund()
        self.had = self.hub_holds()
        self.guaranteed: int | None = None

    def open(self, expire: int = EXPIRE, delay: int = DELAY) -> None:
        """Open a connection for each."""
        for client in self.clients:
            client.open(expire, delay)

    def hub_holds(self) -> int:
        """Return what the hub's wallet holds."""
        return self.town.held(self.town.hub_script)

    def fault(self) -> int:
        """Take note of the hub's guaranteed balance in all of the connections, as it is now."""
        shown = self.town.hub.call("mph_status", assets=None)["connections"]
        self.guaranteed = sum(shown[handle]["balance"] for handle in self.handles)
        return self.guaranteed

    @property
    def handles(self) -> list[str]:
        """The connections, those of honest clients too."""
        return [*(client.handle.hex() for client in self.clients), *self.others]

    def give_back(self) -> Commit:
        """Mallory is paid 5000 and gives it back, so that the hub can punish that commit."""
        mallory = self.mallory
        mallory.sync(5001, mallory.payment(5000, mallory.handle))
        given_back = mallory.received[-1]
        mallory.sync(given_back.quantity, mallory.payment(given_back.quantity - 1, None))
        return given_back

    def stages(self) -> set[str]:
        """How far the connections are at the hub."""
        found = self.town.stages()
        return {found[handle] for handle in self.handles}

    def wake(self) -> None:
        """Start the hub, and wait until it has looked at the chain."""
        self.town.start_hub()
        self.town.hub.call("mph_status", assets=None)

    def end(self, what: str, also: Chore = bool) -> None:
        """Mine until the connections are over at the hub, ``also`` doing what a cheater does after each block."""
        for number in range(WATCHED + AFTERWARDS):
            if self.stages() == {"closed"}:
                break
            if number == WATCHED:
                self.town.mine_to(max(*(client.expires for client in self.clients), self.town.height))
            self.town.mine()
            also()
        self.town.result.hold(self.stages() == {"closed"}, f"{what}: the connections are {self.stages()} at the hub")
        if self.guaranteed is None:
            raise RuntimeError(f"{what}: nobody took note of what was guaranteed")
        has = self.hub_holds() - self.had + DEPOSIT * len(self.handles)
        self.town.result.keep(self.guaranteed, has, what)

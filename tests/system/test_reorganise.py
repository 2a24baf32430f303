"""Reorganisations at every stage of a connection's life end in the balances of a life without one.

What is promised: whatever blocks are taken away, as long as their transactions come back to the mempool, or somebody
publishes them again. Their owners do so for what lies less deep than ``safe_depth``, and here for everything, since
client and hub both keep an eye on a closed connection until six blocks more can't undo it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from network_support import ASSETS, DEPOSIT, FEE, Client, Network
from regtest_support import NodeProcess, address_of
from served_support import QuickNetwork

from picopayments_cli.channel.stages import AGREED
from picopayments_cli.errors import UnknownTransaction

ROUNDS = 60  # of a block and a sync, until a stage is reached
SAFE_DEPTH, CHAIN_URL, BITCOIN_URL = (f"PICOPAYMENTS_{name}" for name in ("SAFE_DEPTH", "CHAIN_URL", "BITCOIN_URL"))
EXPIRE = 32  # blocks
DEEPEST = 6
BOTH = (1, DEEPEST)  # all depths between them, and losses at every instant, are for tests/faults
Networks = Callable[[int], Network]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory, chains: Callable[[int], NodeProcess]) -> Iterator[Networks]:
    """A network for each ``safe_depth``, started when it is asked for."""
    started: dict[int, QuickNetwork] = {}
    chain = chains(3)
    with ExitStack() as stack:

        def get(safe_depth: int) -> Network:
            if safe_depth not in started:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv(SAFE_DEPTH, str(safe_depth))
                    started[safe_depth] = QuickNetwork(tmp_path_factory.mktemp(f"deep-{safe_depth}"), chain)
                stack.callback(started[safe_depth].stop)
            return started[safe_depth]

        yield get


def ask_nodes(network: Network, patch: pytest.MonkeyPatch) -> None:
    """Have the clients ask nodes of their own about the chain from now on, and not the hub."""
    patch.setenv(CHAIN_URL, network.chain_url)
    patch.setenv(BITCOIN_URL, f"{network.chain_url}bitcoin/")


@dataclass
class ConnectedClient:
    """A client with one connection, and what it must hold in the end."""

    client: Client
    handle: str
    deposit: str
    syncs: int = 0
    gained: int = 0
    received: list[int] = field(default_factory=list)

    @property
    def status(self) -> str:
        status: str = self.client.shown(self.handle)["status"]
        return status

    @property
    def wanted(self) -> int:
        """The XCP that it has when all is over."""
        return ASSETS + self.gained - FEE * self.syncs

    def script(self, way: str) -> bytes:
        """The scriptPubKey of a deposit, ``c2h`` or ``h2c``."""
        duplex = self.client.connection(self.handle).duplex
        return (duplex.sending if way == "c2h" else duplex.receiving).contract.deposit.output

    def sync(self) -> None:
        """A sync that exchanges payments."""
        (brought,) = self.client.run("sync").values()
        self.received += [payment["amount"] for payment in brought["received_payments"]]
        self.syncs += 1

    def close(self) -> None:
        """Close, with a last sync."""
        self.client.run("close", self.handle)
        self.syncs += 1


@dataclass
class ReorganisedLife:
    """Connections on a network that loses its last blocks time and again, as many as ``depths`` say in turn.

    ``forget``: and with them their transactions.
    """

    network: Network
    depths: Sequence[int]
    forget: bool
    parties: list[ConnectedClient] = field(default_factory=list)
    liquidity: int = 0

    def connect(self, *names: str, options: tuple[str, ...] = ()) -> list[ConnectedClient]:
        """Connect clients whose own funds lie deeper than any reorganisation reaches."""
        clients = [self.network.client(f"{name}-{max(self.depths)}-{self.forget}") for name in names]
        self.network.mine(DEEPEST)
        self.liquidity = self.hub_holds()
        for client in clients:
            made = client.run("connect", "XCP", str(DEPOSIT), *options)
            self.parties.append(ConnectedClient(client, made["handle"], made["send_deposit_txid"]))
        return self.parties

    def hub_holds(self) -> int:
        """The hub's XCP."""
        held: int = self.network.hub.call("mph_status", assets=None)["funds"]["liquidity"]["XCP"]
        return held

    def shake(self, reached: Callable[[], bool], what: str) -> None:
        """Reach a stage; lose blocks, and reach it again, for each depth. Nothing lost is ever said to be over."""
        for depth in self.depths:
            self.until(reached, f"{what}, before {depth} blocks are lost")
            self.network.hub.call("reorganise", depth=depth, forget=self.forget)
            for party in self.parties:
                if party.client.balances()["XCP"] != party.wanted:
                    assert party.status != "closed"
        self.until(reached, what)

    def until(self, reached: Callable[[], bool], what: str) -> None:
        """Mine, and sync what has need of it (where it is open a sync costs a fee), until a stage is reached."""
        for _ in range(ROUNDS):
            if reached():
                return
            for party in self.parties:
                agreed = party.client.connection(party.handle).stage == AGREED
                if not agreed or party.status != "open":
                    party.client.sync_alone()
            self.network.mine()
        raise AssertionError(f"not reached: {what}, but {[party.status for party in self.parties]}")

    def mined(self, script: bytes, number: int) -> bool:
        """Whether blocks hold so many transactions of a script."""
        return len(self._mined(script)) >= number

    def _mined(self, script: bytes) -> list[str]:
        found = self.network.hub.call("search_raw_transactions", address=address_of(script))
        return [entry["txid"] for entry in found if entry.get("confirmations")]

    def commit(self, script: bytes) -> bytes | None:
        """Where the commit that spends a deposit pays first, once it is in a block."""
        firsts = [bytes(self.network.raw(txid).vout[0].scriptPubKey) for txid in self._mined(script)]
        return next((first for first in firsts if first[:2] == b"\x51\x20" and first != script), None)

    def is_mined(self, txid: str) -> bool:
        """Whether a block holds a transaction."""
        try:
            shown: dict[str, Any] = self.network.hub.call("getrawtransaction", tx_hash=txid, verbose=True)
        except UnknownTransaction:
            return False
        return bool(shown.get("confirmations"))

    def is_over(self) -> bool:
        """Whether everybody has what is his."""
        fees = sum(FEE * party.syncs for party in self.parties)
        return (
            self.hub_holds() == self.liquidity + fees
            and all(party.client.balances()["XCP"] == party.wanted for party in self.parties)
            and all(party.status == "closed" for party in self.parties)
        )


@pytest.mark.parametrize(
    ("safe_depth", "forget", "depths", "own_nodes"),
    [(1, False, BOTH, True), (7, True, (DEEPEST,), True), (1, True, (DEEPEST,), False)],
)
def test_a_life_in_which_blocks_are_lost_at_every_stage(
    networks: Networks,
    safe_depth: int,
    forget: bool,
    depths: Sequence[int],
    own_nodes: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SAFE_DEPTH, str(safe_depth))
    life = ReorganisedLife(networks(safe_depth), depths, forget)
    if own_nodes:
        ask_nodes(life.network, monkeypatch)
    alice, bob = life.connect("alice", "bob", options=("--expire_time", "5000"))

    def both_open() -> bool:
        return alice.status == bob.status == "open"

    def all_mined(number: int) -> bool:
        return all(life.mined(script, number) for script in (alice.script("c2h"), bob.script("h2c")))

    life.shake(lambda: life.is_mined(alice.deposit) and life.is_mined(bob.deposit), "c2h deposits mined")
    life.shake(lambda: all(life.mined(party.script("h2c"), 1) for party in (alice, bob)), "h2c deposits mined")
    life.until(both_open, "both open")
    _pay(alice, bob, 5000)
    _pay(bob, alice, 1200)
    life.shake(both_open, "both open, with payments")
    _pay(alice, bob, 700)
    alice.close()
    bob.close()
    life.shake(lambda: all_mined(2), "closes mined")
    life.shake(lambda: all_mined(3), "their rests mined")
    life.shake(life.is_over, "the end")
    _check_end(life)


@pytest.mark.parametrize("forget", [False, True])
def test_what_was_closed_alone_at_once_is_settled_again(
    networks: Networks, forget: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commit and payout are lost together, so that the payout comes too early for the mempool: somebody must know."""
    monkeypatch.setenv(SAFE_DEPTH, "1")
    life = ReorganisedLife(networks(1), (DEEPEST,), forget)
    if not forget:
        ask_nodes(life.network, monkeypatch)
    alice, bob = life.connect("early-alice", "early-bob", options=("--expire_time", str(EXPIRE)))
    life.until(lambda: alice.status == bob.status == "open", "both open")
    _pay(alice, bob, 5000)
    monkeypatch.setenv(CHAIN_URL, life.network.chain_url)
    bob.client.lose_hub(bob.handle)
    bob.client.run("close", bob.handle)
    alice.close()
    script = bob.script("h2c")
    life.until(lambda: life.commit(script) is not None, "his commit mined")
    commit = life.commit(script)
    assert commit is not None
    life.shake(lambda: life.mined(commit, 2), "commit and payout mined")
    life.shake(life.is_over, "the end")
    actions = [event["action"] for event in bob.client.run("history")]
    assert actions[-3:] == ["closed", "closing", "closed"]  # what left again is no new action
    assert life.commit(script) == commit
    _check_end(life)


def _pay(payer: ConnectedClient, payee: ConnectedClient, amount: int) -> None:
    payer.client.run("queuepayment", payer.handle, payee.handle, str(amount))
    payer.sync()
    payee.sync()
    assert payee.received.pop() == amount
    payer.gained -= amount
    payee.gained += amount


def _check_end(life: ReorganisedLife) -> None:
    """All is buried, nothing is left to do, and bitcoins have gone to the miners only, and along with assets."""
    life.network.mine(DEEPEST + 1)
    for party in life.parties:
        assert party.client.run("sync") == {}
    assert life.is_over()
    assert life.network.bitcoin("getrawmempool") == []
    for party in life.parties:
        assert party.client.balances()["BTC"] == life.network.bitcoins_of(party.client)


@pytest.mark.parametrize(("safe_depth", "forget", "depths"), [(1, False, BOTH), (7, True, (DEEPEST,))])
def test_blocks_lost_while_deposits_expire(
    networks: Networks, safe_depth: int, forget: bool, depths: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client can't reach the hub: both wait until their deposits expire."""
    monkeypatch.setenv(SAFE_DEPTH, str(safe_depth))
    life = ReorganisedLife(networks(safe_depth), depths, forget)
    if forget:
        ask_nodes(life.network, monkeypatch)
    (carol,) = life.connect("carol", options=("--expire_time", str(EXPIRE)))
    life.until(lambda: carol.status == "open", "an open connection")
    carol.client.lose_hub(carol.handle)
    monkeypatch.setenv(CHAIN_URL, life.network.chain_url)
    life.network.mine(EXPIRE - 10)
    scripts = carol.script("c2h"), carol.script("h2c")
    life.shake(lambda: all(life.mined(script, 2) for script in scripts), "both expired")
    life.shake(life.is_over, "the end")
    _check_end(life)


def test_a_client_that_sees_a_connection_open_before_its_hub_does_waits_for_it(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub has yet to see the blocks again that the client sees: here, for it they must lie deeper."""
    life = ReorganisedLife(networks(6), (), False)
    monkeypatch.setenv(SAFE_DEPTH, "1")
    client = life.network.client("dave")
    handle = client.run("connect", "XCP", str(DEPOSIT))["handle"]
    life.network.mine(7)
    assert client.shown(handle)["status"] == "open"
    assert "does not see it open yet" in client.done("sync").stderr
    assert client.shown(handle)["status"] == "open"
    life.network.mine(5)
    client.run("sync")
    assert client.shown(handle)["balance"] == DEPOSIT - FEE

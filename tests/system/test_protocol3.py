"""Client and hub of protocol 3 with each other: the client's real files, the hub's real database, one chain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from client_support import SILENT, Doors, Life, WatchedSession
from policy_support import ALICE, output
from regtest_support import REGTEST, address_of, script_of_key
from taproot_support import payment, txid_of

from picopayments_cli.chain import Query
from picopayments_cli.channel.facts import is_deposit
from picopayments_cli.channel.values import Quantity, Token
from picopayments_cli.channel.wire import Payment
from picopayments_cli.client import life, opening
from picopayments_cli.client.session import Session
from picopayments_cli.config import Settings
from picopayments_cli.errors import BroadcastRefused, HubUnreachable
from picopayments_cli.rpc import RpcClient

desks = pytest.importorskip("hub_support")
DEPOSIT, EXPIRE, DELAY = 1_000_000, 100, 2


class Line:
    """The hub's methods, as a client's HTTP would reach them."""

    url = "http://hub.invalid/api/"

    def __init__(self, desk: Any, lost: set[str]) -> None:
        self.desk, self.lost = desk, lost

    def call(self, method: str, params: Mapping[str, Any], *, retry: bool = False) -> Any:
        if f"to {method}" in self.lost:
            raise SILENT
        answer = json.loads(self.desk.call(method, json.loads(json.dumps(params))))
        if method in self.lost:
            raise SILENT
        return answer


class Client(Life):
    """A client of the real hub."""

    def __init__(self, basedir: Path, desk: Any) -> None:
        self.desk, self.basedir, self.bitcoin = desk, basedir, True
        self.node, self.doors = desk.node, Doors()
        self.lost: set[str] = set()  # methods whose answers, or "to" which requests, get lost
        self.session = self._open()
        self.wallet = self.session.wallet.script
        self.session.keep_wallet()
        address = self.session.wallet.address
        for quantity in (DEPOSIT, 0, 0):
            self.node.rpc("faucet", address=address, btc=1_000_000, asset="XCP", quantity=quantity)

    def _open(self) -> WatchedSession:
        session = WatchedSession(self.basedir, None, self.desk.node, self.doors, bitcoin=True)  # type: ignore[arg-type]
        session.__dict__["rpc"] = Line(self.desk, self.lost)
        return session

    def mine(self, blocks: int = 1) -> None:
        self.desk.mine(blocks)

    def connect(self) -> None:
        opening.connect(self.session, self.session.chain.asset("XCP"), DEPOSIT, EXPIRE, DELAY)


class DeafLine(RpcClient):
    """The hub over HTTP, some of whose methods can't be reached."""

    def __init__(self, url: str, lost: set[str]) -> None:
        super().__init__(url)
        self.lost = lost

    def call(self, method: str, params: Mapping[str, Any] | Sequence[Any], *, retry: bool) -> Any:
        if f"to {method}" in self.lost:
            raise SILENT
        return super().call(method, params, retry=retry)


class LoneClient(Client):
    """A client without a node of its own, which asks the hub over HTTP about the chain too."""

    def __init__(self, basedir: Path, desk: Any, url: str) -> None:
        self.url = url
        super().__init__(basedir, desk)

    def _open(self) -> Any:
        session = Session(Settings(REGTEST, self.basedir, hub_url=self.url))
        session.__dict__["rpc"] = DeafLine(self.url, self.lost)
        return session

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.node.rpc("generate", blocks=1)
            self.desk.rounds.loop.await_round()


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[LoneClient]:
    with desks.running_desk(tmp_path) as desk, desks.serving(desk) as url:
        made = LoneClient(tmp_path / "alice", desk, url)
        made.mine()
        made.connect()
        for _ in range(12):
            made.mine()
            if made.status() == "open":
                break
        made.sync()
        yield made
        made.session.close()


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[tuple[Client, Client]]:
    with desks.running_desk(tmp_path) as desk:
        made = Client(tmp_path / "alice", desk), Client(tmp_path / "bob", desk)
        desk.mine()
        _open(*made)
        yield made
        for client in made:
            client.session.close()


def _open(*made: Client) -> None:
    for client in made:
        client.connect()
    for _ in range(12):
        made[0].mine()
        if {client.status() for client in made} == {"open"}:
            break
    for client in made:
        client.sync()


def pay(payer: Client, payee: Client, amount: int) -> None:
    """Queue a payment."""
    payment = Payment(payee.connection.handle, Quantity(amount), Token(b"%d" % amount))
    life.queue(payer.session, payer.connection, payment)


def test_two_clients_pay_each_other_and_close_in_agreement(clients: tuple[Client, Client]) -> None:
    alice, bob = clients
    pay(alice, bob, 300_000)
    alice.sync()
    received = bob.sync().receipts
    assert [(item.payer, item.amount) for item in received] == [(alice.connection.handle, 300_000)]
    due = [client.connection.duplex.guaranteed - client.connection.terms.sync_fee for client in clients]
    for client in clients:
        client.close()
        assert client.connection.ending.told
    for client in clients:
        client.settle()
    assert [client.held() for client in clients] == due


def test_a_lost_answer_is_the_stored_one_at_the_next_sync(clients: tuple[Client, Client]) -> None:
    alice, bob = clients
    pay(alice, bob, 1000)
    alice.lost.add("mph_sync")
    for _ in range(2):
        with pytest.raises(HubUnreachable):
            alice.sync()
    alice.lost.clear()
    alice.sync()
    assert [item.amount for item in bob.sync().receipts] == [1000]
    assert alice.connection.duplex.guaranteed == DEPOSIT - 1000 - 2  # the fees of two syncs


def test_a_client_that_reaches_no_hub_closes_alone_and_both_settle(clients: tuple[Client, Client]) -> None:
    alice, bob = clients
    pay(alice, bob, 300_000)
    alice.sync()
    bob.sync()
    for client in clients:
        client.lost.update(("to mph_sync", "to mph_close"))
        client.close()
    due = [client.connection.duplex for client in clients]
    for client in clients:
        client.settle(EXPIRE + 20)
    held = [client.held() for client in clients]
    assert held[1] == due[1].guaranteed + 1  # the sync of its close, which never reached the hub
    assert held[0] == due[0].guaranteed + 1


def test_a_client_without_a_node_opens_pays_and_closes_in_agreement(lone: LoneClient) -> None:
    pay(lone, lone, 1000)
    assert [item.amount for item in lone.sync().receipts] == [1000]
    due = lone.connection.duplex.guaranteed - lone.connection.terms.sync_fee
    lone.close()
    assert lone.connection.ending.told
    lone.settle()
    assert lone.held() == due


def test_a_client_without_a_node_closes_alone(lone: LoneClient) -> None:
    pay(lone, lone, 1000)
    lone.sync()
    lone.lost.update(("to mph_sync", "to mph_close"))
    lone.close()
    due = lone.connection.duplex.guaranteed
    lone.settle(EXPIRE + 20)
    assert lone.held() == due + 1  # the sync of its close, which never reached the hub


def test_a_client_without_a_node_asks_the_hub_for_sends(lone: LoneClient) -> None:
    side = lone.connection.duplex.sending
    (row,) = lone.session.sight.nodes.sends(side.contract.deposit.output)
    assert is_deposit(side.contract, row)
    assert side.anchor is not None
    assert row.txid == side.anchor.outpoint.txid
    assert lone.session.sight.nodes.sends(script_of_key(ALICE)) == ()


def test_a_client_without_a_node_has_the_hub_publish_a_parent_that_its_child_pays_for(lone: LoneClient) -> None:
    address = address_of(script_of_key(ALICE))
    lone.node.rpc("faucet", address=address, btc=100_000, asset="XCP", quantity=0)
    lone.mine()
    (coin,) = lone.session.chain.view(Query(coins=[address])).coins[address]
    parent = payment(ALICE, (coin.outpoint, coin.value), 0)
    child = payment(ALICE, output(parent), 5000)
    nodes = lone.session.sight.nodes
    with pytest.raises(BroadcastRefused):
        nodes.submit([parent])
    with pytest.raises(BroadcastRefused) as caught:
        nodes.submit([child, parent])
    assert lone.node.url not in json.dumps([caught.value.message, caught.value.data])
    assert nodes.submit([parent, child]) == (txid_of(parent), txid_of(child))
    assert nodes.submit([parent, child]) == (txid_of(parent), txid_of(child))
    assert lone.mempool() == [txid_of(raw)[::-1].hex() for raw in (parent, child)]

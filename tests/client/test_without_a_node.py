"""A client without a node of its own does all of it by its hub's word about the chain, whose package it hands on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from client_support import SILENT, Doors, Life
from hub_support import Desk, running_desk, serving
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
from picopayments_cli.errors import BroadcastRefused
from picopayments_cli.rpc import RpcClient

DEPOSIT, EXPIRE, DELAY = 1_000_000, 100, 2


class DeafLine(RpcClient):
    """The hub over HTTP, some of whose methods can't be reached."""

    def __init__(self, url: str, lost: set[str]) -> None:
        super().__init__(url)
        self.lost = lost

    def call(self, method: str, params: Mapping[str, Any] | Sequence[Any], *, retry: bool) -> Any:
        if f"to {method}" in self.lost:
            raise SILENT
        return super().call(method, params, retry=retry)


class LoneClient(Life):
    """A client that asks the hub over HTTP about the chain too."""

    def __init__(self, basedir: Path, desk: Desk, url: str) -> None:
        self.desk, self.basedir, self.url, self.bitcoin = desk, basedir, url, False
        self.node, self.doors = desk.node, Doors()
        self.lost: set[str] = set()  # "to" which methods requests get lost
        self.session = self._open()
        self.wallet = self.session.wallet_or_new().script
        address = self.session.wallet.address
        for quantity in (DEPOSIT, 0, 0):
            self.node.rpc("faucet", address=address, btc=1_000_000, asset="XCP", quantity=quantity)

    def _open(self) -> Any:
        session = Session(Settings(REGTEST, self.basedir, hub_url=self.url))
        session.__dict__["rpc"] = DeafLine(self.url, self.lost)
        return session

    def connect(self) -> None:
        opening.connect(self.session, self.session.chain.asset("XCP"), DEPOSIT, EXPIRE, DELAY)

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.node.rpc("generate", blocks=1)
            self.desk.rounds.await_round()


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[LoneClient]:
    with running_desk(tmp_path) as desk, serving(desk) as url:
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


def pay(payer: Life, payee: Life, amount: int) -> None:
    """Queue a payment."""
    payment = Payment(payee.connection.handle, Quantity(amount), Token(b"%d" % amount))
    life.queue(payer.session, payer.connection, payment)


def test_a_client_without_a_node_opens_pays_and_closes_in_agreement(lone: LoneClient) -> None:
    pay(lone, lone, 1000)
    lone.sync()
    assert [item["amount"] for item in lone.told() if item["action"] == "received"] == [1000]
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
    with pytest.raises(BroadcastRefused, match="TRUC-violation"):
        nodes.submit([parent, payment(ALICE, output(parent), 5000, version=2)])
    assert lone.node.url not in json.dumps([caught.value.message, caught.value.data])
    assert nodes.submit([parent, child]) == (txid_of(parent), txid_of(child))
    assert nodes.submit([parent, child]) == (txid_of(parent), txid_of(child))
    assert lone.mempool() == [txid_of(raw)[::-1].hex() for raw in (parent, child)]

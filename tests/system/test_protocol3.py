"""Client and hub of protocol 3 with each other: the client's real files, the hub's real database, one chain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from client3_support import Doors, Life, WatchedSession

from picopayments_cli.channel.values import HANDLE_SIZE, Handle, Quantity, Token
from picopayments_cli.channel3.wire import Payment
from picopayments_cli.client3 import life, opening

desks = pytest.importorskip("hub3_support")
DEPOSIT, EXPIRE, DELAY = 1_000_000, 100, 2


class Line:
    """The hub's methods, as a client's HTTP would reach them."""

    url = "http://hub.invalid/api/"

    def __init__(self, desk: Any) -> None:
        self.desk = desk

    def call(self, method: str, params: Mapping[str, Any], *, retry: bool = False) -> Any:
        return json.loads(self.desk.call(method, json.loads(json.dumps(params))))


class Client(Life):
    """A client of the real hub."""

    def __init__(self, basedir: Path, desk: Any) -> None:
        self.desk, self.basedir, self.bitcoin = desk, basedir, True
        self.node, self.doors = desk.node, Doors()
        self.session = self._open()
        self.wallet = self.session.wallet.script
        self.session.keep_wallet()
        address = self.session.wallet.address
        for quantity in (DEPOSIT, 0, 0):
            self.node.rpc("faucet", address=address, btc=1_000_000, asset="XCP", quantity=quantity)

    def _open(self) -> WatchedSession:
        session = WatchedSession(self.basedir, None, self.desk.node, self.doors, bitcoin=True)  # type: ignore[arg-type]
        session.__dict__["rpc"] = Line(self.desk)
        return session

    def mine(self, blocks: int = 1) -> None:
        self.desk.mine(blocks)

    def connect(self) -> None:
        opening.connect(self.session, self.session.chain.asset("XCP"), DEPOSIT, EXPIRE, DELAY)


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[tuple[Client, Client]]:
    with desks.running_desk(tmp_path) as desk:
        made = Client(tmp_path / "alice", desk), Client(tmp_path / "bob", desk)
        desk.mine()
        yield made
        for client in made:
            client.session.close()


def test_two_clients_pay_each_other_and_close_in_agreement(clients: tuple[Client, Client]) -> None:
    alice, bob = clients
    for client in clients:
        client.connect()
    for _ in range(12):
        alice.mine()
        if {client.status() for client in clients} == {"open"}:
            break
    for client in clients:
        client.sync()
    payee = Handle(bob.connection.handle)
    assert len(payee) == HANDLE_SIZE
    life.queue(alice.session, alice.connection, Payment(payee, Quantity(300_000), Token(b"to bob")))
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

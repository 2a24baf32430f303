"""Floods of dust, by which a peer hides what happens on an address: real nodes list the newest of a history only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cheats import Held, Town, pay, pay_and_get_back, running_town
from network_support import FEE
from regtest_support import Spend, address_of, running_node

from picopayments_cli.chain import Query
from picopayments_cli.chain.hub import HubChain
from picopayments_cli.chain.node import PAGE
from picopayments_cli.channel.networks import NETWORKS, wif_of_secret
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.rpc import RpcClient

DUST, RICH = 546, 2_000


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """A node that lists as little of a history as a real one, a hub, and clients of one's own."""
    with running_node(tmp_path / "chain", 0, "--cached") as node, running_town(tmp_path, node) as running:
        yield running


class AddressFlood:
    """A stranger with a coin for each of more payments than a list of a history holds."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.stranger = town.client("stranger", wif_of_secret(NETWORKS["regtest"], bytes(31) + b"\x07"))
        self.size = PAGE + 2
        ((coin, value),) = self._coins()
        script = self.stranger.wallet_script
        rest = value - self.size * RICH - 20_000
        self._send(Spend(self.stranger.key, [coin], [*[(RICH, script)] * self.size, (rest, script)]))
        town.mine()

    def _coins(self) -> list[tuple[Outpoint, int]]:
        address = address_of(self.stranger.wallet_script)
        return [(coin.outpoint, coin.value) for coin in self.town.chain.view(Query(coins=[address])).coins[address]]

    def _send(self, spend: Spend) -> None:
        self.town.broadcast(spend.signed())

    def pour(self, script: bytes) -> None:
        """Pay dust to a script in so many transactions that a list shows nothing else, and mine them."""
        for coin, value in self._coins():
            if value == RICH:
                self._send(Spend(self.stranger.key, [coin], [(DUST, script)]))
        self.town.mine()


def test_the_coins_of_an_address_follow_from_what_is_listed(town: Town) -> None:
    flood = AddressFlood(town)
    script = town.client("alice").wallet_script
    flood.pour(script)
    address = address_of(script)
    query = Query(history=[address], coins=[address])
    own, told = town.chain.view(query), HubChain(RpcClient(town.hub_url), NETWORKS["regtest"]).view(query)
    for view in (own, told):
        assert view.truncated == {address}
        made = {entry.txid for entry in view.history[address]}
        assert {coin.outpoint.txid for coin in view.coins[address]} <= made
        assert len(view.coins[address]) == flood.size + 1  # and the faucet's, which is older than the list
    assert set(own.history[address]) == set(told.history[address])
    code, error = town.clients["alice"].fails("searchrawtxs", address)
    assert (code, error) == (3, "TruncatedHistory")


def test_a_flooded_deposit_stays_open_and_comes_home(town: Town) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    flood = AddressFlood(town)
    before = town.books()
    a, b = town.open(alice), town.open(bob)
    pay(alice, a, b, 5000)
    flood.pour(bob.connection(b).duplex.receiving.contract.deposit.output)
    assert bob.shown(b)["status"] == "open"
    bob.run("sync")
    alice.run("close", a)
    bob.run("close", b)
    town.settle()
    assert gained(town, before.held["bob"], "bob") == 5000 - 2 * FEE  # its own sync's, and its close's


def test_a_revoked_commit_that_a_flood_hides_is_punished(town: Town) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    flood = AddressFlood(town)
    before = town.books()
    a, b = town.open(alice, expire=30), town.open(bob, expire=30)
    copy = pay_and_get_back(town, alice, bob, a, b)
    sending = alice.connection(a).duplex.sending
    town.cheat(copy)
    town.mine_until(lambda: town.committed(sending), "the hub's revoked commit")
    flood.pour(sending.contract.deposit.output)
    address = address_of(sending.contract.deposit.output)
    listed = town.node.get(f"bitcoin/addresses/{address}/transactions")
    assert len(listed) == PAGE
    assert town.chain.view(Query(history=[address])).truncated == {address}
    assert alice.run("sync")[a]["txids"]
    town.settle()
    assert gained(town, before.held["alice"], "alice") == 0  # its whole deposit


def gained(town: Town, before: Held, name: str) -> int:
    """The XCP that a wallet has more than before."""
    return town.books().held[name]["XCP"] - before["XCP"]

"""A client with more than one connection, and with more than one asset: each is looked at, and paid for, by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from channel2_support import parsed
from memory_life_support import DELAY, EXPIRE, QUANTITY, SILENT, XCP, LifeInMemory, WatchedHub, it
from memory_support import ScriptedHub
from picopayments_cli.channel2.keys import Secrets
from picopayments_cli.channel2.transactions import spent_outpoints
from picopayments_cli.client2 import opening
from picopayments_cli.client2.connection import Connection

from picopayments_cli import api
from picopayments_cli.chain import Query
from picopayments_cli.channel.stages import CLOSED
from picopayments_cli.channel.values import Handle

__all__ = ["it"]

OTHER = 26**3
SECOND = Handle(b"\x02" * 32)


class BothHubs:
    """One hub, of which each connection is answered by a hand of its own."""

    def __init__(self, *hubs: ScriptedHub) -> None:
        self.url = hubs[0].url
        self._hubs = {hub.handle.hex(): hub for hub in hubs}

    def call(self, method: str, params: Mapping[str, Any], *, retry: bool = False) -> Any:
        return self._hubs[params["handle"]].call(method, params, retry=retry)


@pytest.fixture
def two(it: LifeInMemory) -> tuple[LifeInMemory, ScriptedHub]:
    """A client with two open connections, and the hub's hand for the second one."""
    it.open()
    hub = ScriptedHub(it.chain, it.hub.terms)
    hub.handle, hub.secrets = SECOND, Secrets(hub.key, b"the second salt.")
    it.chain.grant(it.session.wallet.script, XCP, QUANTITY)
    it.chain.grant(hub.script, XCP, QUANTITY)
    it.session.__dict__["rpc"] = WatchedHub(hub, it.doors)
    opening.connect(it.session, it.chain.asset("XCP"), QUANTITY, EXPIRE, DELAY)
    it.chain.mine()
    hub.see(connections(it)[SECOND].duplex.sending.anchor)
    hub.fund()
    it.chain.mine()
    it.session.__dict__["rpc"] = BothHubs(it.hub, hub)
    return it, hub


def connections(it: LifeInMemory) -> dict[Handle, Connection]:
    return it.session.connections()


def test_each_connection_is_paid_what_is_its_own(two: tuple[LifeInMemory, ScriptedHub]) -> None:
    it, hub = two
    it.hub.to_pay, hub.to_pay = [300], [200]
    api.sync(it.session)
    moved = {handle: item.duplex.receiving.moved for handle, item in connections(it).items()}
    assert moved == {it.hub.handle: 299, SECOND: 199}  # less the fee
    for blocks in (0, 1):
        it.chain.mine(blocks)
        shown = api.status(it.session)["connections"]
        assert [item["status"] for item in shown.values()] == ["open", "open"]


def test_what_expires_together_is_paid_for_by_different_coins(two: tuple[LifeInMemory, ScriptedHub]) -> None:
    it, hub = two
    it.hub.refuses = hub.refuses = SILENT
    it.chain.mine(EXPIRE)
    it.chain.fee_rate = 60  # more than the deposits bring along
    address = it.session.wallet.address
    wallet = {coin.outpoint for coin in it.chain.view(Query(coins=[address])).coins[address]}
    before = len(it.chain.entries)
    it.sync()
    expiries = [parsed(entry.raw) for entry in it.chain.entries[before:]]
    paying = [wallet.intersection(spent_outpoints(tx)) for tx in expiries]
    assert len(paying) == 2
    assert all(paying)
    assert not paying[0] & paying[1]
    it.chain.mine()
    it.sync()
    assert it.chain.held(it.session.wallet.script, XCP) == 2 * QUANTITY
    assert {item.stage for item in connections(it).values()} == {CLOSED}


def test_another_asset_on_the_address_of_a_commit_comes_home_after_the_channels_own(it: LifeInMemory) -> None:
    it.receive()
    it.close_silently()
    commit = it.connection.duplex.receiving.active[-1]
    it.chain.grant(it.connection.duplex.receiving.commit_script(commit.revoke_hash).output, OTHER, 7)
    it.chain.mine()
    for _ in range(4 * DELAY):
        it.chain.mine()
        it.sync()
    assert it.chain.held(it.session.wallet.script, XCP) == commit.quantity
    assert it.chain.held(it.session.wallet.script, OTHER) == 7

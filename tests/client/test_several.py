"""A client with more than one connection: each is looked at, and paid for, by itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from client_support import EXPIRE, QUANTITY, Hub, Life

from picopayments_cli import api
from picopayments_cli.channel.stages import CLOSED
from picopayments_cli.channel.values import Handle, Outpoint
from picopayments_cli.client.connection import Connection
from picopayments_cli.errors import HubUnreachable

SECOND = Handle(b"\x02" * 32)


class BothHubs(Hub):
    """One hub, of which each connection is answered by a hand of its own."""

    def __init__(self, *hubs: Hub) -> None:
        self._hubs = {hub.handle.hex(): hub for hub in hubs}

    def call(self, method: str, params: Mapping[str, Any]) -> Any:
        return self._hubs[params["handle"]].call(method, params)


@pytest.fixture
def two(it: Life) -> tuple[Life, Hub, Hub]:
    """A client with two open connections, and the hub's hands for them."""
    it.open()
    first, second = it.hub, Hub(it.node, it.hub.key)
    second.handle, second.secrets = SECOND, replace(second.secrets, salt=b"the second salt.")
    for script in (it.wallet, first.script):
        it.node.rpc("faucet", address=api_address(it, script), btc=0, asset="XCP", quantity=QUANTITY)
    it.mine()
    it.hub = second
    it.restart()
    it.connect()
    it.mine()
    second.see(connections(it)[SECOND])
    second.fund(it.coins(second.script))
    it.mine()
    it.hub = BothHubs(first, second)
    it.restart()
    return it, first, second


def api_address(it: Life, script: bytes) -> str:
    """A script as an address."""
    return it.session.sight.at(script)


def connections(it: Life) -> dict[Handle, Connection]:
    return it.session.connections()


def test_each_connection_is_paid_what_is_its_own(two: tuple[Life, Hub, Hub]) -> None:
    it, first, second = two
    first.to_pay, second.to_pay = [300], [200]
    api.sync(it.session)
    moved = {handle: item.duplex.guaranteed - QUANTITY for handle, item in connections(it).items()}
    assert moved == {first.handle: 300 - 2, SECOND: 200 - 1}  # less the fees
    shown = api.status(it.session)["connections"]
    assert [item["status"] for item in shown.values()] == ["open", "open"]


def test_what_expires_together_is_paid_for_by_different_coins(two: tuple[Life, Hub, Hub]) -> None:
    it, first, second = two
    first.silent = second.silent = True
    it.node.rpc("feerate", rate=60)  # more than the deposits bring along
    try:
        wallet = {coin.outpoint for coin in it.coins(it.wallet)}
        it.mine(EXPIRE)
        sync(it)
        paying = [wallet & spent(it, txid) for txid in it.mempool()]
        assert len(paying) == 2
        assert all(paying)
        assert not paying[0] & paying[1]
        it.mine()
        sync(it)
    finally:
        it.node.rpc("feerate", rate="none")
    assert it.held() == 2 * QUANTITY
    assert {item.stage for item in connections(it).values()} == {CLOSED}


def sync(it: Life) -> None:
    """One sync by command, with hubs that are silent."""
    it.restart()
    with suppress(HubUnreachable):
        api.sync(it.session)


def spent(it: Life, txid: str) -> set[Outpoint]:
    """The outpoints that a transaction of the mempool spends."""
    found = it.node.bitcoin("getrawtransaction", txid, True)["vin"]
    return {Outpoint(bytes.fromhex(item["txid"])[::-1], item["vout"]) for item in found}

"""Strangers who agree on connections and deposit nothing, which costs them nothing; and payments of next to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_support import Client, Desk, open_all, running_desk

from picopayments_cli.chain import Query


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_desk(tmp_path) as found:
        yield found


def satoshis(desk: Desk) -> tuple[int, int]:
    """The number of the hub's coins, and their sum."""
    coins = desk.hub.chain.view(Query(coins=[desk.hub.address])).coins[desk.hub.address]
    return len(coins), sum(coin.value for coin in coins)


def test_promises_without_a_deposit_close_no_connection_and_burn_no_satoshis(desk: Desk) -> None:
    alice = Client(desk, "alice")
    alice.agree(26)
    open_all(desk, alice)
    for number in range(40):
        Client(desk, f"stranger {number}").agree(28, 1)
    before = satoshis(desk)
    desk.node.rpc("feerate", rate=90)
    desk.hub.read_rate()
    desk.mine(2)
    assert desk.account(alice.handle).stage == "open"  # the strangers expire later, and would all need their closes
    assert satoshis(desk) == before  # for cheats on what nobody deposited

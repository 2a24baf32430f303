"""A payment of next to nothing to the hub's address, which never gets into a block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_support import Client, Desk, running_desk

from hub.test_fee_attacks import coins_of, spend_all
from picopayments_cli.channel.drafts import Draft, Input, Output
from picopayments_cli.channel.signing import finish_wallet


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_desk(tmp_path) as found:
        yield found


def test_dust_that_never_confirms_keeps_no_connection_from_opening(desk: Desk) -> None:
    reserve, alice, mallory = desk.hub.reserve, Client(desk, "alice"), Client(desk, "mallory")
    coins = [Output(reserve.each, desk.hub.script)] * (reserve.coins - 1)
    spend_all(desk, [Output(0, mallory.script), Output(30_000_000, desk.hub.script), *coins])
    alice.agree()
    alice.endow()
    desk.node.rpc("feerate", rate=2)
    desk.node.rpc("generate", blocks=1)
    assert len(coins_of(desk, desk.hub.script)) == reserve.coins  # whole, and none to spare: the large one is split
    (given,) = [Input(coin) for coin in coins_of(desk, mallory.script)]
    draft = Draft((given,), (Output(546, desk.hub.script), Output(0, mallory.script)))
    change = Output(draft.fee - draft.size, mallory.script)  # 1 sat/vB
    mallory.publish(finish_wallet(Draft((given,), (draft.outputs[0], change)), mallory.key))
    alice.deposit()
    desk.mine(6)
    assert len(desk.mempool()) == 1  # the dust
    assert desk.account(alice.handle).stage == "open"

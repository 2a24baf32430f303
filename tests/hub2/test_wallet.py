"""The hub's deposits leave its reserve in the wallet, and leave alone the coins that assets are attached to."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from hub2_support import Desk, ScriptedClient, running_desk
from picopayments_cli.hub2.chores import WALLET_RESERVE
from regtest_support import key_of, script_of_key

from picopayments_cli.chain import Query
from picopayments_cli.channel.values import Coin, Outpoint
from picopayments_cli.channel2.scripts import wallet_unlock
from picopayments_cli.channel2.transactions import Output, Purse, compose_payment
from picopayments_cli.errors import NodeUnreachable


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Desk]:
    """A hub of the test's own, whose wallet it may empty."""
    with running_desk(tmp_path) as running:
        yield running


def coins(desk: Desk) -> tuple[Coin, ...]:
    """The coins of the hub's wallet."""
    return desk.hub.chain.view(Query(coins=[desk.hub.address])).coins[desk.hub.address]


def spend_down(desk: Desk, left: int) -> None:
    """Take all but some satoshis out of the hub's wallet, as its owner may elsewhere."""
    hub = desk.hub
    purse = Purse(wallet_unlock(hub.key.pubkey, hub.script), coins(desk), 1)
    total, fee = sum(coin.value for coin in purse.coins), 200 * len(purse.coins)
    draft = compose_payment(purse, Output(total - fee - left, script_of_key(key_of("elsewhere"))))
    hub.chain.broadcast(draft.signed(hub.key).serialize())
    desk.mine()


def promised(desk: Desk) -> ScriptedClient:
    """A client that has deposited what it agreed to."""
    client = ScriptedClient(desk, "promised")
    client.agree()
    client.fund()
    return client


def test_a_deposit_leaves_the_reserve(own: Desk) -> None:
    spend_down(own, WALLET_RESERVE + 1000)
    held = sum(coin.value for coin in coins(own))
    assert WALLET_RESERVE < held < WALLET_RESERVE + 4000
    client = promised(own)
    own.mine(2)
    assert (own.account(client.handle).stage, own.account(client.handle).deposit_raw) == ("agreed", None)
    assert sum(coin.value for coin in coins(own)) == held
    own.node.rpc("faucet", address=own.hub.address, btc=1_000_000)
    own.mine(2)
    assert own.account(client.handle).deposit_raw is not None


def test_a_coin_that_assets_are_attached_to_is_not_spent(own: Desk) -> None:
    """A spend of it moves them; the regtest ledger has none, so the node is made to say so."""
    kept = {coin.outpoint for coin in coins(own)}
    asked: list[Outpoint] = []

    def told(outpoints: Collection[Outpoint]) -> set[Outpoint]:
        asked.extend(outpoints)
        return kept & set(outpoints)

    own.stop()
    own.start()
    own.hub.chain.attached = told  # type: ignore[method-assign]
    own.mine()
    client = promised(own)
    own.mine(2)
    assert own.account(client.handle).deposit_raw is None
    own.node.rpc("faucet", address=own.hub.address, btc=1_000_000)
    own.mine(3)
    assert own.account(client.handle).deposit_raw is not None
    assert kept <= {coin.outpoint for coin in coins(own)}
    assert len(asked) == len(set(asked))
    asked.clear()
    own.node.rpc("reorganise", depth=1)
    own.mine(0)
    assert kept <= set(asked)


def test_no_coin_is_spent_where_nobody_says_what_is_attached(own: Desk) -> None:
    def silent(outpoints: Collection[Outpoint]) -> set[Outpoint]:
        raise NodeUnreachable("The node does not answer.")

    honest = own.hub.chain.attached
    own.hub.chain.attached = silent  # type: ignore[method-assign]
    client = promised(own)
    own.mine(2)
    assert own.account(client.handle).deposit_raw is None
    own.hub.chain.attached = honest  # type: ignore[method-assign]
    own.mine(2)
    assert own.account(client.handle).deposit_raw is not None

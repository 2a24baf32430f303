"""A deposit of which something else has spent a coin never comes: its connection ends, and says why."""

from __future__ import annotations

import pytest
from client_support import Life

from picopayments_cli import api
from picopayments_cli.channel.drafts import Draft, Input, Output, parse_transaction, spent_outpoints
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.values import Handle
from picopayments_cli.client import funds
from picopayments_cli.errors import UnknownDeposit


def lose(it: Life, *, buried: bool) -> str:
    """Have something else spend the coins of the deposit that waits, as the same key elsewhere may; its txid."""
    tx = parse_transaction(it.connection.deposit_raw)
    assert tx is not None
    spent = set(spent_outpoints(tx))
    it.node.rpc("feerate", minimum=5)  # evicts it
    coins = [coin for coin in it.coins(it.wallet) if coin.outpoint in spent]
    assert len(coins) == len(spent)
    draft = Draft(tuple(map(Input, coins)), (Output(sum(coin.value for coin in coins) - 5000, it.wallet),))
    txid = str(it.node.bitcoin("sendrawtransaction", finish_wallet(draft, it.session.wallet.key).hex()))
    it.node.rpc("feerate", minimum=1)
    if buried:
        it.mine(it.session.network.safe_depth)
    return txid


def other(it: Life) -> Handle:
    """A second connection of the wallet's, at another handle."""
    it.hub.handle = Handle(bytes(32))
    known = set(it.session.connections())
    it.node.rpc("faucet", address=it.session.wallet.address, btc=0, asset="XCP", quantity=1000)
    it.mine()
    it.connect()
    (handle,) = set(it.session.connections()) - known
    return handle


def test_a_connection_closes_whose_deposit_never_comes(it: Life) -> None:
    it.connect()
    rival = lose(it, buried=True)
    it.restart()
    result = api.sync(it.session)[it.handle]
    assert result["error"]["name"] == "DepositConflicted"
    assert result["error"]["data"]["rival"] == rival
    it.restart()
    shown = api.status(it.session)["connections"][it.handle]
    assert (shown["status"], shown["balance"]) == ("closed", 0)
    assert shown["error"]["name"] == "DepositConflicted"
    assert it.connection.stage == "closed"
    assert not it.doors.passed.count("call mph_close")
    assert "broadcast deposit" not in it.doors.passed[it.doors.passed.index("save closing") :]


def test_its_other_coins_are_free_and_others_sync(it: Life) -> None:
    it.connect()
    lose(it, buried=True)
    first = it.handle
    second = other(it)
    it.restart()
    result = api.sync(it.session)
    assert result[first]["error"]["name"] == "DepositConflicted"
    assert "error" not in result[second.hex()]
    it.mine()
    it.restart()
    view = it.session.sight.look(it.session.wallet.address, []).view
    confirmed = [coin for coin in view.coins[it.session.wallet.address] if coin.height is not None]
    assert len(funds.free_coins(it.session, view, can_wait=True)) == len(confirmed)


def test_nothing_closes_while_the_other_spend_is_not_buried(it: Life) -> None:
    it.connect()
    lose(it, buried=False)
    it.restart()
    with pytest.raises(UnknownDeposit):
        api.sync(it.session)
    assert it.connection.stage == "agreed"


def test_a_close_by_command_ends_it_too(it: Life) -> None:
    it.connect()
    lose(it, buried=True)
    it.restart()
    assert api.close(it.session, it.handle)["txid"] is None
    assert it.connection.stage == "closed"


def test_a_deposit_that_comes_after_all_is_taken_back(it: Life) -> None:
    it.connect()
    raw = it.connection.deposit_raw
    lose(it, buried=True)
    it.restart()
    api.sync(it.session)
    it.node.rpc("reorganise", depth=1, forget=True)
    it.node.bitcoin("sendrawtransaction", raw.hex())
    it.mine()
    it.sync()
    assert it.connection.stage == "closing"
    it.settle(80)
    assert it.held() == 1000

"""A hub's deposit that comes back with less after a reorganisation, and the client's child that is cycled away."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from client_support import QUANTITY, Life

from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.counterparty import asset_id, p2pkh, pack_send
from picopayments_cli.channel.drafts import (
    DUST,
    OWN,
    SHARED,
    Draft,
    Input,
    Output,
    coin_of,
    parse_transaction,
    spent_outpoints,
)
from picopayments_cli.channel.scripts import P2A
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.state import known_anchor
from picopayments_cli.channel.transactions import compose_send
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.errors import HubUnreachable


@pytest.mark.parametrize("looks", [False, True])
def test_a_hubs_deposit_that_comes_back_with_less_ends_the_connection(it: Life, looks: bool) -> None:
    """``looks``: whether the client sees the chain without it first."""
    it.open()
    it.pay(300)
    txid = known_anchor(it.hub.now.sending).outpoint.txid
    deposit = bytes.fromhex(it.node.bitcoin("getrawtransaction", txid[::-1].hex()))
    it.node.rpc("reorganise", depth=1, forget=True)
    send_one(it, deposit)
    if looks:
        it.sync()  # it publishes the hub's deposit again itself
        assert it.connection.stage == "agreed"
    else:
        it.node.bitcoin("sendrawtransaction", deposit.hex())
    it.mine(2)
    it.sync()
    assert it.connection.stage == "closing"
    due = it.connection.duplex.guaranteed
    it.settle()
    assert it.held() == due


def send_one(it: Life, deposit: bytes) -> None:
    """Have the hub's wallet send a single unit away before its deposit, by another coin."""
    tx = parse_transaction(deposit)
    assert tx is not None
    taken = set(spent_outpoints(tx))
    coins = tuple(coin for coin in it.coins(it.hub.script) if coin.outpoint not in taken and coin.height is not None)
    draft = compose_send(
        Purse(it.hub.script, coins, 2), Output(DUST, p2pkh(b"\x11" * 20)), pack_send(asset_id("XCP"), 1)
    )
    it.node.bitcoin("sendrawtransaction", finish_wallet(draft, it.hub.key).hex())
    it.mine()


def test_a_child_that_was_cycled_away_goes_out_again_at_the_next_look(it: Life) -> None:
    """The hub's child takes the place of the client's, and is then replaced by a spend of its other coin."""
    it.open()
    it.receive(120)
    it.hub.silent = True
    it.node.rpc("feerate", rate=8, minimum=1)
    try:
        it.close()
        fees = []
        for rate in (30, 45):
            commit, own = parent_and_child(it)
            fees.append(fee_of(it, own))
            cycle(it, commit, rate)
            assert own not in it.mempool()
            with suppress(HubUnreachable):
                it.sync()
            fees.append(fee_of(it, parent_and_child(it)[1]))
        assert fees == sorted(fees)
        assert fees[0] < fees[1] < fees[3]
    finally:
        it.node.rpc("feerate", rate=1, minimum=1)
    it.mine()
    assert commit not in it.mempool()
    it.settle(80)
    assert it.held() >= QUANTITY + 120 - 3


def parent_and_child(it: Life) -> tuple[str, str]:
    """The commit in the mempool, and its child."""
    entries = {txid: it.node.bitcoin("getmempoolentry", txid) for txid in it.mempool()}
    (pair,) = [(txid, entry["spentby"][0]) for txid, entry in entries.items() if entry["spentby"]]
    return pair


def fee_of(it: Life, txid: str) -> int:
    return round(1e8 * float(it.node.bitcoin("getmempoolentry", txid)["fees"]["base"]))


def cycle(it: Life, commit: str, rate: int) -> None:
    """Evict the child of a commit by one of the hub's, and that by a spend of its wallet's coin alone."""
    raw = bytes.fromhex(it.node.bitcoin("getrawtransaction", commit))
    tx = parse_transaction(raw)
    assert tx is not None
    place = next(n for n, out in enumerate(tx.vout) if bytes(out.scriptPubKey) == P2A)
    anyones = coin_of(raw, Outpoint(tx.GetTxid(), place))
    coin = max((c for c in it.coins(it.hub.script) if c.height is not None), key=lambda c: c.value)
    for inputs, version, most in (((anyones, coin), SHARED, rate), ((coin,), OWN, 3 * rate)):
        shape = Draft(tuple(map(Input, inputs)), (Output(0, it.hub.script),), version)
        left = replace(shape.outputs[0], value=shape.fee - most * (shape.size + 500))
        signed = finish_wallet(replace(shape, outputs=(left,)), it.hub.key)
        it.node.bitcoin("sendrawtransaction", signed.hex())

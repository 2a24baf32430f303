"""Attacks on a client by fees."""

from __future__ import annotations

from contextlib import suppress

import pytest
from client_support import QUANTITY, Life

from picopayments_cli.channel.drafts import Draft, Input, Output
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.terms import Terms
from picopayments_cli.errors import BadTerms, HubUnreachable


def test_a_proposal_made_while_fees_were_high_is_not_agreed_to_once_they_are_low(it: Life) -> None:
    it.hub.terms = Terms(0, 1, 1.0, 0, 12, 1, 34, 100)
    refuse_after(it, 34, 1)


def test_a_proposal_made_while_fees_were_low_is_not_agreed_to_by_a_client_that_can_raise_nothing(lone: Life) -> None:
    lone.hub.terms = Terms(0, 1, 1.0, 0, 12, 1, 1, 100)
    refuse_after(lone, 1, 34)


def refuse_after(it: Life, asked: int, used: int) -> None:
    """Kill a client at its proposal, and see the next one refuse it at another rate."""
    try:
        it.node.rpc("feerate", rate=asked)
        it.killed_at("save proposed", it.connect)
        it.node.rpc("feerate", rate=used)
        with pytest.raises(BadTerms):
            it.sync()
        assert it.mempool() == []
        it.node.rpc("feerate", rate=asked)
        it.sync()  # nothing was lost by it
        assert it.connection.stage == "agreed"
    finally:
        it.node.rpc("feerate", rate=1)


@pytest.mark.parametrize("empty", [False, True])
def test_a_hub_that_cheats_a_client_without_confirmed_coins_is_punished_at_the_best_rate_it_can_pay(
    it: Life, empty: bool
) -> None:
    it.open()
    it.pay(300)
    it.receive(250)
    commit = it.hub.publish(max(it.hub.received, key=lambda commit: commit.quantity))
    it.mine()
    it.hub.silent = True
    try:
        it.node.rpc("feerate", rate=50)
        spend_all(it, it.hub.script if empty else it.wallet)
        sync(it)
        first = spender(it, commit)
        assert paid(it, first) >= 1
        it.mine()
        assert first in it.mempool()
        sync(it)
        if not empty:
            assert paid(it, spender(it, commit)) >= 50  # the change has confirmed
            it.mine()
            assert it.held() > 0  # it was mined while fees were high
    finally:
        it.node.rpc("feerate", rate=1)
    it.settle()
    assert it.held() == QUANTITY + it.connection.duplex.receiving.moved


def sync(it: Life) -> None:
    """Sync with a hub that is silent."""
    with suppress(HubUnreachable):
        it.sync()


def spend_all(it: Life, script: bytes) -> None:
    """Have the client's wallet spend all its coins to a script at 100 sat/vB."""
    coins = it.coins(it.wallet)
    shape = Draft(tuple(map(Input, coins)), (Output(0, script),))
    draft = Draft(shape.inputs, (Output(shape.fee - 100 * shape.size, script),))
    it.node.bitcoin("sendrawtransaction", finish_wallet(draft, it.session.wallet.key).hex())


def spender(it: Life, commit: str) -> str:
    """The one transaction in the mempool that spends a commit's first output."""
    raws = {txid: it.node.bitcoin("getrawtransaction", txid, True) for txid in it.mempool()}
    (found,) = [txid for txid, raw in raws.items() if (raw["vin"][0]["txid"], raw["vin"][0]["vout"]) == (commit, 0)]
    return found


def paid(it: Life, txid: str) -> float:
    """The satoshis per vB that a transaction in the mempool pays."""
    entry = it.node.bitcoin("getmempoolentry", txid)
    return float(1e8 * entry["fees"]["base"] / entry["vsize"])

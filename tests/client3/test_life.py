"""A connection of protocol 3 from its opening to its end, on the chain, as its client leads it."""

from __future__ import annotations

import pytest
from client3_support import QUANTITY, Life

from picopayments_cli.errors import HubUnreachable


def test_a_connection_opens_once_both_deposits_are_buried(it: Life) -> None:
    it.connect()
    assert it.status() == "opening"
    assert len(it.mempool()) == 1
    it.mine()
    assert it.status() == "opening"
    it.hub.see(it.connection)
    it.hub.fund(it.coins(it.hub.script))
    assert it.status() == "opening"
    it.mine()
    assert it.status() == "open"
    assert it.held() == 0


def test_payments_move_both_ways(it: Life) -> None:
    it.open()
    it.pay(300)
    it.receive(120)
    it.receive(50)
    duplex = it.connection.duplex
    fees = 4 * it.hub.terms.sync_fee
    assert duplex.guaranteed == QUANTITY - 300 - fees + 170
    assert it.hub.now.guaranteed == QUANTITY + 300 + fees - 170
    assert duplex == it.session.connection(it.connection.handle).duplex


def test_a_lost_answer_is_fetched_by_the_next_sync(it: Life) -> None:
    it.open()
    it.queue(100)
    it.hub.lost = 1
    with pytest.raises(HubUnreachable):
        it.sync()
    assert it.connection.pending is not None
    it.sync()
    assert it.connection.pending is None
    assert it.connection.duplex.guaranteed == it.hub.now.sending.contract.quantity - 100 - 2
    assert it.connection.duplex.guaranteed + it.hub.now.guaranteed == 2 * QUANTITY


def test_an_agreed_close_brings_each_side_its_own(it: Life) -> None:
    it.open()
    it.pay(300)
    it.receive(120)
    due = it.connection.duplex.guaranteed - it.hub.terms.sync_fee
    it.close()
    assert it.connection.ending.told
    assert it.mempool()
    it.settle()
    assert it.held() == due
    assert it.hub.outcome.h2c is not None


def test_a_close_before_any_payment_takes_the_deposit_back(it: Life) -> None:
    it.connect()
    it.fund()
    it.hub.refuses = None
    it.close()
    it.settle()
    assert it.held() >= QUANTITY - 1


def test_a_silent_hub_is_closed_with_by_the_own_commit_and_the_expiry(it: Life) -> None:
    it.open()
    it.receive(120)
    it.pay(30)
    due = it.connection.duplex.guaranteed
    it.hub.silent = True
    it.close()
    assert it.connection.duplex.receiving.half_left
    it.settle(EXPIRE_AND_MORE)
    assert it.held() == due + it.connection.duplex.sending.moved  # the hub never published its own


EXPIRE_AND_MORE = 80

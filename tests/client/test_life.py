"""A connection from its opening to its end, on the chain, as its client leads it."""

from __future__ import annotations

from contextlib import suppress

import pytest
from client_support import EXPIRE, QUANTITY, Life

from picopayments_cli.channel.values import Token
from picopayments_cli.errors import ChannelUnspendable, HubUnreachable, PaymentExceedsReceivable


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
    assert it.connection.pending
    it.sync()
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
    it.close()
    it.settle()
    assert it.held() == QUANTITY - it.hub.terms.sync_fee


def test_a_silent_hub_is_closed_with_by_the_own_commit_and_the_expiry(it: Life) -> None:
    it.open()
    it.receive(120)
    it.pay(30)
    it.hub.silent = True
    it.close()
    assert it.connection.duplex.receiving.half_left
    it.settle(EXPIRE + 20)
    duplex = it.connection.duplex
    assert it.held() == duplex.guaranteed + duplex.sending.moved  # the hub never published its own
    assert [item["kind"] for item in it.told() if item["action"] == "published"] == ["commit", "payout", "expire"]


def test_the_rest_of_the_hubs_commit_is_asked_for_though_both_have_published(it: Life) -> None:
    """Both commits are mined, and the client has heard nothing since its newest one: only the hub signs its rest."""
    it.open()
    it.receive(120)
    it.queue(30)
    it.hub.lost = 1
    with suppress(HubUnreachable):
        it.sync()
    assert it.connection.duplex.sending.awaited is not None
    it.hub.silent = True
    it.close()
    it.hub.publish(it.hub.now.receiving.active[-1].commit)
    it.mine(3)
    it.hub.silent = False
    it.settle(EXPIRE // 3)
    assert it.held() == it.connection.duplex.guaranteed


def test_a_lonely_commit_is_raised_by_a_child_where_the_network_asks_more(it: Life) -> None:
    it.open()
    it.receive(120)
    it.hub.silent = True
    it.node.rpc("feerate", rate=20, minimum=3)  # the mempool takes no commit of 2 sat/vB by itself
    try:
        it.close()
        commit, child = (it.node.bitcoin("getmempoolentry", txid) for txid in _parent_first(it))
        fees = commit["fees"]["base"] + child["fees"]["base"]
        assert 10**8 * fees >= 20 * (commit["vsize"] + child["vsize"])
        it.mine()
        assert it.mempool() == []
    finally:
        it.node.rpc("feerate", rate=1, minimum=1)


def _parent_first(it: Life) -> list[str]:
    depends = {txid: it.node.bitcoin("getmempoolentry", txid)["depends"] for txid in it.mempool()}
    return sorted(depends, key=lambda txid: len(depends[txid]))


def test_a_revoked_commit_is_punished_in_the_mempool_and_stays_so(it: Life) -> None:
    it.open()
    it.pay(300)
    it.receive(250)
    revoked = max(it.hub.received, key=lambda commit: commit.quantity)
    assert it.connection.rows.signed[revoked.revoke_hash].secret is not None
    it.hub.publish(revoked)
    it.hub.silent = True
    with suppress(HubUnreachable):
        it.sync()
    assert "broadcast revoke" in it.doors.passed
    it.settle()
    assert it.held() == QUANTITY + it.connection.duplex.receiving.moved  # all of the deposit, and what was received


def test_the_hubs_active_commit_leaves_the_rest_to_the_client(it: Life) -> None:
    it.open()
    it.pay(300)
    it.receive(20)
    it.hub.silent = True
    it.hub.publish(it.hub.now.receiving.active[-1].commit)
    with suppress(HubUnreachable):
        it.sync()
    assert it.connection.stage == "closing"
    it.settle()
    duplex = it.connection.duplex
    assert it.held() == duplex.guaranteed
    assert "remainder" in [item.get("kind") for item in it.told()]


def test_a_refused_payment_is_sent_no_more_and_its_amount_comes_back(it: Life) -> None:
    it.open()
    it.hub.refusing = {Token(b"refused")}
    it.pay(100, b"refused")
    assert it.connection.owed == 0
    assert it.connection.duplex.guaranteed == QUANTITY - 2


def test_payments_that_the_hub_refuses_whole_leave_the_sync_with_its_commit_as_it_was(it: Life) -> None:
    it.open()
    it.queue(100)
    it.hub.refuses = PaymentExceedsReceivable("Too much.")
    with pytest.raises(PaymentExceedsReceivable):
        it.sync()
    bodies = it.connection.pending.bodies if it.connection.pending else ()
    assert [len(body["sends"]) for body in bodies] == [1, 0]
    assert bodies[0]["commit"] == bodies[1]["commit"]
    it.hub.refuses = None
    it.sync()
    assert it.connection.pending is None
    assert it.connection.duplex.guaranteed == QUANTITY - 2  # the amount came back


def test_a_client_without_a_bitcoin_node_does_all_of_it(lone: Life) -> None:
    lone.open()
    lone.pay(300)
    lone.receive(120)
    due = lone.connection.duplex.guaranteed - lone.hub.terms.sync_fee
    lone.close()
    assert lone.hub.outcome.c2h is not None  # it was handed the client's signature
    lone.settle()
    assert lone.held() == due


def test_a_hub_that_signs_no_close_is_closed_with_alone(it: Life) -> None:
    it.open()
    it.receive(120)
    it.hub.closes_alone = True
    it.close()
    for _ in range(6):
        it.mine()
        it.sync()
    assert "commit" in [item.get("kind") for item in it.told()]
    it.settle(EXPIRE + 20)
    duplex = it.connection.duplex
    assert it.held() == duplex.guaranteed + duplex.sending.moved


def test_a_reorganisation_of_the_hubs_deposit_is_noticed(it: Life) -> None:
    it.open()
    height = it.connection.counted[1]
    it.node.rpc("reorganise", depth=1)
    it.mine()
    it.sync()
    assert it.connection.counted[1] != height
    assert it.status() == "open"


def test_the_hubs_deposit_that_a_reorganisation_took_away_is_published_again(it: Life) -> None:
    it.open()
    it.receive(120)
    it.node.rpc("reorganise", depth=1, forget=True)
    assert it.status() == "opening"
    it.sync()
    assert it.doors.passed == ["broadcast deposit", "deposit is out"]
    it.mine()
    assert it.status() == "open"


def test_a_reorganisation_reopens_a_closed_connection_until_it_is_final(it: Life) -> None:
    it.open()
    it.pay(300)
    due = it.connection.duplex.guaranteed - it.hub.terms.sync_fee
    it.close()
    it.settle()
    it.node.rpc("reorganise", depth=3, forget=True)
    it.sync()
    assert it.connection.stage == "closing"
    it.settle()
    assert it.held() == due
    it.mine(7)
    it.sync()
    assert it.connection.final


def test_a_deposit_that_never_counts_closes_the_connection_and_comes_back_at_the_expiry(it: Life) -> None:
    it.connect()
    it.mine()
    it.hub.silent = True
    it.until(it.connection.expiry.settle_height - 1)
    it.sync()
    assert it.connection.stage == "closing"
    it.settle(20)
    assert it.held() == QUANTITY
    assert [item["kind"] for item in it.told() if item["action"] == "published"] == ["expire"]


def test_a_deposit_that_could_not_be_taken_back_does_not_leave(it: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hub and client run the same faulty program here: that both agree on the script says nothing."""
    monkeypatch.setattr("picopayments_cli.channel.scripts._CLTV_DROP", b"\xb1")
    with pytest.raises(ChannelUnspendable):
        it.connect()
    assert it.mempool() == []
    assert it.held() == QUANTITY
    assert it.session.connections() == {}

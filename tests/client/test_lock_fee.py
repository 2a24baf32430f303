"""The lock fee, and the time for the own one: what the client pays, waits for and is told."""

from __future__ import annotations

from dataclasses import replace

from client_support import EXPIRE, QUANTITY, Life

from picopayments_cli.client import hubs, showing

FEE = 7 + 12  # of a thousand of the hub's, for sixty blocks


def terms(it: Life) -> None:
    it.hub.terms = replace(it.hub.terms, lock_base=7, lock_rate=200_000)


def comes_back(it: Life) -> None:
    """The deposit is in the wallet again, long before the expiry, by a close that the hub agrees to."""
    it.sync()
    it.mine()
    assert it.held() == QUANTITY
    assert it.connection.stage == "closing"  # until the expiry the hub could still deposit


def waits(it: Life) -> dict[str, object]:
    """What the connection is shown to wait for."""
    it.restart()
    (group,) = hubs.seen(it.session, [it.connection])
    return showing.shown(group, it.connection, verbose=True).members


def test_the_fee_is_paid_by_the_first_sync_once_and_the_hub_deposits_after_it(it: Life) -> None:
    terms(it)
    it.connect()
    assert it.connection.lock_due == FEE
    shown = waits(it)
    assert (shown["waiting_for"], shown["deposit_by"]) == ("deposit", it.connection.deposit_by)
    it.sync()
    assert "call mph_sync" not in it.doors.passed
    it.mine()
    it.hub.see(it.connection)
    it.hub.terms = replace(it.hub.terms, sync_fee=1 + FEE)  # as a hub takes it that waits for it
    shown = waits(it)
    assert (shown["status"], shown["waiting_for"], shown["lock_due"]) == ("opening", "sync", FEE)
    assert shown["until_height"] == it.connection.expiry.fee_by(it.connection.deposit_by or 0)
    it.queue(100)
    it.killed_at("mph_sync is answered", it.sync)
    it.sync()
    assert (it.connection.lock_due, it.connection.pending) == (0, None)
    assert it.hub.now.receiving.moved == FEE + 1  # the queue waits until it is open
    it.sync()
    assert "call mph_sync" not in it.doors.passed
    it.hub.terms = replace(it.hub.terms, sync_fee=1)
    it.hub.fund(it.coins(it.hub.script))
    it.mine()
    assert it.status() == "open"
    it.sync()
    assert it.hub.now.receiving.moved == FEE + 1 + 100 + 1
    told = [event for event in it.told() if event["action"] in ("locked", "fee")]
    assert [event.get("amount", event.get("sync_fee")) for event in told] == [FEE, 1, 1]


def test_a_deposit_that_is_late_closes_the_connection_and_comes_back(it: Life) -> None:
    it.connect()
    by = it.connection.deposit_by
    assert by == it.tip + 12
    it.node.rpc("feerate", rate=90)  # what pays less waits in the mempool
    it.until(by - 1)
    it.sync()
    assert it.connection.stage == "agreed"
    it.mine()
    assert len(it.mempool()) == 1
    assert it.status() == "closing"
    it.node.rpc("feerate", rate=1)
    it.mine()
    it.hub.see(it.connection)
    comes_back(it)


def test_a_fee_that_is_not_paid_in_time_closes_the_connection_and_costs_nothing(it: Life) -> None:
    terms(it)
    it.connect()
    it.mine()
    it.hub.see(it.connection)
    fee_by = it.connection.expiry.fee_by(it.connection.deposit_by or 0)
    assert fee_by == it.connection.expiry.height - EXPIRE // 2
    it.until(fee_by + 1)
    assert it.status() == "closing"
    comes_back(it)

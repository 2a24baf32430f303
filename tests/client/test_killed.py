"""A client that is killed at any door goes on from its files: nothing is lost, and nothing is done twice."""

from __future__ import annotations

from contextlib import suppress

import pytest
from client_support import QUANTITY, Killed, Life

from picopayments_cli.errors import HubUnreachable, PaymentExceedsReceivable, PicopaymentsError

OPENING = (
    *("save asked", "call mph_request", "mph_request is answered", "save proposed", "call mph_deposit"),
    *("mph_deposit is answered", "save agreed", "broadcast deposit", "deposit is out"),
)
SYNC = ("save sync prepared", "call mph_sync", "mph_sync is answered", "save sync settled")
CLOSE = (
    *("save closing", "save close asked", "call mph_close", "mph_close is answered", "save close judged"),
    *("save hub told", "save close leaves", "broadcast close", "close is out", "save close left"),
)
ALONE = ("save closing", "save commit signed", "save commit leaves", "broadcast commit", "commit is out",
         "save commit left")  # fmt: skip


@pytest.mark.parametrize("door", OPENING)
def test_killed_while_opening(it: Life, door: str) -> None:
    it.killed_at(door, it.connect)
    it.restart()
    found = list(it.session.connections().values())
    if not found:  # nothing was agreed on, and nothing was deposited
        assert it.mempool() == []
        it.connect()
    elif not it.mempool():
        it.sync()  # agrees
        it.sync()  # publishes the deposit again
    assert len(it.mempool()) == 1
    it.fund()
    assert it.status() == "open"
    it.pay(30)
    assert it.connection.duplex.guaranteed == QUANTITY - 31


@pytest.mark.parametrize("door", SYNC)
def test_killed_while_syncing(it: Life, door: str) -> None:
    it.open()
    it.receive(120)
    it.queue(30)
    it.killed_at(door, it.sync)
    it.sync()
    it.sync()
    duplex = it.connection.duplex
    assert [item["amount"] for item in it.told() if item["action"] == "sent"] == [30]
    assert duplex.guaranteed + it.hub.now.guaranteed == 2 * QUANTITY


@pytest.mark.parametrize("door", CLOSE)
def test_killed_while_closing_in_agreement(it: Life, door: str) -> None:
    it.open()
    it.pay(300)
    it.receive(20)
    due = it.connection.duplex.guaranteed - it.hub.terms.sync_fee
    it.killed_at(door, it.close)
    it.settle()
    assert it.held() == due
    kinds = [item["kind"] for item in it.told() if item["action"] == "published"]
    assert sorted(kinds) == ["close", "close", "rest"]


@pytest.mark.parametrize("door", ALONE)
def test_killed_while_closing_alone(it: Life, door: str) -> None:
    it.open()
    it.receive(120)
    it.hub.silent = True
    with suppress(HubUnreachable, PicopaymentsError):
        it.killed_at(door, it.close)
    for _ in range(8):
        with suppress(Killed):
            it.sync()
        it.mine()
    it.sync()
    assert it.held() == it.connection.duplex.receiving.moved
    kinds = [item["kind"] for item in it.told() if item["action"] == "published"]
    assert kinds == ["commit", "payout"]


def doors_of(name: str) -> list[str]:
    """Those that a step goes through."""
    return [f"save {name} leaves", f"broadcast {name}", f"{name} is out", f"save {name} left"]


@pytest.mark.parametrize("door", doors_of("revoke"))
def test_killed_while_punishing(it: Life, door: str) -> None:
    it.open()
    it.pay(300)
    it.receive(250)
    it.hub.publish(max(it.hub.received, key=lambda commit: commit.quantity))
    it.hub.silent = True
    it.killed_at(door, it.sync)
    it.settle()
    assert it.held() == QUANTITY + it.connection.duplex.receiving.moved
    kinds = [item["kind"] for item in it.told() if item["action"] == "published"]
    assert sorted(kinds) == ["commit", "payout", "remainder", "revoke"]


@pytest.mark.parametrize("door", doors_of("expire"))
def test_killed_while_taking_the_deposit_back_at_the_expiry(it: Life, door: str) -> None:
    it.connect()
    it.mine()
    it.hub.silent = True
    it.close()
    it.until(it.connection.expiry.height)
    it.killed_at(door, it.sync)
    it.settle()
    assert it.held() == QUANTITY
    assert [item["kind"] for item in it.told() if item["action"] == "published"] == ["expire"]


@pytest.mark.parametrize("door", ["save sync repaired", *SYNC[1:]])
def test_killed_while_repairing_a_sync(it: Life, door: str) -> None:
    it.open()
    it.queue(100)
    it.hub.refuses = PaymentExceedsReceivable("Too much.")
    it.hub.forgives = True
    it.killed_at(door, it.sync)
    it.sync()
    it.sync()
    assert it.connection.pending is None
    assert it.connection.duplex.guaranteed + it.hub.now.guaranteed == 2 * QUANTITY
    assert [item["amount"] for item in it.told() if item["action"] == "refused"] == [100]

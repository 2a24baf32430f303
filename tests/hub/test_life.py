"""A connection's life on the hub: opening, syncs, closes, punishments, the expiry, restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from channel_support import close_transaction
from hub_support import DEPOSIT, Client, Desk, open_all, payment, running_desk

from picopayments_cli.channel.close import handed_over


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_desk(tmp_path) as found:
        yield found


def test_a_connection_opens_once_both_deposits_are_buried(desk: Desk) -> None:
    alice = Client(desk, "alice")
    alice.agree()
    alice.endow()
    desk.mine()
    alice.deposit()
    desk.rounds.once()
    assert desk.account(alice.handle).channels.receiving.anchor is None
    desk.mine()
    assert desk.account(alice.handle).channels.receiving.anchor is not None
    assert desk.account(alice.handle).stage == "agreed"
    desk.mine()
    assert desk.account(alice.handle).stage == "open"
    assert desk.account(alice.handle).channels.guaranteed == DEPOSIT


def test_fifty_syncs_pay_both_ways_and_ask_no_node(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    open_all(desk, alice, bob)
    asked = count_requests(monkeypatch)
    for number in range(25):
        payer, payee = (alice, bob) if number % 3 else (bob, alice)
        payer.sync(payment(payee.handle, 100 + number))
        reply = payee.sync()
        assert [item.amount for item in reply.receipts] == [100 + number]
    assert asked == []
    for hand in (alice, bob):
        theirs = desk.account(hand.handle).channels
        assert theirs.net == -hand.duplex.net
        assert theirs.sending.moved == hand.duplex.receiving.moved
    assert desk.account(alice.handle).channels.net + desk.account(bob.handle).channels.net == 50


def count_requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that this process asks from now on."""
    asked: list[str] = []
    send = requests.Session.send

    def counted(self: requests.Session, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        asked.append(str(request.url))
        return send(self, request, **kwargs)

    monkeypatch.setattr(requests.Session, "send", counted)
    return asked


def test_an_agreed_close_is_mined_and_booked(desk: Desk) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    open_all(desk, alice, bob)
    alice.sync(payment(bob.handle, 5000))
    bob.sync()
    before = desk.balance(desk.hub.script)
    _, reply, outcome = bob.ask_close()
    assert outcome.refused == ()
    assert outcome.c2h is not None or reply.figures.c2h == 0
    assert desk.account(bob.handle).stage == "closing"
    if outcome.c2h is not None:
        bob.publish(close_transaction(bob.duplex.sending, outcome.c2h))
    desk.until("closed", bob.handle)
    assert desk.balance(desk.hub.script) == before + DEPOSIT - 5000 + 1
    assert desk.balance(bob.script) >= 5000


def test_the_hub_makes_its_deposit_anew_at_the_rate_of_the_day(desk: Desk) -> None:
    alice = Client(desk, "alice")
    alice.agree()
    alice.endow()
    desk.mine()
    alice.deposit()
    desk.mine()
    (first,) = desk.mempool()
    desk.node.rpc("feerate", rate=10)
    desk.rounds.once()
    (second,) = desk.mempool()
    entry = desk.node.bitcoin("getmempoolentry", second)
    assert second != first
    assert entry["fees"]["base"] * 1e8 >= 10 * entry["vsize"]
    desk.rounds.once()
    assert desk.mempool() == [second]
    desk.mine()
    assert desk.account(alice.handle).stage == "open"


def test_a_reorganisation_of_the_deposit_is_waited_for(desk: Desk) -> None:
    alice = Client(desk, "alice")
    open_all(desk, alice)
    desk.node.rpc("reorganise", depth=1)
    desk.rounds.once()
    assert desk.account(alice.handle).stage == "agreed"
    request, _ = alice.sync_request(1)
    assert alice.refused("mph_sync", request.as_json()) == "ConnectionNotOpen"
    desk.mine()
    assert desk.account(alice.handle).stage == "open"
    alice.sync()


@pytest.mark.parametrize("restarted", [False, True])
def test_deposits_that_no_block_and_no_mempool_has_any_more_are_published_again(desk: Desk, restarted: bool) -> None:
    alice = Client(desk, "alice")
    open_all(desk, alice)
    alice.sync(payment(None, 5000))
    before = desk.balance(desk.hub.script)
    desk.node.rpc("reorganise", depth=2, forget=True)
    desk.hub.follower.catch_up()  # both are gone
    if restarted:
        desk.stop()
        desk.start()
    desk.mine(2)
    assert desk.account(alice.handle).stage == "open"
    alice.sync()
    desk.hub.draining = True
    desk.mine(6)
    assert desk.balance(desk.hub.script) == before + 5002


def test_the_hub_publishes_the_close_whose_signature_it_is_handed(desk: Desk) -> None:
    alice = Client(desk, "alice")
    open_all(desk, alice)
    alice.sync(payment(None, 5000))
    before = desk.balance(desk.hub.script)
    request, reply, outcome = alice.ask_close()
    assert (reply.figures.c2h, reply.figures.h2c) == (5001, 0)
    handed = alice.call("mph_close", handed_over(request, outcome).as_json())
    assert alice.call("mph_close", handed_over(request, outcome).as_json()) == handed
    desk.until("closed", alice.handle)
    assert desk.balance(desk.hub.script) == before + DEPOSIT + 5001
    assert desk.account(alice.handle).channels.close_signed


def test_a_hub_deposits_nothing_that_it_could_not_take_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = Client(desk, "alice")
    alice.agree()
    alice.endow()
    desk.mine()
    alice.deposit()
    before = desk.balance(desk.hub.script)
    monkeypatch.setattr("picopayments_cli.channel.signing.payer_witness", lambda *_: (b"",))
    desk.mine()
    assert desk.mempool() == []
    assert desk.account(alice.handle).deposit_raw is None
    desk.mine(3)
    assert desk.balance(desk.hub.script) == before
    assert desk.account(alice.handle).stage == "agreed"

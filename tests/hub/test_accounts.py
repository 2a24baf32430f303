"""The hub's connections as its database keeps them: read again as they were written, whatever came between."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hub_support import FEE, Client, Desk, amounts, open_all, payment, states
from sqlalchemy import text

from picopayments_cli.channel.values import Handle
from picopayments_cli.errors import DatabaseUnusable
from picopayments_cli.hub.account import Queue
from picopayments_cli.hub.hub import Ask


def pay(alice: Client, bob: Client, amount: int) -> None:
    """One payment, received."""
    alice.sync(payment(bob.handle, amount))
    assert amounts(bob.sync()) == [amount]


def check_reading(desk: Desk, *hands: Client) -> None:
    """Compare connections with what another process reads from the same database."""
    before = [desk.account(hand.handle) for hand in hands]
    desk.stop()
    desk.start()
    assert [desk.account(hand.handle) for hand in hands] == before


def test_a_connection_is_read_as_it_was_written_all_its_life(desk: Desk, alice: Client, bob: Client) -> None:
    new, other = Client(desk, "new"), Client(desk, "opening")
    new.request()
    check_reading(desk, new)
    new.propose(new.proposal())
    other.agree()
    check_reading(desk, new, other)
    other.endow()
    desk.mine()
    other.deposit()
    desk.mine()  # the hub's deposit is on its way
    check_reading(desk, other)
    desk.mine()
    other.see_deposits()
    check_reading(desk, other)
    desk.rounds.once()
    pay(alice, bob, 500)
    pay(alice, bob, 300)
    pay(bob, alice, 250)
    alice.sync(payment(bob.handle, 20), payment(bob.handle, 20))
    assert (desk.account(bob.handle).waiting.count, desk.account(bob.handle).listed) == (2, False)
    check_reading(desk, alice, bob)
    desk.rounds.once()
    assert amounts(bob.sync()) == [20, 20]
    assert desk.account(bob.handle).listed
    check_reading(desk, alice, bob)
    desk.rounds.once()
    pay(bob, alice, 5)
    alice.ask_close()
    check_reading(desk, alice, bob)
    bob.ask_close()
    desk.mine()
    check_reading(desk, alice, bob)
    desk.rounds.once()


def test_a_sync_answered_before_a_restart_is_answered_the_same_after_it(desk: Desk, alice: Client) -> None:
    request, moved = alice.sync_request(5, payment(None, 4))
    body = alice.sealed("mph_sync", request.as_json())
    first = desk.call("mph_sync", body)
    desk.stop()
    desk.start()
    assert desk.call("mph_sync", body) == first  # before any round: a stored reply needs no view of the chain
    assert alice.paid == 5
    alice.take(alice.parsed(first), moved)
    desk.rounds.once()
    alice.sync()


def test_a_connection_goes_on_after_many_syncs_and_a_restart(desk: Desk, alice: Client, bob: Client) -> None:
    for _ in range(12):
        pay(alice, bob, 30)
    check_reading(desk, alice, bob)
    desk.rounds.once()
    for _ in range(25):
        pay(bob, alice, 10)
    check_reading(desk, alice, bob)
    desk.rounds.once()
    assert (alice.paid, bob.paid) == (12 * 31 + 25 - 250, 12 + 25 * 11 - 360)


def test_a_sync_leaves_what_changes_rarely_alone(desk: Desk, alice: Client) -> None:
    with desk.database.transaction("mark") as connection:
        marking = text("update connections set fixed = fixed || ' ' where handle = :of")
        connection.execute(marking, {"of": alice.handle})
    alice.sync()
    ((fixed,),) = desk.rows("select fixed from connections where handle = :of", alice.handle)
    assert fixed.endswith(" ")


def test_payments_whose_payer_has_closed_stay_the_payees_and_are_told_of_once(
    desk: Desk, alice: Client, bob: Client, caplog: pytest.LogCaptureFixture
) -> None:
    alice.sync(payment(bob.handle, 7), payment(bob.handle, 8))
    with caplog.at_level("INFO", "picopayments_cli"):
        for hand in (alice, bob):
            hand.ask_close()
        desk.mine(3)
        desk.hub.ask(Ask.NOW, bob.handle)
        desk.rounds.once()
    told = [vars(record)["fields"] for record in caplog.records if record.message == "closing"]
    assert [item["kept"] for item in told if item["handle"] == bob.handle.hex()] == [15]
    assert states(desk, alice) == [(7, "waiting"), (8, "waiting")]
    assert desk.account(bob.handle).waiting == Queue(2, 15)


def test_who_reads_does_not_wait_for_who_writes(desk: Desk, alice: Client) -> None:
    with ThreadPoolExecutor(1) as pool, desk.hub.book.transaction("another request") as work:
        work.put(replace(work.get(alice.handle), due=5))
        asked = {"handles": [alice.handle.hex()]}
        status = json.loads(pool.submit(desk.call, "mph_status", asked).result(timeout=60))
        account = pool.submit(desk.hub.book.look_up, alice.handle).result(timeout=60)
        work.put(replace(work.get(alice.handle), due=0))
    assert status["connections"][alice.handle.hex()]["status"] == "open"
    assert account.due == 0  # as it was committed


def test_a_row_that_another_hub_wrote_is_not_written_over(desk: Desk, alice: Client) -> None:
    alice.sync()
    old = desk.account(alice.handle)
    with desk.database.transaction("another hub") as connection:
        connection.execute(text("update heads set version = version + 1 where handle = :of"), {"of": alice.handle})
    newest = desk.account(alice.handle)
    with pytest.raises(DatabaseUnusable), desk.hub.book.transaction("a hub that has read it before") as work:
        work.put(old)
    assert desk.account(alice.handle) == newest
    alice.sync()
    assert alice.paid == 2 * FEE


def test_what_fails_half_way_is_kept_nowhere(desk: Desk, alice: Client, bob: Client) -> None:
    before = desk.account(alice.handle), desk.account(bob.handle)
    request, _ = alice.sync_request(30, payment(bob.handle, 10), payment(Handle(bytes(32)), 10))
    assert alice.sync_refused(replace(request, partial=False)) == "UnknownHandle"
    assert (desk.account(alice.handle), desk.account(bob.handle)) == before
    assert desk.rows("select amount from payments where payer = :of", alice.handle) == []
    assert amounts(bob.sync()) == []
    alice.sync()


def test_what_was_watched_of_a_closed_connection_is_forgotten_and_its_close_is_still_answered(desk: Desk) -> None:
    hand = Client(desk, "over")
    open_all(desk, hand)
    hand.sync()
    request, _, outcome = hand.ask_close()
    assert outcome.c2h is not None
    desk.until("closed", hand.handle, 40)
    desk.node.rpc("generate", blocks=201)
    desk.rounds.once()
    tables = ("watched", "deposits", "awaited")
    left = [desk.rows(f"select count(*) from {table} where handle = :of", hand.handle) for table in tables]
    assert left == [[(0,)]] * 3
    hand.call("mph_close", request.as_json())
    desk.rounds.once()
    desk.mine()
    assert desk.account(hand.handle).stage == "closed"

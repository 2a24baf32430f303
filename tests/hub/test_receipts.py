"""Receipts go from payees to those who have paid, through the hub and to nobody else; what has expired is not taken."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hub_support import STRANGER, Client, Desk, amounts, payment, states

from picopayments_cli.channel.payment_request import token_of
from picopayments_cli.channel.receipts import Given, ReceiptsReply, ReceiptsRequest
from picopayments_cli.channel.values import Handle, Token
from picopayments_cli.hub import forgetting, rounds

RECEIPT = b"r" * 32
TOKEN = token_of(RECEIPT)


def body(client: Client, *given: Given, ask: Token | None = None) -> dict[str, Any]:
    """A request's body."""
    return ReceiptsRequest(os.urandom(32), client.handle, given, (ask,) if ask else ()).as_json()


def told(client: Client, *given: Given, ask: Token | None = None) -> list[bytes]:
    """The receipts that a client gets by the hub's signed word."""
    return list(ReceiptsReply.parse(client.call("mph_receipts", body(client, *given, ask=ask))).receipts)


def test_a_receipt_reaches_who_has_paid_and_nobody_else(desk: Desk, alice: Client, bob: Client) -> None:
    receipt = os.urandom(32)
    token = token_of(receipt)
    alice.sync(replace(payment(bob.handle, 5), token=token))
    given = Given(alice.handle, receipt)
    assert told(bob, given) == []  # it was not received yet: it is passed over
    assert told(alice, ask=token) == []
    assert amounts(bob.sync()) == [5]
    before = bob.paid, alice.paid
    for other in (Given(STRANGER, receipt), Given(bob.handle, receipt), Given(alice.handle, RECEIPT)):
        assert told(bob, other) == []
    assert told(alice, Given(alice.handle, receipt), ask=token) == []  # the payee alone can give it
    assert told(bob, given, given) == []
    assert told(alice, ask=token) == [receipt]
    assert told(alice, ask=token) == [receipt]
    assert told(bob, ask=token) == []
    assert (bob.paid, alice.paid) == before


def test_a_small_payment_of_the_same_token_buys_no_receipt(desk: Desk, alice: Client, bob: Client) -> None:
    from hub_support import open_all

    thief = Client(desk, f"thief of {alice.handle.hex()[:8]}")
    open_all(desk, thief)
    receipt = os.urandom(32)
    token = token_of(receipt)
    alice.sync(replace(payment(bob.handle, 5), token=token))
    thief.sync(replace(payment(bob.handle, 1), token=token))
    assert amounts(bob.sync()) == [5, 1]
    told(bob, Given(alice.handle, receipt))
    assert (told(alice, ask=token), told(thief, ask=token)) == ([receipt], [])


def test_only_the_connections_own_key_is_heard(desk: Desk, alice: Client, bob: Client) -> None:
    asked = body(alice, ask=TOKEN)
    assert bob.refused("mph_receipts", asked) == "BadClientSignature"
    assert desk.name_of("mph_receipts", asked) == "BadClientSignature"
    assert alice.refused("mph_receipts", {**asked, "handle": STRANGER.hex()}) == "UnknownHandle"
    wrong: list[dict[str, Any]] = [
        {"nonce": "00"},
        {"tokens": ["00"]},
        {"tokens": [TOKEN.hex()] * 101},
        {"given": [{"payer_handle": STRANGER.hex(), "receipt": "00" * 31}]},
        {"given": [{"payer_handle": STRANGER.hex(), "receipt": "00" * 32}] * 101},
        {"given": None},
        {"protocol": 2},
    ]
    for change in wrong:
        assert alice.refused("mph_receipts", asked | change) == "BadRequest", change


def test_what_has_expired_is_given_back(desk: Desk, alice: Client, bob: Client) -> None:
    now = int(time.time())
    late, early = (replace(payment(bob.handle, 3), expires=now + left) for left in (-1, 600))
    reply = alice.sync(late, early)
    assert [(item.token, item.cause) for item in reply.refused] == [(late.token, "RequestExpired")]
    assert [amount for amount, _ in states(desk, alice)] == [3]
    (received,) = bob.sync().receipts
    assert received.token == early.token
    assert now <= received.time <= int(time.time())


def test_a_copy_of_a_request_tells_no_more(desk: Desk, alice: Client, bob: Client) -> None:
    receipt = os.urandom(32)
    token = token_of(receipt)
    alice.sync(replace(payment(bob.handle, 2), token=token))
    bob.sync()
    copy = bob.sealed("mph_receipts", body(bob, Given(alice.handle, receipt)))
    first = desk.call("mph_receipts", copy)
    assert desk.call("mph_receipts", copy) == first
    assert told(alice, ask=token) == [receipt]


def test_nobody_waits_for_handles_of_others(desk: Desk, alice: Client, bob: Client) -> None:
    assert desk.hub.book.look_up(Handle(bob.handle)).fixed.client != alice.key.pubkey
    asked = Client(desk, "asked and agreed, and never paid for")
    asked.agree()
    with desk.hub.book.reading() as book:
        assert book.owned(alice.key.pubkey, [bob.handle, alice.handle, STRANGER]) == [alice.handle]
        assert book.owned(asked.key.pubkey, [asked.handle]) == []


def test_payments_are_dropped_a_month_after_they_arrived_and_their_number_is_still_told(
    desk: Desk, open_clients: Iterator[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    payer, payee, gone, idle = (next(open_clients) for _ in range(4))
    for hand in (payee, gone, idle):
        payer.sync(payment(hand.handle, 3))
    gone.sync()  # its client never acknowledges this reply
    payer.sync(payment(gone.handle, 4))
    gone.ask_close()  # the second payment returns
    payee.sync()
    payee.sync()
    payer.sync(payment(None, 1))
    payer.sync(payment(payee.handle, 5))
    number = desk.rows("select max(number) from payments")[0][0]
    desk.mine()
    assert len(states(desk, payer)) == 6
    monkeypatch.setattr(forgetting, "KEPT_SECONDS", -10)
    desk.mine()
    assert states(desk, payer) == [(3, "listed"), (3, "waiting"), (5, "waiting")]
    desk.until("closed", gone.handle)
    monkeypatch.setattr(rounds, "KEPT_BLOCKS", 1)
    desk.mine(3)
    assert states(desk, payer) == [(3, "waiting"), (5, "waiting")]
    assert amounts(idle.sync()) == [3]
    assert desk.rows("select max(number) from payments") == [(number,)]

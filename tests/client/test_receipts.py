"""A receipt leaves the payee once it has the money, and is the payer's once it proves its payment."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from client_support import Life
from envelope_support import answered

from picopayments_cli.channel import payment_request
from picopayments_cli.channel.payment_request import PaymentRequest, receipt_of, token_of
from picopayments_cli.channel.values import Handle, Quantity, Token
from picopayments_cli.channel.wire import Payment
from picopayments_cli.client import life, payments_shown, requesting
from picopayments_cli.errors import AmountsDiffer, HubUnreachable, PicopaymentsError, RequestExpired, TooManyRequests

PAYER = Handle(b"p" * 32)
SYNC = ("save sync prepared", "call mph_sync", "mph_sync is answered")
TRADE = ("save sync settled", "call mph_receipts", "mph_receipts is answered", "save receipts traded")


def requested(it: Life, quantity: int = 100, seconds: int = 600) -> PaymentRequest:
    """A request for the connection of a life."""
    text = requesting.make(it.session, it.connection, Quantity(quantity), "goods", seconds)
    return payment_request.read(text)


def arrives(it: Life, request: PaymentRequest, amount: int, late: int = -1) -> None:
    """Have the hub list a payment of a request, taken so many seconds after its time, at the next sync."""
    it.hub.to_pay = [amount]
    it.hub.tokens = {amount: request.token}
    it.hub.time = request.expires + late
    it.sync()


def events(it: Life, action: str) -> list[dict[str, Any]]:
    return [event for event in it.told() if event["action"] == action]


def given(it: Life) -> list[str]:
    """The tokens whose receipts the hub has got, each checked by hand."""
    return [hashlib.sha256(item.receipt).hexdigest() for item in it.hub.given]


def test_what_is_paid_in_full_and_in_time_is_proven_once(it: Life) -> None:
    it.open()
    request = requested(it)
    verdicts = []
    for amount, late in ((99, -1), (100, 1), (100, 0), (101, 0)):
        arrives(it, request, amount, late)
        verdicts.append(events(it, "received")[-1]["request"])
        assert len(it.hub.given) == (1 if "paid" in verdicts else 0)
    assert verdicts == ["too_little", "too_late", "paid", "again"]
    assert given(it) == [request.token.hex()]
    paid = events(it, "received")[2]
    assert hashlib.sha256(bytes.fromhex(paid["receipt"])).hexdigest() == paid["token"] == request.token.hex()
    assert [event.get("receipt") is None for event in events(it, "received")] == [True, True, False, True]
    it.receive(7)
    assert "request" not in events(it, "received")[-1]


def test_a_receipt_leaves_after_the_money_is_on_disk(it: Life) -> None:
    it.open()
    arrives(it, requested(it), 100)
    doors = [door for door in it.doors.passed if door != "mph_key is answered" and door != "call mph_key"]
    assert doors == [*SYNC, *TRADE]


@pytest.mark.parametrize("door", SYNC)
def test_killed_before_the_money_is_there_it_keeps_its_receipt(it: Life, door: str) -> None:
    it.open()
    request = requested(it)
    it.killed_at(door, lambda: arrives(it, request, 100))
    assert it.hub.given == []
    it.sync()
    it.sync()
    assert given(it) == [request.token.hex()]


@pytest.mark.parametrize("door", TRADE)
def test_killed_after_that_it_gives_its_receipt_with_the_next_sync(it: Life, door: str) -> None:
    it.open()
    request = requested(it)
    it.killed_at(door, lambda: arrives(it, request, 100))
    it.sync()
    assert set(given(it)) == {request.token.hex()}
    before = len(it.hub.given)
    it.sync()
    assert len(it.hub.given) == before
    assert [event["request"] for event in events(it, "received")] == ["paid"]


def test_a_hub_that_moves_less_than_it_lists_gets_no_receipt(it: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    it.open()
    request = requested(it)
    answer = it.hub.call

    def lying(method: str, params: Any) -> Any:
        reply = answer(method, params)
        if method != "mph_sync":
            return reply
        listed = {"payer_handle": PAYER.hex(), "amount": 100, "token": request.token.hex(), "time": 0}
        return answered("mph_sync", it.hub.key, {**reply, "receive": [listed]})

    monkeypatch.setattr(it.hub, "call", lying)
    with pytest.raises(AmountsDiffer):
        it.sync()
    assert it.hub.given == []


def test_where_the_hub_takes_no_receipt_the_sync_counts_all_the_same(it: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    it.open()
    request = requested(it)
    answer = it.hub.call

    def older(method: str, params: Any) -> Any:
        if method == "mph_receipts":
            raise HubUnreachable("The hub does not answer.")
        return answer(method, params)

    with monkeypatch.context() as patched:
        patched.setattr(it.hub, "call", older)
        arrives(it, request, 100)
    assert events(it, "received")[-1]["request"] == "paid"
    it.sync()
    assert given(it) == [request.token.hex()]


def test_a_backup_of_the_key_makes_the_same_receipt(it: Life) -> None:
    it.open()
    request = requested(it)
    receipt = receipt_of(it.session.wallet.key, request.handle, request.salt)
    assert hashlib.sha256(receipt).digest() == request.token


# The payer ----------------------------------------------------------------------------------------------------------


def paid(it: Life, receipt: bytes, expires: int | None = 2**33) -> Token:
    """Pay a request whose receipt this is."""
    token = token_of(receipt)
    life.queue(it.session, it.connection, Payment(None, Quantity(30), token, expires))
    it.sync()
    return token


def test_the_payer_takes_a_receipt_that_proves_its_payment_and_no_other(it: Life) -> None:
    it.open()
    receipt = b"r" * 32
    it.hub.receipts = [b"x" * 32, bytes(32)]
    token = paid(it, receipt)
    it.sync()
    assert events(it, "receipt") == []
    (shown,) = payments_shown.listed(it.session, payments_shown.Wanted(state="sent"), None, None)
    assert "receipt" not in shown
    it.hub.receipts.append(receipt)
    it.sync()
    it.sync()
    (event,) = events(it, "receipt")
    assert (event["token"], event["receipt"]) == (token.hex(), receipt.hex())
    (shown,) = payments_shown.listed(it.session, payments_shown.Wanted(state="sent"), None, None)
    assert hashlib.sha256(bytes.fromhex(shown["receipt"])).hexdigest() == shown["token"]
    assert "call mph_receipts" not in it.doors.passed


def test_nothing_is_asked_for_what_was_refused_or_pays_no_request(it: Life) -> None:
    it.open()
    paid(it, b"a" * 32, None)
    it.hub.refusing = {token_of(b"b" * 32)}
    paid(it, b"b" * 32)
    assert it.connection.receipts_due == ()
    it.hub.refuses, it.hub.forgives = RequestExpired("Too late."), True
    paid(it, b"c" * 32)
    assert [event["cause"] for event in events(it, "refused")] == ["UnknownHandle", "RequestExpired"]
    assert it.connection.receipts_due == ()
    assert it.connection.owed == 0


# Bounds -------------------------------------------------------------------------------------------------------------


def test_requests_are_kept_within_bounds_and_an_open_one_is_never_dropped(
    it: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requesting, "MOST_REQUESTS", 3)
    it.open()
    first, second, third = (requested(it, 100 + number) for number in range(3))
    with pytest.raises(TooManyRequests):
        requested(it)
    arrives(it, second, 101)
    requested(it)
    assert [item.quantity for item in it.connection.requests] == [100, 102, 100]
    over = replace(it.connection.requests[0], expires=1)
    it.session.save(replace(it.connection, requests=(over, *it.connection.requests[1:])), "payment requested")
    newest = requested(it, 107)
    assert it.connection.requests[0].token == third.token
    arrives(it, first, 100)
    assert "request" not in events(it, "received")[-1]
    arrives(it, newest, 107)
    assert events(it, "received")[-1]["request"] == "paid"


def test_no_request_is_made_for_a_connection_that_closes(it: Life) -> None:
    it.open()
    it.close()
    with pytest.raises(PicopaymentsError, match="is closing, and is not paid any more"):
        requested(it)

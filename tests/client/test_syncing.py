"""A client's syncs: what is refused of the hub's answers, what counts then, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from client_support import QUANTITY, SILENT, Life
from envelope_support import answered

from picopayments_cli import api
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.stages import AGREED, CLOSING
from picopayments_cli.channel.values import HANDLE_SIZE, Handle, Quantity, Token
from picopayments_cli.channel.wire import Payment
from picopayments_cli.client import life
from picopayments_cli.errors import (
    AmountExceedsSpendable,
    AmountsDiffer,
    AssetMismatch,
    BadHubSignature,
    BadReply,
    BadRequest,
    BadSecret,
    ConnectionNotOpen,
    HubRestored,
    HubUnreachable,
    NotTransferable,
    PaymentExceedsReceivable,
    PicopaymentsError,
    RemainderMissing,
    RepeatedHash,
    StaleRequest,
    SyncIncomplete,
    UnknownHandle,
)

NOBODY = "00" * HANDLE_SIZE
FEE = {"action": "fee", "sync_fee": 1}
Answer = Callable[[], Any]


@pytest.fixture
def ready(it: Life) -> Life:
    """A client with an open connection, before its first sync."""
    it.connect()
    it.fund()
    it.restart()
    return it


def answered_by(it: Life, change: Callable[[Answer, Mapping[str, Any]], Any]) -> Callable[[], None]:
    """From here on mph_sync is answered by a function of what the hub would answer; how to end that."""
    honest = it.hub.call

    def call(method: str, params: Mapping[str, Any]) -> Any:
        if method != "mph_sync":
            return honest(method, params)
        return change(lambda: honest(method, params), params)

    it.hub.call = call  # type: ignore[method-assign]
    return lambda: setattr(it.hub, "call", honest)


def refusing(error: PicopaymentsError) -> Callable[[Answer, Mapping[str, Any]], Any]:
    """A hub that refuses every sync."""

    def refuse(answer: Answer, request: Mapping[str, Any]) -> Any:
        raise error

    return refuse


def lying(it: Life, members: Mapping[str, Any]) -> Callable[[Answer, Mapping[str, Any]], Any]:
    """A hub whose answers have other members."""
    return lambda answer, _: answered("mph_sync", it.hub.key, {**answer(), **members})


def queue(it: Life, amount: int, token: bytes = b"token") -> None:
    life.queue(it.session, it.connection, Payment(Handle(bytes(HANDLE_SIZE)), Quantity(amount), Token(token)))


def sync(it: Life) -> list[str]:
    """The doors that one sync by command went through, whatever became of it."""
    it.restart()
    it.doors.passed.clear()
    with suppress(HubUnreachable, PaymentExceedsReceivable):
        api.sync(it.session)
    return list(it.doors.passed)


def told(it: Life) -> list[dict[str, Any]]:
    """The history behind the connecting, without what every event has."""
    hidden = ("handle", "number", "time")
    return [{name: value for name, value in event.items() if name not in hidden} for event in it.told()][1:]


def sent(payment: str, amount: int) -> dict[str, Any]:
    """Return what the history says of a payment that went out."""
    return {"action": "sent", "payee_handle": NOBODY, "amount": amount, "token": payment.encode().hex()}


def refused(payment: str, amount: int, cause: str) -> dict[str, Any]:
    """Return what the history says of a payment that came back."""
    return {**sent(payment, amount), "action": "refused", "cause": cause}


def balance(it: Life) -> int:
    """Return what this party owns of the connection."""
    return it.connection.duplex.guaranteed


# A hub's answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"receive": [{"payer_handle": NOBODY, "amount": 301, "token": "ab", "time": 0}]}, AmountsDiffer),
        ({"receive": [{"payer_handle": NOBODY, "amount": -300, "token": "ab", "time": 0}]}, BadReply),
        ({"receive": None}, BadReply),
        ({"revokes": ["ab" * 32]}, BadSecret),
        ({"revokes": ["ab"]}, BadReply),
        ({"commit": None}, AmountsDiffer),
        ({"commit": {"rawtx": "ab", "script": "ab"}}, BadReply),
        ({"refused": [{"token": "ab", "name": "UnknownHandle"}]}, BadReply),
        ({"remainder": None}, RemainderMissing),
        ({"next_revoke_hash": "ab"}, BadReply),
        ({"request_sha256": "ab" * 32}, StaleRequest),  # its number was given to another one
    ],
)
def test_nothing_of_a_wrong_answer_is_taken(
    ready: Life, members: Mapping[str, Any], error: type[PicopaymentsError]
) -> None:
    queue(ready, 100)
    ready.hub.to_pay = [300]
    end = answered_by(ready, lying(ready, members))
    before = ready.connection
    with pytest.raises(error):
        api.sync(ready.session)
    waiting = ready.connection
    assert waiting.pending is not None
    assert (waiting.stage, waiting.duplex.receiving.active, waiting.owed) == (AGREED, before.duplex.receiving.active, 0)
    assert waiting.duplex.sending.requested == ()
    assert waiting.duplex.net == -101
    assert told(ready) == []
    end()
    ready.restart()
    found = api.sync(ready.session)[ready.handle]["received_payments"]
    received = {"payer_handle": ready.handle, "amount": 300, "token": b"paid 300".hex()}
    assert found == [{**received, "index": 2}]
    assert told(ready) == [sent("token", 100), FEE, {"action": "received", **received}]
    assert (balance(ready), ready.connection.pending) == (QUANTITY + 300 - 101, None)


@pytest.mark.parametrize("whose", ["own", "requested"])
def test_a_next_hash_that_is_not_new(ready: Life, whose: str) -> None:
    duplex = ready.connection.duplex
    known = duplex.receiving.requested[-1].revoke_hash if whose == "own" else duplex.sending.requested[-1]
    answered_by(ready, lying(ready, {"next_revoke_hash": known.hex()}))
    with pytest.raises(RepeatedHash):
        api.sync(ready.session)
    assert ready.connection.pending is not None


def test_an_answer_of_another_key_is_refused(ready: Life) -> None:
    answered_by(ready, lambda answer, _: answered("mph_sync", Key(bytes(31) + b"\5"), answer()))
    with pytest.raises(BadHubSignature):
        api.sync(ready.session)
    assert ready.connection.pending is not None


# Payments that are given back ---------------------------------------------------------------------------------------


def test_what_the_hub_refuses_comes_back(ready: Life) -> None:
    queue(ready, 100, b"one")
    queue(ready, 30, b"two")
    queue(ready, 7, b"three")
    ready.hub.refusing = {payment.token for payment in ready.connection.queue[:2]}
    sync(ready)
    assert told(ready) == [
        refused("one", 100, "UnknownHandle"),
        refused("two", 30, "UnknownHandle"),
        sent("three", 7),
        FEE,
    ]
    # The hub moves back what it can of it in the same answer.
    assert (ready.connection.owed, balance(ready)) == (0, QUANTITY - 8)


def test_what_the_hub_owes_is_known_until_it_is_there(ready: Life) -> None:
    queue(ready, 100)
    ready.hub.refusing = {Token(b"token")}
    ready.hub.due -= 100
    sync(ready)
    assert (ready.connection.owed, balance(ready)) == (100, QUANTITY - 101)
    ready.hub.due += 60
    sync(ready)
    assert (ready.connection.owed, balance(ready)) == (40, QUANTITY - 102 + 60)
    ready.hub.due += 45
    sync(ready)
    assert (ready.connection.owed, balance(ready)) == (0, QUANTITY - 103 + 105)


@pytest.mark.parametrize("cause", [AmountExceedsSpendable, PaymentExceedsReceivable, AssetMismatch])
def test_a_sync_refused_for_its_payments_goes_without_them(ready: Life, cause: type[PicopaymentsError]) -> None:
    queue(ready, 100)
    requests: list[Mapping[str, Any]] = []

    def choosy(answer: Answer, request: Mapping[str, Any]) -> Any:
        requests.append(request)
        if request["sends"]:
            raise cause("Not these.")
        return answer()

    answered_by(ready, choosy)
    sync(ready)
    first, second = requests
    assert [item["amount"] for item in first["sends"]] == [100]
    assert {**second, "sends": first["sends"], "signature": first["signature"]} == first
    assert told(ready) == [refused("token", 100, cause.__name__), FEE]
    assert (ready.connection.owed, balance(ready), ready.connection.pending) == (0, QUANTITY - 1, None)


def test_the_sync_that_was_refused_and_had_been_taken_is_the_one_that_counts(ready: Life) -> None:
    queue(ready, 100)
    taken: list[Any] = []

    def late(answer: Answer, request: Mapping[str, Any]) -> Any:
        """The first version has arrived, whatever its sender was told."""
        if not taken:
            taken.append(answer())
            raise PaymentExceedsReceivable("Not these.")
        return taken[0]

    answered_by(ready, late)
    sync(ready)
    assert told(ready) == [sent("token", 100), FEE]  # it was never refused: nobody pays it again meanwhile
    assert (ready.connection.owed, balance(ready)) == (0, QUANTITY - 101)


def test_a_sync_without_payments_that_is_refused_for_them_is_not_sent_again(ready: Life) -> None:
    answered_by(ready, refusing(AmountExceedsSpendable("Not these.")))
    with pytest.raises(AmountExceedsSpendable):
        api.sync(ready.session)
    assert ready.connection.pending is not None
    assert len(ready.connection.pending.bodies) == 1


# What ends a connection ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cause",
    [HubRestored("Lost."), ConnectionNotOpen("It closes.", stage=CLOSING), ConnectionNotOpen("It is over.")],
)
def test_a_hub_that_goes_on_with_it_no_more_ends_a_connection(ready: Life, cause: PicopaymentsError) -> None:
    answered_by(ready, refusing(cause))
    api.sync(ready.session)
    assert ready.connection.stage == CLOSING
    assert {"action": "closing"} in told(ready)


@pytest.mark.parametrize(
    "cause", [BadRequest("Wrong."), SILENT, NotTransferable("No."), BadReply("What?"), UnknownHandle("Which?")]
)
def test_a_cause_that_may_pass_ends_no_connection(ready: Life, cause: PicopaymentsError) -> None:
    answered_by(ready, refusing(cause))
    with pytest.raises(type(cause)):
        api.sync(ready.session)
    assert ready.connection.stage == AGREED


def test_a_hub_that_does_not_see_the_deposits_yet_is_waited_for(ready: Life) -> None:
    queue(ready, 100)
    answered_by(ready, refusing(ConnectionNotOpen("Not yet.", stage=AGREED)))
    api.sync(ready.session)
    assert (ready.connection.stage, ready.connection.pending is None) == (AGREED, False)
    assert told(ready) == []


# What can be moved --------------------------------------------------------------------------------------------------


def test_all_that_the_deposit_covers_can_be_queued_and_no_more(ready: Life) -> None:
    ready.doors.passed.clear()
    queue(ready, QUANTITY - 100 - 1)
    assert ready.doors.passed == ["save payment queued"]
    before = ready.files()
    with pytest.raises(NotTransferable) as refusal:
        queue(ready, 101)
    assert refusal.value.data == {"quantity": 101, "queued": 899, "sync_fee": 1, "transferable": QUANTITY}
    assert refusal.value.message.endswith("Pay 100 at most.")
    assert ready.files() == before
    queue(ready, 100)
    with pytest.raises(NotTransferable, match="Receive a payment first, or cancel one that is queued"):
        queue(ready, 1)
    sync(ready)
    assert (balance(ready), ready.connection.queue) == (0, ())
    ready.restart()
    with pytest.raises(SyncIncomplete) as incomplete:  # which reports the payments that went
        api.sync(ready.session)
    error = incomplete.value.data["failed"][ready.handle]
    assert (error["name"], error["data"]) == ("NotTransferable", {"handle": ready.handle, "sync_fee": 1})
    assert (ready.connection.stage, ready.connection.pending) == (AGREED, None)


def test_the_oldest_payments_go_first_and_the_others_wait(ready: Life) -> None:
    for amount, token in ((600, b"one"), (300, b"two"), (90, b"three")):
        queue(ready, amount, token)
    waiting = ready.connection
    doubled = (*waiting.queue, *(replace(item, token=Token(item.token + b"!")) for item in waiting.queue))
    ready.session.save(replace(waiting, queue=doubled), "test")
    sync(ready)
    assert ready.connection.queue == doubled[3:]
    assert told(ready) == [sent("one", 600), sent("two", 300), sent("three", 90), FEE]


def test_an_unanswered_sync_is_finished_before_the_next(ready: Life) -> None:
    queue(ready, 100, b"one")
    ready.hub.silent = True
    sync(ready)
    ready.hub.silent = False
    queue(ready, 5, b"two")
    answered = ["call mph_sync", "mph_sync is answered", "save sync settled"]
    assert sync(ready) == [*answered, "save sync prepared", *answered]
    assert told(ready) == [sent("one", 100), FEE, sent("two", 5), FEE]
    assert [item.quantity for item in ready.hub.received] == [101, 107]


def test_payments_can_be_queued_before_the_deposit_is_agreed_on(it: Life) -> None:
    it.killed_at("save proposed", it.connect)
    queue(it, 100)
    with pytest.raises(NotTransferable):
        queue(it, QUANTITY)
    assert [payment.amount for payment in it.connection.queue] == [100]


def test_nothing_is_queued_on_a_connection_that_closes(ready: Life) -> None:
    ready.close()
    before = ready.files()
    with pytest.raises(ConnectionNotOpen) as refusal:
        queue(ready, 1)
    assert refusal.value.data["stage"] == CLOSING
    assert ready.files() == before

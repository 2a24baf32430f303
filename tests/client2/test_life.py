"""A client's syncs and closes: what is refused of the hub's answers, what counts then, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from memory_life_support import QUANTITY, SILENT, LifeInMemory, it
from memory_support import STRANGER
from picopayments_cli.channel2 import duplex as pair
from picopayments_cli.channel2.deadlines import WATCHED_REVOKED, exposed
from picopayments_cli.channel2.duplex import Duplex
from picopayments_cli.channel2.messages import CloseReply
from picopayments_cli.channel2.state import Channel, Revoked
from picopayments_cli.client2 import closing, exchange
from picopayments_cli.client2.connection import Connection

from picopayments_cli import api
from picopayments_cli.channel import envelope
from picopayments_cli.channel.stages import AGREED, CLOSING
from picopayments_cli.channel.values import HANDLE_SIZE, Quantity, Secret, Token
from picopayments_cli.errors import (
    AmountExceedsSpendable,
    AmountsDiffer,
    AssetMismatch,
    BadCommitScript,
    BadReply,
    BadRequest,
    BadSecret,
    ConnectionNotOpen,
    ConnectionWornOut,
    HubRestored,
    NotTransferable,
    PaymentExceedsReceivable,
    PicopaymentsError,
    RepeatedHash,
    UnknownHandle,
)

__all__ = ["it"]
NOBODY = "00" * HANDLE_SIZE
FEE = {"action": "fee", "sync_fee": 1}


def answered_by(it: LifeInMemory, change: Callable[[Callable[[], Any], Mapping[str, Any]], Any]) -> None:
    """From here on mph_sync is answered by a function of what the hub would answer, and of the request."""
    honest = it.hub.call

    def call(method: str, params: Mapping[str, Any], *, retry: bool = False) -> Any:
        if method != "mph_sync":
            return honest(method, params, retry=retry)
        return change(lambda: honest(method, params, retry=retry), params)

    it.hub.call = call  # type: ignore[method-assign]


def refusing(error: PicopaymentsError) -> Callable[[Callable[[], Any], Mapping[str, Any]], Any]:
    """A hub that refuses every sync."""

    def refuse(answer: Callable[[], Any], request: Mapping[str, Any]) -> Any:
        raise error

    return refuse


def sent(payment: str, amount: int) -> dict[str, Any]:
    """Return what the history says of a payment that went out."""
    return {"action": "sent", "payee_handle": NOBODY, "amount": amount, "token": payment.encode().hex()}


def refused(payment: str, amount: int, cause: str) -> dict[str, Any]:
    """Return what the history says of a payment that came back."""
    return {**sent(payment, amount), "action": "refused", "cause": cause}


def balance(it: LifeInMemory) -> int:
    """Return what this party owns of the connection."""
    return it.connection.duplex.guaranteed


def test_a_commit_that_was_just_given_back_is_not_taken_again(it: LifeInMemory) -> None:
    """Though the hub shows it at the close, and keeps its secret back."""
    it.receive()
    it.queue(it.connection.duplex.receiving.moved)
    prepared = exchange.prepare(it.session, it.connection)
    assert prepared == it.connection
    assert prepared.duplex.receiving.active == ()
    shown = pair.standing(it.hub.duplex.sending)
    assert shown.offer is not None
    assert closing._up_to_date(it.session, prepared, CloseReply(None, shown)) == prepared


def gone(it: LifeInMemory) -> list[str]:
    """Return what was published since the doors were last looked at."""
    return [label for label in it.doors.passed if label.startswith("broadcast")]


# A hub's answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"receive": [{"payer_handle": NOBODY, "amount": 301, "token": "ab"}]}, AmountsDiffer),
        ({"receive": [{"payer_handle": NOBODY, "amount": -300, "token": "ab"}]}, BadReply),
        ({"receive": None}, BadReply),
        ({"revokes": ["ab" * 32]}, BadSecret),
        ({"revokes": ["ab"]}, BadSecret),
        ({"commit": None}, AmountsDiffer),
        ({"commit": {"rawtx": "ab", "script": "ab"}}, BadCommitScript),
        ({"refused": [{"token": "ab", "name": "UnknownHandle"}]}, BadReply),
        ({"next_revoke_secret_hash": "ab"}, BadReply),
        ({"request_sha256": "ab" * 32}, BadReply),
    ],
)
def test_nothing_of_a_wrong_answer_is_taken(
    it: LifeInMemory, members: Mapping[str, Any], error: type[PicopaymentsError]
) -> None:
    it.open()
    it.queue(100)
    it.hub.to_pay = [300]
    it.hub.lies["mph_sync"] = members
    before = it.connection
    with pytest.raises(error):
        api.sync(it.session)
    waiting = it.connection
    assert waiting.pending is not None
    assert (waiting.stage, waiting.duplex.receiving.active, waiting.owed) == (AGREED, before.duplex.receiving.active, 0)
    assert waiting.duplex.sending.requested == ()
    assert waiting.duplex.net == -101
    assert it.told()[1:] == []
    it.hub.lies.clear()
    found = api.sync(it.session)[it.handle]["received_payments"]
    assert found == [{"payer_handle": it.handle, "amount": 300, "token": b"paid 300".hex()}]
    received = {"action": "received", **found[0]}
    assert it.told()[1:] == [sent("token", 100), FEE, received]
    assert (balance(it), it.connection.pending) == (QUANTITY + 300 - 101, None)


@pytest.mark.parametrize("whose", ["own", "requested", "spend"])
def test_a_next_hash_that_is_not_new(it: LifeInMemory, whose: str) -> None:
    it.open()
    duplex = it.connection.duplex
    known = {
        "own": duplex.receiving.requested[-1],
        "requested": duplex.sending.requested[-1],
        "spend": duplex.sending.script.spend_hash,
    }
    it.hub.lies["mph_sync"] = {"next_revoke_secret_hash": known[whose].hex()}
    with pytest.raises(RepeatedHash):
        api.sync(it.session)
    assert it.connection.pending is not None


def test_an_answer_of_another_key_is_refused(it: LifeInMemory) -> None:
    it.open()
    answered_by(it, lambda answer, _: envelope.seal(STRANGER, answer()))
    with pytest.raises(PicopaymentsError) as found:
        api.sync(it.session)
    assert found.value.name == "BadHubSignature"
    assert it.connection.pending is not None


# Payments that are given back ---------------------------------------------------------------------------------------


def test_what_the_hub_refuses_comes_back(it: LifeInMemory) -> None:
    it.open()
    it.queue(100, b"one")
    it.queue(30, b"two")
    it.queue(7, b"three")
    it.hub.refusing = {payment.token for payment in it.connection.queue[:2]}
    it.sync()
    assert it.told()[1:] == [
        refused("one", 100, "UnknownHandle"),
        refused("two", 30, "UnknownHandle"),
        sent("three", 7),
        FEE,
    ]
    # The hub moves back what it can of it in the same answer.
    assert (it.connection.owed, balance(it)) == (0, QUANTITY - 8)


def test_what_the_hub_owes_is_known_until_it_is_there(it: LifeInMemory) -> None:
    it.open()
    it.queue(100)

    def keeps(answer: Callable[[], Any], request: Mapping[str, Any]) -> Any:
        """Refuses the payment, and moves nothing back yet."""
        body = answer()
        tokens = [{"token": item["token"], "name": "UnknownHandle"} for item in request["sends"]]
        return envelope.seal(it.hub.key, {**body, "refused": tokens})

    honest = it.hub.call
    answered_by(it, keeps)
    it.sync()
    assert (it.connection.owed, balance(it)) == (100, QUANTITY - 101)
    it.hub.call = honest  # type: ignore[method-assign]
    it.hub.owes(60)
    it.sync()
    assert (it.connection.owed, balance(it)) == (40, QUANTITY - 102 + 60)
    it.hub.owes(45)
    it.sync()
    assert (it.connection.owed, balance(it)) == (0, QUANTITY - 103 + 105)


@pytest.mark.parametrize("cause", [AmountExceedsSpendable, PaymentExceedsReceivable, AssetMismatch])
def test_a_sync_refused_for_its_payments_goes_without_them(it: LifeInMemory, cause: type[PicopaymentsError]) -> None:
    it.open()
    it.queue(100)
    requests: list[Mapping[str, Any]] = []

    def choosy(answer: Callable[[], Any], request: Mapping[str, Any]) -> Any:
        requests.append(request)
        if request["sends"]:
            raise cause("Not these.")
        return answer()

    answered_by(it, choosy)
    it.sync()
    first, second = requests
    assert [item["amount"] for item in first["sends"]] == [100]
    assert {**second, "sends": first["sends"], "signature": first["signature"]} == first
    assert it.told()[1:] == [refused("token", 100, cause.__name__), FEE]
    assert (it.connection.owed, balance(it), it.connection.pending) == (0, QUANTITY - 1, None)


def test_the_sync_that_was_refused_and_had_been_taken_is_the_one_that_counts(it: LifeInMemory) -> None:
    it.open()
    it.queue(100)
    taken: list[Any] = []

    def late(answer: Callable[[], Any], request: Mapping[str, Any]) -> Any:
        """The first version has arrived, whatever its sender was told."""
        if not taken:
            taken.append(answer())
            raise PaymentExceedsReceivable("Not these.")
        return taken[0]

    answered_by(it, late)
    it.sync()
    assert it.told()[1:] == [refused("token", 100, "PaymentExceedsReceivable"), sent("token", 100), FEE]
    assert (it.connection.owed, balance(it)) == (0, QUANTITY - 101)


def test_a_sync_without_payments_that_is_refused_for_them_is_not_sent_again(it: LifeInMemory) -> None:
    it.open()
    answered_by(it, refusing(AmountExceedsSpendable("Not these.")))
    with pytest.raises(AmountExceedsSpendable):
        api.sync(it.session)
    assert it.connection.pending is not None
    assert len(it.connection.pending.bodies) == 1


# What ends a connection ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cause",
    [
        HubRestored("Lost."),
        ConnectionNotOpen("It closes.", stage=CLOSING),
        ConnectionNotOpen("It is over."),
    ],
)
def test_a_hub_that_goes_on_with_it_no_more_ends_a_connection(it: LifeInMemory, cause: PicopaymentsError) -> None:
    it.open()
    answered_by(it, refusing(cause))
    api.sync(it.session)
    assert it.connection.stage == CLOSING
    assert {"action": "closing"} in it.told()


@pytest.mark.parametrize(
    "cause", [BadRequest("Wrong."), SILENT, NotTransferable("No."), BadReply("What?"), UnknownHandle("Which?")]
)
def test_a_cause_that_may_pass_ends_no_connection(it: LifeInMemory, cause: PicopaymentsError) -> None:
    it.open()
    answered_by(it, refusing(cause))
    with pytest.raises(type(cause)):
        api.sync(it.session)
    assert it.connection.stage == AGREED


def test_a_hub_that_does_not_see_the_deposits_yet_is_waited_for(it: LifeInMemory) -> None:
    it.open()
    it.queue(100)
    answered_by(it, refusing(ConnectionNotOpen("Not yet.", stage=AGREED)))
    api.sync(it.session)
    assert (it.connection.stage, it.connection.pending is None) == (AGREED, False)
    assert it.told()[1:] == []


def test_a_history_that_can_not_be_seen_whole_ends_a_connection(it: LifeInMemory) -> None:
    it.open()
    honest = it.chain.view
    h2c = it.session.address(it.connection.duplex.receiving)
    it.chain.view = lambda query: replace(honest(query), truncated=frozenset({h2c}))  # type: ignore[method-assign]
    assert it.sync()[:2] == ["save closing", "save spend secret leaves"]
    assert it.connection.stage == CLOSING


def worn(channel: Channel, revoked: int) -> Channel:
    """A channel on which so many commits were revoked that would take something."""
    secrets = (Secret(number.to_bytes(32, "big")) for number in range(revoked))
    return replace(channel, revoked=tuple(Revoked.by(Quantity(500), secret) for secret in secrets))


def wear(it: LifeInMemory, revoked: int) -> Connection:
    duplex = it.connection.duplex
    made = replace(it.connection, duplex=Duplex(worn(duplex.sending, revoked), duplex.receiving))
    return it.session.save(made, "test")


def test_no_more_commits_are_revoked_than_can_be_watched(it: LifeInMemory) -> None:
    it.open()
    wear(it, WATCHED_REVOKED - 1)
    it.sync()
    assert it.connection.pending is None
    wear(it, WATCHED_REVOKED)
    with pytest.raises(ConnectionWornOut) as refusal:
        api.sync(it.session)
    assert refusal.value.data["revoked"] == WATCHED_REVOKED + 1
    assert (it.connection.stage, it.connection.pending) == (AGREED, None)


@pytest.mark.parametrize("room", [2, 1])
def test_the_hub_gives_no_more_back_than_can_be_watched(it: LifeInMemory, room: int) -> None:
    it.open()
    for token in (b"one", b"two"):
        it.queue(100, token)
        it.sync()
    wear(it, WATCHED_REVOKED - room)
    it.hub.to_pay = [150]
    before = balance(it)
    if room == 2:  # of three commits the two highest come back
        it.sync()
        assert balance(it) == before + 150 - 1
        assert len(exposed(it.connection.duplex.sending)) == WATCHED_REVOKED
    else:
        with pytest.raises(ConnectionWornOut):
            api.sync(it.session)
        assert balance(it) == before - 1
        assert it.connection.pending is not None


# Dust on commits' addresses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("paid", [False, True])
def test_a_commit_whose_address_was_paid_is_not_given_back(it: LifeInMemory, paid: bool) -> None:
    it.receive(300)
    sending, (commit,) = it.connection.duplex.sending, it.connection.duplex.receiving.active
    if paid:
        it.chain.fund(it.connection.duplex.receiving.commit_script(commit.revoke_hash).output, 600, mined=False)
    it.queue(400)
    it.sync()
    assert it.connection.duplex.receiving.active == ((commit,) if paid else ())
    assert it.hub.accepted[-1].quantity == sending.moved + 401 - (0 if paid else commit.quantity)
    assert it.connection.pending is None


def test_a_commit_is_given_back_where_the_next_ones_address_alone_was_paid(it: LifeInMemory) -> None:
    """Nothing is signed for that address then."""
    it.receive(300)
    sending, (commit,) = it.connection.duplex.sending, it.connection.duplex.receiving.active
    it.chain.fund(sending.commit_script(sending.requested[-1]).output, 600)
    it.queue(commit.quantity - 1)
    accepted = list(it.hub.accepted)
    it.sync()
    assert it.connection.duplex.receiving.active == ()
    assert it.hub.accepted == accepted
    assert it.connection.stage == AGREED


@pytest.mark.parametrize("mined", [False, True])
def test_no_commit_is_signed_on_an_address_that_was_paid(it: LifeInMemory, mined: bool) -> None:
    it.open()
    sending = it.connection.duplex.sending
    it.chain.fund(sending.commit_script(sending.requested[-1]).output, 600, mined=mined)
    it.queue(100)
    assert "call mph_sync" not in it.sync()
    assert (it.connection.stage, it.connection.pending) == (CLOSING, None)
    assert it.connection.duplex.sending.active == ()


def test_nothing_is_signed_for_an_address_that_was_paid(it: LifeInMemory) -> None:
    """The commit to be given back was paid to as well: a new one would have to be signed in its place."""
    it.receive(300)
    duplex = it.connection.duplex
    (commit,) = duplex.receiving.active
    it.chain.fund(duplex.sending.commit_script(duplex.sending.requested[-1]).output, 600)
    it.chain.fund(duplex.receiving.commit_script(commit.revoke_hash).output, 600)
    it.queue(commit.quantity - 1)
    accepted = list(it.hub.accepted)
    it.sync()
    assert it.hub.accepted == accepted
    assert it.connection.stage == CLOSING
    assert it.connection.duplex.receiving.active == (commit,)


def test_what_is_revoked_on_an_address_that_was_paid_is_not_credited(it: LifeInMemory) -> None:
    it.open()
    it.queue(300)
    it.sync()
    sending = it.connection.duplex.sending
    script = sending.commit_script(sending.requested[-1]).output  # of the commit that is given back at once
    it.hub.to_pay = [200]

    def dusted(answer: Callable[[], Any], request: Mapping[str, Any]) -> Any:
        it.chain.fund(script, 600, mined=False)
        return answer()

    answered_by(it, dusted)
    before = balance(it)
    with pytest.raises(AmountsDiffer):
        api.sync(it.session)
    assert balance(it) == before - 1
    assert it.connection.duplex.sending.revoked == ()


@pytest.mark.parametrize("dusted", [False, True])
def test_an_older_commit_that_would_count_again_must_be_clean(it: LifeInMemory, dusted: bool) -> None:
    """Nobody watched its address meanwhile: what is there may be old enough to take the deposit at once."""
    it.open()
    it.queue(100, b"one")
    it.sync()
    it.hub.to_pay = [150]
    it.sync()
    older = it.connection.duplex.sending
    assert [item.quantity for item in older.revoked] == [102, 101]
    it.queue(300, b"two")
    it.sync()
    assert exposed(it.connection.duplex.sending) == ()
    if dusted:
        it.chain.fund(older.commit_script(older.revoked[-1].revoke_hash).output, 600)
        it.chain.mine()
    it.hub.to_pay = [260]
    before = balance(it)
    if dusted:
        with pytest.raises(AmountsDiffer):
            api.sync(it.session)
        assert it.connection.duplex.sending.revoked == older.revoked
        assert balance(it) == before - 1
    else:
        it.sync()
        assert balance(it) == before + 260 - 1


def test_dust_that_is_watched_keeps_nothing_from_being_credited(it: LifeInMemory) -> None:
    it.open()
    for amount, token in ((10, b"one"), (500, b"two")):
        it.queue(amount, token)
        it.sync()
    it.hub.to_pay = [502]
    it.sync()
    sending = it.connection.duplex.sending
    assert ([item.quantity for item in exposed(sending)], sending.moved) == ([513, 512], 11)
    it.chain.fund(sending.commit_script(sending.revoked[0].revoke_hash).output, 2000)
    it.sync()
    assert gone(it) == ["broadcast revoke"]
    it.queue(100)
    it.hub.to_pay = [101]
    before = balance(it)
    it.sync()
    assert balance(it) == before + 101 - 101
    assert len(it.connection.duplex.sending.revoked) == 3


# What can be moved --------------------------------------------------------------------------------------------------


def test_all_that_the_deposit_covers_can_be_queued_and_no_more(it: LifeInMemory) -> None:
    it.open()
    it.doors.passed.clear()
    it.queue(QUANTITY - 100 - 1)
    assert it.doors.passed == ["save payment queued"]
    before = it.files()
    with pytest.raises(NotTransferable) as refusal:
        it.queue(101)
    assert refusal.value.data == {"quantity": 101, "queued": 899, "sync_fee": 1, "transferable": QUANTITY}
    assert it.files() == before
    it.queue(100)
    it.sync()
    assert (balance(it), it.connection.queue) == (0, ())
    with pytest.raises(NotTransferable) as refusal:
        api.sync(it.session)
    assert refusal.value.data == {"handle": it.handle, "sync_fee": 1}
    assert (it.connection.stage, it.connection.pending) == (AGREED, None)


def test_the_oldest_payments_go_first_and_the_others_wait(it: LifeInMemory) -> None:
    it.open()
    for amount, token in ((600, b"one"), (300, b"two"), (90, b"three")):
        it.queue(amount, token)
    waiting = it.connection
    doubled = (*waiting.queue, *(replace(item, token=Token(item.token + b"!")) for item in waiting.queue))
    it.session.save(replace(waiting, queue=doubled), "test")
    it.sync()
    assert it.connection.queue == doubled[3:]
    assert it.told()[1:] == [sent("one", 600), sent("two", 300), sent("three", 90), FEE]


def test_an_unanswered_sync_is_finished_before_the_next(it: LifeInMemory) -> None:
    it.open()
    it.queue(100, b"one")
    it.hub.refuses = SILENT
    it.sync()
    it.hub.refuses = None
    it.queue(5, b"two")
    answered = ["call mph_sync", "save sync settled"]
    assert it.sync() == [*answered, "save sync prepared", *answered]
    assert it.told()[1:] == [sent("one", 100), FEE, sent("two", 5), FEE]
    assert [item.quantity for item in it.hub.accepted] == [101, 107]


def test_payments_can_be_queued_before_the_deposit_is_agreed_on(it: LifeInMemory) -> None:
    it.killed_at("save proposed", it.connect)
    it.queue(100)
    with pytest.raises(NotTransferable):
        it.queue(QUANTITY)
    assert [payment.amount for payment in it.connection.queue] == [100]


def test_nothing_is_queued_on_a_connection_that_closes(it: LifeInMemory) -> None:
    it.open()
    it.close()
    before = it.files()
    with pytest.raises(ConnectionNotOpen) as refusal:
        it.queue(1)
    assert refusal.value.data["stage"] == CLOSING
    assert it.files() == before

"""The hub refuses, books and credits syncs to the unit: in one process, with a real database and node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hub_support import DEPOSIT, FEE, STRANGER, Client, Desk, amounts, open_all, payment, states
from regtest_support import key_of

from picopayments_cli.channel.duplex import Half
from picopayments_cli.channel.halves import Commit, sign_commit
from picopayments_cli.channel.messages import SyncRequest
from picopayments_cli.channel.state import known_anchor
from picopayments_cli.channel.values import Hash, Quantity, Secret
from picopayments_cli.hub.account import Queue

ROOM = DEPOSIT  # what the hub deposits for a client's deposit, so that a client without payments can take so much
OTHER = key_of("other")

# A request ----------------------------------------------------------------------------------------------------------


def test_a_sync_is_refused_that_is_not_signed_or_not_of_an_open_connection(desk: Desk) -> None:
    hand = Client(desk, "signer")
    open_all(desk, hand)
    opening = Client(desk, "opening")
    opening.agree()
    request, _ = hand.sync_request(FEE)
    body = request.as_json()
    sealed = hand.sealed("mph_sync", body)
    for broken in (body, desk.sealed("mph_sync", OTHER, body), {**sealed, "extra": True}, {**sealed, "sends": None}):
        assert desk.name_of("mph_sync", broken) == "BadClientSignature" or broken.get("sends") is None
    early = replace(request, handle=opening.handle)
    refused = desk.refusal("mph_sync", opening.sealed("mph_sync", early.as_json()))
    assert (refused.name, refused.data["stage"]) == ("ConnectionNotOpen", "agreed")
    assert "fetch its answer first" in refused.message
    assert hand.paid == 0
    hand.sync()
    assert hand.paid == FEE
    late, _ = hand.sync_request(FEE)
    hand.ask_close()
    assert hand.sync_refused(late) == "ConnectionNotOpen"


def test_a_sync_has_one_answer_whatever_carries_its_hash_and_an_overtaken_one_none(desk: Desk, alice: Client) -> None:
    request, moved = alice.sync_request(5, payment(None, 4))
    body = alice.sealed("mph_sync", request.as_json())
    first = desk.call("mph_sync", body)
    assert desk.call("mph_sync", body) == first
    other = replace(request, payments=(payment(None, 3),))
    assert desk.call("mph_sync", alice.sealed("mph_sync", other.as_json())) == first
    assert alice.paid == 5
    alice.take(alice.parsed(first), moved)
    alice.sync()
    alice.sync()
    assert desk.name_of("mph_sync", body) == "StaleRequest"
    assert alice.paid == 7


def test_a_hash_that_was_given_before_is_refused(desk: Desk, alice: Client) -> None:
    alice.sync()
    right, _ = alice.sync_request(FEE)
    for taken, error in (
        (alice.secrets.revoke_hash(0), "StaleRequest"),
        (alice.duplex.sending.requested[-1], "RepeatedHash"),
        (alice.duplex.sending.active[-1].revoke_hash, "RepeatedHash"),
    ):
        assert alice.sync_refused(replace(right, next_hash=taken)) == error
    assert alice.paid == FEE
    alice.sync()


def test_no_hash_serves_two_syncs_of_the_hub(alice: Client) -> None:
    assert len({alice.sync().next_hash for _ in range(12)}) == 12


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": 2},
        {"sends": None},
        {"sends": [5]},
        {"sends": [{"payee_handle": None, "amount": 1, "token": "aa", "memo": "", "expires": None}]},
        {"sends": [{"payee_handle": None, "amount": 1}]},
        {"sends": [{"payee_handle": None, "amount": -1, "token": "aa", "expires": None}]},
        {"sends": [{"payee_handle": None, "amount": 1.0, "token": "aa", "expires": None}]},
        {"sends": [{"payee_handle": None, "amount": True, "token": "aa", "expires": None}]},
        {"sends": [{"payee_handle": "aa", "amount": 1, "token": "aa", "expires": None}]},
        {"sends": [{"payee_handle": None, "amount": 1, "token": "aa" * 10_000, "expires": None}]},
        {"sends": [{"payee_handle": None, "amount": 1, "token": "aa", "expires": -1}]},
        {"sends": [{"payee_handle": None, "amount": 1, "token": "aa"}]},
        {"revokes": None},
        {"revokes": ["xx"]},
        {"revokes": ["00" * 31]},
        {"commit": []},
        {"commit": {"quantity": 1, "revoke_hash": "00" * 20}},
        {"next_revoke_hash": "00" * 21},
        {"partial": 1},
        {"handle": None},
    ],
    ids=str,
)
def test_nonsense_is_a_bad_request(alice: Client, changes: dict[str, Any]) -> None:
    request, _ = alice.sync_request(FEE)
    assert alice.sync_refused(request, **changes) == "BadRequest"


# A half -------------------------------------------------------------------------------------------------------------


def with_commit(request: SyncRequest, **changes: Any) -> SyncRequest:
    """The request with another commit."""
    assert request.half.commit is not None
    return replace(request, half=replace(request.half, commit=replace(request.half.commit, **changes)))


def signed_commit(hand: Client, quantity: int, revoke_hash: Hash) -> Commit:
    sending = hand.duplex.sending
    return sign_commit(sending.contract, known_anchor(sending), Quantity(quantity), revoke_hash, hand.secrets.payer)


def test_a_commit_that_its_payer_did_not_sign_whole_is_refused_and_the_agreed_one_taken_after(alice: Client) -> None:
    right, _ = alice.sync_request(5, payment(None, 4))
    made = right.half.commit
    assert made is not None
    other = signed_commit(alice, 6, made.revoke_hash)
    for changes in (
        {"signature": other.signature},  # each valid by itself, for another commit
        {"payout_signature": other.payout_signature},
        {"signature": bytes(64)},
        {"payout_signature": made.payout_signature[:64] + b"\x01"},
        {"quantity": Quantity(6)},
    ):
        assert alice.sync_refused(with_commit(right, **changes)) == "BadPayerSignature"
    assert alice.paid == 0
    alice.sync()
    assert alice.paid == FEE


def test_a_commit_on_a_hash_that_is_not_open_for_one_or_of_a_wrong_quantity_is_refused(alice: Client) -> None:
    alice.sync(payment(None, 999))
    right, _ = alice.sync_request(FEE)
    used = alice.duplex.sending.active[-1].revoke_hash
    wanted = alice.duplex.sending.requested[-1]
    for made, error in (
        (signed_commit(alice, 1001, Hash(bytes(20))), "UnknownRevokeHash"),
        (signed_commit(alice, 1001, used), "UnknownRevokeHash"),
        (signed_commit(alice, 1001, alice.secrets.revoke_hash(9)), "UnknownRevokeHash"),
        (signed_commit(alice, 1000, wanted), "BadCommitQuantity"),
        (signed_commit(alice, 500, wanted), "BadCommitQuantity"),
    ):
        assert alice.sync_refused(replace(right, half=replace(right.half, commit=made))) == error
    too_much = replace(signed_commit(alice, DEPOSIT, wanted), quantity=Quantity(DEPOSIT + 1))
    assert alice.sync_refused(replace(right, half=replace(right.half, commit=too_much))) == "BadCommitQuantity"
    alice.sync()
    assert alice.paid == 1001


def test_secrets_that_revoke_nothing_are_refused(alice: Client) -> None:
    right, _ = alice.sync_request(FEE)
    for secret in (bytes(32), alice.secrets.revoke(0), alice.secrets.revoke(7)):
        half = replace(right.half, revokes=(Secret(secret),))
        assert alice.sync_refused(replace(right, half=half)) == "BadSecret"
    alice.sync()


# Payments -----------------------------------------------------------------------------------------------------------


def test_the_fee_and_every_payment_must_be_moved(desk: Desk, alice: Client) -> None:
    nothing, _ = alice.sync_request(FEE)
    assert alice.sync_refused(replace(nothing, half=Half())) == "AmountExceedsSpendable"
    for paid in ([5], [2, 3], [1, 1, 1, 1, 1]):
        short, _ = alice.sync_request(5, *(payment(None, amount) for amount in paid))
        assert alice.sync_refused(replace(short, partial=False)) == "AmountExceedsSpendable"
        assert alice.paid == 0
    assert states(desk, alice) == []
    alice.sync(payment(None, 5))
    assert alice.paid == 6
    assert states(desk, alice) == [(5, "done")]
    assert desk.account(alice.handle).due == 0


def test_what_a_sync_moves_and_does_not_pay_comes_back_with_its_answer(alice: Client) -> None:
    alice.sync(payment(None, 9), fee=41)
    assert alice.paid == 10
    assert alice.duplex.net == -10
    alice.sync()
    assert alice.paid == 11


@pytest.mark.parametrize("partial", [True, False])
def test_a_payment_alone_is_refused_where_the_client_asks_for_that(desk: Desk, alice: Client, partial: bool) -> None:
    lost, kept = payment(STRANGER, 30), payment(None, 10)
    request, moved = alice.sync_request(41, lost, kept, payment(None, 31))
    if not partial:
        assert alice.sync_refused(replace(request, partial=False)) == "UnknownHandle"
        assert (alice.paid, states(desk, alice)) == (0, [])
        return
    reply = alice.take(alice.parsed(desk.call("mph_sync", alice.sealed("mph_sync", request.as_json()))), moved)
    assert reply.refused[0].token == lost.token
    assert [item.cause for item in reply.refused] == ["UnknownHandle", "AmountExceedsSpendable"]
    assert (alice.paid, states(desk, alice)) == (11, [(10, "done")])


def test_a_payment_is_in_one_answer_and_done_with_the_next_request(desk: Desk, alice: Client, bob: Client) -> None:
    alice.sync(payment(bob.handle, 4), payment(bob.handle, 6))
    assert states(desk, alice) == [(4, "waiting"), (6, "waiting")]
    reply = bob.sync()
    assert [(item.payer, item.amount) for item in reply.receipts] == [(alice.handle, 4), (alice.handle, 6)]
    assert states(desk, alice) == [(4, "listed"), (6, "listed")]
    assert bob.sync().receipts == ()
    assert states(desk, alice) == [(4, "done"), (6, "done")]
    alice.sync(payment(bob.handle, 2))
    assert amounts(bob.sync()) == [2]
    assert bob.sync().receipts == ()
    assert (alice.paid, bob.paid) == (14, 4 - 12)


def test_a_payment_to_oneself_comes_back_with_its_answer(desk: Desk, alice: Client) -> None:
    assert amounts(alice.sync(payment(alice.handle, 5))) == [5]
    assert (alice.paid, states(desk, alice)) == (FEE, [(5, "listed")])
    assert amounts(alice.sync()) == []


def rich_one(desk: Desk, name: str) -> Client:
    """A client with ten times the usual deposit."""
    rich = Client(desk, name)
    rich.agree(quantity=10 * DEPOSIT)
    open_all(desk, rich)
    return rich


def receivable(rich: Client, payee: Client, amount: int) -> int:
    """Return what the hub says that a payee can take, where an amount is refused."""
    request, _ = rich.sync_request(amount + FEE, payment(payee.handle, amount))
    refused = rich.desk.refusal("mph_sync", rich.sealed("mph_sync", replace(request, partial=False).as_json()))
    assert refused.name == "PaymentExceedsReceivable"
    return int(refused.data["receivable"])


def test_a_payee_takes_what_its_connection_has_room_for_to_the_unit(desk: Desk, bob: Client) -> None:
    rich = rich_one(desk, "rich")
    room = ROOM + FEE  # as the commit of its own fee can be given back
    assert receivable(rich, bob, room + 1) == room
    rich.sync(payment(bob.handle, 400))
    assert receivable(rich, bob, room - 399) == room - 400
    assert states(desk, rich) == [(400, "waiting")]
    rich.sync(payment(bob.handle, room - 1000), payment(bob.handle, 600))
    assert amounts(bob.sync()) == [400, room - 1000, 600]
    assert (bob.paid, rich.paid) == (-ROOM, room + 2 * FEE)


def test_what_can_not_be_moved_whole_waits_and_counts_at_the_next_payment(desk: Desk, bob: Client) -> None:
    rich = rich_one(desk, "richer")
    rich.sync(payment(bob.handle, ROOM))
    bob.sync()  # one unit of the hub's deposit is left
    bob.sync(fee=50)  # and used
    assert desk.account(bob.handle).due == 48  # a commit of 50 can be given back, and no less
    assert receivable(rich, bob, 2) == 0  # its fee comes on top of that: 1 or 51 can be given back
    rich.sync(payment(bob.handle, 3))
    assert receivable(rich, bob, 1) == 0
    bob.sync(payment(None, 99), fee=-47)  # 51 or 102 could be given back
    assert states(desk, rich)[-1] == (3, "waiting")
    assert desk.account(bob.handle).waiting == Queue(1, 3)


def test_a_payee_that_could_not_pay_for_the_sync_that_fetches_it_gets_nothing(
    desk: Desk, alice: Client, bob: Client
) -> None:
    bob.sync(payment(None, DEPOSIT - FEE))
    assert receivable(alice, bob, 100) == 0


def test_a_payee_must_be_open_and_in_the_same_asset(desk: Desk, alice: Client, open_clients: Iterator[Client]) -> None:
    desk.node.rpc("faucet", address=desk.hub.address, asset="DEMOCOIN", quantity=20 * DEPOSIT)
    desk.mine()
    other, opening, asked = (Client(desk, "other asset", "DEMOCOIN"), Client(desk, "opens"), Client(desk, "asked"))
    open_all(desk, other)
    opening.agree()
    asked.request()
    gone = next(open_clients)
    gone.ask_close()
    for payee, error in (
        (other, "AssetMismatch"),
        (opening, "ConnectionNotOpen"),
        (gone, "ConnectionNotOpen"),
        (asked, "ConnectionNotOpen"),
    ):
        request, _ = alice.sync_request(2, payment(payee.handle, 1))
        assert alice.sync_refused(replace(request, partial=False)) == error
    assert alice.paid == 0

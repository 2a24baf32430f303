"""mph_close is refused and answered by name, and how a connection gets from there, or by itself, to its end."""

from __future__ import annotations

import json
from dataclasses import replace

from channel_support import close_transaction
from hub_support import STRANGER, Client, Desk, open_all, payment
from regtest_support import key_of

from picopayments_cli.channel import close as closes
from picopayments_cli.channel.messages import CloseReply, CloseRequest
from picopayments_cli.channel.standing import standing
from picopayments_cli.channel.wire import Figures


def request_of(hand: Client, *, sign: bool = True, figures: Figures | None = None) -> CloseRequest:
    """A right request, and nothing learned of it."""
    said = standing(hand.duplex, hand.secrets)
    figures = figures or closes.own_figures(hand.duplex)
    return closes.ask(hand.duplex, hand.handle, figures, said, hand.secrets, sign=sign)[1]


def test_a_close_is_refused_by_name_and_changes_nothing(desk: Desk, alice: Client) -> None:
    body = request_of(alice).as_json()
    for wrong in (
        body,
        desk.sealed("mph_close", key_of("other"), body),
        {**alice.sealed("mph_close", body), "extra": 1},
    ):
        assert desk.name_of("mph_close", wrong) == "BadClientSignature"
    for changes, error in (
        ({"handle": STRANGER.hex()}, "UnknownHandle"),
        ({"handle": None}, "BadRequest"),
        ({"protocol": 2}, "BadRequest"),
        ({"commit": 5}, "BadRequest"),
        ({"doubts": None}, "BadRequest"),
        ({"h2c_close": {"signature": "00"}}, "BadRequest"),
    ):
        assert alice.refused("mph_close", body | changes) == error
    asked = Client(desk, "asked only")
    asked.request()
    assert asked.refused("mph_close", body | {"handle": asked.handle.hex()}) == "ConnectionNotOpen"
    alice.sync()


def test_the_identical_close_is_answered_from_the_store_and_another_judged_anew(desk: Desk, alice: Client) -> None:
    alice.sync(payment(None, 10))
    wrong = request_of(alice, figures=Figures(5, 0))
    first = CloseReply.parse(alice.call("mph_close", wrong.as_json()))
    assert (first.figures, first.c2h_close) == (Figures(11, 0), None)
    body = alice.sealed("mph_close", request_of(alice).as_json())
    text = desk.call("mph_close", body)
    assert desk.call("mph_close", body) == text
    assert CloseReply.parse(json.loads(text)).c2h_close is not None
    desk.stop()
    desk.start()
    assert desk.call("mph_close", body) == text
    desk.rounds.once()


def test_a_close_without_signatures_is_answered_with_the_hubs_word_and_ends_all_syncs(
    desk: Desk, alice: Client, bob: Client
) -> None:
    alice.sync(payment(bob.handle, 100))
    bob.sync()
    late, _ = bob.sync_request(1)
    reply = CloseReply.parse(bob.call("mph_close", request_of(bob, sign=False).as_json()))
    assert reply.figures == Figures(0, 99)  # his fee was given back, and the rest sent
    assert reply.h2c_signature is None  # no payer signs before the payee has
    assert reply.standing.commit is not None
    assert bob.sync_refused(late) == "ConnectionNotOpen"
    assert bob.handle in desk.hub.marks.handles


def test_a_close_of_a_connection_that_opens_ends_it_and_nothing_is_deposited(desk: Desk) -> None:
    hand = Client(desk, "closes early")
    hand.agree()
    hand.endow()
    desk.mine()
    hand.deposit()
    hand.call("mph_close", request_of(hand).as_json())
    assert desk.account(hand.handle).stage == "closing"
    desk.mine(2)
    assert desk.account(hand.handle).deposit_raw is None
    hand.see_deposits()
    assert hand.duplex.sending.anchor is not None
    outcome = hand.agree_close()
    assert outcome.c2h is not None
    assert outcome.c2h.closing.quantity == 0
    hand.publish(close_transaction(hand.duplex.sending, outcome.c2h))
    desk.until("closed", hand.handle)


def test_a_connection_closes_by_itself_at_its_deadline(desk: Desk) -> None:
    hand = Client(desk, "deadline")
    hand.agree(time=24)
    open_all(desk, hand)
    hand.sync()
    settle = desk.account(hand.handle).due_height
    assert settle == desk.account(hand.handle).fixed.agreed.expiry.settle_height
    desk.mine(settle - 1 - desk.node.bitcoin("getblockcount"))
    assert desk.account(hand.handle).stage == "open"
    desk.node.rpc("generate", blocks=1)
    desk.hub.follower.catch_up()
    request, _ = hand.sync_request(1)
    assert hand.sync_refused(request) == "ConnectionNotOpen"  # whatever the rounds have done
    desk.rounds.once()
    assert desk.account(hand.handle).stage == "closing"


def test_what_goes_on_in_the_hubs_wallet_keeps_no_connection_from_being_closed(desk: Desk) -> None:
    hand = Client(desk, "unmoved")
    hand.agree(time=24)
    open_all(desk, hand)
    hand.agree_close()
    for _ in range(30):
        desk.node.rpc("generate", blocks=1)
        desk.node.rpc("faucet", address=desk.hub.address, btc=10_000)  # in no block yet
        desk.rounds.once()
    assert desk.account(hand.handle).stage == "closed"
    desk.mine()


def test_a_closed_connection_is_settled_again_where_a_block_is_taken_away(desk: Desk) -> None:
    hand, other = Client(desk, "taken away"), Client(desk, "closed long before")
    for one in (other, hand):
        open_all(desk, one)
        one.sync(payment(None, 5000))
        outcome = one.agree_close()
        assert outcome.c2h is not None
        one.publish(close_transaction(one.duplex.sending, outcome.c2h))
        desk.until("closed", one.handle)
        desk.mine(2 if one is other else 0)
    before = desk.balance(desk.hub.script)
    desk.node.rpc("reorganise", depth=2)
    desk.rounds.once()
    assert [desk.account(item.handle).stage for item in (hand, other)] == ["closing", "closed"]
    desk.mine(4)
    assert desk.account(hand.handle).stage == "closed"
    assert desk.balance(desk.hub.script) == before


def test_a_close_that_its_client_never_publishes_is_left_for_the_hubs_commit(desk: Desk, alice: Client) -> None:
    alice.sync(payment(None, 5000))
    before = desk.balance(desk.hub.script)
    request = request_of(alice)
    reply = CloseReply.parse(alice.call("mph_close", request.as_json()))
    assert reply.c2h_close is not None
    assert replace(reply.figures, h2c=0) == Figures(5001, 0)
    for _ in range(12):
        desk.mine()
    assert desk.balance(desk.hub.script) >= before + 5001

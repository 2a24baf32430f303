"""What the hub refuses in a sync, by name, and what it answers all the same."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from envelope_support import asked
from hub_support import FEE, Client, Desk, open_all, payment
from regtest_support import key_of
from sqlalchemy import event

from picopayments_cli.channel.kept import StateRequest
from picopayments_cli.channel.messages import (
    CloseRequest,
    ConnectRequest,
    DepositReply,
    KeyReply,
    KeyRequest,
    SyncReply,
)
from picopayments_cli.channel.receipts import ReceiptsRequest
from picopayments_cli.channel.standing import Standing
from picopayments_cli.channel.waiting import WaitingRequest
from picopayments_cli.channel.wire import Anchors, Figures


def test_a_hub_that_does_not_see_makes_nothing_new_and_answers_what_it_answered(desk: Desk) -> None:
    alice = Client(desk, "alice")
    open_all(desk, alice)
    request, moved = alice.sync_request(101, payment(None, 100))
    body = alice.sealed("mph_sync", request.as_json())
    first = desk.call("mph_sync", body)
    seconds, desk.hub.fresh_seconds = desk.hub.fresh_seconds, -1.0
    try:
        assert desk.call("mph_sync", body) == first
        alice.take(SyncReply.parse(alice.call("mph_sync", request.as_json())), moved)
        fresh, _ = alice.sync_request(1)
        assert alice.refused("mph_sync", fresh.as_json()) == "NodeBehind"
        alice.ask_close()
        assert desk.account(alice.handle).stage == "closing"
    finally:
        desk.hub.fresh_seconds = seconds


def test_a_sync_is_refused_by_name_and_changes_nothing(desk: Desk) -> None:
    alice, bob = Client(desk, "carol"), Client(desk, "dave")
    open_all(desk, alice, bob)
    alice.sync(payment(bob.handle, 500))
    bob.sync()  # the hub's commit to bob: its remainder is owed
    request, moved = bob.sync_request(51, payment(alice.handle, 50))
    bare = replace(request, half=replace(request.half, remainder=None))
    assert bob.refused("mph_sync", bare.as_json()) == "RemainderMissing"
    other = replace(request, anchors=Anchors(request.anchors.c2h, None))
    assert bob.refused("mph_sync", other.as_json()) == "AnchorsDiffer"
    assert bob.refused(
        "mph_sync", replace(request, payments=(payment(alice.handle, 51),), partial=False).as_json()
    ) == ("AmountExceedsSpendable")
    reply = SyncReply.parse(bob.call("mph_sync", request.as_json()))
    bob.take(reply, moved)
    assert alice.sync().receipts[0].amount == 50
    bob.sync()
    assert bob.refused("mph_sync", request.as_json()) == "StaleRequest"


def test_the_hash_of_a_commit_that_the_reply_gives_back_is_none_for_the_next_one(desk: Desk) -> None:
    """The hub's own next commit would take that one's place in its book: signed, and forgotten."""
    alice, bob = Client(desk, "olivia"), Client(desk, "peggy")
    open_all(desk, alice, bob)
    bob.sync(payment(alice.handle, 1000))
    request, moved = alice.sync_request(11, payment(bob.handle, 10))
    made = request.half.commit
    assert made is not None
    assert alice.refused("mph_sync", replace(request, next_hash=made.revoke_hash).as_json()) == "RepeatedHash"
    reply = alice.take(SyncReply.parse(alice.call("mph_sync", request.as_json())), moved)
    assert len(reply.half.revokes) == 1
    assert desk.account(alice.handle).channels.net == -alice.duplex.net


def test_a_sync_costs_as_many_statements_and_rows_as_those_before_it(desk: Desk) -> None:
    alice, bob = Client(desk, "erin"), Client(desk, "frank")
    open_all(desk, alice, bob)
    count = [0]

    def counted(*_args: object) -> None:
        count[0] += 1

    event.listen(desk.database.engine, "before_cursor_execute", counted)
    costs = []
    for _ in range(30):
        begun = count[0]
        alice.sync(payment(bob.handle, 10))
        bob.sync()
        costs.append(count[0] - begun)
    event.remove(desk.database.engine, "before_cursor_execute", counted)
    assert max(costs[2:]) == min(costs[2:])
    assert len(bob.duplex.receiving.active) == 30
    bob.sync(payment(alice.handle, bob.duplex.receiving.moved - 1))  # gives back all of them
    assert desk.account(bob.handle).channels.sending.moved == 0


def test_a_hub_that_could_not_settle_another_commit_takes_none_until_fees_fall(desk: Desk) -> None:
    alice, bob = Client(desk, "grace"), Client(desk, "heidi")
    open_all(desk, alice, bob)
    alice.sync(payment(bob.handle, 500))
    bob.sync()
    alice.sync(payment(bob.handle, 50))
    desk.node.rpc("feerate", rate=500)
    desk.rounds.once()
    request, _ = alice.sync_request(11, payment(bob.handle, 10))
    assert alice.refused("mph_sync", request.as_json()) == "FeeTooHigh"
    desk.node.rpc("feerate", rate=1)
    desk.rounds.once()
    alice.call("mph_sync", request.as_json())


def test_what_is_signed_is_good_for_one_method_of_one_hub(desk: Desk) -> None:
    alice = Client(desk, "kate")
    open_all(desk, alice)
    assert alice.proposed is not None
    nonce, own = bytes(32), alice.handle
    requests: dict[str, Any] = {
        "mph_key": KeyRequest(nonce),
        "mph_request": ConnectRequest("XCP", alice.party, alice.secrets.salt),
        "mph_deposit": alice.proposed,
        "mph_sync": alice.sync_request(FEE)[0],
        "mph_close": CloseRequest(own, Anchors(None, None), Figures(0, 0), Standing()),
        "mph_state": StateRequest(nonce, own),
        "mph_receipts": ReceiptsRequest(nonce, own, (), ()),
        "mph_waiting": WaitingRequest(nonce, (own,)),
    }
    assert set(requests) == {name for name in desk.table if name.startswith("mph_")} - {"mph_status"}
    stranger = key_of("stranger").pubkey
    for method, request in requests.items():
        handed_on = asked(method, alice.key, stranger, request.as_json())
        assert desk.name_of(method, handed_on) == "BadClientSignature", method
        for other in requests.keys() - {method}:
            assert desk.name_of(method, alice.sealed(other, request.as_json())) == "BadClientSignature", (method, other)
    assert desk.name_of("mph_key", alice.sealed("mph_state", requests["mph_state"].as_json())) == "BadClientSignature"
    alice.sync()  # nothing of it counted


def test_a_client_that_lost_its_files_gets_back_what_it_needs(desk: Desk) -> None:
    alice = Client(desk, "ivan")
    open_all(desk, alice)
    reply = KeyReply.parse(alice.call("mph_key", KeyRequest(bytes(32)).as_json()))
    (found,) = reply.connections
    assert (found.handle, found.salt, found.client) == (alice.handle, alice.secrets.salt, alice.party)
    assert found.anchors == alice.anchors
    sealed = alice.sealed("mph_key", KeyRequest(bytes(32), alice.handle).as_json())
    assert KeyReply.parse(json.loads(desk.call("mph_key", sealed))).connections == ()
    bare = KeyReply.parse(json.loads(desk.call("mph_key", KeyRequest(bytes(32)).as_json())))
    assert bare.connections == ()


def test_a_deposit_outside_the_terms_is_refused_and_one_agreed_to_stays(desk: Desk) -> None:
    alice = Client(desk, "judy")
    alice.agree()
    assert alice.proposed is not None
    again = alice.call("mph_deposit", alice.proposed.as_json())
    assert DepositReply.parse(again).output == alice.duplex.receiving.contract.deposit.output
    other = replace(alice.proposed, height=alice.proposed.height + 1)
    assert alice.refused("mph_deposit", other.as_json()) == "DepositAlreadyGiven"
    mallory = Client(desk, "mallory")
    mallory.request()
    wrong = replace(alice.proposed, handle=mallory.handle)
    assert mallory.refused("mph_deposit", wrong.as_json()) == "BadDepositScript"
    assert mallory.refused("mph_deposit", replace(wrong, height=2).as_json()) == "InvalidTime"
    assert mallory.refused("mph_deposit", replace(wrong, h2c_rate=99).as_json()) == "DepositRefused"

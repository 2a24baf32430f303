"""The hub refuses, books, credits and reveals to the unit: in one process, with a real database and node."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub2_support import DELAY, DEPOSIT, STRANGER, Desk, ScriptedClient, amounts, payment, running_desk, states
from network_support import FEE
from picopayments_cli.channel2.duplex import Half
from picopayments_cli.channel2.messages import ConnectRequest
from picopayments_cli.channel2.scripts import DepositScript
from picopayments_cli.channel2.state import Channel
from regtest_support import address_of, key_of, script_of_key

from picopayments_cli.channel import envelope
from picopayments_cli.channel.values import MAX_QUANTITY, Handle, Hash, Quantity
from picopayments_cli.errors import PicopaymentsError

ROOM = DEPOSIT  # what the hub deposits for a client's deposit, so that a client without payments can take so much
HIGH, LOW = 2 * DEPOSIT, 100  # deposits beyond the bounds of LIMITED
LIMITED = {"deposit_max": HIGH - 1, "deposit_min": LOW + 1, "deposit_ratio": 0.01, "expire_max": 90, "expire_min": 30}


# mph_status ---------------------------------------------------------------------------------------------------------


def test_status_tells_the_connections_in_the_assets_that_were_asked_for(
    desk: Desk, open_clients: Iterator[ScriptedClient]
) -> None:
    opening, open_one = ScriptedClient(desk, "opening"), next(open_clients)
    opening.agree()
    status = json.loads(desk.call("mph_status", {"assets": ["XCP"]}))
    shown = {handle: item["status"] for handle, item in status["connections"].items()}
    assert shown.get(opening.handle.hex()) == "opening"
    assert shown.get(open_one.handle.hex()) == "open"
    assert json.loads(desk.call("mph_status", {"assets": []}))["connections"] == {}
    open_one.close()
    assert open_one.handle.hex() not in json.loads(desk.call("mph_status", {}))["connections"]
    for wrong, error in (("XCP", "InvalidParams"), (["XCP", 1], "InvalidParams"), (["XCP", "NONE"], "UnknownAsset")):
        assert desk.name_of("mph_status", {"assets": wrong}) == error
    funds = status["funds"]
    assert set(funds["liquidity"]) == {"XCP", "BTC"}
    assert min(funds["liquidity"].values()) > 0


# mph_request --------------------------------------------------------------------------------------------------------


def test_a_request_is_refused_that_is_not_signed_by_a_key_that_it_names(desk: Desk) -> None:
    hand = ScriptedClient(desk, "asker")
    body = ConnectRequest("XCP", hand.secrets.spend_hash).as_json()
    other = envelope.seal(key_of("other"), body)
    for wrong in (body, {**hand.sealed(body), "pubkey": other["pubkey"]}, {**hand.sealed(body), "pubkey": "02" * 33}):
        assert desk.name_of("mph_request", wrong) == "BadClientSignature"
    assert desk.name_of("mph_request", hand.sealed({**body, "asset": "NONE"})) == "AssetNotInTerms"


def test_a_request_is_kept_for_144_blocks_and_no_longer(desk: Desk) -> None:
    late, early = ScriptedClient(desk, "late"), ScriptedClient(desk, "early")
    hubs_late, hubs_early = late.request(), early.request()
    desk.node.rpc("generate", blocks=143)
    desk.rounds.once()
    early.call("mph_deposit", early.body(early.proposal(hubs_early)))
    desk.mine()
    assert late.refused("mph_deposit", late.body(late.proposal(hubs_late))) == "UnknownHandle"
    tables = ("connections", "heads", "hashes")
    left = [desk.rows(f"select count(*) from {table} where handle = x'{late.handle.hex()}'") for table in tables]
    assert left == [[(0,)]] * 3
    assert desk.account(early.handle).stage == "agreed"


def test_a_hub_that_drains_takes_no_new_connections(desk: Desk) -> None:
    hand = ScriptedClient(desk, "drained")
    desk.hub.draining = True
    try:
        body = ConnectRequest("XCP", hand.secrets.spend_hash).as_json()
        assert hand.refused("mph_request", body) == "HubDraining"
    finally:
        desk.hub.draining = False
    hand.request()


# mph_deposit --------------------------------------------------------------------------------------------------------


def test_a_deposit_without_a_request_or_on_other_keys_is_refused(desk: Desk) -> None:
    hand = ScriptedClient(desk, "depositor")
    hubs = hand.request()
    right = hand.proposal(hubs)
    script = DepositScript.parse(right.script)
    for wrong in (
        replace(script, payer=key_of("other").pubkey),
        replace(script, payee=key_of("other").pubkey),
        replace(script, spend_hash=Hash(bytes(20))),
    ):
        assert hand.refused("mph_deposit", hand.body(replace(right, script=wrong.redeem))) == "BadDepositScript"
    for delay in (0, -1, 2017):
        assert hand.refused("mph_deposit", hand.body(replace(right, delay=delay))) == "InvalidTime"
    assert hand.refused("mph_deposit", hand.body(replace(right, next_hash=hand.secrets.spend_hash))) == "StaleRequest"
    assert hand.refused("mph_deposit", hand.body(replace(right, next_hash=hubs))) == "RepeatedHash"
    for handle, error in (("12", "InvalidHex"), (None, "InvalidHex"), ("cd" * 32, "UnknownHandle")):
        assert hand.refused("mph_deposit", {**hand.body(right), "handle": handle}) == error
    assert desk.name_of("mph_deposit", envelope.seal(key_of("other"), hand.body(right))) == "BadClientSignature"
    assert hand.refused("mph_sync", hand_sync(hand)) == "UnknownHandle"
    assert hand.call("mph_deposit", hand.body(right))["quantity"] == DEPOSIT


def hand_sync(hand: ScriptedClient) -> dict[str, Any]:
    """A sync that a connection without a deposit may try."""
    return {
        "handle": STRANGER.hex(),
        "next_revoke_secret_hash": hand.secrets.revoke_hash(1).hex(),
        "sends": [],
        "revokes": [],
        "commit": None,
    }


def test_the_same_deposit_has_the_same_answer_and_another_one_none(desk: Desk) -> None:
    hand = ScriptedClient(desk, "again")
    right = hand.proposal(hand.request())
    body = hand.sealed(hand.body(right))
    first = desk.call("mph_deposit", body)
    assert desk.call("mph_deposit", body) == first
    assert hand.refused("mph_deposit", hand.body(replace(right, delay=DELAY + 1))) == "DepositAlreadyGiven"
    desk.node.rpc("faucet", address=address_of(DepositScript.parse(right.script).output), btc=1000)
    desk.mine()
    assert desk.call("mph_deposit", body) == first
    own = DepositScript.parse(bytes.fromhex(json.loads(first)["deposit_script"]))
    assert (own.payer, own.payee) == (desk.hub.key.pubkey, hand.key.pubkey)
    assert (own.spend_hash, own.expire) == (hand.secrets.spend_hash, DepositScript.parse(right.script).expire)
    assert json.loads(first)["delay_time"] == 2  # twice the depth at which something is final here


def test_of_two_deposits_at_once_one_is_agreed_to(desk: Desk) -> None:
    for number in range(5):
        hand = ScriptedClient(desk, f"racer {number}")
        right = hand.proposal(hand.request())
        bodies = [hand.sealed(hand.body(replace(right, delay=delay))) for delay in (2, 3)]
        answers: list[str] = []

        def propose(body: dict[str, Any], answers: list[str] = answers) -> None:
            try:
                answers.append(desk.call("mph_deposit", body))
            except PicopaymentsError as error:
                answers.append(error.name)

        threads = [threading.Thread(target=propose, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [item for item in answers if item.isidentifier()]
        assert (len(answers), refused) == (2, ["DepositAlreadyGiven"])


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_deposit_on_an_address_with_a_history_is_refused(desk: Desk, blocks: int) -> None:
    hand = ScriptedClient(desk, f"used {blocks}")
    right = hand.proposal(hand.request())
    desk.node.rpc("faucet", address=address_of(DepositScript.parse(right.script).output), btc=1000)
    desk.mine(blocks)
    assert hand.refused("mph_deposit", hand.body(right)) == "AddressUsed"


def test_a_deposit_stays_in_the_bounds_of_the_terms(tmp_path: Path) -> None:
    terms = json.dumps({"XCP": LIMITED | {"sync_fee": 7}})
    with running_desk(tmp_path, terms) as desk:
        hand = ScriptedClient(desk, "bounded")
        hubs = hand.request()
        for quantity, expire, error in (
            (LOW, 60, "DepositRefused"),
            (HIGH, 60, "DepositRefused"),
            (HIGH - 1, 29, "InvalidTime"),
            (HIGH - 1, 91, "InvalidTime"),
        ):
            assert hand.refused("mph_deposit", hand.body(hand.proposal(hubs, expire, quantity))) == error
        assert hand.call("mph_deposit", hand.body(hand.proposal(hubs, 30, 199)))["quantity"] == 1
        with_the_longest = ScriptedClient(desk, "longest")
        message = with_the_longest.proposal(with_the_longest.request(), 90, HIGH - 1)
        assert with_the_longest.call("mph_deposit", with_the_longest.body(message))["quantity"] == (HIGH - 1) // 100


def test_a_deposit_that_the_hub_would_match_by_nothing_is_refused(tmp_path: Path) -> None:
    terms = LIMITED | {"deposit_min": 0, "sync_fee": 1}
    with running_desk(tmp_path, json.dumps({"XCP": terms, "DEMOCOIN": terms})) as desk:
        desk.node.rpc("faucet", address=address_of(script_of_key(key_of("other"))), asset="DEMOCOIN", quantity=5000)
        other = ScriptedClient(desk, "of what the hub has none of", "DEMOCOIN")
        body = other.body(other.proposal(other.request(), 60, 100))
        assert other.refused("mph_deposit", body) == "InsufficientLiquidity"
        hand = ScriptedClient(desk, "little")
        hubs = hand.request()
        assert hand.refused("mph_deposit", hand.body(hand.proposal(hubs, 60, 99))) == "InsufficientLiquidity"
        assert hand.call("mph_deposit", hand.body(hand.proposal(hubs, 60, 100)))["quantity"] == 1


def test_what_is_promised_in_one_asset_and_not_funded_is_promised_to_nobody_else(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk:
        desk.node.rpc("faucet", address=desk.hub.address, asset="DEMOCOIN", quantity=5000)
        desk.mine()
        first, second, third, fourth = (
            ScriptedClient(desk, name, "DEMOCOIN") for name in ("first", "second", "third", "fourth")
        )
        xcp = ScriptedClient(desk, "of xcp")
        xcp.agree(quantity=4000)
        first.agree(quantity=3000)

        def most(hand: ScriptedClient, available: int, wrong: int) -> None:
            hubs = hand.request()
            body = hand.sealed(hand.body(hand.proposal(hubs, quantity=wrong)))
            refused = desk.refusal("mph_deposit", body)
            assert (refused.name, refused.data["available"]) == ("InsufficientLiquidity", available)

        most(second, 2000, 2001)
        first.fund()
        desk.mine()  # the hub's deposit is made, and waits for a block
        assert desk.mempool()
        assert desk.account(first.handle).deposit_raw is not None
        most(third, 2000, 2001)
        desk.node.rpc("generate", blocks=1)
        desk.hub.follower.catch_up()
        assert desk.account(first.handle).stage == "agreed"  # no round has seen it yet
        most(fourth, 2000, 2001)
        fourth.agree(quantity=2000)
        most(ScriptedClient(desk, "fifth", "DEMOCOIN"), 0, 1)
        desk.rounds.once()
        assert desk.account(first.handle).stage == "open"


# mph_sync -----------------------------------------------------------------------------------------------------------


def test_a_sync_is_refused_that_is_not_signed_or_not_of_an_open_connection(desk: Desk) -> None:
    hand = ScriptedClient(desk, "signer")
    hand.agree()
    empty = {**hand_sync(hand), "handle": hand.handle.hex()}
    assert desk.name_of("mph_sync", empty) == "BadClientSignature"
    assert desk.name_of("mph_sync", envelope.seal(key_of("other"), empty)) == "BadClientSignature"
    assert hand.refused("mph_sync", empty) == "ConnectionNotOpen"
    hand.fund()
    desk.mine()
    desk.mine()
    hand.see_deposits()
    assert desk.name_of("mph_sync", envelope.seal(key_of("other"), empty)) == "BadClientSignature"
    assert hand.refused("mph_sync", empty) == "AmountExceedsSpendable"
    assert hand.sync(FEE).receipts == ()
    hand.close()
    assert hand.refused("mph_sync", {**empty, "next_revoke_secret_hash": "07" * 20}) == "ConnectionNotOpen"


def test_a_sync_has_one_answer_and_an_overtaken_one_none(desk: Desk, alice: ScriptedClient) -> None:
    overtaken = alice.sealed(alice.sync_body(alice.sync_request(FEE)))
    first = desk.call("mph_sync", overtaken)
    assert desk.call("mph_sync", overtaken) == first
    assert alice.paid == FEE
    alice.next_number, before = 2, alice.duplex
    alice.duplex = replace(
        before,
        sending=desk_view(desk, alice, before.sending),
        receiving=replace(before.receiving, requested=(alice.secrets.revoke_hash(1),)),
    )
    alice.sync(FEE)
    assert desk.name_of("mph_sync", overtaken) == "StaleRequest"
    assert alice.paid == 2 * FEE


def desk_view(desk: Desk, hand: ScriptedClient, sending: Channel) -> Channel:
    """A client's channel as it stands once the answers that a test threw away are known."""
    theirs = desk.account(hand.handle).channels.receiving
    return replace(sending, active=theirs.active, requested=theirs.requested)


def test_the_fee_and_every_payment_must_be_moved(desk: Desk, alice: ScriptedClient) -> None:
    assert alice.sync_refused(replace(alice.sync_request(FEE), half=Half())) == "AmountExceedsSpendable"
    for paid in ([5], [2, 3], [1, 1, 1, 1, 1]):
        short = alice.sync_request(5, *(payment(None, amount) for amount in paid))
        assert alice.sync_refused(short) == "AmountExceedsSpendable"
        assert alice.paid == 0
    assert states(desk, alice) == []
    alice.sync(6, payment(None, 5))
    assert alice.paid == 6
    assert states(desk, alice) == [(5, "done")]
    assert desk.account(alice.handle).due == 0


def test_what_a_sync_moves_and_does_not_pay_comes_back_with_its_answer(desk: Desk, alice: ScriptedClient) -> None:
    alice.sync(50, payment(None, 9))
    assert alice.paid == 10
    assert alice.duplex.net == -10
    alice.sync(FEE)
    assert alice.paid == 11


@pytest.mark.parametrize("partial", [True, False, 1, "true", None])
def test_a_payment_alone_is_refused_where_the_client_asks_for_that(
    desk: Desk, alice: ScriptedClient, partial: object
) -> None:
    lost, kept = payment(STRANGER, 30), payment(None, 10)
    if partial is not True:
        assert alice.sync_refused(alice.sync_request(41, lost, kept), partial=partial) == "UnknownHandle"
        assert (alice.paid, states(desk, alice)) == (0, [])
        return
    reply = alice.sync(41, lost, kept, payment(None, 31), partial=True)
    assert reply.refused[0].token == lost.token
    assert [item.cause for item in reply.refused] == ["UnknownHandle", "AmountExceedsSpendable"]
    assert (alice.paid, states(desk, alice)) == (11, [(10, "done")])


def test_a_payment_is_in_one_answer_and_done_with_the_next_request(
    desk: Desk, alice: ScriptedClient, bob: ScriptedClient
) -> None:
    alice.sync(11, payment(bob.handle, 4), payment(bob.handle, 6))
    assert states(desk, alice) == [(4, "waiting"), (6, "waiting")]
    reply = bob.sync(FEE)
    assert [(item.payer, item.amount) for item in reply.receipts] == [(alice.handle, 4), (alice.handle, 6)]
    assert states(desk, alice) == [(4, "listed"), (6, "listed")]
    assert bob.sync(FEE).receipts == ()
    assert states(desk, alice) == [(4, "done"), (6, "done")]
    alice.sync(3, payment(bob.handle, 2))
    assert bob.sync(FEE).receipts != ()
    assert bob.sync(FEE).receipts == ()
    assert (alice.paid, bob.paid) == (14, -8)


def test_a_payment_to_oneself_comes_back_with_its_answer(desk: Desk, alice: ScriptedClient) -> None:
    assert amounts(alice.sync(6, payment(alice.handle, 5))) == [5]
    assert (alice.paid, states(desk, alice)) == (FEE, [(5, "listed")])
    assert amounts(alice.sync(FEE)) == []


def test_a_payee_takes_what_its_connection_has_room_for_to_the_unit(desk: Desk, bob: ScriptedClient) -> None:
    rich = ScriptedClient(desk, "rich").open(quantity=10 * DEPOSIT)
    too_much = rich.sealed(rich.sync_body(rich.sync_request(ROOM + 2, payment(bob.handle, ROOM + 1))))
    refused = desk.refusal("mph_sync", too_much)
    assert (refused.name, refused.data["receivable"]) == ("PaymentExceedsReceivable", ROOM)
    rich.sync(401, payment(bob.handle, 400))
    two = [payment(bob.handle, ROOM - 1000), payment(bob.handle, 601)]
    assert rich.sync_refused(rich.sync_request(ROOM, *two)) == "PaymentExceedsReceivable"
    assert states(desk, rich) == [(400, "waiting")]
    rich.sync(ROOM - 399, payment(bob.handle, ROOM - 1000), payment(bob.handle, 600))
    assert amounts(bob.sync(FEE)) == [400, ROOM - 1000, 600]
    assert (bob.paid, rich.paid) == (FEE - ROOM, ROOM + 2 * FEE)


def test_what_can_not_be_moved_whole_waits_and_counts_at_the_next_payment(desk: Desk, bob: ScriptedClient) -> None:
    rich = ScriptedClient(desk, "richer").open(quantity=10 * DEPOSIT)

    def most(amount: int, receivable: int) -> None:
        body = rich.sealed(rich.sync_body(rich.sync_request(amount + FEE, payment(bob.handle, amount))))
        refused = desk.refusal("mph_sync", body)
        assert (refused.name, refused.data["receivable"]) == ("PaymentExceedsReceivable", receivable)

    rich.sync(ROOM + FEE, payment(bob.handle, ROOM))
    bob.sync(FEE)  # one unit of the hub's deposit is left
    bob.sync(50)  # and used
    assert desk.account(bob.handle).due == 48  # a commit of 50 can be given back, and no less
    most(3, 2)
    most(1, 0)
    rich.sync(2 + FEE, payment(bob.handle, 2))
    most(1, 0)
    assert bob.sync_refused(bob.sync_request(52, payment(None, 100))) == "AmountExceedsSpendable"
    assert amounts(bob.sync(52, payment(None, 99))) == []  # 50 or 101 could be given back
    assert states(desk, rich)[-1] == (2, "waiting")
    assert (desk.account(bob.handle).due, bob.paid) == (0, 102 - ROOM)
    rich.sync(49 + FEE, payment(bob.handle, 49))
    assert amounts(bob.sync(FEE)) == [2]
    assert states(desk, rich)[-2:] == [(2, "listed"), (49, "waiting")]
    assert [item.amount for item in desk.account(bob.handle).waiting] == [49]


def test_a_payee_must_be_open_and_in_the_same_asset(
    desk: Desk, alice: ScriptedClient, open_clients: Iterator[ScriptedClient]
) -> None:
    desk.node.rpc("faucet", address=desk.hub.address, asset="DEMOCOIN", quantity=5 * DEPOSIT)
    desk.mine()
    other, opening = (
        ScriptedClient(desk, "in another asset", "DEMOCOIN").open(),
        ScriptedClient(desk, "payee that opens"),
    )
    opening.agree()
    gone = next(open_clients)
    gone.close()
    asked = ScriptedClient(desk, "payee that asked")
    asked.request()
    for payee, error in (
        (other, "AssetMismatch"),
        (opening, "ConnectionNotOpen"),
        (gone, "ConnectionNotOpen"),
        (asked, "ConnectionNotOpen"),
    ):
        assert alice.sync_refused(alice.sync_request(2, payment(payee.handle, 1))) == error
    assert alice.paid == 0


def test_a_hash_that_was_given_before_is_refused(desk: Desk, alice: ScriptedClient) -> None:
    alice.sync(FEE)
    right = alice.sync_request(FEE)
    for taken, error in (
        (alice.secrets.revoke_hash(0), "StaleRequest"),
        (alice.secrets.spend_hash, "StaleRequest"),
        (alice.duplex.sending.script.spend_hash, "RepeatedHash"),
        (alice.duplex.sending.requested[-1], "RepeatedHash"),
        (alice.duplex.sending.active[-1].revoke_hash, "RepeatedHash"),
    ):
        assert alice.sync_refused(replace(right, next_hash=taken)) == error
    assert alice.paid == FEE
    alice.sync(FEE)


def test_no_hash_serves_two_syncs_of_the_hub(desk: Desk, alice: ScriptedClient) -> None:
    hashes = {alice.sync(FEE).next_hash for _ in range(12)}
    assert len(hashes) == 12
    assert alice.paid == 12 * FEE


def test_quantities_beyond_what_the_hub_holds_are_refused(desk: Desk) -> None:
    hand = ScriptedClient(desk, "greedy")
    hubs = hand.request()
    body = hand.body(replace(hand.proposal(hubs), quantity=Quantity(MAX_QUANTITY)))
    assert hand.refused("mph_deposit", body) == "InsufficientLiquidity"
    assert Handle(bytes.fromhex(body["handle"])) == hand.handle


def test_a_hub_to_whose_wallet_nothing_could_come_back_opens_nothing_and_goes_on(
    desk: Desk, alice: ScriptedClient
) -> None:
    hand = ScriptedClient(desk, "after a change of the wallet's options")
    body = hand.body(hand.proposal(hand.request()))
    desk.node.rpc("setaddressoptions", address=desk.hub.address, options=1)
    assert hand.refused("mph_deposit", body) == "MemoRequired"
    desk.rounds.prepare()
    alice.sync(FEE)
    desk.node.rpc("setaddressoptions", address=desk.hub.address, options=0)
    hand.call("mph_deposit", body)

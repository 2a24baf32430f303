"""The hub tells, refuses and agrees to connections by name: in one process, with a real database and node."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_support import DELAY, DEPOSIT, STRANGER, TIME, Client, Desk, running_desk
from regtest_support import address_of, key_of, script_of_key

from picopayments_cli.channel.messages import ConnectRequest
from picopayments_cli.channel.opening import contract_of
from picopayments_cli.channel.values import MAX_QUANTITY
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.hub import promises

HIGH, LOW = 2 * DEPOSIT, 100  # deposits beyond the bounds of LIMITED
LIMITED = {"deposit_max": HIGH - 1, "deposit_min": LOW + 1, "deposit_ratio": 0.01, "expire_max": 90, "expire_min": 30}
OTHER = key_of("other")


# mph_status ---------------------------------------------------------------------------------------------------------


def test_status_tells_totals_and_the_connections_named_and_no_others(
    desk: Desk, open_clients: Iterator[Client]
) -> None:
    opening, open_one = Client(desk, "opening"), next(open_clients)
    before = json.loads(desk.call("mph_status", {}))["totals"]
    opening.agree()
    opening_hex, open_hex = opening.handle.hex(), open_one.handle.hex()
    status = json.loads(desk.call("mph_status", {"assets": ["XCP"], "handles": [open_hex, opening_hex]}))
    shown = {handle: item["status"] for handle, item in status["connections"].items()}
    assert shown == {opening_hex: "opening", open_hex: "open"}
    account = desk.account(open_one.handle)
    assert status["connections"][open_hex]["balance"] == account.channels.guaranteed
    assert status["totals"] == {**before, "opening": before["opening"] + 1}
    nothing = json.loads(desk.call("mph_status", {"assets": []}))
    assert (nothing["connections"], nothing["current_terms"]) == ({}, {})
    assert set(nothing["totals"].values()) == {0}
    assert list(nothing["funds"]["liquidity"]) == ["BTC"]
    open_one.ask_close()
    after = json.loads(desk.call("mph_status", {}))
    assert after["connections"] == {}
    assert (after["totals"]["open"], after["totals"]["closing"]) == (before["open"] - 1, before["closing"] + 1)
    named = [opening_hex, STRANGER.hex(), open_hex]  # the last one closes
    told = json.loads(desk.call("mph_status", {"assets": [], "handles": named}))
    assert {handle: item["asset"] for handle, item in told["connections"].items()} == {named[0]: "XCP"}
    for handles in ("ab", ["ab"], ["ab" * 32] * 101):
        assert desk.name_of("mph_status", {"handles": handles}) == "BadRequest"
    for wrong, error in (("XCP", "BadRequest"), (["XCP", 1], "BadRequest"), (["XCP", "NONE"], "AssetNotInTerms")):
        assert desk.name_of("mph_status", {"assets": wrong}) == error
    assert set(status["funds"]["liquidity"]) == {"XCP", "BTC"}
    assert min(status["funds"]["liquidity"].values()) > 0


# mph_request --------------------------------------------------------------------------------------------------------


def request_body(hand: Client) -> dict[str, Any]:
    return ConnectRequest("XCP", hand.party, hand.secrets.salt).as_json()


def test_a_request_is_answered_with_a_handle_and_keys_of_its_own_each_time(desk: Desk) -> None:
    hand = Client(desk, "asker")
    first, second = hand.request(), hand.request()
    assert first.terms == desk.hub.terms("XCP")
    assert first.handle != second.handle
    keys = {key for reply in (first, second) for key in (reply.hub.payer_key, reply.hub.payee_key)}
    assert len(keys) == 4
    assert {reply.hub.wallet for reply in (first, second)} == {desk.hub.script}


def test_a_request_is_refused_that_is_not_signed_by_the_key_that_it_names(desk: Desk) -> None:
    hand = Client(desk, "asker")
    body = request_body(hand)
    sealed = hand.sealed("mph_request", body)
    other = desk.sealed("mph_request", OTHER, body)["pubkey"]
    for wrong in (
        body,
        {**sealed, "pubkey": other},
        {**sealed, "pubkey": "02" * 33},
        {**sealed, "extra": 1},
        {**sealed, "signature": None},
    ):
        assert desk.name_of("mph_request", wrong) == "BadClientSignature"
    assert desk.refusal("mph_request", {**sealed, "extra": 1}).exit_code == 5


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"asset": "NONE"}, "AssetNotInTerms"),
        ({"asset": "BTC"}, "AssetNotInTerms"),
        ({"asset": None}, "BadRequest"),
        ({"salt": "00" * 15}, "BadRequest"),
        ({"salt": "AB" * 16}, "BadRequest"),
        ({"client": None}, "BadRequest"),
        ({"protocol": 2}, "BadRequest"),
        ({"protocol": None}, "BadRequest"),
    ],
    ids=str,
)
def test_a_request_is_refused_by_name(desk: Desk, changes: dict[str, Any], error: str) -> None:
    hand = Client(desk, "asker")
    assert hand.refused("mph_request", request_body(hand) | changes) == error


def test_a_request_of_another_wallet_or_with_repeated_keys_is_refused(desk: Desk) -> None:
    hand = Client(desk, "asker")
    for party, error in (
        (replace(hand.party, wallet=script_of_key(OTHER)), "BadWalletScript"),
        (replace(hand.party, payee_key=hand.party.payer_key), "RepeatedKey"),
    ):
        assert hand.refused("mph_request", ConnectRequest("XCP", party, bytes(16)).as_json()) == error


def test_a_hub_that_drains_takes_no_new_connections(desk: Desk) -> None:
    hand = Client(desk, "drained")
    desk.hub.draining = True
    try:
        assert hand.refused("mph_request", request_body(hand)) == "HubDraining"
    finally:
        desk.hub.draining = False
    hand.request()


def test_a_request_is_kept_for_144_blocks_and_no_longer(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk:
        late, early = Client(desk, "late"), Client(desk, "early")
        for hand in (late, early):
            hand.request()
        desk.node.rpc("generate", blocks=143)
        desk.rounds.once()
        early.propose(early.proposal())
        desk.mine()
        assert late.refused("mph_deposit", late.proposal().as_json()) == "UnknownHandle"
        tables = ("connections", "heads", "hashes")
        left = [desk.rows(f"select count(*) from {table} where handle = :of", late.handle) for table in tables]
        assert left == [[(0,)]] * 3
        assert desk.account(early.handle).stage == "agreed"


def test_of_too_many_requests_the_oldest_give_way_and_none_that_was_promised_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promises, "MOST_REQUESTS", 3)
    with running_desk(tmp_path) as desk:
        agreed, *asking = (Client(desk, f"asking {number}") for number in range(7))
        agreed.agree()
        for hand in asking:
            hand.request()
            desk.mine()
        assert [desk.rows("select stage from connections where handle = :of", hand.handle) for hand in asking] == [
            *[[]] * 3,
            *[[("requested",)]] * 3,
        ]
        assert desk.account(agreed.handle).stage == "agreed"
        assert desk.rows("select number from totals where stage = 'requested'") == [(3,)]
        assert asking[0].refused("mph_deposit", asking[0].proposal().as_json()) == "UnknownHandle"
        asking[-1].propose(asking[-1].proposal())


# mph_deposit --------------------------------------------------------------------------------------------------------


def test_a_deposit_that_is_not_the_connections_own_is_refused_and_a_right_one_taken_after(desk: Desk) -> None:
    hand = Client(desk, "depositor")
    hand.request()
    right = hand.proposal()
    swapped = contract_of(hand.hub.hub, hand.party, 1, right.height, right.stake).deposit.output
    later = contract_of(hand.party, hand.hub.hub, 1, right.height + 1, right.stake).deposit.output
    for output in (swapped, later, bytes(34)):
        assert hand.refused("mph_deposit", replace(right, output=output).as_json()) == "BadDepositScript"
    body = right.as_json()
    for changes, error in (
        ({"handle": "12"}, "BadRequest"),
        ({"handle": None}, "BadRequest"),
        ({"handle": STRANGER.hex()}, "UnknownHandle"),
        ({"next_revoke_hash": "00" * 19}, "BadRequest"),
        ({"expiry_height": 500_000_000}, "BadRequest"),
        ({"c2h": body["c2h"] | {"delay_time": 1}}, "BadRequest"),
        ({"c2h": body["c2h"] | {"delay_time": 2017}}, "BadRequest"),
        ({"c2h": body["c2h"] | {"quantity": 0}}, "BadRequest"),
        ({"c2h": body["c2h"] | {"quantity": MAX_QUANTITY + 1}}, "BadRequest"),
        ({"c2h": body["c2h"] | {"fee_rate": 2}}, "DepositRefused"),
        ({"h2c_fee_rate": 99}, "DepositRefused"),
        ({"h2c_fee_rate": 0}, "BadRequest"),
    ):
        assert hand.refused("mph_deposit", body | changes) == error, changes
    for sealed in (body, desk.sealed("mph_deposit", OTHER, body)):
        assert desk.name_of("mph_deposit", sealed) == "BadClientSignature"
    assert hand.propose(right).stake.quantity == DEPOSIT


def test_no_deposit_is_agreed_to_before_the_ledger_knows_taproot(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = Client(desk, "early")
    hand.request()
    tip = desk.hub.chain.tip()
    monkeypatch.setattr(desk.hub, "network", replace(desk.hub.network, taproot_height=tip + 1))
    assert hand.refused("mph_deposit", hand.proposal().as_json()) == "TaprootInactive"
    monkeypatch.setattr(desk.hub, "network", replace(desk.hub.network, taproot_height=tip))
    assert hand.propose(hand.proposal()).stake.quantity == DEPOSIT


def test_the_same_deposit_is_answered_with_the_same_bytes_and_another_refused(desk: Desk) -> None:
    hand = Client(desk, "again")
    hand.request()
    right = hand.proposal()
    body = hand.sealed("mph_deposit", right.as_json())
    first = desk.call("mph_deposit", body)
    for other in (
        hand.proposal(delay=DELAY + 1),
        hand.proposal(quantity=DEPOSIT + 1),
        hand.proposal(TIME + 1),
        replace(right, next_hash=hand.secrets.revoke_hash(1)),
    ):
        assert hand.refused("mph_deposit", other.as_json()) == "DepositAlreadyGiven"
    desk.node.rpc("faucet", address=address_of(right.output), btc=1000)  # dust on its address is nobody's concern
    desk.mine()
    assert desk.call("mph_deposit", body) == first
    assert json.loads(first)["h2c"]["delay_time"] == 2  # twice the depth at which something is final here


def test_of_two_deposits_at_once_one_is_agreed_to(desk: Desk) -> None:
    for number in range(3):
        hand = Client(desk, f"racer {number}")
        hand.request()
        bodies = [hand.sealed("mph_deposit", hand.proposal(delay=delay).as_json()) for delay in (2, 3)]
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


def test_a_deposit_stays_in_the_bounds_of_the_terms(tmp_path: Path) -> None:
    terms = json.dumps({"XCP": LIMITED | {"sync_fee": 7}})
    with running_desk(tmp_path, terms) as desk:
        hand = Client(desk, "bounded")
        hand.request()
        for quantity, time, error in (
            (LOW, 60, "DepositRefused"),
            (HIGH, 60, "DepositRefused"),
            (HIGH - 1, 30 - 7, "InvalidTime"),  # both tips may differ by six blocks
            (HIGH - 1, 90 + 7, "InvalidTime"),
        ):
            assert hand.refused("mph_deposit", hand.proposal(time, quantity).as_json()) == error
        assert hand.propose(hand.proposal(30, 199)).stake.quantity == 1
        longest = Client(desk, "longest")
        longest.request()
        assert longest.propose(longest.proposal(90, HIGH - 1)).stake.quantity == (HIGH - 1) // 100


def test_a_deposit_that_the_hub_would_match_by_nothing_is_refused(tmp_path: Path) -> None:
    terms = LIMITED | {"deposit_min": 0, "sync_fee": 1}
    with running_desk(tmp_path, json.dumps({"XCP": terms, "DEMOCOIN": terms})) as desk:
        desk.node.rpc("faucet", address=address_of(script_of_key(OTHER)), asset="DEMOCOIN", quantity=5000)
        other = Client(desk, "of what the hub has none of", "DEMOCOIN")
        other.request()
        assert other.refused("mph_deposit", other.proposal(60, 100).as_json()) == "InsufficientLiquidity"
        hand = Client(desk, "little")
        hand.request()
        assert hand.refused("mph_deposit", hand.proposal(60, 99).as_json()) == "InsufficientLiquidity"
        assert hand.propose(hand.proposal(60, 100)).stake.quantity == 1


def test_what_is_promised_in_one_asset_and_not_funded_is_promised_to_nobody_else(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk:
        desk.node.rpc("faucet", address=desk.hub.address, asset="DEMOCOIN", quantity=5000)
        desk.mine()
        first, second, third, fourth = (Client(desk, name, "DEMOCOIN") for name in ("1st", "2nd", "3rd", "4th"))
        for hand in (first, second, third, fourth):
            desk.node.rpc("faucet", address=address_of(hand.script), asset="DEMOCOIN", quantity=5000)
        desk.mine()
        Client(desk, "of xcp").agree(quantity=4000)
        first.agree(quantity=3000)

        def most(hand: Client, available: int, wrong: int) -> None:
            hand.request()
            body = hand.sealed("mph_deposit", hand.proposal(quantity=wrong).as_json())
            refused = desk.refusal("mph_deposit", body)
            assert (refused.name, refused.data["available"]) == ("InsufficientLiquidity", available)

        most(second, 2000, 2001)
        first.endow()
        desk.mine()
        first.deposit()
        desk.mine()  # the hub's deposit is made, and waits for a block
        assert desk.mempool()
        assert desk.account(first.handle).deposit_raw is not None
        most(third, 2000, 2001)
        fourth.agree(quantity=2000)
        most(Client(desk, "5th", "DEMOCOIN"), 0, 1)
        desk.mine()
        assert desk.account(first.handle).stage == "open"


def test_a_hub_to_whose_wallet_nothing_could_come_back_opens_and_signs_nothing_and_goes_on(
    desk: Desk, alice: Client, bob: Client
) -> None:
    hand = Client(desk, "after a change of the wallet's options")
    hand.request()
    body = hand.proposal()
    alice.sync()
    desk.node.rpc("setaddressoptions", address=desk.hub.address, options=1)
    try:
        assert hand.refused("mph_deposit", body.as_json()) == "MemoRequired"
        desk.rounds.prepare()
        alice.sync()
        _, reply, outcome = alice.ask_close()
        assert reply.figures.c2h == 2  # it is told, and not signed: what it pays would stay where it is
        assert (reply.c2h_close, outcome.c2h) == (None, None)
    finally:
        desk.node.rpc("setaddressoptions", address=desk.hub.address, options=0)
    hand.propose(body)
    bob.sync()
    assert bob.ask_close()[2].c2h is not None

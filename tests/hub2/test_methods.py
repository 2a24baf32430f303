"""Connections requested, proposed and closed over HTTP, by a client that signs whatever it likes: refusals by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub2_support import STRANGER, payment
from hub_http_support import DELAY, EXPIRE, OpenConnection, ProposingClient, hub_key, name_of, raw_result, refusal
from network_support import DEPOSIT, Network, running_network
from picopayments_cli.channel2.messages import (
    CloseRequest,
    ConnectRequest,
    DepositRequest,
)
from picopayments_cli.channel2.scripts import DepositScript
from picopayments_cli.channel2.transactions import spent_outpoints
from regtest_support import address_of, key_of

from picopayments_cli.channel import envelope
from picopayments_cli.channel.values import MAX_QUANTITY, Hash, Quantity, Secret, hash_of

# mph_status ---------------------------------------------------------------------------------------------------------


def test_status_shows_the_assets_that_are_asked_for(network: Network) -> None:
    client = network.client("status")
    handle = network.open_connection(client)
    for assets in (None, ["XCP"]):
        status = network.hub.call("mph_status", assets=assets)
        assert status["connections"][handle]["status"] == "open"
        assert "XCP" in status["current_terms"]
        assert set(status["funds"]["liquidity"]) >= {"BTC", "XCP"}
    nothing = network.hub.call("mph_status", assets=[])
    assert (nothing["connections"], nothing["current_terms"]) == ({}, {})
    assert list(nothing["funds"]["liquidity"]) == ["BTC"]
    assert name_of(network, "mph_status", {"assets": ["NOSUCHASSET"]}) == "UnknownAsset"
    for nonsense in ("XCP", [1], {"XCP": 1}):
        assert name_of(network, "mph_status", {"assets": nonsense}) == "InvalidParams"


# mph_request --------------------------------------------------------------------------------------------------------


def test_a_request_is_answered_with_handle_hash_and_terms_and_a_new_one_each_time(hand: ProposingClient) -> None:
    body = ConnectRequest("XCP", hand.secrets.spend_hash).as_json()
    first, second = hand.call("mph_request", body), hand.call("mph_request", body)
    for reply in (first, second):
        assert (len(reply["handle"]), len(reply["spend_secret_hash"])) == (64, 40)
    assert first["channel_terms"] == hand.network.hub.call("mph_status", assets=["XCP"])["current_terms"]["XCP"]
    assert first["handle"] != second["handle"]
    assert first["spend_secret_hash"] != second["spend_secret_hash"]


def test_a_request_must_be_signed_by_the_key_that_it_names(network: Network, hand: ProposingClient) -> None:
    body = ConnectRequest("XCP", hand.secrets.spend_hash).as_json()
    sealed = envelope.seal(hand.key, body)
    other = key_of("another").pubkey.hex()
    for broken in (
        body,
        {**sealed, "pubkey": other},
        {**sealed, "asset": "BTC"},
        {**sealed, "extra": 1},
        {**sealed, "signature": "00"},
        {**sealed, "signature": None},
        {**sealed, "pubkey": "02" + "ff" * 32},
        {name: value for name, value in sealed.items() if name != "signature"},
    ):
        assert name_of(network, "mph_request", broken) in ("BadClientSignature", "AssetNotInTerms")
    assert refusal(network, "mph_request", {**sealed, "extra": 1}).exit_code == 5


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"asset": "NOSUCHASSET"}, "AssetNotInTerms"),
        ({"asset": "BTC"}, "AssetNotInTerms"),
        ({"asset": None}, "BadRequest"),
        ({"spend_secret_hash": "00" * 19}, "BadRequest"),
        ({"spend_secret_hash": "AB" * 20}, "BadRequest"),
        ({"spend_secret_hash": 5}, "BadRequest"),
    ],
)
def test_a_request_is_refused_by_name(
    network: Network, hand: ProposingClient, changes: dict[str, Any], error: str
) -> None:
    body = ConnectRequest("XCP", hand.secrets.spend_hash).as_json() | changes
    assert name_of(network, "mph_request", envelope.seal(hand.key, body)) == error


# mph_deposit --------------------------------------------------------------------------------------------------------


def test_the_same_deposit_is_answered_with_the_same_bytes_and_another_refused(
    network: Network, hand: ProposingClient
) -> None:
    handle, hubs = hand.request()
    message = hand.deposit(hubs)
    sealed = envelope.seal(hand.key, DepositRequest(message, "XCP", handle).as_json())
    first = raw_result(network, "mph_deposit", sealed)
    assert json.loads(first)["result"]["quantity"] == DEPOSIT
    assert raw_result(network, "mph_deposit", sealed) == first
    for other in (
        replace(message, quantity=Quantity(DEPOSIT + 1)),
        replace(message, delay=DELAY + 1),
        replace(message, next_hash=hand.secrets.revoke_hash(1)),
        hand.deposit(hubs, expire=EXPIRE + 1),
    ):
        body = envelope.seal(hand.key, DepositRequest(other, "XCP", handle).as_json())
        assert name_of(network, "mph_deposit", body) == "DepositAlreadyGiven"
    assert raw_result(network, "mph_deposit", sealed) == first


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"expire": 11}, "InvalidTime"),
        ({"expire": 0}, "InvalidTime"),
        ({"delay": 0}, "InvalidTime"),
        ({"delay": -1}, "InvalidTime"),
        ({"delay": 2017}, "InvalidTime"),
        ({"quantity": 0}, "BadRequest"),
        ({"quantity": MAX_QUANTITY + 1}, "BadRequest"),
        ({"quantity": 10_000 * 10**8 + 1}, "InsufficientLiquidity"),
        ({"quantity": MAX_QUANTITY}, "InsufficientLiquidity"),
        ({"script": b""}, "BadDepositScript"),
        ({"script": b"\x51" * 150}, "BadDepositScript"),
        ({"next_hash": Hash(b"short")}, "BadRequest"),
    ],
)
def test_a_deposit_is_refused_by_name_and_a_right_one_taken_after(
    network: Network, hand: ProposingClient, changes: dict[str, Any], error: str
) -> None:
    handle, hubs = hand.request()
    wrong = DepositRequest(hand.deposit(hubs, **changes), "XCP", handle).as_json()
    assert name_of(network, "mph_deposit", envelope.seal(hand.key, wrong)) == error
    assert hand.call("mph_deposit", DepositRequest(hand.deposit(hubs), "XCP", handle).as_json())["quantity"] == DEPOSIT


def test_a_deposit_script_of_other_keys_or_hash_is_refused(network: Network, hand: ProposingClient) -> None:
    handle, hubs = hand.request()
    script = DepositScript(hand.key.pubkey, hub_key(network).pubkey, hubs, EXPIRE)
    other = key_of("another").pubkey
    for wrong in (
        replace(script, payer=other),
        replace(script, payee=other),
        replace(script, payer=script.payee, payee=script.payer),
        replace(script, spend_hash=hand.secrets.spend_hash),
    ):
        message = replace(hand.deposit(hubs), script=wrong.redeem)
        body = envelope.seal(hand.key, DepositRequest(message, "XCP", handle).as_json())
        assert name_of(network, "mph_deposit", body) == "BadDepositScript"


def test_a_deposit_is_the_connections_own(network: Network, hand: ProposingClient) -> None:
    handle, hubs = hand.request()
    body = DepositRequest(hand.deposit(hubs), "XCP", handle).as_json()
    other = key_of("a stranger's")
    assert name_of(network, "mph_deposit", envelope.seal(other, body)) == "BadClientSignature"
    assert name_of(network, "mph_deposit", body) == "BadClientSignature"
    assert name_of(network, "mph_deposit", envelope.seal(hand.key, {**body, "handle": STRANGER.hex()})) == (
        "UnknownHandle"
    )
    assert name_of(network, "mph_deposit", envelope.seal(hand.key, {**body, "handle": "12"})) == "InvalidHex"
    assert name_of(network, "mph_deposit", envelope.seal(hand.key, {"handle": handle.hex()})) == "BadRequest"


def test_a_spend_hash_does_not_pass_for_the_first_revoke_hash(network: Network, hand: ProposingClient) -> None:
    handle, hubs = hand.request()
    for taken, error in ((hand.secrets.spend_hash, "StaleRequest"), (hubs, "RepeatedHash")):
        wrong = DepositRequest(hand.deposit(hubs, next_hash=taken), "XCP", handle).as_json()
        assert name_of(network, "mph_deposit", envelope.seal(hand.key, wrong)) == error


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_deposit_address_that_was_ever_paid_is_refused(network: Network, hand: ProposingClient, blocks: int) -> None:
    handle, hubs = hand.request()
    script = DepositScript(hand.key.pubkey, hub_key(network).pubkey, hubs, EXPIRE)
    network.hub.call("faucet", address=address_of(script.output), btc=1000)
    network.mine(blocks)
    body = envelope.seal(hand.key, DepositRequest(hand.deposit(hubs), "XCP", handle).as_json())
    assert name_of(network, "mph_deposit", body) == "AddressUsed"


def test_what_is_promised_to_one_is_not_promised_to_another(tmp_path: Path) -> None:
    with running_network(tmp_path) as network:
        funds = network.hub.call("mph_status", assets=["XCP"])["funds"]["liquidity"]["XCP"]
        first, second = ProposingClient(network, "first"), ProposingClient(network, "second")
        handle, hubs = first.request()
        most = first.deposit(hubs, quantity=Quantity(funds - 10))
        first.call("mph_deposit", DepositRequest(most, "XCP", handle).as_json())
        handle, hubs = second.request()
        body = DepositRequest(second.deposit(hubs, quantity=Quantity(11)), "XCP", handle).as_json()
        refused = refusal(network, "mph_deposit", envelope.seal(second.key, body))
        assert (refused.name, refused.data["available"]) == ("InsufficientLiquidity", 10)
        second.call("mph_deposit", DepositRequest(second.deposit(hubs, quantity=Quantity(10)), "XCP", handle).as_json())


def test_what_is_promised_to_one_who_never_deposits_is_free_again_after_144_blocks(tmp_path: Path) -> None:
    with running_network(tmp_path) as network:
        funds = network.hub.call("mph_status", assets=["XCP"])["funds"]["liquidity"]["XCP"]
        absent, other = ProposingClient(network, "absent"), ProposingClient(network, "other")
        handle, hubs = absent.request()
        promised = absent.deposit(hubs, quantity=Quantity(funds), expire=1024)
        absent.call("mph_deposit", DepositRequest(promised, "XCP", handle).as_json())
        network.mine(144)
        handle, hubs = other.request()
        body = DepositRequest(other.deposit(hubs, quantity=Quantity(1)), "XCP", handle).as_json()
        assert name_of(network, "mph_deposit", envelope.seal(other.key, body)) == "InsufficientLiquidity"
        network.mine(1)
        assert other.call("mph_deposit", body)["quantity"] == 1


# mph_close ----------------------------------------------------------------------------------------------------------


def test_a_close_where_nothing_moved_gives_the_spend_secret_and_ends_all_syncs(network: Network) -> None:
    client = network.client("untouched")
    still = OpenConnection(network, client, network.open_connection(client))
    request = still.request(1)
    given = bytes.fromhex(still.close()["spend_secret"])
    assert hash_of(Secret(given)) == still.duplex.sending.script.spend_hash
    assert still.refused(request) == "ConnectionNotOpen"
    assert bytes.fromhex(still.close()["spend_secret"]) == given


def test_a_close_publishes_the_hubs_commit_before_it_answers_and_keeps_the_secret(
    network: Network, opened: OpenConnection
) -> None:
    opened.sync(100, payment(None, 99))
    assert opened.close()["spend_secret"] is None
    (txid,) = network.bitcoin("getrawmempool")
    anchor = opened.duplex.sending.anchor
    assert anchor is not None
    assert anchor.outpoint in spent_outpoints(network.raw(txid))
    assert opened.refused(opened.request(1)) == "ConnectionNotOpen"
    assert opened.close()["spend_secret"] is None
    network.mine()


def test_a_close_is_refused_by_name(network: Network, hand: ProposingClient, opened: OpenConnection) -> None:
    for secret in (bytes(32), opened.secrets.revoke(0)):
        body = envelope.seal(opened.key, CloseRequest(opened.handle, Secret(secret)).as_json())
        assert name_of(network, "mph_close", body) == "BadSecret"
    right = CloseRequest(opened.handle, None).as_json()
    assert name_of(network, "mph_close", envelope.seal(hand.key, right)) == "BadClientSignature"
    assert name_of(network, "mph_close", envelope.seal(opened.key, {**right, "handle": STRANGER.hex()})) == (
        "UnknownHandle"
    )
    assert name_of(network, "mph_close", envelope.seal(opened.key, {"handle": opened.handle.hex()})) == "BadRequest"
    handle, _ = hand.request()
    body = envelope.seal(hand.key, CloseRequest(handle, None).as_json())
    assert name_of(network, "mph_close", body) == "ConnectionNotOpen"
    opened.sync(1)  # nothing of it closed the connection


def test_the_client_s_spend_secret_gives_the_hub_its_deposit_at_once(network: Network) -> None:
    client = network.client("generous")
    given = OpenConnection(network, client, network.open_connection(client))
    address = address_of(given.duplex.receiving.script.output)
    assert client.run("balances", "--address", address)["XCP"] == DEPOSIT
    given.close(given.secrets.spend)
    network.mine()
    assert client.run("balances", "--address", address).get("XCP", 0) == 0

"""A hub that ends connections by itself: it shows no terms, and waits for what clients can fetch, up to a block."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_support import FEE, Client, Desk, open_all, payment, running_desk

from picopayments_cli.channel.fees import FETCH_BLOCKS
from picopayments_cli.channel.messages import ConnectRequest
from picopayments_cli.channel.status import StatusReply


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_desk(tmp_path) as found:
        yield found


def up_to(desk: Desk, height: int) -> None:
    """Mine up to a height, then have the hub look."""
    desk.node.rpc("generate", blocks=height - desk.node.bitcoin("getblockcount"))
    desk.rounds.once()
    desk.rounds.once()


def opened(desk: Desk) -> tuple[Client, Client]:
    """Two long connections; a payment waits for the second."""
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    for hand in (alice, bob):
        hand.agree(time=1000)
    open_all(desk, alice, bob)
    alice.sync(payment(bob.handle, 5000))
    return alice, bob


def drain(desk: Desk) -> int:
    """Start the hub anew to drain it; the block that it states."""
    desk.draining = True
    desk.stop()
    desk.start()
    late = Client(desk, "late")
    body = late.sealed("mph_request", ConnectRequest("XCP", late.party, late.secrets.salt).as_json())
    refused = desk.refusal("mph_request", body)
    assert refused.name == "HubDraining"
    assert str(refused.data["until"]) in refused.message
    return int(refused.data["until"])


def test_it_waits_up_to_the_block_that_it_states_and_shows_no_terms(desk: Desk) -> None:
    alice, bob = opened(desk)
    until = drain(desk)
    assert until == desk.node.bitcoin("getblockcount") + FETCH_BLOCKS
    named = [alice.handle.hex(), bob.handle.hex()]
    told = StatusReply.parse(json.loads(desk.call("mph_status", {"handles": named})))
    assert (told.terms, list(told.liquidity)) == ({}, ["BTC"])
    assert {alice.handle, bob.handle} == set(told.connections)
    assert StatusReply.parse(json.loads(desk.call("mph_status", {"assets": ["XCP"]}))).terms == {}
    assert desk.name_of("mph_status", {"assets": ["NONESUCH"]}) in ("UnknownAsset", "AssetNotInTerms")
    up_to(desk, until - 1)
    assert desk.account(alice.handle).stage == "closing"
    assert desk.account(bob.handle).stage == "open"
    refused = desk.refusal("mph_sync", alice.sealed("mph_sync", alice.sync_request(FEE)[0].as_json()))
    assert (refused.name, refused.data["stage"], refused.data["draining"]) == ("ConnectionNotOpen", "closing", True)
    assert "The hub shuts down, and has ended the connection" in refused.message  # which the client's sync shows
    assert drain(desk) == until  # a restart does not put it off
    up_to(desk, until)
    assert desk.account(bob.handle).stage == "closing"  # it never synced, and keeps nothing locked


def test_what_is_fetched_in_time_is_the_clients(desk: Desk) -> None:
    alice, bob = opened(desk)
    drain(desk)
    desk.mine()
    assert [item.amount for item in bob.sync().receipts] == [5000]
    desk.mine()
    assert desk.account(bob.handle).stage == "closing"
    assert alice.paid == 5000 + FEE


def test_an_asset_that_is_on_offer_again_closes_nothing(desk: Desk) -> None:
    _, bob = opened(desk)
    first = drain(desk)
    desk.draining = False
    desk.stop()
    desk.start()
    desk.mine()
    assert desk.account(bob.handle).stage == "open"
    up_to(desk, first)
    assert desk.account(bob.handle).stage == "open"
    assert drain(desk) == first + FETCH_BLOCKS


def test_an_asset_that_is_withdrawn_waits_as_long(desk: Desk) -> None:
    _, bob = opened(desk)
    offered = desk.folder.terms_path.read_text()
    desk.folder.terms_path.write_text(json.dumps({"XCP": None}))
    desk.rounds.reloads = {"terms": lambda: desk.rounds.take_offer(desk.folder.offer())}
    desk.rounds.ask_reload()
    desk.mine()
    height = desk.node.bitcoin("getblockcount")
    up_to(desk, height + FETCH_BLOCKS - 1)
    assert desk.account(bob.handle).stage == "open"
    up_to(desk, height + FETCH_BLOCKS)
    assert desk.account(bob.handle).stage == "closing"
    desk.folder.terms_path.write_text("nonsense")
    desk.rounds.ask_reload()
    desk.rounds.once()
    assert not desk.hub.offer.assets  # as before: the file can't be used
    desk.folder.terms_path.write_text(offered)
    desk.rounds.ask_reload()
    desk.rounds.once()
    assert desk.hub.offer.assets == ("XCP",)

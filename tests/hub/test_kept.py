"""``mph_state`` of a real hub: what it keeps of a client's connection, and the counter that tells syncs apart."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace

import pytest
from envelope_support import digest_of
from hub_support import Client, Desk, open_all, payment

from picopayments_cli.channel import kept
from picopayments_cli.channel.kept import StateReply, StateRequest, counted
from picopayments_cli.channel.messages import SyncRequest
from picopayments_cli.channel.values import Hash, hash_of


def asked(client: Client, after: Hash | None = None) -> StateReply:
    """What the hub keeps."""
    return StateReply.parse(client.call("mph_state", StateRequest(os.urandom(32), client.handle, after).as_json()))


@pytest.fixture
def two(desk: Desk) -> tuple[Client, Client]:
    """Alice and Bob, who have paid each other: commits were signed, given back, and are held."""
    alice, bob = Client(desk, f"alice {os.urandom(4).hex()}"), Client(desk, f"bob {os.urandom(4).hex()}")
    open_all(desk, alice, bob)
    for payer, payee, amount in ((alice, bob, 500), (bob, alice, 200), (alice, bob, 300), (bob, alice, 90)):
        payer.sync(payment(payee.handle, amount))
        payee.sync()
    return alice, bob


def test_the_hub_gives_back_what_the_client_had(two: tuple[Client, Client]) -> None:
    for client in two:
        found = asked(client)
        assert found.asked is not None
        assert found.answered is not None
        assert found.count is not None
        count = counted(found.count, client.handle, client.desk.hub.key.pubkey)
        assert (count.counter, abs(count.time - time.time()) < 60) == (client.counter, True)
        assert SyncRequest.parse(found.asked).counter == client.counter
        assert found.answered["request_sha256"] == digest_of("mph_sync", client.desk.hub.key.pubkey, found.asked).hex()
        assert json.loads(client.desk.call("mph_sync", found.asked)) == found.answered  # as it is stored
        had = {name: (item.quantity, item.secret) for name, item in client.signed.items()}
        assert {item.revoke_hash: (item.quantity, item.secret) for item in found.signed} == had
        assert {item.secret and hash_of(item.secret) for item in found.signed} <= {None, *had}
        newest = {item.revoke_hash: item.remainder for item in client.signed.values() if item.remainder}
        assert {item.revoke_hash: item.remainder for item in found.signed if item.revoke_hash in newest} == newest
        held = {item.commit.revoke_hash: item.commit for item in client.duplex.receiving.active}
        assert {item.revoke_hash: item for item in found.held} == held


def test_no_secret_of_a_commit_that_counts_is_told(two: tuple[Client, Client]) -> None:
    for client in two:
        active = {item.revoke_hash for item in client.desk.account(client.handle).channels.receiving.active}
        told = {item.revoke_hash for item in asked(client).signed if item.secret is not None}
        assert active
        assert not active & told


def test_many_commits_come_in_pages(two: tuple[Client, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    alice, _ = two
    whole = asked(alice)
    monkeypatch.setattr("picopayments_cli.hub.kept.MOST_ROWS", 1)
    names: list[Hash] = []
    while page := asked(alice, names[-1] if names else None):
        found = [*(item.revoke_hash for item in page.signed), *(item.revoke_hash for item in page.held)]
        if not found:
            break
        assert len(found) == 1
        assert (page.asked is None) == bool(names)
        names += found
    assert names == sorted([item.revoke_hash for item in whole.signed] + [item.revoke_hash for item in whole.held])
    assert kept.MOST_ROWS > 1


def test_nobody_else_gets_it(two: tuple[Client, Client]) -> None:
    alice, bob = two
    body = StateRequest(os.urandom(32), alice.handle).as_json()
    assert bob.refused("mph_state", body) == "BadClientSignature"
    assert alice.desk.name_of("mph_state", {**alice.sealed("mph_state", body), "after": "00" * 20}) == (
        "BadClientSignature"
    )


def test_before_the_first_sync_the_deposit_is_kept(desk: Desk) -> None:
    alice = Client(desk, f"alice {os.urandom(4).hex()}")
    alice.request()
    assert asked(alice).asked is None
    proposal = replace(alice.proposal(), state=b"sealed")
    alice.propose(proposal)
    found = asked(alice)
    assert found.asked is not None
    assert found.asked["state"] == b"sealed".hex()
    assert found.answered is not None
    assert found.answered["request_sha256"] == digest_of("mph_deposit", alice.desk.hub.key.pubkey, found.asked).hex()


def test_a_sync_has_the_next_number(two: tuple[Client, Client]) -> None:
    alice, bob = two
    request, moved = alice.sync_request(5, payment(bob.handle, 4))
    for counter in (1, alice.counter):  # of an older copy of the folder, or of a second wallet
        assert alice.sync_refused(replace(request, counter=counter)) == "StaleRequest"
    assert alice.sync_refused(replace(request, counter=alice.counter + 2)) == "HubRestored"
    assert alice.desk.account(alice.handle).stage == "open"
    text = alice.desk.call("mph_sync", alice.sealed("mph_sync", request.as_json()))
    alice.take(alice.parsed(text), moved)
    assert alice.desk.account(alice.handle).counter == request.counter


def test_a_hub_whose_database_is_old_signs_no_count(two: tuple[Client, Client]) -> None:
    alice, _ = two
    desk = alice.desk
    with desk.hub.book.transaction("restored") as work:
        work.put(replace(work.get(alice.handle), stale=True))
    assert asked(alice).count is None

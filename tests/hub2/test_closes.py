"""Connections end at the hub, and payments to commits are credited right: in one process, on a node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from channel2_support import parsed
from hub2_support import DELAY, STRANGER, Desk, ScriptedClient, amounts, payment, states
from network_support import FEE
from picopayments_cli.channel2.deadlines import settle_height
from picopayments_cli.channel2.duplex import standing
from picopayments_cli.channel2.messages import CloseRequest, SyncRequest
from picopayments_cli.channel2.state import finished
from picopayments_cli.channel2.transactions import spent_outpoints
from regtest_support import address_of, key_of

from picopayments_cli.channel import envelope
from picopayments_cli.channel.values import Hash, Outpoint, Secret, hash_of

# Dust on commits ----------------------------------------------------------------------------------------------------


def pay_to_commit(desk: Desk, hand: ScriptedClient, revoke_hash: Hash, blocks: int = 1) -> None:
    """Dust on the address of a commit to the client."""
    script = hand.duplex.receiving.commit_script(revoke_hash).output
    desk.node.rpc("faucet", address=address_of(script), btc=1000)
    desk.mine(blocks)
    desk.rounds.once()


def receive(alice: ScriptedClient, bob: ScriptedClient, moved: int) -> Hash:
    """Have Bob receive until the hub's highest commit is of that quantity; the commit's hash."""
    amount = moved - bob.duplex.receiving.moved + bob.duplex.sending.moved + FEE  # his commit for the fee is given back
    alice.sync(amount + FEE, payment(bob.handle, amount))
    assert len(bob.sync(FEE).receipts) == 1
    highest = bob.duplex.receiving.active[-1]
    assert highest.quantity == moved
    return highest.revoke_hash


def give_back(bob: ScriptedClient, moved: int) -> SyncRequest:
    """Bob's request that gives commits back down to a quantity."""
    back = bob.duplex.receiving.moved - moved
    request = bob.sync_request(back, payment(None, back - FEE))
    assert request.half.offer is None
    return request


def return_to(bob: ScriptedClient, moved: int) -> None:
    """Have Bob give commits back down to a quantity."""
    back = bob.duplex.receiving.moved - moved
    bob.sync(back, payment(None, back - FEE))
    assert bob.duplex.receiving.moved == moved


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_commit_that_was_paid_to_is_not_credited_when_given_back(
    desk: Desk, alice: ScriptedClient, bob: ScriptedClient, blocks: int
) -> None:
    receive(alice, bob, 100)
    highest = receive(alice, bob, 150)
    pay_to_commit(desk, bob, highest, blocks)
    before = bob.paid
    assert bob.sync_refused(give_back(bob, 0)) == "DirtyCommitAddress"
    assert bob.sync_refused(give_back(bob, 100)) == "DirtyCommitAddress"
    assert bob.paid == before
    bob.sync(2, payment(None, 1))  # by a commit of its own
    assert bob.paid == before + 2


def test_nothing_is_credited_that_exposes_an_older_commit_that_was_paid_to(
    desk: Desk, alice: ScriptedClient, bob: ScriptedClient
) -> None:
    old = receive(alice, bob, 100)
    return_to(bob, 0)
    pay_to_commit(desk, bob, old)
    receive(alice, bob, 100)  # a commit of as much as the old one
    receive(alice, bob, 150)
    return_to(bob, 100)  # what stays active is as much as the old one: it exposes nothing
    before = bob.paid
    assert bob.sync_refused(give_back(bob, 0)) == "DirtyCommitAddress"
    receive(alice, bob, 130)
    assert bob.sync_refused(give_back(bob, 0)) == "DirtyCommitAddress"
    assert bob.paid == before - 30
    return_to(bob, 100)


def test_an_older_commit_of_more_than_counts_hinders_nothing(
    desk: Desk, alice: ScriptedClient, bob: ScriptedClient
) -> None:
    old = receive(alice, bob, 100)
    return_to(bob, 0)
    pay_to_commit(desk, bob, old)
    receive(alice, bob, 60)  # the old one is worth more than what counts already
    receive(alice, bob, 65)
    return_to(bob, 60)
    return_to(bob, 0)


def test_an_older_commit_that_nobody_paid_to_hinders_nothing(
    desk: Desk, alice: ScriptedClient, bob: ScriptedClient
) -> None:
    kept = receive(alice, bob, 40)
    pay_to_commit(desk, bob, kept)  # which is not given back
    receive(alice, bob, 100)
    return_to(bob, 40)
    receive(alice, bob, 150)
    return_to(bob, 40)


def test_dust_on_another_clients_commit_hinders_nobody(
    desk: Desk, alice: ScriptedClient, bob: ScriptedClient, open_clients: Iterator[ScriptedClient]
) -> None:
    carol = next(open_clients)
    old = receive(alice, bob, 100)
    return_to(bob, 0)
    pay_to_commit(desk, bob, old)
    receive(alice, carol, 120)
    return_to(carol, 0)


def spends(desk: Desk, script: bytes) -> list[str]:
    """The transactions of the mempool that spend a coin of a script, by txid."""
    rows = desk.rows(f"select txid, vout from outputs where script = x'{script.hex()}'")
    coins = {Outpoint(bytes(txid), vout) for txid, vout in rows}
    assert coins
    return [txid for txid in desk.mempool() if coins.intersection(spent_outpoints(parsed(desk.raw(txid))))]


def test_what_comes_to_a_commit_that_was_given_back_is_taken_away_and_to_others_left(
    desk: Desk, alice: ScriptedClient, bob: ScriptedClient
) -> None:
    kept, old = receive(alice, bob, 50), receive(alice, bob, 100)
    return_to(bob, 50)
    scripts = [bob.duplex.receiving.commit_script(item).output for item in (old, kept)]
    for script in scripts:
        desk.node.rpc("faucet", address=address_of(script), btc=20_000)
    desk.mine()
    desk.rounds.once()
    (taken,) = spends(desk, scripts[0])
    assert spends(desk, scripts[1]) == []
    desk.mine()
    desk.mine()
    assert spends(desk, scripts[0]) == []
    assert desk.node.bitcoin("getrawtransaction", taken, True)["confirmations"] == 2
    assert desk.account(bob.handle).stage == "open"


# mph_close ----------------------------------------------------------------------------------------------------------


def test_a_close_is_refused_by_name_and_changes_nothing(desk: Desk, alice: ScriptedClient) -> None:
    right = CloseRequest(alice.handle, None).as_json()
    assert desk.name_of("mph_close", right) == "BadClientSignature"
    assert desk.name_of("mph_close", envelope.seal(key_of("other"), right)) == "BadClientSignature"
    assert alice.refused("mph_close", {**right, "handle": STRANGER.hex()}) == "UnknownHandle"
    assert alice.refused("mph_close", {**right, "handle": None}) == "InvalidHex"
    for secret, error in ((bytes(32), "BadSecret"), (bytes(31), "BadSecret"), (alice.secrets.revoke(0), "BadSecret")):
        assert alice.refused("mph_close", {**right, "spend_secret": secret.hex()}) == error
    assert alice.refused("mph_close", {**right, "spend_secret": ""}) == "BadSecret"
    assert alice.refused("mph_close", {**right, "spend_secret": 5}) == "BadRequest"
    assert alice.refused("mph_close", {**right, "commit": 5, "revokes": []}) == "BadRequest"
    asked = ScriptedClient(desk, "asked only")
    asked.request()
    assert asked.refused("mph_close", CloseRequest(asked.handle, None).as_json()) == "ConnectionNotOpen"
    alice.sync(FEE)


def test_a_close_where_nothing_moved_reveals_the_hubs_secret_and_ends_the_connection(
    desk: Desk, alice: ScriptedClient
) -> None:
    late = alice.sync_request(FEE)
    reply = alice.close()
    given = Secret(bytes.fromhex(reply["spend_secret"]))
    assert hash_of(given) == alice.duplex.sending.script.spend_hash
    assert (reply["revokes"], reply["commit"]) == ([], None)
    assert alice.sync_refused(late) == "ConnectionNotOpen"
    assert alice.close()["spend_secret"] == given.hex()
    assert desk.account(alice.handle).stage == "closing"
    assert desk.account(alice.handle).revealed


def test_a_close_where_something_moved_publishes_the_commit_and_reveals_nothing(
    desk: Desk, alice: ScriptedClient
) -> None:
    alice.sync(11, payment(None, 10))
    anchor = alice.duplex.sending.anchor
    assert anchor is not None
    assert alice.close()["spend_secret"] is None
    spent = {spend for txid in desk.mempool() for spend in spent_outpoints(parsed(desk.raw(txid)))}
    assert anchor.outpoint in spent
    account = desk.account(alice.handle)
    assert not account.revealed
    assert account.commit_raw is not None
    desk.mine(DELAY + 2)
    desk.mine()
    assert alice.close()["spend_secret"] is None


def test_the_clients_secret_is_taken_where_it_has_no_commit(desk: Desk, alice: ScriptedClient) -> None:
    alice.close(alice.secrets.spend)
    assert desk.account(alice.handle).client_secret == alice.secrets.spend
    assert desk.mempool() != []
    desk.mine()
    desk.mine()
    assert desk.account(alice.handle).client_secret == alice.secrets.spend
    alice.close()
    assert desk.account(alice.handle).client_secret == alice.secrets.spend


def test_the_clients_secret_outlives_the_hubs_process_whenever_it_comes(
    desk: Desk, alice: ScriptedClient, bob: ScriptedClient
) -> None:
    alice.close()  # without it, as one closes that waits for an answer
    for hand in (alice, bob):
        hand.close(hand.secrets.spend)
    desk.stop()
    desk.start()
    for hand in (alice, bob):
        assert desk.account(hand.handle).client_secret == hand.secrets.spend


def test_the_clients_secret_is_left_alone_where_it_has_a_commit_and_it_is_told(
    desk: Desk, alice: ScriptedClient, bob: ScriptedClient
) -> None:
    receive(alice, bob, 100)
    receive(alice, bob, 150)
    return_to(bob, 100)
    reply = bob.close(bob.secrets.spend)
    assert desk.account(bob.handle).client_secret is None
    said = standing(desk.account(bob.handle).channels.sending)
    assert said.offer is not None
    assert reply["commit"] == {"rawtx": said.offer.raw.hex(), "script": said.offer.script.hex()}
    assert reply["revokes"] == [secret.hex() for secret in said.revokes]
    assert len(reply["revokes"]) == 1


def test_a_close_of_a_connection_that_opens_ends_it_and_of_one_that_is_closed_changes_nothing(
    desk: Desk, alice: ScriptedClient
) -> None:
    opening = ScriptedClient(desk, "opening")
    opening.agree()
    assert opening.close()["spend_secret"] is not None
    assert desk.account(opening.handle).stage in ("closing", "closed")
    opening.fund()
    desk.mine()
    desk.mine()
    assert desk.account(opening.handle).stage in ("closing", "closed")
    assert desk.account(opening.handle).deposit_raw is None
    alice.close(alice.secrets.spend)
    for _ in range(4):
        desk.mine()
    assert desk.account(alice.handle).stage == "closed"
    before = desk.mempool()
    assert alice.close()["spend_secret"] is not None
    assert (desk.account(alice.handle).stage, desk.mempool()) == ("closed", before)


def test_what_waits_for_one_who_closes_goes_back_to_its_payer(
    desk: Desk, alice: ScriptedClient, bob: ScriptedClient
) -> None:
    alice.sync(31, payment(bob.handle, 30))
    bob.close()
    assert states(desk, alice) == [(30, "returned")]
    assert amounts(alice.sync(FEE)) == [30]
    assert alice.paid == 2 * FEE


def test_a_connection_closes_by_itself_at_its_deadline(desk: Desk) -> None:
    hand = ScriptedClient(desk, "deadline").open(expire=20)
    hand.sync(FEE)
    account = desk.account(hand.handle)
    deadline = settle_height(account.channels.receiving, account.agreed_height)
    assert account.due_height == deadline
    tip = desk.node.bitcoin("getblockcount")
    desk.mine(deadline - 1 - tip)
    assert desk.account(hand.handle).stage == "open"
    desk.mine()
    assert desk.account(hand.handle).stage == "closing"


def test_what_goes_on_in_the_hubs_wallet_keeps_no_connection_from_being_closed(
    desk: Desk, alice: ScriptedClient
) -> None:
    alice.close(alice.secrets.spend)
    for _ in range(3):
        desk.node.rpc("generate", blocks=1)
        desk.node.rpc("faucet", address=desk.hub.address, btc=10_000)  # in no block yet
        desk.rounds.once()
    assert desk.account(alice.handle).stage == "closed"
    desk.mine()


def test_a_commit_that_its_client_publishes_ends_the_connection_at_once(
    desk: Desk, alice: ScriptedClient, bob: ScriptedClient
) -> None:
    receive(alice, bob, 100)
    commit = finished(bob.duplex.receiving, bob.duplex.receiving.active[-1], bob.key)
    desk.rounds.once()
    desk.hub.chain.broadcast(commit)
    desk.rounds.once()
    assert desk.account(bob.handle).stage == "closing"
    assert desk.account(alice.handle).stage == "open"


def test_a_closed_connection_is_settled_again_where_a_block_is_taken_away(desk: Desk) -> None:
    hand, other = ScriptedClient(desk, "taken away"), ScriptedClient(desk, "closed long before")
    other.open()
    other.close(other.secrets.spend)
    desk.mine(2)
    hand.open()
    hand.close(hand.secrets.spend)
    while desk.account(hand.handle).stage != "closed":
        desk.mine()
    assert desk.account(other.handle).stage == "closed"
    desk.node.rpc("reorganise", depth=2)
    desk.rounds.once()
    assert [desk.account(item.handle).stage for item in (hand, other)] == ["closing", "closed"]
    desk.mine(3)
    assert desk.account(hand.handle).stage == "closed"

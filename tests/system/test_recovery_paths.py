"""Every end that a connection can come to, on the real chain: assets home to the satoshi, bitcoins less the fees."""

from __future__ import annotations

import signal
from functools import partial

import pytest
from cheats import DEPOSIT, NOTHING, Town, pay, pay_and_get_back, received, revoked_commit
from network_support import FEE, Client, wait_until
from picopayments_cli.channel2.state import Channel
from servers import json_rpc

ALL_BUT_BROADCAST = (
    "mph_request",
    "mph_deposit",
    "get_running_info",
    "get_balances",
    "get_address_options",
    "get_unspent_txouts",
    "utxos_with_balances",
    "getrawtransaction_batch",
    "search_raw_transactions",
)


def highest_commit(channel: Channel) -> bytes:
    """The script of a channel's highest active commit."""
    return channel.commit_script(channel.active[-1].revoke_hash).output


# All goes well ------------------------------------------------------------------------------------------------------


def test_every_honest_end_for_three_clients_together(town: Town) -> None:
    """Alice only sent, Bob only received, Carol did both: commits, payouts and changes on each channel.

    Nobody pays a coin to an address that the mempool empties already: the sums would show it.
    """
    alice, bob, carol = (town.client(name) for name in ("alice", "bob", "carol"))
    before = town.books()
    a, b, c = (town.open(client) for client in (alice, bob, carol))
    pay(alice, a, b, 5000)
    bob.run("sync")
    pay(alice, a, c, 3000)
    carol.run("sync")
    pay(carol, c, b, 700)  # the one commit of 3000 can't be given back in part
    bob.run("sync")
    shown = carol.shown(c)
    assert (bob.shown(b)["sent"], shown["sent"] > 0, shown["received"] > 0) == (0, True, True)
    assert alice.run("close", a) is None
    assert bob.run("close", b) is not None
    assert carol.run("close", c) is not None
    town.settle()
    town.check(before, alice=-8000 - 3 * FEE, bob=5700 - 3 * FEE, carol=2300 - 3 * FEE, hub=9 * FEE)


def test_a_sync_that_is_repeated_within_a_block_publishes_nothing_more(town: Town) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    before = town.books()
    a, b = town.open(alice), town.open(bob)
    pay(alice, a, b, 5000)
    bob.run("close", b)
    published = []
    for _ in range(5):
        town.mine()
        published.append(bob.run("sync")[b]["txids"] if bob.shown(b)["status"] != "closed" else [])
        for _ in range(2):
            assert all(not item["txids"] for item in bob.run("sync").values())
    assert [len(txids) for txids in published] == [0, 1, 0, 0, 0]  # the payout; commit and change left at the close
    alice.run("close", a)
    town.settle()
    town.check(before, alice=-5000 - 2 * FEE, bob=5000 - FEE, hub=3 * FEE)


# Cheats -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mined", [False, True], ids=["in the mempool", "mined"])
def test_a_client_that_publishes_what_it_gave_back_loses_it(town: Town, mined: bool) -> None:
    alice, mallory = town.client("alice"), town.client("mallory")
    before = town.books()
    a, m = town.open(alice), town.open(mallory, expire=16)
    pay(alice, a, m, 5000)
    mallory.run("sync")
    kept = mallory.connection(m)
    pay(mallory, m, a, 4999)  # all that it received, by the secret of its commit
    assert mallory.shown(m)["received"] == 0
    alice.run("sync")
    if mined:
        town.stop_hub()
    town.broadcast(revoked_commit(kept, mallory.key))
    if mined:
        town.mine()
        town.start_hub()
    town.mine(2)
    channel = kept.duplex.receiving
    assert town.published(channel) == highest_commit(channel)
    alice.run("close", a)
    town.settle()
    # Less than its guaranteed balance is not taken from it either: what it has of its own deposit is its own.
    town.check(before, alice=-5000 + 4999 - 3 * FEE, mallory=5000 - 4999 - 2 * FEE, hub=5 * FEE)


@pytest.mark.parametrize("mined", [False, True], ids=["in the mempool", "mined"])
def test_a_hub_that_publishes_what_it_gave_back_loses_it_all(town: Town, mined: bool) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    before = town.books()
    a, b = town.open(alice, expire=30), town.open(bob, expire=30)
    copy = pay_and_get_back(town, alice, bob, a, b)
    sending = alice.connection(a).duplex.sending
    shown = alice.shown(a)
    assert (sending.moved, shown["at_risk"]) == (100 + FEE, 5000 + 2 * FEE)
    guaranteed = bob.shown(b)["balance"]
    town.cheat(copy)
    wait_until(lambda: town.published(sending), "the hub's revoked commit")
    if mined:
        town.mine()
    assert town.published(sending) in {sending.commit_script(item.revoke_hash).output for item in sending.revoked}
    assert alice.run("sync")[a]["txids"]  # the revoke, as a child of the commit or before its delay is over
    town.settle()
    after = town.books()
    gained = {name: after.held[name]["XCP"] - before.held[name]["XCP"] for name in ("alice", "bob")}
    assert gained["alice"] == 0  # its whole deposit, and so the fees and what it paid last too
    assert gained["bob"] >= guaranteed - DEPOSIT
    town.check(before, **gained, hub=-sum(gained.values()))


# Silence ------------------------------------------------------------------------------------------------------------


def test_a_client_recovers_alone_when_its_hub_is_gone(town: Town) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    before = town.books()
    a, b = town.open(alice, expire=56), town.open(bob, expire=56)
    pay(alice, a, b, 5000)
    bob.run("sync")
    pay(bob, b, a, 700)
    shown = bob.shown(b)
    agreed = bob.connection(b).agreed_height
    assert (shown["settle_height"], shown["check_every"]) == (agreed + 1 + 56 - 7, 1)
    assert shown["at_risk"] == shown["received"] == 5000 - FEE
    assert shown["ttl"] == shown["settle_height"] - town.height
    guaranteed = {client: client.shown(handle)["balance"] for client, handle in ((alice, a), (bob, b))}
    town.stop_hub(signal.SIGKILL)
    town.mine_to(shown["settle_height"] - 1)
    assert bob.fails("sync") == (3, "HubUnreachable")
    assert bob.shown(b)["status"] == "open"
    town.mine()
    assert bob.shown(b)["status"] == "closing"
    (commit,) = bob.run("sync")[b]["txids"]
    assert commit in town.mempool()
    alice.run("sync")
    town.settle(rounds=60)
    held = {client: client.balances()["XCP"] for client in (alice, bob)}
    assert held[alice] == before.held["alice"]["XCP"]  # nobody came for the commits that it signed
    assert held[bob] == before.held["bob"]["XCP"] + 5000 - FEE
    for client in (alice, bob):
        assert held[client] >= before.held[client.basedir.name]["XCP"] - DEPOSIT + guaranteed[client]
    town.start_hub()  # it finds its deposits expired, or the secrets in payouts
    town.settle()
    town.check(before, bob=5000 - FEE, hub=-5000 + FEE)


def test_the_hub_gets_its_own_when_a_client_is_gone(town: Town) -> None:
    """Each way: the commit on c2h is published in time, h2c comes back by expiry."""
    alice, ghost = town.client("alice"), town.client("ghost")
    before = town.books()
    a, g = town.open(alice, expire=60), town.open(ghost, expire=16)
    pay(alice, a, g, 5000)
    ghost.run("sync")
    pay(ghost, g, a, 700)
    town.mine_to(ghost.shown(g)["settle_height"] - 1)
    assert town.stages()[g] == "open"
    town.mine()
    assert town.stages()[g] == "closing"
    sent = ghost.connection(g).duplex.sending
    assert town.published(sent) == highest_commit(sent)
    town.mine(16)
    assert town.stages()[g] == "closed"
    alice.run("close", a)
    town.settle()
    # The hub has by then whatever the client had not settled in time.
    town.check(before, alice=-5000 + 700 - 2 * FEE, ghost=-700 - FEE, hub=5000 + 3 * FEE)


def test_a_commit_that_nobody_pays_out_frees_the_rest_at_expiry(town: Town) -> None:
    """Both ways: the spare output of each deposit, and then the commit's change."""
    alice, bob = town.client("alice"), town.client("bob")
    before = town.books()
    a, b = town.open(alice, expire=16), town.open(bob, expire=16)
    pay(alice, a, b, 5000)
    bob.run("sync")
    assert alice.run("close", a) is None  # the hub publishes its commit
    bob.run("close", b)
    town.stop_hub(signal.SIGKILL)  # and is not there to pay it out
    town.mine(15)
    for _ in range(20):
        town.mine()
        alice.run("sync")
    assert alice.shown(a)["status"] == "closed"
    assert alice.balances()["XCP"] == before.held["alice"]["XCP"] - 5000 - 2 * FEE
    town.start_hub()
    for _ in range(20):  # without Bob, who has not paid out either
        town.mine()
    assert set(town.stages().values()) == {"closed"}
    town.settle()
    town.check(before, alice=-5000 - 2 * FEE, bob=5000 - 2 * FEE, hub=4 * FEE)


# Half made ----------------------------------------------------------------------------------------------------------


def test_a_hub_that_never_funds_keeps_nobodys_deposit(town: Town) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    before = town.books()
    town.connect(alice, expire=12)
    b = town.connect(bob, expire=30)
    town.stop_hub(signal.SIGKILL)
    town.mine(8)
    assert {item["status"] for item in alice.run("status")["connections"].values()} == {"closing"}
    for _ in range(8):
        alice.run("sync")
        town.mine()
    town.settle(alice)  # by expiry, alone
    town.restart_hub(NOTHING)
    town.mine()
    assert bob.run("close", b) is None  # by the hub's secret
    town.settle()
    town.check(before)


def test_a_connection_never_deposited_on_is_cleaned_up_on_both_sides(town: Town) -> None:
    alice = town.client("alice")
    before = town.books()
    settings = alice.basedir / "regtest.cfg"
    own_chain = settings.read_text()
    settings.write_text("{}")
    with json_rpc({name: partial(town.hub.call, name) for name in ALL_BUT_BROADCAST}) as url:
        assert Client(alice.basedir, url).done("connect", "XCP", str(DEPOSIT), "--expire_time", "12").code != 0
    settings.write_text(own_chain)
    (a,) = alice.handles()
    assert (town.stages(), alice.shown(a)["status"]) == ({a: "agreed"}, "opening")
    town.mine_to(alice.shown(a)["settle_height"])
    assert town.stages() == {a: "closed"}
    assert alice.fails("sync") == (1, "UnknownDeposit")  # which nothing closes but the user
    alice.run("close", a)
    town.settle()
    assert town.check(before).held == before.held


# The hub closes -----------------------------------------------------------------------------------------------------


def test_a_hub_that_withdraws_an_asset_closes_once_everything_is_fetched(town: Town) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    before = town.books()
    a, b = town.open(alice), town.open(bob)
    token = pay(alice, a, b, 400)
    town.restart_hub(NOTHING)
    town.mine()
    assert town.stages() == {a: "closing", b: "open"}
    assert received(bob.run("sync"), b) == [(a, 400, token)]
    town.mine()
    assert town.stages() == {a: "closing", b: "closing"}
    town.settle()
    town.check(before, alice=-400 - FEE, bob=400 - FEE, hub=2 * FEE)


def test_what_waits_for_a_connection_that_closes_goes_back_to_its_payer(town: Town) -> None:
    alice, ghost = town.client("alice"), town.client("ghost")
    before = town.books()
    a, g = town.open(alice, expire=60), town.open(ghost, expire=12)
    token = pay(alice, a, g, 400)
    town.mine_to(ghost.shown(g)["settle_height"])
    assert received(alice.run("sync"), a) == [(g, 400, token)]
    alice.run("queuepayment", a, g, "300")  # inside its margin nothing is booked to it
    refused = alice.done("sync")
    assert "ConnectionNotOpen" in refused.stderr
    assert refused.result == {a: {"txids": [], "received_payments": []}}
    assert alice.shown(a)["balance"] == DEPOSIT - 3 * FEE
    alice.run("close", a)
    town.settle()
    town.check(before, alice=-4 * FEE, hub=4 * FEE)


def test_a_connection_that_the_hub_forgot_is_closed_alone(town: Town) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    copy = town.copy_books()
    before = town.books()
    a, b = town.open(alice, expire=16), town.open(bob, expire=16)
    pay(alice, a, b, 5000)
    bob.run("sync")
    town.restore(copy)
    town.start_hub("--restored")
    commit = bob.run("close", b)
    assert commit in town.mempool()
    alice.run("close", a)
    town.settle()
    held = town.books().held
    assert held["bob"]["XCP"] == before.held["bob"]["XCP"] + 5000 - FEE
    assert held["alice"]["XCP"] == before.held["alice"]["XCP"]


# Strays -------------------------------------------------------------------------------------------------------------


def test_dust_lures_no_payout_and_stops_no_recovery(town: Town) -> None:
    alice, bob, stranger = (town.client(name) for name in ("alice", "bob", "stranger"))
    before = town.books()
    a, b = town.open(alice), town.open(bob)
    pay(alice, a, b, 5000)
    bob.run("sync")
    duplexes = [client.connection(handle).duplex for client, handle in ((alice, a), (bob, b))]
    channels = [channel for duplex in duplexes for channel in (duplex.sending, duplex.receiving)]
    for script in [*(channel.script.output for channel in channels), highest_commit(duplexes[1].receiving)]:
        town.pay(stranger, script, 6000)
        town.mine()
    received_before = bob.shown(b)["received"]
    pay(bob, b, a, received_before)
    assert bob.shown(b)["received"] == received_before  # by a commit: the other's address is not clean
    alice.run("sync")
    town.pay(stranger, highest_commit(alice.connection(a).duplex.sending), 6000)
    for _ in range(4):
        town.mine()
        for client, handle in ((alice, a), (bob, b)):
            assert client.shown(handle)["status"] == "open"
    assert town.mempool() == []
    assert all(town.published(channel) is None for channel in channels)
    town.restart_hub(NOTHING)  # which publishes what has the dust on it
    town.mine()
    assert bob.run("close", b) is not None
    town.settle()
    town.check(before, alice=-1 - 2 * FEE, bob=1 - 2 * FEE, hub=4 * FEE)


def test_dust_on_a_revoked_commits_address_is_swept_before_it_ages(town: Town) -> None:
    alice, bob, stranger = (town.client(name) for name in ("alice", "bob", "stranger"))
    before = town.books()
    a, b = town.open(alice), town.open(bob)
    pay(alice, a, b, 5000)
    bob.run("sync")
    given_back = highest_commit(bob.connection(b).duplex.receiving)
    pay(bob, b, a, 4999)
    alice.run("sync")
    sending = alice.connection(a).duplex.sending
    revoked = sending.commit_script(max(sending.revoked, key=lambda item: item.quantity).revoke_hash).output
    for script in (given_back, revoked):
        town.pay(stranger, script, 600)
        town.mine()
    (sweep,) = alice.run("sync")[a]["txids"]
    assert sweep in town.mempool()
    town.mine(2)
    assert town.stages() == {a: "open", b: "open"}
    assert (town.coins(given_back), town.coins(revoked)) == ((), ())
    alice.run("close", a)
    bob.run("close", b)
    town.settle()
    town.check(before, alice=-1 - 4 * FEE, bob=1 - 3 * FEE, hub=7 * FEE)


def test_other_assets_on_channel_addresses_come_home_in_turn(town: Town) -> None:
    """Two more assets than an address has coins: the last is left without one, and is given one."""
    alice, stranger = town.client("alice"), town.client("stranger")
    address = stranger.run("status")["wallet"]["address"]
    for asset in ("GOLD", "SILVER"):
        stranger.run("faucet", address, "--asset", asset, "--quantity", "100")
        town.mine()
    before = town.books()
    a = town.open(alice)
    duplex = alice.connection(a).duplex
    for channel in (duplex.sending, duplex.receiving):
        for asset in ("GOLD", "SILVER"):
            town.pay(stranger, channel.script.output, 546, asset, 10)
            town.mine()
    alice.run("close", a)
    town.settle()
    after = town.check(before, alice=-FEE, hub=FEE)
    for asset in ("GOLD", "SILVER"):
        assert {name: of.get(asset, 0) for name, of in after.held.items()} == {
            "alice": 10, "hub": 10, "stranger": before.held["stranger"][asset] - 20
        }  # fmt: skip

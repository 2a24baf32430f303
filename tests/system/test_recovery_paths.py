"""Every end that a connection can come to, on the real chain: assets home to the satoshi, bitcoins less the fees."""

from __future__ import annotations

import signal
from functools import partial

import pytest
from cheats import (
    DEPOSIT,
    NOTHING,
    Town,
    highest_commit,
    pay,
    pay_and_get_back,
    received,
    revoked_commit,
)
from network_support import FEE, Client, wait_until
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
    *("mph_key", "get_asset_info", "get_assets", "get_sends", "fee_per_kb"),
)


# All goes well ------------------------------------------------------------------------------------------------------


def test_every_honest_end_for_three_clients_together(town: Town) -> None:
    """Alice only sent, Bob only received, Carol did both: closes of nothing, of a part, and their rests."""
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
    for client, handle in ((alice, a), (bob, b), (carol, c)):
        assert client.run("close", handle)["txid"] in town.mempool()
    town.mine()  # the closes
    for client in (alice, bob, carol):
        client.run("sync")
    town.mine()  # what they leave to their payers
    assert town.mempool() == []
    town.check(before, alice=-8000 - 3 * FEE, bob=5700 - 3 * FEE, carol=2300 - 3 * FEE, hub=9 * FEE)
    town.settle()
    town.check(before, alice=-8000 - 3 * FEE, bob=5700 - 3 * FEE, carol=2300 - 3 * FEE, hub=9 * FEE)


def test_a_sync_that_is_repeated_within_a_block_publishes_nothing_more(town: Town) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    before = town.books()
    a, b = town.open(alice), town.open(bob)
    pay(alice, a, b, 5000)
    alice.run("close", a)
    published = []
    for _ in range(5):
        town.mine()
        published.append(alice.run("sync")[a]["txids"] if alice.shown(a)["status"] != "closed" else [])
        for _ in range(2):
            again = alice.run("sync")
            assert (again[a]["txids"] if a in again else alice.shown(a)["status"]) in ([], "closed")
    assert [len(txids) for txids in published] == [1, 0, 0, 0, 0]  # the rest; the close left before
    bob.run("close", b)
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
    side = kept.duplex.receiving
    assert town.committed(side) == highest_commit(side)
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
    connection = alice.connection(a)
    sending, shown = connection.duplex.sending, alice.shown(a)
    assert (sending.moved, shown["at_risk"]) == (100 + FEE, 5000 + 2 * FEE)
    guaranteed = bob.shown(b)["balance"]
    town.cheat(copy)
    wait_until(lambda: town.spender(sending), "the hub's revoked commit")
    if mined:
        town.mine()
    revoked = [revoke_hash for revoke_hash, item in connection.rows.signed.items() if item.secret is not None]
    assert town.committed(sending) in {sending.contract.commit_script(item).output for item in revoked}
    revokes = alice.run("sync")[a]["txids"]  # as a child of the commit, or before its delay is over
    assert revokes or not mined  # as the hub may have taken its commit back meanwhile
    town.settle()
    after = town.books()
    gained = {name: after.held[name]["XCP"] - before.held[name]["XCP"] for name in ("alice", "bob")}
    # Its whole deposit, and so what it paid last too; but before it is mined the hub, which learns from Alice what it
    # has given back, may put its due in the place of it.
    assert gained["alice"] in ((0,) if mined else (0, -100 - FEE))
    assert gained["bob"] >= guaranteed - DEPOSIT - FEE  # for the sync that is refused
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
    expiry = bob.connection(b).expiry.height
    assert (shown["settle_height"], shown["check_every"]) == (expiry - 7, 1)
    assert shown["at_risk"] == shown["received"] == 5000 - FEE
    assert shown["ttl"] == expiry - 6 - town.height
    guaranteed = {client: client.shown(handle)["balance"] for client, handle in ((alice, a), (bob, b))}
    town.stop_hub(signal.SIGKILL)
    town.mine_to(shown["settle_height"] - 1)
    assert bob.fails("sync") == (3, "HubUnreachable")
    assert bob.shown(b)["status"] == "open"
    town.mine()
    assert bob.shown(b)["status"] == "closing"
    (commit,) = bob.sync_alone()[b]["txids"]
    assert commit in town.mempool()
    alice.sync_alone()
    town.settle(rounds=60)
    held = {client: client.balances()["XCP"] for client in (alice, bob)}
    assert held[alice] == before.held["alice"]["XCP"]  # nobody came for the commits that it signed
    assert held[bob] == before.held["bob"]["XCP"] + 5000 - FEE
    for client in (alice, bob):
        assert held[client] >= before.held[client.basedir.name]["XCP"] - DEPOSIT + guaranteed[client]
    town.start_hub()  # it finds its deposits expired, or the secrets in payouts
    town.settle()
    town.check(before, bob=5000 - FEE, hub=-5000 + FEE)


def test_a_lonely_commit_is_raised_by_a_child_as_fees_rise(town: Town) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    before = town.books()
    a, b = town.open(alice), town.open(bob)
    pay(alice, a, b, 5000)
    bob.run("sync")
    town.stop_hub(signal.SIGKILL)
    with town.fees():
        children = []
        for rate in (20, 60):
            bob.run("feerate", str(rate), "--minimum", "3")
            shown = bob.run("close", b)["txid"] if rate == 20 else bob.sync_alone()[b]["txids"]
            commit, child = sorted(map(town.waiting, town.mempool()), key=lambda tx: tx.vsize, reverse=True)
            assert commit.rate < 3  # alone it would not even be relayed
            assert commit.fee + child.fee >= rate * (commit.vsize + child.vsize)
            children.append(child.txid)
            assert shown == (commit.txid if rate == 20 else [child.txid])
        assert children[0] != children[1]
        town.mine()
        assert town.mempool() == []
        assert highest_commit(bob.connection(b).duplex.receiving) == town.committed(bob.connection(b).duplex.receiving)
    town.start_hub()
    alice.run("close", a)
    town.settle()
    # The half of Bob's last sync, which never came to the hub, comes back to him.
    town.check(before, alice=-5000 - 2 * FEE, bob=5000 - FEE, hub=3 * FEE)


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
    assert town.committed(sent) == highest_commit(sent)
    town.mine(16)
    assert town.stages()[g] == "closed"
    alice.run("close", a)
    town.settle()
    # The hub has by then whatever the client had not settled in time.
    town.check(before, alice=-5000 + 700 - 2 * FEE, ghost=-700 - FEE, hub=5000 + 3 * FEE)


def test_a_commit_that_nobody_pays_out_keeps_its_payer_from_nothing(town: Town) -> None:
    """What it leaves is its payer's from the next block on; where its payee has not signed that, by the expiry."""
    alice, bob = town.client("alice"), town.client("bob")
    before = town.books()
    a, b = town.open(alice, expire=30), town.open(bob, expire=30)
    pay(alice, a, b, 5000)
    bob.run("sync")
    town.restart_hub(NOTHING)  # it publishes its commits
    town.mine(2)
    town.stop_hub(signal.SIGKILL)  # and is not there to pay them out
    for _ in range(4):
        alice.sync_alone()
        town.mine()
    assert alice.shown(a)["status"] == "closed"
    assert alice.balances()["XCP"] == before.held["alice"]["XCP"] - 5000 - FEE
    bob.run("close", b)  # by his commit
    town.start_hub()
    town.mine_until(lambda: set(town.stages().values()) == {"closed"}, "the hub's own, without Bob's payout")
    town.settle()
    # Near its deadline the hub waits for no close that gives the fee of Bob's last sync back.
    fees = before.held["bob"]["XCP"] + 5000 - bob.balances()["XCP"]
    assert fees in (FEE, 2 * FEE)
    town.check(before, alice=-5000 - FEE, bob=5000 - fees, hub=FEE + fees)


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
        alice.sync_alone()
        town.mine()
    town.settle(alice)  # by expiry, alone
    town.restart_hub(NOTHING)
    town.mine()
    assert bob.run("close", b)["txid"] in town.mempool()  # by an agreed close of nothing
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
    # Bob's next sync is refused, and its half, with the fee, comes back with the close.
    town.check(before, alice=-400 - FEE, bob=400 - FEE, hub=2 * FEE)


def test_what_waits_for_a_connection_that_closes_goes_back_to_its_payer(town: Town) -> None:
    alice, ghost = town.client("alice"), town.client("ghost")
    before = town.books()
    a, g = town.open(alice, expire=60), town.open(ghost, expire=12)
    token = pay(alice, a, g, 400)
    town.mine_to(ghost.shown(g)["settle_height"])
    assert received(alice.run("sync"), a) == [(g, 400, token)]
    assert alice.fails("queuepayment", a, g, "300") == (1, "UnknownHandle")  # inside its margin nothing is booked to it
    token = alice.queue_unseen(a, g, 300)
    (refused,) = alice.run("sync")[a]["refused_payments"]
    assert (refused["token"], refused["cause"]) == (token, "ConnectionNotOpen")
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
    commit = bob.run("close", b)["txid"]
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
    a, b = town.open(alice, expire=30), town.open(bob, expire=30)
    pay(alice, a, b, 5000)
    bob.run("sync")
    duplexes = [client.connection(handle).duplex for client, handle in ((alice, a), (bob, b))]
    sides = [side for duplex in duplexes for side in (duplex.sending, duplex.receiving)]
    for script in [*(side.contract.deposit.output for side in sides), highest_commit(duplexes[1].receiving)]:
        town.pay(stranger, script, 6000)
        town.mine()
    given_back = highest_commit(bob.connection(b).duplex.receiving)
    pay(bob, b, a, bob.shown(b)["received"] - FEE)  # dust on a commit's address keeps nobody from giving it back
    assert bob.shown(b)["received"] == 0
    alice.run("sync")
    town.mine()
    assert [client.shown(handle)["status"] for client, handle in ((alice, a), (bob, b))] == ["open", "open"]
    assert town.mempool() == []
    assert all(town.spender(side) is None for side in sides)
    assert town.coins(given_back)
    for client, handle in ((alice, a), (bob, b)):
        client.run("close", handle)
    town.settle(rounds=60)  # the dust on the deposits comes home by their expiry
    left = [script for side in sides for script in (side.contract.deposit.output,) if town.coins(script)]
    assert left == []
    held = town.books().held
    change = {name: held[name]["XCP"] - before.held[name]["XCP"] for name in ("alice", "bob", "hub")}
    assert change == {"alice": -2 * FEE - 3 * FEE, "bob": 2 * FEE - 3 * FEE, "hub": 6 * FEE}


def test_other_assets_on_channel_addresses_come_home_in_turn(town: Town) -> None:
    """Two more assets than an address has coins: the last is left without one, and is given one."""
    alice, stranger = town.client("alice"), town.client("stranger")
    address = stranger.run("status")["wallet"]["address"]
    for asset in ("GOLD", "SILVER"):
        stranger.run("faucet", address, "--asset", asset, "--quantity", "100")
        town.mine()
    before = town.books()
    a = town.open(alice, expire=16)
    duplex = alice.connection(a).duplex
    for side in (duplex.sending, duplex.receiving):
        for asset in ("GOLD", "SILVER"):
            town.pay(stranger, side.contract.deposit.output, 546, asset, 10)
            town.mine()
    alice.run("close", a)
    town.settle()
    after = town.check(before, alice=-FEE, hub=FEE)
    for asset in ("GOLD", "SILVER"):
        assert {name: of.get(asset, 0) for name, of in after.held.items()} == {
            "alice": 10, "hub": 10, "stranger": before.held["stranger"][asset] - 20
        }  # fmt: skip

"""Attacks on what the hub is free to promise, and to lock, with what is free before and after each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hub_support import STRANGER, Client, Desk, running_desk
from regtest_support import address_of
from sqlalchemy import event

from picopayments_cli.chain import Query, View
from picopayments_cli.channel.drafts import Draft, Input, Output
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.values import Handle
from picopayments_cli.errors import InsufficientLiquidity, PicopaymentsError, TooManyPromises
from picopayments_cli.hub import chores, forgetting, promises, rounds
from picopayments_cli.hub.follower import KEPT_BLOCKS, REFRESH_SECONDS
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.opening import see_deposits
from picopayments_cli.web import caller

BLOCKS = NETWORKS["regtest"].deposit_blocks
FEES = {"deposit_min": 0, "deposit_max": 0, "deposit_ratio": 1.0, "expire_min": 12, "expire_max": 0, "sync_fee": 1}
LOCKED = json.dumps({"XCP": FEES | {"lock_base": 1000, "lock_rate": 1_000_000}})
FEE = 1000 + 100_000  # of a deposit of a million for a hundred blocks


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_desk(tmp_path) as found:
        yield found


def free(desk: Desk) -> int:
    """What the hub can promise."""
    with desk.hub.book.reading() as book:
        return desk.balance(desk.hub.script) - promises.spoken_for(book.db, "XCP")


def asked(client: Client, quantity: int) -> PicopaymentsError | None:
    """Why a promise was refused; None where it was made."""
    try:
        client.agree(quantity=quantity)
    except (InsufficientLiquidity, TooManyPromises) as error:
        return error
    return None


@contextmanager
def from_address(address: str) -> Iterator[None]:
    """Ask from another machine."""
    token = caller.set(address)
    try:
        yield
    finally:
        caller.reset(token)


def grant(desk: Desk, client: Client, quantity: int) -> None:
    """Have a client hold so much, and coins for fees."""
    address = address_of(client.script)
    desk.node.rpc("faucet", address=address, btc=1_000_000, asset="XCP", quantity=quantity)
    desk.mine()


# Promises that nobody pays for --------------------------------------------------------------------------------------


def test_a_promise_without_a_valid_deposit_is_over_after_few_blocks(desk: Desk) -> None:
    """Nothing, dust, and a payment that a later one takes the place of: none of them holds the hub's liquidity."""
    before = free(desk)
    absent, dusted, double = (Client(desk, name) for name in ("absent", "dusted", "double"))
    for client in (absent, dusted, double):
        client.agree(1024)
    double.endow()
    desk.node.rpc("faucet", address=address_of(dusted.duplex.sending.contract.deposit.output), btc=546)
    desk.mine()
    coins = double.purse().coins
    double.deposit()
    desk.rounds.once()
    rest = sum(coin.value for coin in coins) - 50_000
    back = Draft(tuple(map(Input, coins)), (Output(rest, double.script),))
    double.publish(finish_wallet(back, double.key))
    desk.mine()
    assert before - free(desk) == 3 * 1_000_000
    desk.mine(BLOCKS - 3)
    assert {desk.account(item.handle).stage for item in (absent, dusted, double)} == {"agreed"}
    desk.mine()
    assert {desk.account(item.handle).stage for item in (absent, dusted, double)} & {"agreed", "open"} == set()
    assert free(desk) == before
    assert desk.rows("select count(*) from promises") == [(0,)]
    desk.node.rpc("generate", blocks=KEPT_BLOCKS)
    desk.rounds.once()
    desk.mine()
    for table in ("connections", "heads", "hashes", "deposits", "watched", "awaited", "totals where number > 0"):
        assert desk.rows(f"select * from {table}") == []


def test_a_deposit_in_its_last_block_is_in_time_and_a_later_one_comes_back_by_a_close_of_nothing(desk: Desk) -> None:
    before = free(desk)
    early, late = Client(desk, "early"), Client(desk, "late")
    early.agree(60)
    late.agree(60)
    for client in (early, late):
        client.endow()
    begun = desk.account(early.handle).fixed.agreed.expiry.deposit_by(desk.hub.network) - BLOCKS
    desk.mine(BLOCKS - 1)
    early.deposit()
    desk.mine()
    assert desk.hub.follower.height == begun + BLOCKS
    assert desk.account(late.handle).stage != "agreed"
    late.deposit()
    desk.mine(2)
    assert desk.account(early.handle).stage == "open"
    assert free(desk) == before - 1_000_000  # the deposit of the one that is open
    anchor = desk.account(late.handle).channels.receiving.anchor
    assert anchor is not None
    late.duplex = replace(late.duplex, sending=replace(late.duplex.sending, anchor=anchor))
    assert late.ask_close()[2].c2h is not None  # it is back with the next block, and nothing was lost but fees


def test_a_deposit_behind_dust_counts_and_dust_costs_no_look_once_it_is_none(desk: Desk) -> None:
    """The client's own in time, and late; what strangers pay to both addresses of a connection is passed over."""
    early, late, dusted = (Client(desk, name) for name in ("early", "late", "dusted"))
    for client in (early, late, dusted):
        client.agree(60)
        client.endow()
        for side in (client.duplex.sending, client.duplex.receiving):
            desk.node.rpc("faucet", address=address_of(side.contract.deposit.output), btc=546)
    desk.mine()
    early.deposit()
    desk.mine(BLOCKS)
    assert desk.account(early.handle).stage == "open"
    assert {desk.account(item.handle).stage for item in (late, dusted)} == {"closed"}
    late.deposit()
    desk.rounds.once()
    assert desk.account(late.handle).stage == "closing"  # as it comes back by an agreed close once it is in a block
    desk.mine(2)
    assert desk.account(late.handle).channels.receiving.anchor is not None
    with desk.hub.book.reading() as book:
        assert dusted.handle not in [*book.opening(desk.hub.follower.tip(book.db)), *book.in_stage("closing")]


def test_promises_that_end_together_end_some_at_a_time_and_after_what_is_urgent(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "AT_ONCE", 4)
    monkeypatch.setattr(forgetting, "_LAPSED", forgetting._LAPSED.limit(4))
    before, strangers = free(desk), [Client(desk, f"stranger {number}") for number in range(9)]
    for client in strangers:
        client.agree(quantity=1)
    desk.node.rpc("generate", blocks=BLOCKS)
    left, statements = [], [0]

    def counted(*_args: object) -> None:
        statements[0] += 1

    event.listen(desk.database.engine, "before_cursor_execute", counted)
    for _ in range(3):
        desk.hub.woken.clear()
        desk.rounds.once()
        left.append((desk.rows("select count(*) from promises")[0][0], desk.hub.woken.is_set(), statements[0]))
    event.remove(desk.database.engine, "before_cursor_execute", counted)
    assert [(number, more) for number, more, _ in left] == [(5, True), (1, True), (0, False)]
    assert left[1][2] - left[0][2] < 40  # not some dozen for each
    assert free(desk) == before
    assert desk.rows("select stage, number from totals where number > 0") == [("closed", 9)]
    assert desk.account(strangers[0].handle).version == 2
    assert strangers[0].ask_close()[2] is not None


def test_the_last_look_does_not_grow_old_over_many_connections(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a look in the middle of a round finds is not lost: the next round looks at it."""
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    for client in (alice, bob):
        client.agree()
        client.endow()
    desk.mine()
    alice.deposit()
    bob.deposit()
    desk.node.rpc("generate", blocks=1)
    looks = []

    def slow(hub: Hub, handle: Handle) -> None:
        see_deposits(hub, handle)
        looks.append(hub.follower.height)
        if len(looks) == 1:
            hub.follower.seen_at -= 2 * REFRESH_SECONDS
            later = alice if handle == bob.handle else bob  # which this round has not looked at yet
            desk.node.rpc("faucet", address=address_of(later.duplex.sending.contract.deposit.output), btc=546)
            desk.node.rpc("generate", blocks=1)

    monkeypatch.setattr(chores, "see_deposits", slow)
    desk.rounds.once()
    assert looks[1] == (looks[0] or 0) + 1
    assert desk.hub.follower.is_fresh(1)
    assert desk.rows("select count(*) from touched") == [(1,)]  # by the payment in that block
    desk.rounds.once()
    assert desk.rows("select count(*) from touched") == [(0,)]


def test_the_client_is_told_how_long_it_has(desk: Desk) -> None:
    client = Client(desk, "told")
    client.request()
    reply = client.propose(client.proposal())
    assert reply.deposit_by == desk.node.bitcoin("getblockcount") + BLOCKS
    assert reply.lock_fee == 0


def test_strangers_with_nothing_are_promised_a_tenth_of_what_is_free_however_many_keys_and_addresses(
    desk: Desk,
) -> None:
    before = free(desk)
    for number in range(6):
        with from_address(f"203.0.113.{number}"):
            refused = asked(Client(desk, f"stranger {number}"), before // 40)
        assert (refused is None) == (number < 4)
    assert refused is not None
    assert refused.data["available"] == 0
    assert refused.data["owned"] == 0
    assert free(desk) == before - 4 * (before // 40)
    honest = Client(desk, "honest")
    grant(desk, honest, before // 4)
    assert asked(honest, before // 4) is None


def test_one_key_is_promised_half_of_what_is_free_and_no_more_than_stands_behind_it(desk: Desk) -> None:
    before = free(desk)
    rich = Client(desk, "rich")
    grant(desk, rich, 2 * before)
    for number in range(4):  # promised, lapsed and asked for again, each time from another address
        with from_address(f"203.0.113.{number}"):
            refused = asked(Client(desk, "rich"), before)
            assert refused is not None
            assert refused.data["available"] == before // 2
            assert asked(Client(desk, "rich"), before // 2) is None
            second = asked(Client(desk, "rich"), 2)
        assert second is not None
        assert second.data["available"] == 0
        assert free(desk) == before - before // 2
        desk.mine(BLOCKS)
        assert free(desk) == before
    poor = Client(desk, "poor")
    grant(desk, poor, before // 10)
    assert asked(poor, before // 10) is None
    assert free(desk) == before - before // 10
    again = asked(Client(desk, "poor"), before // 10)  # with what stands behind the first one
    assert again is not None
    assert again.data["available"] < before // 10


def test_many_keys_of_one_address_are_promised_half_of_what_is_free(desk: Desk) -> None:
    before = free(desk)
    keys = [Client(desk, f"key {number}") for number in range(4)]
    for key in keys:
        desk.node.rpc("faucet", address=address_of(key.script), asset="XCP", quantity=before // 4)
    desk.mine()
    with from_address("203.0.113.1"):
        answers = [asked(key, before // 4) for key in keys[:3]]
    assert [answer is None for answer in answers] == [True, True, False]
    assert free(desk) == before - 2 * (before // 4)
    with from_address("203.0.113.2"):
        assert asked(keys[3], before // 8) is None


def test_a_thousand_promises_are_not_for_one_key_nor_a_thousand_requests_more_for_one_address(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promises, "MOST_OF_ADDRESS", 80)
    before, made = free(desk), 0
    for number in range(60):
        with from_address(f"203.0.113.{number}"):
            refused = asked(Client(desk, "greedy"), 1)
        made += refused is None
    assert made == promises.MOST_OF_KEY
    assert free(desk) == before - made
    with from_address("198.51.100.1"):
        for number in range(80):
            Client(desk, f"asker {number % 3}").request()
        hand = Client(desk, "asker")
        with pytest.raises(TooManyPromises):
            hand.request()
    with from_address("198.51.100.2"):
        hand.request()
    desk.mine(BLOCKS)
    assert free(desk) == before
    with from_address("198.51.100.2"):
        assert asked(Client(desk, "greedy"), 1) is None


def test_nobody_is_promised_what_has_just_been_deposited_for_another(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub reads the block of its deposit between the look at its wallet and the promise."""
    before, first = free(desk), Client(desk, "first")
    first.agree()
    first.endow()
    desk.mine()
    first.deposit()
    desk.mine()
    second, looks, look = Client(desk, "second"), [0], desk.hub.chain.view

    def late(query: Query) -> View:
        found = look(query)
        if second.handle.hex() != STRANGER.hex() and not looks[0]:
            looks[0] = 1
            desk.mine(2)  # the deposit counts, and is no promise any more
        return found

    monkeypatch.setattr(desk.hub.chain, "view", late)
    refused = asked(second, before - 500_000)
    assert refused is not None
    assert refused.data["free"] == before - 1_000_000
    assert desk.account(first.handle).stage == "open"


# The price of locking -----------------------------------------------------------------------------------------------


def test_the_hub_locks_nothing_before_the_fee_for_it_is_paid(tmp_path: Path) -> None:
    """A client that deposits and never pays, agreed or alone, leaves the hub with all that it had."""
    with running_desk(tmp_path, LOCKED) as desk:
        before, coins = free(desk), satoshis(desk)
        silent, closing, honest = (Client(desk, name) for name in ("silent", "closing", "honest"))
        for client in (silent, closing, honest):
            client.agree()
            client.endow()
        desk.mine()
        for client in (silent, closing, honest):
            client.deposit()
        desk.mine(3)
        assert free(desk) == before - 3 * 1_000_000
        assert (desk.mempool(), desk.account(silent.handle).deposit_raw) == ([], None)
        for client in (silent, closing, honest):
            see_own(client)
        close = closing.ask_close()[2]
        assert close.c2h is not None
        cheap, _ = honest.sync_request(FEE)  # the sync itself costs one more
        assert honest.sync_refused(cheap) == "AmountExceedsSpendable"
        honest.sync(fee=FEE + 1)
        assert desk.account(honest.handle).lock_due == 0
        desk.rounds.once()
        desk.mine(2)
        assert desk.account(honest.handle).stage == "open"
        honest.see_deposits()
        honest.sync()
        assert honest.paid == FEE + 2
        expiry = desk.account(silent.handle).fixed.agreed.expiry
        desk.mine(expiry.fee_by(expiry.deposit_by(desk.hub.network)) - (desk.hub.follower.height or 0))
        assert desk.account(silent.handle).stage == "agreed"
        desk.mine()
        assert desk.account(silent.handle).stage == "closed"  # the hub has nothing to take back
        assert free(desk) == before - 1_000_000
        spent = coins - satoshis(desk)
        assert spent < 3000  # for the one deposit that was made
        assert silent.sync_refused(silent.sync_request(FEE + 1)[0]) == "ConnectionNotOpen"
        assert silent.ask_close()[2].c2h is not None  # the client's deposit comes back all the same


def test_the_hubs_commit_of_the_fee_is_published_where_its_payer_is_never_seen_again(tmp_path: Path) -> None:
    with running_desk(tmp_path, LOCKED) as desk:
        before = desk.balance(desk.hub.script)
        gone = Client(desk, "gone")
        gone.agree(40)
        gone.endow()
        desk.mine()
        gone.deposit()
        desk.mine()
        see_own(gone)
        gone.sync(fee=1000 + 40_000 + 1)
        desk.mine(45)
        desk.until("closed", gone.handle)
        assert desk.balance(desk.hub.script) == before + 1000 + 40_000 + 1


def satoshis(desk: Desk) -> int:
    """What the hub's wallet holds, but for fees."""
    found = desk.hub.chain.view(Query(coins=[desk.hub.address])).coins[desk.hub.address]
    return sum(coin.value for coin in found)


def see_own(client: Client) -> None:
    """Take over where the hub has seen the client's deposit; its own is not there."""
    theirs = client.desk.account(client.handle).channels
    assert theirs.receiving.anchor is not None
    assert theirs.sending.anchor is None
    client.see_deposits()


# Promises whose deposits are on their way ---------------------------------------------------------------------------


def test_what_leaves_for_one_who_closes_at_once_is_promised_to_nobody_else(desk: Desk) -> None:
    held = desk.balance(desk.hub.script)
    gone, other = Client(desk, "gone"), Client(desk, "other")
    for client in (gone, other):
        grant(desk, client, held)
    gone.agree(quantity=held // 2)
    gone.deposit()
    desk.mine()
    assert desk.account(gone.handle).deposit_raw is not None  # in the mempool: the wallet's balance has it still
    gone.ask_close()
    assert desk.account(gone.handle).stage == "closing"
    assert free(desk) == held - held // 2
    assert isinstance(asked(other, held // 2 + 1), InsufficientLiquidity)
    desk.mine(3)
    assert free(desk) == desk.balance(desk.hub.script) == held - held // 2
    assert desk.rows("select count(*) from promises") == [(1,)]  # the other's request


def test_dust_on_the_deposits_address_backs_no_second_promise(desk: Desk) -> None:
    held = desk.balance(desk.hub.script)
    poor = [Client(desk, "poor") for _ in range(12)]
    grant(desk, poor[0], held // 100)
    for client in poor[:-1]:
        if asked(client, held // 100) is None:
            output = client.duplex.sending.contract.deposit.output
            desk.node.rpc("faucet", address=address_of(output), btc=546)
            desk.rounds.once()
    assert desk.rows("select count(*) from promises where backed") == [(1,)]
    assert free(desk) >= held * 88 // 100


def test_nothing_is_kept_of_a_promise_that_nobody_paid_for(desk: Desk) -> None:
    client = Client(desk, "absent")
    client.agree(60)
    desk.mine(BLOCKS + 2)
    desk.node.rpc("generate", blocks=KEPT_BLOCKS)
    desk.rounds.once()
    desk.mine()
    for table in ("connections", "awaited", "watched", "promises"):
        assert desk.rows(f"select count(*) from {table}") == [(0,)], table

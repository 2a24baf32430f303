"""The hub's index of watched scripts, held against what the regtest node itself tells of the same scripts."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bitcoin.core import CTransaction
from bitcoin.core.script import OP_CHECKSIG, CScript
from picopayments_cli.hub2.database import Database, default_url
from picopayments_cli.hub2.follower import DEPOSIT, Follower
from picopayments_cli.hub2.schema import outputs, transactions
from regtest_support import REGTEST, NodeProcess, Spend, address_of, key_of, running_node, script_of_key
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from picopayments_cli.chain import Query
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.counterparty import p2sh
from picopayments_cli.channel.values import Coin, Entry, Outpoint, hash160
from picopayments_cli.channel2.keys import Key
from picopayments_cli.errors import DatabaseUnusable, NodeBehind

ALICE, BOB, CAROL = (key_of(name) for name in ("alice", "bob", "carol"))
FEE = 1000


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    with running_node(tmp_path / "node", 0) as running:
        yield running


class Index:
    """A follower on a database of its own, and the questions that tests ask it."""

    def __init__(self, folder: Path, node: NodeProcess) -> None:
        self.database = Database(default_url(folder, "regtest"))
        self.node = node
        self.follower = Follower(self.database, BitcoinNode(node.url + "bitcoin/"), REGTEST)

    def watch(self, *keys: Key) -> None:
        self.follower.catch_up()
        with self.database.transaction("watch") as connection:
            for key in keys:
                self.follower.watch(connection, script_of_key(key), "test")

    def coins(self, key: Key) -> list[Coin]:
        with self.database.reading() as connection:
            return self.follower.coins(connection, script_of_key(key))

    def history(self, key: Key) -> list[Entry]:
        with self.database.reading() as connection:
            return self.follower.history(connection, script_of_key(key))

    def spender(self, outpoint: Outpoint) -> Entry | None:
        with self.database.reading() as connection:
            spent = outputs.c.txid == outpoint.txid, outputs.c.vout == outpoint.vout
            joined = select(transactions).join(outputs, outputs.c.spent_by == transactions.c.txid)
            row = connection.execute(joined.where(*spent)).first()
        return None if row is None else Entry(bytes(row.txid), bytes(row.raw), row.height)

    def agrees_with_the_node(self, *keys: Key) -> None:
        """Coins and histories are those that the node tells, heights included."""
        height = self.follower.catch_up()
        addresses = [address_of(script_of_key(key)) for key in keys]
        view = NodeChain(self.node.url, REGTEST).view(Query(coins=addresses, history=addresses))
        assert view.height == height
        for key, address in zip(keys, addresses, strict=True):
            assert set(self.coins(key)) == set(view.coins[address])
            assert set(self.history(key)) == set(view.history[address])


@pytest.fixture
def index(tmp_path: Path, node: NodeProcess) -> Iterator[Index]:
    made = Index(tmp_path / "hub", node)
    yield made
    made.database.close()


def fund(node: NodeProcess, key: Key, satoshis: int = 1_000_000) -> None:
    node.rpc("faucet", address=address_of(script_of_key(key)), btc=satoshis)


def pay(node: NodeProcess, key: Key, coin: Coin, to: Key, fee: int = FEE) -> bytes:
    """Spend a whole coin; the txid."""
    raw = Spend(key, [coin.outpoint], [(coin.value - fee, script_of_key(to))]).signed()
    node.bitcoin("sendrawtransaction", raw.hex())
    return bytes(CTransaction.deserialize(raw).GetTxid())


def test_a_payment_is_seen_in_the_mempool_and_then_in_its_block(index: Index, node: NodeProcess) -> None:
    index.watch(ALICE, BOB)
    fund(node, ALICE)
    index.follower.catch_up()
    (coin,) = index.coins(ALICE)
    assert (coin.value, coin.height, coin.script) == (1_000_000, None, script_of_key(ALICE))
    node.rpc("generate", blocks=1)
    tip = index.follower.catch_up()
    (coin,) = index.coins(ALICE)
    assert coin.height == tip

    txid = pay(node, ALICE, coin, BOB)
    index.follower.catch_up()
    assert index.coins(ALICE) == []
    spender = index.spender(coin.outpoint)
    assert spender is not None
    assert (spender.txid, spender.height) == (txid, None)
    node.rpc("generate", blocks=2)
    index.follower.catch_up()
    spender = index.spender(coin.outpoint)
    assert spender is not None
    assert (spender.height, spender.raw) == (tip + 1, index.history(BOB)[0].raw)
    assert [entry.height for entry in index.history(ALICE)] == [tip, tip + 1]
    index.agrees_with_the_node(ALICE, BOB)


def test_what_was_paid_before_the_watch_is_not_looked_for(index: Index, node: NodeProcess) -> None:
    fund(node, ALICE)
    node.rpc("generate", blocks=1)
    index.watch(ALICE)
    index.follower.catch_up()
    assert index.coins(ALICE) == []


def test_an_address_with_a_past_is_imported(index: Index, node: NodeProcess) -> None:
    fund(node, ALICE)
    fund(node, ALICE, 2_000_000)
    node.rpc("generate", blocks=1)
    seen = Index(Path(str(index.database.engine.url.database)).parent / "other", node)
    seen.watch(BOB)
    index.follower.import_address(NodeChain(node.url, REGTEST), address_of(script_of_key(ALICE)), "wallet")
    coin = next(coin for coin in index.coins(ALICE) if coin.value == 2_000_000)
    pay(node, ALICE, coin, BOB)
    seen.follower.import_address(NodeChain(node.url, REGTEST), address_of(script_of_key(ALICE)), "wallet")
    for each in (index, seen):
        each.agrees_with_the_node(ALICE)
    node.rpc("generate", blocks=1)
    for each in (index, seen):
        each.agrees_with_the_node(ALICE)
    seen.database.close()


@pytest.mark.parametrize("depth", range(1, 7))
def test_a_reorganisation_makes_what_it_takes_away_unconfirmed(index: Index, node: NodeProcess, depth: int) -> None:
    index.watch(ALICE, BOB)
    fund(node, ALICE)
    node.rpc("generate", blocks=7 - depth)
    index.follower.catch_up()
    (coin,) = index.coins(ALICE)
    txid = pay(node, ALICE, coin, BOB)
    node.rpc("generate", blocks=depth)
    before = index.follower.catch_up()
    spender = index.spender(coin.outpoint)
    assert spender is not None
    assert spender.height == before - depth + 1

    node.rpc("reorganise", depth=depth)
    assert index.follower.catch_up() == before + 1
    spender = index.spender(coin.outpoint)
    assert spender is not None
    assert (spender.txid, spender.height) == (txid, None)
    assert [entry.height is None for entry in index.history(ALICE)] == [False, True]
    index.agrees_with_the_node(ALICE, BOB)
    node.rpc("generate", blocks=1)
    index.agrees_with_the_node(ALICE, BOB)
    spender = index.spender(coin.outpoint)
    assert spender is not None
    assert spender.height == before + 2


def test_the_last_version_of_a_replaced_payment_counts(index: Index, node: NodeProcess) -> None:
    index.watch(ALICE, BOB, CAROL)
    fund(node, ALICE)
    node.rpc("generate", blocks=1)
    index.follower.catch_up()
    (coin,) = index.coins(ALICE)
    pay(node, ALICE, coin, BOB)
    index.follower.catch_up()
    assert len(index.coins(BOB)) == 1
    txid = pay(node, ALICE, coin, CAROL, 10 * FEE)
    index.follower.catch_up()
    assert index.coins(BOB) == []
    assert index.history(BOB) == []
    spender = index.spender(coin.outpoint)
    assert spender is not None
    assert spender.txid == txid
    index.agrees_with_the_node(ALICE, BOB, CAROL)


def test_a_conflicting_payment_of_the_new_branch_wins(index: Index, node: NodeProcess) -> None:
    index.watch(ALICE, BOB, CAROL)
    fund(node, ALICE)
    node.rpc("generate", blocks=1)
    index.follower.catch_up()
    (coin,) = index.coins(ALICE)
    pay(node, ALICE, coin, BOB)
    node.rpc("generate", blocks=2)
    index.follower.catch_up()
    (paid,) = index.coins(BOB)
    pay(node, BOB, paid, BOB)  # what depends on the loser goes with it
    index.follower.catch_up()

    node.rpc("reorganise", depth=2)
    winner = pay(node, ALICE, coin, CAROL, 10 * FEE)
    node.rpc("generate", blocks=1)
    tip = index.follower.catch_up()
    spender = index.spender(coin.outpoint)
    assert spender is not None
    assert (spender.txid, spender.height) == (winner, tip)
    assert index.coins(BOB) == []
    assert index.history(BOB) == []
    index.agrees_with_the_node(ALICE, BOB, CAROL)


def test_a_restarted_follower_goes_on_where_it_stopped(index: Index, node: NodeProcess) -> None:
    index.watch(ALICE, BOB)
    fund(node, ALICE)
    node.rpc("generate", blocks=3)
    index.agrees_with_the_node(ALICE, BOB)
    index.database.close()
    fund(node, ALICE)
    node.rpc("reorganise", depth=2)
    node.rpc("generate", blocks=2)
    fund(node, BOB)
    again = Index(Path(str(index.database.engine.url.database)).parent, node)
    again.agrees_with_the_node(ALICE, BOB)
    assert len(again.coins(ALICE)) == 2
    again.database.close()


def test_a_node_that_lags_changes_nothing(index: Index, node: NodeProcess, tmp_path: Path) -> None:
    index.watch(ALICE)
    fund(node, ALICE)
    node.rpc("generate", blocks=1)
    index.database.close()
    node.stop()
    shutil.copytree(tmp_path / "node", tmp_path / "lagging")
    with running_node(tmp_path / "node", 0) as ahead:
        ahead.rpc("generate", blocks=3)
        there = Index(tmp_path / "hub", ahead)
        there.agrees_with_the_node(ALICE)
        before = there.coins(ALICE)
        there.database.close()
    with running_node(tmp_path / "lagging", 0) as lagging:
        behind = Index(tmp_path / "hub", lagging)
        with pytest.raises(NodeBehind) as caught:
            behind.follower.catch_up()
        assert caught.value.data["hub"] - caught.value.data["node"] == 3
        assert behind.coins(ALICE) == before
        lagging.rpc("generate", blocks=4)  # another branch, longer than what was known
        behind.agrees_with_the_node(ALICE)
        behind.database.close()


def test_another_chain_is_refused(index: Index, node: NodeProcess, tmp_path: Path) -> None:
    index.watch(ALICE)
    fund(node, ALICE)
    node.rpc("generate", blocks=1)
    index.follower.catch_up()
    before = index.coins(ALICE)
    index.database.close()
    with running_node(tmp_path / "other", 0) as other:
        other.rpc("generate", blocks=300)
        there = Index(tmp_path / "hub", other)
        with pytest.raises(DatabaseUnusable, match="another chain"):
            there.follower.catch_up()
        assert there.coins(ALICE) == before
        there.database.close()


def test_a_reserved_coin_is_not_chosen_again(index: Index, node: NodeProcess) -> None:
    index.watch(ALICE)
    fund(node, ALICE)
    fund(node, ALICE)
    index.follower.catch_up()
    first, second = index.coins(ALICE)
    script = script_of_key(ALICE)
    with index.database.transaction("reserve") as connection:
        index.follower.reserve(connection, [first.outpoint], "deposit")
    with index.database.reading() as connection:
        assert index.follower.spendable(connection, script) == [second]
    with pytest.raises(IntegrityError), index.database.transaction("again") as connection:
        index.follower.reserve(connection, [second.outpoint, first.outpoint], "payout")
    with index.database.transaction("release") as connection:
        index.follower.release(connection, "deposit")
        assert index.follower.spendable(connection, script) == [first, second]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_the_index_is_what_the_node_tells(index: Index, node: NodeProcess, seed: int) -> None:
    chance = random.Random(seed)
    keys = (ALICE, BOB, CAROL)
    index.watch(*keys)
    node.rpc("generate", blocks=5)
    for _ in range(25):
        match chance.choice(("fund", "pay", "pay", "replace", "mine", "reorganise")):
            case "fund":
                fund(node, chance.choice(keys), chance.randrange(50_000, 500_000))
            case "mine":
                node.rpc("generate", blocks=chance.randrange(1, 4))
            case "reorganise":
                node.rpc("generate", blocks=1)
                node.rpc("reorganise", depth=chance.randrange(1, 7))
            case action:
                payer = chance.choice(keys)
                coins = [coin for coin in index.coins(payer) if coin.value > 30_000]
                if coins:
                    coin = chance.choice(coins)
                    pay(node, payer, coin, chance.choice(keys))
                    if action == "replace":
                        pay(node, payer, coin, chance.choice(keys), 20 * FEE)
        index.agrees_with_the_node(*keys)


def test_what_spends_a_deposit_is_followed_to_where_it_pays(index: Index, node: NodeProcess) -> None:
    redeem = {key: bytes(CScript([key.pubkey, OP_CHECKSIG])) for key in (ALICE, BOB)}
    deposit, commit = (p2sh(hash160(redeem[key])) for key in (ALICE, BOB))
    index.follower.catch_up()
    with index.database.transaction("watch") as connection:
        index.follower.watch(connection, deposit, DEPOSIT)
    node.rpc("faucet", address=address_of(deposit), btc=100_000)
    index.follower.catch_up()
    with index.database.reading() as connection:
        (anchor,) = index.follower.coins(connection, deposit)
    published = Spend(ALICE, [anchor.outpoint], [(90_000, commit)], redeem=redeem[ALICE]).signed()
    made = Outpoint(bytes(CTransaction.deserialize(published).GetTxid()), 0)
    payout = Spend(BOB, [made], [(80_000, script_of_key(BOB))], redeem=redeem[BOB]).signed()
    for raw in (published, payout):  # both between two looks
        node.bitcoin("sendrawtransaction", raw.hex())
    node.rpc("generate", blocks=1)
    tip = index.follower.catch_up()
    with index.database.reading() as connection:
        assert [entry.raw for entry in index.follower.history(connection, commit)] in (
            [published, payout],
            [payout, published],
        )
    assert index.spender(anchor.outpoint) == Entry(made.txid, published, tip)
    spender = index.spender(made)
    assert spender is not None
    assert spender.raw == payout

"""The hub's index of what spends watched outputs, held against what the regtest node itself tells of them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bitcoin.core import CTransaction
from books_support import books_of
from regtest_support import NodeProcess, Spend, address_of, key_of, running_node, script_of_key

from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.channel.drafts import txid_of
from picopayments_cli.channel.facts import Seen
from picopayments_cli.channel.values import Entry, Handle, Outpoint
from picopayments_cli.errors import DatabaseUnusable, NodeBehind
from picopayments_cli.hub.database import Database
from picopayments_cli.hub.follower import Follower

ALICE, BOB, CAROL = (key_of(name) for name in ("alice", "bob", "carol"))
SCRIPT = script_of_key(ALICE)
HANDLE = Handle(b"\x01" * 32)
FEE = 1000
DEEPEST = 4  # blocks that a reorganisation takes away


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    with running_node(tmp_path / "node", 0) as running:
        yield running


class Index:
    """A follower on a database of its own, and the questions that tests ask it."""

    def __init__(self, folder: Path, node: NodeProcess) -> None:
        self.database = Database(books_of(folder).url)
        self.node = node
        self.follower = Follower(self.database, BitcoinNode(node.url + "bitcoin/"))
        with self.database.transaction("awaited") as connection:
            if not connection.exec_driver_sql("select * from awaited").all():
                self.follower.await_deposits(connection, HANDLE, [SCRIPT])
        self.first = node.bitcoin("getblockcount") - DEEPEST  # nothing that is watched was spent before

    def changes(self) -> dict[Handle, bool]:
        """What was touched since the last call."""
        with self.database.transaction("looked at") as connection:
            found = self.follower.touched(connection)
            self.follower.looked_at(connection, found)
        return found

    def spend(self, outpoint: Outpoint) -> Seen | None:
        with self.database.reading() as connection:
            return self.follower.spend(connection, outpoint)

    def deposits(self) -> list[Entry]:
        with self.database.reading() as connection:
            return self.follower.deposits_to(connection, SCRIPT)

    def watched(self) -> list[Outpoint]:
        with self.database.reading() as connection:
            rows = connection.exec_driver_sql("select txid, vout from watched")
            return [Outpoint(bytes(txid), vout) for txid, vout in rows]

    def agrees_with_the_node(self) -> None:
        """What is told of each watched output is what blocks and mempool hold."""
        height = self.follower.catch_up()
        spenders: dict[Outpoint, Seen] = {}
        for at in [*range(self.first, height + 1), None]:
            where = "getrawmempool" if at is None else "getblock"
            asked = [] if at is None else [self.node.bitcoin("getblockhash", at), 1]
            found = self.node.bitcoin(where, *asked)
            for txid in found if at is None else found["tx"]:
                tx = CTransaction.deserialize(bytes.fromhex(self.node.bitcoin("getrawtransaction", txid)))
                for spent in tx.vin:
                    outpoint = Outpoint(bytes(spent.prevout.hash), spent.prevout.n)
                    spenders[outpoint] = Seen(bytes.fromhex(txid)[::-1], at)
        for outpoint in self.watched():
            assert self.spend(outpoint) == spenders.get(outpoint)


@pytest.fixture
def index(tmp_path: Path, node: NodeProcess) -> Iterator[Index]:
    made = Index(tmp_path / "hub", node)
    made.follower.catch_up()
    yield made
    made.database.close()


def deposit(node: NodeProcess, satoshis: int = 1_000_000) -> Outpoint:
    """A transaction whose first output pays the awaited script."""
    node.rpc("faucet", address=address_of(script_of_key(CAROL)), btc=satoshis + FEE)
    node.rpc("generate", blocks=1)
    coins = node.bitcoin("getblock", node.bitcoin("getbestblockhash"), 1)["tx"]
    for txid in coins:
        tx = CTransaction.deserialize(bytes.fromhex(node.bitcoin("getrawtransaction", txid)))
        for number, out in enumerate(tx.vout):
            if bytes(out.scriptPubKey) == script_of_key(CAROL):
                coin = Outpoint(bytes.fromhex(txid)[::-1], number)
    raw = Spend(CAROL, [coin], [(satoshis, SCRIPT)]).signed()
    node.bitcoin("sendrawtransaction", raw.hex())
    return Outpoint(txid_of(raw), 0)


def spend_all(node: NodeProcess, coin: Outpoint, *values: int) -> bytes:
    """Spend a coin of alice to outputs of hers; the transaction."""
    raw = Spend(ALICE, [coin], [(value, SCRIPT) for value in values]).signed()
    node.bitcoin("sendrawtransaction", raw.hex())
    return raw


def test_a_deposit_is_seen_in_the_mempool_and_then_in_its_block(index: Index, node: NodeProcess) -> None:
    made = deposit(node)
    index.follower.catch_up()
    (seen,) = index.deposits()
    assert (seen.txid, seen.height) == (made.txid, None)
    assert index.watched() == [made]
    assert index.changes() == {HANDLE: False}
    node.rpc("generate", blocks=1)
    tip = index.follower.catch_up()
    assert [entry.height for entry in index.deposits()] == [tip]
    assert index.changes() == {HANDLE: False}


def test_what_spends_an_anchor_is_followed_to_its_first_and_third_output(index: Index, node: NodeProcess) -> None:
    made = deposit(node)
    node.rpc("generate", blocks=1)
    index.follower.catch_up()
    commit = txid_of(spend_all(node, made, 300_000, 200_000, 400_000))
    child = txid_of(spend_all(node, Outpoint(commit, 0), 290_000))  # both between two looks
    index.follower.catch_up()
    assert index.spend(made) == Seen(commit, None)
    assert index.spend(Outpoint(commit, 0)) == Seen(child, None)
    assert {item.vout for item in index.watched() if item.txid == commit} == {0, 2}
    node.rpc("generate", blocks=1)
    tip = index.follower.catch_up()
    assert index.spend(made) == Seen(commit, tip)
    assert index.spend(Outpoint(commit, 0)) == Seen(child, tip)
    assert index.spend(Outpoint(commit, 2)) is None
    index.agrees_with_the_node()


@pytest.mark.parametrize("depth", range(1, DEEPEST + 1))
def test_a_reorganisation_makes_what_it_takes_away_unconfirmed(index: Index, node: NodeProcess, depth: int) -> None:
    made = deposit(node)
    node.rpc("generate", blocks=5 - depth)
    index.follower.catch_up()
    commit = txid_of(spend_all(node, made, 900_000))
    node.rpc("generate", blocks=depth)
    before = index.follower.catch_up()
    assert index.spend(made) == Seen(commit, before - depth + 1)  # type: ignore[arg-type]
    index.changes()
    node.rpc("reorganise", depth=depth)
    assert index.follower.catch_up() == before + 1
    assert index.spend(made) == Seen(commit, None)
    assert index.changes() == {HANDLE: True}
    index.agrees_with_the_node()
    node.rpc("generate", blocks=1)
    index.agrees_with_the_node()


def test_the_last_version_of_a_replaced_spend_counts(index: Index, node: NodeProcess) -> None:
    made = deposit(node)
    node.rpc("generate", blocks=1)
    first = txid_of(spend_all(node, made, 990_000))
    index.follower.catch_up()
    assert index.spend(made) == Seen(first, None)
    second = txid_of(spend_all(node, made, 900_000))
    index.follower.catch_up()
    assert index.spend(made) == Seen(second, None)
    index.agrees_with_the_node()


def test_a_deposit_that_is_replaced_is_forgotten(index: Index, node: NodeProcess) -> None:
    made = deposit(node)
    index.follower.catch_up()
    coin = CTransaction.deserialize(index.deposits()[0].raw).vin[0].prevout
    elsewhere = [(900_000, script_of_key(BOB))]
    other = Spend(CAROL, [Outpoint(bytes(coin.hash), coin.n)], elsewhere).signed()
    node.bitcoin("sendrawtransaction", other.hex())
    index.follower.catch_up()
    assert index.deposits() == []
    node.rpc("generate", blocks=1)
    index.follower.catch_up()
    assert (index.deposits(), index.spend(made)) == ([], None)


def test_a_restarted_follower_goes_on_where_it_stopped(index: Index, node: NodeProcess, tmp_path: Path) -> None:
    made = deposit(node)
    node.rpc("generate", blocks=3)
    index.agrees_with_the_node()
    index.database.close()
    node.rpc("reorganise", depth=2)
    commit = txid_of(spend_all(node, made, 900_000))
    node.rpc("generate", blocks=2)
    again = Index(tmp_path / "hub", node)
    again.agrees_with_the_node()
    assert again.changes() == {HANDLE: False}  # which nobody had looked at
    seen = again.spend(made)
    assert seen is not None
    assert seen.txid == commit
    again.database.close()


def test_a_node_that_lags_changes_nothing(index: Index, node: NodeProcess, tmp_path: Path) -> None:
    deposit(node)
    node.rpc("generate", blocks=1)
    index.database.close()
    node.stop()
    shutil.copytree(tmp_path / "node", tmp_path / "lagging")
    with running_node(tmp_path / "node", 0) as ahead:
        ahead.rpc("generate", blocks=3)
        there = Index(tmp_path / "hub", ahead)
        there.agrees_with_the_node()
        before = there.deposits()
        there.database.close()
    with running_node(tmp_path / "lagging", 0) as lagging:
        behind = Index(tmp_path / "hub", lagging)
        with pytest.raises(NodeBehind) as caught:
            behind.follower.catch_up()
        assert caught.value.data["hub"] - caught.value.data["node"] == 3
        assert behind.deposits() == before
        assert not behind.follower.is_fresh(60)
        lagging.rpc("generate", blocks=4)  # another branch, longer than what was known
        behind.agrees_with_the_node()
        assert behind.follower.is_fresh(60)
        behind.database.close()


def test_another_chain_is_refused(index: Index, node: NodeProcess, tmp_path: Path) -> None:
    deposit(node)
    node.rpc("generate", blocks=1)
    index.follower.catch_up()
    before = index.deposits()
    index.database.close()
    with running_node(tmp_path / "other", 0) as other:
        other.rpc("generate", blocks=300)
        there = Index(tmp_path / "hub", other)
        with pytest.raises(DatabaseUnusable, match="another chain"):
            there.follower.catch_up()
        assert there.deposits() == before
        there.database.close()


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_the_index_is_what_the_node_tells(index: Index, node: NodeProcess, seed: int) -> None:
    chance = random.Random(seed)
    coins = [(deposit(node), 1_000_000) for _ in range(3)]
    for _ in range(10):
        match chance.choice(("spend", "spend", "replace", "mine", "reorganise")):
            case "mine":
                node.rpc("generate", blocks=chance.randrange(1, 4))
            case "reorganise":
                node.rpc("generate", blocks=1)
                node.rpc("reorganise", depth=chance.randrange(1, 4))
            case action:
                place = chance.randrange(len(coins))
                coin, value = coins[place]
                if value < 50_000:
                    continue
                made, left = spend_all(node, coin, value - FEE), value - FEE
                if action == "replace":
                    left = value - 20 * FEE
                    made = spend_all(node, coin, left)
                coins[place] = Outpoint(txid_of(made), 0), left
        index.agrees_with_the_node()
    watched = index.watched()
    assert len(watched) > len(coins)
    assert any(index.spend(outpoint) is not None for outpoint in watched)

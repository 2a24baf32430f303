"""Every spend of a channel's outputs, as the chain took it: at its relative height, and judged by relay policy."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from bitcoin.core import CTransaction
from channel2_support import judge
from network_support import Network, running_network
from regtest_support import open_node

from picopayments_cli.channel.counterparty import is_p2sh
from picopayments_cli.channel2.transactions import Output, spent_outpoints
from picopayments_cli.regtest.node import BlockRefused
from picopayments_cli.regtest.policy import Refused

HUB_DELAY = 2  # of commits to clients, on regtest
DELAYS = (2, 5)  # of commits to the hub


@dataclass(frozen=True)
class ChannelSpend:
    """A transaction whose first input is a channel's, with what it spends and the heights of both."""

    kind: str
    raw: bytes
    spent: tuple[Output, ...]
    made_at: int  # the block of the output that comes first
    after: int  # the last block that makes any of its inputs
    height: int
    lock: int  # blocks, by the first input's sequence; 0: none


@dataclass(frozen=True)
class Lives:
    """The remains of a network on which connections lived: the node's folder, and all spends."""

    folder: Path
    spends: tuple[ChannelSpend, ...]

    def of(self, kind: str) -> list[ChannelSpend]:
        return [spend for spend in self.spends if spend.kind == kind]


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Lives:
    """For each delay a connection on which both sides were paid, mined block by block and synced after each."""
    folder = tmp_path_factory.mktemp("spends")
    with running_network(folder) as network:
        for delay in DELAYS:
            _live(network, delay)
        spends = tuple(_spends(network))
    return Lives(network.basedir / "node", spends)


def _live(network: Network, delay: int) -> None:
    alice, bob = network.client(f"alice{delay}"), network.client(f"bob{delay}")
    a, b = (network.open_connection(client, "--delay_time", str(delay)) for client in (alice, bob))
    for payer, source, payee, amount in ((alice, a, b, 5000), (bob, b, a, 700)):
        payer.run("queuepayment", source, payee, str(amount))
        payer.run("sync")
        (alice if payer is bob else bob).run("sync")
    for client, handle in ((alice, a), (bob, b)):
        client.run("close", handle)
        network.settle(client, handle)
    network.mine(6)  # for what the hub takes back last


def _spends(network: Network) -> Iterator[ChannelSpend]:
    made: dict[bytes, tuple[int, CTransaction]] = {}
    for height, block in enumerate(network.blocks()):
        for tx in block:
            made[tx.GetTxid()] = (height, tx)
            if tx.is_coinbase():
                continue
            sources = [(made[outpoint.txid], outpoint.vout) for outpoint in spent_outpoints(tx)]
            spent = tuple(
                Output(source.vout[vout].nValue, bytes(source.vout[vout].scriptPubKey)) for (_, source), vout in sources
            )
            if is_p2sh(spent[0].script):
                lock = tx.vin[0].nSequence if tx.nVersion == 2 and tx.vin[0].nSequence <= 0xFFFF else 0
                kind = "commit" if is_p2sh(bytes(tx.vout[0].scriptPubKey)) else "payout" if lock else "change"
                after = max(source_height for (source_height, _), _ in sources)
                yield ChannelSpend(kind, tx.serialize(), spent, sources[0][0][0], after, height, lock)


def node_at(lives: Lives, folder: Path, height: int) -> Path:
    """The folder of a node whose chain ends at a height, with nothing in its mempool."""
    folder.mkdir()
    for path in lives.folder.glob("journal.sqlite*"):
        shutil.copy(path, folder)
    with closing(sqlite3.connect(folder / "journal.sqlite", isolation_level=None)) as journal:
        (first,) = journal.execute("SELECT min(number) FROM blocks").fetchone()
        journal.execute("DELETE FROM blocks WHERE number >= ?", (first + height,))  # the genesis is not among them
        journal.execute("DELETE FROM mempool")
    return folder


def test_every_kind_of_spend_was_made_by_both_sides(lives: Lives) -> None:
    assert len(lives.of("commit")) == 4 * len(DELAYS)
    locks = sorted(spend.lock for spend in lives.of("payout"))
    assert locks == sorted([HUB_DELAY] * 2 * len(DELAYS) + [delay for delay in DELAYS for _ in range(2)])
    assert len(lives.of("change")) >= 4 * len(DELAYS)


def test_a_payout_is_made_as_soon_as_its_commit_is_old_enough(lives: Lives) -> None:
    assert [spend.height - spend.made_at for spend in lives.of("payout")] == [
        spend.lock for spend in lives.of("payout")
    ]


def test_every_spend_passes_the_interpreter_with_the_flags_of_policy(lives: Lives) -> None:
    for spend in lives.spends:
        judge(spend.raw, spend.spent)


def test_the_kernel_takes_every_payout_at_its_height_and_not_one_block_before(lives: Lives, tmp_path: Path) -> None:
    for number, spend in enumerate(lives.of("payout")):
        earliest = spend.made_at + spend.lock
        with open_node(node_at(lives, tmp_path / str(number), earliest - 2), 0) as node:
            assert node.index.height == earliest - 2
            with pytest.raises(Refused, match="non-BIP68-final"):
                node.submit([spend.raw])
            with pytest.raises(BlockRefused):
                node.mine([spend.raw])
            node.generate(1)
            node.mine([spend.raw])
            assert node.index.height == earliest


def test_the_kernel_takes_every_other_spend_in_the_block_after_what_it_spends(lives: Lives, tmp_path: Path) -> None:
    for number, spend in enumerate((*lives.of("commit"), *lives.of("change"))):
        with open_node(node_at(lives, tmp_path / str(number), spend.after), 0) as node:
            txids = node.submit([spend.raw])
            node.generate(1)
            assert all(node.index.find(txid) is not None for txid in txids)

"""What tests of the node's policy share: Alice's coins, and why a transaction is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bitcoin.core import CTransaction
from bitcoin.core.script import OP_CHECKSIG, CScript
from regtest_support import BTC, coins_of, key_of, open_node, script_of_key
from taproot_support import (
    Coin,
    Tree,
    payment,
    txid_of,
    vsize_of,
    x_only,
)

from picopayments_cli.channel.values import Outpoint
from picopayments_cli.regtest.node import Node
from picopayments_cli.regtest.packages import Verdict
from picopayments_cli.regtest.policy import Refused

ALICE, BOB = key_of("Alice"), key_of("Bob")
ALICE_SCRIPT, BOB_SCRIPT = script_of_key(ALICE), script_of_key(BOB)
LEAF = bytes(CScript([x_only(ALICE), OP_CHECKSIG]))
PLAIN = Tree([LEAF])
COINS = 10


@contextmanager
def rich_node(folder: Path) -> Iterator[Node]:
    """A node that mines on demand, with ten coins of a bitcoin each of Alice's."""
    with open_node(folder, 0) as opened:
        for _ in range(COINS):
            opened.faucet(ALICE_SCRIPT, BTC, "XCP", 0)
        opened.generate(1)
        yield opened


def purse(node: Node) -> list[Coin]:
    """Alice's coins."""
    return sorted(coins_of(node, ALICE_SCRIPT), key=lambda coin: coin[0].txid)


def refusal(node: Node, raw: bytes) -> str:
    """Why a transaction is refused; mempool, sequence and chain stay as they were."""
    before = (list(node.mempool.entries), node.mempool.sequence, node.index.height)
    with pytest.raises(Refused) as caught:
        node.submit([raw])
    assert (list(node.mempool.entries), node.mempool.sequence, node.index.height) == before
    return caught.value.reason


def package(node: Node, *raws: bytes) -> Verdict:
    return node.submit_package([CTransaction.deserialize(raw) for raw in raws])


def waiting(node: Node, *raws: bytes) -> bool:
    """Whether the mempool holds these and nothing else."""
    return list(node.mempool.entries) == [txid_of(raw) for raw in raws]


def output(raw: bytes, number: int = 0) -> Coin:
    """An output of a transaction, as a coin."""
    out = CTransaction.deserialize(raw).vout[number]
    return Outpoint(txid_of(raw), number), int(out.nValue)


def sized(coin: Coin, vsize: int, rate: int = 2) -> bytes:
    """A version 3 spend of Alice's of exactly that many vB."""
    outputs = (vsize - 228) // 34
    data = vsize - 203 - 34 * outputs
    for extra in range(1000):  # a signature has 71 or 72 bytes, and another with each fee
        more = [(1000, ALICE_SCRIPT)] * outputs
        raw = payment(ALICE, coin, rate * vsize + extra, *more, (0, b"\x6a" + bytes((data,)) + bytes(data)))
        missing = vsize - vsize_of(raw)
        if not missing:
            return raw
        data += missing
    raise AssertionError(vsize)

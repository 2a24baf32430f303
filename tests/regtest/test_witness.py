"""What the regtest node makes of outputs and witnesses: dust, anchors, taproot spends, and who speaks by them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bitcoin.core import CTransaction
from bitcoin.core.script import OP_CHECKSIG, OP_DROP, CScript
from hypothesis import given
from hypothesis import strategies as st
from policy_support import ALICE, ALICE_SCRIPT, BOB, BOB_SCRIPT, LEAF, PLAIN, output, purse, refusal, rich_node
from regtest_support import BTC, XCP, coins_of, pack_enhanced_send
from taproot_support import (
    ANCHOR,
    P2A,
    Coin,
    Tree,
    leaf_spend,
    payment,
    raising,
    sign_schnorr,
    txid_of,
    unsigned,
    with_witness,
    x_only,
)

from picopayments_cli.channel.counterparty import XCP_ID, data_script, pack_send, read_transaction
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.regtest.node import BlockRefused, Node
from picopayments_cli.regtest.policy import dust_limit
from picopayments_cli.regtest.witness import tapscript_fault


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node that mines on demand, with ten coins of a bitcoin each of Alice's."""
    with rich_node(tmp_path / "node") as opened:
        yield opened


# The ledger ---------------------------------------------------------------------------------------------------------


def test_nobody_speaks_for_an_address_through_an_anchor_even_in_a_block(node: Node) -> None:
    """Before 11.5 of Counterparty Core a miner did, by three items on the P2A input and a plain prefix."""
    node.faucet(PLAIN.script, BTC, "XCP", 50 * XCP)
    node.generate(1)
    (coin,) = coins_of(node, PLAIN.script)
    raw = leaf_spend(PLAIN, coin, [(BTC - 1000, PLAIN.script), ANCHOR], ALICE)
    node.submit([raw])
    node.generate(1)
    message = pack_enhanced_send(XCP_ID, 50 * XCP, BOB_SCRIPT)
    envelope = b"\x00\x63" + bytes(CScript([message])) + b"\x68" + bytes(CScript([x_only(BOB)])) + b"\xac"
    outputs = [(0, b"\x6a\x08CNTRPRTY"), (0, b"\x6a\x02hi")]
    stuffed = with_witness(
        unsigned([output(raw, 1)[0]], outputs), sign_schnorr(BOB, bytes(32)), envelope, b"\xc0" + x_only(BOB)
    )
    node.mine([stuffed])
    assert node.index.find(txid_of(stuffed)) is not None
    assert node.ledger.balances(PLAIN.script) == {"XCP": 50 * XCP}
    assert node.ledger.balances(BOB_SCRIPT) == {}


@pytest.mark.parametrize(
    ("witness", "counts"),
    [
        ([b"\x05" * 64], True),
        ([b"\x05" * 64 + b"\x01"], True),
        ([b"\x05" * 64 + b"\x81"], True),
        ([b"\x05" * 64, b"", b""], True),
        ([b"\x05" * 64 + b"\x81", b"", b"", b""], True),
        ([b"\x05" * 64 + b"\x00"], False),
        ([b"\x05" * 64 + b"\x02"], False),
        ([b"\x05" * 64 + b"\x83", b"", b""], False),
        ([b"\x05" * 63], False),
        ([b"\x05" * 66], False),
        ([b"\x05" * 64, b""], False),  # two items: a DER signature is looked for
        ([b"", b"\x05" * 64, b""], False),
        ([b"\xff" * 32 + b"\x05" * 32], False),  # no point of the curve, no number below its order
        ([b"\x05" * 32 + b"\xff" * 32], False),
        ([ALICE.sign(bytes(32)) + b"\x01", b""], True),
        ([ALICE.sign(bytes(32)) + b"\x81", b""], True),
        ([ALICE.sign(bytes(32)) + b"\x02", b""], False),
        ([ALICE.sign(bytes(32)) + b"\x01"], False),
        ([ALICE.sign(bytes(32)) + b"\x01", b"", b""], False),
        ([b"", ALICE.sign(bytes(32)) + b"\x01"], False),
        ([b"\x30\x06\x02\x00\x02\x02\x05\x05\x01", b""], False),  # an integer of no bytes
        ([], False),
    ],
)
def test_the_first_item_of_the_first_witness_tells_who_speaks(witness: list[bytes], counts: bool) -> None:
    coin = Outpoint(bytes(range(32)), 0)
    tx = unsigned([coin], [(1000, BOB_SCRIPT), (0, data_script(pack_send(XCP_ID, 5), coin.txid)), ANCHOR])
    reading = read_transaction(CTransaction.deserialize(with_witness(tx, *witness)) if witness else tx, PLAIN.script)
    assert (reading is not None) == counts


# Dust, witnesses ----------------------------------------------------------------------------------------------------

KINDS = {546: ALICE_SCRIPT, 540: b"\xa9\x14" + bytes(20) + b"\x87", 294: b"\0\x14" + bytes(20), 330: PLAIN.script}


@pytest.mark.parametrize(("least", "script"), [*KINDS.items(), (330, b"\0\x20" + bytes(32)), (240, P2A)])
def test_dust_has_a_border_of_its_own_for_each_kind_of_output(node: Node, least: int, script: bytes) -> None:
    assert dust_limit(script) == least
    coin = purse(node)[0]
    assert refusal(node, payment(ALICE, coin, 1000, (least - 1, script))) == "dust"
    node.submit([payment(ALICE, coin, 1000, (least, script))])


def test_an_anchor_is_spent_with_an_empty_witness(node: Node) -> None:
    coins = purse(node)
    parent = payment(ALICE, coins[0], 1000, ANCHOR)
    node.submit([parent])
    bare = CTransaction.deserialize(raising(ALICE, output(parent, 1)[0], coins[1], 1000))
    stuffed = with_witness(bare, b"\x01")
    assert refusal(node, stuffed) == "bad-witness-nonstandard"
    node.submit([bare.serialize()])
    node.generate(1)
    assert node.index.find(txid_of(stuffed)) is not None


def test_programs_of_later_versions_are_paid_and_not_spent(node: Node) -> None:
    script = b"\x52\x20" + bytes(32)
    parent = payment(ALICE, purse(node)[0], 1000, (10_000, script))
    node.submit([parent])
    assert refusal(node, unsigned([output(parent, 1)[0]], [(9000, ALICE_SCRIPT)]).serialize()) == (
        "bad-txns-nonstandard-inputs"
    )


@dataclass(frozen=True)
class Odd:
    """A taproot spend that blocks may hold and nodes do not relay."""

    reason: str
    leaf: bytes = LEAF
    version: int = 0xC0
    before: tuple[bytes, ...] = ()
    behind: tuple[bytes, ...] = ()
    signed: bool = True


LONG_KEY = b"\x02" + x_only(ALICE)
ODD = [
    Odd("bad-witness-nonstandard", behind=(b"\x50annex",), signed=False, leaf=b"\x51"),
    Odd("bad-witness-nonstandard", leaf=bytes(CScript([OP_DROP])) + LEAF, before=(bytes(81),)),
    Odd("OP_SUCCESSx", leaf=b"\x50" + LEAF),
    Odd("OP_SUCCESSx", leaf=LEAF + b"\xfe\x4c"),
    Odd("NOPx", leaf=b"\xb9" + LEAF),
    Odd("Taproot version", version=0xC2),
    Odd("Public key version", leaf=bytes(CScript([LONG_KEY, OP_CHECKSIG]))),
    Odd("Data push larger", leaf=b"\x01\x05\x75" + LEAF),
    Odd("Data push larger", leaf=b"\x4c\x20" + x_only(ALICE) + b"\xac"),
    Odd("non-minimally encoded script number", leaf=b"\x02\x05\x00\xb1\x75" + LEAF),
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: f"{odd.reason} {odd.leaf[:6].hex()}")
def test_odd_taproot_spends_are_refused_though_the_kernel_takes_them(node: Node, odd: Odd) -> None:
    tree = Tree([odd.leaf], version=odd.version)
    node.faucet(tree.script, BTC, "XCP", 0)
    node.generate(1)
    (coin,) = coins_of(node, tree.script)
    raw = leaf_spend(tree, coin, [(BTC - 1000, BOB_SCRIPT)], ALICE)
    tx = CTransaction.deserialize(raw)
    signature, *rest = (bytes(item) for item in tx.wit.vtxinwit[0].scriptWitness.stack)
    raw = with_witness(tx, *((signature,) if odd.signed else ()), *odd.before, *rest, *odd.behind)
    if b"\xb1" in odd.leaf[:5]:
        raw = locked(tree, coin)
    assert odd.reason in refusal(node, raw)
    found = node.mine([raw])
    assert node.index.blocks[-1].hash == found


def locked(tree: Tree, coin: Coin) -> bytes:
    tx = unsigned([coin[0]], [(BTC - 1000, BOB_SCRIPT)], locktime=10)
    signature = sign_schnorr(ALICE, tree.sighash(0, tx, [(coin[1], tree.script)], 0))
    return with_witness(tx, signature, tree.leaves[0], tree.control(0))


def test_a_wrong_taproot_signature_is_refused_by_mempool_and_kernel(node: Node) -> None:
    node.faucet(PLAIN.script, BTC, "XCP", 0)
    node.generate(1)
    (coin,) = coins_of(node, PLAIN.script)
    raw = leaf_spend(PLAIN, coin, [(BTC - 1000, BOB_SCRIPT)], BOB)
    assert refusal(node, raw).startswith("mandatory-script-verify-flag-failed")
    with pytest.raises(BlockRefused):
        node.mine([raw])


@given(st.binary(max_size=60))
def test_no_tapscript_makes_the_judge_fail(script: bytes) -> None:
    fault = tapscript_fault([b"", script, b"\xc0" + bytes(32)])
    assert fault is None or fault

"""What the regtest node takes for relayed: each rule of version 3, replacement, dust and witnesses broken exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import pytest
from bitcoin.core import CTransaction
from bitcoin.core.script import OP_CHECKSIG, OP_DROP, CScript
from hypothesis import given
from hypothesis import strategies as st
from regtest_support import BTC, XCP, coins_of, key_of, open_node, script_of_key
from taproot_support import (
    ANCHOR,
    P2A,
    Coin,
    Tree,
    leaf_spend,
    payment,
    raising,
    sign_first,
    sign_schnorr,
    txid_of,
    unsigned,
    vsize_of,
    with_witness,
    x_only,
)

from picopayments_cli.channel.counterparty import (
    XCP_ID,
    data_script,
    pack_enhanced_send,
    pack_send,
    read_transaction,
)
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.regtest.graph import Entry, rate, totals
from picopayments_cli.regtest.index import Tx
from picopayments_cli.regtest.mempool import MAX_CHAIN
from picopayments_cli.regtest.node import BlockRefused, Node
from picopayments_cli.regtest.packages import FAILED, SUCCESS, Verdict
from picopayments_cli.regtest.policy import FeeTooLow, Refused, dust_limit
from picopayments_cli.regtest.replacement import MAX_REPLACED, check_package_replacement, check_replacement
from picopayments_cli.regtest.template import choose
from picopayments_cli.regtest.witness import tapscript_fault

ALICE, BOB = key_of("Alice"), key_of("Bob")
ALICE_SCRIPT, BOB_SCRIPT = script_of_key(ALICE), script_of_key(BOB)
LEAF = bytes(CScript([x_only(ALICE), OP_CHECKSIG]))
PLAIN = Tree([LEAF])
COINS = 10


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node that mines on demand, with ten coins of a bitcoin each of Alice's."""
    with open_node(tmp_path / "node", 0) as opened:
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


# Version 3 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("parent", "child"), [(3, 2), (3, 1), (2, 3), (1, 3)])
def test_version_3_hangs_on_version_3_only(node: Node, parent: int, child: int) -> None:
    first = payment(ALICE, purse(node)[0], 1000, version=parent)
    node.submit([first])
    why = refusal(node, payment(ALICE, output(first), 1000, version=child))
    assert why.startswith("TRUC-violation, ")
    assert f"{'' if child == 3 else 'non-'}version=3 tx" in why
    assert f"cannot spend from {'' if parent == 3 else 'non-'}version=3 tx" in why
    node.generate(1)
    node.submit([payment(ALICE, output(first), 1000, version=child)])  # confirmed, it may


@pytest.mark.parametrize("version", [2, 3])
def test_children_of_the_same_kind_are_taken(node: Node, version: int) -> None:
    first = payment(ALICE, purse(node)[0], 1000, version=version)
    second = payment(ALICE, output(first), 1000, version=version)
    node.submit([first, second])
    assert waiting(node, first, second)


def test_version_3_has_no_grandchild_and_no_second_parent(node: Node) -> None:
    coins = purse(node)
    first, other = (payment(ALICE, coin, 1000) for coin in coins[:2])
    second = payment(ALICE, output(first), 1000)
    node.submit([first, other, second])
    assert "would have too many ancestors" in refusal(node, payment(ALICE, output(second), 1000))
    both = unsigned([output(first)[0], output(other)[0]], [(2 * BTC - 10_000, ALICE_SCRIPT)])
    signed = sign_first(sign_first(both, ALICE), ALICE, 1).serialize()
    assert "would have too many ancestors" in refusal(node, signed)


def test_a_version_3_transaction_has_ten_thousand_vb_at_most(node: Node) -> None:
    coin = purse(node)[0]
    assert "is too big: 10001 > 10000 virtual bytes" in refusal(node, sized(coin, 10_001))
    node.submit([sized(coin, 10_000)])


def test_a_version_3_child_has_a_thousand_vb_at_most(node: Node) -> None:
    first = payment(ALICE, purse(node)[0], 1000)
    node.submit([first])
    assert "is too big: 1001 > 1000 virtual bytes" in refusal(node, sized(output(first), 1001))
    node.submit([sized(output(first), 1000)])


def test_a_better_child_evicts_its_sibling(node: Node) -> None:
    coins = purse(node)
    parent = payment(ALICE, coins[0], 1000, ANCHOR)
    own = payment(ALICE, output(parent), 2000)
    node.submit([parent, own])
    size = vsize_of(own)
    for fee in (1900, 2000, 2000 + size):
        child = raising(ALICE, output(parent, 1)[0], coins[1], fee)
        assert vsize_of(child) > size
        assert refusal(node, child).startswith("insufficient fee, rejecting replacement")
    better = raising(ALICE, output(parent, 1)[0], coins[1], 2600)
    node.submit([better])
    assert waiting(node, parent, better)
    node.generate(1)
    assert node.index.find(txid_of(own)) is None
    assert node.index.find(txid_of(better)) is not None


def test_a_larger_child_of_a_lower_rate_does_not_evict_its_sibling(node: Node) -> None:
    coins = purse(node)
    parent = payment(ALICE, coins[0], 1000, ANCHOR)
    own = payment(ALICE, output(parent), 3000)
    node.submit([parent, own])
    large = raising(ALICE, output(parent, 1)[0], coins[1], 9000, outputs=19)
    assert vsize_of(large) < 1000
    assert "new feerate is not higher" in refusal(node, large)
    node.submit([raising(ALICE, output(parent, 1)[0], coins[1], 20_000, outputs=19)])


def test_a_child_that_conflicts_with_its_sibling_replaces_it(node: Node) -> None:
    parent = payment(ALICE, purse(node)[0], 1000)
    node.submit([parent, payment(ALICE, output(parent), 2000)])
    better = payment(ALICE, output(parent), 3000)
    node.submit([better])
    assert waiting(node, parent, better)


def test_what_hangs_on_a_replaced_parent_goes_with_it(node: Node) -> None:
    coin = purse(node)[0]
    parent = payment(ALICE, coin, 1000)
    node.submit([parent, payment(ALICE, output(parent), 2000)])
    assert refusal(node, payment(ALICE, coin, 3000)).startswith("insufficient fee")
    better = payment(ALICE, coin, 3500)
    node.submit([better])
    assert waiting(node, better)


def test_after_a_reorganisation_a_child_of_an_unconfirmed_deposit_waits_no_more(node: Node) -> None:
    deposit = payment(ALICE, purse(node)[0], 1000, version=2)
    node.submit([deposit])
    node.generate(1)
    commit = payment(ALICE, output(deposit), 1000)
    node.submit([commit])
    node.reorganise(1)
    assert waiting(node, deposit)
    node.generate(1)
    node.submit([commit])


# Packages -----------------------------------------------------------------------------------------------------------


def pair(node: Node, parent_fee: int, child_fee: int, version: int = 3, place: int = 0) -> tuple[bytes, bytes]:
    """A parent with an anchor and the child that raises it."""
    coins = purse(node)
    parent = payment(ALICE, coins[place], parent_fee, ANCHOR, version=version)
    return parent, raising(ALICE, output(parent, 1)[0], coins[place + 1], child_fee, version)


@pytest.mark.parametrize("version", [2, 3])
def test_a_child_pays_for_a_parent_that_pays_nothing(node: Node, version: int) -> None:
    parent, child = pair(node, 0, 1000, version)
    assert refusal(node, parent) == f"min relay fee not met, 0 < {vsize_of(parent)}"
    assert refusal(node, child) == "bad-txns-inputs-missingorspent"
    verdict = package(node, parent, child)
    assert (verdict.message, verdict.errors, verdict.replaced) == (SUCCESS, {}, [])
    assert waiting(node, parent, child)
    node.generate(1)
    assert node.index.find(txid_of(child)) is not None


def test_a_package_that_pays_too_little_is_refused_whole(node: Node) -> None:
    parent, child = pair(node, 0, 0)
    size = vsize_of(parent) + vsize_of(child)
    child = raising(ALICE, output(parent, 1)[0], purse(node)[1], size - 1)
    size = vsize_of(parent) + vsize_of(child)
    child = raising(ALICE, output(parent, 1)[0], purse(node)[1], size - 5)
    verdict = package(node, parent, child)
    assert verdict.message == FAILED
    assert verdict.errors[txid_of(parent)].startswith("min relay fee not met, 0 <")
    assert verdict.errors[txid_of(child)].startswith(f"min relay fee not met, {size - 5} <")
    assert not node.mempool.entries
    child = raising(ALICE, output(parent, 1)[0], purse(node)[1], size + 1)
    assert package(node, parent, child).message == SUCCESS


def test_a_parent_whose_fault_is_not_its_fee_takes_its_child_with_it(node: Node) -> None:
    coins = purse(node)
    parent = payment(ALICE, coins[0], 0, ANCHOR, (100, BOB_SCRIPT))
    verdict = package(node, parent, raising(ALICE, output(parent, 1)[0], coins[1], 5000))
    assert verdict.message == FAILED
    assert [verdict.errors[txid] for txid in verdict.errors] == ["dust", "bad-txns-inputs-missingorspent"]
    assert not node.mempool.entries


def test_a_child_that_breaks_a_rule_leaves_no_parent_behind(node: Node) -> None:
    coins = purse(node)
    parent = payment(ALICE, coins[0], 0, ANCHOR)
    for child, reason in (
        (raising(ALICE, output(parent, 1)[0], coins[1], 5000, version=2), "TRUC-violation"),
        (raising(ALICE, output(parent, 1)[0], coins[1], 9000, outputs=28), "TRUC-violation"),
        (raising(BOB, output(parent, 1)[0], coins[1], 5000), "mandatory-script-verify-flag-failed"),
    ):
        verdict = package(node, parent, child)
        assert verdict.message == FAILED
        assert verdict.errors[txid_of(child)].startswith(reason)
        assert not node.mempool.entries


def test_what_is_no_parent_and_child_is_refused(node: Node) -> None:
    coins = purse(node)
    parent, child = pair(node, 0, 1000)
    stranger = payment(ALICE, coins[2], 1000)
    for raws in ((), (child, parent), (parent, stranger), (parent, child, stranger)):
        with pytest.raises(Refused):
            package(node, *raws)
    double = raising(ALICE, output(parent, 1)[0], coins[0], 1000)
    assert package(node, parent, double).message == "conflict-in-package"
    assert not node.mempool.entries


def test_a_package_of_one_and_one_that_is_here_already(node: Node) -> None:
    parent, child = pair(node, 1000, 1000)
    assert package(node, parent).message == SUCCESS
    verdict = package(node, parent, child)
    assert verdict.message == SUCCESS
    assert set(verdict.known) == {txid_of(parent)}
    assert set(verdict.taken) == {txid_of(child)}
    assert package(node, parent, child).taken == {}
    low = payment(ALICE, purse(node)[2], 0)
    assert package(node, low).message == FAILED


def test_a_package_replaces_another_that_pays_less(node: Node) -> None:
    coins = purse(node)
    first, child = pair(node, 0, 1000)
    package(node, first, child)
    other = payment(ALICE, coins[0], 0, ANCHOR, (5000, BOB_SCRIPT))
    anchor = output(other, 1)[0]
    for fee in (900, 1000, 1300):
        verdict = package(node, other, raising(ALICE, anchor, coins[2], fee))
        assert verdict.message.startswith("package RBF failed: insufficient anti-DoS fees")
        assert waiting(node, first, child)
    verdict = package(node, other, better := raising(ALICE, anchor, coins[2], 1600))
    assert verdict.message == SUCCESS
    assert [entry.item.txid for entry in verdict.replaced] == [txid_of(first), txid_of(child)]
    assert waiting(node, other, better)


def test_a_package_that_replaces_hangs_on_nothing_that_waits(node: Node) -> None:
    coins = purse(node)
    top = payment(ALICE, coins[0], 1000, version=2)
    rival = payment(ALICE, coins[1], 1000, version=2)
    node.submit([top, rival])
    parent = payment(ALICE, output(top), 0, ANCHOR, version=2)
    child = raising(ALICE, output(parent, 1)[0], coins[1], 50_000, version=2)
    verdict = package(node, parent, child)
    assert verdict.message == "package RBF failed: new transaction cannot have mempool ancestors"
    assert waiting(node, top, rival)


# Replacement, rule by rule ------------------------------------------------------------------------------------------


def entry(number: int, fee: int, vsize: int = 200, *parents: int) -> Entry:
    """A made-up entry."""
    item = Tx(CTransaction(), b"", number.to_bytes(32, "big"))
    return Entry(item, fee, vsize, frozenset(parent.to_bytes(32, "big") for parent in parents))


OLD = entry(1, 1000)


@pytest.mark.parametrize(
    ("new", "gone", "why"),
    [
        (entry(9, 999, 100), [OLD], "less fees than conflicting txs; 999 < 1000"),
        (entry(9, 1199, 200), [OLD], "not enough additional fees to relay; 199 < 200"),
        (entry(9, 2000, 400), [OLD], "new feerate is not higher"),
        (entry(9, 5000, 200, 1), [OLD], "spends conflicting transaction"),
        (entry(9, 5000, 200, 2), [OLD, entry(2, 1, 100, 1)], "spends conflicting transaction"),
        (entry(9, 5000, 200, 5), [OLD], "adds unconfirmed input"),
        (entry(9, 10_000_000), [OLD, *(entry(n, 1, 100, 1) for n in range(10, 110))], "too many potential"),
        (entry(9, 12_000, 1500), [OLD, entry(2, 9000, 200, 1)], "does not improve feerate diagram"),
    ],
)
def test_each_rule_of_replacement(new: Entry, gone: list[Entry], why: str) -> None:
    with pytest.raises(Refused, match=why):
        check_replacement(new, [OLD], gone)


@pytest.mark.parametrize(
    ("new", "gone"),
    [
        (entry(9, 1200, 200), [OLD]),
        (entry(9, 2001, 400), [OLD]),
        (entry(9, 10_000_000), [OLD, *(entry(n, 1, 100, 1) for n in range(10, 9 + MAX_REPLACED))]),
        (entry(9, 12_000, 470), [OLD, entry(2, 9000, 200, 1)]),
    ],
)
def test_what_just_fulfils_a_rule_of_replacement(new: Entry, gone: list[Entry]) -> None:
    check_replacement(new, [OLD], gone)


def test_a_replacement_may_spend_what_the_old_one_spent() -> None:
    check_replacement(entry(9, 5000, 200, 5), [entry(1, 1000, 200, 5)], [entry(1, 1000, 200, 5)])


@pytest.mark.parametrize(
    ("parent", "child", "why"),
    [
        (entry(8, 0, 200, 5), entry(9, 5000, 200, 8), "cannot have mempool ancestors"),
        (entry(8, 0), entry(9, 5000, 200, 8, 5), "cannot have mempool ancestors"),
        (entry(8, 3000, 200), entry(9, 3000, 200, 8), "less than or equal to parent feerate"),
        (entry(8, 0, 200), entry(9, 999, 200, 8), "less fees than conflicting"),
        (entry(8, 0, 200), entry(9, 1399, 200, 8), "not enough additional fees"),
        (entry(8, 0, 300), entry(9, 3000, 300, 8), "does not improve feerate diagram"),
    ],
)
def test_each_rule_of_a_package_that_replaces(parent: Entry, child: Entry, why: str) -> None:
    with pytest.raises(Refused, match=why):
        check_package_replacement(parent, child, [OLD])


@st.composite
def clusters(draw: st.DrawFn) -> list[Entry]:
    """Some entries that hang together, parents before children; rates from none to high."""
    made: list[Entry] = []
    for number in range(1, draw(st.integers(1, 7)) + 1):
        parents = draw(st.sets(st.sampled_from(range(1, number)), max_size=2)) if number > 1 else set()
        made.append(entry(number, draw(st.integers(0, 900)), draw(st.integers(60, 300)), *parents))
    return made


def parts(entries: Sequence[Entry]) -> Iterator[tuple[Entry, ...]]:
    """All sets of entries that are mined together without another: with each its parents."""
    for size in range(1, len(entries) + 1):
        for chosen in combinations(entries, size):
            inside = {one.item.txid for one in chosen}
            if all(one.parents <= inside for one in chosen):
                yield chosen


@given(clusters(), st.integers(1, 10_000), st.integers(60, 3000))
def test_no_replacement_pays_less_than_the_best_part_of_what_goes(gone: list[Entry], fee: int, vsize: int) -> None:
    new = entry(99, fee, vsize)
    try:
        check_replacement(new, gone[:1], gone)
    except FeeTooLow:
        return
    assert rate([new]) > max(map(rate, parts(gone)))
    assert fee >= totals(gone)[0] + vsize


# What a block holds -------------------------------------------------------------------------------------------------


def numbers(chosen: Sequence[Entry]) -> list[int]:
    return [int.from_bytes(one.item.txid, "big") for one in chosen]


def listed(*entries: Entry) -> dict[bytes, Entry]:
    return {one.item.txid: one for one in entries}


def test_a_block_takes_what_pays_best() -> None:
    rich, poor, middling = entry(1, 2000), entry(2, 400), entry(3, 1000)
    assert numbers(choose(listed(poor, rich, middling), 400, Fraction(1))) == [1, 3]
    assert numbers(choose(listed(poor, rich, middling), 10**6, Fraction(1))) == [2, 1, 3]
    assert numbers(choose(listed(poor, rich, middling), 10**6, Fraction(5))) == [1, 3]
    assert numbers(choose(listed(poor, rich, middling), 10**6, Fraction(501, 100))) == [1]


def test_a_child_lifts_its_parents_into_a_block() -> None:
    parent, child = entry(1, 0), entry(2, 4000, 200, 1)
    assert numbers(choose(listed(parent, child), 10**6, Fraction(10))) == [1, 2]
    assert numbers(choose(listed(parent, child), 10**6, Fraction(11))) == []
    assert numbers(choose(listed(parent, child, entry(3, 1000)), 200, Fraction(1))) == [3]
    assert numbers(choose(listed(parent), 10**6, Fraction(1))) == []


def test_a_poor_child_of_a_rich_parent_waits() -> None:
    parent, child = entry(1, 4000), entry(2, 400, 200, 1)
    assert numbers(choose(listed(parent, child), 10**6, Fraction(3))) == [1]


@given(clusters(), st.integers(0, 2000), st.fractions(0, 12))
def test_a_block_fits_and_holds_no_child_without_its_parents(cluster: list[Entry], room: int, least: Fraction) -> None:
    chosen = choose(listed(*cluster), room, least)
    inside = {one.item.txid for one in chosen}
    assert all(one.parents <= inside for one in chosen)
    assert totals(chosen)[1] <= room
    assert numbers(chosen) == sorted(numbers(chosen))
    left = [one for one in cluster if one.item.txid not in inside]
    if room >= totals(cluster)[1]:  # then what is left out pays too little
        assert all(rate([one]) < least for one in left if one.parents <= inside)


# Chains and the minimum ---------------------------------------------------------------------------------------------


def test_a_transaction_has_so_many_below_it_at_most(node: Node) -> None:
    fan = payment(ALICE, purse(node)[0], 20_000, *[(10_000, ALICE_SCRIPT)] * MAX_CHAIN, version=2)
    node.submit([fan])
    for number in range(1, MAX_CHAIN):
        node.submit([payment(ALICE, output(fan, number), 1000, version=2)])
    last = payment(ALICE, output(fan, MAX_CHAIN), 1000, version=2)
    assert refusal(node, last).startswith("too-long-mempool-chain, too many unconfirmed descendants")
    node.generate(1)
    node.submit([last])


def test_a_chain_has_a_hundred_thousand_vb_at_most(node: Node) -> None:
    wide = payment(ALICE, purse(node)[0], 200_000, *[(1000, ALICE_SCRIPT)] * 1800, version=2)
    node.submit([wide])
    wider = payment(ALICE, output(wide), 200_000, *[(1000, ALICE_SCRIPT)] * 1200, version=2)
    assert refusal(node, wider).startswith("too-long-mempool-chain, exceeds size limit")


def test_a_rising_minimum_throws_out_what_pays_less(node: Node) -> None:
    coins = purse(node)
    low, high = (payment(ALICE, coin, fee) for coin, fee in ((coins[0], 500), (coins[1], 5000)))
    parent = payment(ALICE, coins[2], 0, ANCHOR)
    child = raising(ALICE, output(parent, 1)[0], coins[3], 3000)
    node.submit([low, high])
    package(node, parent, child)
    sequence = node.mempool.sequence
    assert node.set_minimum(5000) == [txid_of(low)]
    assert waiting(node, high, parent, child)
    assert node.mempool.sequence == sequence + 1
    assert refusal(node, low) == f"mempool min fee not met, 500 < {5 * vsize_of(low)}"
    assert set(node.set_minimum(12_000)) == {txid_of(parent), txid_of(child)}
    assert waiting(node, high)
    assert package(node, parent, child).message == FAILED
    assert node.set_minimum(0) == []
    node.submit([low])
    assert package(node, parent, child).message == SUCCESS


def test_the_faucet_pays_what_is_asked_for(node: Node) -> None:
    node.fee_rate = 30_000
    node.set_minimum(10_000)
    (txid,) = node.faucet(BOB_SCRIPT, BTC, "XCP", 0)
    assert rate([node.mempool.entries[txid]]) >= 30
    node.generate(1)
    assert node.index.find(txid) is not None


def test_a_parent_that_paid_nothing_stays_through_blocks_and_restarts(tmp_path: Path) -> None:
    with open_node(tmp_path, 0) as node:
        for _ in range(3):
            node.faucet(ALICE_SCRIPT, BTC, "XCP", 0)
        node.generate(1)
        parent, child = pair(node, 0, 1500)
        package(node, parent, child)
        node.fee_rate = 50_000
        node.generate(2)
        assert waiting(node, parent, child)
    with open_node(tmp_path, 0) as node:
        assert waiting(node, parent, child)
        node.generate(1)
        assert node.index.find(txid_of(parent)) is not None
        node.reorganise(1)
        assert waiting(node, parent, child)


def test_where_blocks_come_at_once_what_pays_below_the_estimate_waits(tmp_path: Path) -> None:
    with open_node(tmp_path) as node:
        node.faucet(ALICE_SCRIPT, BTC, "XCP", 0)
        node.fee_rate = 20_000
        raw = payment(ALICE, purse(node)[0], 1000)
        height = node.index.height
        node.submit([raw])
        assert (node.index.height, waiting(node, raw)) == (height, True)
        node.fee_rate = None
        node.submit([raw])
        assert node.index.find(txid_of(raw)) is not None


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

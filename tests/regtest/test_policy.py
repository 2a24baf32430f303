"""What the regtest node takes for relayed: each rule of version 3, packages, replacement and blocks broken exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from bitcoin.core import COutPoint, CTransaction, CTxIn, CTxInWitness, CTxOut, CTxWitness
from bitcoin.core.script import CScript, CScriptWitness
from hypothesis import given
from hypothesis import strategies as st
from policy_support import (
    ALICE,
    ALICE_SCRIPT,
    BOB,
    BOB_SCRIPT,
    output,
    package,
    purse,
    refusal,
    rich_node,
    sized,
    waiting,
)
from regtest_support import BTC, Spend, open_node
from taproot_support import (
    ANCHOR,
    Coin,
    payment,
    raising,
    sign_first,
    txid_of,
    unsigned,
    vsize_of,
)

from picopayments_cli.channel.values import hash160
from picopayments_cli.regtest.graph import Entry, rate, totals
from picopayments_cli.regtest.index import Output, Tx
from picopayments_cli.regtest.mempool import MAX_CHAIN, MAX_CLUSTER
from picopayments_cli.regtest.node import Node
from picopayments_cli.regtest.packages import FAILED, SUCCESS
from picopayments_cli.regtest.policy import FeeTooLow, Refused, check_inputs
from picopayments_cli.regtest.replacement import MAX_REPLACED, check_package_replacement, check_replacement
from picopayments_cli.regtest.sigops import cost
from picopayments_cli.regtest.template import choose


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node that mines on demand, with ten coins of a bitcoin each of Alice's."""
    with rich_node(tmp_path / "node") as opened:
        yield opened


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
    missing = "bad-txns-inputs-missingorspent"  # what a child has alone whose parent is not here
    for child, message, reason in (
        (raising(ALICE, output(parent, 1)[0], coins[1], 5000, version=2), "TRUC-violation", missing),
        (raising(ALICE, output(parent, 1)[0], coins[1], 9000, outputs=28), "TRUC-violation", missing),
        (raising(BOB, output(parent, 1)[0], coins[1], 5000), FAILED, "mandatory-script-verify-flag-failed"),
    ):
        verdict = package(node, parent, child)
        assert verdict.message.startswith(message)
        assert verdict.errors[txid_of(parent)].startswith("min relay fee not met")
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


def checking(number: int, fee: int, sigops: int) -> Entry:
    return replace(entry(number, fee), sigops=sigops)


def test_a_block_holds_so_many_signature_checks_at_most_and_the_others_wait() -> None:
    many, more, few = checking(1, 3000, 60_000), checking(2, 2000, 19_601), checking(3, 1000, 19_600)
    assert numbers(choose(listed(many, more, few), 10**6, Fraction(1))) == [1, 3]
    assert numbers(choose(listed(more), 10**6, Fraction(1))) == [2]


MULTISIG, KEYS_3 = b"\xae", b"\x53\xae"  # of how many keys nobody knows; of three


@pytest.mark.parametrize(
    ("script", "script_sig", "witness", "costs"),
    [
        (ALICE_SCRIPT, b"", [], 0),
        (b"\xa9\x14" + bytes(20) + b"\x87", b"\x02" + KEYS_3, [], 4 * 3),
        (b"\xa9\x14" + bytes(20) + b"\x87", b"\x01" + MULTISIG, [], 4 * 20),
        (b"\xa9\x14" + bytes(20) + b"\x87", b"\x16\0\x14" + bytes(20), [b"", b""], 1),
        (b"\0\x14" + bytes(20), b"", [b"", b""], 1),
        (b"\0\x20" + bytes(32), b"", [b"", KEYS_3], 3),
        (b"\x51\x20" + bytes(32), b"", [KEYS_3, b"\xc0"], 0),
        (b"\x51\x20" + bytes(32), MULTISIG, [], 4 * 20),
    ],
)
def test_what_a_transaction_takes_of_a_blocks_signature_checks(
    script: bytes, script_sig: bytes, witness: list[bytes], costs: int
) -> None:
    outputs = [CTxOut(1, CScript(ALICE_SCRIPT)), CTxOut(1, CScript(KEYS_3)), CTxOut(0, CScript(b"\xac\x4c"))]
    inside = CTxWitness([CTxInWitness(CScriptWitness(witness))])
    tx = CTransaction([CTxIn(COutPoint(bytes(32), 0), CScript(script_sig))], outputs, witness=inside)
    assert cost(tx, [Output(1, script, None, coinbase=False)]) == costs + 4 * (1 + 20 + 1)


def test_a_transaction_of_too_many_signature_checks_is_not_relayed() -> None:
    redeem = b"\xac" * 15
    spent = Output(1000, b"\xa9\x14" + hash160(redeem) + b"\x87", 1)
    for number, taken in ((266, True), (267, False)):
        inputs = [CTxIn(COutPoint(bytes(32), place), CScript([redeem])) for place in range(number)]
        tx = CTransaction(inputs, [CTxOut(1, CScript(b"\x51\x20" + bytes(32)))])
        with nullcontext() if taken else pytest.raises(Refused, match="bad-txns-too-many-sigops"):
            check_inputs(tx, [spent] * number, 10)


def test_transactions_of_very_many_outputs_stop_no_block(node: Node) -> None:
    outputs = [(1000, ALICE_SCRIPT)] * 2880
    node.submit([payment(ALICE, coin, 100_000, *outputs, version=2) for coin in purse(node)[:8]])
    node.generate(1)
    assert len(node.mempool.entries) == 2
    node.generate(1)
    assert not node.mempool.entries


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


def test_so_many_transactions_hang_together_at_most(node: Node) -> None:
    """Three fans of 21 transactions, short enough each, and what joins them."""
    fans = []
    for coin in purse(node)[:3]:
        fan = payment(ALICE, coin, 20_000, *[(10_000, ALICE_SCRIPT)] * 20, version=2)
        ribs = [payment(ALICE, output(fan, number), 1000, version=2) for number in range(1, 21)]
        node.submit([fan, *ribs])
        fans.append(ribs)
    joints = [joined(output(one[0]), output(other[1])) for one, other in pairwise(fans)]
    node.submit(joints[:1])
    assert len(node.mempool.entries) == MAX_CLUSTER
    assert refusal(node, joints[1]) == "too-large-cluster"
    node.generate(1)
    node.submit(joints[1:])


def joined(*coins: Coin) -> bytes:
    spend = Spend(ALICE, [outpoint for outpoint, _ in coins], [(sum(value for _, value in coins) - 1000, ALICE_SCRIPT)])
    return spend.signed()


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

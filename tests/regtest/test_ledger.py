"""The regtest ledger: what a transaction means to Counterparty, tried on the chain itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from bitcoin.core.script import (
    OP_CHECKSIG,
    OP_EQUAL,
    OP_EQUALVERIFY,
    OP_HASH160,
    SIGHASH_ALL,
    SIGHASH_ANYONECANPAY,
    SIGHASH_NONE,
    SIGHASH_SINGLE,
    CScript,
)
from hypothesis import given
from hypothesis import strategies as st
from regtest_support import (
    BTC,
    REGTEST,
    XCP,
    Spend,
    coins_of,
    key_of,
    only_coin,
    open_node,
    pack_enhanced_send,
    script_of_key,
    script_sigs,
    send_outputs,
    with_script_sigs,
)

from picopayments_cli.channel.counterparty import (
    XCP_ID,
    Issuance,
    asset_id,
    compact_longname,
    data_script,
    p2sh,
    pack_issuance,
    pack_send,
)
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import script_of_address
from picopayments_cli.channel.values import MAX_QUANTITY, hash160
from picopayments_cli.regtest.ledger import BURN_END, BURN_START, ISSUANCE_FEE, AssetRow, burn_reward
from picopayments_cli.regtest.node import Node

ALICE, BOB, CAROL = key_of("Alice"), key_of("Bob"), key_of("Carol")
ALICE_SCRIPT, BOB_SCRIPT, CAROL_SCRIPT = map(script_of_key, (ALICE, BOB, CAROL))
BURN_SCRIPT = script_of_address(REGTEST, REGTEST.burn_address)
SECRET_LIKE_SIGNATURE = bytes((0x30, 0x1D, 0x02, 0x0C, *b"R" * 12, 0x02, 0x0D, *b"S" * 13, 0x02))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node that mines at once, on which Alice has 100 XCP and a bitcoin."""
    with open_node(tmp_path / "node") as opened:
        opened.faucet(ALICE_SCRIPT, BTC, "XCP", 100 * XCP)
        yield opened


def held(node: Node) -> list[int | None]:
    """XCP of Alice, Bob and Carol; None: no row."""
    return [node.ledger.balances(script).get("XCP") for script in (ALICE_SCRIPT, BOB_SCRIPT, CAROL_SCRIPT)]


def data(node: Node, message: bytes) -> tuple[int, bytes]:
    """The output that carries a message in a spend of Alice's one coin."""
    return 0, data_script(message, only_coin(node, ALICE_SCRIPT)[0].txid)


def spend_of(node: Node, outputs: Sequence[tuple[int, bytes]]) -> Spend:
    return Spend(ALICE, [only_coin(node, ALICE_SCRIPT)[0]], outputs)


def mine(node: Node, outputs: Sequence[tuple[int, bytes]]) -> None:
    """Alice spends her one coin for these outputs."""
    node.submit([spend_of(node, outputs).signed()])


# Burns --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("satoshis", "height", "earned"),
    [
        (100_000_000, 101, 150_000_000_000),
        (100_000_000, 102, 149_999_999_667),
        (100_000_000, 200, 149_999_967_000),
        (50_000_000, 1000, 74_999_850_167),
        (1, 200, 1500),
    ],
)
def test_a_burn_earns_what_counterparty_gives(satoshis: int, height: int, earned: int) -> None:
    assert burn_reward(satoshis, height) == earned


@given(st.integers(0, BTC), st.integers(BURN_START, BURN_END))
def test_a_burns_reward_is_never_off_by_more_than_half_a_unit(satoshis: int, height: int) -> None:
    exact = satoshis * (1000 + Fraction(500 * (BURN_END - height), BURN_END - BURN_START))
    assert abs(burn_reward(satoshis, height) - exact) <= Fraction(1, 2)


def test_an_address_earns_for_one_bitcoin_in_all(node: Node) -> None:
    node.faucet(BOB_SCRIPT, 3 * BTC, "XCP", 0)
    supply = node.ledger.assets()["XCP"].supply
    (coin, value) = only_coin(node, BOB_SCRIPT)
    spends = ((60_000_000, 60_000_000), (60_000_000, 40_000_000), (60_000_000, 0))
    total = 0
    for burned, counted in spends:
        value -= burned + 1000
        node.submit([Spend(BOB, [coin], [(burned, BURN_SCRIPT), (value, BOB_SCRIPT)]).signed()])
        total += burn_reward(counted, node.index.height)
        assert node.ledger.balances(BOB_SCRIPT) == {"XCP": total}
        (coin, value) = only_coin(node, BOB_SCRIPT)
    assert node.ledger.assets()["XCP"].supply == supply + total
    node.reorganise(3)
    assert node.ledger.balances(BOB_SCRIPT) == {}
    assert node.ledger.assets()["XCP"].supply == supply
    node.generate(1)  # all three in one block now
    earned = burn_reward(60_000_000, node.index.height) + burn_reward(40_000_000, node.index.height)
    assert node.ledger.balances(BOB_SCRIPT) == {"XCP": earned}


def test_only_the_first_output_burns(node: Node) -> None:
    mine(node, [(10_000, BOB_SCRIPT), (10_000, BURN_SCRIPT), (BTC - 30_000, ALICE_SCRIPT)])
    assert held(node) == [100 * XCP, None, None]


def test_what_goes_to_the_burn_address_is_a_burn_and_never_a_send(node: Node) -> None:
    outputs = [(10_000, BURN_SCRIPT), data(node, pack_send(XCP_ID, XCP)), (BTC - 20_000, ALICE_SCRIPT)]
    mine(node, outputs)
    assert held(node)[0] == 100 * XCP + burn_reward(10_000, node.index.height)


# Classic sends ------------------------------------------------------------------------------------------------------


def classic(node: Node, quantity: int, asset_id: int = XCP_ID) -> list[tuple[int, bytes]]:
    coin, value = only_coin(node, ALICE_SCRIPT)
    return send_outputs(coin, asset_id, quantity, BOB_SCRIPT, (value - 2000, ALICE_SCRIPT))


@pytest.mark.parametrize(
    ("quantity", "moved"), [(1, 1), (7 * XCP, 7 * XCP), (0, 0), (101 * XCP, 100 * XCP), (2**64 - 1, 100 * XCP)]
)
def test_a_classic_send_moves_what_is_there_at_most(node: Node, quantity: int, moved: int) -> None:
    mine(node, classic(node, quantity))
    assert held(node) == [100 * XCP - moved, moved, None]


def test_an_emptied_balance_sends_nothing_and_one_that_never_was_sends_nothing(node: Node) -> None:
    mine(node, classic(node, 100 * XCP))
    mine(node, classic(node, XCP))
    assert held(node) == [0, 100 * XCP, None]
    node.faucet(CAROL_SCRIPT, BTC, "XCP", 0)
    coin, value = only_coin(node, CAROL_SCRIPT)
    outputs = send_outputs(coin, XCP_ID, XCP, BOB_SCRIPT, (value - 2000, CAROL_SCRIPT))
    node.submit([Spend(CAROL, [coin], outputs).signed()])
    assert held(node) == [0, 100 * XCP, None]


@pytest.mark.parametrize("asset_id", [0, 2, 17576, 95428956661682177, MAX_QUANTITY])
def test_an_asset_that_nobody_issued_is_not_sent(node: Node, asset_id: int) -> None:
    mine(node, classic(node, XCP, asset_id))
    assert held(node) == [100 * XCP, None, None]


def test_two_sends_in_one_block_share_what_is_there(node: Node) -> None:
    node.block_time = 0
    mine(node, [(BTC // 2, ALICE_SCRIPT), (BTC // 2 - 1000, ALICE_SCRIPT)])
    node.generate(1)
    for (coin, value), receiver in zip(coins_of(node, ALICE_SCRIPT), (BOB_SCRIPT, CAROL_SCRIPT), strict=True):
        outputs = send_outputs(coin, XCP_ID, 60 * XCP, receiver, (value - 2000, ALICE_SCRIPT))
        node.submit([Spend(ALICE, [coin], outputs).signed()])
    node.generate(1)
    assert held(node) == [0, 60 * XCP, 40 * XCP]


def test_the_first_input_alone_is_the_source(node: Node) -> None:
    node.faucet(BOB_SCRIPT, BTC, "XCP", 100 * XCP)
    (alices, value), (bobs, more) = only_coin(node, ALICE_SCRIPT), only_coin(node, BOB_SCRIPT)
    outputs = send_outputs(alices, XCP_ID, XCP, CAROL_SCRIPT, (value + more - 2000, ALICE_SCRIPT))
    signed = [Spend(key, [alices, bobs], outputs).signed() for key in (ALICE, BOB)]
    (first, _), (_, second) = map(script_sigs, signed)
    node.submit([with_script_sigs(signed[0], [first, second])])
    assert held(node) == [99 * XCP, 100 * XCP, XCP]


# The order of outputs -----------------------------------------------------------------------------------------------


def test_the_data_follows_exactly_one_destination(node: Node) -> None:
    change = (BTC - 20_000, ALICE_SCRIPT)
    message = data(node, pack_send(XCP_ID, XCP))
    mine(node, [message, (600, BOB_SCRIPT), change])  # none before: no destination
    assert held(node) == [100 * XCP, None, None]


def test_two_outputs_before_the_data_void_the_message(node: Node) -> None:
    mine(node, [(600, BOB_SCRIPT), (600, CAROL_SCRIPT), data(node, pack_send(XCP_ID, XCP)), (BTC - 9000, ALICE_SCRIPT)])
    assert held(node) == [100 * XCP, None, None]
    assert only_coin(node, BOB_SCRIPT)[1] == 600  # the coins moved all the same


def test_what_stands_behind_the_change_is_not_looked_at(node: Node) -> None:
    message = data(node, pack_send(XCP_ID, XCP))
    pubkey_output = bytes(CScript([CAROL.pubkey, OP_CHECKSIG]))
    mine(node, [(600, BOB_SCRIPT), message, (BTC - 90_000, ALICE_SCRIPT), (600, CAROL_SCRIPT), (600, pubkey_output)])
    assert held(node) == [99 * XCP, XCP, None]


def test_a_second_message_or_a_strange_output_before_the_change_voids_all(node: Node) -> None:
    for strange in ((0, b"\x6a\x04abcd"), (600, bytes(CScript([CAROL.pubkey, OP_CHECKSIG])))):
        coin, value = only_coin(node, ALICE_SCRIPT)
        message = (0, data_script(pack_send(XCP_ID, XCP), coin.txid))
        mine(node, [(600, BOB_SCRIPT), message, strange, (value - 9000, ALICE_SCRIPT)])
        assert held(node) == [100 * XCP, None, None]


def test_data_encrypted_for_another_input_is_nothing(node: Node) -> None:
    mine(node, [(600, BOB_SCRIPT), (0, data_script(pack_send(XCP_ID, XCP), bytes(32))), (BTC - 9000, ALICE_SCRIPT)])
    assert held(node) == [100 * XCP, None, None]


# Enhanced sends -----------------------------------------------------------------------------------------------------


def legacy_layout(quantity: int) -> bytes:
    """The message as older versions pack it: to Bob, with a memo."""
    body = XCP_ID.to_bytes(8, "big") + quantity.to_bytes(8, "big") + b"\x6f" + BOB_SCRIPT[3:23] + b"memo"
    return b"\x02" + body


@pytest.mark.parametrize(
    ("message", "moved"),
    [
        (pack_enhanced_send(XCP_ID, XCP, BOB_SCRIPT), XCP),
        (pack_enhanced_send(XCP_ID, 100 * XCP, BOB_SCRIPT, b"hub:42"), 100 * XCP),
        (legacy_layout(3 * XCP), 3 * XCP),
        (pack_enhanced_send(XCP_ID, 100 * XCP + 1, BOB_SCRIPT), None),  # more than there is
        (pack_enhanced_send(XCP_ID, 0, BOB_SCRIPT), None),
        (pack_enhanced_send(XCP_ID, XCP, BOB_SCRIPT, b"m" * 35), None),
    ],
)
def test_an_enhanced_send_moves_all_or_nothing(node: Node, message: bytes, moved: int | None) -> None:
    mine(node, [data(node, message), (BTC - 9000, ALICE_SCRIPT)])
    assert held(node) == [100 * XCP - (moved or 0), moved, None]


def test_an_enhanced_send_to_a_script_hash_arrives_there(node: Node) -> None:
    script = p2sh(b"\x22" * 20)
    mine(node, [data(node, pack_enhanced_send(XCP_ID, XCP, script)), (BTC - 9000, ALICE_SCRIPT)])
    assert node.ledger.balances(script) == {"XCP": XCP}


# Issuances ----------------------------------------------------------------------------------------------------------

TEST = asset_id("TEST")
NUMERIC, CHILD = 26**12 + 1, 95428959371716303


def issue(node: Node, issuance: Issuance | bytes, key: Key = ALICE, to: bytes | None = None) -> None:
    """Spend the key's one coin for an issuance, or what is given as its message; ``to`` gets the right to it."""
    script = script_of_key(key)
    coin, value = only_coin(node, script)
    message = issuance if isinstance(issuance, bytes) else pack_issuance(issuance)
    outputs = [(0, data_script(message, coin.txid)), (value - 5000, script)]
    node.submit([Spend(key, [coin], [*([(546, to)] if to else []), *outputs]).signed()])


def row_of(node: Node, name: str = "TEST") -> AssetRow:
    row = node.ledger.asset(name)
    assert row is not None
    return row


def test_a_named_asset_costs_half_an_xcp_and_goes_to_its_issuer(node: Node) -> None:
    supply = row_of(node, "XCP").supply
    issue(node, Issuance(TEST, 700, description="a test"))
    height = node.index.height
    assert node.ledger.balances(ALICE_SCRIPT) == {"XCP": 100 * XCP - ISSUANCE_FEE, "TEST": 700}
    assert row_of(node, "XCP").supply == supply - ISSUANCE_FEE
    row = row_of(node, "test")
    assert (row.name, row.number, row.longname, row.supply, row.description) == ("TEST", TEST, None, 700, "a test")
    assert (row.owner, row.issuer, row.divisible, row.locked) == (ALICE_SCRIPT, ALICE_SCRIPT, True, False)
    assert (row.issued_at, row.changed_at) == (height, height)
    mine(node, classic(node, 300, TEST))
    assert node.ledger.balances(BOB_SCRIPT) == {"TEST": 300}
    node.reorganise(2)
    assert node.ledger.asset("TEST") is None
    assert node.ledger.balances(ALICE_SCRIPT) == {"XCP": 100 * XCP}
    assert row_of(node, "XCP").supply == supply
    node.generate(1)
    assert (node.ledger.balances(ALICE_SCRIPT)["TEST"], node.ledger.balances(BOB_SCRIPT)["TEST"]) == (400, 300)


def test_a_name_that_can_t_be_paid_for_is_not_issued_and_a_numeric_one_is_free(node: Node) -> None:
    node.faucet(BOB_SCRIPT, BTC, "XCP", ISSUANCE_FEE - 1)
    issue(node, Issuance(TEST, 700), BOB)
    assert node.ledger.asset("TEST") is None
    issue(node, Issuance(NUMERIC, 700, divisible=False), BOB)
    assert node.ledger.balances(BOB_SCRIPT) == {"XCP": ISSUANCE_FEE - 1, f"A{NUMERIC}": 700}
    assert not row_of(node, f"A{NUMERIC}").divisible


OLDER = TEST.to_bytes(8, "big") + (700).to_bytes(8, "big") + bytes((1, 0, 0))


@pytest.mark.parametrize("head", [b"\x14", b"\x16", b"\0\0\0\x14", b"\0\0\0\x16"])
def test_the_older_layout_issues_too(node: Node, head: bytes) -> None:
    issue(node, head + OLDER + b"older")
    assert (row_of(node).supply, row_of(node).description) == (700, "older")
    issue(node, head + OLDER[:-1] + b"\0" + b"\xc0NULL")
    assert (row_of(node).supply, row_of(node).description) == (1400, "older")


def test_a_subasset_belongs_to_its_parents_owner(node: Node) -> None:
    child = Issuance(CHILD, 5, longname="TEST.child")
    issue(node, child)  # the parent is not there
    issue(node, Issuance(TEST, 0))
    node.faucet(BOB_SCRIPT, BTC, "XCP", 100 * XCP)
    issue(node, child, BOB)
    issue(node, replace(child, longname="TEST..child"))
    issue(node, replace(child, longname="TEST"))
    issue(node, replace(child, asset_id=asset_id("CHILD")))
    assert [name for name in node.ledger.assets() if name not in ("XCP", "TEST")] == []
    compacted = compact_longname("TEST.child")
    older = CHILD.to_bytes(8, "big") + (5).to_bytes(8, "big") + bytes((0, 0, 0, len(compacted)))
    issue(node, b"\x15" + older + compacted + b"a child")
    row = row_of(node, "test.CHILD")
    assert (row.name, row.longname, row.supply, row.description) == (f"A{CHILD}", "TEST.child", 5, "a child")
    assert not row.divisible
    assert node.ledger.balances(ALICE_SCRIPT)[f"A{CHILD}"] == 5
    issue(node, replace(child, asset_id=CHILD + 1))  # the longname is taken
    assert node.ledger.asset(f"A{CHILD + 1}") is None
    issue(node, replace(child, longname="TEST.other", asset_id=CHILD + 1))
    issue(node, Issuance(CHILD, 6, divisible=False))
    assert row_of(node, "TEST.child").supply == 11
    assert row_of(node, "TEST.other").name == f"A{CHILD + 1}"


@pytest.mark.parametrize(
    ("again", "counts"),
    [
        (Issuance(TEST, 1), True),
        (Issuance(TEST, MAX_QUANTITY - 700), True),
        (Issuance(TEST, MAX_QUANTITY - 699), False),
        (Issuance(TEST, MAX_QUANTITY + 1), False),
        (Issuance(TEST, -1), False),
        (Issuance(TEST, 1, divisible=False), False),
        (Issuance(TEST, 0, lock=True), True),
        (Issuance(TEST, 0, description="Lock"), True),
        (Issuance(TEST, 0, description="other"), True),
        (Issuance(TEST, 9, divisible=False, reset=True), True),
        (Issuance(XCP_ID, 1), False),
        (Issuance(0, 1), False),
        (Issuance(2**64, 1), False),
    ],
)
def test_the_owner_alone_issues_more_within_the_limits(node: Node, again: Issuance, counts: bool) -> None:
    issue(node, Issuance(TEST, 700, description="first"))
    node.faucet(BOB_SCRIPT, BTC, "XCP", 100 * XCP)
    before = dict(node.ledger.assets())
    issue(node, again, BOB)
    assert node.ledger.assets() == before
    issue(node, again)
    assert (node.ledger.assets() != before) == counts
    assert row_of(node).supply == node.ledger.balances(ALICE_SCRIPT)["TEST"]


def test_a_first_issuance_can_neither_reset_nor_lock_by_its_description(node: Node) -> None:
    for refused in (Issuance(TEST, 5, reset=True), Issuance(TEST, 5, description="LOCK")):
        issue(node, refused)
    assert node.ledger.asset("TEST") is None
    issue(node, Issuance(TEST, 5, lock=True))
    assert row_of(node).locked


def test_a_locked_asset_is_neither_issued_nor_reset_but_still_described(node: Node) -> None:
    issue(node, Issuance(TEST, 700, description="first"))
    issue(node, Issuance(TEST, 1, description="lock"))
    assert (row_of(node).locked, row_of(node).supply, row_of(node).description) == (True, 701, "first")
    for refused in (Issuance(TEST, 1, description="more"), Issuance(TEST, 0, description="reset", reset=True)):
        issue(node, refused)
    assert (row_of(node).supply, row_of(node).description) == (701, "first")
    issue(node, Issuance(TEST, 0, description="described"))
    issue(node, Issuance(TEST, 0, description=None))
    assert (row_of(node).locked, row_of(node).description) == (True, "described")


def test_a_locked_description_stays(node: Node) -> None:
    issue(node, Issuance(TEST, 700, description="first"))
    issue(node, Issuance(TEST, 0, description="LOCK_DESCRIPTION"))
    issue(node, Issuance(TEST, 1, description="second"))
    assert (row_of(node).supply, row_of(node).description, row_of(node).description_locked) == (700, "first", True)
    issue(node, Issuance(TEST, 1, description=None))
    assert row_of(node).supply == 701


def test_an_output_before_the_data_takes_the_right_to_issue(node: Node) -> None:
    node.faucet(BOB_SCRIPT, BTC, "XCP", 100 * XCP)
    issue(node, Issuance(TEST, 700), to=BOB_SCRIPT)
    assert node.ledger.balances(ALICE_SCRIPT)["TEST"] == 700  # the quantity is its source's all the same
    assert (row_of(node).owner, row_of(node).issuer) == (BOB_SCRIPT, ALICE_SCRIPT)
    issue(node, Issuance(TEST, 1))
    assert row_of(node).supply == 700
    coins = [coin for coin in coins_of(node, BOB_SCRIPT) if coin[1] > 546]
    outputs = [(546, CAROL_SCRIPT), (0, data_script(pack_issuance(Issuance(TEST, 2)), coins[0][0].txid))]
    node.submit([Spend(BOB, [coins[0][0]], [*outputs, (coins[0][1] - 5000, BOB_SCRIPT)]).signed()])
    assert (row_of(node).owner, row_of(node).supply) == (CAROL_SCRIPT, 702)
    assert node.ledger.balances(BOB_SCRIPT)["TEST"] == 2
    node.reorganise(1)
    assert (row_of(node).owner, row_of(node).supply) == (BOB_SCRIPT, 700)


def test_only_an_asset_that_its_owner_holds_alone_is_reset(node: Node) -> None:
    issue(node, Issuance(TEST, 700))
    issue(node, Issuance(TEST, 9, divisible=False, reset=True))
    assert (row_of(node).supply, row_of(node).divisible) == (9, False)
    assert node.ledger.balances(ALICE_SCRIPT)["TEST"] == 9
    mine(node, classic(node, 1, TEST))
    issue(node, Issuance(TEST, 5, reset=True))
    assert (row_of(node).supply, row_of(node).divisible) == (9, False)
    assert node.ledger.balances(ALICE_SCRIPT)["TEST"] == 8


# Signatures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sighash", "counts"),
    [
        (SIGHASH_ALL, True),
        (SIGHASH_ALL | SIGHASH_ANYONECANPAY, True),
        (SIGHASH_NONE, False),
        (SIGHASH_SINGLE, False),
        (SIGHASH_SINGLE | SIGHASH_ANYONECANPAY, False),
    ],
)
def test_a_signature_that_does_not_cover_all_outputs_voids_the_message(node: Node, sighash: int, counts: bool) -> None:
    node.submit([replace(spend_of(node, classic(node, XCP)), sighash=sighash).signed()])
    assert held(node)[1] == (XCP if counts else None)
    assert only_coin(node, BOB_SCRIPT)[1] == 546  # the coins moved all the same


def locked(secret: bytes) -> bytes:
    """A redeem script that asks for a secret and Alice's signature, as a channel's paths do."""
    return bytes(CScript([OP_HASH160, hash160(secret), OP_EQUALVERIFY, ALICE.pubkey, OP_CHECKSIG]))


@pytest.mark.parametrize(
    ("secret", "counts"),
    [
        (b"s" * 32, True),
        (SECRET_LIKE_SIGNATURE, False),
        (SECRET_LIKE_SIGNATURE[:-1] + b"\x01", True),
        (b"\x30\x06\x02\x01\x01\x02\x01\x01\x03", False),  # of any length
    ],
)
def test_a_secret_that_looks_like_a_signature_moves_coins_but_no_asset(node: Node, secret: bytes, counts: bool) -> None:
    redeem = locked(secret)
    script = p2sh(hash160(redeem))
    node.faucet(script, BTC, "XCP", 10 * XCP)
    coin, value = only_coin(node, script)
    outputs = send_outputs(coin, XCP_ID, 10 * XCP, BOB_SCRIPT, (value - 2000, ALICE_SCRIPT))
    node.submit([Spend(ALICE, [coin], outputs, redeem=redeem, items=[secret]).signed()])
    assert coins_of(node, script) == []
    assert node.ledger.balances(script) == {"XCP": 0 if counts else 10 * XCP}
    assert node.ledger.balances(BOB_SCRIPT) == ({"XCP": 10 * XCP} if counts else {})


def test_a_spend_without_any_signature_is_no_message(node: Node) -> None:
    redeem = bytes(CScript([OP_HASH160, hash160(b"open"), OP_EQUAL]))
    script = p2sh(hash160(redeem))
    node.faucet(script, BTC, "XCP", 10 * XCP)
    coin, value = only_coin(node, script)
    outputs = send_outputs(coin, XCP_ID, 10 * XCP, BOB_SCRIPT, (value - 2000, ALICE_SCRIPT))
    signed = Spend(ALICE, [coin], outputs, redeem=redeem).signed()
    node.submit([with_script_sigs(signed, [bytes(CScript([b"open", redeem]))])])
    assert coins_of(node, script) == []
    assert node.ledger.balances(script) == {"XCP": 10 * XCP}


def test_nothing_of_all_this_makes_or_loses_a_unit(node: Node) -> None:
    mine(node, classic(node, 30 * XCP))
    mine(node, [data(node, pack_enhanced_send(XCP_ID, XCP, CAROL_SCRIPT)), (BTC - 50_000, ALICE_SCRIPT)])
    node.reorganise(2)
    node.generate(1)
    total = sum(quantity for _, name, quantity in node.ledger.rows() if name == "XCP")
    assert total == node.ledger.assets()["XCP"].supply
    assert held(node) == [69 * XCP, 30 * XCP, XCP]

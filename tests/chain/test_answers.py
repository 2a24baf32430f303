"""Answers of hubs and nodes that err or lie: true ones are believed, and each other one is refused by name."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
from bitcoin.core import CTransaction
from chain_support import (
    ADDRESS,
    CHILD,
    COINS_OF_ALL,
    HUB,
    LONGNAME,
    NEW_ID,
    NEW_RAW,
    NODE,
    OLD_ID,
    OLD_RAW,
    OLD_STATUS,
    QUERY,
    RAWS,
    SCRIPT,
    TESTNET,
    TIP,
    changed,
    hub,
    node,
    shown,
    told,
    transaction,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import json_rpc

from picopayments_cli.chain import Asset, Chain
from picopayments_cli.chain.answers import asset_of, member, members, satoshis_of, txid_of, whole
from picopayments_cli.chain.hub import HubChain
from picopayments_cli.chain.node import PAGE, NodeChain
from picopayments_cli.channel.values import MAX_QUANTITY, Coin, Entry, Height, Outpoint
from picopayments_cli.errors import (
    BadAnswer,
    BadPreviousTransaction,
    BroadcastRefused,
    MemoRequired,
    NodeBehind,
    NodeRefused,
    PicopaymentsError,
    UnknownAsset,
)
from picopayments_cli.rpc import RpcClient


def holds_the_truth(chain: Chain) -> None:
    """The chain tells what the honest answers say."""
    view = chain.view(QUERY)
    assert (view.height, view.fee_rate) == (TIP, 3)
    assert set(view.coins[ADDRESS]) == {
        Coin(Outpoint(OLD_ID, 0), 123_456_789, SCRIPT, Height(195)),
        Coin(Outpoint(NEW_ID, 0), 546, SCRIPT, None),
    }
    assert set(view.history[ADDRESS]) == {Entry(OLD_ID, OLD_RAW, Height(195)), Entry(NEW_ID, NEW_RAW, None)}
    assert view.balances == {ADDRESS: {"XCP": 7, "BTC": 123_456_789}}
    assert view.options == {ADDRESS: 3}
    with pytest.raises(MemoRequired, match="options 0"):
        view.check_takes_sends(ADDRESS)
    assert view.transactions == {OLD_ID: OLD_RAW}
    assert chain.attached({Outpoint(OLD_ID, 0), Outpoint(NEW_ID, 0)}) == {Outpoint(NEW_ID, 0)}
    with pytest.raises(BadAnswer):
        chain.attached({Outpoint(OLD_ID, 1)})
    name = "A18446744073709551615"
    assert chain.asset(name) == Asset(name, 2**64 - 1, False)


def test_honest_answers_are_believed() -> None:
    with hub(HUB) as chain:
        holds_the_truth(chain)
    with node(NODE, RAWS) as other:
        holds_the_truth(other)
        with pytest.raises(UnknownAsset):
            other.asset("NOSUCH")


# What others answer ---------------------------------------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a JSON value, and to the value itself."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


STRANGE: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 2**63, 10**30, 1.5, -0.1, "", "x", "NaN", "1e999999999", "0", "00" * 32, "zz", [], {}, [[]]]
) | st.sampled_from([[None], {"result": 1}, ["x"], 201, 21_000_001, "İ٣", shown(NEW_ID), NEW_RAW.hex()])


@settings(max_examples=300)
@given(place=st.sampled_from(list(places(HUB))[1:]), to=STRANGE)
def test_one_strange_value_of_a_hub_is_refused_or_harmless(
    lying_hub: tuple[HubChain, dict[str, Any]], place: Any, to: Any
) -> None:
    chain, answers = lying_hub
    answers |= changed(HUB, place, to)
    survives(chain)


@settings(max_examples=300)
@given(place=st.sampled_from(list(places(NODE))[1:]), to=STRANGE)
def test_one_strange_value_of_a_node_is_refused_or_harmless(
    lying_node: tuple[NodeChain, dict[str, Any]], place: Any, to: Any
) -> None:
    chain, answers = lying_node
    answers |= changed(NODE, place, to)
    survives(chain)


def survives(chain: Chain) -> None:
    """A strange answer is refused by name, or what comes of it is possible and its transactions are true."""
    with contextlib.suppress(PicopaymentsError):
        view = chain.view(QUERY)
        assert view.fee_rate is None or view.fee_rate >= 1
        for coin in view.coins[ADDRESS]:
            assert 0 <= coin.value <= 21_000_000 * 10**8
            assert coin.script == SCRIPT
        for entry in view.history[ADDRESS]:
            assert bytes(CTransaction.deserialize(entry.raw).GetTxid()) == entry.txid
        assert all(quantity >= 0 for quantity in view.balances[ADDRESS].values())
        assert view.transactions in ({OLD_ID: OLD_RAW}, {})
    with contextlib.suppress(PicopaymentsError):
        assert chain.attached({Outpoint(OLD_ID, 0)}) in (set(), {Outpoint(OLD_ID, 0)})
    with contextlib.suppress(PicopaymentsError):
        assert 0 <= chain.asset("A18446744073709551615").number < 2**64


@pytest.fixture(scope="module")
def lying_hub() -> Iterator[tuple[HubChain, dict[str, Any]]]:
    answers = dict(HUB)
    with hub(answers) as chain:
        yield chain, answers


@pytest.fixture(scope="module")
def lying_node() -> Iterator[tuple[NodeChain, dict[str, Any]]]:
    answers = dict(NODE)
    with node(answers, RAWS, patience=0) as chain:
        yield chain, answers


def test_a_forged_transaction_is_refused() -> None:
    forged = NEW_RAW.hex()
    with hub(changed(HUB, ("getrawtransaction_batch", shown(OLD_ID)), forged)) as chain:
        with pytest.raises(BadPreviousTransaction) as refused:
            chain.view(QUERY)
        assert refused.value.data["txid"] == shown(OLD_ID)
    with (
        hub(changed(HUB, ("search_raw_transactions", 0, "hex"), OLD_RAW.hex())) as chain,
        pytest.raises(BadPreviousTransaction),
    ):
        chain.view(QUERY)
    with node(NODE, RAWS | {shown(OLD_ID): forged}) as other, pytest.raises(BadPreviousTransaction):
        other.view(QUERY)


@pytest.mark.parametrize("raw", [OLD_RAW + b"\0", OLD_RAW[:-1], b"", NEW_RAW])
def test_bytes_that_only_resemble_a_transaction_are_refused(raw: bytes) -> None:
    with (
        hub(changed(HUB, ("getrawtransaction_batch", shown(OLD_ID)), raw.hex())) as chain,
        pytest.raises(BadPreviousTransaction),
    ):
        chain.view(QUERY)


def test_amounts_are_exact() -> None:
    answers = copy.deepcopy(HUB)
    with hub(answers) as chain:
        for satoshis in (1, 29, 57, 546, 113_999_999, 2_099_999_997_690_000, 20_999_999_99999999):
            for amount in (satoshis / 10**8, f"{satoshis // 10**8}.{satoshis % 10**8:08}"):
                answers["get_unspent_txouts"][0]["amount"] = amount
                assert chain.view(QUERY).coins[ADDRESS][0].value == satoshis
        answers["get_unspent_txouts"][0] |= {"value": 17, "amount": 5}
        assert chain.view(QUERY).coins[ADDRESS][0].value == 17
        answers["get_unspent_txouts"][0] |= {"value": None, "amount": 0.000000001}
        with pytest.raises(BadAnswer, match="amount"):
            chain.view(QUERY)


def test_a_chain_that_moves_while_it_is_asked_is_asked_again() -> None:
    heights = iter([200, 201, 201, 201])
    answers = dict(HUB)
    with json_rpc(
        {
            **{name: lambda name=name, **_params: answers[name] for name in HUB},
            "get_running_info": lambda: {"bitcoin_block_count": next(heights), "fee_rate": 3},
        }
    ) as url:
        view = HubChain(RpcClient(url), TESTNET).view(QUERY)
    assert view.height == 201
    assert {coin.height for coin in view.coins[ADDRESS]} == {196, None}


def test_a_ledger_that_lags_is_waited_for_and_then_refused() -> None:
    with node(changed(NODE, ("", "counterparty_height"), TIP - 1), RAWS) as chain:
        with pytest.raises(NodeBehind) as behind:
            chain.view(QUERY)
        assert behind.value.data == {"ledger": TIP - 1, "chain": TIP}


def test_a_history_of_a_full_page_is_not_taken_for_the_whole() -> None:
    path = f"bitcoin/addresses/{ADDRESS}/transactions"
    many = [transaction(value) for value in range(1000, 1000 + PAGE)]
    listed = [{"txid": shown(tx.GetTxid()), "status": OLD_STATUS} for tx in many]
    raws = {shown(tx.GetTxid()): tx.serialize().hex() for tx in many} | RAWS
    with node(changed(NODE, (path,), listed), raws) as chain:
        view = chain.view(QUERY)
    assert view.truncated == {ADDRESS}
    # what made the address's coins is added to what is listed
    assert {entry.txid for entry in view.history[ADDRESS]} == {tx.GetTxid() for tx in many} | {OLD_ID, NEW_ID}
    with node(changed(NODE, (path,), listed[1:]), raws) as chain:
        view = chain.view(QUERY)
    assert not view.truncated
    assert len(view.history[ADDRESS]) == PAGE - 1


def test_a_node_without_an_address_index_says_so() -> None:
    with (
        node({name: answer for name, answer in NODE.items() if "utxos" not in name}, RAWS) as chain,
        pytest.raises(NodeRefused, match="Not found"),
    ):
        chain.view(QUERY)


def test_a_failed_broadcast_of_a_known_transaction_is_none() -> None:
    with node(NODE, RAWS) as chain:
        assert chain.broadcast(OLD_RAW) == OLD_ID
        with pytest.raises(BroadcastRefused, match="dust"):
            chain.broadcast(transaction(5).serialize())


# One value ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, MAX_QUANTITY])
def test_a_whole_number_is_taken_to_its_limits(number: int) -> None:
    assert whole({"n": number}, "n") == number


@pytest.mark.parametrize("value", [-1, MAX_QUANTITY + 1, True, False, 1.0, "1", None, [1]])
def test_anything_but_a_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(BadAnswer):
        whole({"n": value}, "n")


def test_only_objects_have_members() -> None:
    no_objects: list[Any] = [[], "n", 5, None, [["n", 1]]]
    for value in no_objects:
        with pytest.raises(BadAnswer):
            member(value, "n", int, 5)
    no_lists: list[Any] = [{}, "", None, 5]
    for value in no_lists:
        with pytest.raises(BadAnswer):
            members(value, "rows")
    assert member({"n": None}, "n", int, 5) == member({}, "n", int, 5) == 5
    assert member({"n": False}, "n", bool, True) is False
    with pytest.raises(BadAnswer):
        member({"n": 0}, "n", bool, True)


@pytest.mark.parametrize("text", ["00" * 31, "00" * 33, "0" * 63, "AA" * 32, "zz" * 32, "", None, 5])
def test_anything_but_a_txid_is_refused(text: Any) -> None:
    with pytest.raises(BadAnswer):
        txid_of(text)


@pytest.mark.parametrize(
    ("amount", "satoshis"), [(0, 0), ("0", 0), (0.00000001, 1), (21_000_000, COINS_OF_ALL), ("21000000", COINS_OF_ALL)]
)
def test_an_amount_is_taken_to_its_limits(amount: float | str, satoshis: int) -> None:
    assert satoshis_of(amount) == satoshis


@pytest.mark.parametrize("amount", [-0.00000001, "21000000.00000001", "NaN", "Infinity", "1e999999999", "x", ""])
def test_anything_but_an_amount_is_refused(amount: float | str) -> None:
    with pytest.raises(ValueError, match="no "):
        satoshis_of(amount)


def test_an_asset_has_a_possible_id() -> None:
    assert asset_of({"asset": "TEST", "asset_id": "337135", "divisible": False}, "TEST") == Asset("TEST", 337135, False)
    last = f"A{2**64 - 1}"
    assert asset_of(told(last, 2**64 - 1), last).number == 2**64 - 1
    for longname, asked in ((LONGNAME, "PARENT.Child"), ("PARENT.Child", LONGNAME), (LONGNAME, "parent.child")):
        with pytest.raises(BadAnswer):
            asset_of(told(CHILD, int(CHILD[1:]), longname), asked)


@pytest.mark.parametrize(
    "number",
    [
        *("337136", "2", "", "x", "-337135", "+337135", "337135.0", " 337135", "337_135", "٣٣٧١٣٥", "³"),
        *("337135".zfill(21), "9" * 5000, str(2**64), str(2**65), "0", "1"),
    ],
)
def test_an_id_of_another_asset_is_refused(number: str) -> None:
    with pytest.raises(BadAnswer):
        asset_of(told("TEST", 0) | {"asset_id": number}, "TEST")


def test_the_ledgers_own_coins_are_not_told_of_as_assets() -> None:
    for name, number in (("XCP", 1), ("BTC", 0)):
        with pytest.raises(BadAnswer):
            asset_of(told(name, number), name.lower())

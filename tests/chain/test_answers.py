"""What is believed of nodes and hubs that err or lie: right answers, and a named error for every other."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from bitcoin.core import COutPoint, CTransaction, CTxIn, CTxInWitness, CTxOut, CTxWitness
from bitcoin.core.script import CScript, CScriptWitness
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import json_rpc, saying, serving, talking
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from picopayments_cli.chain import Asset, Chain, Query
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.hub import HubChain
from picopayments_cli.chain.node import PAGE, NodeChain
from picopayments_cli.channel.networks import NETWORKS, address_of_script
from picopayments_cli.channel.values import Coin, Entry, Height, Outpoint
from picopayments_cli.errors import (
    BadAnswer,
    BadPreviousTransaction,
    BroadcastRefused,
    MemoRequired,
    NodeBehind,
    NodeRefused,
    NodeUnreachable,
    PicopaymentsError,
    UnknownAsset,
)
from picopayments_cli.rpc import RpcClient
from picopayments_cli.web import JsonRpcEndpoint

TESTNET = NETWORKS["testnet"]
SCRIPT = b"\xa9\x14" + bytes(20) + b"\x87"
ADDRESS = str(address_of_script(TESTNET, SCRIPT))
TIP = 200


def transaction(value: int, witness: bool = False) -> CTransaction:
    vin = [CTxIn(COutPoint(b"\1" * 32, value), CScript(b""))]
    stack = CTxWitness([CTxInWitness(CScriptWitness([b"signature"]))]) if witness else CTxWitness()
    return CTransaction(vin, [CTxOut(value, CScript(SCRIPT))], 0, 2, stack)


OLD, NEW = transaction(123_456_789), transaction(546, witness=True)
OLD_ID, NEW_ID = bytes(OLD.GetTxid()), bytes(NEW.GetTxid())
OLD_RAW, NEW_RAW = OLD.serialize(), NEW.serialize()
QUERY = Query([ADDRESS], [ADDRESS], [ADDRESS], options=[ADDRESS], transactions=[OLD_ID, bytes(32)])


def shown(txid: bytes) -> str:
    return txid[::-1].hex()


# What honest servers answer -------------------------------------------------------------------------------------------

HUB: dict[str, Any] = {
    "get_running_info": {"bitcoin_block_count": TIP, "fee_rate": 3},
    "get_unspent_txouts": [
        {"txid": shown(OLD_ID), "vout": 0, "amount": 1.23456789, "confirmations": 6, "scriptPubKey": SCRIPT.hex()},
        {"txid": shown(NEW_ID), "vout": 0, "amount": "0.00000546", "confirmations": 0, "scriptPubKey": SCRIPT.hex()},
    ],
    "search_raw_transactions": [
        {"txid": shown(NEW_ID), "hex": NEW_RAW.hex()},
        {"txid": shown(OLD_ID), "hex": OLD_RAW.hex(), "confirmations": 6},
    ],
    "get_balances": [
        {"address": ADDRESS, "asset": "XCP", "quantity": 7},
        {"address": None, "asset": "XCP", "quantity": 90, "utxo": f"{shown(OLD_ID)}:0", "utxo_address": ADDRESS},
    ],
    "get_address_options": {"address": ADDRESS, "options": 3},
    "getrawtransaction_batch": {shown(OLD_ID): OLD_RAW.hex()},
    "utxos_with_balances": {f"{shown(OLD_ID)}:0": False, f"{shown(NEW_ID)}:0": True},
    "get_asset_info": [{"asset": "A18446744073709551615", "asset_id": "18446744073709551615", "divisible": False}],
}

OLD_STATUS = {"confirmed": True, "block_height": 195, "block_hash": "00" * 32, "block_time": 1}
NODE: dict[str, Any] = {
    "": {"network": "testnet3", "backend_height": TIP, "counterparty_height": TIP},
    "bitcoin/addresses/utxos": [
        {"txid": shown(OLD_ID), "vout": 0, "value": 123_456_789, "status": OLD_STATUS, "address": ADDRESS},
        {"txid": shown(NEW_ID), "vout": 0, "value": 546, "status": {"confirmed": False}, "address": ADDRESS},
    ],
    f"bitcoin/addresses/{ADDRESS}/transactions": [
        {"txid": shown(NEW_ID), "status": {"confirmed": False}},
        {"txid": shown(OLD_ID), "status": OLD_STATUS},
    ],
    "addresses/balances": [
        {
            "asset": "XCP",
            "addresses": [
                {"address": ADDRESS, "utxo": None, "quantity": 7},
                {"address": None, "utxo": f"{shown(OLD_ID)}:0", "quantity": 90},
            ],
        }
    ],
    f"addresses/{ADDRESS}": HUB["get_address_options"],
    "bitcoin/estimatesmartfee": 2500,
    "utxos/withbalances": HUB["utxos_with_balances"],
    "assets/A18446744073709551615": HUB["get_asset_info"][0],
}
RAWS = {shown(OLD_ID): OLD_RAW.hex(), shown(NEW_ID): NEW_RAW.hex()}


@contextlib.contextmanager
def hub(answers: Mapping[str, Any]) -> Iterator[HubChain]:
    """A hub that answers each method with what stands in the table at that moment."""

    def method(name: str) -> Callable[..., Any]:
        return lambda **_params: answers[name]

    with json_rpc({name: method(name) for name in HUB}) as url:
        yield HubChain(RpcClient(url), TESTNET)


@contextlib.contextmanager
def node(answers: Mapping[str, Any], raws: Mapping[str, Any], patience: float = 0.2) -> Iterator[NodeChain]:
    """A Counterparty node that answers each path with what stands in the tables at that moment."""

    async def get(request: Request) -> JSONResponse:
        answer = answers.get(request.path_params["path"].strip("/"), KeyError)
        if answer is KeyError:
            return JSONResponse({"error": "Not found"}, 404)
        return JSONResponse({"result": answer, "next_cursor": None, "result_count": None})

    async def post(_request: Request) -> JSONResponse:
        return JSONResponse({"error": "Error broadcasting transaction: No result returned"}, 400)

    def batch(txhash_list: list[str]) -> Any:
        return {text: raws[text] for text in txhash_list if text in raws}

    routes = [
        Route("/v2/bitcoin/transactions", post, methods=["POST"]),
        Route("/v2/{path:path}", get),
        Mount("/v1/", JsonRpcEndpoint({"getrawtransaction_batch": batch})),
    ]
    with serving(Starlette(routes=routes)) as url:
        yield NodeChain(url, TESTNET, patience=patience)


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


def test_honest_answers() -> None:
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


def changed(value: Any, path: tuple[Any, ...], to: Any) -> Any:
    """A copy with another value at that place."""
    if not path:
        return to
    result = copy.copy(value)
    result[path[0]] = changed(value[path[0]], path[1:], to)
    return result


STRANGE: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 2**63, 10**30, 1.5, -0.1, "", "x", "NaN", "1e999999999", "0", "00" * 32, "zz", [], {}, [[]]]
) | st.sampled_from([[None], {"result": 1}, ["x"], 201, 21_000_001, "İ٣", shown(NEW_ID), NEW_RAW.hex()])


@settings(max_examples=300)
@given(place=st.sampled_from(list(places(HUB))[1:]), to=STRANGE)
def test_one_strange_value_of_a_hub(lying_hub: tuple[HubChain, dict[str, Any]], place: Any, to: Any) -> None:
    chain, answers = lying_hub
    answers |= changed(HUB, place, to)
    survives(chain)


@settings(max_examples=300)
@given(place=st.sampled_from(list(places(NODE))[1:]), to=STRANGE)
def test_one_strange_value_of_a_node(lying_node: tuple[NodeChain, dict[str, Any]], place: Any, to: Any) -> None:
    chain, answers = lying_node
    answers |= changed(NODE, place, to)
    survives(chain)


def survives(chain: Chain) -> None:
    """A strange answer is refused by name, or what comes of it is possible and its transactions are true."""
    with contextlib.suppress(PicopaymentsError):
        view = chain.view(QUERY)
        assert view.fee_rate >= 1
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
def test_bytes_that_only_resemble_a_transaction(raw: bytes) -> None:
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


def test_a_chain_that_moves_while_it_is_asked() -> None:
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
        with pytest.raises(BroadcastRefused, match="No result returned"):
            chain.broadcast(transaction(5).serialize())


def test_the_cookie_of_bitcoin_core(tmp_path: Path) -> None:
    cookie = tmp_path / ".cookie"
    with talking(saying({"result": 5 * "00", "error": None, "id": 0})) as (url, heard):
        bitcoin = BitcoinNode(url, cookie=cookie)
        with pytest.raises(NodeUnreachable, match=r"\.cookie"):
            bitcoin.best_block()
        cookie.write_text("__cookie__:abc")
        with pytest.raises(BadAnswer, match="block hash"):
            bitcoin.best_block()
        assert b"Authorization: Basic X19jb29raWVfXzphYmM=" in heard[0]


@pytest.mark.parametrize(
    ("code", "text", "known"),
    [
        (-27, "Transaction outputs already in utxo set", True),
        (-26, "txn-already-known", True),
        (-26, "txn-mempool-conflict", False),
        (-25, "bad-txns-inputs-missingorspent", False),
    ],
)
def test_what_bitcoin_core_says_of_a_broadcast(code: int, text: str, known: bool) -> None:
    with talking(saying({"error": {"code": code, "message": text}, "id": 0})) as (url, _):
        bitcoin = BitcoinNode(url)
        if known:
            assert bitcoin.broadcast(OLD_RAW) == OLD_ID
        else:
            with pytest.raises(BroadcastRefused, match=text):
                bitcoin.broadcast(OLD_RAW)

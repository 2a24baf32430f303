"""A hub's answers about the chain: each is believed up to its last possible value, and refused by name beyond it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from chain_support import (
    ADDRESS,
    COINS_OF_ALL,
    HUB,
    NEW_ID,
    NEW_RAW,
    OLD_ID,
    OLD_RAW,
    OTHER,
    QUERY,
    RAWS,
    TESTNET,
    TIP,
    Place,
    changed,
    hub,
    shown,
    told,
)
from servers import busy_once, json_rpc, saying, talking

from picopayments_cli import errors
from picopayments_cli.chain import Asset, Query, View
from picopayments_cli.chain.hub import HubChain
from picopayments_cli.channel.values import MAX_QUANTITY, Outpoint
from picopayments_cli.errors import (
    BadAnswer,
    BroadcastRefused,
    NodeBehind,
    PicopaymentsError,
    UnknownAsset,
    WrongNetwork,
)
from picopayments_cli.rpc import RpcClient

COIN, LATEST, PAID = ("get_unspent_txouts", 0), ("search_raw_transactions", 0), ("search_raw_transactions", 1)


@pytest.fixture(scope="module")
def told_by_hub() -> Iterator[Callable[[Place, Any], View]]:
    """A hub's view with another value at a place, which may be a new one."""
    honest = copy.deepcopy(HUB)
    for item in (*honest["get_unspent_txouts"], *honest["search_raw_transactions"], *honest["get_balances"]):
        item |= {"value": item.get("value"), "truncated": None, "utxo": item.get("utxo")}
    honest["get_running_info"]["network"] = None
    answers = dict(honest)
    with hub(answers) as chain:

        def view(place: Place, to: Any) -> View:
            answers.update(changed(honest, place, to))
            return chain.view(QUERY)

        yield view


HUB_BORDERS: list[tuple[Place, Any, Callable[[View], Any], Any]] = [
    (("get_running_info", "fee_rate"), 1, lambda view: view.fee_rate, 1),
    (("get_running_info", "fee_rate"), None, lambda view: view.fee_rate, None),
    (("get_running_info", "fee_rate"), 100_000, lambda view: view.fee_rate, 100_000),
    ((*COIN, "vout"), 2**32 - 1, lambda view: view.coins[ADDRESS][0].outpoint.vout, 2**32 - 1),
    ((*COIN, "confirmations"), None, lambda view: view.coins[ADDRESS][0].height, None),
    ((*COIN, "confirmations"), 1, lambda view: view.coins[ADDRESS][0].height, TIP),
    ((*COIN, "confirmations"), TIP + 1, lambda view: view.coins[ADDRESS][0].height, 0),
    ((*COIN, "value"), 0, lambda view: view.coins[ADDRESS][0].value, 0),
    ((*COIN, "value"), COINS_OF_ALL, lambda view: view.coins[ADDRESS][0].value, COINS_OF_ALL),
    ((*COIN, "amount"), 0, lambda view: view.coins[ADDRESS][0].value, 0),
    ((*COIN, "amount"), "21000000", lambda view: view.coins[ADDRESS][0].value, COINS_OF_ALL),
    ((*PAID, "confirmations"), TIP + 1, lambda view: view.history[ADDRESS][1].height, 0),
    ((*PAID, "truncated"), True, lambda view: view.truncated, {ADDRESS}),
    ((*PAID, "truncated"), False, lambda view: view.truncated, set()),
    (("get_balances", 0, "quantity"), 0, lambda view: view.balances[ADDRESS]["XCP"], 0),
    (("get_balances", 0, "quantity"), MAX_QUANTITY, lambda view: view.balances[ADDRESS]["XCP"], MAX_QUANTITY),
    (("get_balances", 0, "address"), OTHER, lambda view: view.balances[ADDRESS], {"BTC": 123_456_789}),
    (("get_balances", 1, "utxo"), None, lambda view: view.balances[ADDRESS]["XCP"], 7),  # it has no address
    (("get_balances", 1, "address"), ADDRESS, lambda view: view.balances[ADDRESS]["XCP"], 7),  # it is attached
    (("getrawtransaction_batch",), {}, lambda view: view.transactions, {}),
]


@pytest.mark.parametrize(("place", "to", "seen", "expected"), HUB_BORDERS)
def test_values_of_a_hub_are_believed_to_their_limits(
    told_by_hub: Callable[[Place, Any], View], place: Place, to: Any, seen: Callable[[View], Any], expected: Any
) -> None:
    assert seen(told_by_hub(place, to)) == expected


HUB_LIES: list[tuple[Place, list[Any]]] = [
    (("get_running_info",), [[], None]),
    (("get_running_info", "network"), [5, ["testnet"]]),
    (("get_running_info", "bitcoin_block_count"), [-1, 2**63, True, "200", None, 200.0]),
    (("get_running_info", "fee_rate"), [0, -1, 100_001, True, "3", 1.5]),
    (("get_unspent_txouts",), [{}, None, "x"]),
    ((*COIN, "txid"), ["", "00", None, shown(OLD_ID).upper()]),
    ((*COIN, "vout"), [-1, 2**32, True, None, "0"]),
    ((*COIN, "confirmations"), [-1, TIP + 2, True, "6", 6.0]),
    ((*COIN, "amount"), ["21000000.00000001", -0.00000001, "x", "NaN", True, None, 0.000000001, "1e999999999", []]),
    ((*COIN, "value"), [-1, COINS_OF_ALL + 1, True, "5", 5.0]),
    (("search_raw_transactions",), [{}, None, "x", [7]]),
    ((*PAID, "txid"), ["", None, 5]),
    ((*PAID, "hex"), ["zz", None, 5, OLD_RAW.hex().upper() + "AA"]),
    ((*PAID, "confirmations"), [-1, TIP + 2, True, "6"]),
    ((*PAID, "truncated"), ["yes", 1, []]),
    (("get_balances",), [{}, None, "x", [7]]),
    (("get_balances", 0, "quantity"), [-1, MAX_QUANTITY + 1, True, None, 7.0]),
    (("get_balances", 0, "asset"), [None, 5]),
    (("get_balances", 0, "address"), [5, [ADDRESS]]),
    (("get_balances", 0, "utxo"), [5, []]),
    (("getrawtransaction_batch",), [[], None, "x"]),
    (("getrawtransaction_batch", shown(OLD_ID)), [5, "zz", [OLD_RAW.hex()]]),
]


@pytest.mark.parametrize(("place", "lie"), [(place, lie) for place, lies in HUB_LIES for lie in lies])
def test_values_of_a_hub_beyond_their_limits_are_refused(
    told_by_hub: Callable[[Place, Any], View], place: Place, lie: Any
) -> None:
    with pytest.raises(BadAnswer):
        told_by_hub(place, lie)


@contextlib.contextmanager
def listening_hub(**answers: Callable[..., Any]) -> Iterator[tuple[HubChain, list[tuple[str, dict[str, Any]]]]]:
    """A hub that answers as HUB does, or as it is told, and what it was asked."""
    heard: list[tuple[str, dict[str, Any]]] = []

    def method(name: str) -> Callable[..., Any]:
        def answer(**params: Any) -> Any:
            heard.append((name, params))
            return answers[name](**params) if name in answers else HUB[name]

        return answer

    with json_rpc({name: method(name) for name in (*HUB, "sendrawtransaction")}) as url:
        yield HubChain(RpcClient(url), TESTNET), heard


def test_a_hub_is_asked_for_all_at_once_and_for_what_waits_too() -> None:
    txids = [OLD_ID, *(bytes([number]) + bytes(31) for number in range(99)), NEW_ID]

    def batch(txhash_list: list[str]) -> dict[str, str]:
        return {txid: RAWS[txid] for txid in txhash_list if txid in RAWS}

    with listening_hub(getrawtransaction_batch=batch) as (chain, heard):
        query = Query(coins=[ADDRESS, ADDRESS], history=[OTHER], balances=[OTHER], transactions=[*txids, txids[0]])
        known = chain.view(Query(history=[OTHER], transactions=[*txids, txids[0]])).transactions
        assert known == {OLD_ID: OLD_RAW, NEW_ID: NEW_RAW}
        parts = [params["txhash_list"] for name, params in heard if name == "getrawtransaction_batch"]
        assert [txid for part in parts for txid in part] == [shown(txid) for txid in txids]
        assert max(map(len, parts)) == 5  # whose answer has room for them, however large they are
        heard.clear()
        with contextlib.suppress(PicopaymentsError):
            chain.view(query)
    waiting = {"unconfirmed": True}
    assert heard[:5] == [
        ("get_running_info", {}),
        ("get_unspent_txouts", {"address": ADDRESS, **waiting}),
        ("get_unspent_txouts", {"address": OTHER, **waiting}),
        ("search_raw_transactions", {"address": OTHER, **waiting}),
        ("get_balances", {"filters": [{"field": "address", "op": "==", "value": OTHER}]}),
    ]
    assert heard[-1] == ("get_running_info", {})


def test_balances_of_one_asset_add_up() -> None:
    with listening_hub(get_balances=lambda filters: [HUB["get_balances"][0]] * 3) as (chain, _):
        assert chain.view(QUERY).balances[ADDRESS]["XCP"] == 21


def at_heights(heights: Iterable[int]) -> Callable[[], Any]:
    """A hub's answer about itself, at one height after the other."""
    following = iter(heights)
    return lambda: {"bitcoin_block_count": next(following), "fee_rate": 1}


def test_a_hubs_chain_that_always_moves_is_given_up() -> None:
    with listening_hub(get_running_info=at_heights(range(1000))) as (chain, heard):
        with pytest.raises(NodeBehind):
            chain.view(Query())
        assert len(heard) == 2 * 5
        assert {name for name, _ in heard} == {"get_running_info"}


def test_a_hubs_chain_that_rests_at_the_last_attempt_is_believed() -> None:
    with listening_hub(get_running_info=at_heights([1, 2, 3, 4, 5, 6, 7, 8, 9, 9])) as (chain, _):
        assert chain.view(Query()).height == 9


def test_a_hub_is_asked_about_a_hundred_coins_at_a_time() -> None:
    coins = [Outpoint(OLD_ID, number) for number in range(101)]

    def told_of(utxos: list[str]) -> dict[str, bool]:
        return {utxo: utxo.endswith((":0", ":100")) for utxo in utxos}

    with listening_hub(utxos_with_balances=told_of) as (chain, heard):
        assert chain.attached(coins) == {coins[0], coins[100]}
        assert [params["utxos"] for _, params in heard] == [[str(coin) for coin in coins[:100]], [str(coins[100])]]
    for lie in ({}, {str(coins[0]): None}, {str(coins[0]): 1}, {str(coins[0]): "false"}, [str(coins[0])]):
        with listening_hub(utxos_with_balances=lambda utxos, lie=lie: lie) as (chain, _), pytest.raises(BadAnswer):
            chain.attached(coins[:1])


def test_a_hub_names_the_asset_that_was_asked_for() -> None:
    rows: list[Any] = []
    with listening_hub(get_asset_info=lambda assets: rows) as (chain, heard):
        assert (chain.asset("BTC"), chain.asset("XCP")) == (Asset("BTC", 0, True), Asset("XCP", 1, True))
        assert not heard
        with pytest.raises(UnknownAsset):
            chain.asset("TEST")
        rows.append(told("TEST", 337135))
        assert chain.asset("TEST") == Asset("TEST", 337135, True)
        assert heard[-1] == ("get_asset_info", {"assets": ["TEST"]})
    with listening_hub(get_asset_info=lambda assets: {}) as (chain, _), pytest.raises(BadAnswer):
        chain.asset("TEST")


def test_a_hub_is_handed_the_transaction() -> None:
    with listening_hub(sendrawtransaction=lambda tx_hex: "anything") as (chain, heard):
        assert chain.broadcast(NEW_RAW) == NEW_ID
        assert heard == [("sendrawtransaction", {"tx_hex": NEW_RAW.hex()})]
        with pytest.raises(BroadcastRefused):
            chain.broadcast(NEW_RAW[:-1])
        assert len(heard) == 1


@pytest.mark.parametrize("name", ["regtest", "mainnet", "testnet4", "nowhere"])
def test_a_hub_of_another_network_is_told_before_all_that_comes_of_it(name: str) -> None:
    info = {**HUB["get_running_info"], "network": name}
    refused = {"error": {"code": -32000, "message": "No.", "data": {"type": "InvalidAddress", "message": "No."}}}
    view = [{"result": info, "id": 0}, *({**refused, "id": number} for number in (1, 2)), {"result": info, "id": 3}]
    cases: list[tuple[Callable[[HubChain], Any], Any]] = [
        (lambda chain: chain.view(Query(coins=[ADDRESS], history=[ADDRESS])), view),
        (lambda chain: chain.asset("TEST"), [view[0], {**refused, "id": 1}]),
    ]
    for ask, reply in cases:
        with talking(saying(reply)) as (url, _), pytest.raises(WrongNetwork) as found:
            ask(HubChain(RpcClient(url), TESTNET))
        shown = "another network" if name == "nowhere" else name
        assert f"is on {shown}, not on testnet. Name a hub of testnet with --hub-url" in found.value.message
        assert (f"--network {name}" in found.value.message) is (name != "nowhere")


# Nobody signs them, so that anybody on the way can say them.
OF_THE_CHAIN = {
    "BadAnswer", "BroadcastRefused", "HubRefused", "HubUnreachable", "InvalidAddress", "InvalidParams", "NodeBehind",
    "NodeRefused", "NodeTooOld", "NodeUnreachable", "TooMuchAsked", "TruncatedHistory", "UnknownAsset", "UnknownMethod",
    "UnknownTransaction", "Unreachable",
}  # fmt: skip
NAMES = [name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, Exception)]


@pytest.mark.parametrize("name", NAMES)
def test_a_chain_answer_has_the_refusals_of_the_chain_alone(name: str) -> None:
    """One about a connection, such as ConnectionNotOpen, would close that."""
    refusal = {"error": {"code": -32000, "message": "No.", "data": {"type": name, "message": "No."}}}
    cases: list[tuple[Callable[[HubChain], Any], Any]] = [
        (lambda chain: chain.view(Query()), [{**refusal, "id": number} for number in (0, 1)]),
        (lambda chain: chain.view(Query()), refusal),
        (lambda chain: chain.asset("TEST"), refusal),
        (lambda chain: chain.attached([Outpoint(OLD_ID, 0)]), refusal),
        (lambda chain: chain.broadcast(NEW_RAW), refusal),
    ]
    for ask, reply in cases:
        with talking(saying(reply)) as (url, _), pytest.raises(PicopaymentsError) as found:
            ask(HubChain(RpcClient(url), TESTNET))
        assert found.value.name == (name if name in OF_THE_CHAIN else "HubRefused")


def test_a_busy_hub_is_asked_again() -> None:
    coin, batch = Outpoint(OLD_ID, 0), [{"result": HUB["get_running_info"], "id": number} for number in (0, 1)]
    cases: list[tuple[Callable[[HubChain], Any], Any, Any]] = [
        (lambda chain: chain.view(Query()).height, batch, TIP),
        (lambda chain: chain.asset("TEST").number, [batch[0], {"result": [told("TEST", 337135)], "id": 1}], 337135),
        (lambda chain: chain.attached([coin]), {"result": {str(coin): True}}, {coin}),
        (lambda chain: chain.broadcast(NEW_RAW), {"result": "anything"}, NEW_ID),
    ]
    for ask, reply, expected in cases:
        with talking(busy_once(reply)) as (url, heard):
            assert ask(HubChain(RpcClient(url), TESTNET)) == expected
            assert len(heard) == 2

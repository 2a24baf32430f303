"""The hub's proxy bounds each question of a stranger to its nodes: in one process, on a real node."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bitcoin.core import CTransaction
from hub_support import Desk
from regtest_support import Spend, address_of, key_of, script_of_key

from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.rates import Rate
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.hub.proxy import Nodes, Proxy
from picopayments_cli.rpc import RpcClient

KEY, OTHER = key_of("stranger"), key_of("another stranger")
ADDRESS, EMPTY = address_of(script_of_key(KEY)), address_of(script_of_key(OTHER))
NO_TXID = "00" * 32
RIGHT: dict[str, Any] = {"field": "destination", "op": "==", "value": ADDRESS}


def ask(desk: Desk, method: str, **params: Any) -> Any:
    return json.loads(desk.call(method, params))


def filtered(*pairs: tuple[Any, Any], op: str = "==") -> list[dict[str, Any]]:
    return [{"field": field, "op": op, "value": value} for field, value in pairs]


def give(desk: Desk, btc: int) -> Outpoint:
    """A coin of that many satoshis, in the mempool."""
    (txid,) = ask(desk, "faucet", address=ADDRESS, btc=btc)
    outs = CTransaction.deserialize(desk.raw(txid)).vout
    (vout,) = (n for n, out in enumerate(outs) if bytes(out.scriptPubKey) == script_of_key(KEY) and out.nValue == btc)
    return Outpoint(bytes.fromhex(txid)[::-1], vout)


# What is on offer ---------------------------------------------------------------------------------------------------


def test_blocks_and_money_are_made_on_regtest_only() -> None:
    url = "http://127.0.0.1:1/"
    for name, network in NETWORKS.items():
        nodes = Nodes(NodeChain(url, network), BitcoinNode(url), RpcClient(url))
        offered = set(Proxy(network, nodes, lambda: Rate(1, guess=False), lambda: None).methods())
        regtest = {"generate", "faucet", "reorganise", "feerate"}
        assert offered & regtest == (regtest if name == "regtest" else set())
        assert {"get_balances", "sendrawtransaction", "submitpackage", "get_sends", "get_running_info"} <= offered


# Addresses ----------------------------------------------------------------------------------------------------------


def test_balances_are_of_one_address_and_of_the_asset_that_is_asked_for(desk: Desk) -> None:
    ask(desk, "faucet", address=ADDRESS, btc=20_000, asset="XCP", quantity=700)
    ask(desk, "generate", blocks=1)
    rows = ask(desk, "get_balances", filters=filtered(("address", ADDRESS)))
    assert {row["asset"]: row["quantity"] for row in rows}["XCP"] >= 700
    assert {row["address"] for row in rows} == {ADDRESS}
    assert {row["asset"] for row in rows} >= {"BTC", "XCP"}
    for asset, found in (("XCP", ["XCP"]), ("NONE", [])):
        only = ask(desk, "get_balances", filters=filtered(("address", ADDRESS), ("asset", asset)))
        assert [row["asset"] for row in only] == found
    (single,) = filtered(("address", ADDRESS), op="=")
    assert ask(desk, "get_balances", filters=single) == rows
    assert ask(desk, "get_balances", filters=filtered(("address", ADDRESS)) * 10) == rows


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"filters": []},
        {"filters": None},
        {"filters": 5},
        {"filters": [5]},
        {"filters": filtered(("asset", "XCP"))},
        {"filters": filtered(("address", ADDRESS)), "filterop": "OR"},
        {"filters": filtered(("address", ADDRESS), op="!=")},
        {"filters": filtered(("address", ADDRESS), ("asset", 5))},
        {"filters": filtered(("address", ADDRESS), ("asset", None))},
        {"filters": filtered(("address", ADDRESS), ("quantity", "5"))},
        {"filters": filtered(("address", ADDRESS), (None, "5"))},
        {"filters": [{"field": "address", "value": ADDRESS}]},
        {"filters": filtered(("address", ADDRESS)) * 11},
    ],
    ids=range(14),
)
def test_filters_of_another_shape_are_refused(desk: Desk, params: dict[str, Any]) -> None:
    assert desk.name_of("get_balances", params) == "InvalidParams"


@pytest.mark.parametrize("address", [None, 5, ["x"], {"a": 1}])
def test_an_address_is_text(desk: Desk, address: object) -> None:
    for method in ("get_unspent_txouts", "search_raw_transactions", "faucet"):
        assert desk.name_of(method, {"address": address}) == "InvalidParams"
    assert desk.name_of("get_balances", {"filters": filtered(("address", address))}) == "InvalidParams"


@pytest.mark.parametrize(
    "address", ["", "nowhere", "1BitcoinEaterAddressDontSendf59kuE", ADDRESS + "x", "../" + ADDRESS]
)
def test_an_address_of_this_network_is_asked_for_and_no_other(desk: Desk, address: str) -> None:
    for method in ("get_unspent_txouts", "search_raw_transactions", "faucet"):
        assert desk.name_of(method, {"address": address}) in ("InvalidAddress", "WrongNetwork")
    filters = filtered(("address", address))
    assert desk.name_of("get_balances", {"filters": filters}) in ("InvalidAddress", "WrongNetwork")


def test_coins_and_history_tell_the_mempool_where_it_is_asked_for(desk: Desk) -> None:
    coin = give(desk, 31_000)
    txid = coin.txid[::-1].hex()

    def coins(**params: Any) -> set[str]:
        return {row["txid"] for row in ask(desk, "get_unspent_txouts", address=ADDRESS, **params)}

    def history(**params: Any) -> set[str]:
        return {row["txid"] for row in ask(desk, "search_raw_transactions", address=ADDRESS, **params)}

    assert [txid in found for found in (coins(), coins(unconfirmed=True))] == [False, True]
    assert [txid in found for found in (history(), history(unconfirmed=False))] == [True, False]
    ask(desk, "generate", blocks=1)
    assert txid in coins()
    assert txid in history(unconfirmed=False)


def test_an_addresss_options_are_told(desk: Desk) -> None:
    assert ask(desk, "get_address_options", address=ADDRESS) == {"address": ADDRESS, "options": 0}
    desk.node.rpc("setaddressoptions", address=ADDRESS, options=5)
    assert ask(desk, "get_address_options", address=ADDRESS) == {"address": ADDRESS, "options": 5}
    desk.node.rpc("setaddressoptions", address=ADDRESS, options=0)
    assert desk.name_of("get_address_options", {"address": None}) == "InvalidParams"
    assert desk.name_of("get_address_options", {"address": "../v2"}) == "InvalidAddress"


def test_coins_are_asked_for_by_at_most_a_hundred_names(desk: Desk) -> None:
    coin = str(give(desk, 32_000))
    ask(desk, "generate", blocks=1)
    assert ask(desk, "utxos_with_balances", utxos=[coin] * 100) == {coin: False}  # nothing is attached
    assert ask(desk, "utxos_with_balances", utxos=[]) == {}
    for wrong in ([coin] * 101, coin, None, [coin, 5], [None], {coin: 1}):
        assert desk.name_of("utxos_with_balances", {"utxos": wrong}) == "InvalidParams"
    for text in ("", "00:0", NO_TXID, f"{NO_TXID}:-1", f"{NO_TXID}:{2**32}", f"{'zz' * 32}:0"):
        assert desk.name_of("utxos_with_balances", {"utxos": [coin, text]}) == "InvalidHex"


# Transactions -------------------------------------------------------------------------------------------------------


def test_transactions_are_told_by_txid(desk: Desk) -> None:
    txid = give(desk, 35_000).txid[::-1].hex()
    assert ask(desk, "getrawtransaction", tx_hash=txid) == desk.raw(txid).hex()
    assert ask(desk, "getrawtransaction", tx_hash=txid, verbose=True)["txid"] == txid
    for verbose in (False, True):
        assert desk.name_of("getrawtransaction", {"tx_hash": NO_TXID, "verbose": verbose}) == "UnknownTransaction"
        for wrong in (None, 5, "", txid[2:], txid + "00", txid.upper() + "Z", [txid]):
            assert desk.name_of("getrawtransaction", {"tx_hash": wrong, "verbose": verbose}) == "InvalidHex"


def test_transactions_are_told_a_hundred_at_a_time(desk: Desk) -> None:
    first, second = (give(desk, value).txid[::-1].hex() for value in (36_000, 37_000))
    asked = [second, NO_TXID, first]
    assert list(ask(desk, "getrawtransaction_batch", txhash_list=asked)) == [second, first]
    told = ask(desk, "getrawtransaction_batch", txhash_list=[first] * 100)
    assert told == {first: desk.raw(first).hex()}
    for no_list in ([first] * 101, first, None, {first: 1}):
        assert desk.name_of("getrawtransaction_batch", {"txhash_list": no_list}) == "InvalidParams"
    for no_txids in ([first, 5], [None], [first[2:]]):
        assert desk.name_of("getrawtransaction_batch", {"txhash_list": no_txids}) == "InvalidHex"


def test_a_transaction_is_handed_on_whole_and_seen_at_once(desk: Desk) -> None:
    coin = give(desk, 38_000)
    raw = Spend(KEY, [coin], [(37_000, script_of_key(OTHER))]).signed()
    txid = ask(desk, "sendrawtransaction", tx_hex=raw.hex())
    assert bytes.fromhex(txid)[::-1] == CTransaction.deserialize(raw).GetTxid()
    assert txid in desk.mempool()
    for wrong in (None, 5, "0", "zz", raw.hex().upper()):
        assert desk.name_of("sendrawtransaction", {"tx_hex": wrong}) == "InvalidHex"
    largest = "00" * 400_000
    assert desk.name_of("sendrawtransaction", {"tx_hex": largest}) != "InvalidParams"
    assert desk.name_of("sendrawtransaction", {"tx_hex": largest + "00"}) == "InvalidParams"
    again = Spend(OTHER, [coin], [(37_000, script_of_key(OTHER))]).signed()
    assert desk.name_of("sendrawtransaction", {"tx_hex": again.hex()}) == "BroadcastRefused"


PACKAGES: dict[str, list[Any]] = {
    "InvalidParams": [None, 5, "00", {}, [], ["00"] * 3, ["00" * 400_001]],
    "InvalidHex": [[None], [5], [["00"]], ["xx"], ["0"]],
    "BroadcastRefused": [[""], ["00"], ["00", "00"]],
}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_one_or_two_transactions(desk: Desk, name: str) -> None:
    for package in PACKAGES[name]:
        assert desk.name_of("submitpackage", {"package": package}) == name


# The ledger ---------------------------------------------------------------------------------------------------------


def test_assets_are_told_a_hundred_at_a_time(desk: Desk) -> None:
    (row,) = ask(desk, "get_asset_info", assets=["XCP", "NOSUCHASSET"])
    assert (row["asset"], row["asset_id"]) == ("XCP", "1")
    assert ask(desk, "get_asset_info", asset="XCP") == [row]
    assert ask(desk, "get_asset_info", assets=["NOSUCHASSET"], asset="XCP") == [row]
    assert ask(desk, "get_asset_info", assets=["XCP"] * 20)[0] == row
    for wrong in (["XCP"] * 101, "XCP", None, ["XCP", 5], [None], {"XCP": 1}):
        assert desk.name_of("get_asset_info", {"assets": wrong}) == "InvalidParams"
    assert desk.name_of("get_asset_info", {"asset": 5}) == "InvalidParams"
    assert "XCP" in {item["asset_name"] for item in ask(desk, "get_assets")}


def test_the_nodes_state_and_the_fee_are_told(desk: Desk) -> None:
    info = ask(desk, "get_running_info")
    assert info["bitcoin_block_count"] == info["last_block"]["block_index"] == desk.node.bitcoin("getblockcount")
    assert info["network"] == "regtest"
    assert info["fee_rate"] is None  # the node has no estimate
    assert ask(desk, "fee_per_kb", conf_target=1) == 1000


@pytest.mark.parametrize(
    "filters",
    [
        *((), [], None, 5, "destination", [5], [[RIGHT]], [RIGHT, RIGHT]),
        *(RIGHT | {"field": field} for field in ("source", "address", None, ["destination"])),
        *(RIGHT | {"op": op} for op in ("!=", ">", None, ["=="])),
        *(RIGHT | {"value": value} for value in (None, 5, [ADDRESS], {"a": 1})),
        {"field": "destination", "op": "=="},
    ],
    ids=str,
)
def test_sends_are_asked_for_by_one_destination(desk: Desk, filters: Any) -> None:
    assert desk.name_of("get_sends", {"filters": filters}) == "InvalidParams"


@pytest.mark.parametrize("address", ["", "nowhere", "1BitcoinEaterAddressDontSendf59kuE", "../" + ADDRESS])
def test_a_destination_is_an_address_of_this_network(desk: Desk, address: str) -> None:
    params = {"filters": [RIGHT | {"value": address}]}
    assert desk.name_of("get_sends", params) in ("InvalidAddress", "WrongNetwork")


def test_the_ledgers_sends_to_an_address_are_told(desk: Desk) -> None:
    other = address_of(script_of_key(key_of("one that is sent to")))
    ask(desk, "faucet", address=other, asset="XCP", quantity=77)
    ask(desk, "generate", blocks=1)
    (row,) = ask(desk, "get_sends", filters=[RIGHT | {"value": other}])
    assert (row["asset"], row["quantity"], row["destination"], row["status"]) == ("XCP", 77, other, "valid")


# Regtest ------------------------------------------------------------------------------------------------------------


def test_the_hub_goes_by_a_fee_rate_that_was_set(desk: Desk) -> None:
    assert ask(desk, "feerate", rate=20, minimum=5) == {"fee_rate": 20, "minimum": 5}
    assert desk.hub.rate == Rate(20, guess=False)
    assert ask(desk, "get_running_info")["fee_rate"] == 20
    assert ask(desk, "feerate") == {"fee_rate": 20, "minimum": 5}
    assert desk.name_of("feerate", {"rate": -1}) == "InvalidParams"
    assert desk.name_of("feerate", {"minimum": "5"}) == "InvalidParams"
    assert ask(desk, "feerate", rate="none", minimum=1) == {"fee_rate": None, "minimum": 1}
    assert desk.hub.rate == Rate(20, guess=True)  # the last good one
    assert ask(desk, "get_running_info")["fee_rate"] is None


def test_what_makes_blocks_has_been_read_when_it_answers(desk: Desk) -> None:
    def tip() -> int:
        with desk.hub.book.transaction("test") as work:
            return desk.hub.follower.tip(work.db)

    before = tip()
    assert len(ask(desk, "generate")) == 1
    assert len(ask(desk, "generate", blocks=2)) == 2
    assert tip() == before + 3
    ask(desk, "reorganise", depth=1)
    assert tip() == desk.node.bitcoin("getblockcount") == before + 4


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("generate", {"blocks": -1}),
        ("generate", {"blocks": "1"}),
        ("reorganise", {"depth": -1}),
        ("faucet", {"address": ADDRESS, "btc": -1}),
        ("faucet", {"address": ADDRESS, "quantity": "5"}),
    ],
)
def test_nonsense_makes_no_blocks(desk: Desk, method: str, params: dict[str, Any]) -> None:
    before = desk.node.bitcoin("getblockcount")
    assert desk.name_of(method, params) not in ("InternalError", "HubRefused")
    assert desk.node.bitcoin("getblockcount") == before

"""The shapes of every answer of Counterparty Core and of Bitcoin Core that chain/ reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from bitcoin.core import CTransaction
from contract_support import Nodes, members_of
from taproot_support import ANCHOR, payment, shown

import picopayments_cli.chain
from picopayments_cli.chain import Query
from picopayments_cli.channel.drafts import txid_of
from picopayments_cli.channel.values import Outpoint

PATHS = {
    "v2/",
    "v2/addresses/balances",
    "v2/addresses/{address}",
    "v2/addresses/{address}/receives",
    "v2/assets",
    "v2/assets/{asset}",
    "v2/assets/{asset}/subassets",
    "v2/bitcoin/addresses/utxos",
    "v2/bitcoin/addresses/{address}/transactions",
    "v2/bitcoin/estimatesmartfee",
    "v2/bitcoin/transactions",
    "v2/bitcoin/transactions/{txid}",
    "v2/blocks/last",
    "v2/utxos/withbalances",
}
CALLS = {
    "estimatesmartfee",
    "getbestblockhash",
    "getblock",
    "getblockchaininfo",
    "getblockhash",
    "getblockheader",
    "getmempoolentry",
    "getnetworkinfo",
    "getrawmempool",
    "getrawtransaction",
    "gettxout",
    "gettxspendingprevout",
    "sendrawtransaction",
    "submitpackage",
}
HASH = re.compile("[0-9a-f]{64}")


def test_the_program_asks_for_nothing_else() -> None:
    text = "".join(path.read_text() for path in Path(picopayments_cli.chain.__file__).parent.glob("*.py"))
    named = {"name": "asset", "parent": "asset", "address": "address", "txid": "txid"}
    paths = set(re.findall(r'"(v2/[^"?]*)"', re.sub(r", safe=''\)", ")", text)))
    assert {
        re.sub(r"\{(?:quote\()?(.*?)\)?\}", lambda m: f"{{{_named(named, m[1])}}}", path) for path in paths
    } == PATHS
    assert {name for name in re.findall(r'\("([a-z]+)", ?\[|_call\("([a-z]+)"', text) for name in name if name} == CALLS


def _named(named: dict[str, str], text: str) -> str:
    return next(name for words, name in named.items() if text.startswith(words))


# Counterparty Core --------------------------------------------------------------------------------------------------


def test_the_server_tells_network_version_and_heights(nodes: Nodes) -> None:
    server = nodes.result("v2/")
    members_of(server, network=str, version=str, backend_height=int, counterparty_height=int, server_ready=bool)
    assert re.match(r"[0-9]+\.[0-9]+\.[0-9]+", server["version"])
    assert server["network"] == {"testnet": "testnet3"}.get(nodes.network.name, nodes.network.name)


def test_the_last_block_has_height_hash_and_time(nodes: Nodes) -> None:
    block = nodes.result("v2/blocks/last")
    members_of(block, block_index=int, block_hash=str, block_time=int)
    assert HASH.fullmatch(block["block_hash"])


def test_balances_are_grouped_by_asset(nodes: Nodes) -> None:
    status, body = nodes.get("v2/addresses/balances", addresses=nodes.address, type="address")
    assert (status, "next_cursor" in body) == (200, True)
    row = next(row for row in body["result"] if row["asset"] == nodes.asset)
    members_of(row, asset_longname=(str, type(None)), addresses=list)
    for holding in row["addresses"]:
        members_of(holding, address=(str, type(None)), utxo=(str, type(None)), quantity=int)
    assert nodes.held(nodes.script) == sum(item["quantity"] for item in row["addresses"] if item["utxo"] is None)


def test_assets_have_name_number_and_divisibility(nodes: Nodes) -> None:
    row = nodes.result(f"v2/assets/{nodes.asset}")
    members_of(row, asset=str, divisible=bool, asset_longname=(str, type(None)))
    listed = nodes.result("v2/assets", limit=3)
    for row in listed:
        members_of(row, asset=str, divisible=bool, asset_longname=(str, type(None)))
    assert isinstance(nodes.result(f"v2/assets/{nodes.asset}/subassets"), list)
    assert nodes.chain.asset("XCP").divisible


def test_coins_and_transactions_of_an_address(nodes: Nodes) -> None:
    rows = nodes.result("v2/bitcoin/addresses/utxos", addresses=nodes.address, unconfirmed="true")
    for row in rows:
        members_of(row, txid=str, vout=int, value=int, status=dict, address=str)
        members_of(row["status"], confirmed=bool)
    known = next(row for row in rows if row["status"]["confirmed"])
    members_of(known["status"], block_height=int)
    listed = nodes.result(f"v2/bitcoin/addresses/{nodes.address}/transactions", unconfirmed="true")
    for row in listed:
        members_of(row, txid=str, status=dict)
    raw = nodes.result(f"v2/bitcoin/transactions/{known['txid']}", result_format="hex")
    assert raw == nodes.bitcoin("getrawtransaction", known["txid"])
    coin = Outpoint(bytes.fromhex(known["txid"])[::-1], known["vout"])
    assert nodes.result("v2/utxos/withbalances", utxos=str(coin)) == {str(coin): False}
    assert nodes.chain.attached([coin]) == set()


def test_a_fee_rate_is_a_number_or_404(nodes: Nodes) -> None:
    status, body = nodes.get("v2/bitcoin/estimatesmartfee", conf_target=3)
    assert status == 404 or (status == 200 and isinstance(body["result"], int))


def test_the_whole_view_is_read(nodes: Nodes) -> None:
    address = nodes.address
    view = nodes.chain.view(Query([address], [address], [address], options=[address]))
    assert view.height == nodes.height
    assert {coin.outpoint.txid for coin in view.coins[address]} <= {entry.txid for entry in view.history[address]}
    assert view.options[address] & ~1 == 0


# Bitcoin Core -------------------------------------------------------------------------------------------------------


def test_blocks(nodes: Nodes) -> None:
    best = nodes.bitcoin("getbestblockhash")
    height = nodes.height
    assert nodes.bitcoin("getblockhash", height) == best
    assert nodes.bitcoin("getblockheader", best, True)["height"] == height
    assert (
        nodes.core.block(bytes.fromhex(best)[::-1])[4:36]
        == bytes.fromhex(nodes.bitcoin("getblockhash", height - 1))[::-1]
    )
    assert nodes.refused("getblockhash", height + 1_000_000)[0] == -8
    assert nodes.refused("getblock", 64 * "0", 0)[0] == -5
    assert nodes.core.block_hash(height + 1_000_000) is None


def test_what_tells_that_the_tip_is_current(nodes: Nodes) -> None:
    members_of(nodes.bitcoin("getblockchaininfo"), chain=str, blocks=int, headers=int, initialblockdownload=bool)
    members_of(nodes.bitcoin("getnetworkinfo"), connections=int)
    assert nodes.core.tip_is_current()


def test_estimates(nodes: Nodes) -> None:
    answer = nodes.bitcoin("estimatesmartfee", 3)
    assert isinstance(answer.get("feerate", 0), (int, float))
    assert (nodes.core.estimate() or 1) >= 1


def test_what_waits_in_the_mempool(nodes: Nodes) -> None:
    raw = payment(nodes.key, nodes.pair(), 1000, ANCHOR)
    nodes.send(raw)
    entry = nodes.bitcoin("getmempoolentry", shown(raw))
    members_of(entry, vsize=int, fees=dict, spentby=list)
    assert round(entry["fees"]["base"] * 10**8) == 1000
    assert shown(raw) in nodes.bitcoin("getrawmempool")
    out = nodes.bitcoin("gettxout", shown(raw), 0, True)
    members_of(out, confirmations=int, value=(int, float))
    assert out["confirmations"] == 0
    assert nodes.bitcoin("gettxout", shown(raw), 0, False) is None
    spent = CTransaction.deserialize(raw).vin[0].prevout
    outpoint = Outpoint(bytes(spent.hash), spent.n)
    assert nodes.core.spenders([outpoint, Outpoint(bytes(32), 0)]) == {outpoint: txid_of(raw)}


def test_transactions_come_in_batches(nodes: Nodes) -> None:
    coin = nodes.coin()
    found = nodes.core.transactions([coin.outpoint.txid, bytes(32)])
    assert set(found) == {coin.outpoint.txid}
    told: dict[str, Any] = nodes.core.verbose_transaction(coin.outpoint.txid)
    members_of(told, txid=str, vout=list, confirmations=int)
    assert nodes.core.depths([coin.outpoint, Outpoint(bytes(32), 0)]) == {coin.outpoint: told["confirmations"]}


@pytest.mark.parametrize("method", sorted(CALLS))
def test_every_call_is_known(nodes: Nodes, method: str) -> None:
    error = nodes.reply(method, *([None] * 9)).get("error")
    assert error is None or error["code"] != -32601

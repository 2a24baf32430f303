"""The regtest node answers over HTTP as Counterparty Core's v2 and Bitcoin Core do; its own methods steer it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bitcoin.core import CBlock, CTransaction
from regtest_support import (
    BTC,
    TIMEOUT,
    XCP,
    NodeProcess,
    Spend,
    address_of,
    key_of,
    running_node,
    script_of_key,
    send_outputs,
)

from picopayments_cli.channel.values import Outpoint

ALICE, BOB = key_of("Alice"), key_of("Bob")
ALICE_SCRIPT, BOB_SCRIPT = script_of_key(ALICE), script_of_key(BOB)
ALICE_ADDRESS, BOB_ADDRESS = address_of(ALICE_SCRIPT), address_of(BOB_SCRIPT)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node for questions that change nothing, with 1 bitcoin and 100 XCP of Alice's."""
    with running_node(tmp_path_factory.mktemp("shared")) as node:
        node.rpc("faucet", address=ALICE_ADDRESS, btc=BTC, asset="XCP", quantity=100 * XCP)
        yield node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    """A node that mines on demand, with 1 confirmed bitcoin and 100 XCP of Alice's."""
    with running_node(tmp_path, 0) as started:
        started.rpc("faucet", address=ALICE_ADDRESS, btc=BTC, asset="XCP", quantity=100 * XCP)
        started.rpc("generate", blocks=1)
        yield started


def payment(node: NodeProcess, quantity: int = 0) -> str:
    """Alice's signed payment to Bob, with XCP where a quantity is given, in hex."""
    (coin,) = node.get(f"bitcoin/addresses/{ALICE_ADDRESS}/utxos")
    outpoint = Outpoint.parse(f"{coin['txid']}:{coin['vout']}")
    change = (coin["value"] - 100_000, ALICE_SCRIPT)
    outputs = send_outputs(outpoint, 1, quantity, BOB_SCRIPT, change) if quantity else [(50_000, BOB_SCRIPT), change]
    return Spend(ALICE, [outpoint], outputs).signed().hex()


def error_of(node: NodeProcess, path: str) -> tuple[int, Any]:
    reply = node.session.get(f"{node.url}v2/{path}", timeout=TIMEOUT)
    return reply.status_code, reply.json()["error"]


def bitcoin_error(node: NodeProcess, method: str, *params: Any) -> Any:
    return node.post("bitcoin/", {"jsonrpc": "2.0", "id": 0, "method": method, "params": params})["error"]["code"]


# v2 -----------------------------------------------------------------------------------------------------------------


def test_the_server_says_where_it_stands(shared: NodeProcess) -> None:
    height = shared.bitcoin("getblockcount")
    root = shared.get("")
    assert (root["network"], root["server_ready"]) == ("regtest", True)
    assert root["backend_height"] == root["counterparty_height"] == height
    last = shared.get("blocks/last")
    assert (last["block_index"], last["block_hash"]) == (height, shared.bitcoin("getbestblockhash"))
    assert last["transaction_count"] == 1
    assert shared.get("healthz") == {"status": "Healthy"}
    headers = shared.session.get(f"{shared.url}v2/", timeout=TIMEOUT).headers
    assert headers["X-COUNTERPARTY-HEIGHT"] == headers["X-BITCOIN-HEIGHT"] == str(height)
    assert headers["X-COUNTERPARTY-READY"] == "True"


def test_balances_and_assets_have_counterpartys_shapes(shared: NodeProcess) -> None:
    row = {
        "address": ALICE_ADDRESS,
        "asset": "XCP",
        "asset_longname": None,
        "quantity": 100 * XCP,
        "utxo": None,
        "utxo_address": None,
    }
    for path in (f"addresses/{ALICE_ADDRESS}/balances", f"addresses/{ALICE_ADDRESS}/balances/xcp?type=address"):
        reply = shared.session.get(f"{shared.url}v2/{path}", timeout=TIMEOUT).json()
        assert reply == {"result": [row], "next_cursor": None, "result_count": 1}
    assert shared.get(f"addresses/{BOB_ADDRESS}/balances") == []
    assert shared.get(f"addresses/{ALICE_ADDRESS}/balances/TEST") == []
    grouped = shared.get(f"addresses/balances?addresses={BOB_ADDRESS},{ALICE_ADDRESS}&asset=XCP")
    assert [(group["asset"], group["total"]) for group in grouped] == [("XCP", 100 * XCP)]
    assert [part["address"] for part in grouped[0]["addresses"]] == [ALICE_ADDRESS]
    asset = shared.get("assets/xcp")
    assert (asset["asset"], asset["asset_id"], asset["divisible"]) == ("XCP", None, True)
    assert shared.get("assets") == [asset]
    assert error_of(shared, "assets/BTC") == (404, "Not found")


def test_coins_and_history_have_esploras_shapes(shared: NodeProcess) -> None:
    (coin,) = shared.get(f"bitcoin/addresses/{ALICE_ADDRESS}/utxos")
    assert (coin["value"], coin["amount"], coin["vout"]) == (BTC, 1.0, 0)
    block = shared.bitcoin("getblockhash", coin["status"]["block_height"])
    assert coin["status"]["block_hash"] == block
    assert shared.get(f"bitcoin/addresses/utxos?addresses={BOB_ADDRESS},{ALICE_ADDRESS}") == [
        coin | {"address": ALICE_ADDRESS}
    ]
    (entry,) = shared.get(f"bitcoin/addresses/{ALICE_ADDRESS}/transactions")
    raw = shared.get(f"bitcoin/transactions/{coin['txid']}?result_format=hex")
    tx = CTransaction.deserialize(bytes.fromhex(raw))
    assert entry["txid"] == coin["txid"]
    assert [out["scriptpubkey"] for out in entry["vout"]] == [bytes(out.scriptPubKey).hex() for out in tx.vout]
    assert [out["scriptpubkey_type"] for out in entry["vout"]] == ["p2pkh", "op_return", "p2pkh", "p2pkh"]
    assert "scriptpubkey_address" not in entry["vout"][1]
    spent = sum(txin["prevout"]["value"] for txin in entry["vin"])
    assert entry["fee"] == spent - sum(out["value"] for out in entry["vout"])
    assert entry["status"] == coin["status"]
    assert shared.get(f"utxos/withbalances?utxos={coin['txid']}:0,{coin['txid']}:1") == {
        f"{coin['txid']}:0": False,
        f"{coin['txid']}:1": False,
    }


def test_a_transaction_shows_confirmations_once_it_has_them(node: NodeProcess) -> None:
    raw = payment(node)
    reply = node.session.post(f"{node.url}v2/bitcoin/transactions", params={"signedhex": raw}, timeout=TIMEOUT)
    txid = reply.json()["result"]
    waiting = node.get(f"bitcoin/transactions/{txid}")
    assert (waiting["hex"], waiting["txid"]) == (raw, txid)
    assert "confirmations" not in waiting
    assert node.get(f"bitcoin/addresses/{BOB_ADDRESS}/utxos") == []
    assert node.get(f"bitcoin/addresses/{ALICE_ADDRESS}/utxos") == []  # spent in the mempool
    (coin,) = node.get(f"bitcoin/addresses/{BOB_ADDRESS}/utxos?unconfirmed=true")
    assert coin["status"] == {"confirmed": False}
    assert node.get(f"bitcoin/addresses/{BOB_ADDRESS}/transactions") == []
    assert len(node.get(f"bitcoin/addresses/{BOB_ADDRESS}/transactions?unconfirmed=true")) == 1
    node.rpc("generate", blocks=2)
    shown = node.get(f"bitcoin/transactions/{txid}")
    assert shown["confirmations"] == 2
    assert shown["vout"][0] == {
        "value": 0.0005,
        "n": 0,
        "scriptPubKey": shown["vout"][0]["scriptPubKey"] | {"address": BOB_ADDRESS, "type": "pubkeyhash"},
    }


def test_broadcasting_takes_a_form_and_names_the_nodes_reason(shared: NodeProcess) -> None:
    url = f"{shared.url}v2/bitcoin/transactions"
    reply = shared.session.post(url, data={"signedhex": "00"}, timeout=TIMEOUT)
    assert reply.status_code == 503
    assert reply.json()["error"].startswith("Error broadcasting transaction: TX decode failed")
    assert shared.session.post(url, json={"signedhex": "00"}, timeout=TIMEOUT).json() == {
        "error": "Missing required parameter: signedhex"
    }
    unknown = Spend(ALICE, [Outpoint(bytes(range(32)), 0)], [(5000, BOB_SCRIPT)]).signed().hex()
    assert shared.session.post(url, data={"signedhex": unknown}, timeout=TIMEOUT).json() == {
        "error": "Error broadcasting transaction: bad-txns-inputs-missingorspent"
    }


def test_what_can_not_be_answered_is_refused_as_counterparty_does(shared: NodeProcess) -> None:
    assert error_of(shared, "?x=1") == (400, "Unrecognized parameter(s): x")
    assert shared.get("?verbose=anything")
    assert error_of(shared, "bitcoin/addresses/xx/utxos") == (400, "Invalid address: xx")
    assert error_of(shared, f"bitcoin/addresses/{ALICE_ADDRESS}/utxos?unconfirmed=maybe")[0] == 400
    assert error_of(shared, f"addresses/{ALICE_ADDRESS}/balances?limit=0")[0] == 400
    assert error_of(shared, f"bitcoin/transactions/{'ab' * 32}")[0] == 503
    assert error_of(shared, "nothing/here") == (404, "Not found")
    assert error_of(shared, "addresses/balances") == (400, "Missing required parameter: addresses")
    assert shared.session.get(f"{shared.url}v2/bitcoin/transactions", timeout=TIMEOUT).status_code == 405


def test_an_address_has_the_options_that_it_was_given(node: NodeProcess) -> None:
    assert node.get(f"addresses/{ALICE_ADDRESS}") == {"address": ALICE_ADDRESS, "options": 0, "block_index": None}
    node.rpc("setaddressoptions", address=ALICE_ADDRESS, options=1)
    assert node.get(f"addresses/{ALICE_ADDRESS}") == {"address": ALICE_ADDRESS, "options": 1, "block_index": None}
    assert error_of(node, "addresses/xx") == (400, "Invalid address: xx")


def test_an_index_of_addresses_is_as_late_as_it_was_told_to_be(node: NodeProcess) -> None:
    node.rpc("faucet", address=ALICE_ADDRESS, btc=50_000)
    node.rpc("generate", blocks=2)
    txids = node.rpc("faucet", address=ALICE_ADDRESS, btc=60_000)
    seen = {}
    for delay in (None, 0, 1, 2, None):
        assert node.rpc("setindexdelay", blocks=delay) == delay
        coins = node.get(f"bitcoin/addresses/utxos?addresses={ALICE_ADDRESS}&unconfirmed=true")
        history = node.get(f"bitcoin/addresses/{ALICE_ADDRESS}/transactions?unconfirmed=true")
        seen[delay] = (sorted(coin["value"] for coin in coins)[:-1], len(history) - 1)  # it had 1 BTC before
    assert seen == {None: ([50_000, 60_000], 2), 0: ([50_000], 1), 1: ([50_000], 1), 2: ([], 0)}
    assert node.bitcoin("gettxout", txids[-1], 0) is not None
    with pytest.raises(Exception, match="blocks is"):
        node.rpc("setindexdelay", blocks=-1)


def test_a_fee_rate_is_estimated_only_once_it_is_set(node: NodeProcess) -> None:
    assert error_of(node, "bitcoin/estimatesmartfee") == (404, "Not found")
    assert node.bitcoin("estimatesmartfee", 3)["errors"]
    node.rpc("setfeerate", sat_per_kvb=58_675)
    assert node.get("bitcoin/estimatesmartfee?conf_target=3") == 58_675
    assert node.bitcoin("estimatesmartfee", 3) == {"feerate": 0.00058675, "blocks": 3}
    node.rpc("setfeerate", sat_per_kvb=1000)
    assert node.get("bitcoin/estimatesmartfee") == 1024
    node.rpc("setfeerate", sat_per_kvb=None)
    assert error_of(node, "bitcoin/estimatesmartfee")[0] == 404


def test_a_cached_server_is_as_stale_as_a_real_one(tmp_path: Path) -> None:
    with running_node(tmp_path, 0, "--cached") as node:
        node.rpc("faucet", address=ALICE_ADDRESS, btc=BTC)
        assert node.get(f"bitcoin/addresses/{ALICE_ADDRESS}/utxos") == []
        node.rpc("generate", blocks=1)
        txid = node.bitcoin("sendrawtransaction", payment(node))
        shown = node.get(f"bitcoin/transactions/{txid}")
        path = f"bitcoin/addresses/{ALICE_ADDRESS}/utxos"
        assert len(node.get(path)) == 1  # kept since before the broadcast
        assert node.get(f"{path}?verbose=nonce") == []
        node.rpc("generate", blocks=3)
        assert len(node.get(path)) == 1
        assert node.get(f"bitcoin/transactions/{txid}") == shown  # no confirmations, for ever
        assert node.bitcoin("getrawtransaction", txid, True)["confirmations"] == 3


# Controls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "api/", "rpc/", "v1/", "api", "v1"])
def test_there_is_no_v1_as_with_todays_counterparty_core(shared: NodeProcess, path: str) -> None:
    asked = {"jsonrpc": "2.0", "id": 7, "method": "get_running_info", "params": {}}
    reply = shared.session.post(shared.url + path, json=asked, timeout=TIMEOUT)
    assert (reply.status_code, reply.json()) == (404, {"error": "Not found"})


def test_what_bitcoin_core_refuses_is_503_as_with_todays_counterparty_core(node: NodeProcess) -> None:
    raw = payment(node)
    sent = node.session.post(f"{node.url}v2/bitcoin/transactions", data={"signedhex": raw[:-8] + "01000000"})
    assert sent.status_code == 503
    assert sent.json()["error"].startswith("Error broadcasting transaction: ")
    status, text = error_of(node, f"bitcoin/transactions/{'ab' * 32}?result_format=hex")
    assert (status, text.partition(". ")[0]) == (503, "No such mempool or blockchain transaction")


def test_unknown_transactions_methods_and_addresses_are_refused(shared: NodeProcess) -> None:
    def failure(method: str, **params: Any) -> Any:
        return shared.post("regtest/", {"jsonrpc": "2.0", "id": 0, "method": method, "params": params})["error"]

    assert failure("nothing")["code"] == -32601
    assert failure("faucet", address="xx")["data"]["type"] == "InvalidAddress"
    assert failure("faucet", address=BOB_ADDRESS, btc=-1)["data"]["type"] == "InvalidQuantity"
    for name in ("ABCD", "test", "BTC", "XCP.child", "TEST..child"):
        assert failure("faucet", address=BOB_ADDRESS, asset=name, quantity=1)["data"]["type"] == "InvalidAsset"
    assert failure("faucet", address=BOB_ADDRESS, quantity=10**6 * XCP)["data"]["type"] == "InsufficientFunds"
    assert failure("faucet", address=BOB_ADDRESS, btc=10**6 * BTC)["data"]["type"] == "InsufficientBitcoin"
    assert failure("generate", blocks="many")["data"]["type"] == "InvalidParams"


# Bitcoin Core -------------------------------------------------------------------------------------------------------


def test_blocks_are_followed_from_the_first_to_the_tip(shared: NodeProcess) -> None:
    tip = shared.bitcoin("getblockcount")
    previous = None
    for height in (*range(3), tip - 1, tip):
        found = shared.bitcoin("getblockhash", height)
        header = shared.bitcoin("getblockheader", found)
        assert (header["height"], header["confirmations"]) == (height, tip - height + 1)
        block = CBlock.deserialize(bytes.fromhex(shared.bitcoin("getblock", found, 0)))
        assert block.GetHash()[::-1].hex() == found
        assert shared.bitcoin("getblock", found)["tx"] == [tx.GetTxid()[::-1].hex() for tx in block.vtx]
        if previous is not None and height != tip - 1:
            assert header["previousblockhash"] == previous
        previous = found
    assert shared.bitcoin("getbestblockhash") == previous
    assert "nextblockhash" not in shared.bitcoin("getblockheader", previous)
    assert shared.bitcoin("getblockchaininfo")["blocks"] == tip
    assert bitcoin_error(shared, "getblockhash", tip + 1) == -8
    assert bitcoin_error(shared, "getblockheader", "ab" * 32) == -5


def test_blocks_that_a_reorganisation_dropped_are_still_there(node: NodeProcess) -> None:
    node.rpc("generate", blocks=2)
    tip = node.bitcoin("getblockcount")
    before = node.bitcoin("getblockheader", node.bitcoin("getbestblockhash"))
    answer = node.rpc("reorganise", depth=2)
    assert (len(answer["disconnected"]), len(answer["connected"])) == (2, 3)
    assert answer["disconnected"][0] == before["hash"]
    assert node.bitcoin("getbestblockhash") == answer["connected"][-1]
    stale = node.bitcoin("getblockheader", before["hash"])
    assert (stale["confirmations"], stale["height"], stale["mediantime"]) == (-1, tip, before["mediantime"])
    assert stale["previousblockhash"] == answer["disconnected"][1]
    assert node.bitcoin("getblock", before["hash"], 0)
    assert node.bitcoin("getblockcount") == tip + 1
    refused = node.post("regtest/", {"jsonrpc": "2.0", "id": 0, "method": "reorganise", "params": {"depth": 1000}})
    assert refused["error"]["data"]["type"] == "InvalidTime"


def test_transactions_are_broadcast_and_found(node: NodeProcess) -> None:
    raw = payment(node, 7 * XCP)
    txid = node.bitcoin("sendrawtransaction", raw)
    assert node.bitcoin("sendrawtransaction", raw) == txid
    assert node.bitcoin("getrawmempool") == [txid]
    assert node.bitcoin("getrawmempool", True)[txid]["fees"]["base"] == 0.00099454
    assert node.bitcoin("getmempoolinfo")["size"] == 1
    assert node.bitcoin("gettxout", txid, 0)["confirmations"] == 0
    assert node.bitcoin("gettxout", txid, 0, False) is None
    assert node.bitcoin("getrawtransaction", txid) == raw
    node.rpc("generate", blocks=1)
    assert node.bitcoin("getrawmempool") == []
    assert node.bitcoin("gettxout", txid, 0)["confirmations"] == 1
    assert node.bitcoin("getrawtransaction", txid, True)["blockhash"] == node.bitcoin("getbestblockhash")
    assert node.get(f"addresses/{BOB_ADDRESS}/balances")[0]["quantity"] == 7 * XCP
    assert bitcoin_error(node, "sendrawtransaction", raw) == -27
    assert bitcoin_error(node, "sendrawtransaction", raw[:-8] + "01000000") == -25
    assert bitcoin_error(node, "sendrawtransaction", "00") == -22
    assert bitcoin_error(node, "getrawtransaction", "ab" * 32) == -5


def test_both_forms_of_json_rpc_and_batches_are_answered(shared: NodeProcess) -> None:
    tip = shared.bitcoin("getblockcount")
    assert shared.post("bitcoin/", {"method": "getblockcount", "params": [], "id": 3}) == {
        "result": tip,
        "error": None,
        "id": 3,
    }
    old = shared.session.post(f"{shared.url}bitcoin/", json={"method": "nothing", "id": 3}, timeout=TIMEOUT)
    assert (old.status_code, old.json()["error"]["code"]) == (404, -32601)
    named = {"jsonrpc": "2.0", "method": "getblockhash", "params": {"height": tip}, "id": 1}
    wrong = {"jsonrpc": "2.0", "method": "getblockhash", "params": [1, 2, 3], "id": 2}
    first, second = shared.post("bitcoin/", [named, wrong])
    assert first["result"] == shared.bitcoin("getbestblockhash")
    assert second["error"]["code"] == -32602
    broken = shared.session.post(f"{shared.url}bitcoin/", data=b"{", timeout=TIMEOUT)
    assert broken.json()["error"]["code"] == -32700


# Mining policy ------------------------------------------------------------------------------------------------------


def test_a_broadcast_answers_with_ledger_and_index_at_the_tip(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        node.rpc("faucet", address=ALICE_ADDRESS, btc=BTC, asset="XCP", quantity=100 * XCP)
        before = node.bitcoin("getblockcount")
        node.bitcoin("sendrawtransaction", payment(node, XCP))
        assert node.get("")["counterparty_height"] == before + 1
        assert node.get(f"addresses/{BOB_ADDRESS}/balances")[0]["quantity"] == XCP
        assert len(node.get(f"bitcoin/addresses/{BOB_ADDRESS}/utxos")) == 1


def test_blocks_come_by_themselves_where_a_block_time_is_set(tmp_path: Path) -> None:
    with running_node(tmp_path, 1) as node:
        height = node.bitcoin("getblockcount")
        node.rpc("faucet", address=ALICE_ADDRESS, btc=BTC)
        deadline = time.monotonic() + TIMEOUT
        while node.bitcoin("getblockcount") == height:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(node.get(f"bitcoin/addresses/{ALICE_ADDRESS}/utxos")) == 1


def test_a_node_with_a_parent_leaves_stderr_to_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "picopayments_cli.regtest", "--basedir", str(tmp_path), "--port", "0"]
    pipe = subprocess.PIPE
    node = subprocess.Popen([*command, "--with-parent"], text=True, stdin=pipe, stdout=pipe, stderr=pipe)
    assert node.stdout is not None
    assert json.loads(node.stdout.readline())["network"] == "regtest"
    assert node.communicate(timeout=60) == ("", "")
    assert node.returncode == 0

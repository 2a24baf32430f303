"""The node's moods: its servers are away, late or silent, and say so as Counterparty Core does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from regtest_support import NodeProcess, address_of, key_of, running_node, script_of_key

ALICE = script_of_key(key_of("Alice"))
ADDRESS = address_of(ALICE)
UNKNOWN = "bitcoin/transactions/" + 64 * "a"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with running_node(tmp_path_factory.mktemp("moody"), 0) as found:
        found.rpc("generate", blocks=5)  # the ledger stands no further back than the treasury's funds
        yield found


@pytest.fixture
def node(running: NodeProcess) -> Iterator[NodeProcess]:
    """A node that is well before and after."""
    running.rpc("setmood")
    yield running
    running.rpc("setmood")


def told(node: NodeProcess, path: str) -> tuple[int, Any]:
    reply = node.session.get(f"{node.url}v2/{path}", timeout=20)
    return reply.status_code, reply.json()


def test_an_index_that_is_away_is_400_and_the_rest_goes_on(node: NodeProcess) -> None:
    node.rpc("setmood", electrs=False)
    for path in (f"bitcoin/addresses/{ADDRESS}/utxos", f"bitcoin/addresses/{ADDRESS}/transactions"):
        status, body = told(node, path)
        assert (status, body["error"].startswith("All Electrs backends failed. Last error: ")) == (400, True)
    assert told(node, f"bitcoin/addresses/utxos?addresses={ADDRESS}")[0] == 400
    assert told(node, f"addresses/{ADDRESS}/balances")[0] == 200
    assert told(node, "bitcoin/getmempoolinfo")[0] == 200
    node.rpc("setmood")
    assert told(node, f"bitcoin/addresses/{ADDRESS}/utxos")[0] == 200


def test_a_bitcoin_node_behind_that_is_away_is_503_and_the_ledger_goes_on(node: NodeProcess) -> None:
    node.rpc("setmood", backend=False)
    for path, method in (
        (UNKNOWN, "getrawtransaction"),
        ("bitcoin/estimatesmartfee?conf_target=3", "estimatesmartfee"),
        ("bitcoin/getmempoolinfo", "getmempoolinfo"),
    ):
        status, body = told(node, path)
        assert (status, body["error"].startswith(f"Error calling {method}: ")) == (503, True)
    reply = node.session.post(node.url + "v2/bitcoin/transactions", data={"signedhex": "00"}, timeout=20)
    assert reply.status_code == 503
    assert reply.json()["error"].startswith("Error broadcasting transaction: Error calling sendrawtransaction: ")
    assert told(node, f"addresses/{ADDRESS}/balances")[0] == 200
    assert told(node, f"bitcoin/addresses/{ADDRESS}/utxos")[0] == 200
    assert node.bitcoin("getblockcount") == node.get("")["backend_height"]


def test_bitcoin_core_itself_may_be_away(node: NodeProcess) -> None:
    node.rpc("setmood", bitcoin=False)
    asked = {"jsonrpc": "2.0", "id": 0, "method": "getblockcount", "params": []}
    assert node.session.post(node.url + "bitcoin/", json=asked, timeout=20).status_code == 503
    assert told(node, "bitcoin/getmempoolinfo")[0] == 200


def test_a_ledger_that_stands_still_says_that_it_is_at_the_tip(node: NodeProcess) -> None:
    node.rpc("faucet", address=ADDRESS, asset="XCP", quantity=7)
    node.rpc("generate")
    tip = node.bitcoin("getblockcount")
    node.rpc("setmood", behind=2)
    assert node.get("blocks/last")["block_index"] == tip - 2
    assert node.get("blocks/last")["block_hash"] == node.bitcoin("getblockhash", tip - 2)
    assert {node.get("")[name] for name in ("backend_height", "counterparty_height")} == {tip}
    assert node.get(f"addresses/{ADDRESS}/balances") == []
    node.rpc("generate", blocks=2)
    assert node.get("blocks/last")["block_index"] == tip
    assert [row["quantity"] for row in node.get(f"addresses/{ADDRESS}/balances")] == [7]
    node.rpc("setmood", behind=3)
    node.rpc("reorganise", depth=2)
    assert node.get("blocks/last")["block_index"] == tip
    node.rpc("setmood")
    assert node.get("blocks/last")["block_hash"] == node.bitcoin("getbestblockhash")
    assert [row["quantity"] for row in node.get(f"addresses/{ADDRESS}/balances")] == [7]


@pytest.mark.parametrize("path", ["v2/", "bitcoin/"])
def test_answers_may_hang(node: NodeProcess, path: str) -> None:
    node.rpc("setmood", hang=1.0)
    begun = time.monotonic()
    if path == "bitcoin/":
        node.bitcoin("getblockcount")
    else:
        node.get("")
    assert time.monotonic() - begun >= 1
    begun = time.monotonic()
    node.rpc("setmood")
    assert time.monotonic() - begun < 1


def test_a_mood_has_bounds(node: NodeProcess) -> None:
    for params in ({"behind": -1}, {"behind": 1001}, {"hang": -1}, {"hang": 601}, {"electrs": 1}):
        reply = node.post("regtest/", {"jsonrpc": "2.0", "id": 0, "method": "setmood", "params": params})
        assert reply["error"]["data"]["type"] == "InvalidParams"

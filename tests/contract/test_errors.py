"""The errors of both nodes by which the program tells a refusal from an outage."""

from __future__ import annotations

import pytest
from contract_support import Nodes, derived
from regtest_support import script_of_key
from taproot_support import payment

from picopayments_cli.chain import Query
from picopayments_cli.errors import BroadcastRefused, NodeUnreachable, UnknownAsset, UnknownTransaction

UNKNOWN = 32 * "ab"
NO_SUCH = "No such mempool or blockchain transaction"


def test_an_unknown_transaction(nodes: Nodes) -> None:
    code, text = nodes.refused("getrawtransaction", UNKNOWN)
    assert (code, text.startswith(NO_SUCH)) == (-5, True)
    status, body = nodes.get(f"v2/bitcoin/transactions/{UNKNOWN}", result_format="hex")
    assert (status, body["error"].startswith(NO_SUCH)) == (503, True)
    assert nodes.refused("getmempoolentry", UNKNOWN)[0] == -5
    with pytest.raises(UnknownTransaction):
        nodes.core.verbose_transaction(bytes.fromhex(UNKNOWN))
    assert nodes.chain.view(Query(transactions=[bytes.fromhex(UNKNOWN)])).transactions == {}


def test_a_refused_broadcast(nodes: Nodes) -> None:
    raw = payment(nodes.key, nodes.pair(), 0, version=2)
    code, text = nodes.refused("sendrawtransaction", raw.hex())
    assert (code, text.startswith("min relay fee not met")) == (-26, True)
    status, body = nodes.post("v2/bitcoin/transactions", signedhex=raw.hex())
    assert status == 503
    assert body["error"].startswith("Error broadcasting transaction: min relay fee not met")
    with pytest.raises(BroadcastRefused):
        nodes.core.broadcast(raw)
    status, body = nodes.post("v2/bitcoin/transactions")
    assert (status, body["error"]) == (400, "Missing required parameter: signedhex")


def test_an_address_that_nobody_has_used(nodes: Nodes) -> None:
    stranger = nodes.address_of(script_of_key(derived(nodes.key, "stranger")))
    told = nodes.result(f"v2/addresses/{stranger}")
    assert (told["address"], told["options"]) == (stranger, 0)
    assert nodes.result(f"v2/addresses/{stranger}/receives") == []
    assert nodes.result("v2/addresses/balances", addresses=stranger, type="address") == []
    assert nodes.result("v2/bitcoin/addresses/utxos", addresses=stranger, unconfirmed="true") == []
    status, body = nodes.get("v2/bitcoin/addresses/utxos", addresses="nonsense", unconfirmed="true")
    assert (status, body["error"]) == (400, "Invalid address: nonsense")


def test_an_unknown_asset(nodes: Nodes) -> None:
    status, body = nodes.get("v2/assets/NOSUCHASSETQQ")
    assert (status, body["error"]) == (404, "Not found")
    with pytest.raises(UnknownAsset):
        nodes.chain.asset("NOSUCHASSETQQ")
    assert nodes.get("v2/assets/BTC")[0] == 404


@pytest.mark.parametrize("path", ["", "v1/", "api/", "rpc/"])
def test_the_first_interface_is_gone(nodes: Nodes, path: str) -> None:
    status, body = nodes.get(path)
    assert (status, body) == (404, {"error": "Not found"})


def test_an_unknown_parameter(nodes: Nodes) -> None:
    status, body = nodes.get("v2/blocks/last", nonsense=1)
    assert (status, body["error"]) == (400, "Unrecognized parameter(s): nonsense")


def test_an_index_that_is_away_is_400_and_no_refusal(nodes: Nodes) -> None:
    with nodes.mood(electrs=False):
        status, body = nodes.get("v2/bitcoin/addresses/utxos", addresses=nodes.address, unconfirmed="true")
        assert (status, body["error"].startswith("All Electrs backends failed. Last error: ")) == (400, True)
        with pytest.raises(NodeUnreachable):
            nodes.chain.view(Query(coins=[nodes.address]))


def test_a_bitcoin_node_behind_that_is_away_is_503_and_no_refusal(nodes: Nodes) -> None:
    with nodes.mood(backend=False):
        status, body = nodes.get(f"v2/bitcoin/transactions/{UNKNOWN}", result_format="hex")
        assert (status, body["error"].startswith("Error calling getrawtransaction: ")) == (503, True)
        status, body = nodes.post("v2/bitcoin/transactions", signedhex="00")
        start = "Error broadcasting transaction: Error calling sendrawtransaction: "
        assert (status, body["error"].startswith(start)) == (503, True)

"""Strangers may ask a hub's nodes through it for the methods on the list, and for nothing else."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from network_support import WAIT, HubProcess, running_hub
from regtest_support import running_node
from servers import Relay, port_of

from picopayments_cli import config
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.hub.book import Book
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.rounds import Rounds
from picopayments_cli.regtest.bitcoin_rpc import BitcoinRpc
from picopayments_cli.regtest.methods import Methods as NodeMethods

PACKAGE = Path(config.__file__).parent
PROXIED = {
    *("get_balances", "get_unspent_txouts", "search_raw_transactions", "getrawtransaction", "getrawtransaction_batch"),
    *("sendrawtransaction", "get_assets", "get_asset_info", "get_running_info", "fee_per_kb", "utxos_with_balances"),
    *("get_address_options", "get_asset_spellings", "get_sends", "submitpackage"),
    *("generate", "faucet", "feerate", "reorganise"),  # on regtest
}
OWN = {
    *("mph_status", "mph_key", "mph_request", "mph_deposit", "mph_sync", "mph_close", "mph_receipts", "mph_waiting"),
}
BITCOIN_CORES = {
    *("dumpprivkey", "dumpwallet", "importprivkey", "listunspent", "sendtoaddress", "signrawtransactionwithwallet"),
    *("stop", "getblock", "submitblock", "generatetoaddress", "invalidateblock", "addnode", "setban"),
    *("getrpcinfo", "logging", "getnewaddress", "gettxout", "scantxoutset", "estimatesmartfee", "getblockchaininfo"),
}
COUNTERPARTYS = {
    *("sql", "create_send", "create_issuance", "get_credits", "get_debits", "get_messages", "get_tx_info", "unpack"),
    *("get_supply", "get_block_info", "get_blocks", "get_element_counts", "search_pubkey", "create_burn", "healthz"),
}
INTERNALS = {
    *("__init__", "__class__", "__dict__", "_info", "_make_blocks", "methods", "table", "status", "sync", "close"),
    *("request", "deposit", "once", "round", "stop", "prepare", "wake", "start", "note", "", " mph_status", "Stop"),
}


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HubProcess, Relay]]:
    """A hub, and what passes between it and its node."""
    folder = tmp_path_factory.mktemp("proxied")
    with running_node(folder / "chain", 0) as node:
        relay = Relay(port_of(node.url))
        options = ("--counterparty-url", f"http://127.0.0.1:{relay.port}/")
        with running_hub(folder / "hub", *options, ports=()) as hub:
            yield hub, relay
        relay.stop()


def _code(hub: HubProcess, method: str) -> int:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"no such": "argument"}}
    reply = requests.post(hub.ready["hub_url"], json=body, timeout=WAIT).json()
    return int(reply["error"]["code"])


def test_only_the_methods_on_the_list_are_handed_on(proxied: tuple[HubProcess, Relay]) -> None:
    hub, relay = proxied
    nodes = {name for of in (NodeMethods, BitcoinRpc) for name in vars(of) if not name.startswith("__")}
    internal = {name for of in (Hub, Rounds, Book) for name in vars(of)}
    asked = nodes | internal | BITCOIN_CORES | COUNTERPARTYS | INTERNALS | PROXIED | OWN
    assert len(asked) > 90
    answered = {method for method in asked if _code(hub, method) != -32601}
    assert answered == PROXIED | OWN
    wanted = {name.encode() for name in asked - PROXIED - OWN if len(name) > 8}
    traffic = relay.traffic()
    assert {name for name in wanted if b'"method": "' + name + b'"' in traffic} <= _asked_by_the_hub_itself()


def _asked_by_the_hub_itself() -> set[bytes]:
    text = "".join(path.read_text() for path in (PACKAGE / "chain").glob("*.py"))
    return {name.encode() for name in re.findall(r'"([a-z_]+)"', text)}


TRICKS = (
    *("../../bitcoin/", "..%2f..%2f", "%2e%2e/%2e%2e/", "XCP/../..", "XCP?limit=1", "XCP#x", "XCP%00"),
    *("//h/", "\\..\\"),
)


def test_no_path_leads_to_the_node(proxied: tuple[HubProcess, Relay]) -> None:
    hub, relay = proxied
    base = hub.ready["hub_url"].removesuffix("api/")
    port = port_of(base)
    for path in ("v2/blocks", "api/v2/addresses", "bitcoin/", "regtest/", *TRICKS):
        with socket.create_connection(("127.0.0.1", port), WAIT) as connection:
            connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert b"Parse error" in answer or b"400 Bad Request" in answer, (path, answer)
    before = relay.paths()
    for trick in TRICKS:
        for method, params in (
            ("get_asset_info", {"assets": [trick]}), ("get_unspent_txouts", {"address": trick}),
            ("search_raw_transactions", {"address": trick}), ("getrawtransaction", {"tx_hash": trick}),
            ("get_balances", {"filters": [{"field": "address", "op": "==", "value": trick}]}),
            ("sendrawtransaction", {"tx_hex": trick}), ("mph_status", {"assets": [trick]}),
            ("utxos_with_balances", {"utxos": [trick]}),
        ):  # fmt: skip
            with contextlib.suppress(PicopaymentsError):
                assert hub.rpc.call(method, params, retry=False) == []
    assert {path for path in relay.paths() - before if not path.startswith(("/regtest/", "/v2/", "/bitcoin/"))} == set()
    assert [path for path in relay.paths() if ".." in path or "//" in path or "\\" in path] == []

"""The hub as a server: over HTTP, with its rounds in a thread of their own."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import urlsplit

import requests
from hub_support import Client, running_desk, serving

from picopayments_cli.channel.status import StatusReply


def test_a_hub_serves_its_methods_and_opens_connections_by_itself(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk:
        alice = Client(desk, "alice")
        alice.agree()
        alice.endow()
        desk.mine()
        alice.deposit()
        with serving(desk) as url:
            deadline = time.monotonic() + 20
            while desk.account(alice.handle).stage != "open" and time.monotonic() < deadline:
                desk.node.rpc("generate", blocks=1)
                desk.rounds.await_round()
            body = {"jsonrpc": "2.0", "id": 1, "method": "mph_status", "params": {"handles": [alice.handle.hex()]}}
            answer = requests.post(url, json=body, timeout=20).json()
        status = StatusReply.parse(answer["result"])
        assert status.connections[alice.handle].status == "open"
        assert status.terms["XCP"].fee_rate == 1


def test_no_stranger_learns_where_the_hubs_nodes_are(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk, serving(desk) as url:
        desk.node.kill()
        filters = [{"field": "address", "op": "==", "value": desk.hub.address}]
        asked = {"mph_status": {}, "get_balances": {"filters": filters}, "get_running_info": {}}
        for method, params in asked.items():
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            text = requests.post(url, json=body, timeout=60).text
            assert "NodeUnreachable" in text
            assert "hub's operator" in text
            assert str(urlsplit(desk.node.url).port) not in text
            assert "refused" not in text  # the connection: a word of the node's side

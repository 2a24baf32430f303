"""The hub of protocol 3 as a server: over HTTP, with its rounds in a thread of their own."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import requests
from hub3_support import Client, running_desk

from picopayments_cli.channel3.status import StatusReply
from picopayments_cli.hub3.methods import Methods
from picopayments_cli.hub3.server import create_app
from picopayments_cli.web import WebServer


def test_a_hub_serves_its_methods_and_opens_connections_by_itself(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk:
        alice = Client(desk, "alice")
        alice.agree()
        alice.endow()
        desk.mine()
        alice.deposit()
        app = create_app(desk.rounds, Methods(desk.hub).table(), Methods.SLOW)
        server, urls = WebServer(app, host="127.0.0.1", port=0), []
        ready = threading.Event()

        def announce(url: str) -> None:
            urls.append(url)
            ready.set()

        thread = threading.Thread(target=server.run, args=(announce,))
        thread.start()
        try:
            assert ready.wait(20)
            deadline = time.monotonic() + 20
            while desk.account(alice.handle).stage != "open" and time.monotonic() < deadline:
                desk.node.rpc("generate", blocks=1)
                desk.rounds.loop.await_round()
            body = {"jsonrpc": "2.0", "id": 1, "method": "mph_status", "params": {}}
            answer = requests.post(f"{urls[0]}/api/", json=body, timeout=20).json()
        finally:
            server.stop()
            thread.join(20)
        status = StatusReply.parse(answer["result"])
        assert status.connections[alice.handle].status == "open"
        assert status.terms["XCP"].fee_rate == 1

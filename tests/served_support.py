"""A hub in a thread of the tests' own process: real files, database and HTTP, without the time that a process takes."""

from __future__ import annotations

import os
import queue
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from network_support import Network
from regtest_support import NodeProcess

from picopayments_cli.config import choose_network
from picopayments_cli.hub.database import Database, default_url
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.hub import Hub, Urls
from picopayments_cli.hub.methods import Methods
from picopayments_cli.hub.rounds import Rounds
from picopayments_cli.hub.server import create_app
from picopayments_cli.hub.stale_database import Witness, see_age
from picopayments_cli.rpc import RpcClient
from picopayments_cli.web import WebServer

WAIT = 30.0  # seconds


class HubThread:
    """``picopayments-hub --regtest --counterparty-url NODE`` in a thread."""

    def __init__(self, basedir: Path, node_url: str, port: int = 0, *, restored: bool = False) -> None:
        network = choose_network("regtest", os.environ)
        folder = Folder(basedir, network)
        with ExitStack() as stack:
            stack.enter_context(folder.locked())
            offer, key = folder.offer(), folder.key()
            self._database = Database(default_url(basedir, network.name))
            stack.callback(self._database.close)
            urls = Urls(node_url, f"{node_url}bitcoin/")
            self.hub = Hub(network, key, offer, self._database, urls, folder.marks_path)
            witness = Witness(folder.witness_path, self._database, self.hub.book)
            see_age(self.hub, witness, restored=restored)
            rounds = Rounds(self.hub, witness.note)
            stack.callback(rounds.stop)
            rounds.prepare()
            self._server = WebServer(create_app(rounds, Methods(self.hub).table(), Methods.SLOW), port=port)
            self._server.when_stopping = self.hub.book.arrivals.close
            ready: queue.Queue[str] = queue.Queue()
            self._thread = threading.Thread(target=self._server.run, args=(ready.put,))
            self._thread.start()
            self.url = f"{ready.get(timeout=WAIT)}/api/"
            self._stack = stack.pop_all()
        self.lives = True
        self._rpc = RpcClient(self.url)

    def call(self, method: str, **params: Any) -> Any:
        """The result of a method of the hub."""
        return self._rpc.call(method, params, retry=False)

    def stop(self) -> None:
        """End it."""
        self.lives = False
        self._server.stop()
        self._thread.join(WAIT)
        self._stack.close()


class QuickNetwork(Network):
    """A network whose hub is a thread on a node that there is, and dies of nothing but its end."""

    hub: HubThread  # type: ignore[assignment]

    def __init__(self, folder: Path, node: NodeProcess) -> None:
        self.folder, self.basedir = folder, folder / "hub"
        self._clients = 0
        self.hub = HubThread(self.basedir, node.url)
        self.hub_url, self.chain_url = self.hub.url, node.url

    def stop(self) -> None:
        """End the hub."""
        self.hub.stop()

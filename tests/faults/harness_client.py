"""A client inside the harness's process: the commands' own functions, on a folder and a hub of its own."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from network_support import DEPOSIT, Client, Network, key_in, wait_until
from picopayments_cli.channel2.deadlines import WATCHED_REVOKED, exposed
from picopayments_cli.channel2.keys import Key

from picopayments_cli import api
from picopayments_cli.channel.stages import CLOSED
from picopayments_cli.channel.values import Handle
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.session import Session
from picopayments_cli.config import Settings, choose_network

EXPIRE = 1000  # blocks, so that no deadline comes in between
ROUNDS = 30  # of a block and a sync, until a connection is settled
PATIENCE = 60.0


class HarnessClient:
    """A client; ``own_chain``: with a node of its own, else it sees the chain through its hub."""

    def __init__(self, network: Network, name: str, hub_url: str | None = None, *, own_chain: bool = True) -> None:
        self.network = network
        self.name = name
        self.basedir = network.folder / name
        self.hub_url = hub_url or network.hub_url
        self.chain_url = network.chain_url if own_chain else None
        self.timeout = PATIENCE
        self.files = Client(self.basedir, self.hub_url)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """The session of one command."""
        chosen = choose_network("regtest", os.environ)
        settings = Settings(chosen, self.basedir, self.hub_url, self.chain_url, timeout=self.timeout)
        session = Session(settings)
        try:
            yield session
        finally:
            session.close()

    def do(self, command: str, *args: Any, **kwargs: Any) -> Any:
        """Return what a command returns. Raises what it raises."""
        with self.session() as session:
            return getattr(api, command)(session, *args, **kwargs)

    def fund(self) -> HarnessClient:
        """Give it what the faucet gives, confirmed."""
        self.do("faucet")
        self.network.mine()
        return self

    def open(self, quantity: int = DEPOSIT, expire: int = EXPIRE) -> str:
        """The handle of a new connection, once it is open."""
        handle: str = self.do("connect", "XCP", quantity, expire)["handle"]
        self.wait_open(handle)
        return handle

    def wait_open(self, handle: str) -> None:
        """Mine a deposit, then the hub's, and wait until both say that the connection is open."""
        self.network.mine(2)
        wait_until(lambda: self.status_of(handle) == "open", "an open connection")
        wait_until(lambda: hub_balance(self.network, handle, "open") is not None, "a connection open at the hub")

    def status_of(self, handle: str) -> str:
        """Opening, open, closing or closed."""
        return str(self.do("status", handle)["connections"][handle]["status"])

    def connection(self, handle: str) -> Connection:
        """A connection as it is on disk."""
        return self.files.connection(handle)

    def guaranteed(self, handle: str) -> int:
        """The guaranteed balance, as what is on disk tells it."""
        return self.connection(handle).duplex.guaranteed

    def worn(self, handle: str) -> bool:
        """Whether a connection has so many revoked commits that another one is called for."""
        return len(exposed(self.connection(handle).duplex.sending)) > WATCHED_REVOKED // 2

    def handles(self) -> list[str]:
        """The handles on disk."""
        return self.files.handles()

    def key(self) -> Key:
        """The wallet's key."""
        return self.files.key

    def held(self) -> int:
        """Return what the wallet holds of the asset."""
        return int(self.do("balances")["XCP"])

    def settle(self) -> bool:
        """Close whatever is open, mine and sync until all is over; whether it came to that."""
        for handle in self.handles():
            if self.connection(handle).stage not in ("closing", CLOSED):
                self.do("close", handle)
        for _ in range(ROUNDS):
            if all(self.connection(handle).stage == CLOSED for handle in self.handles()):
                return True
            self.network.mine()
            self.do("sync")
        return False

    # Snapshots ------------------------------------------------------------------------------------------------------

    def copy(self, name: str) -> Path:
        """Keep a copy of all files."""
        kept = self.basedir.with_name(f"{self.name}.{name}")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.basedir, kept)
        return kept

    def restore(self, kept: Path) -> None:
        """Go back to a copy. (What an owner must never do; here the hub has answered the same in between.)"""
        shutil.rmtree(self.basedir)
        shutil.copytree(kept, self.basedir)


def hub_key(network: Network) -> Key:
    """The hub's key, from its file."""
    return key_in(network.basedir / "hub.regtest.wif")


def hub_balance(network: Network, handle: str, status: str | None = None) -> int | None:
    """Return what the hub says that it has in a connection; None where it does not list it (in that status)."""
    shown = network.hub.call("mph_status", assets=None)["connections"].get(handle)
    if shown is None or (status is not None and shown["status"] != status):
        return None
    return int(shown["balance"])


def handle_of(text: str) -> Handle:
    """A handle from hex."""
    return Handle(bytes.fromhex(text))


class Heard(logging.Handler):
    """Keeps what the program warns of, and nothing else is printed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def heard() -> Iterator[Heard]:
    """The program's warnings for the length of a ``with`` block."""
    logger, handler = logging.getLogger("picopayments_cli"), Heard()
    before = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [handler], False
    try:
        yield handler
    finally:
        logger.handlers[:], logger.propagate = before

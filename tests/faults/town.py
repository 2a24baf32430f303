"""A hub and clients of it in one process, on a node of their own: real files and HTTP, and a proxy on the line between.

Blocks are made when a part says so, and the hub's rounds are done with them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from channel_support import finish_commit, finish_payout, kernel_accepts
from hub_support import DELAY, DEPOSIT, Desk
from regtest_support import REGTEST, NodeProcess, address_of, running_node

from faults.proxy import Proxy, between
from faults.result import Result
from picopayments_cli import api, errors
from picopayments_cli.channel.drafts import txid_of
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, OPEN, REQUESTED
from picopayments_cli.channel.state import Receiving
from picopayments_cli.channel.transactions import compose_commit, compose_payout
from picopayments_cli.channel.values import Handle, Quantity, Token
from picopayments_cli.channel.wire import Payment
from picopayments_cli.client import life
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.session import Session
from picopayments_cli.config import Settings
from picopayments_cli.errors import PicopaymentsError, SyncIncomplete
from picopayments_cli.hub.account import Account
from picopayments_cli.hub.methods import Methods
from picopayments_cli.hub.proxy import Nodes
from picopayments_cli.hub.proxy import Proxy as HubProxy
from picopayments_cli.web import JsonRpcEndpoint

EXPIRE = 300  # blocks, so that no deadline comes in between
FEE = 1  # of a sync
ASSETS = 100 * DEPOSIT  # that a client begins with
COINS = 12  # of a client, confirmed, so that many closes can be raised
ROUNDS = 40  # blocks in which all is settled
PATIENCE = 60.0


def carried_out(session: Session, command: str, *args: Any) -> Any:
    """Return what a command prints. Raises what it fails with; for a sync of several that is the first one's error."""
    told: list[Any] = []
    try:
        api.carry_out(session, lambda it: getattr(api, command)(it, *args), {}, told.append)
    except SyncIncomplete as error:
        first = next(iter(error.data["failed"].values()))
        raise getattr(errors, first["name"])(first["message"], **first["data"]) from error
    return told[0]


class Town:
    """The node, the hub, the proxy before it, and what all has come to."""

    def __init__(self, folder: Path, node: NodeProcess, result: Result) -> None:
        self.folder, self.node, self.result = folder, node, result
        self.desk = Desk(folder, node)
        self.proxy: Proxy
        self._lock = threading.Lock()
        self._serve()

    def _serve(self) -> None:
        hub = self.desk.hub
        hub.fresh_seconds = 1e6  # a machine may be busy between two rounds
        nodes = Nodes(hub.chain, hub.bitcoin, hub.controls)
        proxied = HubProxy(hub.network, nodes, lambda: hub.rate, lambda: None).methods()
        self._endpoint = JsonRpcEndpoint({**proxied, **Methods(hub).table()}, on_error=self._failed)

    def _failed(self, method: str, error: Exception) -> None:
        self.result.failures.append(f"the hub failed in {method}: {type(error).__name__}: {error}")

    def answer(self, body: bytes) -> bytes:
        """The hub's answer to a POST. One that waits keeps nobody else waiting."""
        with nullcontext() if b'"mph_waiting"' in body else self._lock:
            return str(asyncio.run(self._endpoint.answer(body))).encode()

    # The hub --------------------------------------------------------------------------------------------------------

    def keep(self) -> None:
        """Keep a copy of all that the hub holds."""
        self._copy("hub", "hub.kept")
        self._kept = self._books()

    def back(self) -> None:
        """Put the hub back to its copy: what was tried never happened, as nothing of it has reached the chain."""
        if self._books() != self._kept:
            self._copy("hub.kept", "hub")

    def _books(self) -> tuple[dict[Handle, Account], set[Handle]]:
        hub = self.desk.hub
        with hub.book.reading() as reading:
            accounts = {handle: reading.get(handle) for handle in reading.in_stage(REQUESTED, AGREED, OPEN, CLOSING)}
        return accounts, set(hub.marks.handles)

    def _copy(self, source: str, target: str) -> None:
        self.desk.stop()
        shutil.rmtree(self.folder / target, ignore_errors=True)
        shutil.copytree(self.folder / source, self.folder / target)
        self.desk.start()
        self._serve()

    def account(self, handle: Handle) -> Account:
        """A connection as the hub has it."""
        return self.desk.account(handle)

    def hub_owns(self) -> int:
        """Return what the hub has of its own in all connections that go on: guaranteed, less what it owes its clients.

        Nothing that a client says lowers it, and each new sync adds its fee.
        """
        book = self.desk.hub.book
        with book.reading() as reading:
            accounts = [reading.get(handle) for handle in reading.in_stage(AGREED, OPEN, CLOSING)]
        return sum(item.channels.net - item.pending for item in accounts)

    def check_hub(self, handle: Handle, what: str) -> None:
        """Hold what the hub has credited in a connection to the consensus engine."""
        account = self.account(handle)
        if account.duplex is not None:
            secrets = account.fixed.secrets(self.desk.hub.key)
            self.result.hold(pays_out(account.duplex.receiving, secrets), f"the hub's commit is worth nothing: {what}")

    # The chain ------------------------------------------------------------------------------------------------------

    def mine(self, blocks: int = 1) -> None:
        """Make blocks; the hub looks at each."""
        self.desk.mine(blocks)

    def held(self, script: bytes) -> int:
        """Return the XCP of an address."""
        return self.desk.balance(script)

    def endow(self, script: bytes) -> None:
        """Give an address assets and coins."""
        address = address_of(script)
        self.node.rpc("faucet", address=address, btc=1_000_000, asset="XCP", quantity=ASSETS)
        for _ in range(COINS):
            self.node.rpc("faucet", address=address, btc=1_000_000)
        self.mine()


def pays_out(receiving: Receiving, secrets: Secrets) -> bool:
    """Whether the kernel takes the highest commit of a payee, and its payout."""
    if not receiving.active or receiving.anchor is None:
        return True
    contract, anchor, made = receiving.contract, receiving.anchor, receiving.active[-1].commit
    draft = compose_commit(contract, anchor, made.quantity, made.revoke_hash)
    payout = compose_payout(contract, draft, made.revoke_hash)
    return kernel_accepts(finish_commit(contract, anchor, made, secrets.payee), draft) and kernel_accepts(
        finish_payout(contract, anchor, made, secrets.payee), payout
    )


@contextmanager
def running_town(folder: Path, result: Result) -> Iterator[Town]:
    """A town for the length of a ``with`` block."""
    folder.mkdir(parents=True, exist_ok=True)
    with running_node(folder / "node", 0) as node:
        town = Town(folder, node, result)
        try:
            with between(town.answer) as town.proxy:
                yield town
        finally:
            town.desk.stop()


# Clients ------------------------------------------------------------------------------------------------------------


class Muted(Session):
    """A session whose transactions are kept, and reach nobody."""

    def __init__(self, settings: Settings, left: list[bytes]) -> None:
        super().__init__(settings)
        self._left = left

    def broadcast(self, raw: bytes, label: str) -> str:
        return self.submit([raw], label)[0][::-1].hex()

    def submit(self, raws: Sequence[bytes], label: str) -> tuple[bytes, ...]:
        self._left += raws
        return tuple(map(txid_of, raws))


class Party:
    """A client: the commands' own functions on a folder of its own, a new session for each.

    ``own_chain``: it asks the node, else its hub; ``packages``: it has a Bitcoin node, and hands in packages. What it
    would publish is kept in ``left`` where that is a list, and goes nowhere.
    """

    def __init__(self, town: Town, name: str, *, own_chain: bool = True, packages: bool = True) -> None:
        self.town, self.name = town, name
        self.basedir = town.folder / name
        self.timeout = PATIENCE
        self.left: list[bytes] | None = None
        self.own_chain, self._chain = own_chain, town.node.url if own_chain else None
        self._bitcoin = f"{town.node.url}bitcoin/" if own_chain and packages else None
        with self.session() as session:
            wallet = session.wallet_or_new()
            self.script, self.key = wallet.script, wallet.key
        town.endow(self.script)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """The session of one command."""
        urls = {"hub_url": self.town.proxy.url, "chain_url": self._chain, "bitcoin_url": self._bitcoin}
        settings = Settings(REGTEST, self.basedir, **urls, timeout=self.timeout)  # type: ignore[arg-type]
        session = Session(settings) if self.left is None else Muted(settings, self.left)
        try:
            yield session
        finally:
            session.close()

    def connection(self, handle: Handle) -> Connection:
        """A connection as it is on disk."""
        with self.session() as session:
            return session.connection(handle)

    def handles(self) -> list[Handle]:
        """The connections on disk."""
        with self.session() as session:
            return list(session.connections())

    def guaranteed(self, handle: Handle) -> int:
        """The guaranteed balance, as what is on disk tells it."""
        return self.connection(handle).duplex.guaranteed

    @property
    def held(self) -> int:
        """Return the XCP of its wallet."""
        return self.town.held(self.script)

    def secrets(self, handle: Handle) -> Secrets:
        """Its keys and secrets of a connection."""
        return self.connection(handle).secrets(self.key)

    def history(self, handle: Handle) -> list[dict[str, Any]]:
        """The events of a connection."""
        with self.session() as session:
            return [event for event in session.store.history() if event.get("handle") == handle.hex()]

    # Commands -------------------------------------------------------------------------------------------------------

    def do(self, command: str, *args: Any) -> Any:
        """Return what a command returns, once the hub has seen what there is. Raises what it raises."""
        self.town.desk.rounds.once()
        with self.session() as session:
            return carried_out(session, command, *args)

    def connect(self, quantity: int = DEPOSIT) -> Handle:
        """A connection whose deposit is on its way."""
        return Handle(bytes.fromhex(self.do("connect", "XCP", quantity, EXPIRE, DELAY)["handle"]))

    def open(self) -> Handle:
        """A connection that is open on both sides."""
        handle = self.connect()
        self.town.mine(3)
        self.sync(handle)
        return handle

    def queue(self, handle: Handle, payee: Handle, amount: int) -> str:
        """Queue a payment; its token."""
        return str(self.do("queuepayment", handle.hex(), payee.hex(), amount))

    def queue_unseen(self, handle: Handle, payee: Handle, amount: int) -> None:
        """Queue a payment as where the hub was not asked about the payee."""
        with self.session() as session:
            payment = Payment(payee, Quantity(amount), Token(payee))
            life.queue(session, session.connection(handle), payment)

    def pay(self, handle: Handle, payee: Handle, amount: int) -> None:
        """Queue a payment and sync."""
        self.queue(handle, payee, amount)
        self.sync(handle)

    def sync(self, handle: Handle | None = None) -> None:
        """Sync a connection, or all. Raises the first error."""
        self.do("sync", *([] if handle is None else [handle.hex()]))

    def close(self, handle: Handle) -> None:
        """Close a connection."""
        self.do("close", handle.hex())

    def settle(self) -> bool:
        """Close all, mine and sync until all is over; whether it came to that."""
        for _ in range(ROUNDS):
            left = [handle for handle in self.handles() if self.connection(handle).stage != CLOSED]
            if not left:
                return True
            for handle in left:
                if self.connection(handle).stage == AGREED:
                    self._quietly(lambda handle=handle: self.close(handle))
            self._quietly(self.sync)
            self.town.mine()
        return False

    @staticmethod
    def _quietly(step: Any) -> None:
        with suppress(PicopaymentsError):
            step()

    # Copies ---------------------------------------------------------------------------------------------------------

    def keep(self) -> None:
        """Keep a copy of all files."""
        self._copy(self.basedir, self._kept)

    def back(self) -> None:
        """Go back to the copy: what an owner must never do; here the hub has answered the same in between."""
        self._copy(self._kept, self.basedir)

    @property
    def _kept(self) -> Path:
        return self.basedir.with_name(f"{self.name}.kept")

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)


def new_key(rng: random.Random) -> Key:
    """A key that nobody knows."""
    return Key(rng.randbytes(32))


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

"""A client's life in memory: the client, its hub and their chain, with its files on disk and somebody at every door."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from memory_support import REGTEST, MemoryChain, ScriptedHub
from picopayments_cli.channel2.deadlines import exposed, settle_height
from picopayments_cli.channel2.messages import Payment
from picopayments_cli.channel2.terms import Terms
from picopayments_cli.client2 import life, opening
from picopayments_cli.client2.connection import Connection
from picopayments_cli.client2.looking import Sight
from picopayments_cli.client2.session import Session
from picopayments_cli.client2.store import Store

from picopayments_cli import api
from picopayments_cli.channel.values import HANDLE_SIZE, Handle, Quantity, Token
from picopayments_cli.client.history import Action
from picopayments_cli.config import Settings
from picopayments_cli.errors import HubUnreachable, PaymentExceedsReceivable, UnknownDeposit, UnknownHandle

XCP, QUANTITY, EXPIRE, DELAY = 1, 1000, 144, 2
SILENT = HubUnreachable("The hub does not answer.")


class Killed(BaseException):
    """The process ended at a door."""


@dataclass
class WatchedDoors:
    """The doors that were passed, and the one at which the process is to be killed."""

    passed: list[str] = field(default_factory=list)
    deadly: str | None = None

    def through(self, label: str) -> None:
        self.passed.append(label)
        self.end_here(label)

    def end_here(self, label: str) -> None:
        if label == self.deadly:
            self.deadly = None
            raise Killed


class WatchedStore(Store):
    """The real files, with somebody at the door."""

    doors: WatchedDoors

    def save(self, handle: Handle, document: dict[str, Any], label: str, actions: Sequence[Action] = ()) -> None:
        super().save(handle, document, label, actions)
        self.doors.through(f"save {label}")

    def remove(self, handle: Handle) -> None:
        super().remove(handle)
        self.doors.through("remove")


class WatchedHub:
    """A hub with somebody at the door."""

    def __init__(self, hub: ScriptedHub, doors: WatchedDoors) -> None:
        self.hub, self.doors, self.url = hub, doors, hub.url

    def call(self, method: str, params: Mapping[str, Any], *, retry: bool = False) -> Any:
        self.doors.through(f"call {method}")
        return self.hub.call(method, params, retry=retry)


class WatchedSession(Session):
    """A session whose hub and chain are in memory."""

    def __init__(self, basedir: Path, hub: ScriptedHub, chain: MemoryChain, doors: WatchedDoors) -> None:
        super().__init__(Settings(REGTEST, basedir, hub_url=hub.url, chain_url="http://node.invalid/"))
        self.doors = doors
        store = WatchedStore(basedir, REGTEST)
        store.doors = doors
        self.home.__dict__.update(store=self.home._stack.enter_context(store))
        self.__dict__.update(rpc=WatchedHub(hub, doors), sight=Sight(REGTEST, chain))

    def broadcast(self, raw: bytes, label: str) -> str:
        self.doors.through(f"broadcast {label}")
        txid = super().broadcast(raw, label)
        self.doors.end_here(f"{label} is out")
        return txid


class LifeInMemory:
    """One client, its hub and their chain."""

    def __init__(self, basedir: Path) -> None:
        self.chain = MemoryChain()
        self.hub = ScriptedHub(self.chain, Terms(0, 0, 1.0, 0, 12, 1, 5))
        self.doors = WatchedDoors()
        self.session = WatchedSession(basedir, self.hub, self.chain, self.doors)
        wallet = self.session.wallet.script
        self.chain.grant(wallet, XCP, QUANTITY)
        self.chain.grant(self.hub.script, XCP, QUANTITY)
        for _ in range(3):
            self.chain.fund(wallet, 1_000_000)

    @property
    def connection(self) -> Connection:
        (found,) = self.session.connections().values()
        return found

    @property
    def handle(self) -> str:
        return self.connection.handle.hex()

    def files(self) -> dict[str, bytes]:
        """Return what stands on disk."""
        folder = self.session.settings.basedir
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def told(self) -> list[Action]:
        """Return what the history says of the one connection."""
        hidden = ("handle", "number", "time")
        events = api.history(self.session)
        assert [event["number"] for event in events] == list(range(len(events)))
        return [{name: value for name, value in event.items() if name not in hidden} for event in events]

    def sync(self) -> list[str]:
        """The doors that one sync went through, whatever became of it."""
        self.doors.passed.clear()
        with suppress(HubUnreachable, PaymentExceedsReceivable, UnknownDeposit, UnknownHandle, Killed):
            api.sync(self.session)
        return list(self.doors.passed)

    def killed_at(self, label: str, step: Callable[[], object]) -> None:
        self.doors.deadly = label
        with pytest.raises(Killed):
            step()

    # The way ---------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        opening.connect(self.session, self.chain.asset("XCP"), QUANTITY, EXPIRE, DELAY)

    def open(self) -> None:
        self.connect()
        self.chain.mine()
        self.hub.see(self.connection.duplex.sending.anchor)
        self.hub.fund()
        self.chain.mine()

    def queue(self, amount: int, token: bytes = b"token") -> None:
        payment = Payment(Handle(bytes(HANDLE_SIZE)), Quantity(amount), Token(token))
        life.queue(self.session, self.connection, payment)

    def close(self) -> None:
        with suppress(HubUnreachable):
            life.close(self.session, self.connection)

    def close_silently(self) -> None:
        """Close while the hub does not answer."""
        self.hub.refuses = SILENT
        self.close()

    def receive(self, amount: int = 300) -> None:
        """Open, and receive a payment."""
        self.open()
        self.hub.to_pay = [amount]
        self.sync()
        assert self.connection.duplex.receiving.moved == amount - 1 or self.connection.duplex.receiving.active

    def pay_and_get_back(self) -> None:
        """Open, pay, and receive so that the hub gives a commit back."""
        self.open()
        self.queue(300)
        self.sync()
        self.hub.to_pay = [200]
        self.sync()
        assert exposed(self.connection.duplex.sending)

    def until(self, height: int) -> None:
        self.chain.mine(height - self.chain.tip)

    @property
    def deadline(self) -> int:
        connection = self.connection
        return settle_height(connection.duplex.receiving, connection.agreed_height)

    @property
    def expiry(self) -> int:
        """The height from which the client's deposit, confirmed a block after the agreement, is old enough."""
        return self.connection.agreed_height + EXPIRE


@pytest.fixture
def it(tmp_path: Path) -> Iterator[LifeInMemory]:
    """A client with a wallet, before its first command."""
    made = LifeInMemory(tmp_path)
    yield made
    made.session.close()

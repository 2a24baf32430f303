"""The two ways of a duel: a client that cheats the honest hub, and a hub that cheats an honest client."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import client_support
import hub_support
from bitcoin.core import CTransaction
from client_support import Life
from hub_support import Client, Desk, payment
from regtest_support import REGTEST

from faults.cheat_network import DELAY, DEPTH, EXPIRE, BribedNode, Change, Duel, bribed_node, refusal
from faults.result import Result
from picopayments_cli import door
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.halves import Commit
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.messages import CloseReply, ConnectReply, DepositReply, SyncReply
from picopayments_cli.channel.opening import Party
from picopayments_cli.channel.transactions import check_deposit
from picopayments_cli.channel.values import Token
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.hub.hub import Ask
from picopayments_cli.hub.stopping import stop

RIGHT = "nothing wrong"
DEEP = replace(REGTEST, safe_depth=DEPTH)


class CheatedHub(Duel):
    """The honest hub and a client that cheats it. The hub outlives the duel, and meets the next client."""

    stake = hub_support.DEPOSIT

    def __init__(self, town: Town) -> None:
        super().__init__(town.node, town.rng, town.result)
        self.town = town
        self.desk = town.desk
        self.client = Client(town.desk, f"client {town.next()}")
        self.secrets, self.key, self.script = self.client.secrets, self.client.key, self.client.script
        self.honest = town.desk.hub.script
        self.received = self.client.commits

    @property
    def duplex(self) -> Duplex:
        return self.client.duplex

    @property
    def honests(self) -> Duplex:
        return self.desk.account(self.client.handle).channels

    @property
    def over(self) -> bool:
        return self.desk.account(self.client.handle).stage == "closed"

    @property
    def honest_deadline(self) -> int:
        return self.desk.account(self.client.handle).fixed.agreed.expiry.settle_height

    def stop(self) -> None:
        hub = self.desk.hub
        with hub.book.transaction("told by the operator") as work:
            stop(hub, work, work.get(self.client.handle))
        hub.ask(Ask.NOW, self.client.handle)

    @property
    def opens(self) -> bool:
        return self.desk.account(self.client.handle).stage == "open"

    def agree(self) -> None:
        self.endow()
        self.desk.mine()
        self.ask()

    def endow(self) -> None:
        """Have the faucet give the cheat its deposit, and coins for fees."""
        self.faucet(self.script, 1_000_000, quantity=self.stake)
        self.faucet(self.script, 1_000_000)

    def ask(self) -> None:
        """Agree on it, with coins that are there."""
        self.begin()
        self.client.agree(EXPIRE)

    def open(self) -> None:
        self.agree()
        self.client.deposit()
        self.opened()

    def opened(self, deposit: bytes = b"") -> None:
        for _ in range(3 * DEPTH):
            if not self.opens:
                self.desk.mine()
        self.result.hold(self.opens, "the connection does not open: the trial is none")
        self.client.see_deposits()

    def give(self, quantity: int) -> None:
        self.client.sync(payment(self.client.handle, quantity))

    def take(self, quantity: int) -> None:
        self.client.sync(payment(None, quantity - 1))

    def say(self, changes: Mapping[str, Change]) -> dict[str, str | None]:
        total = self.duplex.receiving.moved + self.part(0.01, 0.05)
        request, moved = self.client.sync_request(total, payment(None, total - 1))
        self.result.hold(all(vars(request.half).values()), "the half is not whole: the trial is none")
        names = {}
        for what, change in changes.items():
            body = replace(request, half=change(self, request.half)).as_json()
            names[what] = refusal(partial(self.client.call, "mph_sync", body))
        self.client.take(SyncReply.parse(self.client.call("mph_sync", request.as_json())), moved)
        return names

    def answer(self) -> None:
        """A client sends no answers."""

    def act(self) -> None:
        self.desk.rounds.round()


def _as_it_is(reply: Any) -> Any:
    return reply


class CheatingHub(client_support.Hub):
    """A hub that changes what it says where a trial wants it."""

    change: Callable[[SyncReply], SyncReply] = staticmethod(_as_it_is)
    change_close: Callable[[CloseReply], CloseReply] = staticmethod(_as_it_is)
    change_opening: Mapping[str, Callable[[Any], Any]] = {}

    def _sync(self, body: Any, asked: bytes) -> SyncReply:
        return self.change(super()._sync(body, asked))

    def _request(self, body: Any, asked: bytes) -> ConnectReply:
        reply: ConnectReply = self.change_opening.get("mph_request", _as_it_is)(super()._request(body, asked))
        return reply

    def _deposit(self, body: Any, asked: bytes) -> DepositReply:
        reply: DepositReply = self.change_opening.get("mph_deposit", _as_it_is)(super()._deposit(body, asked))
        return reply

    @property
    def asker(self) -> Party:
        """The client that asked for a connection."""
        return self._client

    def named(self, deposit: bytes) -> None:
        """Take a transaction for its deposit."""
        sending = self.now.sending
        anchor = check_deposit(sending.contract, CTransaction.deserialize(deposit))
        self.now = replace(self.now, sending=replace(sending, anchor=anchor))

    def forget(self) -> None:
        """Answer anew what was answered before."""
        self._answers.clear()

    def _close(self, body: Any, asked: bytes) -> CloseReply:
        return self.change_close(super()._close(body, asked))


class CheatedClient(Duel):
    """An honest client and its hub, which cheats it."""

    stake = client_support.QUANTITY

    def __init__(self, town: Town) -> None:
        super().__init__(town.node, town.rng, town.result)
        number = town.next()
        self.key = Key(town.rng.randbytes(32))
        self.life = Life(town.folder / f"client {number}", town.node, self.key, bitcoin=town.rng.random() < 0.8)
        self.hub = self.life.hub = CheatingHub(town.node, self.key)
        self.life.restart()
        self.secrets, self.script, self.honest = self.hub.secrets, self.hub.script, self.life.wallet

    @property
    def duplex(self) -> Duplex:
        return self.hub.now

    @property
    def honests(self) -> Duplex:
        return self.life.connection.duplex

    @property
    def over(self) -> bool:
        return self.life.connection.stage == "closed"

    @property
    def received(self) -> list[Commit]:  # type: ignore[override]
        return self.hub.received

    @property
    def honest_deadline(self) -> int:
        return self.life.connection.expiry.settle_height

    def stop(self) -> None:
        self.hub.silent = True
        self.life.close()

    @property
    def opens(self) -> bool:
        return self.life.status() == "open"

    def agree(self) -> None:
        self.begin()
        for _ in range(2):
            self.faucet(self.script, 1_000_000)
        self.life.connect()
        if self.rng.random() < 0.2:
            self.mine()
            self.reorganise(1)
            self.life.sync()  # publishes its deposit again
        self.mine(DEPTH)
        self.hub.see(self.life.connection)

    def open(self) -> None:
        self.agree()
        self.hub.fund(self.coins(self.script))
        self.opened()

    def opened(self, deposit: bytes = b"") -> None:
        if deposit:
            self.hub.named(deposit)
        self.mine(DEPTH)
        self.answer()
        self.life.sync()
        self.result.hold(self.opens, "the connection does not open: the trial is none")

    def give(self, quantity: int) -> None:
        self.life.pay(quantity, Token(self.rng.randbytes(32)))

    def take(self, quantity: int) -> None:
        self.life.receive(quantity + self.hub.terms.sync_fee)

    def say(self, changes: Mapping[str, Change]) -> dict[str, str | None]:
        hub, names, to_pay = self.hub, {}, self.duplex.receiving.moved + self.part(0.1, 0.2)
        self.life.queue(self.part(0.01, 0.05), self.rng.randbytes(32))
        for what, change in {**changes, RIGHT: lambda _, half: half}.items():
            kept = hub.now, dict(hub.signed), list(hub.received), hub.due
            hub.to_pay = [to_pay]
            hub.change = lambda reply, change=change: replace(reply, half=change(self, reply.half))  # type: ignore[misc]
            names[what] = refusal(self.life.sync)
            if names[what] is not None:
                hub.now, hub.signed, hub.received, hub.due = kept
                hub.forget()
        del hub.change, names[RIGHT]
        return names

    def answer(self) -> None:
        self.hub.silent = False

    def act(self) -> None:
        self.hub.silent = True
        with contextlib.suppress(PicopaymentsError):
            self.life.sync()


class Town:
    """The chain, the honest hub, and what all duels share."""

    def __init__(self, folder: Path, node: BribedNode, rng: random.Random, result: Result) -> None:
        self.folder, self.node, self.rng, self.result = folder, node, rng, result
        self.desk = Desk(folder, node)
        self._number = 0

    def next(self) -> int:
        """The number of the next duel."""
        self._number += 1
        return self._number


@contextlib.contextmanager
def running_town(folder: Path, rng: random.Random, result: Result) -> Iterator[Town]:
    """A town for the length of a ``with`` block, on which everybody waits for depth as on a real network."""
    with (
        patch.multiple(client_support, EXPIRE=EXPIRE, DELAY=DELAY, REGTEST=DEEP),
        patch.multiple(hub_support, DELAY=DELAY, REGTEST=DEEP),
        patch.object(door, "MAX_CONNECTIONS", 10_000),  # each command of a client leaves some to the garbage collector
        bribed_node(folder / "chain") as node,
    ):
        town = Town(folder, node, rng, result)
        try:
            yield town
        finally:
            town.desk.stop()


# By who cheats.
WAYS: dict[str, Callable[[Town], CheatedHub | CheatedClient]] = {"client": CheatedHub, "hub": CheatedClient}

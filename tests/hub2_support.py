"""A hub inside the test's own process, on a node of its own, and clients that sign whatever a test has them sign."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from picopayments_cli.hub2.account import Account
from picopayments_cli.hub2.database import Database, default_url
from picopayments_cli.hub2.hub import Hub, Urls
from picopayments_cli.hub2.methods import Methods
from picopayments_cli.hub2.proxy import Nodes, Proxy
from picopayments_cli.hub2.rounds import Rounds
from regtest_support import REGTEST, NodeProcess, address_of, key_of, running_node, script_of_key

from picopayments_cli import errors
from picopayments_cli.chain import Query
from picopayments_cli.channel import envelope
from picopayments_cli.channel.counterparty import asset_id
from picopayments_cli.channel.values import Handle, Hash, Quantity, Secret, Token
from picopayments_cli.channel2 import duplex as pair
from picopayments_cli.channel2.keys import Secrets
from picopayments_cli.channel2.messages import (
    CloseRequest,
    ConnectRequest,
    DepositMessage,
    DepositRequest,
    Payment,
    SyncReply,
    SyncRequest,
)
from picopayments_cli.channel2.scripts import DepositScript, wallet_unlock
from picopayments_cli.channel2.state import Channel
from picopayments_cli.channel2.terms import Terms
from picopayments_cli.channel2.transactions import Purse, compose_deposit
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.hub.folder import Folder
from picopayments_cli.web import Refused

DEPOSIT, EXPIRE, DELAY = 1_000_000, 1000, 2
STRANGER = Handle(b"\xcd" * 32)  # no handle that a hub drew


def refused(answer: Refused) -> PicopaymentsError:
    """The error that a signed refusal names, with its message and data."""
    named: type[PicopaymentsError] = getattr(errors, answer.details["type"])
    return named(answer.details["message"], **answer.details.get("data", {}))


class Desk:
    """The hub; its rounds of chores come when a test says so. ``stop`` and ``start`` as a process would."""

    def __init__(self, folder: Path, node: NodeProcess, terms: str | None = None) -> None:
        self.folder = Folder(folder / "hub", REGTEST)
        self.node = node
        self.folder.basedir.mkdir(mode=0o700)
        if terms is not None:
            self.folder.terms_path.write_text(terms)
        self.start()

    def start(self) -> None:
        """Open the files that there are, or begin."""
        self.database = Database(default_url(self.folder.basedir, "regtest"))
        urls = Urls(self.node.url, self.node.url + "bitcoin/")
        self.hub = Hub(REGTEST, self.folder.key(), self.folder.offer(), self.database, urls)
        self.rounds = Rounds(self.hub)
        self.rounds.prepare()
        nodes = Nodes(self.hub.chain, self.hub.bitcoin, self.hub.node)
        proxied = Proxy(REGTEST, nodes, self.hub.follower.fee_rate, self.rounds.once).methods()
        self._table: dict[str, Callable[..., Any]] = {**proxied, **Methods(self.hub).table()}

    def stop(self) -> None:
        """Close the database."""
        self.rounds.stop()
        self.database.close()

    def call(self, method: str, body: Mapping[str, Any]) -> str:
        """The text of a result. Raises what the method raises."""
        called = self._table[method]
        result = called(body) if hasattr(called, "takes_params") else called(**body)
        if inspect.isawaitable(result):
            result = asyncio.run(_awaited(result))
        if isinstance(result, Refused):
            raise refused(result)
        return str(result.text) if hasattr(result, "text") else json.dumps(result)

    def refusal(self, method: str, body: Mapping[str, Any]) -> PicopaymentsError:
        """The error that a call is refused with."""
        with pytest.raises(PicopaymentsError) as caught:
            self.call(method, body)
        return caught.value

    def name_of(self, method: str, body: Mapping[str, Any]) -> str:
        """Its name."""
        return self.refusal(method, body).name

    def account(self, handle: Handle) -> Account:
        """A connection as the hub has it."""
        with self.hub.book.transaction("test") as work:
            return work.get(handle)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Return what the database holds."""
        with self.database.reading() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(statement)]

    def mine(self, blocks: int = 1) -> None:
        """Mine; a round of chores after the last block."""
        if blocks:
            self.node.rpc("generate", blocks=blocks)
        self.rounds.once()

    def raw(self, txid: str) -> bytes:
        """A transaction."""
        return bytes.fromhex(self.node.bitcoin("getrawtransaction", txid))

    def mempool(self) -> list[str]:
        """The txids that wait for a block."""
        return list(self.node.bitcoin("getrawmempool"))


async def _awaited(result: Any) -> Any:
    return await result


@contextlib.contextmanager
def running_desk(folder: Path, terms: str | None = None) -> Iterator[Desk]:
    """A hub and its node, which mines only when told, for the length of a ``with`` block; ``terms``: of its file."""
    with running_node(folder / "node", 0) as node:
        desk = Desk(folder, node, terms)
        try:
            yield desk
        finally:
            desk.stop()


def payment(payee: Handle | None, amount: int) -> Payment:
    """A payment with a token of its own."""
    return Payment(payee, Quantity(amount), Token(os.urandom(32)))


class ScriptedClient:
    """A client without rules of its own: it keeps its half of the state, and signs what the test says."""

    def __init__(self, desk: Desk, name: str, asset: str = "XCP") -> None:
        self.desk = desk
        self.asset = asset
        self.key = key_of(name)
        self.secrets = Secrets(self.key, os.urandom(16))
        self.handle = STRANGER
        self.duplex: pair.Duplex
        self.next_number = 1

    def sealed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A body signed."""
        return envelope.seal(self.key, body)

    def call(self, method: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A signed call's result, which must be signed by the hub and name this request."""
        sealed = self.sealed(body)
        result: dict[str, Any] = json.loads(self.desk.call(method, sealed))
        assert envelope.signed_by(result, self.desk.hub.key.pubkey)
        assert result["request_sha256"] == envelope.digest(sealed).hex()
        return result

    def refused(self, method: str, body: Mapping[str, Any]) -> str:
        """The name of the error that a signed call is refused with."""
        return self.desk.name_of(method, self.sealed(body))

    # From the request to the open connection ---------------------------------------------------------------------

    def request(self) -> Hash:
        """Ask for a connection; the hub's spend hash."""
        reply = self.call("mph_request", ConnectRequest(self.asset, self.secrets.spend_hash).as_json())
        self.handle = Handle(bytes.fromhex(reply["handle"]))
        self.terms = Terms.parse(reply["channel_terms"])
        return Hash(bytes.fromhex(reply["spend_secret_hash"]))

    def proposal(self, hubs: Hash, expire: int = EXPIRE, quantity: int = DEPOSIT) -> DepositMessage:
        """A deposit as the protocol has it."""
        script = DepositScript(self.key.pubkey, self.desk.hub.key.pubkey, hubs, expire)
        return DepositMessage(script.redeem, self.secrets.revoke_hash(0), Quantity(quantity), DELAY)

    def body(self, message: DepositMessage) -> dict[str, Any]:
        """Return what proposes it, unsigned."""
        return DepositRequest(message, self.asset, self.handle).as_json()

    def agree(self, expire: int = EXPIRE, quantity: int = DEPOSIT) -> None:
        """Ask for a connection and propose a deposit; both channels, without their deposits, are the state then."""
        asked = self.proposal(self.request(), expire, quantity)
        reply = self.call("mph_deposit", self.body(asked))
        own = DepositMessage.parse(reply, PicopaymentsError)
        number = asset_id(self.asset)
        rate = self.terms.fee_rate
        sending = Channel(number, DepositScript.parse(asked.script), asked.quantity, asked.delay, rate)
        receiving = Channel(number, DepositScript.parse(own.script), own.quantity, own.delay, rate)
        self.duplex = pair.hand_out(pair.Duplex(sending, receiving), asked.next_hash)
        self.duplex = pair.add_request(self.duplex, own.next_hash)

    def endow(self) -> None:
        """Have the faucet give what the deposit takes; a block must follow."""
        address, quantity = address_of(script_of_key(self.key)), self.duplex.sending.quantity
        self.desk.node.rpc("faucet", address=address, btc=1_000_000, asset=self.asset, quantity=quantity)

    def deposit(self) -> None:
        """Publish the deposit."""
        script = script_of_key(self.key)
        address, channel = address_of(script), self.duplex.sending
        coins = self.desk.hub.chain.view(Query(coins=[address])).coins[address]
        purse = Purse(wallet_unlock(self.key.pubkey, script), coins, 1)
        draft = compose_deposit(purse, channel.script, channel.asset_id, channel.quantity, channel.budget)
        self.desk.hub.chain.broadcast(draft.signed(self.key).serialize())

    def fund(self) -> None:
        """Publish the deposit, out of what the faucet gives; a block must follow."""
        self.endow()
        self.desk.mine()
        self.deposit()

    def open(self, expire: int = EXPIRE, quantity: int = DEPOSIT) -> ScriptedClient:
        """A connection, mined until it is open."""
        self.agree(expire, quantity)
        open_all(self.desk, self)
        return self

    def see_deposits(self) -> None:
        """Take over where the hub has seen the deposits, which the chain would show."""
        theirs = self.desk.account(self.handle).channels
        self.duplex = pair.Duplex(
            replace(self.duplex.sending, anchor=theirs.receiving.anchor),
            replace(self.duplex.receiving, anchor=theirs.sending.anchor),
        )

    # Syncs and the close -------------------------------------------------------------------------------------------

    def secret_of(self, wanted: Hash) -> Secret:
        """The revoke secret of one of its own hashes."""
        return next(self.secrets.revoke(n) for n in range(self.next_number) if self.secrets.revoke_hash(n) == wanted)

    def _transfer(self, total: int) -> tuple[pair.Duplex, pair.Half]:
        return pair.transfer(self.duplex, total, self.key, self.secret_of)

    def sync_request(self, total: int, *payments: Payment) -> SyncRequest:
        """A right request that moves a sum."""
        return SyncRequest(self.handle, self._transfer(total)[1], payments, self.secrets.revoke_hash(self.next_number))

    def sync_body(self, request: SyncRequest, **changes: Any) -> dict[str, Any]:
        """Its body; without ``partial``, as the originals send it."""
        return {name: value for name, value in request.as_json().items() if name != "partial"} | changes

    def sync(self, total: int, *payments: Payment, **changes: Any) -> SyncReply:
        """Send a right request and settle its reply."""
        request = self.sync_request(total, *payments)
        reply = SyncReply.parse(self.call("mph_sync", self.sync_body(request, **changes)))
        moved = pair.hand_out(self._transfer(total)[0], request.next_hash)
        self.next_number += 1
        settled, _ = pair.settle(moved, reply.half, sum(item.amount for item in reply.receipts))
        self.duplex = pair.add_request(settled, reply.next_hash)
        return reply

    def sync_refused(self, request: SyncRequest, **changes: Any) -> str:
        """The name that a sync is refused by."""
        return self.refused("mph_sync", self.sync_body(request, **changes))

    def close(self, secret: Secret | None = None, said: pair.Half | None = None) -> dict[str, Any]:
        """Return what the hub answers to a close."""
        return self.call("mph_close", CloseRequest(self.handle, secret, said).as_json())

    @property
    def paid(self) -> int:
        """Return what the hub has got from the client since the connection opened, as the hub has it."""
        return self.desk.account(self.handle).channels.net


def open_all(desk: Desk, *hands: ScriptedClient) -> None:
    """Mine until connections that are agreed to are open."""
    for hand in hands:
        hand.endow()
    desk.mine()
    for hand in hands:
        hand.deposit()
    desk.mine()
    desk.mine()  # the hub's deposits
    for hand in hands:
        hand.see_deposits()
        assert desk.account(hand.handle).stage == "open"


def clients(desk: Desk) -> Iterator[ScriptedClient]:
    """Clients with open connections, without end; opened three at a time, which is faster."""
    for number in itertools.count():
        hands = [ScriptedClient(desk, f"client {number} {name}") for name in range(3)]
        for hand in hands:
            hand.agree()
        open_all(desk, *hands)
        yield from hands


def amounts(reply: SyncReply) -> list[int]:
    """Return what a reply's payments bring, in its order."""
    return [item.amount for item in reply.receipts]


def states(desk: Desk, payer: ScriptedClient) -> list[tuple[int, str]]:
    """The payments of a client, as they stand in the book."""
    rows = desk.rows(f"select amount, state from payments where payer = x'{payer.handle.hex()}' order by number")
    return [(int(amount), str(state)) for amount, state in rows]

"""A hub inside the test's own process, on a node of its own, and clients that speak its messages."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import os
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from books_support import books_of
from envelope_support import asked, digest_of
from regtest_support import REGTEST, NodeProcess, address_of, key_of, running_node
from sqlalchemy import text

from picopayments_cli import errors
from picopayments_cli.chain import Query
from picopayments_cli.channel import close as closes
from picopayments_cli.channel import envelope
from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.counterparty import asset_id, p2pkh
from picopayments_cli.channel.duplex import Duplex, add_request, hand_out, settle, transfer
from picopayments_cli.channel.halves import Commit
from picopayments_cli.channel.kept import counted
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.messages import (
    CloseReply,
    CloseRequest,
    ConnectReply,
    ConnectRequest,
    DepositReply,
    DepositRequest,
    SyncReply,
    SyncRequest,
)
from picopayments_cli.channel.opening import Party, Stake, contract_of
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.standing import Found, doubts, learned, proofs, standing
from picopayments_cli.channel.state import Changes, Receiving, Sending, Signed
from picopayments_cli.channel.transactions import compose_deposit
from picopayments_cli.channel.values import Coin, Handle, Hash, Outpoint, Quantity, Token, hash_of
from picopayments_cli.channel.wire import Anchors, Payment
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.hub.account import Account
from picopayments_cli.hub.database import Database
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.hub import Hub, Urls
from picopayments_cli.hub.methods import Methods
from picopayments_cli.hub.proxy import Nodes, Proxy
from picopayments_cli.hub.rounds import Rounds
from picopayments_cli.hub.server import create_app
from picopayments_cli.hub.stale_database import Witness, see_age
from picopayments_cli.web import Refused, WebServer

DEPOSIT, TIME, DELAY = 1_000_000, 100, 2
FEE = 1  # of the asset, for a sync
STRANGER = Handle(b"\xcd" * 32)  # no handle that a hub drew


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


def refused(answer: Refused) -> PicopaymentsError:
    """The error that a signed refusal names, with its message and data."""
    named: type[PicopaymentsError] = getattr(errors, answer.details["type"])
    return named(answer.details["message"], **answer.details.get("data", {}))


class Desk:
    """The hub; its rounds of chores come when a test says so. ``stop`` and ``start`` as a process would."""

    def __init__(self, folder: Path, node: NodeProcess, terms: str | None = None) -> None:
        self.folder = Folder(folder / "hub", REGTEST)
        self.node = node
        self.chain_url = node.url
        self.draining = False
        self.patience: float | None = None  # seconds for a ledger that lags; None: as the program has it
        self.folder.basedir.mkdir(mode=0o700)
        self.books = books_of(self.folder.basedir)
        if terms is not None:
            self.folder.terms_path.write_text(terms)
        self.start()

    def start(self, *, restored: bool = False) -> None:
        """Open the files that there are, or begin."""
        self.database = Database(self.books.url)
        try:
            self._begin(restored)
        except BaseException:
            self.database.close()
            raise

    def _begin(self, restored: bool) -> None:
        urls = Urls(self.chain_url, self.node.url + "bitcoin/")
        key, marks = self.folder.key(), self.folder.marks_path
        self.hub = Hub(REGTEST, key, self.folder.offer(), self.database, urls, marks)
        self.hub.draining = self.draining
        self._made()
        self.hub.fresh_seconds = 600.0  # rounds come when a test says so
        self.hub.chain._patience = self.hub.chain._patience if self.patience is None else self.patience
        witness = Witness(self.folder.witness_path, self.database, self.hub.book)
        see_age(self.hub, witness, restored=restored)
        self.rounds = Rounds(self.hub, witness.note)
        self.rounds.prepare()
        nodes = Nodes(self.hub.chain, self.hub.bitcoin, self.hub.controls)
        proxied = Proxy(REGTEST, nodes, lambda: self.hub.rate, self.rounds.once).methods()
        self.table: dict[str, Callable[..., Any]] = {**proxied, **Methods(self.hub).table()}

    def _made(self) -> None:
        """Do more with a hub that was made, before its first look."""

    def stop(self) -> None:
        """End the rounds, and close the database."""
        self.rounds.stop()
        self.database.close()

    def copy_books(self) -> Path:
        """A copy of the database and of the count beside it, as they are now; the hub is stopped for it."""
        copy = self.folder.basedir.with_name("copy")
        copy.mkdir(exist_ok=True)
        self.stop()
        self.books.copy(copy)
        shutil.copy(self.folder.witness_path, copy)
        self.start()
        self.rounds.once()
        return copy

    def restore(self, copy: Path, *, count: bool = False) -> None:
        """Stop the hub, and put an older database in the place of its own, or all files but the marks (``count``)."""
        self.stop()
        self.books.put_back(copy)
        if count:
            shutil.copy(copy / self.folder.witness_path.name, self.folder.witness_path)

    def sealed(self, method: str, key: Key, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request to this hub, signed with a key."""
        return asked(method, key, self.hub.key.pubkey, body)

    def call(self, method: str, body: Mapping[str, Any]) -> str:
        """The text of a result. Raises what the method raises."""
        called = self.table[method]
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

    def rows(self, statement: str, of: Handle = STRANGER) -> list[tuple[Any, ...]]:
        """Return what the database holds; ``of`` stands as ``:of`` in the statement."""
        with self.database.reading() as connection:
            return [tuple(row) for row in connection.execute(text(statement), {"of": of})]

    def account(self, handle: Handle) -> Account:
        """A connection as the hub has it."""
        return self.hub.book.look_up(handle)

    def mine(self, blocks: int = 1) -> None:
        """Mine, with a round of chores after each block."""
        for _ in range(blocks):
            self.node.rpc("generate", blocks=1)
            self.rounds.once()

    def until(self, stage: str, handle: Handle, most: int = 30) -> None:
        """Mine until a connection is in a stage."""
        for _ in range(most):
            if self.account(handle).stage == stage:
                return
            self.mine()
        raise AssertionError(f"{self.account(handle).stage} after {most} blocks")

    def raw(self, txid: str) -> bytes:
        """A transaction."""
        return bytes.fromhex(self.node.bitcoin("getrawtransaction", txid))

    def mempool(self) -> list[str]:
        """The txids that wait for a block."""
        return list(self.node.bitcoin("getrawmempool"))

    def balance(self, script: bytes) -> int:
        """What an address holds of XCP."""
        address = address_of(script)
        return self.hub.chain.view(Query(balances=[address])).balances[address].get("XCP", 0)


@contextlib.contextmanager
def running_desk(folder: Path, terms: str | None = None) -> Iterator[Desk]:
    """A hub and its node, which mines only when told, for the length of a ``with`` block; ``terms``: of its file."""
    with running_node(folder / "node", 0) as node:
        desk = Desk(folder, node, terms)
        try:
            yield desk
        finally:
            desk.stop()


@contextlib.contextmanager
def serving(desk: Desk, started: Callable[[], object] = lambda: None, **given: Any) -> Iterator[str]:
    """The hub over HTTP, with its rounds in a thread of their own; its URL.

    ``started`` is called in its event loop. ``given``: more for ``create_app``.
    """
    app = create_app(desk.rounds, Methods(desk.hub).table(), Methods.SLOW, **given)
    server, urls = WebServer(app, host="127.0.0.1", port=0), []
    server.when_stopping = desk.hub.book.arrivals.close
    ready = threading.Event()

    def announce(url: str) -> None:
        urls.append(url)
        started()
        ready.set()

    thread = threading.Thread(target=server.run, args=(announce,))
    thread.start()
    try:
        assert ready.wait(20)
        yield f"{urls[0]}/api/"
    finally:
        server.stop()
        thread.join(20)


def payment(payee: Handle | None, amount: int) -> Payment:
    """A payment with a token of its own."""
    return Payment(payee, Quantity(amount), Token(os.urandom(32)))


def states(desk: Desk, payer: Client) -> list[tuple[int, str]]:
    """The payments of a client, as they stand in the book."""
    rows = desk.rows("select amount, state from payments where payer = :of order by number", payer.handle)
    return [(int(amount), str(state)) for amount, state in rows]


def amounts(reply: SyncReply) -> list[int]:
    """Return what a reply's payments bring, in its order."""
    return [item.amount for item in reply.receipts]


class Client:
    """A client that keeps its state in memory, by the rules of the ground floor."""

    duplex: Duplex

    def __init__(self, desk: Desk, name: str, asset: str = "XCP") -> None:
        self.desk = desk
        self.asset = asset
        self.key = Key(key_of(name).secret)
        self.script = p2pkh(self.key.pubkey_hash)
        self.secrets = Secrets(self.key, os.urandom(16))
        self.party = Party(self.secrets.payer.xonly, self.secrets.payee.xonly, self.script)
        self.proposed: DepositRequest | None = None
        self.commits: list[Commit] = []  # every one received
        self.signed: dict[Hash, Signed] = {}  # every one sent, as its row is now
        self.handle = STRANGER
        self.counter = 0  # of the last sync that was answered

    def sealed(self, method: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A signed request."""
        return self.desk.sealed(method, self.key, body)

    def call(self, method: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A signed call's result, which must be signed by the hub and name this request."""
        sealed = self.sealed(method, body)
        result: dict[str, Any] = json.loads(self.desk.call(method, sealed))
        hub_key = self.desk.hub.key.pubkey
        assert envelope.signed_by(result, hub_key, envelope.answering(method, hub_key))
        assert result["request_sha256"] == digest_of(method, hub_key, sealed).hex()
        if method == "mph_sync":
            self._keep_count(result["count"])
        return result

    def _keep_count(self, count: Mapping[str, Any]) -> None:
        """Number the next sync behind one that was answered."""
        self.counter = max(self.counter, counted(count, self.handle, self.desk.hub.key.pubkey).counter)

    def refused(self, method: str, body: Mapping[str, Any]) -> str:
        """The name of the error that a signed call is refused with."""
        return self.desk.name_of(method, self.sealed(method, body))

    # Opening --------------------------------------------------------------------------------------------------------

    def request(self) -> ConnectReply:
        """Ask for a connection."""
        asked = ConnectRequest(self.asset, self.party, self.secrets.salt)
        self.hub = ConnectReply.parse(self.call("mph_request", asked.as_json()))
        self.handle = self.hub.handle
        return self.hub

    def proposal(self, time: int = TIME, quantity: int = DEPOSIT, delay: int = DELAY, rate: int = 1) -> DepositRequest:
        """A deposit as the protocol has it, for the connection asked for."""
        height = self.desk.node.bitcoin("getblockcount") + time
        stake = Stake(Quantity(quantity), delay, self.hub.terms.fee_rate)
        contract = contract_of(self.party, self.hub.hub, asset_id(self.asset), height, stake)
        return DepositRequest(self.handle, stake, rate, height, contract.deposit.output, self.secrets.revoke_hash(0))

    def agree(self, time: int = TIME, quantity: int = DEPOSIT) -> None:
        """Ask for a connection and agree on both deposits."""
        self.request()
        self.propose(self.proposal(time, quantity))

    def propose(self, proposed: DepositRequest) -> DepositReply:
        """Agree on both deposits."""
        self.proposed, number = proposed, asset_id(self.asset)
        sending = contract_of(self.party, self.hub.hub, number, proposed.height, proposed.stake)
        agreed = DepositReply.parse(self.call("mph_deposit", proposed.as_json()))
        receiving = contract_of(self.hub.hub, self.party, number, proposed.height, agreed.stake)
        assert agreed.output == receiving.deposit.output
        own = proposed.next_hash
        duplex, handed = hand_out(Duplex(Sending(sending), Receiving(receiving)), self.secrets)
        assert handed == own
        self.duplex = add_request(duplex, agreed.next_hash, seen=False)
        return agreed

    def endow(self) -> None:
        """Have the faucet give what the deposit takes, and coins for fees; a block must follow."""
        address = address_of(self.script)
        quantity = self.duplex.sending.contract.quantity
        self.desk.node.rpc("faucet", address=address, btc=1_000_000, asset=self.asset, quantity=quantity)
        self.desk.node.rpc("faucet", address=address, btc=1_000_000)

    def purse(self) -> Purse:
        """The wallet's confirmed coins, at 2 sat/vB."""
        address = address_of(self.script)
        coins = self.desk.hub.chain.view(Query(coins=[address])).coins[address]
        return Purse(self.script, tuple(coin for coin in coins if coin.height is not None), 2)

    def deposit(self) -> None:
        """Publish the deposit."""
        self.publish(finish_wallet(compose_deposit(self.duplex.sending.contract, self.purse()), self.key))

    def publish(self, *raws: bytes) -> None:
        """Hand a transaction, or a package, to the network."""
        self.desk.hub.bitcoin.submit(raws)

    def see_deposits(self) -> None:
        """Take over where the hub has seen the deposits, which the chain would show."""
        theirs = self.desk.account(self.handle).channels
        sending = replace(self.duplex.sending, anchor=theirs.receiving.anchor)
        receiving = replace(self.duplex.receiving, anchor=theirs.sending.anchor)
        self.duplex = replace(self.duplex, sending=sending, receiving=receiving)

    # Syncs ----------------------------------------------------------------------------------------------------------

    @property
    def anchors(self) -> Anchors:
        """Both anchors."""
        return Anchors(_outpoint(self.duplex.sending.anchor), _outpoint(self.duplex.receiving.anchor))

    def sync_request(self, total: int, *payments: Payment) -> tuple[SyncRequest, Duplex]:
        """A right request that moves a sum, and the state once it has left."""
        moved, half, changes = transfer(self.duplex, total, self.secrets)
        self.note(changes)
        moved, own = hand_out(moved, self.secrets)
        return SyncRequest(self.handle, self.anchors, half, payments, own, self.counter + 1), moved

    def sync(self, *payments: Payment, fee: int = FEE) -> SyncReply:
        """Send payments and settle the reply."""
        request, moved = self.sync_request(sum(item.amount for item in payments) + fee, *payments)
        return self.take(SyncReply.parse(self.call("mph_sync", request.as_json())), moved)

    def sync_refused(self, request: SyncRequest, **changes: Any) -> str:
        """The name that a sync is refused by."""
        return self.refused("mph_sync", request.as_json() | changes)

    @property
    def paid(self) -> int:
        """Return what the hub has got from the client since the connection opened, as the hub has it."""
        return self.desk.account(self.handle).channels.net

    def parsed(self, text: str) -> SyncReply:
        """A reply from its text."""
        return SyncReply.parse(json.loads(text))

    def take(self, reply: SyncReply, moved: Duplex) -> SyncReply:
        """Settle a reply."""
        self._keep_count(reply.count)
        settled, changes, _ = settle(moved, reply.half, sum(item.amount for item in reply.receipts))
        self.note(changes)
        self.duplex = add_request(settled, reply.next_hash, seen=False)
        if reply.half.commit is not None:
            self.commits.append(reply.half.commit)
        return reply

    def note(self, changes: Changes) -> None:
        """Keep the rows of commits sent, those of requests that were never sent too: these cost nothing."""
        self.signed.update({item.revoke_hash: item for item in changes.signed})

    # Closing --------------------------------------------------------------------------------------------------------

    def ask_close(self) -> tuple[CloseRequest, CloseReply, closes.Outcome]:
        """Ask for the agreed close, signed as payee, and judge the answer."""
        said = standing(self.duplex, self.secrets)
        figures = closes.own_figures(self.duplex)
        self.duplex, request = closes.ask(self.duplex, self.handle, figures, said, self.secrets, sign=True)
        reply = CloseReply.parse(self.call("mph_close", request.as_json()))
        self.duplex, outcome = closes.judge(self.duplex, request, reply, self.secrets)
        return request, reply, outcome

    def agree_close(self, rounds: int = 4) -> closes.Outcome:
        """Ask for the agreed close, and again with what the answer asks for, until both are signed."""
        said, figures = standing(self.duplex, self.secrets), closes.own_figures(self.duplex)
        for _ in range(rounds):
            self.duplex, request = closes.ask(self.duplex, self.handle, figures, said, self.secrets, sign=True)
            reply = CloseReply.parse(self.call("mph_close", request.as_json()))
            theirs = reply.standing
            names = {*map(hash_of, theirs.revokes), *theirs.doubts}
            found = [row for name, row in self.signed.items() if name in names]
            self.duplex, changes = learned(self.duplex, theirs, Found(found), self.secrets)
            self.note(changes)
            self.duplex, outcome = closes.judge(self.duplex, request, reply, self.secrets)
            if outcome.c2h and outcome.h2c:
                return outcome
            shown = proofs(theirs.doubts, found)
            said = standing(self.duplex, self.secrets, shown, doubts(self.duplex.receiving, theirs.commit))
            figures = closes.next_figures(self.duplex, reply)
        return outcome


def _outpoint(anchor: Coin | None) -> Outpoint | None:
    return None if anchor is None else anchor.outpoint


def open_all(desk: Desk, *hands: Client) -> None:
    """Agree on connections and mine until they are open."""
    for hand in hands:
        if hand.proposed is None:
            hand.agree()
        hand.endow()
    desk.mine()
    for hand in hands:
        hand.deposit()
    desk.mine(2)
    for hand in hands:
        assert desk.account(hand.handle).stage == "open"
        hand.see_deposits()


def clients(desk: Desk) -> Iterator[Client]:
    """Clients with open connections, without end; opened three at a time, which is faster."""
    for number in itertools.count():
        hands = [Client(desk, f"client {number} {name}") for name in range(3)]
        open_all(desk, *hands)
        yield from hands

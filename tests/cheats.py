"""A network whose hub may die while its chain lives on, parties that cheat, and the sums after everything is over."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bitcoin.core import CBlock, CTransaction
from channel_support import finish_commit
from network_support import FEE, Client, HubProcess, key_in, wait_until
from regtest_support import REGTEST, NodeProcess, address_of, script_of_key
from served_support import HubThread

from picopayments_cli.chain import Query
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.counterparty import asset_id, pack_send
from picopayments_cli.channel.drafts import Output, parse_transaction, spent_outpoints
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import script_of_address
from picopayments_cli.channel.scripts import P2A
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.state import Receiving, Sending, known_anchor
from picopayments_cli.channel.transactions import compose_send
from picopayments_cli.channel.values import Coin, Outpoint
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.demo_flows import btc_flows
from picopayments_cli.files import replace_file

DEPOSIT = 1_000_000
NOTHING = '{"XCP": null}'  # terms that offer nothing
Held = Mapping[str, int]
Result = Mapping[str, Mapping[str, Sequence[Mapping[str, object]]]]  # what a sync prints


class KeptBlocks(BitcoinNode):
    """A node whose blocks are asked for once."""

    KEPT: ClassVar[dict[bytes, bytes]] = {}

    def block(self, block_hash: bytes) -> bytes:
        """The raw block."""
        if block_hash not in self.KEPT:
            self.KEPT[block_hash] = super().block(block_hash)
        return self.KEPT[block_hash]


@dataclass(frozen=True)
class Waiting:
    """A transaction that waits: satoshis and vB."""

    txid: str
    fee: int
    vsize: int

    @property
    def rate(self) -> float:
        """Return what it pays, in sat/vB."""
        return self.fee / self.vsize


@dataclass(frozen=True)
class Books:
    """The holdings of every party's wallet at a height."""

    height: int
    held: Mapping[str, Held]

    def total(self, asset: str) -> int:
        """Return what all hold together."""
        return sum(of.get(asset, 0) for of in self.held.values())


class Town:
    """A hub on a node that is not its own, and clients that read the chain from that node."""

    def __init__(self, folder: Path, node: NodeProcess) -> None:
        self.folder = folder
        self.node = node
        self.chain = NodeChain(node.url, REGTEST)
        self.bitcoin = KeptBlocks(node.url + "bitcoin/")
        self.basedir = folder / "hub"
        self.clients: dict[str, Client] = {}
        self.views = {"chain_url": node.url, "bitcoin_url": f"{node.url}bitcoin/"}  # a client's settings
        self._port = 0
        self.start_hub()

    # The hub --------------------------------------------------------------------------------------------------------

    def start_hub(self, *options: str) -> None:
        """Start the hub, or start it again on the same port."""
        self.hub = HubProcess(self.basedir, "--counterparty-url", self.node.url, *options, ports=(), port=self._port)
        assert self.hub.ready, self.hub.log.read_text()
        self.hub_url = self.hub.ready["hub_url"]
        self._port = int(self.hub_url.split(":")[2].partition("/")[0])

    @property
    def hub_lives(self) -> bool:
        """Whether the hub runs."""
        return self.hub.process.poll() is None

    def stop_hub(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the hub, where it runs."""
        if self.hub_lives:
            self.hub.end(how)

    def restart_hub(self, terms: str | None = None) -> None:
        """End it, write its terms, and start it again."""
        self.stop_hub()
        if terms is not None:
            (self.basedir / "hub.regtest.terms.json").write_text(terms)
        self.start_hub()

    @property
    def _database(self) -> Path:
        return self.basedir / "regtest.db"

    @property
    def _witness(self) -> Path:
        return self.basedir / "hub.regtest.witness.json"

    def copy_books(self) -> Path:
        """A copy of the hub's database as it is now, and of the file that counts what is written to it."""
        copy = self.folder / "copy.db"
        shutil.copy(self._witness, copy.with_suffix(".json"))  # first: the hub may count on between the two
        with (
            contextlib.closing(sqlite3.connect(self._database)) as live,
            contextlib.closing(sqlite3.connect(copy)) as kept,
        ):
            live.backup(kept)
        return copy

    def cheat(self, copy: Path) -> None:
        """Have the hub go back to an older database, and close everything: so it publishes what it has revoked."""
        self.restore(copy)
        shutil.copy(copy.with_suffix(".json"), self._witness)
        self.restart_hub(NOTHING)

    def restore(self, copy: Path) -> None:
        """Stop the hub, and put an older database in the place of its own."""
        self.stop_hub()
        for path in self.basedir.glob("regtest.db*"):
            path.unlink()
        self._database.touch(0o600)
        self._database.write_bytes(copy.read_bytes())

    def stages(self) -> dict[str, str]:
        """How far the hub's connections are, by handle."""
        with contextlib.closing(sqlite3.connect(self._database)) as database:
            return {bytes(handle).hex(): stage for handle, stage in
                    database.execute("select handle, stage from connections")}  # fmt: skip

    # The chain ------------------------------------------------------------------------------------------------------

    def mine(self, blocks: int = 1) -> None:
        """Mine; a hub that lives does its chores after each block."""
        for _ in range(blocks):
            if self.hub_lives:
                self.hub.call("generate", blocks=1)
            else:
                self.node.rpc("generate", blocks=1)

    def mine_to(self, height: int) -> None:
        """Mine up to a height."""
        self.mine(height - self.height)

    def mine_until(self, reached: Callable[[], object], what: str, rounds: int = 120) -> None:
        """Mine until something is so. Raises TimeoutError."""
        for _ in range(rounds):
            if reached():
                return
            self.mine()
        raise TimeoutError(f"after {rounds} blocks there is not: {what}")

    @property
    def height(self) -> int:
        """The tip's height."""
        return self.bitcoin.height_of(self.bitcoin.best_block())

    def mempool(self) -> list[str]:
        """The txids in the mempool."""
        return sorted(self.node.bitcoin("getrawmempool"))

    def waiting(self, txid: str) -> Waiting:
        """A transaction of the mempool."""
        entry = self.node.bitcoin("getmempoolentry", txid)
        return Waiting(txid, round(entry["fees"]["base"] * 10**8), entry["vsize"])

    @contextlib.contextmanager
    def fees(self) -> Iterator[None]:
        """Put fees back as they were, at the end."""
        before = self.node.rpc("feerate")
        try:
            yield
        finally:
            rate = before["fee_rate"]
            self.node.rpc("feerate", rate="none" if rate is None else rate, minimum=before["minimum"])

    def broadcast(self, raw: bytes) -> str:
        """Hand a transaction to the node; its txid."""
        return self.chain.broadcast(raw)[::-1].hex()

    def coins(self, script: bytes) -> tuple[Coin, ...]:
        """The unspent outputs of a script."""
        address = address_of(script)
        return self.chain.view(Query(coins=[address])).coins[address]

    # The clients ----------------------------------------------------------------------------------------------------

    def client(self, name: str, wif: str | None = None) -> Client:
        """A client with funds, that sees the chain by the node; with this key and no words where ``wif`` is given."""
        client = Client(self.folder / name, self.hub_url)
        client.basedir.mkdir(parents=True)
        if wif is not None:
            replace_file(client.basedir / "regtest.wif", wif.encode())
        (client.basedir / "regtest.cfg").write_text(json.dumps(self.views))
        client.run("faucet")
        self.mine()
        self.clients[name] = client
        return client

    def connect(self, client: Client, *, expire: int = 40, quantity: int = DEPOSIT) -> str:
        """The handle of a connection that is asked for; its deposit is in the mempool."""
        handle: str = client.run("connect", "XCP", str(quantity), "--expire_time", str(expire))["handle"]
        return handle

    def open(self, client: Client, *, expire: int = 40, quantity: int = DEPOSIT) -> str:
        """The handle of a new connection, once it is open."""
        handle = self.connect(client, expire=expire, quantity=quantity)
        self.mine(2)
        wait_until(lambda: client.shown(handle)["status"] == "open", "an open connection")
        return handle

    def pay(self, payer: Client, target: bytes, value: int, asset: str | None = None, quantity: int = 0) -> str:
        """Pay satoshis, with an asset where one is named, from a client's wallet to any script; the txid."""
        address = address_of(payer.wallet_script)
        coins = self.chain.view(Query(coins=[address])).coins[address]
        purse = Purse(payer.wallet_script, tuple(coin for coin in coins if coin.height is not None), 1)
        message = None if asset is None else pack_send(asset_id(asset), quantity)
        return self.broadcast(finish_wallet(compose_send(purse, Output(value, target), message), payer.key))

    # Sums -----------------------------------------------------------------------------------------------------------

    @property
    def _wallets(self) -> dict[str, bytes]:
        hub = script_of_key(key_in(self.basedir / "hub.regtest.wif"))
        return {"hub": hub} | {name: client.wallet_script for name, client in self.clients.items()}

    def books(self) -> Books:
        """Return what every party's wallet holds."""
        wallets = self._wallets
        view = self.chain.view(Query(balances=[address_of(script) for script in wallets.values()]))
        return Books(view.height, {name: dict(view.balances[address_of(script)]) for name, script in wallets.items()})

    def settle(self, *syncing: Client, rounds: int = 40) -> dict[str, list[str]]:
        """Mine and sync until everybody's connections are over, the hub's too; the txids by client's name."""
        brought: dict[str, list[str]] = {name: [] for name in self.clients}
        for _ in range(rounds):
            if self.is_over(*syncing):
                if self.mempool():  # a child that missed the block of its parent
                    self.mine()
                return brought
            self.mine()
            for name, client in self.clients.items():
                if client in (syncing or self.clients.values()):
                    for result in client.sync_alone().values():
                        brought[name] += result["txids"]
        statuses = {name: client.run("status")["connections"] for name, client in self.clients.items()}
        raise AssertionError(f"not over after {rounds} blocks: {statuses}, hub: {self.stages()}")

    def is_over(self, *syncing: Client) -> bool:
        """Whether all connections are closed, at the hub as well where it lives."""
        clients = syncing or tuple(self.clients.values())
        shown = [item["status"] for client in clients for item in client.run("status")["connections"].values()]
        hubs = self.stages().values() if self.hub_lives else ()
        return {*shown, *hubs} <= {"closed"}

    def check(self, before: Books, **changes: int) -> Books:
        """Hold the sums: XCP changed as named and in total not at all, BTC lower by fees only, nothing left behind."""
        after = self.books()
        assets = {asset for books in (before, after) for of in books.held.values() for asset in of} - {"BTC"}
        for asset in assets:
            assert after.total(asset) == before.total(asset), (asset, before, after)
        gained = {name: of.get("XCP", 0) - before.held[name].get("XCP", 0) for name, of in after.held.items()}
        assert gained == {name: changes.get(name, 0) for name in gained}, (gained, changes)
        left = self.left_behind()
        assert left == {}, left
        paid, fees = before.total("BTC") - after.total("BTC"), self._fees_since(before.height)
        assert paid == fees, (paid, fees, self.mempool(), before, after)
        if "stranger" not in self.clients:  # whose dust has no owner that the blocks could tell
            for name, flow in btc_flows(self.bitcoin, self._wallets, before.height).items():
                change = after.held[name]["BTC"] - before.held[name]["BTC"]
                assert change == flow.received - flow.paid - flow.fees, (name, change, flow)
        return after

    def _fees_since(self, start: int) -> int:
        """The fees of all transactions in the blocks above a height, in satoshis, and what lies there for anybody."""
        values: dict[Outpoint, int] = {}
        fees = 0
        for height in range(1, self.height + 1):
            block_hash = self.bitcoin.block_hash(height)
            assert block_hash is not None
            for tx in CBlock.deserialize(self.bitcoin.block(block_hash)).vtx:
                outs = [0 if bytes(out.scriptPubKey) == P2A else out.nValue for out in tx.vout]
                if height > start and not tx.is_coinbase():
                    fees += sum(values[outpoint] for outpoint in spent_outpoints(tx)) - sum(outs)
                txid = tx.GetTxid()
                values.update({Outpoint(txid, n): value for n, value in enumerate(outs)})
        return fees

    def left_behind(self) -> dict[str, object]:
        """Coins and assets on channels' addresses: those of deposits, of all commits known or published."""
        scripts = {
            script: f"{name}: {what}"
            for name, client in self.clients.items()
            for handle in client.handles()
            for script, what in channel_scripts(client.connection(handle)).items()
        }
        addresses = [address_of(script) for script in scripts]
        view = self.chain.view(Query(coins=addresses, balances=addresses))
        found: dict[str, object] = {}
        for address in addresses:
            held = {asset: quantity for asset, quantity in view.balances[address].items() if quantity}
            if view.coins[address] or held:
                found[address] = (scripts[script_of_address(REGTEST, address)], view.coins[address], held)
        return found

    def spender(self, side: Sending | Receiving) -> CTransaction | None:
        """The transaction that spends a channel's anchor, in the mempool too, if one does."""
        anchor = known_anchor(side).outpoint
        address = address_of(side.contract.deposit.output)
        for entry in self.chain.view(Query(history=[address])).history[address]:
            tx = parse_transaction(entry.raw)
            if tx is not None and anchor in spent_outpoints(tx):
                return tx
        return None

    def committed(self, side: Sending | Receiving) -> bytes | None:
        """The output's script of the commit that spends a channel's anchor; None where none does, or a close."""
        tx = self.spender(side)
        first = None if tx is None else bytes(tx.vout[0].scriptPubKey)
        return first if first is not None and first[:2] == b"\x51\x20" else None


def channel_scripts(connection: Connection) -> dict[bytes, str]:
    """The scripts of both deposits, and of every commit there can be."""
    c2h, h2c = connection.duplex.sending.contract, connection.duplex.receiving.contract
    found = {c2h.deposit.output: "own deposit", h2c.deposit.output: "the hub's deposit"}
    found |= {c2h.commit_script(item).output: "commit to the hub" for item in connection.rows.signed}
    return found | {h2c.commit_script(item).output: "commit from the hub" for item in connection.rows.own}


class QuickTown(Town):
    """A town whose hub is a thread, and dies of nothing but its end."""

    hub: HubThread  # type: ignore[assignment]

    def start_hub(self, *options: str) -> None:
        """Start the hub, or start it again on the same port."""
        self.hub = HubThread(self.basedir, self.node.url, self._port, restored="--restored" in options)
        self.hub_url = self.hub.url
        self._port = int(self.hub_url.split(":")[2].partition("/")[0])

    @property
    def hub_lives(self) -> bool:
        """Whether the hub runs."""
        return self.hub.lives

    def stop_hub(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the hub, where it runs."""
        if self.hub_lives:
            self.hub.stop()


@contextlib.contextmanager
def running_town(folder: Path, node: NodeProcess, kind: type[Town] = Town) -> Iterator[Town]:
    """A town for the length of a ``with`` block."""
    town = kind(folder, node)
    try:
        yield town
    finally:
        town.stop_hub()


def highest_commit(side: Sending | Receiving) -> bytes:
    """The output's script of a channel's highest active commit."""
    return side.contract.commit_script(side.active[-1].revoke_hash).output


def revoked_commit(kept: Connection, key: Key) -> bytes:
    """The highest commit received by a connection as it was kept, ready to publish. ``key``: the wallet's."""
    side = kept.duplex.receiving
    return finish_commit(side.contract, known_anchor(side), side.active[-1].commit, kept.secrets(key).payee)


def pay(payer: Client, source: str, payee: str, amount: int) -> str:
    """Queue a payment and sync; its token."""
    token: str = payer.run("queuepayment", source, payee, str(amount))
    payer.run("sync")
    return token


def pay_and_get_back(town: Town, alice: Client, bob: Client, a: str, b: str) -> Path:
    """Alice pays Bob twice and gets the second payment back; the hub's books from before it came back."""
    for amount in (100, 5000):
        pay(alice, a, b, amount)
    bob.run("sync")
    copy = town.copy_books()
    pay(bob, b, a, 5000 + 2 * FEE)
    alice.run("sync")  # receives, by the secrets of what it sent
    return copy


def received(result: Result, handle: str) -> list[tuple[object, ...]]:
    """The payments that a sync brought to a connection: payer, amount and token."""
    return [(item["payer_handle"], item["amount"], item["token"]) for item in result[handle]["received_payments"]]

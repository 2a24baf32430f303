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

from bitcoin.core import CBlock
from network_support import FEE, Client, HubProcess, key_in, wait_until
from picopayments_cli.channel2.facts import Facts, anchor_spender, first_output
from picopayments_cli.channel2.keys import Key
from picopayments_cli.channel2.scripts import wallet_unlock
from picopayments_cli.channel2.state import Channel, finished
from picopayments_cli.channel2.transactions import Draft, Output, Purse, compose_payment, compose_send, spent_outpoints
from picopayments_cli.client2.connection import Connection
from regtest_support import REGTEST, NodeProcess, address_of, script_of_key

from picopayments_cli.chain import Query
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.counterparty import asset_id, pack_send
from picopayments_cli.channel.networks import script_of_address
from picopayments_cli.channel.values import Coin, Outpoint
from picopayments_cli.client.demo_flows import btc_flows

DEPOSIT = 1_000_000
NOTHING = '{"XCP": null}'  # terms that offer nothing
Held = Mapping[str, int]
Result = Mapping[str, Mapping[str, Sequence[Mapping[str, object]]]]  # what a sync prints


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
        self.bitcoin = BitcoinNode(node.url + "bitcoin/")
        self.basedir = folder / "hub"
        self.clients: dict[str, Client] = {}
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

    def broadcast(self, raw: bytes) -> str:
        """Hand a transaction to the node; its txid."""
        return self.chain.broadcast(raw)[::-1].hex()

    def coins(self, script: bytes) -> tuple[Coin, ...]:
        """The unspent outputs of a script."""
        address = address_of(script)
        return self.chain.view(Query(coins=[address])).coins[address]

    # The clients ----------------------------------------------------------------------------------------------------

    def client(self, name: str) -> Client:
        """A client with funds, that sees the chain by the node."""
        client = Client(self.folder / name, self.hub_url)
        client.basedir.mkdir(parents=True)
        (client.basedir / "regtest.cfg").write_text(json.dumps({"chain_url": self.node.url}))
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
        draft = self._draft(payer, target, value, asset, quantity)
        return self.broadcast(draft.signed(payer.key).serialize())

    def _draft(self, payer: Client, target: bytes, value: int, asset: str | None, quantity: int) -> Draft:
        address = address_of(payer.wallet_script)
        coins = self.chain.view(Query(coins=[address])).coins[address]
        confirmed = tuple(coin for coin in coins if coin.height is not None)
        purse = Purse(wallet_unlock(payer.key.pubkey, payer.wallet_script), confirmed, 1)
        if asset is None:
            return compose_payment(purse, Output(value, target))
        return compose_send(purse, Output(value, target), pack_send(asset_id(asset), quantity))

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
                return brought
            self.mine()
            for name, client in self.clients.items():
                if client in (syncing or self.clients.values()):
                    for result in client.run("sync").values():
                        brought[name] += result["txids"]
        statuses = {name: client.run("status")["connections"] for name, client in self.clients.items()}
        told = self.hub.log.read_text()[-2000:]
        raise AssertionError(f"not over after {rounds} blocks: {statuses}, hub: {self.stages()}; it said: {told}")

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
        assert before.total("BTC") - after.total("BTC") == self._fees_since(before.height)
        if "stranger" not in self.clients:  # whose dust has no owner that the blocks could tell
            for name, flow in btc_flows(self.bitcoin, self._wallets, before.height).items():
                change = after.held[name]["BTC"] - before.held[name]["BTC"]
                assert change == flow.received - flow.paid - flow.fees, (name, change, flow)
        return after

    def _fees_since(self, start: int) -> int:
        """The fees of all transactions in the blocks above a height, in satoshis."""
        values: dict[Outpoint, int] = {}
        fees = 0
        for height in range(1, self.height + 1):
            block_hash = self.bitcoin.block_hash(height)
            assert block_hash is not None
            for tx in CBlock.deserialize(self.bitcoin.block(block_hash)).vtx:
                paid = sum(out.nValue for out in tx.vout)
                if height > start and not tx.is_coinbase():
                    fees += sum(values[outpoint] for outpoint in spent_outpoints(tx)) - paid
                values.update({Outpoint(tx.GetTxid(), n): out.nValue for n, out in enumerate(tx.vout)})
        return fees

    def left_behind(self) -> dict[str, object]:
        """Coins and assets on channels' addresses: those of deposits, of all commits known or published."""
        scripts = {
            script: f"{name}, {way}: {what}"
            for name, client in self.clients.items()
            for handle in client.handles()
            for duplex in [client.connection(handle).duplex]
            for way, channel in (("c2h", duplex.sending), ("h2c", duplex.receiving))
            for script, what in self._scripts(channel).items()
        }
        addresses = [address_of(script) for script in scripts]
        view = self.chain.view(Query(coins=addresses, balances=addresses))
        found: dict[str, object] = {}
        for address in addresses:
            held = {asset: quantity for asset, quantity in view.balances[address].items() if quantity}
            if view.coins[address] or held:
                found[address] = (scripts[script_of_address(REGTEST, address)], view.coins[address], held)
        return found

    def _scripts(self, channel: Channel) -> dict[bytes, str]:
        found = {channel.commit_script(item.revoke_hash).output: "revoked" for item in channel.revoked}
        found |= {channel.commit_script(item.revoke_hash).output: "active" for item in channel.active}
        published = self.published(channel)
        return found | {channel.script.output: "deposit"} | ({} if published is None else {published: "published"})

    def published(self, channel: Channel) -> bytes | None:
        """The script of the commit that spends a channel's anchor, if one does."""
        address = address_of(channel.script.output)
        view = self.chain.view(Query(history=[address]))
        entry = anchor_spender(channel, Facts(view.height, view.history[address], ()))
        paid = None if entry is None else first_output(entry)
        return paid if paid is not None and paid[:1] == b"\xa9" else None


@contextlib.contextmanager
def running_town(folder: Path, node: NodeProcess) -> Iterator[Town]:
    """A town for the length of a ``with`` block."""
    town = Town(folder, node)
    try:
        yield town
    finally:
        town.stop_hub()


def revoked_commit(kept: Connection, key: Key) -> bytes:
    """The highest commit received by a connection as it was kept, ready to publish."""
    channel = kept.duplex.receiving
    return finished(channel, channel.active[-1], key)


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

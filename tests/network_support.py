"""Helpers of system tests: a hub as a process with its regtest network, and clients that type commands."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitcoin.core import CBlock, CTransaction
from forked import ForkedProcess, completed
from regtest_support import REGTEST, script_of_key

from picopayments_cli import cli
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.channel.drafts import spent_outpoints, txid_of
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import secret_of_wif
from picopayments_cli.channel.stages import CLOSED
from picopayments_cli.channel.values import Handle
from picopayments_cli.client import key_file
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.demo_flows import btc_flows
from picopayments_cli.client.document import from_document
from picopayments_cli.client.wallet import Wallet
from picopayments_cli.rpc import RpcClient

WAIT = 30.0  # seconds
HUB = [sys.executable, "-m", "picopayments_cli.hub.cli"]
COINS, ASSETS = 100_000_000, 10_000_000_000  # what the faucet gives a wallet: satoshis of BTC and of XCP
DEPOSIT = 1_000_000
FEE = 1  # satoshi of the asset, for a sync
NOBODY = "http://127.0.0.1:9/api/"  # where no hub is
ROUNDS = 12  # of a block and a sync, until a connection is settled


def wait_until(condition: Callable[[], object], what: str = "condition") -> None:
    """Ask until the answer is true. Raises TimeoutError."""
    deadline = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {WAIT:g} s for: {what}")
        time.sleep(0.02)


# Runs a command that is killed before whatever lasts or leaves comes to pass for the nth time, or at a save's label.
_KILLED = """
import os, signal, sys
from picopayments_cli import cli
from picopayments_cli.client.notes import Notes
from picopayments_cli.client.store import Store
from picopayments_cli.rpc import RpcClient

when = sys.argv[1]
left = int(when) if when.isdigit() else -1

def stand_at(owner, name):
    real = getattr(owner, name)
    def door(*args, **kwargs):
        global left
        if left == 0 or when in args[3:4]:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return real(*args, **kwargs)
    setattr(owner, name, door)

for name in ("save", "remove", "save_wallet"):
    stand_at(Store, name)
for name in ("save_hub_key", "save_reported"):
    stand_at(Notes, name)
stand_at(RpcClient, "call")
sys.exit(cli.main(sys.argv[2:]))
"""


# The hub ------------------------------------------------------------------------------------------------------------


class HubProcess:
    """``picopayments-hub --regtest`` on free ports, or those named; its log is kept in a file."""

    def __init__(
        self, basedir: Path, *options: str, ports: tuple[str, ...] = ("--node-port", "0"), port: int = 0
    ) -> None:
        self.log = basedir.parent / f"{basedir.name}.log"
        words = ["--regtest", "--port", str(port), "--basedir", str(basedir), *ports, *options]
        with self.log.open("ab") as log:
            self.process = ForkedProcess([*HUB[1:], *words], stderr=log)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.ready: dict[str, str] = json.loads(line) if line else {}
        if line:
            self.rpc = RpcClient(self.ready["hub_url"])

    def call(self, method: str, **params: Any) -> Any:
        """The result of a method of the hub."""
        return self.rpc.call(method, params, retry=False)

    def end(self, how: signal.Signals) -> int:
        """Send a signal, wait for the end; the exit code."""
        self.process.send_signal(how)
        code = self.process.wait(WAIT)
        assert self.process.stdout is not None
        assert self.process.stdout.read() == ""
        self.process.stdout.close()
        return code

    def logged(self) -> list[dict[str, Any]]:
        """The lines of the log that are JSON."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@contextlib.contextmanager
def running_hub(basedir: Path, *options: str, ports: tuple[str, ...] = ("--node-port", "0")) -> Iterator[HubProcess]:
    """A hub for the length of a ``with`` block."""
    hub = HubProcess(basedir, *options, ports=ports)
    try:
        assert hub.ready, hub.log.read_text()
        yield hub
    finally:
        if hub.process.poll() is None:
            hub.end(signal.SIGTERM)


def _port_of(url: str) -> int:
    return int(url.split(":")[2].partition("/")[0])


def _children(pid: int) -> list[int]:
    """The processes that a process started."""
    with contextlib.suppress(OSError):
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


class Network:
    """A hub with its regtest node, which may be killed and started again, and its clients' folders."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.basedir = folder / "hub"
        self._options = options
        self._clients = 0
        self.hub = HubProcess(self.basedir, *options)
        assert self.hub.ready, self.hub.log.read_text()
        self.hub_url = self.hub.ready["hub_url"]
        self.chain_url = self.hub.ready["chain_url"]

    def kill(self) -> None:
        """SIGKILL for the hub and its node together, as a machine that loses power does."""
        children = _children(self.hub.process.pid)
        os.kill(self.hub.process.pid, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.hub.end(signal.SIGKILL)

    def restart(self) -> None:
        """Start both again on the same folder and ports, once the node's are free."""
        ports = ("--node-port", str(_port_of(self.chain_url)))
        self.hub = HubProcess(self.basedir, *self._options, ports=ports, port=_port_of(self.hub_url))
        assert self.hub.ready, self.hub.log.read_text()

    def stop(self) -> None:
        """SIGTERM, where it still runs."""
        if self.hub.process.poll() is None:
            self.hub.end(signal.SIGTERM)

    def mine(self, blocks: int = 1) -> None:
        """Mine; the hub does its chores after each block."""
        for _ in range(blocks):
            self.hub.call("generate", blocks=1)

    @property
    def height(self) -> int:
        """The tip's height."""
        height: int = self.hub.call("get_running_info")["bitcoin_block_count"]
        return height

    def bitcoin(self, method: str, *params: Any) -> Any:
        """The result of a call of the node's Bitcoin Core interface."""
        return RpcClient(self.chain_url + "bitcoin/").call(method, params, retry=True)

    def blocks(self) -> list[list[CTransaction]]:
        """The transactions of every block of the chain, by height; stale ones left out."""
        node = BitcoinNode(self.chain_url + "bitcoin/")
        hashes = [node.block_hash(height) for height in range(node.height_of(node.best_block()) + 1)]
        return [list(CBlock.deserialize(node.block(found)).vtx) for found in hashes if found is not None]

    def client(self, name: str, *, funded: bool = True, hub_url: str | None = None) -> Client:
        """A client with a folder of its own; funded: with what the faucet gives, confirmed."""
        self._clients += 1
        client = Client(self.folder / f"{name}-{self._clients}", hub_url or self.hub_url)
        if funded:
            client.run("faucet")
            self.mine()
        return client

    def open_connection(self, client: Client, *options: str, quantity: int = DEPOSIT) -> str:
        """The handle of a new connection, once it is open."""
        handle: str = client.run("connect", "XCP", str(quantity), *options)["handle"]
        self.mine(2)  # its deposit, then the hub's
        wait_until(lambda: client.shown(handle)["status"] == "open", "an open connection")
        return handle

    def settle(self, client: Client, *handles: str) -> list[str]:
        """Mine and sync until the connections are closed; the txids of what was published."""
        txids = []
        for _ in range(ROUNDS):
            if all(client.connection(handle).stage == CLOSED for handle in handles):
                break
            self.mine()
            for brought in client.run("sync").values():
                txids += brought["txids"]
        assert [client.shown(handle)["status"] for handle in handles] == ["closed"] * len(handles)
        return txids

    def raw(self, txid: str) -> CTransaction:
        """A transaction, by its txid as commands print it."""
        return CTransaction.deserialize(bytes.fromhex(self.hub.call("getrawtransaction", tx_hash=txid)))

    def mined_at(self, txid: str) -> int:
        """The height of the block that holds a transaction."""
        confirmations: int = self.hub.call("getrawtransaction", tx_hash=txid, verbose=True)["confirmations"]
        return self.height - confirmations + 1

    def fee_of(self, tx: CTransaction) -> int:
        """What a transaction pays to the miner."""
        spent = [self.raw(out.txid[::-1].hex()).vout[out.vout].nValue for out in spent_outpoints(tx)]
        return int(sum(spent) - sum(out.nValue for out in tx.vout))

    def bitcoins_of(self, client: Client) -> int:
        """The satoshis that a client's wallet must hold: what it was given, less fees and what went along with assets.

        As the blocks tell since its first deposit; what lies anywhere else is missing.
        """
        wallets = {"hub": script_of_key(key_in(self.basedir / "hub.regtest.wif")), "client": client.wallet_script}
        deposits = [txid_of(client.connection(handle).deposit_raw) for handle in client.handles()]
        start = min(self.mined_at(txid[::-1].hex()) for txid in deposits) - 1
        flow = btc_flows(BitcoinNode(self.chain_url + "bitcoin/"), wallets, start)["client"]
        return COINS + flow.received - flow.paid - flow.fees


@contextlib.contextmanager
def running_network(folder: Path, *options: str) -> Iterator[Network]:
    """A network for the length of a ``with`` block; hub ``options``: ``--block-time 0`` where none are given."""
    network = Network(folder, *(options or ("--block-time", "0")))
    try:
        yield network
    finally:
        network.stop()


# Clients ------------------------------------------------------------------------------------------------------------


class CommandFailed(Exception):
    """A command that was expected to succeed did not."""


@dataclass(frozen=True)
class Done:
    """A command's end: exit code, what it printed, and the error that stderr ends in."""

    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> Any:
        """The JSON document on stdout. Raises CommandFailed where the exit code is not 0."""
        if self.code != 0:
            raise CommandFailed(f"exit code {self.code}: {self.stderr}")
        return json.loads(self.stdout)

    @property
    def error(self) -> dict[str, Any]:
        """The error of a command that failed."""
        assert self.code != 0, self.stdout
        error: dict[str, Any] = json.loads(self.stderr.splitlines()[-1])["error"]
        assert self.stdout == "" or error["name"] == "SyncIncomplete" or json.loads(self.stdout).get("hub") == "silent"
        return error


class Client:
    """The command line on a folder of its own: inside this process, or as processes."""

    def __init__(self, basedir: Path, hub_url: str) -> None:
        self.basedir = basedir
        self.hub_url = hub_url

    def words(self, *words: str) -> list[str]:
        """A command's whole argv."""
        return ["--regtest", "--basedir", str(self.basedir), "--hub-url", self.hub_url, *words]

    def done(self, *words: str) -> Done:
        """Run a command inside this process; the parser may refuse it, too."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.main(self.words(*words))
            except SystemExit as stopped:
                code = int(str(stopped.code))
        return Done(code, out.getvalue(), err.getvalue())

    def run(self, *words: str) -> Any:
        """Return what a command prints. Raises CommandFailed."""
        return self.done(*words).result

    def queue_unseen(self, source: str, payee: str, amount: int, *options: str) -> str:
        """Queue a payment before the hub can answer whether it knows the payee; its token."""
        words = ("--timeout", "0.001", "queuepayment", source, payee, str(amount), *options)
        token: str = self.run(*words)
        return token

    def sync_alone(self) -> dict[str, Any]:
        """Sync while the hub of what closes may be away; what that brought, though it is not done."""
        done = self.done("sync")
        if done.code and "is closing, and that is not done" in done.stderr:
            return dict(json.loads(done.stdout)) if done.stdout else {}
        return dict(done.result)

    def fails(self, *words: str) -> tuple[int, str]:
        """The exit code and the error's name of a command that fails."""
        done = self.done(*words)
        return done.code, done.error["name"]

    def typed(self, *words: str) -> Any:
        """Return what a command prints that is run as a process."""
        return Done(*completed(["-m", "picopayments_cli", *self.words(*words)], WAIT)).result

    def killed(self, when: int | str, *words: str) -> bool:
        """Run a command as a process that passes so many doors and is killed at the next; whether it came to that.

        ``when``: that number, or the label of the save before which it is killed.
        """
        code, _, stderr = completed(["-c", _KILLED, str(when), *self.words(*words)], WAIT)
        assert code in (0, -signal.SIGKILL), stderr
        return code != 0

    def lose_hub(self, handle: str) -> None:
        """Have a connection's hub be where nobody is, and ask nobody else."""
        for path in (self.basedir / "regtest.connections" / f"{handle}.json", self.basedir / "regtest.listed"):
            path.write_text(path.read_text().replace(self.hub_url, NOBODY))
        self.hub_url = NOBODY

    # What it holds ---------------------------------------------------------------------------------------------------

    def shown(self, handle: str) -> dict[str, Any]:
        """A connection, as ``status --verbose`` shows it."""
        shown: dict[str, Any] = self.run("status", "--verbose", "--handle", handle)["connections"][handle]
        return shown

    def balances(self) -> dict[str, int]:
        """The wallet's confirmed balances."""
        balances: dict[str, int] = self.run("balances")
        return balances

    def files(self) -> dict[str, bytes]:
        """Every file but locks and logs."""
        return {
            str(path.relative_to(self.basedir)): path.read_bytes()
            for path in sorted(self.basedir.rglob("*"))
            if path.is_file() and "lock" not in path.name and "log" not in path.name
        }

    def handles(self) -> list[str]:
        """The handles of the connections on disk; those that were only asked for left out."""
        paths = sorted((self.basedir / "regtest.connections").glob("*.json"))
        return [path.stem for path in paths if json.loads(path.read_bytes())["stage"] != "asked"]

    def connection(self, handle: str) -> Connection:
        """A connection as it is on disk."""
        folder = self.basedir / "regtest.connections"
        document = json.loads((folder / f"{handle}.json").read_bytes())
        size = document["rows_size"]
        rows = (folder / f"{handle}.commits.jsonl").read_bytes()[:size].splitlines() if size else []
        return from_document(Handle(bytes.fromhex(handle)), {**document, "rows": [json.loads(row) for row in rows]})

    @property
    def key(self) -> Key:
        """The wallet's key."""
        return self.wallet.key

    @property
    def wallet_script(self) -> bytes:
        """The wallet's scriptPubKey."""
        return self.wallet.script

    @property
    def wallet(self) -> Wallet:
        """The wallet of the folder."""
        file = key_file.read(self.basedir / "regtest.wallet", self.basedir / "regtest.wif", REGTEST)
        assert file is not None
        return Wallet(file)


def key_in(path: Path) -> Key:
    """The key of a WIF file."""
    return Key(secret_of_wif(REGTEST, path.read_text().strip()))


def tokens_of(result: Mapping[str, Any], handle: str) -> list[str]:
    """The tokens of the payments that a sync received on a connection."""
    return [payment["token"] for payment in result[handle]["received_payments"]]


def refusal(client: Client, *words: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, name and data of the refusal of a command that leaves files and mempool as they were."""
    before = client.files()
    outcome = client.done(*words)
    assert "Traceback" not in outcome.stderr
    error = outcome.error
    assert client.files() == before
    return outcome.code, error["name"], error["data"]

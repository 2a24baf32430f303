"""Part: many processes on one folder, two hubs on one database, full disks, read-only folders, files taken away."""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from forked import completed
from network_support import ASSETS, DEPOSIT, HUB, Client, CommandFailed, Done, Network, running_network, wait_until

from faults.result import Budget, Result

PATIENCE = 120.0  # seconds, for a crowd on a busy machine
FLUSHES = 3  # of files and folders, and more, for a sync
EXPIRE = "1000"  # blocks, so that no deadline comes in between
LOCAL = ("StoreUnusable",)
HUBS = ("HubRefused", "BadAnswer", "HubUnreachable")
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _PR_CAPBSET_DROP = 1, 2, 24
_TMPFS = "mount -t tmpfs -o size=512k tmpfs {there} && cp -a {here}/. {there}/"

# Runs a command on a disk on which the nth flush of a file finds no space.
_FULL = """
import errno, os, sys
from picopayments_cli import cli

left = int(sys.argv[1])
real = os.fsync

def fsync(descriptor):
    global left
    left -= 1
    if left < 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    real(descriptor)

os.fsync = fsync
sys.exit(cli.main(sys.argv[2:]))
"""


@dataclass
class Pair:
    """Two clients of one hub, that see the chain by its node, and what was queued: token to amount."""

    network: Network
    rng: random.Random
    result: Result
    alice: Client
    bob: Client
    a: str
    b: str
    queued: dict[str, int] = field(default_factory=dict)

    def queue(self) -> None:
        """A payment of Alice's to Bob, that the next sync makes."""
        amount = self.rng.randrange(1, 2000)
        self.queued[self.alice.run("queuepayment", self.a, self.b, str(amount))] = amount

    def refused(self, done: Done, what: str, *names: str) -> None:
        """A command failed by a name that is expected, says what to do, and shows no traceback."""
        self.result.trials += 1
        self.result.hold("Traceback" not in done.stderr, f"{what}: {done.stderr[-500:]}")
        if done.code == 0 or done.error["name"] not in names:
            self.result.failures.append(f"{what}: exit code {done.code}, {done.stderr[-300:]}")
            return
        self.result.hold(len(done.error["message"]) > 20, f"{what}: {done.error}")
        self.result.refused += 1

    def goes_on(self, what: str) -> None:
        """After that a sync repairs all: each payment arrives once, and hub and client count the same."""
        try:
            self.alice.run("sync")
            self.bob.run("sync")
        except CommandFailed as error:
            self.result.failures.append(f"after {what}: {error}")
            return
        self.result.recovered += 1
        arrived = [(event["token"], event["amount"]) for event in self.bob.run("history")
                   if event["action"] == "received" and event["token"] in self.queued]  # fmt: skip
        self.result.hold(sorted(arrived) == sorted(self.queued.items()), f"{what}: {arrived} of {self.queued}")
        self.agree(what)

    def agree(self, what: str) -> None:
        """Check that both clients hold what their history tells, and the hub the rest."""
        for client, handle in ((self.alice, self.a), (self.bob, self.b)):
            has = client.connection(handle).duplex.guaranteed
            self.result.keep(_by_history(client, handle), has, f"{client.basedir.name}, {what}")
            hubs = self.hubs(handle)
            self.result.hold(hubs == 2 * DEPOSIT - has, f"{what}: the hub counts {hubs}, {client.basedir.name} {has}")

    def hubs(self, handle: str) -> int:
        """Return what the hub says that it has in a connection."""
        return int(self.network.hub.call("mph_status", handles=[handle])["connections"][handle]["balance"])

    def end(self) -> None:
        """Close and settle all; on chain everybody has what its history tells."""
        for client in (self.alice, self.bob):
            for handle in client.handles():
                client.done("close", handle)
            self.network.settle(client, *client.handles())
            told = sum(_by_history(client, handle) - DEPOSIT for handle in client.handles())
            has = client.balances()["XCP"] - ASSETS
            self.result.keep(told, has, f"{client.basedir.name}, on chain")
            self.result.hold(has == told, f"{client.basedir.name} has {has} on chain, and its history tells {told}")


def run(rng: random.Random, budget: Budget) -> Result:
    """All of it once in each network; in a quick run a part of it, in one."""
    result = Result("writers")
    number = 0
    while budget.goes_on(number, budget.share(3, 1)):
        folder = budget.folder / f"network{number}"
        folder.mkdir()
        number += 1
        with running_network(folder) as network:
            pair = _pair(network, rng, result)
            for story in (_two_hubs, _client_disk, _hub_disk, _read_only, _client_files, _hub_files, _crowd):
                story(pair, budget.quick)
            pair.end()
    return result


def _pair(network: Network, rng: random.Random, result: Result) -> Pair:
    clients = []
    for name in ("alice", "bob"):
        (network.folder / name).mkdir(mode=0o700)
        (network.folder / name / "regtest.cfg").write_text(json.dumps({"chain_url": network.chain_url}))
        clients.append(network.client(name))
    alice, bob = clients
    for _ in range(3):  # coins for several connections at once
        alice.run("faucet", "--btc", "10000000")
    network.mine()
    a, b = (network.open_connection(client, "--expire-time", EXPIRE) for client in clients)
    return Pair(network, rng, result, alice, bob, a, b)


def _by_history(client: Client, handle: str) -> int:
    """Return what a client has in a connection, as its own history tells."""
    amounts = {"received": 1, "sent": -1, "refused": 1}
    events = client.run("history", "--handle", handle)
    moved: int = sum(amounts.get(event["action"], 0) * event.get("amount", 0) for event in events)
    fees: int = sum(event["sync_fee"] for event in events if event["action"] == "fee")
    return DEPOSIT + moved - fees


def _process(client: Client, *words: str, prepare: Callable[[], None] | None = None, full: int | None = None) -> Done:
    """Run a command as a process; ``full``: on a disk with space for so many flushes."""
    program = ["-m", "picopayments_cli"] if full is None else ["-c", _FULL, str(full)]
    if prepare is None:
        return Done(*completed([*program, *client.words(*words)], PATIENCE))
    command = [sys.executable, *program, *client.words(*words)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=False, preexec_fn=prepare
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


# One writer ---------------------------------------------------------------------------------------------------------


def _crowd(pair: Pair, quick: bool) -> None:
    """Twenty processes at once on Alice's folder, in a quick run nine."""
    alice, a, b = pair.alice, pair.a, pair.b
    other = pair.network.open_connection(alice, "--expire-time", EXPIRE)
    queue = ["queuepayment", a, b]
    amounts = {os.urandom(8).hex(): pair.rng.randrange(1, 500) for _ in range(3 if quick else 6)}
    commands = [[*queue, str(amount), "--token", token] for token, amount in amounts.items()]
    new = 1 if quick else 2  # connections
    more = 1 if quick else 4
    commands += [["sync"]] * more + [["status"]] * more + [["history"]] + [["connect", "XCP", str(DEPOSIT)]] * new
    commands += [["sync", "--handle", a], ["close", other]]
    pair.rng.shuffle(commands)
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "picopayments_cli", *alice.words(*words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in commands
    ]
    for words, process in zip(commands, started, strict=True):
        out, err = process.communicate(timeout=PATIENCE)
        done = Done(process.returncode, out, err)
        pair.result.trials += 1
        pair.result.hold("Traceback" not in err, f"{words}: {err[-500:]}")
        pair.result.hold(done.code == 0, f"{words} of a crowd: exit code {done.code}, {err[-300:]}")
        if done.code == 0 and words[0] == "queuepayment":
            pair.queued[done.result] = amounts[done.result]
    pair.network.mine(3)
    handles = [handle for handle in alice.handles() if handle != other]
    pair.result.hold(len(handles) == 1 + new, f"{len(handles)} connections, not {1 + new}")
    wait_until(lambda: {alice.shown(handle)["status"] for handle in handles} == {"open"}, "all open")
    pair.goes_on("a crowd")


def _two_hubs(pair: Pair, quick: bool) -> None:
    """A second hub is refused, on the same folder and on the same database; once the first is killed it may start."""
    network = pair.network
    elsewhere = network.folder / "second"
    database = f"sqlite:///{network.basedir / 'regtest.db'}"
    for basedir, options in ((network.basedir, ()), (elsewhere, ("--database", database))):
        there = ("--counterparty-url", network.chain_url, "--basedir", str(basedir))
        command = [*HUB, "--regtest", "--port", "0", *there, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        second = Done(done.returncode, done.stdout, done.stderr)
        pair.refused(second, f"a second hub in {basedir.name}", "StoreLocked")
    pair.queue()
    pair.goes_on("a second hub")
    if not quick:
        network.kill()
        network.restart()
        pair.goes_on("a killed hub")


# Full disks ---------------------------------------------------------------------------------------------------------


def _client_disk(pair: Pair, quick: bool) -> None:
    """No space for the nth write of a sync, for any file, and on a small file system where one can be mounted."""
    flushes = 0
    while True:
        if not quick or flushes in (0, FLUSHES):
            pair.queue()
            before = pair.hubs(pair.a)
            done = _process(pair.alice, "sync", full=flushes)
            if done.code == 0:
                pair.result.hold(flushes > FLUSHES, f"a sync that flushes {flushes} files only")
                break
            pair.refused(done, f"a sync with space for {flushes} flushes", *LOCAL)
            unsaved = not flushes and pair.hubs(pair.a) != before
            pair.result.hold(not unsaved, "a sync left that was not on disk")
            pair.goes_on(f"a sync with space for {flushes} flushes")
        flushes += 1
        if quick and flushes > FLUSHES:
            break
    pair.goes_on("a sync with space enough")
    several = (["sync"], ["queuepayment", pair.a, pair.b, "7"], ["connect", "XCP", "5000"], ["close", pair.a])
    for words in several[: 1 if quick else None]:
        done = _process(pair.alice, *words, prepare=_no_large_files)
        pair.refused(done, f"{words[0]} without room for a file", *LOCAL)
        pair.result.hold(pair.alice.connection(pair.a).stage == "agreed", f"{words[0]} closed the connection")
        pair.goes_on(f"{words[0]} without room for a file")
    _small_disk(pair)


def _no_large_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _small_disk(pair: Pair) -> None:
    """A sync on a full tmpfs, then with space again; only where this machine lets a process mount one."""
    there = pair.network.folder / "small"
    there.mkdir(exist_ok=True)
    here = pair.alice.basedir
    small = Client(there, pair.alice.hub_url)
    sync = " ".join([sys.executable, "-m", "picopayments_cli", *small.words("sync")])
    pair.queue()
    script = f"""{_TMPFS.format(here=here, there=there)} || exit 99
        cat /dev/zero > {there}/filler 2>/dev/null
        {sync} 2>{here}.err; code=$?
        rm {there}/filler; {sync} >/dev/null 2>&1 || exit 98
        cp -a {there}/. {here}/; exit $code"""
    spaces = ["-m"] if os.geteuid() == 0 else ["-r", "-m"]
    command = ["unshare", *spaces, "sh", "-c", script]
    done = (
        subprocess.run(command, timeout=PATIENCE, check=False, capture_output=True) if shutil.which("unshare") else None
    )
    if done is None or done.returncode in (1, 99):
        pair.result.notes.append("no small file system: this machine lets nobody mount one")
    else:
        pair.refused(Done(done.returncode, "", Path(f"{here}.err").read_text()), "a sync on a full tmpfs", *LOCAL)
    pair.goes_on("a sync on a full tmpfs")


def _hub_disk(pair: Pair, _quick: bool) -> None:
    """The hub can write nothing: it refuses, and goes on once it can, without a restart."""
    process = pair.network.hub.process.pid
    before = resource.prlimit(process, resource.RLIMIT_FSIZE)
    pair.queue()
    resource.prlimit(process, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        pair.refused(pair.alice.done("sync"), "a sync with a hub whose disk is full", *HUBS, "DatabaseUnusable")
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, before)
    pair.goes_on("a hub whose disk was full")


# Folders and files --------------------------------------------------------------------------------------------------


def _read_only(pair: Pair, quick: bool) -> None:
    """Nothing can be written to Alice's folder, nor to one that a hub is to begin in."""
    alice = pair.alice
    pair.queue()
    with _no_writing(alice.basedir, alice.basedir / "regtest.connections"):
        for words in (["sync"], ["queuepayment", pair.a, pair.b, "7"], ["connect", "XCP", "5000"])[: 1 if quick else 3]:
            pair.refused(_process(alice, *words, prepare=_like_anybody), f"{words[0]}, read-only", *LOCAL)
    pair.goes_on("a read-only folder")
    folder = pair.network.folder / "readonly"
    folder.mkdir(exist_ok=True)
    with _no_writing(folder):
        command = [*HUB, "--regtest", "--counterparty-url", pair.network.chain_url, "--port", "0"]
        done = subprocess.run(
            [*command, "--basedir", str(folder)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            preexec_fn=_like_anybody,
        )
    pair.refused(Done(done.returncode, done.stdout, done.stderr), "a hub in a read-only folder", *LOCAL)


def _like_anybody() -> None:
    """Have modes mean something for root as well, in what is run next."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


@contextmanager
def _no_writing(*folders: Path) -> Iterator[None]:
    for folder in folders:
        folder.chmod(0o500)
    try:
        yield
    finally:
        for folder in folders:
            folder.chmod(0o700)


@contextmanager
def _away(*paths: Path) -> Iterator[None]:
    """Files moved elsewhere for the length of a ``with`` block; what was made in their place is removed."""
    places = [(path, path.with_name(f"{path.name}.away")) for path in paths if path.exists()]
    for path, place in places:
        path.rename(place)
    try:
        yield
    finally:
        for path, place in places:
            path.unlink(missing_ok=True)
            place.rename(path)


def _client_files(pair: Pair, _quick: bool) -> None:
    """Alice's key and documents are taken away: nothing begins anew in their place."""
    alice = pair.alice
    wif = alice.basedir / "regtest.wallet"
    pair.queue()
    with _away(wif):
        for words in (["sync"], ["status"], ["balances"], ["connect", "XCP", "5000"], ["close", pair.a]):
            pair.refused(alice.done(*words), f"{words[0]} without the key", "StoreDamaged")
        pair.result.hold(not wif.exists(), "a new key was made")
    pair.goes_on("a missing key")
    with _away(alice.basedir / "regtest.connections" / f"{pair.a}.json"):
        for words in (["sync", "--handle", pair.a], ["close", pair.a], ["queuepayment", pair.a, pair.b, "7"]):
            pair.refused(alice.done(*words), f"{words[0]} without the document", "StoreDamaged")
    pair.goes_on("a missing document")
    for name in ("regtest.lock", "regtest.hubs"):
        (alice.basedir / name).unlink()
        pair.queue()
        pair.goes_on(f"a missing {name}")
    away = alice.basedir.with_name("away")
    shutil.move(alice.basedir, away)
    pair.refused(alice.done("sync", "--handle", pair.a), "sync without the folder", "WalletMissing")
    shutil.move(away, alice.basedir)
    pair.goes_on("a missing folder")


def _hub_files(pair: Pair, quick: bool) -> None:
    """The hub's files are taken away while it runs: it answers nothing more until they are back."""
    network = pair.network
    for name in ("regtest.db", "regtest.db-wal"):
        pair.queue()
        with _away(network.basedir / name):
            done = pair.alice.done("sync")
            pair.refused(done, f"a sync with a hub without {name}", *HUBS, "DatabaseUnusable")
        pair.goes_on(f"a hub without {name}")
    pair.queue()
    with _away(network.basedir / "hub.regtest.wif", network.basedir / "hub.regtest.lock"):
        pair.goes_on("a hub whose key's file is gone")
    if quick:
        return
    for name, error in (("hub.regtest.wif", "StoreDamaged"), ("regtest.db", "DatabaseOutdated")):
        network.hub.end(signal.SIGTERM)
        with _away(network.basedir / name):
            command = [*HUB, "--regtest", "--port", "0", "--node-port", "0", "--basedir", str(network.basedir)]
            done_hub = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
            started = Done(done_hub.returncode, done_hub.stdout, done_hub.stderr)
            pair.refused(started, f"a hub without {name}", error)
        network.restart()
        pair.goes_on(f"a hub without {name}")

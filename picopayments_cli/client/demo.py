"""The demonstration: a network, a hub and four wallets of its own, and the whole life of their connections.

Every step is a command as anybody would type it, run as a process of its own; the sums come from the blocks.
"""

from __future__ import annotations

import json
import logging
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from picopayments_cli.chain import Query
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.networks import NETWORKS, script_of_address
from picopayments_cli.client.demo_flows import btc_flows
from picopayments_cli.errors import DemoFailed
from picopayments_cli.extras import check_extra
from picopayments_cli.processes import end, python

log = logging.getLogger(__name__)

ASSET = "XCP"
DEPOSIT = 1_000_000
DELAY = 2
START_SECONDS = 60
STOP_SECONDS = 20
LONG_EXPIRY, SHORT_EXPIRY = 1024, 40  # blocks
HIGH_RATE, HIGH_MINIMUM = 20, 3  # sat/vB: what blocks and mempool ask for while a commit, which pays less, is raised
STEPS = 14
DURATION = "one to three minutes"
NODES = ("PICOPAYMENTS_CHAIN_URL", "PICOPAYMENTS_BITCOIN_URL")
NO_NODES = f"unset {' '.join(NODES)}"
ROUNDS = 20  # of mining a block and syncing, until everything is settled


@dataclass
class Party:
    """A wallet's owner, and what was commanded for it so far: quantities in satoshis of the asset."""

    name: str
    basedir: Path
    address: str = ""
    handle: str = ""
    received: int = 0
    paid: int = 0
    fees: int = 0


@dataclass
class Demo:
    """The running demonstration; ``hub`` is a party too, whose income are the fees.

    ``lifeline``: the standard input of its processes. ``own_chain``: whether the clients use the nodes themselves, as
    they must where the hub is gone. ``shown``: what was shown before commands so that they are short, by its purpose.
    """

    hub_url: str
    chain_url: str
    hub: Party
    clients: tuple[Party, ...]
    lifeline: int
    sync_fee: int = 1
    own_chain: bool = False
    steps: int = 0
    begun: float = field(default_factory=time.monotonic)
    shown: dict[str, str] = field(default_factory=lambda: {"nodes": NO_NODES})

    def step(self, headline: str) -> None:
        """Say what comes next, and how far it has come."""
        self.steps += 1
        log.info("[%d/%d, %.0f s] %s", self.steps, STEPS, time.monotonic() - self.begun, headline)

    def command(self, party: Party, *words: str) -> Any:
        """Run one command, say so, and return what it printed. Raises DemoFailed with the command's own error."""
        options = ["--regtest", "--basedir", str(party.basedir), "--hub-url", self.hub_url]
        urls = (self.chain_url, f"{self.chain_url}bitcoin/")
        extra = dict(zip(NODES, urls, strict=True)) if self.own_chain else {}
        shown = " ".join(f"{name}={value}" for name, value in extra.items())
        self._show_once("nodes", f"export {shown}" if shown else NO_NODES)
        self._show_once(party.name, f'alias {party.name}="picopayments-cli {" ".join(options)}"')
        log.info("  $ %s", " ".join((party.name, *words)))
        line = python("picopayments_cli.cli", *options, *words, followed=True)
        environment = {**os.environ, **extra}
        done = subprocess.run(  # noqa: S603
            line, stdin=self.lifeline, capture_output=True, text=True, check=False, timeout=120, env=environment
        )
        if done.returncode:
            raise DemoFailed(
                f"{party.name}: `{' '.join(words)}` failed with exit code {done.returncode}: {done.stderr.strip()}",
                command=list(words),
                exit_code=done.returncode,
            )
        return json.loads(done.stdout)

    def _show_once(self, what: str, line: str) -> None:
        """Show what is typed before a command, where it is not as the last time."""
        if self.shown.get(what) != line:
            self.shown[what] = line
            log.info("  $ %s", line)

    def each(self, parties: Sequence[Party], do: Callable[[Party], Any]) -> list[Any]:
        """Do something for each party apart from the others, two at a time; the results in the parties' order."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(do, parties))

    def status(self, party: Party) -> Any:
        """Ask for the status."""
        return self.command(party, "status")

    def sync(self, party: Party) -> Any:
        """Sync, and count what it brought and cost."""
        result = self.command(party, "sync")
        for brought in result.values():
            party.received += sum(payment["amount"] for payment in brought["received_payments"])
        return result

    def sync_open(self, party: Party) -> Any:
        """Sync an open connection, which the hub charges for."""
        party.fees += self.sync_fee
        return self.sync(party)

    def pay(self, payer: Party, payee: Party, amounts: Sequence[int]) -> None:
        """Queue payments."""
        for amount in amounts:
            self.command(payer, "queuepayment", payer.handle, payee.handle, str(amount))
            payer.paid += amount

    def mine(self, blocks: int = 1) -> None:
        """Mine, which lets the hub look around too."""
        self.command(self.clients[0], "mine", str(blocks))


def run(basedir: Path | None) -> dict[str, Any]:
    """Show everything, in a folder of one's own or a temporary one; the sums. Raises DemoFailed."""
    check_extra("regtest", "demo")
    with ExitStack() as stack:
        if basedir is None:
            basedir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="picopayments-demo-")))
        basedir.mkdir(mode=0o700, parents=True, exist_ok=True)
        log.info("The demonstration takes %s. Ctrl-C ends it, and leaves nothing behind.", DURATION)
        log.info("A Bitcoin chain validated by Bitcoin Core's kernel, with a Counterparty ledger; and a hub:")
        words = ["--basedir", str(basedir / "node"), "--port", "0", "--block-time", "0"]
        lifeline = stack.enter_context(_lifeline())
        node = stack.enter_context(_Service("picopayments_cli.regtest.__main__", words, basedir / "node.log", lifeline))
        words = ["--regtest", "--counterparty-url", node.ready["chain_url"], "--basedir", str(basedir / "hub")]
        hub = stack.enter_context(
            _Service("picopayments_cli.hub.cli", [*words, "--port", "0"], basedir / "hub.log", lifeline)
        )
        clients = tuple(Party(name, basedir / name) for name in ("alice", "bob", "carol", "dave"))
        demo = Demo(hub.ready["hub_url"], node.ready["chain_url"], Party("hub", basedir / "hub"), clients, lifeline)
        return _show(demo, hub)


@contextmanager
def _lifeline() -> Iterator[int]:
    """Make what every process of the demo has as its standard input: it ends with the demo, even with a killed one."""
    read, write = os.pipe()
    try:
        yield read
    finally:
        os.close(read)
        os.close(write)


class _Service:
    """A server of ours as a process: ``ready`` is the line that it prints once it serves. Its log stands in a file."""

    def __init__(self, module: str, words: Sequence[str], messages: Path, lifeline: int) -> None:
        self._lifeline = lifeline
        self._module = module
        self._words = list(words)
        self._messages = messages
        self.ready: dict[str, str] = {}

    def __enter__(self) -> _Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(kill=False)

    def start(self) -> None:
        """Start it and wait until it serves, from the second time on with the port of the first. Raises DemoFailed."""
        if self.ready.get("hub_url"):
            self._words[-1] = str(urlsplit(self.ready["hub_url"]).port)
        names = {"picopayments_cli.hub.cli": "picopayments-hub"}
        log.info("  $ %s %s", names.get(self._module, "python -m picopayments_cli.regtest"), " ".join(self._words))
        with self._messages.open("a") as messages:
            line = python(self._module, *self._words, followed=True)
            self._process = subprocess.Popen(  # noqa: S603
                line, stdin=self._lifeline, stdout=subprocess.PIPE, stderr=messages, text=True
            )
        output = self._process.stdout
        text = output.readline() if output and select.select([output], [], [], START_SECONDS)[0] else ""
        if not text:
            self.stop(kill=True)
            raise DemoFailed(f"{self._module} did not start: {self._messages.read_text()[-2000:].strip()}")
        self.ready = json.loads(text)

    def stop(self, *, kill: bool) -> None:
        """End it, at once and without warning where ``kill``."""
        if kill:
            self._process.kill()
        end(self._process, STOP_SECONDS)


# The story ----------------------------------------------------------------------------------------------------------


def _show(demo: Demo, hub: _Service) -> dict[str, Any]:
    alice, bob, carol, dave = demo.clients
    demo.step("Four wallets, each with 1 bitcoin and 100 XCP:")
    demo.each(demo.clients, lambda party: demo.command(party, "faucet"))
    demo.mine()
    for party, shown in zip(demo.clients, demo.each(demo.clients, demo.status), strict=True):
        party.address = shown["wallet"]["address"]
    status = demo.command(alice, "hubstatus")
    demo.hub.address = status["funding_addresses"][ASSET]
    demo.sync_fee = status["current_terms"][ASSET]["sync_fee"]
    before, start = _holdings(demo)

    demo.step("Each connects to the hub by a deposit, and the hub matches it:")

    def connect(party: Party) -> None:
        expiry = SHORT_EXPIRY if party is dave else LONG_EXPIRY
        words = ["connect", ASSET, str(DEPOSIT), "--expire_time", str(expiry), "--delay_time", str(DELAY)]
        party.handle = demo.command(party, *words)["handle"]

    demo.each(demo.clients, connect)
    _until_open(demo)
    _pay(demo)

    commits: dict[str, Any] = {}
    _cheat(demo, hub, carol, alice, commits)
    demo.step("Alice and Bob close in agreement with the hub, and settle on the chain:")
    for party in (alice, bob):
        party.fees += demo.sync_fee
        commits[party.name] = demo.command(party, "close", party.handle)["txid"]
    _until_closed(demo, (alice, bob))
    _survive(demo, hub, dave, commits)
    _until_hub_is_free(demo, _total(before))
    after, _ = _holdings(demo)
    return _summary(demo, before, after, start, commits)


def _pay(demo: Demo) -> None:
    """Pay both ways, and once so that commits are revoked."""
    alice, bob, _, dave = demo.clients
    demo.step("Alice pays Bob and Dave: all of it goes out with one sync, and no transaction:")
    demo.pay(alice, bob, [1000, 31337])
    demo.pay(alice, dave, [4000])
    for party in (alice, bob, dave):
        demo.sync_open(party)
    demo.step("Bob pays some of it back, by a commit of his own:")
    demo.pay(bob, alice, [20337])
    demo.sync_open(bob)
    demo.step("Then as much as he ever received: instead of another commit he revokes the one that the hub gave him:")
    held = _received_in_channel(demo, bob)
    demo.pay(bob, alice, [held])
    demo.sync_open(bob)
    if (left := _received_in_channel(demo, bob)) >= held:
        raise DemoFailed("Bob's payment revoked nothing.", before=held, after=left)
    demo.sync_open(alice)


def _cheat(demo: Demo, hub: _Service, carol: Party, alice: Party, commits: dict[str, Any]) -> None:
    """Have Carol publish a commit that she has given back, while the hub is away; it comes back and takes it all."""
    demo.step("Alice pays Carol, who keeps a copy of her folder. Then she pays it back, and is paid a little again:")
    demo.pay(alice, carol, [6000])
    demo.sync_open(alice)
    demo.sync_open(carol)
    newest, copy = carol.basedir, carol.basedir.with_name("carol-copy")
    shutil.copytree(newest, copy)
    demo.pay(carol, alice, [_received_in_channel(demo, carol) - demo.sync_fee])
    demo.pay(alice, carol, [500])
    for party in (carol, alice, carol):
        demo.sync_open(party)
    lost = _received_in_channel(demo, carol)
    demo.step("The hub goes silent. Carol cheats: with the copy she publishes the commit that she gave back:")
    hub.stop(kill=True)
    demo.own_chain, carol.basedir = True, copy
    commits[carol.name] = demo.command(carol, "close", carol.handle)["txid"]
    demo.step("The hub comes back, and takes all of it, which Carol would have been paid only after a delay:")
    hub.start()
    demo.own_chain, carol.basedir = False, newest
    demo.mine(DELAY)
    carol.paid += lost
    demo.hub.received += lost
    demo.step("With her newest folder she takes back what she had deposited, less what she had paid:")
    _until_closed(demo, (carol,))


def _survive(demo: Demo, hub: _Service, dave: Party, commits: dict[str, Any]) -> None:
    """The hub goes silent; who is left has his own back alone, and then the hub has its own."""
    demo.step("The hub goes silent, and fees rise. Dave, who was paid, closes alone, with nodes of his own:")
    hub.stop(kill=True)
    demo.own_chain = True
    demo.command(demo.clients[0], "feerate", str(HIGH_RATE), "--minimum", str(HIGH_MINIMUM))
    commits[dave.name] = demo.command(dave, "close", dave.handle)["txid"]
    waiting = BitcoinNode(demo.chain_url + "bitcoin/").mempool()
    if len(waiting) != 2:
        raise DemoFailed("Dave's commit was not raised by a child.", mempool=len(waiting))
    demo.step("His commit pays too little for the mempool. A child of it pays for both, and the next block has them:")
    demo.mine()
    demo.command(demo.clients[0], "feerate", "1", "--minimum", "1")
    demo.step("He waits until his deposit expires, and takes it back:")
    demo.mine(SHORT_EXPIRY)
    _until_closed(demo, (dave,))
    demo.step("The hub comes back, and takes back its own:")
    hub.start()
    demo.own_chain = False


def _received_in_channel(demo: Demo, party: Party) -> int:
    shown = demo.command(party, "status", "--handle", party.handle, "--verbose")
    received: int = shown["connections"][party.handle]["received"]
    return received


def _until_open(demo: Demo) -> None:
    """Mine until every connection is open."""
    waiting = list(demo.clients)
    for _ in range(ROUNDS):
        demo.mine(2)  # its deposit, then the hub's
        while waiting:
            shown = demo.command(waiting[0], "status")["connections"]
            if any(connection["status"] != "open" for connection in shown.values()):
                break
            waiting.pop(0)
        if not waiting:
            return
    raise DemoFailed(f"The connections are not open after {ROUNDS} blocks.")


def _until_closed(demo: Demo, parties: Sequence[Party]) -> None:
    """Mine and sync until these parties' connections are over: there is nothing to sync any more."""
    waiting = list(parties)
    for _ in range(ROUNDS):
        demo.mine()
        left = demo.each(waiting, demo.sync)
        waiting = [party for party, brought in zip(waiting, left, strict=True) if brought]
        if not waiting:
            return
    raise DemoFailed(f"The connections are not closed after {ROUNDS} blocks.")


def _until_hub_is_free(demo: Demo, total: int) -> None:
    """Mine until no asset is on a channel's address any more."""
    for _ in range(ROUNDS):
        demo.mine()
        if _total(_holdings(demo)[0]) == total:
            return
    raise DemoFailed(f"The hub has not its own back after {ROUNDS} blocks.")


# The sums -----------------------------------------------------------------------------------------------------------


def _holdings(demo: Demo) -> tuple[dict[str, dict[str, int]], int]:
    """Ask the ledger what each party's wallet holds, by name, and at which height."""
    parties = (*demo.clients, demo.hub)
    chain = NodeChain(demo.chain_url, NETWORKS["regtest"])
    view = chain.view(Query(balances=[party.address for party in parties]))
    held = {party.name: view.balances[party.address] for party in parties}
    return {name: {"BTC": of.get("BTC", 0), ASSET: of.get(ASSET, 0)} for name, of in held.items()}, view.height


def _total(held: dict[str, dict[str, int]]) -> int:
    return sum(of[ASSET] for of in held.values())


def _summary(
    demo: Demo,
    before: dict[str, dict[str, int]],
    after: dict[str, dict[str, int]],
    start: int,
    commits: dict[str, Any],
) -> dict[str, Any]:
    """Add up the sums of every party. Raises DemoFailed if a line does not add up."""
    parties = (*demo.clients, demo.hub)
    wallets = {party.name: script_of_address(NETWORKS["regtest"], party.address) for party in parties}
    flows = btc_flows(BitcoinNode(demo.chain_url + "bitcoin/"), wallets, start)
    demo.hub.received += sum(party.fees for party in demo.clients)
    lines, conserved = {}, True
    for party in parties:
        asset = {
            "before": before[party.name][ASSET],
            "received": party.received,
            "paid": party.paid,
            "sync_fees": party.fees,
            "after": after[party.name][ASSET],
        }
        flow = flows[party.name]
        btc = {
            "before": before[party.name]["BTC"],
            "received": flow.received,
            "paid": flow.paid,
            "transaction_fees": flow.fees,
            "after": after[party.name]["BTC"],
        }
        conserved &= asset["after"] == asset["before"] + party.received - party.paid - party.fees
        conserved &= btc["after"] == btc["before"] + flow.received - flow.paid - flow.fees
        lines[party.name] = {"address": party.address, ASSET: asset, "BTC": btc}
    result = {"parties": lines, "commits": commits, "conserved": conserved}
    if not conserved:
        raise DemoFailed("The sums do not add up.", **result)
    _tell(demo, result)
    return result


def _tell(demo: Demo, result: dict[str, Any]) -> None:
    """Sum the sums up for people."""
    log.info("Every sum adds up. In %.0f seconds, in satoshis of %s:", time.monotonic() - demo.begun, ASSET)
    log.info("  %-6s %16s %16s %16s %10s", "", "before", "after", "change", "sync fees")
    for name, line in result["parties"].items():
        sums = line[ASSET]
        change = sums["after"] - sums["before"]
        log.info("  %-6s %16d %16d %+16d %10d", name, sums["before"], sums["after"], change, sums["sync_fees"])
    log.info(
        "Alice paid, Bob and Dave were paid, the hub earned its fees. Carol published what she had given back, and"
    )
    log.info("lost it to the hub. Dave had his own back with the hub gone. Each payment cost no transaction.")

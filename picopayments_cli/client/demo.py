"""The demonstration: a network, a hub and two wallets of its own, and the whole life of their connections.

Every step is a command as anybody would type it, run as a process of its own; the sums come from the blocks.
"""

from __future__ import annotations

import json
import logging
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picopayments_cli.chain import Query
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.errors import DemoFailed, WaitRanOut
from picopayments_cli.channel.networks import NETWORKS, script_of_address
from picopayments_cli.client.sums import btc_flows

log = logging.getLogger(__name__)

ASSET = "XCP"
DEPOSIT = 1_000_000
DELAY = 2
START_SECONDS = 60
STOP_SECONDS = 20
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
    """The running demonstration; ``hub`` is a party too, whose income are the fees."""

    hub_url: str
    chain_url: str
    hub: Party
    clients: tuple[Party, ...]
    sync_fee: int = 1

    def command(self, party: Party, *words: str) -> Any:
        """Run one command, say so, and return what it printed. Raises DemoFailed with the command's own error."""
        options = ["--regtest", "--basedir", str(party.basedir), "--hub-url", self.hub_url]
        log.info("  $ picopayments-cli %s", " ".join((*options, *words)))
        line = [sys.executable, "-m", "picopayments_cli", *options, *words]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603
        if done.returncode:
            raise DemoFailed(
                f"{party.name}: `{' '.join(words)}` failed with exit code {done.returncode}: {done.stderr.strip()}",
                command=list(words),
                exit_code=done.returncode,
            )
        return json.loads(done.stdout)

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
    """Show everything, in a folder of one's own or a temporary one; the sums. Raises DemoFailed, WaitRanOut."""
    with ExitStack() as stack:
        stack.enter_context(_stopped_by_sigterm())
        if basedir is None:
            basedir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="picopayments-demo-")))
        urls = stack.enter_context(_running_hub(basedir / "hub"))
        clients = tuple(Party(name, basedir / name) for name in ("alice", "bob"))
        demo = Demo(urls["hub_url"], urls["chain_url"], Party("hub", basedir / "hub"), clients)
        return _show(demo)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Being terminated ends like being interrupted: the hub is stopped, and the folder taken away."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _running_hub(basedir: Path) -> Iterator[dict[str, str]]:
    """A hub with its regtest node, until the block is left; its log stands beside its files."""
    words = ["--regtest", "--port", "0", "--node-port", "0", "--basedir", str(basedir)]
    log.info("A hub, and a Bitcoin chain of its own, validated by Bitcoin Core's kernel:")
    log.info("  $ picopayments-hub %s", " ".join(words))
    basedir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (basedir / "hub.log").open("a") as messages:
        line = [sys.executable, "-m", "picopayments_cli.hub.cli", *words]
        hub = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=messages, text=True)  # noqa: S603
        try:
            yield _ready_line(hub, basedir / "hub.log")
        finally:
            hub.terminate()
            try:
                hub.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                hub.kill()
                hub.wait()
            if hub.stdout is not None:
                hub.stdout.close()


def _ready_line(hub: subprocess.Popen[str], messages: Path) -> dict[str, str]:
    output = hub.stdout
    line = output.readline() if output and select.select([output], [], [], START_SECONDS)[0] else ""
    if not line:
        raise DemoFailed(f"The hub did not start: {messages.read_text()[-2000:].strip()}")
    urls: dict[str, str] = json.loads(line)
    return urls


# The story ----------------------------------------------------------------------------------------------------------


def _show(demo: Demo) -> dict[str, Any]:
    alice, bob = demo.clients
    log.info("Two wallets, each with 1 bitcoin and 100 XCP:")
    for party in demo.clients:
        demo.command(party, "faucet")
    demo.mine()
    for party in demo.clients:
        party.address = demo.command(party, "status")["wallet"]["address"]
    status = demo.command(alice, "hubstatus")
    demo.hub.address = status["funding_addresses"][ASSET]
    demo.sync_fee = status["current_terms"][ASSET]["sync_fee"]
    before, start = _holdings(demo)

    log.info("Each connects to the hub by a deposit, and the hub matches it:")
    for party in demo.clients:
        made = demo.command(party, "connect", ASSET, str(DEPOSIT), "--delay_time", str(DELAY))
        party.handle = made["handle"]
    _until_open(demo)

    log.info("Alice pays Bob eight times; all of it goes out with one sync, and no transaction:")
    demo.pay(alice, bob, [1000, 2000, 3000, 4000, 5, 6, 7, 31337])
    demo.sync_open(alice)
    demo.sync_open(bob)

    log.info("Bob pays some of it back, by a commit of his own:")
    demo.pay(bob, alice, [20000, 337])
    demo.sync_open(bob)
    log.info("Then as much as he ever received: instead of another commit he revokes the one that the hub gave him:")
    held = _received_in_channel(demo, bob)
    demo.pay(bob, alice, [held])
    demo.sync_open(bob)
    if _received_in_channel(demo, bob) >= held:
        raise DemoFailed("Bob's payment revoked nothing.", before=held, after=_received_in_channel(demo, bob))
    demo.sync_open(alice)

    log.info("Both close, and settle on the chain:")
    commits = {}
    for party in demo.clients:
        party.fees += demo.sync_fee
        commits[party.name] = demo.command(party, "close", party.handle)
    _until_settled(demo, before)
    after, _ = _holdings(demo)
    return _summary(demo, before, after, start, commits)


def _received_in_channel(demo: Demo, party: Party) -> int:
    shown = demo.command(party, "status", "--handle", party.handle, "--verbose")
    received: int = shown["connections"][party.handle]["received"]
    return received


def _statuses(demo: Demo) -> list[str]:
    found = [demo.command(party, "status") for party in demo.clients]
    return [connection["status"] for shown in found for connection in shown["connections"].values()]


def _until_open(demo: Demo) -> None:
    for _ in range(ROUNDS):
        demo.mine()
        if set(_statuses(demo)) == {"open"}:
            return
    raise WaitRanOut(f"The connections are not open after {ROUNDS} blocks.", statuses=_statuses(demo))


def _until_settled(demo: Demo, before: dict[str, dict[str, int]]) -> None:
    """Mine and sync until both connections are over, and the hub has its own back."""
    for _ in range(ROUNDS):
        demo.mine()
        for party in demo.clients:
            demo.sync(party)
        held = _holdings(demo)[0]
        if sum(of[ASSET] for of in held.values()) < sum(of[ASSET] for of in before.values()):
            continue  # some of it is still on a channel's address
        if set(_statuses(demo)) == {"closed"}:
            return
    raise WaitRanOut(f"The connections are not settled after {ROUNDS} blocks.", statuses=_statuses(demo))


# The sums -----------------------------------------------------------------------------------------------------------


def _holdings(demo: Demo) -> tuple[dict[str, dict[str, int]], int]:
    """What each party's wallet holds on the ledger, by name, and the height of that."""
    parties = (*demo.clients, demo.hub)
    chain = NodeChain(demo.chain_url, NETWORKS["regtest"])
    view = chain.view(Query(balances=[party.address for party in parties]))
    held = {party.name: view.balances[party.address] for party in parties}
    return {name: {"BTC": of.get("BTC", 0), ASSET: of.get(ASSET, 0)} for name, of in held.items()}, view.height


def _summary(
    demo: Demo,
    before: dict[str, dict[str, int]],
    after: dict[str, dict[str, int]],
    start: int,
    commits: dict[str, Any],
) -> dict[str, Any]:
    """The sums of every party. Raises DemoFailed where a line does not add up."""
    parties = (*demo.clients, demo.hub)
    wallets = {party.name: script_of_address(NETWORKS["regtest"], party.address) for party in parties}
    flows = btc_flows(BitcoinNode(demo.chain_url + "bitcoin/"), wallets, start)
    demo.hub.received = sum(party.fees for party in demo.clients)
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
    log.info("Every sum adds up.")
    return result

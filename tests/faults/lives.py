"""The lives of clients on a network of their own, step by step, and what must hold whatever dies at a step."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from channel_support import finish_commit
from cheats import DEPOSIT, revoked_commit
from network_support import FEE, WAIT, Client, key_in, wait_until
from regtest_support import address_of

from faults.dying_hub import DyingHubTown
from faults.proxy import between, signed_error
from faults.result import Result
from faults.tracing import Runner
from picopayments_cli.channel.halves import sign_commit
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, PROPOSED
from picopayments_cli.channel.state import known_anchor
from picopayments_cli.client.connection import Connection
from picopayments_cli.errors import PicopaymentsError

LONG, SHORT = 1000, 16  # blocks until a deposit expires
SMALL = 2000  # a deposit too small for large payments
READS = (
    ("status",), ("status", "--verbose"), ("balances",), ("history",), ("hubstatus",), ("hubstatus", "--asset", "XCP"),
    ("config", "timeout", "50"), ("config",), ("version",),
)  # fmt: skip


# The lives ----------------------------------------------------------------------------------------------------------


class LivesUnderFaults:
    """A town, two clients that live long and safely, and what is to hold at every step of the others' lives.

    A part overrides ``perform`` and ``mine``, where things happen to a client or to the hub.
    """

    def __init__(self, town: DyingHubTown, runner: Runner, rng: random.Random, result: Result) -> None:
        self.town = town
        self.runner = runner
        self.rng = rng
        self.result = result
        self.sent: dict[str, tuple[str, int]] = {}  # token to payee and amount
        self.paid: dict[str, int] = {}  # what a client has paid on chain, by name
        self.unanswered: dict[str, int] = {}  # what a last sync carried that nobody answered: no history has it
        self.uneven: set[str] = set()  # who gets more than its own, since its hub was silent or cheated
        self.guilty: set[str] = set()  # who has cheated, and so may lose what it received

    def set_up(self, names: dict[str, bool]) -> None:
        """Give everybody funds, and Bob and Carol a connection. ``names``: whether each has its own chain."""
        self.bob = self.town.stranger("bob", own_chain=True)
        self.carol = self.town.stranger("carol", own_chain=False)
        for client in (self.bob, self.carol):
            client.run("faucet")
        for name, own_chain in names.items():
            client = self.town.stranger(name, own_chain=own_chain)
            self.strike(client, "faucet", "faucet")
            if not client.run("listutxos", client.run("address"), "--unconfirmed"):  # killed before it gave any
                client.run("faucet")
        self.town.mine()
        for name in names:
            if not self.town.clients[name].balances().get("XCP"):  # killed between the two that it gives
                self.town.clients[name].run("faucet")
        self.town.mine()
        self.before = self.town.books()
        self.b = self.town.open(self.bob, expire=LONG)
        self.c = self.town.open(self.carol, expire=LONG, quantity=SMALL)

    def perform(self, client: Client, _step: str, words: list[str]) -> bool:
        """Do a command; whether it was done. Here nothing happens to anybody."""
        done = client.done(*words)
        return self._is_done(done.code, done.stderr)

    def _is_done(self, code: int, said: str) -> bool:
        """Whether a command did what it can: while the hub is away it says that the hub was not told."""
        return code == 0 or (self.town.away and (code == UNREACHABLE or '"SyncIncomplete"' in said))

    def mine(self, _step: str, blocks: int = 1, *, undone: int = 0) -> None:
        """Have so many blocks undone, and mine. Here nothing happens to anybody."""
        if undone:
            self.town.reorganise(undone)
        self.town.mine(blocks)

    def run(self, client: Client, words: list[str], **fate: Any) -> int:
        """The exit code of a command as a process (``fate``: as ``Runner.start`` takes it).

        A hub that dies meanwhile is started again at once; a client that serves is called, and stopped.
        """
        path = self.town.folder / "said"
        with Path("/dev/null").open() as nothing, path.open("w") as said:
            argv = client.words(*words)
            process = self.runner.start("client", argv, (nothing, said, said), **fate)
            deadline = time.monotonic() + WAIT
            asked = words[0] != "serve"
            while (code := process.poll()) is None:
                self.town.revive()
                if not asked and (ready := _ready(path)):
                    asked = True
                    _call(ready)
                    os.kill(process.pid, signal.SIGTERM)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{words} did not end: {self.what}")
                time.sleep(0.002)
        self.said = path.read_text()
        return code

    def goes_well(self, client: Client, step: str, do: Callable[[], int]) -> bool:
        """Whether a command's exit code is 0. It has to be, where nobody died and the hub is there."""
        deaths = self.town.deaths
        code = do()
        excused = self.town.away or self.town.deaths > deaths or code == -signal.SIGKILL
        done = self._is_done(code, self.said)
        self.result.hold(excused or done, f"{client.basedir.name} failed at {step} ({code}): {self.said[-500:]}")
        return done

    def again(self, _client: Client) -> bool:
        """Whether something is to happen to the repair, too."""
        return self.rng.random() < 0.3

    def strike(self, client: Client, step: str, *words: str) -> bool:
        """Do a command at which something may happen, and hold the guaranteed balances; whether it was done."""
        floors = {handle: self.floor(client, handle) for handle in client.handles()}
        done = self.perform(client, step, list(words))
        for handle, floor in floors.items():
            if (client.basedir / "regtest.connections" / f"{handle}.json").exists():
                has = client.connection(handle).duplex.guaranteed
                self.result.keep(floor, has, f"{client.basedir.name} at {step}")
        return done

    def floor(self, client: Client, handle: str) -> int:
        """The guaranteed balance less what one sync may take from it: the payments queued, and fees."""
        kept = client.connection(handle)
        return kept.duplex.guaranteed - sum(payment.amount for payment in kept.queue) - 2 * FEE

    def clean(self, client: Client, *words: str) -> None:
        """Do what has to succeed: a sync, where nothing else is named."""
        done = client.done(*(words or ("sync",)))
        what = f"{client.basedir.name}: {' '.join(words) or 'sync'} after {self.what}"
        self.result.hold(self._is_done(done.code, done.stderr), f"{what}: {done.stderr[-500:]}")

    what = "nothing"  # has happened last
    said = ""  # by the last command that was a process
    reads: tuple[tuple[str, ...], ...] = READS

    def pay(self, payer: Client, source: str, payee: str, amount: int) -> str:
        """Queue a payment, undisturbed; its token."""
        token: str = payer.run("queuepayment", source, payee, str(amount))
        self.sent[token] = (payee, amount)
        return token

    # What holds -----------------------------------------------------------------------------------------------------

    def agree(self, client: Client, handle: str) -> None:
        """Hold client and hub to the same sums, and the client to its history."""
        kept = client.connection(handle)
        name = client.basedir.name
        self.result.hold(kept.pending is None, f"{name}: a sync is pending after {self.what}")
        right = DEPOSIT + self.gained(client, handle)
        has = kept.duplex.guaranteed
        self.result.hold(has == right, f"{name} has {has}, not {right}, after {self.what}")
        shown = self.town.hub.call("mph_status", handles=[handle])["connections"].get(handle)
        if shown is not None and shown["status"] == "open":
            both = shown["balance"] + has
            self.result.hold(both == 2 * DEPOSIT, f"{name} and hub have {both} after {self.what}")

    def gained(self, client: Client, handle: str | None = None) -> int:
        """Return what came by payments, less what went, by a client's history."""
        events = client.run("history", *(("--handle", handle) if handle else ()))
        sums = {"received": 0, "sent": 0, "fee": 0}
        for event in events:
            if event["action"] in sums:
                sums[event["action"]] += event["sync_fee"] if event["action"] == "fee" else event["amount"]
        owed = sum(client.connection(item).owed for item in client.handles() if handle in (None, item))
        return sums["received"] - sums["sent"] - sums["fee"] - owed

    def finish(self) -> None:
        """Close and settle everything; hold every payment to have arrived once, and everybody's sums."""
        town = self.town
        for client in (self.bob, self.carol):
            for handle in client.handles():
                client.run("close", handle)
        try:
            town.settle()
            self._delivered()
            changes = {}
            after = town.books()
            for name, client in town.clients.items():
                right = self.gained(client) - self.paid.get(name, 0) - self.unanswered.get(name, 0)
                has = after.held[name]["XCP"] - self.before.held[name]["XCP"]
                changes[name] = has if name in self.uneven | self.guilty | set(self.unanswered) else right
                if name not in self.guilty:
                    self.result.keep(right, has, f"{name} in the end")
            town.check(self.before, hub=-sum(changes.values()), **changes)
        except (AssertionError, PicopaymentsError) as error:
            self.result.hold(False, f"in the end: {error!r}")

    def _delivered(self) -> None:
        arrived: dict[str, list[tuple[str, int]]] = {}
        for client in self.town.clients.values():
            for event in client.run("history"):
                if event["action"] == "received":
                    arrived.setdefault(event["token"], []).append((event["handle"], event["amount"]))
        for token, expected in self.sent.items():
            found = arrived.get(token, [])
            self.result.hold(found == [expected], f"payment {token} arrived as {found}, not as {expected}")


def _ready(path: Path) -> dict[str, str] | None:
    """Return the line that a client prints once it serves, among what it logs."""
    lines = path.read_text().splitlines(keepends=True)
    return next((json.loads(line) for line in lines if line.startswith('{"cookie"') and line.endswith("\n")), None)


def _call(ready: dict[str, str]) -> None:
    """Have a client that serves sync, by one who may call it."""
    with contextlib.suppress(OSError, requests.RequestException):  # it may die over this
        user, _, password = Path(ready["cookie"]).read_text().partition(":")
        body = {"jsonrpc": "2.0", "id": 1, "method": "sync", "params": {}}
        requests.post(ready["url"], json=body, auth=(user, password), timeout=WAIT)


# A life -------------------------------------------------------------------------------------------------------------

_REFUSED = {"code": -32000, "message": "", "data": {"type": "PaymentExceedsReceivable", "message": "not now"}}
ROUNDS = 40  # of a block and a sync
UNREACHABLE = 3  # the exit code


class ClientLife:
    """One client from its connection to the archive; ``ending``: normal, silent or punished (hub), or cheating."""

    def __init__(self, lives: LivesUnderFaults, client: Client, ending: str, reads: int) -> None:
        self.lives = lives
        self.client = client
        self.name = client.basedir.name
        self.ending = ending
        self.reads = reads
        self.handle = ""

    def live(self) -> None:
        """All of it."""
        self.connect()
        self.receive()
        self.exchange()
        self.change_mind()
        self.look()
        getattr(self, self.ending)()
        self.settle()
        self.put_aside()

    def strike(self, step: str, *words: str) -> None:
        """A command at which something may happen; then what a user does: go on, and sync until that works."""
        if not self.lives.strike(self.client, step, *words):
            if step in ("receive", "exchange", "refused") and self.lives.rng.random() < 0.5:
                self.lives.pay(self.client, self.handle, self.lives.b, 3)
            while self.lives.again(self.client):
                self.lives.strike(self.client, step, "sync")
            self.lives.clean(self.client)

    # Opening --------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect, with one deposit whatever happens."""
        expire = LONG if self.ending == "normal" else SHORT
        words = ("connect", "XCP", str(DEPOSIT), "--expire_time", str(expire))
        client, lives = self.client, self.lives
        if not lives.strike(client, "connect", *words):
            for handle in self._in_stage(PROPOSED):
                if lives.rng.random() < 0.5:
                    lives.strike(client, "give up", "close", handle)
            lives.clean(client)
        if not self._in_stage(PROPOSED, AGREED):
            client.run(*words)
        handles = self._in_stage(PROPOSED, AGREED)
        lives.result.hold(len(handles) == 1, f"{self.name} has {len(handles)} connections after {lives.what}")
        self.handle = handles[0]
        lives.mine("open", 2)
        wait_until(self._is_open, f"an open connection after {lives.what}")
        held = client.balances()["XCP"] - lives.before.held[self.name]["XCP"]
        lives.result.hold(held == -DEPOSIT, f"{self.name} deposited {-held} after {lives.what}")

    def _is_open(self) -> bool:
        """Whether both say so. A hub that died has made its deposit later, which then waits for a block."""
        town = self.lives.town
        if town.mempool():
            town.mine()
        return {town.stages()[self.handle], self.client.shown(self.handle)["status"]} == {"open"}

    def _in_stage(self, *stages: str) -> list[str]:
        return [handle for handle in self.client.handles() if self.client.connection(handle).stage in stages]

    # Paying ---------------------------------------------------------------------------------------------------------

    def receive(self) -> None:
        """Two payments, so that a later sync has commits to give back."""
        lives = self.lives
        for amount in (60, 40):
            lives.pay(lives.bob, lives.b, self.handle, amount)
            lives.bob.run("sync")
            self.strike("receive", "sync")
        lives.agree(self.client, self.handle)
        self.received = self.client.connection(self.handle)

    def queue(self, payee: str, amount: int) -> str:
        """Queue a payment, once whatever happens; its token."""
        token = self.lives.rng.randbytes(16).hex()
        words = ("queuepayment", self.handle, payee, str(amount), "--token", token)
        if not self.lives.strike(self.client, "queuepayment", *words):
            self.lives.clean(self.client, *words)
        queued = [payment.token.hex() for payment in self.client.connection(self.handle).queue]
        self.lives.result.hold(queued.count(token) == 1, f"{token} is queued {queued.count(token)} times")
        return token

    def exchange(self) -> None:
        """Pay more than was received, and receive meanwhile; then pay who can't take it, and be refused once."""
        lives = self.lives
        for amount in (150, 7):
            lives.sent[self.queue(lives.b, amount)] = (lives.b, amount)
        lives.pay(lives.bob, lives.b, self.handle, 9)
        lives.bob.run("sync")
        self.strike("exchange", "sync")
        lives.agree(self.client, self.handle)
        self.queue(lives.c, 2 * SMALL)
        self.strike("refused", "sync")
        lives.agree(self.client, self.handle)
        self.queue(lives.b, 5)
        with between(lives.town.hub_url) as proxy:
            errors = [_REFUSED]
            key = key_in(lives.town.basedir / "hub.regtest.wif")
            proxy.refuse = lambda method, params: (
                signed_error(errors.pop(), key, method, params) if errors and method == "mph_sync" else None
            )
            if not lives.strike(Client(self.client.basedir, proxy.url), "repaired", "sync"):
                lives.clean(self.client)
        lives.agree(self.client, self.handle)
        lives.bob.run("sync")

    def change_mind(self) -> None:
        """Cancel a payment: it never arrives."""
        token = self.queue(self.lives.b, 33)
        if not self.lives.strike(self.client, "cancelpayment", "cancelpayment", token):
            self.lives.clean(self.client, "cancelpayment", token)
        queued = self.client.connection(self.handle).queue
        self.lives.result.hold(not queued, f"{self.name} has {len(queued)} queued after {self.lives.what}")

    # Looking --------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Commands that change nothing, one that pays on chain, and one that serves."""
        lives, client = self.lives, self.client
        address, bobs = (address_of(item.wallet_script) for item in (client, lives.bob))
        utxos = client.run("listutxos", address)
        chain = (("listutxos", address), ("searchrawtxs", address), ("balances", "--address", bobs))
        raw = (("getrawtx", utxos[0]["txid"], "--verbose"), ("getrawtx", utxos[0]["txid"]))
        every = [*lives.reads, *chain, *raw]
        before = lives.town.books().held
        for words in lives.rng.sample(every, min(self.reads, len(every))):
            lives.strike(client, " ".join(word for word in words if len(word) < 30), *words)
        lives.strike(client, "blocksend", "blocksend", "XCP", bobs, "777")
        lives.mine("a block", 1)
        lives.mine("another branch", 1, undone=1)
        after = lives.town.books().held
        moved = before[self.name]["XCP"] - after[self.name]["XCP"]
        lives.result.hold(moved in (0, 777), f"{self.name} paid {moved} after {lives.what}")
        lives.paid[self.name] = lives.paid.get(self.name, 0) + moved
        lives.paid["bob"] = lives.paid.get("bob", 0) - moved

    # Ending ---------------------------------------------------------------------------------------------------------

    def normal(self) -> None:
        """Close while the hub is there."""
        self.close("close")

    def silent(self) -> None:
        """Close and settle while the hub is away."""
        self.lives.uneven.add(self.name)
        self.lives.town.stop_hub()
        self.close("close alone")
        self.settle(" alone", blocks=3)  # at once, since each sync waits for the hub
        self.lives.town.start_hub()

    def punished(self) -> None:
        """The hub publishes a commit that it has given back."""
        lives, client = self.lives, self.client
        for amount in (100, 5000):
            lives.pay(client, self.handle, lives.b, amount)
            client.run("sync")
        lives.bob.run("sync")
        kept = client.connection(self.handle)
        lives.pay(lives.bob, lives.b, self.handle, 5000 + 2 * FEE)
        lives.bob.run("sync")
        client.run("sync")
        active = client.connection(self.handle).duplex.sending.active
        lives.result.hold(kept.duplex.sending.active[-1].revoke_hash not in {item.revoke_hash for item in active},
                          "the hub has not given back its highest commit")  # fmt: skip
        lives.uneven.add(self.name)
        lives.town.broadcast(self._hubs_commit(kept))
        self.strike("punish", "sync")
        self.settle(" punished", blocks=3)  # the rest comes back at expiry

    def _hubs_commit(self, kept: Connection) -> bytes:
        """The highest commit to the hub, as the hub can publish it."""
        side, row = kept.duplex.sending, kept.duplex.sending.active[-1]
        payer, anchor = kept.secrets(self.client.key).payer, known_anchor(side)
        made = sign_commit(side.contract, anchor, row.quantity, row.revoke_hash, payer)
        return finish_commit(side.contract, anchor, made, self.lives.town.secrets(self.handle).payee)

    def cheating(self) -> None:
        """Publish a commit that was given back: the hub takes it, and leaves the rest alone."""
        lives = self.lives
        active = self.client.connection(self.handle).duplex.receiving.active
        given_back = self.received.duplex.receiving.active[-1] not in active
        lives.result.hold(given_back, "the client has not given back its highest commit")
        lives.guilty.add(self.name)
        lives.town.broadcast(revoked_commit(self.received, self.client.key))
        lives.mine("punished", 2)
        self.settle(" cheating", blocks=3)

    def close(self, step: str) -> None:
        """Close, whatever happens."""
        done = self.lives.strike(self.client, step, "close", self.handle)
        while not done and self.lives.again(self.client):
            done = self.lives.strike(self.client, step, "close", self.handle)
        if self.client.connection(self.handle).stage not in (CLOSING, CLOSED):
            self.client.done("close", self.handle)

    def settle(self, step: str = "", blocks: int = 1) -> None:
        """Mine and sync until it is over."""
        lives, client = self.lives, self.client
        duplex = client.connection(self.handle).duplex
        guaranteed = duplex.guaranteed - (duplex.receiving.moved if self.name in lives.guilty else 0)
        for _ in range(ROUNDS):
            if client.connection(self.handle).stage == CLOSED:
                break
            lives.mine(f"settle{step}", blocks)
            self.strike(f"settle{step}", "sync")
        kept = client.connection(self.handle)
        lives.result.hold(kept.stage == CLOSED, f"{self.name} is not settled after {lives.what}")
        if kept.pending is not None:
            lives.unanswered[self.name] = FEE + sum(payment.amount for payment in kept.pending.payments)
        held = client.balances()["XCP"] + lives.paid.get(self.name, 0) - lives.before.held[self.name]["XCP"]
        lives.result.keep(guaranteed - FEE, held + DEPOSIT, f"{self.name} on chain after {lives.what}")

    def put_aside(self) -> None:
        """Into the archive, with its history kept."""
        lives, client = self.lives, self.client
        lives.mine("bury", 8)
        before = client.run("history")
        lives.strike(client, "final", "sync")
        lives.strike(client, "cull", "cull")
        if self.handle in client.handles():  # the hub was not there to be asked
            lives.clean(client, "cull")
        lives.result.hold(self.handle not in client.handles(), f"{self.name} is not culled after {lives.what}")
        lives.result.hold(client.run("history") == before, f"{self.name}'s history differs after {lives.what}")

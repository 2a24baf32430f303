"""A network whose last blocks are taken away, and the transactions that somebody may put in their place."""

from __future__ import annotations

import random
import signal
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from cheats import DEPOSIT, Books, Town
from network_support import FEE, Client, key_in, wait_until
from picopayments_cli.channel2 import recovery
from picopayments_cli.channel2.facts import Facts, anchor_spender, first_output, spender, unspent
from picopayments_cli.channel2.keys import Key
from picopayments_cli.channel2.scripts import payout_unlock, wallet_unlock
from picopayments_cli.channel2.state import Channel
from picopayments_cli.channel2.transactions import (
    Draft,
    Input,
    Output,
    Purse,
    compose_recovery,
    find_secret,
    output_of,
    parse_transaction,
    spent_outpoints,
    txid_of,
)
from picopayments_cli.client2.connection import Connection
from regtest_support import address_of, script_of_key

from faults.result import Result
from picopayments_cli.chain import Query
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING
from picopayments_cli.channel.values import Entry, Outpoint
from picopayments_cli.errors import BroadcastRefused

DEEPEST = 6  # blocks that are taken away at most
SAFE = NETWORKS["mainnet"].safe_depth
DELAY = 2 * SAFE  # blocks, so that who punishes may see that undone once
EXPIRE = 600  # blocks, so that no deadline comes in between
PATIENCE = 120  # blocks until a stage is reached
EXTRA = 5000  # satoshis that a conflicting transaction pays
BACK, GONE = "come back", "are forgotten"
REFUSALS = ("BroadcastRefused",)  # of what somebody has put something else in the place of
OFFLINE = ("HubUnreachable",)


@dataclass
class ReorganisedNetwork:
    """A town, what everybody held at first, and each client's connection. ``cheats`` need not be left whole."""

    town: Town
    rng: random.Random
    result: Result
    story: str
    handles: dict[str, str] = field(default_factory=dict)
    cheats: set[str] = field(default_factory=set)
    before: Books = field(init=False)
    _sent: dict[str, int] = field(default_factory=dict)
    _opened: set[str] = field(default_factory=set)

    # The parties ----------------------------------------------------------------------------------------------------

    def clients(self, *names: str, through_hub: str = "") -> list[Client]:
        """Clients whose own funds lie deeper than any reorganisation reaches."""
        made = [self.town.client(name) for name in names]
        if through_hub:
            (self.town.clients[through_hub].basedir / "regtest.cfg").write_text("{}")
        self.mine(DEEPEST)
        self.before = self.town.books()
        return made

    @property
    def hub_key(self) -> Key:
        """The key of the hub's wallet."""
        return key_in(self.town.basedir / "hub.regtest.wif")

    def connect(self, name: str, expire: int = EXPIRE) -> str:
        """The handle of a new connection, whose deposit is in the mempool."""
        words = ("connect", "XCP", str(DEPOSIT), "--expire-time", str(expire), "--delay-time", str(DELAY))
        self.handles[name] = self.town.clients[name].run(*words)["handle"]
        return self.handles[name]

    def open(self, *names: str, expire: int = EXPIRE) -> None:
        """Open a connection for each."""
        for name in names:
            self.connect(name, expire)
        self.advance(lambda: all(self.status(name) == "open" for name in names), "open connections")

    def connection(self, name: str) -> Connection:
        """A client's connection, as it is on disk."""
        return self.town.clients[name].connection(self.handles[name])

    def channel(self, name: str, way: str) -> Channel:
        """Return what a client knows of one channel of its connection, ``c2h`` or ``h2c``."""
        duplex = self.connection(name).duplex
        return duplex.sending if way == "c2h" else duplex.receiving

    def status(self, name: str) -> str:
        """Opening, open, closing or closed."""
        return str(self.town.clients[name].shown(self.handles[name])["status"])

    def pay(self, payer: str, payee: str, amount: int) -> None:
        """A payment that arrives."""
        before = self.connection(payee).duplex.guaranteed
        self.offer(payer, payee, amount)
        got = self.connection(payee).duplex.guaranteed - before
        self.result.hold(got >= amount - FEE, f"{self.story}: {payee} got {got}, not {amount}")

    def offer(self, payer: str, payee: str, amount: int) -> None:
        """A payment that arrives where both connections are open."""
        client = self.town.clients[payer]
        client.run("queuepayment", self.handles[payer], self.handles[payee], str(amount))
        self.sync(payer)
        self.sync(payee)

    def sync(self, name: str) -> None:
        """A sync; the network may refuse what another transaction has taken the place of."""
        self._done(name, "sync")

    def close(self, name: str) -> None:
        """Close a client's connection."""
        self._done(name, "close", self.handles[name])

    def _done(self, name: str, *words: str) -> None:
        done = self.town.clients[name].done(*words)
        allowed = REFUSALS if self.town.hub_lives else (*REFUSALS, *OFFLINE)
        if done.code and done.error["name"] not in allowed:
            self.result.failures.append(f"{self.story}: {name}, {words[0]}: {done.error}")

    def moved(self, name: str, quantity: int) -> None:
        """Note what came to a wallet, or left it, beside its connection."""
        self._sent[name] = self._sent.get(name, 0) + quantity

    # The chain ------------------------------------------------------------------------------------------------------

    def mine(self, blocks: int = 1) -> None:
        """Mine; a hub that lives does its chores after each block."""
        self.town.mine(blocks)

    def history(self, script: bytes) -> Sequence[Entry]:
        """A script's transactions, the mempool's too."""
        address = address_of(script)
        return self.town.chain.view(Query(history=[address])).history[address]

    def mined(self, script: bytes, number: int, depth: int = 1) -> bool:
        """Whether blocks hold so many transactions of a script, all so deep."""
        tip = self.town.height
        return sum(entry.height is not None and entry.depth(tip) >= depth for entry in self.history(script)) >= number

    def bury(self, scripts: Sequence[bytes], number: int, depth: int) -> None:
        """Mine and sync until so many transactions of each script are so deep, and no deeper."""
        self.advance(lambda: all(self.mined(script, number, depth) for script in scripts), f"{number} mined")

    def advance(self, reached: Callable[[], object], what: str) -> None:
        """Mine, and sync whatever a sync costs nothing, until a stage is reached."""
        for _ in range(PATIENCE):
            if reached():
                return
            self.mine()
            for name in self.handles:
                if self._needs_sync(name):
                    self.sync(name)
        states = {name: self.status(name) for name in self.handles}
        raise TimeoutError(f"not reached in {PATIENCE} blocks: {what}; {states}, hub: {self.town.stages()}")

    def _needs_sync(self, name: str) -> bool:
        """Whether a connection is to be synced, and that costs no fee. One that was open is not looked at again."""
        stage = self.connection(name).stage
        if stage != AGREED:
            return stage != CLOSED or self.status(name) != CLOSED
        if name not in self._opened and self.status(name) == "open":
            self._opened.add(name)
        return name not in self._opened

    def shake(self, stage: str, depth: int, then: str | None = None, *conflicts: bytes) -> None:
        """Take blocks away, before the hub knows mine what conflicts with what they held, and see all go on."""
        then = then or self.rng.choice((BACK, GONE))
        what = f"{self.story}, {stage}: {depth} blocks are lost, their transactions {then}"
        guaranteed = {name: self.connection(name).duplex.guaranteed for name in self.handles}
        with self._hub_waits():
            self.town.node.rpc("reorganise", depth=depth, forget=then == GONE)
            for raw in conflicts:
                self._try(raw)
            if conflicts:
                self.town.node.rpc("generate", blocks=1)
        self.result.trials += 1
        if self.town.hub_lives:
            wait_until(self._hub_follows, f"the hub follows: {what}")
        for name in self.handles:
            self.result.hold(self.status(name), what)
            self.result.keep(guaranteed[name], self.connection(name).duplex.guaranteed, f"{name}, {what}")

    def _try(self, raw: bytes) -> None:
        """Hand over a conflicting transaction; one that can't be any more is refused."""
        try:
            self.town.broadcast(raw)
        except BroadcastRefused:
            self.result.refused += 1

    @contextmanager
    def _hub_waits(self) -> Iterator[None]:
        """Have the hub stand still, where it lives."""
        if not self.town.hub_lives:
            yield
            return
        self.town.hub.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.town.hub.process.send_signal(signal.SIGCONT)

    def _hub_follows(self) -> bool:
        with closing(sqlite3.connect(self.town.basedir / "regtest.db")) as database:
            (tip,) = database.execute("select hash from blocks order by height desc limit 1").fetchone()
        return bool(bytes(tip) == self.town.bitcoin.best_block())

    def published(self, name: str, way: str) -> bytes:
        """The script of the commit that spends a client's or the hub's deposit; empty where there is none."""
        return self.town.published(self.channel(name, way)) or b""

    def payout(self, name: str, way: str) -> Entry | None:
        """The payout of the commit that is published."""
        channel = self.channel(name, way)
        facts = Facts(self.town.chain.view(Query()).height, tuple(self.history(channel.script.output)), ())
        commit = anchor_spender(channel, facts)
        if commit is None:
            return None
        return spender(Outpoint(commit.txid, 0), self.history(first_output(commit)))

    # What takes the place of something ------------------------------------------------------------------------------

    def respent(self, raw: bytes, key: Key, *, same_outputs: bool) -> bytes:
        """The coins of a deposit spent elsewhere by who deposited, or to the same outputs by another transaction."""
        tx = parse_transaction(raw)
        assert tx is not None
        spent = spent_outpoints(tx)
        known = self.town.chain.view(Query(transactions=sorted({outpoint.txid for outpoint in spent}))).transactions
        script = script_of_key(key)
        unlock = wallet_unlock(key.pubkey, script)
        inputs = tuple(Input(item, output_of(known[item.txid], item).value, unlock) for item in spent)
        outputs = [Output(out.nValue, bytes(out.scriptPubKey)) for out in tx.vout]
        if same_outputs:
            outputs[2] = Output(outputs[2].value - EXTRA, script)
        else:
            outputs = [Output(sum(coin.value for coin in inputs) - EXTRA, script)]
        made: bytes = Draft(inputs, tuple(outputs)).signed(key).serialize()
        return made

    def change(self, name: str, way: str, payer: Key) -> bytes:
        """The whole deposit to its payer, by the secret that the payout shows, as if its anchor were unspent."""
        channel, shown = self.channel(name, way), self.payout(name, way)
        tx = parse_transaction(shown.raw) if shown else None
        secret = find_secret(tx, channel.script.spend_hash) if tx is not None else None
        anchored = channel.anchor.outpoint.txid if channel.anchor else b""
        deposit = next(entry for entry in self.history(channel.script.output) if entry.txid == anchored)
        coins = unspent(channel.script.output, [deposit])
        facts = Facts(self.town.chain.view(Query()).height, (deposit,), coins)
        purse = Purse(wallet_unlock(payer.pubkey, script_of_key(payer)), (), 1)
        (draft,) = recovery.changes(channel, facts, secret, purse, SAFE)
        made: bytes = draft.signed(payer).serialize()
        return made

    def early_payout(self, kept: Connection, payee: Key) -> bytes:
        """The payout of a revoked commit, whatever its delay says of the height."""
        channel = kept.duplex.receiving
        commit = channel.commit_script(channel.active[-1].revoke_hash)
        entry = next(item for item in self.history(commit.output) if first_output(item) == commit.output)
        outpoint = Outpoint(txid_of(entry.raw), 0)
        unlock = payout_unlock(commit, kept.secrets(payee).spend)
        coin = Input(outpoint, output_of(entry.raw, outpoint).value, unlock, channel.delay)
        script = script_of_key(payee)
        address = address_of(script)
        coins = self.town.chain.view(Query(coins=[address])).coins[address]
        purse = Purse(wallet_unlock(payee.pubkey, script), coins, 3)
        made: bytes = compose_recovery([coin], purse, channel.asset_id, 2).signed(payee).serialize()
        return made

    # The end --------------------------------------------------------------------------------------------------------

    def is_over(self) -> bool:
        """Whether all connections are closed, at the hub as well."""
        return self.town.is_over()

    def end(self) -> None:
        """Close and settle everything; who followed the protocol has what was guaranteed, and nothing is lost."""
        for name in self.handles:
            if self.connection(name).stage not in (CLOSING, CLOSED):
                self.close(name)
        guaranteed = {name: self.connection(name).duplex.guaranteed for name in self.handles}
        self.advance(self.is_over, "the end")
        after = self.town.books()
        has = {name: of["XCP"] - self.before.held[name]["XCP"] for name, of in after.held.items()}
        hubs = 0
        for name, kept in guaranteed.items():
            own = kept - DEPOSIT + self._sent.get(name, 0)
            hubs += DEPOSIT - kept
            if name not in self.cheats:
                self.result.keep(own, has[name], f"{self.story}: {name}, on chain")
        if "hub" not in self.cheats:
            self.result.keep(hubs, has["hub"], f"{self.story}: the hub, on chain")
        self.town.check(self.before, **has)

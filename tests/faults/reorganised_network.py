"""A town whose last blocks are taken away while fees rise and fall, and the kinds of transactions that were in them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitcoin.core import CBlock, CTransaction
from regtest_support import NodeProcess

from faults.result import Result
from faults.town import Party, Town, carried_out
from picopayments_cli.channel.drafts import Draft, Input, Output
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.scripts import P2A
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.values import Coin, Handle, Height, Outpoint
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.session import Session
from picopayments_cli.config import Settings
from picopayments_cli.errors import HubUnreachable, PicopaymentsError
from picopayments_cli.rpc import RpcClient

SAFE = NETWORKS["mainnet"].safe_depth
DEEPEST = SAFE - 1  # blocks that are taken away at most
DELAY = 2 * SAFE  # blocks, so that who punishes may see that undone once
NETWORK = replace(NETWORKS["regtest"], safe_depth=SAFE)
RATES = (1, 1, 1, 2, 3, 5, 8)  # sat/vB, of blocks
EXTRA = 5000  # satoshis of fee that a conflicting transaction pays
DEPOSIT, COMMIT, CLOSE, PAYOUT, REVOKE = "deposit", "commit", "close", "payout", "revoke"
REMAINDER, REST, EXPIRE, CHILD = "remainder", "rest", "expire", "child"
KINDS = (DEPOSIT, COMMIT, CLOSE, PAYOUT, REVOKE, REMAINDER, REST, EXPIRE, CHILD)
REFUSALS = ("BroadcastRefused", "UnknownDeposit")  # of what something else has taken the place of
_SILENT = HubUnreachable("The hub does not answer.")


class _Nobody:
    """A hub that does not answer."""

    url = "http://nobody.invalid/"

    def call(self, *_args: object, **_named: object) -> Any:
        raise _SILENT


class Member(Party):
    """A client; ``silent``: it does not reach the hub any more."""

    silent = False
    handle: Handle

    @contextmanager
    def session(self) -> Iterator[Session]:
        """The session of one command."""
        urls = {"hub_url": self.town.proxy.url, "chain_url": self._chain, "bitcoin_url": self._bitcoin}
        session = Session(Settings(NETWORK, self.basedir, **urls, timeout=self.timeout))  # type: ignore[arg-type]
        if self.silent:
            session.__dict__.update(rpc=_Nobody())
        try:
            yield session
        finally:
            session.close()

    def do(self, command: str, *args: Any) -> Any:
        """Return what a command returns, whatever the hub has seen by now. Raises what it raises."""
        with self.session() as session:
            return carried_out(session, command, *args)

    def error(self, command: str, *args: Any) -> str | None:
        """Do a command; the name of the error that it fails with."""
        try:
            self.do(command, *args)
        except PicopaymentsError as error:
            return error.name
        return None

    @property
    def now(self) -> Connection:
        """Its connection, as it is on disk."""
        return self.connection(self.handle)


class ReorganisedTown(Town):
    """A town in which as much is final as on a real network."""

    def __init__(self, folder: Path, node: NodeProcess, result: Result, rng: random.Random) -> None:
        self.rng = rng
        self.missed = 0  # rounds that the hub is late
        self.restless = False  # whether fees rise and fall
        super().__init__(folder, node, result)

    def _serve(self) -> None:
        hub = self.desk.hub
        super()._serve()
        hub.network, hub.delay = NETWORK, DELAY

    def restart(self) -> None:
        """End the hub and start it again."""
        self.desk.stop()
        self.desk.start()
        self._serve()

    @property
    def tip(self) -> int:
        """The height."""
        return int(self.node.bitcoin("getblockcount"))

    def block(self) -> None:
        """A block at some rate; the hub looks at it, or a block or two later."""
        if self.restless and self.rng.random() < 0.3:
            self.node.rpc("feerate", rate=self.rng.choice(RATES))
        self.node.rpc("generate", blocks=1)
        self.look()

    def look(self) -> None:
        """Have the hub look at the chain, unless it is late."""
        if self.missed < 2 and self.rng.random() < 0.15:
            self.missed += 1
            return
        self.missed = 0
        self.desk.rounds.once()

    def lose(self, depth: int, *, forget: bool, conflicts: list[bytes]) -> None:
        """Replace the last blocks by a longer branch; what they held waits, or is forgotten and conflicts come."""
        self.node.rpc("reorganise", depth=depth, forget=forget)
        for raw in conflicts:
            self.offer(raw)
        if conflicts:
            self.node.rpc("generate", blocks=1)
        if self.rng.random() < 0.2:
            self.restart()
        self.look()

    def offer(self, *raws: bytes) -> bool:
        """Hand in what somebody made; whether it is taken."""
        try:
            self.desk.hub.bitcoin.submit(raws)
        except PicopaymentsError:
            self.result.refused += 1
            return False
        return True

    def depth(self, txid: bytes) -> int:
        """Confirmations; 0 where no block holds it."""
        try:
            asked = [txid[::-1].hex(), True]
            found = RpcClient(f"{self.node.url}bitcoin/").call("getrawtransaction", asked, retry=True)
            return int(found.get("confirmations", 0))
        except PicopaymentsError:
            return 0

    def respent(self, raw: bytes, key: Key, script: bytes) -> bytes:
        """The coins of a deposit, back to who deposited."""
        spent = [Outpoint(item.prevout.hash, item.prevout.n) for item in CTransaction.deserialize(raw).vin]
        known = self.desk.hub.bitcoin.transactions([outpoint.txid for outpoint in spent])
        outs = [CTransaction.deserialize(known[item.txid]).vout[item.vout] for item in spent]
        coins = [
            Coin(item, out.nValue, bytes(out.scriptPubKey), Height(1)) for item, out in zip(spent, outs, strict=True)
        ]
        back = Output(sum(coin.value for coin in coins) - EXTRA, script)
        return finish_wallet(Draft(tuple(map(Input, coins)), (back,)), key)

    # What the blocks hold -------------------------------------------------------------------------------------------

    def kinds(self, deposits: set[bytes], first: int) -> Mapping[int, set[str]]:
        """The kinds of connections' transactions by their depth; ``deposits``: the scripts of all connections' own.

        ``first``: the height at which the first can be.
        """
        tip, node = self.tip, self.desk.hub.bitcoin
        made: dict[tuple[bytes, int], str] = {}
        found: dict[int, set[str]] = {}
        for height in range(first, tip + 1):
            block_hash = node.block_hash(height)
            assert block_hash is not None
            for tx in CBlock.deserialize(node.block(block_hash)).vtx[1:]:
                kind = _kind_of(tx, made, deposits)
                if kind is not None:
                    found.setdefault(tip - height + 1, set()).add(kind)
        return found


def _kind_of(tx: CTransaction, made: dict[tuple[bytes, int], str], deposits: set[bytes]) -> str | None:
    """The kind of a transaction; what it makes is entered in ``made``."""
    scripts = [bytes(out.scriptPubKey) for out in tx.vout]
    spent = next((made[item.prevout.hash, item.prevout.n] for item in tx.vin
                  if (item.prevout.hash, item.prevout.n) in made), None)  # fmt: skip
    if spent is None:
        if scripts[0] not in deposits:
            return None
        made[tx.GetTxid(), 0] = "anchor"
        return DEPOSIT
    kind = _spending(spent, tx, shared=P2A in scripts, commits=scripts[0][:2] == b"\x51\x20")
    for number, script in enumerate(scripts):
        left = {0: f"{kind}'s first", 2: f"{kind}'s third"}.get(number, "") if script[:2] == b"\x51\x20" else CHILD
        made[tx.GetTxid(), number] = left or CHILD
    return kind


def _spending(spent: str, tx: CTransaction, *, shared: bool, commits: bool) -> str:
    """The kind of what spends something of a connection."""
    if tx.nLockTime:
        return EXPIRE
    if spent == "anchor":
        return COMMIT if commits else CLOSE
    if spent == f"{COMMIT}'s first":
        return PAYOUT if tx.vin[0].nSequence == DELAY else REVOKE
    return {f"{COMMIT}'s third": REMAINDER, f"{CLOSE}'s third": REST}.get(spent, CHILD)

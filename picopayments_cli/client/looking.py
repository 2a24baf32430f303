"""Look at the chain for a command: what became of the anchors, and nothing else while nothing has happened.

An anchor that is among its address's coins is unspent, the mempool included: one question answers for all connections.
Only where one is missing are histories asked for, and what is signed in advance by its txid, which nobody can hide
behind dust.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from picopayments_cli.chain import Chain, Query, View, Waiting
from picopayments_cli.channel import facts as three
from picopayments_cli.channel.counterparty import asset_id
from picopayments_cli.channel.drafts import parse_transaction
from picopayments_cli.channel.facts import Facts, Paid, Paying, Seen, SendRow, Side, is_deposit
from picopayments_cli.channel.networks import Network, address_of_script
from picopayments_cli.channel.stages import CLOSED, CLOSING
from picopayments_cli.channel.state import Signed
from picopayments_cli.channel.transactions import Contract
from picopayments_cli.channel.values import Coin, Entry, Handle, Height, Outpoint
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.nodes import Nodes
from picopayments_cli.errors import (
    BadAnswer,
    MemoRequired,
    NodeBehind,
    NodeRefused,
    NodeUnreachable,
    PicopaymentsError,
)

if TYPE_CHECKING:  # of use without the hub's view only
    from picopayments_cli.client.wallet import Remembered, Wallet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """One look at the chain: the view, and per connection the facts of c2h and h2c.

    ``away``: why the Counterparty node did not answer, where Bitcoin Core alone was asked: then what lies on addresses
    is not known, and the wallet's coins are those of before that are still there.
    """

    view: View
    facts: Mapping[Handle, tuple[Facts, Facts]]
    away: PicopaymentsError | None = None

    @property
    def whole(self) -> bool:
        """Whether all was asked."""
        return self.away is None

    def check_whole(self) -> None:
        """Raise why not all could be asked."""
        if self.away is not None:
            raise self.away

    def held(self, address: str, asset: str) -> int:
        """Get what the ledger says an address holds, if it was asked."""
        return self.view.balances.get(address, {}).get(asset, 0)

    def takes_sends(self, wallet: str) -> bool:
        """Tell whether the wallet's address takes sends without a memo."""
        try:
            self.view.check_takes_sends(wallet)
        except MemoRequired:
            return False
        return True


def sides_of(connection: Connection) -> tuple[Paying, Paid]:
    """Take from a connection what the chain decides on: this party as payer of c2h and as payee of h2c."""
    duplex, ending, sent = connection.duplex, connection.ending, connection.sent
    c2h, h2c = duplex.sending, duplex.receiving
    signed = (*connection.rows.signed.values(), *_unknown_here(connection))
    active = tuple(item.commit for item in h2c.active)
    return (
        Paying(c2h.contract, c2h.anchor, signed, ending.closings, connection.deposit_raw or None, sent[0]),
        Paid(h2c.contract, h2c.anchor, active, ending.counters, connection.hub_deposit, sent[1]),
    )


def _unknown_here(connection: Connection) -> Iterator[Signed]:
    """Commits that the hub alone has shown: they are known where they are published, and count for nothing else."""
    for item in connection.ending.remainders:
        if not connection.signed(item):
            yield Signed(item.quantity, item.revoke_hash, item.signature)


class Sight:
    """A chain, the nodes behind it, and what one command has learnt of it. Sessions of one chain share one."""

    def __init__(self, network: Network, chain: Chain, nodes: Nodes) -> None:
        self.chain, self.nodes = chain, nodes
        self._network = network
        self._attached: dict[Outpoint, bool] = {}  # whether assets are attached to a coin of the wallet
        self._away: PicopaymentsError | None = None  # why the Counterparty node is not asked any more
        self._current = False  # whether it was asked if the ledger stands
        self.proven: frozenset[Coin] = frozenset()  # the wallet's coins as Bitcoin Core told them itself

    def attached(self, outpoints: Iterable[Outpoint]) -> set[Outpoint]:
        """Find which of the wallet's coins have assets attached. The chain is asked once for each."""
        wanted = set(outpoints)
        unknown = wanted - self._attached.keys()
        found = self.chain.attached(unknown) if unknown else set()
        if found:
            log.warning("%d coins of the wallet are left alone: assets are attached to them", len(found))
        self._attached |= {outpoint: outpoint in found for outpoint in unknown}
        return {outpoint for outpoint in wanted if self._attached[outpoint]}

    def look_or_alone(self, wallet: Wallet, kept: Remembered, connections: Iterable[Connection]) -> Look:
        """Look, by Bitcoin Core alone where the Counterparty node or its index is away. ``kept``: the wallet of before.

        Raises what either raises; what the Counterparty node raises where there is no Bitcoin node.
        """
        looked_at = list(connections)
        if self._away is None:
            try:
                found = self.look(wallet.address, looked_at)
                self._warn_if_standing()
                return found
            except (BadAnswer, NodeBehind, NodeRefused, NodeUnreachable) as error:
                self._away = error
        return self._look_alone(wallet, kept, looked_at, self._away)

    def _warn_if_standing(self) -> None:
        """Say once that the ledger stands: by its height all that has a deadline is done too late. It stops nothing."""
        if self._current:
            return
        self._current = True
        try:
            self.nodes.check_current(time.time())
        except PicopaymentsError as error:
            log.warning("%s", error.message)

    def _look_alone(
        self, wallet: Wallet, kept: Remembered, looked_at: Sequence[Connection], away: PicopaymentsError
    ) -> Look:
        from picopayments_cli.client.alone import at_one_tip

        bitcoin = self.nodes.bitcoin
        if bitcoin is None or away.data.get("url") == bitcoin.url:
            raise away
        sides = [(side, item.stage in (CLOSING, CLOSED)) for item in looked_at for side in sides_of(item)]
        try:
            view, found = at_one_tip(bitcoin, wallet, kept, sides)
        except PicopaymentsError:
            raise away from None
        log.warning("The chain is seen by Bitcoin Core alone: %s", away.message)
        self.proven |= set(view.coins[wallet.address])
        return Look(view, {item.handle: (found[2 * n], found[2 * n + 1]) for n, item in enumerate(looked_at)}, away)

    def look(self, wallet: str, connections: Iterable[Connection]) -> Look:
        """Look at these connections and at the wallet's address."""
        looked_at = list(connections)
        sides = [side for item in looked_at for side in sides_of(item)]
        ending = [side for item in looked_at if item.stage in (CLOSING, CLOSED) for side in sides_of(item)]
        deposits = {side.contract.deposit.output: self.at(side.contract.deposit.output) for side in sides}
        asked = [self.at(side.contract.deposit.output) for side in ending]
        view = self.chain.view(Query(coins=[wallet, *deposits.values()], balances=[wallet, *asked], options=[wallet]))
        past = _Past(self, view)
        late = past.spent_by_now(sides)
        past.add_histories([side for side in sides if past.is_spent(side)])
        past.check_index(late)
        found = [past.facts(side) for side in sides]
        commits = [item for item in map(_commit_output, sides, found) if item is not None]
        if commits:
            past.add_outputs(commits)
            found = [past.facts(side) for side in sides]
        pairs = {item.handle: (found[2 * n], found[2 * n + 1]) for n, item in enumerate(looked_at)}
        return Look(view, pairs)

    def funding(self, contract: Contract) -> tuple[tuple[SendRow, ...], tuple[Entry, ...]]:
        """Ask the ledger for the sends to a deposit's address, and the chain for those that may be the deposit."""
        address = self.at(contract.deposit.output)
        rows = self.nodes.sends(contract.deposit.output)
        txids = list(dict.fromkeys(row.txid for row in rows if is_deposit(contract, row)))
        view = self.chain.view(Query(coins=[address], transactions=txids))
        heights = {coin.outpoint.txid: coin.height for coin in view.coins[address]}
        return rows, tuple(Entry(txid, raw, heights.get(txid)) for txid, raw in view.transactions.items())

    def at(self, script: bytes) -> str:
        """Write a scriptPubKey as an address."""
        return str(address_of_script(self._network, script))


def _commit_output(side: Side, facts: Facts) -> bytes | None:
    """The output of the commit that spends a channel's anchor."""
    known = facts.spend.known if facts.spend is not None else None
    if known is None or known.revoke_hash is None:
        return None
    return side.contract.commit_script(known.revoke_hash).output


class _Past:
    """The answers of the chain in one look, and what they come to."""

    def __init__(self, sight: Sight, view: View) -> None:
        self._sight, self._view = sight, view
        self._coins = dict(view.coins)
        self._scripts: dict[str, bytes] = {}  # of commits' addresses that were asked about
        self._balances = dict(view.balances)
        self._entries: dict[bytes, Entry] = {}
        self._busy: set[str] = set()  # addresses of which something waits in the mempool
        self._blind: set[bytes] = set()  # deposits' scripts whose history is cut
        self._waiting: dict[bytes, Waiting] = {}

    def is_spent(self, side: Side) -> bool:
        """Whether the anchor is not among the coins: spent, or not there."""
        coins = self._coins[self._sight.at(side.contract.deposit.output)]
        return side.anchor is not None and all(coin.outpoint != side.anchor.outpoint for coin in coins)

    def spent_by_now(self, sides: Sequence[Side]) -> list[Side]:
        """The sides whose confirmed anchor is listed as unspent, which the Bitcoin node knows better; unlist them."""
        listed = {coin.outpoint for coins in self._coins.values() for coin in coins if coin.height is not None}
        anchors = {side.anchor.outpoint for side in sides if side.anchor is not None} & listed
        spent = self._sight.nodes.spent(anchors) if anchors else set()
        for address, coins in self._coins.items():
            self._coins[address] = tuple(coin for coin in coins if coin.outpoint not in spent)
        return [side for side in sides if side.anchor is not None and side.anchor.outpoint in spent]

    def check_index(self, late: Sequence[Side]) -> None:
        """Refuse an index of addresses that does not show either what spends these anchors. Raises NodeBehind."""
        for side in late:
            facts = self.facts(side)
            if facts.spend is None:
                raise NodeBehind(
                    "The node's index of addresses is behind its Bitcoin node: it does not show yet what has spent a "
                    "deposit. Repeat the command later.",
                    chain=facts.tip,
                )

    def add_histories(self, sides: Sequence[Side]) -> None:
        """Ask for the history of these deposits' addresses."""
        if not sides:
            return
        at = {self._sight.at(side.contract.deposit.output): side.contract.deposit.output for side in sides}
        view = self._sight.chain.view(Query(history=list(at)))
        self._note(view)
        self._blind |= {at[address] for address in view.truncated if address in at}
        for side in sides:
            if side.contract.deposit.output in self._blind:
                self._add_known(side)
        self._ask_mempool()

    def _add_known(self, side: Side) -> None:
        """Ask by txid, and for the heights of those that are there at their first output's address."""
        anchors = [] if side.anchor is None else [side.anchor.outpoint.txid]
        txids = [*anchors, *three.known(side), *(sent.txid for sent in side.sent)]
        found = self._sight.chain.view(Query(transactions=txids)).transactions
        strange = {txid: raw for txid, raw in found.items() if txid not in self._entries}
        firsts = {self._first_address(raw) for raw in strange.values()} - {None}
        if firsts:
            self._note(self._sight.chain.view(Query(history=[str(item) for item in firsts])))
        for txid, raw in strange.items():
            self._entries.setdefault(txid, Entry(txid, raw, None))

    def _first_address(self, raw: bytes) -> str | None:
        tx = parse_transaction(raw)
        return None if tx is None else address_of_script(self._sight._network, bytes(tx.vout[0].scriptPubKey))

    def add_outputs(self, scripts: Sequence[bytes]) -> None:
        """Ask for all that happened on commits' addresses."""
        self._scripts |= {self._sight.at(script): script for script in scripts}
        asked = list(self._scripts)
        view = self._sight.chain.view(Query(history=asked, coins=asked, balances=asked))
        self._note(view)
        self._coins |= view.coins
        self._balances |= view.balances
        self._ask_mempool()

    def _note(self, view: View) -> None:
        self._entries |= {entry.txid: entry for entries in view.history.values() for entry in entries}
        self._busy |= {at for at, entries in view.history.items() if any(entry.height is None for entry in entries)}

    def _ask_mempool(self) -> None:
        """Ask about what is in the mempool, and about what spends it there."""
        asked = [txid for txid, entry in self._entries.items() if entry.height is None and txid not in self._waiting]
        self._waiting |= self._sight.nodes.waiting(asked)
        children = [child for item in self._waiting.values() for child in item.children if child not in self._waiting]
        self._waiting |= self._sight.nodes.waiting(children)

    def facts(self, side: Side) -> Facts:
        """Return what is known of a channel."""
        deposit = side.contract.deposit.output
        spenders: dict[Outpoint, Seen] = {}
        for entry in self._entries.values():
            tx = parse_transaction(entry.raw)
            for spent in tx.vin if tx is not None else ():
                spenders[Outpoint(spent.prevout.hash, spent.prevout.n)] = self._seen(entry.txid, entry.height)
        transactions = {txid: self._seen(txid, entry.height) for txid, entry in self._entries.items()}
        for coin in self._coins[self._sight.at(deposit)]:
            transactions.setdefault(coin.outpoint.txid, Seen(coin.outpoint.txid, coin.height))
        view = three.View(
            Height(self._view.height),
            transactions,
            None if deposit in self._blind else spenders,
            {script: self._coins[at] for script, at in self._places(side) if at in self._coins and not self._moves(at)},
            {script: _asset_ids(self._balances[at]) for script, at in self._places(side) if at in self._balances},
        )
        return three.look(side, view)

    def _moves(self, at: str) -> bool:
        """Whether an address has assets and no coin, and something of it waits in the mempool: that may move them.

        Its coins are not known before that is mined; else each look would give it a coin for nothing.
        """
        return at in self._busy and not self._coins[at] and bool(_asset_ids(self._balances.get(at, {})))

    def _places(self, side: Side) -> list[tuple[bytes, str]]:
        """The scripts of the deposit and of the commits that were asked about, with their addresses."""
        deposit = side.contract.deposit.output
        return [(deposit, self._sight.at(deposit)), *((script, at) for at, script in self._scripts.items())]

    def _seen(self, txid: bytes, height: Height | None) -> Seen:
        waiting = self._waiting.get(txid)
        if height is not None or waiting is None:
            return Seen(txid, height)
        child = next((item for item in waiting.children if item in self._waiting), None)
        below = None if child is None else Seen(child, None, self._waiting[child].feefrac)
        return replace(Seen(txid), feefrac=waiting.feefrac, child=below)


def _asset_ids(balances: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(asset_id(name) for name, quantity in balances.items() if quantity and name != "BTC")

"""Look at the chain for a command, in one round trip, and remember what the command need not ask again."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from picopayments_cli.chain import Chain, Query, View
from picopayments_cli.channel.counterparty import asset_id
from picopayments_cli.channel.networks import Network, address_of_script
from picopayments_cli.channel.stages import CLOSED, CLOSING
from picopayments_cli.channel.values import Handle, Outpoint
from picopayments_cli.channel2.deadlines import WATCHED_REVOKED, exposed
from picopayments_cli.channel2.facts import Facts, paid_commit, unspent
from picopayments_cli.channel2.state import Channel, Revoked
from picopayments_cli.client2.connection import Connection

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """One look at the chain: the view, and per connection the facts of c2h and h2c."""

    view: View
    facts: Mapping[Handle, tuple[Facts, Facts]]

    def held(self, address: str, asset: str) -> int:
        """Get what the ledger says an address holds, if it was asked."""
        return self.view.balances.get(address, {}).get(asset, 0)


class Sight:
    """A chain and what one command has learnt of it. Sessions that see the same chain share one."""

    def __init__(self, network: Network, chain: Chain) -> None:
        self.chain = chain
        self._network = network
        self._dirty: dict[bytes, bool] = {}  # whether a script has a history
        self._attached: dict[Outpoint, bool] = {}  # whether assets are attached to a coin of the wallet

    def dirty(self, scripts: Iterable[bytes], *, again: bool = False) -> set[bytes]:
        """Find which of these scripts have a history, the mempool included.

        Asks the chain only for those that this command has not looked at yet, or for all of them ``again``.
        """
        wanted = set(scripts)
        unknown = wanted if again else wanted - self._dirty.keys()
        if unknown:
            self._note_histories(unknown, self.chain.view(Query(history=list(self._addresses(unknown)))))
        return {script for script in wanted if self._dirty[script]}

    def attached(self, outpoints: Iterable[Outpoint]) -> set[Outpoint]:
        """Find which of the wallet's coins have assets attached. The chain is asked once for each."""
        wanted = set(outpoints)
        unknown = wanted - self._attached.keys()
        found = self.chain.attached(unknown) if unknown else set()
        if found:
            log.warning("%d coins of the wallet are left alone: assets are attached to them", len(found))
        self._attached |= {outpoint: outpoint in found for outpoint in unknown}
        return {outpoint for outpoint in wanted if self._attached[outpoint]}

    def _address(self, channel: Channel) -> str:
        return str(address_of_script(self._network, channel.script.output))

    def _addresses(self, scripts: Iterable[bytes]) -> dict[str, bytes]:
        return {str(address_of_script(self._network, script)): script for script in scripts}

    def _note_histories(self, scripts: Iterable[bytes], view: View) -> None:
        for address, script in self._addresses(scripts).items():
            self._dirty[script] = bool(view.history[address])

    def look(
        self, wallet: str, connections: Iterable[Connection], *, beside: Iterable[bytes] = (), settle: bool = True
    ) -> Look:
        """Look at these connections, at the wallet's address and, for ``dirty``, at the scripts beside.

        One round trip; with ``settle`` a second one where a deposit is spent, to see what became of the commit.
        """
        scripts = list(beside)
        looked_at = list(connections)
        channels = [channel for item in looked_at for channel in (item.duplex.sending, item.duplex.receiving)]
        addresses = [self._address(channel) for channel in channels]
        watched = self._revoked(item.duplex.sending for item in looked_at)
        # What the ledger shows on a channel matters when it opens and when it ends.
        asked = [
            self._address(channel)
            for item in looked_at
            if item.stage in (CLOSING, CLOSED) or item.duplex.receiving.anchor is None
            for channel in (item.duplex.sending, item.duplex.receiving)
        ]
        history = [*addresses, *self._addresses(scripts)]
        view = self.chain.view(Query(history=history, coins=[wallet, *watched], balances=[wallet, *asked]))
        self._note_histories(scripts, view)
        facts = [
            Facts(
                view.height,
                view.history[address],
                unspent(channel.script.output, view.history[address]),
                revoked_coins=tuple(
                    (revoked, coin)
                    for watched_address, (of, revoked) in watched.items()
                    if of == channel
                    for coin in view.coins[watched_address]
                ),
                assets=_asset_ids(view.balances[address]) if address in view.balances else None,
                truncated=address in view.truncated,
            )
            for channel, address in zip(channels, addresses, strict=True)
        ]
        if settle:
            facts = self._with_commits(channels, facts)
        pairs = {item.handle: (facts[2 * n], facts[2 * n + 1]) for n, item in enumerate(looked_at)}
        return Look(view, pairs)

    def _revoked(self, channels: Iterable[Channel]) -> dict[str, tuple[Channel, Revoked]]:
        """Choose the addresses of revoked commits to watch: the greatest exposures of each channel."""
        return {
            str(address_of_script(self._network, channel.commit_script(item.revoke_hash).output)): (channel, item)
            for channel in channels
            for item in exposed(channel)[:WATCHED_REVOKED]
        }

    def _with_commits(self, channels: list[Channel], facts: list[Facts]) -> list[Facts]:
        """Add to the facts what became of the outputs that the anchors' spenders pay first."""
        outputs = map(paid_commit, channels, facts)
        paid = {n: script for n, script in enumerate(outputs) if script is not None}
        if not paid:
            return facts
        addresses = {n: str(address_of_script(self._network, script)) for n, script in paid.items()}
        asked = list(addresses.values())
        view = self.chain.view(Query(history=asked, balances=asked))
        found = list(facts)
        for n, address in addresses.items():
            found[n] = replace(
                facts[n],
                commit_history=view.history[address],
                commit_coins=unspent(paid[n], view.history[address]),
                commit_assets=_asset_ids(view.balances[address]),
            )
        return found


def _asset_ids(balances: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(asset_id(name) for name, quantity in balances.items() if quantity and name != "BTC")

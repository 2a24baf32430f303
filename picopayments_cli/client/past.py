"""Remember on disk what the wallet has sent, since a list of its unspent coins may not know of it yet."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from picopayments_cli.chain import Chain, Query
from picopayments_cli.channel.drafts import parse_transaction, shown_keys, txid_of
from picopayments_cli.channel.past import Own, Told, as_told
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.client.store import Store
from picopayments_cli.client.wallet import Wallet


class Past:
    """The wallet's transactions that hold its coins yet; ``channel/past.py`` says for how long."""

    def __init__(self, store: Store, wallet: Wallet) -> None:
        self._store, self._wallet = store, wallet
        self.writes = True  # whether a look may write down what it finds
        self._over: set[bytes] = set()  # txids that go out of the file with the next change of it

    def add(self, raws: Sequence[bytes]) -> list[bytes]:
        """Remember those that spend the wallet's coins, before they leave; the txids that are new.

        Raises StoreUnusable, StoreDamaged.
        """
        kept = [item for item in self._store.notes.sent() if item.txid not in self._over]
        known = {item.txid for item in kept}
        new = [Own(raw) for raw in raws if _is_of(raw, self._wallet) and txid_of(raw) not in known]
        if new:
            self._store.notes.save_sent([*kept, *new])
        return [item.txid for item in new]

    def drop(self, txids: Collection[bytes]) -> None:
        """Forget those that the network has refused."""
        if txids:
            self._store.notes.save_sent([item for item in self._store.notes.sent() if item.txid not in txids])

    def change(self) -> frozenset[Outpoint]:
        """List what its own transactions pay to the wallet: no assets are attached to that. Raises StoreDamaged."""
        txs = [parse_transaction(own.raw) for own in self._store.notes.sent()]
        return frozenset(
            Outpoint(bytes(tx.GetTxid()), number)
            for tx in txs
            if tx is not None
            for number, out in enumerate(tx.vout)
            if bytes(out.scriptPubKey) == self._wallet.script
        )

    def look(self, chain: Chain, listed: Collection[Outpoint]) -> list[Own]:
        """Ask the chain how they stand, and return those that are not over.

        ``listed``: the wallet's coins as a list shows them. Only since when one is missing has to be on disk. Raises
        Unreachable, StoreUnusable, StoreDamaged.
        """
        kept = self._store.notes.sent()
        if not kept:
            return []
        at = self._wallet.address
        view = chain.view(Query(history=[at], transactions=[item.txid for item in kept]))
        told = Told(view.height, view.history[at], view.transactions, listed, at in view.truncated)
        found = [as_told(item, told, self._wallet.network.safe_depth) for item in kept]
        left = [item for item in found if item is not None]
        self._over = {item.txid for item in kept} - {item.txid for item in left}
        missing = {item.txid: item.missing for item in kept}
        if self.writes and any(item.missing != missing[item.txid] for item in left):
            self._store.notes.save_sent(left)
        return left


def _is_of(raw: bytes, wallet: Wallet) -> bool:
    """Tell whether a transaction spends a coin of the wallet's."""
    tx = parse_transaction(raw)
    return tx is not None and wallet.key.pubkey in shown_keys(tx)

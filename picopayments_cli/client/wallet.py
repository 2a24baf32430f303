"""The client's wallet: one key, the address it pays from, and which of its coins it may spend."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from picopayments_cli.chain import Coin
from picopayments_cli.channel.counterparty import p2pkh
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import Network, address_of_script, secret_of_wif, wif_of_secret
from picopayments_cli.channel.values import SECRET_SIZE, Outpoint
from picopayments_cli.client import kinds
from picopayments_cli.client.store import Store
from picopayments_cli.errors import InvalidHex, InvalidKey
from picopayments_cli.files import damaged


@dataclass(frozen=True)
class Wallet:
    """A key and the P2PKH address that it stands for on a network."""

    network: Network
    key: Key

    @staticmethod
    def open(store: Store, network: Network) -> Wallet:
        """Open the store's wallet, or make a new one that ``keep`` writes. Raises StoreDamaged, StoreUnusable."""
        wif = store.load_wif()
        if wif is None:
            return Wallet(network, Key(secrets.token_bytes(SECRET_SIZE)))
        try:
            return Wallet(network, Key(secret_of_wif(network, wif)))
        except InvalidKey:
            raise damaged(store.wif_path, f"it holds no private key of {network.name} (WIF, compressed)") from None

    def keep(self, store: Store) -> None:
        """See that the key is on disk, before anything leaves that depends on it. Raises StoreUnusable."""
        if store.load_wif() is None:
            store.save_wif(wif_of_secret(self.network, self.key.secret))

    @property
    def script(self) -> bytes:
        """The scriptPubKey of the address."""
        return p2pkh(self.key.pubkey_hash)

    @property
    def address(self) -> str:
        """Where the wallet is paid."""
        return str(address_of_script(self.network, self.script))


@dataclass(frozen=True)
class Remembered:
    """The wallet as it was seen last: coins without assets, and whether it takes sends without a memo (``home``)."""

    coins: frozenset[Outpoint] = frozenset()
    home: bool = True


def remembered(store: Store) -> Remembered:
    """Read how the wallet was seen last. Raises StoreDamaged, StoreUnusable."""
    document = store.load_coins()
    try:
        coins = frozenset(map(Outpoint.parse, kinds.items(document.get("coins", []))))
        return Remembered(coins, kinds.switch(document.get("home", True)))
    except (TypeError, ValueError, AttributeError, InvalidHex):
        raise damaged(store.coins_path, "it does not list coins") from None


def remember(store: Store, seen: Remembered, before: Remembered) -> None:
    """Write how the wallet was seen, where that is not as ``before``. Raises StoreUnusable."""
    if seen != before:
        store.save_coins({"coins": sorted(map(str, seen.coins)), "home": seen.home})


def confirmed(coins: Iterable[Coin]) -> list[Coin]:
    """Choose the confirmed coins: an unconfirmed one may never be confirmed."""
    return [coin for coin in coins if coin.height is not None]

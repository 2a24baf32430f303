"""The client's wallet: one key, the address it pays from, and which of its coins it may spend."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from picopayments_cli.chain import Coin
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import Network, script_of_address
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.client import key_file, kinds
from picopayments_cli.client.key_file import KeyFile
from picopayments_cli.client.store import Store
from picopayments_cli.errors import InvalidHex, PassphraseMissing
from picopayments_cli.files import damaged

log = logging.getLogger(__name__)


def nobody(address: str) -> str:
    """Refuse where nobody can be asked for a passphrase. Raises PassphraseMissing."""
    raise PassphraseMissing(f"The wallet {address} is encrypted, and nobody is asked for its passphrase.")


class Unlocker:
    """Opens encrypted wallets. It asks once for a wallet's passphrase, and remembers words and WIF in this process."""

    def __init__(self, ask: Callable[[str], str] = nobody, ask_new: Callable[[bool], str] | None = None) -> None:
        """``ask`` gets a wallet's address, and returns its passphrase; ``ask_new``: whether it replaces an old one."""
        self._ask = ask
        self._ask_new = ask_new
        self._opened: dict[str, str] = {}

    def secret(self, file: KeyFile) -> str:
        """Return the words or the WIF of a wallet. Raises PassphraseMissing, WrongPassphrase."""
        if file.secret is not None:
            return file.secret
        if file.name not in self._opened:
            self._opened[file.name] = file.unsealed(self._ask(file.address))
        return self._opened[file.name]

    def has(self, file: KeyFile) -> bool:
        """Tell whether a wallet opens without a question."""
        return file.secret is not None or file.name in self._opened

    def new_passphrase(self, address: str, *, change: bool) -> str:
        """Ask for a passphrase to encrypt a wallet with; ``change``: it has one. Raises PassphraseMissing."""
        return nobody(address) if self._ask_new is None else self._ask_new(change)


@dataclass(frozen=True)
class Wallet:
    """A key, which may be encrypted until it is needed, and the address that it stands for on a network."""

    file: KeyFile
    unlocker: Unlocker = field(default_factory=Unlocker, repr=False, compare=False)

    @staticmethod
    def open(store: Store, network: Network, unlocker: Unlocker | None = None) -> Wallet:
        """Open the store's wallet. It makes none: nobody is told an address whose key is not on disk.

        Raises WalletMissing, StoreDamaged, StoreUnusable.
        """
        file = store.load_wallet()
        if file is None:
            raise key_file.missing(store.basedir, network)
        return Wallet(file, unlocker or Unlocker())

    @property
    def network(self) -> Network:
        """Where it is paid."""
        return self.file.network

    @property
    def address(self) -> str:
        """The address at which it is paid."""
        return self.file.address

    @cached_property
    def script(self) -> bytes:
        """The scriptPubKey of the address."""
        return script_of_address(self.network, self.address)

    @cached_property
    def key(self) -> Key:
        """The private key. Raises PassphraseMissing, WrongPassphrase."""
        return self.file.key_of(self.unlocker.secret(self.file))


def make_first(store: Store, network: Network) -> None:
    """Make a wallet where there is none, and write it. Raises StoreDamaged, StoreUnusable."""
    if store.load_wallet() is None:
        store.save_wallet(KeyFile.drawn(network))
        log.warning(
            "A new wallet was made. `picopayments-cli wallet export` shows its 12 words: write them down. They bring "
            "it back when this machine is lost."
        )


@dataclass(frozen=True)
class Remembered:
    """The wallet as it was seen last: coins without assets, and whether it takes sends without a memo (``home``)."""

    coins: frozenset[Outpoint] = frozenset()
    home: bool = True


def remembered(store: Store) -> Remembered:
    """Read how the wallet was seen last. Raises StoreDamaged, StoreUnusable."""
    document = store.notes.coins()
    try:
        coins = frozenset(map(Outpoint.parse, kinds.items(document.get("coins", []))))
        return Remembered(coins, kinds.switch(document.get("home", True)))
    except (TypeError, ValueError, AttributeError, InvalidHex):
        raise damaged(store.notes.coins_path, "it does not list coins") from None


def remember(store: Store, seen: Remembered, before: Remembered) -> None:
    """Write how the wallet was seen, where that is not as ``before``. Raises StoreUnusable."""
    if seen != before:
        store.notes.save_coins({"coins": sorted(map(str, seen.coins)), "home": seen.home})


def confirmed(coins: Iterable[Coin]) -> list[Coin]:
    """Choose the confirmed coins: an unconfirmed one may never be confirmed."""
    return [coin for coin in coins if coin.height is not None]

"""A wallet's key as its file has it: words or a WIF, in clear or sealed under a passphrase, and the wallet's address.

``<network>.wallet`` is one JSON object: ``format``, ``version``, ``network``, ``kind`` (p2wpkh or p2pkh, which decides
the address), ``address``, ``holds`` (words or wif), and either ``secret`` or ``sealed`` with ``salt``, ``operations``
and ``memory`` (bytes) of Argon2id. A sealed secret opens only together with the other members. ``<network>.wif`` is the
WIF alone, as text, of a P2PKH wallet; older versions wrote it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from picopayments_cli.channel.counterparty import p2pkh
from picopayments_cli.channel.derivation import wallet_key
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import NETWORKS, Network, address_of_script, secret_of_wif, wif_of_secret
from picopayments_cli.channel.scripts import p2wpkh
from picopayments_cli.client import kinds
from picopayments_cli.client.mnemonics import COUNT, checked_words, new_words, seed_of
from picopayments_cli.encryption import SALT_SIZE, Cost, seal, stretch, unseal
from picopayments_cli.errors import InvalidKey, InvalidWords, WalletExists, WalletMissing, WrongPassphrase
from picopayments_cli.files import damaged, newer, read_text, usable

FORMAT, VERSION = "picopayments-wallet", 1
P2WPKH, P2PKH = "p2wpkh", "p2pkh"
WORDS, WIF = "words", "wif"
_SCRIPTS = {P2WPKH: p2wpkh, P2PKH: p2pkh}


@dataclass(frozen=True)
class Sealed:
    """A secret under a passphrase: the salt and the cost by which the passphrase becomes the key, and the cipher's."""

    salt: bytes
    cost: Cost
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class KeyFile:
    """The content of a wallet's file. ``secret``: words or a WIF, as ``holds`` says; None where they are sealed."""

    network: Network
    kind: str
    address: str
    holds: str
    secret: str | None = field(repr=False)
    sealed: Sealed | None = None

    @staticmethod
    def of_words(network: Network, words: str) -> KeyFile:
        """Make the P2WPKH wallet of words. Raises InvalidWords."""
        return _clear(network, P2WPKH, WORDS, checked_words(words))

    @staticmethod
    def drawn(network: Network, count: int = COUNT) -> KeyFile:
        """Make a wallet of new words."""
        return KeyFile.of_words(network, new_words(count))

    @staticmethod
    def of_wif(network: Network, text: str) -> KeyFile:
        """Make the wallet of a WIF as Electrum writes it: ``p2wpkh:`` before it says of which kind, else it is P2PKH.

        Raises InvalidKey.
        """
        if len(text.split()) > 1:
            raise InvalidKey(
                "These are words, and no key: `picopayments-cli wallet restore` makes the wallet of 12 or 24 words. "
                "Nothing was changed.",
                network=network.name,
            )
        kind, colon, wif = text.strip().rpartition(":")
        if not colon:
            kind = P2PKH
        if kind not in _SCRIPTS:
            raise InvalidKey(
                f"Only {P2WPKH} or {P2PKH} may stand before the colon of a key. Nothing was changed: give the key once "
                "more.",
                network=network.name,
            )
        return _clear(network, kind, WIF, wif)

    @property
    def name(self) -> str:
        """Which wallet it is: the network and the address, which stay under another passphrase."""
        return f"{self.network.name} {self.address}"

    def key_of(self, secret: str) -> Key:
        """Derive the wallet's key from its words or WIF. Raises InvalidKey, InvalidWords."""
        return _key_of(self.network, self.holds, secret)

    def wif_of(self, secret: str) -> str:
        """Write the key as ``of_wif`` reads it, and Electrum."""
        wif = wif_of_secret(self.network, self.key_of(secret).secret)
        return wif if self.kind == P2PKH else f"{self.kind}:{wif}"

    # Sealing --------------------------------------------------------------------------------------------------------

    def sealed_under(self, passphrase: str, secret: str, cost: Cost | None = None) -> KeyFile:
        """Put words or WIF under a passphrase. It takes time and memory, as every guess of it does."""
        salt, cost = os.urandom(SALT_SIZE), cost or Cost()
        data = seal(stretch(passphrase, salt, cost), secret.encode(), self._about)
        return replace(self, secret=None, sealed=Sealed(salt, cost, data))

    def in_clear(self, secret: str) -> KeyFile:
        """Put words or WIF in clear."""
        return replace(self, secret=secret, sealed=None)

    def unsealed(self, passphrase: str) -> str:
        """Open words or WIF. Raises WrongPassphrase, ValueError where nothing is sealed."""
        if self.sealed is None:
            raise ValueError("nothing is sealed")
        key = stretch(passphrase, self.sealed.salt, self.sealed.cost)
        try:
            return unseal(key, self.sealed.data, self._about).decode()
        except ValueError:
            raise WrongPassphrase(
                f"That is not the passphrase of the wallet {self.address}, or its file was changed. Nothing was done: "
                "run the command again with the right one. Without it the words alone help: "
                "`picopayments-cli wallet restore` takes the passphrase off.",
                address=self.address,
            ) from None

    @property
    def _about(self) -> bytes:
        return json.dumps(self._header, sort_keys=True).encode()

    # JSON -----------------------------------------------------------------------------------------------------------

    @property
    def _header(self) -> dict[str, Any]:
        members = {"kind": self.kind, "address": self.address, "holds": self.holds}
        return {"format": FORMAT, "version": VERSION, "network": self.network.name, **members}

    def text(self) -> str:
        """Write the file's text."""
        if self.sealed is None:
            secret: dict[str, Any] = {"secret": self.secret}
        else:
            cost = self.sealed.cost
            hidden = {"salt": self.sealed.salt.hex(), "operations": cost.operations, "memory": cost.memory}
            secret = {**hidden, "sealed": self.sealed.data.hex()}
        return json.dumps({**self._header, **secret}, indent=2) + "\n"


def read(path: Path, wif_path: Path, network: Network) -> KeyFile | None:
    """Read the wallet that stands in one of two files, the other of which older versions wrote; None where none does.

    Where both are there and of one wallet it is the older one, in clear: its encryption was cut off. Raises
    StoreDamaged, StoreNewer, StoreUnusable.
    """
    new, old = read_text(path), read_text(wif_path)
    wallet = None if new is None else parse(path, network, new)
    older = None if old is None else parse_wif(wif_path, network, old)
    if wallet is not None and older is not None and wallet.name != older.name:
        raise damaged(path, f"{wif_path.name} beside it is another wallet's; move one of the two elsewhere")
    return older or wallet


def parse(path: Path, network: Network, text: str) -> KeyFile:
    """Read a wallet's file. Raises StoreDamaged, StoreNewer."""
    try:
        document = kinds.members(json.loads(text))
    except (TypeError, ValueError, RecursionError):
        raise damaged(path, "it is not a JSON object") from None
    if document.get("format") != FORMAT:
        raise damaged(path, "it is not the file of a wallet")
    if type(document.get("version")) is int and document["version"] > VERSION:
        raise newer(path, document["version"], VERSION)
    if document.get("network") != network.name:
        raise damaged(path, f"it belongs to another network than {network.name}")
    try:
        return _read(network, document)
    except (KeyError, TypeError, ValueError, InvalidKey, InvalidWords):
        raise damaged(path, "a member is missing or wrong") from None


def parse_wif(path: Path, network: Network, text: str) -> KeyFile:
    """Read the file of an older wallet. Raises StoreDamaged."""
    try:
        return _clear(network, P2PKH, WIF, text.strip())
    except InvalidKey:
        raise damaged(path, f"it holds no private key of {network.name} (WIF, compressed)") from None


def taken(basedir: Path, here: KeyFile) -> WalletExists:
    """Make the refusal of another wallet in a folder that has one."""
    return WalletExists(
        f"{basedir} holds a wallet of {here.network.name} already, {here.address}. Nothing was changed. Name another "
        "--basedir for another wallet.",
        address=here.address,
        basedir=str(basedir),
    )


def missing(basedir: Path, network: Network) -> WalletMissing:
    """Make the refusal of a folder without a wallet of this network; it names those of others. Raises StoreUnusable."""
    with usable(basedir):
        others = [name for name in NETWORKS if any((basedir / f"{name}.{kind}").exists() for kind in ("wallet", "wif"))]
    beside = [f"There is one of {name}: did you mean --network {name}?" for name in others]
    look = " ".join(beside) or "See that --basedir and the network are right."
    return WalletMissing(
        f"There is no wallet of {network.name} in {basedir}. {look} `picopayments-cli wallet new` makes one, "
        "`picopayments-cli wallet restore` brings one back from its words, and `picopayments-cli restore FILE` from a "
        "backup.",
        basedir=str(basedir),
        networks=others,
    )


def _read(network: Network, document: dict[str, Any]) -> KeyFile:
    """Read the members. Raises KeyError, TypeError, ValueError, InvalidKey, InvalidWords."""
    if document["version"] != VERSION or document["kind"] not in _SCRIPTS or document["holds"] not in (WORDS, WIF):
        raise ValueError("it is of no kind that is known")
    given = (document["kind"], kinds.text(document["address"]), document["holds"])
    if "sealed" in document:
        cost = Cost(kinds.whole(document["operations"]), kinds.whole(document["memory"]))
        salt, data = (bytes.fromhex(kinds.text(document[name])) for name in ("salt", "sealed"))
        if len(salt) != SALT_SIZE:
            raise ValueError("the salt is of another length")
        return KeyFile(network, *given, None, Sealed(salt, cost, data))
    found = _clear(network, document["kind"], document["holds"], kinds.text(document["secret"]))
    if found.address != given[1]:
        raise ValueError("the address is of another key")
    return found


def _clear(network: Network, kind: str, holds: str, secret: str) -> KeyFile:
    script = _SCRIPTS[kind](_key_of(network, holds, secret).pubkey_hash)
    return KeyFile(network, kind, str(address_of_script(network, script)), holds, secret)


def _key_of(network: Network, holds: str, secret: str) -> Key:
    if holds == WORDS:
        return wallet_key(seed_of(checked_words(secret)), network)
    return Key(secret_of_wif(network, secret))

"""Derive a wallet's key from a seed, as BIP 32 and BIP 84 say: other wallets find its coins by the same path."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from picopayments_cli.channel.keys import ORDER, Key
from picopayments_cli.channel.networks import Network

HARDENED = 1 << 31
_MASTER = b"Bitcoin seed"


@dataclass(frozen=True)
class Branch:
    """A private key and the chain code (32 bytes) by which others are derived from it."""

    key: Key
    code: bytes = field(repr=False)

    @staticmethod
    def of_seed(seed: bytes) -> Branch:
        """Make the master key of a seed. Raises ValueError for one seed in 2^127, which has none."""
        return _branch(hmac.digest(_MASTER, seed, "sha512"), 0)

    def child(self, index: int) -> Branch:
        """Derive the child of a number, hardened from HARDENED on. Raises ValueError for one in 2^127."""
        public = self.key.pubkey if index < HARDENED else b"\0" + self.key.secret
        return _branch(
            hmac.digest(self.code, public + index.to_bytes(4, "big"), "sha512"), int.from_bytes(self.key.secret, "big")
        )


def _branch(mixed: bytes, parent: int) -> Branch:
    """Add the left half of an HMAC to the parent's key; the right half is the chain code."""
    left = int.from_bytes(mixed[:32], "big")
    secret = (left + parent) % ORDER
    if left >= ORDER or secret == 0:
        raise ValueError("there is no key of this number")
    return Branch(Key(secret.to_bytes(32, "big")), mixed[32:])


def wallet_key(seed: bytes, network: Network) -> Key:
    """Derive the first key of the first account: m/84'/0'/0'/0/0 on mainnet, m/84'/1'/0'/0/0 on the others."""
    coin = 0 if network.name == "mainnet" else 1
    branch = Branch.of_seed(seed)
    for index in (84 + HARDENED, coin + HARDENED, HARDENED, 0, 0):
        branch = branch.child(index)
    return branch.key

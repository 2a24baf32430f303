"""The two outputs of a channel, and what spends them.

A *deposit* is spent by both parties, or by the payer alone once the expiry's height is reached. A *commit* is spent by
both, or by the payer with the revoke secret. How old a commit must be for its payout no script says: the payer signs
it into the payout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache

from picopayments_cli.channel.counterparty import is_p2pkh
from picopayments_cli.channel.keys import Key, XOnly, check_distinct
from picopayments_cli.channel.taproot import Leaf, Tree
from picopayments_cli.channel.values import HASH_SIZE, Hash, Secret
from picopayments_cli.errors import InvalidTime

LOCK_IS_TIME = 500_000_000  # from here on a lock time is no height
P2A = bytes.fromhex("51024e73")
_CHECKSIG, _CHECKSIGVERIFY, _EQUALVERIFY = b"\xac", b"\xad", b"\x88"
_CLTV_DROP = b"\xb1\x75"
_HASH160 = b"\xa9\x14"
_KEY = b"\x20"


def push_number(number: int) -> bytes:
    """The shortest push of a number that is not negative, below 2^31."""
    if number <= 16:
        return bytes((0x50 + number,)) if number else b"\x00"
    data = number.to_bytes(number.bit_length() // 8 + 1, "little")
    return bytes((len(data),)) + data


def both_script(payer: XOnly, payee: XOnly) -> bytes:
    """The leaf of both: the payee's signature lies on top, the payer's is checked last."""
    return _KEY + payee.data + _CHECKSIGVERIFY + _KEY + payer.data + _CHECKSIG


class _ChannelScript(ABC):
    """An output of a channel: one leaf for both parties, one for the payer alone."""

    @cached_property
    @abstractmethod
    def _tree(self) -> Tree: ...

    @property
    def output(self) -> bytes:
        """The scriptPubKey that pays to it."""
        return self._tree.output

    @property
    def both(self) -> Leaf:
        """By both: of a deposit the commit, remainder, close and the close's rest; of a commit the payout."""
        return self._tree.leaves[0]


@dataclass(frozen=True)
class DepositScript(_ChannelScript):
    """The output of a deposit; ``height``: the expiry. Raises InvalidTime, RepeatedKey."""

    payer: XOnly
    payee: XOnly
    height: int

    def __post_init__(self) -> None:
        check_distinct((self.payer, self.payee))
        if not 0 < self.height < LOCK_IS_TIME:
            raise InvalidTime(
                f"The expiry must be a height from 1 to {LOCK_IS_TIME - 1}, not {self.height}.", height=self.height
            )

    @cached_property
    def _tree(self) -> Tree:
        expire = push_number(self.height) + _CLTV_DROP + _KEY + self.payer.data + _CHECKSIG
        return Tree(both_script(self.payer, self.payee), expire)

    @property
    def expire(self) -> Leaf:
        """By the payer, in a transaction whose lock time is the expiry at least."""
        return self._tree.leaves[1]


@dataclass(frozen=True)
class CommitScript(_ChannelScript):
    """The output of a commit."""

    payer: XOnly
    payee: XOnly
    revoke_hash: Hash

    def __post_init__(self) -> None:
        check_distinct((self.payer, self.payee))
        if len(self.revoke_hash) != HASH_SIZE:
            raise ValueError(f"the revoke hash has {len(self.revoke_hash)} bytes, not {HASH_SIZE}")

    @cached_property
    def _tree(self) -> Tree:
        revoke = _HASH160 + self.revoke_hash + _EQUALVERIFY + _KEY + self.payer.data + _CHECKSIG
        return Tree(both_script(self.payer, self.payee), revoke)

    @property
    def revoke(self) -> Leaf:
        """By the payer, with the revoke secret."""
        return self._tree.leaves[1]


@lru_cache(maxsize=2048)
def commit_script(payer: XOnly, payee: XOnly, revoke_hash: Hash) -> CommitScript:
    """The output of a commit; remembered for a while, since its address takes as long as checking a signature."""
    return CommitScript(payer, payee, revoke_hash)


# Counterparty looks for a signature in the first item of a witness only: it is always the payer's.


def both_witness(leaf: Leaf, payer_signature: bytes, payee_signature: bytes) -> tuple[bytes, ...]:
    """The witness that opens a leaf of both."""
    return payer_signature, payee_signature, leaf.script, leaf.control


def payer_witness(leaf: Leaf, signature: bytes, secret: Secret | None = None) -> tuple[bytes, ...]:
    """The witness that opens expire, or with the secret revoke."""
    words = () if secret is None else (secret,)
    return signature, *words, leaf.script, leaf.control


# Scripts of wallets -------------------------------------------------------------------------------------------------


def p2wpkh(hashed: bytes) -> bytes:
    """The scriptPubKey that pays to the hash of a public key by witness."""
    return b"\x00\x14" + hashed


def is_p2wpkh(script: bytes) -> bool:
    """Whether a scriptPubKey pays to the hash of a public key by witness."""
    return len(script) == 22 and script[:2] == b"\x00\x14"


def is_wallet(script: bytes) -> bool:
    """Whether a scriptPubKey is of a kind that a wallet may have."""
    return is_p2pkh(script) or is_p2wpkh(script)


def pays_to(key: Key, script: bytes) -> bool:
    """Whether a wallet's script is one of that key's."""
    return is_wallet(script) and key.pubkey_hash in (script[3:23], script[2:])

"""Taproot outputs (BIP 341) with two leaves under the key that nobody has: their address and what opens a leaf."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, cached_property

from picopayments_cli.channel.keys import NUMS, XOnly

LEAF_VERSION = 0xC0


def compact_size(number: int) -> bytes:
    """A count or a length as transactions carry it, below 2^16."""
    return bytes((number,)) if number < 0xFD else b"\xfd" + number.to_bytes(2, "little")


@cache
def _begun(tag: str) -> hashlib._Hash:
    return hashlib.sha256(2 * hashlib.sha256(tag.encode()).digest())


def tagged_hash(tag: str, data: bytes) -> bytes:
    """BIP 340's hash of data for a purpose."""
    state = _begun(tag).copy()
    state.update(data)
    return state.digest()


def leaf_hash(script: bytes) -> bytes:
    """The hash of a leaf of version 0xc0."""
    return tagged_hash("TapLeaf", bytes((LEAF_VERSION,)) + compact_size(len(script)) + script)


def branch_hash(one: bytes, other: bytes) -> bytes:
    """The hash of two nodes, in either order."""
    return tagged_hash("TapBranch", min(one, other) + max(one, other))


@dataclass(frozen=True)
class Leaf:
    """One way to spend an output: the script, the control block that proves that the output has it, and its hash."""

    script: bytes
    control: bytes

    @cached_property
    def hash(self) -> bytes:
        """Return what a signature commits to."""
        return leaf_hash(self.script)


@dataclass(frozen=True)
class Tree:
    """An output that one of two scripts spends, or else its internal key, of which nobody has the private one."""

    first: bytes
    second: bytes
    internal: XOnly = NUMS

    @cached_property
    def _hashes(self) -> tuple[bytes, bytes]:
        return leaf_hash(self.first), leaf_hash(self.second)

    @cached_property
    def _tweaked(self) -> tuple[bytes, int]:
        root = branch_hash(*self._hashes)
        return self.internal.tweaked(tagged_hash("TapTweak", self.internal.data + root))

    @cached_property
    def output(self) -> bytes:
        """The scriptPubKey."""
        return b"\x51\x20" + self._tweaked[0]

    @cached_property
    def leaves(self) -> tuple[Leaf, Leaf]:
        """Return what opens the first, and what opens the second."""
        first, second = self._hashes
        head = bytes((LEAF_VERSION | self._tweaked[1],)) + self.internal.data
        return Leaf(self.first, head + second), Leaf(self.second, head + first)

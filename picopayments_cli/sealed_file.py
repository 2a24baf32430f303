"""Writes and reads a file of sealed parts, for backups: each part opens with its owner's key, behind the one before it.

The first line is a JSON object in clear: ``format``, ``version``, ``network``, and ``owner``, by which its key is known
again. Then come the parts: the size of each in 4 bytes, and its sealed bytes, compressed before that. A part is bound
to that line, to its number, and to the tag of the part before it: none can be changed, left out or moved. A file that
ends between two parts is whole, and only older: a part may say that it is the last one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from picopayments_cli.encryption import OVERHEAD, seal, unseal
from picopayments_cli.errors import BackupDamaged, ForeignBackup, PicopaymentsError, StoreNewer
from picopayments_cli.files import newer, real

VERSION = 1
_TAG_SIZE = 16
_SIZE = 4  # bytes of a part's size
_LONGEST_LINE = 1000
_LEVEL = 1  # of zlib: a backup is waited for


@dataclass(frozen=True)
class Owner:
    """Who seals, on which network; ``secret`` is the private key of the wallet, or of the hub."""

    format: str
    network: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Owner({self.format}, {self.network})"

    @property
    def key(self) -> bytes:
        """The key that seals."""
        return self._derived(b"key")

    @property
    def line(self) -> bytes:
        """The first line of the owner's files."""
        mark = self._derived(b"owner")[:_TAG_SIZE].hex()
        head = {"format": self.format, "version": VERSION, "network": self.network, "owner": mark}
        return json.dumps(head).encode() + b"\n"

    def _derived(self, purpose: bytes) -> bytes:
        text = f"picopayments backup 1 {self.format} {self.network} ".encode() + purpose
        return hmac.digest(self.secret, text, "sha256")


@dataclass(frozen=True)
class Place:
    """Where a part goes: its number, the tag of what is before it, and how many bytes that is."""

    number: int
    tag: bytes
    size: int

    @staticmethod
    def first(owner: Owner) -> Place:
        """Where the first part of a new file goes."""
        return Place(0, hashlib.sha256(owner.line).digest()[:_TAG_SIZE], len(owner.line))

    @property
    def about(self) -> bytes:
        """Tell what the part at this place is bound to."""
        return self.number.to_bytes(8, "big") + self.tag

    def after(self, sealed: bytes) -> Place:
        """Where the next part goes."""
        return Place(self.number + 1, sealed[-_TAG_SIZE:], self.size + _SIZE + len(sealed))


def part(owner: Owner, place: Place, data: bytes) -> tuple[bytes, Place]:
    """Seal what goes to a place: its bytes in the file, and the next place."""
    sealed = seal(owner.key, zlib.compress(data, _LEVEL), place.about)
    return len(sealed).to_bytes(_SIZE, "big") + sealed, place.after(sealed)


def whole(owner: Owner, parts: Iterable[bytes]) -> tuple[bytes, Place]:
    """Write a file of few parts in memory, and tell where the next part goes."""
    place, written = Place.first(owner), [owner.line]
    for data in parts:
        sealed, place = part(owner, place, data)
        written.append(sealed)
    return b"".join(written), place


def add(path: Path, place: Place, sealed: bytes) -> None:
    """Put a sealed part at a place of a file that is there, on disk when this returns. Raises OSError.

    Where it fails, the file ends at that place: it is whole, and only older.
    """
    with os.fdopen(os.open(real(path), os.O_WRONLY), "wb", buffering=0) as file:
        file.truncate(place.size)
        file.seek(place.size)
        try:
            left = memoryview(sealed)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(place.size)
            raise


def parts(file: IO[bytes], path: Path, owner: Owner) -> Iterator[tuple[bytes, Place]]:
    """Read the parts of a file, each with the place behind it.

    Raises ForeignBackup, StoreNewer, and BackupDamaged at the first part that is not whole, or behind the last one
    where the first line is damaged; OSError.
    """
    wrong, place = _wrong_line(file, path, owner), Place.first(owner)
    if isinstance(wrong, StoreNewer):
        raise wrong
    while head := file.read(_SIZE):
        size = int.from_bytes(head, "big")
        sealed = file.read(size) if len(head) == _SIZE and size >= OVERHEAD else b""
        try:
            data = zlib.decompress(unseal(owner.key, sealed, place.about))
        except (ValueError, zlib.error):
            if wrong is not None and place.number == 0:
                raise wrong from None
            raise not_whole(path, f"it is damaged or cut off behind its first {place.size} bytes") from None
        place = place.after(sealed)
        yield data, place
    if wrong is not None:
        raise not_whole(path, "its first line is damaged") if place.number else wrong


def _wrong_line(file: IO[bytes], path: Path, owner: Owner) -> PicopaymentsError | None:
    """Read the first line; say what it is where it is not the owner's. It may be damaged alone."""
    if file.read(len(owner.line)) == owner.line:
        return None
    file.seek(0)
    error = _explained(path, file.readline(_LONGEST_LINE), owner)
    file.seek(len(owner.line))
    return error


def _explained(path: Path, line: bytes, owner: Owner) -> PicopaymentsError:
    """Say what a first line is that is not the owner's: BackupDamaged, StoreNewer or ForeignBackup."""
    told = _members(line)
    if told is None or told.get("format") != owner.format:
        return not_whole(path, f"its first line is not that of a {owner.format}")
    version = told.get("version")
    if type(version) is int and version > VERSION:
        return newer(path, version, VERSION)
    if told.get("network") != owner.network:
        return ForeignBackup(
            f"{path} is of {told.get('network')}, not of {owner.network}: name that network. Nothing was changed.",
            path=str(path),
            network=told.get("network"),
        )
    return ForeignBackup(
        f"{path} was not sealed with this key: name the file that was, or use the key that it is of. Nothing was "
        "changed.",
        path=str(path),
    )


def _members(line: bytes) -> Mapping[str, Any] | None:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def not_whole(path: Path, why: str) -> BackupDamaged:
    """Make the refusal of a file of which not all can be read."""
    return BackupDamaged(
        f"{path} can't be used as a whole: {why}. Take another copy of it, if there is one. Nothing was changed.",
        path=str(path),
    )

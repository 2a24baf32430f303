"""Keeps a backup by itself: each change is in it, on disk, before anything leaves that rests on the change.

A change costs what it is long, however old the connections are: it is added behind the others. Where the backup is not
at the state of the files, since it is new, or was away, or something was killed, it is written anew as a whole. So it
is at the end of a command once what was added is twice the rest. ``<network>.mirrored`` beside the files tells at which
state of them it is.

A backup that can't be written stops nothing: closing and punishing can't wait for a disk that is away, and a payment
is safe in the files themselves. Each command warns of it, and the next one tries again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picopayments_cli.channel.networks import Network
from picopayments_cli.client import kinds
from picopayments_cli.client.backup_file import (
    ADD,
    DROP,
    PUT,
    Change,
    belongs,
    encoded,
    files_in,
    names_in,
    owner_of,
    write,
)
from picopayments_cli.client.folder import Folder
from picopayments_cli.client.store import Store
from picopayments_cli.client.wallet import Wallet
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.files import replace_file, usable
from picopayments_cli.sealed_file import Place, add, part

log = logging.getLogger(__name__)
_LEAST = 1 << 22  # bytes that are added before a backup is written anew


@dataclass(frozen=True)
class _Mark:
    """How a backup stands: its file, where its next part goes, how long its first was, at which state of the files."""

    file: str
    place: Place
    base: int
    state: str

    @staticmethod
    def read(path: Path) -> _Mark | None:
        """Read a mark; None where there is none that can be used."""
        try:
            file, number, tag, size, base, state = kinds.items(json.loads(path.read_bytes()))
            place = Place(kinds.whole(number), bytes.fromhex(kinds.text(tag)), kinds.whole(size))
            return _Mark(kinds.text(file), place, kinds.whole(base), kinds.text(state))
        except (OSError, TypeError, ValueError, RecursionError):
            return None

    def text(self) -> bytes:
        """Write it as JSON."""
        place = self.place
        told = [self.file, place.number, place.tag.hex(), place.size, self.base, self.state]
        return json.dumps(told).encode() + b"\n"


class Mirror:
    """The backup of a folder, while that is locked. ``begin`` comes before each change, ``end`` at last."""

    def __init__(self, path: Path, basedir: Path, network: Network, wallet: Callable[[], Wallet | None]) -> None:
        """``wallet`` opens the wallet, which seals; None while there is none on disk."""
        self.path = path
        self._basedir = basedir
        self._network = network
        self._wallet = wallet
        self._mark_path = basedir / f"{network.name}.mirrored"
        self._at: tuple[Place, int] | None = None  # where the next part goes, and how long the first one was
        self._begun = self._failed = False
        self._due = False  # whether the files have, or may have, what the backup lacks
        self._waiting: list[Change] = []  # which the next document counts

    def begin(self) -> None:
        """See whether the backup is at the state of the files, before they change."""
        self._due = True
        if self._begun:
            return
        self._begun = True
        mark = _Mark.read(self._mark_path)
        if mark is not None and mark.file == str(self.path) and mark.state == self._state() and self._is_at(mark.place):
            self._at = mark.place, mark.base

    def _is_at(self, place: Place) -> bool:
        """Whether the backup ends at a place."""
        try:
            with self.path.open("rb") as file:
                return file.seek(-len(place.tag), os.SEEK_END) + len(place.tag) == place.size and (
                    file.read() == place.tag
                )
        except OSError:
            return False

    def _state(self) -> str:
        """Tell one state of the files from another, by what the system says of each: no file is read."""
        found = hashlib.sha256()
        with usable(self._basedir):
            for name in names_in(self._basedir, self._network):
                status = (self._basedir / name).stat()
                found.update(f"{name} {status.st_size} {status.st_mtime_ns} {status.st_ino}\n".encode())
        return found.hexdigest()

    def note(self, change: Change) -> None:
        """Take note of a change that the next document counts."""
        if belongs(change.name, self._network):
            self._waiting.append(change)

    def keep(self, change: Change) -> None:
        """Put a change, and those that were noted before it, into the backup. It never fails, but warns."""
        self.note(change)
        if self._failed:
            return
        try:
            wallet = self._wallet()
            if wallet is None:
                return
            if self._at is None:
                self._write_anew(wallet)
            else:
                self._add(wallet, *self._at)
            self._waiting.clear()
            self._due = False
        except (OSError, PicopaymentsError) as error:
            self._fail(error)

    def _add(self, wallet: Wallet, place: Place, base: int) -> None:
        sealed, after = part(owner_of(self._network, wallet), place, encoded(wallet.address, self._waiting))
        add(self.path, place, sealed)
        self._at = after, base

    def _write_anew(self, wallet: Wallet) -> None:
        place = write(self.path, self._network, wallet, files_in(self._basedir, self._network))
        self._at = place, place.size

    def _fail(self, error: OSError | PicopaymentsError) -> None:
        self._failed = True
        told = error.message if isinstance(error, PicopaymentsError) else str(error)
        log.warning(
            "The backup %s was NOT written, and lacks the changes of this command, which goes on. Make the file "
            "writable, or take the setting out: `picopayments-cli config backup ''`. %s",
            self.path,
            told,
        )

    def end(self) -> None:
        """Tell the next process where the backup stands, where it is at the state of the files."""
        if self._due or self._failed or self._at is None:
            return
        try:
            wallet = self._wallet() if self._at[0].size > 3 * self._at[1] + _LEAST else None
            if wallet is not None:
                self._write_anew(wallet)
            mark = _Mark(str(self.path), *self._at, self._state())
            replace_file(self._mark_path, mark.text(), flush=False)  # lost with the power, it costs one whole backup
        except (OSError, PicopaymentsError) as error:
            self._fail(error)


class MirroredFolder(Folder):
    """A folder whose changes are in a backup, too, when they return."""

    def __init__(self, path: Path, network: Network, lock_wait: float, mirror: Mirror, *, begins: bool = True) -> None:
        super().__init__(path, network, lock_wait, begins=begins)
        self._mirror = mirror

    def __exit__(self, *given: object) -> None:
        self._mirror.end()
        super().__exit__(*given)

    def write(self, path: Path, text: str, label: str, **how: Any) -> None:
        """Put a text in a file's place, and in the backup's newest state, too."""
        name = self._name(path)
        if not belongs(name, self.network):
            super().write(path, text, label, **how)
            return
        self._mirror.begin()
        super().write(path, text, label, **how)
        self._mirror.keep(Change(PUT, name, text.encode()))

    def append(self, path: Path, data: bytes, size: int | None) -> int:
        """Add lines to a file, and to the backup's newest state with the next document."""
        self._mirror.begin()
        begin = super().append(path, data, size)
        self._mirror.note(Change(ADD, self._name(path), data, begin))
        return begin

    def remove(self, path: Path, rows: Path) -> None:
        """Remove a connection's document and rows, from the backup's newest state, too."""
        self._mirror.begin()
        super().remove(path, rows)
        self._mirror.note(Change(DROP, self._name(rows)))
        self._mirror.keep(Change(DROP, self._name(path)))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()


class MirroredStore(Store):
    """A store in such a folder."""

    def __init__(
        self, basedir: Path, network: Network, lock_wait: float, mirror: Mirror, *, begins: bool = True
    ) -> None:
        super().__init__(basedir, network, disk=MirroredFolder(basedir, network, lock_wait, mirror, begins=begins))

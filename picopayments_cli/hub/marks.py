"""A mark outside the database for each connection on which nothing may go on: a restored database does not know it.

A mark is on disk before the hub's half of a commit leaves, or its signature of a close; the file is in no backup. The
database knows how much of the file it has seen, so that the next start reads the rest alone. An older database knows
less of it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, KeysView
from contextlib import contextmanager
from pathlib import Path

from picopayments_cli.channel.values import HANDLE_SIZE, Handle, from_hex
from picopayments_cli.errors import InvalidHex, StoreDamaged
from picopayments_cli.files import append_lines, check_private, usable

_LINE = 2 * HANDLE_SIZE + 1
_KEPT = 100_000  # of the newest marks, in memory


class Marks:
    """The file, which only grows: a handle in hex on each line."""

    def __init__(self, path: Path, seen: str | None = None) -> None:
        """Read what is behind the place that ``place`` told once. Raises StoreUnusable, StoreDamaged.

        A last line that was cut off is of a power failure before anything left: it is no mark, and is written over.
        """
        self.path = path
        with usable(path):
            check_private(path)
            self._size = self._whole()
            lines = _behind(path, seen) if path.exists() else []
        self._handles = dict.fromkeys(self._parsed(lines))

    @property
    def handles(self) -> KeysView[Handle]:
        """The marks that were read, and those made since: the newest of them where they are many."""
        return self._handles.keys()

    def refresh(self) -> None:
        """Read what other processes have marked since. Raises StoreUnusable, StoreDamaged."""
        with usable(self.path):
            size = self._whole()
            if size <= self._size:
                return
            with self.path.open("rb") as file:
                file.seek(self._size)
                lines = file.read(size - self._size).split(b"\n")[:-1]
        for handle in self._parsed(lines):
            self._keep(handle)
        self._size = size

    def _whole(self) -> int:
        """The bytes of the file's whole lines."""
        return self.path.stat().st_size // _LINE * _LINE if self.path.exists() else 0

    def _parsed(self, lines: Iterable[bytes]) -> list[Handle]:
        try:
            return [Handle(from_hex(line.decode("ascii"), "mark", HANDLE_SIZE)) for line in lines]
        except (InvalidHex, UnicodeDecodeError):
            raise StoreDamaged(
                f"{self.path} holds something else than handles. Put back the newest copy of it; nothing was changed.",
                path=str(self.path),
            ) from None

    def place(self) -> str | None:
        """Tell how far the file reaches, and its last mark, by which it is known again; None while there is none."""
        with usable(self.path):
            whole = self._whole()
            if not whole:
                return None
            with self.path.open("rb") as file:
                file.seek(whole - _LINE)
                return f"{whole} {file.read(_LINE - 1).decode('ascii', 'replace')}"

    def add(self, handle: Handle) -> None:
        """Put a mark on disk, once. Raises StoreUnusable."""
        if handle in self._handles:
            return
        with usable(self.path), _alone_in(self.path.parent):
            append_lines(self.path, f"{handle.hex()}\n".encode("ascii"))
        self._keep(handle)

    def _keep(self, handle: Handle) -> None:
        self._handles[handle] = None
        if len(self._handles) > _KEPT:
            del self._handles[next(iter(self._handles))]


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for other threads, and processes, that append: each drops a line that is not whole yet. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _behind(path: Path, seen: str | None) -> list[bytes]:
    """Read the lines behind a place, all of them where another mark stands there."""
    size, _, last = (seen or "").partition(" ")
    with path.open("rb") as file:
        if size.isdecimal() and int(size) >= _LINE:
            file.seek(int(size) - _LINE)
            if file.read(_LINE) == f"{last}\n".encode("ascii"):
                return file.read().split(b"\n")[:-1]
            file.seek(0)
        return file.read().split(b"\n")[:-1]

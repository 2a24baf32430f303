"""A mark outside the database for each connection on which nothing may go on: a restored database does not know it.

A mark is on disk before the hub's half of a commit leaves, or its signature of a close; the file is in no backup.
"""

from __future__ import annotations

from pathlib import Path

from picopayments_cli.channel.values import HANDLE_SIZE, Handle, from_hex
from picopayments_cli.errors import InvalidHex, StoreDamaged
from picopayments_cli.files import append_lines, check_private, usable


class Marks:
    """The file, which only grows: a handle in hex on each line."""

    def __init__(self, path: Path) -> None:
        """Read it. Raises StoreUnusable, StoreDamaged.

        A last line that was cut off is of a power failure before anything left: it is no mark, and is written over.
        """
        self.path = path
        with usable(path):
            check_private(path)
            lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        try:
            self.handles = {Handle(from_hex(line.decode("ascii"), "mark", HANDLE_SIZE)) for line in lines}
        except (InvalidHex, UnicodeDecodeError):
            raise StoreDamaged(
                f"{path} holds something else than handles. Put back the newest copy of it; nothing was changed.",
                path=str(path),
            ) from None

    def add(self, handle: Handle) -> None:
        """Put a mark on disk, once. Raises StoreUnusable."""
        if handle in self.handles:
            return
        with usable(self.path):
            append_lines(self.path, f"{handle.hex()}\n".encode("ascii"))
        self.handles.add(handle)

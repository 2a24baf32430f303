"""A mark outside the database for each connection on which nothing may go on: a restored database does not know it.

A mark is on disk before the hub's half of a commit leaves, or its signature of a close; the file is in no backup.
"""

from __future__ import annotations

import os
from pathlib import Path

from picopayments_cli.channel.values import Handle
from picopayments_cli.errors import StoreDamaged
from picopayments_cli.files import check_private, flush_folder


class Marks:
    """The file, which only grows: a handle in hex on each line."""

    def __init__(self, path: Path) -> None:
        """Read it. Raises StoreUnusable, StoreDamaged, OSError."""
        self.path = path
        check_private(path)
        lines = path.read_text("ascii").splitlines() if path.exists() else []
        try:
            self.handles = {Handle(bytes.fromhex(line)) for line in lines}
        except ValueError:
            raise StoreDamaged(
                f"{path} holds something else than handles. Put back the newest copy of it; nothing was changed.",
                path=str(path),
            ) from None

    def add(self, handle: Handle) -> None:
        """Put a mark on disk, once. Raises OSError."""
        if handle in self.handles:
            return
        fresh = not self.path.exists()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{handle.hex()}\n".encode("ascii"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if fresh:
            flush_folder(self.path.parent)
        self.handles.add(handle)

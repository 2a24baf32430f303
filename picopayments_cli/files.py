"""Files that are private and whole: what a write leaves behind is the old content or the new, on disk."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from picopayments_cli.errors import StoreUnusable


def check_private(path: Path) -> None:
    """Refuse a file or folder with secrets in it that other users may open. Raises StoreUnusable, OSError."""
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0
    if mode & 0o077:
        raise StoreUnusable(
            f"{path} holds secrets, and other users of this machine may open it. To make it private, run: "
            f"chmod go= {shlex.quote(str(path))}",
            path=str(path),
            mode=f"{mode:04o}",
        )


def replace_file(path: Path, data: bytes) -> None:
    """Put the data in the file's place, all or nothing, for its owner only, and wait until it is on disk.

    Raises OSError; then the file is as it was.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)  # left by a process that was killed
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Wait until a folder's names are on disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files that are private and whole: what a write leaves behind is the old content or the new, on disk."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import IO

from picopayments_cli.errors import StoreUnusable

_CHUNK = 4096


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


def replace_file(path: Path, data: bytes, *, flush: bool = True) -> None:
    """Put the data in the file's place, all or nothing, for its owner only, and wait until it is on disk.

    ``flush`` false: do not wait, which is for what may be lost with the power. Raises OSError; then the file is as it
    was.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)  # left by a process that was killed
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if flush:
        flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Wait until a folder's names are on disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_lines(path: Path, data: bytes, size: int | None = None) -> None:
    """Add lines to a file, and wait until they are on disk. Raises OSError.

    What stands behind its first ``size`` bytes is dropped, without a size a last line that was cut off.
    """
    is_new = not path.exists()
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        file.truncate(_end_of_lines(file) if size is None else size)
        file.seek(0, os.SEEK_END)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        flush_folder(path.parent)


def _end_of_lines(file: IO[bytes]) -> int:
    """Find where the last whole line of a file ends."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(end - _CHUNK, 0)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0

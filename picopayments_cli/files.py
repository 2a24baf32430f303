"""Files that are private and whole: what a write leaves behind is the old content or the new, on disk.

A link is followed, and stays: what it leads to is read, and written.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from picopayments_cli.errors import StoreDamaged, StoreNewer, StoreUnusable

_CHUNK = 4096
_ADVICE = "Put a copy in its place that is as new, or restore your backup into a new --basedir."


def damaged(path: Path, why: str, advice: str = _ADVICE) -> StoreDamaged:
    """Make the refusal of a file that is not what it should be."""
    return StoreDamaged(f"{path} can't be used: {why}; nothing was changed. {advice}", path=str(path), why=why)


def newer(path: Path, version: int, supported: int) -> StoreNewer:
    """Make the refusal of a file that a newer program has written."""
    return StoreNewer(
        f"{path} was written by a newer version of this program. Install that version; nothing was changed.",
        path=str(path),
        version=version,
        supported=supported,
    )


def check_own(path: Path) -> None:
    """Refuse a file or folder that belongs to another user, root aside, or that others may write.

    Raises StoreUnusable, OSError.
    """
    status = _status(path)
    if status is not None:
        _check_own(path, status)


def check_private(path: Path) -> None:
    """Refuse a file or folder with secrets in it that other users may open, or that is theirs.

    Raises StoreUnusable, OSError.
    """
    status = _status(path)
    if status is None:
        return
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise StoreUnusable(
            f"{path} holds secrets, and other users of this machine may open it. To make it private, run: "
            f"chmod go= {shlex.quote(str(path))}",
            path=str(path),
            mode=f"{mode:04o}",
        )
    _check_own(path, status)


def _status(path: Path) -> os.stat_result | None:
    """Look at a file once; None where there is none. Raises OSError."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_own(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise StoreUnusable(
            f"{path} belongs to another user of this machine, who may change it. Run the command as that user, or name "
            "another --basedir.",
            path=str(path),
            owner=status.st_uid,
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o022:
        raise StoreUnusable(
            f"Other users of this machine may write to {path}. To keep them from it, run: "
            f"chmod go-w {shlex.quote(str(path))}",
            path=str(path),
            mode=f"{mode:04o}",
        )


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """Raise StoreUnusable in place of the system's own errors."""
    try:
        yield
    except OSError as error:
        raise StoreUnusable(
            f"{error.filename or path} can't be used: {error.strerror or error}. Mend that (permissions, free space, "
            "the right --basedir) and run the command again.",
            path=str(path),
        ) from error


def real(path: Path) -> Path:
    """Return where a path leads, whatever links are on the way."""
    return Path(os.path.realpath(path))


def read_text(path: Path) -> str | None:
    """Read a file of text; None where there is none. Raises StoreDamaged, StoreUnusable."""
    with usable(path):
        try:
            return path.read_bytes().decode()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            raise damaged(path, "it is not text") from None


def remove_file(path: Path) -> None:
    """Remove a file, and a link that leads to it. Raises OSError."""
    real(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def replace_file(
    path: Path, data: bytes, *, flush: bool = True, check: Callable[[bytes], object] | None = None
) -> None:
    """Put the data in the file's place, all or nothing, for its owner only, and wait until it is on disk.

    ``flush`` false: do not wait, which is for what may be lost with the power. ``check`` is given what was written,
    while the old file is still there. Raises OSError, and what ``check`` raises; then the file is as it was.
    """
    path = real(path)
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)  # left by a process that was killed
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        if check is not None:
            check(temporary.read_bytes())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name(error, path)
        raise
    if flush:
        flush_folder(path.parent)


def _name(error: BaseException, path: Path) -> None:
    """Say which file an error of the system is about, which that of a full disk does not."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(path)


def flush_folder(folder: Path) -> None:
    """Wait until a folder's names are on disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_lines(path: Path, data: bytes, size: int | None = None) -> int:
    """Add lines to a file, wait until they are on disk, and return at which byte they begin. Raises OSError.

    All behind its first ``size`` bytes is dropped; without a size, a last line that was cut off.
    """
    path = real(path)
    is_new = not path.exists()
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            begin = file.truncate(_end_of_lines(file) if size is None else size)
            file.seek(0, os.SEEK_END)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        _name(error, path)
        raise
    if is_new:
        flush_folder(path.parent)
    return begin


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

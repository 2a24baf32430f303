"""Lock a wallet's folder for one process at a time, and write its files, private and whole, while the lock is held.

Where nothing can be written, as on a read-only file system, a command that only reads goes on. It shares the lock then,
so that who may write waits for it, and it waits for that one. Without the lock's file it takes none: nobody has written
there since, and who begins now puts each file in its place as a whole.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from picopayments_cli.channel.networks import Network
from picopayments_cli.errors import LocalFiles, StoreLocked, StoreUnusable
from picopayments_cli.files import append_lines, check_own, flush_folder, remove_file, replace_file, usable

LOCK_WAIT = 60.0
_POLL = 0.05  # seconds between two tries to share the lock
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_log = logging.getLogger(__name__)


class Folder:
    """The folder of one network's files; everything but its making happens inside ``with folder:``.

    ``begins``: whether a folder that is not there is made. Raises StoreLocked where another process holds the lock
    for longer than ``lock_wait`` seconds, and StoreUnusable where the folder is another user's, or can't be read.
    """

    def __init__(self, path: Path, network: Network, lock_wait: float = LOCK_WAIT, *, begins: bool = True) -> None:
        self.path = path
        self.network = network
        self._lock_wait = lock_wait
        self._begins = begins
        self._lock_path = path / f"{network.name}.lock"
        self._lock = FileLock(self._lock_path, mode=0o600, fallback_to_soft=False)
        self._shared: int | None = None  # the lock's file, open to be read, where it can't be written
        self._locked: tuple[int, int] | None = None  # which file the lock was, when it was taken
        self._not_writable: str | None = None  # why nothing can be written

    def __enter__(self) -> Folder:
        with usable(self.path):
            if self._begins:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif not self.path.is_dir():
                raise _moved(self.path)
            check_own(self.path)
            found = _identity(self.path)
        _log.debug("wait for the lock of %s", self.path)
        self._acquire()
        try:
            with usable(self._lock_path):
                self._locked = _identity(self._lock_path)
            with usable(self.path):
                if _identity(self.path) != found:  # another folder stands there, which the lock may have made
                    raise _moved(self.path)
        except BaseException:
            self.give_up()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self._shared is not None:
            os.close(self._shared)
            self._shared = None

    def give_up(self) -> None:
        """Give the lock back, as nothing was done, and leave no folder that was made only for it."""
        self.__exit__()
        if not self._begins:
            _unmake(self.path, self._lock_path)

    @property
    def is_writable(self) -> bool:
        """Whether anything can be written here, as far as was seen when the lock was taken."""
        return self._not_writable is None

    # The lock --------------------------------------------------------------------------------------------------------

    def _acquire(self) -> None:
        self._not_writable = None
        try:
            self._lock.acquire(timeout=self._lock_wait)
        except Timeout:
            raise self._busy() from None
        except OSError as error:
            with usable(self._lock_path):
                self._share(error)
        if self._not_writable is None and not os.access(self.path, os.W_OK):
            self._not_writable = os.strerror(errno.EACCES)
        if self._not_writable is not None:
            _log.warning(
                "%s can't be written (%s): what is seen now is not remembered, and commands that change anything are "
                "refused.",
                self.path,
                self._not_writable,
            )

    def _share(self, error: OSError) -> None:
        """Share the lock with who else only reads, where it can't be made or written. Raises OSError, StoreLocked."""
        if error.errno not in _NOT_WRITABLE or (not self._lock_path.exists() and os.access(self.path, os.W_OK)):
            raise error
        self._not_writable = error.strerror
        with suppress(FileNotFoundError):
            self._shared = os.open(self._lock_path, os.O_RDONLY)
        end = time.monotonic() + self._lock_wait
        while self._shared is not None:
            try:
                fcntl.flock(self._shared, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= end:
                    os.close(self._shared)
                    self._shared = None
                    raise self._busy() from None
                time.sleep(_POLL)

    def _busy(self) -> StoreLocked:
        return StoreLocked(
            f"Another process has been using {self.path} for {self._lock_wait:g} seconds. Wait until it is "
            "done, or stop it, and run the command again.",
            basedir=str(self.path),
            seconds=self._lock_wait,
        )

    def check(self) -> None:
        """Refuse to write without the lock. Raises RuntimeError.

        StoreUnusable where nothing can be written, or where the lock's file was removed meanwhile.
        """
        if self._not_writable is not None:
            raise StoreUnusable(
                f"{self.path} can't be written: {self._not_writable}. Commands that only read work there. For this one "
                "mount the file system so that it can be written, or give yourself the right to write to the folder, "
                "or name another --basedir.",
                path=str(self.path),
            )
        if not self._lock.is_locked:
            raise RuntimeError("a file is written inside `with` only")
        with usable(self._lock_path):
            found = _identity(self._lock_path)
        if found is None or found != self._locked:
            raise StoreUnusable(
                f"{self._lock_path} was taken away while it was in use, and another process may write here now: "
                "nothing more was written. See that all files are there, and run the command again.",
                path=str(self._lock_path),
            )

    # The files -------------------------------------------------------------------------------------------------------

    def write(
        self, path: Path, text: str, label: str, *, flush: bool = True, check: Callable[[bytes], object] | None = None
    ) -> None:
        """Put a text in a file's place as ``replace_file`` does. ``label``: the occasion. Raises StoreUnusable."""
        with self._changing(path):
            _log.debug("write %s: %s", path.name, label)
            _make_folder(path)
            replace_file(path, text.encode(), flush=flush, check=check)

    def remember(self, path: Path, text: str, label: str, *, flush: bool = True) -> None:
        """Write what can be done without: a full disk costs no command its result."""
        if not self.is_writable:  # of which one line tells
            return
        try:
            self.write(path, text, label, flush=flush)
        except LocalFiles as error:
            _log.warning("The %s was not written down: %s", label, error.message)

    def append(self, path: Path, data: bytes, size: int | None) -> int:
        """Add lines to a file, as ``append_lines`` does; at which byte they begin. Raises StoreUnusable."""
        with self._changing(path):
            _make_folder(path)
            return append_lines(path, data, size)

    def remove(self, path: Path, rows: Path) -> None:
        """Remove a connection's document, then its rows, if they are there. Raises StoreUnusable."""
        with self._changing(path):
            if path.exists():
                remove_file(path)
                flush_folder(path.parent)
            remove_file(rows)

    @contextmanager
    def _changing(self, path: Path) -> Iterator[None]:
        self.check()
        with usable(path):
            yield


def _make_folder(path: Path) -> None:
    """Make the folder that a file stands in. Raises OSError."""
    if not path.parent.exists():
        path.parent.mkdir(mode=0o700)
        flush_folder(path.parent.parent)


def _identity(path: Path) -> tuple[int, int] | None:
    """Tell which file or folder stands there, whatever its name; None if there is none. Raises OSError."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _unmake(basedir: Path, lock: Path) -> None:
    """Take away a folder in which there is nothing but a lock: taking that made both in the place of one that moved."""
    with suppress(OSError):
        if os.listdir(basedir) == [lock.name]:
            lock.unlink()
            basedir.rmdir()


def _moved(basedir: Path) -> StoreUnusable:
    return StoreUnusable(
        f"{basedir} was taken away while it was in use. Nothing was done: put it back, and run the command again.",
        path=str(basedir),
    )

"""The client's own files: the wallet's key and one JSON document per connection, private, whole, one writer at a time.

In the basedir stand ``<network>.wif``, ``<network>.connections/<handle>.json``, ``<network>.hubs`` (the hubs' public
keys) and ``<network>.lock``. Nothing is written before the first save, except the lock's file and the folder it stands
in.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from picopayments_cli.channel.errors import StoreDamaged, StoreLocked, StoreNewer, StoreUnusable, UnknownHandle
from picopayments_cli.channel.networks import Network
from picopayments_cli.channel.values import HANDLE_SIZE, Handle

FORMAT = "picopayments-connection"
VERSION = 1
LOCK_WAIT = 60.0
_HEADER = frozenset(("format", "version", "network"))
_HEX = frozenset("0123456789abcdef")
_log = logging.getLogger(__name__)


class Store:
    """The files of one network in one folder; everything but its making happens inside ``with store:``.

    Raises StoreLocked where another process holds the lock for longer than ``lock_wait`` seconds, and StoreUnusable
    where a file can't be read or written, or can be read by others.
    """

    def __init__(self, basedir: Path, network: Network, lock_wait: float = LOCK_WAIT) -> None:
        self.basedir = basedir
        self.network = network
        self.wif_path = basedir / f"{network.name}.wif"
        self.folder = basedir / f"{network.name}.connections"
        self.hubs_path = basedir / f"{network.name}.hubs"
        self._lock_wait = lock_wait
        self._lock = FileLock(basedir / f"{network.name}.lock", mode=0o600, fallback_to_soft=False)
        self._seen: set[Handle] = set()  # files known to be ours, since the lock was taken

    def __enter__(self) -> Store:
        with _usable(self.basedir):
            self.basedir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _log.debug("wait for the lock of %s", self.basedir)
        try:
            with _usable(Path(self._lock.lock_file)):
                self._lock.acquire(timeout=self._lock_wait)
        except Timeout:
            raise StoreLocked(
                f"Another process has been using {self.basedir} for {self._lock_wait:g} seconds. Wait until it is "
                "done, or stop it, and run the command again.",
                basedir=str(self.basedir),
                seconds=self._lock_wait,
            ) from None
        try:
            self._check_modes()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._seen.clear()
        self._lock.release()

    def _check_modes(self) -> None:
        for path in (self.wif_path, self.folder, *self._files()):
            with _usable(path):
                mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0
            if mode & 0o077:
                raise StoreUnusable(
                    f"{path} holds secrets, and other users of this machine may open it. To make it private, run: "
                    f"chmod go= {shlex.quote(str(path))}",
                    path=str(path),
                    mode=f"{mode:04o}",
                )

    # The wallet's key ----------------------------------------------------------------------------------------------

    def load_wif(self) -> str | None:
        """The wallet's key as WIF text, or None where there is none yet. Raises StoreDamaged."""
        text = _read(self.wif_path)
        if text is not None and not text.strip():
            raise damaged(self.wif_path, "it is empty")
        return text.strip() if text is not None else None

    def save_wif(self, wif: str) -> None:
        """Keep a new wallet's key. Raises StoreUnusable where there is one already."""
        if self.wif_path.exists():
            raise StoreUnusable(f"{self.wif_path} holds a key already. Nothing was changed.", path=str(self.wif_path))
        self._write(self.wif_path, wif + "\n", "new wallet")

    # Connections ---------------------------------------------------------------------------------------------------

    def handles(self) -> list[Handle]:
        """The handles of all connections, in order."""
        return [Handle(bytes.fromhex(path.stem)) for path in self._files()]

    def load(self, handle: Handle) -> dict[str, Any]:
        """The document of a connection. Raises UnknownHandle, StoreDamaged, StoreNewer."""
        path = self._path(handle)
        text = _read(path)
        if text is None:
            raise UnknownHandle(
                f"There is no connection {handle.hex()} on {self.network.name} in {self.basedir}; "
                "`picopayments-cli status` lists those that there are.",
                handle=handle.hex(),
            )
        document = self._parse(path, text)
        self._seen.add(handle)
        return document

    def load_all(self) -> dict[Handle, dict[str, Any]]:
        """The documents of all connections, in the order of their handles. Raises StoreDamaged, StoreNewer."""
        return {handle: self.load(handle) for handle in self.handles()}

    def save(self, handle: Handle, document: dict[str, Any], label: str) -> None:
        """Keep a connection's document, on disk when this returns. The one door of every durable change to it.

        ``label`` names the occasion, for the log and for tests that stand at this door. The members ``format``,
        ``version`` and ``network`` are the store's own. A file that is damaged or newer is not overwritten. Raises
        StoreUnusable, StoreDamaged, StoreNewer.
        """
        if not _HEADER.isdisjoint(document):
            raise ValueError(f"a document has no members named {', '.join(sorted(_HEADER))}")
        path = self._path(handle)
        if handle not in self._seen and path.exists():
            self.load(handle)
        header = {"format": FORMAT, "version": VERSION, "network": self.network.name}
        self._write(path, json.dumps({**header, **document}, allow_nan=False, separators=(",", ":")) + "\n", label)
        self._seen.add(handle)

    def remove(self, handle: Handle) -> None:
        """Take a connection's document away; it need not be there. Raises StoreUnusable."""
        path = self._path(handle)
        with _usable(path):
            path.unlink(missing_ok=True)
        self._seen.discard(handle)

    # Hubs ----------------------------------------------------------------------------------------------------------

    def hub_keys(self) -> dict[str, str]:
        """The public key (hex) that each hub's URL is bound to. Raises StoreDamaged."""
        text = _read(self.hubs_path)
        try:
            keys = json.loads(text) if text is not None else {}
        except ValueError:
            raise damaged(self.hubs_path, "it is not JSON") from None
        if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
            raise damaged(self.hubs_path, "it does not map URLs to keys")
        return keys

    def save_hub_key(self, url: str, key: str) -> None:
        """Bind a hub's URL to its public key (hex). Raises StoreUnusable, StoreDamaged."""
        self._write(self.hubs_path, json.dumps({**self.hub_keys(), url: key}, indent=2) + "\n", "hub key")

    def _path(self, handle: Handle) -> Path:
        return self.folder / f"{handle.hex()}.json"

    def _files(self) -> list[Path]:
        with _usable(self.folder):
            names = sorted(os.listdir(self.folder)) if self.folder.exists() else []
        return [self.folder / name for name in names if _is_connection(name)]

    def _parse(self, path: Path, text: str) -> dict[str, Any]:
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise damaged(path, "it is not JSON") from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise damaged(path, "it is not the document of a connection")
        version = document.get("version")
        if not isinstance(version, int) or version < 1:
            raise damaged(path, "it has no version")
        if version > VERSION:
            raise StoreNewer(
                f"{path} was written by a newer version of this program. Install that version again; nothing was "
                "changed.",
                path=str(path),
                version=version,
                supported=VERSION,
            )
        if document.get("network") != self.network.name:
            raise damaged(path, f"it belongs to another network than {self.network.name}")
        return {name: value for name, value in document.items() if name not in _HEADER}

    def _write(self, path: Path, text: str, label: str) -> None:
        if not self._lock.is_locked:
            raise RuntimeError("the store is written inside `with store:` only")
        _log.debug("write %s: %s", path.name, label)
        with _usable(path):
            if not path.parent.exists():
                path.parent.mkdir(mode=0o700)
                _flush_folder(path.parent.parent)
            _replace(path, text.encode())


def damaged(path: Path, why: str) -> StoreDamaged:
    """The refusal of a file that is not what it should be."""
    return StoreDamaged(
        f"{path} can't be used: {why}. Restore it from your backup; nothing was changed.", path=str(path)
    )


def _is_connection(name: str) -> bool:
    stem, dot, extension = name.partition(".")
    return extension == "json" and bool(dot) and len(stem) == 2 * HANDLE_SIZE and _HEX.issuperset(stem)


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Raises StoreUnusable in place of the system's own errors."""
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        raise StoreUnusable(
            f"{error.filename or path} can't be used: {error.strerror or error}. Mend that (permissions, free space, "
            "the right --basedir) and run the command again.",
            path=str(path),
        ) from error


def _read(path: Path) -> str | None:
    with _usable(path):
        try:
            return path.read_bytes().decode()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            raise damaged(path, "it is not text") from None


def _replace(path: Path, data: bytes) -> None:
    """Put the data in the file's place, all or nothing, and wait until it is on disk."""
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
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The hub's own files beside its database: the lock, the key and the terms, in a folder that is private."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import Network, secret_of_wif, wif_of_secret
from picopayments_cli.channel.values import SECRET_SIZE
from picopayments_cli.errors import DatabaseOutdated, InvalidKey, RestoreUnfinished, StoreDamaged, StoreLocked
from picopayments_cli.files import check_own, check_private, flush_folder, remove_file, replace_file, usable
from picopayments_cli.hub.terms import Offer, default_text, read_offer

log = logging.getLogger(__name__)
TOKEN_SIZE = 32


class Folder:
    """The files of one hub: ``hub.<network>.wif``, and so ``terms.json``, ``witness.json``, ``marks``, and more."""

    def __init__(self, basedir: Path, network: Network) -> None:
        self.basedir = basedir
        self.network = network
        self.wif_path = basedir / f"hub.{network.name}.wif"
        self.terms_path = basedir / f"hub.{network.name}.terms.json"
        self.witness_path = basedir / f"hub.{network.name}.witness.json"
        self.marks_path = basedir / f"hub.{network.name}.marks"
        self.restoring_path = basedir / f"hub.{network.name}.restoring"  # there while a backup is put in place
        self.token_path = basedir / f"hub.{network.name}.metrics.token"
        self.socket_path = basedir / f"hub.{network.name}.sock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other hubs out; the lock ends with the process. Raises StoreLocked, StoreUnusable."""
        with usable(self.basedir):
            self.basedir.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_own(self.basedir)
            lock = FileLock(self.basedir / f"hub.{self.network.name}.lock", mode=0o600, fallback_to_soft=False)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise StoreLocked(
                    f"A hub of {self.network.name} runs already on {self.basedir}: stop it, or name another --basedir.",
                    basedir=str(self.basedir),
                ) from error
        try:
            yield
        finally:
            lock.release()

    def token(self) -> str:
        """Read the token that opens the figures. Where there is none, make it. Raises StoreDamaged, StoreUnusable."""
        path = self.token_path
        with usable(path):
            if not path.exists():
                replace_file(path, secrets.token_hex(TOKEN_SIZE).encode())
            check_private(path)
            token = path.read_text("ascii", "replace").strip()
        if len(token) < TOKEN_SIZE:
            raise StoreDamaged(
                f"{path} holds no token of {TOKEN_SIZE} characters or more: remove it, and the hub makes one.",
                path=str(path),
            )
        return token

    def key(self) -> Key:
        """Read the hub's key. Where there never was one, make it: it is on disk before its first use.

        Raises StoreDamaged, StoreUnusable.
        """
        with usable(self.wif_path):
            if not self.wif_path.exists():
                if self.witness_path.exists():
                    raise StoreDamaged(
                        f"{self.wif_path} is missing, and {self.witness_path} shows that there was one. Restore it "
                        "from your backup: another key can't have back what this hub has deposited.",
                        path=str(self.wif_path),
                    )
                wif = wif_of_secret(self.network, secrets.token_bytes(SECRET_SIZE))
                replace_file(self.wif_path, f"{wif}\n".encode("ascii"))
            check_private(self.wif_path)
            try:
                return Key(secret_of_wif(self.network, self.wif_path.read_text("ascii")))
            except (InvalidKey, UnicodeDecodeError):
                # without its cause, which may quote the file
                raise StoreDamaged(
                    f"{self.wif_path} holds no private key of {self.network.name} (WIF, compressed). Restore it from "
                    "your backup; nothing was changed.",
                    path=str(self.wif_path),
                ) from None

    def check_database(self, path: Path) -> None:
        """Refuse to begin anew where there was a database. Raises DatabaseOutdated."""
        if self.witness_path.exists() and not path.exists():
            raise DatabaseOutdated(
                f"{path} is missing, and {self.witness_path} shows that there was a database. Put the newest one in "
                "place. If it is a backup, or if there is none, start once with --restored.",
                path=str(path),
            )

    def check_restored(self, database: Path | None) -> None:
        """Refuse to serve where a restore was cut off. ``database``: SQLite's file. Raises RestoreUnfinished."""
        parts = [] if database is None else [database.with_name(f"{database.name}.restoring")]
        with usable(self.basedir):
            left = [path for path in (self.restoring_path, *parts) if path.exists()]
        if left:
            raise RestoreUnfinished(
                f"A backup was not restored to the end in {self.basedir}, as {left[0]} shows, and a hub that starts "
                "there would know nobody. Run `picopayments-hub restore FILE` again, with the same --basedir and "
                "--database: it goes on. Nothing was done.",
                path=str(left[0]),
            )

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Have no hub start here until the block is left; where it fails as a whole, all is as it was before.

        Raises StoreUnusable.
        """
        with usable(self.restoring_path):
            is_again = self.restoring_path.exists()
            replace_file(self.restoring_path, b"")
        try:
            yield
        except BaseException:
            if not is_again:
                self._restored()
            raise
        self._restored()

    def _restored(self) -> None:
        with usable(self.restoring_path):
            remove_file(self.restoring_path)
            flush_folder(self.basedir)

    def offer(self) -> Offer:
        """Read what the terms file offers; write a new hub's file first. Raises InvalidSetting, StoreUnusable."""
        with usable(self.terms_path):
            is_new = not self.terms_path.exists()
            check_own(self.terms_path)
        if is_new:
            with usable(self.terms_path):
                replace_file(self.terms_path, default_text(self.network).encode("ascii"))
            log.info("wrote the default terms", extra={"fields": {"path": str(self.terms_path)}})
        return read_offer(self.terms_path, self.network)

"""Marks a folder into which a backup is restored: none but that uses it before it is done, then its hub is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from picopayments_cli.channel.networks import Network
from picopayments_cli.errors import RestoreUnfinished
from picopayments_cli.files import flush_folder, remove_file, replace_file, usable


def is_unfinished(basedir: Path, network: Network) -> bool:
    """Tell whether a restore was begun here, and not ended."""
    with usable(basedir):
        return _mark(basedir, network).exists()


def check_restored(basedir: Path, network: Network) -> None:
    """Refuse a folder that has a part of a backup only. Raises RestoreUnfinished."""
    if is_unfinished(basedir, network):
        raise RestoreUnfinished(
            f"A backup was not restored to the end in {basedir}, and some connections may be missing here. Run "
            "`picopayments-cli restore FILE` again: it begins anew. Nothing was done.",
            basedir=str(basedir),
        )


@contextmanager
def marked(basedir: Path, network: Network) -> Iterator[None]:
    """Have a folder refused until the block is left without an error. Raises StoreUnusable."""
    mark = _mark(basedir, network)
    with usable(mark):
        replace_file(mark, b"")
    yield
    with usable(mark):
        remove_file(mark)
        flush_folder(basedir)


def is_to_ask(basedir: Path, network: Network) -> bool:
    """Tell whether the hub was not asked yet, since a backup was restored here, for what is newer."""
    with usable(basedir):
        return _to_ask(basedir, network).exists()


def have_asked(basedir: Path, network: Network) -> None:
    """Have the hub asked with the next commands, until ``was_asked``. Raises StoreUnusable."""
    with usable(basedir):
        replace_file(_to_ask(basedir, network), b"")


def was_asked(basedir: Path, network: Network) -> None:
    """Note that the hub was asked, and that all that it gave back is on disk. Raises StoreUnusable."""
    with usable(basedir):
        remove_file(_to_ask(basedir, network))


def _to_ask(basedir: Path, network: Network) -> Path:
    return basedir / f"{network.name}.restored"


def _mark(basedir: Path, network: Network) -> Path:
    return basedir / f"{network.name}.restoring"

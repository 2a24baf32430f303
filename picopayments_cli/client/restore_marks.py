"""Marks a folder into which a backup is restored: none but that uses it before it is done, then its hubs are asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from picopayments_cli.channel.networks import Network
from picopayments_cli.client import kinds
from picopayments_cli.errors import RestoreUnfinished
from picopayments_cli.files import flush_folder, read_text, remove_file, replace_file, usable


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


def answered(basedir: Path, network: Network) -> frozenset[str] | None:
    """Read which hubs (keys in hex) have given back all that they have; None where no hub is to be asked.

    Raises StoreUnusable.
    """
    text = read_text(_to_ask(basedir, network))
    if text is None:
        return None
    with suppress(TypeError, ValueError, RecursionError):
        return frozenset(map(kinds.text, kinds.items(json.loads(text))))
    return frozenset()


def is_to_ask(basedir: Path, network: Network) -> bool:
    """Tell whether a hub may have what is missing here, or newer: a backup was restored, or a deposit had no block."""
    return answered(basedir, network) is not None


def have_asked(basedir: Path, network: Network, but: Iterable[str] = ()) -> None:
    """Have the hubs asked with the next commands, but those that have answered, until ``was_asked``.

    Raises StoreUnusable.
    """
    with usable(basedir):
        replace_file(_to_ask(basedir, network), json.dumps(sorted(but)).encode() + b"\n")


def was_asked(basedir: Path, network: Network) -> None:
    """Note that the hubs were asked, and that all that they gave back is on disk. Raises StoreUnusable."""
    with usable(basedir):
        remove_file(_to_ask(basedir, network))


def _to_ask(basedir: Path, network: Network) -> Path:
    return basedir / f"{network.name}.restored"


def _mark(basedir: Path, network: Network) -> Path:
    return basedir / f"{network.name}.restoring"

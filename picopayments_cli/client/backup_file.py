"""Writes and reads what a backup of a client holds: its files, and after them, part by part, what changed in them.

A part is a line of JSON, with ``time``, ``address`` and ``changes``, and behind it the bytes of these, one after the
other. A change is ``[kind, name, place, size]``: a file's new content (``put``), lines added at a place (``add``), or a
file that was removed (``drop``). The first part puts every file. The wallet's key is in none of them: it opens them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from picopayments_cli.channel.networks import Network
from picopayments_cli.channel.stages import ASKED, PROPOSED
from picopayments_cli.client import kinds
from picopayments_cli.client.wallet import Wallet
from picopayments_cli.errors import BackupDamaged, BackupNewer
from picopayments_cli.files import check_own, replace_file, usable
from picopayments_cli.sealed_file import Owner, Place, not_whole, parts, whole

FORMAT = "picopayments-backup"
PUT, ADD, DROP = "put", "add", "drop"
_FILES = ("cfg", "hubs", "history.jsonl", "payments.jsonl", "reported", "sent", "webhook.secret")
_LIVE, _ARCHIVE = "connections", "archive"
_IN_FOLDER = re.compile(r"[0-9a-f]{64}\.(json|commits\.jsonl)")

Files = Mapping[str, bytes]  # by their names, which are paths in the basedir


@dataclass(frozen=True)
class Change:
    """One change of one file; ``place``: at which byte the data was added."""

    kind: str
    name: str
    data: bytes = field(default=b"", repr=False)
    place: int = 0


@dataclass(frozen=True)
class Content:
    """The files of a backup, the wallet's address, and when they were so. ``place``: where its next part goes.

    ``broken``: why parts behind these could not be read; None where there are none.
    """

    files: Files = field(repr=False)
    address: str
    time: str
    place: Place
    broken: BackupDamaged | None = None


def owner_of(network: Network, wallet: Wallet) -> Owner:
    """Tell who seals the backups of a wallet."""
    return Owner(FORMAT, network.name, wallet.key.secret)


def now() -> str:
    """Write this moment, in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# Files --------------------------------------------------------------------------------------------------------------


def names_in(basedir: Path, network: Network) -> list[str]:
    """List the files of a network that go into a backup, in order. Raises OSError."""
    found = [name for name in (f"{network.name}.{end}" for end in _FILES) if (basedir / name).is_file()]
    for folder in (f"{network.name}.{end}" for end in (_LIVE, _ARCHIVE)):
        listed = os.listdir(basedir / folder) if (basedir / folder).exists() else []
        found += [f"{folder}/{name}" for name in listed if _IN_FOLDER.fullmatch(name)]
    return sorted(found)


def belongs(name: str, network: Network) -> bool:
    """Tell whether a file of this name goes into a backup."""
    folder, slash, rest = name.partition("/")
    if slash:
        return folder in (f"{network.name}.{_LIVE}", f"{network.name}.{_ARCHIVE}") and bool(_IN_FOLDER.fullmatch(rest))
    return name in {f"{network.name}.{end}" for end in _FILES}


def files_in(basedir: Path, network: Network) -> Files:
    """Read the files of a network that go into a backup. Raises StoreUnusable."""
    with usable(basedir):
        return {name: (basedir / name).read_bytes() for name in names_in(basedir, network)}


def documents(files: Files, network: Network, *, archived: bool) -> dict[str, bytes]:
    """Return the documents of connections by their handles, those in the archive or the others."""
    folder, end = f"{network.name}.{_ARCHIVE if archived else _LIVE}/", ".json"
    named = {name: data for name, data in files.items() if name.startswith(folder) and name.endswith(end)}
    return {name.removeprefix(folder).removesuffix(end): data for name, data in named.items()}


def rows_of(files: Files, network: Network, handle: str, *, archived: bool) -> bytes:
    """Return what stands in the file of a connection's rows; nothing where there is none."""
    return files.get(f"{network.name}.{_ARCHIVE if archived else _LIVE}/{handle}.commits.jsonl", b"")


# Parts --------------------------------------------------------------------------------------------------------------


def encoded(address: str, changes: Iterable[Change]) -> bytes:
    """Write a part."""
    listed = list(changes)
    told = [[item.kind, item.name, item.place, len(item.data)] for item in listed]
    head = json.dumps({"time": now(), "address": address, "changes": told}, separators=(",", ":"))
    return b"".join((head.encode(), b"\n", *(item.data for item in listed)))


def decoded(data: bytes) -> tuple[str, str, list[Change]]:
    """Read a part: the time, the address and the changes. Raises ValueError, TypeError, KeyError."""
    line, _, rest = data.partition(b"\n")
    head, changes, begin = kinds.members(json.loads(line)), [], 0
    for kind, name, place, size in map(kinds.items, kinds.items(head["changes"])):
        end = begin + kinds.whole(size)
        changes.append(Change(kinds.text(kind), kinds.text(name), rest[begin:end], kinds.whole(place)))
        begin = end
    if begin != len(rest):
        raise ValueError("its changes are of another size")
    return kinds.text(head["time"]), kinds.text(head["address"]), changes


def _apply(files: dict[str, bytearray], change: Change, network: Network) -> None:
    """Make a change. Raises ValueError where it can't be of these files."""
    before = files.get(change.name, bytearray())
    if not belongs(change.name, network) or change.kind not in (PUT, ADD, DROP) or change.place > len(before):
        raise ValueError("a change is of no file that it could be of")
    if change.kind == DROP:
        files.pop(change.name, None)
    elif change.kind == PUT:
        files[change.name] = bytearray(change.data)
    else:
        del before[change.place :]
        before += change.data
        files[change.name] = before


# A backup -----------------------------------------------------------------------------------------------------------


def read(path: Path, network: Network, owner: Owner) -> Content:
    """Read a backup as far as it is whole.

    Raises BackupDamaged where not even its first part is, ForeignBackup, StoreNewer, StoreUnusable.
    """
    files: dict[str, bytearray] = {}
    told: tuple[str, str, Place] | None = None
    broken = None
    with usable(path):
        check_own(path)
        with path.open("rb") as file:
            try:
                for data, place in parts(file, path, owner):
                    time, address, changes = decoded(data)
                    for change in changes:
                        _apply(files, change, network)
                    told = time, address, place
            except BackupDamaged as error:
                broken = error
            except (KeyError, TypeError, ValueError, RecursionError):
                raise not_whole(path, "a part of it is none that this program writes") from None
    if told is None:
        raise broken or not_whole(path, "it is cut off behind its first line")
    return Content({name: bytes(data) for name, data in files.items()}, told[1], told[0], told[2], broken)


def write(path: Path, network: Network, wallet: Wallet, files: Files) -> Place:
    """Put a backup of these files at a path, whole and for its owner only, in the place of an older one.

    Raises BackupNewer, BackupDamaged, ForeignBackup, StoreNewer, StoreUnusable; then the old one is as it was.
    """
    owner = owner_of(network, wallet)
    with usable(path):
        is_there = path.exists()
    if is_there:
        check_older(path, read(path, network, owner).files, files, network)
    data, place = whole(owner, [encoded(wallet.address, [Change(PUT, name, of) for name, of in files.items()])])
    with usable(path):
        replace_file(path, data)
    return place


def check_older(path: Path, before: Files, after: Files, network: Network) -> None:
    """Refuse to replace a backup that has what these files lack. Raises BackupNewer."""
    new = _states(after, network)
    lost = [handle for handle, state in _states(before, network).items() if not state.leads_to(new.get(handle))]
    if lost:
        raise BackupNewer(
            f"{path} has a newer state of {len(lost)} connections than this folder, or one that has parted from it, "
            f"such as {lost[0]}: this folder may be an old copy. Nothing was replaced: name another file, and see "
            "which folder is the newest.",
            path=str(path),
            handles=lost,
        )


@dataclass(frozen=True)
class _State:
    """How far a connection has come: its stage, how often its document was written, and its rows that count."""

    stage: str
    changes: int
    rows: bytes = field(repr=False)

    def leads_to(self, later: _State | None) -> bool:
        """Whether nothing is lost of it where the later one takes its place."""
        if later is None:
            return self.stage in (ASKED, PROPOSED)  # nothing was deposited
        return self.changes <= later.changes and later.rows.startswith(self.rows)


def _states(files: Files, network: Network) -> dict[str, _State]:
    """Read how far each connection has come; one whose document can't be read is left out."""
    found = {}
    for archived in (True, False):
        for handle, data in documents(files, network, archived=archived).items():
            with suppress(KeyError, TypeError, ValueError, RecursionError):
                item = kinds.members(json.loads(data))
                rows = rows_of(files, network, handle, archived=archived)[: kinds.whole(item.get("rows_size", 0))]
                found[handle] = _State(kinds.text(item["stage"]), kinds.whole(item.get("changes", 0)), rows)
    return found

"""Read what stands in the files of one connection: its document, its rows, and the events that it carries.

See ``store`` for which files these are, and in which order they are written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from picopayments_cli.channel.networks import Network
from picopayments_cli.channel.values import HANDLE_SIZE, HEX_DIGITS
from picopayments_cli.client.history import Event
from picopayments_cli.errors import OldProtocol, StoreDamaged
from picopayments_cli.files import damaged, newer, read_text, usable

FORMAT = "picopayments-connection"
VERSION = 2  # 1 was protocol 2's
HEADER = frozenset(("format", "version", "network", "changes", "event_count", "events", "rows", "rows_size"))
_DAMAGED = (
    "Run `picopayments-cli sync`: where the hub proves that it has the newest state of the connection, that goes on, "
    "and a damaged file is renamed. Else put back a copy that is as new as the last command. If there is none, rename "
    "the file yourself, and sync: the connection comes back from the hub, and closes."
)
_MISSING = (
    "`picopayments-cli sync` asks its hub for it, each time until that gives it back; `--hub-url` names a hub that is "
    "elsewhere now, or that nothing here names. If the hub does not give it back, `picopayments-cli restore FILE` "
    "brings it back from a backup, into a new --basedir. If it is known to be over, take its lines out of {}."
)

Row = list[Any]


@dataclass(frozen=True)
class Kept:
    """A document on disk: the events that it carries, how many its connection has had, and its rows' size in bytes.

    ``changes``: how often it was written.
    """

    count: int = 0
    events: list[Event] = field(default_factory=list)
    size: int = 0
    changes: int = 0


def parse(path: Path, text: str, network: Network, key: str) -> dict[str, Any]:
    """Read a connection's document. ``key``: the key file's name, for who has to move an old one.

    Raises StoreDamaged, StoreNewer, OldProtocol.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise damaged(path, "it is not JSON") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise damaged(path, "it is not the document of a connection")
    version = document.get("version")
    if not isinstance(version, int) or version < 1:
        raise damaged(path, "it has no version")
    if version < VERSION:
        raise OldProtocol(
            f"{path} is a connection of protocol 2, which this version does not speak. Nothing is lost or changed: "
            "the version that made it settles it. Move the file, with a copy of "
            f"{key}, into a basedir of its own, and run that version's `close` and `sync` there.",
            handle=path.stem,
            path=str(path),
            version=version,
        )
    if version > VERSION:
        raise newer(path, version, VERSION)
    if document.get("network") != network.name:
        raise damaged(path, f"it belongs to another network than {network.name}")
    return document


@contextmanager
def advised(live: bool = True) -> Iterator[None]:
    """Have the refusal of a damaged file say how the connection comes back; ``live``: it is not in the archive."""
    try:
        yield
    except StoreDamaged as error:
        if not live:
            raise
        path = Path(error.data["path"])
        is_missing = is_connection(path.name) and not os.path.lexists(path)
        advice = _MISSING.format(path.parent.with_suffix(".listed")) if is_missing else _DAMAGED
        raise damaged(path, error.data["why"], advice) from error


def connections_in(folder: Path) -> list[Path]:
    """List the files of connections in a folder, in the order of their handles."""
    with usable(folder):
        names = sorted(os.listdir(folder)) if folder.exists() else []
    return [folder / name for name in names if is_connection(name)]


def without_header(document: dict[str, Any]) -> dict[str, Any]:
    """Return what a document tells of its connection."""
    return {name: value for name, value in document.items() if name not in HEADER}


def rows_path(document: Path) -> Path:
    """Return where the rows of a document stand."""
    return document.with_name(f"{document.stem}.commits.jsonl")


def read_rows(document: Path, size: int) -> list[Row]:
    """Read the rows that a document counts. Raises StoreDamaged."""
    path = rows_path(document)
    text = read_text(path) if size else ""
    if text is None:
        raise damaged(path, "it is missing, and its connection's document counts on it")
    data = text.encode()[:size]
    try:
        rows = [json.loads(line) for line in data.splitlines()]
    except (ValueError, RecursionError):
        raise damaged(path, "it is not JSON") from None
    if len(data) != size:
        raise damaged(path, "it is shorter than its connection's document says")
    return rows


def kept(path: Path, document: dict[str, Any]) -> Kept:
    """Tell what a document says of itself. Raises StoreDamaged."""
    count, events, size = document.get("event_count", 0), document.get("events", []), document.get("rows_size", 0)
    changes = document.get("changes", 0)
    if type(size) is not int or size < 0 or type(changes) is not int or changes < 0:
        raise damaged(path, "the size of its rows, or the count of its changes, is wrong")
    if type(count) is not int or not isinstance(events, list) or count < len(events):
        raise damaged(path, "its events are wrong")
    if not all(is_event(event) and f"{event['handle']}.json" == path.name for event in events):
        raise damaged(path, "its events are none")
    return Kept(count, events, size, changes)


def is_event(event: Any) -> bool:
    """Tell whether it has the members that every event has."""
    if not isinstance(event, dict) or type(event.get("number")) is not int:
        return False
    texts = [event.get(name) for name in ("handle", "time", "action")]
    return all(isinstance(text, str) for text in texts) and is_connection(f"{texts[0]}.json")


def is_connection(name: str) -> bool:
    """Tell whether a file of this name is a connection's document."""
    stem, dot, extension = name.partition(".")
    return extension == "json" and bool(dot) and len(stem) == 2 * HANDLE_SIZE and HEX_DIGITS.issuperset(stem)

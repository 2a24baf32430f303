"""Read what the original client (1.0.4) left: its settings, history and payments, and which connections it had.

Its files are ``<network>.wif``, ``.cfg``, ``.data`` and ``.history.csv``. They are read where they lie. Its connections
are not read: only that client settles them.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from picopayments_cli.channel.networks import Network
from picopayments_cli.channel.values import HANDLE_SIZE, Handle, from_hex
from picopayments_cli.client.history import Event
from picopayments_cli.errors import ConnectionTooOld, InvalidHex, StoreDamaged
from picopayments_cli.files import usable

log = logging.getLogger(__name__)
BACKUP = ".1.0.4.backup"
_MARK = "hub_verify_ssl_cert"  # the original writes this setting into every settings file
_UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def _data_file(basedir: Path, network: Network) -> Path:
    """Find the file where the original client kept its connections."""
    return basedir / f"{network.name}.data"


def _history_file(basedir: Path, network: Network) -> Path:
    return basedir / f"{network.name}.history.csv"


def make_private(basedir: Path, network: Network) -> None:
    """Take other users' access away from an original basedir's files, whose modes came from the umask.

    Raises StoreUnusable.
    """
    settings = basedir / f"{network.name}.cfg"
    files = (basedir / f"{network.name}.wif", settings, _data_file(basedir, network), _history_file(basedir, network))
    with usable(basedir):
        loose = [path for path in files if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]
        if not loose or not (_data_file(basedir, network).exists() or is_original_settings(settings)):
            return
        for path in loose:
            path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o700)
            log.warning("%s could be opened by other users of this machine: it is private from here on", path)


def is_original_settings(path: Path) -> bool:
    """Tell whether the original client wrote a settings file. Raises StoreUnusable."""
    with usable(path):
        return path.exists() and _MARK.encode() in path.read_bytes()


def keep_backup(path: Path) -> None:
    """Copy an original file beside it, unless a copy is there already. Raises StoreUnusable."""
    backup = path.with_name(path.name + BACKUP)
    if backup.exists() or not path.exists():
        return
    temporary = backup.with_name(backup.name + ".tmp")
    with usable(backup):
        temporary.unlink(missing_ok=True)  # left by a process that was killed
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(path.read_bytes())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(backup)


def read_handles(basedir: Path, network: Network) -> list[Handle]:
    """List the handles of the original client's connections. Raises StoreDamaged, StoreUnusable."""
    found = []
    for text in _read_data(basedir, network):
        with suppress(InvalidHex):
            found.append(Handle(from_hex(text, "handle", HANDLE_SIZE)))
    return found


def too_old(handles: Sequence[Handle]) -> ConnectionTooOld:
    """Make the refusal of connections of the original client."""
    texts = [handle.hex() for handle in handles]
    return ConnectionTooOld(
        f"Of version 1.0.4, and not settled by this one: {', '.join(texts)}. Their deposits expired long ago. Run "
        "1.0.4 on a copy of this folder to fetch what they hold.",
        handles=texts,
    )


def read_payments(basedir: Path, network: Network) -> list[Event]:
    """Read the payments of the original client as events, ``sent`` or ``queued``, which it may have sent as well.

    They have only what tells one payment from another. One that can't be read is left out. Raises StoreDamaged,
    StoreUnusable.
    """
    found: list[Event] = []
    for handle, kept in _read_data(basedir, network).items():
        for action, payee in (("sent", "handle"), ("queued", "payee_handle")):
            with suppress(*_UNREADABLE):
                found.extend(_payments(handle, action, payee, kept.get(f"payments_{action}") or []))
    return found


def _payments(handle: str, action: str, payee: str, items: Sequence[Mapping[str, Any]]) -> Iterator[Event]:
    """Read the payments of one list; ``payee``: the member that names the payee there."""
    for item in items:
        with suppress(*_UNREADABLE):
            payment = {"payee_handle": item[payee] or None, "amount": int(item["amount"]), "token": item["token"]}
            yield {"handle": handle, "action": action, **payment}


def _read_data(basedir: Path, network: Network) -> Mapping[str, Any]:
    """Read the original client's connections by their handles; none where it kept none."""
    path = _data_file(basedir, network)
    with usable(path):
        if not path.exists():
            return {}
        data = path.read_bytes()
    try:
        connections = json.loads(data)["connections"]
    except (ValueError, KeyError, TypeError, RecursionError):
        connections = None
    if not isinstance(connections, dict):
        raise StoreDamaged(
            f"{path} is not a data file of the original client. Restore it from your backup, or take it away; nothing "
            "was changed.",
            path=str(path),
        )
    return connections


def read_history(basedir: Path, network: Network) -> list[Event]:
    """Read the original client's history as events, in the order of the file. Raises StoreUnusable.

    They bear ``imported``, and ``id``, ``fee``, ``quantity`` and ``destination`` as text, as that client wrote them. A
    row that was cut off is left out.
    """
    path = _history_file(basedir, network)
    if not path.exists():
        return []
    with usable(path):
        text = path.read_bytes().decode(errors="replace")
    events: list[Event] = []
    for row in _rows(text):
        if None in row.values():
            continue
        try:
            handle = bytes.fromhex(row["handle"]).hex()
            moment = datetime.fromtimestamp(float(row["timestamp"]), timezone.utc)
            rest = {name: row[name] for name in ("action", "id", "fee", "quantity", "destination") if row[name]}
        except _UNREADABLE:
            continue
        time = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        events.append({"handle": handle, "time": time, "imported": True, **rest})
    return events


def _rows(text: str) -> Iterator[dict[str, Any]]:
    """Read the rows of a CSV text, up to where it is none."""
    with suppress(csv.Error):
        yield from csv.DictReader(io.StringIO(text, newline=None))

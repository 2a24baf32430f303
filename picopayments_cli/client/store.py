"""The client's files, with what grows with a connection's age apart: ``<handle>.commits.jsonl`` beside its document.

The rows are only added to. They are on disk before the document, which says how many bytes of them count
(``rows_size``): lines behind those are of a save that was cut off, and the next one writes over them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from picopayments_cli.channel.values import Handle
from picopayments_cli.client.history import Action
from picopayments_cli.client2.store import Store, damaged
from picopayments_cli.errors import StoreUnusable
from picopayments_cli.files import check_private, flush_folder, replace_file

Row = list[Any]
ROWS, SIZE = "rows", "rows_size"


class RowStore(Store):
    """A store whose documents carry ``rows`` when they are loaded. Raises as Store does."""

    def load(self, handle: Handle) -> dict[str, Any]:
        """Read a connection's document and its rows. Raises UnknownHandle, StoreDamaged, StoreNewer."""
        return _with_rows(_rows_of(self._path(handle)), super().load(handle))

    def archived(self) -> dict[Handle, dict[str, Any]]:
        """Read the documents in the archive with their rows."""
        folder = self.archive_folder
        return {
            handle: _with_rows(_rows_of(folder / f"{handle.hex()}.json"), item)
            for handle, item in super().archived().items()
        }

    def save_rows(
        self, handle: Handle, document: dict[str, Any], rows: Sequence[Row], label: str, actions: Sequence[Action] = ()
    ) -> None:
        """Add rows to a connection's, and write its document, as one change: both count, or none."""
        path = self._path(handle)
        size = int(super().load(handle).get(SIZE, 0)) if path.exists() else 0
        data = b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows)
        self._check_lock()
        if data:
            _write_at(_rows_of(path), size, data)
        self.save(handle, {**document, SIZE: size + len(data)}, label, actions)

    def remove(self, handle: Handle) -> None:
        """Remove a connection's document and its rows."""
        super().remove(handle)
        _rows_of(self._path(handle)).unlink(missing_ok=True)

    def archive(self, handle: Handle) -> None:
        """Move a connection's document and its rows into the archive, the rows first."""
        path = _rows_of(self._path(handle))
        if path.exists():
            self._check_lock()
            self.archive_folder.mkdir(mode=0o700, exist_ok=True)
            replace_file(self.archive_folder / path.name, path.read_bytes())
        super().archive(handle)


def _rows_of(document: Path) -> Path:
    return document.with_name(f"{document.stem}.commits.jsonl")


def _with_rows(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    """Add to a document the rows that it counts."""
    size = document.get(SIZE, 0)
    try:
        if path.exists():
            check_private(path)
        data = path.read_bytes()[:size] if size else b""
        rows = [json.loads(line) for line in data.splitlines()]
    except FileNotFoundError:
        raise damaged(path, "it is missing, and its connection's document counts on it") from None
    except (ValueError, RecursionError, TypeError):
        raise damaged(path, "it is not JSON") from None
    if len(data) != size:
        raise damaged(path, "it is shorter than its connection's document says")
    return {**document, ROWS: rows}


def _write_at(path: Path, size: int, data: bytes) -> None:
    """Write lines behind the first ``size`` bytes of a file, and wait until they are on disk."""
    is_new = not path.exists()
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            file.truncate(size)
            file.seek(size)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            flush_folder(path.parent)
    except OSError as error:
        raise StoreUnusable(f"{path} can't be written: {error.strerror or error}.", path=str(path)) from error

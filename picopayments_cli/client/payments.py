"""Number the wallet's payments for good, in the order in which they came about, and find them by their number.

They stand in one file, one entry a line, which is only added to. An entry is a JSON object: ``index`` (from 1, by one
more each time), ``state`` (sent, received or refused), ``handle``, ``number`` (of its event in the history), ``time``,
the asset, ``amount``, ``fee``, ``payee_handle`` or ``payer_handle``, ``token``, and ``cause`` where it was refused.

The entries of a change are on disk before the change itself, the connection's document. They count once that counts
their events; else they were cut off, nobody has seen them, and the next ones are written over them.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picopayments_cli.client.history import Event
from picopayments_cli.files import append_lines, damaged, usable

SENT, RECEIVED, REFUSED = "sent", "received", "refused"
STATES = (SENT, RECEIVED, REFUSED)
Entry = dict[str, Any]


@dataclass(frozen=True)
class Reported:
    """The entries that commands have reported: all up to ``upto`` but those that are ``left``."""

    upto: int = 0
    left: tuple[int, ...] = ()

    def waiting(self, last: int) -> list[int]:
        """List the indexes that nobody has reported yet, where ``last`` is the newest one."""
        return [*self.left, *range(self.upto + 1, last + 1)]

    def after(self, told: Iterable[int], last: int) -> Reported:
        """Count these indexes as reported, too."""
        gone = frozenset(told)
        return Reported(max(self.upto, last), tuple(index for index in self.waiting(last) if index not in gone))


def entries_of(events: Sequence[Event], asset: Mapping[str, str]) -> list[Entry]:
    """Make entries, without their index, from the events of one change of a connection in an asset.

    The change's fee stands with its first payment, so that fees add up.
    """
    fee = sum(event["sync_fee"] for event in events if event["action"] == "fee")
    made: list[Entry] = []
    for event in events:
        if event["action"] in STATES:
            rest = {name: value for name, value in event.items() if name != "action"}
            made.append({"state": event["action"], **asset, **rest, "fee": 0 if made else fee})
    return made


class PaymentLog:
    """The file of one wallet's payments. Its folder is locked, and all who write there come through one of these.

    Raises StoreUnusable, and StoreDamaged where it reads a line that is no entry.
    """

    def __init__(
        self,
        path: Path,
        counts: Callable[[Entry], bool],
        before: Callable[[], int],
        append: Callable[[Path, bytes, int], int] = append_lines,
    ) -> None:
        """``counts`` tells whether an entry's event is in its connection's document.

        ``before``: an index that was used already, also where the file is missing or an old one. ``append`` writes
        lines at a place.
        """
        self._path = path
        self._counts = counts
        self._before = before
        self._append = append
        self._known: tuple[int, int] | None = None  # the bytes that count, and the last index in them
        self._added: tuple[int, int] | None = None  # with what was added and does not count yet

    def forget(self) -> None:
        """Look anew next time: another process may write from here on."""
        self._known = self._added = None

    @property
    def last(self) -> int:
        """The newest index; 0 where there was never a payment."""
        return self._size()[1]

    def add(self, entries: Iterable[Entry]) -> None:
        """Write entries with the next indexes, on disk when this returns; they count from ``keep`` on."""
        size, last = self._size()
        lines = []
        for last, entry in enumerate(entries, last + 1):  # noqa: B020
            lines.append(json.dumps({"index": last, **entry}, separators=(",", ":")).encode() + b"\n")
        if lines:
            data = b"".join(lines)
            with usable(self._path):
                self._append(self._path, data, size)
            self._added = size + len(data), last

    def keep(self) -> None:
        """Count what was added: the change that it belongs to is on disk."""
        if self._added is not None:
            self._known, self._added = self._added, None

    def after(self, index: int) -> Iterator[Entry]:
        """Read the entries behind an index, oldest first."""
        with self._data() as data:
            begin = self._begin(data, index + 1)
            while begin < len(data):
                end = data.find(b"\n", begin) + 1
                yield self._entry(data[begin:end])
                begin = end

    def newest(self, about: str = "") -> Iterator[Entry]:
        """Read all entries, newest first. ``about``: a text; one without it is left out, and not even read."""
        text = about.encode()
        with self._data() as data:
            end = len(data)
            while end and (at := data.rfind(text, 0, end - 1)) >= 0:
                begin = data.rfind(b"\n", 0, at) + 1
                yield self._entry(data[begin : data.find(b"\n", at) + 1])
                end = begin

    def chosen(self, indexes: Iterable[int]) -> Iterator[Entry]:
        """Read the entries with these indexes, which ascend; one that is not there is left out."""
        with self._data() as data:
            begin, at = 0, 0
            for index in indexes:
                begin = begin if index == at + 1 else self._begin(data, index)
                end = data.find(b"\n", begin) + 1
                entry = self._entry(data[begin:end]) if end else None
                if entry is not None and entry["index"] == index:
                    yield entry
                    begin, at = end, index
                else:
                    at = -1

    def _begin(self, data: bytes, index: int) -> int:
        """Find where the first entry begins whose index is this or a later one."""
        low, high = 0, len(data)
        while low < high:
            begin = data.rfind(b"\n", low, (low + high) // 2) + 1 or low
            end = data.find(b"\n", begin) + 1
            if self._entry(data[begin:end])["index"] < index:
                low = end
            else:
                high = begin
        return low

    def _entry(self, line: bytes) -> Entry:
        entry = _read(line)
        if entry is None:
            raise damaged(self._path, "a line in it is no payment")
        return entry

    @contextmanager
    def _data(self) -> Iterator[Any]:
        """Give the bytes that count, without reading them all."""
        size = self._size()[0]
        if not size:
            yield b""
            return
        with usable(self._path):
            file = self._path.open("rb")
        with file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            yield data

    def _size(self) -> tuple[int, int]:
        """Find the bytes that count, and the last index: all but the newest change, where that was cut off."""
        if self._known is None:
            with usable(self._path):
                data = self._path.open("rb") if self._path.exists() else None
            before, counted = self._before(), None
            if data is not None:
                with data, usable(self._path):
                    counted = self._counted(data.seek(0, 2), data.fileno())
            size, last = counted or (0, 0)
            self._known = size, max(last, before)
        return self._known

    def _counted(self, size: int, file: int) -> tuple[int, int] | None:
        if not size:
            return None
        with mmap.mmap(file, size, access=mmap.ACCESS_READ) as data:
            end, change = data.rfind(b"\n") + 1, None
            while end:
                begin = data.rfind(b"\n", 0, end - 1) + 1
                entry = _read(data[begin:end])
                if entry is not None:
                    if change not in (None, _change(entry)) or self._counts(entry):
                        return end, entry["index"]
                    change = _change(entry)
                end = begin
        return None


def _change(entry: Entry) -> tuple[str, str]:
    return entry["handle"], entry["time"]


def _read(line: bytes) -> Entry | None:
    """Read a line; None where it is no entry."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    numbers, texts = ("index", "number", "amount", "fee"), ("state", "handle", "time", "token", "asset")
    fits = isinstance(entry, dict) and all(type(entry.get(name)) is int for name in numbers)
    return entry if fits and all(isinstance(entry.get(name), str) for name in texts) else None

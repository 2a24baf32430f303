"""Keeps events, numbered, until each of those who get them has got them; beside them, how far the wallet was told.

``<network>.events.jsonl`` has one change a line: its events, the number of the last one, up to which number all are
delivered (``done``), and what is told with them. A line that was cut off did not count: nobody was given its events.
Once all are delivered one line without events is left. Of events that nobody takes the newest MOST are kept.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from threading import Condition
from typing import Any

from picopayments_cli.client import kinds
from picopayments_cli.client.happenings import Event, Told, lost
from picopayments_cli.files import append_lines, check_private, damaged, replace_file, usable

log = logging.getLogger(__name__)
MOST = 10_000  # events that wait


class Outbox:
    """The events of one wallet, for several threads. Raises StoreDamaged, StoreUnusable."""

    def __init__(self, path: Path, sinks: Sequence[str]) -> None:
        """``sinks``: the names of those who get the events."""
        self.told: Told | None = None  # None where nothing was ever told
        self._path = path
        self._changed = Condition()
        self._last = 0
        self._waiting: deque[Event] = deque()
        self._written = 0  # events in the file
        done = self._read()
        self._delivered = dict.fromkeys(sinks, done)
        self._closed = False

    # Coming in ------------------------------------------------------------------------------------------------------

    def add(self, events: Iterable[Event], told: Told | None = None) -> None:
        """Keep events, with their numbers and the time, on disk when this returns. ``told``: with them, if it changes.

        Raises StoreUnusable; then nothing is kept.
        """
        with self._changed:
            now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            new = [{"number": self._last + n, "time": now, **event} for n, event in enumerate(events, 1)]
            told = told or self.told
            with usable(self._path):
                append_lines(self._path, self._line(self._last + len(new), told, new))
            self.told = told
            self._last += len(new)
            self._written += len(new)
            self._waiting.extend(new)
            while len(self._waiting) > MOST:
                self._waiting.popleft()
            if self._written > 2 * MOST:
                self._rewrite()
            self._changed.notify_all()

    # Going out ------------------------------------------------------------------------------------------------------

    def next(self, sink: str) -> Event | None:
        """Wait for the next event that a sink gets; None once the outbox is closed. Those that were lost it is told."""
        with self._changed:
            while not self._closed:
                done = self._delivered[sink]
                if self._waiting and self._waiting[0]["number"] > done + 1:
                    first = int(self._waiting[0]["number"])
                    self._delivered[sink] = first - 1
                    return {
                        "number": first - 1,
                        "time": self._waiting[0]["time"],
                        **lost(sink, first - done - 1, first - 1),
                    }
                if done < self._last:
                    return self._waiting[done - self._last]
                self._changed.wait()
            return None

    def done(self, sink: str, event: Event) -> None:
        """Count an event as delivered to a sink. Raises StoreUnusable."""
        with self._changed:
            self._delivered[sink] = max(self._delivered[sink], int(event["number"]))
            while self._waiting and self._waiting[0]["number"] <= self._done:
                self._waiting.popleft()
            if not self._waiting:
                self._rewrite()

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # The file -------------------------------------------------------------------------------------------------------

    @property
    def _done(self) -> int:
        """The number up to which every sink has all."""
        return min(self._delivered.values())

    def _line(self, last: int, told: Told | None, events: Sequence[Mapping[str, Any]]) -> bytes:
        shown = None if told is None else told.as_json()
        body = {"last": last, "done": self._done, "told": shown, "events": list(events)}
        return json.dumps(body, separators=(",", ":")).encode() + b"\n"

    def _rewrite(self) -> None:
        with usable(self._path):
            replace_file(self._path, self._line(self._last, self.told, list(self._waiting)))
        self._written = len(self._waiting)

    def _read(self) -> int:
        """Read the file; the number up to which all are delivered."""
        done = 0
        with usable(self._path):
            check_private(self._path)
            data = self._path.read_bytes() if self._path.exists() else b""
        for line in data[: data.rfind(b"\n") + 1].splitlines():
            try:
                change = kinds.members(json.loads(line))
                events = [kinds.members(event) for event in kinds.items(change["events"])]
                self.told = None if change["told"] is None else Told.parse(change["told"])
                self._last, done = kinds.whole(change["last"]), kinds.whole(change["done"])
                if [event["number"] for event in events] != list(range(self._last - len(events) + 1, self._last + 1)):
                    raise ValueError("the numbers have a gap")
            except (KeyError, TypeError, ValueError, RecursionError):
                raise damaged(self._path, "a line in it is no change") from None
            self._waiting.extend(events)
            self._written += len(events)
        while len(self._waiting) > MOST:
            self._waiting.popleft()
        return done

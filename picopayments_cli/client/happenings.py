"""Makes events of what has happened to a wallet since it was last told: payments, connections, punishments, errors.

An event is a JSON object. ``event`` is its name, which is stable; ``number`` and ``time`` come with its being kept. It
is pure: what was told already is a value, which stands beside the events in their file.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from picopayments_cli.channel.stages import CLOSED, CLOSING, OPEN, OPENING
from picopayments_cli.client import kinds
from picopayments_cli.client.payments import Entry
from picopayments_cli.errors import PicopaymentsError

Event = dict[str, Any]
PAYMENT, OPENED, IS_CLOSING, IS_CLOSED = "payment_{}", "connection_opened", "connection_closing", "connection_closed"
PUNISHED, ERROR, ERROR_OVER, UNDELIVERED, LOST = "punished", "error", "error_over", "delivery_failed", "events_lost"
_NOT_TOLD = ("state", "number", "time", "receipt")  # of a payment: a receipt is for who has paid
_UNKNOWN = ""  # the status of a connection that was there before anything was told
PUBLISHED, _PUNISHES = "published", "revoke"  # the history's action, and the kind of transaction


@dataclass(frozen=True)
class Told:
    """How far a wallet's life was told: the index of its last payment; by handle a status, and how many txids."""

    payments: int = 0
    connections: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The value as JSON can hold it."""
        return {"payments": self.payments, "connections": {name: list(how) for name, how in self.connections.items()}}

    @staticmethod
    def parse(body: Any) -> Told:
        """Raises KeyError, TypeError, ValueError."""
        found = kinds.members(body)
        connections = {}
        for name, how in kinds.members(found["connections"]).items():
            status, count = kinds.items(how)
            connections[name] = (str(status), kinds.whole(count))
        return Told(kinds.whole(found["payments"]), connections)


@dataclass(frozen=True)
class Life:
    """A connection as it is now; ``status`` None where nothing tells it. ``asset``: the members that name it."""

    status: str | None
    published: tuple[str, ...]
    asset: Mapping[str, str]


def begin(last: int, lives: Mapping[str, Life]) -> Told:
    """Begin to tell from now on: nothing of what was before is news."""
    return Told(last, {name: (life.status or _UNKNOWN, len(life.published)) for name, life in lives.items()})


def news(
    told: Told,
    payments: Iterable[Entry],
    lives: Mapping[str, Life],
    published: Iterable[Mapping[str, Any]],
    unusable: Container[str] = (),
) -> tuple[list[Event], Told]:
    """Make the events that were not told yet, and what is told with them.

    ``payments``: those behind the last index told; ``published``: the history's, of the connections that have any new.
    ``unusable``: those whose files can't be read or are missing: nothing is known of them.
    """
    events: list[Event] = []
    last = told.payments
    for entry in payments:
        rest = {name: value for name, value in entry.items() if name not in _NOT_TOLD}
        events.append({"event": PAYMENT.format(entry["state"]), **rest})
        last = entry["index"]
    kept: dict[str, tuple[str, int]] = {}
    punished = {(item["handle"], item["txid"]) for item in published if item["kind"] == _PUNISHES}
    for name, life in lives.items():
        before, count = told.connections.get(name, (OPENING, 0))
        about = {"handle": name, **life.asset}
        new = life.published[count:]
        events += [{"event": PUNISHED, **about, "txid": txid} for txid in new if (name, txid) in punished]
        events += [{"event": event, **about} for event in _changes(before, life.status)]
        kept[name] = (before if life.status is None else life.status, len(life.published))
    for name, (before, count) in told.connections.items():
        if name in unusable:
            kept[name] = (before, count)
        elif name not in lives:  # it was culled
            events += [{"event": event, "handle": name} for event in _changes(before, CLOSED)]
    return events, Told(last, kept)


def unheard(told: Told, lives: Mapping[str, Life]) -> list[str]:
    """List the connections that have published what was not told yet."""
    return [name for name, life in lives.items() if len(life.published) > told.connections.get(name, ("", 0))[1]]


def _changes(before: str, now: str | None) -> list[str]:
    """The names of the events between two statuses. One that opens again, as a reorganisation undid it, is news again.

    Of a connection that was there before anything was told the first status is none.
    """
    if now is None or now in (before, OPENING) or before == _UNKNOWN:
        return []
    if now == CLOSED and before != CLOSING:
        return [IS_CLOSING, IS_CLOSED]
    return [{OPEN: OPENED, CLOSING: IS_CLOSING, CLOSED: IS_CLOSED}[now]]


def troubles(before: Mapping[str, str], now: Mapping[str, PicopaymentsError]) -> list[Event]:
    """Make events of errors that are new, and of those that are over; one that goes on is told once.

    Both have as keys where it fails: a connection's handle, ``hub`` or ``wallet``. ``before``: names of errors.
    """
    over = [
        {"event": ERROR_OVER, "source": source, "name": name} for source, name in before.items() if source not in now
    ]
    new = [
        {"event": ERROR, "source": source, **error.as_json()}
        for source, error in now.items()
        if before.get(source) != error.name
    ]
    return over + new


def undelivered(sink: str, number: int, message: str) -> Event:
    """Tell that an event could not be delivered, for now or for good."""
    return {"event": UNDELIVERED, "sink": sink, "undelivered": number, "message": message}


def lost(sink: str, count: int, last: int) -> Event:
    """Tell that so many events, up to a number, are not delivered any more."""
    return {"event": LOST, "sink": sink, "count": count, "last": last}

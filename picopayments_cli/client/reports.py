"""Report what became of payments: each is reported by the first command that can, and counts as reported once told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any

from picopayments_cli.client.payments import RECEIVED, REFUSED, SENT, Entry
from picopayments_cli.client.session import Session
from picopayments_cli.errors import LocalFiles

log = logging.getLogger(__name__)
_LISTS = {RECEIVED: "received_payments", SENT: "sent_payments", REFUSED: "refused_payments"}
_MEMBERS = ("payer_handle", "payee_handle", "amount", "token", "cause", "request", "receipt", "index")


def unreported(session: Session, handles: Collection[str] | None = None) -> list[Entry]:
    """Take the payments, of these connections (hex) or all, that no command has reported: this one does."""
    log = session.store.payments
    waiting = log.chosen(session.store.notes.reported().waiting(log.last))
    found = [entry for entry in waiting if handles is None or entry["handle"] in handles]
    report(session, found)
    return found


def report(session: Session, entries: Iterable[Entry]) -> None:
    """Have these payments count as reported once the command's result is told."""
    session.home.told.update(entry["index"] for entry in entries)


def by_state(entries: Iterable[Entry]) -> dict[str, list[dict[str, Any]]]:
    """List payments as ``sync`` and ``close`` show them: received, sent, refused."""
    lists: dict[str, list[dict[str, Any]]] = {name: [] for name in _LISTS.values()}
    for entry in entries:
        lists[_LISTS[entry["state"]]].append({name: entry[name] for name in _MEMBERS if name in entry})
    return lists


def deliver(session: Session, result: Any, tell: Callable[[Any], None]) -> None:
    """Have a command's result told, and then write down which payments it reports.

    Other commands wait meanwhile, or they would report them, too. They don't where none is reported: who reads may
    take time. Where it can't be written down the next command reports them once more.
    """
    told = session.home.told
    if not told:
        session.keep_rate()
        session.close()
    tell(result)
    if told:
        try:
            session.store.notes.save_reported(session.store.notes.reported().after(told, session.store.payments.last))
        except LocalFiles as error:
            log.warning("the next command reports these payments once more: %s", error.message)
        told.clear()

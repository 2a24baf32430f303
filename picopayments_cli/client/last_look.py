"""Remember when the chain was last looked at, and what it showed: all that can be told while nobody answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from picopayments_cli.chain import View
from picopayments_cli.chain.shapes import by_longname
from picopayments_cli.client import hubs, kinds
from picopayments_cli.client.session import Session

Told = dict[str, Any]


def of_wallet(session: Session) -> Told | None:
    """Read what the wallet held at the last look: ``balances``, ``height`` and ``time``; None if there was none."""
    return _checked(session.store.notes.last_look().get("wallet"), "balances", dict)


def of_connection(session: Session, handle: str) -> Told | None:
    """Read how a connection stood at the last look: ``status``, ``balance``, ``height``, ``time``; None if unseen."""
    seen = session.store.notes.last_look().get("connections")
    told = _checked(seen.get(handle) if isinstance(seen, dict) else None, "status", str)
    return told if told is not None and type(told.get("balance")) is int else None


def note(session: Session, view: View | None, connections: Mapping[str, Told]) -> None:
    """Write down a look of this moment: what the wallet holds, where it was seen, and how these connections stand."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    before, seen = session.store.notes.last_look(), {name: {**told, "time": now} for name, told in connections.items()}
    here = {handle.hex() for handle in session.store.handles()}
    kept = before.get("connections")
    known = {name: told for name, told in (kept if isinstance(kept, dict) else {}).items() if name in here}
    wallet = before.get("wallet")
    if view is not None:
        balances = by_longname(view.balances[session.wallet.address], view.longnames)
        wallet = {"balances": balances, "height": view.height, "time": now}
    if view is not None or connections:
        session.store.notes.save_last_look({"wallet": wallet, "connections": known | seen})


def note_wallet(session: Session, groups: Iterable[hubs.Seen]) -> None:
    """Write down what these looks have shown of the wallet, if they have."""
    view = hubs.wallets(session, groups)
    if isinstance(view, View):
        note(session, view, {})


def _checked(value: Any, member: str, kind: type) -> Told | None:
    """Take what the file holds, which is nobody's word if it is not as it was written."""
    try:
        told = kinds.members(value)
        kinds.of_kind(told[member], kind)
        kinds.whole(told["height"])
        kinds.text(told["time"])
    except (KeyError, TypeError, ValueError):
        return None
    return told

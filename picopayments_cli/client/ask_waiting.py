"""Ask hubs what waits for connections, which costs nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from picopayments_cli.channel import envelope
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.stages import AGREED
from picopayments_cli.channel.values import Handle, Pubkey
from picopayments_cli.channel.waiting import MOST_NAMED, WaitingReply, WaitingRequest, Waits
from picopayments_cli.channel.wire import NONCE_SIZE
from picopayments_cli.client.history import time_shown
from picopayments_cli.client.hubs import Seen
from picopayments_cli.client.session import Session
from picopayments_cli.errors import BadReply, LocalFiles, PicopaymentsError


def ask(at: Session, key: Key, hub_key: Pubkey, handles: Sequence[Handle], seconds: int = 0) -> Sequence[Waits]:
    """Ask a session's hub what waits for at most MOST_NAMED connections of a wallet's key, for up to some seconds.

    Raises what ``Session.call`` does, BadReply.
    """
    request = WaitingRequest(os.urandom(NONCE_SIZE), tuple(handles), seconds)
    body = envelope.seal(key, request.as_json(), envelope.asking("mph_waiting", hub_key))
    reply = at.call("mph_waiting", [body], hub_key)
    told = WaitingReply.parse(reply.body).waiting
    if not {item.handle for item in told} <= set(handles):
        raise BadReply("The hub tells of connections that it was not asked about.", method="mph_waiting")
    return told


def in_parts(handles: Sequence[Handle]) -> Iterable[Sequence[Handle]]:
    """Divide handles so that each part goes into one request."""
    return (handles[first : first + MOST_NAMED] for first in range(0, len(handles), MOST_NAMED))


def shown(group: Seen) -> dict[str, dict[str, Any] | None]:
    """Show what waits for the connections of one hub, by handle; None where it can't be known."""
    live = [item.handle for item in group.connections if item.stage == AGREED]
    told: dict[str, dict[str, Any] | None] = {item.handle.hex(): None for item in group.connections}
    try:
        for part in in_parts(live):
            waits = {item.handle: item for item in _asked(group, part)}
            told |= {handle.hex(): _as_json(waits.get(handle)) for handle in part}
    except LocalFiles:
        raise
    except PicopaymentsError:
        return told  # a hub that is silent, or older, tells nothing
    return told


def _asked(group: Seen, handles: Sequence[Handle]) -> Sequence[Waits]:
    return ask(group.session, group.session.wallet.key, group.connections[0].hub_key, handles)


def _as_json(waits: Waits | None) -> dict[str, Any]:
    if waits is None:
        return {"count": 0, "sum": 0, "oldest": None}
    return {"count": waits.count, "sum": waits.total, "oldest": time_shown(waits.oldest)}

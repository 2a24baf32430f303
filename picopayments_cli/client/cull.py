"""Tell which connections are over for good and may go into the archive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from picopayments_cli.channel.stages import CLOSED, CLOSING
from picopayments_cli.channel.values import Handle
from picopayments_cli.client import hubs
from picopayments_cli.client.closing import over
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.session import Session
from picopayments_cli.errors import PicopaymentsError

_OPEN = "It is not closed: close it first."
_SETTLING = "It is being settled: run `picopayments-cli sync` until it is closed."
_UNDONE = "Its last transactions are not final yet, or something is left on the blockchain: wait for blocks."


def why_not_over(session: Session, connections: Iterable[Connection]) -> dict[Handle, str | None]:
    """Tell for each connection why it is not over, or None if it is, as chain and ledger show it now."""
    chosen = list(connections)
    # Asked as of one that is being settled: for those the ledger is asked, too, whether an asset is left.
    closed = {item.handle: replace(item, stage=CLOSING) for item in chosen if item.stage == CLOSED}
    found: dict[Handle, str | None] = {item.handle: _SETTLING if item.stage == CLOSING else _OPEN for item in chosen}
    for group in hubs.seen(session, closed.values()):
        for item in group.connections:
            try:
                look = group.look()
                look.check_whole()
                found[item.handle] = None if over(group.session, item, look) else _UNDONE
            except PicopaymentsError as error:
                found[item.handle] = error.message
    return found

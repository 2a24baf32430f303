"""List payments for users and scripts: sent, received and refused by their index, and what is still on its way."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from picopayments_cli.channel.counterparty import asset_members
from picopayments_cli.channel.messages import SyncRequest
from picopayments_cli.channel.wire import Payment
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.history import told
from picopayments_cli.client.payments import SENT, STATES, Entry
from picopayments_cli.client.session import Session
from picopayments_cli.errors import UnknownAsset

QUEUED, UNANSWERED = "queued", "unanswered"
COLUMNS = (
    *("index", "time", "state", "handle", "asset", "asset_longname", "amount", "fee"),
    *("payer_handle", "payee_handle", "token", "cause", "request", "expires", "receipt"),
)


@dataclass(frozen=True)
class Wanted:
    """The payments to list: of a connection (hex), in an asset by either of its names, in a state; None: whichever."""

    handle: str | None = None
    asset: str | None = None
    state: str | None = None

    def takes(self, entry: Entry) -> bool:
        """Tell whether a payment is one of them."""
        of_asset = self.asset in (None, entry["asset"], entry.get("asset_longname"))
        return of_asset and self.handle in (None, entry["handle"]) and self.state in (None, entry["state"])


def listed(session: Session, wanted: Wanted, since: int | None, limit: int | None) -> list[dict[str, Any]]:
    """List payments, oldest first: with ``since`` the first that come after that index, else the newest there are.

    Payments that are queued, or in a sync without an answer, have no index and stand last; with ``since`` they are left
    out. ``limit``: the most that are listed. Raises UnknownAsset, by the files alone, which answer without a hub, too.
    """
    _check_asset(session, wanted)
    log = session.store.payments
    if since is not None:
        return with_receipts(session, list(islice(filter(wanted.takes, log.after(since)), limit)))
    waiting = [] if wanted.state in STATES else [entry for entry in _on_their_way(session) if wanted.takes(entry)]
    newest: Iterable[Entry] = () if wanted.state in (QUEUED, UNANSWERED) else filter(wanted.takes, log.newest())
    rest = None if limit is None else max(limit - len(waiting), 0)
    found = [*reversed(list(islice(newest, rest))), *waiting]
    return with_receipts(session, found if limit is None else found[-limit:])


def _check_asset(session: Session, wanted: Wanted) -> None:
    """Refuse an asset that no connection is or was in: an empty list would look like one without payments."""
    asset = wanted.asset
    if asset is None or any(Wanted(asset=asset).takes(entry) for entry in session.store.payments.newest(f'"{asset}"')):
        return
    known: dict[str, str | None] = {}
    for item in (*session.connections().values(), *session.archived().values()):
        known[item.asset] = item.longname
    if asset in {*known, *known.values()} or session.unusable:
        return
    names = sorted(longname or name for name, longname in known.items())
    raise UnknownAsset(
        f"No connection of this wallet is, or was, in {asset!r}. There are some in: {', '.join(names) or 'no asset'}.",
        asset=asset,
        assets=names,
    )


def with_receipts(session: Session, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Show payments, those that paid a request with its receipt, once that is here."""
    receipts: dict[tuple[str, str], str] = {}
    if any(entry["state"] == SENT and "expires" in entry for entry in entries):
        for event in session.store.history(about='"action":"receipt"'):
            if event["action"] == "receipt":
                receipts[event["handle"], event["token"]] = event["receipt"]
    found = []
    for entry in entries:
        receipt = receipts.get((entry["handle"], entry["token"])) if entry["state"] == SENT else None
        found.append(shown(entry) if receipt is None else {**shown(entry), "receipt": receipt})
    return found


def shown(entry: Entry) -> dict[str, Any]:
    """Show one payment."""
    return {name: value for name, value in entry.items() if name != "number"}


def as_csv(payments: Sequence[dict[str, Any]]) -> str:
    """Write payments as CSV with a line of names; what one does not have is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(payments)
    return text.getvalue().rstrip("\n")


def _on_their_way(session: Session) -> Iterator[Entry]:
    """Describe the payments of all connections that have no outcome yet, those that left first."""
    connections = list(session.connections().values())
    for item in connections:
        if item.pending is not None:
            waits = {payment.token for payment in item.pending.payments}
            carried = SyncRequest.parse(item.pending.bodies[-1]).payments
            yield from _described(item, UNANSWERED, [payment for payment in carried if payment.token in waits])
    for item in connections:
        yield from _described(item, QUEUED, item.queue)


def _described(connection: Connection, state: str, payments: Iterable[Payment]) -> Iterator[Entry]:
    members = {"index": None, "state": state, "handle": connection.handle.hex()}
    asset = asset_members(connection.asset, connection.longname)
    for payment in payments:
        yield {**members, **asset, "time": None, **told(payment), "fee": None}

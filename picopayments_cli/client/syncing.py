"""Sync connections, each with its own hub, or close one, and tell what it brought."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from picopayments_cli.channel.stages import CLOSED, PROPOSED
from picopayments_cli.channel.values import Handle
from picopayments_cli.client import causes, hubs, last_look, life, reports
from picopayments_cli.client.closing import Outcome, check_done
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.payments import Entry
from picopayments_cli.client.session import Session
from picopayments_cli.errors import PicopaymentsError, SyncIncomplete

log = logging.getLogger(__name__)


def sync(
    session: Session,
    connections: Sequence[Connection],
    *,
    everything: bool,
    unasked: PicopaymentsError | None = None,
) -> dict[str, Any]:
    """Sync connections, and tell by handle the transactions published and what became of payments.

    ``everything``: these are all that there are, and payments of culled ones are reported, too. ``unasked``: why the
    hub was not asked for lost ones, which is a failure where there are no others. Raises SyncIncomplete where some
    fail and others have a result; where none has, what the first one fails with.
    """
    outcomes: dict[str, Outcome] = {}
    failed: dict[Handle, PicopaymentsError] = {}
    if everything:
        failed |= session.unusable
    groups = hubs.seen(session, [item for item in connections if not item.final])
    for group in groups:
        for item in group.connections:
            outcome = Outcome()
            try:
                look = group.look()
                if item.stage != CLOSED or life.as_seen(group.session, item, look).stage != CLOSED:
                    outcomes[item.handle.hex()] = outcome
                life.sync(group.session, item, look, outcome)
                check_done(session, item.handle, outcome, look.view.height)
            except PicopaymentsError as error:
                failed[item.handle] = error
                if not outcome.txids:
                    outcomes.pop(item.handle.hex(), None)
    last_look.note_wallet(session, groups)
    handles = None if everything else {item.handle.hex() for item in connections}
    results = _brought(outcomes, reports.unreported(session, handles))
    if unasked is not None and (failed or connections):
        log.warning("whether the hub has connections of this wallet is not known: %s", unasked.message)
    if failed:
        causes.tell(failed, [causes.cause(next(iter(failed.values())))])  # which the error tells
        raise _failure(failed, results)
    if unasked is not None and not connections:
        raise _not_asked(unasked, results)
    return results


def _not_asked(error: PicopaymentsError, results: dict[str, Any]) -> PicopaymentsError:
    """Make the error for a folder without connections: it may be a new one around an old key."""
    told = f"No connection is here, and whether the hub has any of this wallet is not known. {error.message}"
    failure = type(error)(told, **error.data)
    failure.result = results or None
    return failure


def _brought(outcomes: Mapping[str, Outcome], payments: Sequence[Entry]) -> dict[str, Any]:
    """Show what each connection brought, and which payments are to be reported, whichever command brought them."""
    results: dict[str, Any] = {}
    for name in dict.fromkeys((*outcomes, *(entry["handle"] for entry in payments))):
        outcome = outcomes.get(name, Outcome())
        own = reports.by_state(entry for entry in payments if entry["handle"] == name)
        cause = {} if outcome.cause is None else {"error": outcome.cause.as_json()}
        results[name] = {"txids": outcome.txids, **own, **cause}
    return results


def _failure(failed: Mapping[Handle, PicopaymentsError], results: dict[str, Any]) -> PicopaymentsError:
    (handle, first), *others = failed.items()
    if not results:
        return first
    more = f", and so did {len(others)} more" if others else ""
    error = SyncIncomplete(
        f"The sync of the connection {handle.hex()} failed{more}. The result tells what it brought all the same. "
        f"{first.message}",
        failed={name.hex(): each.as_json() for name, each in failed.items()},
    )
    error.result = results
    return error


def close(session: Session, connection: Connection) -> dict[str, Any]:
    """Close a connection: the txid of its close or commit, whether the hub agreed, the fee, what became of payments.

    Raises Unreachable, with all that as its result, where nothing could be published and the hub does not answer.
    """
    proposed = connection.stage == PROPOSED and not connection.restored
    outcome = life.close(session if proposed else hubs.alone(session, connection), connection)
    agreed = session.connection(connection.handle).ending.told
    hub = None if proposed else "agreed" if agreed else "silent" if outcome.hub_silent is not None else "asked"
    told = reports.by_state(reports.unreported(session, {connection.handle.hex()}))
    result = {"txid": outcome.closed_by, "hub": hub, "sync_fee": outcome.sync_fee, **told}
    if outcome.hub_silent is None or outcome.txids:
        return result
    outcome.hub_silent.message += (
        " The connection is closing all the same, and pays nothing any more. Run `picopayments-cli sync` later: once "
        "the hub answers, both agree on a close; else your deposit comes back when it expires."
    )
    outcome.hub_silent.result = result
    raise outcome.hub_silent

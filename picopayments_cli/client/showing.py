"""Show the wallet and its connections as ``status`` does: as the chain shows them, or as their files have them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from picopayments_cli.chain import Query
from picopayments_cli.chain.shapes import by_longname
from picopayments_cli.channel.counterparty import asset_members
from picopayments_cli.channel.deadlines import at_risk, check_every
from picopayments_cli.channel.stages import CLOSED
from picopayments_cli.channel.wire import terms_json
from picopayments_cli.client import hubs, legacy, life
from picopayments_cli.client.arguments import handle_named
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.looking import sides_of
from picopayments_cli.client.session import Session
from picopayments_cli.errors import PicopaymentsError

log = logging.getLogger(__name__)
_UNKNOWN = "unknown"  # the status of a connection whose hub does not tell what the chain holds


def status(session: Session, handle: str | None, *, verbose: bool) -> dict[str, Any]:
    """Look at the chain, and show one connection or all, the wallet, and whose word about the chain this is."""
    chosen = _to_show(session, handle)
    looked_at = [item for item in chosen if not item.final]
    wallet = session.wallet.address
    view = session.chain.view(Query(balances=[wallet]))
    shown = {item.handle.hex(): _status_of(item, CLOSED, None, verbose) for item in chosen}
    for group in hubs.seen(session, looked_at):
        shown |= {item.handle.hex(): _as_seen(group, item, verbose) for item in group.connections}
    session.keep_wallet()
    return {
        "chain": session.chain_source,
        "connections": shown,
        "wallet": {"address": wallet, "balances": by_longname(view.balances[wallet], view.longnames)},
    }


def _to_show(session: Session, handle: str | None) -> list[Connection]:
    """The connections to show, one or all; a note names those of older versions, of which there is nothing to show."""
    connections, older, of_old_protocol = session.connections(), session.older(), session.store.of_old_protocol()
    if handle is not None:
        return [session.connection(handle_named(handle, {*connections, *older, *of_old_protocol}))]
    for error in of_old_protocol.values():
        log.warning(error.message)
    if older:
        log.warning(legacy.too_old(older).message)
    return list(connections.values())


def _as_seen(group: hubs.Seen, item: Connection, verbose: bool) -> dict[str, Any]:
    """A connection as its chain shows it; with the error where it shows nothing, or no deposit."""
    session = group.session
    try:
        item = life.as_seen(session, item, group.look())
        if item.stage == CLOSED:
            return _status_of(item, CLOSED, None, verbose)
        seen, look, deposits = life.observe(session, item, group.look())
    except PicopaymentsError as error:
        log.warning("connection %s: %s", item.handle.hex(), error.message)
        if item.stage == CLOSED:
            return _status_of(item, CLOSED, None, verbose)
        return _status_of(item, _UNKNOWN, None, verbose) | {"error": error.as_json()}
    funded = all(facts.funded for facts in look.facts[item.handle])
    ttl = seen.expiry.time_to_live(look.view.height) if funded else None
    shown = _status_of(seen, life.status(session, seen, look, deposits), ttl, verbose, look.view.longnames)
    missing = life.unknown_deposit(seen, look)
    return shown if missing is None else shown | {"error": missing.as_json()}


def _status_of(
    item: Connection, shown: str, ttl: int | None, verbose: bool, longnames: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A connection as ``status`` shows it; ``longnames``: of the subassets that the chain told of, by number."""
    told: dict[str, Any] = {
        **asset_members(item.asset, item.longname or (longnames or {}).get(item.asset)),
        "balance": 0 if shown == CLOSED else item.duplex.guaranteed,
        "status": shown,
        "ttl": ttl,
        "payments_queued": [
            {"payee_handle": payment.payee.hex() if payment.payee else None, "amount": payment.amount,
             "token": payment.token.hex()}
            for payment in item.queue
        ],
    }  # fmt: skip
    cause = life.conflicted(item)
    if cause is not None:
        told["error"] = cause.as_json()
    if verbose:
        sending, receiving = item.duplex.sending, item.duplex.receiving
        told |= {
            "deposit": sending.contract.quantity,
            "hub_deposit": receiving.contract.quantity,
            "sent": sending.moved,
            "received": receiving.moved,
            "sync_pending": item.pending is not None,
            "owed": item.owed,
            "settle_height": item.expiry.settle_height,
            "check_every": check_every(sending.contract.delay),
            "at_risk": at_risk(*sides_of(item)),
            "terms": terms_json(item.terms),
        }
    return told

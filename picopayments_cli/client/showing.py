"""Show the wallet and its connections as ``status`` does: as the chain shows them, or as their files have them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from picopayments_cli.chain import Query, View
from picopayments_cli.chain.shapes import by_longname
from picopayments_cli.channel.counterparty import asset_members
from picopayments_cli.channel.deadlines import at_risk, check_every
from picopayments_cli.channel.outlook import OWN_STEP, closing, opening, outside
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, OPENING, PROPOSED
from picopayments_cli.channel.values import Handle
from picopayments_cli.channel.wire import terms_json
from picopayments_cli.client import ask_waiting, away, causes, funds, hubs, last_look, legacy, life
from picopayments_cli.client.arguments import handle_named
from picopayments_cli.client.closing import cases, over
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.looking import Look, sides_of
from picopayments_cli.client.restore_marks import is_to_ask
from picopayments_cli.client.session import Session
from picopayments_cli.errors import HubUnreachable, InvalidSetting, OldProtocol, PicopaymentsError, Unreachable

log = logging.getLogger(__name__)
_UNKNOWN = "unknown"  # the status of a connection of which only the chain could tell whether it is open
_IN_FILES = {PROPOSED: OPENING, CLOSING: CLOSING, CLOSED: CLOSED}  # the status that a file tells by itself


@dataclass(frozen=True)
class Shown:
    """A connection as it is shown; ``seen``: what the chain told of it, to be remembered, None where it did not.

    ``failed``: why it did not.
    """

    members: dict[str, Any]
    seen: dict[str, Any] | None = None
    failed: PicopaymentsError | None = None


def status(session: Session, handle: str | None, *, verbose: bool) -> dict[str, Any]:
    """Show one connection or all, the wallet, and whose word about the chain this is; what nobody tells, from files."""
    chosen = _to_show(session, handle)
    groups = hubs.seen(session, [item for item in chosen if not item.final])
    view = _wallets_view(session, groups)
    found = {item.handle.hex(): Shown(_members(item, CLOSED, verbose)) for item in chosen}
    for group in groups:
        found |= {item.handle.hex(): shown(group, item, verbose=verbose) for item in group.connections}
        for name, waits in ask_waiting.shown(group).items() if verbose else ():
            found[name].members["waiting"] = waits
    if handle is None:
        found |= {name.hex(): _unread(error) for name, error in session.unusable.items() if _is_shown(error)}
    failed = {Handle(bytes.fromhex(name)): item.failed for name, item in found.items() if item.failed is not None}
    causes.tell(failed, [causes.cause(view)] if isinstance(view, PicopaymentsError) else [])
    told = {"connections": {name: item.members for name, item in found.items()}}
    if isinstance(view, PicopaymentsError):
        result = {**told, **_from_files(session, view, chosen)}
    else:
        result = {**told, "chain": session.chain_source, "wallet": _wallet(session, view)}
    seen = {name: item.seen for name, item in found.items() if item.seen is not None}
    last_look.note(session, None if isinstance(view, PicopaymentsError) else view, seen)
    return result


def _is_shown(error: PicopaymentsError) -> bool:
    """Whether a connection that can't be used is listed, for which this is why: those of protocol 2 are noted only."""
    return not isinstance(error, OldProtocol)


def _unread(error: PicopaymentsError) -> Shown:
    """A connection whose file can't be used."""
    told: dict[str, Any] = {"asset": None, "balance": None, "status": _UNKNOWN, "ttl": None, "payments_queued": []}
    return Shown({**told, "error": error.as_json()})


def _wallets_view(session: Session, groups: Sequence[hubs.Seen]) -> View | PicopaymentsError:
    """Ask for the wallet's funds, unless a look has shown them; or why nobody tells: none is set, or none answers."""
    found = hubs.wallets(session, groups)
    if found is not None:
        return found
    try:
        if session.chain_source == "hub":
            _ = session.settings.require_hub_url
        address = session.wallet.address
        return session.chain.view(Query(coins=[address], balances=[address]))
    except (InvalidSetting, Unreachable) as error:
        return error


def _wallet(session: Session, view: View) -> dict[str, Any]:
    address = session.wallet.address
    funds.tell_change(session, view)
    return {"address": address, "balances": by_longname(view.balances[address], view.longnames)}


def _from_files(session: Session, error: PicopaymentsError, connections: Sequence[Connection]) -> dict[str, Any]:
    """Show the wallet as it was at the last look, and say why it is old."""
    look = last_look.of_wallet(session)
    if isinstance(error, HubUnreachable):
        error = away.advised(error, session.settings, away.at_hub(connections, error))
    when = "It was never seen" if look is None else f"The wallet is that of block {look['height']}, {look['time']}"
    log.warning("The chain can't be seen, and this is from the files. %s. %s", when, error.message)
    return {
        "chain": None,
        "error": error.as_json(),
        "last_look": look and {"height": look["height"], "time": look["time"]},
        "wallet": {"address": session.wallet.address, "balances": None, "last_look": look},
    }


def _to_show(session: Session, handle: str | None) -> list[Connection]:
    """The connections to show, one or all; a note names those of older versions, and those that can't be read."""
    connections, older, unusable = session.connections(), session.older(), session.unusable
    if handle is not None:
        return [session.connection(handle_named(handle, {*connections, *older, *unusable}))]
    for error in unusable.values():
        log.warning(error.message)
    if older:
        log.warning(legacy.too_old(older).message)
    return list(connections.values())


def shown(group: hubs.Seen, item: Connection, *, verbose: bool) -> Shown:
    """A connection as its chain shows it; with the error where it shows nothing, or no deposit."""
    session = group.session
    try:
        item = life.as_seen(session, item, group.look())
        if item.stage == CLOSED:
            return Shown(_members(item, CLOSED, verbose))
        seen, look, deposits = life.observe(session, item, group.look())
    except PicopaymentsError as error:
        return _unseen(session, item, error, verbose)
    funded = all(facts.funded for facts in look.facts[item.handle])
    ttl = seen.expiry.time_to_live(look.view.height) if funded else None
    word = life.status(session, seen, look, deposits)
    members = _members(seen, word, verbose, ttl, look.view.longnames)
    if word in (OPENING, CLOSING):
        members |= {"balance": _balance(session, seen, look), **_awaited(session, seen, look, word)}
    told = {"status": members["status"], "balance": members["balance"], "height": look.view.height}
    missing = life.unknown_deposit(seen, look)
    return Shown(members if missing is None else members | {"error": missing.as_json()}, told)


def _balance(session: Session, item: Connection, look: Look) -> int:
    """Add up a connection's quantities that are this party's and not in its wallet, not yet or not any more."""
    c2h, h2c = cases(session, item, look)
    own, received, deposit = item.duplex.sending, item.duplex.receiving.moved, c2h.facts.deposit
    here = item.stage == PROPOSED or (deposit is not None and deposit.height is None)  # the deposit, in the wallet yet
    return (0 if here else outside(c2h, own.contract.quantity - own.moved)) + outside(h2c, received)


def _awaited(session: Session, item: Connection, look: Look, word: str) -> dict[str, Any]:
    """Tell what a connection that opens or closes waits for, until which block, and about how long."""
    found, tip, depth = OWN_STEP, look.view.height, session.network.safe_depth
    more: dict[str, Any] = {}
    if word == OPENING and item.stage == AGREED:
        by, counts = item.deposit_by, item.counted[0] is not None
        fee_by = item.expiry.fee_by(by) if item.lock_due and by is not None else None
        found = opening(look.facts[item.handle][0], counts=counts, safe_depth=depth, fee_by=fee_by)
        more = {} if counts or by is None else {"deposit_by": by}
    elif item.restored and is_to_ask(session.store.basedir, session.network):
        pass  # the own sync asks the hub
    elif item.stage == CLOSING and not over(session, item, look):
        found = closing(cases(session, item, look), depth, funds.rate(session, look.view).value)
    seconds = None if found.until is None else max(found.until - tip, 0) * session.network.block_seconds
    waits = {"waiting_for": found.waits_for.value, "until_height": found.until, "about_seconds": seconds or None}
    return {**waits, **more}


def _unseen(session: Session, item: Connection, error: PicopaymentsError, verbose: bool) -> Shown:
    """A connection as its file has it, why the chain shows nothing of it, and how it stood at the last look."""
    members = _members(item, _IN_FILES.get(item.stage, _UNKNOWN), verbose)
    if item.stage == CLOSED:
        return Shown(members, failed=error)
    failed = error
    if isinstance(error, HubUnreachable):
        error = away.advised(error, session.settings, away.at_hub([item], error))
    look = last_look.of_connection(session, item.handle.hex())
    if item.stage == CLOSING and look is not None:
        members["balance"] = look["balance"]  # what was in the wallet by then is not in the connection
    return Shown(members | {"error": error.as_json(), "last_look": look}, failed=failed)


def _members(
    item: Connection, shown: str, verbose: bool, ttl: int | None = None, longnames: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A connection's members; ``longnames``: of the subassets that the chain told of, by number."""
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
            "lock_due": item.lock_due,
            "settle_height": item.expiry.settle_height,
            "check_every": check_every(sending.contract.delay),
            "at_risk": at_risk(*sides_of(item)),
            "terms": terms_json(item.terms),
        }
    return told

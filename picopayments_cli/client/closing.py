"""End a closing connection: agree on a close with the hub, else publish its last commit; take everything back.

Every function may be cut off anywhere and called again; with the hub or without.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from picopayments_cli.channel import close
from picopayments_cli.channel.facts import Counter, Facts, Kind
from picopayments_cli.channel.halves import Remainder, check_remainder
from picopayments_cli.channel.messages import CloseReply, CloseRequest, SyncRequest
from picopayments_cli.channel.recovery import Case, is_over, tasks
from picopayments_cli.channel.stages import CLOSED, CLOSING
from picopayments_cli.channel.standing import Found, Standing, doubts, learned, proofs, standing
from picopayments_cli.channel.steps import Name, Wait, plan
from picopayments_cli.channel.values import Handle, Secret, hash_of
from picopayments_cli.channel.wire import Figures
from picopayments_cli.client import funds, history, publishing
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.looking import Look, sides_of
from picopayments_cli.client.session import Session
from picopayments_cli.errors import (
    BadPreviousTransaction,
    BroadcastRefused,
    PicopaymentsError,
    Unreachable,
)

log = logging.getLogger(__name__)
_ROUNDS = 4  # in which the figures of both sides come together, one side's state being however old
_WAITS = {
    Wait.COINS: "the wallet has no confirmed coins that pay for it",
    Wait.MEMO: "the wallet's address has its option set to require a memo",
    Wait.UNKNOWN: "a transaction that this folder does not know has spent the deposit. Only a newer copy of it can "
    "have signed that one: use that copy, if it is there",
}


@dataclass
class Outcome:
    """The result of one sync of a connection: the txids (hex) that it published, and what the hub charged for it.

    The store has the outcomes of payments.
    """

    txids: list[str] = field(default_factory=list)
    sync_fee: int = 0
    closed_by: str | None = None  # the txid of the commit or close that ends the connection
    ended: dict[str, str] = field(default_factory=dict)  # by channel, those among them that end it
    hub_silent: Unreachable | None = None  # why the hub was not told that a connection closes, or was not even asked
    cause: PicopaymentsError | None = None  # why the connection closes, where its deposit never comes


def settle(session: Session, connection: Connection, look: Look, outcome: Outcome) -> Connection:
    """Take a closing connection as far as it goes now, with or without the hub. Repeating it does no harm."""
    if outcome.hub_silent is None and _has_to_ask(connection, look.facts[connection.handle]):
        try:
            connection = agree(session, connection, look)
        except Unreachable as error:
            log.warning("the hub was not told: %s", error.message)
            outcome.hub_silent = error
            connection = session.connection(connection.handle)
            if connection.to_return:
                log.warning(
                    "the hub owes %d of refused payments: only a close with it gives them back", connection.to_return
                )
        except PicopaymentsError as error:
            log.warning("the hub does not close: %s", error.message)
            connection = session.connection(connection.handle)
    return recover(session, connection, look, outcome)


def check_done(session: Session, handle: Handle, outcome: Outcome, tip: int) -> None:
    """See that no connection goes on closing whose hub was not told, before its expiry, from which on all is alone.

    Raises what the hub was silent with.
    """
    silent = outcome.hub_silent
    if silent is None:
        return
    connection = session.connection(handle)
    if connection.stage != CLOSING or tip >= connection.expiry.height:
        return
    raise type(silent)(
        f"The connection {handle.hex()} is closing, and that is not done: its hub was not told. Run `picopayments-cli "
        f"sync` again later. {silent.message}",
        **{**silent.data, "handle": handle.hex()},
    )


def _has_to_ask(connection: Connection, facts: tuple[Facts, Facts]) -> bool:
    """Whether the hub has something to tell: a close, or the remainder of its newest commit if that was published."""
    both_spent = all(item.spend is not None and item.spend.seen.height is not None for item in facts)
    unknown = facts[0].spend is not None and facts[0].spend.kind is Kind.UNKNOWN  # to this file, which may be old
    awaited = connection.duplex.sending.awaited is not None
    if connection.ending.rival is not None and connection.duplex.receiving.anchor is None:
        return False  # neither deposit is there
    return not connection.ending.told and (not both_spent or awaited or unknown)


# The agreed close ---------------------------------------------------------------------------------------------------


def agree(session: Session, connection: Connection, look: Look) -> Connection:
    """Agree with the hub on the closes of both channels, as far as it does; raises what it refuses.

    The first request is without signatures, as a client can't know whether its folder is the newest there was: one
    from a backup would sign away what it has received since.
    """
    figures, said, sign = close.own_figures(connection.duplex), None, False
    home = look.takes_sends(session.wallet.address)
    for _ in range(_ROUNDS):
        connection, request = _ask(session, connection, figures, said, sign=sign and home)
        connection, reply, result = _judge(session, connection, request)
        if result.c2h is not None and (result.h2c is not None or None in (request.anchors.h2c, reply.anchors.h2c)):
            _check_owed(connection, request.figures)
            return _told(session, connection, close.handed_over(request, result), final=result.h2c is not None)
        figures, said, sign = close.next_figures(connection.duplex, reply), reply.standing, True
    log.warning("the hub agrees on no close: each side settles alone")
    _check_owed(connection, close.own_figures(connection.duplex))
    return connection


def _check_owed(connection: Connection, figures: Figures) -> None:
    """Tell where a close gives back less than the hub owes of refused payments: that is in its word alone."""
    given = _given_back(connection, figures)
    if given < connection.to_return:
        log.warning(
            "the hub owes %d of refused payments, and the close gives back %d of it: ask its operator",
            connection.to_return,
            given,
        )


def _given_back(connection: Connection, figures: Figures) -> int:
    """How much more a close leaves this party than has moved."""
    own = close.own_figures(connection.duplex)
    return own.c2h - figures.c2h + figures.h2c - own.h2c


def _ask(
    session: Session, connection: Connection, figures: Figures, peers: Standing | None, *, sign: bool
) -> tuple[Connection, CloseRequest]:
    """Write the next mph_close to disk: what it signs counts as signed from here on."""
    secrets = connection.secrets(session.wallet.key)
    left = _left_secrets(connection)
    if peers is None:
        said = standing(connection.duplex, secrets, left)
    else:
        shown = proofs(peers.doubts, tuple(connection.rows.signed.values()))
        said = standing(connection.duplex, secrets, (*left, *shown), doubts(connection.duplex.receiving, peers.commit))
    state, request = close.ask(connection.duplex, connection.handle, figures, said, secrets, sign=sign)
    counters = connection.ending.counters
    if request.h2c_close is not None and all(item.quantity != figures.h2c for item in counters):
        counters = (*counters, Counter(figures.h2c))
    body = session.sealed("mph_close", request.as_json(), connection.hub_key)
    asked = replace(connection, duplex=state, ending=replace(connection.ending, asked=body, counters=counters))
    return session.save(asked, "close asked"), request


def _left_secrets(connection: Connection) -> tuple[Secret, ...]:
    """The secrets that a sync without an answer carries: they left, whether or not they came."""
    if connection.pending is None:
        return ()
    return SyncRequest.parse(connection.pending.bodies[-1]).half.revokes


def _judge(
    session: Session, connection: Connection, request: CloseRequest
) -> tuple[Connection, CloseReply, close.Outcome]:
    """Send the request; learn from the answer, and write down the closes that are signed whole by it."""
    body = connection.ending.asked or {}
    reply = CloseReply.parse(session.call("mph_close", [body], connection.hub_key).body)
    secrets = connection.secrets(session.wallet.key)
    names = {hash_of(item) for item in reply.standing.revokes} | set(reply.standing.doubts)
    rows = tuple(item for name, item in connection.rows.signed.items() if name in names)
    held = tuple(item for item in connection.duplex.receiving.active if item.revoke_hash in names)
    state, changes = learned(connection.duplex, reply.standing, Found(rows, held), secrets)
    if changes.held or changes.given_back:
        log.warning("this connection's file is not the newest there was: the newer state that the hub shows counts")
    state, result = close.judge(state, request, reply, secrets)
    for error in result.refused:
        log.warning("a signature of the hub's is not taken: %s", error.message)
    ending = connection.ending
    if result.c2h is not None:
        others = [item for item in ending.closings if item.quantity != result.c2h.closing.quantity]
        ending = replace(ending, closings=(*others, result.c2h.closing))
    if result.h2c is not None:
        quantity = result.h2c.closing.quantity
        kept = [item for item in ending.counters if item.quantity != quantity]
        ending = replace(ending, counters=(*kept, Counter(quantity, result.h2c.payer_signature)))
    ending = replace(ending, remainders=_remainders(connection, reply.standing))
    judged = replace(connection.with_state(state, changes), ending=ending)
    return session.save(judged, "close judged"), reply, result


def _remainders(connection: Connection, said: Standing) -> tuple[Remainder, ...]:
    """The hub's signatures for the rest of commits that this file, which may be old, does not know."""
    kept, given, side = connection.ending.remainders, said.remainder, connection.duplex.sending
    if given is None or given in kept or connection.signed(given) or side.anchor is None:
        return kept
    try:
        check_remainder(side.contract, side.anchor, given)
    except PicopaymentsError as error:
        log.warning("a signature of the hub's is not taken: %s", error.message)
        return kept
    return (*kept, given)


def _told(session: Session, connection: Connection, request: CloseRequest, *, final: bool) -> Connection:
    """Hand the signature of the close of c2h to the hub, where this party can't raise that close itself.

    ``final``: both closes are signed. Where the hub's deposit does not count yet, its close is asked for again.
    """
    if request.c2h_signature is not None and not session.sight.nodes.packages:
        body = session.sealed("mph_close", request.as_json(), connection.hub_key)
        connection = session.save(replace(connection, ending=replace(connection.ending, asked=body)), "close handed")
        try:
            session.call("mph_close", [body], connection.hub_key)
        except PicopaymentsError as error:
            log.warning("the hub was not handed its close: %s", error.message)
            return session.connection(connection.handle)
    return session.save(replace(connection, ending=replace(connection.ending, told=final)), "hub told")


# Steps --------------------------------------------------------------------------------------------------------------


def cases(session: Session, connection: Connection, look: Look) -> tuple[Case, Case]:
    """Both channels, as this party stands in them now."""
    paying, paid = sides_of(connection)
    facts = look.facts[connection.handle]
    closing, since = connection.stage in (CLOSING, CLOSED), connection.ending.since
    home, stale = look.takes_sends(session.wallet.address), connection.restored or connection.unproven
    c2h = Case(publishing.C2H, paying, facts[0], connection.expiry, closing, since, home, stale)
    return c2h, Case(publishing.H2C, paid, facts[1], connection.expiry, closing, since, home, stale)


def recover(session: Session, connection: Connection, look: Look, outcome: Outcome) -> Connection:
    """Take back all that can be taken back now, and mark the connection as closed once nothing is left."""
    if connection.stage == CLOSING and over(session, connection, look):
        return _closed(session, connection, look.facts[connection.handle])
    shown = [case for case in cases(session, connection, look) if look.whole or shows(case.facts)]
    found = [task for case in shown for task in tasks(case)]
    for step in plan(found, funds.means(session, look)):  # one that fails does not stop the others
        if step.waits is not None:
            log.warning("the %s waits: %s", step.name.value, _WAITS[step.waits])
            continue
        own_deposit = step.name is Name.DEPOSIT and step.label == publishing.C2H
        if own_deposit and (connection.counted[0] is None or connection.ending.rival is not None):
            continue  # nobody has a claim on it, and one that nobody has seen stays unseen; or it never comes
        if step.short:
            log.warning("the %s pays less than it should: send bitcoin to the wallet", step.name.value)
        if step.draft is None and step.child is None and step.raw is None:
            continue
        try:
            connection = publishing.take(session, connection, step, outcome.txids)
            if step.name in (Name.COMMIT, Name.CLOSE) and step.draft is not None:
                outcome.ended[step.label] = step.draft.txid[::-1].hex()
        except (BroadcastRefused, BadPreviousTransaction) as error:
            log.warning("the %s waits: %s", step.name.value, error.message)
            connection = session.connection(connection.handle)
    return connection


def _closed(session: Session, connection: Connection, facts: tuple[Facts, Facts]) -> Connection:
    """Mark a connection as closed. Payments of a sync that the hub refused count as refused.

    Their tokens stay taken where not all has come back that is owed.
    """
    pending, refused, owed = connection.pending, [], _still_owed(connection, facts)
    if pending is not None and pending.cause is not None:
        refused = [history.refused(item, pending.cause) for item in pending.payments]
        connection = replace(connection, pending=replace(pending, payments=()))
    return session.save(replace(connection, stage=CLOSED, owed=owed), "closed", *refused, history.closed())


def _still_owed(connection: Connection, facts: tuple[Facts, Facts]) -> int:
    """Return how much of what the hub owed has not come back, by what ended the channels."""
    known = [None if item.spend is None else item.spend.known for item in facts]
    own = close.own_figures(connection.duplex)
    c2h, h2c = (had if by is None else by.quantity for by, had in zip(known, (own.c2h, own.h2c), strict=True))
    return max(connection.to_return - max(_given_back(connection, Figures(c2h, h2c)), 0), 0)


def shows(facts: Facts) -> bool:
    """Whether Bitcoin Core shows a deposit, or what has spent it: else it may be on another chain, or far behind."""
    return facts.deposit is not None or facts.spend is not None


def over(session: Session, connection: Connection, look: Look, depth: int = 0) -> bool:
    """Tell whether nothing is left to take back, buried by ``safe_depth`` blocks, or by ``depth`` if that is more.

    Bitcoin Core alone can't tell.
    """
    if not look.whole:
        return False
    depth = max(session.network.safe_depth, depth)
    rate = funds.rate(session, look.view).value
    c2h, h2c = cases(session, connection, look)
    more = depth - session.network.safe_depth
    return is_over(h2c, depth, rate) and (_never_comes(connection, c2h.facts, more) or is_over(c2h, depth, rate))


def _never_comes(connection: Connection, facts: Facts, blocks: int) -> bool:
    """Whether the own deposit is as little there as so many blocks ago, when the connection was stopped for that."""
    ending = connection.ending
    gone = ending.rival is not None and facts.deposit is None and facts.spend is None
    return gone and facts.tip - (ending.since or 0) >= blocks

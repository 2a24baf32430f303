"""Lead a connection through its life: tell its status, take its next step, queue its payments, close it.

Opens no file and no socket: what lasts or leaves goes through the session's doors, and what moves money is on disk
before it leaves. Every function may be cut off anywhere and called again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, OPEN, OPENING, PROPOSED
from picopayments_cli.channel.values import Token
from picopayments_cli.channel2 import duplex as pair
from picopayments_cli.channel2.deadlines import FINAL_DEPTH, is_open, must_close
from picopayments_cli.channel2.facts import Facts, see_deposit
from picopayments_cli.channel2.messages import Payment
from picopayments_cli.channel2.transactions import txid_of
from picopayments_cli.client import history
from picopayments_cli.client2 import opening, publishing
from picopayments_cli.client2.closing import Outcome, is_over, recover, republish, settle
from picopayments_cli.client2.connection import Connection
from picopayments_cli.client2.exchange import exchange, finish, prepare, to_look_at
from picopayments_cli.client2.looking import Look
from picopayments_cli.client2.session import Session
from picopayments_cli.config import place_of
from picopayments_cli.errors import (
    BroadcastRefused,
    ConnectionNotOpen,
    DirtyCommitAddress,
    HubRestored,
    HubUnreachable,
    LocalFiles,
    NotTransferable,
    PicopaymentsError,
    UnknownDeposit,
    UnknownHandle,
)

log = logging.getLogger(__name__)


# Looking ------------------------------------------------------------------------------------------------------------


def observe(session: Session, connection: Connection, facts: tuple[Facts, Facts], held: int) -> Connection:
    """Accept the hub's deposit once it is buried and holds the asset."""
    h2c = see_deposit(connection.duplex.receiving, facts[1], held, session.network.safe_depth)
    return replace(connection, duplex=replace(connection.duplex, receiving=h2c))


def status(session: Session, connection: Connection, facts: tuple[Facts, Facts]) -> str:
    """Tell whether a connection is opening, open, closing or closed."""
    if connection.stage in (CLOSING, CLOSED):
        return CLOSED if connection.stage == CLOSED else CLOSING
    duplex, agreed = connection.duplex, connection.agreed_height
    if connection.stage == AGREED and must_close(duplex, *facts, agreed):
        return CLOSING
    opened = is_open(duplex, *facts, agreed, session.network.safe_depth)
    return OPEN if opened else OPENING


def as_seen(session: Session, connection: Connection, look: Look) -> Connection:
    """Take a closed connection for closing if the chain shows that it is not over any more."""
    if connection.stage != CLOSED or connection.final or is_over(session, connection, look):
        return connection
    return replace(connection, stage=CLOSING)


def unknown_deposit(session: Session, connection: Connection, facts: tuple[Facts, Facts]) -> UnknownDeposit | None:
    """Make the error for a connection that goes on though the chain does not know its deposit; None if it does."""
    if connection.stage != AGREED or facts[0].history:
        return None
    txid = txid_of(connection.deposit_raw)[::-1].hex()
    return UnknownDeposit(
        f"The chain does not know the deposit {txid} of the connection {connection.handle.hex()}. If it was lost on "
        "the way, `sync` publishes it again. If not, this is another chain than that of the connection: see that hub "
        "and node are right, or ask their operator. Nothing is closed by it; `close` does that.",
        handle=connection.handle.hex(),
        txid=txid,
        height=facts[0].tip,
    )


# Syncing ------------------------------------------------------------------------------------------------------------


def sync(session: Session, connection: Connection, look: Look, outcome: Outcome) -> None:
    """Take the next step of a connection: finish opening, exchange payments, close in time, or recover."""
    facts = look.facts[connection.handle]
    connection = publishing.resume(session, connection)
    if connection.stage == CLOSED:
        connection = _look_again(session, connection, look)
    if connection.stage == PROPOSED:
        connection = opening.agree(session, connection)
    if connection.stage == AGREED:
        connection = _live(session, connection, look, outcome)
    if connection.stage == CLOSING:
        connection = _last_answer(session, connection, outcome)
        settle(session, connection, facts, look, outcome)


def _last_answer(session: Session, connection: Connection, outcome: Outcome) -> Connection:
    """Fetch the answer to the sync that has none yet: the payments in it are this party's until it closes."""
    if connection.pending is None or connection.commit_raw is not None or connection.told:
        return connection
    with _closing_all_the_same(outcome, "the last sync stays unanswered"):
        finish(session, connection, outcome)
    return session.connection(connection.handle)


@contextmanager
def _closing_all_the_same(outcome: Outcome, otherwise: str) -> Iterator[None]:
    """Go on whatever the hub answers to a last sync. ``otherwise`` tells the user what an error comes to.

    One that does not answer is told nothing yet: told of the close, it would refuse that sync for ever, and what the
    sync gave back is not taken back.
    """
    try:
        yield
    except LocalFiles:
        raise
    except PicopaymentsError as error:
        log.warning("%s: %s", otherwise, error.message)
        if isinstance(error, HubUnreachable):
            outcome.hub_silent = error


def _live(session: Session, connection: Connection, look: Look, outcome: Outcome) -> Connection:
    """Do one round of a connection that is not closing. It may be closing afterwards."""
    facts = look.facts[connection.handle]
    held = look.held(session.address(connection.duplex.receiving), connection.asset)
    seen = observe(session, connection, facts, held)
    if facts[0].revoked_coins:
        log.warning("somebody paid to a revoked commit's address: its coins are taken away")
        seen = recover(session, seen, facts, look, outcome)
    shown = status(session, seen, facts)
    missing = unknown_deposit(session, seen, facts)
    if shown == OPENING:
        with _instead(BroadcastRefused, missing):
            republish(session, seen, facts, outcome)
        return seen
    if shown == CLOSING:
        if missing is not None:
            raise missing
        if any(channel.truncated for channel in facts):
            log.warning("so many payments went to a deposit's address that its history can't be seen whole: it closes")
        return _closing(session, seen)
    try:
        return exchange(session, seen, outcome)
    except UnknownHandle as error:
        raise _unknown_to_hub(connection) from error
    except (ConnectionNotOpen, DirtyCommitAddress, HubRestored) as error:  # signed by the hub, or found on the chain
        if isinstance(error, ConnectionNotOpen) and error.data.get("stage") == AGREED:
            log.warning("connection %s: the hub does not see it open yet; sync again", connection.handle.hex())
            return session.connection(connection.handle)
        log.warning("connection %s closes: %s", connection.handle.hex(), error.message)
        return _closing(session, session.connection(connection.handle))


@contextmanager
def _instead(refusal: type[PicopaymentsError], error: PicopaymentsError | None) -> Iterator[None]:
    """Raise an error, if there is one, in the place of a refusal."""
    try:
        yield
    except refusal as refused:
        raise error or refused from refused


def _unknown_to_hub(connection: Connection) -> UnknownHandle:
    """Make the error for a hub that has lost its database: it may find it again, so this is no reason to close."""
    return UnknownHandle(
        f"The hub does not know the connection {connection.handle.hex()}. It stays open here. Wait and sync again, or "
        "ask the hub's operator, who may have to bring its database back; `close` settles without the hub, and the "
        "deposit is back when it expires.",
        handle=connection.handle.hex(),
        hub_url=place_of(connection.hub_url),
    )


def _look_again(session: Session, connection: Connection, look: Look) -> Connection:
    """Reopen the closing of a connection if a reorganisation has undone it; mark it as final once none can."""
    if as_seen(session, connection, look).stage == CLOSING:
        log.warning("connection %s is not over any more: it is settled again", connection.handle.hex())
        return _closing(session, connection)
    if is_over(session, connection, look, FINAL_DEPTH):
        return session.save(replace(connection, final=True), "final")
    return connection


# Closing ------------------------------------------------------------------------------------------------------------


def close(session: Session, connection: Connection) -> Connection:
    """Close a connection: sync once more where that can be, publish what was received, and tell the hub.

    Raises Unreachable where nothing could be published and the hub does not answer: ``sync`` goes on from there.
    """
    if connection.stage == PROPOSED:
        return session.save(replace(connection, stage=CLOSED), "given up", history.closed())
    connection = publishing.resume(session, connection)
    look = session.sight.look(session.wallet.address, [connection], beside=to_look_at(connection))
    facts = look.facts[connection.handle]
    outcome = Outcome()
    if connection.stage == AGREED:
        held = look.held(session.address(connection.duplex.receiving), connection.asset)
        seen = observe(session, connection, facts, held)
        if status(session, seen, facts) == OPEN:
            seen = _last_sync(session, seen, outcome)
        connection = _closing(session, seen)
    if connection.stage == CLOSING:
        connection = settle(session, connection, facts, look, outcome)
    if outcome.hub_silent is not None and connection.commit_raw is None:
        raise outcome.hub_silent
    return connection


def _closing(session: Session, connection: Connection) -> Connection:
    """Have the connection do nothing but close from here on."""
    return session.save(replace(connection, stage=CLOSING), "closing", history.closing())


def _last_sync(session: Session, connection: Connection, outcome: Outcome) -> Connection:
    """Send and receive what waits, if possible, also what came since a sync that has no answer yet."""
    with _closing_all_the_same(outcome, "closing without a last sync"):
        finish(session, prepare(session, finish(session, connection, outcome)), outcome)
    return session.connection(connection.handle)


# Queueing -----------------------------------------------------------------------------------------------------------


def queue(session: Session, connection: Connection, payment: Payment) -> Connection:
    """Queue a payment for the next sync, if the connection can move it with all that is queued.

    Raises ConnectionNotOpen, NotTransferable.
    """
    if connection.stage not in (PROPOSED, AGREED):
        raise ConnectionNotOpen(
            "The connection is closed: pay from another one.", handle=connection.handle.hex(), stage=connection.stage
        )
    amounts = [item.amount for item in connection.queue]
    total = sum(amounts) + payment.amount + connection.terms.sync_fee
    duplex = pair.expecting(connection.duplex)
    if not pair.transferable(duplex, total):
        raise NotTransferable(
            f"The connection can't move {payment.amount} on top of {sum(amounts)} queued and the sync's fee of "
            f"{connection.terms.sync_fee}: it can move {pair.most_transferable(duplex, total)} in all.",
            quantity=payment.amount,
            queued=sum(amounts),
            sync_fee=connection.terms.sync_fee,
            transferable=pair.most_transferable(duplex, total),
        )
    return session.save(replace(connection, queue=(*connection.queue, payment)), "payment queued")


def unqueue(session: Session, connection: Connection, token: Token) -> bool:
    """Take a payment out of the queue, and tell whether it was there."""
    queue = tuple(payment for payment in connection.queue if payment.token != token)
    if queue == connection.queue:
        return False
    session.save(replace(connection, queue=queue), "payment cancelled")
    return True

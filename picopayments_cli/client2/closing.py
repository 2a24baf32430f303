"""End a closing connection: publish its last commit, tell the hub, take everything back.

Every function may be cut off anywhere and called again; with the hub or without.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from picopayments_cli.channel import envelope
from picopayments_cli.channel.stages import CLOSED, CLOSING
from picopayments_cli.channel.values import Hash, check_secret, hash_of
from picopayments_cli.channel2 import recovery
from picopayments_cli.channel2.duplex import corrected, standing
from picopayments_cli.channel2.facts import Facts, anchor_spender
from picopayments_cli.channel2.messages import CloseReply, CloseRequest, Receipt
from picopayments_cli.channel2.state import finished
from picopayments_cli.channel2.transactions import (
    Purse,
    txid_of,
)
from picopayments_cli.client import history
from picopayments_cli.client2 import funds, publishing
from picopayments_cli.client2.connection import Connection
from picopayments_cli.client2.looking import Look
from picopayments_cli.client2.session import Session
from picopayments_cli.errors import (
    BadPreviousTransaction,
    BadSecret,
    BroadcastRefused,
    PicopaymentsError,
    Unreachable,
)

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """The result of one sync of a connection: the txids (hex) that it published and the payments that it received."""

    txids: list[str] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    hub_silent: Unreachable | None = None  # why the hub was not told that a connection closes, or was not even asked


def settle(
    session: Session, connection: Connection, facts: tuple[Facts, Facts], look: Look, outcome: Outcome
) -> Connection:
    """Take a closing connection as far as it goes now, with or without the hub. Repeating it does no harm."""
    _republish_claimed(session, connection, facts, outcome)
    if not connection.told and outcome.hub_silent is None:
        try:
            connection = _tell(session, connection)
        except Unreachable as error:
            log.warning("the hub was not told: %s", error.message)
            outcome.hub_silent = error
            connection = session.connection(connection.handle)
        except PicopaymentsError as error:
            log.warning("the hub does not close: %s", error.message)
            connection = session.connection(connection.handle)
    connection = _publish(session, connection, facts[1], outcome)
    return recover(session, connection, facts, look, outcome)


def republish(session: Session, connection: Connection, facts: tuple[Facts, Facts], outcome: Outcome) -> None:
    """Publish the deposit again if the chain does not show it."""
    if all(entry.txid != txid_of(connection.deposit_raw) for entry in facts[0].history):
        outcome.txids.append(session.broadcast(connection.deposit_raw, "deposit"))


def _republish_claimed(session: Session, connection: Connection, facts: tuple[Facts, Facts], outcome: Outcome) -> None:
    """Publish the deposit of a closing connection again, if it was ever in a block: the hub may have a claim on it.

    The hub's own deposit, commits to the hub, and recoveries tell that it was. One that nobody has seen stays unseen.
    """
    c2h, h2c = connection.duplex.sending, connection.duplex.receiving
    seen = h2c.anchor is not None or c2h.active or connection.published
    if not seen or facts[0].tip >= connection.agreed_height + c2h.script.expire:
        return
    try:
        republish(session, connection, facts, outcome)
    except BroadcastRefused as error:
        log.warning("the deposit waits: %s", error.message)


def _publish(session: Session, connection: Connection, facts: Facts, outcome: Outcome) -> Connection:
    """Publish the highest commit received whose secret never left, unless the anchor is spent."""
    channel = connection.duplex.receiving
    if not channel.active or channel.anchor is None or anchor_spender(channel, facts) is not None:
        return connection
    if connection.commit_raw is None:
        raw = finished(channel, channel.active[-1], session.wallet.key)
        connection = session.save(replace(connection, commit_raw=raw), "commit signed")
    if connection.commit_raw is not None:
        try:
            connection = publishing.publish(session, connection, "commit", connection.commit_raw, outcome.txids)
        except BroadcastRefused as error:
            log.warning("the commit waits: %s", error.message)
    return connection


def _tell(session: Session, connection: Connection) -> Connection:
    """Tell the hub before anything is published, and take the spend secret if it gives one.

    The own one goes along where nothing received is left to pay out: no commit was accepted that is not given back, and
    no sync is unanswered, which might bring one.
    """
    nothing_received = not connection.duplex.receiving.active and connection.pending is None
    secret = connection.secrets(session.wallet.key).spend if nothing_received else None
    if secret is not None and not connection.revealed:
        connection = session.save(replace(connection, revealed=True), "spend secret leaves")
    body = CloseRequest(connection.handle, secret, standing(connection.duplex.sending)).as_json()
    request = envelope.seal(session.wallet.key, body)
    answer = CloseReply.parse(session.call("mph_close", [request], connection.hub_key).body)
    given = answer.spend_secret
    if given is not None and hash_of(check_secret(given)) != connection.duplex.sending.script.spend_hash:
        raise BadSecret("The hub's spend secret is not the one of the client's deposit. It was not used.")
    told = replace(connection, told=True, hub_secret=given or None)
    return session.save(_up_to_date(session, told, answer), "hub told")


def _up_to_date(session: Session, connection: Connection, answer: CloseReply) -> Connection:
    """Take over a newer state that the hub shows, as these files may come from a backup.

    So that no commit is published that was given back since, and the highest of those received is.
    """
    secrets, numbers = connection.secrets(session.wallet.key), dict(connection.numbers)

    def is_own(revoke_hash: Hash) -> bool:
        number = secrets.number_of(revoke_hash, connection.next_number)
        if number is not None:
            numbers[revoke_hash] = number
        return revoke_hash in numbers

    before = connection.duplex.receiving
    try:
        if answer.unreadable is not None:
            raise answer.unreadable
        after = corrected(before, answer.standing, is_own) if answer.standing else before
    except PicopaymentsError as error:
        log.warning("what the hub shows of the connection is not taken: %s", error.message)
        return connection
    if after == before:
        return connection
    log.warning("the hub shows that this connection's file is not the newest there was: what it shows counts")
    return replace(connection, duplex=replace(connection.duplex, receiving=after), numbers=numbers, commit_raw=None)


def recover(
    session: Session, connection: Connection, facts: tuple[Facts, Facts], look: Look, outcome: Outcome
) -> Connection:
    """Take back all that can be taken back now, and mark the connection as closed once nothing is left."""
    wallet, depth = session.wallet, session.network.safe_depth
    if connection.stage == CLOSING and is_over(session, connection, look):
        return session.save(replace(connection, stage=CLOSED), "closed", history.closed())
    steps = recovery.recoveries(
        connection.duplex,
        *facts,
        secret=connection.secrets(wallet.key).spend,
        given=connection.hub_secret,
        purse=funds.purse(session, look.view, can_wait=False),
        safe_depth=depth,
    )
    for step in steps:  # one that fails does not stop the others
        try:
            if step.draft is not None:
                raw = funds.signed(session, step.draft)
                connection = publishing.publish(session, connection, step.name, raw, outcome.txids)
        except (BroadcastRefused, BadPreviousTransaction) as error:
            log.warning("the %s waits: %s", step.name, error.message)
        if step.waits is not None:
            log.warning("the %s waits: %s", step.name, step.waits.message)
    return connection


def is_over(session: Session, connection: Connection, look: Look, depth: int = 0) -> bool:
    """Tell whether nothing is left to take back, buried by ``safe_depth`` blocks, or by ``depth`` if that is more."""
    return recovery.is_over(
        connection.duplex,
        *look.facts[connection.handle],
        purse=Purse(session.wallet.unlock, (), look.view.fee_rate),
        safe_depth=max(session.network.safe_depth, depth),
        deposited=bool(connection.agreed_height),
        agreed=connection.agreed_height,
    )

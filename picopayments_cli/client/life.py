"""The life of a connection at the client: what its status is, what a sync does next, what is queued, how it closes.

Opens no file and no socket: what lasts or leaves goes through the session's doors, and what moves money is on disk
before it leaves. Every function may be cut off anywhere and called again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from picopayments_cli.channel import duplex as pair
from picopayments_cli.channel import envelope
from picopayments_cli.channel.deadlines import FINAL_DEPTH, WATCHED_REVOKED, exposed, is_open, must_close
from picopayments_cli.channel.facts import Facts, see_deposit
from picopayments_cli.channel.messages import Payment, SyncReply, SyncRequest
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, OPEN, OPENING, PROPOSED
from picopayments_cli.channel.state import revoke
from picopayments_cli.channel.transactions import txid_of
from picopayments_cli.channel.values import Hash, Secret, Token, hash_of
from picopayments_cli.client import history, opening, publishing
from picopayments_cli.client.closing import Outcome, is_over, recover, republish, settle
from picopayments_cli.client.connection import Connection, Pending
from picopayments_cli.client.session import Look, Session
from picopayments_cli.config import place_of
from picopayments_cli.errors import (
    AmountExceedsSpendable,
    AssetMismatch,
    BadReply,
    BroadcastRefused,
    ConnectionNotOpen,
    ConnectionWornOut,
    DirtyCommitAddress,
    HubRestored,
    HubUnreachable,
    LocalFiles,
    NotTransferable,
    PaymentExceedsReceivable,
    PicopaymentsError,
    UnknownDeposit,
    UnknownHandle,
)

log = logging.getLogger(__name__)
# Causes that lie in the payments: without them the hub takes the same commit and revocations.
_ABOUT_PAYMENTS = (AmountExceedsSpendable, PaymentExceedsReceivable, AssetMismatch)


# Looking ------------------------------------------------------------------------------------------------------------


def observe(session: Session, connection: Connection, facts: tuple[Facts, Facts], held: int) -> Connection:
    """The connection with the hub's deposit accepted, once it is buried and holds the asset."""
    h2c = see_deposit(connection.duplex.receiving, facts[1], held, session.network.safe_depth)
    return replace(connection, duplex=replace(connection.duplex, receiving=h2c))


def status(session: Session, connection: Connection, facts: tuple[Facts, Facts]) -> str:
    """Opening, open, closing or closed."""
    if connection.stage in (CLOSING, CLOSED):
        return CLOSED if connection.stage == CLOSED else CLOSING
    duplex, agreed = connection.duplex, connection.agreed_height
    if connection.stage == AGREED and must_close(duplex, *facts, agreed):
        return CLOSING
    opened = is_open(duplex, *facts, agreed, session.network.safe_depth)
    return OPEN if opened else OPENING


def as_seen(session: Session, connection: Connection, look: Look) -> Connection:
    """The connection as closing, where it was closed and the chain shows that it is not over any more."""
    if connection.stage != CLOSED or connection.final or is_over(session, connection, look):
        return connection
    return replace(connection, stage=CLOSING)


def unknown_deposit(session: Session, connection: Connection, facts: tuple[Facts, Facts]) -> UnknownDeposit | None:
    """What to tell of a connection that goes on, where the chain does not know its deposit; None where it does."""
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
    """Whatever is next for a connection: finish opening, exchange payments, close in time, settle, or recover."""
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
    """Fetch the answer to the sync that is unanswered yet: the payments in it are this party's, until it settles."""
    if connection.pending is None or connection.commit_raw is not None or connection.told:
        return connection
    with _closing_all_the_same(outcome, "the last sync stays unanswered"):
        finish(session, connection, outcome)
    return session.connection(connection.handle)


@contextmanager
def _closing_all_the_same(outcome: Outcome, otherwise: str) -> Iterator[None]:
    """Go on whatever the hub answers to a last sync; ``otherwise`` says what that comes to.

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
    """One round of a connection that is not closing; it may be, afterwards."""
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
    """Raise an error, where there is one, in the place of a refusal."""
    try:
        yield
    except refusal as refused:
        raise error or refused from refused


def _unknown_to_hub(connection: Connection) -> UnknownHandle:
    """A hub that has lost its database may find it again, and settles nothing till then: no reason to close."""
    return UnknownHandle(
        f"The hub does not know the connection {connection.handle.hex()}. It stays open here. Wait and sync again, or "
        "ask the hub's operator, who may have to bring its database back; `close` settles without the hub, and the "
        "deposit is back when it expires.",
        handle=connection.handle.hex(),
        hub_url=place_of(connection.hub_url),
    )


def _look_again(session: Session, connection: Connection, look: Look) -> Connection:
    """A closed connection, settled once more where a reorganisation has undone what closed it, until it is final."""
    if as_seen(session, connection, look).stage == CLOSING:
        log.warning("connection %s is not over any more: it is settled again", connection.handle.hex())
        return _closing(session, connection)
    if is_over(session, connection, look, FINAL_DEPTH):
        return session.save(replace(connection, final=True), "final")
    return connection


def exchange(session: Session, connection: Connection, outcome: Outcome) -> Connection:
    """Finish the sync that has no answer yet, if there is one; then sync, unless that left nothing to send."""
    if connection.pending is not None:
        connection = finish(session, connection, outcome)
        if not connection.queue:
            return connection
    return finish(session, prepare(session, connection), outcome)


def prepare(session: Session, connection: Connection) -> Connection:
    """Put the next sync on disk, whole: the oldest queued payments that the connection can move, and the fee.

    Raises NotTransferable where it can't even move the fee, DirtyCommitAddress, ConnectionWornOut.
    """
    _check_watchable(connection, len(exposed(connection.duplex.sending)) + 1)
    count, total = _payable(connection)
    giving_back = _check_addresses(session, connection, total)
    key, secrets = session.wallet.key, connection.secrets(session.wallet.key)

    def secret_of(revoke_hash: Hash) -> Secret:
        return secrets.revoke(connection.numbers[revoke_hash])

    moved, half = pair.transfer(connection.duplex, total, key, secret_of, giving_back=giving_back)
    number = connection.next_number
    own_hash = secrets.revoke_hash(number)
    payments = connection.queue[:count]
    body = envelope.seal(key, SyncRequest(connection.handle, half, payments, own_hash).as_json())
    prepared = replace(
        connection,
        duplex=pair.hand_out(moved, own_hash),
        next_number=number + 1,
        numbers={**connection.numbers, own_hash: number},
        queue=connection.queue[count:],
        pending=Pending((body,), payments),
    )
    return session.save(prepared, "sync prepared")


def _payable(connection: Connection) -> tuple[int, int]:
    """How many of the queued payments go into the next sync, and what they and its fee come to."""
    fee = connection.terms.sync_fee
    for count in range(len(connection.queue), -1, -1):
        total = fee + sum(payment.amount for payment in connection.queue[:count])
        if pair.transferable(connection.duplex, total):
            return count, total
    raise NotTransferable(
        f"The connection {connection.handle.hex()} can't move the fee of {fee} for a sync: close it.",
        handle=connection.handle.hex(),
        sync_fee=fee,
    )


def _commit_scripts(connection: Connection, planned: pair.Plan) -> tuple[bytes | None, list[bytes]]:
    """The scriptPubKeys of the commit that a sync may sign next, and of those that it is to give back."""
    sending, receiving = connection.duplex.sending, connection.duplex.receiving
    back = [receiving.commit_script(item.revoke_hash).output for item in planned.given_back]
    return (sending.commit_script(sending.requested[-1]).output if sending.requested else None), back


def to_look_at(connection: Connection) -> list[bytes]:
    """The scriptPubKeys that the next sync must know to be clean: asked for beforehand, they cost no round trip."""
    if connection.stage != AGREED or connection.pending is not None:
        return []
    total = connection.terms.sync_fee + sum(payment.amount for payment in connection.queue)
    planned = pair.plan(connection.duplex, total)
    signed, back = _commit_scripts(connection, planned) if planned else (None, [])
    return [*back, *([signed] if signed else [])]


def _check_addresses(session: Session, connection: Connection, total: int) -> bool:
    """Whether commits may be given back in the next sync. Raises DirtyCommitAddress where nothing may be signed.

    A coin that waits on the address of the commit to be signed would get round its delay, once it is revoked; one on
    the address of a commit to be given back lets the hub refuse to credit that.
    """
    planned = pair.plan(connection.duplex, total)
    if planned is None:
        return True
    signed, back = _commit_scripts(connection, planned)
    dirty = session.dirty([*back, *([signed] if signed and (planned.quantity or back) else [])])
    if signed in dirty and (planned.quantity or dirty.intersection(back)):
        raise DirtyCommitAddress(
            "Somebody has paid to the address of the commit that is to be signed. The connection is closed.",
            handle=connection.handle.hex(),
        )
    return not dirty.intersection(back)


def finish(session: Session, connection: Connection, outcome: Outcome) -> Connection:
    """Send the pending sync until the hub answers it, and settle; a sync refused for its payments goes without them.

    Raises what the hub refuses and what its reply fails; the sync stays pending then.
    """
    pending = connection.pending
    if pending is None:
        return connection
    try:
        reply = session.call("mph_sync", pending.bodies, connection.hub_key)
    except _ABOUT_PAYMENTS as error:
        if not pending.bodies[-1].get("sends"):
            raise
        connection = repair(session, connection, pending, error.name)
        return finish(session, connection, outcome)
    answer = SyncReply.parse(reply.body)
    sent = next(body for body in pending.bodies if envelope.digest(body) == reply.request)
    settled = _settle_reply(connection, pending, _creditable(session, connection, answer), sent)
    actions = history.synced(_carried(pending, sent), answer.refused, connection.terms.sync_fee, answer.receipts)
    session.save(settled, "sync settled", *actions)
    outcome.receipts.extend(answer.receipts)
    for refusal in answer.refused:
        log.warning("payment %s was refused (%s); its amount comes back", refusal.token.hex(), refusal.cause)
    return settled


def _creditable(session: Session, connection: Connection, answer: SyncReply) -> SyncReply:
    """The reply without the revocations of commits whose address is not clean: those are not credited.

    None is, where it would expose a commit again that was revoked before, and to whose address somebody has paid
    meanwhile: nobody has watched that, and its coins may be old. Raises ConnectionWornOut, BadSecret.
    """
    sending, secrets = connection.duplex.sending, answer.half.revokes
    after = exposed(revoke(sending, secrets)) if secrets else ()
    _check_watchable(connection, len(after))
    exposed_again = [item for item in after if item.quantity <= sending.moved and item.secret not in secrets]
    again = {sending.commit_script(item.revoke_hash).output for item in exposed_again}
    scripts = {secret: sending.commit_script(hash_of(secret)).output for secret in secrets}
    dirty = session.dirty([*scripts.values(), *again], again=True)
    if dirty:
        log.warning("somebody paid to the address of a commit that is revoked: that is not credited")
    clean = () if dirty & again else tuple(secret for secret in secrets if scripts[secret] not in dirty)
    return replace(answer, half=replace(answer.half, revokes=clean))


def _check_watchable(connection: Connection, revoked: int) -> None:
    """Refuse more revoked commits than can be watched. Raises ConnectionWornOut."""
    if revoked > WATCHED_REVOKED:
        raise ConnectionWornOut(
            f"The connection would have {revoked} revoked commits to watch, more than can be: close it, and connect "
            "anew.",
            handle=connection.handle.hex(),
            revoked=revoked,
        )


def repair(session: Session, connection: Connection, pending: Pending, cause: str) -> Connection:
    """The same sync without its payments: commit and revocations have left the machine, and stay as they are.

    ``cause``: the name of the error that the payments were refused with.
    """
    body = envelope.seal(session.wallet.key, {**pending.bodies[-1], "sends": []})
    repaired = replace(connection, pending=replace(pending, bodies=(*pending.bodies, body)))
    refused = [history.refused(payment, cause) for payment in _carried(pending, pending.bodies[-1])]
    return session.save(repaired, "sync repaired", *refused)


def _settle_reply(
    connection: Connection, pending: Pending, answer: SyncReply, sent: Mapping[str, Any]
) -> Connection:
    """The connection with a reply applied. Raises what the channel's rules refuse; then nothing of it counts."""
    carried = {item["token"] for item in sent["sends"]}
    refused = {refusal.token.hex() for refusal in answer.refused}
    if not refused <= carried:
        raise BadReply("The hub refuses payments that the sync did not carry. Nothing of the reply was taken.")
    kept_back = [payment for payment in pending.payments if payment.token.hex() in refused | _left_out(pending, sent)]
    expected = sum(receipt.amount for receipt in answer.receipts)
    channels, surplus = pair.settle(connection.duplex, answer.half, expected)
    owed = connection.owed + sum(payment.amount for payment in kept_back)
    return replace(
        connection,
        duplex=pair.add_request(channels, answer.next_hash),
        pending=None,
        owed=max(owed - surplus, 0),
    )


def _carried(pending: Pending, sent: Mapping[str, Any]) -> list[Payment]:
    """The payments that a version of a sync carries."""
    carried = {item["token"] for item in sent["sends"]}
    return [payment for payment in pending.payments if payment.token.hex() in carried]


def _left_out(pending: Pending, sent: Mapping[str, Any]) -> set[str]:
    """The tokens of payments that the answered version did not carry."""
    carried = {item["token"] for item in sent["sends"]}
    return {payment.token.hex() for payment in pending.payments} - carried


# Closing ------------------------------------------------------------------------------------------------------------


def close(session: Session, connection: Connection) -> Connection:
    """Close a connection: sync once more where that can be, publish what was received, and tell the hub.

    Raises Unreachable where nothing could be published and the hub does not answer: ``sync`` goes on from there.
    """
    if connection.stage == PROPOSED:
        return session.save(replace(connection, stage=CLOSED), "given up", history.closed())
    connection = publishing.resume(session, connection)
    look = session.look([connection], beside=to_look_at(connection))
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
    """The connection from here on: nothing but settled."""
    return session.save(replace(connection, stage=CLOSING), "closing", history.closing())


def _last_sync(session: Session, connection: Connection, outcome: Outcome) -> Connection:
    """Send and receive what waits, if that can be: what came since a sync that has no answer yet, too."""
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
    """Take a payment out of the queue; whether it was there."""
    queue = tuple(payment for payment in connection.queue if payment.token != token)
    if queue == connection.queue:
        return False
    session.save(replace(connection, queue=queue), "payment cancelled")
    return True

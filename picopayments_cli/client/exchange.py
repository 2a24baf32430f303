"""Exchange payments with the hub in one sync: write the request down, send it until it is answered, take the reply.

All that moves money is on disk before it leaves. Every function may be cut off anywhere and called again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from picopayments_cli.channel import duplex as pair
from picopayments_cli.channel.kept import counted
from picopayments_cli.channel.messages import MOST_PAYMENTS, SyncReply, SyncRequest
from picopayments_cli.channel.payment_request import PAID, receipt_of
from picopayments_cli.channel.wire import Anchors, Payment
from picopayments_cli.client import history, receipts
from picopayments_cli.client.closing import Outcome
from picopayments_cli.client.connection import Connection, Pending
from picopayments_cli.client.history import Action
from picopayments_cli.client.sealed import seal_state
from picopayments_cli.client.session import Session
from picopayments_cli.errors import (
    AmountExceedsSpendable,
    AssetMismatch,
    BadReply,
    HubRestored,
    NotTransferable,
    PaymentExceedsReceivable,
    PicopaymentsError,
    RequestExpired,
    StaleRequest,
    UnknownHandle,
)

log = logging.getLogger(__name__)
# Causes that lie in the payments: without them the hub takes the same commit and revocations.
_ABOUT_PAYMENTS = (AmountExceedsSpendable, PaymentExceedsReceivable, AssetMismatch, RequestExpired)
_FORGETFUL = (HubRestored, UnknownHandle)  # refusals of a hub that may have taken the sync, and lost its database


def exchange(session: Session, connection: Connection, outcome: Outcome) -> Connection:
    """Finish the sync that has no answer yet, if there is one; then sync, unless that left nothing to send."""
    if connection.pending is not None:
        connection = finish(session, connection, outcome)
        if not connection.queue:
            return connection
    return finish(session, prepare(session, connection), outcome, is_new=True)


def pay_lock_fee(session: Session, connection: Connection, outcome: Outcome) -> Connection:
    """Pay what the hub's deposit waits for, by a sync that carries no payments."""
    return finish(session, connection if connection.pending else prepare(session, connection), outcome)


def prepare(session: Session, connection: Connection) -> Connection:
    """Write the next sync to disk: the oldest queued payments that the connection can move, and the fee.

    The sum that is owed pays for them first. Raises NotTransferable where it can't even move the fee, CloseSigned,
    ConnectionNotOpen.
    """
    count, total = payable(connection)
    secrets = connection.secrets(session.wallet.key)
    moved, half, changes = pair.transfer(connection.duplex, total, secrets)
    moved, own_hash = pair.hand_out(moved, secrets)
    payments = connection.queue[:count]
    left = replace(
        connection.with_state(moved, changes, own_hash),
        queue=connection.queue[count:],
        owed=max(connection.owed - sum(payment.amount for payment in payments), 0),
        counter=connection.counter + 1,
    )
    state = seal_state(session.wallet.key, left)
    request = SyncRequest(connection.handle, anchors_of(connection), half, payments, own_hash, left.counter, state)
    body = session.sealed("mph_sync", request.as_json(), connection.hub_key)
    return session.save(replace(left, pending=Pending((body,), payments)), "sync prepared")


def anchors_of(connection: Connection) -> Anchors:
    """Name both anchors as this party sees them; None where no deposit counts."""
    anchors = connection.duplex.sending.anchor, connection.duplex.receiving.anchor
    c2h, h2c = (
        None if anchor is None or height is None else anchor.outpoint
        for anchor, height in zip(anchors, connection.counted, strict=True)
    )
    return Anchors(c2h, h2c)


def payable(connection: Connection) -> tuple[int, int]:
    """Count the queued payments that fit into the next sync, and what it moves for them; none before it is open.

    Raises NotTransferable.
    """
    fee, is_open = connection.next_fee, connection.counted[1] is not None
    for count in range(min(len(connection.queue), MOST_PAYMENTS) if is_open else 0, -1, -1):
        total = connection.to_move(sum(payment.amount for payment in connection.queue[:count]))
        if pair.transferable(connection.duplex, total):
            return count, total
    raise NotTransferable(
        f"The connection {connection.handle.hex()} can't move the fee of {fee} for a sync: close the connection.",
        handle=connection.handle.hex(),
        sync_fee=fee,
    )


def finish(session: Session, connection: Connection, outcome: Outcome, *, is_new: bool = False) -> Connection:
    """Send the pending sync and apply the reply. If the hub refuses the payments, send it once more without them.

    ``is_new``: it has never left before. Raises what the hub refuses and what its reply fails, StaleRequest where its
    number was given to another one; the sync stays pending then.
    """
    pending = connection.pending
    if pending is None:
        return connection
    untaken = is_new or pending.cause is not None
    connection = _sent_again(session, connection, pending)
    try:
        reply = session.call("mph_sync", pending.bodies, connection.hub_key)
    except PicopaymentsError as error:
        return _refused(session, connection, pending, outcome, error, untaken=untaken)
    answer, sent = SyncReply.parse(reply.body), SyncRequest.parse(reply.request).payments
    try:
        settled = _settle_reply(connection, pending, answer, sent)
    except PicopaymentsError:
        _note_remainder(session, connection, answer)
        raise
    settled, arrived = _judged(session, settled, answer, sent)
    carried, cause = {payment.token for payment in sent}, pending.cause or ""
    back = [history.refused(item, cause) for item in pending.payments if item.token not in carried]
    told = history.synced(sent, answer.refused, connection.terms.sync_fee, arrived)
    locked = [history.locked(connection.lock_due)] if connection.lock_due else []
    settled = replace(settled, lock_due=0)
    session.save(settled, "sync settled", *back, *locked, *told)
    outcome.sync_fee += connection.terms.sync_fee
    for refusal in answer.refused:
        log.warning("payment %s was refused (%s); its amount comes back", refusal.token.hex(), refusal.cause)
    return receipts.trade(session, settled)  # now that what was paid is on disk


def _sent_again(session: Session, connection: Connection, pending: Pending) -> Connection:
    """Write down, before a sync leaves again that was refused, that it may be taken now."""
    if pending.cause is None or pending.is_repaired:
        return connection
    return session.save(replace(connection, pending=replace(pending, cause=None)), "sync sent again")


def _refused(
    session: Session,
    connection: Connection,
    pending: Pending,
    outcome: Outcome,
    error: PicopaymentsError,
    *,
    untaken: bool,
) -> Connection:
    """Send a sync without the payments that were refused, or raise why it was not taken, which is written down.

    ``untaken``: the hub had not taken it before.
    """
    if isinstance(error, _ABOUT_PAYMENTS) and SyncRequest.parse(pending.bodies[-1]).payments:
        return finish(session, repair(session, connection, pending, error.name), outcome)
    if isinstance(error, StaleRequest):
        raise _overtaken(session, connection, taken=None if untaken else pending) from None
    if isinstance(error, BadReply):
        raise _overtaken(session, connection) if _is_counted(connection, error.said) else error
    signed = error.said is not None  # which ``Session.call`` has checked
    if signed and not pending.is_repaired and (untaken or not isinstance(error, _FORGETFUL)):
        session.save(replace(connection, pending=replace(pending, cause=error.name)), "sync refused")
    raise error


def _is_counted(connection: Connection, said: Mapping[str, Any] | None) -> bool:
    """Whether the hub's result of another request has the number of the one that waits: then it never takes this."""
    try:
        count = counted(SyncReply.parse(said or {}).count, connection.handle, connection.hub_key)
    except PicopaymentsError:
        return False
    return count.counter == connection.counter


def _overtaken(session: Session, connection: Connection, taken: Pending | None = None) -> StaleRequest:
    """Make the error for a folder that is outdated. ``taken``: its sync, where it may have been; else it is noted."""
    if taken is None and connection.pending is not None:
        connection = replace(connection, pending=replace(connection.pending, cause=StaleRequest.__name__))
        session.save(connection, "sync overtaken")
    handle = connection.handle.hex()
    return StaleRequest(
        f"This folder is outdated: the connection {handle} was synced from a newer copy of it, or from another machine "
        f"with the same words. Go on with that one. If it is gone, `picopayments-cli close {handle}`: the hub shows "
        "what is newer, and nothing is lost.",
        handle=handle,
        counter=connection.counter,
    )


def _judged(
    session: Session, connection: Connection, answer: SyncReply, sent: Sequence[Payment]
) -> tuple[Connection, list[Action]]:
    """Take note of which requests are paid, and of the receipts to wait for; the payments received, as events.

    A result whose commit may be worth nothing pays no request.
    """
    verdicts, requests = receipts.judged(connection, answer.receipts)
    if answer.half.commit is not None and connection.is_doubtful:
        log.warning("the payments of the last sync are not proven: they pay no payment request")
        verdicts, requests = [None] * len(answer.receipts), connection.requests
    due = receipts.due_after(connection, sent, answer.refused)
    salts = {item.token: item.salt for item in requests}
    arrived = []
    for payment, verdict in zip(answer.receipts, verdicts, strict=True):
        salt = salts[payment.token] if verdict == PAID else None
        proof = None if salt is None else receipt_of(session.wallet.key, connection.handle, salt)
        arrived.append(history.received(payment, verdict, proof))
    return replace(connection, requests=requests, receipts_due=due), arrived


def _note_remainder(session: Session, connection: Connection, answer: SyncReply) -> None:
    """Write down that a commit came in a reply of which nothing is credited: its remainder is owed all the same."""
    noted = pair.noted(connection.duplex, answer.half)
    if noted != connection.duplex:
        session.save(replace(connection, duplex=noted), "commit noted")


def repair(session: Session, connection: Connection, pending: Pending, cause: str) -> Connection:
    """Sign the sync anew without its payments. Commit and revocations have left the machine and stay as they are.

    ``cause``: the name of the error that the payments were refused with. They count as refused once the new sync is
    answered: till then the hub may still answer the one that carries them.
    """
    last = SyncRequest.parse(pending.bodies[-1])
    body = session.sealed("mph_sync", replace(last, payments=()).as_json(), connection.hub_key)
    repaired = replace(pending, bodies=(*pending.bodies, body), cause=cause)
    return session.save(replace(connection, pending=repaired), "sync repaired")


def _settle_reply(connection: Connection, pending: Pending, answer: SyncReply, sent: Sequence[Payment]) -> Connection:
    """Apply a reply, all of it or nothing. ``sent``: the payments that it answers. Raises what the channel refuses."""
    carried = {payment.token for payment in sent}
    refused = {refusal.token for refusal in answer.refused}
    if not refused <= carried:
        raise BadReply("The hub refuses payments that the sync did not carry. Nothing of the reply was taken.")
    kept_back = [payment for payment in pending.payments if payment.token not in carried - refused]
    if counted(answer.count, connection.handle, connection.hub_key).counter != connection.counter:
        raise BadReply("The hub counts another number of syncs. Nothing of the reply was taken.", **answer.count)
    expected = sum(receipt.amount for receipt in answer.receipts)
    state, changes, surplus = pair.settle(connection.duplex, answer.half, expected)
    state = pair.add_request(state, answer.next_hash, seen=connection.knows(answer.next_hash))
    owed = connection.owed + sum(payment.amount for payment in kept_back)
    return replace(connection.with_state(state, changes), pending=None, owed=max(owed - surplus, 0), count=answer.count)

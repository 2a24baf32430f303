"""Exchange payments with the hub in one sync: write the request down, send it until it is answered, take the reply.

What moves money is on disk before it leaves. Every function may be cut off anywhere and called again.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from picopayments_cli.channel import envelope
from picopayments_cli.channel.stages import AGREED
from picopayments_cli.channel.values import Hash, Secret, hash_of
from picopayments_cli.channel2 import duplex as pair
from picopayments_cli.channel2.deadlines import WATCHED_REVOKED, exposed
from picopayments_cli.channel2.messages import Payment, SyncReply, SyncRequest
from picopayments_cli.channel2.state import revoke
from picopayments_cli.client import history
from picopayments_cli.client2.closing import Outcome
from picopayments_cli.client2.connection import Connection, Pending
from picopayments_cli.client2.session import Session
from picopayments_cli.errors import (
    AmountExceedsSpendable,
    AssetMismatch,
    BadReply,
    ConnectionWornOut,
    DirtyCommitAddress,
    NotTransferable,
    PaymentExceedsReceivable,
)

log = logging.getLogger(__name__)
# Causes that lie in the payments: without them the hub takes the same commit and revocations.
_ABOUT_PAYMENTS = (AmountExceedsSpendable, PaymentExceedsReceivable, AssetMismatch)


def exchange(session: Session, connection: Connection, outcome: Outcome) -> Connection:
    """Finish the sync that has no answer yet, if there is one; then sync, unless that left nothing to send."""
    if connection.pending is not None:
        connection = finish(session, connection, outcome)
        if not connection.queue:
            return connection
    return finish(session, prepare(session, connection), outcome)


def prepare(session: Session, connection: Connection) -> Connection:
    """Write the next sync to disk: the oldest queued payments that the connection can move, and the fee.

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
    own_hashes = prepared.own_hashes  # without those of the commits that are given back here
    numbers = {item: number for item, number in prepared.numbers.items() if item in own_hashes}
    return session.save(replace(prepared, numbers=numbers), "sync prepared")


def _payable(connection: Connection) -> tuple[int, int]:
    """Count the queued payments that fit into the next sync, and add them and its fee up."""
    fee = connection.terms.sync_fee
    for count in range(len(connection.queue), -1, -1):
        total = fee + sum(payment.amount for payment in connection.queue[:count])
        if pair.transferable(connection.duplex, total):
            return count, total
    raise NotTransferable(
        f"The connection {connection.handle.hex()} can't move the fee of {fee} for a sync, so it can neither pay "
        "nor be paid: close it.",
        handle=connection.handle.hex(),
        sync_fee=fee,
    )


def _commit_scripts(connection: Connection, planned: pair.Plan) -> tuple[bytes | None, list[bytes]]:
    """Find the scriptPubKeys of the commit that a sync may sign next and of those that it is to give back."""
    sending, receiving = connection.duplex.sending, connection.duplex.receiving
    back = [receiving.commit_script(item.revoke_hash).output for item in planned.given_back]
    return (sending.commit_script(sending.requested[-1]).output if sending.requested else None), back


def to_look_at(connection: Connection) -> list[bytes]:
    """List the scriptPubKeys that must be clean for the next sync. Asked for beforehand, they cost no round trip."""
    if connection.stage != AGREED or connection.pending is not None:
        return []
    total = connection.terms.sync_fee + sum(payment.amount for payment in connection.queue)
    planned = pair.plan(connection.duplex, total)
    signed, back = _commit_scripts(connection, planned) if planned else (None, [])
    return [*back, *([signed] if signed else [])]


def _check_addresses(session: Session, connection: Connection, total: int) -> bool:
    """Tell whether the next sync may give commits back. Raises DirtyCommitAddress if it may sign nothing.

    A coin that waits on the address of the commit to be signed would get round its delay, once it is revoked; one on
    the address of a commit to be given back lets the hub refuse to credit that.
    """
    planned = pair.plan(connection.duplex, total)
    if planned is None:
        return True
    signed, back = _commit_scripts(connection, planned)
    dirty = session.sight.dirty([*back, *([signed] if signed and (planned.quantity or back) else [])])
    if signed in dirty and (planned.quantity or dirty.intersection(back)):
        raise DirtyCommitAddress(
            "Somebody has paid to the address of the commit that is to be signed. The connection is closed.",
            handle=connection.handle.hex(),
        )
    return not dirty.intersection(back)


def finish(session: Session, connection: Connection, outcome: Outcome) -> Connection:
    """Send the pending sync and apply the reply. If the hub refuses the payments, send it once more without them.

    Raises what the hub refuses and what its reply fails; the sync stays pending then.
    """
    pending = connection.pending
    if pending is None:
        return connection
    try:
        reply = session.call("mph_sync", pending.bodies, connection.hub_key)
    except _ABOUT_PAYMENTS as error:
        if not SyncRequest.parse(pending.bodies[-1]).payments:
            raise
        connection = repair(session, connection, pending, error.name)
        return finish(session, connection, outcome)
    answer = SyncReply.parse(reply.body)
    sent = SyncRequest.parse(reply.request).payments
    settled = _settle_reply(connection, pending, _creditable(session, connection, answer), sent)
    actions = history.synced(sent, answer.refused, connection.terms.sync_fee, answer.receipts)
    session.save(settled, "sync settled", *actions)
    outcome.receipts.extend(answer.receipts)
    for refusal in answer.refused:
        log.warning("payment %s was refused (%s); its amount comes back", refusal.token.hex(), refusal.cause)
    return settled


def _creditable(session: Session, connection: Connection, answer: SyncReply) -> SyncReply:
    """Leave out of the reply the revocations of commits whose address is not clean: they are not credited.

    Leave out all if they would expose a commit again that was revoked before and to whose address somebody has paid
    meanwhile: nobody has watched that, and its coins may be old. Raises ConnectionWornOut, BadSecret.
    """
    sending, secrets = connection.duplex.sending, answer.half.revokes
    after = exposed(revoke(sending, secrets)) if secrets else ()
    _check_watchable(connection, len(after))
    exposed_again = [item for item in after if item.quantity <= sending.moved and item.secret not in secrets]
    again = {sending.commit_script(item.revoke_hash).output for item in exposed_again}
    scripts = {secret: sending.commit_script(hash_of(secret)).output for secret in secrets}
    dirty = session.sight.dirty([*scripts.values(), *again], again=True)
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
    """Sign the sync anew without its payments. Commit and revocations have left the machine and stay as they are.

    ``cause``: the name of the error that the payments were refused with.
    """
    last = pending.bodies[-1]
    body = envelope.seal(session.wallet.key, SyncRequest.without_payments(last))
    repaired = replace(connection, pending=replace(pending, bodies=(*pending.bodies, body)))
    refused = [history.refused(payment, cause) for payment in SyncRequest.parse(last).payments]
    return session.save(repaired, "sync repaired", *refused)


def _settle_reply(connection: Connection, pending: Pending, answer: SyncReply, sent: tuple[Payment, ...]) -> Connection:
    """Apply a reply, all of it or nothing. ``sent``: the payments that it answers. Raises what the channel refuses."""
    carried = {payment.token for payment in sent}
    refused = {refusal.token for refusal in answer.refused}
    if not refused <= carried:
        raise BadReply("The hub refuses payments that the sync did not carry. Nothing of the reply was taken.")
    kept_back = [payment for payment in pending.payments if payment.token not in carried - refused]
    expected = sum(receipt.amount for receipt in answer.receipts)
    channels, surplus = pair.settle(connection.duplex, answer.half, expected)
    owed = connection.owed + sum(payment.amount for payment in kept_back)
    return replace(
        connection,
        duplex=pair.add_request(channels, answer.next_hash),
        pending=None,
        owed=max(owed - surplus, 0),
    )

"""The exchange of one sync: take the client's half, book its payments, and reply with what it is owed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from starlette.concurrency import run_in_threadpool

from picopayments_cli.channel import envelope
from picopayments_cli.channel.stages import OPEN
from picopayments_cli.channel.values import Handle, Hash, Pubkey, Secret, hash_of
from picopayments_cli.channel2.duplex import (
    Duplex,
    Half,
    accept,
    add_request,
    deliverable,
    expecting,
    hand_out,
    most_transferable,
    transfer,
    transferable,
)
from picopayments_cli.channel2.messages import Payment, Receipt, Refusal, SyncReply, SyncRequest
from picopayments_cli.channel2.state import KEPT_REQUESTS, Channel
from picopayments_cli.errors import (
    AmountExceedsSpendable,
    AssetMismatch,
    BadClientSignature,
    ConnectionNotOpen,
    DirtyCommitAddress,
    PaymentExceedsReceivable,
    PicopaymentsError,
    UnknownRevokeHash,
)
from picopayments_cli.hub import stale_database
from picopayments_cli.hub2 import chores
from picopayments_cli.hub2.account import Account
from picopayments_cli.hub2.book import UnitOfWork
from picopayments_cli.hub2.hub import Hub
from picopayments_cli.web import RawJson

Reply = RawJson | Awaitable[RawJson]


class Exchange:
    """``mph_sync`` of one hub."""

    def __init__(self, hub: Hub, reply: Callable[[Mapping[str, Any], bytes], RawJson]) -> None:
        """``reply`` seals the answer to the request of a digest."""
        self._hub = hub
        self._reply = reply
        self._checking = asyncio.Lock()

    def sync(self, body: Mapping[str, Any]) -> Reply:
        """Answer one sync, at once unless the addresses of the client's next commits must be looked at first.

        A request whose ``next_revoke_secret_hash`` is that of the last one is that one again, and gets its stored
        reply. Raises what the channel's rules refuse, ConnectionNotOpen, StaleRequest, AmountExceedsSpendable, and
        HubRestored where the request reveals that the database is stale.
        """
        request = SyncRequest.parse(body)
        if self._hub.book.lacks_checked_hash(request.handle):
            return self._check_and_exchange(body, request)
        return self._exchange(body, request)

    async def _check_and_exchange(self, body: Mapping[str, Any], request: SyncRequest) -> RawJson:
        """Look at the addresses of all connections that wait for it in one question, then answer.

        The client is faster than the rounds that look at them. A request that comes meanwhile waits for that question.
        """
        async with self._checking:
            if self._hub.book.lacks_checked_hash(request.handle):
                waiting = {request.handle, *self._hub.book.unchecked()[: chores.CHECKED_AT_ONCE]}
                await run_in_threadpool(chores.check_hashes, self._hub, waiting)
        return self._exchange(body, request)

    def _exchange(self, body: Mapping[str, Any], request: SyncRequest) -> RawJson:
        """Apply the sync and answer it; if it reveals that the database is stale, give up all connections."""
        try:
            with self._hub.book.transaction("sync") as work:
                account = work.get(request.handle)
                digest = signed(body, account.client)
                if account.restored:
                    raise stale_database.refusal(account.handle)
                if request.next_hash == account.last_hash and account.last_reply is not None:
                    return RawJson(account.last_reply)
                work.take_hash(request.handle, request.next_hash)
                if account.stage != OPEN:
                    raise ConnectionNotOpen(
                        "The connection is not open at the hub. Run status: one that is closing settles by itself.",
                        handle=request.handle.hex(),
                        stage=account.stage,
                    )
                if account.listed:
                    work.finish_payments(account.handle)
                account, refused = self._take(work, account, request)
                reply = self._give(work, account, request, refused, digest)
        except UnknownRevokeHash:
            if stale_database.notice(self._hub, self._hub.book.look_up(request.handle), request.half.offer):
                raise stale_database.refusal(request.handle) from None
            raise
        self._hub.wake()  # to look at the addresses of the client's next commits
        return reply

    def _take(self, work: UnitOfWork, account: Account, request: SyncRequest) -> tuple[Account, tuple[Refusal, ...]]:
        """Apply the client's half, take the fee, and book the payments."""
        before = account.channels
        after = accept(before, request.half)
        self._check_clean(work, account.handle, before, after)
        due = account.due + after.net - before.net - account.terms.sync_fee
        if due < 0:
            raise AmountExceedsSpendable(
                f"The request moves {after.net - before.net}, too little for the fee of {account.terms.sync_fee}.",
                moved=after.net - before.net,
                sync_fee=account.terms.sync_fee,
            )
        fresh = after.sending.revoked[len(before.sending.revoked) :]
        work.revoke(account.handle, [(item.revoke_hash, item.secret) for item in fresh])
        if request.half.offer:
            work.add_commit(account, after.receiving.active[-1], sent=False)
        account = replace(account, duplex=after, due=due)
        work.keep(account)
        refused = []
        for payment in request.payments:
            try:
                account = self._book(work, account, payment)
            except PicopaymentsError as error:
                if not request.partial:
                    raise
                refused.append(Refusal(payment.token, error.name))
        return account, tuple(refused)

    def _check_clean(self, work: UnitOfWork, handle: Handle, before: Duplex, after: Duplex) -> None:
        """Credit no revocation of a commit to whose address somebody has paid. Raises DirtyCommitAddress.

        Nor one that would expose a commit again that was revoked before and paid to: its coins may be old by now.
        """
        fresh = (item.revoke_hash for item in after.sending.revoked[len(before.sending.revoked) :])
        paid = next((item for item in fresh if self._paid(work, before.sending, item)), None)
        if paid is None and after.sending.moved < before.sending.moved:
            paid = work.paid_revoked(handle, after.sending.moved, before.sending.moved)
        if paid is not None:
            raise DirtyCommitAddress(
                "Somebody has paid to the address of a commit that is given back. Close the connection.",
                hash=paid.hex(),
            )

    def _paid(self, work: UnitOfWork, channel: Channel, revoke_hash: Hash) -> bool:
        return bool(self._hub.follower.history(work.db, channel.commit_script(revoke_hash).output))

    def _book(self, work: UnitOfWork, account: Account, payment: Payment) -> Account:
        """Book one payment to its payee, whose connection must be able to take it with all that waits for it."""
        if payment.amount > account.due:
            raise AmountExceedsSpendable(
                f"A payment of {payment.amount} exceeds the {account.due} that the request moved for it.",
                amount=payment.amount,
                spendable=account.due,
            )
        payee = work.get(payment.payee) if payment.payee else None
        if payee is not None:
            _check_payee(account, payee, payment)
        booked = work.add_payment(account.handle, payment.payee, payment.amount, payment.token)
        account = replace(account, due=account.due - payment.amount)
        work.keep(account)
        if payee is not None:
            receiver = account if payee.handle == account.handle else payee
            receiver = replace(receiver, waiting=(*receiver.waiting, booked))
            work.keep(receiver)
            account = receiver if payee.handle == account.handle else account
        return account

    def _give(
        self, work: UnitOfWork, account: Account, request: SyncRequest, refused: tuple[Refusal, ...], digest: bytes
    ) -> RawJson:
        """Move what is due and what waits to the client, and write the reply before it leaves."""
        count, total = deliverable(account.channels, account.due, [item.amount for item in account.waiting])
        listed = account.waiting[:count]
        duplex, half = self._transfer(work, account, total)
        number = account.next_number
        own_hash = account.secrets(self._hub.key).revoke_hash(number)
        add_request(duplex, request.next_hash)  # refuses a repeated one; it counts once its address was looked at
        duplex = hand_out(duplex, own_hash)
        receipts = tuple(Receipt(item.payer, item.amount, item.token) for item in listed)
        reply = self._reply(SyncReply(half, receipts, own_hash, refused).as_json(), digest)
        work.list_payments(listed)
        due = account.due + sum(item.amount for item in listed) - total
        work.put(
            replace(
                account,
                duplex=duplex,
                due=due,
                next_number=number + 1,
                numbers={**account.numbers, own_hash: number},
                unchecked=(*account.unchecked, request.next_hash)[-KEPT_REQUESTS:],
                listed=bool(listed),
                waiting=account.waiting[count:],
                last_hash=request.next_hash,
                last_reply=reply.text,
            )
        )
        return reply

    def _transfer(self, work: UnitOfWork, account: Account, total: int) -> tuple[Duplex, Half]:
        secrets = account.secrets(self._hub.key)

        def secret_of(revoke_hash: Hash) -> Secret:
            return secrets.revoke(account.numbers[revoke_hash])

        duplex, half = transfer(account.channels, total, self._hub.key, secret_of)
        work.revoke(account.handle, [(hash_of(secret), None) for secret in half.revokes])
        if half.offer:
            work.add_commit(account, duplex.sending.active[-1], sent=True)
        return duplex, half


def signed(body: Mapping[str, Any], client: Pubkey) -> bytes:
    """Check that its client has signed a request, and return its digest. Raises BadClientSignature."""
    digest = envelope.signed_by(body, client)
    if digest is None:
        raise BadClientSignature("The request is not signed by the connection's key.")
    return digest


def _check_payee(account: Account, payee: Account, payment: Payment) -> None:
    if payee.asset_id != account.asset_id:
        raise AssetMismatch(
            f"The payee is connected in {payee.asset}, not in {account.asset}.", asset=account.asset, payee=payee.asset
        )
    if payee.stage != OPEN:
        raise ConnectionNotOpen("The payee's connection is not open.", handle=payee.handle.hex(), stage=payee.stage)
    pending = payee.due + sum(item.amount for item in payee.waiting) + payment.amount
    most = most_transferable(expecting(payee.channels), pending)
    if most < pending:
        raise PaymentExceedsReceivable(
            f"The payee can take {max(most - pending + payment.amount, 0)} now, not {payment.amount}.",
            amount=payment.amount,
            receivable=max(most - pending + payment.amount, 0),
        )
    own = Duplex(payee.channels.receiving, payee.channels.sending)  # as the payee has them
    if not transferable(expecting(own), payee.terms.sync_fee):
        raise PaymentExceedsReceivable(
            f"The payee has too little in its connection for the fee of {payee.terms.sync_fee}, so no sync of it could "
            "fetch the payment.",
            amount=payment.amount,
            receivable=0,
        )

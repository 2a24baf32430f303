"""The exchange of one sync: take the client's half, book its payments, and reply with what it is owed.

It is one transaction of the database and asks the chain nothing: what the follower saw last must be fresh.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from picopayments_cli.channel.duplex import (
    accept,
    add_request,
    charged,
    deliverable,
    expecting,
    hand_out,
    most_transferable,
    transfer,
)
from picopayments_cli.channel.messages import MOST_PAYMENTS, SyncReply, SyncRequest
from picopayments_cli.channel.payment_request import is_over
from picopayments_cli.channel.stages import AGREED, CLOSING, OPEN
from picopayments_cli.channel.state import Changes
from picopayments_cli.channel.wire import Anchors, Payment, Receipt, RefusedPayment
from picopayments_cli.errors import (
    AmountExceedsSpendable,
    AssetMismatch,
    ConnectionNotOpen,
    FeeTooHigh,
    NodeBehind,
    PaymentExceedsReceivable,
    PicopaymentsError,
    RequestExpired,
    StaleRequest,
    UnknownRevokeHash,
)
from picopayments_cli.hub.account import Account, Queue, Waiting
from picopayments_cli.hub.book import UnitOfWork
from picopayments_cli.hub.hub import Ask, Hub
from picopayments_cli.hub.kept import signed_count
from picopayments_cli.hub.sealing import Sealing
from picopayments_cli.hub.stopping import give_up_noticed, refusal
from picopayments_cli.web import RawJson

READ_AT_ONCE = 3  # payees of one sync that are read with its payer
MOST_WAITING = 5 * MOST_PAYMENTS  # for one payee
MOST_LISTED_BYTES = 262_144  # of the payments in a reply, which is kept until the next one
_LISTED_BYTES = 160  # of a payment in a reply, beside its token


class Exchange:
    """``mph_sync`` of one hub."""

    def __init__(self, hub: Hub, sealing: Sealing) -> None:
        self._hub = hub
        self._sealing = sealing

    def sync(self, body: Mapping[str, Any]) -> RawJson:
        """Answer one sync.

        A request whose ``next_revoke_hash`` is that of the last one is that one again, and gets its stored reply,
        whatever has happened since. Raises what the channel's rules refuse, ConnectionNotOpen, NodeBehind,
        AnchorsDiffer, StaleRequest, AmountExceedsSpendable, and HubRestored where the request reveals that the database
        is old.
        """
        request = SyncRequest.parse(body)
        digest = self._sealing.signed(body, self._hub.book.client(request.handle))
        try:
            reply, is_open = self._hub.book.run("sync", lambda work: self._exchange(work, body, request, digest))
        except UnknownRevokeHash:
            if not self._handed_out(request):
                raise
            give_up_noticed(self._hub, request.handle)
            raise refusal(request.handle) from None
        if not is_open:  # the fee is paid for which the hub's deposit waits
            self._hub.ask(Ask.NOW, request.handle)
            self._hub.wake()
        return reply

    def _handed_out(self, request: SyncRequest) -> bool:
        """Whether a commit is on a hash of the hub's own that the database does not know."""
        account = self._hub.book.look_up(request.handle)
        begin, secrets = account.channels.receiving.next_number, account.fixed.secrets(self._hub.key)
        made = request.half.commit
        return made is not None and secrets.number_of(made.revoke_hash, begin) is not None

    def _exchange(
        self, work: UnitOfWork, body: Mapping[str, Any], request: SyncRequest, digest: bytes
    ) -> tuple[RawJson, bool]:
        """Apply the sync and answer it, in one transaction. Return also whether the connection is open."""
        payees = [item.payee for item in request.payments if item.payee is not None]
        if payees:
            work.lock((request.handle, *payees))
        work.read((request.handle, *payees[:READ_AT_ONCE]), len(request.half.revokes))
        account = work.get(request.handle)
        if request.next_hash == account.last_hash and account.last_reply is not None:
            return RawJson(account.last_reply), True
        self._check(work, account, request)
        fresh = work.take_hash(request.handle, request.next_hash)
        if account.listed:
            work.finish_payments(account.handle)
        account, changes, refused = self._take(work, account, request)
        if request.counter != account.counter + 1:  # of syncs that this database knows nothing of
            raise refusal(account.handle)
        account = replace(account, counter=request.counter, last_request=json.dumps(body))
        return self._give(work, account, request, changes, refused, digest, fresh=fresh), account.stage == OPEN

    def _check(self, work: UnitOfWork, account: Account, request: SyncRequest) -> None:
        """Make nothing new for a connection that is stopped, or whose chain nobody has seen just now."""
        if account.stale:
            raise refusal(account.handle)
        if request.counter <= account.counter:
            raise StaleRequest(
                f"The request is the sync {request.counter} of the connection, which has had {account.counter}: it "
                "comes from an older copy of the wallet's files, or from a second wallet with the same words. Use the "
                "newest one, or close the connection.",
                handle=account.handle.hex(),
                counter=account.counter,
            )
        if not self._is_open(account, *((AGREED,) if self._awaits_fee(account) else ())):
            raise self._not_open(account)
        if not self._hub.follower.is_fresh(self._hub.fresh_seconds):
            raise NodeBehind(
                "The hub has not seen the chain's newest state just now, and signs nothing new meanwhile. Run "
                "`picopayments-cli sync` again in a while.",
                seconds=self._hub.fresh_seconds,
            )
        _anchors(account).check(request.anchors)
        contract, expiry = account.channels.receiving.contract, account.fixed.agreed.expiry
        if request.half.commit is not None and not self._hub.may_take(contract, expiry):
            raise FeeTooHigh(
                f"At the fees of now, {self._hub.rate.value} sat/vB, the hub could not settle another commit in time. "
                "Run `picopayments-cli sync` again once they are lower.",
                fee_rate=self._hub.rate.value,
            )

    def _not_open(self, account: Account) -> ConnectionNotOpen:
        """Make the refusal, which names why the hub has ended the connection where it has by itself."""
        told = "The connection is not open at the hub."
        if account.stage == CLOSING and self._hub.draining:
            told = "The hub shuts down, and has ended the connection: it closes."
        elif account.stage == CLOSING:
            told = "The hub has ended the connection: it closes."
        return ConnectionNotOpen(
            f"{told} If its last sync has no answer yet, fetch its answer first.",
            handle=account.handle.hex(),
            stage=account.stage,
            draining=self._hub.draining,
        )

    def _awaits_fee(self, account: Account) -> bool:
        """Whether the hub's deposit waits for nothing but the lock fee."""
        return account.lock_due > 0 and account.channels.receiving.anchor is not None and not self._hub.draining

    def _is_open(self, account: Account, *more: str) -> bool:
        """Whether something may still move: not stopped, and not inside the margin, whatever the rounds have done.

        ``more``: other stages that count as open.
        """
        tip = self._hub.follower.height
        stopped = account.stage not in (OPEN, *more) or account.handle in self._hub.marks.handles
        return not stopped and tip is not None and tip < account.fixed.agreed.expiry.settle_height

    def _take(
        self, work: UnitOfWork, account: Account, request: SyncRequest
    ) -> tuple[Account, Changes, tuple[RefusedPayment, ...]]:
        """Apply the client's half, take the fees, and book the payments."""
        before = account.channels
        after, changes = accept(before, request.half)
        moved, fee = after.net - before.net, account.fixed.terms.sync_fee + account.lock_due
        due = account.due + moved - fee
        if due < 0:
            raise AmountExceedsSpendable(
                f"The request moves {moved}, too little for the fee of {fee}.",
                moved=moved,
                sync_fee=account.fixed.terms.sync_fee,
                lock_fee=account.lock_due,
            )
        account = replace(account, duplex=after, due=due, lock_due=0)
        work.keep(account)
        refused = []
        for payment in request.payments:
            try:
                account = self._book(work, account, payment)
            except PicopaymentsError as error:
                if not request.partial:
                    raise
                refused.append(RefusedPayment(payment.token, error.name))
        return account, changes, tuple(refused)

    def _book(self, work: UnitOfWork, account: Account, payment: Payment) -> Account:
        """Book one payment to its payee, whose connection must be able to take it with all that waits for it."""
        if payment.amount > account.due:
            raise AmountExceedsSpendable(
                f"A payment of {payment.amount} exceeds the {account.due} that the request moved for it.",
                amount=payment.amount,
                spendable=account.due,
            )
        if payment.expires is not None and is_over(payment.expires, time.time()):
            raise RequestExpired("The request that the payment pays has expired.", expires=payment.expires)
        payee = work.get(payment.payee) if payment.payee else None
        if payee is not None:
            payee = self._checked_payee(work, account, payee, payment)
        booked = work.add_payment(account.handle, payment)
        account = replace(account, due=account.due - payment.amount)
        if payee is not None and payee.handle == account.handle:
            account = replace(account, waiting=account.waiting + booked)
        elif payee is not None:
            work.keep(replace(payee, waiting=payee.waiting + booked))
        work.keep(account)
        return account

    def _checked_payee(self, work: UnitOfWork, account: Account, payee: Account, payment: Payment) -> Account:
        """The payee's connection, with the commits loaded that its reply may give back. Raises what refuses it."""
        own, theirs = account.fixed, payee.fixed
        if theirs.asset_id != own.asset_id:
            raise AssetMismatch(
                f"The payee is connected in {theirs.asset}, not in {own.asset}.", asset=own.asset, payee=theirs.asset
            )
        if not self._is_open(payee):
            raise ConnectionNotOpen("The payee's connection is not open.", handle=payee.handle.hex(), stage=payee.stage)
        _check_place(payee.waiting.count, work.share(payee.handle, account.handle), payment)
        pending, fee = payee.pending + payment.amount, theirs.terms.sync_fee
        payee = work.to_move(payee, pending)
        fetching = charged(payee.channels, fee)
        if fetching is None:
            raise PaymentExceedsReceivable(
                f"The payee has too little left of its deposit for the fee of {fee}, so no sync of it could fetch the "
                "payment.",
                amount=payment.amount,
                receivable=0,
            )
        most = most_transferable(expecting(fetching), pending)
        if most < pending:
            raise PaymentExceedsReceivable(
                f"The payee can take {max(most - pending + payment.amount, 0)} now, not {payment.amount}.",
                amount=payment.amount,
                receivable=max(most - pending + payment.amount, 0),
            )
        return payee

    def _give(
        self,
        work: UnitOfWork,
        account: Account,
        request: SyncRequest,
        taken: Changes,
        refused: tuple[RefusedPayment, ...],
        digest: bytes,
        *,
        fresh: bool,
    ) -> RawJson:
        """Move what is due and what waits to the client, and write the reply before it leaves.

        ``fresh``: whether no commit in the book is on the client's next hash.
        """
        made = request.half.commit  # not in the book yet, and given back again perhaps
        seen = not fresh or (made and made.revoke_hash) == request.next_hash
        account = work.to_move(account, account.pending)
        begun = add_request(account.channels, request.next_hash, seen=seen)  # for this very reply's commit, too
        secrets = account.fixed.secrets(self._hub.key)
        oldest = _that_fit(work.oldest(account.handle, MOST_PAYMENTS)) if account.waiting else ()
        count, total = 0, 0
        if account.channels.sending.anchor is not None:  # else nothing waits, and what is due waits for the deposit
            count, total = deliverable(begun, account.due, [item.amount for item in oldest])
        listed = oldest[:count]
        gone = Queue(count, sum(item.amount for item in listed))
        duplex, half, given = transfer(begun, total, secrets)
        duplex, own_hash = hand_out(duplex, secrets)
        receipts = tuple(Receipt(item.payer, item.amount, item.token, item.time) for item in listed)
        done = SyncReply(digest, half, receipts, refused, own_hash, signed_count(self._hub.key, account))
        reply = self._sealing.reply(done.as_json())
        work.list_payments(listed)
        written = replace(
            account,
            duplex=duplex,
            due=account.due + gone.amount - total,
            listed=bool(listed),
            waiting=account.waiting - gone,
            last_hash=request.next_hash,
            last_reply=reply.text,
        )
        work.put(written, taken + given)
        return reply


def _check_place(count: int, own: int, payment: Payment) -> None:
    """Refuse what one payer too many, or one payer alone, would have wait for a payee: half of what others leave.

    So who fills the place of others needs a dozen connections for it. Payments that return to a payer are not counted.
    """
    share = max((MOST_WAITING - count + own) // 2, 1)
    if count >= MOST_WAITING or own >= share:
        whose = f"{own} of them from this connection, which may have {share} there now"
        raise PaymentExceedsReceivable(
            f"{count} payments wait for the payee, {whose}: it must fetch them first.",
            amount=payment.amount,
            receivable=0,
        )


def _that_fit(payments: Sequence[Waiting]) -> Sequence[Waiting]:
    """The first of the payments, as many as a reply may list: the others come with the next one."""
    size = 0
    for count, item in enumerate(payments):
        size += _LISTED_BYTES + 2 * len(item.token)
        if size > MOST_LISTED_BYTES:
            return payments[:count]
    return payments


def _anchors(account: Account) -> Anchors:
    c2h, h2c = account.channels.receiving.anchor, account.channels.sending.anchor
    return Anchors(None if c2h is None else c2h.outpoint, None if h2c is None else h2c.outpoint)

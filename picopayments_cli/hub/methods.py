"""The hub's own methods: what a client asks of it, decided by the channel's rules and written in one transaction."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.concurrency import run_in_threadpool

from picopayments_cli.chain import Query
from picopayments_cli.channel import envelope
from picopayments_cli.channel.duplex import (
    Duplex,
    Half,
    accept,
    add_request,
    deliverable,
    expecting,
    hand_out,
    most_transferable,
    standing,
    transfer,
)
from picopayments_cli.channel.errors import (
    AddressUsed,
    AmountExceedsSpendable,
    AssetMismatch,
    AssetNotInTerms,
    BadClientSignature,
    BadDepositScript,
    BadRequest,
    BadSecret,
    ConnectionNotOpen,
    DepositAlreadyGiven,
    DirtyCommitAddress,
    HubDraining,
    HubRestored,
    InsufficientLiquidity,
    InvalidParams,
    PaymentExceedsReceivable,
    PicopaymentsError,
    UnknownAsset,
    UnknownRevokeHash,
)
from picopayments_cli.channel.messages import (
    ConnectReply,
    ConnectRequest,
    DepositMessage,
    Payment,
    Receipt,
    Refusal,
    SyncReply,
    SyncRequest,
    close_reply,
    spend_secret_in,
    standing_in,
)
from picopayments_cli.channel.networks import address_of_script
from picopayments_cli.channel.recovery import settle_height
from picopayments_cli.channel.scripts import DepositScript
from picopayments_cli.channel.state import KEPT_REQUESTS, Channel
from picopayments_cli.channel.terms import Terms, check_delay
from picopayments_cli.channel.values import (
    HANDLE_SIZE,
    Handle,
    Hash,
    Pubkey,
    Quantity,
    Secret,
    check_secret,
    from_hex,
    hash_of,
)
from picopayments_cli.hub import chores, stale_database
from picopayments_cli.hub.account import AGREED, OPEN, REQUESTED, Account
from picopayments_cli.hub.book import UnitOfWork
from picopayments_cli.hub.follower import DEPOSIT
from picopayments_cli.hub.hub import Hub
from picopayments_cli.web import RawJson

log = logging.getLogger(__name__)
SALT_SIZE = 16
FORGOTTEN_AFTER = 144  # blocks after which a connection without a deposit agreed to is dropped
Reply = RawJson | Awaitable[RawJson]
_SHOWN = {AGREED: "opening", OPEN: "open"}


class Methods:
    """``mph_status``, ``mph_request``, ``mph_deposit``, ``mph_sync`` and ``mph_close`` of one hub."""

    # What asks the chain, so that it must not hold up the others.
    SLOW = frozenset(("mph_status", "mph_request", "mph_deposit", "mph_close"))

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._checking = asyncio.Lock()

    def table(self) -> dict[str, Callable[..., Any]]:
        """The methods by name."""
        return {
            "mph_status": self.status,
            "mph_request": _whole(self.request),
            "mph_deposit": _whole(self.deposit),
            "mph_sync": _whole(self.sync),
            "mph_close": _whole(self.close),
        }

    # mph_status -----------------------------------------------------------------------------------------------------

    def status(self, assets: Sequence[str] | None = None) -> dict[str, Any]:
        """What the hub offers and holds, and the connections in these assets (None: all).

        Raises UnknownAsset for one that is not offered.
        """
        wanted = set(self._hub.offer.assets) if assets is None else _asset_list(assets)
        offered: dict[str, Terms] = {}
        for asset in sorted(wanted):
            terms = self._hub.offer.terms(asset, self._hub.follower.fee_rate())
            if terms is None:
                raise UnknownAsset(f"The hub offers no connections in {asset!r}.", asset=asset)
            offered[asset] = terms
        held = self._hub.chain.view(Query(balances=[self._hub.address])).balances[self._hub.address]
        message = os.urandom(32).hex()
        return {
            "funds": {
                "address": self._hub.address,
                "message": message,
                "signature": envelope.sign_message(self._hub.key, message),
                "liquidity": {asset: held.get(asset, 0) for asset in (*offered, "BTC")},
            },
            "current_terms": {asset: terms.as_json() for asset, terms in offered.items()},
            "connections": self._connections(wanted),
        }

    def _connections(self, assets: set[str]) -> dict[str, Any]:
        shown = {}
        with self._hub.book.transaction("handles") as work:
            handles = work.in_stage(AGREED, OPEN)
        for handle in handles:  # one at a time: syncs go on in between
            with self._hub.book.transaction("status") as work:
                account = work.get(handle)
                if account.asset in assets and account.stage in _SHOWN:
                    shown[handle.hex()] = {
                        "asset": account.asset,
                        "balance": account.channels.guaranteed,
                        "ttl": chores.ttl(self._hub, work, account),
                        "status": _SHOWN[account.stage],
                    }
        return shown

    # mph_request ----------------------------------------------------------------------------------------------------

    def request(self, body: Mapping[str, Any]) -> RawJson:
        """A new connection: handle, the hub's spend hash and terms. Raises AssetNotInTerms, BadClientSignature."""
        asked = ConnectRequest.parse(body)
        client = envelope.named_key(body)
        if client is None:
            raise BadClientSignature("The request names no public key.")
        digest = _signed(body, client)
        if self._hub.draining:
            raise HubDraining("The hub is shutting down and takes no new connections: choose another one, or wait.")
        terms = self._hub.offer.terms(asked.asset, self._hub.follower.fee_rate())
        if terms is None:
            raise AssetNotInTerms(
                f"The hub offers no connections in {asked.asset!r}, but in {', '.join(self._hub.offer.assets)}.",
                asset=asked.asset,
            )
        asset = self._hub.chain.asset(asked.asset)
        handle, salt = Handle(os.urandom(HANDLE_SIZE)), os.urandom(SALT_SIZE)
        account = Account(handle, client, asked.asset, asset.number, terms, salt, asked.spend_hash)
        spend_hash = account.secrets(self._hub.key).spend_hash
        with self._hub.book.transaction("request") as work:
            account = replace(account, due_height=self._hub.follower.tip(work.db) + FORGOTTEN_AFTER)
            work.add(account)
            work.take_hash(handle, asked.spend_hash)
        return self._reply(ConnectReply(handle, spend_hash, terms.as_json()).as_json(), digest)

    # mph_deposit ----------------------------------------------------------------------------------------------------

    def deposit(self, body: Mapping[str, Any]) -> RawJson:
        """Agree to the client's deposit, and to the hub's own; the same request is answered with the same reply.

        Raises UnknownHandle, DepositAlreadyGiven, BadDepositScript, DepositRefused, InvalidTime, AddressUsed,
        InsufficientLiquidity, MemoRequired.
        """
        asked = DepositMessage.parse(body, BadRequest)
        handle = _handle(body)
        account = self._account(handle)
        digest = _signed(body, account.client)
        if account.restored:
            raise _restored(handle)
        if account.stage != REQUESTED:
            return _same_deposit(account, digest)
        duplex = self._agreed(account, asked)
        address = str(address_of_script(self._hub.network, duplex.receiving.script.output))
        own = self._hub.address
        view = self._hub.chain.view(Query(history=[address], balances=[own], options=[own]))
        view.check_takes_sends(own)
        if view.history[address]:
            raise AddressUsed("The deposit's address has a history already: ask for another connection.")
        held = view.balances[own].get(account.asset, 0)
        with self._hub.book.transaction("deposit") as work:
            account = work.get(handle)
            if account.stage != REQUESTED:
                return _same_deposit(account, digest)
            self._check_liquidity(work, account, duplex.sending.quantity, held)
            work.take_hash(handle, asked.next_hash)
            secrets = account.secrets(self._hub.key)
            account.numbers[secrets.revoke_hash(0)] = 0
            add_request(duplex, asked.next_hash)  # refuses a repeated one; it counts once its address was looked at
            duplex = hand_out(duplex, secrets.revoke_hash(0))
            matching = DepositMessage(
                duplex.sending.script.redeem,
                secrets.revoke_hash(0),
                duplex.sending.quantity,
                duplex.sending.delay,
            )
            reply = self._reply(matching.as_json(), digest)
            for channel in (duplex.sending, duplex.receiving):
                self._hub.follower.watch(work.db, channel.script.output, DEPOSIT)
            agreed = replace(
                account,
                stage=AGREED,
                duplex=duplex,
                agreed_height=view.height,
                due_height=settle_height(duplex.receiving, view.height),
                unchecked=(asked.next_hash,),
                deposit_digest=digest,
                deposit_reply=reply.text,
                next_number=1,
            )
            work.put(agreed, fixed=True)
        self._look_at_hashes(handle)
        return reply

    def _look_at_hashes(self, handle: Handle) -> None:
        """Have the next round look at the addresses of the client's next commits."""
        self._hub.agenda.unchecked.append(handle)
        self._hub.wake()

    def _agreed(self, account: Account, asked: DepositMessage) -> Duplex:
        """The two channels of a connection, as the client proposes them and the terms allow."""
        secrets = account.secrets(self._hub.key)
        proposed = DepositScript.parse(asked.script)
        script = DepositScript(account.client, self._hub.key.pubkey, secrets.spend_hash, proposed.expire)
        if proposed != script:
            raise BadDepositScript("The deposit script has other keys or another spend hash than agreed.")
        account.terms.check_deposit(asked.quantity, script.expire, self._hub.network)
        check_delay(asked.delay)
        matching = account.terms.matching_deposit(asked.quantity)
        if matching < 1:
            raise InsufficientLiquidity("The hub would deposit nothing: deposit more.", quantity=asked.quantity)
        own = DepositScript(self._hub.key.pubkey, account.client, account.client_hash, script.expire)
        rate = account.terms.fee_rate
        return Duplex(
            Channel(account.asset_id, own, Quantity(matching), self._hub.delay, rate),
            Channel(account.asset_id, script, asked.quantity, asked.delay, rate),
        )

    def _check_liquidity(self, work: UnitOfWork, account: Account, quantity: int, held: int) -> None:
        """Refuse what can't be funded: what is promised to others and still in the wallet is not there."""
        promised = 0
        for handle in work.in_stage(AGREED):
            other = work.get(handle)
            unmade = other.deposit_raw is None  # of the many that strangers asked for and never fund
            if other.asset == account.asset and (unmade or not chores.is_funded(self._hub, work, other)):
                promised += other.channels.sending.quantity
        if quantity > held - promised:
            raise InsufficientLiquidity(
                f"The hub can deposit at most {max(held - promised, 0)} of {account.asset} now, not the {quantity} "
                "that match this deposit: connect with less, or later.",
                asset=account.asset,
                quantity=quantity,
                available=max(held - promised, 0),
            )

    # mph_sync -------------------------------------------------------------------------------------------------------

    def sync(self, body: Mapping[str, Any]) -> Reply:
        """One exchange: the client's half is taken, its payments are booked, and what it is owed goes into the reply.

        A request whose ``next_revoke_secret_hash`` is that of the last one is that one again, and gets its stored
        reply. Raises what the channel's rules refuse, ConnectionNotOpen, StaleRequest, AmountExceedsSpendable.
        """
        request = SyncRequest.parse(body)
        if self._hub.book.lacks_checked_hash(request.handle):
            return self._checked_sync(body, request)
        return self._known_sync(body, request)

    async def _checked_sync(self, body: Mapping[str, Any], request: SyncRequest) -> RawJson:
        """The same, when the client is faster than the rounds that look at the addresses of its next commits.

        Whoever comes meanwhile waits, and finds that the one question was asked for all.
        """
        async with self._checking:
            if self._hub.book.lacks_checked_hash(request.handle):
                waiting = {request.handle, *self._hub.agenda.unchecked}
                await run_in_threadpool(chores.check_hashes, self._hub, waiting)
        return self._known_sync(body, request)

    def _known_sync(self, body: Mapping[str, Any], request: SyncRequest) -> RawJson:
        """The same, unless the request shows that the hub has an old database. Raises HubRestored then."""
        try:
            return self._sync(body, request)
        except UnknownRevokeHash:
            if stale_database.notice(self._hub, self._account(request.handle), request.half.offer):
                raise _restored(request.handle) from None
            raise

    def _account(self, handle: Handle) -> Account:
        with self._hub.book.transaction("look up") as work:
            return work.get(handle)

    def _sync(self, body: Mapping[str, Any], request: SyncRequest) -> RawJson:
        with self._hub.book.transaction("sync") as work:
            account = work.get(request.handle)
            digest = _signed(body, account.client)
            if account.restored:
                raise _restored(account.handle)
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
            account, refused = self._take(work, account, request, partial=body.get("partial") is True)
            reply = self._give(work, account, request, refused, digest)
        self._look_at_hashes(request.handle)
        return reply

    def _take(
        self, work: UnitOfWork, account: Account, request: SyncRequest, *, partial: bool
    ) -> tuple[Account, tuple[Refusal, ...]]:
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
                if not partial:
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
        account.numbers[own_hash] = number
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

    # mph_close ------------------------------------------------------------------------------------------------------

    def close(self, body: Mapping[str, Any]) -> RawJson:
        """Close a connection: the hub publishes its commit before it answers, or gives its spend secret.

        After a restore the commit is the one that the client shows to be its highest. A client that gives its secret
        though it has a commit has old files: the secret is left alone, and the reply says what it has. Raises
        UnknownHandle, BadSecret, and what a commit is refused for.
        """
        given = spend_secret_in(body, BadRequest)
        said = standing_in(body, BadRequest)
        handle = _handle(body)
        known = self._account(handle)
        digest = _signed(body, known.client)
        stale_database.notice(self._hub, known, said.offer if said else None)
        with self._hub.book.transaction("close") as work:
            account = work.get(handle)
            if account.duplex is None:
                raise ConnectionNotOpen("The connection has no deposit yet: there is nothing to close.")
            if given is not None and hash_of(check_secret(given)) != account.client_hash:
                raise BadSecret("The spend secret is not the one of the hub's deposit.", handle=handle.hex())
            usable = account.restored or not account.channels.sending.active
            # One row orders the two: once the secret has left, no sync finds the connection open.
            if account.restored and said is not None:
                account = stale_database.believe(self._hub, work, account, said)
            revealed = not account.restored and not account.channels.receiving.active
            account = replace(
                account,
                client_secret=Secret(given) if given and usable else account.client_secret,
                revealed=account.revealed or revealed,
            )
            if account.stage in (AGREED, OPEN):
                account = chores.begin_closing(self._hub, work, account)
            else:
                account = work.put(account, fixed=True)
            secret = account.secrets(self._hub.key).spend if revealed else None
        chores.settle(self._hub, handle)
        return self._reply(close_reply(secret, standing(account.channels.sending)), digest)

    def _reply(self, body: Mapping[str, Any], digest: bytes) -> RawJson:
        sealed = envelope.seal(self._hub.key, {**body, "request_sha256": digest.hex()})
        return RawJson(json.dumps(sealed))


def _whole(method: Callable[[Mapping[str, Any]], Reply]) -> Callable[[Mapping[str, Any]], Reply]:
    """A method that takes all its params as one: what is signed is signed with its unknown members."""

    def called(params: Mapping[str, Any]) -> Reply:
        return method(params)

    called.takes_params = True  # type: ignore[attr-defined]
    return called


def _restored(handle: Handle) -> HubRestored:
    return HubRestored(
        "The hub has been restored from a backup, and does not know the newest state of the connection: close it.",
        handle=handle.hex(),
    )


def _asset_list(assets: Any) -> set[str]:
    if not isinstance(assets, list) or not all(isinstance(asset, str) for asset in assets):
        raise InvalidParams("assets must be a list of names, or null for all.")
    return set(assets)


def _handle(body: Mapping[str, Any]) -> Handle:
    return Handle(from_hex(body.get("handle"), "handle", HANDLE_SIZE))


def _signed(body: Mapping[str, Any], client: Pubkey) -> bytes:
    digest = envelope.signed_by(body, client)
    if digest is None:
        raise BadClientSignature("The request is not signed by the connection's key.")
    return digest


def _same_deposit(account: Account, digest: bytes) -> RawJson:
    if digest != account.deposit_digest:
        raise DepositAlreadyGiven(
            "The connection has its deposit already: ask for another connection.", handle=account.handle.hex()
        )
    return RawJson(account.deposit_reply)


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

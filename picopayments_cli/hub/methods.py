"""The hub's own methods: what a client asks of it, decided by the channel's rules and written in one transaction."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from picopayments_cli.chain import Query
from picopayments_cli.channel import envelope
from picopayments_cli.channel.counterparty import asset_members, both_names
from picopayments_cli.channel.deadlines import Expiry, check_delay, time_to_live
from picopayments_cli.channel.duplex import Duplex, add_request, hand_out
from picopayments_cli.channel.keys import SALT_SIZE, Secrets
from picopayments_cli.channel.messages import (
    MOST_RECOVERED,
    ConnectReply,
    ConnectRequest,
    DepositReply,
    DepositRequest,
    KeyReply,
    KeyRequest,
    Recovered,
)
from picopayments_cli.channel.networks import address_of_script, check_taproot
from picopayments_cli.channel.opening import Stake, check_parties, check_wallet
from picopayments_cli.channel.rates import payer_agrees
from picopayments_cli.channel.stages import AGREED, CLOSING, OPEN, OPENING, REQUESTED
from picopayments_cli.channel.state import Receiving, Sending
from picopayments_cli.channel.status import ShownConnection, StatusReply, StatusRequest
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.values import HANDLE_SIZE, Handle, Pubkey, Quantity
from picopayments_cli.channel.wire import Anchors
from picopayments_cli.errors import (
    AssetNotInTerms,
    BadClientSignature,
    BadDepositScript,
    DepositAlreadyGiven,
    DepositRefused,
    HubDraining,
    InsufficientLiquidity,
    NodeBehind,
)
from picopayments_cli.hub import promises
from picopayments_cli.hub.account import Account, Agreement, Fixed
from picopayments_cli.hub.book import UnitOfWork
from picopayments_cli.hub.closing import Closes
from picopayments_cli.hub.exchange import Exchange
from picopayments_cli.hub.forgetting import make_room
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.kept import Kept
from picopayments_cli.hub.reading import Reading
from picopayments_cli.hub.receipts import Receipts
from picopayments_cli.hub.sealing import Sealing
from picopayments_cli.hub.stopping import closes_by, refusal
from picopayments_cli.hub.waiting import MOST_BYTES, Waiting
from picopayments_cli.web import RawJson, caller

_ATTEMPTS = 3  # to look at the wallets before the next block is read
FORGOTTEN_AFTER = 144  # blocks after which a connection without a deposit agreed to is dropped
_SHOWN = {AGREED: OPENING, OPEN: OPEN}
_COUNTED = {**_SHOWN, CLOSING: CLOSING}


class Methods:
    """The hub's own methods, whose names begin with ``mph_``."""

    # Those that ask the chain, and so must not hold up the others.
    SLOW = frozenset(("mph_status", "mph_request", "mph_deposit", "mph_close"))
    ALONE: Mapping[str, int] = {"mph_waiting": MOST_BYTES}  # it may wait, which a batch must not

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._sealing = sealing = partial(Sealing, hub.key)
        self._proofs, self._requests, self._deposits = map(sealing, ("mph_key", "mph_request", "mph_deposit"))
        self.sync = Exchange(hub, sealing("mph_sync")).sync
        self.close = Closes(hub, sealing("mph_close")).close
        self.waiting = Waiting(hub, sealing("mph_waiting")).waiting
        self.receipts = Receipts(hub, sealing("mph_receipts")).receipts
        self.state = Kept(hub, sealing("mph_state")).state

    def table(self) -> dict[str, Callable[..., Any]]:
        """The methods by name."""
        whole = {
            "mph_key": self.prove,
            "mph_request": self.request,
            "mph_deposit": self.deposit,
            "mph_sync": self.sync,
            "mph_close": self.close,
            "mph_receipts": self.receipts,
            "mph_state": self.state,
        }
        return {
            "mph_status": self.status,
            **{name: self._sealing(name).whole(method) for name, method in whole.items()},
            "mph_waiting": self._sealing("mph_waiting").awaited(self.waiting),
        }

    # mph_key --------------------------------------------------------------------------------------------------------

    def prove(self, body: Mapping[str, Any]) -> RawJson:
        """Prove that this is the hub of that key, and give who proves a client's key that one's connections."""
        request = KeyRequest.parse(body)
        client = envelope.named_key(body)
        found: tuple[Recovered, ...] = ()
        if client is not None:
            self._proofs.signed(body, client)
            with self._hub.book.reading() as book:
                handles = book.of_client(client, request.after or b"", MOST_RECOVERED)
                found = tuple(_recovered(book.get(handle)) for handle in handles)
        return self._proofs.reply(KeyReply(self._proofs.digest(body), found).as_json())

    # mph_status -----------------------------------------------------------------------------------------------------

    def status(self, assets: Sequence[str] | None = None, handles: Sequence[str] | None = None) -> dict[str, Any]:
        """Tell what the hub offers and holds in these assets (None: all), its totals, and the connections named.

        While it drains it offers none. Raises AssetNotInTerms for one that is not offered.
        """
        self._hub.hear()
        asked, known = StatusRequest.parse({"assets": assets, "handles": handles}), self._hub.offer.assets
        wanted = set(known if asked.assets is None else asked.assets)
        offered: dict[str, Terms] = {}
        for asset in sorted(wanted - set(known)) if self._hub.draining else sorted(wanted):
            terms = self._hub.terms(asset)
            if terms is None:
                self._hub.offer.check_resolved()
                longname = self._hub.longname(asset)
                name = both_names(asset, longname)
                raise AssetNotInTerms(
                    f"The hub offers no connections in {name!r}: `picopayments-cli hubstatus` lists its assets.",
                    **asset_members(asset, longname),
                )
            offered[asset] = terms
        held = self._hub.chain.view(Query(balances=[self._hub.address])).balances[self._hub.address]
        message = os.urandom(32).hex()
        with self._hub.book.reading() as book:
            totals, shown = self._totals(book, wanted), self._shown(book, asked.handles)
        return StatusReply(
            address=self._hub.address,
            message=message,
            signature=envelope.sign_message(self._hub.key, message),
            liquidity={asset: held.get(asset, 0) for asset in (*offered, "BTC")},
            terms=offered,
            longnames={asset: longname for asset in offered if (longname := self._hub.longname(asset)) is not None},
            totals=totals,
            connections=shown,
        ).as_json()

    @staticmethod
    def _totals(book: Reading, assets: set[str]) -> dict[str, int]:
        """Count the connections in these assets that are not over, by the word that ``hubstatus`` has for the stage."""
        totals = book.totals()
        return {
            word: sum(number for (asset, of), number in totals.items() if of == stage and asset in assets)
            for stage, word in _COUNTED.items()
        }

    def _shown(self, book: Reading, handles: Sequence[Handle]) -> dict[Handle, ShownConnection]:
        """Show those of the named connections that are opening or open."""
        tip = self._hub.follower.tip(book.db)
        return {
            item.handle: ShownConnection(
                item.asset,
                self._hub.longnames.get(item.asset),
                item.balance,
                time_to_live(item.expiry, tip) if item.stage == OPEN else None,
                _SHOWN[item.stage],
            )
            for item in book.named(handles)
            if item.stage in _SHOWN and item.balance is not None and item.expiry is not None
        }

    # mph_request ----------------------------------------------------------------------------------------------------

    def request(self, body: Mapping[str, Any]) -> RawJson:
        """Begin a connection: handle, the hub's keys and terms.

        Raises AssetNotInTerms, BadClientSignature, BadWalletScript, RepeatedKey, HubDraining, TooManyPromises.
        """
        asked = ConnectRequest.parse(body)
        client = envelope.named_key(body)
        if client is None:
            raise BadClientSignature("The request names no public key.")
        digest = self._requests.signed(body, client)
        check_wallet(asked.client.wallet, client)
        self._hub.hear()
        if self._hub.draining:
            raise self._draining()
        terms = self._offered(asked.asset)
        asset = self._hub.chain.asset(asked.asset)
        self._hub.longnames[asset.name] = asset.longname
        account = self._asked(asked, client, asset.number, terms)
        check_parties(*account.fixed.parties)
        with self._hub.book.transaction("request") as work:
            account = replace(account, due_height=self._hub.follower.tip(work.db) + FORGOTTEN_AFTER)
            make_room(work, promises.MOST_REQUESTS)
            work.add(account)
            promises.ask(work.db, account.handle, client, asked.asset, caller.get())
        return self._requests.reply(ConnectReply(digest, account.handle, account.fixed.parties[1], terms).as_json())

    def _draining(self) -> HubDraining:
        text = "The hub is shutting down and takes no new connections: choose another one, or wait."
        with self._hub.book.transaction("draining") as work:
            until = closes_by(self._hub, work)
        return HubDraining(f"{text} Those that are open close at block {until} at the latest.", until=until)

    def _asked(self, asked: ConnectRequest, client: Pubkey, asset_id: int, terms: Terms) -> Account:
        handle, salt = Handle(os.urandom(HANDLE_SIZE)), os.urandom(SALT_SIZE)
        parties = (asked.client, self._hub.party(Secrets(self._hub.key, salt)))
        return Account(handle, Fixed(client, asked.asset, asset_id, terms, parties, asked.salt, salt))

    def _offered(self, asset: str) -> Terms:
        terms = self._hub.terms(asset)
        if terms is None:
            self._hub.offer.check_resolved()
            longname = self._hub.longname(asset)
            others = (both_names(other, self._hub.longname(other)) for other in self._hub.offer.assets)
            raise AssetNotInTerms(
                f"The hub offers no connections in {both_names(asset, longname)!r}, but in {', '.join(others)}.",
                **asset_members(asset, longname),
            )
        return terms

    # mph_deposit ----------------------------------------------------------------------------------------------------

    def deposit(self, body: Mapping[str, Any]) -> RawJson:
        """Agree to the client's deposit, and to the hub's own; the same request is answered with the same reply.

        Raises UnknownHandle, DepositAlreadyGiven, BadDepositScript, DepositRefused, InvalidTime,
        InsufficientLiquidity, TooManyPromises, MemoRequired, TaprootInactive, HubRestored, NodeBehind.
        """
        request = DepositRequest.parse(body)
        digest = self._deposits.signed(body, self._hub.book.client(request.handle))
        self._hub.hear()
        account = self._hub.book.look_up(request.handle)
        if account.stale:
            raise refusal(account.handle)
        if account.stage != REQUESTED:
            return _same_deposit(account, digest)
        for _ in range(_ATTEMPTS):
            reply = self._try_deposit(account, body, request, digest)
            if reply is not None:
                return reply
        raise NodeBehind("The hub has read a new block while it looked at its wallet: try again.")

    def _try_deposit(
        self, account: Account, body: Mapping[str, Any], request: DepositRequest, digest: bytes
    ) -> RawJson | None:
        """Agree by what the wallets hold now; None where the hub has read a block since it looked at them."""
        own, theirs = self._hub.address, str(address_of_script(self._hub.network, account.fixed.parties[0].wallet))
        view = self._hub.chain.view(Query(balances=[own, theirs], options=[own]))
        view.check_takes_sends(own)
        check_taproot(self._hub.network, view.height)
        fixed = self._agreed(account.fixed, request, view.height)
        held, owned = (view.balances[address].get(fixed.asset, 0) for address in (own, theirs))
        wanted = self._wanted(fixed, held, owned)

        def promise(work: UnitOfWork) -> RawJson | None:
            work.queue("promises")  # each counts those before it
            if self._hub.follower.tip(work.db) > view.height:
                return None  # a deposit in that block is no promise any more, and the wallet seems to hold it yet
            return self._promise(work, body, request, digest, fixed, wanted)

        return self._hub.book.run("deposit", promise)

    def _promise(
        self,
        work: UnitOfWork,
        body: Mapping[str, Any],
        request: DepositRequest,
        digest: bytes,
        fixed: Fixed,
        wanted: promises.Wanted,
    ) -> RawJson:
        """Write what is agreed on, unless something is already."""
        account = work.get(request.handle)
        if account.stage != REQUESTED:
            return _same_deposit(account, digest)
        promises.promise(work.db, account.handle, wanted)
        work.take_hash(account.handle, request.next_hash)
        account, reply = self._agree(replace(account, fixed=fixed), request, digest)
        work.put(replace(account, last_request=json.dumps(body)))
        scripts = [contract.deposit.output for contract in fixed.contracts]
        self._hub.follower.await_deposits(work.db, account.handle, scripts)
        return reply

    def _agreed(self, fixed: Fixed, request: DepositRequest, tip: int) -> Fixed:
        """Return what is agreed on, as the client proposes it and the terms allow."""
        terms, network, stake = fixed.terms, self._hub.network, request.stake
        terms.check_deposit(stake.quantity)
        terms.check_rate(request.h2c_rate)
        self._check_rate_now(request.h2c_rate)
        terms.check_height(request.height, tip, network)
        check_delay(stake.delay, network)
        if stake.rate != terms.fee_rate:
            raise DepositRefused(
                f"The terms say {terms.fee_rate} sat/vB for commits to the hub, not {stake.rate}.",
                fee_rate=terms.fee_rate,
            )
        matching = terms.matching_deposit(stake.quantity)
        if matching < 1:
            raise InsufficientLiquidity("The hub would deposit nothing: deposit more.", quantity=stake.quantity)
        own = Stake(Quantity(matching), self._hub.delay, request.h2c_rate)
        expiry = Expiry(request.height, request.height - tip)
        agreed = replace(fixed, agreement=Agreement(expiry, stake, own))
        if agreed.contracts[1].deposit.output != request.output:
            raise BadDepositScript("The deposit's address has other keys or another expiry than agreed.")
        return agreed

    def _check_rate_now(self, rate: int) -> None:
        """Refuse a commits' rate that the terms allowed when they were asked for, far above what is paid now."""
        if not payer_agrees(rate, self._hub.rate, self._hub.bounds):
            raise DepositRefused(
                f"The network asks {self._hub.rate.value} sat/vB now: the hub signs no commits at {rate}. Ask for "
                "another connection.",
                fee_rate=rate,
                rate=self._hub.rate.value,
            )

    def _agree(self, account: Account, request: DepositRequest, digest: bytes) -> tuple[Account, RawJson]:
        """The connection once both deposits are agreed to, and the reply that says so."""
        sending, receiving = account.fixed.contracts
        duplex = add_request(Duplex(Sending(sending), Receiving(receiving)), request.next_hash, seen=False)
        duplex, own_hash = hand_out(duplex, account.fixed.secrets(self._hub.key))
        agreed = account.fixed.agreed
        deposit_by = agreed.expiry.deposit_by(self._hub.network)
        lock_fee = account.fixed.terms.lock_fee(agreed.h2c.quantity, agreed.expiry.time)
        both = agreed.h2c, agreed.expiry.height, sending.deposit.output
        reply = self._deposits.reply(DepositReply(digest, *both, own_hash, deposit_by, lock_fee).as_json())
        return replace(
            account,
            stage=AGREED,
            duplex=duplex,
            due_height=agreed.expiry.settle_height,
            lock_due=lock_fee,
            deposit_digest=digest,
            deposit_reply=reply.text,
        ), reply

    def _wanted(self, fixed: Fixed, held: int, owned: int) -> promises.Wanted:
        """Return the promise that a connection asks for."""
        longname, agreed = self._hub.longnames.get(fixed.asset), fixed.agreed
        quantities = agreed.c2h.quantity, agreed.h2c.quantity, held, owned
        return promises.Wanted(fixed.client, caller.get(), fixed.asset, longname, *quantities)


def _recovered(account: Account) -> Recovered:
    fixed, agreed, duplex = account.fixed, account.fixed.agreed, account.channels
    c2h, h2c = duplex.receiving.anchor, duplex.sending.anchor
    anchors = Anchors(None if c2h is None else c2h.outpoint, None if h2c is None else h2c.outpoint)
    client, hub = fixed.parties
    return Recovered(
        *(account.handle, fixed.asset, fixed.client_salt, client, hub),
        *(agreed.expiry.height, agreed.c2h, agreed.h2c, anchors),
    )


def _same_deposit(account: Account, digest: bytes) -> RawJson:
    if digest != account.deposit_digest or account.deposit_reply is None:
        raise DepositAlreadyGiven(
            "The connection has its deposit already: ask for another connection.", handle=account.handle.hex()
        )
    return RawJson(account.deposit_reply)

"""The hub's own methods: what a client asks of it, decided by the channel's rules and written in one transaction."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from picopayments_cli.chain import Query
from picopayments_cli.channel import envelope
from picopayments_cli.channel.counterparty import asset_members, both_names
from picopayments_cli.channel.networks import address_of_script
from picopayments_cli.channel.stages import AGREED, OPEN, OPENING, REQUESTED
from picopayments_cli.channel.values import (
    HANDLE_SIZE,
    Handle,
    Quantity,
    check_secret,
    hash_of,
)
from picopayments_cli.channel2.deadlines import settle_height
from picopayments_cli.channel2.duplex import (
    Duplex,
    add_request,
    hand_out,
    standing,
)
from picopayments_cli.channel2.keys import SALT_SIZE
from picopayments_cli.channel2.messages import (
    CloseReply,
    CloseRequest,
    ConnectReply,
    ConnectRequest,
    DepositMessage,
    DepositRequest,
    StatusReply,
    answering,
)
from picopayments_cli.channel2.scripts import DepositScript
from picopayments_cli.channel2.state import Channel
from picopayments_cli.channel2.terms import Terms, check_delay
from picopayments_cli.errors import (
    AddressUsed,
    AssetNotInTerms,
    BadClientSignature,
    BadDepositScript,
    BadSecret,
    ConnectionNotOpen,
    DepositAlreadyGiven,
    HubDraining,
    InsufficientLiquidity,
    InvalidParams,
    PicopaymentsError,
    UnknownAsset,
)
from picopayments_cli.hub import stale_database
from picopayments_cli.hub2 import chores
from picopayments_cli.hub2.account import Account
from picopayments_cli.hub2.book import Reading
from picopayments_cli.hub2.exchange import Exchange, Reply, signed
from picopayments_cli.hub2.follower import DEPOSIT
from picopayments_cli.hub2.hub import Hub
from picopayments_cli.web import RawJson, Refused, refusal

log = logging.getLogger(__name__)
Answer = RawJson | Refused
FORGOTTEN_AFTER = 144  # blocks after which a connection without a deposit agreed to is dropped
_SHOWN = {AGREED: OPENING, OPEN: OPEN}


class Methods:
    """``mph_status``, ``mph_key``, ``mph_request``, ``mph_deposit``, ``mph_sync`` and ``mph_close`` of one hub."""

    # What asks the chain, so that it must not hold up the others.
    SLOW = frozenset(("mph_status", "mph_request", "mph_deposit", "mph_close"))

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.sync = Exchange(hub, self._reply).sync

    def table(self) -> dict[str, Callable[..., Any]]:
        """Return the methods by name."""
        return {
            "mph_status": self.status,
            "mph_key": self._whole(self.prove),
            "mph_request": self._whole(self.request),
            "mph_deposit": self._whole(self.deposit),
            "mph_sync": self._whole(self.sync),
            "mph_close": self._whole(self.close),
        }

    def _whole(
        self, method: Callable[[Mapping[str, Any]], Reply]
    ) -> Callable[[Mapping[str, Any]], Answer | Awaitable[Answer]]:
        """Make a method that takes all its params as one: what is signed is signed with its unknown members.

        What it refuses is signed, too.
        """

        def called(params: Mapping[str, Any]) -> Answer | Awaitable[Answer]:
            try:
                reply = method(params)
            except PicopaymentsError as error:
                return self._refused(error, params)
            return reply if isinstance(reply, RawJson) else awaited(reply, params)

        async def awaited(reply: Awaitable[RawJson], params: Mapping[str, Any]) -> Answer:
            try:
                return await reply
            except PicopaymentsError as error:
                return self._refused(error, params)

        called.takes_params = True  # type: ignore[attr-defined]
        return called

    def _refused(self, error: PicopaymentsError, params: Mapping[str, Any]) -> Refused:
        """Sign a refusal and which request it is of: it may end a connection, so not everybody may say it."""
        return Refused(self._sealed(refusal(error.name, error.message, error.data), envelope.digest(params)))

    # mph_key --------------------------------------------------------------------------------------------------------

    def prove(self, body: Mapping[str, Any]) -> RawJson:
        """Prove that this is the hub of that key: the answer to this request is signed, and nothing else."""
        return self._reply({}, envelope.digest(body))

    # mph_status -----------------------------------------------------------------------------------------------------

    def status(self, assets: Sequence[str] | None = None) -> dict[str, Any]:
        """Tell what the hub offers and holds, and the connections in these assets (None: all).

        Raises UnknownAsset for one that is not offered.
        """
        wanted = set(self._hub.offer.assets) if assets is None else _asset_list(assets)
        offered: dict[str, Terms] = {}
        for asset in sorted(wanted):
            terms = self._hub.offer.terms(asset, self._hub.follower.fee_rate())
            if terms is None:
                longname = self._hub.longname(asset)
                raise UnknownAsset(
                    f"The hub offers no connections in {both_names(asset, longname)!r}.",
                    **asset_members(asset, longname),
                )
            offered[asset] = terms
        held = self._hub.chain.view(Query(balances=[self._hub.address])).balances[self._hub.address]
        message = os.urandom(32).hex()
        return StatusReply(
            address=self._hub.address,
            message=message,
            signature=envelope.sign_message(self._hub.key, message),
            liquidity={asset: held.get(asset, 0) for asset in (*offered, "BTC")},
            terms={asset: terms.as_json() for asset, terms in offered.items()},
            longnames={asset: longname for asset in offered if (longname := self._hub.longname(asset)) is not None},
            connections=self._connections(wanted),
        ).as_json()

    def _connections(self, assets: set[str]) -> dict[str, Any]:
        shown = {}
        with self._hub.book.reading() as book:
            for handle in book.in_stage(*_SHOWN):
                account = book.get(handle)
                if account.asset in assets and account.stage in _SHOWN:
                    shown[handle.hex()] = {
                        **asset_members(account.asset, self._hub.longnames.get(account.asset)),
                        "balance": account.channels.guaranteed,
                        "ttl": chores.ttl(self._hub, book, account),
                        "status": _SHOWN[account.stage],
                    }
        return shown

    # mph_request ----------------------------------------------------------------------------------------------------

    def request(self, body: Mapping[str, Any]) -> RawJson:
        """Begin a connection: handle, the hub's spend hash and terms. Raises AssetNotInTerms, BadClientSignature."""
        asked = ConnectRequest.parse(body)
        client = envelope.named_key(body)
        if client is None:
            raise BadClientSignature("The request names no public key.")
        digest = signed(body, client)
        if self._hub.draining:
            raise HubDraining("The hub is shutting down and takes no new connections: choose another one, or wait.")
        terms = self._hub.offer.terms(asked.asset, self._hub.follower.fee_rate())
        if terms is None:
            longname = self._hub.longname(asked.asset)
            raise AssetNotInTerms(
                f"The hub offers no connections in {both_names(asked.asset, longname)!r}, but in "
                f"{', '.join(map(self._both_names, self._hub.offer.assets))}.",
                **asset_members(asked.asset, longname),
            )
        asset = self._hub.chain.asset(asked.asset)
        self._hub.longnames[asset.name] = asset.longname
        handle, salt = Handle(os.urandom(HANDLE_SIZE)), os.urandom(SALT_SIZE)
        account = Account(handle, client, asked.asset, asset.number, terms, salt, asked.spend_hash)
        spend_hash = account.secrets(self._hub.key).spend_hash
        with self._hub.book.transaction("request") as work:
            account = replace(account, due_height=self._hub.follower.tip(work.db) + FORGOTTEN_AFTER)
            work.add(account)
            work.take_hash(handle, asked.spend_hash)
        return self._reply(ConnectReply(handle, spend_hash, terms.as_json()).as_json(), digest)

    def _both_names(self, asset: str) -> str:
        return both_names(asset, self._hub.longname(asset))

    # mph_deposit ----------------------------------------------------------------------------------------------------

    def deposit(self, body: Mapping[str, Any]) -> RawJson:
        """Agree to the client's deposit, and to the hub's own; the same request is answered with the same reply.

        Raises UnknownHandle, DepositAlreadyGiven, BadDepositScript, DepositRefused, InvalidTime, AddressUsed,
        InsufficientLiquidity, MemoRequired.
        """
        request = DepositRequest.parse(body)
        handle, asked = request.handle, request.deposit
        account = self._hub.book.look_up(handle)
        digest = signed(body, account.client)
        if account.restored:
            raise stale_database.refusal(handle)
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
                numbers={secrets.revoke_hash(0): 0},
            )
            work.put(agreed)
        self._hub.wake()  # to look at the addresses of the client's next commits
        return reply

    def _agreed(self, account: Account, asked: DepositMessage) -> Duplex:
        """Make the two channels of a connection, as the client proposes them and the terms allow."""
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

    def _check_liquidity(self, book: Reading, account: Account, quantity: int, held: int) -> None:
        """Refuse what can't be funded. What is promised to others does not count, though it is still in the wallet."""
        promised = 0
        for handle in book.in_stage(AGREED):
            other = book.get(handle)
            unmade = other.deposit_raw is None  # of the many that strangers asked for and never fund
            if other.asset == account.asset and (unmade or not chores.is_funded(self._hub, book, other)):
                promised += other.channels.sending.quantity
        if quantity > held - promised:
            longname = self._hub.longnames.get(account.asset)
            raise InsufficientLiquidity(
                f"The hub can deposit at most {max(held - promised, 0)} of {both_names(account.asset, longname)} now, "
                f"not the {quantity} that match this deposit: connect with less, or later.",
                **asset_members(account.asset, longname),
                quantity=quantity,
                available=max(held - promised, 0),
            )

    # mph_close ------------------------------------------------------------------------------------------------------

    def close(self, body: Mapping[str, Any]) -> RawJson:
        """Close a connection: the hub publishes its commit before it answers, or gives its spend secret.

        After a restore the commit is the one that the client shows to be its highest. A client that gives its secret
        though it has a commit has old files: the secret is left alone, and the reply says what it has. Raises
        UnknownHandle, BadSecret, and what a commit is refused for.
        """
        request = CloseRequest.parse(body)
        handle, given, said = request.handle, request.spend_secret, request.standing
        known = self._hub.book.look_up(handle)
        digest = signed(body, known.client)
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
                client_secret=given if given and usable else account.client_secret,
                revealed=account.revealed or revealed,
            )
            if account.stage in (AGREED, OPEN):
                account = chores.begin_closing(self._hub, work, account)
            else:
                account = work.put(account)
            secret = account.secrets(self._hub.key).spend if revealed else None
        chores.settle(self._hub, handle)
        return self._reply(CloseReply(secret, standing(account.channels.sending)).as_json(), digest)

    def _reply(self, body: Mapping[str, Any], digest: bytes) -> RawJson:
        return RawJson(json.dumps(self._sealed(body, digest)))

    def _sealed(self, body: Mapping[str, Any], digest: bytes) -> dict[str, Any]:
        return envelope.seal(self._hub.key, answering(body, digest))


def _asset_list(assets: Any) -> set[str]:
    if not isinstance(assets, list) or not all(isinstance(asset, str) for asset in assets):
        raise InvalidParams("assets must be a list of names, or null for all.")
    return set(assets)


def _same_deposit(account: Account, digest: bytes) -> RawJson:
    if digest != account.deposit_digest:
        raise DepositAlreadyGiven(
            "The connection has its deposit already: ask for another connection.", handle=account.handle.hex()
        )
    return RawJson(account.deposit_reply)

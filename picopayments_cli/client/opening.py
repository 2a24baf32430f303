"""Open a connection: agree with the hub, then publish the client's deposit.

Nothing is deposited that was not agreed to on both sides, and what was agreed is on disk before the deposit leaves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction

from picopayments_cli.chain import Asset, Query, View
from picopayments_cli.channel import duplex as pair
from picopayments_cli.channel import envelope
from picopayments_cli.channel.counterparty import asset_members
from picopayments_cli.channel.deadlines import Expiry, check_delay
from picopayments_cli.channel.drafts import Draft, txid_of
from picopayments_cli.channel.keys import SALT_SIZE, Secrets
from picopayments_cli.channel.messages import ConnectReply, ConnectRequest, DepositReply, DepositRequest
from picopayments_cli.channel.networks import check_taproot
from picopayments_cli.channel.opening import Party, Stake, check_parties, check_wallet, contract_of
from picopayments_cli.channel.rates import Rate, asked_rate, payee_agrees, payer_agrees
from picopayments_cli.channel.signing import finish_deposit
from picopayments_cli.channel.stages import AGREED, ASKED, PROPOSED
from picopayments_cli.channel.state import Receiving, Sending
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.transactions import Contract, compose_deposit
from picopayments_cli.channel.values import MAX_QUANTITY, Handle, Quantity
from picopayments_cli.client import funds, history, lost
from picopayments_cli.client.agreement import agreed_by, lock_fee
from picopayments_cli.client.connection import Connection, Rows
from picopayments_cli.client.sealed import seal_state
from picopayments_cli.client.session import Session
from picopayments_cli.consensus import check_ways_back
from picopayments_cli.errors import (
    BadTerms,
    DepositRefused,
    InvalidTime,
    LocalFiles,
    LockFeeTooHigh,
    PicopaymentsError,
    SyncFeeTooHigh,
)
from picopayments_cli.extras import check_extra

_DEPOSIT = {PROPOSED: "has not left", AGREED: "may have left"}  # by the stage of a connection that was begun


@dataclass(frozen=True)
class Wish:
    """The wish of the user; ``expire`` and ``delay`` in blocks."""

    asset: Asset
    quantity: Quantity
    expire: int
    delay: int


def connect(session: Session, asset: Asset, quantity: int, expire: int, delay: int) -> Connection:
    """Open a connection: agree with the hub on both deposits, then publish the client's.

    ``expire`` and ``delay`` in blocks. Raises what terms, funds and the hub refuse; then nothing was deposited; and
    KeyboardInterrupt with a text that says how to go on.
    """
    with _interrupted_with_advice(session):
        return _connect(session, Wish(asset, Quantity(quantity), expire, delay))


def _connect(session: Session, wish: Wish) -> Connection:
    check_extra("kernel", "connect")
    session.sight.nodes.check_current(time.time())
    check_delay(wish.delay, session.network)
    funds.check_funds(session, wish.asset, wish.quantity)
    lost.take_back(session)
    secrets = Secrets(session.wallet.key, os.urandom(SALT_SIZE))
    # The handle is the hub's to draw: until it is known, the salt waits under a name of its own.
    waiting = Handle(envelope.text_digest(secrets.salt.hex()))
    session.store.save(waiting, {"stage": ASKED, "salt": secrets.salt.hex()}, "asked")
    try:
        proposed = session.save(_propose(session, secrets, wish), "proposed")
    finally:
        session.store.remove(waiting)
    try:
        agreed = agree(session, proposed)
    except PicopaymentsError:
        session.forget(proposed.handle)  # nothing was deposited, and nothing will be
        raise
    session.broadcast(agreed.deposit_raw, "deposit")
    return agreed


@contextmanager
def _interrupted_with_advice(session: Session) -> Iterator[None]:
    """Have an interrupt say how far the new connection has come, by the files, and how to go on with it."""
    before = set(session.store.handles())
    try:
        yield
    except KeyboardInterrupt:
        with suppress(LocalFiles):
            begun = [item for handle, item in session.connections().items() if handle not in before]
            raise KeyboardInterrupt(_how_to_go_on([item for item in begun if item.stage in _DEPOSIT])) from None
        raise


def _how_to_go_on(begun: Sequence[Connection]) -> str:
    if not begun:
        return "Nothing was deposited, and no connection was begun: run the command again."
    handle = begun[0].handle.hex()
    return (
        f"Nothing is lost: the connection {handle} was begun, and its deposit {_DEPOSIT[begun[0].stage]}. "
        f"`picopayments-cli sync --wait` goes on with it, and sees that the deposit leaves; `picopayments-cli close "
        f"{handle}` ends it. Run again the command opens another one."
    )


def _propose(session: Session, secrets: Secrets, wish: Wish) -> Connection:
    """Ask the hub for a connection, and sign the deposit that its terms allow. The deposit does not leave yet."""
    own = Party(secrets.payer.xonly, secrets.payee.xonly, session.wallet.script)
    asked = ConnectRequest(wish.asset.name, own, secrets.salt).as_json()
    hub_key = session.hub_key()
    reply = session.call("mph_request", [session.sealed("mph_request", asked, hub_key)], hub_key)
    answer = ConnectReply.parse(reply.body)
    session.check_new(answer.handle)
    check_parties(own, answer.hub)
    check_wallet(answer.hub.wallet, hub_key)
    plan = _plan(session, wish, (own, answer.hub), answer.terms)
    draft = _draft_deposit(session, plan.view, plan.c2h)
    raw, anchor = finish_deposit(draft, session.wallet.key)
    c2h, h2c, stake = plan.c2h, plan.h2c, Stake(wish.quantity, wish.delay, answer.terms.fee_rate)
    channels, own_hash = pair.hand_out(pair.Duplex(Sending(c2h, anchor), Receiving(h2c)), secrets)
    height, output = c2h.deposit.height, c2h.deposit.output
    session.pin_hub(hub_key)
    begun = Connection(
        handle=answer.handle,
        hub_url=session.settings.require_hub_url,
        hub_key=hub_key,
        asset=wish.asset.name,
        longname=wish.asset.longname,
        terms=answer.terms,
        salt=secrets.salt,
        duplex=channels,
        expiry=Expiry(height, wish.expire),
        stage=PROPOSED,
        proposal={},
        deposit_raw=raw,
        rows=Rows(own=frozenset((own_hash,))),
    )
    state = seal_state(session.wallet.key, begun)
    proposal = DepositRequest(answer.handle, stake, h2c.rate, height, output, own_hash, state).as_json()
    return replace(begun, proposal=session.sealed("mph_deposit", proposal, hub_key))


@dataclass(frozen=True)
class Plan:
    """The contracts of both channels as they would be agreed on, and the chain that they were made for."""

    view: View
    c2h: Contract
    h2c: Contract


def _plan(session: Session, wish: Wish, parties: tuple[Party, Party], terms: Terms) -> Plan:
    """Make the contracts of a wish, own party first. Raises what chain, wallet and terms refuse."""
    own, hub = parties
    view = session.chain.view(Query(coins=[session.wallet.address], options=[session.wallet.address]))
    check_taproot(session.network, view.height)
    view.check_takes_sends(session.wallet.address)  # what the connection pays back goes there
    h2c_rate = _rates(session, terms, funds.known_rate(session, view), wish)
    height, number = view.height + wish.expire, wish.asset.number
    c2h = contract_of(own, hub, number, height, Stake(wish.quantity, wish.delay, terms.fee_rate))
    matching = Quantity(terms.matching_deposit(wish.quantity))
    return Plan(view, c2h, contract_of(hub, own, number, height, Stake(matching, wish.delay, h2c_rate)))


def rehearse(session: Session, wish: Wish, terms: Terms) -> tuple[Plan, Draft]:
    """Make the deposit that ``connect`` would publish at these terms, of keys that nobody keeps; it has that size.

    Raises as ``connect`` does before it asks the hub.
    """
    check_delay(wish.delay, session.network)
    funds.check_funds(session, wish.asset, wish.quantity)
    keys = [Secrets(session.wallet.key, os.urandom(SALT_SIZE)) for _ in range(2)]
    own, hub = (Party(item.payer.xonly, item.payee.xonly, session.wallet.script) for item in keys)
    plan = _plan(session, wish, (own, hub), terms)
    return plan, _draft_deposit(session, plan.view, plan.c2h)


def _rates(session: Session, terms: Terms, rate: Rate, wish: Wish) -> int:
    """Check the terms, and choose the rate of the commits to this party.

    The rate of the commits to the hub is the terms', and this party's satoshis pay for them. Raises BadTerms,
    DepositRefused, InvalidTime, LockFeeTooHigh, SyncFeeTooHigh.
    """
    terms.check_deposit(wish.quantity)
    terms.check_expire(wish.expire, session.network)
    _check_worth(terms, wish.quantity)
    _check_lock_fee(session, terms, wish)
    _check_sync_fee(session, terms, wish)
    if not payer_agrees(terms.fee_rate, rate, funds.bounds(session)):
        raise BadTerms(
            f"The hub asks for commits at {terms.fee_rate} sat/vB, where the network asks {rate.value}.",
            fee_rate=terms.fee_rate,
            rate=rate.value,
        )
    packages = session.sight.nodes.packages
    named = min(asked_rate(rate, packages=packages), terms.fee_rate_max)
    if not payee_agrees(named, rate, packages=packages):
        raise BadTerms(
            f"The hub signs commits at up to {terms.fee_rate_max} sat/vB, too little to be mined at {rate.value}. Set "
            "bitcoin_url, which lets this client raise them, or wait.",
            fee_rate_max=terms.fee_rate_max,
            rate=rate.value,
        )
    return named


def _check_lock_fee(session: Session, terms: Terms, wish: Wish) -> None:
    """Refuse to pay more for locking the hub's deposit than the settings allow. Raises LockFeeTooHigh."""
    fee, percent = lock_fee(terms, terms.matching_deposit(wish.quantity), wish.expire), session.settings.lock_ceiling
    if _is_above(fee, percent, wish):
        raise LockFeeTooHigh(
            f"The hub asks up to {fee} for locking its deposit for {wish.expire} blocks, more than the lock_ceiling of "
            f"{percent} % of yours. Deposit more, or for a shorter time, or raise the ceiling in the settings.",
            lock_fee=fee,
            lock_ceiling=percent,
        )


def _check_sync_fee(session: Session, terms: Terms, wish: Wish) -> None:
    """Refuse to pay more for each sync than the settings allow, and than 1. Raises SyncFeeTooHigh."""
    fee, percent = terms.sync_fee, session.settings.sync_ceiling
    if fee > 1 and _is_above(fee, percent, wish):
        raise SyncFeeTooHigh(
            f"The hub asks {fee} for each sync, more than the sync_ceiling of {percent} % of your deposit of "
            f"{wish.quantity}. Deposit more, choose another hub, or raise the ceiling in the settings.",
            sync_fee=fee,
            sync_ceiling=percent,
        )


def _is_above(fee: int, percent: float, wish: Wish) -> bool:
    """Whether a fee is more than so many hundredths of the own deposit."""
    return fee > Fraction(repr(percent)) * wish.quantity / 100


def _check_worth(terms: Terms, quantity: int) -> None:
    """Refuse a deposit that would move nothing either way.

    Raises BadTerms where the hub allows none that would move anything, else DepositRefused: a larger one would.
    """
    most = terms.deposit_max or MAX_QUANTITY
    refusal: type[PicopaymentsError] = DepositRefused
    if terms.sync_fee >= most or terms.matching_deposit(most) < 1:
        refusal = BadTerms
    if terms.sync_fee >= quantity:
        raise refusal(
            f"The hub asks {terms.sync_fee} for each sync: a deposit of {quantity} would move nothing. Deposit more.",
            sync_fee=terms.sync_fee,
            quantity=quantity,
        )
    if terms.matching_deposit(quantity) < 1:
        raise refusal(
            f"The hub deposits {terms.deposit_ratio} for each unit: for {quantity} it would deposit nothing. Deposit "
            "more.",
            deposit_ratio=terms.deposit_ratio,
            quantity=quantity,
        )


def _draft_deposit(session: Session, view: View, contract: Contract) -> Draft:
    """Compose the deposit. Raises InsufficientBitcoin, FeeTooHigh, BadPreviousTransaction."""
    purse = funds.purse(session, view)
    draft = compose_deposit(contract, purse)
    funds.check_reserve(session, purse, draft)
    funds.check_inputs(session, draft)
    return draft


def agree(session: Session, connection: Connection) -> Connection:
    """Have the hub agree to the deposits. Asked again it gives its first answer.

    Raises BadDepositScript, BadReply, BadTerms, InvalidTime, TaprootInactive, ChannelUnspendable: then the client's
    deposit was not published.
    """
    _check_rates_now(session, connection)
    answer = DepositReply.parse(session.call("mph_deposit", [connection.proposal], connection.hub_key).body)
    agreed = agreed_by(connection, answer)
    check_delay(answer.stake.delay, session.network)
    tip = session.chain.view(Query()).height
    check_taproot(session.network, tip)
    if answer.deposit_by <= tip or not connection.expiry.may_open(tip, session.network.safe_depth):
        raise InvalidTime(
            "The deposits would be late, or expire too soon. Nothing was deposited: connect anew.", height=tip
        )
    check_ways_back(agreed.duplex, agreed.secrets(session.wallet.key))
    txid = txid_of(agreed.deposit_raw)[::-1].hex()
    members = asset_members(agreed.asset, agreed.longname)
    quantity = agreed.duplex.sending.contract.quantity
    return session.save(agreed, "agreed", history.connected(members, quantity, txid, session.wallet.address))


def _check_rates_now(session: Session, connection: Connection) -> None:
    """Refuse commits' rates that were right when they were proposed, before a stop of this program.

    Raises BadTerms, FeeUnknown.
    """
    duplex, now = connection.duplex, funds.known_rate(session, session.chain.view(Query()))
    c2h, h2c = duplex.sending.contract.rate, duplex.receiving.contract.rate
    pays = payer_agrees(c2h, now, funds.bounds(session))
    if not pays or not payee_agrees(h2c, now, packages=session.sight.nodes.packages):
        raise BadTerms(
            f"The commits were to pay {c2h} and {h2c} sat/vB, where the network asks {now.value} now. Nothing was "
            "deposited: connect anew.",
            c2h_rate=c2h,
            h2c_rate=h2c,
            rate=now.value,
        )

"""Know what the wallet can pay, and check the values of the coins that it spends."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from picopayments_cli.chain import Asset, Query, View
from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.counterparty import read_transaction, unpack_send
from picopayments_cli.channel.drafts import (
    DUST,
    Draft,
    check_coin,
    parse_transaction,
    shown_keys,
    spent_outpoints,
    txid_of,
)
from picopayments_cli.channel.fees import FeeFrac
from picopayments_cli.channel.rates import Bounds, Rate, believed
from picopayments_cli.channel.reserve import Reserve, reserve_for
from picopayments_cli.channel.stages import AGREED, CLOSED, PROPOSED
from picopayments_cli.channel.steps import NO_RESERVE, Means
from picopayments_cli.channel.transactions import CHILD_SIZE, COMMIT_SIZE
from picopayments_cli.channel.values import Coin, Outpoint
from picopayments_cli.client.looking import Look
from picopayments_cli.client.session import Session
from picopayments_cli.client.wallet import Remembered, confirmed, remember, remembered
from picopayments_cli.errors import (
    FeeTooHigh,
    FeeUnknown,
    InsufficientBitcoin,
    InsufficientFunds,
    LocalFiles,
    PicopaymentsError,
)

log = logging.getLogger(__name__)
WALLET_RESERVE = 20_000  # satoshis that stay in the wallet, for fees that can't wait


def bounds(session: Session) -> Bounds:
    """The fee rates (sat/vB) that are paid while nothing is lost by waiting."""
    return Bounds(1, session.settings.fee_ceiling)


def rate(session: Session, view: View) -> Rate:
    """The fee rate that is believed: the setting's, else the chain's, else the last one that a chain had."""
    if session.settings.fee_rate is not None:
        return Rate(session.settings.fee_rate, guess=False)
    last = session.home.fee_rate or session.store.notes.last_rate()
    if view.fee_rate is not None and view.fee_rate != last:
        session.home.fee_rate = view.fee_rate
    return believed(view.fee_rate, last, None, bounds(session))


def known_rate(session: Session, view: View) -> Rate:
    """The fee rate at which a connection is opened: what it fixes for good is not built on a guess. Raises FeeUnknown.

    On regtest, whose node has no estimate at first, blocks take whatever is relayed.
    """
    found = rate(session, view)
    if found.guess and session.network.name != "regtest":
        raise FeeUnknown(
            "The node has no estimate of the fee rate now, and a connection's fees are fixed when it is opened. "
            "Nothing was deposited: wait until the node has one, or set fee_rate."
        )
    return found


def free_coins(session: Session, view: View, *, can_wait: bool) -> tuple[Coin, ...]:
    """Collect the confirmed coins without attached assets that no deposit and no other own transaction holds.

    Where it can't be known what is attached or held, what can't wait does without any coin.
    """
    listed = confirmed(view.coins[session.wallet.address])
    try:
        taken = _promised(session) | session.home.spent | _held(session, listed, can_wait=can_wait)
        coins = tuple(coin for coin in listed if coin.outpoint not in taken)
        attached = session.sight.attached(coin.outpoint for coin in coins)
    except PicopaymentsError as error:
        if can_wait:
            raise
        log.warning("the wallet's coins are left alone, since they may be spent, or carry assets: %s", error.message)
        return ()
    return tuple(coin for coin in coins if coin.outpoint not in attached)


def kept(session: Session) -> Remembered:
    """Return the wallet as it was seen last, with the change of its own transactions; nothing where that can't be read.

    It must not keep a cheat from being punished.
    """
    try:
        seen = remembered(session.store)
        return replace(seen, coins=seen.coins | session.home.past.change())
    except LocalFiles as error:
        log.warning("how the wallet was seen last is not known: %s", error.message)
        return Remembered()


def tell_change(session: Session, view: View) -> None:
    """Note how much of the wallet's bitcoin is its own change that no block has yet: no balance counts it."""
    try:
        own = session.home.past.change()
    except LocalFiles:
        return
    coins = view.coins[session.wallet.address]
    change = sum(coin.value for coin in coins if coin.height is None and coin.outpoint in own)
    if change:
        log.info("Change of %d satoshis (BTC) waits for the next block: no balance counts it before.", change)


def keep_seen(session: Session, look: Look) -> None:
    """See that it is on disk how the wallet is seen, for the time when its own Bitcoin node alone can be asked."""
    if not look.whole or session.sight.nodes.bitcoin is None or look is session.home.noted:
        return
    session.home.noted = look
    coins = {coin.outpoint for coin in confirmed(look.view.coins[session.wallet.address])}
    try:
        before = remembered(session.store)
        new, known = coins - before.coins, coins & before.coins
        clean = new - session.chain.attached(new) if new else new
        seen = Remembered(frozenset(known | clean), look.takes_sends(session.wallet.address))
        remember(session.store, seen, before)
    except PicopaymentsError as error:
        log.warning("how the wallet is seen was not written down: %s", error.message)


def _held(session: Session, listed: Iterable[Coin], *, can_wait: bool) -> set[Outpoint]:
    """Collect what own transactions spend; what can't wait takes the coins of one that no node knows now."""
    sent = session.home.past.look(session.chain, {coin.outpoint for coin in listed})
    return {spent for own in sent if can_wait or own.missing is None for spent in own.spends}


def _promised(session: Session) -> set[Outpoint]:
    """Collect what deposits spend that may come yet."""
    waiting = (item for item in session.connections().values() if item.stage != CLOSED and item.ending.rival is None)
    deposits = [item.deposit_raw for item in waiting]
    found = [parse_transaction(raw) for raw in deposits]
    return {outpoint for tx in found if tx is not None for outpoint in spent_outpoints(tx)}


def purse(session: Session, view: View) -> Purse:
    """The wallet as what can wait is paid from it. Raises FeeTooHigh above the ceiling."""
    asked, ceiling = rate(session, view).value, session.settings.fee_ceiling
    if asked > ceiling:
        raise FeeTooHigh(
            f"The network asks {asked} sat/vB, more than the fee_ceiling of {ceiling}. Wait, or raise the ceiling in "
            "the settings.",
            rate=asked,
            fee_ceiling=ceiling,
        )
    return Purse(session.wallet.script, free_coins(session, view, can_wait=True), asked)


def means(session: Session, look: Look) -> Means:
    """The wallet as recoveries are paid from it: a coin is kept for each connection that may have to close yet."""
    view = look.view
    if look.whole:
        coins = free_coins(session, view, can_wait=False)
    else:  # the Bitcoin node knows what its mempool spends
        taken = _promised(session) | session.home.spent
        coins = tuple(coin for coin in view.coins[session.wallet.address] if coin.outpoint not in taken)
    believed_rate, limits = rate(session, view), bounds(session)
    purse = Purse(session.wallet.script, coins, believed_rate.value)
    return Means(purse, believed_rate, limits, _reserve(session, limits))


def _reserve(session: Session, limits: Bounds) -> Reserve:
    """Return what the closes of all open connections need, each raised to the ceiling by a child with one coin."""
    rates = [item.duplex.receiving.contract.rate for item in session.connections().values() if item.stage == AGREED]
    if not rates:
        return NO_RESERVE
    commit = FeeFrac(COMMIT_SIZE * min(rates), COMMIT_SIZE)
    return reserve_for(len(rates), commit, CHILD_SIZE, limits, DUST)


def check_inputs(session: Session, draft: Draft) -> None:
    """Compare each wallet coin to be spent with the transaction that made it. Raises BadPreviousTransaction."""
    coins = [spent.coin for spent in draft.inputs if spent.coin.script == session.wallet.script]
    coins = [coin for coin in coins if coin.height is not None and coin not in session.sight.proven]
    if not coins:
        return
    known = session.chain.view(Query(transactions=sorted({coin.outpoint.txid for coin in coins}))).transactions
    for coin in coins:
        check_coin(coin, known.get(coin.outpoint.txid, b""))


def check_funds(session: Session, asset: Asset, quantity: int) -> None:
    """Refuse more than the wallet's confirmed assets, less those on their way out. Raises InsufficientFunds."""
    address = session.wallet.address
    others = [item for item in session.connections().values() if item.stage in (PROPOSED, AGREED)]
    look = session.sight.look(address, others)
    deposits = {
        txid_of(item.deposit_raw): item.duplex.sending.contract.quantity
        for item in others
        if item.asset == asset.name and not look.facts[item.handle][0].funded
    }
    leaving = deposits | _unconfirmed_sends(session, look.view.coins[address], asset)
    free = max(0, look.held(address, asset.name) - sum(leaving.values()))
    if free < quantity:
        raise InsufficientFunds(
            f"The wallet {address} holds {free} of {asset} that can be spent, less than {quantity}. Send it some, and "
            "wait until that is confirmed.",
            **asset.members,
            needed=quantity,
            available=free,
            address=address,
        )


def _unconfirmed_sends(session: Session, coins: tuple[Coin, ...], asset: Asset) -> dict[bytes, int]:
    """Find what transactions in the mempool take from the wallet, by txid.

    They are those that this wallet remembers, and others of its key by the change that each leaves in it.
    """
    own = session.home.past.look(session.chain, {coin.outpoint for coin in coins})
    raws = {item.txid: item.raw for item in own if item.height is None}
    txids = {coin.outpoint.txid for coin in coins if coin.height is None} - raws.keys()
    if txids:
        raws |= session.chain.view(Query(transactions=sorted(txids))).transactions
    sent = {}
    for txid, raw in raws.items():
        tx = parse_transaction(raw)
        if tx is None or shown_keys(tx)[0] != session.wallet.key.pubkey:
            continue
        reading = read_transaction(tx, session.wallet.script)
        send = unpack_send(reading.message) if reading and reading.message else None
        if send is not None and send.asset_id == asset.number:
            sent[txid] = send.quantity
    return sent


def check_reserve(session: Session, purse: Purse, draft: Draft) -> None:
    """Refuse what can wait and leaves too little for fees that can't. Raises InsufficientBitcoin."""
    held = sum(coin.value for coin in purse.coins)
    paid = draft.fee + sum(out.value for out in draft.outputs if out.script != purse.script)
    if held - paid < WALLET_RESERVE:
        raise InsufficientBitcoin(
            f"This would leave {held - paid} satoshis in the wallet; {WALLET_RESERVE} must stay for fees that can't "
            f"wait. Send bitcoin to {session.wallet.address}, or wait for its coins to confirm.",
            needed=paid + WALLET_RESERVE,
            available=held,
        )

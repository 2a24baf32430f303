"""Know what the wallet can pay, and sign what this party signs alone."""

from __future__ import annotations

import logging

from picopayments_cli.chain import Asset, Query, View
from picopayments_cli.channel.counterparty import read_transaction, script_pushes, unpack_send
from picopayments_cli.channel.stages import AGREED, CLOSED, PROPOSED
from picopayments_cli.channel.values import Coin
from picopayments_cli.channel2.facts import deposit_depth
from picopayments_cli.channel2.transactions import (
    Draft,
    Output,
    Purse,
    output_of,
    parse_transaction,
    spent_outpoints,
    txid_of,
)
from picopayments_cli.client.wallet import confirmed
from picopayments_cli.client2.session import Session
from picopayments_cli.errors import (
    BadPreviousTransaction,
    FeeTooHigh,
    InsufficientFunds,
    PicopaymentsError,
)

log = logging.getLogger(__name__)
WALLET_RESERVE = 20_000  # satoshis that stay in the wallet, for fees that can't wait


def purse(session: Session, view: View, *, can_wait: bool = True) -> Purse:
    """Collect the confirmed coins that the wallet may spend, less those promised to deposits, and the fee rate.

    If the network asks more than the ceiling, what can't wait pays the ceiling; for what can it raises FeeTooHigh.
    """
    taken = {
        outpoint
        for item in session.connections().values()
        if item.stage != CLOSED
        for tx in [parse_transaction(item.deposit_raw)]
        if tx is not None
        for outpoint in spent_outpoints(tx)
    }
    taken |= session.home.spent
    coins = tuple(coin for coin in confirmed(view.coins[session.wallet.address]) if coin.outpoint not in taken)
    coins = _plain(session, coins, can_wait)
    return Purse(session.wallet.unlock, coins, _rate(session, view, can_wait), WALLET_RESERVE)


def _plain(session: Session, coins: tuple[Coin, ...], can_wait: bool) -> tuple[Coin, ...]:
    """Leave out coins with attached assets. If that can't be known, what can't wait does without any coin."""
    try:
        attached = session.sight.attached(coin.outpoint for coin in coins)
    except PicopaymentsError as error:
        if can_wait:
            raise
        log.warning("the wallet's coins are left alone, since assets may be attached to them: %s", error.message)
        return ()
    return tuple(coin for coin in coins if coin.outpoint not in attached)


def _rate(session: Session, view: View, can_wait: bool) -> int:
    """Choose the fee rate (sat/vB) of what this party signs alone. Raises FeeTooHigh for what can wait."""
    ceiling = session.settings.fee_ceiling
    asked = session.settings.fee_rate or view.fee_rate
    if can_wait and asked > ceiling:
        raise FeeTooHigh(
            f"The network asks {asked} sat/vB, more than the fee_ceiling of {ceiling}. Wait, or raise the ceiling in "
            "the settings.",
            rate=asked,
            fee_ceiling=ceiling,
        )
    return min(asked, ceiling)


def check_inputs(session: Session, draft: Draft) -> None:
    """Compare each coin to be spent with the transaction that made it. Raises BadPreviousTransaction.

    Legacy signatures don't commit to values: a wrong one would go to the miners.
    """
    txids = sorted({coin.outpoint.txid for coin in draft.inputs})
    known = session.chain.view(Query(transactions=txids)).transactions
    for coin in draft.inputs:
        made = output_of(known.get(coin.outpoint.txid, b""), coin.outpoint)
        if made != Output(coin.value, coin.script):
            raise BadPreviousTransaction(
                f"The coin {coin.outpoint} holds {made.value} satoshis, not the {coin.value} that were named. "
                "Nothing was signed.",
                outpoint=str(coin.outpoint),
                value=made.value,
                named=coin.value,
            )


def signed(session: Session, draft: Draft) -> bytes:
    """Sign a transaction that only this party signs; its bytes. Raises BadPreviousTransaction."""
    check_inputs(session, draft)
    raw: bytes = draft.signed(session.wallet.key).serialize()
    return raw


def check_funds(session: Session, asset: Asset, quantity: int) -> None:
    """Refuse more than the wallet's confirmed assets, less those on their way out. Raises InsufficientFunds."""
    others = [item for item in session.connections().values() if item.stage in (PROPOSED, AGREED)]
    look = session.sight.look(session.wallet.address, others, settle=False)
    address = session.wallet.address
    deposits = {
        txid_of(item.deposit_raw): item.duplex.sending.quantity
        for item in others
        if item.asset == asset.name and not deposit_depth(item.duplex.sending, look.facts[item.handle][0])
    }
    leaving = deposits | _unconfirmed_sends(session, look.view.coins[address], asset)
    free = look.held(address, asset.name) - sum(leaving.values())
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

    They are known by the change that each leaves in the wallet, where no other spends it before it is confirmed.
    """
    txids = {coin.outpoint.txid for coin in coins if coin.height is None}
    if not txids:
        return {}
    sent = {}
    for txid, raw in session.chain.view(Query(transactions=sorted(txids))).transactions.items():
        tx = parse_transaction(raw)
        if tx is None or (script_pushes(bytes(tx.vin[0].scriptSig)) or [b""])[-1] != session.wallet.key.pubkey:
            continue
        reading = read_transaction(tx, session.wallet.script)
        send = unpack_send(reading.message) if reading and reading.message else None
        if send is not None and send.asset_id == asset.number:
            sent[txid] = send.quantity
    return sent

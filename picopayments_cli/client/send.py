"""Send assets and bitcoins from the wallet to any address."""

from __future__ import annotations

from picopayments_cli.chain import Asset, Query
from picopayments_cli.channel.counterparty import BTC_ID, pack_send
from picopayments_cli.channel.drafts import DUST, Draft, Output, check_dust, txid_of
from picopayments_cli.channel.networks import recipient
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.transactions import compose_send
from picopayments_cli.client import funds
from picopayments_cli.client.session import Session
from picopayments_cli.errors import InvalidParams, Unreachable


def blocksend(session: Session, asset: Asset, destination: str, quantity: int, extra_btc: int = 0) -> str:
    """Send a quantity (satoshis) of an asset, or bitcoins, from the wallet by a transaction of its own; the txid.

    An asset comes with ``extra_btc`` satoshis, and at least with the dust that an output must hold. Nothing is signed
    before everything is checked. Called again it pays again. Raises as ``compose`` does, and BroadcastRefused.
    """
    draft = compose(session, asset, destination, quantity, extra_btc)
    return _publish(session, finish_wallet(draft, session.wallet.key))


def compose(session: Session, asset: Asset, destination: str, quantity: int, extra_btc: int = 0) -> Draft:
    """Make the transaction that ``blocksend`` signs.

    Raises InvalidAddress, InvalidQuantity, InvalidParams, MemoRequired, InsufficientFunds, InsufficientBitcoin,
    FeeTooHigh, BadPreviousTransaction.
    """
    script = recipient(session.network, destination, bitcoin=asset.number == BTC_ID)
    if asset.number == BTC_ID:
        if extra_btc:
            raise InvalidParams("extra_btc goes with assets only: add it to the QUANTITY of BTC.", extra_btc=extra_btc)
        check_dust(quantity, "Send")
    else:
        funds.check_funds(session, asset, quantity)
    asked = [] if asset.number == BTC_ID else [destination]  # bitcoins come without a memo, too
    view = session.chain.view(Query(coins=[session.wallet.address], options=asked))
    purse = funds.purse(session, view)
    if asset.number == BTC_ID:
        draft = compose_send(purse, Output(quantity, script))
    else:
        view.check_takes_sends(destination)
        target = Output(max(DUST, extra_btc), script)
        draft = compose_send(purse, target, pack_send(asset.number, quantity))
    funds.check_reserve(session, purse, draft)
    funds.check_inputs(session, draft)
    return draft


def _publish(session: Session, raw: bytes) -> str:
    txid = txid_of(raw)[::-1].hex()
    try:
        return session.broadcast(raw, "blocksend")
    except Unreachable as error:
        error.message += (
            f" The payment {txid} may have left all the same: see `picopayments-cli listutxos {session.wallet.address} "
            f"--unconfirmed` and `picopayments-cli getrawtx {txid}` before you pay again."
        )
        error.data["txid"] = txid
        raise

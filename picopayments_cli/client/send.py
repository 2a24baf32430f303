"""What leaves the wallet: what it can afford, and sends to whoever has an address."""

from __future__ import annotations

from picopayments_cli.chain import Asset, Coin, Query
from picopayments_cli.channel.counterparty import BTC_ID, pack_send, read_transaction, script_pushes, unpack_send
from picopayments_cli.channel.facts import deposit_depth
from picopayments_cli.channel.networks import script_of_address
from picopayments_cli.channel.stages import AGREED, PROPOSED
from picopayments_cli.channel.transactions import (
    DUST,
    Draft,
    Output,
    Purse,
    compose_payment,
    compose_send,
    parse_transaction,
    txid_of,
)
from picopayments_cli.client.session import Session
from picopayments_cli.errors import (
    InsufficientBitcoin,
    InsufficientFunds,
    InvalidAddress,
    InvalidParams,
    InvalidQuantity,
    Unreachable,
)


def blocksend(session: Session, asset: Asset, destination: str, quantity: int, extra_btc: int = 0) -> str:
    """Send a quantity (satoshis) of an asset, or bitcoins, from the wallet by a transaction of its own; the txid.

    An asset comes with ``extra_btc`` satoshis, and at least with the dust that an output must hold. Nothing is signed
    before everything is checked. Called again it pays again. Raises InvalidAddress, InvalidQuantity, InvalidParams,
    MemoRequired, InsufficientFunds, InsufficientBitcoin, FeeTooHigh, BadPreviousTransaction, BroadcastRefused.
    """
    script = _destination(session, asset, destination)
    if asset.number == BTC_ID:
        if extra_btc:
            raise InvalidParams("extra_btc goes with assets only: add it to the QUANTITY of BTC.", extra_btc=extra_btc)
        if quantity < DUST:
            raise InvalidQuantity(
                f"An output must hold {DUST} satoshis at least, or it is not relayed.", value=quantity, least=DUST
            )
    else:
        check_funds(session, asset, quantity)
    asked = [] if asset.number == BTC_ID else [destination]  # bitcoins come without a memo, too
    view = session.chain.view(Query(coins=[session.wallet.address], options=asked))
    purse = session.purse(view)
    if asset.number == BTC_ID:
        draft = compose_payment(purse, Output(quantity, script))
    else:
        view.check_takes_sends(destination)
        target = Output(max(DUST, extra_btc), script)
        draft = compose_send(purse, target, pack_send(asset.number, quantity))
    check_reserve(session, purse, draft)
    return _publish(session, session.signed(draft))


def _destination(session: Session, asset: Asset, address: str) -> bytes:
    script = script_of_address(session.network, address)
    if asset.number != BTC_ID and address == session.network.burn_address:
        raise InvalidAddress(
            "Counterparty takes whatever is sent to this address for a burn of bitcoins: the asset would stay where it "
            "is.",
            address=address,
        )
    return script


def _publish(session: Session, raw: bytes) -> str:
    txid = txid_of(raw)[::-1].hex()
    try:
        return session.broadcast(raw, "blocksend")
    except Unreachable as error:
        error.message += (
            f" The payment {txid} may have left all the same: see `listutxos {session.wallet.address} --unconfirmed` "
            f"and `getrawtx {txid}` before you pay again."
        )
        error.data["txid"] = txid
        raise


def check_funds(session: Session, asset: Asset, quantity: int) -> None:
    """Refuse what the wallet's confirmed assets, less those on their way out, don't cover. Raises InsufficientFunds."""
    others = [item for item in session.connections().values() if item.stage in (PROPOSED, AGREED)]
    look = session.look(others, settle=False)
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
    """What transactions in the mempool take from the wallet, by txid.

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


def check_reserve(session: Session, purse: Purse, draft: Draft) -> None:
    """Refuse a transaction that leaves too little for fees that can't wait. Raises InsufficientBitcoin."""
    held = sum(coin.value for coin in purse.coins)
    paid = draft.fee + sum(out.value for out in draft.outputs if out.script != purse.script)
    if held - paid < purse.reserve:
        raise InsufficientBitcoin(
            f"This would leave {held - paid} satoshis in the wallet; {purse.reserve} must stay for fees that can't "
            f"wait. Send bitcoin to {session.wallet.address}.",
            needed=paid + purse.reserve,
            available=held,
        )

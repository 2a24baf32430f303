"""Send what is free of the hub's wallet to its operator, by the coins and quantities that nothing else counts on.

A withdrawal is in the database before it leaves, and stays there until it is buried: its coins pay for nothing else
meanwhile, and what it moves is promised to nobody.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, select

from picopayments_cli.chain import Asset, Query
from picopayments_cli.channel.coins import Purse, offers, pay
from picopayments_cli.channel.counterparty import BTC_ID, pack_send
from picopayments_cli.channel.drafts import DUST, Draft, Output, check_dust, txid_of
from picopayments_cli.channel.networks import recipient
from picopayments_cli.channel.rates import may_open
from picopayments_cli.channel.reserve import Chore
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.stages import AGREED
from picopayments_cli.channel.transactions import Budget, compose_send, deposit_size
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.errors import (
    BroadcastRefused,
    FeeTooHigh,
    FeeUnknown,
    InsufficientBitcoin,
    InsufficientFunds,
    InvalidQuantity,
    UnknownTransaction,
    Unreachable,
)
from picopayments_cli.hub import promises
from picopayments_cli.hub.chainview import coins_of, coins_text
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.reading import Reading
from picopayments_cli.hub.schema import connections, withdrawals
from picopayments_cli.hub.wallet import look, means_of
from picopayments_cli.quantities import read_quantity

log = logging.getLogger(__name__)

DEPOSIT_COINS = 2  # that a promised deposit may take
_WAITING = select(connections.c.fixed).where(connections.c.stage == AGREED, connections.c.deposit_raw.is_(None))
_ROWS = select(withdrawals)
_DROP = withdrawals.delete().where(withdrawals.c.txid == bindparam("id"))


@dataclass(frozen=True)
class Withdrawal:
    """One withdrawal as it is asked for. ``quantity``: satoshis of the asset; None: all that is free."""

    asset: Asset
    address: str
    script: bytes
    quantity: int | None

    @property
    def bitcoin(self) -> bool:
        """Whether bitcoins are sent."""
        return self.asset.number == BTC_ID


def withdraw(hub: Hub, asset: str, address: str, quantity: int | str | None, *, dry_run: bool) -> dict[str, Any]:
    """Send a quantity, or with None all that is free; ``dry_run``: only tell what would be sent.

    The quantity is in satoshis, or a text with the asset as its unit. ``stays`` is what the wallet holds of it after.

    No round may be under way. Raises InvalidAddress, UnknownAsset, MemoRequired, InvalidQuantity, InsufficientFunds,
    InsufficientBitcoin, FeeUnknown, FeeTooHigh, BroadcastRefused, and what the nodes raise: a transaction of which
    nobody knows whether it has left is published again by the rounds.
    """
    found = hub.chain.asset(asset)
    asked = Withdrawal(
        found, address, recipient(hub.network, address, bitcoin=found.number == BTC_ID), _satoshis(found, quantity)
    )
    view = hub.chain.view(Query(balances=[hub.address], options=[] if asked.bitcoin else [address]))
    if not asked.bitcoin:
        view.check_takes_sends(address)
    purse = _purse(hub)
    listed = view.balances[hub.address].get(found.name, 0)
    held = sum(coin.value for coin in hub.wallet.coins) if asked.bitcoin else listed
    if dry_run:
        with hub.book.reading() as book:
            return _shown(asked, *_composed(book, asked, purse, held), held)
    with hub.book.transaction("withdrawal") as work:
        work.queue("promises")  # it leaves what was promised, whoever promises at this moment
        moved, draft = _composed(work, asked, purse, held)
        raw = finish_wallet(draft, hub.key)
        coins = coins_text(spent.coin for spent in draft.inputs)
        row = {"txid": txid_of(raw), "raw": raw, "asset_id": str(found.number), "quantity": moved, "coins": coins}
        work.db.execute(withdrawals.insert(), row)
    _publish(hub, raw)
    return {**_shown(asked, moved, draft, held), "txid": txid_of(raw)[::-1].hex()}


def _purse(hub: Hub) -> Purse:
    """The coins that nothing else counts on, at the rate of the day. Raises FeeUnknown, FeeTooHigh."""
    look(hub)
    means = means_of(hub)
    if means.rate.guess:
        raise FeeUnknown("The node has no estimate of the fee rate now: try again once it has one.")
    if not may_open(means.rate, means.bounds):
        raise FeeTooHigh(
            f"The network asks {means.rate.value} sat/vB now, above the hub's ceiling of {means.bounds.ceiling}: try "
            "again once it asks less.",
            fee_rate=means.rate.value,
        )
    return means.purse_for(Chore.DEPOSIT, means.bounds.within(means.rate.value))


def _composed(book: Reading, asked: Withdrawal, purse: Purse, held: int) -> tuple[int, Draft]:
    """Return the quantity that is moved, and the transaction that moves it and leaves what promised deposits take.

    Raises InvalidQuantity, InsufficientFunds, InsufficientBitcoin.
    """
    kept = _promised_satoshis(book, purse)
    if not asked.bitcoin:
        moved = _free(book, asked, held)
        draft = compose_send(purse, Output(DUST, asked.script), pack_send(asked.asset.number, moved))
    elif asked.quantity is None:
        draft = _all(asked.script, purse, kept)
        moved = draft.outputs[0].value
    else:
        moved = asked.quantity
        check_dust(moved, "Withdraw")
        draft = compose_send(purse, Output(moved, asked.script))
    left = sum(coin.value for coin in purse.without(draft).coins)
    left += sum(out.value for out in draft.outputs if out.script == purse.script)
    if left < kept:
        raise InsufficientBitcoin(
            f"That would leave {left} satoshis beside the reserve. The deposits that the hub has promised need {kept}: "
            "withdraw less, or wait until they are made.",
            left=left,
            needed=kept,
        )
    return moved, draft


def _free(book: Reading, asked: Withdrawal, held: int) -> int:
    """The quantity of an asset that is sent, of what nobody was promised. Raises InsufficientFunds."""
    free = max(held - promises.spoken_for(book.db, asked.asset.name), 0)
    wanted = free if asked.quantity is None else asked.quantity
    if not 0 < wanted <= free:
        raise InsufficientFunds(
            f"{free} of {asked.asset} are free in the hub's wallet, which holds {held}: the rest is promised to "
            "clients, or on its way. Withdraw less, or wait.",
            needed=wanted,
            available=free,
            held=held,
        )
    return wanted


def _all(script: bytes, purse: Purse, kept: int) -> Draft:
    """All that the coins hold, less the fee and what is ``kept``. Raises InsufficientBitcoin."""
    rest = (Output(max(kept, DUST), purse.script),) if kept else ()
    shape = Draft((), (Output(DUST, script), *rest))
    coins = offers(shape, purse)[-1]
    try:
        return pay(shape, coins, purse.rate * shape.plus(coins).size)
    except ValueError:
        held = sum(coin.value for coin in purse.coins)
        raise InsufficientBitcoin(
            f"{held} satoshis are there beside the reserve, of which promised deposits take {kept}: nothing is free. "
            "Wait for coins to confirm, or for the reserve to be whole.",
            available=max(held - kept, 0),
        ) from None


def _promised_satoshis(book: Reading, purse: Purse) -> int:
    """Return what the deposits take that the hub has agreed to and not made yet."""
    found = (json.loads(text)["h2c"]["fee_rate"] for text in book.db.execute(_WAITING).scalars())
    each = DUST + purse.rate * deposit_size(purse.script, DEPOSIT_COINS)
    return sum(Budget(int(agreed)).anchor + each for agreed in found)


def _satoshis(asset: Asset, quantity: int | str | None) -> int | None:
    """Read how much is asked for. Raises InvalidQuantity."""
    if not isinstance(quantity, str):
        return quantity
    written = read_quantity(quantity)
    if written.unit not in (None, asset.name, asset.longname):
        raise InvalidQuantity(
            f"The quantity {quantity} is in {written.unit}, and the withdrawal in {asset}: name both alike (--asset).",
            value=quantity,
            unit=str(asset),
        )
    return written.quantity(asset.divisible)


def _shown(asked: Withdrawal, moved: int, draft: Draft, held: int) -> dict[str, Any]:
    return {
        **asked.asset.members,
        "address": asked.address,
        "quantity": moved,
        "fee": draft.fee,
        "size": draft.size,
        "stays": held - moved - (draft.fee if asked.bitcoin else 0),
    }


def _publish(hub: Hub, raw: bytes) -> None:
    """Hand a withdrawal to the network; one that a node refuses is forgotten."""
    txid = txid_of(raw)
    try:
        hub.submit([raw])
    except BroadcastRefused:
        _forget(hub, txid)
        raise
    except Unreachable as error:
        error.message += (
            f" The withdrawal {txid[::-1].hex()} may have left all the same, and the hub publishes it again: do not "
            "ask for another one."
        )
        error.data["txid"] = txid[::-1].hex()
        raise
    log.info("withdrawn", extra={"fields": {"txid": txid[::-1].hex()}})


def follow_withdrawals(hub: Hub) -> None:
    """Forget the withdrawals that are buried, and publish again those that no node has. Raises what the node raises."""
    with hub.book.reading() as book:
        rows = [(bytes(row.txid), bytes(row.raw), row.coins) for row in book.db.execute(_ROWS)]
    for txid, raw, coins in rows:
        depth = _depth(hub, txid)
        if depth is not None and depth >= hub.network.safe_depth:
            _forget(hub, txid)
        elif depth is None:
            _publish_again(hub, txid, raw, [coin.outpoint for coin in coins_of(coins.split())])


def _depth(hub: Hub, txid: bytes) -> int | None:
    """The confirmations of a transaction: 0 in the mempool, None where the node does not have it."""
    try:
        return int(hub.bitcoin.verbose_transaction(txid).get("confirmations", 0))
    except UnknownTransaction:
        return None


def _publish_again(hub: Hub, txid: bytes, raw: bytes, coins: list[Outpoint]) -> None:
    """Publish a withdrawal again; one of which a block has spent a coin otherwise never comes."""
    fields: dict[str, Any] = {"txid": txid[::-1].hex()}
    try:
        hub.submit([raw])
    except BroadcastRefused as error:
        if len(hub.bitcoin.unspent(coins, mempool=False)) == len(coins):
            log.warning("withdrawal waits", extra={"fields": fields | error.data})
            return
        log.warning("withdrawal lost", extra={"fields": fields | error.data})
        _forget(hub, txid)


def _forget(hub: Hub, txid: bytes) -> None:
    with hub.database.transaction("withdrawal over") as db:
        db.execute(_DROP, {"id": txid})

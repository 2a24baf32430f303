"""The hub's wallet: what it pays with now, and the coins that it splits, as each close under way needs its own.

While the Counterparty node is away, the coins of the last look pay for what can't wait, as far as they are there. They
are kept in the database, for a hub that is started meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import replace
from heapq import nlargest

from picopayments_cli.chain import REQUIRE_MEMO, Query
from picopayments_cli.channel.coins import Purse, fund
from picopayments_cli.channel.drafts import Draft, Output, outputs_of, parse_transaction, spent_outpoints
from picopayments_cli.channel.rates import may_open
from picopayments_cli.channel.reserve import Chore, Reserve, missing, spendable
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.steps import Means
from picopayments_cli.channel.values import Coin, Outpoint
from picopayments_cli.errors import InsufficientBitcoin
from picopayments_cli.hub.chainview import coins_of, coins_text, is_own, promised_coins
from picopayments_cli.hub.database import meta_get, meta_set
from picopayments_cli.hub.hub import Hub, Wallet

log = logging.getLogger(__name__)

_SPLIT = "last split of coins"
_LOOK = "last look at the wallet"
MOST_SPLIT = 1000  # coins that one transaction makes: 34 kvB, of the 100 that nodes relay
MOST_COINS = 1000  # that are looked at, beside twice the reserve's
_SPARE = 2  # coins for deposits while another split waits for its block


def look(hub: Hub) -> None:
    """See what the wallet holds, and whether its address takes sends without a memo. Raises what the nodes raise."""
    own, regtest = [hub.address], hub.network.name == "regtest"
    view = hub.chain.view(Query(coins=own, options=own, balances=own if regtest else ()))
    held = view.balances[hub.address] if regtest else {}
    confirmed = _unspent(hub, _useful(hub, view.coins[hub.address]))
    attached = hub.chain.attached([coin.outpoint for coin in confirmed]) if confirmed else set()
    coins = _proven(hub, (coin for coin in confirmed if coin.outpoint not in attached))
    assets = tuple(asset for asset, quantity in held.items() if quantity and asset != "BTC")
    found = Wallet(coins, not view.options[hub.address] & REQUIRE_MEMO, assets)
    if found != hub.wallet:
        with hub.database.transaction("wallet") as db:
            meta_set(db, _LOOK, f"{int(found.home)} {coins_text(found.coins)}")
    hub.wallet = found


def _useful(hub: Hub, listed: Iterable[Coin]) -> list[Coin]:
    """The most valuable coins of a list, as many as the hub can use: strangers can send it dust without end."""
    with hub.book.reading() as book:
        most = MOST_COINS + 2 * hub.reserve_of(book.counted()).coins
    return nlargest(most, listed, key=lambda coin: (coin.value, coin.outpoint))


def recall(hub: Hub) -> bool:
    """Take the wallet for what it was at the last look, if there was one; whether there was."""
    with hub.database.reading() as db:
        text = meta_get(db, _LOOK)
    if text is not None:
        home, *words = text.split()
        hub.wallet = Wallet(tuple(coins_of(words)), home == "1")
    return text is not None


def _still_there(hub: Hub) -> tuple[Coin, ...]:
    """The coins of the last look that Bitcoin Core has still in a block, and that nothing spends."""
    depths = hub.bitcoin.depths([coin.outpoint for coin in hub.wallet.coins])
    return tuple(coin for coin in hub.wallet.coins if depths.get(coin.outpoint))


def means_of(hub: Hub, *, looked: bool = True) -> Means:
    """Return what the hub pays with now; ``looked``: whether it has just looked at its wallet.

    On regtest, whose node has no estimate at first, the guess counts for one. Raises what Bitcoin Core raises.
    """
    known = hub.wallet.coins if looked else _still_there(hub)
    with hub.book.reading() as book:
        kept, connections = promised_coins(book), book.counted()
    coins = tuple(coin for coin in known if coin.outpoint not in kept)
    rate = replace(hub.rate, guess=hub.rate.guess and hub.network.name != "regtest")
    return Means(Purse(hub.script, coins, rate.value), rate, hub.bounds, hub.reserve_of(connections))


def _ahead(hub: Hub, reserve: Reserve) -> Reserve:
    """Return the reserve that half as many connections again would need, and coins for deposits beside it.

    It is split in time, so that no deposit waits for the block that confirms it.
    """
    with hub.book.reading() as book:
        larger = hub.reserve_of(book.counted() * 3 // 2)
    return reserve if larger.coins <= reserve.coins else replace(larger, coins=larger.coins + _SPARE)


def _proven(hub: Hub, coins: Iterable[Coin]) -> tuple[Coin, ...]:
    """The coins whose values stand in the transactions that made them: a wallet's signature does not commit to them.

    An index server tells them, which may be anybody's. One that lies would have the difference go to the miners.
    """
    found = tuple(coins)
    hub.proven &= {(coin.outpoint, coin.value) for coin in found}
    new = [coin for coin in found if (coin.outpoint, coin.value) not in hub.proven]
    txids = sorted({coin.outpoint.txid for coin in new})
    known = hub.chain.view(Query(transactions=txids)).transactions if new else {}
    made = {txid: outputs_of(known.get(txid, b""), txid) for txid in txids}
    for coin in new:
        if made[coin.outpoint.txid][coin.outpoint.vout : coin.outpoint.vout + 1] == (Output(coin.value, coin.script),):
            hub.proven.add((coin.outpoint, coin.value))
        else:
            fields = {"outpoint": str(coin.outpoint), "told": coin.value}
            log.warning("a coin is not as told", extra={"fields": fields})
    return tuple(coin for coin in found if (coin.outpoint, coin.value) in hub.proven)


def _unspent(hub: Hub, listed: Iterable[Coin]) -> list[Coin]:
    """The confirmed coins of a list that Bitcoin Core does not know better: the list may not have seen what spent one.

    So what the hub has sent holds its coins from then on, whatever becomes of this process, for as long as the node
    has it, in a block or in the mempool; where it was evicted, or lost to another one, they are free.
    """
    confirmed = [coin for coin in listed if coin.height is not None]
    unspent = hub.bitcoin.unspent([coin.outpoint for coin in confirmed])
    return [coin for coin in confirmed if coin.outpoint in unspent]


def split(hub: Hub, means: Means) -> Means:
    """Make the coins that the reserve and deposits lack, or will soon, by one transaction at the rate of the day.

    Not while the one before is unconfirmed, nor on a guess of the rate. Return what is left. Raises BroadcastRefused.
    """
    values = [coin.value for coin in means.purse.coins]
    reserve = _ahead(hub, means.reserve)
    lacking = missing(values, means.reserve)
    if spendable(values, reserve, Chore.DEPOSIT) or not may_open(means.rate, means.bounds):
        return means
    if not lacking and _is_paid(hub):
        return means
    with hub.database.reading() as db:
        text = meta_get(db, _SPLIT)
    former = None if text is None else parse_transaction(bytes.fromhex(text))
    if former is not None and hub.bitcoin.waiting(bytes(former.GetTxid())) is not None:
        return means
    purse = replace(means.purse, rate=means.bounds.within(means.rate.value))
    draft = splitting(purse, reserve, () if former is None else spent_outpoints(former))
    if draft is None and not lacking:
        return means
    if draft is None:
        fields = {"address": hub.address, "missing": lacking, "each": means.reserve.each}
        log.warning("the wallet lacks coins", extra={"fields": fields})
        return means
    raw = finish_wallet(draft, hub.key)
    with hub.database.transaction("split") as db:
        meta_set(db, _SPLIT, raw.hex())
    hub.submit([raw])
    log.info("coins split", extra={"fields": {"coins": len(draft.outputs), "fee": draft.fee}})
    return replace(means, purse=means.purse.without(draft))


def _is_paid(hub: Hub) -> bool:
    """Whether a coin that the hub has made itself waits for a block, like the change of its last deposit.

    A spent coin that the list still shows tells of one too. A stranger's could wait for ever.
    """
    coins = hub.chain.view(Query(coins=[hub.address])).coins[hub.address]
    waiting = {coin.outpoint.txid for coin in coins if coin.height is None}
    with hub.book.reading() as book:
        own = any(is_own(book, txid) for txid in waiting)
    return own or len(_unspent(hub, coins)) < sum(coin.height is not None for coin in coins)


def splitting(purse: Purse, reserve: Reserve, former: Collection[Outpoint] = ()) -> Draft | None:
    """The transaction that makes a coin for each close of the reserve and one for deposits, or as many as can be.

    None where that would make none more. It spends the largest coin, and those that are too small for the reserve where
    it takes them too; the last output takes what is left over. Where coins of a ``former`` one are still there it
    spends these, so that only one of the two can be mined.
    """
    ordered = sorted(purse.coins, key=lambda coin: coin.value)
    enough = [coin for coin in ordered if coin.value >= reserve.each]
    chosen = [coin for coin in ordered if coin.outpoint in former]
    chosen = chosen or [coin for coin in ordered if coin not in enough[:-1]]
    kept = [coin for coin in enough if coin not in chosen]
    most = min(reserve.coins + 1 - len(kept), sum(coin.value for coin in chosen) // reserve.each, MOST_SPLIT)
    for count in range(most, len(enough) - len(kept), -1):
        try:
            outputs = (Output(reserve.each, purse.script),) * count
            return fund(Draft((), outputs), replace(purse, coins=tuple(chosen)), count - 1)
        except InsufficientBitcoin:
            continue
    return None

"""Compose what either party may take back from a channel, by what the chain shows of it; nothing is published here.

A spend of any coin of an address can move one asset that is on it. So each asset needs a coin of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from picopayments_cli.channel.values import Coin, Entry, Outpoint, Secret
from picopayments_cli.channel2.duplex import Duplex
from picopayments_cli.channel2.facts import (
    Facts,
    anchor_spender,
    deposit_depth,
    is_recovered,
    published_commit,
    published_revoked,
    shown_secret,
    spender,
)
from picopayments_cli.channel2.scripts import (
    Unlock,
    change_unlock,
    expire_unlock,
    payout_unlock,
    revoke_unlock,
)
from picopayments_cli.channel2.state import Channel, Revoked
from picopayments_cli.channel2.transactions import (
    DUST,
    Draft,
    Input,
    Output,
    Purse,
    compose_payment,
    compose_recovery,
)
from picopayments_cli.errors import InsufficientBitcoin

MOST_INPUTS = 200  # coins of one transaction: nodes relay 100,000 bytes, and a coin of a deposit takes 300


# Recoveries ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One thing that a party does now to have its own back: a transaction to sign and publish, or why it waits."""

    name: str
    draft: Draft | None
    waits: InsufficientBitcoin | None = None


def recoveries(
    duplex: Duplex,
    sending: Facts,
    receiving: Facts,
    *,
    secret: Secret,
    given: Secret | None,
    purse: Purse,
    safe_depth: int,
) -> tuple[Step, ...]:
    """Return everything that a party may take back now, each apart from the others, the urgent first.

    ``secret``: its own spend secret. ``given``: the peer's, where it gave it in a signed close. Coins of the purse are
    used once.
    """
    steps: list[Step] = []
    for name, compose in (
        ("revoke", lambda purse: punish(duplex.sending, sending, purse)),
        ("payout", lambda purse: payouts(duplex.receiving, receiving, secret, purse, safe_depth)),
        ("change", lambda purse: changes(duplex.sending, sending, given, purse, safe_depth)),
        ("expire", lambda purse: expiries(duplex.sending, sending, given, purse, safe_depth)),
    ):
        purse = _collect(steps, name, compose, purse)
    return tuple(steps)


def _collect(steps: list[Step], name: str, compose: Callable[[Purse], Iterator[Draft]], purse: Purse) -> Purse:
    """Add what ``compose`` makes, and take what it spends out of the purse."""
    try:
        for draft in compose(purse):
            steps.append(Step(name, draft))
            purse = purse.without(draft)
    except InsufficientBitcoin as error:
        steps.append(Step(name, None, error))
    return purse


def punish(channel: Channel, facts: Facts, purse: Purse) -> Iterator[Draft]:
    """Compose the payer's revokes of a published commit, and of coins sent to addresses of revoked commits.

    At once, in the mempool too: after the delay the commit is the payee's, and an older coin on its address would let
    the payee take the asset without any delay. So the commit's own output goes first, then the oldest coins, as many as
    the wallet can pay for; those that are in no block yet apart, since they could keep the others from being relayed.
    What is there once the commit's own output is spent can wait. Raises InsufficientBitcoin.
    """
    entry, published = anchor_spender(channel, facts), published_revoked(channel, facts)
    own: list[tuple[Revoked, Coin]] = []
    rest: list[Input] = []
    if entry is not None and published is not None:
        first = Outpoint(entry.txid, 0)
        coins = sorted(facts.commit_coins, key=lambda coin: (coin.outpoint != first, coin.height or 0))
        if coins and coins[0].outpoint == first:
            own = [(published, coin) for coin in coins]
        else:
            rest = [_revoking(channel, published, coin) for coin in coins]
    here = {coin.outpoint for coin in facts.commit_coins} if published is not None else set()
    dust = [pair for pair in facts.revoked_coins if pair[1].outpoint not in here and pair[0].quantity > channel.moved]
    dust.sort(key=lambda pair: (-pair[0].quantity, pair[1].height or 0))
    mined = [pair for pair in (*own[1:MOST_INPUTS], *dust) if pair[1].height is not None]
    fresh = [pair for pair in (*own[1:MOST_INPUTS], *dust) if pair[1].height is None]
    asset_id = channel.asset_id if own else None
    for group in ([*own[:1], *mined], fresh):
        inputs = [_revoking(channel, item, coin) for item, coin in group]
        while inputs:
            draft, number = _affordable(inputs, purse, asset_id)
            yield draft
            purse, asset_id, inputs = purse.without(draft), None, inputs[number:]
    if published is not None and not own:
        yield from _take(rest, None, channel.asset_id, facts.commit_assets, purse)
        if _lacks_coin(facts.commit_coins, facts.commit_history, facts.commit_assets):
            yield compose_payment(purse, Output(DUST, channel.commit_script(published.revoke_hash).output))


def _revoking(channel: Channel, item: Revoked, coin: Coin) -> Input:
    return Input(coin.outpoint, coin.value, revoke_unlock(channel.commit_script(item.revoke_hash), item.secret))


def _affordable(coins: Sequence[Input], purse: Purse, asset_id: int | None) -> tuple[Draft, int]:
    """Compose an urgent recovery of as many of the first coins as the wallet can pay for. Return it and how many.

    Raises InsufficientBitcoin where it can't pay for the first one alone.
    """
    number = min(len(coins), MOST_INPUTS)
    while True:
        try:
            return compose_recovery(coins[:number], purse, asset_id, urgent=True), number
        except InsufficientBitcoin:
            if number == 1:
                raise
            number //= 2


def payouts(channel: Channel, facts: Facts, secret: Secret, purse: Purse, safe_depth: int) -> Iterator[Draft]:
    """Compose the payee's payouts of output 0 of its own published commit, once that is old enough and buried.

    A payout publishes the spend secret, so it waits until no reorganisation can take the commit away: with the secret
    known and the anchor unspent the payer could take the whole deposit. No other coin is ever a reason for one; others
    ride along. Raises InsufficientBitcoin.
    """
    entry, published = anchor_spender(channel, facts), published_commit(channel, facts)
    age = max(channel.delay, safe_depth)
    if entry is None or published is None or entry.depth(facts.tip) < age:
        return
    unlock = payout_unlock(channel.commit_script(published.revoke_hash), secret)
    first = Outpoint(entry.txid, 0)
    ripe = [coin for coin in facts.commit_coins if coin.depth(facts.tip) >= channel.delay]
    if all(coin.outpoint != first for coin in ripe) and spender(first, facts.commit_history) is None:
        return
    inputs = [Input(coin.outpoint, coin.value, unlock, channel.delay) for coin in ripe]
    yield from _take(inputs, first, channel.asset_id, facts.commit_assets, purse, version=2)
    if _lacks_coin(facts.commit_coins, facts.commit_history, facts.commit_assets):
        yield compose_payment(purse, Output(DUST, channel.commit_script(published.revoke_hash).output))


def changes(channel: Channel, facts: Facts, given: Secret | None, purse: Purse, safe_depth: int) -> Iterator[Draft]:
    """Compose the payer's changes: of all that is left on the deposit's address, once the spend secret is known.

    ``given``: the secret that the payee gave in a signed close; only then may the anchor itself be spent. A secret
    shown on chain counts once the commit is buried. Raises InsufficientBitcoin.
    """
    secret = given or shown_secret(channel, facts, safe_depth)
    if secret is None:
        return
    unlock = change_unlock(channel.script, secret)
    inputs = [Input(coin.outpoint, coin.value, unlock) for coin in facts.coins if coin.height is not None]
    yield from _take(inputs, None, channel.asset_id, facts.assets, purse)
    if _lacks_coin(facts.coins, facts.history, facts.assets):
        yield compose_payment(purse, Output(DUST, channel.script.output))


def expiries(channel: Channel, facts: Facts, given: Secret | None, purse: Purse, safe_depth: int) -> Iterator[Draft]:
    """Compose the payer's expiries of the coins on the deposit's address that are old enough, each by its own age.

    Where the spend secret is known the change path takes them. Raises InsufficientBitcoin.
    """
    if (given or shown_secret(channel, facts, safe_depth)) is not None:
        return
    expire = channel.script.expire
    inputs = [
        Input(coin.outpoint, coin.value, expire_unlock(channel.script), expire)
        for coin in facts.coins
        if coin.depth(facts.tip) >= expire
    ]
    yield from _take(inputs, None, channel.asset_id, facts.assets, purse, version=2)
    if _lacks_coin(facts.coins, facts.history, facts.assets):
        yield compose_payment(purse, Output(DUST, channel.script.output))


def _lacks_coin(coins: Sequence[Coin], history: Sequence[Entry], held: tuple[int, ...] | None) -> bool:
    """Tell whether an asset is left on an address without any coin to spend: it is given one, to be spent when it may.

    What the mempool holds is waited for: it may be the coin, or what takes the asset.
    """
    return bool(held) and not coins and all(entry.height is not None for entry in history)


def _take(
    inputs: Sequence[Input],
    first: Outpoint | None,
    asset_id: int,
    held: tuple[int, ...] | None,
    purse: Purse,
    version: int = 1,
) -> Iterator[Draft]:
    """Take every asset on an address: a coin for each, the channel's asset first, the other coins with the last.

    ``first``: the coin that goes first.
    """
    ordered = sorted(inputs, key=lambda coin: (coin.outpoint != first, -coin.value, coin.outpoint))
    if held is not None and not held:
        yield from _sweep(ordered, purse, version)
        return
    assets = _assets(asset_id, held)
    count = min(len(assets), len(ordered))
    for n in range(count):
        coins = ordered[n : n + 1] if n < count - 1 else worth_spending(ordered[n:], purse.rate)[:MOST_INPUTS]
        yield (draft := compose_recovery(coins, purse, assets[n], version))
        purse = purse.without(draft)


def _sweep(coins: Sequence[Input], purse: Purse, version: int) -> Iterator[Draft]:
    """Take coins on an address that holds no asset, where they bring more than they cost."""
    worth = [coin for coin in coins if coin.value > purse.rate * _input_size(coin.unlock)]
    try:
        if worth:
            yield compose_recovery(worth[:MOST_INPUTS], purse.without_coins(), None, version)
    except InsufficientBitcoin:
        return


def _assets(asset_id: int, held: tuple[int, ...] | None) -> list[int]:
    """Return the assets to take: the channel's first. Where the ledger was not asked, the channel's."""
    return [asset_id] if held is None else sorted(held, key=lambda item: (item != asset_id, item))


def worth_spending(coins: Sequence[Input], rate: int) -> list[Input]:
    """Return the first coin, and the others that bring more than they cost at a rate."""
    return [coin for n, coin in enumerate(coins) if n == 0 or coin.value > rate * _input_size(coin.unlock)]


def _input_size(unlock: Unlock) -> int:
    return 43 + unlock.max_size


# The end ------------------------------------------------------------------------------------------------------------


def is_over(
    duplex: Duplex,
    sending: Facts,
    receiving: Facts,
    *,
    purse: Purse,
    safe_depth: int,
    deposited: bool,
    agreed: int,
) -> bool:
    """Tell whether a closed connection holds nothing more for this party, finally.

    Its own deposit is taken back (or, ``deposited`` as it was, has not reached the chain until it would have expired),
    with every coin of it that brings more than it costs at the purse's rate; its own commit, if there is one, is paid
    out; the ledger was asked, and no asset is left on either address; all of it buried.
    """
    entries = (*sending.history, *sending.commit_history, *receiving.commit_history)
    if any(entry.depth(sending.tip) < safe_depth for entry in entries):
        return False
    if sending.history:
        taken_back = is_recovered(sending, duplex.sending.script.output, purse.script)
    else:
        taken_back = not deposited or sending.tip >= agreed + duplex.sending.script.expire
    return (
        taken_back
        and sending.assets == ()
        and not _is_unpunished(duplex.sending, sending)
        and not _has_own_coins(duplex.sending, sending, purse)
        and _is_paid_out(duplex.receiving, receiving, agreed, safe_depth)
    )


def _is_unpunished(channel: Channel, facts: Facts) -> bool:
    entry = anchor_spender(channel, facts)
    if entry is None or published_revoked(channel, facts) is None:
        return False
    return spender(Outpoint(entry.txid, 0), facts.commit_history) is None or bool(facts.commit_assets)


def _has_own_coins(channel: Channel, facts: Facts, purse: Purse) -> bool:
    """Tell whether coins of the deposit itself are left that are worth waiting for; other people's don't count."""
    own = {entry.txid for entry in (anchor_spender(channel, facts),) if entry is not None}
    if channel.anchor is not None:
        own.add(channel.anchor.outpoint.txid)
    inputs = [
        Input(coin.outpoint, coin.value, expire_unlock(channel.script))
        for coin in facts.coins
        if coin.outpoint.txid in own
    ]
    return next(_sweep(inputs, purse, 2), None) is not None


def _is_paid_out(channel: Channel, facts: Facts, agreed: int, safe_depth: int) -> bool:
    entry = anchor_spender(channel, facts)
    if entry is None:
        vanished = facts.tip >= agreed + channel.script.expire and not deposit_depth(channel, facts)
        return vanished or not channel.active
    if channel.active and entry.depth(facts.tip) < safe_depth:
        return False
    if published_commit(channel, facts) is None:
        return True
    return spender(Outpoint(entry.txid, 0), facts.commit_history) is not None and not facts.commit_assets

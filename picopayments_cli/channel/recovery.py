"""What the chain shows of a channel, and what either party may take back by it.

A commit is found by what spends the anchor, never by its txid. Heights decide, as of the tip that the facts name;
``safe_depth`` is the number of blocks after which what a block holds counts as final. Whoever can spend any coin of an
address moves every asset on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from picopayments_cli.channel.counterparty import is_p2sh
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.errors import BadDeposit, InsufficientBitcoin
from picopayments_cli.channel.scripts import (
    Unlock,
    change_unlock,
    expire_unlock,
    payout_unlock,
    revoke_unlock,
)
from picopayments_cli.channel.state import Channel, Commit, Revoked
from picopayments_cli.channel.transactions import (
    DUST,
    Draft,
    Input,
    Output,
    Purse,
    check_deposit,
    compose_payment,
    compose_recovery,
    find_secret,
    parse_transaction,
    spent_outpoints,
)
from picopayments_cli.channel.values import Coin, Entry, Height, Outpoint, Secret

WIRE_CLEARANCE = 6  # blocks before expiry at which a connection's time to live is over
MIN_MARGIN, MAX_MARGIN = 6, 144  # blocks before expiry by which a payee settles
FINAL_DEPTH = 7  # blocks that no reorganisation of six takes away
MOST_INPUTS = 200  # coins of one transaction: nodes relay 100,000 bytes, and a coin of a deposit takes 300
WATCHED_REVOKED = 100  # revoked commits that a client without a Bitcoin node can watch
OPENING, OPEN, CLOSING, CLOSED = "opening", "open", "closing", "closed"


@dataclass(frozen=True)
class Facts:
    """What is known of one channel at the tip: history and unspent outputs of the deposit's address.

    ``commit_history`` and ``commit_coins`` are those of the commit that spends the anchor, where one does.
    ``revoked_coins``: on the addresses of revoked commits. ``assets`` and ``commit_assets``: the ids of what the ledger
    shows on either address, None where it was not asked. ``truncated``: the deposit's history is longer than what is
    listed, as it is when somebody floods the address to hide what spends the deposit. A commit is listed all the same
    while its change is unspent, which pays to that address.
    """

    tip: Height
    history: tuple[Entry, ...]
    coins: tuple[Coin, ...]
    commit_history: tuple[Entry, ...] = ()
    commit_coins: tuple[Coin, ...] = ()
    revoked_coins: tuple[tuple[Revoked, Coin], ...] = ()
    assets: tuple[int, ...] | None = None
    commit_assets: tuple[int, ...] | None = None
    truncated: bool = False


def spender(outpoint: Outpoint, history: Iterable[Entry]) -> Entry | None:
    """The transaction in a history that spends an output."""
    for entry in history:
        tx = parse_transaction(entry.raw)
        if tx is not None and outpoint in spent_outpoints(tx):
            return entry
    return None


def unspent(script: bytes, history: Iterable[Entry]) -> tuple[Coin, ...]:
    """The unspent outputs that pay a scriptPubKey, from its complete history: values out of hashed bytes."""
    coins: dict[Outpoint, Coin] = {}
    spent: set[Outpoint] = set()
    for entry in history:
        tx = parse_transaction(entry.raw)
        if tx is None:
            continue
        spent.update(spent_outpoints(tx))
        for n, out in enumerate(tx.vout):
            if bytes(out.scriptPubKey) == script:
                outpoint = Outpoint(entry.txid, n)
                coins[outpoint] = Coin(outpoint, out.nValue, script, entry.height)
    return tuple(coin for outpoint, coin in coins.items() if outpoint not in spent)


def anchor_spender(channel: Channel, facts: Facts) -> Entry | None:
    """What spends the anchor: the published commit, or the payer's recovery."""
    return spender(channel.anchor.outpoint, facts.history) if channel.anchor else None


def first_output(entry: Entry) -> bytes:
    """The scriptPubKey that a transaction pays first: for a commit, its own address."""
    tx = parse_transaction(entry.raw)
    return bytes(tx.vout[0].scriptPubKey) if tx is not None and tx.vout else b""


def paid_commit(channel: Channel, facts: Facts) -> bytes | None:
    """The scriptPubKey that the spender of a channel's anchor pays first, where that may be a commit's."""
    entry = anchor_spender(channel, facts)
    paid = b"" if entry is None else first_output(entry)
    return paid if is_p2sh(paid) else None


# The deposit and its deadlines --------------------------------------------------------------------------------------


def see_deposit(channel: Channel, facts: Facts, held: int, safe_depth: int) -> Channel:
    """The channel with its anchor, once a deposit of the agreed form is buried and the address holds the asset.

    ``held``: what the ledger says the deposit's address holds of the asset.
    """
    if channel.anchor is not None or held < channel.quantity:
        return channel
    for entry in facts.history:
        tx = parse_transaction(entry.raw)
        if tx is None or entry.depth(facts.tip) < safe_depth:
            continue
        try:
            anchor = check_deposit(tx, channel.script, channel.asset_id, channel.quantity, channel.budget)
        except BadDeposit:
            continue  # somebody else's payment to the address
        return replace(channel, anchor=anchor)
    return channel


def deposit_depth(channel: Channel, facts: Facts) -> int:
    """The confirmations of the deposit: 0 where it is not in a block, or not known."""
    if channel.anchor is None:
        return 0
    return max((e.depth(facts.tip) for e in facts.history if e.txid == channel.anchor.outpoint.txid), default=0)


def time_to_live(channel: Channel, facts: Facts) -> int | None:
    """Blocks left until six before anything on the deposit's address can expire, at least 0; None if unconfirmed."""
    if not deposit_depth(channel, facts):
        return None
    oldest = max(entry.depth(facts.tip) for entry in facts.history)
    return max(channel.script.expire - oldest - WIRE_CLEARANCE, 0)


def connection_ttl(duplex: Duplex, sending: Facts, receiving: Facts) -> int | None:
    """The shorter time to live of the two deposits, or None while either is unconfirmed."""
    times = (time_to_live(duplex.sending, sending), time_to_live(duplex.receiving, receiving))
    return None if None in times else min(time for time in times if time is not None)


def settle_height(channel: Channel, agreed: int) -> int:
    """The height at which the payee settles: an eighth of the expiry before anything there can expire, 6 to 144 blocks.

    The address was virgin at height ``agreed``, so that no coin on it is older, whatever a history shows: dust that the
    payer sends early moves the whole asset when it expires.
    """
    expire = channel.script.expire
    return agreed + 1 + expire - min(max(expire // 8, MIN_MARGIN), MAX_MARGIN)


def is_open(duplex: Duplex, sending: Facts, receiving: Facts, agreed: int, safe_depth: int) -> bool:
    """Whether both deposits are buried and unspent, and the deadline to settle by lies ahead."""
    pairs = ((duplex.sending, sending), (duplex.receiving, receiving))
    return receiving.tip < settle_height(duplex.receiving, agreed) and all(
        deposit_depth(channel, facts) >= safe_depth
        and anchor_spender(channel, facts) is None
        and bool(time_to_live(channel, facts))
        for channel, facts in pairs
    )


def is_replaced(channel: Channel, facts: Facts) -> bool:
    """Whether the deposit is in a block under another txid than its anchor's: every commit on that is void then.

    Legacy signatures are malleable, and what a reorganisation took away may come back changed.
    """
    if channel.anchor is None or any(entry.txid == channel.anchor.outpoint.txid for entry in facts.history):
        return False
    return see_deposit(replace(channel, anchor=None), facts, channel.quantity, safe_depth=1).anchor is not None


def must_close(duplex: Duplex, sending: Facts, receiving: Facts, agreed: int) -> bool:
    """Whether to settle: a deposit is spent or replaced, the deadline is there, or a history can't be seen whole."""
    return (
        receiving.tip >= settle_height(duplex.receiving, agreed)
        or sending.truncated
        or receiving.truncated
        or is_replaced(duplex.sending, sending)
        or is_replaced(duplex.receiving, receiving)
        or anchor_spender(duplex.sending, sending) is not None
        or anchor_spender(duplex.receiving, receiving) is not None
        or time_to_live(duplex.sending, sending) == 0
        or time_to_live(duplex.receiving, receiving) == 0
    )


# Watching -----------------------------------------------------------------------------------------------------------


def exposed(channel: Channel) -> tuple[Revoked, ...]:
    """The payer's revoked commits that would take more than the highest active one, if published; greatest first."""
    found = [item for item in channel.revoked if item.quantity > channel.moved]
    return tuple(sorted(found, key=lambda item: -item.quantity))


def at_risk(duplex: Duplex) -> int:
    """What is lost at most if this party does not look at the chain in time.

    What the greatest revoked commit would take from its deposit, and what it received and has not settled.
    """
    most = max((item.quantity for item in duplex.sending.revoked), default=0)
    return max(most - duplex.sending.moved, 0) + duplex.receiving.moved


def check_every(channel: Channel) -> int:
    """How often a payer looks, in blocks, so that a revoked commit is punished before its delay is over."""
    return max(channel.delay - 1, 1)


# What a party may take ----------------------------------------------------------------------------------------------


def published_commit(channel: Channel, facts: Facts) -> Commit | None:
    """The payee's own unrevoked commit that spends the anchor, if one does."""
    paid = paid_commit(channel, facts)
    if paid is None:
        return None
    return next((item for item in channel.active if channel.commit_script(item.revoke_hash).output == paid), None)


def published_revoked(channel: Channel, facts: Facts) -> Revoked | None:
    """The revoked commit that the payee has published, if it has."""
    paid = paid_commit(channel, facts)
    if paid is None:
        return None
    return next((item for item in channel.revoked if channel.commit_script(item.revoke_hash).output == paid), None)


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
    """Everything that a party may take back now, each apart from the others, the urgent first.

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


def _collect(
    steps: list[Step], name: str, compose: Callable[[Purse], Iterator[Draft]], purse: Purse
) -> Purse:
    """Add what ``compose`` makes, and take what it spends out of the purse."""
    try:
        for draft in compose(purse):
            steps.append(Step(name, draft))
            purse = purse.without(draft)
    except InsufficientBitcoin as error:
        steps.append(Step(name, None, error))
    return purse


def punish(channel: Channel, facts: Facts, purse: Purse) -> Iterator[Draft]:
    """The payer's revoke of a published commit, and of coins sent to addresses of revoked commits.

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
    """An urgent recovery of as many of the first coins as one transaction takes and the wallet can pay for; how many.

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
    """The payee's payouts: of output 0 of its own published commit, old enough and buried; none before that.

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


def shown_secret(channel: Channel, facts: Facts, safe_depth: int) -> Secret | None:
    """The spend secret, where the payee's payout of a buried commit shows it."""
    entry = anchor_spender(channel, facts)
    if entry is None or entry.depth(facts.tip) < safe_depth:
        return None
    paid_out = spender(Outpoint(entry.txid, 0), facts.commit_history)
    tx = parse_transaction(paid_out.raw) if paid_out else None
    return find_secret(tx, channel.script.spend_hash) if tx is not None else None


def changes(
    channel: Channel, facts: Facts, given: Secret | None, purse: Purse, safe_depth: int
) -> Iterator[Draft]:
    """The payer's change: all that is left on the deposit's address, once the spend secret is known; none before.

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


def expiries(
    channel: Channel, facts: Facts, given: Secret | None, purse: Purse, safe_depth: int
) -> Iterator[Draft]:
    """The payer's expiry: the coins on the deposit's address that are old enough, each by its own age.

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
    """Whether an asset is left on an address without any coin to spend: it is given one, to be spent when it may.

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
    """Every asset on an address to the wallet: a coin for each, the channel's asset first, the rest with the last one.

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
    """Coins on an address that holds no asset, where they bring more than they cost."""
    worth = [coin for coin in coins if coin.value > purse.rate * _input_size(coin.unlock)]
    try:
        if worth:
            yield compose_recovery(worth[:MOST_INPUTS], purse.without_coins(), None, version)
    except InsufficientBitcoin:
        return


def _assets(asset_id: int, held: tuple[int, ...] | None) -> list[int]:
    """The assets to take: the channel's first. Where the ledger was not asked, the channel's."""
    return [asset_id] if held is None else sorted(held, key=lambda item: (item != asset_id, item))


def worth_spending(coins: Sequence[Input], rate: int) -> list[Input]:
    """The first coin, and the others that bring more than they cost at a rate."""
    return [coin for n, coin in enumerate(coins) if n == 0 or coin.value > rate * _input_size(coin.unlock)]


def _input_size(unlock: Unlock) -> int:
    return 43 + unlock.max_size


# The end ------------------------------------------------------------------------------------------------------------


def is_recovered(facts: Facts, script: bytes, wallet_script: bytes) -> bool:
    """Whether the payer has taken back what was on its deposit's address: a spend of it pays the wallet first."""
    own = [entry for entry in facts.history if first_output(entry) == wallet_script]
    made = {Outpoint(entry.txid, n) for entry in facts.history for n in _outputs_to(entry, script)}
    return any(made.intersection(_spent(entry)) for entry in own)


def _spent(entry: Entry) -> tuple[Outpoint, ...]:
    tx = parse_transaction(entry.raw)
    return spent_outpoints(tx) if tx is not None else ()


def _outputs_to(entry: Entry, script: bytes) -> list[int]:
    tx = parse_transaction(entry.raw)
    return [n for n, out in enumerate(tx.vout) if bytes(out.scriptPubKey) == script] if tx is not None else []


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
    """Whether a closed connection holds nothing more for this party, finally.

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
    """Whether coins of the deposit itself are left that are worth waiting for; other people's never keep it open."""
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

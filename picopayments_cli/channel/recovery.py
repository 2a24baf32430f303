"""What the chain shows of a channel, and what either party may take back by it.

A commit is found by what spends the anchor, never by its txid. Heights decide, as of the tip that the facts name;
``safe_depth`` is the number of blocks after which what a block holds counts as final.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.errors import BadDeposit
from picopayments_cli.channel.scripts import change_unlock, payout_unlock
from picopayments_cli.channel.state import Channel, Commit
from picopayments_cli.channel.transactions import (
    Draft,
    Input,
    check_deposit,
    compose_recovery,
    find_secret,
    parse_transaction,
    spent_outpoints,
)
from picopayments_cli.channel.values import Coin, Entry, Height, Outpoint, Secret

WIRE_CLEARANCE = 6  # blocks before expiry at which a connection's time to live is over
OPENING, OPEN, CLOSING, CLOSED = "opening", "open", "closing", "closed"


@dataclass(frozen=True)
class Facts:
    """What is known of one channel at the tip: history and unspent outputs of the deposit's address.

    ``commit_history`` and ``commit_coins`` are those of the address that the anchor's spender pays first.
    """

    tip: Height
    history: tuple[Entry, ...]
    coins: tuple[Coin, ...]
    commit_history: tuple[Entry, ...] = ()
    commit_coins: tuple[Coin, ...] = ()


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


# The deposit --------------------------------------------------------------------------------------------------------


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
    """Blocks left until six before the deposit expires, at least 0; None while it is unconfirmed."""
    depth = deposit_depth(channel, facts)
    return max(channel.script.expire - depth - WIRE_CLEARANCE, 0) if depth else None


def connection_ttl(duplex: Duplex, sending: Facts, receiving: Facts) -> int | None:
    """The shorter time to live of the two deposits, or None while either is unconfirmed."""
    times = (time_to_live(duplex.sending, sending), time_to_live(duplex.receiving, receiving))
    return None if None in times else min(time for time in times if time is not None)


def is_open(duplex: Duplex, sending: Facts, receiving: Facts, safe_depth: int) -> bool:
    """Whether both deposits are buried, unspent and not about to expire."""
    pairs = ((duplex.sending, sending), (duplex.receiving, receiving))
    return all(
        deposit_depth(channel, facts) >= safe_depth
        and anchor_spender(channel, facts) is None
        and bool(time_to_live(channel, facts))
        for channel, facts in pairs
    )


# What a party may take ----------------------------------------------------------------------------------------------


def published_commit(channel: Channel, facts: Facts) -> Commit | None:
    """The payee's own unrevoked commit that spends the anchor, if one does."""
    entry = anchor_spender(channel, facts)
    if entry is None:
        return None
    paid = first_output(entry)
    return next((item for item in channel.active if channel.commit_script(item.revoke_hash).output == paid), None)


def payout(
    channel: Channel, facts: Facts, secret: Secret, wallet_script: bytes, rate: int, safe_depth: int
) -> Draft | None:
    """The payee's payout: of output 0 of its own published commit, old enough and buried; None before that.

    It publishes the spend secret, so it waits until no reorganisation can take the commit away: with the secret known
    and the anchor unspent the payer could take the whole deposit. No other coin is ever a reason for it. Raises
    InsufficientBitcoin.
    """
    entry, published = anchor_spender(channel, facts), published_commit(channel, facts)
    if entry is None or published is None or entry.depth(facts.tip) < max(channel.delay, safe_depth):
        return None
    coin = next((coin for coin in facts.commit_coins if coin.outpoint == Outpoint(entry.txid, 0)), None)
    if coin is None:
        return None
    unlock = payout_unlock(channel.commit_script(published.revoke_hash), secret)
    return compose_recovery(
        [Input(coin.outpoint, coin.value, unlock, channel.delay)], wallet_script, channel.asset_id, rate, version=2
    )


def shown_secret(channel: Channel, facts: Facts, safe_depth: int) -> Secret | None:
    """The spend secret, where the payee's payout of a buried commit shows it."""
    entry = anchor_spender(channel, facts)
    if entry is None or entry.depth(facts.tip) < safe_depth:
        return None
    paid_out = spender(Outpoint(entry.txid, 0), facts.commit_history)
    tx = parse_transaction(paid_out.raw) if paid_out else None
    return find_secret(tx, channel.script.spend_hash) if tx is not None else None


def change(
    channel: Channel, facts: Facts, given: Secret | None, wallet_script: bytes, rate: int, safe_depth: int
) -> Draft | None:
    """The payer's change: all that is left on the deposit's address, once the spend secret is known; None before.

    ``given``: the secret that the payee gave in a signed close; only then may the anchor itself be spent. A secret
    shown on chain counts once the commit is buried. Raises InsufficientBitcoin.
    """
    secret = given or shown_secret(channel, facts, safe_depth)
    if secret is None:
        return None
    unlock = change_unlock(channel.script, secret)
    coins = worth_spending(
        [Input(coin.outpoint, coin.value, unlock) for coin in facts.coins if coin.height is not None], rate
    )
    return compose_recovery(coins, wallet_script, channel.asset_id, rate) if coins else None


def worth_spending(coins: Sequence[Input], rate: int) -> list[Input]:
    """The coins, largest first, that bring more than they cost at a rate; the largest in any case."""
    ordered = sorted(coins, key=lambda coin: (-coin.value, coin.outpoint))
    return [coin for n, coin in enumerate(ordered) if n == 0 or coin.value > rate * (43 + coin.unlock.max_size)]


def is_recovered(facts: Facts, script: bytes, wallet_script: bytes) -> bool:
    """Whether the payer has taken back what was on its deposit's address: a spend of it pays the wallet first."""
    own = [entry for entry in facts.history if first_output(entry) == wallet_script]
    made = {(entry.txid, n) for entry in facts.history for n in _outputs_to(entry, script)}
    return any(
        (outpoint.txid, outpoint.vout) in made
        for entry in own
        for tx in [parse_transaction(entry.raw)]
        if tx is not None
        for outpoint in spent_outpoints(tx)
    )


def _outputs_to(entry: Entry, script: bytes) -> list[int]:
    tx = parse_transaction(entry.raw)
    return [n for n, out in enumerate(tx.vout) if bytes(out.scriptPubKey) == script] if tx is not None else []


def is_over(duplex: Duplex, sending: Facts, receiving: Facts, wallet_script: bytes, safe_depth: int) -> bool:
    """Whether a closed connection holds nothing more for this party, finally.

    Its own deposit never reached the chain or is taken back, and its own commit, if there is one, is paid out; all of
    it buried.
    """
    if any(entry.depth(sending.tip) < safe_depth for entry in (*sending.history, *receiving.commit_history)):
        return False
    if sending.history and not is_recovered(sending, duplex.sending.script.output, wallet_script):
        return False
    entry = anchor_spender(duplex.receiving, receiving)
    if entry is None:
        return not duplex.receiving.active
    if published_commit(duplex.receiving, receiving) is None:
        return True
    return spender(Outpoint(entry.txid, 0), receiving.commit_history) is not None

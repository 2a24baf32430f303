"""Read from the chain what became of one channel: its deposit, what spent that, which commit is published.

A commit is found by what spends the anchor, never by its txid. Heights decide, as of the tip that the facts name;
``safe_depth`` is the number of blocks after which what a block holds counts as final.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from picopayments_cli.channel.counterparty import is_p2sh
from picopayments_cli.channel.values import Coin, Entry, Height, Outpoint, Secret
from picopayments_cli.channel2.state import Channel, Commit, Revoked
from picopayments_cli.channel2.transactions import (
    check_deposit,
    find_secret,
    parse_transaction,
    spent_outpoints,
)
from picopayments_cli.errors import BadDeposit


@dataclass(frozen=True)
class Facts:
    """One channel as known at the tip: history and unspent outputs of the deposit's address.

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
    """Return the transaction in a history that spends an output."""
    for entry in history:
        tx = parse_transaction(entry.raw)
        if tx is not None and outpoint in spent_outpoints(tx):
            return entry
    return None


def unspent(script: bytes, history: Iterable[Entry]) -> tuple[Coin, ...]:
    """Return the unspent outputs that pay a scriptPubKey, from its complete history: values out of hashed bytes."""
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
    """Return what spends the anchor: the published commit, or the payer's recovery."""
    return spender(channel.anchor.outpoint, facts.history) if channel.anchor else None


def first_output(entry: Entry) -> bytes:
    """Return the scriptPubKey that a transaction pays first: for a commit, its own address."""
    tx = parse_transaction(entry.raw)
    return bytes(tx.vout[0].scriptPubKey) if tx is not None and tx.vout else b""


def paid_commit(channel: Channel, facts: Facts) -> bytes | None:
    """Return the scriptPubKey that the spender of a channel's anchor pays first, where that may be a commit's."""
    entry = anchor_spender(channel, facts)
    paid = b"" if entry is None else first_output(entry)
    return paid if is_p2sh(paid) else None


def see_deposit(channel: Channel, facts: Facts, held: int, safe_depth: int) -> Channel:
    """Return the channel with its anchor, once a deposit of the agreed form is buried and the address holds the asset.

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
    """Return the confirmations of the deposit: 0 where it is not in a block, or not known."""
    if channel.anchor is None:
        return 0
    return max((e.depth(facts.tip) for e in facts.history if e.txid == channel.anchor.outpoint.txid), default=0)


def is_replaced(channel: Channel, facts: Facts) -> bool:
    """Tell whether the deposit is in a block under another txid than its anchor's: every commit on that is void then.

    Legacy signatures are malleable, and what a reorganisation took away may come back changed.
    """
    if channel.anchor is None or any(entry.txid == channel.anchor.outpoint.txid for entry in facts.history):
        return False
    return see_deposit(replace(channel, anchor=None), facts, channel.quantity, safe_depth=1).anchor is not None


def published_commit(channel: Channel, facts: Facts) -> Commit | None:
    """Return the payee's own unrevoked commit that spends the anchor, if one does."""
    paid = paid_commit(channel, facts)
    if paid is None:
        return None
    return next((item for item in channel.active if channel.commit_script(item.revoke_hash).output == paid), None)


def published_revoked(channel: Channel, facts: Facts) -> Revoked | None:
    """Return the revoked commit that the payee has published, if it has."""
    paid = paid_commit(channel, facts)
    if paid is None:
        return None
    return next((item for item in channel.revoked if channel.commit_script(item.revoke_hash).output == paid), None)


def shown_secret(channel: Channel, facts: Facts, safe_depth: int) -> Secret | None:
    """Return the spend secret, where the payee's payout of a buried commit shows it."""
    entry = anchor_spender(channel, facts)
    if entry is None or entry.depth(facts.tip) < safe_depth:
        return None
    paid_out = spender(Outpoint(entry.txid, 0), facts.commit_history)
    tx = parse_transaction(paid_out.raw) if paid_out else None
    return find_secret(tx, channel.script.spend_hash) if tx is not None else None


def is_recovered(facts: Facts, script: bytes, wallet_script: bytes) -> bool:
    """Tell whether the payer has taken back what was on its deposit's address: a spend of it pays the wallet first."""
    own = [entry for entry in facts.history if first_output(entry) == wallet_script]
    made = {Outpoint(entry.txid, n) for entry in facts.history for n in _outputs_to(entry, script)}
    return any(made.intersection(_spent(entry)) for entry in own)


def _spent(entry: Entry) -> tuple[Outpoint, ...]:
    tx = parse_transaction(entry.raw)
    return spent_outpoints(tx) if tx is not None else ()


def _outputs_to(entry: Entry, script: bytes) -> list[int]:
    tx = parse_transaction(entry.raw)
    return [n for n, out in enumerate(tx.vout) if bytes(out.scriptPubKey) == script] if tx is not None else []

"""What the hub does by itself: fund its deposits, see connections open, publish, pay out, take change.

Each round looks at every connection that is not over. A connection's step reads the index, writes what it decides,
and only then speaks to the network; one that fails is logged and does not stop the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from picopayments_cli.chain import Query
from picopayments_cli.channel import recovery
from picopayments_cli.channel.errors import BroadcastRefused, InsufficientBitcoin, PicopaymentsError
from picopayments_cli.channel.networks import address_of_script
from picopayments_cli.channel.recovery import Facts
from picopayments_cli.channel.scripts import wallet_unlock
from picopayments_cli.channel.state import Channel, finished
from picopayments_cli.channel.transactions import (
    Anchor,
    Draft,
    compose_deposit,
    spent_outpoints,
    txid_of,
)
from picopayments_cli.channel.values import Handle, Outpoint
from picopayments_cli.hub.book import AGREED, CLOSED, CLOSING, OPEN, Account, Work
from picopayments_cli.hub.hub import Hub

log = logging.getLogger(__name__)


def run(hub: Hub) -> None:
    """One round over all connections that are not over."""
    with hub.book.transaction("round") as work:
        handles = work.in_stage(AGREED, OPEN, CLOSING)
    for handle in handles:
        try:
            settle(hub, handle)
        except PicopaymentsError as error:
            log.warning("chore failed", extra={"fields": {"handle": handle.hex(), "error": error.as_json()}})


def settle(hub: Hub, handle: Handle) -> None:
    """Whatever one connection needs now; may be repeated at any time. Raises what the chain raises."""
    with hub.book.transaction("stage") as work:
        stage = work.get(handle).stage
    if stage == AGREED:
        _see_deposit(hub, handle)
        _fund(hub, handle)
        _open(hub, handle)
    elif stage == OPEN:
        _watch(hub, handle)
    elif stage == CLOSING:
        _publish(hub, handle)
        _recover(hub, handle)


def facts_of(hub: Hub, work: Work, channel: Channel) -> Facts:
    """What the index shows of a channel."""
    script = channel.script.output
    tip = hub.follower.tip(work.db)
    facts = Facts(tip, tuple(hub.follower.history(work.db, script)), tuple(hub.follower.coins(work.db, script)))
    entry = recovery.anchor_spender(channel, facts)
    if entry is None:
        return facts
    paid = recovery.first_output(entry)
    return replace(
        facts,
        commit_history=tuple(hub.follower.history(work.db, paid)),
        commit_coins=tuple(hub.follower.coins(work.db, paid)),
    )


def _both(hub: Hub, work: Work, account: Account) -> tuple[Facts, Facts]:
    """The facts of the channels that the hub sends and receives on."""
    return facts_of(hub, work, account.channels.sending), facts_of(hub, work, account.channels.receiving)


def ttl(hub: Hub, work: Work, account: Account) -> int | None:
    """Blocks that a connection has left, or None while a deposit is unconfirmed."""
    sending, receiving = _both(hub, work, account)
    return recovery.connection_ttl(account.channels, sending, receiving)


def is_funded(hub: Hub, work: Work, account: Account) -> bool:
    """Whether the hub's deposit is in a block, and so no longer in its wallet."""
    channel = account.channels.sending
    return recovery.deposit_depth(channel, facts_of(hub, work, channel)) > 0


# Opening ------------------------------------------------------------------------------------------------------------


def _see_deposit(hub: Hub, handle: Handle) -> None:
    """Accept the client's deposit once it is buried and the ledger shows the asset there."""
    with hub.book.transaction("look for deposit") as work:
        account = work.get(handle)
        channel = account.channels.receiving
        facts = facts_of(hub, work, channel)
    if channel.anchor is not None or not any(e.depth(facts.tip) >= hub.network.safe_depth for e in facts.history):
        return
    address = str(address_of_script(hub.network, channel.script.output))
    held = hub.chain.view(Query(balances=[address])).balances[address].get(account.asset, 0)
    with hub.book.transaction("deposit seen") as work:
        account = work.get(handle)
        seen = recovery.see_deposit(account.channels.receiving, facts, held, hub.network.safe_depth)
        if seen.anchor is not None:
            work.put(replace(account, duplex=replace(account.channels, receiving=seen)), fixed=True)
            _note("deposit seen", account, quantity=seen.quantity)


def _fund(hub: Hub, handle: Handle) -> None:
    """Make the hub's own deposit, once; publish it until it is in a block."""
    with hub.book.transaction("fund") as work:
        account = work.get(handle)
        if account.deposit_raw is None:
            account = _compose_deposit(hub, work, account)
        raw = account.deposit_raw
        if raw is None or hub.follower.transaction(work.db, txid_of(raw)) is not None:
            return
    hub.chain.broadcast(raw)


def _compose_deposit(hub: Hub, work: Work, account: Account) -> Account:
    """The connection with the hub's deposit signed and its coins reserved, where it is time for it."""
    sending, receiving = account.channels.sending, account.channels.receiving
    facts = facts_of(hub, work, receiving)
    left = recovery.time_to_live(receiving, facts) or 0
    if (
        recovery.deposit_depth(receiving, facts) < hub.network.safe_depth
        or recovery.anchor_spender(receiving, facts) is not None
        or left < receiving.script.expire // 2 - recovery.WIRE_CLEARANCE
    ):
        return account
    coins = [
        (coin.outpoint, coin.value)
        for coin in hub.follower.spendable(work.db, hub.script)
        if coin.height is not None
    ]
    unlock = wallet_unlock(hub.key.pubkey, hub.script)
    rate = hub.follower.fee_rate()
    draft = compose_deposit(coins, unlock, sending.script, account.asset_id, sending.quantity, sending.budget, rate)
    tx = draft.signed(hub.key)
    hub.follower.reserve(work.db, spent_outpoints(tx), f"deposit {account.handle.hex()}")
    anchored = replace(sending, anchor=Anchor(Outpoint(tx.GetTxid(), 0), draft.outputs[0].value))
    _note("deposit made", account, quantity=sending.quantity, fee=draft.fee)
    return work.put(
        replace(account, duplex=replace(account.channels, sending=anchored), deposit_raw=tx.serialize()), fixed=True
    )


def _open(hub: Hub, handle: Handle) -> None:
    with hub.book.transaction("open") as work:
        account = work.get(handle)
        sending, receiving = _both(hub, work, account)
        if recovery.is_open(account.channels, sending, receiving, hub.network.safe_depth):
            work.put(replace(account, stage=OPEN))
            _note("open", account)
        elif recovery.anchor_spender(account.channels.receiving, receiving) is not None:
            work.put(replace(account, stage=CLOSING))
            _note("closed by the client", account)


def _watch(hub: Hub, handle: Handle) -> None:
    """Close a connection whose deposits are spent or about to expire; not open is one whose block was taken away."""
    with hub.book.transaction("watch") as work:
        account = work.get(handle)
        sending, receiving = _both(hub, work, account)
        if recovery.is_open(account.channels, sending, receiving, hub.network.safe_depth):
            return
        buried = all(
            recovery.deposit_depth(channel, facts) >= hub.network.safe_depth
            for channel, facts in ((account.channels.sending, sending), (account.channels.receiving, receiving))
        )
        work.put(replace(account, stage=CLOSING if buried else AGREED))
        _note("closing" if buried else "no longer confirmed", account)


# Closing ------------------------------------------------------------------------------------------------------------


def _publish(hub: Hub, handle: Handle) -> None:
    """Publish the highest commit received, until the index shows what spends the anchor."""
    with hub.book.transaction("publish") as work:
        account = work.get(handle)
        channel = account.channels.receiving
        if account.revealed or not channel.active or channel.anchor is None:
            return
        if recovery.anchor_spender(channel, facts_of(hub, work, channel)) is not None:
            return
        if account.commit_raw is None:
            raw = finished(channel, channel.active[-1], hub.key)
            account = work.put(replace(account, commit_raw=raw), fixed=True)
            _note("commit published", account, quantity=channel.moved)
    if account.commit_raw is not None:
        hub.chain.broadcast(account.commit_raw)


def _recover(hub: Hub, handle: Handle) -> None:
    """Pay out, take change, and end the connection when nothing is left."""
    with hub.book.transaction("recover") as work:
        account = work.get(handle)
        sending, receiving = _both(hub, work, account)
        rate, depth = hub.follower.fee_rate(), hub.network.safe_depth
        if recovery.is_over(account.channels, sending, receiving, hub.script, depth):
            work.put(replace(account, stage=CLOSED))
            hub.follower.release(work.db, f"deposit {handle.hex()}")
            _note("closed", account)
            return
    secret = account.secrets(hub.key).spend
    wallet = hub.script
    channels, given = account.channels, account.client_secret
    steps: tuple[tuple[str, Callable[[], Draft | None]], ...] = (
        ("payout", lambda: recovery.payout(channels.receiving, receiving, secret, wallet, rate, depth)),
        ("change", lambda: recovery.change(channels.sending, sending, given, wallet, rate, depth)),
    )
    for name, compose in steps:
        try:
            draft = compose()
            if draft is not None:
                hub.chain.broadcast(draft.signed(hub.key).serialize())
                _note(name, account, fee=draft.fee)
        except (InsufficientBitcoin, BroadcastRefused) as error:
            log.warning(f"{name} waits", extra={"fields": {"handle": handle.hex(), "error": error.as_json()}})


def _note(event: str, account: Account, **numbers: int) -> None:
    log.info(event, extra={"fields": {"handle": account.handle.hex(), "asset": account.asset, **numbers}})

"""Do what the hub does by itself: fund its deposits, open connections, close them in time, take its own back.

A step reads the index, writes what it decides, and only then speaks to the network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from picopayments_cli.chain import Query
from picopayments_cli.channel.counterparty import asset_id, asset_members, both_names
from picopayments_cli.channel.networks import address_of_script
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, OPEN
from picopayments_cli.channel.values import Handle, Outpoint
from picopayments_cli.channel2 import recovery
from picopayments_cli.channel2.deadlines import WIRE_CLEARANCE, connection_ttl, is_open, must_close, time_to_live
from picopayments_cli.channel2.duplex import add_request
from picopayments_cli.channel2.facts import Facts, anchor_spender, deposit_depth, paid_commit, see_deposit
from picopayments_cli.channel2.scripts import wallet_unlock
from picopayments_cli.channel2.state import Channel, finished
from picopayments_cli.channel2.transactions import (
    Anchor,
    Purse,
    compose_deposit,
    spent_outpoints,
    txid_of,
)
from picopayments_cli.errors import BroadcastRefused, InsufficientFunds, NodeBehind, PicopaymentsError
from picopayments_cli.hub2.account import Account
from picopayments_cli.hub2.book import Reading, UnitOfWork
from picopayments_cli.hub2.follower import COMMIT
from picopayments_cli.hub2.hub import Ask, Hub

log = logging.getLogger(__name__)

WALLET_RESERVE = 100_000  # satoshis that stay in the wallet, for fees that can't wait
UNFUNDED_BLOCKS = 144  # without the client's deposit, after which the hub's promise is dropped
CHECKED_AT_ONCE = 50  # connections in one question


def guarded(step: Callable[[], None], handle: Handle | None = None) -> bool:
    """Do a step and tell whether it succeeded. A failure is logged."""
    try:
        step()
    except PicopaymentsError as error:
        fields = {"handle": handle.hex() if handle else None, "error": error.as_json()}
        log.warning("chore failed", extra={"fields": fields})
        return False
    return True


def settle(hub: Hub, handle: Handle) -> None:
    """Do whatever one connection needs now; may be repeated at any time. Raises what the chain raises."""
    account = hub.book.look_up(handle)
    stage = account.stage
    if stage == AGREED:
        _see_deposit(hub, handle)
        if not guarded(partial(_fund, hub, handle), handle):  # what can't be funded is closed in time all the same
            hub.ask(Ask.LATER, handle)
        stage = _open(hub, handle)
    elif stage == OPEN:
        stage = _watch(hub, handle)
    elif stage == CLOSED:
        stage = _look_again(hub, handle)
    if stage == CLOSING:
        if account.restored:
            _see_deposit(hub, handle)  # which may have come after the backup
        _republish(hub, handle)
        _publish(hub, handle)
        _recover(hub, handle)


def facts_of(hub: Hub, book: Reading, channel: Channel) -> Facts:
    """Collect what the index shows of a channel."""
    script = channel.script.output
    tip = hub.follower.tip(book.db)
    facts = Facts(tip, tuple(hub.follower.history(book.db, script)), tuple(hub.follower.coins(book.db, script)))
    paid = paid_commit(channel, facts)
    if paid is None:
        return facts
    return replace(
        facts,
        commit_history=tuple(hub.follower.history(book.db, paid)),
        commit_coins=tuple(hub.follower.coins(book.db, paid)),
    )


def _both(hub: Hub, book: Reading, account: Account) -> tuple[Facts, Facts]:
    """Collect the facts of the channel that the hub sends on, and of the one that it receives on."""
    sending = facts_of(hub, book, account.channels.sending)
    if account.channels.sending.revoked:
        sending = replace(sending, revoked_coins=book.revoked_coins(account.handle))
    return sending, facts_of(hub, book, account.channels.receiving)


def ttl(hub: Hub, book: Reading, account: Account) -> int | None:
    """Return the blocks that a connection has left, or None while a deposit is unconfirmed."""
    sending, receiving = _both(hub, book, account)
    return connection_ttl(account.channels, sending, receiving)


def is_funded(hub: Hub, book: Reading, account: Account) -> bool:
    """Tell whether the hub's deposit is in a block, and so no longer in its wallet."""
    channel = account.channels.sending
    return deposit_depth(channel, facts_of(hub, book, channel)) > 0


# The wallet's coins -------------------------------------------------------------------------------------------------


def learn_coins(hub: Hub, *, anew: bool = False) -> None:
    """Ask the ledger about the wallet's new coins, once for each: those with attached assets are left alone.

    ``anew``: ask about all, since blocks were taken away. Nothing else waits for the answer. Raises what the chain
    raises, and NodeBehind; then the new coins are left alone, too.
    """
    with hub.book.reading() as book:
        tip = hub.follower.tip(book.db)
        coins = {coin.outpoint for coin in hub.follower.spendable(book.db, hub.script) if coin.height is not None}
    unknown = coins if anew else coins - hub.plain - hub.attached
    if not unknown:
        return
    if hub.chain.view(Query()).height < tip:
        raise NodeBehind("The ledger has not read the newest block, so the wallet's new coins are left alone.")
    attached = hub.chain.attached(unknown)
    hub.plain = (hub.plain & coins) - unknown | unknown - attached
    hub.attached = (hub.attached & coins) - unknown | attached
    if attached:
        log.warning("coins left alone", extra={"fields": {"coins": sorted(map(str, attached))}})


# Hashes for commits -------------------------------------------------------------------------------------------------


def check_hashes(hub: Hub, handles: Iterable[Handle]) -> None:
    """Look at the addresses of the next commits, in one question, before a hash is used for one.

    A coin that waits there would get round the commit's delay, once it is revoked: such a connection is closed. Only a
    history shows it, since a payout in the mempool, to be replaced later, takes it off the list of coins. What comes
    once the addresses are watched the index shows.
    """
    with hub.book.transaction("hashes to check") as work:
        scripts = {
            (handle, item): account.channels.sending.commit_script(item).output
            for handle in handles
            for account in (work.get(handle),)
            for item in account.unchecked
        }
        for script in scripts.values():
            hub.follower.watch(work.db, script, COMMIT)
    addresses = {script: str(address_of_script(hub.network, script)) for script in scripts.values()}
    if not addresses:
        return
    histories = hub.chain.view(Query(history=sorted(addresses.values()))).history
    with hub.book.transaction("hashes checked") as work:
        for (handle, item), script in scripts.items():
            account = work.get(handle)
            if item not in account.unchecked or account.stage not in (AGREED, OPEN):
                continue
            left = tuple(other for other in account.unchecked if other != item)
            if histories[addresses[script]]:
                _note("commit address not clean", account)
                begin_closing(hub, work, replace(account, unchecked=left))
                hub.ask(Ask.NOW, handle)
                continue
            work.put(replace(account, unchecked=left, duplex=add_request(account.channels, item)))


# Opening ------------------------------------------------------------------------------------------------------------


def _see_deposit(hub: Hub, handle: Handle) -> None:
    """Accept the client's deposit once it is buried and the ledger shows the asset there."""
    with hub.book.reading() as book:
        account = book.get(handle)
        channel = account.channels.receiving
        facts = facts_of(hub, book, channel)
    if channel.anchor is not None or not any(e.depth(facts.tip) >= hub.network.safe_depth for e in facts.history):
        return
    address = str(address_of_script(hub.network, channel.script.output))
    held = hub.chain.view(Query(balances=[address])).balances[address].get(account.asset, 0)
    with hub.book.transaction("deposit seen") as work:
        account = work.get(handle)
        seen = see_deposit(account.channels.receiving, facts, held, hub.network.safe_depth)
        if seen.anchor is not None:
            work.put(replace(account, duplex=replace(account.channels, receiving=seen)))
            _note("deposit seen", account, quantity=seen.quantity)


def _fund(hub: Hub, handle: Handle) -> None:
    """Make the hub's own deposit, once; publish it until it is in a block. Raises InsufficientFunds."""
    account = hub.book.look_up(handle)
    if account.deposit_raw is None and account.channels.receiving.anchor is not None:
        held = hub.chain.view(Query(balances=[hub.address])).balances[hub.address].get(account.asset, 0)
        if held < account.channels.sending.quantity:
            longname = hub.longname(account.asset)
            raise InsufficientFunds(
                f"The hub's wallet holds {held} of {both_names(account.asset, longname)}, too little for a deposit "
                "that it agreed to.",
                **asset_members(account.asset, longname),
                needed=account.channels.sending.quantity,
                available=held,
            )
    with hub.spending, hub.book.transaction("fund") as work:
        account = work.get(handle)
        if account.deposit_raw is None and not hub.draining:
            account = _compose_deposit(hub, work, account)
        raw = account.deposit_raw
        if raw is None or hub.follower.transaction(work.db, txid_of(raw)) is not None:
            return
    hub.broadcast(raw, "deposit")


def _compose_deposit(hub: Hub, work: UnitOfWork, account: Account) -> Account:
    """Sign the hub's deposit and reserve its coins, if it is time for it. Return the connection."""
    sending, receiving = account.channels.sending, account.channels.receiving
    facts = facts_of(hub, work, receiving)
    left = time_to_live(receiving, facts) or 0
    if (
        deposit_depth(receiving, facts) < hub.network.safe_depth
        or anchor_spender(receiving, facts) is not None
        or left < receiving.script.expire // 2 - WIRE_CLEARANCE
    ):
        return account
    purse = _purse(hub, work)
    draft = compose_deposit(purse, sending.script, account.asset_id, sending.quantity, sending.budget)
    tx = draft.signed(hub.key)
    hub.follower.reserve(work.db, spent_outpoints(tx), f"deposit {account.handle.hex()}")
    anchored = replace(sending, anchor=Anchor(Outpoint(tx.GetTxid(), 0), draft.outputs[0].value))
    _note("deposit made", account, quantity=sending.quantity, fee=draft.fee)
    return work.put(replace(account, duplex=replace(account.channels, sending=anchored), deposit_raw=tx.serialize()))


def _purse(hub: Hub, book: Reading) -> Purse:
    """Collect the hub's confirmed coins that are neither reserved nor spent, and known to have no assets attached."""
    coins = tuple(
        coin
        for coin in hub.follower.spendable(book.db, hub.script)
        if coin.height is not None and coin.outpoint in hub.plain and coin.outpoint not in hub.spent
    )
    return Purse(wallet_unlock(hub.key.pubkey, hub.script), coins, hub.follower.fee_rate(), WALLET_RESERVE)


def _open(hub: Hub, handle: Handle) -> str:
    """Open a connection if both deposits are buried, or close it if it is too late. Return its stage."""
    with hub.book.transaction("open") as work:
        account = work.get(handle)
        facts = _both(hub, work, account)
        unfunded = not facts[1].history and facts[1].tip > account.agreed_height + UNFUNDED_BLOCKS
        if unfunded or _leaves(hub, account) or must_close(account.channels, *facts, account.agreed_height):
            begin_closing(hub, work, account)
            return CLOSING
        if is_open(account.channels, *facts, account.agreed_height, hub.network.safe_depth):
            work.put(replace(account, stage=OPEN))
            _note("open", account)
            return OPEN
    return AGREED


def _watch(hub: Hub, handle: Handle) -> str:
    """Check that an open connection still is open. Return its stage.

    It closes when a deposit is spent, when it is time to settle, and when the hub does not offer it any more. One whose
    block was taken away is not open until it is in a block again.
    """
    with hub.book.transaction("watch") as work:
        account = work.get(handle)
        facts = _both(hub, work, account)
        if _leaves(hub, account) or must_close(account.channels, *facts, account.agreed_height):
            begin_closing(hub, work, account)
            return CLOSING
        if not is_open(account.channels, *facts, account.agreed_height, hub.network.safe_depth):
            work.put(replace(account, stage=AGREED))
            _note("no longer confirmed", account)
            return AGREED
    if facts[0].revoked_coins:
        _recover(hub, handle)
    return OPEN


def _leaves(hub: Hub, account: Account) -> bool:
    """Tell whether the hub ends a connection by itself, since it has stopped offering the asset.

    Not before its client has fetched what waits for it: where all close at once, there is nobody to give it back to.
    """
    withdrawn = hub.draining or account.asset not in hub.offer.assets
    if withdrawn and account.waiting:
        hub.ask(Ask.LEAVING, account.handle)
        return False
    return withdrawn


# Closing ------------------------------------------------------------------------------------------------------------


def begin_closing(hub: Hub, work: UnitOfWork, account: Account) -> Account:
    """Begin to close a connection. What waits for it goes back to its payers, as payments from it."""
    for item in account.waiting:
        payer = work.get(item.payer)
        if payer.stage not in (AGREED, OPEN) or payer.handle == account.handle:
            _note("payment stranded", account, amount=item.amount)
            continue
        work.return_payment(item)
        back = work.add_payment(account.handle, item.payer, item.amount, item.token)
        work.keep(replace(payer, waiting=(*payer.waiting, back)))
    _note("closing", account)
    return work.put(replace(account, stage=CLOSING, waiting=()))


def _look_again(hub: Hub, handle: Handle) -> str:
    """Check that no reorganisation has undone what closed a connection. Return its stage."""
    with hub.book.transaction("look again") as work:
        account = work.get(handle)
        if account.duplex is None:
            return CLOSED
        sending, receiving = _both(hub, work, account)
        # No asset comes back unless a transaction is undone: the ledger need not be asked.
        facts = replace(sending, assets=(), commit_assets=()), replace(receiving, commit_assets=())
        if _is_over(hub, account, *facts, _purse(hub, work)):
            return CLOSED
        _note("no longer closed", account)
        work.put(replace(account, stage=CLOSING))
    return CLOSING


def _republish(hub: Hub, handle: Handle) -> None:
    """Publish the hub's deposit of a closing connection again: the client may have a claim on it."""
    with hub.book.reading() as book:
        account = book.get(handle)
        raw, given_up = account.deposit_raw, account.agreed_height + account.channels.sending.script.expire
        if raw is None or hub.follower.tip(book.db) >= given_up:
            return
        if hub.follower.transaction(book.db, txid_of(raw)) is not None:
            return
    try:
        hub.broadcast(raw, "deposit")
    except BroadcastRefused as error:
        log.warning("deposit waits", extra={"fields": {"handle": handle.hex(), "error": error.as_json()}})


def _publish(hub: Hub, handle: Handle) -> None:
    """Publish the highest commit received, until the index shows what spends the anchor.

    After a restore it may be one that was given back, which its payer takes: without the client's word not before the
    deadline, when there is nothing to lose any more.
    """
    with hub.book.transaction("publish") as work:
        account = work.get(handle)
        channel = account.channels.receiving
        waits = account.restored and hub.follower.tip(work.db) < account.due_height
        if waits or account.revealed or not channel.active or channel.anchor is None:
            return
        if anchor_spender(channel, facts_of(hub, work, channel)) is not None:
            return
        if account.commit_raw is None:
            raw = finished(channel, channel.active[-1], hub.key)
            account = work.put(replace(account, commit_raw=raw))
            _note("commit published", account, quantity=channel.moved)
    if account.commit_raw is not None:
        try:
            hub.broadcast(account.commit_raw, "commit")
        except BroadcastRefused as error:  # tried again with every block; what else there is to recover goes on
            log.warning("commit waits", extra={"fields": {"handle": handle.hex(), "error": error.as_json()}})


def _recover(hub: Hub, handle: Handle) -> None:
    """Take back whatever it is time for, and end the connection when nothing is left."""
    with hub.book.reading() as book:
        account = book.get(handle)
        facts = _both(hub, book, account)
    facts = _with_assets(hub, account, *facts)
    with hub.spending:
        _recover_by(hub, account, facts)


def _recover_by(hub: Hub, account: Account, facts: tuple[Facts, Facts]) -> None:
    """Do what these facts call for, with coins of the wallet that nobody else spends."""
    handle = account.handle
    with hub.book.transaction("recover") as work:
        purse = _purse(hub, work)
        if account.stage == CLOSING and _is_over(hub, account, *facts, purse):
            work.put(replace(work.get(handle), stage=CLOSED, due_height=hub.follower.tip(work.db)))
            if not facts[0].history:  # else its coins are spent, and stay its own where a block is taken away
                hub.follower.release(work.db, f"deposit {handle.hex()}")
            _note("closed", account)
            return
    steps = recovery.recoveries(
        account.channels,
        *facts,
        secret=account.secrets(hub.key).spend,
        given=account.client_secret,
        purse=purse,
        safe_depth=hub.network.safe_depth,
    )
    for step in steps:
        fields = {"handle": handle.hex(), "step": step.name}
        if step.waits is not None:
            log.warning("recovery waits", extra={"fields": {**fields, "error": step.waits.as_json()}})
        if step.draft is None:
            continue
        try:
            hub.broadcast(step.draft.signed(hub.key).serialize(), step.name)
            hub.spent.update(coin.outpoint for coin in step.draft.inputs)
            _note(step.name, account, fee=step.draft.fee)
        except BroadcastRefused as error:
            log.warning("recovery waits", extra={"fields": {**fields, "error": error.as_json()}})


def _is_over(hub: Hub, account: Account, sending: Facts, receiving: Facts, purse: Purse) -> bool:
    return recovery.is_over(
        account.channels,
        sending,
        receiving,
        purse=purse,
        safe_depth=hub.network.safe_depth,
        deposited=account.deposit_raw is not None,
        agreed=account.agreed_height,
    )


def _with_assets(hub: Hub, account: Account, sending: Facts, receiving: Facts) -> tuple[Facts, Facts]:
    """Add what the ledger shows on the hub's deposit and on published commits, as of the same block.

    And with the coins on the hub's own commit that were there before it was published, when nobody followed them.
    """
    channels = account.channels
    deposit = str(address_of_script(hub.network, channels.sending.script.output))
    commits = [
        _commit_address(hub, channels.sending, sending),
        _commit_address(hub, channels.receiving, receiving),
    ]
    known = [address for address in commits if address]
    view = hub.chain.view(Query(balances=[deposit, *known], coins=known))
    if view.height != sending.tip:
        return sending, receiving  # what the ledger shows is of another moment: the next round may know
    held = {
        address: tuple(asset_id(name) for name, quantity in balances.items() if quantity and name != "BTC")
        for address, balances in view.balances.items()
    }
    of_sending, of_receiving = (held.get(address) if address else None for address in commits)
    return (
        replace(sending, assets=held[deposit], commit_assets=of_sending),
        replace(receiving, commit_assets=of_receiving, commit_coins=view.coins.get(commits[1] or "", ())),
    )


def _commit_address(hub: Hub, channel: Channel, facts: Facts) -> str | None:
    """Return the address of the commit that spends a channel's anchor, if one does."""
    paid = paid_commit(channel, facts)
    return None if paid is None else str(address_of_script(hub.network, paid))


def _note(event: str, account: Account, **numbers: int) -> None:
    log.info(event, extra={"fields": {"handle": account.handle.hex(), "asset": account.asset, **numbers}})

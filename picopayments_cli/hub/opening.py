"""How a connection opens: the client's deposit is seen to count, the hub deposits, and both are buried."""

from __future__ import annotations

import logging
from dataclasses import replace

from picopayments_cli.chain import Query
from picopayments_cli.channel.coins import pay
from picopayments_cli.channel.counterparty import asset_members, both_names, data_script, pack_send
from picopayments_cli.channel.deadlines import is_open
from picopayments_cli.channel.drafts import DUST, Draft, Input, Output, parse_transaction, spent_outpoints, txid_of
from picopayments_cli.channel.facts import Deposit, Facts, Paying, Sent, feefrac_of, find_anchor, judge_deposit
from picopayments_cli.channel.fees import Shape, deposit_bid
from picopayments_cli.channel.networks import address_of_script
from picopayments_cli.channel.rates import may_open
from picopayments_cli.channel.reserve import Chore
from picopayments_cli.channel.signing import finish_deposit
from picopayments_cli.channel.stages import AGREED, OPEN
from picopayments_cli.channel.state import Receiving, Sending
from picopayments_cli.channel.steps import Means
from picopayments_cli.channel.transactions import Contract, compose_deposit
from picopayments_cli.channel.values import Coin, Handle
from picopayments_cli.consensus import check_ways_back
from picopayments_cli.errors import BroadcastRefused, DepositConflicted, InsufficientFunds
from picopayments_cli.hub.account import Account
from picopayments_cli.hub.book import UnitOfWork
from picopayments_cli.hub.chainview import drop_sent, facts_of, note_sent, sides_of
from picopayments_cli.hub.hub import Ask, Hub
from picopayments_cli.hub.logs import note
from picopayments_cli.hub.reading import Reading
from picopayments_cli.hub.stopping import stop

log = logging.getLogger(__name__)


def see_deposits(hub: Hub, handle: Handle) -> None:
    """Take the deposits that count for the channels' anchors. Raises what the chain raises."""
    with hub.book.reading() as book:
        account, tip = book.get(handle), hub.follower.tip(book.db)
        duplex = account.channels
        sides = [side for side in (duplex.sending, duplex.receiving) if side.anchor is None]
        entries = {side: hub.follower.deposits_to(book.db, side.contract.deposit.output) for side in sides}
    anchors: dict[bytes, Coin] = {}
    for side, found in entries.items():
        if any(entry.depth(tip) >= hub.network.safe_depth for entry in found):
            rows = hub.chain.sends_to(address_of(hub, side))
            anchor = find_anchor(side.contract, rows, found, tip, hub.network.safe_depth)
            if anchor is not None:
                anchors[side.contract.deposit.output] = anchor
    if not anchors:
        return
    with hub.book.transaction("deposit seen") as work:
        account = work.get(handle)
        sending, receiving = account.channels.sending, account.channels.receiving
        sending = replace(sending, anchor=sending.anchor or anchors.get(sending.contract.deposit.output))
        receiving = replace(receiving, anchor=receiving.anchor or anchors.get(receiving.contract.deposit.output))
        duplex = replace(account.channels, sending=sending, receiving=receiving)
        work.put(replace(account, duplex=duplex, close_digest=None))  # an earlier mph_close is judged anew
        for script in anchors:
            hub.follower.found_deposit(work.db, script)
        note(log, "deposit seen", account)


def address_of(hub: Hub, side: Sending | Receiving) -> str:
    """The address of a channel's deposit."""
    return str(address_of_script(hub.network, side.contract.deposit.output))


def judged(hub: Hub, handle: Handle) -> list[Deposit]:
    """How the named anchors stand after a reorganisation. Raises what the chain raises."""
    with hub.book.reading() as book:
        duplex, tip = book.get(handle).channels, hub.follower.tip(book.db)
        found = []
        for side in (duplex.sending, duplex.receiving):
            if side.anchor is None:
                continue
            seen = facts_of(hub, book, _bare(side), closing=False).deposit
            rows = hub.chain.sends_to(address_of(hub, side))
            entries = hub.follower.deposits_to(book.db, side.contract.deposit.output)
            found.append(judge_deposit(side.contract, side.anchor, rows, entries, seen, tip, hub.network.safe_depth))
    return found


def _bare(side: Sending | Receiving) -> Paying:
    """A channel without its commits: enough to see its deposit, and whether anything spends that."""
    return Paying(side.contract, side.anchor)


# The hub's own deposit ----------------------------------------------------------------------------------------------


def fund(hub: Hub, handle: Handle, means: Means) -> Means:
    """Make the hub's own deposit, or make it anew at the rate of the day; publish it until it is in a block.

    Return what is left in the wallet. It is written before it leaves. Raises InsufficientFunds, InsufficientBitcoin.
    """
    with hub.book.reading() as book:
        account = book.get(handle)
        txid = None if account.deposit_raw is None else txid_of(account.deposit_raw)
        there = None if txid is None else hub.follower.deposit(book.db, txid)
        tip = hub.follower.tip(book.db)
        paying, _ = sides_of(hub, book, account)
        rival = None if there is not None or account.deposit_raw is None else _rival(hub, book, account.deposit_raw)
    if rival is not None:
        _without_deposit(hub, handle, rival)
        return means
    if (there is not None and there.height is not None) or account.channels.sending.anchor is not None:
        return means
    former = next((item for item in paying.sent if item.txid == txid), None)
    draft = None
    if account.deposit_raw is None:
        if account.channels.receiving.anchor is None or not account.fixed.agreed.expiry.may_deposit(tip):
            return means
        if hub.draining or account.lock_due or not may_open(means.rate, means.bounds):
            return means
        _check_funds(hub, account)
        rate = means.bounds.within(means.rate.value)
        draft = compose_deposit(account.channels.sending.contract, means.purse_for(Chore.DEPOSIT, rate))
    elif former is not None:
        draft = _anew(account.channels.sending.contract, former, means, there=there is not None)
    raw = account.deposit_raw if draft is None else _write(hub, handle, draft)
    if raw is not None and (draft is not None or there is None):
        _publish(hub, handle, raw)
    return means if draft is None else replace(means, purse=means.purse.without(draft))


def _rival(hub: Hub, book: Reading, raw: bytes) -> bytes | None:
    """Find the buried transaction that has spent a coin of the hub's deposit, which then never comes.

    An earlier version of the deposit is none.
    """
    tx, tip = parse_transaction(raw), hub.follower.tip(book.db)
    seen = [hub.follower.spend(book.db, item) for item in (spent_outpoints(tx) if tx is not None else ())]
    buried = [item for item in seen if item is not None and item.depth(tip) >= hub.network.safe_depth]
    return next((item.txid for item in buried if hub.follower.deposit_raw(book.db, item.txid) is None), None)


def _without_deposit(hub: Hub, handle: Handle, rival: bytes) -> None:
    """Give up the hub's deposit: another one is made while nobody depends on its txid, else the connection closes."""
    with hub.book.transaction("fund") as work:
        work.lock_with_payers(handle)
        account = work.get(handle)
        fields = {"handle": handle.hex(), "cause": DepositConflicted.__name__, "rival": rival[::-1].hex()}
        log.warning("deposit conflicted", extra={"fields": fields})
        if account.channels.sending.anchor is not None:
            stop(hub, work, account)
        elif account.deposit_raw is not None:
            drop_sent(work, txid_of(account.deposit_raw))
            work.put(replace(account, deposit_raw=None))
    hub.ask(Ask.NOW, handle)


def _anew(contract: Contract, former: Sent, means: Means, *, there: bool) -> Draft | None:
    """The deposit from the same coins, of which nobody has seen more than a mempool, at the rate of the day."""
    first = former.coins[0].outpoint
    outputs = (
        Output(contract.budget.anchor, contract.deposit.output),
        Output(0, data_script(pack_send(contract.asset_id, contract.quantity), first.txid)),
        Output(DUST, means.purse.script),
    )
    shape = Draft(tuple(map(Input, former.coins)), outputs)
    ways = [Shape(shape.size, shape.fee)]
    bid = deposit_bid(ways, means.rate, means.bounds, sent=former.feefrac, there=there, depended=False)
    return None if bid is None else pay(shape, (), bid.fee, left=2)


def _check_funds(hub: Hub, account: Account) -> None:
    fixed, needed = account.fixed, account.channels.sending.contract.quantity
    held = hub.chain.view(Query(balances=[hub.address])).balances[hub.address].get(fixed.asset, 0)
    if held < needed:
        longname = hub.longname(fixed.asset)
        raise InsufficientFunds(
            f"The hub's wallet holds {held} of {both_names(fixed.asset, longname)}, too little for a deposit that it "
            "agreed to.",
            **asset_members(fixed.asset, longname),
            needed=needed,
            available=held,
        )


def _write(hub: Hub, handle: Handle, draft: Draft) -> bytes | None:
    """Sign the deposit and write it, unless the connection was stopped meanwhile: then nothing is deposited.

    Raises ChannelUnspendable.
    """
    raw, anchor = finish_deposit(draft, hub.key)
    account = hub.book.look_up(handle)
    sending = replace(account.channels.sending, anchor=anchor)
    check_ways_back(replace(account.channels, sending=sending), account.fixed.secrets(hub.key))
    with hub.book.transaction("fund") as work:
        account = work.get(handle)
        if account.stage not in (AGREED, OPEN):
            return None
        coins = tuple(spent.coin for spent in draft.inputs)
        for coin in coins:
            hub.follower.watch(work.db, coin.outpoint, handle, anchor=False)
        note_sent(work, handle, Sent(anchor.outpoint.txid, coins[0].outpoint, feefrac_of(draft), coins), payer=True)
        work.put(replace(account, deposit_raw=raw))
        note(log, "deposit made", account, fee=draft.fee)
    return raw


def _publish(hub: Hub, handle: Handle, raw: bytes) -> None:
    try:
        hub.submit([raw])
    except BroadcastRefused as error:
        log.warning("deposit waits", extra={"fields": {"handle": handle.hex(), "error": error.as_json()}})


# Open, and no longer ------------------------------------------------------------------------------------------------


def open_facts(hub: Hub, work: UnitOfWork, account: Account) -> list[Facts]:
    """Return what the index shows of both deposits, whatever the number of commits."""
    sides = (account.channels.sending, account.channels.receiving)
    return [facts_of(hub, work, _bare(side), closing=False) for side in sides]


def restage(hub: Hub, work: UnitOfWork, account: Account, facts: list[Facts]) -> Account:
    """Open a connection whose deposits are both buried; one whose block was taken away is not open until it is back."""
    expiry = account.fixed.agreed.expiry
    ready = is_open(expiry, facts, hub.network.safe_depth)
    if account.stage == AGREED and ready and expiry.may_open(facts[0].tip, hub.network.safe_depth):
        note(log, "open", account)
        return work.put(replace(account, stage=OPEN))
    if account.stage == OPEN and not ready:
        note(log, "no longer confirmed", account)
        return work.put(replace(account, stage=AGREED))
    return account

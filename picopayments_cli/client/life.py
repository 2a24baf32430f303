"""Lead a connection through its life: tell its status, take its next step, queue its payments, close it.

Opens no file and no socket: what lasts or leaves goes through the session's doors, and what moves money is on disk
before it leaves. Every function may be cut off anywhere and called again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from picopayments_cli.chain import Query
from picopayments_cli.channel import duplex as pair
from picopayments_cli.channel import past
from picopayments_cli.channel.deadlines import counts_late, is_open, must_close
from picopayments_cli.channel.drafts import parse_transaction, txid_of
from picopayments_cli.channel.facts import Deposit, Facts, Kind, find_anchor, judge_deposit
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, OPEN, OPENING, PROPOSED
from picopayments_cli.channel.values import Token
from picopayments_cli.channel.wire import Payment
from picopayments_cli.client import counts, funds, history, hubs, opening, publishing, receipts
from picopayments_cli.client.closing import Outcome, over, settle, shows
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.exchange import exchange, finish, pay_lock_fee, prepare
from picopayments_cli.client.looking import Look
from picopayments_cli.client.session import Session
from picopayments_cli.config import place_of
from picopayments_cli.errors import (
    AnchorsDiffer,
    BroadcastRefused,
    ConnectionNotOpen,
    DepositConflicted,
    HubRestored,
    HubUnreachable,
    LocalFiles,
    NotTransferable,
    PicopaymentsError,
    StaleRequest,
    UnknownDeposit,
    UnknownHandle,
)

log = logging.getLogger(__name__)
FINAL_DEPTH = 7  # blocks that no reorganisation of six takes away


# Looking ------------------------------------------------------------------------------------------------------------


def observe(session: Session, connection: Connection, look: Look) -> tuple[Connection, Look, tuple[Deposit, Deposit]]:
    """See how both deposits stand; and the look, once more where the hub's deposit has just been found.

    The ledger is asked about one until it counts, and again once its block changes. Bitcoin Core alone can't tell.
    """
    if not look.whole:
        return connection, look, (Deposit.COUNTS, Deposit.COUNTS)
    c2h, h2c = look.facts[connection.handle]
    own, verdict = _own_deposit(session, connection, c2h)
    hubs = _hub_deposit(session, connection, h2c)
    counted = own.counted[0], hubs.counted[1]
    seen = replace(connection, duplex=hubs.duplex, hub_deposit=hubs.hub_deposit, counted=counted)
    void = counted[1] is None and connection.counted[1] is not None and h2c.funded
    if seen.duplex != connection.duplex:
        look = session.sight.look(session.wallet.address, [seen])
    return seen, look, (verdict, Deposit.VOID if void else Deposit.COUNTS)


def _own_deposit(session: Session, connection: Connection, facts: Facts) -> tuple[Connection, Deposit]:
    """The own deposit: it counts at ``safe_depth`` with the ledger's row, and is judged again in another block."""
    sending, tip, depth = connection.duplex.sending, facts.tip, session.network.safe_depth
    seen, before = facts.deposit, connection.counted[0]
    if sending.anchor is None or seen is None or seen.depth(tip) < depth or seen.height == before:
        return connection, Deposit.COUNTS if seen is not None else Deposit.UNMINED
    rows, entries = session.sight.funding(sending.contract)
    verdict = judge_deposit(sending.contract, sending.anchor, rows, entries, seen, tip, depth)
    height = seen.height if verdict is Deposit.COUNTS else None
    return replace(connection, counted=(height, connection.counted[1])), verdict


def _hub_deposit(session: Session, connection: Connection, facts: Facts) -> Connection:
    """The hub's deposit: found once it is buried, judged again in another block; not ``counted`` where it is void."""
    receiving, tip, depth = connection.duplex.receiving, facts.tip, session.network.safe_depth
    seen, before = facts.deposit, connection.counted[1]
    if receiving.anchor is not None and (seen is None or seen.height is None or seen.height == before):
        return connection
    rows, entries = session.sight.funding(receiving.contract)
    if receiving.anchor is not None:
        verdict = judge_deposit(receiving.contract, receiving.anchor, rows, entries, seen, tip, depth)
        height = seen.height if seen is not None and verdict is Deposit.COUNTS else None
        return replace(connection, counted=(connection.counted[0], height))
    anchor = find_anchor(receiving.contract, rows, entries, tip, depth)
    if anchor is None:
        return connection
    entry = next(item for item in entries if item.txid == anchor.outpoint.txid)
    duplex = replace(connection.duplex, receiving=replace(receiving, anchor=anchor))
    counted = connection.counted[0], entry.height
    return replace(connection, duplex=duplex, hub_deposit=entry.raw, counted=counted)


def status(
    session: Session, connection: Connection, look: Look, deposits: tuple[Deposit, Deposit] = (Deposit.COUNTS,) * 2
) -> str:
    """Tell whether a connection is opening, open, closing or closed. ``deposits``: as ``observe`` found them."""
    if connection.stage in (CLOSING, CLOSED):
        return CLOSED if connection.stage == CLOSED else CLOSING
    facts, expiry = look.facts[connection.handle], connection.expiry
    if connection.stage == PROPOSED:
        return OPENING
    if must_close(expiry, expiry.settle_height, facts, deposits):
        return CLOSING
    counting = None not in connection.counted
    if not counting:
        tip, depth = facts[0].tip, session.network.safe_depth
        return OPENING if expiry.may_open(tip, depth) and not _is_late(connection, facts[0]) else CLOSING
    return OPEN if is_open(expiry, facts, session.network.safe_depth) else OPENING


def _is_late(connection: Connection, facts: Facts) -> bool:
    """Whether the own deposit is mined too late for the hub's to follow, or the fee for that was not paid in time.

    The connection closes, and the deposit comes back with the hub's consent or at the expiry.
    """
    by, counted = connection.deposit_by, connection.counted[0]
    if by is None:
        return False
    mined = None if facts.deposit is None else facts.deposit.height
    if (counted or mined or facts.tip + 1) > by:
        return True
    unpaid = counted is not None and connection.lock_due > 0 and connection.pending is None
    return unpaid and facts.tip > connection.expiry.fee_by(by)


def as_seen(session: Session, connection: Connection, look: Look) -> Connection:
    """Take a closed connection for closing if the chain shows that it is not over any more."""
    if connection.stage != CLOSED or connection.final or not look.whole or over(session, connection, look):
        return connection
    return replace(connection, stage=CLOSING)


def unknown_deposit(connection: Connection, look: Look) -> UnknownDeposit | None:
    """Make the error for a connection that goes on though the chain does not know its deposit; None if it does."""
    facts = look.facts[connection.handle][0]
    if connection.stage != AGREED or facts.deposit is not None or facts.spend is not None:
        return None
    tx = parse_transaction(connection.deposit_raw)
    txid = bytes(tx.GetTxid())[::-1].hex() if tx is not None else ""
    return UnknownDeposit(
        f"The chain does not know the deposit {txid} of the connection {connection.handle.hex()}. If the deposit was "
        "lost on the way, `picopayments-cli sync` publishes it again. Else this is not the connection's chain: check "
        "that hub and node are the right ones, or ask their operator. The connection stays open until you close it.",
        handle=connection.handle.hex(),
        txid=txid,
        height=facts.tip,
    )


def conflicted(connection: Connection) -> DepositConflicted | None:
    """Make the error for a connection that was closed as its deposit never comes; None for any other."""
    rival = connection.ending.rival
    if rival is None:
        return None
    txid = txid_of(connection.deposit_raw)[::-1].hex()
    return DepositConflicted(
        f"The deposit {txid} of the connection {connection.handle.hex()} can't be mined any more: the transaction "
        f"{rival} has spent one of its coins, and is buried. The connection closes, and the deposit's other coins are "
        "free. Connect anew.",
        handle=connection.handle.hex(),
        txid=txid,
        rival=rival,
    )


def _rival(session: Session, connection: Connection) -> str | None:
    """Find the buried transaction (hex) because of which the own deposit, which is not there, never comes."""
    at = session.wallet.address
    view = session.chain.view(Query(history=[at]))
    found = past.rival(connection.deposit_raw, view.history[at], view.height, session.network.safe_depth)
    return None if found is None else found.txid[::-1].hex()


# Syncing ------------------------------------------------------------------------------------------------------------


def sync(session: Session, connection: Connection, look: Look, outcome: Outcome, *, pays: bool = True) -> None:
    """Take the next step of a connection: finish opening, exchange payments, close in time, or recover.

    ``pays``: whether an exchange may be made, which costs the hub's fee. Raises why the Counterparty node is away,
    where nothing is to be done that Bitcoin Core alone allows.
    """
    connection = publishing.resume(session, connection, look)
    if not look.whole:
        _sync_alone(session, connection, look, outcome)
        return
    funds.keep_seen(session, look)
    if connection.stage == CLOSED:
        connection = _look_again(session, connection, look)
    if connection.stage == PROPOSED and connection.restored:  # its deposit may have left since
        connection = _closing(session, connection, look)
    if connection.stage == PROPOSED:
        connection = opening.agree(session, connection)
    if connection.stage == AGREED:
        connection = _live(session, connection, look, outcome, pays=pays)
        if connection.stage == CLOSING:  # the look was at one that was open, and may not have known the hub's anchor
            look = session.sight.look(session.wallet.address, [connection])
    if connection.stage == CLOSING:
        outcome.cause = conflicted(connection)
        connection = _last_answer(session, connection, look, outcome)
        settle(session, *_observed_at_last(session, connection, look), outcome)


def _sync_alone(session: Session, connection: Connection, look: Look, outcome: Outcome) -> None:
    """Punish and settle by what Bitcoin Core alone shows; all else waits."""
    expiry, facts = connection.expiry, look.facts[connection.handle]
    if connection.stage == AGREED and any(map(shows, facts)) and must_close(expiry, expiry.settle_height, facts):
        connection = _closing(session, connection, look)
        look = hubs.look_at(session, [connection])
    if connection.stage == CLOSING:
        settle(session, connection, look, outcome)
    elif connection.stage != CLOSED:
        look.check_whole()


def _observed_at_last(session: Session, connection: Connection, look: Look) -> tuple[Connection, Look]:
    """As ``observe`` sees it; what can't be asked about the deposits stops no settlement."""
    try:
        return observe(session, connection, look)[:2]
    except LocalFiles:
        raise
    except PicopaymentsError as error:
        log.warning("whether the deposits count is not known: %s", error.message)
        return connection, look


def _last_answer(session: Session, connection: Connection, look: Look, outcome: Outcome) -> Connection:
    """Fetch the answer to the sync that has none yet: the payments in it are this party's, if they come in time.

    Not to one that a backup brought: it may have been answered, and its answer's commit given back since.
    """
    signed = connection.duplex.close_signed or connection.duplex.receiving.half_left
    if connection.pending is None or signed or connection.ending.told or connection.restored:
        return connection
    facts = look.facts[connection.handle][1]
    explains = facts.spend is not None and facts.spend.kind is Kind.UNKNOWN  # the own commit may be that of the answer
    if not explains and not counts_late(connection.expiry, facts):
        log.warning("the last sync stays unanswered: its answer would come too late to be settled on the chain")
        return connection
    with _closing_all_the_same(outcome, "the last sync stays unanswered"):
        finish(session, connection, outcome)
    return session.connection(connection.handle)


@contextmanager
def _closing_all_the_same(outcome: Outcome, otherwise: str) -> Iterator[None]:
    """Go on whatever the hub answers to a last sync. ``otherwise`` tells the user what an error comes to."""
    try:
        yield
    except LocalFiles:
        raise
    except PicopaymentsError as error:
        log.warning("%s: %s", otherwise, error.message)
        if isinstance(error, HubUnreachable):
            outcome.hub_silent = error


def _live(session: Session, connection: Connection, look: Look, outcome: Outcome, *, pays: bool) -> Connection:
    """Do one round of a connection that is not closing. It may be closing afterwards."""
    seen, look, deposits = observe(session, connection, look)
    shown, missing = status(session, seen, look, deposits), unknown_deposit(seen, look)
    if missing is not None and (rival := _rival(session, seen)) is not None:
        return _closing(session, seen, look, rival)
    if shown == OPENING:
        _republish_the_hubs(session, seen, look, outcome)
        if missing is not None:
            _republish(session, seen, outcome, missing)
        elif seen.counted[0] is not None and (seen.lock_due or seen.pending is not None):
            return _pay_lock_fee(session, seen, look, outcome)
        return seen
    if shown == CLOSING:
        if missing is not None and Deposit.VOID not in deposits and look.facts[seen.handle][1].spend is None:
            raise missing
        return _closing(session, seen, look)
    return _exchange(session, seen, look, partial(exchange, session, seen, outcome) if pays else None)


def _pay_lock_fee(session: Session, connection: Connection, look: Look, outcome: Outcome) -> Connection:
    """Pay the fee for which the hub makes its deposit, whatever else costs: ``connect`` has agreed to it."""
    return _exchange(session, connection, look, partial(pay_lock_fee, session, connection, outcome))


def _exchange(
    session: Session, connection: Connection, look: Look, step: Callable[[], Connection] | None
) -> Connection:
    """Exchange with the hub by a step, or trade receipts only. A refusal of the hub may close the connection."""
    try:
        return receipts.trade(session, connection) if step is None else step()
    except UnknownHandle as error:
        raise _unknown_to_hub(connection) from error
    except StaleRequest as error:
        raise counts.proof(session, connection) or error from None
    except (AnchorsDiffer, ConnectionNotOpen, HubRestored) as error:  # signed by the hub
        if isinstance(error, ConnectionNotOpen) and error.data.get("stage") in (AGREED, OPENING):
            log.warning(
                "connection %s: the hub does not see it open yet: run `picopayments-cli sync` later",
                connection.handle.hex(),
            )
            return session.connection(connection.handle)
        log.warning("connection %s closes: %s", connection.handle.hex(), error.message)
        hidden = counts.proof(session, connection) if isinstance(error, HubRestored) else None
        if hidden is not None:
            log.warning("%s: %s %s", hidden.name, hidden.message, json.dumps(hidden.data))
        return _closing(session, session.connection(connection.handle), look)


def _republish_the_hubs(session: Session, connection: Connection, look: Look, outcome: Outcome) -> None:
    """Publish the hub's deposit again, which once counted: what was received is worth nothing without it."""
    facts = look.facts[connection.handle][1]
    if connection.hub_deposit is None or facts.deposit is not None or facts.spend is not None:
        return
    try:
        outcome.txids.append(session.broadcast(connection.hub_deposit, "deposit"))
    except BroadcastRefused as refused:
        log.warning("the hub's deposit is not published again: %s", refused.message)


def _republish(session: Session, connection: Connection, outcome: Outcome, missing: UnknownDeposit) -> None:
    """Publish the deposit again, which the chain does not show."""
    try:
        outcome.txids.append(session.broadcast(connection.deposit_raw, "deposit"))
    except BroadcastRefused as refused:
        raise missing from refused


def _unknown_to_hub(connection: Connection) -> UnknownHandle:
    """Make the error for a hub that has lost its database: it may find it again, so this is no reason to close."""
    handle = connection.handle.hex()
    return UnknownHandle(
        f"The hub does not know the connection {handle}, which stays open here. Sync again later, or "
        f"ask the hub's operator, who may have to bring the database back. `picopayments-cli close {handle}` settles "
        "without the hub; the deposit is back when it expires.",
        handle=handle,
        hub_url=place_of(connection.hub_url),
    )


def _look_again(session: Session, connection: Connection, look: Look) -> Connection:
    """Reopen the closing of a connection if a reorganisation has undone it; mark it as final once none can."""
    if as_seen(session, connection, look).stage == CLOSING:
        log.warning("connection %s is not over any more: it is settled again", connection.handle.hex())
        return _closing(session, connection, look)
    if over(session, connection, look, FINAL_DEPTH):
        return session.save(replace(connection, final=True), "final")
    return connection


# Closing ------------------------------------------------------------------------------------------------------------


def close(session: Session, connection: Connection) -> Outcome:
    """Close a connection: sync once more where that can be, agree with the hub on a close, else settle alone.

    ``closed_by`` of the outcome is the commit or close by which this party is paid, else the one by which it pays; None
    where neither is published yet, as where the hub does not answer: ``sync`` goes on from there.
    """
    if connection.stage == PROPOSED and not connection.restored:
        _give_up(session, connection)
        return Outcome()
    look = hubs.look_at(session, [connection])
    if not any(map(shows, look.facts[connection.handle])):
        look.check_whole()
    connection = publishing.resume(session, connection, look)
    outcome = Outcome()
    if connection.stage == AGREED:
        seen, look, deposits = observe(session, connection, look)
        if look.whole and status(session, seen, look, deposits) == OPEN:
            seen = _last_sync(session, seen, outcome)
        rival = _rival(session, seen) if look.whole and unknown_deposit(seen, look) is not None else None
        connection = _closing(session, seen, look, rival)
        look = hubs.look_at(session, [connection])
    if connection.stage == PROPOSED:
        connection = _closing(session, connection, look)
    if connection.stage == CLOSING:
        settle(session, connection, look, outcome)
    ended = _ended(look.facts[connection.handle]) | outcome.ended
    outcome.closed_by = ended.get(publishing.H2C) or ended.get(publishing.C2H)
    return outcome


def _ended(facts: tuple[Facts, Facts]) -> dict[str, str]:
    """The txids by which the chain shows the channels ended, that of the hub's deposit where it pays this party."""
    c2h, h2c = (item.spend for item in facts)
    pays = h2c is not None and h2c.known is not None and h2c.known.quantity > 0
    found = {publishing.C2H: c2h, publishing.H2C: h2c if pays else None}
    return {label: spend.seen.txid[::-1].hex() for label, spend in found.items() if spend is not None}


def _give_up(session: Session, connection: Connection) -> Connection:
    """Close a connection whose deposit never left, and never will."""
    duplex = replace(connection.duplex, sending=replace(connection.duplex.sending, anchor=None))
    given_up = replace(connection, stage=CLOSED, duplex=duplex, deposit_raw=b"")
    return session.save(given_up, "given up", history.closed())


def _closing(session: Session, connection: Connection, look: Look, rival: str | None = None) -> Connection:
    """Have the connection do nothing but close from here on. ``rival``: see ``Ending``."""
    since = connection.ending.since
    stopped = replace(connection.ending, since=look.view.height if since is None else since, rival=rival)
    cause = conflicted(replace(connection, ending=stopped))
    if cause is not None:
        log.warning(cause.message)
    return session.save(replace(connection, stage=CLOSING, ending=stopped), "closing", history.closing())


def _last_sync(session: Session, connection: Connection, outcome: Outcome) -> Connection:
    """Send and receive what waits, if possible, also what came since a sync that has no answer yet."""
    with _closing_all_the_same(outcome, "closing without a last sync"):
        finish(session, prepare(session, finish(session, connection, outcome)), outcome, is_new=True)
    return session.connection(connection.handle)


# Queueing -----------------------------------------------------------------------------------------------------------


def queue(session: Session, connection: Connection, payment: Payment) -> Connection:
    """Queue a payment for the next sync. Raises as ``check_queue``."""
    check_queue(connection, payment)
    return session.save(replace(connection, queue=(*connection.queue, payment)), "payment queued")


def check_queue(connection: Connection, payment: Payment) -> None:
    """Refuse a payment that the connection can't move with all that is queued.

    Raises ConnectionNotOpen, NotTransferable.
    """
    if connection.stage not in (PROPOSED, AGREED) or connection.restored:
        raise ConnectionNotOpen(
            f"The connection is {connection.stage}, and pays nothing any more: pay from another one.",
            handle=connection.handle.hex(),
            stage=connection.stage,
        )
    amounts = [item.amount for item in connection.queue]
    total = connection.to_move(sum(amounts) + payment.amount)
    duplex = pair.expecting(connection.duplex)
    if not pair.transferable(duplex, total):
        most = pair.most_transferable(duplex, total) + connection.owed
        left = most - sum(amounts) - connection.next_fee
        advice = f"Pay {left} at most" if left > 0 else "Receive a payment first, or cancel one that is queued"
        raise NotTransferable(
            f"The connection can't move {payment.amount} on top of {sum(amounts)} queued and the sync's fee of "
            f"{connection.next_fee}: it can move {most} in all. {advice}.",
            quantity=payment.amount,
            queued=sum(amounts),
            sync_fee=connection.next_fee,
            transferable=most,
        )


def unqueue(session: Session, connection: Connection, token: Token) -> bool:
    """Take a payment out of the queue, and tell whether it was there."""
    queue = tuple(payment for payment in connection.queue if payment.token != token)
    if queue == connection.queue:
        return False
    session.save(replace(connection, queue=queue), "payment cancelled")
    return True

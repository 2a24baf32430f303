"""Stop a connection, or all of them where the database turns out not to be the newest there was.

The commits that the hub gave back after a backup was made, and the hashes that it handed out, are not in it. A commit
that it holds may be revoked, and who publishes that loses it all: so none is published before the deadline, when there
is nothing to lose any more, and no sync is answered. The client closes: it names its highest commit and shows the
secrets of those that were given back, and the hub signs the close that the client asks for, within its own limits.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from sqlalchemy import Connection, func, select

from picopayments_cli.channel.close import most_owed
from picopayments_cli.channel.fees import FETCH_BLOCKS
from picopayments_cli.channel.stages import AGREED, CLOSING, OPEN
from picopayments_cli.channel.values import HANDLE_SIZE, Handle
from picopayments_cli.channel.wire import Payment
from picopayments_cli.errors import HubRestored
from picopayments_cli.hub.account import Account, Queue
from picopayments_cli.hub.book import UnitOfWork
from picopayments_cli.hub.database import meta_drop, meta_get, meta_set
from picopayments_cli.hub.forgetting import forget_requests
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.logs import note
from picopayments_cli.hub.schema import meta

log = logging.getLogger(__name__)

_CLOSES = "closes by "  # and the asset, or the handle in hex
_ASKED_TO_END = select(meta.c.key).where(
    meta.c.key.like(f"{_CLOSES}%"), func.length(meta.c.key) == len(_CLOSES) + 2 * HANDLE_SIZE
)
_EVER = 2**31 - 1  # as a height: later than all


def stop(hub: Hub, work: UnitOfWork, account: Account) -> Account:
    """Stop a connection. Payments that wait for it go back to their payers, as payments from it.

    A payment that its payer can't get back stays, and comes with the agreed close. Once that is signed none goes back.
    """
    if account.channels.close_signed:
        return account
    left = Queue()
    for item in work.oldest(account.handle, account.waiting.count):
        payer = work.get(item.payer)
        if payer.handle == account.handle or not _can_get_back(payer, item.amount):
            left += Queue(1, item.amount)
            continue
        work.return_payment(item)
        back = work.add_payment(account.handle, Payment(item.payer, item.amount, item.token))
        work.keep(replace(payer, waiting=payer.waiting + back))
    meta_drop(work.db, _CLOSES + account.handle.hex())
    if account.stage not in (AGREED, OPEN):
        return account
    note(log, "closing", account, kept=left.amount)
    return work.put(replace(account, stage=CLOSING, since=hub.follower.tip(work.db), waiting=left))


def _can_get_back(payer: Account, amount: int) -> bool:
    """Whether a connection goes on, and its deposits have room for an amount beside all that it is owed."""
    return payer.stage in (AGREED, OPEN) and payer.pending + amount <= most_owed(payer.channels)


def closes_by(hub: Hub, work: UnitOfWork, asset: str | None = None) -> int:
    """The height at which connections close that the hub ends by itself, whatever waits for their clients then.

    ``asset``: that is not offered any more; None: the hub drains. It is fixed when it is asked for first.
    """
    return _fixed_end(hub, work, asset or "", asset=asset)


def _fixed_end(hub: Hub, work: UnitOfWork, key: str, **fields: str | None) -> int:
    text = meta_get(work.db, _CLOSES + key)
    if text is not None:
        return int(text)
    height = hub.follower.tip(work.db) + FETCH_BLOCKS
    meta_set(work.db, _CLOSES + key, str(height))
    log.warning("clients must fetch", extra={"fields": {**fields, "until": height}})
    return height


def end_connection(hub: Hub, work: UnitOfWork, account: Account) -> int | None:
    """End a connection that is opening or open, as its operator asks: at once where nothing waits for its client.

    Else its client has as long to fetch that as while the hub drains: the height by which it closes is returned.
    """
    if not account.waiting:
        stop(hub, work, account)
        return None
    return _fixed_end(hub, work, account.handle.hex(), handle=account.handle.hex())


def ends_by(work: UnitOfWork, handle: Handle) -> int | None:
    """The height by which a connection closes that its operator has asked to end; None where nobody has."""
    text = meta_get(work.db, _CLOSES + handle.hex())
    return None if text is None else int(text)


def asked_to_end(db: Connection) -> list[Handle]:
    """The connections that their operator has asked to end and whose clients may still fetch what waits."""
    keys = db.execute(_ASKED_TO_END).scalars()
    return [Handle(bytes.fromhex(key.removeprefix(_CLOSES))) for key in keys]


def keep_on_offer(hub: Hub) -> None:
    """Forget when connections were to close that are on offer again."""
    with hub.database.reading() as db:
        keys = [_CLOSES + asset for asset in ("", *hub.offer.assets) if not hub.draining]
        gone = [key for key in keys if meta_get(db, key) is not None]
    if gone:
        with hub.database.transaction("on offer") as db:
            for key in gone:
                meta_drop(db, key)


def give_up(hub: Hub) -> None:
    """Stop all connections that go on as if their newest state were missing."""
    with hub.book.transaction("restored") as work:
        goes_on = any(stage in (AGREED, OPEN) for _, stage in work.totals())
        number = work.give_up(hub.follower.tip(work.db)) if goes_on else 0
        while forget_requests(work, _EVER):
            pass
    log.warning("connections given up", extra={"fields": {"number": number}})


def give_up_noticed(hub: Hub, handle: Handle) -> None:
    """Give up all, since one client named a hash of the hub's own that the database does not know.

    Only the hub can have handed it out.
    """
    log.error("the database is not the newest there was", extra={"fields": {"handle": handle.hex()}})
    give_up(hub)


def refusal(handle: Handle) -> HubRestored:
    """Make the refusal for a connection whose newest state may be missing."""
    return HubRestored(
        "The hub has an old database, and does not know the newest state of the connection: close the connection.",
        handle=handle.hex(),
    )

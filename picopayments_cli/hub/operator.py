"""The commands of who runs the hub, carried out in the running hub: look, close, change terms, withdraw, back up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import select

from picopayments_cli.channel.counterparty import asset_members
from picopayments_cli.channel.stages import AGREED, CLOSED, OPEN, REQUESTED
from picopayments_cli.channel.values import HANDLE_SIZE, HEX_DIGITS, LEAST_DIGITS, Handle
from picopayments_cli.errors import (
    AmbiguousHandle,
    ConnectionNotOpen,
    InvalidHex,
    InvalidParams,
    StoreLocked,
    UnknownAsset,
    UnknownHandle,
)
from picopayments_cli.files import replace_file, usable
from picopayments_cli.hub.account import Account
from picopayments_cli.hub.backup import back_up
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.hub import Ask, Hub
from picopayments_cli.hub.overview import STAGES, Liquidity, Overviews
from picopayments_cli.hub.reading import Reading
from picopayments_cli.hub.rounds import Rounds
from picopayments_cli.hub.schema import connections, sent
from picopayments_cli.hub.stopping import closes_by, end_connection
from picopayments_cli.hub.terms import offer_of
from picopayments_cli.hub.withdrawing import withdraw

MOST_LISTED = 1000  # connections in one answer
_HANDLE_DIGITS = 2 * HANDLE_SIZE


class Operator:
    """The operator's commands on one hub. Each may be called in a thread of its own."""

    def __init__(self, rounds: Rounds, folder: Folder, overviews: Overviews, outdate: Callable[[], None]) -> None:
        """``outdate`` makes copies of the database older than it is."""
        self._rounds = rounds
        self._hub: Hub = rounds.hub
        self._folder = folder
        self._overviews = overviews
        self._outdate = outdate

    def table(self) -> dict[str, Callable[..., Any]]:
        """The commands by name."""
        return {
            "status": self.status,
            "connections": self.connections,
            "connection": self.connection,
            "close": self.close,
            "terms_get": self.terms_get,
            "terms_set": self.terms_set,
            "terms_reload": self.terms_reload,
            "withdraw": self.withdraw,
            "backup": self.backup,
            "drain": self.drain,
        }

    # Looking --------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Tell how the hub stands: the chain as it sees it, connections by stage, liquidity, coins."""
        hub, found = self._hub, self._overviews.latest()
        return {
            "network": hub.network.name,
            "address": hub.address,
            "height": found.height,
            "seconds_since_look": hub.follower.seconds_since_look,
            "fresh": hub.follower.is_fresh(hub.fresh_seconds),
            "draining": hub.draining,
            "fee_rate": found.rate,
            "connections": dict(found.stages),
            "liquidity": {item.longname or asset: _liquidity_json(item) for asset, item in found.liquidity.items()},
            "coins": {"number": found.coins.count, "satoshis": found.coins.satoshis},
            "reserve": {
                "coins": found.coins.reserve.coins,
                "each": found.coins.reserve.each,
                "missing": found.coins.missing,
            },
            "payments": found.payments,
        }

    def connections(
        self, stage: str | None = None, asset: str | None = None, after: str | None = None, most: int = 100
    ) -> dict[str, Any]:
        """List connections by handle, so many at most, those behind a handle; ``next`` names the last where more are.

        Raises InvalidParams, UnknownAsset.
        """
        if (stage is not None and stage not in STAGES) or not 1 <= most <= MOST_LISTED:
            raise InvalidParams(
                f"A stage is one of {', '.join(STAGES)}, and a page has 1 to {MOST_LISTED} connections."
            )
        with self._hub.book.reading() as book:
            found = self._page(book, stage, asset, after, most + 1)
            tip = self._hub.follower.tip(book.db)
            shown = [self._row(book.get(handle), tip) for handle in found[:most]]
        more = {"next": found[most - 1].hex()} if len(found) > most else {}
        return {"connections": shown, **more}

    def _page(self, book: Reading, stage: str | None, asset: str | None, after: str | None, most: int) -> list[Handle]:
        chosen = select(connections.c.handle).order_by(connections.c.handle).limit(most)
        if stage is not None:
            chosen = chosen.where(connections.c.stage == stage)
        if asset is not None:
            chosen = chosen.where(connections.c.asset == self._asset(book, asset))
        if after is not None:
            chosen = chosen.where(connections.c.handle > self._named(book, after))
        return [Handle(bytes(row.handle)) for row in book.db.execute(chosen)]

    def _asset(self, book: Reading, name: str) -> str:
        """The number or name of an asset that is on offer, or that a connection is in. Raises UnknownAsset."""
        offered = self._hub.offer.assets
        number = next((asset for asset, longname in self._hub.longnames.items() if longname == name), name)
        there = select(connections.c.handle).where(connections.c.asset == number).limit(1)
        if number not in offered and book.db.execute(there).first() is None:
            raise UnknownAsset(
                f"The hub offers no connections in {name}, and none is in it. Its offer: {', '.join(offered) or '-'}.",
                asset=name,
                offered=list(offered),
            )
        return number

    def connection(self, handle: str) -> dict[str, Any]:
        """Tell all of one connection that is no secret. Raises UnknownHandle, AmbiguousHandle, InvalidHex."""
        with self._hub.book.reading() as book:
            account = book.get(self._named(book, handle))
            shown = self._row(account, self._hub.follower.tip(book.db))
            rows = book.db.execute(select(sent).where(sent.c.handle == account.handle)).all()
        if account.duplex is not None:
            shown |= _channels(account)
        shown["sent"] = [
            {"txid": bytes(row.txid)[::-1].hex(), "spends": row.spends, "fee": row.fee, "size": row.size}
            for row in rows
        ]
        return shown

    def _named(self, book: Reading, text: str) -> Handle:
        """The handle that these digits begin. Raises UnknownHandle, AmbiguousHandle, InvalidHex."""
        if not LEAST_DIGITS <= len(text) <= _HANDLE_DIGITS or not HEX_DIGITS.issuperset(text):
            raise InvalidHex(f"{text!r} is no handle, nor its first {LEAST_DIGITS} digits or more.", handle=text)
        low, high = (bytes.fromhex(text.ljust(_HANDLE_DIGITS, digit)) for digit in "0f")
        chosen = select(connections.c.handle).where(connections.c.handle.between(low, high)).limit(2)
        found = [bytes(row.handle) for row in book.db.execute(chosen)]
        if not found:
            raise UnknownHandle("The hub knows no connection of that handle.", handle=text)
        if len(found) > 1:
            raise AmbiguousHandle(
                f"Several handles begin with {text}: give more digits.", handles=[item.hex() for item in found]
            )
        return Handle(found[0])

    def _row(self, account: Account, tip: int) -> dict[str, Any]:
        fixed = account.fixed
        row: dict[str, Any] = {
            "handle": account.handle.hex(),
            **asset_members(fixed.asset, self._hub.longnames.get(fixed.asset)),
            "stage": account.stage,
            "client": fixed.client.hex(),
            "stale": account.stale,
            "waiting": {
                "payments": account.waiting.count,
                "quantity": account.waiting.amount,
            },
        }
        if fixed.agreement is not None:
            agreed = fixed.agreement
            row |= {
                "client_deposit": agreed.c2h.quantity,
                "hub_deposit": agreed.h2c.quantity,
                "expire_height": agreed.expiry.height,
                "expires_in": max(agreed.expiry.height - tip, 0),
                "settle_height": agreed.expiry.settle_height,
            }
        if account.stage == CLOSED:
            row["closed_height"] = account.due_height
        return row

    # Closing --------------------------------------------------------------------------------------------------------

    def close(self, handle: str) -> dict[str, Any]:
        """End a connection: in agreement where its client comes, else alone.

        Where payments wait for its client it has until ``closes_by`` to fetch them. Raises UnknownHandle,
        AmbiguousHandle, InvalidHex, ConnectionNotOpen.
        """
        hub, until = self._hub, None
        with hub.book.transaction("operator closes") as work:
            named = self._named(work, handle)
            work.lock_with_payers(named)
            account = work.get(named)
            if account.stage == REQUESTED:
                raise ConnectionNotOpen(
                    "The connection has no deposit yet, and is forgotten without one: there is nothing to close.",
                    handle=account.handle.hex(),
                    stage=account.stage,
                )
            if account.stage in (AGREED, OPEN):
                until = end_connection(hub, work, account)
            stage = work.get(account.handle).stage
        hub.ask(Ask.NOW, account.handle)
        hub.wake()
        return {"handle": account.handle.hex(), "stage": stage, **({} if until is None else {"closes_by": until})}

    def drain(self) -> dict[str, Any]:
        """Take no new connections and close those that are open, then end the hub, as ``--drain`` does."""
        hub = self._hub
        hub.drain()
        with hub.book.transaction("draining") as work:
            until = closes_by(hub, work)
        hub.wake()
        return {"draining": True, "closes_by": until, "connections": dict(self._overviews.latest().stages)}

    # Terms ----------------------------------------------------------------------------------------------------------

    def terms_get(self) -> dict[str, Any]:
        """Tell the terms in use, as a file would have them."""
        return self._hub.offer.members

    def terms_set(self, terms: Mapping[str, Any]) -> dict[str, Any]:
        """Put these terms into the file, and into use. Raises InvalidSetting, StoreUnusable; then all is as it was."""
        path = self._folder.terms_path
        offer = offer_of(dict(terms), self._hub.network, "given")
        with self._rounds.turn:
            offer.resolve(self._hub.chain)
            with usable(path):
                replace_file(path, (json.dumps(terms, indent=2) + "\n").encode())
            self._rounds.take_offer(offer)
        self._hub.wake()
        return self._hub.offer.members

    def terms_reload(self) -> dict[str, Any]:
        """Read the terms file anew. Raises InvalidSetting, StoreUnusable; then the old terms stay."""
        with self._rounds.turn:
            self._rounds.take_offer(self._folder.offer())
        self._hub.wake()
        return self._hub.offer.members

    # The wallet and the files ---------------------------------------------------------------------------------------

    def withdraw(
        self, address: str, quantity: int | str | None, asset: str = "BTC", dry_run: bool = False
    ) -> dict[str, Any]:
        """Send what is free. Raises as ``withdrawing.withdraw``, StoreLocked where another machine does the rounds."""
        if not self._hub.follows:
            machine = self._hub.database.lease.machine()
            raise StoreLocked(
                f"The rounds of this hub are done on {machine} now, and pay from its wallet: give the command there.",
                machine=machine,
            )
        with self._rounds.turn, self._hub.database.fenced():
            return withdraw(self._hub, asset, address, quantity, dry_run=dry_run)

    def backup(self, file: str) -> dict[str, Any]:
        """Write an archive of what the hub needs to come back. Raises as ``backup.back_up``."""

        def outdate() -> None:
            with self._rounds.turn:
                self._outdate()

        return back_up(self._folder, self._hub.database, Path(file), outdate)


def _liquidity_json(item: Liquidity) -> dict[str, Any]:
    return {"held": item.held, "free": item.free, "promised": item.promised, "deposited": item.deposited}


def _channels(account: Account) -> dict[str, Any]:
    """Tell what has moved on both channels, and where their deposits are."""
    duplex = account.channels
    anchors = {"c2h": duplex.receiving.anchor, "h2c": duplex.sending.anchor}
    return {
        "guaranteed": duplex.guaranteed,
        "moved_by_client": duplex.receiving.moved,
        "moved_by_hub": duplex.sending.moved,
        "anchors": {name: None if coin is None else str(coin.outpoint) for name, coin in anchors.items()},
        "stopped_height": account.since,
    }

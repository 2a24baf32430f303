"""Look at a hub as a whole, for its operator and its page: connections by stage, liquidity, deadlines.

It goes through all connections, so it is made only when somebody looks, and takes a twentieth of the time at most.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, and_, case, func, or_, select

from picopayments_cli.chain import Query
from picopayments_cli.channel.reserve import Reserve, missing
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, OPEN, REQUESTED
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.schema import connections, payments
from picopayments_cli.hub.wallet import recall

EVERY_SECONDS = 5.0  # at most one is made in these
SHARE = 20  # of the time that making one may take
STAGES = (REQUESTED, AGREED, OPEN, CLOSING, CLOSED)
_PAYMENTS = select(func.max(payments.c.number))


@dataclass(frozen=True)
class Liquidity:
    """The hub's own satoshis of one asset: in its wallet, thereof promised to clients, and deposited.

    ``held`` None: nobody has told yet. ``divisible`` None: nor that.
    """

    held: int | None = None
    promised: int = 0
    deposited: int = 0
    longname: str | None = None
    divisible: bool | None = None

    @property
    def free(self) -> int:
        """Return what new connections can have."""
        return max((self.held or 0) - self.promised, 0)


@dataclass(frozen=True)
class Coins:
    """The wallet's confirmed coins without assets: how many, their satoshis, and what the reserve lacks."""

    count: int
    satoshis: int
    reserve: Reserve
    missing: int


@dataclass(frozen=True)
class Overview:
    """All of a hub at one moment. ``left``: how many connections of a stage expire in so many blocks."""

    height: int
    stages: Mapping[str, int]
    liquidity: Mapping[str, Liquidity]
    left: Mapping[tuple[str, int], int]
    coins: Coins
    payments: int
    rate: int
    draining: bool


class Overviews:
    """The newest overview of a hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._lock = threading.Lock()
        self._found: Overview | None = None
        self._held: dict[str, int] = {}
        self._divisible: dict[str, bool] = {}
        self._next = float("-inf")

    def latest(self) -> Overview:
        """Return the newest, made anew where that is due and nobody does it already. Raises DatabaseUnusable."""
        found = self._found
        if found is not None and time.monotonic() < self._next:
            return found
        if not self._lock.acquire(blocking=found is None) and found is not None:
            return found
        try:
            if self._found is None or time.monotonic() >= self._next:
                self._found = self._make()
            return self._found
        finally:
            self._lock.release()

    def _make(self) -> Overview:
        begun = time.monotonic()
        hub = self._hub
        self._ask_ledger()
        if not hub.follows:
            recall(hub)  # what the process that follows the chain saw last
        with hub.book.reading() as book:
            tip = hub.follower.tip(book.db)
            stages: Counter[str] = Counter()
            for (_, stage), count in book.totals().items():
                stages[stage] += count
            liquidity, left = _sums(book.db, tip)
            coins = _coins(hub, book.counted())
            booked = int(book.db.execute(_PAYMENTS).scalar() or 0)
        made = Overview(
            height=tip,
            stages={stage: stages[stage] for stage in STAGES},
            liquidity={asset: self._named(asset, liquidity.get(asset)) for asset in self._assets(liquidity)},
            left=left,
            coins=coins,
            payments=booked,
            rate=hub.rate.value,
            draining=hub.draining,
        )
        self._next = time.monotonic() + max(EVERY_SECONDS, SHARE * (time.monotonic() - begun))
        return made

    def _assets(self, used: Mapping[str, Liquidity]) -> list[str]:
        return sorted({*self._hub.offer.assets, *used})

    def _ask_ledger(self) -> None:
        """See what the wallet holds; while the node is away it is what it was."""
        hub, own = self._hub, self._hub.address
        try:
            self._held = dict(hub.chain.view(Query(balances=[own])).balances[own])
            for asset in hub.offer.assets:
                if asset not in self._divisible:
                    self._divisible[asset] = hub.chain.asset(asset).divisible
        except PicopaymentsError:
            return

    def _named(self, asset: str, sums: Liquidity | None) -> Liquidity:
        found = sums or Liquidity()
        held = self._held.get(asset, 0) if self._held else None
        divisible, longname = self._divisible.get(asset), self._hub.longnames.get(asset)
        return Liquidity(held, found.promised, found.deposited, longname, divisible)


def _coins(hub: Hub, counted: int) -> Coins:
    coins, reserve = hub.wallet.coins, hub.reserve_of(counted)
    values = [coin.value for coin in coins]
    return Coins(len(coins), sum(values), reserve, missing(values, reserve))


def _sums(db: Connection, tip: int) -> tuple[dict[str, Liquidity], dict[tuple[str, int], int]]:
    """Add up in the database, by asset, what is promised and deposited, and count the blocks that are left."""
    by = (connections.c.stage, connections.c.asset, connections.c.expiry)
    undeposited = and_(connections.c.stage == AGREED, connections.c.h2c_anchor.is_(None))
    deposited = or_(connections.c.h2c_anchor.is_not(None), connections.c.stage == OPEN)
    rows = db.execute(
        select(
            *by,
            func.count(),
            func.sum(case((undeposited, connections.c.promised), else_=0)),
            func.sum(case((deposited, connections.c.promised), else_=0)),
        )
        .where(connections.c.stage.in_((AGREED, OPEN, CLOSING)))
        .group_by(*by)
    )
    liquidity: dict[str, Liquidity] = {}
    left: Counter[tuple[str, int]] = Counter()
    for stage, name, at, count, promised, lent in rows:
        before = liquidity.get(name, Liquidity())
        liquidity[name] = Liquidity(promised=before.promised + int(promised), deposited=before.deposited + int(lent))
        left[(stage, max(int(at) - tip, 0))] += int(count)
    return liquidity, dict(left)

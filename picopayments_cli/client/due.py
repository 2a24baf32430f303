"""Decides what a hand that watches does for each connection, and when it looks again. It is pure, as the ground is.

A look costs nothing, and neither does opening, closing and settling. An exchange costs the hub's fee, so that one is
made only where something is to be sent or fetched. Times are seconds, heights and their differences blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from picopayments_cli.channel.stages import CLOSED, OPEN

BLOCK_SECONDS = 600.0  # between two blocks, on average
JITTER = 0.25  # of a pause: many watchers do not come at once
MOST_BACKED_OFF = 600.0
REST, MOST_REST = 2.0, 600.0  # between two exchanges of a connection


class Act(Enum):
    """An act for the sake of a connection."""

    NOTHING = "nothing"
    STEP = "step"  # whatever is free: agree, publish again, exchange receipts, close, settle, punish
    EXCHANGE = "exchange"  # send what is queued, for which the hub takes its fee
    FETCH = "fetch"  # the same, as the hub says that something waits there


@dataclass(frozen=True)
class Standing:
    """A connection as a look has shown it.

    ``pending``: a sync has no answer yet; ``wants``: payments are queued, or more than the fee is to come back.
    ``rested``: as long after the last exchange as its ``Rest`` says. ``trades``: receipts are to be given to the hub or
    fetched. ``settled``: it is closed, and what is left is to write down that no reorganisation undoes that.
    ``blocks``: that are left until it settles; ``check_every``: how often it must be looked at.
    """

    status: str
    pending: bool = False
    wants: bool = False
    rested: bool = True
    trades: bool = False
    settled: bool = False
    blocks: int = 1
    check_every: int = 1


def act(item: Standing) -> Act:
    """Decide what is done for a connection in a round."""
    if item.status == CLOSED:
        return Act.STEP if item.settled else Act.NOTHING
    if item.status != OPEN:
        return Act.STEP
    if item.pending or (item.wants and item.rested):
        return Act.EXCHANGE
    return Act.STEP if item.trades else Act.NOTHING


def worth(total: int, fee: int) -> bool:
    """Tell whether to fetch what waits at the hub brings more than it costs."""
    return total > fee


def pause(items: Iterable[Standing], every: float, failures: int, chance: float) -> float:
    """Return the seconds until the next round: ``every``, twice as many after each failure, within a deadline's half.

    ``failures``: rounds in a row in which something failed; ``chance``: from 0 to 1, takes some of it away.
    """
    seconds = min(every * 2.0 ** min(failures, 20), max(every, MOST_BACKED_OFF))
    for item in items:
        if item.status != CLOSED:
            seconds = min(seconds, BLOCK_SECONDS / 2 * max(min(item.check_every, item.blocks), 1))
    return seconds * (1 - JITTER * chance)


@dataclass(frozen=True)
class Rest:
    """Until when (of a clock) no exchange is made for a connection, and how long that is."""

    until: float = 0.0
    seconds: float = 0.0

    def after(self, *, brought: bool, now: float) -> Rest:
        """Rest after an exchange: shortly where it brought something, else twice as long as before.

        The first gathers what comes at once under one fee; the other bounds what a hub gains by lying.
        """
        seconds = REST if brought or not self.seconds else min(2 * self.seconds, MOST_REST)
        return Rest(now + seconds, 0.0 if brought else seconds)

"""Tell what a connection that opens or closes waits for, until which block, and what of it is not in the wallet yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from picopayments_cli.channel.facts import Facts, Kind, Paid, Paying, Seen, Spend
from picopayments_cli.channel.fees import PATIENCE
from picopayments_cli.channel.recovery import Case, is_over, tasks
from picopayments_cli.channel.transactions import has_rest


class WaitsFor(Enum):
    """The words for what is waited for, as the user is told."""

    DEPOSIT = "deposit"  # the own one is not buried yet
    HUB_DEPOSIT = "hub_deposit"  # the peer's is not there, or not buried
    SYNC = "sync"  # nothing: the next step is the user's, by a height where the hub waits for the lock fee
    HUB = "hub"  # the peer has not agreed to a close
    CONFIRMATIONS = "confirmations"  # what went out is not buried yet
    DELAY = "delay"  # of the own commit
    EXPIRY = "expiry"  # of the own deposit


@dataclass(frozen=True)
class Outlook:
    """The thing that is waited for, and the height of the tip at which it goes on, None where nothing is waited for.

    The height is the earliest for what others mine, and the latest for what the peer may do sooner.
    """

    waits_for: WaitsFor
    until: int | None = None


OWN_STEP = Outlook(WaitsFor.SYNC)


# Opening ------------------------------------------------------------------------------------------------------------


def opening(facts: Facts, *, counts: bool, safe_depth: int, fee_by: int | None = None) -> Outlook:
    """Tell what a connection waits for until it is open. ``facts``: of the own deposit, and whether it ``counts``.

    ``fee_by``: the tip at which the lock fee must be paid, None where none is due.
    """
    if facts.deposit is None:
        return OWN_STEP
    if facts.deposit.depth(facts.tip) < safe_depth:
        return Outlook(WaitsFor.DEPOSIT, _buried(facts.deposit, facts.tip, safe_depth))
    if not counts:
        return Outlook(WaitsFor.DEPOSIT, facts.tip + 1)
    if fee_by is not None:
        return Outlook(WaitsFor.SYNC, fee_by)
    return Outlook(WaitsFor.HUB_DEPOSIT, facts.tip + safe_depth)


def _buried(seen: Seen, tip: int, safe_depth: int) -> int:
    """The tip at which a transaction is buried, if one in the mempool is in the next block."""
    return (tip + 1 if seen.height is None else seen.height) + safe_depth - 1


# Closing ------------------------------------------------------------------------------------------------------------


def closing(cases: Sequence[Case], safe_depth: int, rate: int) -> Outlook:
    """Tell what a connection waits for until it is closed: the own step, else whatever ends last.

    ``rate``: at which a coin is worth its fee or not, as ``is_over`` takes it.
    """
    waits = [_closing(case, safe_depth) for case in cases if not is_over(case, safe_depth, rate)]
    if not waits or OWN_STEP in waits:
        return OWN_STEP
    return max(waits, key=lambda item: item.until or 0)


def _closing(case: Case, safe_depth: int) -> Outlook:
    facts, spend = case.facts, case.facts.spend
    leaving = [seen for seen in (facts.deposit, *_path(case, spend)) if seen is not None and seen.height is None]
    if leaving:
        return Outlook(WaitsFor.CONFIRMATIONS, _buried(leaving[0], facts.tip, safe_depth))
    if spend is not None and spend.kind is Kind.UNKNOWN:
        return Outlook(WaitsFor.CONFIRMATIONS, _buried(spend.seen, facts.tip, safe_depth))
    if spend is None and not facts.funded:
        return Outlook(WaitsFor.EXPIRY, case.contract.deposit.height + safe_depth)
    if tasks(case):
        return OWN_STEP
    return _unspent(case) if spend is None else _spent(case, spend, safe_depth)


def _unspent(case: Case) -> Outlook:
    """The peer's turn: until the expiry, or until a payee publishes its commit though a close was agreed on."""
    if isinstance(case.side, Paying):
        return Outlook(WaitsFor.HUB, case.contract.deposit.height)
    late = case.expiry.settle_height
    if case.stale or case.since is None:  # a commit that may have been given back goes out at the deadline only
        return Outlook(WaitsFor.HUB, late)
    return Outlook(WaitsFor.HUB, min(case.since + PATIENCE, late))


def _spent(case: Case, spend: Spend, safe_depth: int) -> Outlook:
    tip = case.facts.tip
    if isinstance(case.side, Paid) and spend.kind is Kind.COMMIT and spend.first is None:
        return Outlook(WaitsFor.DELAY, (spend.seen.height or tip) + case.contract.delay - 1)
    end = max(_buried(seen, tip, safe_depth) for seen in _path(case, spend))
    if isinstance(case.side, Paying) and (_leaves_rest(case, spend) or end <= tip):
        return Outlook(WaitsFor.EXPIRY, case.contract.deposit.height)
    return Outlook(WaitsFor.CONFIRMATIONS, end)


def _path(case: Case, spend: Spend | None) -> tuple[Seen, ...]:
    """The transactions on a channel's way to the party's wallet that are there."""
    if spend is None:
        return ()
    first = spend.first if isinstance(case.side, Paid) or spend.kind is Kind.REVOKED else None
    third = spend.third if isinstance(case.side, Paying) else None
    return tuple(seen for seen in (spend.seen, first, third) if seen is not None)


def _leaves_rest(case: Case, spend: Spend) -> bool:
    """Whether what spends the anchor has left the payer a rest that nothing has taken yet."""
    if spend.known is None or spend.third is not None:
        return False
    return spend.kind is not Kind.CLOSE or has_rest(case.contract, spend.known.quantity)


# The balance --------------------------------------------------------------------------------------------------------


def outside(case: Case, due: int) -> int:
    """Return how much of a channel is this party's and not in its wallet by a block yet, in the asset's units.

    ``due``: what is the party's by the channel's own state, which counts until something spends the anchor.
    """
    facts, spend = case.facts, case.facts.spend
    if spend is None:
        return due
    if spend.kind is Kind.UNKNOWN or (spend.kind is Kind.EXPIRE and isinstance(case.side, Paid)):
        return 0 if _mined(spend.seen, facts) else due
    if isinstance(case.side, Paid):
        home = spend.seen if spend.kind is Kind.CLOSE else spend.first
        return 0 if _mined(home, facts) or spend.known is None else spend.known.quantity
    return _outside_payer(case, spend)


def _outside_payer(case: Case, spend: Spend) -> int:
    facts, total = case.facts, case.contract.quantity
    if spend.known is None or (spend.kind is Kind.CLOSE and spend.known.quantity == 0):
        return 0 if _mined(spend.seen, facts) else total
    moved = spend.known.quantity
    rest = 0 if _mined(spend.third, facts) else total - moved
    if spend.kind is not Kind.REVOKED or _mined(spend.first, facts):
        return rest
    return rest + moved  # which is punished


def _mined(seen: Seen | None, facts: Facts) -> bool:
    """Whether a transaction is in a block, of those that the wallet's balance counts."""
    return seen is not None and seen.height is not None and seen.height <= facts.tip

"""Which fee rate is believed, agreed on and aimed at. Rates are whole sat/vB; an estimate is rounded up before."""

from __future__ import annotations

from dataclasses import dataclass

RESCUE = 4  # times the ceiling is the most that is ever paid, where all of a deposit is at risk
PACKAGE_MAX = 5  # sat/vB: what a payee asks for its commits at most where it can submit packages, else at least
ALONE = 3  # times the estimate is asked for by a payee that can't submit packages
DRIFT = 2  # times two honest estimates differ at most
MAX_AGREED = 100  # sat/vB, of commits


@dataclass(frozen=True)
class Bounds:
    """``floor``: the least rate that is paid; ``ceiling``: the most while nothing is lost by waiting."""

    floor: int
    ceiling: int

    def __post_init__(self) -> None:
        if not 1 <= self.floor <= self.ceiling:
            raise ValueError(f"the floor {self.floor} must be from 1 to the ceiling {self.ceiling}")

    def within(self, rate: int) -> int:
        """The nearest rate that is paid while nothing is lost by waiting."""
        return min(max(rate, self.floor), self.ceiling)


@dataclass(frozen=True)
class Rate:
    """The rate at which transactions are mined soon; ``guess``: no node says so now."""

    value: int
    guess: bool


def believed(estimate: int | None, last_good: int | None, fallback: int | None, bounds: Bounds) -> Rate:
    """The node's estimate; without one the last good one, else the setting ``fallback``, else the floor.

    An estimate below 1 counts as none. The value may lie outside of the bounds: they limit what is paid, not what is
    so.
    """
    if estimate is not None and estimate >= 1:
        return Rate(estimate, guess=False)
    known = [rate for rate in (last_good, fallback) if rate is not None and rate >= 1]
    return Rate(known[0] if known else bounds.floor, guess=True)


def may_open(rate: Rate, bounds: Bounds) -> bool:
    """Whether a connection may be opened at this rate: never on a guess, nor above the ceiling."""
    return not rate.guess and rate.value <= bounds.ceiling


# The commits' rate, fixed in mph_deposit -----------------------------------------------------------------------------


def asked_rate(rate: Rate, *, packages: bool) -> int:
    """The commits' rate that a payee names: little where it can raise them by packages, else enough without."""
    if packages:
        return min(max(rate.value, 1), PACKAGE_MAX)
    return min(max(ALONE * rate.value, PACKAGE_MAX), MAX_AGREED)


def most_agreed(rate: Rate, bounds: Bounds) -> int:
    """Return the highest rate of commits that a payer signs: what an honest payee asks whose estimate is twice as high.

    The payer's satoshis pay for every commit and close, so that it decides by its own estimate.
    """
    return min(max(PACKAGE_MAX, DRIFT * ALONE * rate.value), MAX_AGREED, bounds.ceiling)


def payer_agrees(agreed: int, rate: Rate, bounds: Bounds) -> bool:
    """Whether a payer signs commits at this rate."""
    return 1 <= agreed <= most_agreed(rate, bounds)


def payee_agrees(agreed: int, rate: Rate, *, packages: bool) -> bool:
    """Whether a payee takes commits at this rate, now that it is to be fixed for good."""
    return agreed >= 1 if packages else DRIFT * agreed >= asked_rate(rate, packages=False) and agreed >= rate.value


# The rate aimed at ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Urgency:
    """How soon something has to be mined, and what is lost otherwise.

    ``left``: blocks to the deadline, None where there is none; ``span``: how many there are when the raising begins.
    ``at_risk`` of ``deposit``: what is lost at the deadline, and what the channel holds, in the asset's units.
    """

    left: int | None
    span: int
    at_risk: int = 0
    deposit: int = 1

    @property
    def passed(self) -> int:
        """How many of the span's blocks are gone, all of them once the last one is next."""
        if self.left is None:
            return 0
        return min(max(self.span - self.left, 0), self.last) if self.left > 1 else self.last

    @property
    def last(self) -> int:
        """Return what ``passed`` is in the last block, at least 1."""
        return max(self.span - 1, 1)


@dataclass(frozen=True)
class Aim:
    """``rate``: what is to be paid now; ``most``: what is paid where only that gets it past what stands there."""

    rate: int
    most: int


def aim(rate: Rate, bounds: Bounds, urgency: Urgency) -> Aim:
    """The believed rate, and more each block towards the deadline, up to the most that may be paid.

    A quantity of an asset can't be compared with satoshis. But whoever deposited took the deposit for worth the fees of
    opening and closing at up to the ceiling. So the most is the ceiling, and in the second half of the span up to
    RESCUE times of it, in proportion to the part of the deposit that is lost otherwise: a cheat for next to nothing
    costs its victim no more than the ceiling. The way up is the square of the time passed: little while the estimate is
    probably right, the most in the last block.
    """
    base, passed, last = bounds.within(rate.value), urgency.passed, urgency.last
    lost = min(max(urgency.at_risk, 0), urgency.deposit)
    limit = bounds.ceiling + (RESCUE - 1) * bounds.ceiling * lost // max(urgency.deposit, 1)
    most = limit if 2 * passed >= last and passed else bounds.ceiling
    climbed = base + -(-(limit - base) * passed**2 // last**2)
    return Aim(min(max(base + passed, climbed), most), most)

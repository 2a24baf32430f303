"""By when a party settles, and how often it looks. Heights are of blocks, times numbers of blocks.

Both deposits of a connection expire at one height; what the payer takes by it is mined in the block after it at the
earliest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from picopayments_cli.channel.facts import Deposit, Facts, Paid, Paying
from picopayments_cli.channel.networks import Network
from picopayments_cli.channel.reserve import beginnings
from picopayments_cli.channel.transactions import MAX_DELAY, MIN_DELAY
from picopayments_cli.errors import InvalidTime

WIRE_CLEARANCE = 6  # blocks before the expiry at which a connection's time to live is over
MIN_MARGIN, MAX_MARGIN = 6, 144  # blocks before the expiry by which a payee settles
MAINNET_MIN_DELAY, MAINNET_DELAY = 14, 144
FEE_BLOCKS = 144  # in which the lock fee is paid, once the client's deposit counts at the latest


# Limits -------------------------------------------------------------------------------------------------------------


def delay_min(network: Network) -> int:
    """The least delay of a commit that a network allows."""
    return MAINNET_MIN_DELAY if network.name == "mainnet" else MIN_DELAY


def default_delay(network: Network) -> int:
    """The delay that is asked for where the user names none: on test networks the least."""
    return MAINNET_DELAY if network.name == "mainnet" else MIN_DELAY


def is_short(delay: int) -> bool:
    """Whether a delay is one that the user is warned of: who looks twice in it looks all day."""
    return delay < MAINNET_MIN_DELAY


def check_delay(delay: int, network: Network) -> None:
    """Refuse a delay outside the network's limits. Raises InvalidTime."""
    least = delay_min(network)
    if not least <= delay <= MAX_DELAY:
        raise InvalidTime(
            f"The delay time on {network.name} must be from {least} to {MAX_DELAY} blocks, not {delay}.",
            delay_time=delay,
            delay_min=least,
            delay_max=MAX_DELAY,
        )


def check_every(delay: int) -> int:
    """How often a payer looks, in blocks: twice in the delay, so that a revoked commit is punished in time."""
    return delay // 2


# One connection -----------------------------------------------------------------------------------------------------


def lapsed_since(tip: int, network: Network) -> int:
    """The last tip at which was agreed on what must be funded by this one: a deposit that counts was in time."""
    return tip - network.deposit_blocks - network.safe_depth + 1


@dataclass(frozen=True)
class Expiry:
    """The ``height`` from which on deposits go back, and how far away it was when it was agreed on (``time``)."""

    height: int
    time: int

    @property
    def margin(self) -> int:
        """The blocks that a settlement may take: an eighth of the time, 6 to 144."""
        return min(max(self.time // 8, MIN_MARGIN), MAX_MARGIN)

    @property
    def settle_height(self) -> int:
        """The tip at which a payee settles at the latest."""
        return self.height - self.margin

    def deposit_by(self, network: Network) -> int:
        """The last block that may hold the client's deposit, by the tip at which it was agreed on."""
        return self.height - self.time + network.deposit_blocks

    def is_unfunded(self, tip: int, network: Network) -> bool:
        """Whether a client's deposit that does not count at this tip has come too late, or not at all."""
        return self.height - self.time <= lapsed_since(tip, network)

    def fee_by(self, deposit_by: int) -> int:
        """The tip at which the lock fee must be paid: a day after the deposit's time, while the hub may deposit."""
        return min(deposit_by + FEE_BLOCKS, self.height - (self.time + 1) // 2)

    def left(self, tip: int) -> int:
        """The blocks, from the next on, that can hold a commit before an expiry can be mined."""
        return max(self.height - tip, 0)

    def time_to_live(self, tip: int) -> int:
        """Blocks left until six before anything on a deposit's address can expire, at least 0."""
        return time_to_live(self.height, tip)

    def may_deposit(self, tip: int) -> bool:
        """Whether at least half of the time is left, without which no hub deposits."""
        return 2 * (self.height - tip) >= self.time

    def may_open(self, tip: int, safe_depth: int) -> bool:
        """Whether a deposit that counts at this tip is used: never one inside the margin and ``safe_depth`` before it.

        The deposits of a connection that never was open go back at the expiry, or by a close of nothing.
        """
        return tip < self.settle_height - safe_depth


def time_to_live(height: int, tip: int) -> int:
    """Blocks left until six before anything on a deposit's address can expire, at least 0."""
    return max(height - tip - WIRE_CLEARANCE, 0)


def must_close(expiry: Expiry, begins: int, sides: Sequence[Facts], deposits: Sequence[Deposit] = ()) -> bool:
    """Whether to settle: a deposit is spent (in the mempool too) or void, or the deadline is there.

    ``begins``: the height that ``starts`` gave this connection among the others, its settle height where it is alone.
    """
    tip = max(facts.tip for facts in sides)
    return (
        tip >= min(expiry.settle_height, begins)
        or any(facts.spend is not None for facts in sides)
        or Deposit.VOID in deposits
    )


def counts_late(expiry: Expiry, facts: Facts) -> bool:
    """Whether a payee of a closing channel could still publish what a last answer moves to it.

    Its deposit is unspent, and half of the margin is left; else the payer may have it back already, or soon.
    """
    return facts.spend is None and 2 * expiry.left(facts.tip) >= expiry.margin


def is_open(expiry: Expiry, sides: Sequence[Facts], safe_depth: int) -> bool:
    """Whether both deposits are buried and unspent, and the deadline to settle by lies ahead."""
    return all(
        facts.spend is None
        and facts.deposit is not None
        and facts.deposit.depth(facts.tip) >= safe_depth
        and facts.tip < expiry.settle_height
        for facts in sides
    )


def at_risk(paying: Paying, paid: Paid) -> int:
    """Return what is lost at most by not looking at the chain in time, in the asset's units.

    That is what was received, and what the greatest revoked commit would take from the own deposit beyond what is due.
    """
    revoked = max((item.quantity for item in paying.signed if item.secret is not None), default=0)
    moved = max((item.quantity for item in paying.signed if item.secret is None), default=0)
    return max(revoked - moved, 0) + (paid.best.quantity if paid.best else 0)


# Many connections ---------------------------------------------------------------------------------------------------


def latest_begun(tip: int, connections: int, coins: int) -> int:
    """The expiry up to which connections may have to begin by now, as ``starts`` has it for so many with such coins.

    Those that expire later have no part in when these begin.
    """
    turns = -(-connections // max(coins, 1))
    return tip + MIN_MARGIN * turns


def starts(expiries: Sequence[Expiry], coins: int) -> tuple[int, ...]:
    """The height at which each connection settles at the latest, so that no more are under way than there are coins.

    Each close gets the least margin for itself alone with its coin, and none begins later than by its own margin.
    """
    if not expiries:
        return ()
    begun = beginnings([item.height for item in expiries], max(coins, 1), MIN_MARGIN)
    return tuple(min(item.settle_height, begin) for item, begin in zip(expiries, begun, strict=True))

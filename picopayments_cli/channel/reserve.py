"""The wallet's coins that wait for what can't wait: how many, who may spend them, and when each close begins.

TRUC allows one unconfirmed child, from confirmed coins: so many closes at once need as many coins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from picopayments_cli.channel.fees import FeeFrac, lifting_fee
from picopayments_cli.channel.rates import Bounds


class Chore(IntEnum):
    """The kinds of transactions to publish, in the order in which they get their coins."""

    PUNISH = 0
    CLOSE = 1  # a commit or a close, and the child that raises it
    COLLECT = 2  # payout, remainder, rest, expire: nobody else can take it
    DEPOSIT = 3


def turn(chore: Chore, left: int | None) -> tuple[int, bool, int]:
    """The key that sorts chores: punishments first, and among the same the one with the fewest blocks ``left``."""
    return chore, left is None, left or 0


@dataclass(frozen=True)
class Reserve:
    """So many confirmed ``coins`` of at least ``each`` satoshis."""

    coins: int
    each: int


def reserve_for(closes: int, commit: FeeFrac, child_size: int, bounds: Bounds, least_output: int) -> Reserve:
    """Return what so many closes at once need, each one raised from its commit's rate to the ceiling.

    ``child_size``: vB of a child with one coin; ``least_output``: satoshis that the child's own output must hold.
    """
    return Reserve(closes, lifting_fee(commit, child_size, bounds.ceiling) + least_output)


def spendable(values: Sequence[int], reserve: Reserve, chore: Chore) -> tuple[int, ...]:
    """Which of the confirmed coins of these values a chore may spend, by their index.

    A punishment and a close may spend any. The reserve keeps the smallest coins that suffice; while there are too few
    of them, all of these are kept, and a deposit gets none at all: the smaller ones are joined to one that suffices.
    """
    if chore in (Chore.PUNISH, Chore.CLOSE):
        return tuple(range(len(values)))
    if chore is Chore.DEPOSIT and missing(values, reserve):
        return ()
    sufficing = sorted((value, index) for index, value in enumerate(values) if value >= reserve.each)
    kept = {index for _, index in sufficing[: reserve.coins]}
    return tuple(index for index in range(len(values)) if index not in kept)


def missing(values: Sequence[int], reserve: Reserve) -> int:
    """How many coins the reserve lacks: to be made from what is left over, before anything is deposited."""
    return max(reserve.coins - sum(value >= reserve.each for value in values), 0)


def beginnings(deadlines: Sequence[int], coins: int, span: int) -> tuple[int, ...]:
    """The height at which each close begins at the latest, so that at most ``coins`` are under way at a time.

    Each takes ``span`` blocks, and is done by its deadline. Raises ValueError without a coin or a span.
    """
    if coins < 1 or span < 1:
        raise ValueError(f"closes need coins and blocks, not {coins} and {span}")
    begins = [0] * len(deadlines)
    latest_first = sorted(range(len(deadlines)), key=lambda index: -deadlines[index])
    for place, index in enumerate(latest_first):
        free = begins[latest_first[place - coins]] if place >= coins else deadlines[index]
        begins[index] = min(deadlines[index], free) - span
    return tuple(begins)

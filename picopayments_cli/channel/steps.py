"""One thing that a party does now: what it publishes, which of the wallet's coins pay for it, and how it is signed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from picopayments_cli.channel.coins import Purse, offers, pay
from picopayments_cli.channel.drafts import MAX_CHILD, MAX_SIZE, SHARED, Draft
from picopayments_cli.channel.facts import feefrac_of
from picopayments_cli.channel.fees import NOTHING, Bid, FeeFrac, Shape, child_bid, own_bid
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.rates import Aim, Bounds, Rate, Urgency, aim
from picopayments_cli.channel.reserve import Chore, Reserve, spendable, turn
from picopayments_cli.channel.signing import finish_alone, finish_both, finish_wallet, sign_leaf
from picopayments_cli.channel.transactions import child_shape
from picopayments_cli.channel.values import Coin, Secret

NO_RESERVE = Reserve(0, 0)


class Name(Enum):
    """The name of a step, as the user is told."""

    DEPOSIT = "deposit"
    COMMIT = "commit"
    CLOSE = "close"
    PAYOUT = "payout"
    REMAINDER = "remainder"
    REST = "rest"
    REVOKE = "revoke"
    EXPIRE = "expire"
    COIN = "coin"  # for an asset that lies on an address without one


class Wait(Enum):
    """Why a step is not taken now."""

    COINS = "coins"  # the wallet has no confirmed ones that pay for it
    MEMO = "require-memo"  # the own address refuses what would be sent to it
    UNKNOWN = "unknown spender"  # nothing to be done, but to tell the user


@dataclass(frozen=True)
class Means:
    """The means of a party to pay: the wallet (all coins that may be spent, the reserve's too), the believed rate."""

    purse: Purse
    rate: Rate
    bounds: Bounds
    reserve: Reserve = NO_RESERVE

    def aimed(self, urgency: Urgency) -> Aim:
        """Return what is paid now for what is that urgent."""
        return aim(self.rate, self.bounds, urgency)

    def purse_for(self, chore: Chore, rate: int) -> Purse:
        """The coins that a chore may spend, valued at a rate."""
        coins = tuple(coin for coin in self.purse.coins if coin.height is not None)
        allowed = spendable([coin.value for coin in coins], self.reserve, chore)
        return Purse(self.purse.script, tuple(coins[index] for index in allowed), rate)

    def without(self, step: Step) -> Means:
        """Return what is left once a step has taken its coins, with the rest of a coin of the reserve that it used."""
        purse = self.purse
        for draft in (step.draft, step.child):
            purse = purse if draft is None else purse.without(draft)
        used = len(self.purse.coins) - len(purse.coins)
        kept = self.reserve.coins - used if step.chore in (Chore.PUNISH, Chore.CLOSE) else self.reserve.coins
        return replace(self, purse=purse, reserve=replace(self.reserve, coins=max(kept, 0)))


@dataclass(frozen=True)
class Step:
    """A transaction to publish now, or why it waits. ``label``: the channel's, as the caller named it.

    ``draft`` None where its transaction is in the mempool already, or ``raw`` is it, finished. ``child`` raises it: it
    goes in one package with it where that can be submitted, else right behind it. ``half``: the other side's signature
    of the first input. ``short``: the coins do not reach what is aimed at.
    """

    label: str
    name: Name
    chore: Chore
    left: int | None = None
    draft: Draft | None = None
    child: Draft | None = None
    half: bytes = field(default=b"", repr=False)
    secret: Secret | None = field(default=None, repr=False)
    raw: bytes | None = field(default=None, repr=False)
    waits: Wait | None = None
    short: bool = False

    @property
    def idle(self) -> bool:
        """Whether there is nothing to publish and nothing to tell."""
        return self.draft is None and self.child is None and self.raw is None and self.waits is None

    def finish(self, key: Key, wallet: Key, *, payer: bool) -> tuple[bytes, ...]:
        """The transactions to publish, in their order; ``key``: the channel's, of the side that ``payer`` names."""
        found = () if self.raw is None else (self.raw,)
        if self.draft is not None:
            found = (*found, self._finish(self.draft, key, wallet, payer))
        return found if self.child is None else (*found, finish_wallet(self.child, wallet))

    def _finish(self, draft: Draft, key: Key, wallet: Key, payer: bool) -> bytes:
        if draft.inputs[0].leaf is None:
            return finish_wallet(draft, wallet)
        if not self.half:
            return finish_alone(draft, key, wallet, self.secret)
        own = sign_leaf(draft, key)
        return finish_both(draft, *((own, self.half) if payer else (self.half, own)))


@dataclass(frozen=True)
class Task:
    """A step before it has its coins: ``make`` takes them from what is left."""

    chore: Chore
    left: int | None
    make: Callable[[Means], Step]


def plan(tasks: Sequence[Task], means: Means) -> tuple[Step, ...]:
    """The steps of all channels of a wallet, the most urgent first, each coin used once; idle ones are left out.

    Steps that only tell the user something are among them.
    """
    steps = []
    for task in sorted(tasks, key=lambda task: turn(task.chore, task.left)):
        step = task.make(means)
        if not step.idle:
            steps.append(step)
            means = means.without(step)
    return tuple(steps)


# Coins --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Around:
    """The surroundings of a transaction in the mempool.

    ``there``: it itself, ``child``: what spends it, ``parent``: the unconfirmed one that it spends, ``rivals``: chunks
    of others that it must take the place of, ``last``: the highest fee of one's own that are gone. ``freed``: the coins
    of one's own transaction that is replaced.
    """

    there: FeeFrac | None = None
    child: FeeFrac | None = None
    parent: FeeFrac = NOTHING
    rivals: tuple[FeeFrac, ...] = ()
    last: int = 0
    freed: tuple[Coin, ...] = ()

    def purse(self, means: Means, chore: Chore, rate: int) -> Purse:
        """The coins that may pay: those of the chore, and what its replacement frees."""
        purse = means.purse_for(chore, rate)
        freed = tuple(coin for coin in self.freed if coin not in purse.coins)
        return replace(purse, coins=(*purse.coins, *freed))


def raised(step: Step, parent: Draft, index: int, means: Means, urgency: Urgency, around: Around) -> Step:
    """The step with a child of output ``index`` of a parent, where that pays less than is aimed at."""
    aimed = means.aimed(urgency)
    feefrac = around.there or feefrac_of(parent)
    purse = around.purse(means, step.chore, aimed.rate)
    shape = child_shape(parent, index, purse.script)
    ways, shapes = _shapes(shape, purse, MAX_CHILD)
    bid = child_bid(shapes, aimed, feefrac, around.child, around.rivals, around.last)
    if bid is None:
        behind = around.child or NOTHING
        return replace(step, short=bool(around.rivals) or (feefrac + behind).rate < aimed.rate)
    made = _made(shape, ways, shapes, bid)
    return replace(step, child=made, short=(feefrac + feefrac_of(made)).rate < aimed.rate)


def alone(step: Step, shape: Draft, means: Means, urgency: Urgency, around: Around) -> Step:
    """The step with a transaction that one signs alone, or nothing where that in the mempool pays enough."""
    aimed = means.aimed(urgency)
    purse = around.purse(means, step.chore, aimed.rate)
    ways, shapes = _shapes(shape, purse, MAX_CHILD if shape.version == SHARED else MAX_SIZE)
    bid = own_bid(shapes, aimed, around.there, around.rivals, around.parent, around.last)
    if bid is not None:
        made = _made(shape, ways, shapes, bid)
        return replace(step, draft=made, short=(around.parent + feefrac_of(made)).rate < aimed.rate)
    return step if around.there is not None else replace(step, waits=Wait.COINS, short=True)


def _shapes(shape: Draft, purse: Purse, most: int) -> tuple[tuple[tuple[Coin, ...], ...], list[Shape]]:
    ways = tuple(coins for coins in offers(shape, purse, most) if shape.plus(coins).fee > 0)
    return ways, [Shape(paid.size, paid.fee) for paid in map(shape.plus, ways)]


def _made(shape: Draft, ways: Sequence[tuple[Coin, ...]], shapes: list[Shape], bid: Bid) -> Draft:
    return pay(shape, ways[shapes.index(bid.shape)], bid.fee)

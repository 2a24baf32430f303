"""How many satoshis a transaction pays to get into the mempool, past what stands there, and into a block.

One's own transactions are replaced, commit, close, payout, remainder and rest are raised by a child. Bitcoin Core's
rules for what takes the place of others (BIP 431 evicts a sibling by the same ones): it pays more than all of them
together by the incremental relay rate for its own size, and a higher rate than each.
``rates`` decides how high it aims.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from picopayments_cli.channel.rates import Aim, Bounds, Rate, may_open

INCREMENT = 1  # sat/vB that a replacement adds; newer nodes ask for a tenth of it
PATIENCE = 3  # blocks for which the payer leaves it to the payee to raise a close
FETCH_BLOCKS = 144  # in which clients can come for what the hub owes them, once it ends their connections by itself


@dataclass(frozen=True)
class FeeFrac:
    """The fee in satoshis and the size in vB of what is in the mempool, or will be with what is published."""

    fee: int
    size: int

    def __add__(self, other: FeeFrac) -> FeeFrac:
        return FeeFrac(self.fee + other.fee, self.size + other.size)

    @property
    def rate(self) -> Fraction:
        """Its satoshis per vB, 0 for nothing."""
        return Fraction(self.fee, self.size) if self.size else Fraction(0)


NOTHING = FeeFrac(0, 0)


@dataclass(frozen=True)
class Shape:
    """A way to make a transaction: its size with the coins that it takes, and the most that they can pay as a fee.

    ``funds`` counts all its inputs, the channel's own output too, less what its outputs must hold at least.
    """

    size: int
    funds: int


@dataclass(frozen=True)
class Bid:
    """A transaction to be published: this shape, with this fee."""

    shape: Shape
    fee: int


def chunks(parent: FeeFrac, child: FeeFrac | None) -> tuple[FeeFrac, ...]:
    """Split a parent and its child by what a miner takes at a time: both where the child pays the higher rate."""
    if child is None:
        return (parent,)
    return (parent + child,) if child.rate > parent.rate else (parent, child)


def replacing_fee(size: int, replaced: Sequence[FeeFrac]) -> int:
    """The least fee at which so many vB take the place of these, 0 where there is nothing."""
    if not replaced:
        return 0
    higher = max(other.fee * size // other.size for other in replaced) + 1
    return max(sum(other.fee for other in replaced) + INCREMENT * size, higher)


def lifting_fee(parent: FeeFrac, size: int, rate: int) -> int:
    """The least fee of so many vB at which the parent and they pay the rate together."""
    return max(rate * (parent.size + size) - parent.fee, 0)


def child_bid(
    shapes: Sequence[Shape],
    aimed: Aim,
    parent: FeeFrac,
    child: FeeFrac | None = None,
    rivals: Sequence[FeeFrac] = (),
    last: int = 0,
) -> Bid | None:
    """The child that raises a parent, or None where nothing is to be sent.

    ``child``: the one that is there now, whoever made it: as long as the parent pays enough with it, it stays.
    ``rivals``: chunks of what spends the parent's own inputs; parent and child take its place together.
    ``last``: the highest fee of one's own children that were evicted; the next one pays more.
    """
    there = () if child is None else (child,)
    if not rivals and (parent + (child or NOTHING)).rate >= aimed.rate:
        return None

    def least(size: int) -> int:
        together = replacing_fee(parent.size + size, rivals) - parent.fee
        lifts = parent.fee * size // parent.size + 1  # a child at less than its parent's rate changes nothing
        return max(replacing_fee(size, there), together, lifts)

    def lifting(size: int, rate: int) -> int:
        return lifting_fee(parent, size, rate)

    return _bid(shapes, aimed, parent, least, lifting, last)


def own_bid(
    shapes: Sequence[Shape],
    aimed: Aim,
    mine: FeeFrac | None = None,
    rivals: Sequence[FeeFrac] = (),
    parent: FeeFrac = NOTHING,
    last: int = 0,
) -> Bid | None:
    """A transaction that one signs alone (revoke, expire, deposit), or None where nothing is to be sent.

    ``mine``: the one that is there now, which stays as long as it pays enough. ``rivals``: chunks of others that it
    must take the place of whatever they pay, a cheat's payout, or another child of its unconfirmed ``parent``.
    """
    if mine is not None and min(mine.rate, (parent + mine).rate) >= aimed.rate:
        return None
    there = (*rivals, *(() if mine is None else (mine,)))

    def least(size: int) -> int:
        return max(replacing_fee(size, there), 1)

    def lifting(size: int, rate: int) -> int:
        return max(rate * size, lifting_fee(parent, size, rate))

    return _bid(shapes, aimed, parent, least, lifting, last)


def _bid(
    shapes: Sequence[Shape],
    aimed: Aim,
    parent: FeeFrac,
    least: Callable[[int], int],
    lifting: Callable[[int, int], int],
    last: int,
) -> Bid | None:
    """The cheapest shape that pays what is aimed at, else the best rate that there is; never less than the least."""
    reaching: list[Bid] = []
    others: list[Bid] = []
    for shape in shapes:
        size, lowest, most = shape.size, least(shape.size), lifting(shape.size, aimed.most)
        again = min(last + INCREMENT * size, most) if last else 0
        wanted = max(lifting(size, aimed.rate), lowest, again)
        bid = Bid(shape, min(wanted, shape.funds))
        if lowest <= bid.fee <= most:
            (reaching if bid.fee == wanted else others).append(bid)
    if reaching:
        return min(reaching, key=lambda bid: (bid.fee, bid.shape.size))
    return max(others, key=lambda bid: (parent + FeeFrac(bid.fee, bid.shape.size)).rate, default=None)


def deposit_bid(
    shapes: Sequence[Shape], rate: Rate, bounds: Bounds, *, sent: FeeFrac | None, there: bool, depended: bool
) -> Bid | None:
    """The deposit at the rate of the day, or None where what was sent stays or nothing may be opened.

    ``sent``: the one made before, ``there`` in the mempool or refused for its fee; it is made anew, with another txid
    and never unchanged, as long as nobody depends on that (``depended``: then only a child of its change helps). The
    shapes share a coin with it, or both could be mined.
    """
    if not may_open(rate, bounds) or (sent is not None and depended):
        return None
    aimed = Aim(bounds.within(rate.value), bounds.ceiling)
    if sent is not None and there:
        return own_bid(shapes, aimed, mine=sent)
    made = own_bid(shapes, aimed, last=0 if sent is None else sent.fee)
    return None if made is not None and sent is not None and made.fee <= sent.fee else made


def may_raise(*, payer: bool, waited: int) -> bool:
    """Whether it is one's turn to raise a close that has been in the mempool for so many blocks.

    The payee may at once. Two honest parties that both did would evict each other's child up to the ceiling.
    """
    return not payer or waited >= PATIENCE


def may_take(
    commit: FeeFrac, shape: Shape, rate: Rate, bounds: Bounds, *, left: int, span: int, packages: bool
) -> bool:
    """Whether another payment may be taken: its commit could be raised now, and all blocks for raising are left.

    ``shape``: a child of the commit from a coin of the reserve. ``left``: blocks to the expiry; ``span``: how many of
    them the close may need. A commit that pays little is no reason to refuse, if the reserve lifts it to the believed
    rate within the ceiling. Who can't submit packages needs a commit that gets into the mempool by itself, and a full
    one takes nothing below the estimate.
    """
    if left <= span or rate.value > bounds.ceiling:
        return False
    if not packages and commit.rate < rate.value:
        return False
    return lifting_fee(commit, shape.size, bounds.within(rate.value)) <= shape.funds

"""Which of the wallet's coins pay for a transaction: one rule for everything that spends them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from picopayments_cli.channel.drafts import MAX_SIZE, Draft, Input
from picopayments_cli.channel.scripts import is_wallet
from picopayments_cli.channel.values import Coin, Outpoint
from picopayments_cli.errors import InsufficientBitcoin


@dataclass(frozen=True)
class Purse:
    """A wallet: the script that it is paid at, the coins that may be spent, and the fee rate in sat/vB.

    Coins with assets attached, and those reserved for what can't wait, are not among them: the caller leaves them out.
    """

    script: bytes
    coins: tuple[Coin, ...]
    rate: int

    def without(self, draft: Draft) -> Purse:
        """The purse once a draft has taken its coins."""
        spent = {taken.coin.outpoint for taken in draft.inputs}
        return replace(self, coins=tuple(coin for coin in self.coins if coin.outpoint not in spent))

    def worth(self, coin: Coin) -> int:
        """Four times the satoshis that a coin adds to a transaction beyond the fee for itself."""
        return 4 * coin.value - self.rate * Input(coin).weight


def fund(draft: Draft, purse: Purse, left: int) -> Draft:
    """The draft with as few coins as pay for it behind its inputs; output number ``left`` takes what is left over.

    That output's value in the draft is its least. The fee is the purse's rate times the size, which is one that is
    relayed. The smallest coin that suffices alone is taken, or else the largest. Only confirmed ones of a wallet's kind
    that are worth more than they cost are looked at. Raises InsufficientBitcoin.
    """

    def over(coins: Sequence[Coin]) -> int:
        tried = draft.plus(coins)
        return tried.fee - purse.rate * tried.size

    ordered = _usable(purse, draft, MAX_SIZE)
    count = bisect_left(range(len(ordered) + 1), 0, key=lambda number: over(ordered[:number]))
    if count > len(ordered):
        raise _insufficient(draft, purse, ordered)
    chosen = ordered[:count]
    if count == 1:
        chosen = [next(coin for coin in reversed(ordered) if over([coin]) >= 0)]
    outputs = list(draft.outputs)
    outputs[left] = replace(outputs[left], value=outputs[left].value + over(chosen))
    return replace(draft.plus(chosen), outputs=tuple(outputs))


def offers(draft: Draft, purse: Purse, most: int = MAX_SIZE) -> tuple[tuple[Coin, ...], ...]:
    """The ways to pay for a draft: with no coin, with each single one, the smallest first, with the largest together.

    A single coin keeps the others for what else can't wait; more than one are taken where one is not enough. At the
    purse's rate each is worth more than it costs; with them the draft is at most ``most`` vB.
    """
    fitting = _usable(purse, draft, most)
    singles = tuple((coin,) for coin in reversed(_worthy(purse))) if fitting else ()
    return ((), *singles, *(tuple(fitting[:count]) for count in range(2, len(fitting) + 1)))


def pay(draft: Draft, coins: Sequence[Coin], fee: int, left: int = 0) -> Draft:
    """The draft with these coins behind its inputs and exactly that fee; output number ``left`` takes what is over.

    That output's value in the draft is its least. Raises ValueError where they don't pay for it.
    """
    paid = draft.plus(coins)
    if paid.fee < fee:
        raise ValueError(f"the coins pay {paid.fee} satoshis at most, not {fee}")
    outputs = list(paid.outputs)
    outputs[left] = replace(outputs[left], value=outputs[left].value + paid.fee - fee)
    return replace(paid, outputs=tuple(outputs))


def _worthy(purse: Purse) -> list[Coin]:
    """The confirmed coins of a wallet's kind that are worth more than they cost, the most worth first."""
    coins = [coin for coin in purse.coins if coin.height is not None and is_wallet(coin.script)]
    worthy = [coin for coin in coins if purse.worth(coin) > 0]
    return sorted(worthy, key=lambda coin: (-purse.worth(coin), coin.outpoint))


def _usable(purse: Purse, draft: Draft, most: int) -> list[Coin]:
    """The coins that can pay, the most worth first, as many as fit."""
    ordered = _worthy(purse)
    fitting = bisect_right(range(len(ordered) + 1), most, key=lambda number: draft.plus(ordered[:number]).size)
    return ordered[: max(fitting - 1, 0)]


def _insufficient(draft: Draft, purse: Purse, coins: Sequence[Coin]) -> InsufficientBitcoin:
    available = draft.plus(coins).fee + sum(out.value for out in draft.outputs)
    at_least_one = coins or [Coin(Outpoint(bytes(32), 0), 0, purse.script, None)]
    fee = purse.rate * draft.plus(at_least_one).size
    needed = fee + sum(out.value for out in draft.outputs)
    return InsufficientBitcoin(
        f"The coins that may pay for this transaction hold {available} satoshis; it needs {needed} at {purse.rate} "
        "sat/vB. Send bitcoin to the wallet's address, or wait for its coins to confirm.",
        needed=needed,
        available=available,
    )

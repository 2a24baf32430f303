"""The terms of a connection: what the hub offers for an asset, signed, and fixed for the connection's whole life."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from picopayments_cli.channel.networks import Network
from picopayments_cli.channel.rates import MAX_AGREED
from picopayments_cli.errors import BadTerms, DepositRefused, InvalidTime

MAX_RATIO = 1_000_000
BILLION = 10**9  # parts in which the price of a block is told
TIP_SLACK = 6  # blocks by which two honest tips may differ


@dataclass(frozen=True)
class Terms:
    """Quantities in the asset's smallest unit, times in blocks, rates of commits in sat/vB; a max of 0: none.

    ``deposit_ratio``: what the hub deposits for each unit that the client deposits. ``fee_rate``: of the commits to the
    hub; ``fee_rate_max``: the most that the client may name for those to it. ``lock_base``, ``lock_rate``: what it
    costs to lock the hub's deposit, at all, and in billionths of it for each block. Raises BadTerms where no honest hub
    offers them.
    """

    deposit_max: int
    deposit_min: int
    deposit_ratio: float
    expire_max: int
    expire_min: int
    sync_fee: int
    fee_rate: int
    fee_rate_max: int
    lock_base: int = 0
    lock_rate: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.fee_rate <= MAX_AGREED or not 1 <= self.fee_rate_max <= MAX_AGREED or self.sync_fee < 1:
            raise BadTerms(
                f"The hub's terms ask {self.sync_fee} for a sync, {self.fee_rate} sat/vB for commits to it, and at "
                f"most {self.fee_rate_max} for those from it: the first must be at least 1, the others from 1 to "
                f"{MAX_AGREED}.",
                sync_fee=self.sync_fee,
                fee_rate=self.fee_rate,
                fee_rate_max=self.fee_rate_max,
            )

    def matching_deposit(self, quantity: int) -> int:
        """Return what the hub deposits for a client's deposit, rounded down."""
        return int(Fraction(repr(self.deposit_ratio)) * quantity)

    def lock_fee(self, deposit: int, time: int) -> int:
        """Return what it costs to lock so much of the hub's for so many blocks, rounded up."""
        return self.lock_base - (-deposit * self.lock_rate * max(time, 0) // BILLION)

    def check_deposit(self, quantity: int) -> None:
        """Refuse a deposit outside the terms. Raises DepositRefused."""
        if quantity < self.deposit_min or (self.deposit_max and quantity > self.deposit_max):
            raise DepositRefused(
                f"The hub takes deposits from {self.deposit_min} to {self.deposit_max or 'any quantity'}, "
                f"not {quantity}.",
                quantity=quantity,
                deposit_min=self.deposit_min,
                deposit_max=self.deposit_max,
            )

    def check_rate(self, rate: int) -> None:
        """Refuse a commits' rate that the client must not name. Raises DepositRefused."""
        if not 1 <= rate <= self.fee_rate_max:
            raise DepositRefused(
                f"The hub signs commits at 1 to {self.fee_rate_max} sat/vB, not at {rate}.",
                fee_rate=rate,
                fee_rate_max=self.fee_rate_max,
            )

    def check_expire(self, expire: int, network: Network, slack: int = 0) -> None:
        """Refuse an expiry that many blocks away, outside the terms or the network's limits. Raises InvalidTime."""
        least = max(self.expire_min, network.expire_min)
        most = min(self.expire_max or network.expire_max, network.expire_max)
        if not least - slack <= expire <= most + slack:
            raise InvalidTime(
                f"The expire time must be from {least} to {most} blocks, not {expire}.",
                expire_time=expire,
                expire_min=least,
                expire_max=most,
            )

    def check_height(self, height: int, tip: int, network: Network) -> None:
        """Refuse an expiry that the peer named, by one's own tip, from which its own may differ. Raises InvalidTime."""
        self.check_expire(height - tip, network, TIP_SLACK)

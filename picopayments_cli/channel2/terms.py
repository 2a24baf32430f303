"""The terms of a connection: what the hub offers for an asset, signed, and fixed for the connection's whole life."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from picopayments_cli.channel.networks import Network
from picopayments_cli.channel.values import MAX_QUANTITY
from picopayments_cli.channel2.transactions import MAX_COMMIT_RATE
from picopayments_cli.errors import BadTerms, DepositRefused, InvalidTime

MAX_DELAY = 2016  # blocks
_MEMBERS = ("deposit_max", "deposit_min", "expire_max", "expire_min", "sync_fee", "fee_rate")


@dataclass(frozen=True)
class Terms:
    """Quantities in the asset's smallest unit, times in blocks, ``fee_rate`` of commits in sat/vB; a max of 0: none.

    ``deposit_ratio``: what the hub deposits for each unit that the client deposits.
    """

    deposit_max: int
    deposit_min: int
    deposit_ratio: float
    expire_max: int
    expire_min: int
    sync_fee: int
    fee_rate: int

    @staticmethod
    def parse(body: Any) -> Terms:
        """Read the terms in a hub's reply. Raises BadTerms where no honest hub offers them."""
        if not isinstance(body, Mapping):
            raise BadTerms("The hub's terms are not an object.")
        numbers: dict[str, Any] = {name: body.get(name) for name in _MEMBERS}
        ratio = body.get("deposit_ratio")
        for name, value in numbers.items():
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_QUANTITY:
                raise BadTerms(f"The hub's terms have no usable {name}.", member=name, value=value)
        if not isinstance(ratio, (int, float)) or isinstance(ratio, bool) or not 0 <= ratio <= 1_000_000:
            raise BadTerms("The hub's terms have no usable deposit_ratio.", member="deposit_ratio", value=ratio)
        terms = Terms(deposit_ratio=float(ratio), **numbers)
        if not 1 <= terms.fee_rate <= MAX_COMMIT_RATE or terms.sync_fee < 1:
            raise BadTerms(
                f"The hub's terms ask {terms.sync_fee} for a sync and {terms.fee_rate} sat/vB for commits: the one "
                f"must be at least 1, the other from 1 to {MAX_COMMIT_RATE}.",
                sync_fee=terms.sync_fee,
                fee_rate=terms.fee_rate,
            )
        return terms

    def as_json(self) -> dict[str, Any]:
        """Return the terms as they stand in a reply."""
        return {
            "deposit_max": self.deposit_max,
            "deposit_min": self.deposit_min,
            "deposit_ratio": self.deposit_ratio,
            "expire_max": self.expire_max,
            "expire_min": self.expire_min,
            "sync_fee": self.sync_fee,
            "fee_rate": self.fee_rate,
        }

    def matching_deposit(self, quantity: int) -> int:
        """Return what the hub deposits for a client's deposit, rounded down."""
        return int(Fraction(repr(self.deposit_ratio)) * quantity)

    def check_deposit(self, quantity: int, expire: int, network: Network) -> None:
        """Refuse a deposit outside the terms or the network's limits. Raises DepositRefused, InvalidTime."""
        if quantity < self.deposit_min or (self.deposit_max and quantity > self.deposit_max):
            raise DepositRefused(
                f"The hub takes deposits from {self.deposit_min} to {self.deposit_max or 'any quantity'}, "
                f"not {quantity}.",
                quantity=quantity,
                deposit_min=self.deposit_min,
                deposit_max=self.deposit_max,
            )
        least = max(self.expire_min, network.expire_min)
        most = min(self.expire_max or network.expire_max, network.expire_max)
        if not least <= expire <= most:
            raise InvalidTime(
                f"The expire time must be from {least} to {most} blocks, not {expire}.",
                expire_time=expire,
                expire_min=least,
                expire_max=most,
            )


def check_delay(delay: int) -> None:
    """Refuse a delay that no commit may have: 0, or so long that the payee waits for ever. Raises InvalidTime."""
    if not 1 <= delay <= MAX_DELAY:
        raise InvalidTime(
            f"The delay time must be from 1 to {MAX_DELAY} blocks, not {delay}.", delay_time=delay, delay_max=MAX_DELAY
        )

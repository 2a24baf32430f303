"""Quantities as people write them: whole satoshis, or an exact decimal number with its unit, such as ``1.5XCP``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from picopayments_cli.channel.values import Quantity, check_quantity
from picopayments_cli.errors import InvalidQuantity

DECIMALS = 8  # of a divisible asset, and of bitcoin
_CHILD = r"\.[A-Za-z0-9.\-_@!]+"
_ANY_CASE = rf"[A-Za-z]{{3,12}}{_CHILD}"  # which the ledger refuses by the name that it has
_NAME = rf"(?:BTC|XCP|A[0-9]{{17,20}}|[B-Z][A-Z]{{3,11}})(?:{_CHILD})?|{_ANY_CASE}"
_WRITTEN = re.compile(rf"([0-9]{{1,30}})(?:\.([0-9]{{1,30}}))?({_NAME})?")


_SET_APART = re.compile(r"[0-9]{1,3}(?:,[0-9]{3}){1,9}")  # satoshis as --human prints them; never with a unit, as
# "1,500XCP" is 1500 to one reader and 1.5 to another
# Members of answers that are satoshis, and objects whose every member is.
QUANTITIES = frozenset(
    (
        *("after", "amount", "at_risk", "balance", "before", "deposit", "deposit_max", "deposit_min", "fee", "fees"),
        *("hub_deposit", "lock_base", "lock_due", "lock_fee", "owed", "paid", "quantity", "received", "sent", "sum"),
        *("sync_fee", "sync_fees"),
        *("transaction_fees", "value"),
    )
)
BY_ASSET = frozenset(("balances", "total", "returns", "agreed_returns", "alone_returns"))


@dataclass(frozen=True)
class Written:
    """A number and the asset that is its unit; without one (``unit`` None) it counts satoshis, and is whole."""

    whole: str
    decimals: str
    unit: str | None

    def quantity(self, divisible: bool, what: str = "quantity") -> Quantity:
        """The satoshis, once it is known whether the unit has decimals. Raises InvalidQuantity."""
        places = DECIMALS if self.unit is not None and divisible else 0
        if len(self.decimals) > places:
            raise InvalidQuantity(
                f"The {what} {self} has {len(self.decimals)} decimals; {self.unit} has {places}.",
                what=what,
                value=str(self),
                decimals=places,
            )
        return check_quantity(int(self.whole + self.decimals.ljust(places, "0")), what)

    def __str__(self) -> str:
        return self.whole + (f".{self.decimals}" if self.decimals else "") + (self.unit or "")


def read_quantity(text: str, what: str = "quantity") -> Written:
    """A quantity from its text. Raises InvalidQuantity where it is none."""
    found = _WRITTEN.fullmatch(text.replace(",", "") if _SET_APART.fullmatch(text) else text)
    if found is None or (found[2] and not found[3]):
        raise InvalidQuantity(
            f"The {what} must be a whole number of satoshis, or a number with its unit such as 1.5XCP, not {text!r}.",
            what=what,
            value=text,
        )
    return Written(found[1], found[2] or "", found[3])

"""The budget that a part of the fault harness is given, and the result that it hands back."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

COLUMNS = ("part", "trials", "refused", "recovered", "in flight", "funds lost")


@dataclass
class Result:
    """The numbers of one part; money in satoshis of the asset.

    ``recovered``: trials in which something was cut off, or went through, after which all was as it should be.
    ``pairs``: distinct member and kind of change, with the rule that refused it, or why it is harmless.
    ``failures``: whatever else is not as it should be; the run fails with it.
    """

    name: str
    trials: int = 0
    refused: int = 0
    recovered: int = 0
    in_flight: int = 0
    lost: int = 0
    pairs: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def hold(self, holds: object, what: str) -> None:
        """Enter a failure unless something holds."""
        if not holds:
            self.failures.append(what)

    def keep(self, guaranteed: int, has: int, what: str) -> None:
        """Compare what a party has with what it had to have."""
        if has < guaranteed:
            self.lost += guaranteed - has
            self.failures.append(f"{what}: {has} where {guaranteed} were guaranteed")

    @property
    def passed(self) -> bool:
        """Whether nobody lost anything, and nothing else failed."""
        return not self.lost and not self.failures

    def row(self) -> tuple[str, ...]:
        """Its line of the table."""
        return (self.name, *map(str, (self.trials, self.refused, self.recovered, self.in_flight, self.lost)))

    def rules(self) -> Counter[str]:
        """How many pairs each rule refused."""
        return Counter(self.pairs.values())


@dataclass
class Budget:
    """How much a part does: what it must, all (``quick``: a part of it), and more until ``seconds`` have passed."""

    folder: Path
    quick: bool = False
    seconds: float = 0.0
    begun: float = field(default_factory=time.monotonic)

    def share(self, number: int, quick: int) -> int:
        """The number that must be done."""
        return quick if self.quick else number

    def goes_on(self, done: int, least: int) -> bool:
        """Whether to do more than was done."""
        return done < least or time.monotonic() - self.begun < self.seconds

"""Plans kills: where processes have been, where they have died, and where the next one is to die."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from faults.tracing import AFTER, BEFORE, LINE, OPCODE, ROOT, Function, Record, Side, Target, opcodes_of

TRIES, DOOR_TRIES = 4, 1000  # at a function, and at a side of a door, which many steps only seem to pass
MAIN_DOORS = frozenset(
    ("client save sync prepared", "client call mph_sync", "hub transaction sync", "hub reply mph_sync")
)


class KillPoint(NamedTuple):
    """Who may be killed, and at what step of a life."""

    victim: str
    step: str


@dataclass
class KillPlanner:
    """Says where the next process dies: first where none has died yet."""

    rng: random.Random
    told: Path  # a file for who dies at one of several doors
    thorough: bool = False  # whether every door counts as a main one: what comes seldom is left
    records: dict[KillPoint, Record] = field(default_factory=dict)
    functions: Counter[Function] = field(default_factory=Counter)  # deaths in each
    sides: Counter[Side] = field(default_factory=Counter)  # deaths at each side of each door
    tried: Counter[Function | Side] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)  # by victim

    def note(self, where: KillPoint, record: Record) -> None:
        """Take in where a process has been at a step."""
        known = self.records.setdefault(where, Record({}, set()))
        known.doors |= record.doors
        for function, lines in record.lines.items():
            known.lines.setdefault(function, set()).update(lines)

    def draw(self, where: KillPoint) -> Target | None:
        """Where the victim is to die at a step; None where it does nothing there."""
        record = self.records.get(where)
        if record is None or not any(record.lines.values()):
            return None
        target = self.draw_door(record.doors) if self.is_urgent(where) or self.rng.random() < 0.7 else None
        if target is not None:
            return target
        every = sorted((function for function, lines in record.lines.items() if lines), key=str)
        fresh = [item for item in every if not self.functions[item] and self.tried[item] < TRIES]
        function = self.rng.choice(fresh or every)
        self.tried[function] += 1
        line = self.rng.choice(sorted(record.lines[function]))
        inside = opcodes_of(function, line) if self.rng.random() < 0.5 else []
        place = (OPCODE, self.rng.choice(inside)) if inside else (LINE, line)
        return Target(function, place, nth=1 if function in fresh else self.rng.choice((1, 1, 2, 5)))

    def is_urgent(self, where: KillPoint) -> bool:
        """Whether a step passes a main door beside which nobody has died yet; where it is thorough, any door."""
        record = self.records.get(where)
        if record is None:
            return False
        return bool(self.open_sides(record.doors if self.thorough else record.doors & MAIN_DOORS))

    def draw_door(self, doors: Iterable[str]) -> Target | None:
        """A side of one of these doors at which nobody has died yet; the main ones first, then the least tried.

        Where it is thorough, all of them: who passes several doors dies at the first.
        """
        new = self.open_sides(doors)
        if not new:
            return None
        if self.thorough:
            self.tried.update(new)
            return Target(sides=tuple(new), told=str(self.told))
        first = min((door not in MAIN_DOORS, self.tried[door, side]) for door, side in new)
        door, side = self.rng.choice([item for item in new if (item[0] not in MAIN_DOORS, self.tried[item]) == first])
        self.tried[door, side] += 1
        return Target(door=door, side=side)

    def open_sides(self, doors: Iterable[str]) -> list[Side]:
        """The sides of these doors at which nobody has died yet, and that were not tried too often."""
        sides = sorted((door, side) for door in doors for side in (BEFORE, AFTER))
        return [item for item in sides if not self.sides[item] and self.tried[item] < DOOR_TRIES]

    def died(self, victim: str, target: Target) -> None:
        """A process died there."""
        self.deaths[victim] += 1
        if target.function:
            self.functions[target.function] += 1
        else:
            self.sides[target.door, target.side] += 1

    @property
    def doors(self) -> set[str]:
        """Every door that was passed."""
        return {door for record in self.records.values() for door in record.doors} | {door for door, _ in +self.sides}

    @property
    def entered(self) -> set[Function]:
        """Every function that was recorded."""
        return {function for record in self.records.values() for function in record.lines}

    def left(self) -> list[Side]:
        """The sides of all doors passed at which nobody has died yet, and still may."""
        return self.open_sides(self.doors)


def doors_named() -> set[str]:
    """The list of labels in docs/security.rst."""
    text = (ROOT / "docs" / "security.rst").read_text()
    section = text.partition("\nDoors\n#####\n")[2].partition("\n####")[0]
    found = set()
    for item in re.split(r"^\* ", section, flags=re.MULTILINE)[1:]:
        kind, *labels = re.findall(r"``(.*?)``", item.partition("\n\n")[0], re.DOTALL)
        found |= {f"{kind} {' '.join(label.split())}" for label in labels}
    return found

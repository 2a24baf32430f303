"""Part: whole lives while the nodes are moody: away, late, silent for a while, started anew, reorganised.

A command fails as an outage and nothing else while a server is away, and once all are well everybody ends with exactly
what its history and its connection tell. A revoked commit that is published meanwhile is punished.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from faults.reorganisations import APART, FAR_APART, Lives, running
from faults.reorganised_network import DEEPEST, DELAY, REFUSALS, Member, ReorganisedTown
from faults.result import Budget, Result
from faults.town import heard
from picopayments_cli import api, errors
from picopayments_cli.client.session import Session
from picopayments_cli.errors import PicopaymentsError

MOODS: Mapping[str, Mapping[str, Any]] = {
    "no index": {"electrs": False},
    "no Bitcoin Core behind": {"backend": False, "electrs": False},
    "no Bitcoin Core": {"bitcoin": False},
    "nothing": {"electrs": False, "backend": False, "bitcoin": False},
    "ledger behind": {"behind": 2},
    "slow": {"hang": 0.02},
    "restart": {},
}
TOWNS = (("agreed", "cheat"), ("alone", "robbed"), ("through hub", "no packages", "margin"))
QUICK = ("cheat",)
LEAST, LONGEST, SHORT = 6, 4, 1  # towns; blocks that a mood lasts, and while deposits have half of their time left
BLIND = ("no index", "no Bitcoin Core behind", "ledger behind")  # to the hub's ledger, not to its Bitcoin Core
PATIENCE = 0.1  # seconds for a ledger that is late
UNREACHABLE = 3


def run(rng: random.Random, budget: Budget) -> Result:
    """Towns until each mood came over each kind of life; in a quick run one."""
    result = Result("moods")
    number = 0
    while budget.goes_on(number, budget.share(LEAST, 1)):
        with heard(), running(budget.folder / f"town{number}", result, rng, MoodyTown) as town:
            endings = QUICK if budget.quick else TOWNS[number % len(TOWNS)]
            MoodyLives(town, endings, set()).live()
        number += 1
    if not budget.quick:
        result.hold(len(result.pairs) >= len(MOODS), f"moods that never came: {set(MOODS) - set(result.pairs)}")
    return result


class MoodyTown(ReorganisedTown):
    """A town whose servers are away now and then; the hub's rounds then fail, or do what they can."""

    def _serve(self) -> None:
        super()._serve()
        self.desk.hub.chain._patience = PATIENCE

    def look(self) -> None:
        if self.missed < 2 and self.rng.random() < 0.15:
            self.missed += 1
            return
        self.missed = 0
        self.desk.rounds.round()

    @property
    def tip(self) -> int:
        """The height, by the one server that is always there."""
        return int(self.node.get("")["backend_height"])


class Patient(Member):
    """A client that does not wait long for a late ledger."""

    @contextmanager
    def session(self) -> Iterator[Session]:
        with super().session() as session:
            if self.own_chain:
                session.sight.chain._patience = PATIENCE  # type: ignore[attr-defined]
            yield session


class MoodyLives(Lives):
    """Lives under moods that come and go. ``mood``: its name, while it lasts."""

    kind = Patient
    mood: str | None = None
    left = 0

    def _look_around(self) -> None:
        self._change()
        super()._look_around()
        if self.mood is not None and self.rng.random() < 0.5:
            self._ask()

    def _change(self) -> None:
        """Begin a mood, or end it after some blocks: then a sync does all that is due."""
        longest = SHORT if self.phase == "opening" else LONGEST
        if self.mood is None and self.rng.random() < 0.35:
            self._begin(self.rng.choice(list(MOODS)), self.rng.randint(1, longest))
        elif self.mood is not None:
            self.left -= 1
            if self.left <= 0:
                self._end_mood()

    def _begin(self, mood: str, blocks: int) -> None:
        self.mood, self.left = mood, blocks
        self.result.trials += 1
        self.result.pairs[mood] = "came"
        if mood == "restart":
            self.town.restart()
        self.town.node.rpc("setmood", **MOODS[mood])

    def _end_mood(self) -> None:
        """Have all servers be well again; who must settle in time looks then, as nobody else could do it for them."""
        self.mood = None
        self.town.restless = self.phase == "ending"
        self.town.node.rpc("setmood")
        self.town.desk.rounds.once()
        self.result.recovered += 1
        if self.phase == "ending":
            for name, member in self.everybody.items():
                if self._has_reason(member):
                    self._sync(name, member)

    def _ask(self) -> None:
        """Have somebody ask for what it has: an outage is told as one, and changes nothing."""
        name, member = self.rng.choice(list(self.everybody.items()))
        command = self.rng.choice(("status", "balances"))
        guaranteed = member.now.duplex.guaranteed
        self._judge(name, command, self._error(member, command))
        self.result.keep(guaranteed, member.now.duplex.guaranteed, f"{name} after {command}")

    @staticmethod
    def _error(member: Member, command: str) -> str | None:
        try:
            with member.session() as session:
                getattr(api, command)(session)
        except PicopaymentsError as error:
            return error.name
        return None

    def _sync(self, name: str, member: Member) -> None:
        self._judge(name, "sync", member.error("sync"))

    def _judge(self, name: str, command: str, error: str | None) -> None:
        if error is None:
            return
        if self.mood is not None:
            self.result.in_flight += 1
        away = getattr(errors, error).exit_code == UNREACHABLE and (self.mood is not None or self._is_silent(name))
        self.result.hold(away or error in REFUSALS, f"{name} in {command}, mood {self.mood}: {error}")

    def _is_silent(self, name: str) -> bool:
        return self.everybody[name].silent

    def _respend(self) -> None:
        """Nobody takes a deposit back here."""

    def _depth(self) -> int:
        """Now and then some blocks are lost, while Bitcoin Core can be asked for them."""
        far = FAR_APART if self.rogue and self.phase == "ending" else APART
        if (
            self.mood is not None
            or self.phase == "opening"
            or self.town.tip - self.shaken < far
            or self.rng.random() < 0.8
        ):
            return 0
        return self.rng.randint(1, DEEPEST)

    def _pay(self) -> None:
        if self.mood is not None:
            self._end_mood()
        super()._pay()

    def _end(self) -> None:
        """Where a client cheats, the hub is without the Counterparty node for as long as it can be punished."""
        if "cheat" in self.rogue:
            if self.mood is not None:
                self._end_mood()
            self._begin(self.rng.choice(BLIND), DELAY + 2)
            self.town.restless = False  # else the cheat's payout might wait for a cheaper block
            self.town.node.rpc("feerate", rate=1)
        super()._end()

    def _check(self) -> None:
        if self.mood is not None:
            self._end_mood()
        super()._check()

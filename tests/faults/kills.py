"""Part: client and hub killed with SIGKILL anywhere: at lines and opcodes of every function, and beside every door."""

from __future__ import annotations

import random
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from network_support import ASSETS, DEPOSIT, Client, running_network

from faults.dying_hub import DyingHubTown, running_node_and_runner
from faults.kill_planner import MAIN_DOORS, KillPlanner, KillPoint, doors_named
from faults.lives import READS, ClientLife, LivesUnderFaults
from faults.result import Budget, Result
from faults.town import heard
from faults.tracing import AFTER, BEFORE, Record, Runner, Target

KILLS, QUICK_KILLS = 150, 10
TOGETHER = 12  # kills of a hub with its embedded node
MOST_CHAPTERS = 6
ONCE_MORE = 0.8  # the chance that a repair is disturbed that may pass a door beside which nobody has died yet
BEGINNINGS = 12  # of hubs, in each chapter at most
_BEFORE_LEAVING = re.compile(
    "(before client broadcast |after client save |before client save )"
    "(?P<what>commit|close|payout|remainder|rest|revoke|expire)(| leaves| did not leave)$"
)
GIVEN_UP = "client save given up"  # a door that is passed seldom
# Endings, and whether the client has a chain of its own; without its hub, one that has none sees nothing.
LIVES = (
    *(("normal-a", False), ("punished-a", True), ("silent-a", True)),
    *(("normal-b", True), ("punished-b", False), ("cheating-a", True)),
)


class LivesWithKills(LivesUnderFaults):
    """Lives during which the planner has clients and hubs killed; with ``record``, a file to use, only looks on."""

    reads = (*READS, ("serve", "--port", "0"))

    def __init__(
        self, town: DyingHubTown, runner: Runner, planner: KillPlanner, result: Result, record: Path | None
    ) -> None:
        super().__init__(town, runner, planner.rng, result)
        self.planner = planner
        self.record = record
        self._unfinished: dict[Path, Target] = {}  # where a client died last, by its folder
        self._last = KillPoint("client", "")
        self._look("first start")

    def perform(self, client: Client, step: str, words: list[str]) -> bool:
        """Do a command as a process; one of the two may be killed meanwhile."""
        step += " (own chain)" if client.basedir.name in self.town.own_chain else " (hub's chain)"
        self._last = KillPoint("client", step)
        return self.goes_well(client, step, lambda: self._disturbed(client, step, words))

    def _disturbed(self, client: Client, step: str, words: list[str]) -> int:
        if self.record:
            code = self.run(client, words, record=self.record)
            self.planner.note(KillPoint("client", step), Record.from_json(self.record.read_text()))
            self._look(step)
        elif not self.town.away and not self._must_die(client, step) and self._hub_is_next(step):
            with self._hub_in_danger(step):
                code = self.run(client, words)
        else:
            target = self._wish(client) or self._named(step) or self.planner.draw(KillPoint("client", step))
            code = self.run(client, words, target=target)
            if target and code == -signal.SIGKILL:
                self.died("client", target, step)
                self._unfinished[client.basedir] = target.met
            else:
                self._unfinished.pop(client.basedir, None)
        return code

    def _must_die(self, client: Client, step: str) -> bool:
        return bool(self._wish(client) or self._seldom(step)) or self.planner.is_urgent(KillPoint("client", step))

    def _hub_is_next(self, step: str) -> bool:
        """Whether it is the hub's turn: mostly, where it passes doors beside which nobody has died yet."""
        where = KillPoint("hub", step)
        new = where in self.planner.records and self.planner.open_sides(self.planner.records[where].doors)
        return self.planner.is_urgent(where) or self.rng.random() < (0.7 if new else 0.3)

    def again(self, client: Client) -> bool:
        """Whether something is to happen to the repair, too."""
        if self.record:
            return False
        urgent = self.planner.is_urgent(self._last) and self.rng.random() < ONCE_MORE
        return urgent or bool(self._wish(client) or self.planner.open_sides(MAIN_DOORS)) or super().again(client)

    def _wish(self, client: Client) -> Target | None:
        """Where only a client comes that died between putting on record what it publishes, and publishing it."""
        last = self._unfinished.get(client.basedir)
        if last is None or (found := _BEFORE_LEAVING.match(f"{last.side} {last.door}")) is None:
            return None
        return self._beside(f"client save {found['what']} did not leave")

    def _beside(self, door: str) -> Target | None:
        """Before a door that is passed seldom, and then after it."""
        sides = self.planner.open_sides([door])
        return Target(door=door, side=sides[-1][1]) if sides else None

    def _seldom(self, step: str) -> Target | None:
        return self._beside(GIVEN_UP) if step.startswith("give up") else None

    def _named(self, step: str) -> Target | None:
        """Beside a door that was not recorded, since nobody comes there in a life without deaths.

        Who gives up has died between a proposal and an agreement.
        """
        wanted = self.planner.open_sides([GIVEN_UP]) and not self.planner.is_urgent(KillPoint("client", step))
        if step.startswith("connect") and wanted and self.rng.random() < 0.5:
            return Target(door="client save proposed", side=AFTER)
        return self._seldom(step)

    def mine(self, step: str, blocks: int = 1, *, undone: int = 0) -> None:
        """Mine; the hub may die over its chores."""
        if self.record or self.town.away:
            super().mine(step, blocks, undone=undone)
            self._look(step)
        else:
            with self._hub_in_danger(step):
                super().mine(step, blocks, undone=undone)

    def _look(self, step: str) -> None:
        if self.record and not self.town.away:
            self.town.traced.command(record=self.record)
            self.planner.note(KillPoint("hub", step), Record.from_json(self.record.read_text()))

    def look_no_more(self) -> None:
        """From here on everybody is in danger."""
        self.town.stop_hub()
        self.town.start_hub()
        self._look("start")
        self.town.traced.command(recording=False)
        self.record = self.town.record = None

    @contextmanager
    def _hub_in_danger(self, step: str) -> Iterator[None]:
        """Have the hub die during a step; then, perhaps, once more as it starts."""
        target = self.planner.draw(KillPoint("hub", step))
        before = self.town.deaths
        self.town.traced.command(target)
        yield
        self.town.traced.command()
        self.town.revive()
        if target and self.town.deaths > before:
            self.died("hub", target, step)
            self._restart()

    def _restart(self) -> None:
        target = self.planner.draw(KillPoint("hub", "start")) if self.rng.random() < 0.3 else None
        if target is not None:
            self.start_anew(target, "start")

    def start_anew(self, target: Target, step: str, *options: str) -> None:
        """Start the hub again, to die as it starts."""
        before = self.town.deaths
        self.town.stop_hub(signal.SIGKILL)
        self.town.start_hub(*options, target=target)
        self.town.traced.command()
        self.town.revive()
        if self.town.deaths > before:
            self.died("hub", target, step)

    def died(self, victim: str, target: Target, step: str) -> None:
        """A process died, as it was to."""
        self.planner.died(victim, target.met)
        self.what = f"{victim} died at {step}: {target.met}"
        self.result.trials += 1
        self.result.recovered += 1


# The part -----------------------------------------------------------------------------------------------------------


def run(rng: random.Random, budget: Budget) -> Result:
    """Lives without a death, to see where they lead; then lives with as many deaths as are called for."""
    result = Result("kills")
    planner = KillPlanner(rng, budget.folder / "died")
    least = budget.share(KILLS, QUICK_KILLS)
    with heard():
        chapters = 0
        while budget.goes_on(result.trials, least) or (planner.left() and chapters < budget.share(MOST_CHAPTERS, 0)):
            planner.thorough = result.trials >= least
            _chapter(budget, planner, result, least)
            chapters += 1
        if not budget.quick:
            _together(rng, budget, result)
    named = doors_named()
    result.hold(planner.doors <= named, f"doors that docs/security.rst does not name: {planner.doors - named}")
    passed = MAIN_DOORS if budget.quick else planner.doors
    wanted = [(door, side) for door in passed for side in (BEFORE, AFTER)]
    missed = sorted(" ".join(item[::-1]) for item in wanted if not planner.sides[item])
    result.hold(not missed, f"nobody died {', '.join(missed)}")
    hit = sum(bool(planner.functions[function]) for function in planner.entered)
    result.notes.append(
        f"{planner.deaths['client']} deaths of clients, {planner.deaths['hub']} of hubs, in {hit} of "
        f"{len(planner.entered)} functions; {len(+planner.sides)} sides of {len(planner.doors)} doors"
    )
    if not budget.quick:
        result.notes.append(f"never passed: {', '.join(sorted(named - planner.doors))}")
    return result


def _chapter(budget: Budget, planner: KillPlanner, result: Result, least: int) -> None:
    """A town and some lives in it, to the end of all; in the first one some go undisturbed, to see where they lead."""
    kinds = LIVES[:1] if budget.quick else LIVES
    looking = 0 if planner.records else len(kinds)
    names = {f"{kind}{n}": own for n in range(3 if looking and not budget.quick else 2) for kind, own in kinds}
    folder = budget.folder / f"town{result.trials}"
    first = planner.draw(KillPoint("hub", "first start"))
    with running_node_and_runner(folder) as (node, runner):
        town = DyingHubTown(folder, node, runner, budget.folder / "record" if looking else None, first)
        try:
            lives = LivesWithKills(town, runner, planner, result, town.record)
            if first and town.deaths:
                lives.died("hub", first, "first start")
            lives.set_up(names)
            for number, name in enumerate(names):
                if number == looking and looking:
                    lives.look_no_more()
                if number < looking or not budget.quick or budget.goes_on(result.trials, least):
                    reads = budget.share(100, 3) if lives.record else 3
                    ClientLife(lives, town.clients[name], name.split("-")[0], reads).live()
            lives.finish()
            if not budget.quick:
                _end(lives)
                _begin(planner, lives)
        finally:
            town.stop_hub()


def _end(lives: LivesWithKills) -> None:
    """A hub that is told that its database was restored."""
    target = lives.planner.draw_door(["hub transaction restored"])
    if target is not None:
        lives.start_anew(target, "restored", "--restored")


def _begin(planner: KillPlanner, lives: LivesWithKills) -> None:
    """Hubs that begin, each with a folder of its own, and die at what is done but once."""
    begun = planner.records[KillPoint("hub", "first start")].doors
    for number in range(BEGINNINGS):
        target = planner.draw_door(begun)
        if target is None:
            return
        folder = lives.town.folder / f"first{number}"
        folder.mkdir()
        town = DyingHubTown(folder, lives.town.node, lives.runner, first=target)
        town.revive()
        town.stop_hub()
        if town.deaths:
            lives.died("hub", target, "first start")


def _together(rng: random.Random, budget: Budget, result: Result) -> None:
    """A hub and its embedded node killed at once, while a client syncs."""
    folder = budget.folder / "together"
    folder.mkdir()
    with running_network(folder) as network:
        clients = [network.client(name) for name in ("alice", "bob")]
        a, b = (network.open_connection(client, "--expire-time", "1000") for client in clients)
        pair = tuple(zip(clients, (a, b), strict=True))
        alice, bob = clients
        for number in range(TOGETHER):
            alice.run("queuepayment", a, b, str(100 + number))
            before = alice.connection(a).duplex.guaranteed - 100 - number - 2
            killer = threading.Timer(0.1 * rng.random(), network.kill)
            killer.start()
            alice.done("sync")
            killer.join()
            network.restart()
            result.trials += 1
            result.recovered += 1
            result.keep(before, alice.connection(a).duplex.guaranteed, "alice, whose hub and node died")
            alice.run("sync")
            bob.run("sync")
            named = [handle for _, handle in pair]
            shown = network.hub.call("mph_status", handles=named)["connections"]
            for client, handle in pair:
                both = client.connection(handle).duplex.guaranteed + shown[handle]["balance"]
                result.hold(both == 2 * DEPOSIT, f"{client.basedir.name} and hub have {both}, when both have died")
        for client, handle in pair:
            client.run("close", handle)
            network.settle(client, handle)
            guaranteed = client.connection(handle).duplex.guaranteed
            result.keep(guaranteed, client.balances()["XCP"] - ASSETS + DEPOSIT, f"{client.basedir.name} on chain")

"""Part: power cuts: what a client or the hub had not synced is missing afterwards, or torn."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from network_support import Client
from regtest_support import NodeProcess

from faults.disk import Disk, read_log, tear
from faults.dying_hub import DyingHubTown, running_node_and_runner
from faults.lives import ClientLife, LivesUnderFaults
from faults.result import Budget, Result
from faults.town import heard
from faults.tracing import AFTER, ANY, BEFORE, Runner, Target, Watch

IMAGES, QUICK_IMAGES = 400, 20
MOST_DOORS = 8  # that a hub passes at a step before its power goes
LIVES = {"normal-a": True, "normal-b": False, "punished-a": True, "silent-a": True}


class PowerCutTown(DyingHubTown):
    """A town whose hub finds, after it has died, what a power cut has left of its files."""

    def __init__(self, folder: Path, node: NodeProcess, runner: Runner, rng: random.Random) -> None:
        self._rng = rng
        self._disk: Disk | None = None
        self._log = folder / "hub.changes"
        self._synced = folder / "synced"
        super().__init__(folder, node, runner)

    def watch(self) -> Watch:
        """Everything that the hub is about to change."""
        if self._disk is not None and not self.away:
            self._cut(self._disk)
        shutil.rmtree(self._synced, ignore_errors=True)
        newest = self._synced / "at the start"
        newest.mkdir(parents=True)
        for path in self._sqlite():
            if path.exists():
                shutil.copy(path, newest)
        (self._synced / "newest").symlink_to(newest.name)
        self._log.unlink(missing_ok=True)
        self._disk = Disk(self.basedir, but="regtest.db")
        return Watch(self.basedir, self._log, self._synced)

    def _sqlite(self) -> list[Path]:
        return [self.basedir / name for name in ("regtest.db", "regtest.db-wal")]

    def _cut(self, disk: Disk) -> None:
        """Cut off SQLite's writes beside what was synced at the last transaction's end, in the order of its protocol.

        The log first, and synced; then, now and then, the database, and synced; only then the log from its beginning.
        """
        disk.follow(read_log(self._log))
        database, log = map(_content, self._sqlite())
        kept, kept_log = (_content(self._synced / "newest" / path.name) for path in self._sqlite())
        if log[: len(kept_log)] != kept_log:
            log = tear(kept_log, log, self._rng)
        elif database != kept:
            database = tear(kept, database, self._rng)
        else:
            log = kept_log + tear(b"", log[len(kept_log) :], self._rng)
        disk.cut(self._rng)
        for path, content in zip(self._sqlite(), (database, log), strict=True):
            path.write_bytes(content)
            path.chmod(0o600)


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


class LivesWithPowerCuts(LivesUnderFaults):
    """Lives during which the power of a client or of the hub goes at any time."""

    def __init__(self, town: PowerCutTown, runner: Runner, rng: random.Random, result: Result) -> None:
        super().__init__(town, runner, rng, result)
        self._changes: dict[str, int] = {}  # that a step makes, to files or by a door

    def perform(self, client: Client, step: str, words: list[str]) -> bool:
        """Do a command as a process; the power of one of the two may go meanwhile, or the client's right afterwards."""
        return self.goes_well(client, step, lambda: self._disturbed(client, step, words))

    def _disturbed(self, client: Client, step: str, words: list[str]) -> int:
        if self.rng.random() > 0.3 or self.town.away:
            return self._darken_client(client, step, words)
        self._threaten_hub()
        code = self.run(client, words)
        self._relieve_hub(step)
        return code

    def _darken_client(self, client: Client, step: str, words: list[str]) -> int:
        number = self.rng.randint(1, self._changes.get(step, 0) + 1)
        target = Target(nth=number) if step in self._changes else None
        disk, log = Disk(client.basedir), self.town.folder / "changes"
        log.unlink(missing_ok=True)
        code = self.run(client, words, target=target, watch=Watch(client.basedir, log))
        ops = read_log(log)
        self._changes[step] = max(len(ops), self._changes.get(step, 0))
        disk.follow(ops)
        self.result.hold(disk.is_as_seen(), f"{client.basedir.name} at {step}: not all changes were recorded")
        undone = disk.cut(self.rng)
        last = f"{ops[-1]['op']} {Path(ops[-1].get('path', '')).name}{ops[-1].get('label', '')}" if ops else "nothing"
        self._note(f"{client.basedir.name}'s power went at {step}, after {last}", undone)
        return code

    def mine(self, step: str, blocks: int = 1, *, undone: int = 0) -> None:
        """Mine; the hub's power may go over its chores."""
        if self.town.away:
            super().mine(step, blocks, undone=undone)
        else:
            self._threaten_hub()
            super().mine(step, blocks, undone=undone)
            self._relieve_hub(step)

    def _threaten_hub(self) -> None:
        self._deaths = self.town.deaths
        side = self.rng.choice((BEFORE, AFTER, AFTER))
        self.town.traced.command(Target(door=ANY, side=side, nth=self.rng.randint(1, MOST_DOORS)))

    def _relieve_hub(self, step: str) -> None:
        self.town.traced.command()
        self.town.revive()
        if self.town.deaths > self._deaths:
            self._note(f"the hub's power went at {step}", undone=True)

    def _note(self, what: str, undone: bool) -> None:
        self.what = what
        self.result.trials += 1
        self.result.recovered += 1
        self.undone += undone

    undone = 0  # images that lack something


def run(rng: random.Random, budget: Budget) -> Result:
    """Lives whose power goes at every other step."""
    result = Result("power cuts")
    least = budget.share(IMAGES, QUICK_IMAGES)
    kinds = {"normal-a": True} if budget.quick else LIVES
    undone = 0
    with heard():
        while budget.goes_on(result.trials, least):
            folder = budget.folder / f"town{result.trials}"
            with running_node_and_runner(folder) as (node, runner):
                town = PowerCutTown(folder, node, runner, rng)
                try:
                    lives = LivesWithPowerCuts(town, runner, rng, result)
                    lives.set_up(kinds)
                    for name in kinds:
                        if budget.goes_on(result.trials, least):
                            ClientLife(lives, town.clients[name], name.split("-")[0], budget.share(3, 1)).live()
                    lives.finish()
                    undone += lives.undone
                finally:
                    town.stop_hub()
    result.notes.append(f"{result.trials} images after a power cut, {undone} of which lacked what was not synced")
    return result

"""A hub that the runner starts and that may die at any time, and the network that starts it again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from cheats import Town
from network_support import WAIT, Client, key_in
from regtest_support import NodeProcess, running_node

from faults.tracing import Runner, Target, Watch, running_server
from picopayments_cli.channel.keys import Secrets
from picopayments_cli.errors import Unreachable
from picopayments_cli.rpc import RpcClient


class TracedHub:
    """A hub that the runner has started: as ``HubProcess``, and it dies where it is told."""

    def __init__(self, runner: Runner, basedir: Path, *options: str, port: int, **fate: Any) -> None:
        """``fate``: as ``Runner.start`` takes it."""
        self.log = basedir.parent / f"{basedir.name}.log"
        argv = ["--regtest", "--port", str(port), "--basedir", str(basedir), *options]
        reading, self._commands = _pipe()
        self._said, writing = _pipe()
        with self.log.open("ab") as log, reading, writing:
            files = (reading, writing, log)
            self.process = runner.start("hub", argv, files, commanded=True, **fate)
        line = self._said.readline()
        self.ready: dict[str, str] = json.loads(line) if line else {}
        if line:
            self.rpc = RpcClient(self.ready["hub_url"])

    def call(self, method: str, **params: Any) -> Any:
        """The result of a method of the hub."""
        return self.rpc.call(method, params, retry=False)

    def command(
        self, target: Target | None = None, record: Path | None = None, *, recording: bool | None = None
    ) -> None:
        """Have it die there from now on; ``record``: have it write where it has been since it was last told."""
        command = {
            "target": asdict(target) if target else None,
            "record": str(record) if record else None,
            "recording": recording,
        }
        try:
            self._commands.write(json.dumps(command) + "\n")
            self._commands.flush()
            heard = self._said.readline()
        except BrokenPipeError:
            heard = ""
        if not heard:
            self.process.wait(WAIT)  # it is dying just now

    def end(self, how: signal.Signals) -> int:
        """Send a signal, wait for the end; the exit code."""
        if self.process.poll() is None:
            os.kill(self.process.pid, how)
        code = self.process.wait(WAIT)
        with contextlib.suppress(BrokenPipeError):
            self._commands.close()
        self._said.close()
        return code


def _pipe() -> tuple[IO[str], IO[str]]:
    reading, writing = os.pipe()
    return os.fdopen(reading, "r"), os.fdopen(writing, "w")


class DyingHubTown(Town):
    """A town whose hub is started by the runner, and started again whenever it has died."""

    def __init__(
        self,
        folder: Path,
        node: NodeProcess,
        runner: Runner,
        record: Path | None = None,
        first: Target | None = None,
    ) -> None:
        """``record``: where hubs put where they have been; ``first``: where the very first one dies."""
        self._runner = runner
        self.record = record
        self._first = first
        self.deaths = 0
        self.away = False  # where it was stopped, and is not to come back by itself
        self.own_chain: set[str] = set()  # clients that have a chain of their own
        super().__init__(folder, node)

    def start_hub(self, *options: str, target: Target | None = None) -> None:
        """Start the hub on the same port; with a target it may die there and then, and is started again without."""
        target, self._first = target or self._first, None
        urls = ("--counterparty-url", self.node.url)
        fate = {"target": target, "record": self.record, "watch": self.watch()}
        hub = TracedHub(self._runner, self.basedir, *urls, *options, port=self._port, **fate)
        if not hub.ready and target is not None:
            hub.end(signal.SIGKILL)
            self.deaths += 1
            self.start_hub(*options)
            return
        assert hub.ready, hub.log.read_text()
        self.hub = hub  # type: ignore[assignment]
        self.traced = hub
        self.away = False
        self.hub_url = hub.ready["hub_url"]
        self._port = int(self.hub_url.split(":")[2].partition("/")[0])

    def secrets(self, handle: str) -> Secrets:
        """The hub's own keys and secrets of a connection."""
        with contextlib.closing(sqlite3.connect(self._database)) as database:
            rows = database.execute("select fixed from connections where handle = ?", (bytes.fromhex(handle),))
            (fixed,) = rows.fetchone()
        return Secrets(key_in(self.basedir / "hub.regtest.wif"), bytes.fromhex(json.loads(fixed)["salt"]))

    def watch(self) -> Watch | None:
        """Return what to watch of the hub that is about to start."""
        return None

    def stop_hub(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the hub, until it is started again."""
        super().stop_hub(how)
        self.away = True

    def revive(self) -> None:
        """Start the hub again where it has died."""
        if not self.away and not self.hub_lives:
            code = self.hub.end(signal.SIGKILL)
            assert code == -signal.SIGKILL, self.hub.log.read_text()[-3000:]
            self.deaths += 1
            self.start_hub()

    def is_over(self, *syncing: Client) -> bool:
        """As ``Town``; what a client asked for or agreed to, and gave up before it deposited, is nothing to wait for.

        (The hub forgets it after 144 blocks. Had it been deposited for, the sums would show it.)
        """
        stages = {stage for stage in self.stages().values() if stage not in ("requested", "agreed")}
        shown = [item["status"] for client in self.clients.values()
                 for item in client.run("status")["connections"].values()]  # fmt: skip
        return stages.union(shown) <= {"closed"}

    def mine(self, blocks: int = 1) -> None:
        """Mine; a hub that lives does its chores after each block, and is started again where it dies at them."""
        for _ in range(blocks):
            if self.away:
                self.node.rpc("generate", blocks=1)
                continue
            wanted = self.height + 1
            while self.height < wanted:
                with contextlib.suppress(Unreachable):
                    self.hub.call("generate", blocks=1)
                self.revive()

    def reorganise(self, depth: int) -> None:
        """Replace the last blocks by a longer branch; what they held is in the mempool again."""
        with contextlib.suppress(Unreachable):
            self.hub.call("reorganise", depth=depth)
        self.revive()

    def stranger(self, name: str, *, own_chain: bool) -> Client:
        """A client that has nothing yet."""
        client = Client(self.folder / name, self.hub_url)
        client.basedir.mkdir(parents=True, mode=0o700)
        if own_chain:
            self.own_chain.add(name)
            urls = {"chain_url": self.node.url, "bitcoin_url": f"{self.node.url}bitcoin/"}
            (client.basedir / "regtest.cfg").write_text(json.dumps(urls))
        self.clients[name] = client
        return client


@contextlib.contextmanager
def running_node_and_runner(folder: Path) -> Iterator[tuple[NodeProcess, Runner]]:
    """A node that mines only when told, and a runner."""
    folder.mkdir()
    with running_server() as runner, running_node(folder / "chain", 0) as node:
        yield node, runner

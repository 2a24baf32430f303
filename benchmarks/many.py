"""What a hub costs by the number of its connections: ``python benchmarks/many.py [--connections 100 10000 ...]``.

For each number a database is filled (see ``crowd.py``), and a process of its own starts a hub on it, without HTTP and
without waiting for the disk: the start, memory, the first round, a block's round, what a full block asks of the
database, syncs of the parties and ``mph_status``. Times are processor time of the hub's thread, in milliseconds, where
nothing else is said. A million connections take a quarter of an hour, and 20 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ageing import InProcess
from crowd import copy, open_parties
from party import Party
from sqlalchemy import event

from picopayments_cli.channel.networks import network_named
from picopayments_cli.hub.database import Database, default_url
from picopayments_cli.hub.embedded import EmbeddedNode
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.hub import Hub, Urls
from picopayments_cli.hub.methods import Methods
from picopayments_cli.hub.rounds import Rounds

SIZES = (100, 10_000)
PARTIES = 50
SYNCS = 250
BLOCK_INPUTS, BLOCK_TRANSACTIONS = 8000, 4000  # of a full block
REAL_DEPTH = 7  # the blocks after which a real network counts as settled
_DATABASE = "regtest.db"


class Counted:
    """The statements that a database runs, and the processor time of this thread, in a ``with`` block."""

    def __init__(self, database: Database) -> None:
        self.statements = 0
        event.listen(database.engine, "before_cursor_execute", self._count)

    def _count(self, *_args: object) -> None:
        self.statements += 1

    def of(self, step: Callable[[], object]) -> dict[str, float]:
        """Do a step, and tell what it took."""
        before, begun, wall = self.statements, time.thread_time(), time.perf_counter()
        step()
        used, passed = time.thread_time() - begun, time.perf_counter() - wall
        statements = self.statements - before
        return {"ms": round(used * 1000, 2), "wall_ms": round(passed * 1000, 2), "statements": statements}


@contextmanager
def hub_on(basedir: Path, chain_url: str) -> Iterator[tuple[Hub, Rounds]]:
    """A hub on a basedir, not started, that does not wait for the disk."""
    folder = Folder(basedir, network_named("regtest"))
    database = Database(default_url(basedir, "regtest"))
    try:
        with database.transaction("not waiting") as connection:
            raw = connection.connection
        raw.cursor().execute("PRAGMA synchronous = OFF")
        urls = Urls(chain_url, chain_url + "bitcoin/")
        hub = Hub(folder.network, folder.key(), folder.offer(), database, urls, folder.marks_path)
        hub.fresh_seconds = float("inf")
        hub.delay = 2 * REAL_DEPTH  # the size of its reserve follows from it
        yield hub, Rounds(hub)
    finally:
        database.close()


def fill(basedir: Path, chain_url: str, count: int, seed: int) -> list[Party]:
    """Begin a hub's database and fill it."""
    with hub_on(basedir, chain_url) as (hub, rounds):
        rounds.prepare()
        parties = open_parties(hub, PARTIES)
        InProcess(Methods(hub)).mixed(parties, 2 * PARTIES, seed)
        with hub.database.transaction("copies") as db:
            db.exec_driver_sql("PRAGMA cache_size = -400000")  # 400 MB: else it writes most pages many times
            copy(db, parties, max(count - PARTIES, 0))
    return parties


def measure(basedir: Path, chain_url: str, parties: list[Party], seed: int) -> dict[str, Any]:
    """What a hub takes on a basedir, from its start."""
    memory = {"before": _memory_mb()}
    begun, wall = time.process_time(), time.perf_counter()
    with hub_on(basedir, chain_url) as (hub, rounds):
        rounds.prepare()
        found: dict[str, Any] = {
            "start": {
                "ms": round((time.process_time() - begun) * 1000, 1),
                "wall_ms": round((time.perf_counter() - wall) * 1000, 1),
            }
        }
        memory["started"] = _memory_mb()
        counted = Counted(hub.database)
        found["first_round"] = counted.of(rounds.once)
        found["idle_round"] = counted.of(rounds.once)
        rounds_of_blocks = []
        for _ in range(5):
            hub.controls.call("generate", {"blocks": 1}, retry=False)
            rounds_of_blocks.append(counted.of(rounds.once))
        found["round_of_a_block"] = min(rounds_of_blocks, key=lambda item: item["ms"])
        found["a_full_block"] = counted.of(lambda: _look_up_block(hub))
        methods = Methods(hub)
        found["status"] = counted.of(methods.status)
        handles = [party.handle.hex() for party in parties]
        found["status_of_50"] = counted.of(lambda: methods.status([], handles))
        found["sync"] = _syncs(counted, methods, parties, seed)
        memory["after"] = _memory_mb()
        found["memory_mb"] = memory
    return found


def _look_up_block(hub: Hub) -> None:
    """Ask the database for what a full block spends and pays, in which nothing is the hub's."""
    from bitcoin.core import COutPoint, CTransaction, CTxIn, CTxOut

    from picopayments_cli.hub import follower

    each = BLOCK_INPUTS // BLOCK_TRANSACTIONS
    txs = [
        (
            os.urandom(32),
            CTransaction(
                [CTxIn(COutPoint(os.urandom(32), 0)) for _ in range(each)], [CTxOut(1000, b"\x00\x14" + os.urandom(20))]
            ),
        )
        for _ in range(BLOCK_TRANSACTIONS)
    ]
    with hub.database.reading() as db:
        follower._Known.load(db, txs)


def _syncs(counted: Counted, methods: Methods, parties: list[Party], seed: int) -> dict[str, float]:
    before, alone = counted.statements, InProcess(methods)
    alone.mixed(parties, PARTIES, seed)  # a connection's first sync reads its row
    before = counted.statements
    times = [alone.mixed(parties, PARTIES, seed + number) for number in range(1, 1 + SYNCS // PARTIES)]
    statements = (counted.statements - before) / SYNCS
    return {"ms": round(statistics.median(times) * 1000, 3), "statements": round(statements, 1)}


def _memory_mb() -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(lines["VmRSS"].split()[0]) * 1.024e-3, 1)


def of_sizes(base: Path, sizes: Sequence[int], seed: int) -> dict[str, Any]:
    """Fill and measure a hub of each size."""
    base.mkdir(mode=0o700, exist_ok=True)
    return {str(count): _of_size(base, count, seed) for count in sizes}


def _of_size(base: Path, count: int, seed: int) -> dict[str, Any]:
    basedir = base / str(count)
    basedir.mkdir(mode=0o700)
    node = EmbeddedNode(base / f"node{count}", 0, 0)
    try:
        begun = time.monotonic()
        parties = fill(basedir, node.chain_url, count, seed)
        filled = time.monotonic() - begun
        (basedir / "parties").write_bytes(pickle.dumps(parties))
        size = (basedir / _DATABASE).stat().st_size
        command = [sys.executable, __file__, "--measure", str(basedir), node.chain_url, "--seed", str(seed)]
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    finally:
        node.stop()
    return {"fill_seconds": round(filled, 1), "bytes_each": round(size / count), **json.loads(told)}


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description="Measure, and print one JSON document.", allow_abbrev=False)
    parser.add_argument("--connections", type=int, nargs="+", default=SIZES, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the payments (default: %(default)s)")
    parser.add_argument("--measure", nargs=2, metavar=("BASEDIR", "URL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    random.seed(args.seed)
    if args.measure is not None:
        basedir = Path(args.measure[0])
        parties = pickle.loads((basedir / "parties").read_bytes())
        print(json.dumps(measure(basedir, args.measure[1], parties, args.seed)))
        return
    with tempfile.TemporaryDirectory(prefix="picopayments-many-") as folder:
        print(json.dumps(of_sizes(Path(folder), args.connections, args.seed), indent=2))


if __name__ == "__main__":
    main()

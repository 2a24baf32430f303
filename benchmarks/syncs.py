"""Durable syncs of one hub process: how many a second, how long they take, and whether age makes them dearer."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub_process import HubProcess, open_connections, opened_connections, running_hub, wait_until_open
from rehearsal import Exchange, Lane, Party, hub_methods

from picopayments_cli.channel.keys import Key

LANES = 20  # of two connections each
AGED_SYNCS = 10_000
COMPARED = 400  # syncs of the aged lane and of a fresh one
MOST_A_SECOND = 900  # that are made beforehand for the saturated hub


@dataclass
class Load:
    """What was made beforehand: the mixed load's lanes, the aged lane and a fresh one."""

    lanes: list[list[Exchange]]
    aged: list[Exchange]
    fresh: list[Exchange]
    open_commits: dict[str, int]
    seconds: dict[str, float]


class Generator:
    """The load generator's process."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).parent / "generator.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, url: str, lanes: Sequence[Sequence[Exchange]], *, seconds: float, rate: float | None, seed: int) -> Any:
        """Carry out one plan."""
        plan = {
            "url": url,
            "lanes": [[[item.request, item.result] for item in lane] for lane in lanes],
            "seconds": seconds,
            "rate": rate,
            "seed": seed,
        }
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("The generator has no pipes.")
        print(json.dumps(plan), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def stop(self) -> None:
        """End the process."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(20)


def prepare(base: Path, seconds: float, seed: int) -> Load:
    """Open the connections with a real hub, stop it, age one lane in its database, and rehearse on a copy."""
    count = LANES + 2
    took = {}
    begun = time.monotonic()
    with running_hub(base / "hub") as hub:
        for name in ("a", "b"):
            open_connections(hub.url, base / name, count)
        wait_until_open(hub.url, 2 * count)
        parties = [_parties(hub.url, base / name) for name in ("a", "b")]
    took["open"], begun = time.monotonic() - begun, time.monotonic()
    pairs = list(zip(*parties, strict=True))
    with hub_methods(base / "hub") as methods:
        aged = Lane(methods, *pairs[0], random.Random(f"{seed} age"))
        aged.age(AGED_SYNCS)
    took["age"], begun = time.monotonic() - begun, time.monotonic()
    open_commits = {
        "client_to_hub": len(pairs[0][0].connection.duplex.sending.active),
        "hub_to_client": len(pairs[0][1].connection.duplex.receiving.active),
    }
    shutil.copytree(base / "hub", base / "rehearsal", ignore=shutil.ignore_patterns("node", "*.log"))
    syncs = int(seconds * 1.6 * MOST_A_SECOND / LANES)
    with hub_methods(base / "rehearsal") as methods:
        lanes = [Lane(methods, *pairs[n], random.Random(f"{seed} {n}")) for n in range(count)]
        played = [lane.play(COMPARED if n < 2 else syncs) for n, lane in enumerate(lanes)]
    took["rehearse"] = time.monotonic() - begun
    rounded = {name: round(value, 1) for name, value in took.items()}
    return Load(played[2:], played[0], played[1], open_commits, rounded)


def _parties(url: str, basedir: Path) -> list[Party]:
    secret, connections = opened_connections(url, basedir)
    return [Party(Key(secret), item, dict(item.numbers)) for item in connections]


def measure(base: Path, load: Load, seconds: float, seed: int) -> dict[str, Any]:
    """Run the load against a hub process that finds the connections in its database."""
    generator = Generator()
    try:
        with running_hub(base / "hub") as hub:
            time.sleep(1)
            loaded = hub.memory_mb()
            idle = _idle_share(hub)
            results = _saturate_then_half(generator, hub, load, seconds, seed)
            results["idle_hub"] = {"memory_mb": loaded, "cpu_share": idle}
            results["age"] = _compare_ages(generator, hub, load)
            results["memory_mb"] = hub.memory_mb()
    finally:
        generator.stop()
    results["connections"] = 2 * (LANES + 2)
    results["seconds_to_prepare"] = load.seconds
    results["fsync_ms"] = _fsync_ms(base)
    return results


def _idle_share(hub: HubProcess) -> float:
    before, begun = hub.cpu_seconds(), time.monotonic()
    time.sleep(2)
    return round((hub.cpu_seconds() - before) / (time.monotonic() - begun), 3)


def _saturate_then_half(
    generator: Generator, hub: HubProcess, load: Load, seconds: float, seed: int
) -> dict[str, Any]:
    cpu = hub.cpu_seconds()
    full = generator.run(hub.url, load.lanes, seconds=seconds, rate=None, seed=seed)
    share = (hub.cpu_seconds() - cpu) / full["elapsed"]
    a_second = len(full["latencies"]) / full["elapsed"]
    rest = [lane[done:] for lane, done in zip(load.lanes, full["done"], strict=True)]
    half = generator.run(hub.url, rest, seconds=seconds, rate=a_second / 2, seed=seed)
    return {
        "saturated": {
            "syncs_a_second": round(a_second, 1),
            "hub_cpu_share": round(share, 2),
            **_percentiles(full["latencies"]),
            "syncs": len(full["latencies"]),
        },
        "at_half_that_rate": {
            "syncs_a_second": round(len(half["latencies"]) / half["elapsed"], 1),
            **_percentiles(half["latencies"]),
            "syncs": len(half["latencies"]),
        },
    }


def _compare_ages(generator: Generator, hub: HubProcess, load: Load) -> dict[str, Any]:
    """The aged lane and the fresh one by turns, one sync at a time."""
    found: dict[str, list[float]] = {"aged": [], "fresh": []}
    first: dict[str, float] = {}
    step = 50
    for start, name in itertools.product(range(0, COMPARED, step), found):
        exchanges = (load.aged if name == "aged" else load.fresh)[start : start + step]
        ran = generator.run(hub.url, [exchanges], seconds=60, rate=None, seed=0)
        first.setdefault(name, round(max(ran["latencies"][:10]) * 1000, 2))
        found[name].extend(ran["latencies"][1:])
    medians = {name: statistics.median(latencies) * 1000 for name, latencies in found.items()}
    return {
        "earlier_syncs": AGED_SYNCS,
        "open_commits": load.open_commits,
        "aged_ms": round(medians["aged"], 2),
        "fresh_ms": round(medians["fresh"], 2),
        "ratio": round(medians["aged"] / medians["fresh"], 2),
        "first_after_start_ms": first,
    }


def _percentiles(latencies: Sequence[float]) -> dict[str, float]:
    ordered = sorted(latencies)
    return {
        f"p{percent}_ms": round(ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] * 1000, 2)
        for percent in (50, 99)
    }


def _fsync_ms(base: Path) -> float:
    """What this disk takes to make 4 kB durable: the floor of a durable sync."""
    times = []
    with tempfile.NamedTemporaryFile(dir=base) as file:
        for _ in range(100):
            file.write(bytes(4096))
            file.flush()
            begun = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - begun)
    return round(statistics.median(times) * 1000, 3)

"""Durable syncs of one hub process: how many a second, how long they take, and whether age makes them dearer."""

from __future__ import annotations

import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ageing import in_process
from hub_process import HubProcess, running_hub
from opening import open_connections

CONNECTIONS = 240
AGED_SYNCS = 10_000
MIXED_SYNCS = 2000  # in process, of the clients that load the hub afterwards
AT_ONCE = (16, 64)  # HTTP connections that keep the hub busy
COMPARED = 40  # syncs of the aged pair and of a fresh one
PAUSE = 0.1  # between them: a round of the hub's chores has looked at the next hashes


class Generator:
    """The load generator's process, with its clients."""

    def __init__(self, parties: Path, seed: int) -> None:
        self._seed = seed
        command = [sys.executable, str(Path(__file__).parent / "generator.py"), str(parties)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, hub: HubProcess, parties: Sequence[int], workers: int, seconds: float, **how: float) -> Any:
        """Carry out one plan."""
        plan = {"url": hub.url, "parties": list(parties), "workers": workers, "seconds": seconds, "seed": self._seed}
        self._seed += 1
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("The generator has no pipes.")
        print(json.dumps({**plan, **how}), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("The generator failed; its error stands above.")
        return json.loads(answer)

    def stop(self) -> None:
        """End the process."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(20)


def measure(base: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Open connections with a hub process, age two of them, and load another process on the same database."""
    begun = time.monotonic()
    with running_hub(base / "hub", "--block-time", "0") as hub:
        parties = open_connections(hub, CONNECTIONS)
    opened = time.monotonic() - begun
    with in_process(base / "hub") as hub_alone:
        alone = hub_alone.mixed(parties[2:], MIXED_SYNCS, seed)
        aged = hub_alone.age(parties[0], parties[1], AGED_SYNCS, seed)
    prepared = time.monotonic() - begun
    with open(base / "parties", "wb") as file:
        pickle.dump(parties, file)
    generator = Generator(base / "parties", seed)
    try:
        with running_hub(base / "hub") as hub:
            time.sleep(2)  # the first round looks at everything
            idle = {"memory_mb": hub.memory_mb()["now"], "cpu_share": hub.cpu_share(3)}
            aged |= _compare_ages(generator, hub)
            results = _loads(generator, hub, seconds, alone)
            memory = hub.memory_mb()
    finally:
        generator.stop()
    return {
        **results,
        "age": aged,
        "memory_mb": memory,
        "idle_hub": idle,
        "connections": CONNECTIONS,
        "fsync_ms": _fsync_ms(base),
        "preparation_seconds": {"open": round(opened, 1), "age": round(prepared - opened, 1)},
    }


def _loads(generator: Generator, hub: HubProcess, seconds: float, alone: float) -> dict[str, Any]:
    """As many syncs as the hub takes, from few clients at once and from many, and half as many as from few."""
    few, many = (_saturate(generator, hub, workers, seconds, alone) for workers in AT_ONCE)
    rate = few["syncs_a_second"] / 2
    half = generator.run(hub, range(2, CONNECTIONS), 2 * AT_ONCE[0], seconds, rate=rate)
    return {
        "in_process": {"hub_cpu_ms": round(alone * 1000, 3), "syncs_a_second": round(1 / alone, 1)},
        "saturated": few,
        f"saturated_by_{AT_ONCE[1]}": many,
        "at_half_that_rate": summary(half),
    }


def _saturate(generator: Generator, hub: HubProcess, workers: int, seconds: float, alone: float) -> dict[str, Any]:
    """``of_in_process``: the share of the syncs that the hub's own work would allow on one core."""
    cpu = hub.cpu_seconds()
    ran = generator.run(hub, range(2, CONNECTIONS), workers, seconds)
    used = hub.cpu_seconds() - cpu
    found = summary(ran)
    return {
        **found,
        "clients": workers,
        "of_in_process": round(found["syncs_a_second"] * alone, 2),
        "cpu_share": {"hub": round(used / ran["elapsed"], 2), "generator": ran["cpu_share"]},
    }


def _compare_ages(generator: Generator, hub: HubProcess) -> dict[str, Any]:
    """The aged pair and a fresh one by turns, one sync at a time."""
    found: dict[str, list[float]] = {"aged": [], "fresh": []}
    for _ in range(COMPARED):
        for name, pair in (("aged", (0, 1)), ("fresh", (2, 3))):
            time.sleep(PAUSE)
            found[name] += generator.run(hub, pair, 1, 0.0001)["latencies"][:1]
    medians = {name: statistics.median(latencies[1:]) * 1000 for name, latencies in found.items()}
    return {
        **{f"http_ms_{name}": round(value, 2) for name, value in medians.items()},
        "http_ms_aged_first_after_start": round(found["aged"][0] * 1000, 2),
    }


def summary(ran: Any) -> dict[str, float]:
    """Syncs a second, and how long half of them, and all but one in a hundred, took at most."""
    ordered = sorted(ran["latencies"])
    percentiles = {
        f"p{percent}_ms": round(ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] * 1000, 2)
        for percent in (50, 99)
    }
    return {"syncs_a_second": round(len(ordered) / ran["elapsed"], 1), "syncs": len(ordered), **percentiles}


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

"""Measures what a user feels, and prints one JSON document: ``python benchmarks/run.py [--seconds N] [--seed N]``.

``syncs``: syncs of one hub process over HTTP, each durable before its answer, under a mixed load (idle syncs, one
payment or several, both ways and so with give-backs) of connections that were really opened. The clients are in another
process, and every sync is signed before it is due: on two cores or more the hub has one nearly for itself, less what
its node takes. The hub does its chores meanwhile. Saturated; at half that rate; and one pair of connections with 10,000
syncs behind it beside a new one. Not in it: the client's own work and disk, TLS, a network, nodes of a real chain.

``in_process`` is what one such sync takes the hub's own code, without HTTP and without waiting for the disk:
``of_in_process`` is the share of the syncs that this would allow which the hub served.

``workers``: syncs of one database on PostgreSQL, by one process and by several (``workers.py``).

``commands``: HTTP requests and time of ``status`` and ``sync`` as processes, and the start of ``version`` and
``--help`` beside a bare interpreter that imports argparse and json.

``many``: what a hub takes that has so many connections (``many.py``); ``--connections 1000000`` takes minutes, and 10
GB of disk.

``chain_space``: sizes and fees of a channel's transactions at 1 sat/vB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import chain_space
import commands
import many
import syncs
import workers

from picopayments_cli import __version__

PACKAGES = (
    "btclib-secp256k1",
    "httptools",
    "python-bitcoinlib",
    "requests",
    "SQLAlchemy",
    "starlette",
    "uvicorn",
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure, and print one JSON document.", allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each of the three loads (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the payments (default: %(default)s)")
    numbers = parser.add_argument("--connections", type=int, nargs="+", default=many.SIZES, metavar="NUMBER")
    numbers.help = "of the hubs of `many` (default: %(default)s)"
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="picopayments-bench-") as folder:
        base = Path(folder)
        results = {
            "syncs": syncs.measure(base, args.seconds, args.seed),
            "workers": workers.measure(base / "workers", args.seconds, args.seed),
            "commands": commands.measure(base / "commands"),
            "many": many.of_sizes(base / "many", args.connections, args.seed),
            "chain_space": chain_space.measure(),
        }
    document = {
        "machine": _machine(),
        "versions": {"picopayments-cli": __version__} | {name: version(name) for name in PACKAGES},
        "seed": args.seed,
        "seconds": args.seconds,
        "results": results,
    }
    print(json.dumps(document, indent=2))


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": platform.platform(),
    }


if __name__ == "__main__":
    main()

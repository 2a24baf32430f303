"""The fault harness: ``python tests/faults/run.py [--seed N] [--minutes N] [--jobs N] [--only NAME]``.

Every module of this folder that has ``run(rng, budget) -> Result`` is a part. Prints the seed, the table, and fails
(exit code 1) where anybody lost anything, or anything else is not as it should be.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent.parent)]

from faults.result import COLUMNS, Budget, Result  # noqa: E402

# Begun first, so that no core waits for one of them in the end.
LONGEST = ("kills", "reorganisations", "cheating", "moods")


def parts() -> dict[str, ModuleType]:
    """The parts by name."""
    names = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith(("__", "run", "test_")))
    modules = {name: importlib.import_module(f"faults.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "run")}


def run_part(module: ModuleType, name: str, rng: random.Random, budget: Budget) -> Result:
    """A part's result; where it breaks down, that is a failure of it."""
    try:
        result: Result = module.run(rng, budget)
    except Exception:
        result = Result(name, failures=[traceback.format_exc()])
    return result


def carry_out(name: str, seed: int, quick: bool, seconds: float) -> tuple[Result, float]:
    """A part's result, and the seconds that it took."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        budget = Budget(Path(folder), quick, seconds)
        result = run_part(parts()[name], name, random.Random(f"{seed} {name}"), budget)
    return result, time.monotonic() - begun


def carry_out_all(names: list[str], jobs: int, *how: Any) -> Iterator[tuple[str, Result, float]]:
    """The results of parts as they end, so many at a time, each in a process of its own; a single one in this."""
    if len(names) == 1:
        yield (names[0], *carry_out(names[0], *how))
        return
    ordered = sorted(names, key=lambda name: (name not in LONGEST, name))
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(carry_out, name, *how): name for name in ordered}
        for done in as_completed(running):
            yield (running[done], *done.result())


def table(results: list[Result]) -> str:
    """The table of all parts, and the sum of what was lost."""
    rows = [COLUMNS, *(result.row() for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*lines, "", f"funds lost: {sum(result.lost for result in results)}"])


def show(result: Result) -> None:
    """Print what a part found, beside its line of the table."""
    for pair, rule in sorted(result.pairs.items()):
        print(f"  {pair}: {rule}")
    if result.pairs:
        rules = ", ".join(f"{rule} {number}" for rule, number in result.rules().most_common())
        print(f"  {len(result.pairs)} distinct pairs: {rules}")
    for text in result.notes:
        print(f"  {text}")
    for text in result.failures:
        print(f"  FAILED: {text}")


def main() -> int:
    """The command line; its exit code."""
    known = parts()
    parser = argparse.ArgumentParser(description="Disturb and attack hub and clients, and count what anybody lost.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--minutes", type=float, default=0.0, help="go on for so long, all parts together")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="parts at a time (default: %(default)s)")
    parser.add_argument("--only", choices=sorted(known), metavar="NAME", help=f"one part of: {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="do a part of it, as the ordinary tests do")
    args = parser.parse_args()
    names = [args.only] if args.only else sorted(known)
    print(f"seed: {args.seed}", flush=True)
    results = {}
    seconds = 60 * args.minutes * min(args.jobs, len(names)) / len(names)
    for name, result, took in carry_out_all(names, args.jobs, args.seed, args.quick, seconds):
        print(f"{name}: {took:.0f} s", flush=True)
        show(result)
        sys.stdout.flush()
        results[name] = result
    print(table([results[name] for name in names]), flush=True)
    return 0 if all(result.passed for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The fault harness: ``python tests/faults/run.py [--seed N] [--minutes N] [--only NAME]``.

Every module of this folder that has ``run(rng, budget) -> Result`` is a part. Prints the seed, the table, and fails
(exit code 1) where anybody lost anything, or anything else is not as it should be.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent.parent)]

from faults.result import COLUMNS, Budget, Result  # noqa: E402


def parts() -> dict[str, ModuleType]:
    """The parts by name."""
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "run"))
    modules = {name: importlib.import_module(f"faults.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "run")}


def run_part(module: ModuleType, name: str, rng: random.Random, budget: Budget) -> Result:
    """A part's result; where it breaks down, that is a failure of it."""
    try:
        result: Result = module.run(rng, budget)
    except Exception:
        result = Result(name, failures=[traceback.format_exc()])
    return result


def table(results: list[Result]) -> str:
    """The table of all parts, and the sum of what was lost."""
    rows = [COLUMNS, *(result.row() for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*lines, "", f"funds lost: {sum(result.lost for result in results)}"])


def show(result: Result) -> None:
    """What a part found, beside its line of the table."""
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
    parser.add_argument("--only", choices=sorted(known), metavar="NAME", help=f"one part of: {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="do a part of it, as the ordinary tests do")
    args = parser.parse_args()
    chosen = {args.only: known[args.only]} if args.only else known
    print(f"seed: {args.seed}", flush=True)
    results = []
    for name, module in chosen.items():
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            budget = Budget(Path(folder), args.quick, 60 * args.minutes / len(chosen))
            result = run_part(module, name, random.Random(f"{args.seed} {name}"), budget)
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
        show(result)
        results.append(result)
    print(table(results), flush=True)
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())

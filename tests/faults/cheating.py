"""Part: cheats on chain, each carried out by a hub on an honest client, and by a client on the honest hub."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from typing import Any

from faults import cheating_chain, cheating_deposits, cheating_words
from faults.cheating_parties import WAYS, Town, running_town
from faults.result import Budget, Result

QUICK = 3  # trials, by each
Trial = Callable[[Any], str]
_BOTH: tuple[Trial, ...] = (*cheating_chain.BOTH, *cheating_words.BOTH, *cheating_deposits.BOTH)
TRIALS: dict[str, tuple[Trial, ...]] = {  # by who cheats
    "client": (*_BOTH, *cheating_words.BY_CLIENT, *cheating_deposits.BY_CLIENT),
    "hub": (*_BOTH, *cheating_words.BY_HUB, *cheating_deposits.BY_HUB),
}
LONG = {"many_connections_in_a_fee_spike"}


def run(rng: random.Random, budget: Budget) -> Result:
    """Every trial once by each; then again, in another order, while there is time."""
    result = Result("cheats on chain")
    with running_town(budget.folder, rng, result) as town:
        for way, trials in TRIALS.items():
            quick = [trial for trial in trials if trial.__name__ not in LONG]
            for trial in rng.sample(quick, QUICK) if budget.quick else trials:
                _carry_out(town, way, trial)
        while not budget.quick and budget.goes_on(1, 0):
            way = rng.choice(list(TRIALS))
            _carry_out(town, way, rng.choice(TRIALS[way]))
    return result


def _carry_out(town: Town, way: str, trial: Trial) -> None:
    """Carry a trial out, and note what stopped it, under its name."""
    result, name = town.result, f"{way} | {trial.__name__}"
    before = len(result.failures)
    try:
        stopped = trial(WAYS[way](town))
    except Exception:
        stopped = "broken down"
        result.failures.append(traceback.format_exc())
    town.node.rpc("feerate", rate=1, minimum=1)
    result.failures[before:] = [f"{name}: {text}" for text in result.failures[before:]]
    result.trials += 1
    result.recovered += len(result.failures) == before
    result.notes.append(f"{name}: {stopped}")

"""Part: cheats on chain, each carried out by a hub on an honest client, and by a client on the honest hub."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable

from faults import cheating_client, cheating_client_late, cheating_hub, cheating_hub_late
from faults.cheat_network import CheatNetwork, running_cheat_network
from faults.result import Budget, Result

QUICK = {"client": 2, "hub": 4}  # trials, of each side
Trial = Callable[[CheatNetwork], str]
TRIALS: dict[str, tuple[Trial, ...]] = {
    "client": (*cheating_client.TRIALS, *cheating_client_late.TRIALS),
    "hub": (*cheating_hub.TRIALS, *cheating_hub_late.TRIALS),
}


def run(rng: random.Random, budget: Budget) -> Result:
    """Every trial once, those of the client first; then again, in another order, while there is time."""
    result = Result("cheats on chain")
    with running_cheat_network(budget.folder, rng, result) as town:
        for way, trials in TRIALS.items():
            if way == "hub":
                town.stop_hub()  # its clients have another one
            for trial in rng.sample(trials, QUICK[way]) if budget.quick else trials:
                _carry_out(town, way, trial)
        town.stop_hub()
        while not budget.quick and budget.goes_on(1, 0):
            way = rng.choice(list(TRIALS))
            _carry_out(town, way, rng.choice(TRIALS[way]))
    return result


def _carry_out(town: CheatNetwork, way: str, trial: Trial) -> None:
    """Carry a trial out, and note what stopped it, under its name."""
    result, name = town.result, f"{way} | {trial.__name__}"
    before = len(result.failures)
    try:
        stopped = trial(town)
    except Exception:
        stopped = "broken down"
        result.failures.append(traceback.format_exc())
    result.failures[before:] = [f"{name}: {text}" for text in result.failures[before:]]
    result.trials += 1
    result.recovered += len(result.failures) == before
    result.notes.append(f"{name}: {stopped}")

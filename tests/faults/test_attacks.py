"""The table of attacks in docs/security.rst names every trial of the part ``cheating``, and no other."""

from __future__ import annotations

import random
import re
from pathlib import Path
from types import ModuleType

import pytest

from faults import cheating_client, cheating_hub, run
from faults.cheat_network import running_cheat_network
from faults.cheating import TRIALS
from faults.result import Result

DOCUMENT = Path(__file__).parents[2] / "docs" / "security.rst"
COLUMNS = {"hub": 1, "client": 2}


def rows() -> list[list[str]]:
    """The cells of the table's rows."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("Attacks and who tried them\n")[2]
    table = section.partition("The fault harness\n")[0].partition("\n   * - ")[2]
    return [row.split("\n     - ") for row in table.split("\n   * - ")[1:]]


@pytest.mark.parametrize("way", TRIALS)
def test_the_document_names_every_cheat_and_no_other(way: str) -> None:
    named = [name for row in rows() for name in re.findall(r"``(\w+)``", row[COLUMNS[way]])]
    assert {trial.__name__ for trial in TRIALS[way]} == {*named} - {*run.parts(), "safe_depth"}


def test_every_attack_was_tried_by_somebody() -> None:
    assert len(rows()) > 20
    for row in rows():
        assert len(row) == 4
        assert "``" in row[1] + row[2], row[0]


# What the part found ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cheats", [cheating_client, cheating_hub], ids=["client", "hub"])
def test_dust_that_grew_old_while_nothing_was_at_risk_takes_nothing(cheats: ModuleType, tmp_path: Path) -> None:
    result = Result("dust")
    with running_cheat_network(tmp_path, random.Random(1), result) as town:
        cheats.dust_while_nothing_is_at_risk(town)
    assert (result.failures, result.lost) == ([], 0)


def test_no_more_is_credited_than_can_be_watched(tmp_path: Path) -> None:
    result = Result("watched")
    with running_cheat_network(tmp_path, random.Random(1), result) as town:
        assert cheating_hub.more_than_can_be_watched(town) == "ConnectionWornOut"
    assert (result.failures, result.lost) == ([], 0)

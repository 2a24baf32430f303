"""The table of attacks in docs/security.rst names every trial of the part ``cheating``, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from faults import run
from faults.cheating import TRIALS

DOCUMENT = Path(__file__).parents[1] / "docs" / "security.rst"
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

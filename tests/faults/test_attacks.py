"""The table of attacks in docs/security.rst names every trial of the part ``cheating``, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from faults.cheating import TRIALS

DOCUMENT = Path(__file__).parents[2] / "docs" / "security.rst"


def rows() -> list[list[str]]:
    """The cells of the table's rows."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("Attacks and who tried them\n")[2]
    table = section.partition("\nDoors\n")[0].partition("\n   * - ")[2]
    return [[" ".join(cell.split()) for cell in row.split("\n     - ")] for row in table.split("\n   * - ")[1:]]


@pytest.mark.parametrize("way", TRIALS)
def test_the_document_names_every_cheat_and_no_other(way: str) -> None:
    named = [pair for row in rows() for pair in re.findall(r"``(\w+)``(?: \(a (\w+)\))?", row[1])]
    assert {trial.__name__ for trial in TRIALS[way]} == {name for name, only in named if only in ("", way)}


def test_every_attack_was_tried_by_somebody() -> None:
    assert len(rows()) >= 20
    assert all(len(row) == 3 and "``" in row[1] for row in rows())

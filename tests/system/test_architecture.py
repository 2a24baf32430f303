"""docs/architecture.rst names modules and tests that exist, and every module of the ground floor."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from faults import run

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "architecture.rst").read_text(encoding="utf-8")
RULES = DOCUMENT.partition("The money rules\n")[2]
MODULES = sorted(set(re.findall(r"``([\w/]+\.py|[\w/]+/)``", DOCUMENT)))


def rules() -> list[str]:
    """The text of each rule."""
    return [" ".join(text.split()) for text in re.split(r"(?m)^\d+\. ", RULES)[1:]]


@pytest.mark.parametrize("name", MODULES)
def test_what_the_document_names_is_there(name: str) -> None:
    assert (ROOT / "picopayments_cli" / name).exists() or (ROOT / name).exists()


def test_every_module_of_the_ground_floor_has_its_row() -> None:
    rows = DOCUMENT.partition("The ground floor\n")[2].partition("The doors\n")[0]
    named = set(re.findall(r"(?m)^``(\w+)``", rows))
    assert named == {path.stem for path in (ROOT / "picopayments_cli" / "channel").glob("[!_]*.py")}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule[:40])
def test_every_rule_names_a_test_or_a_part_of_the_harness_that_exists(rule: str) -> None:
    named = re.findall(r"``([\w/]+)``", rule.rpartition("(")[2])
    assert named
    for name in named:
        assert name in run.parts() or (ROOT / "tests" / f"{name}.py").exists(), name


def test_the_rules_are_numbered_without_a_gap() -> None:
    numbers = [int(number) for number in re.findall(r"(?m)^(\d+)\. ", RULES)]
    assert numbers == list(range(1, len(numbers) + 1))

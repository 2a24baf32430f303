"""docs/architecture.rst names every module, and functions and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "picopayments_cli"
OTHERS = {"api", "cli", "commands", "completion", "json_arguments", "manpages", "passphrases", "placing"} | {
    "errors",
    "quantities",
}  # of faces and ground
DOCUMENT = (ROOT / "docs" / "architecture.rst").read_text(encoding="utf-8")
RULES = DOCUMENT.partition("The money rules\n")[2]
MODULES = sorted(set(re.findall(r"``([\w/]+\.py|[\w/]+/)``", DOCUMENT)))


def rules() -> list[str]:
    """The text of each rule."""
    return [" ".join(text.split()) for text in re.split(r"(?m)^\d+\. ", RULES)[1:]]


@pytest.mark.parametrize("name", MODULES)
def test_what_the_document_names_is_there(name: str) -> None:
    assert (ROOT / "picopayments_cli" / name).exists() or (ROOT / name).exists()


def modules_in(folder: str, *, below: str = "") -> set[str]:
    """The modules of a folder of the package, as the document names them."""
    return {below + path.stem for path in (PACKAGE / folder).glob("[!_]*.py")}


def shared_floor() -> set[str]:
    """The package ``chain``, its modules, and those beside it."""
    return {"chain", *modules_in("chain", below="chain/"), *modules_in("")} - OTHERS


@pytest.mark.parametrize(
    ("title", "following", "modules"),
    [
        ("The ground floor", "The shared floor", modules_in("channel")),
        ("The shared floor", "The client's wing", shared_floor()),
        ("The client's wing", "The hub's wing", modules_in("client")),
        ("The hub's wing", "The trial network's wing", modules_in("hub")),
        ("The trial network's wing", "The doors", modules_in("regtest")),
    ],
)
def test_every_module_has_its_row(title: str, following: str, modules: set[str]) -> None:
    rows = DOCUMENT.partition(f"{title}\n===")[2].partition(f"{following}\n===")[0]
    assert set(re.findall(r"(?m)^``([\w/]+)``", rows)) == modules


def test_every_question_names_a_function_that_exists() -> None:
    rows = DOCUMENT.partition("Where is it decided?\n")[2].partition("Where does a number stand?\n")[0]
    named = re.findall(r"(?m)^.+? ``([\w/]+\.py)`` ``(\w+)``$", rows)
    assert len(named) > 20
    for module, function in named:
        text = (PACKAGE / module).read_text(encoding="utf-8")
        assert re.search(rf"(?m)^ *(def {function}\(|{function}\b.* = )", text), (module, function)


def test_every_number_names_a_constant_that_exists() -> None:
    rows = DOCUMENT.partition("Where does a number stand?\n")[2].partition("The money rules\n")[0]
    named = re.findall(r"(?m)^.+? ``([\w/]+\.py)`` ``(\w+)``$", rows)
    assert len(named) == len(re.findall(r"\.py``", rows)) > 15
    for module, constant in named:
        text = (PACKAGE / module).read_text(encoding="utf-8")
        assert re.search(rf"(?m)^(class {constant}\b|{constant}\b.* = | +{constant}: int = )", text), (module, constant)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule[:40])
def test_every_rule_names_a_test_or_a_part_of_the_harness_that_exists(rule: str) -> None:
    named = re.findall(r"``([\w/]+)``", rule.rpartition("(")[2])
    assert named
    for name in named:
        part = ROOT / "tests" / "faults" / f"{name}.py"
        assert (ROOT / "tests" / f"{name}.py").exists() or "\ndef run(" in part.read_text(encoding="utf-8"), name


def test_the_rules_are_numbered_without_a_gap() -> None:
    numbers = [int(number) for number in re.findall(r"(?m)^(\d+)\. ", RULES)]
    assert numbers == list(range(1, len(numbers) + 1))

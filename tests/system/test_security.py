"""docs/security.rst names errors, tests and parts of the harness that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from picopayments_cli import errors

TESTS = Path(__file__).parents[1]
DOCUMENT = (TESTS.parent / "docs" / "security.rst").read_text(encoding="utf-8")


def threats() -> list[list[str]]:
    """The cells of the table of threats."""
    table = DOCUMENT.partition("Threats\n#######")[2].partition("\n######")[0]
    return [row.split("\n     - ") for row in table.split("\n   * - ")[2:]]


@pytest.mark.parametrize("threat", threats(), ids=lambda threat: " ".join(threat[0].split())[:40])
def test_every_threat_was_tried_by_a_test_or_a_part_that_exists(threat: list[str]) -> None:
    names = re.findall(r"``([\w/]+)``", threat[2].partition("\n\n")[0])
    assert names
    for name in names:
        part = TESTS / "faults" / f"{name}.py"
        assert (TESTS / f"{name}.py").exists() or "\ndef run(" in part.read_text(encoding="utf-8"), name


def labels(wing: str, door: str) -> Iterator[str]:
    """The labels that a wing's modules give to one of its doors, where they are written out."""
    for path in (TESTS.parent / "picopayments_cli" / wing).rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == door:
                given = [each.value for each in call.args if isinstance(each, ast.Constant)]
                yield from (value for value in given if isinstance(value, str) and re.fullmatch("[a-z ]+", value))


@pytest.mark.parametrize(("wing", "door"), [("client", "save"), ("hub", "transaction")])
def test_every_door_is_named(wing: str, door: str) -> None:
    row = DOCUMENT.partition(f"* ``{wing} {door}`` ")[2].partition("\n* ")[0]
    given, told = set(labels(wing, door)), {" ".join(label.split()) for label in re.findall(r"``([^`]+)``", row)}
    assert len(given) > 8
    assert given <= told
    texts = [*(TESTS.parent / "picopayments_cli").rglob("*.py"), TESTS / "faults" / "tracing.py"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in texts)
    for label in told - {"--workers"}:
        first, _, rest = label.partition(" ")  # of a transaction its kind is the first word
        assert f'"{label}"' in code or (f'"{first}"' in code and f' {rest}"' in code), label


def test_every_error_that_the_document_names_exists() -> None:
    named = set(re.findall(r"``([A-Z][a-z]+[A-Z]\w+)``", DOCUMENT))
    assert len(named) > 20
    for name in named:
        assert issubclass(getattr(errors, name), errors.PicopaymentsError), name

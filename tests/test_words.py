"""The package and its documents say things in sentences: none begins with What, Whoever or "The same,"."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "picopayments_cli").rglob("*.py"))
DOCUMENTS = [ROOT / "README.rst", ROOT / "CONTRIBUTING.rst", *sorted((ROOT / "docs").rglob("*.rst"))]
FIRST = re.compile(r"(What|Whoever|The same,) ?")
HEADING = re.compile(r"(?m)^ *# (.+) -{5,}$")


def docstrings(text: str) -> list[str]:
    """Every docstring of a module."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    return [docstring for docstring in found if docstring]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_and_headings_of_the_package_begin_otherwise(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert [line for line in [*docstrings(text), *HEADING.findall(text)] if FIRST.match(line)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_lines_of_the_documents_begin_otherwise(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if re.match(r" *([*-] )* *(What|Whoever|The same,) ", line)] == []

"""The documents: their command lines are such as the programs take, their settings exist, their lines are short."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from picopayments_cli import cli, config
from picopayments_cli.hub import cli as hub_cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DOCUMENTS = [ROOT / "README.rst", ROOT / "CONTRIBUTING.rst", *sorted(DOCS.rglob("*.rst"))]
LINE = re.compile(r"(?m)^ +\$ (?:sudo -u hub )?((?:.*\\\n)*.*)$")
PARSERS = {"picopayments-cli": cli._parser(), "picopayments-hub": hub_cli._parser()}
ALIASES = {"alice": "picopayments-cli", "bob": "picopayments-cli", "hub": "picopayments-hub"}
GRAMMAR = {"[config", "<command>", "--help"}


def lines(document: Path) -> list[tuple[str, list[str]]]:
    """Each line behind a prompt that calls a program, by its name or an alias of the documents: program and words."""
    found = []
    for line in LINE.findall(document.read_text(encoding="utf-8")):
        words = shlex.split(line.replace("\\\n", " "), comments=True)
        while words and "=" in words[0]:
            del words[0]  # a variable
        program = Path(words[0]).name if words else ""
        program = ALIASES.get(program, program)
        if program in PARSERS and not GRAMMAR & set(words):
            found.append((program, words[1:]))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_programs_take_every_command_line(document: Path) -> None:
    for program, words in lines(document):
        PARSERS[program].read(words)


def test_there_are_command_lines() -> None:
    assert len(lines(DOCS / "tutorial.rst")) > 15
    assert {program for document in DOCUMENTS for program, _ in lines(document)} == set(PARSERS)


def test_the_table_of_settings_is_the_settings() -> None:
    table = (DOCS / "settings.rst").read_text(encoding="utf-8").partition("\nsetting ")[2].partition("\n\n")[0]
    name, default, variable, _ = (
        slice(found.start(), found.end()) for found in re.finditer("=+", table.splitlines()[1])
    )
    rows = [line for line in table.splitlines() if line.startswith("``")]
    told = {row[name].strip(" `"): (row[default].strip(), row[variable].strip(" `")) for row in rows}
    defaults = {item.name: item.default for item in fields(config.Settings)}
    assert told == {
        name: (shown(defaults.get(name)), config.ENVIRONMENT.get(name, "")) for name in config.known_settings()
    }


def shown(default: object) -> str:
    """A default as the table has it: none is left out, a number is whole."""
    return "" if default is None else str(default).lower().removesuffix(".0")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_line_is_longer_than_the_code_s(document: Path) -> None:
    assert [line for line in document.read_text(encoding="utf-8").splitlines() if len(line) > 120] == []

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
CONTRIB = sorted((ROOT / "contrib").iterdir())
LINE = re.compile(r"(?m)^ +\$ (?:sudo -u hub )?((?:.*\\\n)*.*)$")
CALL = re.compile(r"(?:.*(?:\s|bin/))?(picopayments-(?:cli|hub)) ((?:--|[a-z]).*)")
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
            found.append((program, words[1 : words.index("<") if "<" in words else None]))
    return found


def unprompted(path: Path) -> list[tuple[str, list[str]]]:
    """Each call of a program without a prompt: in a block of shell, a comment of contrib/, or a service's unit."""
    text = re.sub(r"\\\n#? *", " ", path.read_text(encoding="utf-8"))
    found = []
    for line in re.findall(r"(?m)^(?:    |# |ExecStart=)(.*)$", text):
        if "$ " not in line and "`" not in line and "--entrypoint" not in line:
            calls = (CALL.fullmatch(part.strip()) for part in line.split("&&"))
            found += [(call[1], shlex.split(call[2])) for call in calls if call]
    return found


@pytest.mark.parametrize("document", [*DOCUMENTS, *CONTRIB], ids=lambda path: path.name)
def test_the_programs_take_every_command_line(document: Path) -> None:
    for program, words in [*lines(document), *unprompted(document)]:
        PARSERS[program].read(words)


def test_there_are_command_lines() -> None:
    assert len(lines(DOCS / "tutorial.rst")) > 15
    assert {program for document in DOCUMENTS for program, _ in lines(document)} == set(PARSERS)
    assert unprompted(ROOT / "README.rst") == [("picopayments-cli", ["--regtest", "demo"])]
    assert {path.name for path in CONTRIB if unprompted(path)} == {path.name for path in CONTRIB}


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


def test_the_table_of_files_has_each_that_the_client_makes() -> None:
    table = (DOCS / "files.rst").read_text(encoding="utf-8")
    client = sorted((ROOT / "picopayments_cli" / "client").glob("*.py"))
    modules = [ROOT / "picopayments_cli" / "config.py", *(path for path in client if path.stem != "legacy")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in modules)
    made = set(re.findall(r'f"\{(?:\w+\.)*(?:name|network)\}\.([a-z][a-z.]*)[/"]', code))
    assert len(made) > 15
    assert {name for name in made if f"``<network>.{name}" not in table} == set()


def test_the_commands_that_are_not_served_are_named() -> None:
    told = (DOCS / "commands.rst").read_text(encoding="utf-8").partition("Not served are ")[2].partition(". Par")[0]
    others = {name for name in cli.NOT_SERVED if not name.startswith("wallet ")}
    assert set(re.findall("``([a-z]+)``", told)) == {*others, "wallet"}

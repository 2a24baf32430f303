"""What contrib/ has starts programs that there are, with words that they take."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from argparse import ArgumentParser
from pathlib import Path

import pytest

from picopayments_cli import cli
from picopayments_cli.config import ENVIRONMENT
from picopayments_cli.hub import cli as hub_cli

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "contrib").glob("*.service"))
DOCKERFILE = (ROOT / "contrib" / "Dockerfile").read_text(encoding="utf-8")
DOCUMENT = (ROOT / "docs" / "hub.rst").read_text(encoding="utf-8")
PARSERS = {"picopayments-cli": cli._parser, "picopayments-hub": hub_cli._parser}
VARIABLES = {*ENVIRONMENT.values(), "PICOPAYMENTS_BASEDIR", "PICOPAYMENTS_NETWORK"}


def parser(program: str) -> ArgumentParser:
    """The parser of a program, which the package installs."""
    assert f"{program}=" in (ROOT / "setup.py").read_text(encoding="utf-8")
    return PARSERS[program]()


def directives(unit: Path) -> dict[str, str]:
    """The settings of a unit."""
    text = unit.read_text(encoding="utf-8").replace("\\\n", "")
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_its_program_in_a_private_folder_that_it_may_write(unit: Path) -> None:
    told = directives(unit)
    program, *words = shlex.split(told["ExecStart"])
    given = parser(Path(program).name).parse_args(words)
    assert (given.network, given.basedir) == ("testnet4", f"/var/lib/{told['StateDirectory']}")
    assert (told["StateDirectoryMode"], told["UMask"]) == ("0700", "0077")
    for path in re.findall(r"/var/lib/\S+", told["ExecStart"]):
        assert path.startswith(given.basedir)
    assert told["User"] == told["StateDirectory"]
    assert told["ProtectSystem"] == "strict"
    assert told["NoNewPrivileges"] == "true"
    assert set(re.findall(r"PICOPAYMENTS_\w+", unit.read_text(encoding="utf-8"))) <= VARIABLES


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_s_first_lines_install_all_that_its_program_needs(unit: Path) -> None:
    installed = re.findall(r"pip install (\S+)$", unit.read_text(encoding="utf-8"), re.MULTILINE)
    starts_hub = directives(unit)["ExecStart"].split()[0].endswith("-hub")
    assert installed == ["'picopayments-cli[hub]'" if starts_hub else "picopayments-cli"]


def test_the_hub_may_write_backups_where_its_unit_says() -> None:
    unit = ROOT / "contrib" / "picopayments-hub.service"
    backups = re.findall(r"picopayments-hub --testnet4 .*backup (/\w+)/", DOCUMENT)
    assert backups
    assert {directives(unit)["ReadWritePaths"]} == {f"-{folder}" for folder in backups}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_knows_all_that_a_unit_says(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert not re.search(r"Unknown|Failed to parse|Invalid", done.stderr), done.stderr


def test_the_image_has_what_it_copies_and_starts_what_it_installs() -> None:
    for line in re.findall(r"(?m)^COPY (?!--from)(.+)$", DOCKERFILE):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists()
    (entry,) = re.findall(r"(?m)^ENTRYPOINT (.+)$", DOCKERFILE)
    parser(*json.loads(entry))
    assert set(re.findall(r"PICOPAYMENTS_\w+", DOCKERFILE)) <= VARIABLES
    assert re.findall(r"(?m)^USER (.+)$", DOCKERFILE) == ["picopayments"]


def test_the_words_of_the_images_examples_are_taken() -> None:
    text = re.sub(r" \\\n#", " ", DOCKERFILE)
    client = re.findall(r"(?m)^# .*? picopayments (--testnet4 serve)$", text)
    status = re.findall(r"(?m)^# .*?exec wallet picopayments-cli (.+)$", text)
    hub = re.findall(r"(?m)^# .*--entrypoint picopayments-hub picopayments (.+)$", text)
    assert (len(client), len(status), len(hub)) == (1, 1, 1)
    for words in (*client, *status):
        parser("picopayments-cli").parse_args(words.split())
    parser("picopayments-hub").parse_args(hub[0].split())

"""The documents against the program: the table of errors, and the tutorial's command lines, typed as they stand."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
from network_support import Client, running_network, wait_until

from picopayments_cli import errors

DOCS = Path(__file__).parents[2] / "docs"
ERRORS, COMMANDS, TUTORIAL = (
    (DOCS / f"{page}.rst").read_text(encoding="utf-8") for page in ("errors", "commands", "tutorial")
)
BASES = {
    errors.PicopaymentsError,
    errors.Unreachable,
    errors.LocalFiles,
    errors.CommandUnfinished,
    errors.PeerMisbehaved,
}


def test_the_table_of_errors_is_the_codes() -> None:
    told: dict[str, tuple[int, str]] = {}
    name = ""
    for line in ERRORS.splitlines():
        row = re.match(r"``(\w+)``\s+(\d)\s+(.+)", line)
        if row:
            name = row[1]
            told[name] = (int(row[2]), row[3])
        elif name and line.startswith(" " * 10):
            told[name] = (told[name][0], f"{told[name][1]} {line.strip()}")
    known = {
        found.__name__: (found.exit_code, " ".join((inspect.getdoc(found) or "").split()))
        for _, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, errors.PicopaymentsError) and found not in BASES
    }
    assert told == known


def test_each_error_has_one_cause_and_an_exit_code_of_the_documents() -> None:
    codes = {int(code) for code in re.findall(r"^(\d+) {2,}\S", COMMANDS, re.MULTILINE)}
    for _, found in inspect.getmembers(errors, inspect.isclass):
        if issubclass(found, errors.PicopaymentsError):
            assert found.exit_code in codes, found


def all_open(clients: Iterable[Client]) -> bool:
    """Whether every connection of these clients is open."""
    shown = [connection for client in clients for connection in client.run("status")["connections"].values()]
    return all(connection["status"] == "open" for connection in shown)


@pytest.fixture
def lines() -> list[list[str]]:
    """The command lines of the payment by hand, as words."""
    block = TUTORIAL.partition("\nA payment by hand\n")[2].partition("\n\n\n")[0]
    return [shlex.split(line.strip()[2:]) for line in block.splitlines() if line.strip().startswith("$ ")]


def test_a_newcomer_settles_a_payment_with_nothing_but_the_tutorial(tmp_path: Path, lines: list[list[str]]) -> None:
    owners: dict[str, Client] = {}
    names: dict[str, str] = {}
    received: list[int] = []
    with running_network(tmp_path, "--host", "127.0.0.1") as network:
        for words in lines:
            if words[0] == "picopayments-hub":
                assert words[1:] == ["--regtest", "--basedir", "/tmp/hub"]
            elif words[0] == "alias":
                name = words[1].partition("=")[0]
                owners[name] = network.client(name, funded=False)
            else:
                owner, command = owners[words[0]], [names.get(word, word) for word in words[1:]]
                if command[0] == "queuepayment":
                    wait_until(partial(all_open, owners.values()), "open connections")
                result = owner.run(*command)
                if command[0] == "connect":
                    names[f"{words[0].upper()}S_HANDLE"] = result["handle"]
                elif command[0] == "sync":
                    found = [payment for each in result.values() for payment in each["received_payments"]]
                    received += [payment["amount"] for payment in found]
        assert received == [1337]
        bob = owners["bob"]
        network.settle(bob, names["BOBS_HANDLE"])
        # his faucet's 100 XCP and the payment, less the fees of his sync and of the one that close makes
        assert bob.balances()["XCP"] == 10_000_000_000 + 1337 - 2

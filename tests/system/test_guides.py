"""The command lines of the guides and of the hub's operator, typed as they stand, on the network of one machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from network_support import FEE, NOBODY, ROUNDS, WAIT, Client, Network

DOCS = Path(__file__).parents[2] / "docs"
GIVEN = 10_000_000_000  # what the faucet gives of XCP
BLOCKS = 20  # mined between two looks
SILENT = (0, 1, 3)  # the codes of a sync while the hub is silent: with nothing to do, with something brought, and else
NETWORK = r"--testnet4?\b|--network \w+"


def lines_of(page: str, heading: str = "") -> list[str]:
    """The command lines of a page, or of its part from one heading to the next."""
    text = (DOCS / page).read_text(encoding="utf-8")
    if heading:
        text = re.split(r"\n\n\n(?=.+\n#+\n)", text.partition(f"\n{heading}\n#")[2])[0]
    found = re.findall(r"(?m)^ +\$ ((?:.*\\\n)*.*)$", text)
    assert found, (page, heading)
    return found


class Machine:
    """A home, a disk and programs like those of the documents; only the network is another one."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.folder = folder
        self.network = network
        self.home = folder / "home"
        self.basedir = self.home / ".local" / "share" / "picopayments-cli"
        self.programs = folder / "programs"
        for made in (self.home, self.programs, folder / "media" / "stick", folder / "backup"):
            made.mkdir(parents=True)
        for program, module in (
            ("picopayments-cli", "picopayments_cli"),
            ("picopayments-hub", "picopayments_cli.hub.cli"),
        ):
            path = self.programs / program
            path.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} --regtest "$@"\n')
            path.chmod(0o700)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PICOPAYMENTS_", "XDG_"))}
        search = f"{self.programs}:{os.environ['PATH']}"
        self.environment: dict[str, str] = {
            **kept,
            "HOME": str(self.home),
            "PATH": search,
            "PICOPAYMENTS_HUB_URL": network.hub_url,
        }
        self.names: dict[str, str] = {}

    def client(self) -> Client:
        """The wallet of the default basedir, with what the faucet gives."""
        client = Client(self.basedir, self.network.hub_url)
        client.run("faucet")
        self.network.mine()
        return client

    def translated(self, line: str) -> str:
        """A line with this machine's network, folders and names."""
        line = re.sub(NETWORK, "", line).replace("sudo -u hub ", "").replace("/srv/hub/env/bin/", "")
        for told, here in {
            "/media/": f"{self.folder}/media/",
            "/backup/": f"{self.folder}/backup/",
            **self.names,
        }.items():
            line = line.replace(told, here)
        return line

    def types(self, line: str, codes: tuple[int, ...] = (0,)) -> Any:
        """Type a line that ends with one of these codes; its JSON, if any. An ``export`` holds from here on."""
        line = self.translated(line)
        if line.startswith("export "):
            name, _, value = shlex.split(line)[1].partition("=")
            self.environment[name] = value
            return None
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        assert done.returncode in codes, (line, done.stdout, done.stderr)
        return json.loads(done.stdout) if done.stdout else None


@pytest.fixture
def machine(tmp_path: Path, network: Network) -> Machine:
    return Machine(tmp_path, network)


def test_who_closes_alone_as_the_guide_says_has_all_of_it_back(machine: Machine) -> None:
    network, client = machine.network, machine.client()
    payer = network.client("payer")
    handle, source = network.open_connection(client, "--expire-time", "40"), network.open_connection(payer)
    payer.run("pay", source, handle, "500")
    assert client.run("sync")[handle]["received_payments"][0]["amount"] == 500
    client.lose_hub(handle)
    node = f"{network.chain_url}bitcoin/"
    machine.names = {"http://127.0.0.1:44000/": network.chain_url, "HANDLE": handle}
    machine.names |= {"http://USER:PASSWORD@127.0.0.1:48332/": node}
    machine.environment["PICOPAYMENTS_HUB_URL"] = NOBODY
    *exports, close, sync, status = lines_of("guides/incidents.rst", "The hub is gone")
    for line in (*exports, close):
        machine.types(line)
    machine.types(sync, SILENT)
    for _ in range(ROUNDS):
        network.mine(BLOCKS)
        machine.types(sync, SILENT)
        if machine.types(status)["connections"][handle]["status"] == "closed":
            break
    assert machine.types(status)["connections"][handle]["status"] == "closed"
    assert machine.types("picopayments-cli balances")["XCP"] == GIVEN + 500 - FEE


def test_the_lines_for_risen_fees_run(machine: Machine) -> None:
    client = machine.client()
    handle = machine.network.open_connection(client)
    address, fees, synced = [machine.types(line) for line in lines_of("guides/incidents.rst", "Fees have risen")]
    assert address == client.run("address")
    assert fees["value"] == 200
    assert list(synced) == [handle]


def test_who_backs_up_and_restores_as_the_guide_says_goes_on(machine: Machine) -> None:
    network, client = machine.network, machine.client()
    words = client.run("wallet", "export")["words"]
    handle = network.open_connection(client)
    (machine.home / "words.txt").write_text(words)
    kept, *by_hand = lines_of("guides/backup.rst")[:3]
    machine.types(kept)
    machine.types("picopayments-cli sync")
    assert (machine.folder / "media" / "stick" / "wallet.backup").stat().st_size > 0
    for line in by_hand:
        assert handle in json.dumps(machine.types(line))
    machine.types("mv .local/share/picopayments-cli lost")
    restored, synced = [machine.types(line) for line in lines_of("guides/backup.rst", "Restore")]
    assert handle in json.dumps(restored)
    assert handle in synced
    new = Client(machine.home / "NEW", network.hub_url)
    assert new.shown(handle)["status"] == "open"  # the hub has signed that this state is the newest
    new.run("close", handle)
    network.settle(new, handle)
    assert new.balances()["XCP"] == GIVEN - 3 * FEE


def test_who_moves_as_the_guide_says_has_the_connection_on_the_new_machine(tmp_path: Path, network: Network) -> None:
    old = Machine(tmp_path / "old", network)
    handle = network.open_connection(old.client())
    new = Machine(tmp_path / "new", network)
    packs, unpacks, status, sync = (
        [line for line in lines_of("guides/moving.rst") if word in line]
        for word in ("--create", "--extract", "status", "sync")
    )
    old.types("umask 077; " + packs[0])
    (old.home / "wallet.tar").rename(new.home / "wallet.tar")
    new.types("mkdir -p ~/.local/share && " + unpacks[0])
    assert new.types(status[0])["connections"][handle]["status"] == "open"
    assert handle in new.types(sync[0])
    assert len(lines_of("guides/moving.rst")) == 5  # and umask


def test_the_operators_lines_run(machine: Machine) -> None:
    network = machine.network
    machine.names = {"/srv/hub/data": str(network.basedir)}
    alias, status = [line for line in lines_of("hub.rst", "Commands") if "hub" in line]
    assert machine.types(f"{machine.translated(alias)}\n{status}")["height"] == network.height
    backup, restore, _restored = lines_of("hub.rst", "Backup")
    machine.types(backup)
    file = machine.folder / "backup" / "hub-1"
    assert file.stat().st_size > 0
    empty = machine.folder / "empty"
    empty.mkdir(mode=0o700)
    shutil.copy(network.basedir / "hub.regtest.wif", empty)
    machine.names = {"/srv/hub/data": str(empty)}
    machine.types(restore)
    assert (empty / "regtest.db").stat().st_size > 0

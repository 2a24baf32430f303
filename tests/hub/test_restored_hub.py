"""Processes: a hub whose database came back from a backup, and the clients that close with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cheats import Town, pay, running_town
from network_support import FEE, HubProcess
from regtest_support import running_node


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """A chain that mines only when told, a hub as a process, and clients of one's own."""
    with running_node(tmp_path / "chain", 0) as node, running_town(tmp_path, node) as running:
        yield running


class RestoredHub:
    """Alice has paid Bob; the hub's database is copied; then they go on, so that the copy holds what is revoked."""

    def __init__(self, town: Town) -> None:
        self.alice, self.bob = town.client("alice"), town.client("bob")
        self.before = town.books()
        self.a, self.b = town.open(self.alice), town.open(self.bob)
        for amount in (100, 5000):
            pay(self.alice, self.a, self.b, amount)
        self.bob.run("sync")
        self.copy = town.copy_books()
        pay(self.bob, self.b, self.a, 5000 + 2 * FEE)
        self.alice.run("sync")  # receives, by the secrets of what it sent
        pay(self.alice, self.a, self.b, 300)
        self.bob.run("sync")
        self.syncs = {"alice": 4, "bob": 3}

    def gains(self) -> dict[str, int]:
        """Return what everybody has gained, as it stood when the disk failed."""
        back = 5000 + 2 * FEE
        fees = {name: number * FEE for name, number in self.syncs.items()}
        alice, bob = -5100 - 300 + back - fees["alice"], 5100 + 300 - back - fees["bob"]
        return {"alice": alice, "bob": bob, "hub": -alice - bob}


def refused(town: Town, *options: str) -> dict[str, Any]:
    """The error with which a hub does not start."""
    hub = HubProcess(town.basedir, "--counterparty-url", town.node.url, *options, ports=())
    assert hub.ready == {}
    assert hub.process.wait(30) == 4
    assert hub.process.stdout is not None
    hub.process.stdout.close()
    error: dict[str, Any] = hub.logged()[-1]["error"]
    return error


def test_a_hub_does_not_start_on_an_old_database_nor_on_another_or_none(town: Town) -> None:
    alice = town.client("alice")
    town.open(alice)
    copy = town.copy_books()
    alice.run("sync")
    town.stop_hub()
    other = town.folder / "other.db"
    assert refused(town, "--database", f"sqlite:///{other}")["name"] == "DatabaseOutdated"
    witness = town.basedir / "hub.regtest.witness.json"
    text = witness.read_bytes()
    witness.unlink()
    assert refused(town)["name"] == "DatabaseOutdated"
    witness.write_bytes(text)
    town.start_hub()
    assert list(town.stages().values()) == ["open"]
    town.restore(copy)
    error = refused(town)
    assert error["name"] == "DatabaseOutdated"
    assert "--restored" in error["message"]


@pytest.mark.parametrize("noticed", [False, True], ids=["told", "noticed"])
def test_after_a_restore_everybody_has_what_it_had(town: Town, noticed: bool) -> None:
    story = RestoredHub(town)
    town.restore(story.copy)
    if noticed:  # by the first client that goes on, as the whole folder is old
        shutil.copy(story.copy.with_suffix(".json"), town.basedir / "hub.regtest.witness.json")
    town.start_hub(*(() if noticed else ("--restored",)))
    town.mine(2)
    assert town.mempool() == []  # the highest commit in the database is one that was given back
    for client, handle in ((story.alice, story.a), (story.bob, story.b)):
        assert "has an old database" in client.done("sync").stderr
        assert client.shown(handle)["status"] == "closing"
    assert ("the database is not the newest there was" in town.hub.log.read_text()) is noticed
    town.settle()
    for name in story.syncs:
        story.syncs[name] += 1  # what pays for the sync that was not answered has left
    held = {name: of["XCP"] for name, of in town.books().held.items()}
    # Not the satoshis: for an asset whose way home it can't tell a restored hub may have made a coin for nothing.
    assert {name: quantity - story.before.held[name]["XCP"] for name, quantity in held.items()} == story.gains()


def test_a_restored_hub_goes_on_with_new_connections(town: Town) -> None:
    story = RestoredHub(town)
    town.restore(story.copy)
    town.start_hub("--restored")
    story.alice.run("sync")
    story.bob.run("sync")
    town.mine(4)
    a, b = town.open(story.alice), town.open(story.bob)
    pay(story.alice, a, b, 700)
    story.bob.run("sync")
    town.stop_hub()
    town.start_hub()  # once is enough
    assert town.stages()[a] == "open"

"""A hub whose database came back from a backup notices it, publishes nothing that it revoked, and all are paid."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from cheats import Town, pay
from network_support import FEE, Client, HubProcess, wait_until
from picopayments_cli.hub2.book import Book
from picopayments_cli.hub2.database import Database, default_url

from picopayments_cli.channel import envelope
from picopayments_cli.channel.values import Handle, Hash
from picopayments_cli.channel2.deadlines import settle_height
from picopayments_cli.channel2.duplex import Half, standing
from picopayments_cli.channel2.messages import CloseRequest
from picopayments_cli.channel2.state import Channel, Commit, offer_of
from picopayments_cli.errors import (
    BadClientSignature,
    DatabaseOutdated,
    HubRestored,
    UnknownRevokeHash,
)
from picopayments_cli.hub.stale_database import Witness
from picopayments_cli.rpc import RpcClient


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
        self.then = self.alice.connection(self.a).duplex.sending
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


def close_body(client: Client, handle: str, said: Half | None) -> dict[str, Any]:
    return envelope.seal(client.key, CloseRequest(Handle(bytes.fromhex(handle)), None, said).as_json())


def revoked_scripts(channel: Channel) -> set[bytes]:
    return {channel.commit_script(item.revoke_hash).output for item in channel.revoked}


# What is noticed ----------------------------------------------------------------------------------------------------


def refused(town: Town, *options: str) -> dict[str, Any]:
    """The error with which a hub does not start."""
    hub = HubProcess(town.basedir, "--counterparty-url", town.node.url, *options, ports=())
    assert hub.ready == {}
    assert hub.process.wait(30) == 4
    assert hub.process.stdout is not None
    hub.process.stdout.close()
    error: dict[str, Any] = hub.logged()[-1]["error"]
    return error


def test_a_hub_does_not_start_on_an_old_database(town: Town) -> None:
    story = RestoredHub(town)
    town.restore(story.copy)
    published = town.mempool()
    error = refused(town)
    assert error["name"] == "DatabaseOutdated"
    assert "--restored" in error["message"]
    town.mine(3)
    assert town.published(story.alice.connection(story.a).duplex.sending) is None
    assert published == []


def test_a_hub_does_not_start_on_another_database_nor_on_none(town: Town) -> None:
    town.open(town.client("alice"))
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


@pytest.mark.parametrize("damage", [b"", b"{}", b"[" * 5000, b"\xff\xfe", b'{"database": 1, "count": "x"}', None])
def test_a_damaged_count_is_none_that_the_database_has(damage: bytes | None, tmp_path: Path) -> None:
    database = Database(default_url(tmp_path, "regtest"))
    path = tmp_path / "witness"
    Witness(path, database, Book(database)).check()
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] if damage is None else damage)
    with pytest.raises(DatabaseOutdated):
        Witness(path, database, Book(database)).check()
    path.write_bytes(whole)
    Witness(path, database, Book(database)).check()
    database.close()


def test_a_hub_starts_again_however_it_ended(town: Town) -> None:
    import signal

    alice = town.client("alice")
    for end in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        town.open(alice, quantity=1000)
        town.stop_hub(end)
        town.start_hub()
    assert list(town.stages().values()) == ["open"] * 3


def test_the_count_beside_the_database_is_never_ahead(town: Town) -> None:
    alice = town.client("alice")
    town.open(alice)
    witness = town.basedir / "hub.regtest.witness.json"
    counted = json.loads(witness.read_text())["count"]
    alice.run("sync")
    wait_until(lambda: json.loads(witness.read_text())["count"] > counted, "another count")
    with sqlite3.connect(town.basedir / "regtest.db") as database:
        (text,) = database.execute("select value from meta where key = 'witness'").fetchone()
    assert json.loads(text)["count"] >= json.loads(witness.read_text())["count"]
    assert witness.stat().st_mode & 0o777 == 0o600


# What becomes of the money ------------------------------------------------------------------------------------------


def test_after_a_restore_everybody_has_what_it_had(town: Town) -> None:
    story = RestoredHub(town)
    town.restore(story.copy)
    town.start_hub("--restored")
    town.mine(2)
    sending = story.alice.connection(story.a).duplex.sending
    assert town.published(sending) is None  # the highest in the database is one that was given back
    for client, handle in ((story.alice, story.a), (story.bob, story.b)):
        done = client.done("sync")
        assert "restored from a backup" in done.stderr
        assert client.shown(handle)["status"] == "closing"
    town.mine()
    assert town.published(sending) not in revoked_scripts(sending)
    town.settle()
    for name in story.syncs:
        story.syncs[name] += 1  # what pays for the sync that was not answered has left
    town.check(story.before, **story.gains())


def test_a_hub_notices_by_a_client_that_its_whole_folder_is_old(town: Town) -> None:
    story = RestoredHub(town)
    town.restore(story.copy)
    shutil.copy(story.copy.with_suffix(".json"), town.basedir / "hub.regtest.witness.json")
    town.start_hub()
    assert "restored from a backup" in story.alice.done("sync").stderr
    assert town.stages()[story.b] == "closing"  # the whole database is old, not this connection alone
    assert "the database is not the newest there was" in town.hub.log.read_text()
    story.bob.run("close", story.b)
    town.settle()
    for name in story.syncs:
        story.syncs[name] += 1
    town.check(story.before, **story.gains())


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
    assert story.bob.shown(b)["received"] == 700 - FEE or story.bob.shown(b)["balance"] > 0
    town.stop_hub()
    town.start_hub()  # once is enough
    assert town.stages()[a] == "open"


def test_a_restored_hub_believes_only_what_it_can_check(town: Town) -> None:
    story = RestoredHub(town)
    town.restore(story.copy)
    town.start_hub("--restored")
    hub = RpcClient(town.hub_url)
    silent = close_body(story.alice, story.a, None)
    assert hub.call("mph_close", silent, retry=False)["spend_secret"] is None  # as the original client says it
    town.mine(3)
    channel = story.alice.connection(story.a).duplex.sending
    assert town.published(channel) is None
    strange = Commit(channel.active[-1].quantity, Hash(bytes(20)), channel.active[-1].signature)
    said = standing(channel)
    with pytest.raises(UnknownRevokeHash):
        hub.call("mph_close", close_body(story.alice, story.a, Half((), offer_of(channel, strange))), retry=False)
    with pytest.raises(BadClientSignature):
        hub.call("mph_close", close_body(story.bob, story.a, said), retry=False)
    given_back = offer_of(story.then, story.then.active[-1])
    with pytest.raises(UnknownRevokeHash):
        hub.call("mph_close", close_body(story.alice, story.a, Half(said.revokes, given_back)), retry=False)
    proposal = dict(story.alice.connection(story.a).proposal)
    with pytest.raises(HubRestored):
        hub.call("mph_deposit", proposal, retry=False)
    assert town.published(channel) is None
    assert hub.call("mph_close", close_body(story.alice, story.a, said), retry=False)["spend_secret"] is None
    highest = channel.commit_script(channel.active[-1].revoke_hash).output
    wait_until(lambda: town.published(channel) == highest, "that commit")


@pytest.mark.parametrize("named", [0, None], ids=["a lower one", "none"])
def test_what_was_not_given_back_can_not_be_denied(town: Town, named: int | None) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    a, b = town.open(alice), town.open(bob)
    for amount in (100, 5000):
        pay(alice, a, b, amount)
    town.restore(town.copy_books())
    town.start_hub("--restored")
    channel = alice.connection(a).duplex.sending
    said = Half((), None if named is None else offer_of(channel, channel.active[named]))
    reply = RpcClient(town.hub_url).call("mph_close", close_body(alice, a, said), retry=False)
    assert reply["spend_secret"] is None
    highest = channel.commit_script(channel.active[-1].revoke_hash).output
    wait_until(lambda: town.published(channel) == highest, "the highest commit")


def test_without_its_clients_word_a_restored_hub_publishes_at_the_deadline(town: Town) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    before = town.books()
    a, b = town.open(alice, expire=40), town.open(bob, expire=40)
    pay(alice, a, b, 5000)
    bob.run("sync")
    town.restore(town.copy_books())
    town.start_hub("--restored")
    bob.run("close", b)
    connection = alice.connection(a)
    channel = connection.duplex.sending
    deadline = settle_height(channel, connection.agreed_height)
    town.mine_to(deadline - 1)
    assert town.published(channel) is None
    town.mine()
    wait_until(lambda: town.published(channel), "the commit")
    town.settle()
    town.check(before, alice=-5000 - FEE, bob=5000 - 2 * FEE, hub=3 * FEE)  # one fee of a sync that is refused

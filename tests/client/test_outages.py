"""An outage of a node ends a command with exit code 3 within its patience, and is never taken for a refusal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from socket import socket
from typing import Any

import pytest
from cheats import Town
from network_support import Client
from servers import talking

DEPOSIT = 1_000_000
MOODS: dict[str, dict[str, Any]] = {
    "index": {"electrs": False},
    "Bitcoin Core": {"bitcoin": False},
    "all": {"electrs": False, "backend": False, "bitcoin": False},
    "late": {"behind": 1},
}
UNASKED = {  # what asks nothing that is away, or answers from the files
    "index": ("getrawtx", "cull", "status"),
    "Bitcoin Core": ("cull", "status"),
    "all": ("cull", "status"),
    "late": ("cull", "status"),
}


@dataclass(frozen=True)
class Here:
    """A client with an open connection."""

    town: Town
    client: Client
    handle: str

    @property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        """Return every command that asks the chain; ``close`` is the last."""
        client, own = self.client, self.client.run("balances", "--asset", "BTC")
        assert own["BTC"] > 0
        address = next(iter(client.run("status")["wallet"].values()))
        assert isinstance(address, str)
        txid = client.connection(self.handle).deposit_raw
        assert txid
        return (
            ("balances",),
            ("listutxos", address),
            ("searchrawtxs", address),
            ("getrawtx", 64 * "a"),
            ("blocksend", "BTC", address, "1000"),
            ("connect", "XCP", "1000", "--expire-time", "40"),
            ("status",),
            ("sync",),
            ("cull",),
            ("close", self.handle),
        )


@pytest.fixture
def here(town: Town) -> Iterator[Here]:
    client = town.client("alice")
    handle = town.open(client)
    settings = client.basedir / "regtest.cfg"
    settings.write_text(json.dumps({**town.views, "timeout": 1}))
    yield Here(town, client, handle)
    town.node.rpc("setmood")


def went(here: Here, words: tuple[str, ...]) -> tuple[int, str]:
    """The exit code of a command, and the error that it names; it changes nothing on disk where it fails."""
    before = here.client.files()
    done = here.client.done(*words)
    if done.code:
        assert here.client.files() == before
    elif words[0] == "status":
        assert json.loads(done.stdout)["chain"] is None
    return done.code, done.error["name"] if done.code else ""


@pytest.mark.parametrize("mood", MOODS)
def test_an_outage_ends_a_command_with_exit_code_3(here: Here, mood: str) -> None:
    commands = here.commands
    here.town.node.rpc("setmood", **MOODS[mood])
    alone = mood in ("index", "late")  # Bitcoin Core is there, and closes
    outcomes = {words[0]: went(here, words) for words in commands if not (alone and words[0] == "close")}
    assert {name: outcome for name, outcome in outcomes.items() if name not in UNASKED[mood]} == {
        name: (3, "NodeBehind" if mood == "late" else "NodeUnreachable")
        for name in outcomes
        if name not in UNASKED[mood]
    }
    assert {outcomes[name] for name in UNASKED[mood]} == {(0, "")}
    here.town.node.rpc("setmood")
    assert here.client.shown(here.handle)["status"] == "open"


def test_without_bitcoin_core_beside_it_the_counterparty_nodes_word_is_an_outage_too(here: Here) -> None:
    commands = here.commands
    settings = {"chain_url": here.town.node.url, "timeout": 1}
    (here.client.basedir / "regtest.cfg").write_text(json.dumps(settings))
    here.town.node.rpc("setmood", backend=False)
    outcomes = {words[0]: went(here, words) for words in commands}
    assert (outcomes.pop("cull"), outcomes.pop("status")) == ((0, ""), (0, ""))
    assert set(outcomes.values()) == {(3, "NodeUnreachable")}


def _silent(connection: socket) -> None:
    connection.recv(1)


def test_nothing_waits_for_a_bitcoin_node_longer_than_the_time_out_says(here: Here) -> None:
    commands = here.commands
    with talking(_silent) as (url, _):
        for bitcoin_url, seconds in (("http://127.0.0.1:1/", 1.5), (url, 3.0)):
            settings = {**here.town.views, "bitcoin_url": bitcoin_url, "timeout": 1}
            (here.client.basedir / "regtest.cfg").write_text(json.dumps(settings))
            for words in commands:
                if words[0] == "cull":
                    continue
                begun = time.monotonic()
                assert went(here, words) == ((0, "") if words[0] == "status" else (3, "NodeUnreachable")), words
                assert time.monotonic() - begun < seconds + 2, words  # a connection, and two waits

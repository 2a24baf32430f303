"""What a user sees: of a connection on its way, with the hub gone, and with none set."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from network_support import ASSETS, DEPOSIT, FEE, NOBODY, Client, wait_until
from regtest_support import NodeProcess
from served_support import QuickNetwork

from picopayments_cli.channel.outlook import WaitsFor

README = (Path(__file__).parents[2] / "README.rst").read_text(encoding="utf-8")
SHOWN = README.partition("\nstatus\n======\n")[2].partition("\nsync\n====\n")[0]


@pytest.fixture
def network(tmp_path: Path, chains: Callable[[int], NodeProcess]) -> Iterator[QuickNetwork]:
    """A hub of one's own, which may be ended."""
    running = QuickNetwork(tmp_path, chains(1))
    try:
        yield running
    finally:
        if running.hub.lives:
            running.stop()


def shown(client: Client) -> tuple[dict[str, Any], int]:
    """The one connection, and all XCP that the client has by ``status``."""
    status = client.run("status")
    (connection,) = status["connections"].values()
    return connection, connection["balance"] + status["wallet"]["balances"].get("XCP", 0)


def awaited(connection: dict[str, Any]) -> tuple[str, int | None]:
    """What it waits for, and how long: on regtest nobody knows."""
    assert connection["about_seconds"] is None
    return connection["waiting_for"], connection["until_height"]


def test_from_connect_to_closed_it_says_what_it_waits_for_and_counts_money_once(network: QuickNetwork) -> None:
    client = network.client("alice")
    assert client.run("address") == client.run("status")["wallet"]["address"]
    handle = client.run("connect", "XCP", str(DEPOSIT))["handle"]
    connection, total = shown(client)
    assert (connection["status"], *awaited(connection)) == ("opening", "deposit", network.height + 1)
    assert (connection["balance"], total) == (0, ASSETS)
    network.mine()
    connection, total = shown(client)
    assert (connection["status"], *awaited(connection)) == ("opening", "hub_deposit", network.height + 1)
    assert (connection["balance"], total) == (DEPOSIT, ASSETS)
    network.mine()
    wait_until(lambda: shown(client)[0]["status"] == "open", "an open connection")
    assert {"waiting_for", "until_height", "about_seconds"}.isdisjoint(shown(client)[0])
    client.run("queuepayment", handle, handle, "5")
    client.run("close", handle)
    words = set()
    for _ in range(6):
        connection, total = shown(client)
        assert total == ASSETS - FEE
        if connection["status"] == "closed":
            break
        words.add(awaited(connection)[0])
        network.mine()
        assert shown(client)[1] == ASSETS - FEE
        client.run("sync")
    assert connection["status"] == "closed"
    assert words <= {"sync", "confirmations"}
    assert client.balances()["XCP"] == ASSETS - FEE


def test_with_the_hub_gone_files_answer_and_errors_say_what_can_be_done_alone(
    network: QuickNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = network.client("alice")
    handle = network.open_connection(client)
    before = client.run("status")
    height, expiry = network.height, client.connection(handle).expiry.height
    network.stop()
    done = client.done("status", "--verbose")
    told = done.result
    assert (told["chain"], told["error"]["name"], told["last_look"]["height"]) == (None, "HubUnreachable", height)
    assert "from the files" in done.stderr
    wallet, connection = told["wallet"], told["connections"][handle]
    assert (wallet["address"], wallet["balances"]) == (before["wallet"]["address"], None)
    assert wallet["last_look"]["balances"] == before["wallet"]["balances"]
    assert (connection["status"], connection["last_look"]["status"]) == ("unknown", "open")
    assert [client.done(word).code for word in ("address", "history", "config")] == [0, 0, 0]
    for words in (["sync"], ["close", handle]):
        done = client.done(*words)
        assert (done.code, done.error["name"], done.error["data"]["alone"]) == (3, "HubUnreachable", {handle: expiry})
        assert "chain_url" in done.error["message"]
        assert f"from block {expiry} on" in done.error["message"]
    assert "chain_url" in client.done("hubstatus").error["message"]
    (client.basedir / "regtest.seen").write_text('{"wallet": 5, "connections": [1]}')  # it is for showing only
    assert client.run("status")["last_look"] is None

    monkeypatch.setenv("PICOPAYMENTS_CHAIN_URL", network.chain_url)
    assert client.run("status")["connections"][handle]["status"] == "open"
    assert client.fails("close", handle) == (3, "HubUnreachable")
    connection, _ = shown(client)
    assert (connection["status"], *awaited(connection)) == ("closing", "hub", expiry)
    done = client.done("sync")
    assert (done.code, done.error["name"]) == (3, "HubUnreachable")
    assert re.search(rf"{handle} is closing, and that is not done.* from block {expiry} on", done.error["message"])


def test_with_no_hub_set_status_shows_the_wallet_and_says_how_to_name_one(tmp_path: Path) -> None:
    client = Client(tmp_path / "alice", NOBODY)

    def words(*words: str) -> list[str]:
        return ["--testnet", "--basedir", str(client.basedir), *words]

    client.words = words  # type: ignore[method-assign]
    done = client.done("status")
    told = done.result
    assert (told["chain"], told["last_look"], told["connections"]) == (None, None, {})
    assert told["error"]["name"] == "InvalidSetting"
    assert "--hub-url" in told["error"]["message"]
    assert "picopayments-hub" in told["error"]["message"]
    assert told["wallet"]["address"] == client.run("address")
    assert (client.basedir / "testnet.wif").exists()
    assert client.fails("balances") == (1, "InvalidSetting")


def test_the_readme_explains_all_that_status_shows(network: QuickNetwork) -> None:
    client = network.client("alice")
    client.run("connect", "XCP", str(DEPOSIT))
    (connection,) = client.run("status", "--verbose")["connections"].values()
    named = {*connection, *connection["terms"], *(word.value for word in WaitsFor)}
    assert {name for name in named if not re.search(rf'["`]{name}["`]', SHOWN)} == set()

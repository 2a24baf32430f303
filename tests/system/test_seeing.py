"""What a user sees: of a connection on its way, with the hub gone, and with none set."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import pytest
from network_support import ASSETS, DEPOSIT, FEE, NOBODY, Client, refusal, wait_until
from regtest_support import NodeProcess
from served_support import QuickNetwork

from picopayments_cli import cli
from picopayments_cli.channel.outlook import WaitsFor
from picopayments_cli.commands import COMMANDS
from picopayments_cli.rpc import RpcClient

REFERENCE = (Path(__file__).parents[2] / "docs" / "commands.rst").read_text(encoding="utf-8")
KEYED = ("import", "restore")  # they read a key from standard input
SHOWN = REFERENCE.partition("\nstatus\n======\n")[2].partition("\nsync\n====\n")[0]


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
    client.queue_unseen(handle, "ab" * 32, 5)
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
    address = client.run("address")
    done = client.done("status")
    told = done.result
    assert (told["chain"], told["last_look"], told["connections"]) == (None, None, {})
    assert told["error"]["name"] == "InvalidSetting"
    assert "--hub-url" in told["error"]["message"]
    assert "picopayments-hub" in told["error"]["message"]
    assert told["wallet"]["address"] == address
    assert client.fails("balances") == (1, "InvalidSetting")


def test_the_reference_explains_all_that_status_shows(network: QuickNetwork) -> None:
    client = network.client("alice")
    client.run("connect", "XCP", str(DEPOSIT))
    (connection,) = client.run("status", "--verbose")["connections"].values()
    named = {*connection, *connection["terms"], *(word.value for word in WaitsFor)}
    assert {name for name in named if not re.search(rf'["`]{name}["`]', SHOWN)} == set()


# Waiting ------------------------------------------------------------------------------------------------------------


@contextmanager
def mining(network: QuickNetwork) -> Iterator[None]:
    """Blocks that come by themselves, no faster than a command can look at one."""
    over = threading.Event()

    def mine() -> None:
        while not over.wait(1.0):
            network.mine()

    miner = threading.Thread(target=mine)
    miner.start()
    try:
        yield
    finally:
        over.set()
        miner.join()


def test_a_wait_holds_nothing_up_and_is_ended_without_harm(network: QuickNetwork) -> None:
    client = network.client("alice")
    command = [sys.executable, "-m", "picopayments_cli", *client.words("connect", "XCP", str(DEPOSIT), "--wait")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        line = next(line for line in waiting.stderr if "waits for" in line)
        ((handle, connection),) = client.run("status")["connections"].items()
        assert (
            line
            == f"{handle[:8]} is opening, waits for deposit until block {network.height + 1}, now at {network.height}\n"
        )
        assert connection["status"] == "opening"
        waiting.send_signal(signal.SIGINT)
        stdout, stderr = waiting.communicate(timeout=30)
    error = json.loads(stderr.splitlines()[-1])["error"]
    assert (waiting.returncode, stdout, error["name"]) == (130, "", "Interrupted")
    assert f"Nothing is lost: {handle[:8]} is opening" in error["message"]
    assert error["message"].endswith(" status` shows when.")

    done = client.done("sync", "--wait", "--timeout", "1")
    assert (done.code, done.error["name"]) == (6, "WaitRanOut")
    told = {"status": "opening", "waiting_for": "deposit", "until_height": network.height + 1}
    assert done.error["data"] == {
        "connections": {handle: told},
        "result": {handle: {"txids": [], "received_payments": [], "sent_payments": [], "refused_payments": []}},
    }


def test_commands_wait_until_connections_are_open_or_closed(network: QuickNetwork) -> None:
    client = network.client("alice")
    with mining(network):
        handle = client.run("connect", "XCP", str(DEPOSIT), "--wait")["handle"]
        assert client.shown(handle)["status"] == "open"
        done = client.done("close", handle, "--wait", "--timeout", "60")
        assert re.search(rf"{handle[:8]} is closing, waits for .*\n(.*\n)*{handle[:8]} is closed", done.stderr)
    assert client.run("close", handle)["txid"] == done.result["txid"]  # the hub has closed its own channel meanwhile
    shown = client.shown(handle)
    assert (shown["status"], shown["balance"], client.balances()["XCP"]) == ("closed", 0, ASSETS - FEE)
    assert client.run("sync", "--wait") in ({}, {handle: {"received_payments": [], "txids": []}})


def test_a_wait_for_what_closes_with_the_hub_gone_goes_on_until_it_runs_out(
    network: QuickNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = network.client("alice")
    handle = network.open_connection(client, "--expire-time", "14")
    network.stop()
    monkeypatch.setenv("PICOPAYMENTS_CHAIN_URL", network.chain_url)
    done = client.done("close", handle, "--wait", "--timeout", "1")
    assert (done.code, done.error["name"]) == (6, "WaitRanOut")
    expiry = client.connection(handle).expiry.height
    assert done.error["data"]["connections"][handle]["until_height"] == expiry
    typed = f"`picopayments-cli --regtest --basedir {client.basedir} "
    assert typed in done.error["message"]
    assert "sync` takes the next step" in done.error["message"]
    RpcClient(f"{network.chain_url}regtest/").call("generate", {"blocks": 12}, retry=False)
    miner = threading.Timer(2, lambda: RpcClient(f"{network.chain_url}regtest/").call("generate", [2], retry=False))
    miner.start()
    client.run("sync", "--wait", "--timeout", "30")
    miner.join()
    assert client.shown(handle)["status"] == "closed"
    assert client.balances()["XCP"] == ASSETS


# Rehearsals ---------------------------------------------------------------------------------------------------------


def rehearsed(network: QuickNetwork, client: Client, *words: str) -> dict[str, Any]:
    """The result of a command with --dry-run, which changes no file and publishes nothing."""
    before, mempool = client.files(), network.bitcoin("getrawmempool")
    told: dict[str, Any] = client.run(*words, "--dry-run")
    assert (client.files(), network.bitcoin("getrawmempool")) == (before, mempool)
    return told


def published(network: QuickNetwork, txid: str) -> tuple[int, int]:
    """The fee of a transaction in the mempool, in satoshis, and its size in vB."""
    entry = network.bitcoin("getmempoolentry", txid)
    return round(entry["fees"]["base"] * 1e8), entry["vsize"]


def test_a_dry_run_tells_sizes_and_fees_as_they_will_be_and_does_nothing(network: QuickNetwork) -> None:
    client = network.client("alice")
    client.run("faucet", "--btc", "1BTC")
    network.mine()
    address = client.run("address")
    sent = ("blocksend", "XCP", address, "5")
    (told,) = rehearsed(network, client, *sent)["transactions"]
    fee, size = published(network, client.run(*sent))
    assert (told["kind"], told["fee"], told["pays"][0]) == ("send", fee, {"address": address, "value": 546})
    assert 0 <= told["size"] - size <= 2  # signatures are sometimes shorter
    network.mine()

    connect = ("connect", "XCP", str(DEPOSIT))
    told = rehearsed(network, client, *connect)
    assert (told["deposit"], told["hub_deposit"], told["expire_height"]) == (DEPOSIT, DEPOSIT, network.height + 1024)
    opened = client.run(*connect)
    (deposit,) = told["transactions"]
    assert (deposit["fee"], told["carries"]) == (
        published(network, opened["send_deposit_txid"])[0],
        deposit["pays"][0]["value"],
    )
    network.mine(2)
    handle = opened["handle"]
    wait_until(lambda: client.shown(handle)["status"] == "open", "an open connection")
    bob = network.client("bob")
    other = network.open_connection(bob)
    bob.run("queuepayment", other, handle, "300")
    bob.run("sync")
    client.run("queuepayment", handle, other, "100")
    client.run("sync")
    bob.run("sync")
    client.run("queuepayment", handle, other, "50")  # beside the commit that was received, of which no part goes back
    client.run("sync")

    told = rehearsed(network, client, "close", handle)
    assert told["sync_fee"] == FEE
    expiry = client.connection(handle).expiry.height
    kinds = [(item["kind"], item["of"]) for item in told["alone"]]
    assert kinds == [("commit", "hub_deposit"), ("payout", "hub_deposit"), ("expire", "deposit")]
    assert [item.get("from_height") for item in told["alone"]][1:] == [network.height + 2, expiry]
    agreed = {(item["kind"], item["of"]) for item in told["agreed"]}
    assert agreed == {("close", "deposit"), ("close", "hub_deposit"), ("rest", "deposit")}
    client.run("close", handle)
    fees = sorted(published(network, txid)[0] for txid in network.bitcoin("getrawmempool"))
    assert fees == sorted(item["fee"] for item in told["agreed"] if item["kind"] == "close")


def test_a_dry_run_refuses_what_the_command_would(network: QuickNetwork) -> None:
    client = network.client("alice")
    for words, name in (
        (("connect", "XCP", str(2 * ASSETS)), "InsufficientFunds"),
        (("connect", "XCP", "1000", "--expire-time", "5"), "InvalidTime"),
        (("blocksend", "BTC", client.run("address"), "5"), "InvalidQuantity"),
        (("close", "00" * 32), "UnknownHandle"),
    ):
        assert refusal(client, *words, "--dry-run")[:2] == refusal(client, *words)[:2] == (1, name)


# For people ---------------------------------------------------------------------------------------------------------


def test_people_get_tables_and_plain_lines(network: QuickNetwork) -> None:
    client = network.client("alice")
    handle = client.run("connect", "XCP", str(DEPOSIT))["handle"]
    done = client.done("--human", "status")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["XCP", f"{ASSETS:,}"] in lines
    assert ["asset", "quantity", "(satoshis)"] in lines
    (row,) = (line for line in lines if line[:1] == [handle[:8]])
    assert row[1:3] == ["opening", "XCP"]
    assert {"deposit", str(network.height + 1)} <= set(row)
    assert "{" not in done.stdout
    verbose = client.done("--human", "status", "--verbose").stdout
    assert verbose.startswith(done.stdout.rstrip())
    assert ["hub", "deposit", "(satoshis)", f"{DEPOSIT:,}"] in [line.split() for line in verbose.splitlines()]
    assert client.done("--human", "payments").stdout == "No payments.\n"
    assert client.done("--human", "address").stdout == client.run("address") + "\n"
    assert {handle[:8], "connected"} <= set(client.done("--human", "history").stdout.split())
    done = client.done("--human", "close", "00" * 32)
    assert (done.code, done.stdout) == (1, "")
    assert re.fullmatch(
        r"error: There is no connection 0{64} on regtest .* \(UnknownHandle\)", done.stderr.splitlines()[-1]
    )
    done = client.done("--human", "status", "--nope")
    assert (done.code, done.stderr.splitlines()[-1][:7]) == (2, "error: ")
    network.stop()
    assert "From the files" in client.done("--human", "status").stdout


@pytest.mark.parametrize("cache", ["seen", "rate", "coins"])
def test_a_cache_that_can_not_be_written_costs_no_command_its_result(
    network: QuickNetwork, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = network.client("alice"), network.client("bob")
    handle, payee = network.open_connection(alice), network.open_connection(bob)
    path = bob.basedir / f"regtest.{cache}"
    path.unlink(missing_ok=True)
    path.mkdir(mode=0o700)  # nothing can be written in its place, as on a disk that is full
    monkeypatch.setenv("PICOPAYMENTS_CHAIN_URL", network.chain_url)
    monkeypatch.setenv("PICOPAYMENTS_BITCOIN_URL", f"{network.chain_url}bitcoin/")
    network.hub.call("feerate", rate=3)
    alice.run("pay", handle, payee, "5")
    done = [bob.done("status")]
    network.hub.call("feerate", rate=4)
    done += [bob.done("sync"), bob.done("close", payee)]
    status, synced, closed = (each.result for each in done)
    assert status["connections"][payee]["status"] == "open"
    assert [item["amount"] for item in synced[payee]["received_payments"]] == [5]
    assert closed["hub"] == "agreed"
    assert "can't be used: Is a directory" in "".join(each.stderr for each in done)
    assert path.is_dir()


def test_change_that_no_block_has_is_told_of(network: QuickNetwork) -> None:
    client = network.client("alice")
    assert "Change of" not in client.done("status").stderr
    client.run("connect", "XCP", str(DEPOSIT))
    told = [client.done(*words) for words in (["status"], ["balances"], ["--human", "status"])]
    network.mine()
    later = client.done("balances")
    assert (told[1].result["BTC"], "Change of" in later.stderr) == (0, False)
    for done in told:
        assert f"Change of {later.result['BTC']} satoshis (BTC) waits for the next block" in done.stderr
    assert "Change of" not in client.done("balances", "--address", client.run("address")).stderr


UNKNOWN = ("ab" * 32, "cd" * 32)
IN_NO_WALLET = {  # what is typed in an empty folder behind each command that a wallet is needed for
    **dict.fromkeys(("status", "sync", "serve", "listen", "payments", "history", "cull", "balances"), ("",)),
    **{name: ("",) for name in COMMANDS if name.startswith("wallet ") and name.split()[1] not in (*KEYED, "new")},
    "connect": ("XCP 5000", "XCP 5000 --dry-run", "XCP 5000 --wait"),
    "blocksend": ("XCP {hub} 5000", "BTC {hub} 5000", "BTC {hub} 5000 --dry-run"),
    "pay": (f"{UNKNOWN[0]} {UNKNOWN[1]} 5",),
    "queuepayment": (f"{UNKNOWN[0]} {UNKNOWN[1]} 5",),
    "close": (UNKNOWN[0], f"{UNKNOWN[0]} --dry-run"),
    "request": (f"{UNKNOWN[0]} 5",),
    "cancelpayment": ("aa",),
    "backup": ("{folder}/backup",),
}
WITHOUT_A_WALLET = {
    **dict.fromkeys(("address", "faucet", "wallet new", "hubstatus", "config", "mine", "feerate", "version"), ("",)),
    "listutxos": ("{hub}",),
    "searchrawtxs": ("{hub}",),
    "getrawtx": (UNKNOWN[0],),
    "decode": ("picopay",),
}
OTHERS = {"demo", "help", "completion", "restore", *(f"wallet {name}" for name in KEYED)}


def test_no_command_names_an_address_whose_key_is_not_on_disk_or_does_nothing_in_a_folder_without_a_wallet(
    network: QuickNetwork,
) -> None:
    """A wrong --basedir, or a forgotten --testnet, leads to such a folder."""
    assert {*IN_NO_WALLET, *WITHOUT_A_WALLET} | OTHERS == set(COMMANDS)
    hub = network.client("any", funded=False).run("hubstatus")["funding_addresses"]["BTC"]
    for name, lines in {**IN_NO_WALLET, **WITHOUT_A_WALLET}.items():
        for line in lines:
            new = network.client("new", funded=False)
            words = line.format(hub=hub, folder=network.folder).split()
            done = new.done(*name.split(), *words)
            told = set(re.findall(r"bcrt1[a-z0-9]{20,}", done.stdout + done.stderr)) - {hub}
            there = (new.basedir / "regtest.wallet").exists()
            assert told <= ({new.wallet.address} if there else set()), (name, line)
            assert there == (name in ("address", "faucet", "wallet new")), (name, line)
            if name in IN_NO_WALLET:
                assert (done.code, done.error["name"], done.stdout) == (4, "WalletMissing", ""), (name, line)


def test_a_folder_with_the_wallet_of_another_network_is_said_to_have_it(tmp_path: Path) -> None:
    client = Client(tmp_path / "client", NOBODY)
    client.run("address")
    out = io.StringIO()
    with redirect_stderr(out):
        assert cli.main(["--testnet", "--basedir", str(client.basedir), "status"]) == 4
    told = json.loads(out.getvalue())["error"]
    assert told["name"] == "WalletMissing"
    assert "There is one of regtest: did you mean --network regtest?" in told["message"]
    assert f"`picopayments-cli --testnet --basedir {client.basedir} restore FILE`" in told["message"]


def test_a_look_makes_no_wallet_and_names_who_has_the_connections_of_one_that_came_by_its_key(
    network: QuickNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = network.client("old")
    handle = network.open_connection(old)
    key = old.run("wallet", "export")["wif"]
    new = network.client("new", funded=False)
    for words in (["status"], ["balances"]):
        assert new.fails(*words) == (4, "WalletMissing")
    monkeypatch.setattr(sys, "stdin", io.StringIO(key))
    done = new.done("wallet", "import")  # nothing of a look is in its way
    assert done.result["address"] == old.run("address")
    for told in (done, new.done("status")):
        assert "sync` has the hub give them back" in told.stderr
    new.run("sync")
    told = new.done("status")
    assert list(told.result["connections"]) == [handle]
    assert "give them back" not in told.stderr

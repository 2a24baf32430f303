"""The original client's basedirs: wallet, settings and history go on, and its connections are left to that client."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from network_support import COINS, WAIT, Client, Network
from original_support import HANDLE, KEPT, NOBODY, PAYEE, QUEUED, write_original, write_wallet

from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.client import legacy

DATA = Path(__file__).parents[1] / "data"
OTHER = "cd" * 32


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Its connections ----------------------------------------------------------------------------------------------------


def test_the_wallet_goes_on_and_the_connections_are_named(network: Network) -> None:
    client = network.client("alice", funded=False)
    write_wallet(client.basedir)
    client.run("faucet")
    network.mine()
    files = write_original(client.basedir, "regtest", {HANDLE: KEPT, OTHER: {}, "no handle": None})
    done = client.done("status")
    assert done.result["connections"] == {}
    assert done.result["wallet"]["balances"]["BTC"] == COINS
    notes = [line for line in done.stderr.splitlines() if "1.0.4" in line]
    assert len(notes) == 1
    assert all(text in notes[0] for text in (HANDLE, OTHER, "expired", "Run 1.0.4"))
    assert "regtest.wif" in done.stderr
    assert "private" in done.stderr
    assert {name: mode_of(client.basedir / name) for name in files} == dict.fromkeys(files, 0o600)

    handle = network.open_connection(client)
    assert client.run("cull") == []
    assert list(client.run("sync")) == [handle]
    assert list(client.run("status")["connections"]) == [handle]
    done = client.done("status", "--handle", handle)
    assert list(done.result["connections"]) == [handle]
    assert "1.0.4" not in done.stderr
    assert {name: content for name, content in client.files().items() if name in files} == files


@pytest.fixture
def offline(tmp_path: Path) -> Client:
    """A client whose hub is gone, with a wallet of testnet's keys and no connections."""
    recorded = json.loads((DATA / "channel_vectors.json").read_text())
    (tmp_path / "regtest.wif").write_text(recorded["keys"]["payee"]["wif"])
    return Client(tmp_path, NOBODY)


@pytest.mark.parametrize(
    "words",
    [
        ("status", "--handle", HANDLE),
        ("status", "--handle", HANDLE[:9]),
        ("sync", "--handle", HANDLE),
        ("close", HANDLE),
        ("cull", "--handle", HANDLE),
        ("queuepayment", HANDLE, PAYEE, "400", "--token", "c0ffee"),
        ("queuepayment", HANDLE, PAYEE, "5"),
    ],
)
def test_a_command_that_is_given_one_says_who_settles_it(offline: Client, words: tuple[str, ...]) -> None:
    write_original(offline.basedir, "regtest")
    before = offline.files()
    done = offline.done(*words)
    assert (done.code, done.error["name"], done.error["data"]) == (1, "ConnectionTooOld", {"handles": [HANDLE]})
    assert "Run 1.0.4" in done.error["message"]
    assert offline.files() == before


def test_a_handle_that_nobody_knows_is_unknown(offline: Client) -> None:
    write_original(offline.basedir, "regtest")
    for words in (("sync", "--handle", OTHER), ("close", OTHER), ("status", "--handle", OTHER)):
        assert offline.fails(*words) == (1, "UnknownHandle")


def test_payments_that_can_be_read_are(offline: Client) -> None:
    paid = {"handle": PAYEE, "amount": 4, "token": "aa"}
    sent = [paid, None, {**paid, "amount": "x"}, {"amount": 4}, {**paid, "handle": None, "token": "bb"}]
    write_original(offline.basedir, "regtest", {HANDLE: {"payments_sent": sent}, OTHER: 5, "x": {"payments_sent": 5}})
    read = legacy.read_payments(offline.basedir, NETWORKS["regtest"])
    assert [(event["action"], event["payee_handle"], event["token"]) for event in read] == [
        ("sent", PAYEE, "aa"),
        ("sent", None, "bb"),
    ]


# Its files ----------------------------------------------------------------------------------------------------------


def test_the_history_goes_on_where_the_originals_ended(offline: Client) -> None:
    write_original(offline.basedir, "regtest", {HANDLE: KEPT, OTHER: {}})
    shown = offline.run("history")
    assert [event["action"] for event in shown] == ["publish_c2h_deposit_tx", "queue_micropayment"]
    assert shown[1] == {
        "handle": HANDLE,
        "time": "2017-03-20T08:53:21.500Z",
        "imported": True,
        "action": "queue_micropayment",
        "id": QUEUED,
        "fee": "0XCP",
        "quantity": "7XCP",
        "destination": PAYEE,
    }
    assert offline.run("history", "--handle", HANDLE) == shown
    assert offline.run("history", "--handle", OTHER) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"connections": []}', "[" * 100_000])
def test_a_damaged_data_file_is_an_error_that_names_it(offline: Client, content: str) -> None:
    write_original(offline.basedir, "regtest")
    (offline.basedir / "regtest.data").write_text(content)
    before = offline.files()
    for words in (("status",), ("sync", "--handle", HANDLE)):
        done = offline.done(*words)
        assert (done.code, done.error["name"]) == (4, "StoreDamaged")
        assert done.error["data"] == {"path": str(offline.basedir / "regtest.data")}
    assert offline.fails("sync") == (3, "HubUnreachable")  # it may have connections of this key
    assert offline.files() == before


def test_a_hub_that_is_down_changes_no_file(offline: Client) -> None:
    write_original(offline.basedir, "regtest")
    before = offline.files()
    assert offline.fails("balances") == (3, "HubUnreachable")
    assert offline.run("status")["chain"] is None
    assert offline.files() == before


def test_a_key_of_ours_that_others_can_read_is_refused_as_ever(offline: Client) -> None:
    (offline.basedir / "regtest.wif").chmod(0o644)
    assert offline.fails("status") == (4, "StoreUnusable")
    assert mode_of(offline.basedir / "regtest.wif") == 0o644


def test_settings_are_kept_beside_the_first_ones_that_replace_them(offline: Client) -> None:
    files = write_original(offline.basedir, "regtest")
    assert offline.run("config", "hub_verify_ssl_cert")["value"] is False
    offline.run("config", "timeout", "5")
    offline.run("config", "timeout", "6")
    assert (offline.basedir / "regtest.cfg.1.0.4.backup").read_bytes() == files["regtest.cfg"]
    now = json.loads((offline.basedir / "regtest.cfg").read_text())
    assert (now["timeout"], now["hub_verify_ssl_cert"]) == (6, False)


@pytest.mark.parametrize("network", ["testnet", "mainnet"])
def test_the_originals_own_folder_is_found(tmp_path: Path, network: str) -> None:
    folder = tmp_path / ".picopayments"
    folder.mkdir()
    keys = json.loads((DATA / "channel_vectors.json").read_text())["keys"]["payee"]
    (folder / f"{network}.wif").write_text(keys["wif" if network == "testnet" else "wif_BTC"])
    write_original(folder, network)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "PICOPAYMENTS_"))}

    def history() -> Any:
        command = [sys.executable, "-m", "picopayments_cli", "--network", network, "history"]
        done = subprocess.run(
            command, capture_output=True, timeout=WAIT, check=True, env={**environ, "HOME": str(tmp_path)}
        )
        return json.loads(done.stdout)

    assert [event["handle"] for event in history()] == [HANDLE, HANDLE]
    (tmp_path / ".local/share/picopayments-cli").mkdir(parents=True)
    with pytest.raises(subprocess.CalledProcessError) as refused:  # there is no wallet
        history()
    assert refused.value.returncode == 4

"""The original client's basedirs: they open as they are, and everything that can come back from the chain does."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from network_support import WAIT, Client, Network
from original_support import (
    DELAY,
    DEPOSIT,
    EXPIRE,
    H2C_VALUE,
    HANDLE,
    NOBODY,
    PAYEE,
    RECEIVED,
    TOKEN,
    OriginalHub,
    hex_hash,
    secret_of,
    write_original,
)

from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.scripts import (
    CommitScript,
    DepositScript,
)
from picopayments_cli.channel.transactions import (
    txid_of,
)
from picopayments_cli.client import legacy

DATA = Path(__file__).parents[1] / "data"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def until_closed(network: Network, client: Client, blocks: int = EXPIRE + 10) -> list[str]:
    """Sync at each block until the connection is closed; the kinds of transactions published on the way."""
    for _ in range(blocks):
        if client.shown(HANDLE)["status"] == "closed":
            return [event["kind"] for event in client.run("history") if event["action"] == "published"]
        client.run("sync")
        network.mine()
    raise AssertionError("the connection is never closed")


# The whole life -----------------------------------------------------------------------------------------------------


def test_all_that_is_owed_comes_back_without_the_hub(network: Network) -> None:
    original = OriginalHub(network, "alice")
    client = original.client
    before = client.balances()["XCP"]
    files = original.leave()
    done = client.done("status")
    shown = done.result["connections"][HANDLE]
    assert (shown["status"], shown["asset"], shown["balance"]) == ("closing", "XCP", DEPOSIT + RECEIVED - 401)
    assert shown["payments_queued"] == [{"payee_handle": PAYEE, "amount": 7, "token": TOKEN}]
    assert "regtest.wif" in done.stderr
    assert "private" in done.stderr
    assert {name: mode_of(client.basedir / name) for name in files} == dict.fromkeys(files, 0o600)
    assert {name: content for name, content in client.files().items() if name in files} == files

    commit = client.run("close", HANDLE)
    assert commit in network.bitcoin("getrawmempool")
    assert (client.basedir / "regtest.data.1.0.4.backup").read_bytes() == files["regtest.data"]
    assert mode_of(client.basedir / "regtest.data.1.0.4.backup") == 0o600
    assert until_closed(network, client) == ["commit", "payout", "expire"]
    assert client.balances()["XCP"] == before + DEPOSIT + RECEIVED

    assert client.run("cull") == [HANDLE]
    assert client.run("status")["connections"] == {}
    assert {name: content for name, content in client.files().items() if name in files} == files


def test_a_killed_sync_goes_on_where_it_stopped(network: Network) -> None:
    original = OriginalHub(network, "kim")
    original.leave()
    before = original.client.balances()["XCP"]
    doors = 0
    while original.client.killed(doors, "sync"):
        doors += 1
        assert doors < 50
    assert until_closed(network, original.client) == ["commit", "payout", "expire"]
    assert original.client.balances()["XCP"] == before + DEPOSIT + RECEIVED


def test_a_revoked_commit_that_the_hub_publishes_is_taken(network: Network) -> None:
    original = OriginalHub(network, "bob")
    before = original.client.balances()["XCP"]
    original.leave()
    original.publish(1, "revoked")
    assert "revoke" in until_closed(network, original.client)
    assert original.client.balances()["XCP"] == before + DEPOSIT + RECEIVED


def test_change_comes_back_once_the_hubs_payout_shows_the_secret(network: Network) -> None:
    original = OriginalHub(network, "carol")
    before = original.client.balances()["XCP"]
    original.leave()
    txid, script = original.publish(401, "sent")
    network.mine(DELAY)
    original.pay_out(txid, script)
    kinds = until_closed(network, original.client, 12)  # long before anything expires
    assert sorted(kinds) == ["change", "commit", "payout"]
    assert original.client.balances()["XCP"] == before + DEPOSIT - 401 + RECEIVED


def test_with_a_node_of_ones_own_no_hub_is_needed(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    original = OriginalHub(network, "henry")
    before = original.client.balances()["XCP"]
    original.leave()
    monkeypatch.setenv("PICOPAYMENTS_CHAIN_URL", network.chain_url)
    alone = Client(original.client.basedir, NOBODY)
    assert until_closed(network, alone) == ["commit", "payout", "expire"]
    assert alone.balances()["XCP"] == before + DEPOSIT + RECEIVED


def test_the_deposit_comes_back_at_once_with_a_secret_that_the_hub_gave(network: Network) -> None:
    original = OriginalHub(network, "dave")
    before = original.client.balances()["XCP"]
    kept = original.kept()
    given = {**kept["secrets"], hex_hash("hub spend"): secret_of("hub spend").hex()}
    none = {**kept["h2c_state"], "commits_active": []}
    original.leave(secrets=given, h2c_state=none)
    assert original.client.run("close", HANDLE) is None
    assert until_closed(network, original.client, 12) == ["change"]
    assert original.client.balances()["XCP"] == before + DEPOSIT


def test_a_commit_that_spends_a_deposit_and_its_top_up(network: Network) -> None:
    original = OriginalHub(network, "iris")
    before = original.client.balances()["XCP"]
    top_up = original.deposit(original.key, original.h2c, H2C_VALUE, DEPOSIT)
    network.mine()
    whole = DEPOSIT + 5
    draft, script = original.draft(original.h2c, original.h2c_anchor, whole, "received")
    more = replace(draft.inputs[0], outpoint=top_up.outpoint, value=top_up.value)
    draft = replace(draft, inputs=(*draft.inputs, more))
    signatures = [original.key.sign(draft.digest(place)) + b"\x01" for place in range(2)]
    raw = draft.with_signatures(signatures).serialize()
    state = original.kept()["h2c_state"]
    state["commits_active"].append({"rawtx": raw.hex(), "script": script.redeem.hex()})
    original.leave(h2c_state=state)
    assert until_closed(network, original.client) == ["commit", "payout", "expire"]
    assert original.client.balances()["XCP"] == before + DEPOSIT + whole


# Nothing new is handed out, nothing is lost -------------------------------------------------------------------------


def test_an_imported_connection_pays_nobody_and_a_new_one_can_be_opened(network: Network) -> None:
    original = OriginalHub(network, "erin")
    original.leave()
    assert original.client.fails("queuepayment", HANDLE, PAYEE, "5") == (1, "ConnectionNotOpen")
    assert original.client.run("cancelpayment", TOKEN) is True
    assert original.client.shown(HANDLE)["payments_queued"] == []
    handle = network.open_connection(original.client)
    assert original.client.shown(handle)["status"] == "open"
    assert original.client.shown(HANDLE)["status"] == "closing"


def test_what_can_not_be_taken_over_is_named_and_stays(network: Network) -> None:
    original = OriginalHub(network, "fred")
    recorded = json.loads((DATA / "original_client.json").read_text())
    other = "cd" * 32
    connections = {HANDLE: original.kept(), other: recorded["connection"], "nothex": {}}
    files = write_original(original.client.basedir, "regtest", connections)
    done = original.client.done("sync")
    assert list(done.result) == [HANDLE]
    for name in (other, "nothex"):
        assert f"connection {name} of {original.client.basedir / 'regtest.data'} can't be settled" in done.stderr
    assert "another key than the wallet's" in done.stderr
    assert (original.client.basedir / "regtest.data").read_bytes() == files["regtest.data"]


def test_a_commit_with_a_forged_signature_is_passed_over(network: Network) -> None:
    original = OriginalHub(network, "gina")
    before = original.client.balances()["XCP"]
    draft, script = original.draft(original.h2c, original.h2c_anchor, RECEIVED + 1, "forged")
    forged = draft.with_signatures([original.client.key.sign(draft.digest()) + b"\x01"]).serialize()
    state = original.kept()["h2c_state"]
    state["commits_active"].append({"rawtx": forged.hex(), "script": script.redeem.hex()})
    original.leave(h2c_state=state)
    assert until_closed(network, original.client) == ["commit", "payout", "expire"]
    assert original.client.balances()["XCP"] == before + DEPOSIT + RECEIVED


# Files without a chain ----------------------------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path: Path) -> Client:
    """A client whose hub is gone, with a wallet of testnet's keys and no connections."""
    recorded = json.loads((DATA / "channel_vectors.json").read_text())
    (tmp_path / "regtest.wif").write_text(recorded["keys"]["payee"]["wif"])
    return Client(tmp_path, NOBODY)


def test_the_history_goes_on_where_the_originals_ended(offline: Client) -> None:
    write_original(offline.basedir, "regtest", {})
    shown = offline.run("history")
    assert [event["action"] for event in shown] == ["publish_c2h_deposit_tx", "queue_micropayment"]
    assert shown[1] == {
        "handle": HANDLE,
        "time": "2017-03-20T08:53:21.500Z",
        "imported": True,
        "action": "queue_micropayment",
        "id": TOKEN,
        "fee": "0XCP",
        "quantity": "7XCP",
        "destination": PAYEE,
    }
    assert offline.run("history", "--handle", HANDLE) == shown


@pytest.mark.parametrize("content", ["", "{", "[]", '{"connections": []}', "[" * 100_000])
def test_a_damaged_data_file_is_an_error_that_names_it(offline: Client, content: str) -> None:
    write_original(offline.basedir, "regtest", {})
    (offline.basedir / "regtest.data").write_text(content)
    before = offline.files()
    for command in ("status", "sync"):
        done = offline.done(command)
        assert (done.code, done.error["name"]) == (4, "StoreDamaged")
        assert done.error["data"] == {"path": str(offline.basedir / "regtest.data")}
    assert offline.files() == before


def test_a_hub_that_is_down_changes_no_file(offline: Client) -> None:
    write_original(offline.basedir, "regtest", {})
    before = offline.files()
    assert offline.fails("status") == (3, "HubUnreachable")
    assert offline.files() == before


def test_a_key_of_ours_that_others_can_read_is_refused_as_ever(offline: Client) -> None:
    (offline.basedir / "regtest.wif").chmod(0o644)
    assert offline.fails("status") == (4, "StoreUnusable")
    assert mode_of(offline.basedir / "regtest.wif") == 0o644


def test_settings_are_kept_beside_the_first_ones_that_replace_them(offline: Client) -> None:
    files = write_original(offline.basedir, "regtest", {})
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
    write_original(folder, network, {})
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "PICOPAYMENTS_"))}

    def history() -> Any:
        command = [sys.executable, "-m", "picopayments_cli", "--network", network, "history"]
        done = subprocess.run(
            command, capture_output=True, timeout=WAIT, check=True, env={**environ, "HOME": str(tmp_path)}
        )
        return json.loads(done.stdout)

    assert [event["handle"] for event in history()] == [HANDLE, HANDLE]
    (tmp_path / ".local/share/picopayments-cli").mkdir(parents=True)
    assert history() == []


# Transactions of the originals, byte for byte -----------------------------------------------------------------------


def test_a_commit_that_the_original_finished_is_finished_alike() -> None:
    vectors = json.loads((DATA / "channel_vectors.json").read_text())
    spends = vectors["spends"]
    deposit = DepositScript.parse(bytes.fromhex(spends["deposit_script"]))
    script = CommitScript.parse(bytes.fromhex(spends["commit_script"]))
    key = Key(bytes.fromhex(vectors["keys"]["payee"]["secret"]))
    half = bytes.fromhex(spends["created_commit"]["signed"])
    raw = legacy.finished(half, script, deposit, key)
    assert raw is not None
    assert raw.hex() == spends["finalized_commit"]["signed"]


def test_a_recorded_commit_of_the_original_hub_is_sound() -> None:
    recorded = json.loads((DATA / "original_client.json").read_text())
    state = recorded["connection"]["h2c_state"]
    deposit = DepositScript.parse(bytes.fromhex(state["deposit_script"]))
    script = CommitScript.parse(bytes.fromhex(state["commits_active"][0]["script"]))
    key = Key(b"\x07" * 32)
    raw = legacy.finished(bytes.fromhex(recorded["half_signed"]), script, deposit, key)
    published = bytes.fromhex(recorded["published"])
    assert raw is not None
    head = 46 + published[45]  # up to the payee's signature: the same inputs, and the hub's signature
    assert raw[46:head] == published[46:head]
    assert raw[-120:] == published[-120:]
    for place in (50, len(raw) // 2, len(published) - 60):
        broken = bytearray(bytes.fromhex(recorded["half_signed"]))
        broken[place] ^= 1
        assert legacy.finished(bytes(broken), script, deposit, key) is None
    assert txid_of(raw) != txid_of(published)

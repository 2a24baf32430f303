"""The original client's basedirs: they open as they are, and everything that can come back from the chain does."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from network_support import WAIT, Client, Network, running_network
from regtest_support import REGTEST, script_of_key

from picopayments_cli.chain import Query
from picopayments_cli.chain.hub import HubChain
from picopayments_cli.channel.counterparty import data_script, pack_send
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import address_of_script
from picopayments_cli.channel.scripts import (
    CommitScript,
    DepositScript,
    half_commit_unlock,
    payout_unlock,
    wallet_unlock,
)
from picopayments_cli.channel.transactions import (
    FINAL,
    Anchor,
    Draft,
    Input,
    Output,
    compose_send,
    finish_commit,
    txid_of,
)
from picopayments_cli.channel.values import Outpoint, Secret, hash_of
from picopayments_cli.client import legacy

DATA = Path(__file__).parent / "data"
XCP_ID = 1
EXPIRE, DELAY = 40, 2
DEPOSIT = 100_000
RECEIVED = 999
C2H_VALUE, H2C_VALUE = 53_790, 54_000  # satoshis, as the originals fund deposits
HANDLE = "21898d68bec650876b9b0d6de711406f5ba35558e78c9c66e704be02c73f83a9"
PAYEE = "07bfb0aeb687a95dd98c3eb41eb8f97518548c2191c305c7e762605f1cb3acda"
TOKEN = "beef"
NOBODY = "http://127.0.0.1:9/api/"


def secret_of(name: str) -> Secret:
    return Secret(name.encode().ljust(32, b"."))


def hex_hash(name: str) -> str:
    return hash_of(secret_of(name)).hex()


class OriginalHub:
    """The other side of a connection, as the original hub left it: gone, but for what it may still publish."""

    def __init__(self, network: Network, name: str) -> None:
        self.network = network
        self.chain = HubChain(network.hub.rpc, REGTEST)
        self.key = network.client(f"{name}-hub").key
        self.client = network.client(name)
        own, hubs = self.client.key.pubkey, self.key.pubkey
        self.c2h = DepositScript(own, hubs, hash_of(secret_of("hub spend")), EXPIRE)
        self.h2c = DepositScript(hubs, own, hash_of(secret_of("own spend")), EXPIRE)
        self.c2h_anchor = self.deposit(self.client.key, self.c2h, C2H_VALUE, DEPOSIT)
        self.h2c_anchor = self.deposit(self.key, self.h2c, H2C_VALUE, DEPOSIT)
        network.mine()

    def deposit(self, key: Key, script: DepositScript, value: int, quantity: int) -> Anchor:
        """Publish a deposit in the originals' form."""
        wallet = script_of_key(key)
        address = str(address_of_script(REGTEST, wallet))
        coins = [(coin.outpoint, coin.value) for coin in self.chain.view(Query(coins=[address])).coins[address]]
        unlock = wallet_unlock(key.pubkey, wallet)
        message = pack_send(XCP_ID, quantity)
        raw = compose_send(coins, unlock, Output(value, script.output), message, rate=5).signed(key).serialize()
        return Anchor(Outpoint(self.chain.broadcast(raw), 0), value)

    def draft(self, deposit: DepositScript, anchor: Anchor, quantity: int, name: str) -> tuple[Draft, CommitScript]:
        """A commit in the originals' form: a third of the bitcoins each for fee, commit and change."""
        script = CommitScript(deposit.payer, deposit.payee, deposit.spend_hash, hash_of(secret_of(name)), DELAY)
        third = anchor.value // 3
        outputs = (
            Output(third, script.output),
            Output(0, data_script(pack_send(XCP_ID, quantity), anchor.outpoint.txid)),
            Output(anchor.value - 2 * third, deposit.output),
        )
        return Draft((Input(anchor.outpoint, anchor.value, half_commit_unlock(deposit), FINAL),), outputs), script

    def half_signed(self, deposit: DepositScript, anchor: Anchor, quantity: int, name: str) -> dict[str, str]:
        """A commit as the data file holds it."""
        draft, script = self.draft(deposit, anchor, quantity, name)
        payer = self.key if deposit is self.h2c else self.client.key
        raw = draft.with_signatures([payer.sign(draft.digest()) + b"\x01"]).serialize()
        return {"rawtx": raw.hex(), "script": script.redeem.hex()}

    def publish(self, quantity: int, name: str) -> tuple[bytes, CommitScript]:
        """Publish a commit of c2h, as the hub may with any it was given; txid and script."""
        draft, script = self.draft(self.c2h, self.c2h_anchor, quantity, name)
        signature = self.client.key.sign(draft.digest()) + b"\x01"
        txid = self.chain.broadcast(finish_commit(draft, self.c2h, signature, self.key).serialize())
        self.network.mine()
        return txid, script

    def pay_out(self, txid: bytes, script: CommitScript) -> None:
        """The hub's payout of a published commit, which shows its spend secret."""
        value = C2H_VALUE // 3
        unlock = payout_unlock(script, secret_of("hub spend"))
        coin = Input(Outpoint(txid, 0), value, unlock, DELAY)
        data = Output(0, data_script(pack_send(XCP_ID, 2**63 - 1), txid))
        draft = Draft((coin,), (Output(value - 12_500, script_of_key(self.key)), data), 2)
        self.chain.broadcast(draft.signed(self.key).serialize())
        self.network.mine()

    def kept(self, **changed: Any) -> dict[str, Any]:
        """The connection as the data file holds it: 401 sent, 1 more sent and revoked before, 999 received."""
        revoked = self.draft(self.c2h, self.c2h_anchor, 1, "revoked")[1]
        secrets = {hex_hash(name): secret_of(name).hex() for name in ("own spend", "received", "fresh")}
        return {
            "asset": "XCP",
            "handle": HANDLE,
            "channel_terms": {
                "deposit_max": 0, "deposit_min": 0, "deposit_ratio": 1.0,
                "expire_max": 0, "expire_min": 0, "sync_fee": 1,
            },
            "client_pubkey": self.client.key.pubkey.hex(),
            "hub_pubkey": self.key.pubkey.hex(),
            "secrets": secrets,
            "c2h_state": {
                "asset": "XCP",
                "deposit_script": self.c2h.redeem.hex(),
                "commits_requested": [],
                "commits_active": [self.half_signed(self.c2h, self.c2h_anchor, 401, "sent")],
                "commits_revoked": [{"script": revoked.redeem.hex(), "revoke_secret": secret_of("revoked").hex()}],
            },
            "c2h_spend_secret_hash": hex_hash("hub spend"),
            "c2h_commit_delay_time": DELAY,
            "c2h_next_revoke_secret_hash": hex_hash("next"),
            "c2h_deposit_expire_time": EXPIRE,
            "c2h_deposit_quantity": DEPOSIT,
            "h2c_state": {
                "asset": "XCP",
                "deposit_script": self.h2c.redeem.hex(),
                "commits_requested": [hex_hash("fresh")],
                "commits_active": [
                    self.half_signed(self.h2c, self.h2c_anchor, RECEIVED, "received"),
                    self.half_signed(self.h2c, self.h2c_anchor, 5, "received before"),
                ],
                "commits_revoked": [],
            },
            "payments_sent": [{"handle": PAYEE, "amount": 400, "token": "c0ffee", "timestamp": 1490000000.5}],
            "payments_received": [{"handle": PAYEE, "amount": 1000, "token": "c0ffee", "timestamp": 1490000000.5}],
            "payments_queued": [{"payee_handle": PAYEE, "amount": 7, "token": TOKEN}],
            **changed,
        }  # fmt: skip

    def leave(self, **changed: Any) -> dict[str, bytes]:
        """Make the client's folder an original one; its files."""
        return write_original(self.client.basedir, "regtest", {HANDLE: self.kept(**changed)})


def write_original(basedir: Path, network: str, connections: Any) -> dict[str, bytes]:
    """The original's files beside a wallet, open to others as it made them; what they hold."""
    settings = {"hub_url": NOBODY, "hub_username": None, "hub_password": None, "hub_verify_ssl_cert": False}
    rows = [
        "timestamp,handle,action,id,fee,quantity,destination",
        f"1490000000.25,{HANDLE},publish_c2h_deposit_tx,{'ab' * 32},12500BTC,{DEPOSIT}XCP,",
        f"1490000001.5,{HANDLE},queue_micropayment,{TOKEN},0XCP,7XCP,{PAYEE}",
        f"1490000002.5,{HANDLE},hub_sy",
    ]
    (basedir / f"{network}.cfg").write_text(json.dumps(settings, indent=2, sort_keys=True))
    (basedir / f"{network}.data").write_text(json.dumps({"connections": connections}, indent=2, sort_keys=True))
    (basedir / f"{network}.history.csv").write_text("\r\n".join(rows))
    found = {}
    for name in ("wif", "cfg", "data", "history.csv"):
        path = basedir / f"{network}.{name}"
        path.chmod(0o644)
        found[path.name] = path.read_bytes()
    return found


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with running_network(tmp_path_factory.mktemp("network")) as network:
        yield network


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

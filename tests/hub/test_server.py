"""The hub as a process: how it starts and ends, what it refuses, and the chain as it tells it to clients."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from envelope_support import asked, digest_of
from network_support import HUB, WAIT, HubProcess, running_hub
from regtest_support import REGTEST, Spend, address_of, key_of, running_node, script_of_key

from picopayments_cli.chain import Query
from picopayments_cli.chain.hub import HubChain
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel import envelope
from picopayments_cli.channel.counterparty import p2pkh
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.messages import ConnectReply, ConnectRequest, KeyRequest
from picopayments_cli.channel.networks import NETWORKS, secret_of_wif
from picopayments_cli.channel.opening import Party
from picopayments_cli.channel.rates import Bounds, Rate
from picopayments_cli.channel.status import StatusReply
from picopayments_cli.channel.values import hash160
from picopayments_cli.errors import BroadcastRefused, InvalidParams, PicopaymentsError, UnknownTransaction
from picopayments_cli.hub import cli
from picopayments_cli.hub.terms import read_offer
from picopayments_cli.rpc import RpcClient

ALICE, BOB = key_of("alice"), key_of("bob")
ADDRESS = address_of(script_of_key(ALICE))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with running_hub(tmp_path_factory.mktemp("proxied") / "hub", "--block-time", "0") as running:
        yield running


def is_gone(url: str) -> bool:
    """Whether nothing listens at a URL any more, within a while."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        try:
            requests.get(url, timeout=1)
        except requests.ConnectionError:
            return True
        time.sleep(0.05)
    return False


def error_of(process: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON error that a failure ends in."""
    assert process.stdout == ""
    found: dict[str, Any] = json.loads(process.stderr.splitlines()[-1])["error"]
    return found


def refused(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HUB, *argv], capture_output=True, text=True, timeout=WAIT, check=False)


# Life and death -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_hub_and_node_cleanly(tmp_path: Path, how: signal.Signals) -> None:
    with running_hub(tmp_path / "hub") as hub:
        assert hub.ready["network"] == "regtest"
        assert hub.ready["hub_url"].endswith("/api/")
        assert requests.get(hub.ready["chain_url"] + "v2/", timeout=WAIT).json()["result"]["network"] == "regtest"
        assert hub.end(how) == 0
        assert is_gone(hub.ready["chain_url"])
        assert is_gone(hub.ready["hub_url"])


def test_the_node_ends_with_a_killed_hub_and_both_come_back_as_they_were(tmp_path: Path) -> None:
    with running_hub(tmp_path / "hub") as hub:
        hub.call("generate", blocks=3)
        before = hub.call("mph_status", assets=None)["funds"]
        height = hub.call("get_running_info")["bitcoin_block_count"]
        assert hub.end(signal.SIGKILL) == -signal.SIGKILL
        assert is_gone(hub.ready["chain_url"])
    with running_hub(tmp_path / "hub") as again:
        after = again.call("mph_status", assets=None)["funds"]
        assert again.call("get_running_info")["bitcoin_block_count"] == height
        assert (after["address"], after["liquidity"]) == (before["address"], before["liquidity"])


def test_a_new_hub_is_private_and_funded(tmp_path: Path) -> None:
    with running_hub(tmp_path / "hub") as hub:
        funds = hub.call("mph_status", assets=None)["funds"]
        assert funds["liquidity"]["BTC"] >= 10 * 10**8
        assert funds["liquidity"]["XCP"] == 10_000 * 10**8
        coins = hub.call("get_unspent_txouts", address=funds["address"])
        assert len(coins) >= 20
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "hub").iterdir()}
        assert modes["hub.regtest.wif"] == modes["regtest.db"] == 0o600
        assert not any(mode & 0o077 for mode in modes.values())
        wif = (tmp_path / "hub" / "hub.regtest.wif").read_text()
        assert len(secret_of_wif(REGTEST, wif)) == 32
        hub.end(signal.SIGTERM)
        assert wif.strip() not in hub.log.read_text()
        logged = hub.logged()
        assert logged
        assert all({"time", "level", "event"} <= set(line) for line in logged)


def test_the_command_serves_protocol_3_and_begins_connections(tmp_path: Path) -> None:
    key = Key(key_of("alice").secret)
    secrets = Secrets(key, bytes(16))
    party = Party(secrets.payer.xonly, secrets.payee.xonly, p2pkh(key.pubkey_hash))
    with running_hub(tmp_path / "hub", "--restored") as hub:
        status = StatusReply.parse(hub.call("mph_status", assets=None))
        hub_key = envelope.named_key(hub.call("mph_key", **KeyRequest(bytes(32)).as_json()))
        assert hub_key is not None
        request = asked("mph_request", key, hub_key, ConnectRequest("XCP", party, secrets.salt).as_json())
        result = hub.call("mph_request", **request)
        reply = ConnectReply.parse(result)
        assert reply.terms == status.terms["XCP"]
        assert digest_of("mph_request", hub_key, request).hex() == result["request_sha256"]
        assert p2pkh(hash160(hub_key)) == reply.hub.wallet
        assert hub.call("get_sends", filters=[{"field": "destination", "op": "==", "value": ADDRESS}]) == []


def test_a_running_node_is_used_where_one_is_named(tmp_path: Path) -> None:
    with running_node(tmp_path / "node", 0) as node:
        with running_hub(tmp_path / "hub", ports=("--counterparty-url", node.url)) as hub:
            assert hub.ready["chain_url"] == node.url
            height = node.bitcoin("getblockcount")
            assert hub.call("get_running_info")["bitcoin_block_count"] == height
        assert node.bitcoin("getblockcount") == height


def test_the_hub_goes_on_when_its_node_was_away(tmp_path: Path) -> None:
    with running_node(tmp_path / "node", 0) as node:
        port = node.url.rstrip("/").rpartition(":")[2]
        with running_hub(tmp_path / "hub", ports=("--counterparty-url", node.url)) as hub:
            node.kill()
            with pytest.raises(PicopaymentsError) as caught:
                hub.call("get_running_info")
            assert caught.value.name == "NodeUnreachable"
            command = [sys.executable, "-m", "picopayments_cli.regtest", "--basedir", str(tmp_path / "node")]
            with subprocess.Popen(
                [*command, "--port", port], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as again:
                assert again.stdout is not None
                assert again.stdout.readline()
                assert hub.call("generate", blocks=1)
                assert hub.call("get_running_info")["server_ready"] is True
                hub.end(signal.SIGTERM)
                again.terminate()


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["--reg"],
        ["--regtest", "--testnet"],
        ["--port", "65536"],
        ["--port", "http"],
        ["--node-port", "0"],
        ["--regtest", "--counterparty-url", "http://127.0.0.1:1/", "--block-time", "5"],
        ["--regtest", "--ssl-cert", "cert.pem"],
        ["--regtest", "--block-time", "-1"],
        ["extra"],
    ],
)
def test_a_wrong_command_line_is_a_usage_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err.splitlines()[-1])["error"]["name"] == "UsageError"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("terms --reload", "unrecognized arguments: --reload. Did you mean reload?"),
        ("status --foo", "unrecognized arguments: --foo. (`picopayments-hub status --help` shows the usage)"),
        ("connections --stages open", "Did you mean --stage?"),
        ("withdraw x 1 --dryrun", "Did you mean --dry-run?"),
        ("drain --basedir x", "--basedir goes before drain."),
    ],
)
def test_an_option_that_a_command_does_not_have_is_a_usage_error_with_a_hint(
    words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--regtest", *words.split()])
    assert caught.value.code == 2
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert (error["name"], told in error["message"]) == ("UsageError", True), error


def test_options_may_be_written_with_underscores(tmp_path: Path) -> None:
    command = [*HUB, "--regtest", "--counterparty_url=nonsense", f"--basedir={tmp_path / 'hub'}"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
    assert process.returncode == 1
    assert error_of(process)["name"] == "InvalidUrl"


def test_a_second_hub_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with running_hub(tmp_path / "hub"):
        second = refused("--regtest", "--port", "0", "--node-port", "0", "--basedir", str(tmp_path / "hub"))
    assert second.returncode == 4
    assert error_of(second)["name"] == "StoreLocked"


def test_a_second_hub_on_the_same_database_is_refused(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'hub' / 'regtest.db'}"
    with running_hub(tmp_path / "hub") as first:
        there = ("--counterparty-url", first.ready["chain_url"], "--database", database)
        (tmp_path / "hub" / "hub.regtest.lock").unlink()  # which would not keep it out
        second = refused("--regtest", "--port", "0", "--basedir", str(tmp_path / "hub"), *there)
        assert second.returncode == 4
        assert error_of(second)["name"] == "StoreLocked"
        assert first.call("mph_status", assets=None)["totals"]["open"] == 0


@pytest.mark.parametrize(("missing", "name"), [("hub.regtest.wif", "StoreDamaged"), ("regtest.db", "DatabaseOutdated")])
def test_a_hub_does_not_begin_anew_where_it_has_run(tmp_path: Path, missing: str, name: str) -> None:
    with running_hub(tmp_path / "hub"):
        pass
    path = tmp_path / "hub" / missing
    path.unlink()
    again = refused("--regtest", "--port", "0", "--node-port", "0", "--basedir", str(tmp_path / "hub"))
    assert again.returncode == 4
    assert error_of(again)["name"] == name
    assert not path.exists()


def test_a_taken_port_is_named_and_the_node_ended(tmp_path: Path, hub: HubProcess) -> None:
    port = hub.ready["hub_url"].split(":")[2].partition("/")[0]
    second = refused("--regtest", "--port", port, "--node-port", "0", "--basedir", str(tmp_path / "hub"))
    assert second.returncode == 4
    assert error_of(second)["name"] == "PortUnusable"
    with running_node(tmp_path / "hub" / "node"):  # nobody holds its lock any more
        pass


def test_an_unreachable_node_is_an_error_of_its_own(tmp_path: Path) -> None:
    away = refused("--regtest", "--counterparty-url", "http://127.0.0.1:1/", "--basedir", str(tmp_path / "hub"))
    assert away.returncode == 3
    assert error_of(away)["name"] == "NodeUnreachable"


def test_a_damaged_key_or_terms_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    basedir = tmp_path / "hub"
    with running_hub(basedir):
        pass
    for name, content, error in (
        ("hub.regtest.wif", "no key", "StoreDamaged"),
        ("hub.regtest.terms.json", '{"XCP": {"sync_fee": 1}}', "InvalidSetting"),
    ):
        path = basedir / name
        good = path.read_text()
        path.write_text(content)
        process = refused("--regtest", "--port", "0", "--node-port", "0", "--basedir", str(basedir))
        assert error_of(process)["name"] == error
        assert path.read_text() == content
        path.write_text(good)


@pytest.mark.parametrize("change", [{"sync_fee": 0}, {"expire_min": 1}, {"expire_max": 13, "expire_min": 20}, {"x": 1}])
def test_terms_that_no_client_could_take_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    members = {"deposit_max": 0, "deposit_min": 0, "deposit_ratio": 1.0}
    members |= {"expire_max": 0, "expire_min": 12, "sync_fee": 1}
    path = tmp_path / "terms.json"
    path.write_text(json.dumps({"XCP": members}))
    terms = read_offer(path, NETWORKS["regtest"]).terms("XCP", Rate(4, guess=False), Bounds(1, 100))
    assert terms is not None
    assert (terms.fee_rate, terms.fee_rate_max, terms.expire_min) == (4, 24, 12)
    path.write_text(json.dumps({"XCP": members | change}))
    with pytest.raises(PicopaymentsError) as caught:
        read_offer(path, NETWORKS["regtest"])
    assert caught.value.name == "InvalidSetting"


# What clients are told of the chain ---------------------------------------------------------------------------------


def test_a_client_sees_the_chain_through_the_hub_as_the_node_tells_it(hub: HubProcess) -> None:
    hub.call("faucet", address=ADDRESS, btc=1_000_000, asset="XCP", quantity=500)
    hub.call("generate", blocks=2)
    hub.call("faucet", address=ADDRESS, btc=2_000_000)
    through, direct = HubChain(hub.rpc, REGTEST), NodeChain(hub.ready["chain_url"], REGTEST)
    query = Query(coins=[ADDRESS], history=[ADDRESS], balances=[ADDRESS])
    seen, told = through.view(query), direct.view(query)
    assert (seen.height, seen.fee_rate, seen.balances) == (told.height, told.fee_rate, told.balances)
    assert set(seen.coins[ADDRESS]) == set(told.coins[ADDRESS])
    assert set(seen.history[ADDRESS]) == set(told.history[ADDRESS])
    assert {coin.height is None for coin in seen.coins[ADDRESS]} == {True, False}
    assert seen.balances[ADDRESS]["XCP"] == 500
    txids = [entry.txid for entry in seen.history[ADDRESS]]
    assert through.view(Query(transactions=txids)).transactions == direct.view(Query(transactions=txids)).transactions
    assert through.asset("XCP") == direct.asset("XCP")


def test_coins_and_history_have_the_shapes_of_old(hub: HubProcess) -> None:
    address = address_of(script_of_key(key_of("shapes")))
    (old,) = hub.call("faucet", address=address, btc=12_345_678)
    hub.call("generate", blocks=3)
    (new,) = hub.call("faucet", address=address, btc=1_000)
    (coin,) = hub.call("get_unspent_txouts", address=address)
    assert coin.pop("vout") in (0, 1)
    assert coin == {
        "txid": old,
        "amount": 0.12345678,
        "value": 12_345_678,
        "confirmations": 3,
        "scriptPubKey": script_of_key(key_of("shapes")).hex(),
    }
    assert len(hub.call("get_unspent_txouts", address=address, unconfirmed=True)) == 2
    found = hub.call("search_raw_transactions", address=address)
    assert [(item["txid"], item.get("confirmations")) for item in found] == [(new, None), (old, 3)]
    assert [item["txid"] for item in hub.call("search_raw_transactions", address=address, unconfirmed=False)] == [old]
    assert hub.call("getrawtransaction", tx_hash=old) == found[1]["hex"]
    assert hub.call("getrawtransaction", tx_hash=old, verbose=True)["confirmations"] == 3
    for order in ([old, new], [new, old]):
        assert list(hub.call("getrawtransaction_batch", txhash_list=order)) == order
    assert hub.call("getrawtransaction_batch", txhash_list=["00" * 32]) == {}
    with pytest.raises(UnknownTransaction):
        hub.call("getrawtransaction", tx_hash="00" * 32)


def test_balances_assets_and_the_nodes_state_have_the_shapes_of_old(hub: HubProcess) -> None:
    address = address_of(script_of_key(key_of("balances")))
    hub.call("faucet", address=address, asset="XCP", quantity=7)
    hub.call("generate", blocks=1)
    asked = [{"field": "address", "op": "==", "value": address}]
    rows = hub.call("get_balances", filters=asked)
    assert {"address": address, "asset": "XCP", "quantity": 7} in rows
    only = [*asked, {"field": "asset", "op": "==", "value": "XCP"}]
    assert hub.call("get_balances", filters=only) == [{"address": address, "asset": "XCP", "quantity": 7}]
    assert "XCP" in {row["asset_name"] for row in hub.call("get_assets")}
    (info,) = hub.call("get_asset_info", assets=["XCP", "NOSUCHASSET"])
    assert (info["asset"], info["asset_id"], info["divisible"]) == ("XCP", "1", True)
    running = hub.call("get_running_info")
    assert (running["fee_rate"], running["running_testnet"]) == (None, True)  # the node has no estimate
    assert hub.call("fee_per_kb") == 1000


def test_a_payment_is_broadcast_and_a_bad_one_refused_with_the_nodes_reason(hub: HubProcess) -> None:
    hub.call("faucet", address=ADDRESS, btc=300_000)
    hub.call("generate", blocks=1)
    view = HubChain(hub.rpc, REGTEST).view(Query(coins=[ADDRESS]))
    coin = next(coin for coin in view.coins[ADDRESS] if coin.value == 300_000)
    good = Spend(ALICE, [coin.outpoint], [(coin.value - 1000, script_of_key(BOB))]).signed()
    bad = Spend(BOB, [coin.outpoint], [(coin.value - 1000, script_of_key(BOB))]).signed()
    with pytest.raises(BroadcastRefused) as caught:
        hub.call("sendrawtransaction", tx_hex=bad.hex())
    assert caught.value.data["reason"]
    txid = hub.call("sendrawtransaction", tx_hex=good.hex())
    assert hub.call("sendrawtransaction", tx_hex=good.hex()) == txid
    assert hub.call("getrawtransaction", tx_hash=txid) == good.hex()


def test_blocks_and_reorganisations_are_read_before_the_answer(hub: HubProcess) -> None:
    before = hub.call("get_running_info")["bitcoin_block_count"]
    assert len(hub.call("generate", blocks=4)) == 4
    lost = hub.call("reorganise", depth=3)
    assert (len(lost["disconnected"]), len(lost["connected"])) == (3, 4)
    assert hub.call("get_running_info")["bitcoin_block_count"] == before + 5
    assert "round failed" not in [line["event"] for line in hub.logged()]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("getrawtransaction_batch", {"txhash_list": ["00" * 32] * 101}),
        ("getrawtransaction_batch", {"txhash_list": "00" * 32}),
        ("getrawtransaction", {"tx_hash": "zz"}),
        ("getrawtransaction", {"tx_hash": None}),
        ("get_asset_info", {"assets": ["XCP"] * 101}),
        ("get_asset_info", {}),
        ("get_balances", {}),
        ("get_balances", {"filters": [{"field": "quantity", "op": ">", "value": 0}]}),
        ("get_balances", {"filters": [{"field": "asset", "op": "==", "value": "XCP"}]}),
        ("get_balances", {"filters": 5}),
        ("get_unspent_txouts", {"address": "mvCounterpartyXXXXXXXXXXXXXXW24Hex"}),
        ("get_unspent_txouts", {"address": ["x"]}),
        ("get_address_options", {"address": "../assets"}),
        ("utxos_with_balances", {"utxos": "00"}),
        ("utxos_with_balances", {"utxos": [5]}),
        ("utxos_with_balances", {"utxos": [f"{'00' * 32}:{'9' * 5000}"]}),
        ("utxos_with_balances", {"utxos": [f"{'00' * 32}:0"] * 101}),
        ("search_raw_transactions", {"address": "../../assets"}),
        ("sendrawtransaction", {"tx_hex": "0" * 900_000}),
        ("sendrawtransaction", {"tx_hex": ""}),
        ("sendrawtransaction", {"tx_hex": "00"}),
        ("sendrawtransaction", {"tx_hex": None}),
        ("generate", {"blocks": -1}),
        ("generate", {"blocks": "1"}),
        ("reorganise", {}),
        ("faucet", {"address": "nowhere"}),
        ("faucet", {"address": ADDRESS, "btc": -1}),
    ],
)
def test_nonsense_is_refused_and_never_an_internal_error(hub: HubProcess, method: str, params: Any) -> None:
    with pytest.raises(PicopaymentsError) as caught:
        hub.rpc.call(method, params, retry=False)
    assert caught.value.name not in ("InternalError", "HubRefused")


@pytest.mark.parametrize("method", ["sql", "create_send", "setfeerate", "sendtoaddress", "__init__", "once"])
def test_only_what_is_listed_is_proxied(hub: HubProcess, method: str) -> None:
    with pytest.raises(PicopaymentsError) as caught:
        hub.call(method)
    assert caught.value.name == "UnknownMethod"


def test_many_clients_at_once_are_all_answered(hub: HubProcess) -> None:
    answers: list[Any] = []

    def ask() -> None:
        rpc = RpcClient(hub.ready["hub_url"])
        answers.extend(rpc.call("get_running_info", {}, retry=True)["bitcoin_block_count"] for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert len(answers) == 40
    assert len(set(answers)) == 1


def test_params_of_the_wrong_name_are_told(hub: HubProcess) -> None:
    with pytest.raises(InvalidParams, match="unexpected"):
        hub.call("get_unspent_txouts", adress=ADDRESS)

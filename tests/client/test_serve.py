"""``serve``: what programs of this machine may ask, what anybody else gets, and how it starts and stops."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from filelock import FileLock
from network_support import DEPOSIT, NOBODY, WAIT, Client, Network, wait_until
from serve_support import Served, served

from picopayments_cli import cli, commands
from picopayments_cli.client.payments import RECEIVED, SENT
from picopayments_cli.client.payments_shown import as_csv
from picopayments_cli.client.serve import RECEIVING, _receiving


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose hub does not run."""
    with served(_with_wallet(tmp_path_factory.mktemp("lonely") / "basedir")) as server:
        yield server


@pytest.fixture
def basedir(tmp_path: Path) -> Path:
    """A folder with a wallet."""
    return _with_wallet(tmp_path / "basedir")


def _with_wallet(basedir: Path) -> Path:
    Client(basedir, NOBODY).run("address")
    return basedir


def test_the_cookie_of_who_is_paid_shows_no_receipts_of_what_was_paid() -> None:
    """Who shows one seems to be who has paid."""
    paid = [{"state": SENT, "receipt": "aa", "amount": 1}, {"state": RECEIVED, "receipt": "bb", "amount": 2}]

    async def payments(csv: bool) -> Any:
        return as_csv(paid) if csv else paid

    methods = _receiving({"payments": payments})
    shown = asyncio.run(methods["payments"](csv=False))
    assert shown == [{"state": SENT, "amount": 1}, {"state": RECEIVED, "receipt": "bb", "amount": 2}]
    assert asyncio.run(methods["payments"](csv=True)) == as_csv(shown)


# What it does -------------------------------------------------------------------------------------------------------


def test_a_connection_lives_over_json_rpc_while_commands_run(network: Network, tmp_path: Path) -> None:
    client = network.client("alice")
    payee = network.open_connection(network.client("bob"))
    with served(client.basedir, network.hub_url) as server:
        handle = server.result("connect", {"asset": "XCP", "quantity": DEPOSIT})["handle"]
        network.mine(2)
        wait_until(lambda: server.result("status")["connections"][handle]["status"] == "open", "an open connection")
        token = server.result("queuepayment", [handle, payee, 1337, "c0ffee"])
        assert token == "c0ffee"
        assert client.shown(handle)["payments_queued"] == [{"payee_handle": payee, "amount": 1337, "token": "c0ffee"}]
        both: list[Any] = []
        threads = [threading.Thread(target=lambda: both.append(server.result("status"))) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert client.typed("sync")[handle]["received_payments"] == []
        for thread in threads:
            thread.join(WAIT)
        assert len(both) == len(threads)
        assert server.result("balances", {"asset": "XCP"}) == {"XCP": client.balances()["XCP"]}
        assert [event["action"] for event in server.result("history", {"handle": handle})] == [
            "connected", "sent", "fee"
        ]  # fmt: skip
        paid = server.result("pay", {"source": handle, "destination": payee, "quantity": 7, "token": "ab"})
        assert (paid["state"], paid["index"]) == ("sent", 2)
        assert server.result("payments", {"since": 1, "limit": 5}) == [paid]
        assert server.result("sync")[handle]["sent_payments"] == []
        assert server.error("pay", [handle, "ab" * 32, 7])[0] == "UnknownHandle"
        assert server.end() == (0, "")


def test_a_batch_is_answered_in_order(lonely: Served) -> None:
    calls = [{"jsonrpc": "2.0", "id": n, "method": name} for n, name in enumerate(("version", "history", "nothing"))]
    answers = lonely.post(calls).json()
    assert [answer["id"] for answer in answers] == [0, 1, 2]
    assert isinstance(answers[0]["result"], str)
    assert answers[1]["result"] == []
    assert answers[2]["error"]["code"] == -32601


def test_it_waits_for_the_lock_as_a_command_does(lonely: Served) -> None:
    lock = FileLock(lonely.cookie.parent / "regtest.lock")
    answers: list[Any] = []
    with lock:
        thread = threading.Thread(target=lambda: answers.append(lonely.result("history")))
        thread.start()
        thread.join(0.3)
        assert answers == []
    thread.join(WAIT)
    assert answers == [[]]


@pytest.mark.parametrize("method", ["serve", "demo", "open_session", "__init__", ""])
def test_only_commands_are_methods(lonely: Served, method: str) -> None:
    assert lonely.call(method)["error"]["code"] == -32601


@pytest.mark.parametrize(
    ("method", "params", "named"),
    [
        ("connect", {"asset": "XCP"}, "QUANTITY"),
        ("connect", {"asset": "XCP", "quantity": 0}, "whole number"),
        ("connect", {"asset": "XCP", "quantity": -5}, "whole number"),
        ("connect", {"asset": "XCP", "quantity": 2**63}, "whole number"),
        ("connect", {"asset": "XCP", "quantity": 1.5}, "quantity"),
        ("connect", {"asset": "XCP", "quantity": True}, "quantity"),
        ("connect", {"asset": "XCP", "quantity": [5]}, "quantity"),
        ("connect", {"asset": "XCP", "quantity": 5, "delay_time": 0}, "whole number"),
        ("connect", {"asset": "XCP", "quantity": 5, "delay-time": 2, "delay_time": 3}, "twice"),
        ("connect", ["XCP", 5, 1024, 2, True, False, False, 1, 3], "8 arguments"),
        ("connect", ["XCP", 5, 1024, 2, 1], "yes must be true or false"),
        ("connect", {"asset": None, "quantity": 5}, "asset"),
        ("sync", {"hanlde": "00"}, "hanlde"),
        ("sync", {"basedir": "/"}, "basedir"),
        ("status", {"verbose": "yes"}, "true or false"),
        ("queuepayment", {"source": "--", "destination": "00", "quantity": 1}, "source"),
        ("version", ["x"], "0 arguments"),
    ],
)
def test_whatever_a_command_line_would_refuse_is_refused(lonely: Served, method: str, params: Any, named: str) -> None:
    name, message = lonely.error(method, params)
    assert name == "UsageError"
    assert named in message


def test_values_that_look_like_options_are_values(lonely: Served) -> None:
    assert lonely.error("close", ["--help"])[0] == "InvalidHex"
    assert lonely.error("history", {"handle": "--version"})[0] == "InvalidHex"
    assert lonely.error("cancelpayment", {"token": "-1"})[0] == "InvalidHex"


def test_errors_have_the_commands_names_and_numbers(lonely: Served) -> None:
    error = lonely.call("close", {"handle": "ab" * 32})["error"]
    assert error["data"]["type"] == "UnknownHandle"
    assert error["data"]["data"] == {"handle": "ab" * 32}
    config = ["--regtest", "--basedir", str(lonely.cookie.parent), "--hub-url", NOBODY]
    assert f"`{shlex.join(['picopayments-cli', *config, 'status'])}` lists" in error["data"]["message"]
    assert lonely.error("balances")[0] == "HubUnreachable"


# Who gets nothing ---------------------------------------------------------------------------------------------------

BODY = {"jsonrpc": "2.0", "id": 1, "method": "version"}


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"auth": None}, 401),
        ({"auth": ("__cookie__", "0" * 64)}, 401),
        ({"auth": ("", "")}, 401),
        ({"auth": None, "headers": {"Authorization": "Basic \u00e4"}}, 401),
        ({"headers": {"Origin": "https://example.com"}}, 403),
        ({"headers": {"Origin": "null"}}, 403),
        ({"headers": {"Host": "example.com"}}, 403),
        ({"headers": {"Host": "127.0.0.1:1"}}, 403),
        ({"headers": {"Host": "localhost.example.com"}}, 403),
        ({"auth": None, "headers": {"Origin": "https://example.com"}}, 403),
        ({"method": "GET"}, 405),
        ({"method": "OPTIONS"}, 405),
        ({"method": "PUT"}, 405),
        ({"headers": {"Content-Type": "text/plain"}}, 415),
        ({"headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 415),
        ({"headers": {"Content-Type": "application/json; charset=utf-8"}}, 200),
    ],
)
def test_what_no_program_of_this_machine_sends_is_refused(
    lonely: Served, settings: dict[str, Any], status: int
) -> None:
    answer = lonely.post(BODY, **settings)
    assert answer.status_code == status
    if status != 200:
        assert "result" not in answer.text


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_its_own_names_are_no_foreign_ones(lonely: Served, name: str) -> None:
    here = f"{name}:{urlsplit(lonely.url).port}"
    answer = lonely.post(BODY, headers={"Host": here, "Origin": f"http://{here}"})
    assert (answer.status_code, answer.json()["id"]) == (200, 1)


def test_a_body_that_is_too_large_or_no_json(lonely: Served) -> None:
    assert lonely.post(None, data=b"[" * 2_000_000, headers={"Content-Type": "application/json"}).status_code == 413
    answer = lonely.post(None, data=b"{", headers={"Content-Type": "application/json"})
    assert answer.json()["error"]["code"] == -32700
    assert lonely.result("history") == []


def test_who_only_is_paid_may_ask_what_moves_nothing(lonely: Served) -> None:
    user, _, password = lonely.receive_cookie.read_text().partition(":")

    def answer(method: str, params: Any = None, auth: Any = (user, password)) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
        return lonely.post(body, auth=auth).json()

    assert "result" in answer("version")
    assert answer("status")["result"]["chain"] is None  # it is carried out: there is no hub
    names = set(commands.COMMANDS) - set(cli.NOT_SERVED)
    for name in names - set(RECEIVING):
        assert answer(name)["error"]["data"]["type"] == "MethodNotAllowed", name
    batch = [{"jsonrpc": "2.0", "id": n, "method": name} for n, name in enumerate(("history", "version"))]
    answers = lonely.post(batch, auth=(user, password)).json()
    assert [("result" in item) for item in answers] == [False, True]
    moving = {"blocksend", "connect", "queuepayment", "cancelpayment", "pay", "sync", "close", "cull", "config"}
    assert moving.isdisjoint(RECEIVING)
    assert lonely.post(BODY, auth=("__cookie__", password)).status_code == 401
    assert lonely.post(BODY, auth=("__receive__", lonely.secret.partition(":")[2])).status_code == 401


# Start and stop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_cookies_are_private_new_each_time_and_go_with_the_server(
    basedir: Path, tmp_path: Path, how: signal.Signals
) -> None:
    secrets = set()
    for _ in range(2):
        server = Served(basedir, NOBODY)
        found = {server.cookie: "__cookie__", server.receive_cookie: "__receive__"}
        assert [path.name for path in found] == ["regtest.cookie", "regtest.receive.cookie"]
        for path, expected in found.items():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            user, _, token = path.read_text().partition(":")
            assert user == expected
            assert len(bytes.fromhex(token)) == 32
            secrets.add(token)
        assert server.end(how) == (0, "")
        assert not any(path.exists() for path in found)
    assert len(secrets) == 4
    assert "Traceback" not in (tmp_path / "serve.log").read_text()


def test_events_follow_the_url_on_stdout_where_that_is_asked_for(basedir: Path) -> None:
    client = Client(basedir, NOBODY)
    client.run("config", "timeout", "5")
    with served(client.basedir, NOBODY, "--port", "0", "--events", "-", "--every", "0.2") as server:
        (client.basedir / "regtest.connections").mkdir(mode=0o700)
        (client.basedir / "regtest.connections" / f"{'ab' * 32}.json").write_text("x")
        (client.basedir / "regtest.connections" / f"{'ab' * 32}.json").chmod(0o600)
        (client.basedir / "regtest.wallet").unlink()
        assert server.process.stdout is not None
        event = json.loads(server.process.stdout.readline())
        assert (event["number"], event["event"], event["source"]) == (1, "error", "wallet")
        assert (event["name"], sorted(event)) == (
            "StoreDamaged", ["data", "event", "message", "name", "number", "source", "time"]
        )  # fmt: skip
        assert "`picopayments-cli --regtest --basedir" in event["data"]["why"]
        assert server.end() == (0, "")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--exec", "/no/such/program"], "UsageError"),
        (["--webhook", "nowhere"], "InvalidUrl"),
        (["--every", "0"], "UsageError"),
        (["--every", "3601"], "UsageError"),
    ],
)
def test_where_events_can_not_go_is_said_at_the_start(basedir: Path, words: list[str], name: str) -> None:
    done = Client(basedir, NOBODY).done("serve", "--port", "0", *words)
    assert (done.stdout, done.error["name"]) == ("", name)


def test_a_cookie_left_by_a_killed_server_is_replaced(basedir: Path) -> None:
    first = Served(basedir, NOBODY)
    first.end(signal.SIGKILL)
    assert first.cookie.read_text() == first.secret
    first.cookie.chmod(0o644)
    with served(basedir) as second:
        assert second.secret != first.secret
        assert stat.S_IMODE(second.cookie.stat().st_mode) == 0o600
        assert second.result("history") == []


def test_a_second_server_of_the_same_folder_is_refused(lonely: Served) -> None:
    done = Client(lonely.cookie.parent, NOBODY).done("serve", "--port", "0")
    assert (done.code, done.error["name"]) == (4, "StoreLocked")
    assert lonely.cookie.read_text() == lonely.secret
    assert lonely.result("history") == []


def test_nothing_begins_anew_where_the_folder_was_taken_away(basedir: Path, tmp_path: Path) -> None:
    with served(basedir, NOBODY) as server:
        shutil.move(basedir, tmp_path / "away")
        name, message = server.error("status")
        assert (name, "taken away" in message) == ("StoreUnusable", True)
        assert not basedir.exists()
        shutil.move(tmp_path / "away", basedir)
        assert server.result("history") == []


def test_a_port_that_is_taken_is_named(basedir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = Client(basedir, NOBODY).done("serve", "--port", str(taken.getsockname()[1]))
    assert (done.code, done.error["name"]) == (4, "PortUnusable")
    assert [name for name in os.listdir(basedir) if "lock" not in name] == ["regtest.wallet"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_hosts_that_others_can_reach_are_refused(basedir: Path, host: str) -> None:
    done = Client(basedir, NOBODY).done("serve", "--port", "0", "--host", host)
    assert (done.code, done.error["name"]) == (2, "UsageError")
    assert "regtest.serve.lock" not in os.listdir(basedir)


@pytest.mark.parametrize("number", ["-1", "65536", "x", "1.5"])
def test_ports_that_are_none(tmp_path: Path, number: str) -> None:
    words = Client(tmp_path, NOBODY).words("serve", f"--port={number}")
    done = subprocess.run(
        [sys.executable, "-m", "picopayments_cli", *words], capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert json.loads(done.stderr.splitlines()[-1])["error"]["name"] == "UsageError"

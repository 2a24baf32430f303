"""``serve``: what programs of this machine may ask, what anybody else gets, and how it starts and stops."""

from __future__ import annotations

import contextlib
import json
import os
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
import requests
from filelock import FileLock
from network_support import DEPOSIT, WAIT, Client, Network, wait_until

NOBODY = "http://127.0.0.1:9/api/"


class Served:
    """``serve`` as a process of its own, and what it has printed."""

    def __init__(self, basedir: Path, hub_url: str, *options: str) -> None:
        words = Client(basedir, hub_url).words("serve", *(options or ("--port", "0")))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "picopayments_cli", *words],
            stdout=subprocess.PIPE,
            stderr=(basedir.parent / "serve.log").open("ab"),
            text=True,
        )
        assert self.process.stdout is not None
        self.first = self.process.stdout.readline()
        if self.first:
            ready = json.loads(self.first)
            assert sorted(ready) == ["cookie", "url"]
            self.url: str = ready["url"]
            self.cookie = Path(ready["cookie"])
            self.secret = self.cookie.read_text()

    def post(self, body: Any, **settings: Any) -> requests.Response:
        """One request, as a well-behaved program sends it but for ``settings``."""
        user, _, password = self.secret.partition(":")
        return requests.request(**{
            "method": "POST", "url": self.url, "json": body, "auth": (user, password), "timeout": WAIT, **settings
        })  # fmt: skip

    def call(self, method: str, params: Any = None) -> Any:
        """The whole reply to a call."""
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {} if params is None else params}
        answer = self.post(body)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        reply = answer.json()
        assert (reply["id"], reply["jsonrpc"]) == (7, "2.0")
        return reply

    def result(self, method: str, params: Any = None) -> Any:
        """The result of a call."""
        return self.call(method, params)["result"]

    def error(self, method: str, params: Any = None) -> tuple[str, str]:
        """Name and message of the error that answers a call."""
        data = self.call(method, params)["error"]["data"]
        return data["type"], data["message"]

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """The exit code after a signal, and what was printed since the start."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(WAIT)
        assert self.process.stdout is not None
        rest = "" if self.process.stdout.closed else self.process.stdout.read()
        self.process.stdout.close()
        return code, rest


@contextlib.contextmanager
def served(basedir: Path, hub_url: str = NOBODY) -> Iterator[Served]:
    """``serve`` for the length of a ``with`` block."""
    server = Served(basedir, hub_url)
    try:
        yield server
    finally:
        server.end()


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose hub does not run."""
    with served(tmp_path_factory.mktemp("lonely") / "basedir") as server:
        yield server


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
        ("connect", ["XCP", 5, 1024, 2, True, 3], "5 arguments"),
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


# Start and stop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_the_cookie_is_private_new_each_time_and_goes_with_the_server(tmp_path: Path, how: signal.Signals) -> None:
    secrets = set()
    for _ in range(2):
        server = Served(tmp_path / "basedir", NOBODY)
        assert stat.S_IMODE(server.cookie.stat().st_mode) == 0o600
        assert server.cookie == tmp_path / "basedir" / "regtest.cookie"
        user, _, token = server.secret.partition(":")
        assert user == "__cookie__"
        assert len(bytes.fromhex(token)) == 32
        secrets.add(token)
        assert server.end(how) == (0, "")
        assert not server.cookie.exists()
    assert len(secrets) == 2
    assert "Traceback" not in (tmp_path / "serve.log").read_text()


def test_a_cookie_left_by_a_killed_server_is_replaced(tmp_path: Path) -> None:
    first = Served(tmp_path / "basedir", NOBODY)
    first.end(signal.SIGKILL)
    assert first.cookie.read_text() == first.secret
    first.cookie.chmod(0o644)
    with served(tmp_path / "basedir") as second:
        assert second.secret != first.secret
        assert stat.S_IMODE(second.cookie.stat().st_mode) == 0o600
        assert second.result("history") == []


def test_a_second_server_of_the_same_folder_is_refused(lonely: Served) -> None:
    done = Client(lonely.cookie.parent, NOBODY).done("serve", "--port", "0")
    assert (done.code, done.error["name"]) == (4, "StoreLocked")
    assert lonely.cookie.read_text() == lonely.secret
    assert lonely.result("history") == []


def test_nothing_begins_anew_where_the_folder_was_taken_away(tmp_path: Path) -> None:
    basedir = tmp_path / "basedir"
    with served(basedir, NOBODY) as server:
        shutil.move(basedir, tmp_path / "away")
        name, message = server.error("status")
        assert (name, "taken away" in message) == ("StoreUnusable", True)
        assert not basedir.exists()
        shutil.move(tmp_path / "away", basedir)
        assert server.result("history") == []


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = Client(tmp_path / "basedir", NOBODY).done("serve", "--port", str(taken.getsockname()[1]))
    assert (done.code, done.error["name"]) == (4, "PortUnusable")
    assert [name for name in os.listdir(tmp_path / "basedir") if "lock" not in name] == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_hosts_that_others_can_reach_are_refused(tmp_path: Path, host: str) -> None:
    done = Client(tmp_path / "basedir", NOBODY).done("serve", "--port", "0", "--host", host)
    assert (done.code, done.error["name"]) == (2, "UsageError")
    assert not (tmp_path / "basedir").exists()


@pytest.mark.parametrize("number", ["-1", "65536", "x", "1.5"])
def test_ports_that_are_none(tmp_path: Path, number: str) -> None:
    words = Client(tmp_path, NOBODY).words("serve", f"--port={number}")
    done = subprocess.run(
        [sys.executable, "-m", "picopayments_cli", *words], capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert json.loads(done.stderr.splitlines()[-1])["error"]["name"] == "UsageError"

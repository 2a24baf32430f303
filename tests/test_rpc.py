"""What a caller of a hub or node sees: results, refusals by name, else a named error in bounded time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from servers import Talk, json_rpc, saying, talking

from picopayments_cli import rpc as rpc_module
from picopayments_cli.channel.errors import (
    BadAnswer,
    HubRefused,
    HubUnreachable,
    InsufficientFunds,
    InvalidParams,
    InvalidUrl,
    NodeRefused,
    NodeUnreachable,
    UnknownMethod,
)
from picopayments_cli.rpc import RestClient, RpcClient

QUICK = (1.0, 0.3)


def too_poor() -> None:
    raise InsufficientFunds("Too little XCP: deposit 5 more.", missing=5)


def node_down() -> None:
    raise NodeUnreachable("The hub's node is down.")


def add(a: int, b: int = 1) -> int:
    return a + b


METHODS: dict[str, Callable[..., Any]] = {
    "add": add,
    "too_poor": too_poor,
    "node_down": node_down,
    "fails": lambda: 1 // 0,
}


def test_results_and_refusals_by_name() -> None:
    with json_rpc(METHODS, on_error=lambda _name, _error: None) as url:
        client = RpcClient(url)
        assert client.call("add", {"a": 1}, retry=True) == 2
        assert client.batch([("add", {"a": 1}), ("add", {"a": 1, "b": 5})]) == [2, 6]
        with pytest.raises(InsufficientFunds, match="deposit 5 more") as refusal:
            client.call("too_poor", {}, retry=False)
        assert refusal.value.data == {"missing": 5}
        with pytest.raises(NodeUnreachable, match="The hub's node is down"):
            client.call("node_down", {}, retry=True)
        with pytest.raises(UnknownMethod):
            client.call("subtract", {}, retry=False)
        with pytest.raises(InvalidParams):
            client.call("add", {"c": 1}, retry=False)
        with pytest.raises(HubRefused) as refused:
            client.call("fails", {}, retry=False)
        assert "division" not in str(refused.value.as_json())
        outcomes = client.outcomes([("add", {"a": 1}), ("too_poor", {})])
        assert outcomes[0] == 2
        assert isinstance(outcomes[1], InsufficientFunds)
        with pytest.raises(InsufficientFunds):
            client.batch([("add", {"a": 1}), ("too_poor", {})])


def test_a_batch_longer_than_a_post() -> None:
    with json_rpc(METHODS) as url:
        calls = [("add", {"a": n}) for n in range(rpc_module.BATCH + 10)]
        assert RpcClient(url).batch(calls) == [n + 1 for n in range(rpc_module.BATCH + 10)]


def test_a_refusal_of_the_original_hub() -> None:
    error = {"code": -32000, "message": "Server error", "data": {"type": "ClientPubkeyMissmatch", "message": "no"}}
    with (
        talking(saying({"error": error, "id": 0, "jsonrpc": "2.0"})) as (url, _),
        pytest.raises(HubRefused, match="no") as refused,
    ):
        RpcClient(url).call("mph_sync", {}, retry=False)
    assert refused.value.data["details"]["type"] == "ClientPubkeyMissmatch"


@pytest.mark.parametrize("name", ["Exception", "Any", "annotations", "PicopaymentsErrors", 5, None])
def test_only_our_errors_are_made_from_names(name: Any) -> None:
    error = {"code": -32000, "message": "Server error", "data": {"type": name, "message": "x"}}
    with talking(saying({"error": error, "id": 0})) as (url, _), pytest.raises(NodeRefused):
        RpcClient(url, unreachable=NodeUnreachable).call("m", {}, retry=False)


def test_an_older_bitcoin_core_refuses_with_status_500() -> None:
    reply = {"result": None, "error": {"code": -5, "message": "Block not found"}, "id": 0}
    with talking(saying(reply, "500 Internal Server Error")) as (url, _), pytest.raises(NodeRefused) as refused:
        RpcClient(url, unreachable=NodeUnreachable).call("getblock", [], retry=True)
    assert refused.value.data["code"] == -5


HTML = b"<html>hello</html>"
BAD: dict[str, Talk] = {
    "html": saying(HTML),
    "html 404": saying(HTML, "404 Not Found"),
    "number": saying(5),
    "neither": saying({"id": 0}),
    "empty": saying(b""),
    "nan": saying(b'{"result":NaN}'),
    "deep": saying(b'{"result":' + b"[" * 900 + b"]" * 900 + b"}"),
    "very deep": saying(b"[" * 200000),
    "latin": saying(b'{"result":"\xff"}'),
    "surrogate": saying(b'{"result":"\\ud800"}'),
    "redirect": saying(b"", "307 Temporary Redirect", "Location: http://127.0.0.1:1/\r\n"),
    "password": saying(b"", "401 Unauthorized"),
}


@pytest.mark.parametrize("case", BAD)
def test_answers_out_of_the_protocol(case: str) -> None:
    with talking(BAD[case]) as (url, heard):
        with pytest.raises(BadAnswer, match="balances") as bad:
            RpcClient(url).call("balances", {}, retry=True)
        assert url in bad.value.message
        assert len(heard) == 1


def test_a_batch_whose_reply_lacks_one() -> None:
    with (
        talking(saying([{"result": 1, "id": 0}, 7, {"result": 1, "id": [2]}])) as (url, _),
        pytest.raises(BadAnswer),
    ):
        RpcClient(url).batch([("a", {}), ("b", {})])


def silent(connection: socket.socket) -> None:
    connection.recv(1)


def dribble(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"1\r\n \r\n")
        time.sleep(0.05)


def dribbled_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


SILENT: dict[str, Talk] = {
    "silence": silent,
    "hangs up": lambda _connection: None,
    "short": lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
    "no http": lambda connection: connection.sendall(b"SSH-2.0-OpenSSH\r\n"),
    "endless body": dribble,
    "endless headers": dribbled_headers,
    "500": saying(HTML, "500 Internal Server Error"),
    "503": saying({"error": "Counterparty not ready"}, "503 Service Unavailable"),
}


@pytest.mark.parametrize("case", SILENT)
def test_no_answer_is_a_named_error_in_bounded_time(case: str) -> None:
    with talking(SILENT[case]) as (url, heard):
        start = time.monotonic()
        with pytest.raises(HubUnreachable, match="balances") as error:
            RpcClient(url, timeout=QUICK).call("balances", {}, retry=False)
        assert time.monotonic() - start < 5
        assert url in error.value.message
        assert len(heard) == 1, "a call that moves money was sent twice"


def test_a_safe_call_is_repeated() -> None:
    turns = iter([SILENT["hangs up"], SILENT["503"], saying({"result": "there", "id": 0})])
    with talking(lambda connection: next(turns)(connection)) as (url, heard):  # noqa: PLW0108
        assert RpcClient(url).call("balances", {}, retry=True) == "there"
        assert len(heard) == 3


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(NodeUnreachable, match=f"127.0.0.1:{port}.*refused"):
        RpcClient(f"http://user:secret@127.0.0.1:{port}/", unreachable=NodeUnreachable).call("x", {}, retry=True)


def test_an_answer_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "MAX_ANSWER", 100_000)
    with (
        talking(saying(b" " * 200_000 + b"{}")) as (url, _),
        pytest.raises(BadAnswer, match="more than 100000 bytes"),
    ):
        RpcClient(url).call("balances", {}, retry=True)


def test_the_password_of_the_url_is_sent_and_not_shown() -> None:
    with talking(saying(b"", "403 Forbidden")) as (url, heard):
        secret = url.replace("//", "//user:pass%20word@")
        with pytest.raises(BadAnswer) as error:
            RpcClient(secret).call("balances", {}, retry=True)
        assert b"Authorization: Basic dXNlcjpwYXNzIHdvcmQ=" in heard[0]
        assert "user:" not in str(error.value.as_json())
        assert "pass%20word" not in str(error.value.as_json())


@pytest.mark.parametrize("url", ["", "127.0.0.1:5000", "ftp://a/", "http://", "http://a:99999/", "http://a b/", None])
def test_urls_that_can_not_be_called(url: Any) -> None:
    with pytest.raises(InvalidUrl):
        RpcClient(url)


def test_threads_share_a_client() -> None:
    with json_rpc(METHODS) as url:
        client = RpcClient(url)
        results: list[int] = []
        threads = [
            threading.Thread(target=lambda n=n: results.append(client.call("add", {"a": n}, retry=True)))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(results) == list(range(1, 9))


def test_rest_refusals() -> None:
    with talking(saying({"error": "Invalid address"}, "400 Bad Request")) as (url, _):
        with pytest.raises(NodeRefused, match="Invalid address") as refused:
            RestClient(url).rest_get("v2/x")
        assert refused.value.data["status"] == 400
    with talking(saying(HTML, "405 Method Not Allowed")) as (url, _), pytest.raises(BadAnswer):
        RestClient(url).rest_get("v2/x")
    with (
        talking(saying({"error": "Internal server error"}, "500 Internal Server Error")) as (url, _),
        pytest.raises(NodeUnreachable, match="Internal server error"),
    ):
        RestClient(url).rest_get("v2/x")

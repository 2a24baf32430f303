"""Calls of a hub or node end in bounded time with a result, a refusal by name, or a named error."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import Talk, json_rpc, saying, serving_socket, talking

from picopayments_cli import rpc as rpc_module
from picopayments_cli import web
from picopayments_cli.errors import (
    BadAnswer,
    HubRefused,
    HubUnreachable,
    InsufficientFunds,
    InvalidParams,
    InvalidUrl,
    NodeRefused,
    NodeUnreachable,
    PicopaymentsError,
    UnknownMethod,
    Unreachable,
)
from picopayments_cli.rpc import RestClient, RpcClient

QUICK = (1.0, 0.3)


REPEATED = """
import logging, sys
from picopayments_cli.errors import HubUnreachable
from picopayments_cli.jsonlog import log_to_stderr
from picopayments_cli.rpc import RpcClient
log_to_stderr(logging.DEBUG)
try:
    RpcClient(sys.argv[1], retries=1).call("anything", {}, retry=True)
except HubUnreachable as error:
    logging.getLogger("picopayments_cli").warning("round failed", exc_info=error)
"""


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


@pytest.mark.parametrize(
    "talk",
    [
        saying(b"<!DOCTYPE html><html>shop</html>"),
        saying(HTML, "400 Bad Request"),
        saying(b"404 page not found", "404 Not Found"),
        saying({"detail": "Not Found"}, "404 Not Found"),
        saying(b"Method Not Allowed", "405 Method Not Allowed"),
    ],
)
def test_a_web_server_that_is_no_hub_is_told_as_such(talk: Talk) -> None:
    with talking(talk) as (url, _), pytest.raises(BadAnswer) as found:
        RpcClient(url).call("balances", {}, retry=True)
    assert found.value.message.startswith(f"There is no hub at {url}: a web server answered balances with HTTP status")
    assert "the hub's path, such as /api/, and https where the hub has that" in found.value.message
    with talking(talk) as (url, _), pytest.raises(BadAnswer, match="There is no node at"):
        RpcClient(url, unreachable=NodeUnreachable).call("getblock", [], retry=True)


def test_http_where_a_server_speaks_https_is_told_as_far_as_it_can_be() -> None:
    with talking(lambda connection: None) as (url, _), pytest.raises(HubUnreachable, match="speaks https alone"):
        RpcClient(url).call("balances", {}, retry=False)


def test_https_where_a_server_speaks_http_is_told() -> None:
    with serving_socket(saying(HTML, "400 Bad Request")) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(HubUnreachable, match="no TLS is spoken there"):
            RpcClient(url).call("balances", {}, retry=False)


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
    "503 with a list": saying(["Counterparty not ready"], "503 Service Unavailable"),
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


@pytest.mark.parametrize("case", ["silence", "endless body", "endless headers"])
def test_the_time_out_bounds_a_call_as_a_whole(case: str) -> None:
    with talking(SILENT[case]) as (url, _):
        start = time.monotonic()
        with pytest.raises(HubUnreachable, match=r"no complete answer within 0\.6 s"):
            RpcClient(url, timeout=(0.6, 0.6)).call("balances", {}, retry=True)
        assert 0.5 < time.monotonic() - start < 1.2


def test_a_safe_call_is_repeated() -> None:
    turns = iter([SILENT["hangs up"], SILENT["503"], saying({"result": "there", "id": 0})])
    with talking(lambda connection: next(turns)(connection)) as (url, heard):  # noqa: PLW0108
        assert RpcClient(url).call("balances", {}, retry=True) == "there"
        assert len(heard) == 3


def test_a_url_where_nobody_listens_is_unreachable() -> None:
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


# Borders ------------------------------------------------------------------------------------------------------------


def test_the_limits_of_an_answer() -> None:
    assert rpc_module.MAX_ANSWER == 64_000_000
    assert list(rpc_module.TIMEOUT) == [10, 60]
    assert (rpc_module.MAX_TEXT, rpc_module.RETRIES) == (2000, 2)
    assert rpc_module.BATCH <= web.MAX_BATCH // 2


def refused_with(error: Any, status: str = "200 OK") -> PicopaymentsError:
    """Return what a refusal is taken for."""
    with talking(saying({"error": error, "id": 0}, status)) as (url, _), pytest.raises(PicopaymentsError) as refused:
        RpcClient(url).call("balances", {}, retry=False)
    return refused.value


def test_each_refusal_has_its_error() -> None:
    data = {"type": "InsufficientFunds", "message": "Too little.", "data": {"missing": 5}}
    cases: list[tuple[Any, type[PicopaymentsError], dict[str, Any]]] = [
        ({"code": -32000, "data": data}, InsufficientFunds, {"missing": 5}),
        ({"code": -32601, "data": data}, InsufficientFunds, {"missing": 5}),
        ({"code": -32000, "data": data | {"data": [5]}}, InsufficientFunds, {}),
        ({"code": -32601, "message": "x"}, UnknownMethod, {"call": "balances"}),
        ({"code": -32602, "message": "x"}, InvalidParams, {"call": "balances"}),
        ({"code": -32603, "message": "x"}, HubRefused, {"call": "balances", "code": -32603, "details": None}),
        ({"code": [1], "data": [data]}, HubRefused, {"call": "balances", "code": [1], "details": [data]}),
        ("no", HubRefused, {"call": "balances"}),
        (False, HubRefused, {"call": "balances"}),
        ({}, HubRefused, {"call": "balances", "code": None, "details": None}),
    ]
    for error, kind, expected in cases:
        refused = refused_with(error)
        assert (type(refused), refused.data) == (kind, expected), error
    assert isinstance(refused_with({"code": -28, "message": "Loading block index"}), HubUnreachable)


@pytest.mark.parametrize(
    "name",
    [
        "StoreDamaged",
        "DatabaseOutdated",
        "LocalFiles",
        "UsageError",
        "CommandUnfinished",
        "SyncIncomplete",
        "DemoFailed",
        "WaitRanOut",
        "PaymentNotSent",
        "PaymentRefused",
        "NoSuchError",
        "Any",
    ],
)
def test_no_peer_can_say_that_something_is_wrong_on_this_machine(name: str) -> None:
    assert type(refused_with({"code": -32000, "data": {"type": name, "message": "x"}})) is HubRefused


def test_what_a_peer_says_is_cut_and_made_printable() -> None:
    long = "\x1b[31m\x9b\n" + "x" * 5000
    for error in (long, {"code": 1, "message": long}, {"data": {"type": "InsufficientFunds", "message": long}}):
        message = refused_with(error).message
        assert message.isprintable()
        assert len(message) <= rpc_module.MAX_TEXT
        assert message.rstrip("x").endswith(" [31m  ")
    for status, kind in (("400 x", NodeRefused), ("500 x", NodeUnreachable), ("503 x", NodeUnreachable)):
        with talking(saying({"error": long}, status)) as (url, _), pytest.raises(PicopaymentsError) as refused:
            RestClient(url, retries=0).rest_get("v2/x")
        assert type(refused.value) is kind
        for text in (refused.value.message, refused.value.data["reason"]):
            assert text.isprintable()
            assert len(text) < rpc_module.MAX_TEXT + 200


def test_an_error_names_server_call_and_reason() -> None:
    with talking(saying(HTML)) as (url, _):
        rpc, rest = RpcClient(url), RestClient(url)
        for ask in (lambda: rpc.call("balances", {}, retry=True), lambda: rest.rest_get("balances")):
            with pytest.raises(BadAnswer) as bad:
                ask()
            assert (bad.value.data["url"], bad.value.data["call"]) == (url, "balances")
            assert "HTTP status 200" in bad.value.data["reason"]
    with talking(SILENT["503"]) as (url, _), pytest.raises(HubUnreachable) as silence:
        RpcClient(url).call("balances", {}, retry=False)
    reason = "HTTP status 503, Counterparty not ready"
    assert silence.value.data == {"url": url, "call": "balances", "reason": reason}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *(("300 x", BadAnswer), ("302 x", BadAnswer), ("399 x", BadAnswer)),
        *(("401 x", BadAnswer), ("403 x", BadAnswer), ("407 x", BadAnswer)),
        *(("429 x", HubUnreachable), ("502 x", HubUnreachable), ("503 x", HubUnreachable), ("504 x", HubUnreachable)),
    ],
)
def test_what_a_status_says_counts_more_than_the_body(status: str, kind: type[PicopaymentsError]) -> None:
    with talking(saying({"result": 5, "id": 0}, status)) as (url, heard):
        with pytest.raises(kind):
            RpcClient(url).call("balances", {}, retry=False)
        assert len(heard) == 1


def test_an_answer_of_another_status_is_read() -> None:
    for status in ("200 x", "299 x", "400 x", "404 x", "500 x", "505 x"):
        with talking(saying({"result": 5, "id": 0}, status)) as (url, _):
            assert RpcClient(url).call("balances", {}, retry=False) == 5
    for status, kind in (("499 x", BadAnswer), ("500 x", HubUnreachable)):
        with talking(saying(HTML, status)) as (url, _), pytest.raises(kind):
            RpcClient(url).call("balances", {}, retry=False)


def test_where_a_redirect_leads_is_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "MAX_ANSWER", 100_000)
    for place in ("http://[", "//[", "\xff", "http://a..b/", "http://127.0.0.1:1/"):
        for status in ("200 OK", "302 Found"):
            with talking(saying({"result": 5}, status, f"Location: {place}\r\n")) as (url, heard):
                with pytest.raises(BadAnswer, match="redirect"):
                    RpcClient(url).call("balances", {}, retry=True)
                assert len(heard) == 1

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)

    with talking(endless) as (url, _), pytest.raises(BadAnswer, match="more than 100000 bytes"):
        RpcClient(url, timeout=QUICK).call("balances", {}, retry=False)


def test_an_answer_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"result":5}'
    with talking(saying(body)) as (url, heard):
        monkeypatch.setattr(rpc_module, "MAX_ANSWER", len(body))
        assert RpcClient(url).call("balances", {}, retry=False) == 5
        monkeypatch.setattr(rpc_module, "MAX_ANSWER", len(body) - 1)
        with pytest.raises(BadAnswer, match="more than 11 bytes"):
            RpcClient(url).call("balances", {}, retry=False)
        assert b"Accept-Encoding: identity\r\n" in heard[0]


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "*a"])
def test_a_name_that_no_server_has(host: str) -> None:
    with pytest.raises(HubUnreachable):
        RpcClient(f"http://{host}/", retries=0).call("balances", {}, retry=False)


def test_passwords_of_any_letters() -> None:
    right = b"Authorization: Basic " + b64encode("ü€:%/€".encode()) + b"\r\n"
    with talking(saying({"result": 5})) as (url, heard):
        RpcClient(url.replace("//", "//%C3%BC%E2%82%AC:%25%2F%E2%82%AC@")).call("balances", {}, retry=False)
        RpcClient(url, auth=("ü€", "%/€")).call("balances", {}, retry=False)
        RpcClient(url.replace("//", "//a:b@"), auth=("ü€", "%/€")).call("balances", {}, retry=False)
        RpcClient(url.replace("//", "//user@")).call("balances", {}, retry=False)
        RpcClient(url).call("balances", {}, retry=False)
    assert [right in request for request in heard] == [True, True, True, False, False]
    assert b"Authorization: Basic " + b64encode(b"user:") in heard[3]
    assert b"Authorization" not in heard[4]


def test_how_often_a_call_is_repeated() -> None:
    calls: list[tuple[bool, int | None, int]] = [(True, None, 3), (True, 1, 2), (True, 0, 1), (False, None, 1)]
    for again, retries, times in calls:
        for case in ("hangs up", "503"):
            with talking(SILENT[case]) as (url, heard):
                client = RpcClient(url) if retries is None else RpcClient(url, retries=retries)
                with pytest.raises(HubUnreachable):
                    client.call("balances", {}, retry=again)
                assert len(heard) == times, (case, again, retries)
    with talking(SILENT["hangs up"]) as (url, heard):
        for ask in (
            lambda: RpcClient(url, retries=1).batch([("balances", {})]),
            lambda: RpcClient(url, retries=1).outcomes([("balances", {})]),
            lambda: RpcClient(url, retries=1).batch([("balances", {})], retry=False),
            lambda: RestClient(url, retries=1).rest_get("v2/x"),
            lambda: RestClient(url, retries=1).rest_post("v2/x", {}, retry=True),
            lambda: RestClient(url, retries=1).rest_post("v2/x", {}, retry=False),
        ):
            with pytest.raises(Unreachable):
                ask()
    assert len(heard) == 2 + 2 + 1 + 2 + 2 + 1


def test_how_long_to_wait_is_for_the_caller_to_say() -> None:
    with talking(saying(b"", "503 Service Unavailable", "Retry-After: 3600\r\n")) as (url, heard):
        with pytest.raises(HubUnreachable, match="503"):
            RpcClient(url, timeout=(5.0, 5.0)).call("balances", {}, retry=True)
        assert len(heard) == 3


def test_a_batch_that_is_refused_as_a_whole() -> None:
    error = {"code": -32000, "data": {"type": "InsufficientFunds", "message": "Too little."}}
    with talking(saying({"error": error, "id": None})) as (url, _), pytest.raises(InsufficientFunds):
        RpcClient(url).outcomes([("a", {}), ("b", {})])
    for reply in ({"result": [1, 2], "id": 0}, {}, [], [1], {"id": 0}):
        with talking(saying(reply)) as (url, _), pytest.raises(BadAnswer):
            RpcClient(url).outcomes([("a", {}), ("b", {})])
    replies: list[dict[str, Any]] = [{"result": 2, "id": 1}, {"id": "0", "result": 3}, {"result": 1, "id": 0}]
    with talking(saying(replies)) as (url, _):
        assert RpcClient(url).outcomes([("a", {}), ("b", {})]) == [1, 2]


def test_a_call_as_json_rpc_asks_for() -> None:
    with talking(saying({"result": None, "error": None, "id": 0})) as (url, heard):
        client = RpcClient(url)
        assert client.call("balances", {"a": [1]}, retry=False) is None
        assert client.call("balances", [1], retry=False) is None
    heads, bodies = zip(*(request.split(b"\r\n\r\n") for request in heard), strict=True)
    assert [json.loads(body) for body in bodies] == [
        {"jsonrpc": "2.0", "method": "balances", "params": {"a": [1]}, "id": 0},
        {"jsonrpc": "2.0", "method": "balances", "params": [1], "id": 1},
    ]
    assert all(b"Content-Type: application/json" in head for head in heads)


def test_rest_calls() -> None:
    with talking(saying({"result": 5})) as (url, heard):
        for base in (url, url.rstrip("/")):
            assert RestClient(base).rest_get("v2/x", {"limit": 1, "cursor": "a b"}) == {"result": 5}
            assert RestClient(base).url == url
        assert RestClient(url).rest_post("v2/x", {"signedhex": "00"}, retry=False) == {"result": 5}
    assert heard[0].startswith(b"GET /v2/x?limit=1&cursor=a+b HTTP/1.1\r\n")
    assert heard[1].partition(b"\r\n")[0] == heard[0].partition(b"\r\n")[0]
    assert heard[2].startswith(b"POST /v2/x HTTP/1.1\r\n")
    assert heard[2].endswith(b"\r\n\r\nsignedhex=00")
    bad: list[tuple[Any, str]] = [([], "200 x"), ([5], "400 x"), ({"error": None}, "400 x"), ({"error": [1]}, "404 x")]
    for body, status in bad:
        with talking(saying(body, status)) as (url, _), pytest.raises(BadAnswer):
            RestClient(url).rest_get("v2/x")
    with talking(saying({"error": "a note", "result": 5}, "299 x")) as (url, _):
        assert RestClient(url).rest_get("v2/x")["result"] == 5


def test_nothing_of_the_environment_reaches_this_very_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login user password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, nobody)
    with talking(saying({"result": 5})) as (url, heard):
        assert RpcClient(url).call("balances", {}, retry=False) == 5
        assert RpcClient(url.replace("127.0.0.1", "localhost")).call("balances", {}, retry=False) == 5
        monkeypatch.setenv("http_proxy", url)
        assert RpcClient("http://hub.example/").call("balances", {}, retry=False) == 5
    assert heard[2].startswith(b"POST http://hub.example/ HTTP/1.1\r\n")
    assert not any(b"authorization" in request.lower() for request in heard)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "LocalHost", "[::ffff:127.0.0.1]"])
def test_this_machine_is_called_directly_however_it_is_written(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed.getsockname()[1]}/")
    with talking(saying({"result": 5})) as (url, _):
        assert RpcClient(url.replace("127.0.0.1", host)).call("balances", {}, retry=False) == 5


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_dead_is_named_without_its_password(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        proxy = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv(f"{scheme}_proxy", f"http://user:hunter2@{proxy}")
    with pytest.raises(HubUnreachable, match="refused") as dead:
        RpcClient(f"{scheme}://hub.example/", retries=0).call("balances", {}, retry=False)
    assert dead.value.data["proxy"] == f"http://{proxy}"
    assert f"through the proxy http://{proxy}, which the environment names" in dead.value.message
    assert "hunter2" not in str(dead.value.as_json())


def test_a_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for status, error in (("407 x", BadAnswer), ("403 x", BadAnswer), ("502 x", HubUnreachable)):
        with talking(saying(b"", status)) as (url, _):
            monkeypatch.setenv("http_proxy", url)
            with pytest.raises(error, match="through the proxy http://") as refused:
                RpcClient("http://hub.example/", retries=0).call("balances", {}, retry=False)
            assert refused.value.data["proxy"] == url.rstrip("/")


REFUSED = (
    ("400 x", "Invalid address: x"),
    ("404 x", "Not found"),
    ("503 x", "Error broadcasting transaction: bad-txns-inputs-missingorspent"),
    ("400 x", "Error broadcasting transaction: bad-txns-inputs-missingorspent"),
    ("503 x", "No such mempool or blockchain transaction. Use gettransaction for wallet transactions."),
)
FAILED = (
    ("503 x", "Error calling getrawtransaction: HTTPConnectionPool(host='10.1.2.3', port=8332)"),
    ("400 x", "Error calling getrawtransaction: HTTPConnectionPool(host='10.1.2.3', port=8332)"),
    ("503 x", "Error broadcasting transaction: Error calling sendrawtransaction: timed out"),
    ("400 x", "Error broadcasting transaction: 429 Too Many Requests"),
    ("503 x", "Error broadcasting transaction: Loading block index..."),
    ("400 x", "Electrs server not configured"),
    ("400 x", "All Electrs backends failed. Last error: 502"),
    ("503 x", "Counterparty not ready"),
    ("503 x", "Unknown error"),
    ("429 x", "Invalid address: x"),
    ("502 x", "Not found"),
)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [*((*told, NodeRefused) for told in REFUSED), *((*told, NodeUnreachable) for told in FAILED)],
)
def test_a_failure_behind_a_node_is_no_refusal(status: str, text: str, kind: type[PicopaymentsError]) -> None:
    """Counterparty's server gives both the statuses 400 and 503, so its texts decide."""
    with talking(saying({"error": text}, status)) as (url, _):
        client = RestClient(url, retries=0)
        with pytest.raises(PicopaymentsError) as got:
            client.rest_get("v2/x")
        with pytest.raises(PicopaymentsError) as posted:
            client.rest_post("v2/x", {"signedhex": "00"}, retry=True)
        assert (type(got.value), type(posted.value)) == (kind, kind)


def test_the_log_has_events_of_our_own_where_a_request_is_repeated() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        words = [sys.executable, "-c", REPEATED, f"http://127.0.0.1:{nobody.getsockname()[1]}/"]
        told = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True).stderr
    (line,) = map(json.loads, told.splitlines())
    assert (line["event"], line["error"]["name"]) == ("round failed", "HubUnreachable")

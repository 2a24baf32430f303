"""Our servers serve well-behaved and hostile clients as they should, and start and stop cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import json_rpc

from picopayments_cli import web
from picopayments_cli.errors import HubUnreachable, InvalidSetting, PortUnusable, UnknownHandle
from picopayments_cli.jsontext import MAX_DEPTH, parse_json
from picopayments_cli.lanes import Lane
from picopayments_cli.limits import Limits
from picopayments_cli.rpc import RpcClient
from picopayments_cli.transport import Trust
from picopayments_cli.web import JsonRpcEndpoint, RawJson, WebServer

unexpected: list[tuple[str, Exception]] = []


def echo(**members: Any) -> Any:
    return members


def add(a: int, b: int = 1) -> int:
    return a + b


def no_handle() -> None:
    raise UnknownHandle("No such connection: see status.", handle="00ff")


def broken() -> None:
    raise KeyError("the operator's secret")


def mistyped() -> int:
    return len(5)  # type: ignore[arg-type]


def whole(params: dict[str, Any]) -> dict[str, Any]:
    return params


whole.takes_params = True  # type: ignore[attr-defined]


async def later() -> str:
    await asyncio.sleep(0)
    return "later"


ENDPOINT = JsonRpcEndpoint(
    {
        "echo": echo,
        "add": add,
        "no_handle": no_handle,
        "broken": broken,
        "mistyped": mistyped,
        "whole": whole,
        "later": later,
        "stored": lambda: RawJson('{"b":  1.0, "a": null}'),
        "nan": lambda: float("nan"),
    },
    on_error=lambda name, error: unexpected.append((name, error)),
)


def answer(body: Any) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    text = asyncio.run(ENDPOINT.answer(data))
    return json.loads(text) if text else None


def error_of(method: str, params: Any = None) -> dict[str, Any]:
    reply = answer({"method": method, "params": params, "id": 7})
    assert reply["id"] == 7
    assert reply["jsonrpc"] == "2.0"
    error: dict[str, Any] = reply["error"]
    return error


def test_the_forms_of_a_request() -> None:
    forms: list[dict[str, Any]] = [{"params": {}}, {"params": []}, {"params": None}, {}]
    for params in forms:
        assert answer({"method": "echo", "id": 0, **params}) == {"result": {}, "id": 0, "jsonrpc": "2.0"}
    assert answer({"method": "echo", "params": {"a": [1.0]}, "id": "x"})["result"] == {"a": [1.0]}
    assert answer({"method": "add", "params": [1, 5], "id": 1})["result"] == 6
    assert answer({"method": "later", "id": 1})["result"] == "later"
    assert answer({"method": "whole", "params": {"any thing": None}, "id": 1})["result"] == {"any thing": None}
    assert answer({"method": "whole", "id": 1})["result"] == {}


def test_a_batch_is_answered_in_its_order() -> None:
    calls: list[Any] = [{"method": "add", "params": {"a": n}, "id": n} for n in range(3)]
    replies = answer([*calls, 5, {"method": "echo", "jsonrpc": "2.0"}])
    assert [reply.get("result") for reply in replies] == [1, 2, 3, None]
    assert replies[3]["error"]["code"] == -32600
    assert answer([{"method": "echo", "jsonrpc": "2.0"}]) is None
    assert answer([])["error"]["code"] == -32600
    assert answer([{}] * (web.MAX_BATCH + 1))["error"]["code"] == -32600


def test_what_takes_long_is_refused_in_a_batch() -> None:
    endpoint = JsonRpcEndpoint({"later": later, "echo": echo}, alone={"later": 100})
    calls = [{"method": "later", "id": 1}, {"method": "echo", "id": 2}]
    refused, echoed = json.loads(asyncio.run(endpoint.answer(json.dumps(calls).encode())))
    assert (refused["id"], refused["error"]["code"]) == (1, -32600)
    assert echoed["result"] == {}
    assert json.loads(asyncio.run(endpoint.answer(b'{"method":"later","id":1}')))["result"] == "later"


def test_what_takes_long_takes_no_larger_body_than_it_needs() -> None:
    endpoint = JsonRpcEndpoint({"later": later, "echo": echo}, alone={"later": 100})
    for method, size, refused in (("later", 100, False), ("later", 101, True), ("echo", 101, False)):
        body = json.dumps({"method": method, "id": 1}).encode().ljust(size)
        told = json.loads(asyncio.run(endpoint.answer(body))).get("error", {})
        assert told.get("data") == ("later takes a body of at most 100 bytes." if refused else None)


def test_a_batch_ends_where_its_client_goes_away() -> None:
    """What follows would be done for nobody, at the cost of others."""
    done: list[int] = []

    async def all_of_it() -> list[Any]:
        gone, sent = asyncio.Event(), list[Any]()

        async def step(number: int) -> None:
            done.append(number)
            if number == 2:
                gone.set()
                for _ in range(5):
                    await asyncio.sleep(0)

        async def receive() -> dict[str, Any]:
            if not bodies:
                await gone.wait()
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": bodies.pop()}

        async def send(message: Any) -> None:
            sent.append(message)

        calls = [{"method": "step", "params": {"number": number}, "id": number} for number in range(10)]
        bodies = [json.dumps(calls).encode()]
        scope = {"type": "http", "headers": [], "client": ("192.0.2.1", 1)}
        await JsonRpcEndpoint({"step": step}, limits=Limits())(scope, receive, send)
        return sent

    assert asyncio.run(all_of_it()) == []
    assert done == [0, 1, 2]


@pytest.mark.parametrize("number", ["9" * 33, "-" + "9" * 32, "0." + "3" * 31, "9" * 4300, "1e" + "9" * 31])
def test_a_long_number_is_refused_before_it_is_read(number: str) -> None:
    assert answer(f'{{"method":"echo","params":{{"a":{number}}},"id":1}}'.encode())["error"]["code"] == -32700


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 2**64, 2.2250738585072014e-308, -1.7976931348623157e308])
def test_numbers_that_somebody_needs_are_read(number: float) -> None:
    assert answer({"method": "echo", "params": {"a": number}, "id": 1})["result"] == {"a": number}


def test_a_method_may_know_what_its_caller_is_counted_by() -> None:
    with json_rpc({"who": web.caller.get}) as url:
        body = b'{"method":"who","id":1}'
        assert requests.post(url, data=body, timeout=20).json()["result"] is None
        told = requests.post(url, data=body, headers={"X-Forwarded-For": "192.0.2.7"}, timeout=20)
        assert told.json()["result"] == "192.0.2.7"


def test_a_stored_reply_is_repeated_byte_for_byte() -> None:
    assert '"result":{"b":  1.0, "a": null},' in asyncio.run(ENDPOINT.answer(b'{"method":"stored","id":1}'))


def test_errors_are_told_by_type_and_data() -> None:
    assert error_of("no_handle") == {
        "code": -32000,
        "message": "Server error",
        "data": {
            "type": "UnknownHandle",
            "args": ["No such connection: see status."],
            "message": "No such connection: see status.",
            "data": {"handle": "00ff"},
        },
    }
    nowhere = error_of("nowhere")
    assert (nowhere["code"], nowhere["message"]) == (-32601, "Method not found")
    assert nowhere["data"]["type"] == "UnknownMethod"
    wrong: list[Any] = [{"a": 1, "c": 2}, {}, [1, 2, 3]]
    for params in wrong:
        error = error_of("add", params)
        assert (error["code"], error["message"], error["data"]["type"]) == (-32602, "Invalid params", "TypeError")
    assert error_of("whole", [{"a": 1}])["code"] == -32602
    assert error_of("echo", 5)["code"] == -32600
    assert answer({"method": 5, "id": 1})["error"]["code"] == -32600
    assert answer({"method": "echo", "id": [1]})["error"]["code"] == -32600


@pytest.mark.parametrize("method", ["broken", "mistyped", "nan"])
def test_an_unexpected_error_shows_nothing_of_itself(method: str) -> None:
    unexpected.clear()
    error = error_of(method)
    assert error["code"] == -32000
    assert error["data"]["type"] == "InternalError"
    assert "secret" not in str(error)
    assert [name for name, _ in unexpected] == [method]


NOT_JSON = {
    "empty": b"",
    "text": b"hello",
    "cut": b'{"method":"echo"',
    "deep": b"[" * 10_000,
    "closed deep": b'{"method":"echo","id":1,"params":{"a":' + b"[" * 70 + b"]" * 70 + b"}}",
    "NaN": b'{"method":"echo","params":{"a":NaN},"id":1}',
    "infinity": b'{"method":"echo","params":{"a":-Infinity},"id":1}',
    "overflow": b'{"method":"echo","params":{"a":1e999},"id":1}',
    "long number": b'{"method":"echo","params":{"a":' + b"9" * 10_000 + b'},"id":1}',
    "latin": b'{"method":"echo","params":{"a":"\xff"},"id":1}',
    "half a pair": b'{"method":"echo","params":{"a":"\\ud800"},"id":1}',
}


@pytest.mark.parametrize("case", NOT_JSON)
def test_what_is_no_json_is_a_parse_error(case: str) -> None:
    assert answer(NOT_JSON[case]) == {"error": {"code": -32700, "message": "Parse error"}, "id": None, "jsonrpc": "2.0"}


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(JSON_VALUES | st.fixed_dictionaries({"method": st.sampled_from(["whole", 3]), "params": JSON_VALUES}))
def test_any_json_is_answered_or_a_notification(body: Any) -> None:
    reply = answer(json.dumps(body).encode())
    for item in reply if isinstance(reply, list) else [reply]:
        assert item["jsonrpc"] == "2.0"
        assert ("result" in item) != ("error" in item)
    if isinstance(body, dict) and body.get("method") == "whole" and isinstance(body["params"], dict):
        assert reply["result"] == body["params"]


# Over HTTP ----------------------------------------------------------------------------------------------------------


def test_verbs_and_sizes() -> None:
    with json_rpc({"echo": echo}, max_bytes=1000) as url:
        with requests.Session() as session:
            reply = session.get(url)
            assert (reply.status_code, reply.json()["error"]["code"]) == (200, -32700)
            body = b'{"method":"echo","params":{"a":1},"id":1}'
            for verb in ("POST", "PUT"):
                reply = session.request(verb, url, data=body, headers={"Content-Type": "text/plain"})
                assert (reply.status_code, reply.json()["result"]) == (200, {"a": 1})
            assert session.post(url, data=b'{"method":"echo","jsonrpc":"2.0"}').status_code == 204
        assert requests.post(url, data=b" " * 1001, timeout=20).status_code == 413
        chunks = iter([b" " * 600, b" " * 600])
        assert requests.post(url, data=chunks, timeout=20).status_code == 413
        assert requests.post(url, data=iter([b" " * 600, body]), timeout=20).json()["result"] == {"a": 1}


def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "BODY_SECONDS", 0.3)
    with json_rpc({"echo": echo}) as url:
        port = urlsplit(url).port
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(b"POST /api/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_a_client_that_goes_away_harms_nobody() -> None:
    with json_rpc({"echo": echo}) as url:
        port = urlsplit(url).port
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(b"POST /api/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert RpcClient(url).call("echo", {"a": 1}, retry=False) == {"a": 1}


def test_slow_methods_do_not_hold_up_others() -> None:
    begun, finish = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        return "slow" if finish.wait(20) else "given up"

    with json_rpc({"echo": echo, "slow": slow}, lanes={"slow": Lane(40)}) as url:
        results: list[str] = []
        thread = threading.Thread(target=lambda: results.append(RpcClient(url).call("slow", {}, retry=False)))
        thread.start()
        assert begun.wait(20)
        assert RpcClient(url).call("echo", {"a": 1}, retry=False) == {"a": 1}
        assert not results, "the quick call had to wait for the slow one"
        finish.set()
        thread.join(20)
        assert results == ["slow"]


def test_replies_do_not_wait_for_acknowledgements() -> None:
    with json_rpc({"echo": echo}) as url:
        connection = http.client.HTTPConnection(url.split("/")[2])
        start = time.monotonic()
        for _ in range(50):
            connection.request("POST", "/api/", b'{"method":"echo","id":1}')
            connection.getresponse().read()
        connection.close()
        assert time.monotonic() - start < 1.5  # with Nagle's algorithm: 40 ms each


def test_a_body_to_its_limit() -> None:
    with json_rpc({"echo": echo}, max_bytes=1000) as url:
        for size, status in ((999, 200), (1000, 200), (1001, 413)):
            for data in (b" " * size, iter([b" " * 500, b" " * (size - 500)])):
                reply = requests.post(url, data=data, timeout=20)
                assert reply.status_code == status
                assert ("close" in reply.headers.get("Connection", "")) == (status == 413)
    with json_rpc({"echo": echo}) as url:
        assert requests.post(url, data=b" " * 1_000_000, timeout=20).status_code == 200
        assert requests.post(url, data=b" " * 1_000_001, timeout=20).status_code == 413


def test_a_body_in_many_parts_has_the_same_limit() -> None:
    with json_rpc({"echo": echo}) as url:
        assert requests.post(url, data=iter([b" " * 9_000] * 100), timeout=20).status_code == 200
        with contextlib.suppress(requests.ConnectionError):  # refused while it is still being sent
            assert requests.post(url, data=iter([b" " * 9_000] * 2_000), timeout=20).status_code == 413


def test_batches_and_ids_to_their_limits() -> None:
    assert len(answer([{"method": "echo", "id": 1}] * web.MAX_BATCH)) == web.MAX_BATCH
    assert answer([5]) == [answer(5)]
    ids: list[Any] = ["x", "", 0, -1, 1.5, None, True]
    for number in ids:
        assert answer({"method": "echo", "id": number}) == {"result": {}, "id": number, "jsonrpc": "2.0"}
        assert answer({"method": "nowhere", "id": number})["id"] == number
    others: list[Any] = [[], {}, [1], {"a": 1}]
    for number in others:
        assert answer({"method": "echo", "id": number})["id"] is None
    for params in (5, "x", True, 0, "", False):
        assert answer({"method": "echo", "params": params, "id": 1})["error"]["code"] == -32600
    assert answer({"method": "echo"}) == {"result": {}, "id": None, "jsonrpc": "2.0"}
    assert answer({"method": "broken", "jsonrpc": "2.0"}) is answer({"method": "no", "jsonrpc": "2.0"}) is None
    assert answer({"params": {}, "id": 1})["error"]["code"] == -32600


@pytest.mark.parametrize("opened", [b"[", b'{"a":'])
def test_json_is_nested_to_a_depth(opened: bytes) -> None:
    assert MAX_DEPTH == 64
    closed = b"]" if opened == b"[" else b"}"

    def nested(depth: int, inside: bytes) -> bytes:
        return opened * depth + inside + closed * depth

    for inside in (b"0", b'"["', b'"[[[[{{{{"'):
        assert parse_json(nested(MAX_DEPTH, inside)) == json.loads(nested(MAX_DEPTH, inside))
        with pytest.raises(ValueError, match="deep"):
            parse_json(nested(MAX_DEPTH + 1, inside))
    assert parse_json(nested(MAX_DEPTH - 1, b"[]")) == json.loads(nested(MAX_DEPTH - 1, b"[]"))
    with pytest.raises(ValueError, match="deep"):
        parse_json(b"[0,{},[" + nested(MAX_DEPTH - 1, b"0") + b"]]")
    wide = b"[" + b"[]," * 500 + b"{}]"
    assert parse_json(wide) == json.loads(wide)
    assert parse_json(b'["\\ud83d\\ude00", "\\u00e9", 1e308]') == ["\U0001f600", "é", 1e308]


# Start and stop -----------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from starlette.applications import Starlette
from starlette.routing import Route
from picopayments_cli.web import JsonRpcEndpoint, run
app = Starlette(routes=[Route("/api/", JsonRpcEndpoint({"add": lambda a: a + 1}))])
run(app, host="127.0.0.1", port=0, ready=lambda url: print(url, flush=True), shutdown=lambda: print("cleaned up"))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert RpcClient(f"{url}/api/").call("add", {"a": 1}, retry=True) == 2
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stdout.read() == "cleaned up\n"


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortUnusable, match=f"Port {port}.*in use") as refused:
            WebServer(ENDPOINT, port=port)
        assert refused.value.data["port"] == port
    with pytest.raises(PortUnusable):
        WebServer(ENDPOINT, host="192.0.2.1")
    with pytest.raises(PortUnusable):
        WebServer(ENDPOINT, port=70_000)


@pytest.mark.filterwarnings("ignore:Unverified HTTPS")
def test_tls_serves_with_the_certificate_that_is_given(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = trustme.CA().issue_cert("127.0.0.1")
    made.cert_chain_pems[0].write_to_path(str(cert))
    made.private_key_pem.write_to_path(str(key))
    with json_rpc({"echo": echo}) as plain, pytest.raises(HubUnreachable, match="did not answer"):
        RpcClient(plain.replace("http:", "https:")).call("echo", {}, retry=False)
    with json_rpc({"echo": echo}, server={"ssl_cert": str(cert), "ssl_key": str(key)}) as url:
        assert url.startswith("https://127.0.0.1:")
        assert RpcClient(url, trust=Trust(verify=False)).call("echo", {"a": 1}, retry=False) == {"a": 1}
        with pytest.raises(HubUnreachable, match="TLS certificate does not hold"):
            RpcClient(url).call("echo", {}, retry=False)
    with pytest.raises(InvalidSetting, match="certificate"):
        WebServer(ENDPOINT, ssl_cert=str(tmp_path / "none.pem"), ssl_key=str(key))


def test_a_name_is_served_at_every_address_that_it_has_or_not_at_all() -> None:
    server = WebServer(JsonRpcEndpoint({}), host="localhost", port=0)
    port = urlsplit(server.url).port
    assert sorted(bound.getsockname()[:2] for bound in server._sockets) == [("127.0.0.1", port), ("::1", port)]
    for bound in server._sockets:
        bound.close()
    with socket.socket(socket.AF_INET6) as stranger:
        stranger.bind(("::1", 0))
        stranger.listen()
        with pytest.raises(PortUnusable):
            WebServer(JsonRpcEndpoint({}), host="localhost", port=stranger.getsockname()[1])

"""The limits on one client address, so that others are served: calls, bytes, requests and connections."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from servers import json_rpc

from picopayments_cli import bodies, door, http_connection, sparing, web
from picopayments_cli.errors import HubUnreachable
from picopayments_cli.hub.descriptors import NEEDED
from picopayments_cli.lanes import Lane
from picopayments_cli.limits import Limiter, Limits, TooMuch, party
from picopayments_cli.rpc import RpcClient

ONE, OTHER = {"X-Forwarded-For": "203.0.113.1"}, {"X-Forwarded-For": "203.0.113.2"}
CALL = {"jsonrpc": "2.0", "id": 1, "method": "nothing"}
WAIT = 20


def nothing(**_members: object) -> None:
    return None


class Clock:
    """A clock that goes on when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("calls", "size"), [(10, 1), (1, 1000)])
def test_a_bucket_is_overdrawn_once_and_fills_by_the_second(calls: int, size: int) -> None:
    clock = Clock()
    limiter = Limiter(Limits(calls=1.0, size=100.0, burst=5.0), clock)
    with limiter.request("203.0.113.1") as spend:
        spend(calls, size)
    with pytest.raises(TooMuch) as caught, limiter.request("203.0.113.1"):
        pass
    assert 5 <= caught.value.seconds <= 7
    with limiter.request("203.0.113.2") as spend:
        spend(1, 1)
    clock.now += caught.value.seconds
    with limiter.request("203.0.113.1") as spend:
        spend(1, 1)


def test_as_many_addresses_are_remembered_as_are_allowed() -> None:
    limiter = Limiter(Limits(calls=1.0, burst=1.0, addresses=10), Clock())
    for number in range(1000):
        with limiter.request(f"203.0.{number // 250}.{number % 250}") as spend:
            spend(5, 0)
    assert len(limiter._buckets) == 10


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("127.0.0.1", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        (None, None),
        ("127.0.0.2", "127.0.0.2"),
        ("203.0.113.1", "203.0.113.1"),
        ("::ffff:203.0.113.1", "203.0.113.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("nonsense", "nonsense"),
    ],
)
def test_an_address_is_counted_with_its_network(address: str | None, counted: str | None) -> None:
    assert party(address) == counted


def test_who_asks_too_much_is_told_to_wait_and_others_are_served() -> None:
    limits = Limits(calls=0.1, size=1000.0, burst=50.0)  # 5 calls, 50,000 bytes
    with json_rpc({"nothing": nothing}, limits=limits) as url:
        statuses = [requests.post(url, json=CALL, headers=ONE, timeout=WAIT).status_code for _ in range(7)]
        assert statuses == [200] * 5 + [429] * 2
        refused = requests.post(url, json=CALL, headers=ONE, timeout=WAIT)
        assert int(refused.headers["Retry-After"]) >= 1
        assert "wait" in refused.json()["error"]["message"]
        assert requests.post(url, json=[CALL] * 9, headers=OTHER, timeout=WAIT).status_code == 200
        assert requests.post(url, json=CALL, headers=OTHER, timeout=WAIT).status_code == 429
        large = requests.post(url, data=b" " * 60_000, headers={"X-Forwarded-For": "203.0.113.3"}, timeout=WAIT)
        assert large.status_code == 200
        assert requests.post(url, headers={"X-Forwarded-For": "203.0.113.3"}, timeout=WAIT).status_code == 429
        for _ in range(20):
            assert requests.post(url, json=CALL, timeout=WAIT).status_code == 200  # this machine's own


def test_a_client_names_what_it_is_told() -> None:
    with json_rpc({"nothing": nothing}, limits=Limits(calls=0.01, burst=150.0)) as url:
        port, data = urlsplit(url).port, json.dumps(CALL).encode()
        head = f"POST /api/ HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", port), WAIT, ("127.0.0.9", 0)) as connection:
            connection.sendall(head + data)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        client = RpcClient(url, retries=0, auth=_as_one)
        client.call("nothing", {}, retry=False)
        with pytest.raises(HubUnreachable, match="Too much is asked"):
            client.call("nothing", {}, retry=False)


def _as_one(request: requests.PreparedRequest) -> requests.PreparedRequest:
    request.headers.update(ONE)
    return request


def test_no_address_has_more_requests_under_way_than_it_may() -> None:
    finish = threading.Event()
    begun = threading.Semaphore(0)

    def slow() -> None:
        begun.release()
        finish.wait(WAIT)

    methods = {"slow": slow, "nothing": nothing}
    with json_rpc(methods, lanes={"slow": Lane(40)}, limits=Limits(open_requests=2)) as url:
        call = CALL | {"method": "slow"}
        threads = [
            threading.Thread(target=requests.post, args=(url,), kwargs={"json": call, "headers": ONE, "timeout": WAIT})
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
            assert begun.acquire(timeout=WAIT)
        assert requests.post(url, json=CALL, headers=ONE, timeout=WAIT).status_code == 429
        assert requests.post(url, json=CALL, headers=OTHER, timeout=WAIT).status_code == 200
        finish.set()
        for thread in threads:
            thread.join(WAIT)
        assert requests.post(url, json=CALL, headers=ONE, timeout=WAIT).status_code == 200


# Connections --------------------------------------------------------------------------------------------------------


def test_no_address_takes_all_connections() -> None:
    with json_rpc({"nothing": nothing}) as url, contextlib.ExitStack() as stack:
        port = urlsplit(url).port
        for _ in range(door.MAX_CONNECTIONS_EACH):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), WAIT, ("127.0.0.9", 0)))
        with socket.create_connection(("127.0.0.1", port), WAIT, ("127.0.0.9", 0)) as refused:
            assert refused.recv(100).startswith(b"HTTP/1.1 429")
        assert requests.post(url, json=CALL, timeout=WAIT).status_code == 200


def test_idle_connections_of_many_addresses_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MAX_CONNECTIONS", 20)
    with json_rpc({"nothing": nothing}) as url, contextlib.ExitStack() as stack:
        port = urlsplit(url).port
        for number in range(60):
            address = (f"127.0.1.{number % 6 + 1}", 0)
            stack.enter_context(socket.create_connection(("127.0.0.1", port), WAIT, address))
        assert requests.post(url, json=CALL, timeout=WAIT).status_code == 200


def test_a_body_in_crumbs_is_cut_off() -> None:
    with json_rpc({"nothing": nothing}) as url:
        with socket.create_connection(("127.0.0.1", urlsplit(url).port), WAIT) as connection:
            connection.sendall(b"POST /api/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            with pytest.raises(OSError):  # noqa: PT011
                connection.sendall(b"1\r\n \r\n" * 1_000_000)
        assert requests.post(url, json=CALL, timeout=WAIT).status_code == 200


def test_a_connection_that_asks_nothing_or_never_finishes_its_headers_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_connection, "HEAD_SECONDS", 0.3)
    whole = b"POST /api/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    with json_rpc({"nothing": nothing}) as url:
        for said in (b"", b"P", b"POST /api/ HTTP/1.1\r\nHost: x\r\n", whole + b"P"):
            with socket.create_connection(("127.0.0.1", urlsplit(url).port), WAIT) as connection:
                connection.sendall(said)
                while connection.recv(1000):
                    pass


def test_headers_without_end_are_not_kept() -> None:
    with json_rpc({"nothing": nothing}) as url:
        with socket.create_connection(("127.0.0.1", urlsplit(url).port), WAIT) as connection:
            connection.sendall(b"POST /api/ HTTP/1.1\r\nHost: x\r\n")
            with pytest.raises(OSError):  # noqa: PT011
                connection.sendall(b"X: x\r\n" * 10_000_000)
        assert requests.post(url, json=CALL, timeout=WAIT).status_code == 200


# Bytes that came in, and lines that they cause -----------------------------------------------------------------------


def spent(url: str, head: bytes, body: bytes) -> None:
    """Send so much from an address, and leave, or be sent away."""
    with socket.create_connection(("127.0.0.1", urlsplit(url).port), WAIT, ("127.0.0.9", 0)) as connection:
        connection.sendall(b"POST /api/ HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n" + body)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1000):
            pass


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 90000\r\n", b"x" * 60_000),  # who leaves before it is whole
        (b"Transfer-Encoding: chunked\r\n", b"8000\r\n" + b"x" * 0x8000 + b"\r\n7000\r\n" + b"x" * 0x7000 + b"\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"20000\r\n" + b"x" * 0x20000 + b"\r\n0\r\n"),  # too large
        (b"X: " + b"x" * 60_000 + b"\r\nContent-Length: 2\r\n", b"{}"),  # in its headers
    ],
)
def test_what_came_in_counts_whether_or_not_it_is_answered(head: bytes, body: bytes) -> None:
    limits = Limits(calls=1.0, size=1000.0, burst=50.0)  # 50 calls, 50,000 bytes
    with json_rpc({"nothing": nothing}, limits=limits, max_bytes=100_000) as url:
        spent(url, head, body)
        end = time.monotonic() + WAIT
        while requests.post(url, json=CALL, headers={"X-Forwarded-For": "127.0.0.9"}, timeout=WAIT).status_code != 429:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_few_lines_are_written_of_many_requests_that_are_none(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparing, "SECONDS", 3.0)
    begun = time.monotonic()
    logging.getLogger("uvicorn.error").filters.clear()
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    with json_rpc({"nothing": nothing}) as url:
        for number in range(60):
            with socket.create_connection(("127.0.0.1", urlsplit(url).port), WAIT) as connection:
                connection.sendall(upgrade if number % 2 else b"\x16\x03\x01 nothing of HTTP\r\n\r\n")
                connection.recv(1000)
        end = time.monotonic() + WAIT
        while not (left := [item for item in caplog.records if item.message == "log lines left out"]):
            assert time.monotonic() < end
            time.sleep(0.05)
    lines = [item for item in caplog.records if item.name == "uvicorn.error" and item.levelno >= logging.WARNING]
    told = sum(item.__dict__["fields"]["number"] for item in left)
    assert len(lines) <= sparing.MOST * (1 + (time.monotonic() - begun) / sparing.SECONDS)
    assert told > 0


# Borders ------------------------------------------------------------------------------------------------------------


def wait_of(limiter: Limiter, address: str = "203.0.113.1") -> float:
    """How long an address is told to wait; 0 where it may go on."""
    try:
        with limiter.request(address):
            return 0
    except TooMuch as error:
        return error.seconds


def test_the_limits_that_are_documented() -> None:
    assert Limits() == Limits(100.0, 1_000_000.0, 500_000.0, 0.25, 20.0, 20, 10_000)
    assert (door.MAX_CONNECTIONS, door.MAX_CONNECTIONS_EACH, NEEDED) == (500, 100, 800)
    assert (web.MAX_BATCH, http_connection.MAX_HEAD_BYTES, http_connection.MAX_HEADERS) == (1000, 65_536, 100)
    assert bodies.BODY_SECONDS == http_connection.HEAD_SECONDS == 30
    assert (http_connection.MAX_PIPELINED, door.TLS_SECONDS) == (2, 10)


@pytest.mark.parametrize(
    ("calls", "size", "wait"),
    [
        (3, 0, 0.0),  # a call is left
        (4, 0, 1 / 2 + 1),
        (10, 0, 7 / 2 + 1),
        (0, 400, 0.0),  # nothing is left, nothing is owed
        (0, 401, 1 / 100 + 1),
        (0, 900, 5 + 1),
        (10, 900, 5 + 1),  # the longer one
        (20, 900, 17 / 2 + 1),
    ],
)
def test_what_is_left_and_what_is_owed(calls: int, size: int, wait: float) -> None:
    clock = Clock()
    limiter = Limiter(Limits(calls=2.0, size=100.0, burst=2.0), clock)  # 4 calls and 200 bytes
    with limiter.request("203.0.113.1") as spend:
        spend(0, -1000)  # no more than a full bucket, whatever was given back
    clock.now += 1
    with limiter.request("203.0.113.1") as spend:
        spend(calls, size - 200)
    assert wait_of(limiter) == pytest.approx(wait)
    if wait:
        clock.now += wait - 1 - 0.001
        assert 1 < wait_of(limiter) < 1.01
        clock.now += 0.002
        assert wait_of(limiter) == 0


def test_who_was_not_seen_for_longest_is_forgotten() -> None:
    limiter = Limiter(Limits(calls=1.0, burst=1.0, addresses=3), Clock())
    for address in ("203.0.113.1", "203.0.113.2", "203.0.113.3"):
        with limiter.request(address) as spend:
            spend(5, 0)
    assert wait_of(limiter, "203.0.113.1") == 6  # 1 is owed by all, and this one was seen last
    assert wait_of(limiter, "203.0.113.4") == 0
    assert wait_of(limiter, "203.0.113.3") == wait_of(limiter, "203.0.113.1") == 6
    assert wait_of(limiter, "203.0.113.2") == 0


def test_a_request_that_fails_is_not_under_way_any_more() -> None:
    limiter = Limiter(Limits(open_requests=1), Clock())
    with contextlib.suppress(KeyError), limiter.request("203.0.113.1"):
        assert wait_of(limiter) == 1
        assert wait_of(limiter, "203.0.113.2") == 0
        raise KeyError
    assert wait_of(limiter) == 0
    with limiter.request(None), limiter.request("127.0.0.1") as spend:
        spend(10**9, 10**12)
    assert wait_of(limiter, "127.0.0.1") == 0


def test_each_call_of_a_batch_is_counted() -> None:
    limits = Limits(calls=0.001, size=1_000_000.0, burst=10_000.0)  # 10 calls
    with json_rpc({"nothing": nothing}, limits=limits) as url:
        cases: list[tuple[Any, list[int]]] = [([CALL] * 9, [200, 429]), ([CALL] * 8, [200, 200, 429])]
        for body, statuses in [*cases, (CALL, [200] * 9 + [429])]:
            address = {"X-Forwarded-For": f"203.0.113.{len(statuses)}"}
            assert requests.post(url, json=body, headers=address, timeout=WAIT).status_code == 200
            found = [requests.post(url, json=CALL, headers=address, timeout=WAIT) for _ in statuses]
            assert [reply.status_code for reply in found] == statuses
            assert found[-1].headers["Connection"] == "close"
            assert int(found[-1].headers["Retry-After"]) >= 1
        for text in ("[", "[]", json.dumps([CALL] * 1001)):  # one call each, whatever stands in them
            address = {"X-Forwarded-For": f"203.0.114.{len(text) % 200}"}
            found = [requests.post(url, data=text, headers=address, timeout=WAIT) for _ in range(11)]
            assert [reply.status_code for reply in found] == [200] * 10 + [429]


def ask(connection: socket.socket, *headers: str, body: bytes = b"{}") -> bytes:
    """The answer to a request."""
    lines = ["POST /api/ HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    answer = b""
    while part := connection.recv(1000):
        answer += part
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if rest and length and len(rest) == int(length[1]):
            break
    return answer


def test_the_last_connection_of_an_address_is_served() -> None:
    with json_rpc({"nothing": nothing}) as url, contextlib.ExitStack() as stack:

        def connect(host: str) -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", urlsplit(url).port), WAIT, (host, 0)))

        for _ in range(door.MAX_CONNECTIONS_EACH - 1):
            connect("127.0.0.9")
        last = connect("127.0.0.9")
        assert ask(last).startswith(b"HTTP/1.1 200")
        for refused in (connect("127.0.0.9"), connect("127.0.0.9")):
            assert refused.recv(1000).startswith(b"HTTP/1.1 429")
            assert refused.recv(1000) == b""
        assert ask(connect("127.0.0.8")).startswith(b"HTTP/1.1 200")
        assert ask(last).startswith(b"HTTP/1.1 200")
        last.close()
        for _ in range(door.MAX_CONNECTIONS_EACH + 1):
            connect("127.0.0.1")  # this machine's own
        assert ask(connect("127.0.0.1")).startswith(b"HTTP/1.1 200")


def test_the_headers_of_a_request_have_a_limit_and_its_body_another() -> None:
    with (
        json_rpc({"nothing": nothing}) as url,
        socket.create_connection(("127.0.0.1", urlsplit(url).port), WAIT) as connection,
    ):
        for _ in range(3):
            assert ask(connection, "X: " + "x" * 60_000).startswith(b"HTTP/1.1 200")
            assert ask(connection, body=b" " * 200_000).startswith(b"HTTP/1.1 200")
        connection.sendall(b"POST /api/ HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 66_000)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000) == b""


def test_headers_are_limited_however_small_the_pieces_they_come_in() -> None:
    with (
        json_rpc({"nothing": nothing}) as url,
        socket.create_connection(("127.0.0.1", urlsplit(url).port), WAIT) as other,
        socket.create_connection(("127.0.0.1", urlsplit(url).port), WAIT) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall(b"POST /api/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n")
        for _ in range(70):
            connection.sendall(b"X: " + b"x" * 1000 + b"\r\n")
            assert ask(other).startswith(b"HTTP/1.1 200")  # the server has read what came before
        connection.sendall(b"\r\n{}")
        assert connection.recv(1000) == b""


def test_an_answer_may_take_longer_than_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "HEAD_SECONDS", 0.2)
    idle: list[socket.socket] = []

    def slow() -> str:
        return "closed" if idle[0].recv(1000) == b"" else "said"

    with json_rpc({"slow": slow}, lanes={"slow": Lane(40)}) as url:
        port = urlsplit(url).port
        with socket.create_connection(("127.0.0.1", port), WAIT) as connection:
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", port), WAIT) as other:
                    idle[:] = [other]  # closed by the server once it has waited for long enough
                    assert b'"closed"' in ask(connection, body=json.dumps(CALL | {"method": "slow"}).encode())

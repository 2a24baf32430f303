"""What one client address may ask of a server, so that others are served: calls, bytes, requests and connections."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from urllib.parse import urlsplit

import pytest
import requests
from servers import json_rpc

from picopayments_cli import web
from picopayments_cli.channel.errors import HubUnreachable
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
    with json_rpc(methods, slow={"slow"}, limits=Limits(open_requests=2)) as url:
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
        for _ in range(web.MAX_CONNECTIONS_EACH):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), WAIT, ("127.0.0.9", 0)))
        with socket.create_connection(("127.0.0.1", port), WAIT, ("127.0.0.9", 0)) as refused:
            assert refused.recv(100).startswith(b"HTTP/1.1 429")
        assert requests.post(url, json=CALL, timeout=WAIT).status_code == 200


def test_a_connection_that_asks_nothing_or_never_finishes_its_headers_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web, "HEAD_SECONDS", 0.3)
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

"""Connections of strangers, with TLS or without: none is held for ever, and no address takes the places of others."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
import trustme
from servers import json_rpc, serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from picopayments_cli import door, http_connection
from picopayments_cli.lanes import Lane

WAIT = 20
HONEST = "127.0.2.1"
PLACES = 20
GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
HALF = b"POST /api/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{"
CALL = {"jsonrpc": "2.0", "id": 1, "method": "nothing"}


def nothing() -> None:
    """A method."""


async def told(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("told")


@pytest.fixture
def page() -> Iterator[str]:
    """A server whose answers look at no body."""
    with serving(Starlette(routes=[Route("/", told)])) as url:
        yield url


@pytest.fixture
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MAX_CONNECTIONS", PLACES)


def connected(url: str, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", urlsplit(url).port), WAIT, (source, 0))


def rest(connection: socket.socket) -> bytes:
    """All that the server says until it closes the connection. Raises TimeoutError where it does not."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1000):
            said += part
    return said


def answer(connection: socket.socket) -> bytes:
    """The server's next answer, or what there is of it where it closes the connection."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1000):
            said += part
            head, _, body = said.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if length and len(body) >= int(length[1]):
                break
    return said


def asked(method: str = "nothing") -> bytes:
    """A whole request."""
    body = json.dumps(CALL | {"method": method}).encode()
    return b"POST /api/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def ask(connection: socket.socket) -> bytes:
    with contextlib.suppress(ConnectionError):
        connection.sendall(asked())
    return answer(connection)


# Time ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "part"), [(b"Content-Length: 1000000000\r\n", b"x"), (b"Transfer-Encoding: chunked\r\n", b"5\r\nab")]
)
def test_an_answer_to_half_a_request_is_the_last_one(page: str, declared: bytes, part: bytes) -> None:
    with connected(page) as connection:
        connection.sendall(GET + declared + b"\r\n")
        said = answer(connection)
        assert said.endswith(b"told")
        assert b"\r\nconnection: close\r\n" in said
        with contextlib.suppress(ConnectionError):
            connection.sendall(part)
        assert rest(connection) == b""


def test_a_request_with_a_body_that_nobody_reads_is_followed_by_others(page: str) -> None:
    with connected(page) as connection:
        for _ in range(3):
            connection.sendall(GET + b"Content-Length: 2\r\n\r\n{}")
            said = answer(connection)
            assert said.endswith(b"told")
            assert b"connection: close" not in said


def test_bytes_that_begin_no_request_hold_no_connection(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "KEEP_ALIVE_SECONDS", 0.3)
    with connected(page) as connection:
        connection.sendall(GET + b"\r\n")
        assert answer(connection).endswith(b"told")
        connection.sendall(b"\r\n")
        assert rest(connection) == b""


def test_a_body_has_an_end_whether_or_not_somebody_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "BODY_SECONDS", 0.1)
    monkeypatch.setattr(http_connection, "GRACE", 0.1)
    finish = threading.Event()
    with serving(Starlette(routes=[Route("/", lambda _: finish.wait(WAIT))])) as url, connected(url) as connection:
        connection.sendall(GET + b"Content-Length: 1000\r\n\r\n")
        try:
            assert rest(connection) == b""
        finally:
            finish.set()


# Places -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_places")
@pytest.mark.parametrize("part", [b"", GET, HALF])
def test_who_holds_few_connections_keeps_them_and_gets_new_ones_while_others_hold_many(part: bytes) -> None:
    finish = threading.Event()
    with (
        json_rpc({"nothing": nothing, "slow": lambda: finish.wait(WAIT)}, lanes={"slow": Lane(40)}) as url,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(finish.set)
        idle, half, waiting = (stack.enter_context(connected(url, HONEST)) for _ in range(3))
        assert ask(idle).startswith(b"HTTP/1.1 200")
        half.sendall(asked()[:-1])
        waiting.sendall(asked("slow"))
        for number in range(3 * PLACES):
            taker = stack.enter_context(connected(url, f"127.0.1.{number % 4 + 1}"))
            with contextlib.suppress(ConnectionError):
                taker.sendall(part)
            with connected(url, HONEST) as new:
                assert ask(new).startswith(b"HTTP/1.1 200")
        assert ask(idle).startswith(b"HTTP/1.1 200")
        half.sendall(asked()[-1:])
        assert answer(half).startswith(b"HTTP/1.1 200")
        finish.set()
        assert b'"result":true' in answer(waiting)


@pytest.mark.usefixtures("few_places")
def test_a_whole_request_is_given_up_for_none_but_an_address_that_has_fewer() -> None:
    finish = threading.Event()
    begun = threading.Semaphore(0)

    def slow() -> None:
        begun.release()
        finish.wait(WAIT)

    with (
        json_rpc({"nothing": nothing, "slow": slow}, lanes={"slow": Lane(40)}) as url,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(finish.set)
        for number in range(PLACES):
            each = stack.enter_context(connected(url, f"127.0.1.{number // 2 + 1}"))
            each.sendall(asked("slow"))
            assert begun.acquire(timeout=WAIT)
        with connected(url, "127.0.1.1") as more:
            assert rest(more).startswith(b"HTTP/1.1 429")
        with connected(url, HONEST) as new:
            assert ask(new).startswith(b"HTTP/1.1 200")


# Heads --------------------------------------------------------------------------------------------------------------


def test_a_request_has_few_headers(page: str) -> None:
    for number, status in ((http_connection.MAX_HEADERS - 1, b"200"), (http_connection.MAX_HEADERS, b"431")):
        with connected(page) as connection:
            connection.sendall(GET + b"a: b\r\n" * number + b"\r\n")
            assert answer(connection).startswith(b"HTTP/1.1 " + status)
    with connected(page) as connection:  # behind its body
        connection.sendall(
            GET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * http_connection.MAX_HEADERS + b"\r\n"
        )
        assert rest(connection) == b""


# TLS ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The URL of a server with TLS, and the authority that its certificate is of."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    cert, key, ca = (str(tmp_path / name) for name in ("cert.pem", "key.pem", "ca.pem"))
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    with json_rpc({"nothing": nothing}, server={"ssl_cert": cert, "ssl_key": key}) as url:
        yield url, ca


def test_who_does_not_begin_with_tls_is_counted_and_others_are_served(encrypted: tuple[str, str]) -> None:
    url, ca = encrypted
    with contextlib.ExitStack() as stack:
        for _ in range(door.MAX_CONNECTIONS_EACH):
            stack.enter_context(connected(url, "127.0.0.9"))
        with connected(url, "127.0.0.9") as refused:
            assert rest(refused) == b""
        assert requests.post(url, json=CALL, timeout=WAIT, verify=ca).status_code == 200


@pytest.mark.usefixtures("few_places")
def memory() -> int:
    """Megabytes of this process, in which the server runs, too."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20


def client_hello() -> bytes:
    context = ssl.create_default_context()
    sent, received = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(received, sent, server_hostname="x").do_handshake()
    return sent.read()


def test_handshakes_that_are_broken_off_hold_little_memory(encrypted: tuple[str, str]) -> None:
    url, _ = encrypted
    hello, before = client_hello(), memory()
    for _ in range(25):
        begun = [connected(url, HONEST) for _ in range(60)]
        for connection in begun:
            with contextlib.suppress(OSError):  # refused, as those before are not gone yet
                connection.sendall(hello)
        for connection in begun:
            with connection, contextlib.suppress(OSError):
                connection.recv(1)
    assert memory() - before < 80


def test_who_does_not_begin_with_tls_makes_room_for_others(encrypted: tuple[str, str]) -> None:
    url, ca = encrypted
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connected(url, f"127.0.1.{number % 4 + 1}")) for number in range(2 * PLACES)]
        assert requests.post(url, json=CALL, timeout=WAIT, verify=ca).status_code == 200
        assert all(rest(each) == b"" for each in silent[:PLACES])


def test_who_does_not_begin_with_tls_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(door, "TLS_SECONDS", 0.3)
    url, ca = request.getfixturevalue("encrypted")
    with connected(url) as silent:
        assert rest(silent) == b""
    assert requests.post(url, json=CALL, timeout=WAIT, verify=ca).status_code == 200

"""The hub tells a client what waits for it: at once, or when it comes, within bounds, and for nothing."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import pytest
from hub_support import STRANGER, Client, Desk, clients, payment, running_desk, serving

from picopayments_cli.channel.values import Handle, Pubkey
from picopayments_cli.channel.waiting import MOST_NAMED, MOST_SECONDS, WaitingReply, WaitingRequest, Waits
from picopayments_cli.channel.wire import MOST_UNKNOWN
from picopayments_cli.hub import arrivals
from picopayments_cli.hub.methods import Methods
from picopayments_cli.hub.reading import Reading
from picopayments_cli.hub.waiting import MOST_BYTES
from picopayments_cli.limits import Limits, Spending
from picopayments_cli.web import JsonRpcEndpoint

LONG = 20  # seconds within which nothing comes by itself


def asking(client: Client, *handles: Handle, seconds: int = 0) -> dict[str, Any]:
    """A signed request."""
    request = WaitingRequest(os.urandom(32), handles or (client.handle,), seconds)
    return client.sealed("mph_waiting", request.as_json())


def told(client: Client, *handles: Handle) -> list[Waits]:
    """What waits for a client by the hub's signed word."""
    request = WaitingRequest(os.urandom(32), handles or (client.handle,))
    return list(WaitingReply.parse(client.call("mph_waiting", request.as_json())).waiting)


async def answered(desk: Desk, body: dict[str, Any]) -> list[Waits]:
    """The answer to a request, in the running loop."""
    reply = await desk.table["mph_waiting"](body)
    return list(WaitingReply.parse(json.loads(reply.text)).waiting)


def together(*steps: Callable[[], Awaitable[Any] | Any]) -> list[Any]:
    """Do one step after the other in one loop, each once the one before waits or is done; their results."""

    async def all_of_them() -> list[Any]:
        begun: list[Any] = []
        for step in steps:
            made = step()
            begun.append(asyncio.ensure_future(made) if asyncio.iscoroutine(made) else made)
            await asyncio.sleep(0.05)
        return [await item if isinstance(item, asyncio.Future) else item for item in begun]

    return asyncio.run(asyncio.wait_for(all_of_them(), LONG - 1))


def test_what_waits_is_told_for_nothing_and_to_nobody_else(desk: Desk, alice: Client, bob: Client) -> None:
    before = int(time.time())
    assert told(bob) == []
    alice.sync(payment(bob.handle, 5), payment(bob.handle, 7))
    alice.sync(payment(bob.handle, 1))
    (waits,) = told(bob, bob.handle, alice.handle, STRANGER, bob.handle)
    assert (waits.handle, waits.count, waits.total) == (bob.handle, 3, 13)
    assert before <= waits.oldest <= int(time.time())
    assert told(alice, bob.handle) == []
    assert bob.paid == 0
    bob.sync()
    assert told(bob) == []


def test_only_a_signed_request_of_its_shape_is_answered(desk: Desk, bob: Client) -> None:
    right = WaitingRequest(os.urandom(32), (bob.handle,)).as_json()
    assert desk.name_of("mph_waiting", right) == "BadClientSignature"
    assert desk.name_of("mph_waiting", {**bob.sealed("mph_waiting", right), "seconds": 1}) == "BadClientSignature"
    handles = [bob.handle.hex()] * (MOST_NAMED + 1)
    wrong: list[dict[str, Any]] = [
        *({"seconds": value} for value in (-1, MOST_SECONDS + 1, 1.5, True, None)),
        *({"handles": value} for value in (None, "", [None], ["00"], handles)),
        {"nonce": "00"},
        {"protocol": 2},
    ]
    for change in wrong:
        assert bob.refused("mph_waiting", right | change) == "BadRequest", change


def test_a_request_waits_until_something_comes(desk: Desk, alice: Client, bob: Client) -> None:
    found, _ = together(lambda: answered(desk, asking(bob, seconds=LONG)), lambda: alice.sync(payment(bob.handle, 9)))
    assert [(item.handle, item.total) for item in found] == [(bob.handle, 9)]


def test_a_request_waits_no_longer_than_it_asked(desk: Desk, bob: Client) -> None:
    begun = time.monotonic()
    assert together(lambda: answered(desk, asking(bob, seconds=1))) == [[]]
    assert 0.9 < time.monotonic() - begun < LONG / 2


def test_a_stop_wakes_the_payer_whose_payment_returns(desk: Desk, alice: Client, bob: Client) -> None:
    alice.sync(payment(bob.handle, 4))
    found, _ = together(lambda: answered(desk, asking(alice, seconds=LONG)), bob.ask_close)
    assert [(item.handle, item.total) for item in found] == [(alice.handle, 4)]


def test_the_later_request_takes_the_place_and_a_copy_never_does(desk: Desk, alice: Client, bob: Client) -> None:
    first, later = asking(bob, seconds=LONG), asking(bob, seconds=LONG)
    results = together(
        lambda: answered(desk, first),
        lambda: answered(desk, later),
        lambda: answered(desk, first),
        lambda: answered(desk, later),
        lambda: answered(desk, asking(alice, bob.handle, seconds=LONG)),
        lambda: alice.sync(payment(bob.handle, 2)),
    )
    assert [len(found) for found in results[:-1]] == [0, 1, 0, 0, 0]


def test_no_more_than_so_many_wait(desk: Desk, monkeypatch: pytest.MonkeyPatch, alice: Client, bob: Client) -> None:
    monkeypatch.setattr(arrivals, "MOST", 1)
    results = together(
        lambda: answered(desk, asking(alice, seconds=LONG)),
        lambda: answered(desk, asking(bob, seconds=LONG)),
        lambda: answered(desk, asking(alice, seconds=1)),
    )
    assert results == [[], [], []]
    assert told(bob) == []


def test_an_address_has_its_share_of_the_places() -> None:
    async def fill() -> list[bool]:
        held = arrivals.Arrivals()
        parties = ["192.0.2.1"] * (arrivals.MOST_EACH + 1) + ["192.0.2.2"] + [None] * (arrivals.MOST_EACH + 1)
        with ExitStack() as stack:
            places = [
                stack.enter_context(held.place([Handle(bytes([number]) * 32)], party))
                for number, party in enumerate(parties)
            ]
            again = stack.enter_context(held.place([Handle(bytes(32))], "192.0.2.1"))  # in the place of the first
            return [place is not None for place in (*places, again)]

    free = asyncio.run(fill())
    assert free == [*[True] * arrivals.MOST_EACH, False, True, *[True] * (arrivals.MOST_EACH + 1), True]


def test_who_asks_much_keeps_nobody_else_waiting(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, alice: Client, bob: Client
) -> None:
    owned, hold = Reading.owned, threading.Event()

    def slowly(book: Reading, client: Pubkey, handles: Iterable[Handle]) -> list[Handle]:
        if client == alice.key.pubkey:
            hold.wait(LONG)
        return owned(book, client, handles)

    monkeypatch.setattr(Reading, "owned", slowly)
    endpoint = JsonRpcEndpoint(Methods(desk.hub).table(), alone=Methods.ALONE)
    much, little = Spending(Limits()), Spending(Limits())

    async def asked(client: Client, spend: Spending) -> Any:
        call = {"method": "mph_waiting", "params": asking(client), "id": 1}
        return json.loads(await endpoint.answer(json.dumps(call).encode(), spend))

    async def all_of_them() -> list[Any]:
        many = [asyncio.ensure_future(asked(alice, much)) for _ in range(10)]
        await asyncio.sleep(0)
        first = await asyncio.wait_for(asked(bob, little), LONG - 1)
        assert not any(one.done() for one in many)
        hold.set()
        return [first, *await asyncio.gather(*many)]

    assert [answer["result"]["waiting"] for answer in asyncio.run(all_of_them())] == [[]] * 11


def test_its_request_is_no_larger_than_the_most_handles_make_it(desk: Desk, bob: Client) -> None:
    endpoint = JsonRpcEndpoint(Methods(desk.hub).table(), alone=Methods.ALONE)
    most = WaitingRequest(os.urandom(32), (bob.handle,) * MOST_NAMED, MOST_SECONDS)
    body = desk.sealed("mph_waiting", bob.key, {**most.as_json(), "seconds": 0, "unknown": "x" * (MOST_UNKNOWN - 400)})
    for params, size, refused in ((body, 0, False), (body, MOST_BYTES + 1, True)):
        text = json.dumps({"jsonrpc": "2.0", "method": "mph_waiting", "params": params, "id": 1}).ljust(size)
        answer = json.loads(asyncio.run(endpoint.answer(text.encode())))
        assert ("error" in answer) == refused, answer


# Over HTTP ----------------------------------------------------------------------------------------------------------


def posted(url: str, body: Any) -> socket.socket:
    """A connection on which a request was sent."""
    data = json.dumps(body).encode()
    there = socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=LONG)
    there.sendall(b"POST /api/ HTTP/1.1\r\nHost: hub\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    return there


def read(there: socket.socket) -> bytes:
    """The answer on a connection."""
    found = b""
    while not found.endswith(b"}]") and not found.endswith(b"}"):
        found += there.recv(65536)
    return found


def test_many_wait_without_a_thread_each_and_the_server_stops_at_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with running_desk(tmp_path_factory.mktemp("served")) as desk:
        hands, unpaid = [*islice(clients(desk), 12)], Client(desk, "unpaid")
        unpaid.agree()
        with serving(desk) as url:
            call = {"method": "mph_waiting", "id": 1}
            refused = posted(url, [{**call, "params": asking(hands[0], seconds=LONG)}])
            assert b"called by itself" in read(refused)
            threads = threading.active_count()
            waiting = [posted(url, {**call, "params": asking(one, seconds=LONG)}) for one in hands]
            quick = [
                posted(url, {**call, "params": body})
                for body in (asking(hands[0], STRANGER, seconds=LONG), asking(unpaid, seconds=LONG))
            ]
            assert all(b"waiting" in read(one) for one in quick)  # nothing can come for them
            deadline = time.monotonic() + LONG
            while len(desk.hub.book.arrivals._held) < len(waiting) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert len(desk.hub.book.arrivals._held) == len(waiting)
            assert threading.active_count() <= threads + 2
            begun = time.monotonic()
        assert time.monotonic() - begun < 4
        for one in (*waiting, *quick, refused):
            one.close()

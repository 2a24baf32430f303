"""What one request, or one client, can have a server compute, keep and send: bounded, and refused by name beyond."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from servers import json_rpc

from picopayments_cli import held, web
from picopayments_cli.errors import TooMuchAsked
from picopayments_cli.http_connection import MAX_PIPELINED
from picopayments_cli.lanes import Divided, Lane, Own
from picopayments_cli.limits import MOST_WORK, UNCOUNTED, Limits, Spending, TooMuch
from picopayments_cli.rpc import RpcClient
from picopayments_cli.web import JsonRpcEndpoint, RawJson

ONE = {"X-Forwarded-For": "203.0.113.1"}
WAIT = 20


def call(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def replies(endpoint: JsonRpcEndpoint, body: Any, spend: Spending = UNCOUNTED) -> list[dict[str, Any]]:
    answers = json.loads(asyncio.run(endpoint.answer(json.dumps(body).encode(), spend)))
    return answers if isinstance(answers, list) else [answers]


def refusals(answers: list[dict[str, Any]]) -> list[str | None]:
    return [answer["error"]["data"]["type"] if "error" in answer else None for answer in answers]


def large(size: int) -> RawJson:
    return RawJson(json.dumps("x" * size))


@pytest.fixture
def small_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_ANSWER_BYTES", 1000)


# Answers ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_answers")
def test_no_answer_is_larger_than_it_may_be_whatever_it_is_put_together_of() -> None:
    endpoint = JsonRpcEndpoint({"large": large})
    assert refusals(replies(endpoint, call("large", size=900))) == [None]
    assert refusals(replies(endpoint, call("large", size=1000))) == ["TooMuchAsked"]
    batch = [call("large", size=300)] * 5
    assert refusals(replies(endpoint, batch)) == [None, None, None, "TooMuchAsked", "TooMuchAsked"]


@pytest.mark.usefixtures("small_answers")
def test_what_does_not_fit_into_the_answer_to_a_batch_is_asked_for_again() -> None:
    asked: list[int] = []

    def counted(size: int) -> str:
        asked.append(size)
        return "x" * size

    with json_rpc({"counted": counted}) as url:
        client = RpcClient(url)
        sizes = [300, 301, 302, 303, 304, 305, 306]
        assert client.batch([("counted", {"size": size}) for size in sizes]) == ["x" * size for size in sizes]
        assert set(asked) == set(sizes)
        with pytest.raises(TooMuchAsked):
            client.batch([("counted", {"size": 1}), ("counted", {"size": 2000})])


def test_the_same_call_in_a_batch_is_answered_once_where_that_changes_nothing() -> None:
    ran: list[str] = []

    def look(name: str) -> str:
        ran.append(name)
        if name == "unknown":
            raise TooMuchAsked("No.")
        return name

    endpoint = JsonRpcEndpoint({"look": look, "act": look}, once={"look"})
    batch = [call("look", name=name) | {"id": number} for number, name in enumerate(["a", "b", "a", "unknown"] * 9)]
    answers = replies(endpoint, batch)
    assert [answer["id"] for answer in answers] == list(range(36))
    assert [answer.get("result") for answer in answers] == ["a", "b", "a", None] * 9
    assert ran == ["a", "b", "unknown"]
    ran.clear()
    replies(endpoint, [call("act", name="a")] * 3)
    replies(endpoint, call("look", name="a"))
    replies(endpoint, call("look", name="a"))  # another request may be answered otherwise
    assert ran == ["a"] * 5


# Of one address -----------------------------------------------------------------------------------------------------


def test_who_was_sent_much_waits_and_others_do_not() -> None:
    limits = Limits(sent=1000.0, burst=5.0)
    with json_rpc({"large": large}, limits=limits) as url:
        batch = [call("large", size=2000)] * 4
        answers = requests.post(url, json=batch, headers=ONE, timeout=WAIT).json()
        assert refusals(answers) == [None, None, None, "TooMuchAsked"]
        assert answers[-1]["error"]["data"]["data"]["seconds"] >= 1
        refused = requests.post(url, json=call("large", size=1), headers=ONE, timeout=WAIT)
        assert (refused.status_code, int(refused.headers["Retry-After"]) >= 1) == (429, True)
        for headers in ({"X-Forwarded-For": "203.0.113.2"}, {}):
            assert requests.post(url, json=call("large", size=1), headers=headers, timeout=WAIT).status_code == 200


@pytest.mark.parametrize(("seconds", "charged"), [(0.4, 0.4), (60.0, MOST_WORK)])
def test_who_makes_the_server_work_pays_with_its_own_time(seconds: float, charged: float) -> None:
    now = [0.0]

    def work() -> None:
        now[0] += seconds

    endpoint = JsonRpcEndpoint({"work": work}, lanes={"work": Lane(1, clock=Own(lambda: now[0]))})
    limits = Limits(work=0.1, burst=10.0)  # a second at once
    spend = Spending(limits)
    assert spend.work == 1.0
    answers = replies(endpoint, [call("work")] * 4, spend)
    done = 3 if seconds < 1 else 1
    assert refusals(answers) == [None] * done + ["TooMuchAsked"] * (4 - done)
    assert spend.owed == pytest.approx((done * charged - 1.0) / 0.1, abs=0.5)  # and a little for what was parsed
    spend.fill(spend.owed + 0.01)
    assert spend.owed < 0
    assert refusals(replies(endpoint, call("work"), spend)) == [None]


def test_a_single_call_is_told_to_wait_and_never_refused_by_what_nobody_signs() -> None:
    spend = Spending(Limits(sent=10.0, burst=1.0))
    spend(sent=30)
    with pytest.raises(TooMuch, match="wait 3 s"):
        asyncio.run(JsonRpcEndpoint({"large": large}).answer(json.dumps(call("large", size=1)).encode(), spend))


def test_an_error_in_a_thread_is_told_and_paid_for_as_well() -> None:
    def refuse() -> None:
        raise TooMuchAsked("No.", limit=5)

    spend = Spending(Limits())
    ticks = iter(range(100))
    endpoint = JsonRpcEndpoint({"refuse": refuse}, lanes={"refuse": Lane(2, clock=Own(lambda: float(next(ticks))))})
    assert refusals(replies(endpoint, call("refuse"), spend)) == ["TooMuchAsked"]
    assert spend.limits.work * spend.limits.burst - spend.work == pytest.approx(1.0, abs=0.05)


def test_who_has_the_server_parse_pays_for_it_whatever_comes_of_it() -> None:
    for size in (10, web._QUICK_BYTES):
        for body in (json.dumps(call("none", text="x" * size)).encode(), b"{" * 10 + b" " * size):
            spend = Spending(Limits())
            asyncio.run(JsonRpcEndpoint({}).answer(body, spend))
            assert spend.work < spend.limits.work * spend.limits.burst, (size, body[:20])


# While they run -----------------------------------------------------------------------------------------------------


def test_slow_questions_of_one_address_leave_places_to_others_and_end_with_its_time() -> None:
    """Twenty at a time: two of them run, and the others are refused once these have cost too much."""
    lane, clock, finish = Lane(4, 2, Own(lambda: now[0])), [0], threading.Event()
    now, limits = [0.0], Limits(work=0.1, burst=10.0)
    mallory, alice = Spending(limits), Spending(limits)

    def slow() -> str:
        clock[0] += 1
        finish.wait(WAIT)
        now[0] += 5.0
        return "slow"

    async def attack() -> list[str | BaseException]:
        asked = [asyncio.create_task(lane.run(slow, mallory)) for _ in range(20)]
        for _ in range(5):
            assert await asyncio.wait_for(lane.run(lambda: "quick", alice), WAIT) == "quick"
        assert await asyncio.wait_for(lane.run(lambda: "own", UNCOUNTED), WAIT) == "own"
        assert clock == [2]
        finish.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(attack())
    assert sorted(type(item).__name__ for item in found) == ["TooMuch"] * 18 + ["str"] * 2
    assert alice.work == 1.0


def test_of_those_who_wait_the_one_comes_first_who_has_asked_least() -> None:
    lane, order, hold = Lane(1, 1), list[str](), threading.Event()
    spends = {name: Spending(Limits()) for name in ("first", "greedy", "modest", "fresh")}
    spends["greedy"](work=3)
    spends["modest"](work=1)

    def asked(name: str) -> str:
        order.append(name)
        hold.wait(WAIT)
        return name

    async def all_of_them() -> None:
        tasks = []
        for name, spend in spends.items():
            tasks.append(asyncio.create_task(lane.run(partial(asked, name), spend)))
            await asyncio.sleep(0)
        gone = asyncio.create_task(lane.run(partial(asked, "gone"), UNCOUNTED))
        await asyncio.sleep(0)
        gone.cancel()  # who has left takes nobody's place
        hold.set()
        await asyncio.gather(*tasks)

    asyncio.run(all_of_them())
    assert order == ["first", "fresh", "modest", "greedy"]


def test_who_leaves_in_the_moment_of_its_turn_hinders_nobody() -> None:
    lane = Lane(1)

    async def leave() -> str:
        async with lane._place(UNCOUNTED):
            second, third = (asyncio.create_task(lane.run(lambda: "done", UNCOUNTED)) for _ in range(2))
            await asyncio.sleep(0)
            second.cancel()  # the place is free before the second one knows that it is gone
        return await third

    assert asyncio.run(asyncio.wait_for(leave(), WAIT)) == "done"


def test_those_who_wait_for_a_node_at_a_time_pay_for_it_together() -> None:
    now = [100.0]
    clock = Divided(lambda: now[0])
    alone = clock.begin()
    now[0] += 1
    together = [clock.begin() for _ in range(3)]
    now[0] += 4
    assert [clock.end(begun) for begun in together] == [1.0] * 3
    now[0] += 1
    assert clock.end(alone) == 3.0
    now[0] += 1000  # nobody waits
    assert clock.end(clock.begin()) == 0.0


def test_a_single_call_whose_address_has_used_up_its_time_meanwhile_is_told_to_wait() -> None:
    limits = Limits(work=0.1, burst=10.0)
    spend = Spending(limits)

    def work() -> None:
        spend(work=2)  # by another request

    endpoint = JsonRpcEndpoint({"work": work}, lanes={"work": Lane(1)})

    async def two() -> tuple[str | BaseException, ...]:
        body = json.dumps(call("work")).encode()
        return tuple(await asyncio.gather(*(endpoint.answer(body, spend) for _ in range(2)), return_exceptions=True))

    first, second = asyncio.run(two())
    assert "result" in str(first)
    assert isinstance(second, TooMuch)


# Requests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", [b"[]", b"0", b"1e1", b'{"a":0}', b"[[[]]]"])
def test_a_request_of_very_many_values_is_refused_unread(item: bytes) -> None:
    body = b"[" + (item + b",") * (990_000 // (len(item) + 1)) + b"0]"
    begun = time.thread_time()
    answer = json.loads(asyncio.run(JsonRpcEndpoint({}).answer(body)))
    assert answer["error"]["data"] == f"More than {web.MAX_VALUES} values."
    assert time.thread_time() - begun < 0.05


@contextlib.contextmanager
def connected(url: str, buffer: int = 4096) -> Iterator[socket.socket]:
    """A connection that takes in little by itself."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(WAIT)
        connection.connect(("127.0.0.1", urlsplit(url).port))
        yield connection


def post(body: bytes) -> bytes:
    return b"POST /api/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def is_cut_off(connection: socket.socket) -> bool:
    """Whether the other end gives the connection up before its answers are read."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            connection.send(b"x", socket.MSG_DONTWAIT)
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return True
        time.sleep(0.05)
    return False


def test_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "READ_SECONDS", 0.2)
    monkeypatch.setattr(held, "LEAST_READ", 100_000_000)
    asked = post(json.dumps(call("large", size=3_900_000)).encode())
    with json_rpc({"large": large}) as url:
        with connected(url) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(asked * 3)
            assert is_cut_off(connection)
        with connected(url, 1_000_000) as connection:
            connection.sendall(asked)
            received = 0
            while received < 3_900_000:
                received += len(connection.recv(100_000))
                time.sleep(0.001)


def test_large_answers_are_held_up_to_a_bound_and_who_does_not_read_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held, "MOST", 3_000_000)
    monkeypatch.setattr(held, "PATIENCE", 0.2)
    batch = [call("large", size=100_000 + number) for number in range(20)]
    with json_rpc({"large": large}) as url, contextlib.ExitStack() as stack:
        asked = post(json.dumps(batch).encode())
        for _ in range(3):
            stack.enter_context(connected(url)).sendall(asked)
        small = requests.post(url, json=[call("large", size=10)] * 5, timeout=WAIT).json()
        assert refusals(small) == [None] * 5
        end, found = time.monotonic() + WAIT, list[str | None](["TooMuchAsked"])
        while "TooMuchAsked" in found:  # until those who do not read have been cut off
            assert time.monotonic() < end
            found = refusals(requests.post(url, json=batch, timeout=WAIT).json())


def test_large_requests_are_held_up_to_a_bound_and_who_sends_half_of_one_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held, "MOST", 1_000_000)
    monkeypatch.setattr(held, "PATIENCE", 0.2)
    asked = json.dumps(call("large", size=1)).encode()
    with json_rpc({"large": large}) as url, contextlib.ExitStack() as stack:
        for _ in range(4):
            with contextlib.suppress(ConnectionError):  # there was no room for it
                stack.enter_context(connected(url)).sendall(post(b" " * 600_000)[:-100])
        assert requests.post(url, data=asked, timeout=WAIT).status_code == 200
        end = time.monotonic() + WAIT
        while requests.post(url, data=b" " * 300_000 + asked, timeout=WAIT).status_code != 200:
            assert time.monotonic() < end


def test_a_connection_has_few_requests_waiting() -> None:
    with json_rpc({"large": large}) as url:
        body = post(json.dumps(call("large", size=1)).encode())
        for count, answered in ((MAX_PIPELINED, True), (MAX_PIPELINED + 5, False)):
            with connected(url, 100_000) as connection, contextlib.suppress(ConnectionError):
                connection.sendall(body * count)
                seen = b""
                while part := connection.recv(100_000):
                    seen += part
                    if seen.count(b"200 OK") == count and answered:
                        break
                assert (seen.count(b"200 OK") == count) == answered

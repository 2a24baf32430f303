"""Killed processes, lost answers and forged replies lose nothing, and nothing is paid twice."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from envelope_support import answered, bare
from network_support import ASSETS, DEPOSIT, FEE, WAIT, Client, Network, running_network, tokens_of, wait_until
from regtest_support import key_of
from servers import serving
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.rpc import RpcClient

STRIDE = 17  # doors

# The hub and its node killed ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A network whose hub and node may be killed."""
    with running_network(tmp_path_factory.mktemp("mortal")) as running:
        yield running


def test_a_hub_and_node_killed_between_two_syncs_come_back_as_if_nothing_had_happened(mortal: Network) -> None:
    alice, bob = mortal.client("alice"), mortal.client("bob")
    a, b = mortal.open_connection(alice), mortal.open_connection(bob)
    alice.run("queuepayment", a, b, "1000")
    alice.run("sync")
    token = alice.run("queuepayment", a, b, "234")
    before = [mortal.height, *(client.run("status", "--verbose") for client in (alice, bob))]
    hub = alice.run("hubstatus")
    mortal.kill()
    assert alice.fails("sync") == (3, "HubUnreachable")
    mortal.restart()
    assert [mortal.height, *(client.run("status", "--verbose") for client in (alice, bob))] == before
    assert alice.run("hubstatus") == hub
    alice.run("sync")
    assert tokens_of(bob.run("sync"), b)[1] == token
    assert alice.shown(a)["balance"] == DEPOSIT - 1234 - 2 * FEE
    assert bob.shown(b)["balance"] == DEPOSIT + 1234 - FEE
    for client, handle in ((alice, a), (bob, b)):
        client.run("close", handle)
    mortal.kill()
    mortal.restart()
    for client, handle in ((alice, a), (bob, b)):
        mortal.settle(client, handle)
    held = [client.balances()["XCP"] for client in (alice, bob)]
    assert held == [ASSETS - 1234 - 3 * FEE, ASSETS + 1234 - 2 * FEE]


def test_a_hub_killed_at_any_instant_of_a_sync_pays_once(mortal: Network) -> None:
    alice, bob = mortal.client("alice"), mortal.client("bob")
    a, b = mortal.open_connection(alice), mortal.open_connection(bob)
    sent = []
    for number in range(4):
        sent.append(alice.run("queuepayment", a, b, str(100 + number)))
        killer = threading.Timer(0.02 * number, mortal.kill)
        killer.start()
        done = alice.done("sync")
        killer.join()
        assert done.code == 0 or done.error["name"] == "HubUnreachable"
        mortal.restart()
    alice.run("sync")
    received = bob.run("sync")[b]["received_payments"]
    assert [payment["token"] for payment in received] == sent
    paid = sum(payment["amount"] for payment in received)
    assert paid == sum(100 + number for number in range(4))
    fees = DEPOSIT - paid - alice.shown(a)["balance"]
    assert FEE <= fees <= 5 * FEE
    hubs = alice.run("hubstatus")["connections"][a]["balance"]
    assert hubs == DEPOSIT + paid + fees  # both count the same syncs


# The client killed --------------------------------------------------------------------------------------------------


def killed_here_and_there(
    start: Callable[[int], Client], words: Callable[[Client], tuple[str, ...]]
) -> Iterator[Client]:
    """Clients whose command was killed before one of its writes or calls, further on each time, until it comes through.

    Each door in turn is for tests/client/test_killed.py, which has no process to start.
    """
    for doors in itertools.count(1, STRIDE):
        client = start(doors)
        if not client.killed(doors, *words(client)):
            assert doors > STRIDE  # else nothing was tried
            return
        yield client


def test_a_client_killed_while_it_connects_deposits_once(network: Network) -> None:
    def start(doors: int) -> Client:
        return network.client(f"connecting{doors}")

    for client in killed_here_and_there(start, lambda _: ("connect", "XCP", str(DEPOSIT))):
        client.run("sync")
        if not client.handles():
            assert client.balances()["XCP"] == ASSETS
            client.run("connect", "XCP", str(DEPOSIT))
        (handle,) = client.handles()
        network.mine(2)
        wait_until(lambda: client.shown(handle)["status"] == "open", "an open connection")  # noqa: B023
        assert client.balances()["XCP"] == ASSETS - DEPOSIT
        client.run("sync")
        assert client.shown(handle)["balance"] == DEPOSIT - FEE


def test_a_close_receives_what_came_after_a_sync_whose_answer_was_lost(network: Network) -> None:
    """Else it would go back to its payer, or stay with the hub where that has closed, too."""
    alice, bob = network.client("lost-alice"), network.client("lost-bob")
    a, b = network.open_connection(alice), network.open_connection(bob)
    assert bob.killed("sync settled", "sync")
    assert bob.shown(b)["sync_pending"]
    alice.run("queuepayment", a, b, "70")
    alice.run("sync")
    alice.run("close", a)
    bob.run("close", b)
    (received,) = [event for event in bob.run("history") if event["action"] == "received"]
    assert (received["handle"], received["amount"]) == (b, 70)
    assert bob.connection(b).duplex.guaranteed == DEPOSIT + 70 - 2 * FEE


def test_a_client_killed_while_it_syncs_pays_and_is_charged_once(network: Network) -> None:
    bob = network.client("bob")
    b = network.open_connection(bob)
    opened: dict[Client, str] = {}
    queued: dict[Client, list[str]] = {}

    def start(doors: int) -> Client:
        alice = network.client(f"syncing{doors}")
        a = opened[alice] = network.open_connection(alice)
        for amount in (60, 40):  # so that the sync gives back a commit, and makes one
            bob.run("queuepayment", b, a, str(amount))
            bob.run("sync")
            alice.run("sync")
        queued[alice] = [alice.run("queuepayment", a, b, str(amount)) for amount in (150, 7)]
        bob.run("queuepayment", b, a, "9")
        bob.run("sync")
        return alice

    for alice in killed_here_and_there(start, lambda _: ("sync",)):
        a = opened[alice]
        received = alice.run("sync")[a]["received_payments"]
        assert [(payment["payer_handle"], payment["amount"]) for payment in received] == [(b, 9)]
        assert tokens_of(bob.run("sync"), b) == queued[alice]
        assert bob.run("sync")[b]["received_payments"] == []
        shown = alice.shown(a)
        assert shown["balance"] == DEPOSIT + 100 + 9 - 157 - 3 * FEE
        assert (shown["payments_queued"], shown["sync_pending"], shown["owed"]) == ([], False, 0)
        hubs = alice.run("hubstatus")["connections"][a]["balance"]
        assert hubs == 2 * DEPOSIT - shown["balance"]


@pytest.mark.parametrize("received", [0, 500])
def test_a_client_killed_while_it_closes_gets_all_of_its_own(network: Network, received: int) -> None:
    payer = network.client(f"payer{received}")
    p = network.open_connection(payer)
    opened: dict[Client, str] = {}

    def start(doors: int) -> Client:
        client = network.client(f"closing{received}-{doors}")
        opened[client] = network.open_connection(client)
        if received:
            payer.run("queuepayment", p, opened[client], str(received))
            payer.run("sync")
            client.run("sync")
        return client

    for client in killed_here_and_there(start, lambda client: ("close", opened[client])):
        handle = opened[client]
        if client.shown(handle)["status"] == "open":
            client.run("close", handle)
        network.settle(client, handle)
        fees = ASSETS + received - client.balances()["XCP"]
        syncs = 2 if received else 1
        assert fees in (syncs * FEE, (syncs + 1) * FEE)  # one more where the close was begun twice


def test_a_client_killed_while_it_settles_gets_all_of_its_own(network: Network) -> None:
    opened: dict[Client, str] = {}
    payer = network.client("payer")
    p = network.open_connection(payer)

    def start(doors: int) -> Client:
        client = network.client(f"settling{doors}")
        opened[client] = network.open_connection(client)
        payer.run("queuepayment", p, opened[client], "77")
        payer.run("sync")
        client.run("close", opened[client])
        network.mine()  # the close; its rest is due
        return client

    for client in killed_here_and_there(start, lambda _: ("sync",)):
        network.settle(client, opened[client])
        assert client.balances()["XCP"] == ASSETS + 77 - FEE


# Answers lost and forged --------------------------------------------------------------------------------------------


_EXCHANGED = ("mph_request", "mph_deposit", "mph_sync", "mph_close")


class InterceptingRelay:
    """Stands between clients and the hub: loses answers, changes them, and keeps what it saw."""

    def __init__(self, hub_url: str) -> None:
        self._hub_url = hub_url
        self.url = ""
        self.lose: set[str] = set()
        self.change: Callable[[dict[str, Any]], Any] | None = None  # of signed results
        self.asked: list[dict[str, Any]] = []
        self.answered: list[dict[str, Any]] = []

    async def __call__(self, request: Request) -> Response:
        """One exchange with the hub."""
        body = await request.body()
        answer = await run_in_threadpool(requests.post, self._hub_url, body, timeout=WAIT)
        asked, said = json.loads(body), answer.json()
        if isinstance(asked, list):
            return Response(answer.content, media_type="application/json")
        if asked["method"] in self.lose:
            self.asked.append(asked)
            self.answered.append(said)
            return Response("", 504)
        if asked["method"] in _EXCHANGED and "signature" in (said.get("result") or {}):
            self.asked.append(asked)
            self.answered.append(said)
            if self.change is not None:
                said = {**said, "result": self.change(dict(said["result"]))}
        return Response(json.dumps(said), media_type="application/json")


@contextmanager
def between(network: Network) -> Iterator[InterceptingRelay]:
    """Somebody between clients and the hub."""
    middle = InterceptingRelay(network.hub_url)
    app = Starlette(routes=[Route("/api/", middle.__call__, methods=["POST"])])
    with serving(app) as url:
        middle.url = f"{url}/api/"
        yield middle


@pytest.fixture
def middle(network: Network) -> Iterator[InterceptingRelay]:
    with between(network) as standing:
        yield standing


def test_a_lost_answer_is_given_again_and_nothing_is_paid_twice(network: Network, middle: InterceptingRelay) -> None:
    alice, bob = network.client("lost-alice", hub_url=middle.url), network.client("lost-bob")
    a, b = network.open_connection(alice), network.open_connection(bob)
    back = bob.run("queuepayment", b, a, "5")
    bob.run("sync")
    token = alice.run("queuepayment", a, b, "321")
    middle.lose = {"mph_sync"}
    for _ in range(2):
        assert alice.fails("sync") == (3, "HubUnreachable")
    assert alice.shown(a)["sync_pending"] is True
    assert tokens_of(bob.run("sync"), b) == [token]  # it had arrived
    later = alice.run("queuepayment", a, b, "4")
    middle.lose = set()
    assert tokens_of(alice.run("sync"), a) == [back]
    syncs = [n for n, asked in enumerate(middle.asked) if asked["method"] == "mph_sync"]
    first = [n for n in syncs if middle.asked[n]["params"] == middle.asked[syncs[0]]["params"]]
    assert len(first) >= 3
    assert len({json.dumps(middle.answered[n]["result"]) for n in first}) == 1
    assert tokens_of(bob.run("sync"), b) == [later]
    assert alice.shown(a)["balance"] == DEPOSIT - 325 + 5 - 2 * FEE


@pytest.mark.parametrize("method", ["mph_request", "mph_deposit", "sendrawtransaction"])
def test_a_lost_answer_while_connecting_costs_no_second_deposit(
    network: Network, middle: InterceptingRelay, method: str
) -> None:
    client = network.client(f"lost-{method}", hub_url=middle.url)
    middle.lose = {method}
    assert client.fails("connect", "XCP", str(DEPOSIT)) == (3, "HubUnreachable")
    middle.lose = set()
    client.run("sync")
    if not client.handles():
        client.run("connect", "XCP", str(DEPOSIT))
    (handle,) = client.handles()
    network.mine(2)
    assert client.shown(handle)["status"] == "open"
    assert client.balances()["XCP"] == ASSETS - DEPOSIT


def test_a_lost_answer_to_a_close_strands_nothing(network: Network, middle: InterceptingRelay) -> None:
    client = network.client("lost-close", hub_url=middle.url)
    handle = network.open_connection(client)
    middle.lose = {"mph_close"}
    assert client.fails("close", handle) == (3, "HubUnreachable")
    assert client.shown(handle)["status"] == "closing"
    middle.lose = set()
    network.settle(client, handle)
    assert client.balances()["XCP"] == ASSETS - FEE


def test_a_tampered_reply_is_refused_and_the_next_sync_works(network: Network, middle: InterceptingRelay) -> None:
    alice, bob = network.client("tampered-alice", hub_url=middle.url), network.client("tampered-bob")
    a, b = network.open_connection(alice), network.open_connection(bob)
    members = ("next_revoke_hash", "receive", "remainder", "commit", "revokes", "refused", "request_sha256")
    for number, member in enumerate((*members, "pubkey", "signature")):
        token = bob.run("queuepayment", b, a, "50")
        bob.run("sync")
        balance = DEPOSIT + number * (50 - FEE) - FEE  # what left the machine counts, nothing else
        forged: Any
        for forged in (0, "00" * 20, ["00"]):
            middle.change = lambda result, forged=forged, member=member: {**result, member: forged}
            assert alice.fails("sync") == (5, "BadHubSignature")
            assert alice.connection(a).duplex.guaranteed == balance
        middle.change = lambda result, member=member: {name: value for name, value in result.items() if name != member}
        assert alice.fails("sync") == (5, "BadHubSignature")
        middle.change = None
        assert tokens_of(alice.run("sync"), a) == [token]
        assert alice.connection(a).duplex.guaranteed == balance + 50


def test_a_reply_signed_by_another_is_refused(network: Network, middle: InterceptingRelay) -> None:
    alice = network.client("impostor", hub_url=middle.url)
    a = network.open_connection(alice)
    impostor = key_of("impostor")
    middle.change = lambda result: answered("mph_sync", impostor, bare(result))
    assert alice.fails("sync") == (5, "BadHubSignature")
    assert alice.fails("connect", "XCP", "5000") == (5, "BadHubSignature")  # the key is the URL's, not a connection's
    middle.change = None
    alice.run("sync")
    assert alice.shown(a)["balance"] == DEPOSIT - FEE
    assert alice.handles() == [a]


def test_an_older_reply_played_back_is_refused(network: Network, middle: InterceptingRelay) -> None:
    alice = network.client("played", hub_url=middle.url)
    a = network.open_connection(alice)
    alice.run("sync")
    older = middle.answered[-1]["result"]
    middle.change = lambda _: older
    assert alice.fails("sync") == (5, "BadReply")
    middle.change = None
    alice.run("sync")
    assert alice.shown(a)["balance"] == DEPOSIT - 2 * FEE


def test_an_older_request_played_back_does_nothing(network: Network, middle: InterceptingRelay) -> None:
    alice, bob = network.client("replay-alice", hub_url=middle.url), network.client("replay-bob")
    a, b = network.open_connection(alice), network.open_connection(bob)
    for amount in ("10", "20"):
        alice.run("queuepayment", a, b, amount)
        alice.run("sync")
    first, second = [asked["params"] for asked in middle.asked if asked["method"] == "mph_sync"]
    hub = RpcClient(network.hub_url)
    for _ in range(2):
        with pytest.raises(PicopaymentsError) as caught:
            hub.call("mph_sync", first, retry=False)
        assert caught.value.name == "StaleRequest"
        hub.call("mph_sync", second, retry=False)  # its stored reply
    assert len(tokens_of(bob.run("sync"), b)) == 2
    assert alice.shown(a)["balance"] == DEPOSIT - 30 - 2 * FEE
    assert alice.run("hubstatus")["connections"][a]["balance"] == DEPOSIT + 30 + 2 * FEE

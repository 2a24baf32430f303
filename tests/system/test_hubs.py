"""A connection belongs to its hub: to that key, whichever hub a command names, and whoever stands at the URL by now."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from envelope_support import answered, digest_of
from network_support import WAIT, Client, tokens_of, wait_until
from regtest_support import NodeProcess, key_of, running_node
from served_support import HubThread
from servers import serving
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from picopayments_cli.channel import envelope
from picopayments_cli.channel.values import Pubkey

STRANGER = "cd" * 32
CLOSING = ["ConnectionNotOpen", "HubRestored", "UnknownHandle"]
WHOSE_CHAIN = pytest.mark.parametrize("whose", ["hub", "own"])


class Places:
    """A chain, hubs on it that come and go, and one client; it sees the chain by its hubs or by the node itself."""

    def __init__(self, folder: Path, node: NodeProcess) -> None:
        self.folder = folder
        self.node = node
        self.hubs: dict[str, HubThread] = {}
        self.alice = Client(folder / "alice", "")

    def start(self, name: str, port: int = 0, node: NodeProcess | None = None) -> str:
        """Start the hub of that name; its URL."""
        hub = self.hubs[name] = HubThread(self.folder / name, (node or self.node).url, port)
        self.alice.hub_url = self.alice.hub_url or hub.url
        return hub.url

    def stop(self, *names: str) -> None:
        """Stop hubs, all of them where none is named."""
        for name in names or list(self.hubs):
            self.hubs.pop(name).stop()

    def mine(self, blocks: int = 1) -> None:
        """Mine; every hub has done its chores afterwards."""
        for _ in range(blocks):
            self.node.rpc("generate", blocks=1)
            for hub in self.hubs.values():
                hub.call("generate", blocks=1)

    def open(self, url: str, client: Client | None = None, *options: str) -> str:
        """The handle of a connection at that hub, once it is open."""
        client = client or self.alice
        client.hub_url = url
        client.run("faucet")
        self.mine()
        handle: str = client.run("connect", "XCP", "1000000", *options)["handle"]
        self.mine(2)
        wait_until(lambda: client.shown(handle)["status"] == "open", "an open connection")
        return handle

    def stage(self, handle: str) -> str:
        """How far the connection is, in the client's file."""
        return self.alice.connection(handle).stage


def port_of(url: str) -> int:
    return int(url.split(":")[2].partition("/")[0])


@pytest.fixture
def places(tmp_path: Path, chains: Callable[[int], NodeProcess]) -> Iterator[Places]:
    running = Places(tmp_path, chains(3))
    try:
        yield running
    finally:
        running.stop()


def sees_by(whose: str, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    if whose == "own":
        monkeypatch.setenv("PICOPAYMENTS_CHAIN_URL", places.node.url)


# More than one hub --------------------------------------------------------------------------------------------------


def test_each_hub_that_a_backup_knows_is_asked_for_what_is_newer(places: Places) -> None:
    one, two = places.start("one"), places.start("two")
    handles = {places.open(two)}
    path, alice = places.folder / "backup", places.alice
    alice.run("backup", str(path))
    handles.add(places.open(two))
    words = (alice.basedir / "regtest.wallet").read_bytes()
    hubs = (alice.basedir / "regtest.hubs").read_bytes()
    wipe(alice, {"regtest.wallet": words})
    alice.hub_url = one  # which knows none of them
    alice.run("restore", str(path))
    assert set(alice.run("sync")) == handles
    assert {alice.shown(handle)["status"] for handle in handles} == {"open"}
    wipe(alice, {"regtest.wallet": words, "regtest.hubs": hubs, "regtest.restored": b""})
    assert set(alice.run("sync")) == handles


def wipe(client: Client, files: Mapping[str, bytes]) -> None:
    """Leave only these files of a folder."""
    shutil.rmtree(client.basedir)
    client.basedir.mkdir(mode=0o700)
    for name, data in files.items():
        (client.basedir / name).write_bytes(data)
        (client.basedir / name).chmod(0o600)


@WHOSE_CHAIN
def test_each_connection_is_worked_with_its_own_hub(
    places: Places, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [places.start("one"), places.start("two")]
    sees_by(whose, places, monkeypatch)
    handles = [places.open(url) for url in urls]
    bob = Client(places.folder / "bob", urls[0])
    bobs = places.open(urls[0], bob)
    for url in urls:
        places.alice.hub_url = url
        token = places.alice.run("queuepayment", handles[0], bobs, "500")
        assert set(places.alice.run("sync")) == set(handles)
        assert tokens_of(bob.run("sync"), bobs) == [token]
        assert [places.alice.shown(handle)["status"] for handle in handles] == ["open", "open"]
    assert [places.alice.shown(handle)["sent"] > 0 for handle in handles] == [True, True]
    for handle, url in zip(handles, reversed(urls), strict=True):
        places.alice.hub_url = url
        places.alice.run("close", handle)
    connections = [places.alice.connection(handle) for handle in handles]
    assert [(item.stage, item.ending.told) for item in connections] == [("closing", True)] * 2


@WHOSE_CHAIN
def test_a_hub_that_is_down_does_not_stop_the_others(
    places: Places, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = places.start("one"), places.start("two")
    sees_by(whose, places, monkeypatch)
    first, second = places.open(one), places.open(two)
    places.stop("one")
    for url in (two, one)[: 1 if whose == "hub" else 2]:  # the wallet's chain is the settings' hub's
        places.alice.hub_url = url
        shown = places.alice.run("status")["connections"]
        assert (shown[first]["status"], shown[second]["status"]) == ("unknown" if whose == "hub" else "open", "open")
        assert (shown[first].get("error") or {"name": None})["name"] == ("HubUnreachable" if whose == "hub" else None)
    before = places.alice.shown(second)["sent"] if whose == "own" else 0
    places.alice.hub_url = one
    failed = places.alice.done("sync")
    assert (failed.code, failed.error["name"]) == (1, "SyncIncomplete")
    assert {handle: error["name"] for handle, error in failed.error["data"]["failed"].items()} == {
        first: "HubUnreachable"
    }
    assert list(json.loads(failed.stdout)) == [second]
    assert places.alice.fails("sync", "--handle", first) == (3, "HubUnreachable")
    places.alice.hub_url = two
    assert places.alice.shown(second)["sent"] > before
    assert [places.stage(handle) for handle in (first, second)] == ["agreed", "agreed"]
    places.alice.fails("close", first)  # nothing was received: what it holds comes back when it expires
    assert places.stage(first) == "closing"
    before = places.alice.shown(second)["sent"]
    done = places.alice.done("sync")
    assert (done.code, done.error["name"]) == (1, "SyncIncomplete")  # it is not done, as that hub was not told
    assert f"The connection {first} is closing" in done.error["message"]
    assert (places.stage(second), places.alice.shown(second)["sent"]) == ("agreed", before + 1)


def test_a_hub_that_has_moved_is_known_by_its_key(places: Places) -> None:
    handle = places.open(places.start("one"))
    places.stop("one")
    places.alice.hub_url = places.start("one")
    assert "The hub of the settings has that hub's key" in places.alice.done("sync").stderr
    assert places.alice.shown(handle)["status"] == "open"
    assert places.alice.shown(handle)["sent"] == 1


# Somebody else at the URL -------------------------------------------------------------------------------------------


@WHOSE_CHAIN
def test_another_hub_at_the_url_is_not_believed(places: Places, whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = places.start("one"), places.start("two")
    sees_by(whose, places, monkeypatch)
    first, second = places.open(one), places.open(two)
    places.stop("one")
    places.start("stranger", port_of(one))
    for url in (one, two):
        places.alice.hub_url = url
        before = places.alice.shown(second)["sent"]
        done = places.alice.done("sync")
        assert (done.code, done.error["data"]["failed"][first]["name"]) == (1, "BadHubSignature")
        assert places.alice.shown(second)["sent"] > before
        assert [places.stage(handle) for handle in (first, second)] == ["agreed", "agreed"]
    places.stop("stranger")
    places.start("one", port_of(one))
    assert set(places.alice.run("sync")) == {first, second}
    assert places.alice.shown(first)["status"] == "open"


def test_what_another_hub_tells_of_the_chain_closes_nothing(places: Places, tmp_path: Path) -> None:
    """It sees a chain on which all deadlines are long over."""
    one = places.start("one")
    handle = places.open(one, None, "--expire-time", "20")
    places.stop("one")
    with running_node(tmp_path / "another chain", 0) as node:
        places.start("stranger", port_of(one), node)
        node.rpc("generate", blocks=200)
        assert places.alice.fails("sync") == (5, "BadHubSignature")
        error = places.alice.run("status")["connections"][handle]["error"]
        assert error["name"] == "BadHubSignature"
        assert places.alice.fails("close", handle) == (5, "BadHubSignature")
        assert places.stage(handle) == "agreed"
        places.stop("stranger")


class RefusingRelay:
    """Stands at a hub's URL: hands calls on, but answers mph_sync with an error of its own."""

    def __init__(self, hub_url: str) -> None:
        self._hub_url = hub_url
        self.url = ""
        self.details: Any = None
        self.heard: list[dict[str, str]] = []
        self.methods: set[str] = set()
        self.asked: dict[str, Any] = {}

    async def __call__(self, request: Request) -> Response:
        """One exchange."""
        body = await request.body()
        self.heard.append(dict(request.headers))
        asked = json.loads(body)
        self.methods |= {call["method"] for call in (asked if isinstance(asked, list) else [asked])}
        if isinstance(asked, dict) and asked["method"] == "mph_sync" and self.details is not None:
            self.asked = asked["params"]
            details = self.details(asked["params"]) if callable(self.details) else self.details
            error = {"code": -32000, "message": "Server error", "data": details}
            return Response(json.dumps({"error": error, "id": asked["id"], "jsonrpc": "2.0"}))
        answer = await run_in_threadpool(requests.post, self._hub_url, body, timeout=WAIT)
        return Response(answer.content, media_type="application/json")


@contextmanager
def between(hub_url: str) -> Iterator[RefusingRelay]:
    """Somebody between the client and a hub."""
    middle = RefusingRelay(hub_url)
    with serving(Starlette(routes=[Route("/api/", middle.__call__, methods=["POST"])])) as url:
        middle.url = f"{url}/api/"
        yield middle


@WHOSE_CHAIN
def test_a_connections_own_hub_is_asked_first(places: Places, whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who hands calls on proves the hub's key too, and could lie about the chain."""
    one = places.start("one")
    sees_by(whose, places, monkeypatch)
    handle = places.open(one)
    with between(one) as middle:
        places.alice.hub_url = middle.url
        for words in (["sync"], ["close", handle]):
            places.alice.run(*words)
            # The settings' hub is asked whether it has connections that are not here, and for no more.
            assert middle.methods <= {"mph_key", "get_running_info"}


def test_hubs_at_one_place_are_told_apart_by_their_paths(places: Places) -> None:
    ways = [RefusingRelay(places.start(name)) for name in ("one", "two")]
    routes = [Route(f"/{name}/", way.__call__, methods=["POST"]) for name, way in zip("ab", ways, strict=True)]
    with serving(Starlette(routes=routes)) as url:
        handle = places.open(f"{url}/a/")
        before = places.alice.shown(handle)["sent"]
        for name in ("b/", "nothing"):
            places.alice.hub_url = f"{url}/{name}"
            assert set(places.alice.run("sync")) == {handle}
        places.alice.hub_url = f"{url}/a/"
        assert places.alice.shown(handle)["sent"] == before + 2
        places.alice.hub_url = f"{url}/b/"
        places.alice.run("close", handle)
        assert places.alice.connection(handle).ending.told


def refusal(name: str) -> dict[str, Any]:
    return {"type": name, "args": ["No."], "message": "No."}


def signed(name: str, key: Any, request: bytes) -> dict[str, Any]:
    return answered("mph_sync", key, {**refusal(name), "request_sha256": request.hex()})


def test_a_refusal_that_the_hub_has_not_signed_closes_nothing(places: Places) -> None:
    with between(places.start("one")) as middle:
        handle = places.open(middle.url)
        hub = Client(places.folder / "one", "")
        (path,) = hub.basedir.glob("hub.regtest.wif")
        shutil.copy(path, hub.basedir / "regtest.wif")
        key, impostor = hub.key, key_of("impostor")

        def named(params: dict[str, Any]) -> bytes:
            return digest_of("mph_sync", key.pubkey, params)

        for name in CLOSING:
            forgeries = (
                refusal(name),
                {**refusal(name), "pubkey": key.pubkey.hex(), "signature": "ab"},
                lambda params, name=name: signed(name, impostor, named(params)),
                signed(name, key, bytes(32)),  # of another request
                lambda params, name=name: {**signed("BadRequest", key, named(params)), "type": name},
            )
            for middle.details in forgeries:
                assert places.alice.fails("sync") == (5, "BadHubSignature")
                assert places.stage(handle) == "agreed"
        middle.details = lambda params: signed("UnknownHandle", key, named(params))
        assert places.alice.fails("sync") == (1, "UnknownHandle")
        assert places.stage(handle) == "agreed"
        middle.details = lambda params: signed("HubRestored", key, named(params))
        places.alice.run("sync")
        assert places.stage(handle) == "closing"


def test_a_refusal_for_its_payments_must_be_the_hubs(places: Places) -> None:
    """Else anybody could have payments taken out of a sync."""
    with between(places.start("one")) as middle:
        handle = places.open(middle.url)
        places.alice.queue_unseen(handle, STRANGER, 100)
        middle.details = refusal("PaymentExceedsReceivable")
        assert places.alice.fails("sync") == (5, "BadHubSignature")
        assert len(middle.asked["sends"]) == 1
        assert len(places.alice.connection(handle).pending.bodies) == 1  # type: ignore[union-attr]


def test_a_hub_signs_what_it_refuses(places: Places) -> None:
    url = places.start("one")
    for method in ("mph_request", "mph_deposit", "mph_sync", "mph_close"):
        params = {"handle": STRANGER, "pubkey": "02" * 33}
        answer = requests.post(url, json={"method": method, "params": params, "id": 1}, timeout=WAIT).json()
        details = answer["error"]["data"]
        assert details["args"] == [details["message"]]
        hub_key = Pubkey(bytes.fromhex(details["pubkey"]))
        assert envelope.signed_by(details, hub_key, envelope.answering(method, hub_key))
        assert details["request_sha256"] == digest_of(method, hub_key, params).hex()


# What the hub or the chain has lost ---------------------------------------------------------------------------------


@WHOSE_CHAIN
def test_a_hub_without_its_database_closes_nothing(places: Places, whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = places.start("one")
    sees_by(whose, places, monkeypatch)
    handle = places.open(url, None, "--expire-time", "20")
    before = places.alice.balances()["XCP"]
    places.stop("one")
    for path in [*(places.folder / "one").glob("regtest.db*"), *(places.folder / "one").glob("*.witness.json")]:
        path.unlink()
    places.start("one", port_of(url))
    done = places.alice.done("sync")
    assert (done.code, done.error["name"]) == (1, "UnknownHandle")
    assert f"close {handle}` settles without the hub" in done.error["message"]
    assert places.alice.shown(handle)["status"] == "open"
    places.alice.run("close", handle)
    places.mine(12)
    for _ in range(3):
        places.alice.run("sync")
        places.mine()
    assert places.alice.shown(handle)["status"] == "closed"
    assert places.alice.balances()["XCP"] == before + 1_000_000


@WHOSE_CHAIN
def test_another_chain_closes_nothing(
    places: Places, whose: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The hub's key is right, and its chain, or the node of one's own, was made anew: all deadlines are over there."""
    url = places.start("one")
    sees_by(whose, places, monkeypatch)
    handle = places.open(url, None, "--expire-time", "20")
    shown = places.alice.shown(handle)
    places.stop("one")
    with running_node(tmp_path / "another chain", 0) as node:
        shutil.copytree(places.folder / "one", places.folder / "two")
        for path in [*(places.folder / "two").glob("regtest.db*"), *(places.folder / "two").glob("*.witness.json")]:
            path.unlink()
        if whose == "own":
            monkeypatch.setenv("PICOPAYMENTS_CHAIN_URL", node.url)
        for blocks in (0, 200):
            if blocks:
                node.rpc("generate", blocks=blocks)
            places.start("two", port_of(url), node)
            status = places.alice.run("status")["connections"][handle]
            assert status["error"]["name"] == "UnknownDeposit"
            assert status["balance"] == shown["balance"]
            assert places.alice.fails("sync") == (1, "UnknownDeposit")
            assert places.stage(handle) == "agreed"
            places.stop("two")
    sees_by(whose, places, monkeypatch)
    places.start("one", port_of(url))
    assert set(places.alice.run("sync")) == {handle}
    assert places.alice.shown(handle)["status"] == "open"


# What a key is bound to ---------------------------------------------------------------------------------------------


def test_a_key_is_bound_to_a_place_not_to_the_spelling_of_its_url(places: Places) -> None:
    url = places.start("one")
    places.open(url)
    path = places.alice.basedir / "regtest.hubs"
    ((place, key),) = json.loads(path.read_text()).items()
    assert place == f"http://127.0.0.1:{port_of(url)}"
    places.stop("one")
    places.start("stranger", port_of(url))
    for pinned in ("http://127.0.0.1:{}", "HTTP://127.0.0.1:{}/", "http://me:pass@127.0.0.1:{}/other"):
        path.write_text(json.dumps({pinned.format(port_of(url)): key}))  # as an older version wrote it
        for spelled in (url, url.removesuffix("api/"), url.removesuffix("/api/"), url.replace("http", "HTTP")):
            places.alice.hub_url = spelled
            assert places.alice.fails("connect", "XCP", "5000") == (5, "BadHubSignature")


def test_the_password_for_one_hub_is_not_told_to_another(places: Places) -> None:
    with between(places.start("one")) as first, between(places.start("two")) as second:
        handle = places.open(first.url)
        for name, value in (("hub_username", "me"), ("hub_password", "secret")):
            places.alice.run("config", name, value)
        places.alice.hub_url = second.url
        first.heard.clear()
        assert set(places.alice.run("sync")) == {handle}
        assert first.heard
        assert all("authorization" not in headers for headers in first.heard)
        assert second.heard
        assert all("authorization" in headers for headers in second.heard)

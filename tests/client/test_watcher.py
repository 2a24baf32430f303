"""The watcher on a real chain: it pays for nothing idle, settles, punishes, goes on whatever fails, and gives way."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cheats import QuickTown, Town, pay, pay_and_get_back
from client_support import Life
from filelock import FileLock
from network_support import FEE, NOBODY, WAIT, Client, wait_until

from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.values import Handle
from picopayments_cli.channel.waiting import Waits
from picopayments_cli.client import hubs, life
from picopayments_cli.client import watcher as module
from picopayments_cli.client.closing import Outcome
from picopayments_cli.client.due import REST, Act, Rest
from picopayments_cli.client.outbox import Outbox
from picopayments_cli.client.watcher import Watcher
from picopayments_cli.config import load_settings
from picopayments_cli.errors import NotTransferable, StoreUnusable


class Watched:
    """A client with a watcher whose rounds come when a test says so."""

    def __init__(self, client: Client, check: Callable[[], None] = lambda: None, every: float = 60.0) -> None:
        self.client = client
        settings = load_settings(NETWORKS["regtest"], client.basedir, {"hub_url": client.hub_url}, {})
        self.outbox = Outbox(client.basedir / "regtest.events.jsonl", ["test"])
        self.watcher = Watcher(settings, client.basedir, check, self.outbox, every)

    def round(self) -> list[str]:
        """Do a round; the names of the events that it made."""
        self.watcher.round()
        return [event["event"] for event in self.events()]

    def events(self) -> list[dict[str, Any]]:
        """The events since the last time."""
        found = []
        while self.outbox._delivered["test"] < self.outbox._last:
            event = self.outbox.next("test")
            assert event is not None
            self.outbox.done("test", event)
            found.append(event)
        return found


def fees(client: Client) -> int:
    return sum(event["sync_fee"] for event in client.run("history") if event["action"] == "fee")


def test_a_round_makes_no_folder_anew_that_went_after_it_was_seen(town: Town) -> None:
    client = town.client("alice")
    watched = Watched(client)  # its check finds all there, as just before a folder goes
    watched.round()
    away = client.basedir.with_name("away")
    shutil.move(client.basedir, away)
    watched.watcher.round()
    assert not client.basedir.exists()
    shutil.move(away, client.basedir)
    watched.round()
    assert client.run("status")["connections"] == {}


def test_a_life_from_opening_to_the_deadline_costs_what_is_needed_and_is_told(town: Town) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    before = town.books()
    watched = Watched(alice)
    assert watched.round() == []
    a = town.connect(alice, expire=30)
    b = town.open(bob, expire=400)
    assert watched.round() == ["connection_opened"]
    for _ in range(3):
        town.mine()
        assert watched.round() == []
    assert fees(alice) == 0  # nothing was queued, nothing waits: nothing is paid
    alice.run("queuepayment", a, b, "500")
    alice.run("queuepayment", a, b, "600")
    assert watched.round() == ["payment_sent", "payment_sent"]
    assert watched.round() == []
    assert fees(alice) == FEE
    bob.run("sync")
    pay(bob, b, a, 300)
    watched.watcher._rests.clear()
    watched.watcher._wait(time.monotonic() + 1)
    (event,) = watched.events()
    assert (event["event"], event["amount"], event["handle"], event["payer_handle"]) == ("payment_received", 300, a, b)
    assert event["index"] == 3
    assert fees(alice) == 2 * FEE
    town.mine_to(alice.shown(a)["settle_height"])
    assert watched.round() == ["connection_closing"]
    for _ in range(10):
        town.mine()
        if "connection_closed" in watched.round():
            break
    assert alice.run("status")["connections"][a]["status"] == "closed"
    town.mine(8)
    assert watched.round() == []
    assert alice.connection(a).final
    bob.run("close", b)
    town.settle()
    town.check(before, alice=-1100 + 300 - 2 * FEE, bob=1100 - 300 - 3 * FEE, hub=5 * FEE)


def test_a_hub_that_could_not_be_asked_for_lost_connections_is_asked_again(tmp_path: Path) -> None:
    client = Client(tmp_path / "alice", NOBODY)
    client.run("address")
    watched = Watched(client)
    watched.round()
    assert watched.watcher._unasked


def test_a_missing_connection_is_told_once_and_so_is_that_it_is_back(town: Town) -> None:
    alice = town.client("alice")
    a = town.open(alice)
    watched = Watched(alice)
    watched.round()
    path = alice.basedir / "regtest.connections" / f"{a}.json"
    away = path.rename(alice.basedir / "away")
    town.stop_hub()  # which would give it back
    watched.watcher.round()
    (error,) = [event for event in watched.events() if event["event"] == "error" and event["source"] == a]
    assert error["name"] == "StoreDamaged"
    assert "it is missing, and its connection may have money on the chain" in error["message"]
    watched.watcher.round()
    assert [event["event"] for event in watched.events() if event.get("source", a) == a] == []
    away.rename(path)
    watched.watcher.round()
    assert [event["event"] for event in watched.events() if event.get("source", a) == a] == ["error_over"]


def test_receipts_go_both_ways_for_nothing(town: Town) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    a, b = town.open(alice), town.open(bob)
    shop, payer = Watched(alice), Watched(bob)
    shop.round()
    payer.round()
    bob.run("pay", b, alice.run("request", a, "500"))
    assert payer.round() == ["payment_sent"]
    shop.watcher._wait(time.monotonic() + 1)
    assert [(event["event"], event["request"]) for event in shop.events()] == [("payment_received", "paid")]
    paid = fees(bob)
    payer.watcher.round()
    (payment,) = bob.run("payments")
    assert sha256(bytes.fromhex(payment["receipt"])).hexdigest() == payment["token"]
    assert fees(bob) == paid


def test_a_cheat_is_punished_and_told(town: Town) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    a, b = town.open(alice, expire=60), town.open(bob, expire=60)
    copy = pay_and_get_back(town, alice, bob, a, b)
    watched = Watched(alice)
    assert watched.round() == []
    sending = alice.connection(a).duplex.sending
    town.cheat(copy)
    wait_until(lambda: town.spender(sending), "the hub's revoked commit")
    town.mine()
    told = watched.round() + watched.round()
    assert "connection_closing" in told
    assert "punished" in told


def test_a_hub_that_is_away_is_told_of_once_and_what_waits_is_sent_later(town: Town) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    a, b = town.open(alice), town.open(bob)
    watched = Watched(alice)
    watched.round()
    alice.run("queuepayment", a, b, "500")
    town.stop_hub()
    watched.watcher.round()
    (event,) = watched.events()
    assert (event["event"], event["source"], event["name"]) == ("error", a, "HubUnreachable")
    assert watched.round() == []
    town.start_hub()
    assert watched.round() == ["payment_sent", "error_over"]
    assert fees(alice) == FEE


def test_nothing_is_paid_for_what_a_command_has_sent_meanwhile(town: Town) -> None:
    alice = town.client("alice")
    a = Handle(bytes.fromhex(town.open(alice)))
    watched = Watched(alice)
    assert watched.watcher._carry_out({a: Act.EXCHANGE}, {}) is False
    assert fees(alice) == 0
    watched.watcher._carry_out({a: Act.FETCH}, {})
    assert fees(alice) == FEE


def test_an_error_is_not_over_while_nothing_is_tried(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise NotTransferable("It can't.")

    alice, bob = town.client("alice"), town.client("bob")
    a, b = town.open(alice), town.open(bob)
    watched = Watched(alice)
    watched.round()
    alice.run("queuepayment", a, b, "5")
    with monkeypatch.context() as broken:
        broken.setattr(life, "sync", refuses)
        assert watched.round() == ["error"]
        watched.watcher._rests[Handle(bytes.fromhex(a))] = Rest(time.monotonic() + 1000, 1000)
        assert watched.round() == []
    watched.watcher._rests.clear()
    assert watched.round() == ["payment_sent", "error_over"]


def test_it_gives_way_to_commands_and_they_to_it_never_for_long(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCKED_PAUSE", 0.05)
    alice = town.client("alice")
    watched = Watched(alice)
    done = threading.Event()

    def rounds() -> None:
        watched.watcher.round()
        done.set()

    with FileLock(alice.basedir / "regtest.lock"):
        thread = threading.Thread(target=rounds)
        thread.start()
        assert not done.wait(0.5)
    assert done.wait(WAIT)
    thread.join(WAIT)
    assert watched.events() == []  # a command that takes its time is no error


def test_a_command_that_has_the_lock_keeps_no_stop_waiting(town: Town) -> None:
    alice = town.client("alice")
    watched = Watched(alice)
    with FileLock(alice.basedir / "regtest.lock"):
        watched.watcher.start()
        wait_until(watched.watcher._busy.locked, "a round that waits")
        begun = time.monotonic()
        watched.watcher.stop(WAIT)
        assert time.monotonic() - begun < 5


def test_it_locks_nothing_while_it_looks_and_waits(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = town.client("alice")
    town.open(alice)
    watched = Watched(alice)
    locked: list[bool] = []

    def seen(*_: Any) -> Iterator[Any]:
        try:
            with FileLock(alice.basedir / "regtest.lock", timeout=0):
                locked.append(False)
        except TimeoutError:
            locked.append(True)
        return iter(())

    monkeypatch.setattr(hubs, "seen", seen)
    watched.round()
    assert locked == [False]


def test_nothing_is_written_in_a_folder_that_was_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        raise StoreUnusable("It is gone.")

    client = Client(tmp_path / "there", "http://127.0.0.1:9/api/")
    client.basedir.mkdir(mode=0o700)
    watched = Watched(client, check)
    client.basedir.rmdir()
    for _ in range(2):
        watched.watcher.round()
    assert not client.basedir.exists()


def test_a_fault_of_the_program_ends_no_watch(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = town.client("alice")
    watched = Watched(alice, every=0.1)
    watched.round()
    with monkeypatch.context() as broken:
        broken.setattr(module, "asked_together", lambda *_: 1 / 0)
        broken.setattr(hubs, "seen", lambda *_: 1 / 0)
        watched.watcher.start()
        wait_until(lambda: watched.outbox._last >= 1, "an event")
    (event,) = watched.events()
    assert (event["event"], event["source"], event["name"]) == ("error", "wallet", "InternalError")
    wait_until(lambda: watched.outbox._last >= 2, "its end")
    assert [event["event"] for event in watched.events()] == ["error_over"]
    watched.watcher.stop(WAIT)
    watched.watcher._thread.join(WAIT)
    assert not watched.watcher._thread.is_alive()


def test_a_free_step_never_makes_an_exchange(it: Life) -> None:
    it.open()
    before = it.doors.passed.count("call mph_sync")
    look = it.session.sight.look(it.session.wallet.address, [it.connection])
    life.sync(it.session, it.connection, look, Outcome(), pays=False)
    assert it.doors.passed.count("call mph_sync") == before
    life.sync(it.session, it.connection, look, Outcome())
    assert it.doors.passed.count("call mph_sync") == before + 1


def test_a_hub_that_lies_about_what_waits_is_paid_for_few_syncs(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = town.client("alice")
    a = Handle(bytes.fromhex(town.open(alice)))
    watched = Watched(alice)
    watched.round()
    monkeypatch.setattr(module, "asked_together", lambda *_: ([Waits(a, 1, 900, 0)], None))
    watched.watcher._wait(time.monotonic() + 3)
    assert 1 <= fees(alice) <= 2
    assert watched.watcher._rests[a].seconds >= REST


def test_a_wait_at_the_hub_keeps_no_stop_waiting(town: Town) -> None:
    alice = town.client("alice")
    town.open(alice)
    watched = Watched(alice)
    watched.watcher.start()
    assert isinstance(town, QuickTown)
    arrivals = town.hub.hub.book.arrivals
    wait_until(lambda: arrivals._held, "a watcher that waits at the hub")
    begun = time.monotonic()
    watched.watcher.stop(WAIT)
    assert time.monotonic() - begun < 2

"""The history: every action that is on disk, once, whatever kills the process between two writes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from forked import completed
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.values import Handle
from picopayments_cli.client.history import Event, in_order
from picopayments_cli.client.store import Store
from picopayments_cli.errors import StoreDamaged

REGTEST = NETWORKS["regtest"]
ONE, TWO = Handle(b"\1" * 32), Handle(b"\2" * 32)
SAVES = 3

# Counts up in a document, an action each time, and archives it; dies before the file operation of the given number.
COUNT = f"""
import os, signal, sys
from pathlib import Path
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.values import Handle
from picopayments_cli.client.store import Store
handle, left = Handle(bytes([1]) * 32), int(sys.argv[2])
def die_in_time(name, given):
    global left
    if name in ("open", "os.rename", "os.remove", "os.mkdir") and str(given[0]).startswith(sys.argv[1]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
with Store(Path(sys.argv[1]), NETWORKS["regtest"]) as store:
    sys.addaudithook(die_in_time)
    count = store.load(handle)["count"] if store.handles() else 0
    while count < {SAVES} and not store.archived.path.exists():
        count += 1
        store.save(handle, {{"count": count}}, "count", [{{"action": "counted", "amount": count}}])
    if store.handles():
        store.archive(handle)
"""


def counted(basedir: Path, left: int) -> int:
    """The exit code of the counter."""
    return completed(["-c", COUNT, str(basedir), str(left)], 60)[0]


def amounts(basedir: Path) -> list[int]:
    with Store(basedir, REGTEST) as store:
        return [event["amount"] for event in in_order(store.history())]


def test_no_kill_loses_or_doubles_an_action(tmp_path: Path) -> None:
    operations = 0
    while True:
        basedir = tmp_path / str(operations)
        basedir.mkdir(mode=0o700)
        code = counted(basedir, operations)
        with Store(basedir, REGTEST) as store:
            kept = [document["count"] for document in store.load_all().values() if isinstance(document, dict)]
        seen = amounts(basedir)
        assert seen == list(range(1, kept[0] + 1 if kept else len(seen) + 1))
        assert kept or len(seen) in (0, SAVES)
        assert counted(basedir, 1000) == 0
        assert amounts(basedir) == list(range(1, SAVES + 1))
        assert [path.name for path in (basedir / "regtest.archive").iterdir()] == [f"{ONE.hex()}.json"]
        if code == 0:
            break
        assert code == -signal.SIGKILL
        operations += 1
    assert operations > 3 * SAVES


def test_a_line_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    """The power fails inside the append: the document still carries the event."""
    with Store(tmp_path, REGTEST) as store:
        store.save(ONE, {}, "test", [{"action": "sent", "amount": 1}])
        store.save(ONE, {}, "test", [{"action": "sent", "amount": 2}])
        document = (store.folder / f"{ONE.hex()}.json").read_bytes()
        store.save(ONE, {}, "test")
    whole = store.history_path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        (store.folder / f"{ONE.hex()}.json").write_bytes(document)
        store.history_path.write_bytes(whole[:end])
        assert amounts(tmp_path) == [1, 2]
        with store:
            store.save(ONE, {}, "test", [{"action": "sent", "amount": 3}])
        assert store.history_path.read_bytes() == whole
        assert amounts(tmp_path) == [1, 2, 3]


def test_a_long_line_that_was_cut_off(tmp_path: Path) -> None:
    with Store(tmp_path, REGTEST) as store:
        store.save(ONE, {}, "test", [{"action": "sent", "amount": 1, "token": "00" * 5000}])
        store.history_path.write_bytes(b'{"handle":' + b"0" * 9000)
        store.save(ONE, {}, "test")
    (line,) = store.history_path.read_text().splitlines()
    assert json.loads(line)["token"] == "00" * 5000


@pytest.mark.parametrize("left", [1, 4094, 4095, 4096, 4097, 8191, 8192])
def test_what_was_cut_off_is_dropped_to_the_byte(tmp_path: Path, left: int) -> None:
    """The end of the last whole line may be where what is read at a time begins, or ends."""
    with Store(tmp_path, REGTEST) as store:
        for amount in (1, 2):
            store.save(ONE, {}, "test", [{"action": "sent", "amount": amount}])
        store.save(ONE, {}, "test")
        whole = store.history_path.read_bytes()
        with store.history_path.open("ab") as file:
            file.write(b"0" * left)
        store.save(ONE, {}, "test", [{"action": "sent", "amount": 3}])
        store.save(ONE, {}, "test")
    assert store.history_path.read_bytes().startswith(whole + b"{")
    assert amounts(tmp_path) == [1, 2, 3]


def test_a_damaged_line_is_named_and_kept(tmp_path: Path) -> None:
    with Store(tmp_path, REGTEST) as store:
        for amount in (1, 2):
            store.save(ONE, {}, "test", [{"action": "sent", "amount": amount}])
        for line in (b"nonsense\n", b"[]\n", b"{}\n", b"\xff\n"):
            damage = store.history_path.read_bytes().splitlines(keepends=True)[0] + line
            store.history_path.write_bytes(damage)
            with pytest.raises(StoreDamaged, match="line 2"):
                store.history()
            assert store.history_path.read_bytes() == damage


# Each member that every event has, and values that can't stand there.
WRONG: tuple[tuple[str, object], ...] = (
    ("handle", None), ("handle", 5), ("handle", "ab"), ("handle", "AB" * 32), ("number", None), ("number", "5"),
    ("number", 1.5), ("number", True), ("time", None), ("time", 5), ("action", None), ("action", []),
)  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_an_event_without_what_every_event_has_is_none(tmp_path: Path, name: str, value: object) -> None:
    with Store(tmp_path, REGTEST) as store:
        for _ in range(2):
            store.save(ONE, {}, "test", [{"action": "closed"}])
        whole = json.loads(store.history_path.read_text())
        for wrong in ({**whole, name: value}, {key: item for key, item in whole.items() if key != name}):
            store.history_path.write_text(json.dumps(wrong) + "\n")
            with pytest.raises(StoreDamaged, match="line 1"):
                store.history()
        store.history_path.write_text("[" * 100_000 + "\n")
        with pytest.raises(StoreDamaged, match="line 1"):
            store.history()


CARRIED: tuple[tuple[str, object], ...] = (
    ("event_count", 0), ("event_count", -1), ("event_count", "1"), ("event_count", True), ("event_count", None),
    ("events", None), ("events", {}), ("events", [5]), ("events", [{}]), ("events", [[]]),
)  # fmt: skip


@pytest.mark.parametrize(("name", "value"), CARRIED)
def test_a_document_that_carries_other_things_than_events_is_damaged(tmp_path: Path, name: str, value: object) -> None:
    """Its contents would go into the history with its next change, and make that unreadable."""
    with Store(tmp_path, REGTEST) as store:
        store.save(ONE, {}, "test", [{"action": "connected"}])
        path = store.folder / f"{ONE.hex()}.json"
        damage = json.dumps({**json.loads(path.read_text()), name: value})
    path.write_text(damage)
    with Store(tmp_path, REGTEST) as store:
        assert store.history() == []  # it costs the others nothing
        steps = (lambda: store.load(ONE), lambda: store.save(ONE, {}, "test"), lambda: store.remove(ONE))
        for step in steps:
            with pytest.raises(StoreDamaged, match=path.name):
                step()
        assert not store.history_path.exists()
    assert path.read_text() == damage


def test_a_document_carries_events_of_its_own_only(tmp_path: Path) -> None:
    with Store(tmp_path, REGTEST) as store:
        store.save(ONE, {}, "test", [{"action": "connected"}])
        text = (store.folder / f"{ONE.hex()}.json").read_text()
        other = store.folder / f"{TWO.hex()}.json"
        other.write_text(text)
        other.chmod(0o600)
        with pytest.raises(StoreDamaged, match=other.name):
            store.load(TWO)


def test_what_was_removed_has_its_history(tmp_path: Path) -> None:
    with Store(tmp_path, REGTEST) as store:
        store.save(ONE, {}, "test", [{"action": "connected"}])
        store.save(TWO, {}, "test", [{"action": "connected"}])
        store.remove(ONE)
        store.remove(ONE)
        assert {event["handle"] for event in store.history()} == {ONE.hex(), TWO.hex()}


def event(handle: Handle, number: int, time: int) -> Event:
    return {"handle": handle.hex(), "number": number, "time": f"2026-01-01T00:00:{time:02}.000Z"}


@given(st.permutations([event(ONE, 0, 5), event(ONE, 1, 3), event(ONE, 2, 7), event(TWO, 0, 4), event(TWO, 1, 6)]))
def test_the_oldest_first_and_each_once(events: list[Event]) -> None:
    """The clock went back between the first two of ONE."""
    told = [(event["handle"][:2], event["number"]) for event in in_order([*events, *events])]
    assert told == [("02", 0), ("01", 0), ("01", 1), ("02", 1), ("01", 2)]

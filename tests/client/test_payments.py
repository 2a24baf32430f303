"""The running index of payments: never used twice or reordered, whatever was cut off, and cheap to go on from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from regtest_support import REGTEST

from picopayments_cli.channel.values import Handle
from picopayments_cli.client.history import events_of
from picopayments_cli.client.payments import Entry, PaymentLog, Reported, entries_of
from picopayments_cli.client.store import Store
from picopayments_cli.errors import StoreDamaged

ONE, TWO = Handle(b"\1" * 32), Handle(b"\2" * 32)
ASSET = {"asset": "XCP"}


def sent(token: str, amount: int = 5) -> dict[str, Any]:
    """The action of a payment that was sent."""
    return {"action": "sent", "payee_handle": TWO.hex(), "amount": amount, "token": token}


def entries(number: int, many: int, time: str) -> list[Entry]:
    """The entries of one change, without their index."""
    events = events_of(ONE, [sent(f"{number + more:04x}") for more in range(many)], number)
    return entries_of([{**event, "time": time} for event in events], ASSET)


def log_of(path: Path, counted: int | None = None, before: int = 0) -> PaymentLog:
    """A log as the next process opens it; ``counted``: the events that the connection's document counts."""
    return PaymentLog(path, lambda entry: counted is None or entry["number"] < counted, lambda: before)


def filled(path: Path, many: int) -> PaymentLog:
    """A log with so many payments, one by each change."""
    log = log_of(path)
    for number in range(many):
        log.add(entries(number, 1, f"at {number}"))
        log.keep()
    return log


def indexes(found: Sequence[Entry]) -> list[int]:
    """Their indexes."""
    return [entry["index"] for entry in found]


@given(changes=st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["kept", "cut", "torn", "dies"])), max_size=12))
def test_each_index_is_given_once_and_in_order(tmp_path_factory: pytest.TempPathFactory, changes: list[Any]) -> None:
    """A change counts, or fails after its entries were written, or ends the process there or in the midst of them."""
    path = tmp_path_factory.mktemp("log") / "payments.jsonl"
    log, counted = log_of(path), 0
    seen: list[Entry] = []
    for at, (many, end) in enumerate(changes):
        log.add(entries(counted, many, f"at {at}"))
        if end == "kept":
            log.keep()
            counted += many
        elif end == "torn":
            path.write_bytes(path.read_bytes()[:-3])
        if end in ("torn", "dies"):
            log = log_of(path, counted)
        now = list(log.after(0))
        assert now[: len(seen)] == seen  # what anybody has seen stays as it is
        seen = now
    assert indexes(seen) == list(range(1, counted + 1))
    assert [entry["token"] for entry in seen] == [f"{number:04x}" for number in range(counted)]
    assert log.last == counted


@given(many=st.integers(0, 40), index=st.integers(0, 45), wanted=st.sets(st.integers(1, 45)))
def test_entries_are_found_by_their_index(
    tmp_path_factory: pytest.TempPathFactory, many: int, index: int, wanted: set[int]
) -> None:
    log = filled(tmp_path_factory.mktemp("log") / "payments.jsonl", many)
    everything = list(range(1, many + 1))
    assert indexes(list(log.after(index))) == everything[index:]
    assert indexes(list(log.newest())) == everything[::-1]
    assert indexes(list(log.newest(about=f'"{index:04x}"'))) == [index + 1] * (index < many)
    assert indexes(list(log.chosen(sorted(wanted)))) == sorted(wanted.intersection(everything))


def test_a_page_reads_no_more_than_it_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20,000 payments: as many lines as the page has, and as many again as halving takes."""
    path = tmp_path / "payments.jsonl"
    log_of(path).add(entries(0, 20_000, "now"))
    log = log_of(path)
    assert log.last == 20_000
    read: list[Any] = []
    real = json.loads

    def watched(line: bytes) -> Any:
        read.append(line)
        return real(line)

    monkeypatch.setattr(json, "loads", watched)
    assert indexes(list(islice(log.after(12_345), 50))) == list(range(12_346, 12_396))
    assert indexes(list(islice(log.newest(), 3))) == [20_000, 19_999, 19_998]
    assert indexes(list(log.chosen([7, 8, 9, 15_000]))) == [7, 8, 9, 15_000]
    assert len(read) < 120
    read.clear()
    log_of(path).add(entries(20_000, 1, "later"))
    assert len(read) < 5


def test_a_missing_file_begins_behind_what_was_reported(tmp_path: Path) -> None:
    log = log_of(tmp_path / "payments.jsonl", before=41)
    assert log.last == 41
    log.add(entries(0, 2, "now"))
    log.keep()
    assert indexes(list(log.after(0))) == [42, 43]


def test_an_old_file_goes_on_behind_what_was_reported(tmp_path: Path) -> None:
    old = log_of(tmp_path / "payments.jsonl")
    old.add(entries(0, 2, "then"))
    old.keep()
    log = log_of(tmp_path / "payments.jsonl", before=41)
    log.add(entries(2, 1, "now"))
    log.keep()
    assert indexes(list(log.after(0))) == [1, 2, 42]
    assert indexes(list(log.chosen([2, 41, 42]))) == [2, 42]


@pytest.mark.parametrize("line", [b"{}\n", b"[]\n", b"what?\n", b'{"index": "1"}\n', b"\xff\n"])
def test_a_line_that_is_no_payment_is_refused_where_it_is_read(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "payments.jsonl"
    filled(path, 1)
    whole = path.read_bytes()
    path.write_bytes(line + whole)
    log = log_of(path)
    with pytest.raises(StoreDamaged):
        list(log.after(0))
    assert indexes(list(islice(log.newest(), 1))) == [1]
    assert log.last == 1  # and what is to be written is written
    path.write_bytes(whole + line)
    assert indexes(list(log_of(path).after(0))) == [1]  # at the end it was cut off


def test_a_changes_fee_stands_with_its_first_payment() -> None:
    actions = [sent("aa"), {**sent("bb"), "action": "refused", "cause": "No"}, {"action": "fee", "sync_fee": 3}]
    received = {"action": "received", "payer_handle": TWO.hex(), "amount": 9, "token": "cc"}
    found = entries_of(events_of(ONE, [*actions, received, {"action": "closing"}], 4), ASSET)
    assert [(entry["state"], entry["fee"], entry["number"]) for entry in found] == [
        ("sent", 3, 4),
        ("refused", 0, 5),
        ("received", 0, 7),
    ]
    assert entries_of(events_of(ONE, actions[2:], 0), ASSET) == []


# What was reported --------------------------------------------------------------------------------------------------


@given(steps=st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(1, 30)))))
def test_what_was_reported_is_not_reported_again(steps: list[tuple[int, set[int]]]) -> None:
    state, last, told = Reported(), 0, set[int]()
    for new, some in steps:
        last += new
        waiting = state.waiting(last)
        assert waiting == sorted(set(range(1, last + 1)) - told)
        now = some.intersection(waiting)
        state, told = state.after(now, last), told | now


# In the store -------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(tmp_path / "basedir", REGTEST) as opened:
        yield opened


def again(store: Store) -> Store:
    """The store as the next process has it."""
    store.__exit__()
    return store.__enter__()


def test_a_change_that_fails_leaves_no_payment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(ONE, ASSET, "first", [sent("aa")])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("picopayments_cli.client.folder.replace_file", full)
        with pytest.raises(Exception, match="No space"):
            store.save(ONE, ASSET, "fails", [sent("bb"), sent("cc")])
    assert [entry["token"] for entry in store.payments.after(0)] == ["aa"]
    store = again(store)
    assert [entry["token"] for entry in store.payments.after(0)] == ["aa"]
    store.save(TWO, ASSET, "next", [sent("dd")])
    store = again(store)
    assert [(entry["index"], entry["token"]) for entry in store.payments.after(0)] == [(1, "aa"), (2, "dd")]


def test_an_archived_connection_keeps_its_payments(store: Store) -> None:
    store.save(ONE, ASSET, "paid", [sent("aa"), sent("bb")])
    store.archive(ONE)
    store = again(store)
    assert [(entry["index"], entry["token"]) for entry in store.payments.after(0)] == [(1, "aa"), (2, "bb")]
    store.save(TWO, ASSET, "paid", [sent("cc")])
    assert [(entry["index"], entry["asset"]) for entry in store.payments.after(2)] == [(3, "XCP")]
    store.archive(TWO)
    (store.archived.path / f"{TWO.hex()}.json").write_text("not JSON")  # nobody else's payments suffer from it
    assert [entry["token"] for entry in again(store).payments.after(1)] == ["bb", "cc"]


@pytest.mark.parametrize("text", ["", "[]", '{"upto": -1, "left": []}', '{"upto": 1}', '{"upto": 1, "left": ["1"]}'])
def test_a_damaged_note_of_what_was_reported_is_refused(store: Store, text: str) -> None:
    store.notes.save_reported(Reported(7, (2, 3)))
    assert store.notes.reported() == Reported(7, (2, 3))
    store.notes.reported_path.write_text(text)
    with pytest.raises(StoreDamaged):
        store.notes.reported()

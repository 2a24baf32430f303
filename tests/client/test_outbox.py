"""The outbox: numbers that stay over a restart, nothing forgotten before it is delivered, and a bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from picopayments_cli.client import outbox as module
from picopayments_cli.client.happenings import Told
from picopayments_cli.client.outbox import Outbox
from picopayments_cli.errors import StoreDamaged, StoreUnusable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "regtest.events.jsonl"


def took(box: Outbox, sink: str, count: int) -> list[int]:
    """The numbers of the next events that a sink gets, each of them delivered."""
    numbers = []
    for _ in range(count):
        event = box.next(sink)
        assert event is not None
        numbers.append(event["number"])
        box.done(sink, event)
    return numbers


def made(*names: str) -> list[dict[str, str]]:
    return [{"event": name} for name in names]


def test_numbers_and_events_outlive_the_process(path: Path) -> None:
    box = Outbox(path, ["a"])
    assert box.told is None
    box.add(made("x", "y"), Told(7, {"h": ("open", 2)}))
    box.add(made("z"))
    assert took(box, "a", 1) == [1]
    again = Outbox(path, ["a"])  # what was delivered last may come once more
    assert again.told == Told(7, {"h": ("open", 2)})
    assert took(again, "a", 3) == [1, 2, 3]
    assert path.read_bytes().count(b"\n") == 1  # all are delivered: one line without events
    assert path.stat().st_mode & 0o077 == 0
    last = Outbox(path, ["a"])
    last.add(made("w"))
    assert (took(last, "a", 1), last.told) == ([4], again.told)


def test_each_sink_gets_all_in_order_and_the_slowest_keeps_them(path: Path) -> None:
    box = Outbox(path, ["quick", "slow"])
    box.add(made(*"abc"))
    assert took(box, "quick", 3) == [1, 2, 3]
    assert took(Outbox(path, ["slow"]), "slow", 3) == [1, 2, 3]
    assert took(box, "slow", 3) == [1, 2, 3]


def test_a_change_that_was_cut_off_did_not_count(path: Path) -> None:
    box = Outbox(path, ["a"])
    box.add(made("x"), Told(1))
    whole = path.read_bytes()
    box.add(made("y"), Told(2))
    more = path.read_bytes()
    for size in range(len(whole), len(more)):
        path.write_bytes(more[:size])
        cut = Outbox(path, ["a"])
        assert cut.told == Told(1)
        assert took(cut, "a", 1) == [1]
    path.write_bytes(whole + b'{"last":2,"done":0,"told":nu')
    cut = Outbox(path, ["a"])
    cut.add(made("z"))
    assert took(Outbox(path, ["a"]), "a", 2) == [1, 2]


def test_of_events_that_nobody_takes_the_newest_are_kept_and_the_loss_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 4)
    box = Outbox(path, ["a"])
    for _ in range(11):
        box.add(made("x"), Told(1))
    for kept in (box, Outbox(path, ["a"])):
        event = kept.next("a")
        assert event is not None
        assert event["event"] == "events_lost"
        assert (event["last"], event["number"]) == (7, 7)
        kept.done("a", event)
        assert took(kept, "a", 4) == [8, 9, 10, 11]
    assert path.stat().st_size < 1000


def test_a_file_that_is_none_or_others_can_read_is_refused(path: Path) -> None:
    for text in ("x\n", "[]\n", '{"last": 1, "done": 0, "told": null, "events": [{"number": 3}]}\n', '{"last": 1}\n'):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(StoreDamaged, match=r"events\.jsonl"):
            Outbox(path, ["a"])
    path.chmod(0o644)
    with pytest.raises(StoreUnusable, match="chmod"):
        Outbox(path, ["a"])


def test_nothing_is_kept_that_could_not_be_written(path: Path) -> None:
    box = Outbox(path / "nowhere", ["a"])
    with pytest.raises(StoreUnusable):
        box.add(made("x"), Told(1))
    assert box.told is None
    box.close()
    assert box.next("a") is None

"""Events reach files, programs and webhooks in order and signed; who fails is told of, and stops nobody."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from network_support import wait_until
from servers import talking
from webhook_support import Receiver, receiving

from picopayments_cli.client import delivery
from picopayments_cli.client.delivery import (
    LineSink,
    NotDelivered,
    ProgramSink,
    ShownSink,
    Sink,
    WebhookSink,
    delivering,
    signature,
    webhook_secret,
)
from picopayments_cli.client.outbox import Outbox
from picopayments_cli.errors import InvalidUrl, StoreDamaged, StoreUnusable, UsageError

SECRET = b"5" * 64


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_PAUSE", 0.05)


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiving(lambda: SECRET) as made:
        yield made


def add(box: Outbox, *names: str) -> None:
    box.add([{"event": name} for name in names])


def program(folder: Path, text: str) -> str:
    """A program of this text."""
    path = folder / "program"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(folder: Path, sink: Sink, *names: str, until: Any) -> Outbox:
    """Deliver events to a sink until something is so."""
    box = Outbox(folder / "events.jsonl", [sink.name])
    with delivering(box, [sink]):
        add(box, *names)
        wait_until(until, "the events")
    return box


# Webhooks -----------------------------------------------------------------------------------------------------------


def test_a_webhook_gets_each_event_in_order_signed_with_the_secret(tmp_path: Path, hook: Receiver) -> None:
    run(tmp_path, WebhookSink(hook.url, SECRET), "a", "b", "c", until=lambda: len(hook.events()) == 3)
    assert [(event["number"], event["event"]) for event in hook.events()] == [(1, "a"), (2, "b"), (3, "c")]
    assert hook.tries == 3


def test_a_webhook_is_tried_again_until_it_takes_an_event(tmp_path: Path, hook: Receiver) -> None:
    hook.status = "503 Busy"
    box = Outbox(tmp_path / "events.jsonl", ["webhook"])
    with delivering(box, [WebhookSink(hook.url, SECRET)]):
        add(box, "a", "b")
        wait_until(lambda: hook.tries >= 3, "three tries")
        hook.status = "302 Found\r\nLocation: /elsewhere"  # which gets nothing
        wait_until(lambda: hook.tries >= 5, "two more tries")
        hook.status = "200 OK"
        wait_until(lambda: len(hook.events()) == 3, "all events")
    assert [event["event"] for event in hook.events()] == ["a", "b", "delivery_failed"]
    failed = hook.events()[-1]
    assert (failed["sink"], failed["undelivered"]) == ("webhook", 1)
    assert "HTTP status 503" in failed["message"]
    assert "/paid" not in failed["message"]  # a path may be a secret


def test_an_event_that_was_not_taken_comes_after_a_restart(tmp_path: Path, hook: Receiver) -> None:
    hook.status = "500 Broken"
    run(tmp_path, WebhookSink(hook.url, SECRET), "a", until=lambda: hook.tries > 0)
    hook.status = "204 No Content"
    again = Outbox(tmp_path / "events.jsonl", ["webhook"])
    with delivering(again, [WebhookSink(hook.url, SECRET)]):
        wait_until(lambda: len(hook.events()) == 2, "the events of before")


def test_an_event_that_is_never_taken_is_given_up_in_the_end(
    tmp_path: Path, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "GIVEN_UP", 0.1)
    hook.status = "400 Bad Request"
    box = Outbox(tmp_path / "events.jsonl", ["webhook"])
    with delivering(box, [WebhookSink(hook.url, SECRET)]):
        add(box, "a")
        wait_until(lambda: [event["number"] for event in hook.events()][:2] == [1, 2], "the next one's turn")
        hook.status = "200 OK"
        lost = hook.wait("events_lost")[0]
    assert (lost["sink"], lost["count"], lost["last"]) == ("webhook", 1, 1)


def test_one_who_answers_byte_by_byte_or_not_at_all_is_not_waited_for(tmp_path: Path) -> None:
    def drips(connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for _ in range(100):
            connection.sendall(b"X: y\r\n")
            time.sleep(0.05)

    for talk in (drips, lambda _: time.sleep(2)):
        with talking(talk) as (url, _):
            begun = time.monotonic()
            with pytest.raises(NotDelivered, match=r"http://127\.0\.0\.1:\d+ "):
                WebhookSink(url, SECRET, seconds=0.3).deliver({"event": "a", "number": 1})
            assert time.monotonic() - begun < 1.5
    with pytest.raises(NotDelivered, match="did not answer"):
        WebhookSink("http://127.0.0.1:9/", SECRET).deliver({"event": "a", "number": 1})


def test_the_secret_is_private_and_what_openssl_signs_with(tmp_path: Path) -> None:
    path = tmp_path / "regtest.webhook.secret"
    secret = webhook_secret(path)
    assert (len(secret), path.stat().st_mode & 0o777) == (64, 0o600)
    assert webhook_secret(path) == secret
    command = f'printf %s body | openssl dgst -sha256 -hmac "$(cat {path})"'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    if done.returncode == 0:  # where there is an openssl
        assert done.stdout.split()[-1] == signature(secret, b"body").removeprefix("sha256=")
    path.chmod(0o640)
    with pytest.raises(StoreUnusable, match="chmod"):
        webhook_secret(path)
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(StoreDamaged):
        webhook_secret(path)


@pytest.mark.parametrize("url", ["", "ftp://example.com/", "http://", "example.com"])
def test_a_webhook_without_a_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidUrl):
        WebhookSink(url, SECRET)


# Programs -----------------------------------------------------------------------------------------------------------


def test_a_program_gets_each_event_on_its_stdin(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sink = ProgramSink(program(tmp_path, f"cat >> {out}; echo spoken"))
    run(tmp_path, sink, "a", "b; rm -rf $HOME", until=lambda: len(lines(out)) == 2)
    assert [(event["number"], event["event"]) for event in lines(out)] == [(1, "a"), (2, "b; rm -rf $HOME")]


def test_a_program_has_the_environment_less_the_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICOPAYMENTS_PASSPHRASE", "secret")
    monkeypatch.setenv("PICOPAYMENTS_BASEDIR", "/some/where")
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment\n")
    program.chmod(0o700)
    ProgramSink(str(program)).deliver({"number": 1})
    found = (tmp_path / "environment").read_text()
    assert "PICOPAYMENTS_BASEDIR=/some/where" in found
    assert "secret" not in found


def test_a_program_that_fails_is_told_of_once_and_not_started_again_for_that_event(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sink = ProgramSink(program(tmp_path, f"cat >> {out}; exit 3"))
    run(tmp_path, sink, "a", "b", until=lambda: len(lines(out)) == 4)
    told = [(event["event"], event.get("undelivered")) for event in lines(out)]
    assert told == [("a", None), ("b", None), ("delivery_failed", 1), ("delivery_failed", 2)]
    assert lines(out)[2]["message"].endswith("program ended with code 3")


def test_a_program_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    sink = ProgramSink(program(tmp_path, f"sleep 60 & echo $! >> {pids}; wait"), seconds=0.5)
    begun = time.monotonic()
    with pytest.raises(NotDelivered, match=r"stopped after 0\.5 seconds"):
        sink.deliver({"event": "a", "number": 1})
    assert time.monotonic() - begun < 20
    (child,) = map(int, pids.read_text().split())
    wait_until(lambda: not _lives(child), "the end of what it started")


def test_a_program_is_broken_off_when_serve_stops(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sink = ProgramSink(program(tmp_path, f"cat >> {out}; sleep 60"))
    begun = time.monotonic()
    run(tmp_path, sink, "a", until=lambda: lines(out))
    assert time.monotonic() - begun < 10
    assert Outbox(tmp_path / "events.jsonl", ["exec"]).next("exec") is not None  # it comes again


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_a_program_that_there_is_not_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("")
    for name in (str(tmp_path / "nothing"), str(tmp_path / "text"), "", "no-such-program-there-is"):
        with pytest.raises(UsageError, match="--exec"):
            ProgramSink(name)


# Files --------------------------------------------------------------------------------------------------------------


def test_a_file_gets_a_line_each_and_may_be_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "log"
    box = Outbox(tmp_path / "events.jsonl", ["file"])
    with delivering(box, [LineSink(path)]):
        add(box, "a")
        wait_until(lambda: lines(path), "a line")
        path.rename(tmp_path / "old")
        add(box, "b")
        wait_until(lambda: lines(path), "a line")
    assert [event["event"] for event in lines(path)] == ["b"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_can_not_be_written_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    box = Outbox(tmp_path / "events.jsonl", ["file"])
    with delivering(box, [LineSink(folder / "log")]):
        add(box, "a")
        time.sleep(0.2)
        folder.mkdir()
        wait_until(lambda: len(lines(folder / "log")) == 2, "the lines")
    assert [event["event"] for event in lines(folder / "log")] == ["a", "delivery_failed"]


def test_a_stdout_that_is_closed_does_not_stop_the_others(tmp_path: Path, hook: Receiver) -> None:
    def show(_: Any) -> None:
        raise OSError("stdout is closed")

    sinks: list[Sink] = [ShownSink(show), WebhookSink(hook.url, SECRET)]
    box = Outbox(tmp_path / "events.jsonl", [sink.name for sink in sinks])
    with delivering(box, sinks):
        add(box, "a")
        hook.wait("delivery_failed")
    assert [event["event"] for event in hook.events()] == ["a", "delivery_failed"]

"""``listen`` prints payments as they arrive, syncs for them alone, locks nothing meanwhile, and resumes by index."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from network_support import FEE, WAIT, Client, Network

TOKEN = "ab" * 32
SOON = 8.0  # seconds within which what arrives is printed


@dataclass
class Ear:
    """A process that listens."""

    process: subprocess.Popen[str]
    lines: queue.Queue[str]

    def next(self) -> dict[str, Any]:
        """The next payment that it prints."""
        found: dict[str, Any] = json.loads(self.lines.get(timeout=WAIT))
        return found

    def ends(self) -> tuple[int, str]:
        """Its exit code, and the name of its error."""
        code = self.process.wait(WAIT)
        assert self.process.stderr is not None
        last = (self.process.stderr.read().splitlines() or ["{}"])[-1]
        return code, json.loads(last)["error"]["name"] if code else ""


@contextmanager
def listening(client: Client, *words: str) -> Iterator[Ear]:
    """A process that listens, for the length of a ``with`` block."""
    argv = [sys.executable, "-m", "picopayments_cli", *client.words("listen", *words)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield Ear(process, lines)
    finally:
        process.kill()
        process.wait(WAIT)
        reader.join(WAIT)


@pytest.fixture(scope="module")
def alice(network: Network) -> tuple[Client, str]:
    client = network.client("alice")
    return client, network.open_connection(client)


@pytest.fixture
def bob(network: Network, request: pytest.FixtureRequest) -> tuple[Client, str]:
    client = network.client(request.node.name[:60])
    return client, network.open_connection(client)


def pay(payer: tuple[Client, str], payee: str, amount: int, token: str = TOKEN) -> None:
    client, handle = payer
    client.run("queuepayment", handle, payee, str(amount), *(["--token", token] if token else []))
    client.run("sync", "--handle", handle)


def balance(client: Client, handle: str) -> int:
    """What a client's connection holds."""
    return int(client.shown(handle)["balance"])


def test_payments_are_printed_as_they_arrive_and_resumed_by_index(
    alice: tuple[Client, str], bob: tuple[Client, str]
) -> None:
    payee, handle = bob
    with listening(payee, "--timeout", "12") as ear:
        time.sleep(2)  # it waits at the hub by now, and would miss nothing if it did not
        begun = time.monotonic()
        pay(alice, handle, 70, TOKEN)
        first = ear.next()
        assert time.monotonic() - begun < SOON
        assert first == {
            "token": TOKEN,
            "amount": 70,
            "payer_handle": alice[1],
            "handle": handle,
            "asset": "XCP",
            "index": first["index"],
        }
        pay(alice, handle, 80, "cd" * 32)
        payee.run("sync")  # nothing is locked meanwhile, and what another command receives is printed all the same
        second = ear.next()
        assert (second["amount"], second["index"]) == (80, first["index"] + 1)
        assert ear.ends() == (0, "")
    with listening(payee, "--after", str(first["index"]), "--timeout", "1") as ear:
        assert ear.next() == second
        assert ear.ends() == (0, "")
    with listening(payee, "--after", "0") as ear:
        assert [ear.next(), ear.next()] == [first, second]
        ear.process.send_signal(signal.SIGINT)
        assert ear.ends() == (130, "Interrupted")


def test_listening_costs_nothing_where_nothing_comes_or_too_little(
    alice: tuple[Client, str], bob: tuple[Client, str]
) -> None:
    payee, handle = bob
    before = balance(payee, handle)
    with listening(payee, "--timeout", "2") as ear:
        assert ear.ends() == (6, "WaitRanOut")
    pay(alice, handle, FEE, "01")
    shown = payee.shown(handle)["waiting"]
    assert (shown["count"], shown["sum"]) == (1, FEE)
    assert abs(time.time() - _seconds(shown["oldest"])) < WAIT
    with listening(payee, "--timeout", "5") as ear:
        assert ear.ends() == (6, "WaitRanOut")
    assert balance(payee, handle) == before
    pay(alice, handle, 1, "02")
    with listening(payee, "--timeout", "5") as ear:
        assert [ear.next()["amount"], ear.next()["amount"]] == [FEE, 1]
        assert ear.ends() == (0, "")
    assert balance(payee, handle) == before + FEE + 1 - FEE
    assert payee.shown(handle)["waiting"] == {"count": 0, "sum": 0, "oldest": None}


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def test_a_hub_that_is_away_is_waited_for(bob: tuple[Client, str]) -> None:
    payee, handle = bob
    payee.lose_hub(handle)
    with listening(payee, "--timeout", "3") as ear:
        assert ear.ends() == (3, "HubUnreachable")


def test_the_words_of_the_command(bob: tuple[Client, str]) -> None:
    for words in (["--timeout", "0"], ["--timeout", "1.5"], ["--after", "-1"], ["--after", "x"]):
        assert bob[0].done("listen", *words).code == 2

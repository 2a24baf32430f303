"""No request holds the hub's event loop, however much it asks for."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hub_support import Client, Desk, open_all, payment, running_desk, serving

from picopayments_cli.channel.messages import MOST_PAYMENTS, KeyRequest
from picopayments_cli.channel.receipts import MOST_RECEIPTS, Given, ReceiptsRequest
from picopayments_cli.channel.values import Token
from picopayments_cli.channel.waiting import MOST_NAMED, WaitingRequest
from picopayments_cli.channel.wire import NONCE_SIZE
from picopayments_cli.web import MAX_BATCH

MOST_SECONDS = 0.05
NONCE = bytes(NONCE_SIZE)
WAIT = 60


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_desk(tmp_path) as found:
        yield found


class Pulse:
    """Beats in a server's event loop, and tells how long that has computed between two beats."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(self._beat()))

    async def _beat(self) -> None:
        last = time.thread_time()  # of the loop's thread: what else the machine does does not count
        while True:
            await asyncio.sleep(0.001)
            now = time.thread_time()
            self.longest, last = max(self.longest, now - last), now


def called(method: str, params: Any) -> dict[str, Any]:
    return {"id": 1, "jsonrpc": "2.0", "method": method, "params": params}


def heaviest(payer: Client, payee: Client) -> dict[str, Any]:
    """The requests that may ask for most, by what they are."""

    def asked(method: str, body: Any) -> Any:
        return called(method, payer.sealed(method, body.as_json()))

    sync, _ = payer.sync_request(MOST_PAYMENTS + 1, *(payment(payee.handle, 1) for _ in range(MOST_PAYMENTS)))
    given = tuple(Given(payer.handle, bytes([number]) * 32) for number in range(MOST_RECEIPTS))
    tokens = tuple(Token(bytes([number]) * 32) for number in range(MOST_RECEIPTS))
    address = payer.desk.hub.address
    return {
        "payments": asked("mph_sync", sync),
        "receipts": asked("mph_receipts", ReceiptsRequest(NONCE, payer.handle, given, tokens)),
        "waiting": asked("mph_waiting", WaitingRequest(NONCE, (payer.handle,) * MOST_NAMED)),
        "key": [asked("mph_key", KeyRequest(NONCE))] * 500,
        "status": [called("mph_status", {})] * MAX_BATCH,
        "refusals": [called("mph_sync", {"number": number}) for number in range(MAX_BATCH)],
        "coins": [called("get_unspent_txouts", {"address": address, "unconfirmed": number}) for number in range(50)],
        "escapes": called("mph_sync", {"text": "\xe9" * 160_000}),
        "letters": called("mph_sync", {"text": "x" * 999_000}),
    }


def test_no_request_holds_the_event_loop(desk: Desk) -> None:
    alice, mallory = Client(desk, "alice"), Client(desk, "mallory")
    open_all(desk, alice, mallory)
    pulse, held = Pulse(), {}
    with serving(desk, pulse.start) as url:
        for name, request in heaviest(mallory, alice).items():
            pulse.longest = 0.0
            answer = requests.post(url, data=json.dumps(request), timeout=WAIT)
            assert answer.status_code == 200, name
            held[name] = pulse.longest
    assert {name: seconds for name, seconds in held.items() if seconds > MOST_SECONDS} == {}

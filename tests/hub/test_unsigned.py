"""Requests that nobody entitled has signed, or that carry much that nobody reads: they keep nobody else waiting."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from envelope_support import digest_of
from hub_support import Client, Desk, open_all, payment

from picopayments_cli.channel import close
from picopayments_cli.channel.kept import StateRequest
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.messages import MOST_PAYMENTS, ConnectRequest, KeyRequest, SyncRequest
from picopayments_cli.channel.receipts import Given, ReceiptsRequest
from picopayments_cli.channel.standing import standing
from picopayments_cli.channel.waiting import WaitingRequest
from picopayments_cli.channel.wire import MOST_UNKNOWN

SECONDS = 60  # within which an answer comes that waits for no transaction
NONCE = bytes(32)


@pytest.fixture(scope="module")
def mallory(desk: Desk) -> Client:
    """Who is connected, and signs for others."""
    made = Client(desk, "mallory")
    open_all(desk, made)
    return made


def requests(of: Client) -> dict[str, dict[str, Any]]:
    """One request of each method, unsigned, which the hub would take of that client."""
    sync, _ = of.sync_request(MOST_PAYMENTS + 1, *(payment(None, 1) for _ in range(MOST_PAYMENTS)))
    said, figures = standing(of.duplex, of.secrets), close.own_figures(of.duplex)
    _, closing = close.ask(of.duplex, of.handle, figures, said, of.secrets, sign=True)
    return {
        "mph_key": KeyRequest(os.urandom(32)).as_json(),
        "mph_request": ConnectRequest(of.asset, of.party, of.secrets.salt).as_json(),
        "mph_deposit": of.proposal().as_json(),
        "mph_sync": sync.as_json(),
        "mph_close": closing.as_json(),
        "mph_state": StateRequest(NONCE, of.handle).as_json(),
        "mph_receipts": ReceiptsRequest(NONCE, of.handle, (Given(of.handle, NONCE),), ()).as_json(),
        "mph_waiting": WaitingRequest(NONCE, (of.handle,)).as_json(),
    }


def wrong(method: str, body: Mapping[str, Any], of: Client) -> Iterator[dict[str, Any]]:
    """A request signed by somebody else, and one that names its client and is signed by nobody."""
    yield of.desk.sealed(method, Key(b"\x07" * 32), body)
    yield {**of.sealed(method, body), "signature": of.sealed(method, {})["signature"]}


def test_who_signed_is_checked_while_another_one_writes(desk: Desk, mallory: Client) -> None:
    asked = requests(mallory)
    theirs = [
        (method, body)
        for method in ("mph_deposit", "mph_sync", "mph_close", "mph_state", "mph_receipts")
        for body in wrong(method, asked[method], mallory)
    ]
    names: list[str] = []
    asking = threading.Thread(target=lambda: names.extend(desk.name_of(*each) for each in theirs), daemon=True)
    with desk.hub.book.transaction("of another one") as work:
        work.get(mallory.handle)  # its rows are locked on PostgreSQL, on SQLite is all that is written
        asking.start()
        asking.join(SECONDS)
        answered = list(names)
    asking.join(SECONDS)
    assert answered == ["BadClientSignature"] * len(theirs)


def test_what_nobody_reads_is_small_in_every_request(desk: Desk, mallory: Client) -> None:
    much = {str(number): number for number in range(MOST_UNKNOWN // 8)}
    for method, body in requests(mallory).items():
        assert mallory.refused(method, {**body, "unknown": much}) == "BadRequest", method
        assert mallory.refused(method, {**body, "unknown": "x" * MOST_UNKNOWN}) == "BadRequest", method
        large = {**mallory.sealed(method, body), "signature": "00" * MOST_UNKNOWN}
        assert desk.name_of(method, large) == "BadRequest", method


def test_a_small_unknown_member_is_signed_and_passed_over(desk: Desk, mallory: Client) -> None:
    request, moved = mallory.sync_request(6, payment(None, 5))
    sealed = mallory.sealed("mph_sync", {**request.as_json(), "unknown": ["x" * 1000]})
    assert SyncRequest.parse(sealed) == request
    reply = mallory.parsed(desk.call("mph_sync", sealed))
    assert reply.request == digest_of("mph_sync", desk.hub.key.pubkey, sealed)
    mallory.take(reply, moved)

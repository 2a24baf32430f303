"""A listener is not made to pay by hubs that lie, and asks several hubs at a time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from client_support import Life

from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.payment_request import token_of
from picopayments_cli.channel.values import Handle, Pubkey, Quantity
from picopayments_cli.channel.waiting import Waits
from picopayments_cli.channel.wire import Payment
from picopayments_cli.client import ask_waiting, due, life, listen
from picopayments_cli.client.listen import Line, Listener, asked_together
from picopayments_cli.client.session import Session
from picopayments_cli.config import Settings
from picopayments_cli.errors import HubUnreachable, WaitRanOut


class OneSession(Listener):
    """A listener whose turns share the session of a life, whose hub is in memory."""

    def _opened(self) -> Any:
        from contextlib import nullcontext

        return nullcontext(self._session)


def heard(it: Life, monkeypatch: pytest.MonkeyPatch, says: list[int], seconds: float = 3.0) -> list[dict[str, Any]]:
    """What a listener gives while the hub says that so much waits, again and again."""
    given: list[dict[str, Any]] = []
    amounts = iter(says)

    def ask(_at: Any, _key: Any, _hub: Any, handles: list[Handle], seconds: int = 0) -> list[Waits]:
        total = next(amounts, 0) if handles else 0
        return [Waits(handles[0], 1, Quantity(total), 0)] if total else []

    monkeypatch.setattr(ask_waiting, "ask", ask)
    monkeypatch.setattr(listen, "PAUSE", 0.2)
    monkeypatch.setattr(due, "REST", 0.2)
    listener = OneSession(it.session, given.append, None)
    try:
        listener.listen(seconds)
    except WaitRanOut:
        assert given == []
    return given


def test_a_hub_that_lies_about_what_waits_is_paid_for_few_syncs(it: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    it.open()
    before = it.doors.passed.count("call mph_sync")
    assert heard(it, monkeypatch, [900 + n for n in range(10_000)]) == []
    assert 1 <= it.doors.passed.count("call mph_sync") - before <= 5  # at 0, 0.2, 0.6, 1.4 and 3 s


def test_a_hub_that_sends_a_unit_again_and_again_is_paid_for_few_syncs(
    it: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    it.open()
    honest = it.hub.call

    def call(method: str, params: Any, **more: Any) -> Any:
        if method == "mph_sync":
            it.hub.to_pay = [1]
        return honest(method, params, **more)

    it.hub.call = call  # type: ignore[method-assign]
    before = it.doors.passed.count("call mph_sync")
    given = heard(it, monkeypatch, [900] * 10_000)
    assert {payment["amount"] for payment in given} == {1}
    assert 1 <= it.doors.passed.count("call mph_sync") - before <= 5


def test_nothing_is_fetched_that_costs_what_it_brings(it: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    it.open()
    before = it.doors.passed.count("call mph_sync")
    assert heard(it, monkeypatch, [it.hub.terms.sync_fee] * 1000, 1.0) == []
    assert it.doors.passed.count("call mph_sync") == before
    it.hub.to_pay = [it.hub.terms.sync_fee + 1]
    (payment,) = heard(it, monkeypatch, [it.hub.terms.sync_fee + 1], 1.0)
    assert payment["amount"] == it.hub.terms.sync_fee + 1
    assert it.doors.passed.count("call mph_sync") == before + 1


def test_a_listener_fetches_receipts_for_nothing(it: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    it.open()
    receipt = b"r" * 32
    life.queue(it.session, it.connection, Payment(None, Quantity(30), token_of(receipt), 2**33))
    it.sync()
    it.hub.receipts = [receipt]
    before = it.doors.passed.count("call mph_sync")
    assert heard(it, monkeypatch, [], 0.3) == []
    assert [event["receipt"] for event in it.told() if event["action"] == "receipt"] == [receipt.hex()]
    assert it.doors.passed.count("call mph_sync") == before


def test_the_first_hub_with_something_is_heard_and_a_silent_one_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Waits(Handle(b"2" * 32), 1, Quantity(5), 0)
    session = Session(Settings(NETWORKS["regtest"], tmp_path))

    def ask(_at: Any, _key: Any, hub_key: bytes, _handles: Any, seconds: int = 0) -> list[Waits]:
        if hub_key == b"silent":
            raise HubUnreachable("It is away.")
        time.sleep(0.05 if hub_key == b"has" else 0.3)
        return [found] if hub_key == b"has" else []

    def lines(*hubs: bytes) -> list[Line]:
        return [Line([session], None, Pubkey(hub), {Handle(hub * 4): 1}) for hub in hubs]  # type: ignore[arg-type]

    monkeypatch.setattr(ask_waiting, "ask", ask)
    begun = time.monotonic()
    assert asked_together(lines(b"silent", b"waits", b"has"), 5) == ([found], None)
    assert time.monotonic() - begun < 0.25
    waits, failed = asked_together(lines(b"silent", b"waits"), 5)
    assert (waits, type(failed)) == ([], HubUnreachable)
    assert asked_together([], 5) == ([], None)

"""Every payment is reported once by somebody: whatever is killed, fails beside it, or does not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from client_support import Life

from picopayments_cli import api
from picopayments_cli.channel.values import Token
from picopayments_cli.errors import BroadcastRefused, HubUnreachable, SyncIncomplete


class Deaf(Exception):
    """Nobody takes the result."""


@pytest.fixture
def ready(it: Life) -> Life:
    """A client with an open connection."""
    it.open()
    it.restart()
    return it


def deaf(_: Any) -> None:
    """A stdout that is closed."""
    raise Deaf


def run(it: Life, command: Callable[..., Any], *, tell: Callable[[Any], None] | None = None, **words: Any) -> Any:
    """One command as the command line runs it; its result."""
    it.restart()
    told: list[Any] = []
    try:
        api.carry_out(it.session, command, words, tell or told.append)
    finally:
        it.restart()
    return told[0]


def received(it: Life, **words: Any) -> list[int]:
    """The amounts that a sync reports as received."""
    return [item["amount"] for item in run(it, api.sync, **words)[it.handle]["received_payments"]]


def test_a_sync_tells_what_became_of_every_payment(ready: Life) -> None:
    for amount in (100, 30):
        ready.queue(amount, b"%d" % amount)
    ready.hub.refusing = {Token(b"30")}
    ready.hub.to_pay = [7]
    assert run(ready, api.sync)[ready.handle] == {
        "txids": [],
        "sent_payments": [{"payee_handle": None, "amount": 100, "token": b"100".hex(), "index": 1}],
        "refused_payments": [
            {"payee_handle": None, "amount": 30, "token": b"30".hex(), "cause": "UnknownHandle", "index": 2}
        ],
        "received_payments": [{"payer_handle": ready.handle, "amount": 7, "token": b"paid 7".hex(), "index": 3}],
    }
    assert not any(run(ready, api.sync)[ready.handle].values())


def test_what_nobody_took_is_reported_by_the_next(ready: Life) -> None:
    ready.hub.to_pay = [7]
    with pytest.raises(Deaf):
        run(ready, api.sync, tell=deaf)
    ready.hub.to_pay = [8]
    assert received(ready) == [7, 8]
    assert received(ready) == []


@pytest.mark.parametrize("label", ["mph_sync is answered", "save sync settled"])
def test_a_kill_before_stdout_loses_no_receipt(ready: Life, label: str) -> None:
    ready.hub.to_pay = [7]
    ready.killed_at(label, lambda: run(ready, api.sync))
    assert received(ready, handle=ready.handle) == [7]
    assert received(ready) == []


def test_close_reports_what_its_last_sync_brought(ready: Life) -> None:
    ready.hub.to_pay = [7]
    done = run(ready, api.close, handle=ready.handle)
    assert [item["amount"] for item in done["received_payments"]] == [7]
    assert (done["hub"], done["sync_fee"]) == ("agreed", 1)
    ready.mine()
    assert run(ready, api.sync)[ready.handle]["received_payments"] == []


def test_a_close_without_the_hubs_word_leaves_no_receipt_out(ready: Life) -> None:
    """Where nothing can be published it fails, and the next sync reports what its last sync brought."""
    ready.hub.to_pay = [7]
    honest = ready.hub.call

    def silent_about_closes(method: str, params: Any) -> Any:
        if method == "mph_close":
            raise HubUnreachable("Silent.")
        return honest(method, params)

    ready.hub.call = silent_about_closes  # type: ignore[method-assign]
    ready.restart()
    ready.session.chain.broadcast = picky  # type: ignore[assignment, method-assign]
    with pytest.raises(Deaf):
        api.carry_out(ready.session, api.close, {"handle": ready.handle}, deaf)
    done = run(ready, api.close, handle=ready.handle)
    assert ([item["amount"] for item in done["received_payments"]], done["hub"]) == ([7], "silent")
    with pytest.raises(HubUnreachable, match="is closing, and that is not done"):
        received(ready)


def picky(_: bytes) -> bytes:
    """A node that takes nothing."""
    raise BroadcastRefused("Not now.")


def test_a_sync_that_fails_and_has_something_to_report_tells_both(ready: Life) -> None:
    ready.hub.to_pay = [7]
    with pytest.raises(Deaf):
        run(ready, api.sync, tell=deaf)
    ready.hub.silent = True
    told: list[Any] = []
    with pytest.raises(SyncIncomplete) as failed:
        run(ready, api.sync, tell=told.append)
    assert (failed.value.exit_code, failed.value.data["failed"][ready.handle]["name"]) == (1, "HubUnreachable")
    assert [item["amount"] for item in told[0][ready.handle]["received_payments"]] == [7]
    with pytest.raises(HubUnreachable):
        run(ready, api.sync)

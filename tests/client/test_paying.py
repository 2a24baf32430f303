"""Pay in one command: its outcome is the exit code, its token pays once, and nothing is left behind unseen."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import client_support
import pytest
from client_support import Life

from picopayments_cli import api
from picopayments_cli.channel.values import Handle, Token
from picopayments_cli.errors import (
    AssetMismatch,
    ConnectionNotOpen,
    HubUnreachable,
    NotTransferable,
    PaymentExceedsReceivable,
    PaymentNotSent,
    PaymentRefused,
    PaymentToSelf,
    PicopaymentsError,
    StaleRequest,
    TokenInUse,
    UnknownAsset,
    UnknownHandle,
    UsageError,
)

PAYEE, TOKEN = Handle(b"\xab" * 32), "c0ffee"


@pytest.fixture
def ready(it: Life) -> Life:
    """A client with an open connection."""
    it.open()
    it.restart()
    return it


def pay(it: Life, amount: int = 100, token: str | None = TOKEN) -> dict[str, Any]:
    """What one command does, its result printed."""
    it.restart()
    told: list[Any] = []
    arguments = {"source": it.handle, "destination": PAYEE.hex(), "quantity": amount, "token": token}
    api.carry_out(it.session, api.pay, arguments, told.append)
    it.restart()
    return dict(told[0])


def refused(it: Life, error: type[PicopaymentsError], amount: int = 100, token: str | None = TOKEN) -> Any:
    """The error that it fails with."""
    with pytest.raises(error) as caught:
        pay(it, amount, token)
    it.restart()
    return caught.value


def test_payments_of_an_asset_that_no_connection_is_in_are_refused_without_a_hub(it: Life) -> None:
    with pytest.raises(UnknownAsset, match="There are some in: no asset"):
        api.payments(it.session, asset="XCP")
    it.connect()
    it.hub.silent = True
    it.restart()
    assert api.payments(it.session, asset="XCP") == []
    with pytest.raises(UnknownAsset, match="There are some in: XCP"):
        api.payments(it.session, asset="XPC")


def test_a_request_and_a_handle_are_told_apart_in_what_they_lack(ready: Life) -> None:
    with pytest.raises(UsageError, match="leave QUANTITY out"):
        api.pay(ready.session, ready.handle, "picopay1abc", 5)
    with pytest.raises(UsageError, match="leave --token out"):
        api.pay(ready.session, ready.handle, "picopay1abc", None, "c0")
    with pytest.raises(UsageError, match="is no payment request"):
        api.pay(ready.session, ready.handle, PAYEE.hex())


def test_what_closes_is_called_closing_and_names_the_way_on(ready: Life) -> None:
    ready.close()
    with pytest.raises(ConnectionNotOpen, match="is closing, and pays nothing any more: pay from another one"):
        api.queuepayment(ready.session, ready.handle, PAYEE.hex(), 5)
    with pytest.raises(ConnectionNotOpen, match="is closing, and is not paid any more"):
        api.request(ready.session, ready.handle, 5)


def synced(it: Life) -> dict[str, Any]:
    """What the next sync reports, printed."""
    it.restart()
    told: list[Any] = []
    api.carry_out(it.session, api.sync, {}, told.append)
    it.restart()
    return dict(told[0][it.handle])


def listed(it: Life) -> list[Any]:
    """The payments."""
    return list(api.payments(it.session))


def paid(it: Life) -> int:
    """What has moved to the hub since the sync that opened the connection."""
    return it.hub.now.receiving.moved - it.hub.now.sending.moved - it.hub.terms.sync_fee


def test_a_payment_is_made_at_once_and_told_as_payments_tells_it(ready: Life) -> None:
    done = pay(ready)
    assert done["time"]
    assert done == {
        **{"index": 1, "state": "sent", "handle": ready.handle, "asset": "XCP", "time": done["time"]},
        **{"payee_handle": PAYEE.hex(), "amount": 100, "token": TOKEN, "fee": 1},
    }
    assert listed(ready) == [done]
    assert synced(ready)["sent_payments"] == []  # somebody has reported it


def test_a_token_pays_once(ready: Life) -> None:
    first = pay(ready)
    calls = ready.doors.passed.count("call mph_sync")
    assert pay(ready) == first
    assert ready.doors.passed.count("call mph_sync") == calls
    assert refused(ready, TokenInUse, 101).data["token"] == TOKEN
    assert paid(ready) == 101
    assert pay(ready, token=None)["token"] != TOKEN
    assert paid(ready) == 202


def test_who_pays_again_is_told_that_nothing_was_paid(ready: Life, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for word in ("", "nothing was paid now"):
        pay(ready)
        assert ("nothing was paid now" in caplog.text) is bool(word)


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("call mph_sync", "may have left: the next `picopayments-cli sync`"),
        ("save sync prepared", "has not left|may have left"),
    ],
)
def test_an_interrupted_payment_says_how_it_stands_and_how_to_go_on(
    ready: Life, label: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_support, "Killed", KeyboardInterrupt)
    ready.restart()
    ready.doors.deadly = label
    with pytest.raises(KeyboardInterrupt, match=told) as stopped:
        api.pay(ready.session, ready.handle, PAYEE.hex(), 100, TOKEN)
    assert f"--token {TOKEN} the command pays it once" in str(stopped.value)
    ready.restart()
    pay(ready)
    assert paid(ready) == 101


def test_what_is_queued_already_is_made(ready: Life) -> None:
    api.queuepayment(ready.session, ready.handle, PAYEE.hex(), 100, TOKEN)
    assert pay(ready)["state"] == "sent"
    assert (paid(ready), ready.connection.queue) == (101, ())


def test_many_that_were_queued_before_are_made_first(ready: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picopayments_cli.client.exchange.MOST_PAYMENTS", 2)
    for number in range(5):
        ready.queue(10, b"%d" % number)
    assert pay(ready)["state"] == "sent"
    assert paid(ready) == 150 + 3  # by three syncs
    assert [item["amount"] for item in synced(ready)["sent_payments"]] == [10] * 5


def test_a_refusal_is_a_failure(ready: Life) -> None:
    ready.hub.refusing = {Token(bytes.fromhex(TOKEN))}
    error = refused(ready, PaymentRefused)
    named = {"token": TOKEN, "payee_handle": PAYEE.hex(), "amount": 100, "cause": "UnknownHandle"}
    assert error.data.items() >= named.items()
    assert "see with the payee" in error.message
    assert synced(ready)["refused_payments"] == [{**named, "index": 1}]
    ready.hub.refusing = set()
    assert pay(ready)["state"] == "sent"


def test_a_refusal_of_the_whole_sync_is_one_too(ready: Life) -> None:
    ready.hub.refuses, ready.hub.forgives = PaymentExceedsReceivable("Too much."), True
    assert refused(ready, PaymentRefused).data["cause"] == "PaymentExceedsReceivable"
    assert paid(ready) == 1


def test_with_a_silent_hub_nothing_is_paid_and_nothing_stays_queued(ready: Life) -> None:
    files = ready.files()
    ready.hub.silent = True
    assert "Nothing was paid or queued" in refused(ready, HubUnreachable).message
    assert ready.files() == files


def test_what_may_have_left_is_paid_once_by_its_token(ready: Life) -> None:
    ready.hub.lost = 1
    error = refused(ready, HubUnreachable, token=None)
    token = error.data["token"]
    assert f"--token {token}" in error.message
    waiting = listed(ready)[0]
    assert waiting == {
        **{"index": None, "state": "unanswered", "handle": ready.handle, "asset": "XCP", "time": None, "fee": None},
        **{"payee_handle": PAYEE.hex(), "amount": 100, "token": token},
    }
    assert pay(ready, token=token)["state"] == "sent"
    assert paid(ready) == 101


@pytest.mark.parametrize(
    "label", ["save payment queued", "save sync prepared", "mph_sync is answered", "save sync settled"]
)
def test_a_kill_anywhere_pays_once(ready: Life, label: str) -> None:
    ready.killed_at(label, lambda: pay(ready))
    assert pay(ready)["state"] == "sent"
    assert paid(ready) == 101
    assert [entry["index"] for entry in ready.session.store.payments.after(0)] == [1]
    assert synced(ready)["sent_payments"] == []


# Before it is queued ------------------------------------------------------------------------------------------------


def test_a_payee_that_can_not_be_paid_is_told_before(ready: Life) -> None:
    ready.hub.known = {}
    files = ready.files()
    wrong = ((PAYEE, 5, UnknownHandle), (ready.connection.handle, 5, PaymentToSelf), (PAYEE, 10**9, NotTransferable))
    for payee, amount, error in wrong:
        with pytest.raises(error):
            api.pay(ready.session, ready.handle, payee.hex(), amount)
        with pytest.raises(error):
            api.queuepayment(ready.session, ready.handle, payee.hex(), amount)
    ready.hub.known = {PAYEE: "DEMOCOIN"}
    refused(ready, AssetMismatch)
    assert ready.files() == files
    ready.hub.known = {PAYEE: "XCP"}
    assert pay(ready)["state"] == "sent"


def test_a_connection_that_is_not_open_yet_pays_nothing(it: Life) -> None:
    it.connect()
    error = refused(it, PaymentNotSent)
    assert "not queued any more" in error.message
    assert not it.connection.queue
    api.queuepayment(it.session, it.handle, PAYEE.hex(), 100, TOKEN)
    assert "stays queued" in refused(it, PaymentNotSent).message
    assert len(it.connection.queue) == 1
    it.fund()
    assert pay(it)["state"] == "sent"
    it.close()
    refused(it, ConnectionNotOpen, token="ab")


@pytest.mark.parametrize("stored", [True, False])
def test_from_an_old_copy_one_is_told_to_close_and_what_was_not_made_becomes_refused(
    ready: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """``stored``: the hub repeats its result of another request with that number; else it refuses."""
    it = ready
    shutil.copytree(it.basedir, tmp_path / "copy")
    it.pay(7, b"later")
    put_back(it, tmp_path / "copy")
    before = it.hub.call

    def call(method: str, params: Mapping[str, Any]) -> Any:
        if method == "mph_sync" and params["counter"] <= it.hub.counter:
            if not stored:
                raise StaleRequest("The sync was overtaken.")
            return it.hub.kept[params["counter"]][1]
        return before(method, params)

    monkeypatch.setattr(it.hub, "call", call)
    for _ in range(2):
        error = refused(it, StaleRequest)
        assert error.exit_code == 4
        assert f"`picopayments-cli close {it.handle}`" in error.message
        assert "was not made" in error.message
        assert "--token" not in error.message
    it.close()
    it.settle()
    (told,) = [item for item in cast("list[dict[str, Any]]", api.payments(it.session)) if item["token"] == TOKEN]
    assert (told["state"], told["cause"]) == ("refused", "StaleRequest")


def put_back(it: Life, copy: Path) -> None:
    it.session.close()
    shutil.rmtree(it.basedir)
    shutil.copytree(copy, it.basedir)
    it.restart()

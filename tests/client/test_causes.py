"""Why connections fail: a line for each cause, and none for what the command's error says anyhow."""

from __future__ import annotations

import pytest

from picopayments_cli.channel.values import Handle
from picopayments_cli.client import causes
from picopayments_cli.errors import HubUnreachable, NotTransferable, PicopaymentsError

ONE, TWO, THREE = (Handle(bytes([number]) * 32) for number in (1, 2, 3))


def away(method: str, port: int) -> HubUnreachable:
    url = f"http://127.0.0.1:{port}/api/"
    return HubUnreachable(f"The hub at {url} did not answer {method}.", url=url, reason="refused", call=method)


def lines(caplog: pytest.LogCaptureFixture, failed: dict[Handle, PicopaymentsError], *told: PicopaymentsError) -> int:
    caplog.clear()
    causes.tell(failed, [causes.cause(error) for error in told])
    return len(caplog.messages)


def test_a_hub_that_is_away_is_one_line_whatever_it_was_asked(caplog: pytest.LogCaptureFixture) -> None:
    failed: dict[Handle, PicopaymentsError] = {ONE: away("mph_key", 1), TWO: away("mph_sync", 1)}
    assert lines(caplog, failed) == 1
    assert caplog.messages[0].startswith("connections 01010101, 02020202: The hub at")
    assert lines(caplog, {**failed, THREE: away("mph_key", 2)}) == 2
    assert lines(caplog, failed, away("mph_status", 1)) == 0


def test_what_is_another_cause_is_told(caplog: pytest.LogCaptureFixture) -> None:
    error = NotTransferable("It can't move so much.")
    assert lines(caplog, {ONE: away("mph_key", 1), TWO: error}, away("mph_key", 1)) == 1
    assert caplog.messages == [f"connection {TWO.hex()}: It can't move so much."]

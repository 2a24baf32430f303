"""A rehearsed close: what it says comes back is what the chain shows in the wallet afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from client_support import Life

from picopayments_cli import api


def returned(it: Life, kind: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Rehearse a close, and do it; what was told, and what has come into the wallet."""
    it.restart()
    told = api.close(it.session, it.handle, dry_run=True)
    before = it.held(), satoshis(it)
    it.close()
    for _ in range(80):
        it.sync()
        if it.connection.stage == "closed":
            break
        it.mine()
    assert told[f"{kind}_returns"] == {
        name: sum(item["returns"][name] for item in told[kind]) for name in told[f"{kind}_returns"]
    }
    return told, {"BTC": satoshis(it) - before[1], "XCP": it.held() - before[0]}


def satoshis(it: Life) -> int:
    """The confirmed satoshis of the wallet."""
    return sum(coin.value for coin in it.coins(it.wallet) if coin.height is not None)


@pytest.mark.parametrize(("received", "queued"), [(0, 0), (120, 0), (120, 5), (0, 5), (120, 200)])
def test_an_agreed_close_brings_what_its_rehearsal_adds_up(it: Life, received: int, queued: int) -> None:
    it.open()
    if received:
        it.receive(received)
    if queued:
        it.queue(queued)
    told, came = returned(it, "agreed")
    assert told["agreed_returns"] == came
    published = {event["kind"]: event["txid"] for event in it.told() if event["action"] == "published"}
    assert {item["kind"] for item in told["agreed"]} <= {*published}


def test_a_close_alone_brings_what_its_rehearsal_adds_up(it: Life) -> None:
    it.open()
    it.receive(120)
    it.queue(5)
    it.restart()
    it.hub.silent = True
    told, came = returned(it, "alone")
    assert told["alone_returns"] == came
    assert [item["kind"] for item in told["alone"]] == ["commit", "payout", "expire"]

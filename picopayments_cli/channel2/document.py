"""The JSON form of what two parties agreed on for a channel, alike in the client's files and the hub's database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from picopayments_cli.channel.values import Outpoint, check_quantity, from_hex
from picopayments_cli.channel2.scripts import DepositScript
from picopayments_cli.channel2.state import Channel
from picopayments_cli.channel2.terms import check_delay
from picopayments_cli.channel2.transactions import Anchor


def agreement_json(channel: Channel) -> dict[str, Any]:
    """Write deposit script, quantity, delay and anchor; commits and hashes are kept apart."""
    anchor = channel.anchor
    return {
        "script": channel.script.redeem.hex(),
        "quantity": channel.quantity,
        "delay": channel.delay,
        "anchor": [str(anchor.outpoint), anchor.value] if anchor else None,
    }


def channel_of(body: Mapping[str, Any], asset_id: int, fee_rate: int) -> Channel:
    """Read a channel without commits and hashes. Raises KeyError, TypeError, ValueError, PicopaymentsError."""
    delay = check_quantity(body["delay"], "delay")
    check_delay(delay)
    return Channel(
        asset_id,
        DepositScript.parse(from_hex(body["script"], "script")),
        check_quantity(body["quantity"]),
        delay,
        fee_rate,
        None if body["anchor"] is None else _anchor(*body["anchor"]),
    )


def _anchor(outpoint: str, value: int) -> Anchor:
    return Anchor(Outpoint.parse(outpoint), check_quantity(value, "anchor"))

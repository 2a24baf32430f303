"""The hub's page for people: network, tip, terms, how to connect, liquidity and connections, as HTML without scripts.

It is rendered once in a while, however often it is asked for.
"""

from __future__ import annotations

import hashlib
import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from picopayments_cli import __version__
from picopayments_cli.channel.counterparty import both_names
from picopayments_cli.channel.stages import AGREED, CLOSING, OPEN
from picopayments_cli.channel.wire import terms_json
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.overview import Liquidity, Overview, Overviews

EVERY_SECONDS = 5.0
URL = "@@hub_url@@"  # stands in what is kept for the URL by which it is asked for
BAR = 600  # units that a bar is wide
LEAST = 4  # of them, so that little is seen too
BINS, LEFT, WIDE, HIGH, GROUND = 12, 34, 322, 130, 150  # of the picture of expiries
STEPS = (1, 2, 5, 10, 20, 50, 100, 144, 200, 288, 432, 720, 1440, 2880, 5760)  # blocks that one bin may be wide
KINDS = ((CLOSING, "end"), (OPEN, "open"), (AGREED, "wait"))
QUANTITIES = ("deposit_min", "deposit_max", "sync_fee", "lock_base")
LABELS = {
    "deposit_min": "least deposit",
    "deposit_max": "greatest deposit",
    "deposit_ratio": "the hub deposits, for each unit of yours",
    "expire_min": "shortest life, blocks",
    "expire_max": "longest life, blocks",
    "sync_fee": "fee of a sync",
    "lock_base": "to lock the hub's deposit costs",
    "lock_rate": "and of it for each block, billionths",
    "fee_rate": "commits to the hub pay, sat/vB",
    "fee_rate_max": "commits to you pay at most, sat/vB",
}


class Page:
    """The page of one hub."""

    def __init__(self, hub: Hub, overviews: Overviews) -> None:
        self._hub = hub
        self._overviews = overviews
        folder = Path(__file__).parent / "templates"
        environment = Environment(
            loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._template = environment.get_template("page.html")
        style = hashlib.sha256(environment.get_template("page.css").render().encode()).digest()
        self.policy = (
            f"default-src 'none'; style-src 'sha256-{b64encode(style).decode()}'; img-src data:; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'"
        )
        self._rendering = threading.Lock()
        self._text: str | None = None
        self._next = float("-inf")

    def html(self, url: str) -> str:
        """Return the page as it was at most some seconds ago, for who asks at that URL. Raises DatabaseUnusable."""
        if time.monotonic() >= self._next and self._rendering.acquire(blocking=self._text is None):
            try:
                if time.monotonic() >= self._next:
                    self._text = self._template.render(self._shown(self._overviews.latest()))
                    self._next = time.monotonic() + EVERY_SECONDS
            finally:
                self._rendering.release()
        return (self._text or "").replace(URL, url)

    def _shown(self, found: Overview) -> dict[str, Any]:
        """All that the template names."""
        hub = self._hub
        network = hub.network
        flag = "" if network.name == "mainnet" else f" --{network.name}"
        return {
            "network": network.name,
            "version": __version__,
            "height": f"{found.height:,}",
            "seconds": hub.follower.seconds_since_look,
            "fresh": hub.follower.is_fresh(hub.fresh_seconds),
            "draining": hub.draining,
            "payments": f"{found.payments:,}",
            "command": f"picopayments-cli{flag} \\\n  --hub-url {URL} \\\n ",
            "assets": [self._asset(name, item) for name, item in found.liquidity.items() if hub.terms(name)],
            "stages": {stage: f"{count:,}" for stage, count in found.stages.items()},
            "days": network.block_seconds > 0,
            **picture(found.left),
        }

    def _asset(self, name: str, item: Liquidity) -> dict[str, Any]:
        terms = self._hub.terms(name)
        told = {} if terms is None else terms_json(terms)
        divisible = item.divisible
        parts = [("open", item.deposited), ("wait", item.promised), ("free", item.free)]
        texts = {kind: shown(quantity, divisible) for kind, quantity in parts}
        return {
            "name": both_names(name, item.longname),
            "command_name": item.longname or name,
            "first_deposit": int(told.get("deposit_min", 0)) or 1_000_000,
            "bar": bar(parts),
            "deposited": texts["open"],
            "promised": texts["wait"],
            "free": texts["free"] if item.held is not None else "not known yet",
            "words": f"{texts['open']} in connections, {texts['wait']} promised, {texts['free']} free",
            "terms": [(LABELS.get(key, key), _term(key, told[key], divisible)) for key in sorted(told, key=_place)],
        }


def _place(name: str) -> int:
    return list(LABELS).index(name) if name in LABELS else len(LABELS)


def _term(name: str, value: Any, divisible: bool | None) -> str:
    if name in ("deposit_max", "expire_max") and not value:
        return "no limit"
    return shown(int(value), divisible) if name in QUANTITIES else str(value)


def shown(quantity: int, divisible: bool | None) -> str:
    """A quantity as people read it: whole units where it is known how many satoshis make one."""
    if divisible is None:
        return f"{quantity:,} satoshis"
    if not divisible:
        return f"{quantity:,}"
    return f"{Decimal(quantity).scaleb(-8):,f}".rstrip("0").rstrip(".")


def bar(parts: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """The pieces of a bar, from the left, each as wide as its share; nothing where there is nothing."""
    there = [(kind, quantity) for kind, quantity in parts if quantity > 0]
    total = sum(quantity for _, quantity in there)
    wide = BAR - LEAST * len(there)
    pieces: list[dict[str, Any]] = []
    at = 0.0
    for kind, quantity in there:
        width = LEAST + wide * quantity / total
        pieces.append({"kind": kind, "x": round(at, 1), "width": round(width, 1)})
        at += width
    return pieces


def picture(left: Mapping[tuple[str, int], int]) -> dict[str, Any]:
    """The bars of connections by blocks to their expiry, stacked by stage; none where there are no connections."""
    if not left:
        return {"bins": [], "ticks": [], "most": "0"}
    longest = max(blocks for _, blocks in left)
    step = next((step for step in STEPS if step * BINS > longest), STEPS[-1])
    counts = [dict.fromkeys((stage for stage, _ in KINDS), 0) for _ in range(BINS)]
    for (stage, blocks), count in left.items():
        counts[min(blocks // step, BINS - 1)][stage] += count
    most = max(sum(each.values()) for each in counts)
    width = WIDE / BINS
    bins = [
        {"x": round(LEFT + number * width + 1, 1), "width": round(width - 2, 1), "parts": _stack(each, most)}
        for number, each in enumerate(counts)
    ]
    ticks = [
        {
            "x": round(LEFT + number * width, 1),
            "blocks": f"{number * step:,}",
            "anchor": "end" if number == BINS else "middle",
        }
        for number in range(0, BINS + 1, 3)
    ]
    return {"bins": bins, "ticks": ticks, "most": f"{most:,}"}


def _stack(counts: Mapping[str, int], most: int) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    top = float(GROUND)
    for stage, kind in KINDS:
        if counts[stage]:
            height = max(HIGH * counts[stage] / most, 1.0)
            top -= height
            parts.append({"kind": kind, "y": round(top, 1), "height": round(height, 1)})
    return parts

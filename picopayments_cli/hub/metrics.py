"""Count what the hub does, and show its state in the form that Prometheus reads.

No label has a value that strangers choose: methods, stages, errors and log events are the program's own, and assets are
those that the operator offers.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.overview import Overview, Overviews
from picopayments_cli.web import Refused

OK = "ok"
FAULT = "InternalError"
OTHER = "other"
MOST_EVENTS = 100
COUNTED_IN = "PROMETHEUS_MULTIPROC_DIR"  # names the folder where several processes count together
_EVENT = re.compile("[a-z][a-z ,:']{0,79}")
_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class Metrics(Collector):
    """The figures of one hub, counted since it started, by all of its processes on this machine."""

    def __init__(self, hub: Hub, overviews: Overviews) -> None:
        self._hub = hub
        self._overviews = overviews
        self._registry = CollectorRegistry()
        self._calls = Counter(
            "picopayments_calls", "Calls answered: ok, or the refusal", ("method", "outcome"), registry=self._registry
        )
        self._events = Counter(
            "picopayments_log_events", "Warnings and errors in the log", ("level", "event"), registry=self._registry
        )
        self.rounds = Histogram(
            "picopayments_round_seconds", "Time that a round takes", buckets=_BUCKETS, registry=self._registry
        )
        self._known: set[str] = set()
        self._shown = CollectorRegistry() if COUNTED_IN in os.environ else self._registry
        if self._shown is not self._registry:
            MultiProcessCollector(self._shown)  # type: ignore[no-untyped-call]
        self._shown.register(self)

    def text(self) -> bytes:
        """Write all of it as Prometheus reads it."""
        return bytes(generate_latest(self._shown))

    # Counting -------------------------------------------------------------------------------------------------------

    def counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, whose calls are counted by their outcome."""

        @wraps(method)
        def called(*args: Any, **kwargs: Any) -> Any:
            try:
                result = method(*args, **kwargs)
            except Exception as error:
                self._count(name, _name_of(error))
                raise
            if inspect.isawaitable(result):
                return self._awaited(name, result)
            self._count(name, _outcome(result))
            return result

        return called

    async def _awaited(self, name: str, result: Awaitable[Any]) -> Any:
        try:
            found = await result
        except Exception as error:
            self._count(name, _name_of(error))
            raise
        self._count(name, _outcome(found))
        return found

    def _count(self, method: str, outcome: str) -> None:
        self._calls.labels(method, outcome).inc()

    @contextmanager
    def counting_events(self) -> Iterator[None]:
        """Count the log's warnings and errors, by what each says, for the length of a ``with`` block."""
        handler = _Handler(self._event)
        logger = logging.getLogger("picopayments_cli")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    def _event(self, level: str, event: str) -> None:
        if event not in self._known:
            if not _EVENT.fullmatch(event) or len(self._known) >= MOST_EVENTS:
                event = OTHER
            self._known.add(event)
        self._events.labels(level, event).inc()

    # Showing --------------------------------------------------------------------------------------------------------

    def describe(self) -> list[Metric]:
        """Tell nothing before the first reading: names are fixed below."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Show the hub as it is now; of a database that can't be read nothing."""
        follower = self._hub.follower
        yield _gauge("tip_height", "Height of the last block read", follower.height or 0)
        yield _gauge("seconds_since_look", "Since the chain was seen whole", time.monotonic() - follower.seen_at)
        yield _gauge("draining", "1 while the hub takes no new connections", int(self._hub.draining))
        try:
            found = self._overviews.latest()
        except PicopaymentsError:
            return
        yield from _states(found)
        booked = CounterMetricFamily("picopayments_payments", "Payments booked, ever")
        booked.add_metric([], found.payments)
        yield booked
        yield _gauge("fee_rate", "sat/vB that the hub believes in", found.rate)
        yield _gauge("coins", "Confirmed coins of the wallet", found.coins.count)
        yield _gauge("coins_satoshis", "Satoshis in them", found.coins.satoshis)
        yield _gauge("reserve_coins", "Coins that the reserve needs", found.coins.reserve.coins)
        yield _gauge("reserve_missing_coins", "Coins that it lacks", found.coins.missing)


def _states(found: Overview) -> Iterator[Metric]:
    stages = GaugeMetricFamily("picopayments_connections", "Connections by stage", labels=("stage",))
    for stage, count in found.stages.items():
        stages.add_metric((stage,), count)
    yield stages
    liquidity = GaugeMetricFamily("picopayments_liquidity", "The hub's own, in satoshis", labels=("asset", "state"))
    for asset, item in found.liquidity.items():
        for state, quantity in (("free", item.free), ("promised", item.promised), ("deposited", item.deposited)):
            liquidity.add_metric((item.longname or asset, state), quantity)
    yield liquidity
    left = GaugeMetricFamily("picopayments_least_blocks_left", "To the nearest expiry", labels=("stage",))
    for stage in {stage for stage, _ in found.left}:
        left.add_metric((stage,), min(blocks for of, blocks in found.left if of == stage))
    yield left


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"picopayments_{name}", text, value=value)


def _name_of(error: Exception) -> str:
    return error.name if isinstance(error, PicopaymentsError) else FAULT


def _outcome(result: Any) -> str:
    return str(result.details.get("type", FAULT)) if isinstance(result, Refused) else OK


class _Handler(logging.Handler):
    """Tells of each warning and error that is logged."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Tell of one, by its text without values."""
        self._tell(record.levelname.lower(), str(record.msg))

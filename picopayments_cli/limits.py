"""Bound what one client address asks of a server: calls, bytes both ways and work by the second, so much at a time."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_V6_PREFIX = 64  # what a network gives to one customer
MOST_WORK = 20.0  # seconds that one call is charged: a node that is silent for longer is not its asker's fault


@dataclass(frozen=True)
class Limits:
    """Of each address by the second, and ``burst`` seconds' worth at once.

    ``size``: bytes of requests; ``sent``: bytes of answers; ``work``: seconds that the server takes to answer.
    ``open_requests``: how many may be under way; ``addresses``: how many are remembered, the latest seen.
    """

    calls: float = 100.0
    size: float = 1_000_000.0
    sent: float = 500_000.0  # 30 MB a minute
    work: float = 0.25  # a quarter of a core, or of a node
    burst: float = 20.0
    open_requests: int = 20
    addresses: int = 10_000


class TooMuch(Exception):
    """An address asks more than it may; in ``seconds`` it may go on."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Too much is asked from this address: wait {seconds:.0f} s, and ask less at a time.")
        self.seconds = seconds


@dataclass
class Spending:
    """The rest that an address has left; called with what a request costs. This machine's own are not counted."""

    limits: Limits
    filled: float = 0.0  # when
    counted: bool = True
    open_requests: int = 0
    calls: float = field(init=False)
    size: float = field(init=False)
    sent: float = field(init=False)
    work: float = field(init=False)

    def __post_init__(self) -> None:
        for name in _MEASURES:
            setattr(self, name, getattr(self.limits, name) * self.limits.burst)

    def __call__(self, calls: int = 0, size: int = 0, sent: int = 0, work: float = 0.0) -> None:
        """Take off what something costs."""
        if self.counted:
            self.calls -= calls
            self.size -= size
            self.sent -= sent
            self.work -= min(work, MOST_WORK)

    def fill(self, now: float) -> None:
        """Add what the time since has brought."""
        passed, self.filled = now - self.filled, now
        for name in _MEASURES:
            rate = getattr(self.limits, name)
            setattr(self, name, min(getattr(self, name) + passed * rate, rate * self.limits.burst))

    @property
    def wait(self) -> float:
        """The seconds until another request may come; none, or less, where one may."""
        return max((1 - self.calls) / self.limits.calls, -self.size / self.limits.size, self.owed)

    @property
    def owed(self) -> float:
        """The seconds until what requests under way have cost is paid back: they are answered no further till then."""
        return max(-self.sent / self.limits.sent, -self.work / self.limits.work)


_MEASURES = ("calls", "size", "sent", "work")
UNCOUNTED = Spending(Limits(), counted=False)


class Limiter:
    """A leaking bucket of each measure for each address. Calls of this machine itself are its owner's, and not counted.

    A bucket may be overdrawn once, so that no single call is too large for it; it is closed until it is paid back.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._buckets: OrderedDict[str, Spending] = OrderedDict()

    @contextmanager
    def request(self, address: str | None) -> Iterator[Spending]:
        """Hold a request under way; what is yielded is told what it costs. Raises TooMuch."""
        name = party(address)
        if name is None:
            yield UNCOUNTED
            return
        bucket = self._bucket(name)
        if bucket.open_requests >= self._limits.open_requests:
            raise TooMuch(1.0)
        if bucket.wait > 0:
            raise TooMuch(bucket.wait + 1)
        bucket.open_requests += 1
        try:
            yield bucket
        finally:
            bucket.open_requests -= 1

    def _bucket(self, name: str) -> Spending:
        """Return an address's bucket, filled; the one not seen for longest makes room for a new one."""
        bucket = self._buckets.setdefault(name, Spending(self._limits, self._clock()))
        self._buckets.move_to_end(name)
        if len(self._buckets) > self._limits.addresses:
            self._buckets.popitem(last=False)
        bucket.fill(self._clock())
        return bucket


def party(address: str | None) -> str | None:
    """Return what an address is counted by: an IPv6 one by its network; None for this machine's own."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return address or None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if str(parsed) in ("127.0.0.1", "::1"):
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(parsed), _V6_PREFIX), strict=False))
    return str(parsed)

"""Bound what one client address asks of a server: requests and bytes by the second, and how much at a time."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_V6_PREFIX = 64  # what a network gives to one customer


@dataclass(frozen=True)
class Limits:
    """Of each address: ``calls`` and ``size`` (bytes of requests) by the second, ``burst`` seconds' worth at once.

    ``open_requests``: how many may be under way; ``addresses``: how many are remembered, the latest seen.
    """

    calls: float = 100.0
    size: float = 1_000_000.0
    burst: float = 20.0
    open_requests: int = 20
    addresses: int = 10_000


class TooMuch(Exception):
    """An address asks more than it may; in ``seconds`` it may go on."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Too much is asked from this address: wait {seconds:.0f} s, and ask less at a time.")
        self.seconds = seconds


@dataclass
class _Bucket:
    calls: float
    size: float
    filled: float  # when
    open_requests: int = 0


class Limiter:
    """Two leaking buckets for each address. What this machine itself asks is its owner's, and not counted.

    A bucket may be overdrawn once, so that no single request is too large for it; it is closed until it is paid back.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    @contextmanager
    def request(self, address: str | None) -> Iterator[Callable[[int, int], None]]:
        """Hold a request under way; what is yielded is told the calls and the bytes in it. Raises TooMuch."""
        name = party(address)
        if name is None:
            yield _uncounted
            return
        bucket = self._bucket(name)
        if bucket.open_requests >= self._limits.open_requests:
            raise TooMuch(1.0)
        self._check(bucket)
        bucket.open_requests += 1

        def spend(calls: int, size: int) -> None:
            bucket.calls -= calls
            bucket.size -= size

        try:
            yield spend
        finally:
            bucket.open_requests -= 1

    def _bucket(self, name: str) -> _Bucket:
        """Return an address's bucket, filled; the one not seen for longest makes room for a new one."""
        limits = self._limits
        full = _Bucket(limits.calls * limits.burst, limits.size * limits.burst, self._clock())
        bucket = self._buckets.setdefault(name, full)
        self._buckets.move_to_end(name)
        if len(self._buckets) > limits.addresses:
            self._buckets.popitem(last=False)
        self._fill(bucket)
        return bucket

    def _fill(self, bucket: _Bucket) -> None:
        limits, now = self._limits, self._clock()
        passed = now - bucket.filled
        bucket.calls = min(bucket.calls + passed * limits.calls, limits.calls * limits.burst)
        bucket.size = min(bucket.size + passed * limits.size, limits.size * limits.burst)
        bucket.filled = now

    def _check(self, bucket: _Bucket) -> None:
        wait = max((1 - bucket.calls) / self._limits.calls, -bucket.size / self._limits.size)
        if wait > 0:
            raise TooMuch(wait + 1)


def _uncounted(_calls: int, _size: int) -> None:
    return


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

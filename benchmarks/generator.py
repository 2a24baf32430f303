"""The load generator, a process of its own: sends syncs that were signed beforehand, and times the replies.

It reads plans, one JSON object a line, from stdin and answers each with one line on stdout. A plan names the hub, the
lanes (each a list of exchanges [request, result]), ``seconds``, and ``rate``: syncs a second in all, at random
instants, or null for as many as the hub takes. Each lane has its own kept-alive HTTP connection, and sends its next
sync when the last is answered. At a given rate the latency counts from the instant at which a sync was due, so a
reply that holds up the next ones is not forgotten. Every reply must be the rehearsed one, byte for byte.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any
from urllib.parse import urlsplit


class Lane:
    """One HTTP connection and the syncs that go over it."""

    def __init__(self, url: str, exchanges: list[list[str]]) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        self._requests = [
            f"{head}Content-Length: {len(request)}\r\n\r\n{request}".encode() for request, _ in exchanges
        ]
        self._results = [result for _, result in exchanges]
        self.replies: list[bytes] = []

    @property
    def is_done(self) -> bool:
        return len(self.replies) == len(self._requests)

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def send_next(self) -> None:
        self._writer.write(self._requests[len(self.replies)])
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        self.replies.append(await self._reader.readexactly(length))

    def check(self) -> None:
        """Compare what the hub answered with what was rehearsed."""
        self._writer.close()
        for reply, result in zip(self.replies, self._results, strict=False):
            if not reply.startswith(f'{{"result":{result},"id":'.encode()):
                raise SystemExit(f"The hub answered something else than rehearsed: {reply[:300]!r}")


async def _saturate(lanes: list[Lane], seconds: float) -> list[float]:
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def run(lane: Lane) -> None:
        while not lane.is_done and (begun := time.perf_counter()) < end:
            await lane.send_next()
            latencies.append(time.perf_counter() - begun)

    await asyncio.gather(*(run(lane) for lane in lanes))
    return latencies


async def _at_rate(lanes: list[Lane], seconds: float, rate: float, draw: random.Random) -> list[float]:
    latencies: list[float] = []
    due: list[list[float]] = [[] for _ in lanes]
    instant, number = 0.0, 0
    while (instant := instant + draw.expovariate(rate)) < seconds:
        due[number % len(lanes)].append(instant)
        number += 1
    begun = time.perf_counter()

    async def run(lane: Lane, instants: list[float]) -> None:
        for when in instants:
            if lane.is_done:
                return
            await asyncio.sleep(max(begun + when - time.perf_counter(), 0))
            await lane.send_next()
            latencies.append(time.perf_counter() - begun - when)

    await asyncio.gather(*(run(lane, instants) for lane, instants in zip(lanes, due, strict=True)))
    return latencies


async def _carry_out(plan: dict[str, Any]) -> dict[str, Any]:
    lanes = [Lane(plan["url"], exchanges) for exchanges in plan["lanes"]]
    for lane in lanes:
        await lane.open()
    begun = time.perf_counter()
    if plan["rate"] is None:
        latencies = await _saturate(lanes, plan["seconds"])
    else:
        latencies = await _at_rate(lanes, plan["seconds"], plan["rate"], random.Random(plan["seed"]))
    elapsed = time.perf_counter() - begun
    for lane in lanes:
        lane.check()
    return {"elapsed": elapsed, "latencies": latencies, "done": [len(lane.replies) for lane in lanes]}


def main() -> None:
    """Carry out plans until stdin ends."""
    for line in sys.stdin:
        print(json.dumps(asyncio.run(_carry_out(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()

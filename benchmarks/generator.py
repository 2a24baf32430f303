"""The load generator, a process of its own: clients that sync over HTTP, and the times of the hub's replies.

``generator.py PARTIES`` takes its clients from a pickle, prepares a sync for each, and reads plans, one JSON object a
line, from stdin; each is answered with one line on stdout. A client's next sync is made as soon as its last reply is
taken, so what is sent when the clock runs is signed already. Whoever has rested longest goes next.

A plan names ``parties`` (indices of those that sync and pay each other), ``seconds``, and how: ``rate``, syncs a second
at random instants, the latency counted from the instant at which a sync was due, so that a reply which holds up the
next ones is not forgotten; or no ``rate``: as many as the hub takes from ``workers`` HTTP connections.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import random
import sys
import time
from collections import deque
from typing import Any
from urllib.parse import urlsplit

from party import Party, request_text


class Wire:
    """One HTTP connection, kept alive."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname, parts.port
        self._head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(*self._address)

    def close(self) -> None:
        self._writer.close()

    async def post(self, text: str) -> Any:
        """The result in the reply."""
        self._writer.write(f"{self._head}Content-Length: {len(text)}\r\n\r\n{text}".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        return await self._reader.readexactly(length)


class Clients:
    """The parties of one plan, those ready to sync in the order of their last sync."""

    def __init__(self, parties: list[Party], draw: random.Random) -> None:
        self._handles = [party.handle for party in parties]
        self._draw = draw
        self._ready = deque((party, self._prepared(party)) for party in parties)
        self.latencies: list[float] = []

    def _prepared(self, party: Party) -> str:
        return request_text(party.prepare_mixed(self._handles, self._draw), 0)

    async def sync(self, wire: Wire, due: float | None = None) -> None:
        """The next party's sync."""
        while not self._ready:
            await asyncio.sleep(0.001)
        party, text = self._ready.popleft()
        begun = time.perf_counter() if due is None else due
        reply = await wire.post(text)
        self.latencies.append(time.perf_counter() - begun)
        answer = json.loads(reply)
        if "error" in answer:
            raise RuntimeError(f"The hub refused: {answer['error']}")
        party.settle(answer["result"])
        self._ready.append((party, self._prepared(party)))

    async def finish(self, wire: Wire) -> None:
        """Send what is prepared, so that the parties may be used again."""
        while self._ready:
            party, text = self._ready.popleft()
            party.settle(json.loads(await wire.post(text))["result"])


async def _saturate(clients: Clients, wires: list[Wire], seconds: float) -> None:
    end = time.perf_counter() + seconds

    async def work(wire: Wire) -> None:
        while time.perf_counter() < end:
            await clients.sync(wire)

    await asyncio.gather(*(work(wire) for wire in wires))


async def _at_rate(clients: Clients, wires: list[Wire], seconds: float, rate: float, draw: random.Random) -> None:
    free: asyncio.Queue[Wire] = asyncio.Queue()
    for wire in wires:
        free.put_nowait(wire)

    async def one(due: float) -> None:
        wire = await free.get()
        await clients.sync(wire, due)
        free.put_nowait(wire)

    begun = due = time.perf_counter()
    tasks = []
    while (due := due + draw.expovariate(rate)) < begun + seconds:
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)


async def _carry_out(plan: dict[str, Any], everybody: list[Party]) -> dict[str, Any]:
    draw = random.Random(plan["seed"])
    clients = Clients([everybody[number] for number in plan["parties"]], draw)
    wires = [Wire(plan["url"]) for _ in range(plan["workers"])]
    for wire in wires:
        await wire.open()
    begun, cpu = time.perf_counter(), time.process_time()
    if "rate" in plan:
        await _at_rate(clients, wires, plan["seconds"], plan["rate"], draw)
    else:
        await _saturate(clients, wires, plan["seconds"])
    elapsed, used = time.perf_counter() - begun, time.process_time() - cpu
    await clients.finish(wires[0])
    for wire in wires:
        wire.close()
    return {"elapsed": elapsed, "cpu_share": round(used / elapsed, 2), "latencies": clients.latencies}


def main() -> None:
    """Carry out plans until stdin ends."""
    with open(sys.argv[1], "rb") as file:
        everybody = pickle.load(file)
    for line in sys.stdin:
        print(json.dumps(asyncio.run(_carry_out(json.loads(line), everybody))), flush=True)


if __name__ == "__main__":
    main()

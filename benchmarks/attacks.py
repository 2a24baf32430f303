"""All attacks that have a name at once, from many addresses, and what an honest client's sync and the hub's memory do.

``python benchmarks/attacks.py [--seconds N] [--addresses N]`` prints one JSON document. The attackers are processes of
their own; on few cores their work is in the honest client's seconds, too. ``kinds`` counts what the hub answered each
attack by HTTP status, 0 where it cut the connection off.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import random
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import requests
from hub_process import HubProcess, running_hub
from opening import NETWORK, open_connections
from party import Party, request_text

from picopayments_cli.channel import envelope
from picopayments_cli.channel.counterparty import p2pkh
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.messages import ConnectRequest
from picopayments_cli.channel.networks import address_of_script
from picopayments_cli.channel.opening import Party as Side
from picopayments_cli.channel.values import Handle
from picopayments_cli.channel.waiting import WaitingRequest

BATCH = 1000  # calls
QUESTIONS = ("get_unspent_txouts", "search_raw_transactions", "get_sends", "get_balances", "get_asset_info")
PAUSE = 0.2  # between two syncs of the honest client
ATTACKERS = 2  # processes
WAIT = 60.0

Attack = Callable[[str, str, random.Random, list[Party]], int]  # the hub's URL, an address; the HTTP status


def _posted(url: str, address: str, body: Any, timeout: float = WAIT) -> int:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"X-Forwarded-For": address, "Connection": "close"}
    try:
        with requests.post(url, data=data, headers=headers, timeout=timeout) as response:
            return response.status_code
    except requests.RequestException:
        return 0


def _calls(method: str, *params: Any) -> list[dict[str, Any]]:
    return [{"jsonrpc": "2.0", "id": n, "method": method, "params": item} for n, item in enumerate(params)]


def _statuses(draw: random.Random) -> list[dict[str, Any]]:
    """A thousand calls with large answers, none like another."""
    return _calls("mph_status", *({"handles": [draw.randbytes(32).hex()]} for _ in range(BATCH)))


def large_answers(url: str, address: str, draw: random.Random, _parties: list[Party]) -> int:
    """Ask for much at a time."""
    return _posted(url, address, _statuses(draw))


def unread_answers(url: str, address: str, draw: random.Random, _parties: list[Party]) -> int:
    """Ask for much at a time, and do not read it."""
    data = json.dumps(_statuses(draw)).encode()
    with _connected(url) as there:
        head = f"POST /api/ HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\nContent-Length: {len(data)}\r\n\r\n"
        there.sendall(head.encode() + data)
        time.sleep(15)
    return 0


def proxied(url: str, address: str, draw: random.Random, _parties: list[Party]) -> int:
    """Have the hub ask its nodes a thousand questions, each about another address."""
    items = []
    for _ in range(BATCH):
        at, method = str(address_of_script(NETWORK, p2pkh(draw.randbytes(20)))), draw.choice(QUESTIONS)
        by = {"field": "destination" if method == "get_sends" else "address", "op": "==", "value": at}
        asked = {"assets": [f"A{draw.randrange(10**17, 10**18)}"]} if method == "get_asset_info" else {"filters": [by]}
        items += _calls(method, {"address": at} if "_unspent_" in method or "_raw_" in method else asked)
    return _posted(url, address, items)


def proofs(url: str, address: str, draw: random.Random, _parties: list[Party]) -> int:
    """Have the hub sign a thousand times."""
    bodies = ({"protocol": 3, "nonce": draw.randbytes(32).hex()} for _ in range(BATCH))
    return _posted(url, address, _calls("mph_key", *bodies))


def lists(url: str, address: str, _draw: random.Random, _parties: list[Party]) -> int:
    """Send a megabyte of JSON, as many values as a request may have and of nothing but digits."""
    return _posted(url, address, b"[" + b",".join([b"1" * 48] * 19_000) + b"]")


def many_payments(url: str, address: str, draw: random.Random, parties: list[Party]) -> int:
    """Send a sync of a thousand payments, and another one of the same state; the hub takes one of them."""
    payer, payee = draw.sample(parties, 2)
    body = copy.deepcopy(payer).prepare([payee.handle] * BATCH, 1, draw)
    return _posted(url, address, request_text(body, 1).encode())


def strangers(url: str, address: str, draw: random.Random, parties: list[Party]) -> int:
    """Ask for a hundred connections, and never deposit."""
    bodies, use = [], envelope.asking("mph_request", parties[0].hub)
    for _ in range(100):
        key = Key(draw.randbytes(32))
        secrets = Secrets(key, draw.randbytes(16))
        side = Side(secrets.payer.xonly, secrets.payee.xonly, p2pkh(key.pubkey_hash))
        bodies.append(envelope.seal(key, ConnectRequest("XCP", side, secrets.salt).as_json(), use))
    return _posted(url, address, _calls("mph_request", *bodies))


def waiting(url: str, address: str, draw: random.Random, parties: list[Party]) -> int:
    """Wait for what never comes."""
    body = WaitingRequest(draw.randbytes(32), (Handle(draw.randbytes(32)),), 30).as_json()
    sealed = envelope.seal(Key(draw.randbytes(32)), body, envelope.asking("mph_waiting", parties[0].hub))
    return _posted(url, address, _calls("mph_waiting", sealed)[0])


def half_requests(url: str, _address: str, draw: random.Random, _parties: list[Party]) -> int:
    """Begin a request and leave it so, or send what is none."""
    said = draw.choice(
        (b"POST /api/ HTTP/1.1\r\nContent-Length: 900000\r\n\r\n" + bytes(500_000), b"POST", b"\x16\x03\r\n")
    )
    with _connected(url) as there:
        there.sendall(said)
        time.sleep(5)
    return 0


def _connected(url: str) -> socket.socket:
    at = urlsplit(url)
    return socket.create_connection((at.hostname or "", at.port or 0), WAIT)


KINDS: tuple[Attack, ...] = (
    *(large_answers, unread_answers, proxied, proofs, lists),
    *(many_payments, strangers, waiting, half_requests),
)


def attack(url: str, number: int, addresses: int, seconds: float, told: Any, parties: list[Party]) -> None:
    """Carry all attacks out, each from many addresses, for so long: one process."""
    end, counts = time.monotonic() + seconds, {kind.__name__: Counter[int]() for kind in KINDS}

    def go_on(kind: Attack, address: str) -> None:
        draw = random.Random(f"{kind.__name__} {address}")
        while time.monotonic() < end:
            try:
                status = kind(url, address, draw, parties)
            except OSError:
                status = 0
            counts[kind.__name__][status] += 1
            time.sleep(0.05)

    threads = [
        Thread(target=go_on, args=(kind, f"198.51.{100 + number}.{place + 1}"), daemon=True)
        for kind in KINDS
        for place in range(addresses)
    ]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    told.put({name: dict(found) for name, found in counts.items()})


def sync_for(hub: HubProcess, party: Party, seconds: float) -> dict[str, Any]:
    """Have an honest client sync again and again; how long that took, and what refused it in between."""
    session, draw, times, refused = requests.Session(), random.Random(1), [], Counter[str]()
    end, headers = time.monotonic() + seconds, {"X-Forwarded-For": "192.0.2.1"}
    while time.monotonic() < end:
        body = request_text(party.prepare([], 1, draw), 1)
        begun = time.monotonic()
        while "result" not in (reply := _answer(session, hub.url, body, headers)):
            refused[str(reply)[:200]] += 1
            time.sleep(PAUSE)
        times.append(time.monotonic() - begun)
        party.settle(reply["result"])
        time.sleep(PAUSE)
    ordered = sorted(times)
    return {
        "syncs": len(ordered),
        "median_seconds": round(ordered[len(ordered) // 2], 3),
        "slowest_seconds": round(ordered[-1], 3),
        "refused": dict(refused),
        "hub_cpu_seconds": hub.cpu_seconds(),
        "memory_mb": hub.memory_mb(),
        "load": os.getloadavg()[0],
    }


def _answer(session: requests.Session, url: str, body: str, headers: dict[str, str]) -> dict[str, Any]:
    try:
        response = session.post(url, data=body, headers=headers, timeout=WAIT)
        found = response.json()
    except (requests.RequestException, ValueError) as error:
        return {"no answer": type(error).__name__}
    return {"result": found["result"]} if "result" in found else {"status": response.status_code, **found}


def measure(base: Path, seconds: float, addresses: int) -> dict[str, Any]:
    """Open connections, sync for a while undisturbed, then under attack, then again."""
    with running_hub(base / "hub", "--block-time", "0") as hub:
        parties = open_connections(hub, 6)
        honest, others = parties[0], parties[1:]
        before = sync_for(hub, honest, seconds / 4)
        context = multiprocessing.get_context("spawn")
        told = context.Queue()
        each = max(addresses // ATTACKERS, 1)
        jobs = [
            context.Process(target=attack, args=(hub.url, number, each, seconds, told, others), daemon=True)
            for number in range(ATTACKERS)
        ]
        for job in jobs:
            job.start()
        during = sync_for(hub, honest, seconds)
        found = [told.get(timeout=WAIT) for _ in jobs]
        for job in jobs:
            job.terminate()
            job.join()
        time.sleep(20)  # until those who do not read are cut off
        after = sync_for(hub, honest, seconds / 4)
        kinds = {kind.__name__: dict(sum((Counter(one[kind.__name__]) for one in found), Counter())) for kind in KINDS}
    return {"before": before, "under_attack": during, "after": after, "kinds": kinds}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Attack a hub, and print one JSON document.", allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the attack (default: %(default)s)")
    parser.add_argument("--addresses", type=int, default=20, help="of each attack (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="picopayments-attacks-") as folder:
        print(json.dumps(measure(Path(folder), args.seconds, args.addresses), indent=2))


if __name__ == "__main__":
    main()

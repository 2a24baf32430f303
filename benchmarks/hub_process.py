"""A hub on regtest as a process of its own, connections opened with it, and what the kernel says of its use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from picopayments_cli import api
from picopayments_cli.client.record import Connection
from picopayments_cli.rpc import RpcClient

ASSET = "XCP"
DEPOSIT = 50_000_000
EXPIRE = 8000  # blocks; many are mined while connections are opened
OPEN_SECONDS = 60.0


@dataclass(frozen=True)
class HubProcess:
    """A running hub: its URL and process id."""

    url: str
    pid: int

    def cpu_seconds(self) -> float:
        """Processor time that the hub has used, without its node."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> dict[str, float]:
        """Resident memory now and at its peak, in MB (10^6 bytes)."""
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return {name: round(int(lines[key].split()[0]) * 1.024e-3, 1) for name, key in _MEMORY.items()}


_MEMORY = {"now": "VmRSS", "peak": "VmHWM"}


@contextmanager
def running_hub(basedir: Path) -> Iterator[HubProcess]:
    """A hub with its regtest node on free ports, stopped at the end; its log goes to ``hub.log`` in the basedir."""
    basedir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "picopayments_cli.hub.cli", "--regtest", "--port", "0", "--node-port", "0"]
    with open(basedir / "hub.log", "a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*command, "--basedir", str(basedir)], stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise RuntimeError(f"The hub did not start: {basedir / 'hub.log'} says why.")
        yield HubProcess(json.loads(line)["hub_url"], process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def open_connections(url: str, basedir: Path, count: int) -> None:
    """Open connections of one new wallet, by the client's own code."""
    with api.open_session("regtest", str(basedir), url, {}) as session:
        api.faucet(session)
        for _ in range(count):
            api.connect(session, ASSET, DEPOSIT, EXPIRE)


def wait_until_open(url: str, count: int) -> None:
    """Mine until the hub shows that many connections as open."""
    hub = RpcClient(url)
    deadline = time.monotonic() + OPEN_SECONDS
    while True:
        shown = hub.call("mph_status", {}, retry=True)["connections"].values()
        if sum(item["status"] == "open" for item in shown) >= count:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"Of {count} connections only {len(shown)} are open after {OPEN_SECONDS:g} s.")
        hub.call("generate", {"blocks": 1}, retry=False)
        time.sleep(0.2)


def opened_connections(url: str, basedir: Path) -> tuple[bytes, list[Connection]]:
    """The wallet's private key, and its connections with the hub's deposits as the chain shows them."""
    from picopayments_cli.client import connection as life

    with api.open_session("regtest", str(basedir), url, {}) as session:
        known = list(session.connections().values())
        look = session.look(known)
        held = [look.held(session.address(item.duplex.receiving), item.asset) for item in known]
        seen = [
            life.observe(session, item, look.facts[item.handle], quantity)
            for item, quantity in zip(known, held, strict=True)
        ]
        return session.wallet.key.secret, seen

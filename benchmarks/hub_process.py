"""A hub on regtest as a process of its own, and what the kernel says of its use."""

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

from picopayments_cli.rpc import RpcClient

OPEN_SECONDS = 120.0
_MEMORY = {"now": "VmRSS", "peak": "VmHWM"}


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

    def cpu_share(self, seconds: float) -> float:
        """The share of one core that it uses in the next seconds."""
        before, begun = self.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        return round((self.cpu_seconds() - before) / (time.monotonic() - begun), 3)

    def wait_until_open(self, count: int) -> None:
        """Mine until that many connections are open."""
        hub = RpcClient(self.url)
        deadline = time.monotonic() + OPEN_SECONDS
        while True:
            are_open = hub.call("mph_status", {}, retry=True)["totals"]["open"]
            if are_open >= count:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"Of {count} connections {are_open} are open after {OPEN_SECONDS:g} s.")
            hub.call("generate", {"blocks": 1}, retry=False)
            time.sleep(0.3)


@contextmanager
def running_hub(basedir: Path, *options: str) -> Iterator[HubProcess]:
    """A hub with its regtest node on free ports, stopped at the end; its log goes to ``hub.log`` in the basedir."""
    basedir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "picopayments_cli.hub.cli", "--regtest", "--port", "0", "--node-port", "0"]
    with open(basedir / "hub.log", "a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*command, "--basedir", str(basedir), *options], stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise RuntimeError(f"The hub did not start: {(basedir / 'hub.log').read_text()[-2000:]}")
        yield HubProcess(json.loads(line)["hub_url"], process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)

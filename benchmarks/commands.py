"""Commands as processes: what they ask of the hub, how long they take, and how soon they start."""

from __future__ import annotations

import http.client
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hub_process import running_hub

from picopayments_cli import api

CLI = [sys.executable, "-m", "picopayments_cli"]
BARE = [sys.executable, "-c", "import argparse, json"]
RUNS = 5
START_RUNS = 25


class Counter:
    """A proxy in front of a hub that counts the HTTP requests going through it."""

    def __init__(self, target: str) -> None:
        self.count = 0
        parts = urlsplit(target)
        counter = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1  # head and body leave together

            def do_POST(self) -> None:
                counter.count += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                onward = http.client.HTTPConnection(parts.netloc)
                onward.request("POST", self.path, body, {"Content-Type": "application/json"})
                answer = onward.getresponse()
                data = answer.read()
                onward.close()
                self.send_response(answer.status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}{parts.path}"

    @contextmanager
    def running(self) -> Iterator[Counter]:
        """Serve in a thread."""
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def measure(base: Path) -> dict[str, Any]:
    """Round trips with a hub of its own, and starts."""
    return {"round_trips": _round_trips(base), "start": _starts()}


def _round_trips(base: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    opened = 0
    with running_hub(base / "hub") as hub, Counter(hub.url).running() as counter:
        for count in (1, 5):
            basedir = base / f"with_{count}"
            with api.open_session("regtest", str(basedir), counter.url, {}) as session:
                api.faucet(session)
                for _ in range(count):
                    api.connect(session, "XCP", 1_000_000)
            opened += count
            hub.wait_until_open(opened)
            config = [*CLI, "--regtest", "--basedir", str(basedir), "--hub-url", counter.url]
            results[f"connections_{count}"] = {
                command: _command([*config, command], counter) for command in ("status", "sync")
            }
    return results


def _command(command: list[str], counter: Counter) -> dict[str, Any]:
    requests, times = set(), []
    for _ in range(RUNS):
        before = counter.count
        times.append(_seconds(command))
        requests.add(counter.count - before)
    return {"requests": max(requests), "ms": round(statistics.median(times) * 1000, 1)}


def _starts() -> dict[str, Any]:
    """By turns, so that what else the machine does is the same for all."""
    asked = {"bare": BARE, "version": [*CLI, "version"], "help": [*CLI, "--help"]}
    times: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(START_RUNS):
        for name, command in asked.items():
            times[name].append(_seconds(command))
    medians = {name: statistics.median(found) * 1000 for name, found in times.items()}
    return {
        **{f"{name}_ms": round(value, 1) for name, value in medians.items()},
        **{f"{name}_to_bare": round(medians[name] / medians["bare"], 2) for name in ("version", "help")},
    }


def _seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun

"""Generated requests at every door that listens: hub, ``serve``, the node's JSON-RPC and REST, over real sockets."""

from __future__ import annotations

import contextlib
import inspect
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from faults.fuzz_inputs import BYTES, VALUES, mutated_bytes, mutated_value
from faults.result import Result
from picopayments_cli import cli, commands, json_arguments
from picopayments_cli.hub.proxy import Proxy as HubProxy
from picopayments_cli.regtest.bitcoin_rpc import BitcoinRpc
from picopayments_cli.regtest.methods import Methods

WAIT = 30.0
MAX_SECONDS = 10.0  # of an answer; the machine may be busy
MAX_GROWTH = 150_000  # KB of a server's memory
_BLOCKS = ("generate", "reorganise", "mine")  # where a number makes work: a right one stays small
Call = dict[str, Any]


@dataclass(frozen=True)
class Door:
    """A server that takes JSON-RPC: valid calls of it, and the headers that it wants."""

    name: str
    url: str
    calls: Sequence[Call]
    headers: Mapping[str, str]
    own_errors: bool = False  # Bitcoin Core's form: HTTP status 500 with an error is an answer


def node_calls(owner: type, samples: Mapping[str, Any]) -> list[Call]:
    """A call of each public method of a class, with arguments by their names, and one without."""
    calls: list[Call] = []
    for name, method in vars(owner).items():
        if name.startswith("_") or name in ("table", "methods", "endpoint", "stop"):
            continue
        names = [item for item in inspect.signature(method).parameters if item != "self"]
        calls.append({"method": name, "params": {item: samples.get(item, 1) for item in names}})
        calls.append({"method": name, "params": [samples.get(item, 1) for item in names]})
        calls.append({"method": name, "params": {}})
    return calls


def served_calls(samples: Mapping[str, Any]) -> list[Call]:
    """A call of each command of the client."""
    names = [name for name in commands.COMMANDS if name not in cli.NOT_SERVED]
    given = {name: [json_arguments.plain(item) for item, _ in commands.COMMANDS[name].arguments] for name in names}
    return [{"method": name, "params": {item: samples.get(item) for item in given[name]}} for name in names]


def tame(call: Any) -> Any:
    """Return the call, but have one that would mine thousands of blocks mine one."""
    if not isinstance(call, dict) or call.get("method") not in _BLOCKS:
        return call
    text = json.dumps(call.get("params"))
    return call if not any(letter in "23456789" for letter in text) else {**call, "params": {"blocks": 1, "depth": 1}}


class Doors:
    """The attack on the doors, with what came of it."""

    def __init__(self, rng: random.Random, result: Result) -> None:
        self.rng = rng
        self.result = result
        self._session = requests.Session()

    def knock(self, door: Door) -> None:
        """One generated request: a call with changed members, a text that something happened to, or raw bytes."""
        kind = self.rng.random()
        call = {"jsonrpc": "2.0", "id": 1, **self.rng.choice(door.calls)}
        if kind < 0.6:
            changed = {**call, "params": mutated_value(call["params"], self.rng)}
            self._post(door, json.dumps(tame(changed)).encode())
        elif kind < 0.75:
            whole: Any = mutated_value([call, call] if kind < 0.65 else call, self.rng)
            whole = [tame(item) for item in whole] if isinstance(whole, list) else tame(whole)
            self._post(door, json.dumps(whole).encode())
        elif call["method"] in _BLOCKS:
            self._post(door, self.rng.choice(BYTES))
        elif kind < 0.9:
            body = json.dumps(call).encode()
            self._post(door, mutated_bytes(body, (body, *BYTES), self.rng))
        else:
            self._raw(door, call)

    def _post(self, door: Door, body: bytes) -> None:
        begun = time.monotonic()
        answer = self._answer(door.name, "POST", door.url, body, data=body, headers=dict(door.headers))
        took = time.monotonic() - begun
        if answer is not None:
            self.judge(door.name, body, answer.status_code, answer.content, took, own_errors=door.own_errors)

    def _answer(self, name: str, verb: str, url: str, asked: bytes, **content: Any) -> requests.Response | None:
        try:
            return self._session.request(verb, url, timeout=WAIT, **content)
        except requests.RequestException as error:
            self.result.failures.append(f"{name} to {asked[:400]!r}: {error}")
        return None

    def judge(
        self, name: str, asked: bytes, status: int, said: bytes, took: float, *, own_errors: bool = False
    ) -> None:
        """Enter what is wrong about an answer."""
        self.result.trials += 1
        where = f"{name} to {asked[:400]!r}"
        self.result.hold(took < MAX_SECONDS, f"{where}: an answer after {took:.1f} s")
        self.result.hold(status < 500 or own_errors, f"{where}: HTTP status {status}, {said[:300]!r}")
        fault = b"InternalError" in said or b"Internal Server Error" in said
        self.result.hold(not fault, f"{where}: {said[:500]!r}")
        if status in (200, 500) and said:
            try:
                value = json.loads(said)
            except ValueError:
                self.result.failures.append(f"{where}: no JSON: {said[:300]!r}")
                return
            self.result.refused += isinstance(value, dict) and value.get("error") is not None

    def _raw(self, door: Door, call: Call) -> None:
        parts = urlsplit(door.url)
        body = json.dumps(call)
        lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in door.headers.items()]
        whole = ("\r\n".join(lines) + "\r\n\r\n" + body).encode()
        headers = (b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n")
        sent = mutated_bytes(whole, (whole, *BYTES, *headers), self.rng)
        begun = time.monotonic()
        at = parts.hostname, parts.port
        with contextlib.suppress(ConnectionError), socket.create_connection(at, WAIT) as there:
            there.sendall(sent)
            there.shutdown(socket.SHUT_WR)
            said = b"".join(iter(lambda: there.recv(65536), b""))
            status = said[9:12] if said[:7] == b"HTTP/1." else b"400"
            self.judge(door.name, sent, int(status), b"", time.monotonic() - begun, own_errors=door.own_errors)

    def path(self, url: str, samples: Sequence[str]) -> None:
        """One generated path of the REST interface."""
        path = self.rng.choice(samples)
        if self.rng.random() < 0.5:
            words = path.split("/")
            words[self.rng.randrange(len(words))] = quote(str(self.rng.choice(VALUES))[:300], safe="")
            path = "/".join(words)
        else:
            path = quote(mutated_bytes(path.encode(), BYTES, self.rng)[:3000], safe="/?&=,%:")
        begun = time.monotonic()
        answer = self._answer("REST", "GET", f"{url}v2/{path}", path.encode())
        if answer is not None:
            refused = answer.status_code == 503  # as Bitcoin Core's refusals are passed on
            took = time.monotonic() - begun
            self.judge("REST", path.encode(), answer.status_code, answer.content, took, own_errors=refused)


def memory(pid: int) -> int:
    """A process's memory, in KB."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmRSS")).split()[1])


# Servers ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(words: Sequence[str], log: Path) -> Iterator[tuple[int, str, tuple[str, str]]]:
    """``serve`` as a process: its id, its URL, and user and password."""
    command = [sys.executable, "-m", "picopayments_cli", *words, "serve", "--port", "0"]
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        user, _, password = Path(ready["cookie"]).read_text().partition(":")
        yield process.pid, ready["url"], (user, password)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT)


@contextlib.contextmanager
def garbling(target: str, change: Callable[[bytes], bytes]) -> Iterator[str]:
    """A server that hands requests on to another one, and changes what that answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._hand_on("GET", b"")

        def do_POST(self) -> None:
            self._hand_on("POST", self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _hand_on(self, verb: str, body: bytes) -> None:
            wanted = ("content-type", "authorization")
            headers = {name: value for name, value in self.headers.items() if name.lower() in wanted}
            url = target.rstrip("/") + self.path
            answer = requests.request(verb, url, data=body, headers=headers, timeout=WAIT)
            said = change(answer.content)
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


HUB_METHODS, NODE_METHODS, BITCOIN_METHODS = HubProxy, Methods, BitcoinRpc

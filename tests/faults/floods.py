"""Part: floods of the hub: connections that are never funded, and more requests than one address may make."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from envelope_support import asked
from network_support import Client, Network, running_network, tokens_of

from faults.result import Budget, Result
from faults.town import EXPIRE, heard
from picopayments_cli.channel.counterparty import asset_id, p2pkh
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.messages import ConnectReply, ConnectRequest, DepositRequest
from picopayments_cli.channel.opening import Party, Stake, contract_of
from picopayments_cli.channel.values import Quantity
from picopayments_cli.limits import Limits

CONNECTIONS, QUICK_CONNECTIONS = 1000, 25
CALLS = 500  # in one request of the address that asks too much
OPEN = Limits().open_requests  # at a time, of one address
SILENT = 90  # connections of one address that say nothing
MAX_GROWTH = 30_000_000  # bytes of memory that a thousand connections may cost the hub
MAX_SECONDS, MAX_TIMES = 5.0, 25  # for an honest client's payment in between; more, where it took long before
WAIT = 30


def run(rng: random.Random, budget: Budget) -> Result:
    """Strangers agree with the hub and never deposit; an address asks without end; an honest client is served."""
    result = Result("floods")
    with running_network(budget.folder) as network, heard():
        alice, bob = (_client(network, name) for name in ("alice", "bob"))
        handles = tuple(network.open_connection(client, "--expire-time", str(EXPIRE)) for client in (alice, bob))
        flood = FloodedHub(network, rng, result, (alice, bob), handles)
        flood.unfunded(budget.share(CONNECTIONS, QUICK_CONNECTIONS))
        flood.one_address()
        flood.curious()
        flood.silent()
        for client, handle in zip((alice, bob), handles, strict=True):
            before = client.balances()["XCP"]
            client.run("close", handle)
            network.settle(client, handle)
            guaranteed = client.connection(handle).duplex.guaranteed
            result.keep(guaranteed, client.balances()["XCP"] - before, f"{client.basedir.name} on chain")
        failed = [line for line in network.hub.logged() if line.get("level") == "ERROR"]
        result.hold(not failed, f"the hub logged errors: {failed[:3]}")
    return result


def _client(network: Network, name: str) -> Client:
    """A client with funds that sees the chain by its own nodes."""
    folder = network.folder / name
    folder.mkdir(mode=0o700)
    (folder / "regtest.cfg").write_text(json.dumps({"chain_url": network.chain_url}))
    return network.client(name)


class FloodedHub:
    """A network, and the honest clients that must be served all the while."""

    def __init__(
        self, network: Network, rng: random.Random, result: Result, pair: tuple[Client, Client], handles: Sequence[str]
    ) -> None:
        self.network = network
        self.rng = rng
        self.result = result
        self.alice, self.bob = pair
        self.handles = handles
        self.height = network.height
        self.undisturbed = 0.0  # the seconds of the first payment

    def served(self, when: str) -> float:
        """Have a payment made and received; the seconds of both syncs."""
        begun = time.monotonic()
        token = self.alice.run("queuepayment", *self.handles, "3")
        self.alice.run("sync")
        received = tokens_of(self.bob.run("sync"), self.handles[1])
        seconds = time.monotonic() - begun
        self.result.trials += 1
        self.result.recovered += 1
        self.result.hold(received == [token], f"not served {when}")
        self.undisturbed = self.undisturbed or seconds
        allowed = max(MAX_SECONDS, MAX_TIMES * self.undisturbed)
        self.result.hold(seconds < allowed, f"served after {seconds:.1f} s {when}, {self.undisturbed:.1f} s before")
        return seconds

    def unfunded(self, number: int) -> None:
        """As many connections asked for and agreed on from as many addresses, none of them funded."""
        slowest = self.served("before the flood")
        before, asked = self._memory(), 0
        with ThreadPoolExecutor(4) as pool:
            seeds = [self.rng.randbytes(32) for _ in range(number)]
            for start in range(0, number, 50):
                outcomes = list(pool.map(self._agree, range(start, start + 50), seeds[start : start + 50]))
                asked += sum(outcomes)
                slowest = max(slowest, self.served(f"after {start + 50} connections"))
        self.result.hold(asked == number, f"only {asked} of {number} strangers were answered")
        begun = time.monotonic()
        self.network.mine(2)
        block = (time.monotonic() - begun) / 2
        slowest = max(slowest, self.served("after the flood"))
        grown = self._memory() - before
        self.result.trials += number
        self.result.hold(grown < MAX_GROWTH, f"the hub grew by {grown} bytes")
        self.result.notes.append(
            f"{number} connections never funded: the hub grew by {grown / 1e6:.1f} MB, an honest client's payment took "
            f"at most {slowest:.2f} s, a block {block:.2f} s"
        )

    def _agree(self, number: int, seed: bytes) -> bool:
        """A stranger's mph_request and mph_deposit."""
        key = Key(seed)
        secrets = Secrets(key, seed[:16])
        own = Party(secrets.payer.xonly, secrets.payee.xonly, p2pkh(key.pubkey_hash))
        sender = {"X-Forwarded-For": f"203.0.{113 + number // 250}.{number % 250 + 1}"}
        hub_key = self.alice.connection(self.handles[0]).hub_key
        request = asked("mph_request", key, hub_key, ConnectRequest("XCP", own, secrets.salt).as_json())
        reply = ConnectReply.parse(self._call("mph_request", request, sender).json()["result"])
        stake, height = Stake(Quantity(1000), 2, reply.terms.fee_rate), self.height + EXPIRE
        output = contract_of(own, reply.hub, asset_id("XCP"), height, stake).deposit.output
        proposal = DepositRequest(reply.handle, stake, 1, height, output, secrets.revoke_hash(0))
        agreed = asked("mph_deposit", key, hub_key, proposal.as_json())
        return "result" in self._call("mph_deposit", agreed, sender).json()

    def _call(self, method: str, params: Any, headers: dict[str, str]) -> requests.Response:
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return requests.post(self.network.hub_url, json=call, headers=headers, timeout=WAIT)

    def one_address(self) -> None:
        """More calls than one address may make: it is told to wait, and others are served."""
        sender = {"X-Forwarded-For": "198.51.100.7"}
        batch = [{"id": 1, "method": "mph_close", "params": {}}] * CALLS
        statuses: dict[int, int] = {}
        while statuses.get(429, 0) < 50 and sum(statuses.values()) < 200:
            status = requests.post(self.network.hub_url, json=batch, headers=sender, timeout=WAIT).status_code
            statuses[status] = statuses.get(status, 0) + 1
        refused = statuses.get(429, 0)
        self.result.trials += refused
        self.result.refused += refused
        self.result.hold(refused, f"an address may ask without end: {statuses}")
        seconds = self.served("while one address is told to wait")
        text = f"one address, {CALLS} calls at a time: HTTP statuses {statuses}; others served in {seconds:.2f} s"
        self.result.notes.append(text)

    def curious(self) -> None:
        """As many questions at a time as one address may have open, each about all connections: others are served."""
        stopped = threading.Event()

        def ask(_number: int) -> int:
            answered = 0
            while not stopped.is_set():
                answered += self._call("mph_status", {}, {"X-Forwarded-For": "198.51.100.8"}).status_code == 200
            return answered

        with ThreadPoolExecutor(OPEN) as pool:
            answers = pool.map(ask, range(OPEN))
            try:
                seconds = max(self.served(f"beside {OPEN} questions at a time") for _ in range(2))
            finally:
                stopped.set()
        self.result.notes.append(f"{OPEN} questions at a time, {sum(answers)} in all; others served in {seconds:.2f} s")

    def silent(self) -> None:
        """Connections that say nothing, or half a request: others are served."""
        port = urlsplit(self.network.hub_url).port
        with contextlib.ExitStack() as stack:
            for number in range(SILENT):
                source = (f"127.0.0.{9 + number % 4}", 0)
                opened = stack.enter_context(socket.create_connection(("127.0.0.1", port), WAIT, source))
                opened.sendall(b"POST /api/ HTTP/1.1\r\nHost: x\r\n" if number % 2 else b"")
            self.served(f"beside {SILENT} silent connections")

    def _memory(self) -> int:
        """The bytes that the hub's process holds."""
        status = Path(f"/proc/{self.network.hub.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

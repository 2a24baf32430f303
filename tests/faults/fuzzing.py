"""Part of the fault harness: generated input at every door and for every parser; answers are values or named errors."""

from __future__ import annotations

import json
import logging
import random
import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from network_support import Network, _children, running_network

from faults.fuzz_doors import (
    BITCOIN_METHODS,
    HUB_METHODS,
    MAX_GROWTH,
    NODE_METHODS,
    Door,
    Doors,
    garbling,
    memory,
    node_calls,
    served_calls,
    serving,
)
from faults.fuzz_inputs import BYTES, mutated_bytes, mutated_value
from faults.fuzz_parsers import Parser, Samples, parsers
from faults.harness_client import HarnessClient
from faults.proxy import Proxy, between
from faults.result import Budget, Result
from picopayments_cli.chain import Chain, Query
from picopayments_cli.chain.hub import HubChain
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.networks import NETWORKS, address_of_script
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.rpc import RpcClient

REGTEST = NETWORKS["regtest"]
MAX_CPU = 2.0  # seconds for one input of at most 20 KB
MAX_OWN_GROWTH = 300_000  # KB of this process, over all inputs
KNOCKS, QUICK_KNOCKS = 1500, 200  # requests at each door
EXAMPLES, QUICK_EXAMPLES = 1000, 60  # inputs of each parser
ANSWERS, QUICK_ANSWERS = 500, 40  # questions to a chain that garbles


def run(rng: random.Random, budget: Budget) -> Result:
    """Doors first, then answers of a chain, then parsers; over again while there is time."""
    result = Result("fuzzing")
    with running_network(budget.folder) as network, between(network.hub_url) as proxy, _quiet():
        alice = HarnessClient(network, "alice", proxy.url).fund()
        given = _samples(network, proxy, alice)
        rounds = 0
        while budget.goes_on(rounds, 1):
            rounds += 1
            _doors(network, proxy, alice, given, Doors(rng, result), budget.share(KNOCKS, QUICK_KNOCKS))
            _answers(network, given, rng, result, budget.share(ANSWERS, QUICK_ANSWERS))
            _feed_all(given, rng, result, budget.share(EXAMPLES, QUICK_EXAMPLES), rounds)
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is printed of what the program warns of."""
    logger = logging.getLogger("picopayments_cli")
    level, logger.disabled = logger.level, False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _samples(network: Network, proxy: Proxy, alice: HarnessClient) -> Samples:
    """Return what passes while two parties pay each other."""
    bob = HarnessClient(network, "bob", proxy.url).fund()
    a, b = alice.open(), bob.open()
    for payer, source, target, amount in ((alice, a, b, 5000), (bob, b, a, 400), (alice, a, b, 30), (bob, b, a, 4)):
        payer.do("queuepayment", source, target, amount)
        payer.do("sync")
        (alice if payer is bob else bob).do("sync")
    bob.do("close", b)
    network.mine(4)
    bob.do("sync")
    said: dict[str, list[dict[str, Any]]] = {}
    for item in proxy.seen:
        if "result" in item.reply:
            said.setdefault(item.method, []).append(item.params)
            said.setdefault(f"{item.method} result", []).append(item.reply["result"])
    raw = tuple(tx.serialize() for block in network.blocks()[-12:] for tx in block)
    folder = network.folder / "fuzzed"
    folder.mkdir()
    return Samples(alice.connection(a), alice.key(), folder, said, raw)


# Doors --------------------------------------------------------------------------------------------------------------


def _named_samples(network: Network, given: Samples) -> dict[str, Any]:
    """A usual value for each argument's name."""
    raw = given.raw[-1]
    address = str(address_of_script(REGTEST, given.connection.duplex.sending.script.output))
    txid = network.blocks()[-1][0].GetTxid()[::-1].hex()
    handle = given.connection.handle.hex()
    texts = {"asset": "XCP", "assets": ["XCP"], "filters": [{"field": "address", "op": "==", "value": address}]}
    ours = {"handle": handle, "source": handle, "destination": handle, "token": "ab" * 8, "key": "timeout"}
    hashes = {name: txid for name in ("tx_hash", "txid", "blockhash", "block_hash", "hash")}
    return {
        **texts, **ours, **hashes, "address": address, "tx_hex": raw.hex(), "hexstring": raw.hex(), "rawtx": raw.hex(),
        "txhash_list": [txid], "utxos": [f"{txid}:0"], "rawtxs": [raw.hex()], "quantity": 5, "btc": 0, "value": "20",
        "unconfirmed": True, "verbose": True, "filterop": "AND", "expire_time": 1000, "delay_time": 2, "extra_btc": 0,
    }  # fmt: skip


def _doors(network: Network, proxy: Proxy, alice: HarnessClient, given: Samples, doors: Doors, number: int) -> None:
    """Requests at each door; afterwards each still answers, and none has grown."""
    usual = _named_samples(network, given)
    hub_calls = [{"method": method, "params": params} for method, params in proxy.asked]
    kinds = sorted({call["method"] for call in hub_calls})
    hub_calls = [call for kind in kinds for call in [item for item in hub_calls if item["method"] == kind][-3:]]
    hub_calls += node_calls(HUB_METHODS, usual)
    chain = network.chain_url
    paths = (
        "", "healthz", "blocks/last", f"addresses/balances?addresses={usual['address']}", "assets?limit=2&cursor=1",
        f"addresses/{usual['address']}/balances/XCP", "assets/XCP", f"utxos/withbalances?utxos={usual['utxos'][0]}",
        f"bitcoin/addresses/{usual['address']}/utxos?unconfirmed=true", "bitcoin/estimatesmartfee?conf_target=3",
        f"bitcoin/addresses/{usual['address']}/transactions",
        f"bitcoin/transactions/{usual['txid']}?result_format=json",
    )  # fmt: skip
    with ExitStack() as stack:
        words = alice.files.words()
        pid, url, auth = stack.enter_context(serving(words, network.folder / "serve.log"))
        basic = {"Authorization": "Basic " + _basic(auth), "Content-Type": "application/json"}
        methods = node_calls(NODE_METHODS, usual)
        listening = (
            Door("hub", network.hub_url, hub_calls, {}),
            Door("node", chain, methods, {}),
            Door("bitcoin", chain + "bitcoin/", node_calls(BITCOIN_METHODS, usual), {}, own_errors=True),
            Door("serve", url, served_calls(usual), basic),
        )
        hub_pid = network.hub.process.pid
        pids = {"hub": hub_pid, "node": _children(hub_pid)[0], "serve": pid}
        sizes: dict[str, int] = {}
        for n in range(number):
            for door in listening:
                if door.name != "serve" or n % 4 == 0:  # a command takes longer than a method
                    doors.knock(door)
            doors.path(chain, paths)
            if n == number // 10:
                sizes = {name: memory(of) for name, of in pids.items()}
        for name, of in pids.items():
            grown = memory(of) - sizes[name]
            doors.result.hold(grown < MAX_GROWTH, f"the {name} has grown by {grown} KB")
        doors.result.hold(RpcClient(network.hub_url).call("mph_status", {}, retry=False)["funds"], "the hub is deaf")
    log = network.hub.log.read_text() + (network.folder / "serve.log").read_text()
    doors.result.hold("Traceback" not in log and '"traceback"' not in log, f"a traceback in a log: {log[-3000:]}")


def _basic(auth: tuple[str, str]) -> str:
    from base64 import b64encode

    return b64encode(":".join(auth).encode()).decode()


# Answers ------------------------------------------------------------------------------------------------------------


def _answers(network: Network, given: Samples, rng: random.Random, result: Result, number: int) -> None:
    """Questions to hub and node through somebody who changes the answers."""
    channel = given.connection.duplex.sending
    address = str(address_of_script(REGTEST, channel.script.output))
    txid = network.blocks()[-1][0].GetTxid()
    query = Query(coins=[address], history=[address], balances=[address], transactions=[txid])

    def change(said: bytes) -> bytes:
        if rng.random() < 0.3:
            return mutated_bytes(said, BYTES, rng)
        try:
            return json.dumps(mutated_value(json.loads(said), rng)).encode()
        except ValueError:
            return said

    with garbling(network.chain_url, change) as node_url, garbling(network.hub_url.removesuffix("api/"), change) as url:
        chains: tuple[Chain, ...] = (
            HubChain(RpcClient(url + "api/", retries=0), REGTEST),
            NodeChain(node_url, REGTEST, retries=0, patience=0.1),
        )
        for n in range(number):
            chain = chains[n % 2]
            questions = (
                lambda chain=chain: chain.view(query),
                lambda chain=chain: chain.asset("DEMOCOIN"),
                lambda chain=chain: chain.attached([Outpoint(txid, 0)]),
                lambda chain=chain: chain.broadcast(given.raw[-1]),
            )
            _ask(type(chain).__name__, questions[n // 2 % 4], result)


def _ask(name: str, question: Any, result: Result) -> None:
    result.trials += 1
    try:
        question()
    except PicopaymentsError:
        result.refused += 1
    except Exception as error:
        result.failures.append(f"{name}: {type(error).__name__}: {error} ({_place(error)})")


def _place(error: BaseException) -> str:
    """Where in the package an error comes from."""
    at, found = error.__traceback__, ""
    while at is not None:
        code = at.tb_frame.f_code
        if "picopayments_cli" in code.co_filename:
            found = f"{code.co_filename.rpartition('/')[2]}:{at.tb_lineno}"
        at = at.tb_next
    return found


# Parsers ------------------------------------------------------------------------------------------------------------


def _feed_all(given: Samples, rng: random.Random, result: Result, number: int, rounds: int) -> None:
    """Input for every parser."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fresh = given.folder / f"round {rounds}"
    fresh.mkdir()
    for parser in parsers(Samples(given.connection, given.key, fresh, given.messages, given.raw)):
        told = feed(parser, number, rng.randrange(2**64), result)
        if rounds == 1:
            summary = ", ".join(f"{name} {count}" for name, count in told.most_common(4))
            result.notes.append(f"{parser.name}: {summary}")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    result.hold(grown < MAX_OWN_GROWTH, f"this process has grown by {grown} KB")


def feed(parser: Parser, number: int, seed: int, result: Result) -> Counter[str]:
    """So many inputs for one parser; what it said to them, and how often."""
    told: Counter[str] = Counter()
    expected: tuple[type[BaseException], ...] = (PicopaymentsError, *parser.raises)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=number,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
    )
    @hypothesis.given(parser.inputs)
    def one(value: Any) -> None:
        begun = time.thread_time()
        said = "read"
        try:
            parser.call(value)
        except expected as error:
            said = type(error).__name__
        told[said] += 1
        took = time.thread_time() - begun
        if took > MAX_CPU:
            raise TimeoutError(f"{took:.2f} s of CPU")

    try:
        one()
    except Exception as error:
        parts = getattr(error, "exceptions", ())  # of one that did not come again
        what = "\n".join([*map(repr, parts), *getattr(error, "__notes__", ())])[:3000]
        result.failures.append(f"{parser.name}, seed {seed}: {type(error).__name__}: {error} ({_place(error)})\n{what}")
    result.trials += told.total()
    result.refused += told.total() - told["read"]
    return told

"""Part of the fault harness: generated input at every door and for every parser; answers are values or named errors."""

from __future__ import annotations

import json
import os
import random
import resource
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import hypothesis
from bitcoin.core import CBlock, CTransaction
from hub_support import serving as hub_served
from hypothesis import HealthCheck, Phase, Verbosity
from regtest_support import REGTEST, address_of

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
from faults.result import Budget, Result
from faults.town import Party, Town, heard, running_town
from picopayments_cli.chain import Chain, Query
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.hub import HubChain
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.drafts import txid_of
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.client.nodes import HubNodes, Nodes, OwnNodes
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.rpc import RpcClient

JSON_TYPE = {"Content-Type": "application/json"}
MAX_CPU = 2.0  # seconds for one input of at most 20 KB
MAX_OWN_GROWTH = 300_000  # KB of this process, over all inputs
KNOCKS, QUICK_KNOCKS = 1500, 80  # requests at each door
EXAMPLES, QUICK_EXAMPLES = 1000, 30  # inputs of each parser
ANSWERS, QUICK_ANSWERS = 500, 20  # questions to a chain that garbles


def run(rng: random.Random, budget: Budget) -> Result:
    """Doors first, then answers of a chain, then parsers; over again while there is time."""
    result = Result("fuzzing")
    with heard(), running_town(budget.folder / "town", result) as town:
        alice = Party(town, "alice")
        given = _samples(town, alice)
        rounds = 0
        while budget.goes_on(rounds, 1):
            rounds += 1
            with hub_served(town.desk) as hub_url:
                _doors(town, hub_url, given, Doors(rng, result), budget.share(KNOCKS, QUICK_KNOCKS))
                _answers(town, hub_url, given, rng, result, budget.share(ANSWERS, QUICK_ANSWERS))
            _feed_all(given, rng, result, budget.share(EXAMPLES, QUICK_EXAMPLES), rounds)
    return result


def _samples(town: Town, alice: Party) -> Samples:
    """Return what passes while two parties pay each other."""
    bob = Party(town, "bob", own_chain=False)
    a, b = alice.open(), bob.open()
    for payer, source, target, amount in ((alice, a, b, 5000), (bob, b, a, 400), (alice, a, b, 30), (bob, b, a, 4)):
        payer.pay(source, target, amount)
        (alice if payer is bob else bob).sync()
    bob.do("hubstatus")
    bob.close(b)
    town.mine(4)
    bob.sync()
    said: dict[str, list[dict[str, Any]]] = {}
    for item in town.proxy.seen:
        if "result" in item.reply:
            said.setdefault(item.method, []).append(item.params)
            said.setdefault(f"{item.method} result", []).append(item.reply["result"])
    raw = tuple(_block(town, height) for height in range(110, _tip(town)))
    folder = town.folder / "fuzzed"
    folder.mkdir()
    path = alice.basedir / "regtest.connections" / f"{a.hex()}.json"
    rows = path.with_name(f"{a.hex()}.commits.jsonl")
    whole = tuple(tx.serialize() for block in raw for tx in block)
    return Samples(alice.connection(a), alice.key, folder, path.read_bytes(), rows.read_bytes(), said, whole)


def _tip(town: Town) -> int:
    return int(town.node.bitcoin("getblockcount"))


def _block(town: Town, height: int) -> Sequence[CTransaction]:
    raw = town.node.bitcoin("getblock", town.node.bitcoin("getblockhash", height), 0)
    return tuple(CBlock.deserialize(bytes.fromhex(raw)).vtx)


# Doors --------------------------------------------------------------------------------------------------------------


def _named_samples(town: Town, given: Samples) -> dict[str, Any]:
    """A usual value for each argument's name."""
    raw = given.raw[-1]
    address = address_of(given.connection.duplex.sending.contract.deposit.output)
    txid = town.node.bitcoin("getblock", town.node.bitcoin("getbestblockhash"))["tx"][0]
    handle = given.connection.handle.hex()
    texts = {"asset": "XCP", "assets": ["XCP"], "filters": [{"field": "address", "op": "==", "value": address}]}
    ours = {"handle": handle, "source": handle, "destination": handle, "token": "ab" * 8, "key": "timeout"}
    hashes = {name: txid for name in ("tx_hash", "txid", "blockhash", "block_hash", "hash")}
    return {
        **texts, **ours, **hashes, "address": address, "tx_hex": raw.hex(), "hexstring": raw.hex(), "rawtx": raw.hex(),
        "txhash_list": [txid], "utxos": [f"{txid}:0"], "rawtxs": [raw.hex()], "quantity": 5, "btc": 0, "value": "20",
        "unconfirmed": True, "verbose": True, "filterop": "AND", "expire_time": 1000, "delay_time": 2, "extra_btc": 0,
        "package": [raw.hex()],
    }  # fmt: skip


def _doors(town: Town, hub_url: str, given: Samples, doors: Doors, number: int) -> None:
    """Requests at each door; afterwards each still answers, and none has grown."""
    usual = _named_samples(town, given)
    calls: dict[str, list[Any]] = {}
    for method, params in town.proxy.asked:
        calls.setdefault(method, []).append({"method": method, "params": params})
    hub_calls = [call for kind in calls.values() for call in kind[-3:]] + node_calls(HUB_METHODS, usual)
    chain = town.node.url
    paths = (
        "", "healthz", "blocks/last", f"addresses/balances?addresses={usual['address']}", "assets?limit=2&cursor=1",
        f"addresses/{usual['address']}/balances/XCP", "assets/XCP", f"utxos/withbalances?utxos={usual['utxos'][0]}",
        f"addresses/{usual['address']}/receives?limit=1&cursor=1",
        f"bitcoin/addresses/{usual['address']}/utxos?unconfirmed=true", "bitcoin/estimatesmartfee?conf_target=3",
        f"bitcoin/addresses/{usual['address']}/transactions",
        f"bitcoin/transactions/{usual['txid']}?result_format=json",
    )  # fmt: skip
    words = ("--regtest", "--basedir", str(town.folder / "alice"), "--hub-url", hub_url)
    with serving(words, town.folder / "serve.log") as (pid, url, auth):
        basic = {"Authorization": "Basic " + b64encode(":".join(auth).encode()).decode(), **JSON_TYPE}
        listening = (
            Door("hub", hub_url, hub_calls, {}),
            Door("node", chain + "regtest/", node_calls(NODE_METHODS, usual), {}),
            Door("bitcoin", chain + "bitcoin/", node_calls(BITCOIN_METHODS, usual), {}, own_errors=True),
            Door("serve", url, served_calls(usual), basic),
        )
        pids = {"hub": os.getpid(), "node": town.node.process.pid, "serve": pid}
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
        doors.result.hold(RpcClient(hub_url).call("mph_status", {}, retry=False)["funds"], "the hub is deaf")
    log = (town.folder / "serve.log").read_text()
    doors.result.hold("Traceback" not in log and '"traceback"' not in log, f"a traceback in a log: {log[-3000:]}")


# Answers ------------------------------------------------------------------------------------------------------------


def _answers(town: Town, hub_url: str, given: Samples, rng: random.Random, result: Result, number: int) -> None:
    """Questions to hub and nodes through somebody who changes the answers."""
    output = given.connection.duplex.sending.contract.deposit.output
    address, txid, raw = address_of(output), txid_of(given.raw[-1]), given.raw[-1]
    query = Query(coins=[address], history=[address], balances=[address], options=[address], transactions=[txid])

    def change(said: bytes) -> bytes:
        if rng.random() < 0.3:
            return mutated_bytes(said, BYTES, rng)
        try:
            return json.dumps(mutated_value(json.loads(said), rng)).encode()
        except ValueError:
            return said

    with garbling(town.node.url, change) as node_url, garbling(hub_url.removesuffix("api/"), change) as url:
        rpc = RpcClient(url + "api/", retries=0)
        hubs, bitcoin = HubChain(rpc, REGTEST), BitcoinNode(f"{node_url}bitcoin/", retries=0)
        ledger = NodeChain(node_url, REGTEST, retries=0, patience=0.1, bitcoin=bitcoin)
        questions: list[Callable[[], object]] = [bitcoin.tip_is_current, bitcoin.estimate]
        questions += [lambda: bitcoin.waiting(txid), lambda: bitcoin.submit([raw, raw])]
        sides: tuple[tuple[Chain, Nodes], ...] = ((hubs, HubNodes(hubs, rpc, REGTEST)),)
        for chain, nodes in (*sides, (ledger, OwnNodes(ledger, REGTEST, bitcoin))):
            questions += [
                *(partial(chain.view, query), partial(chain.asset, "DEMOCOIN"), partial(chain.broadcast, raw)),
                *(partial(chain.attached, [Outpoint(txid, 0)]), partial(nodes.sends, output)),
                partial(nodes.submit, [raw, raw]),
            ]
        for n in range(number):
            _ask(f"question {n % len(questions)}", questions[n % len(questions)], result)


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
    for parser in parsers(replace(given, folder=fresh)):
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

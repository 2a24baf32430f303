"""Honest answers of a hub and of a Counterparty node about one address, and servers that give them, changed or not."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

from bitcoin.core import COutPoint, CTransaction, CTxIn, CTxInWitness, CTxOut, CTxWitness
from bitcoin.core.script import CScript, CScriptWitness
from servers import json_rpc, serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from picopayments_cli.chain import Query
from picopayments_cli.chain.hub import HubChain
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.networks import NETWORKS, address_of_script
from picopayments_cli.rpc import RpcClient

TESTNET = NETWORKS["testnet"]
SCRIPT = b"\xa9\x14" + bytes(20) + b"\x87"
ADDRESS = str(address_of_script(TESTNET, SCRIPT))
TIP = 200
COINS_OF_ALL = 21_000_000 * 10**8
OTHER = str(address_of_script(TESTNET, b"\xa9\x14" + bytes(19) + b"\1\x87"))
LONGNAME, CHILD = "PARENT.child", "A95428959371716303"
Place = tuple[Any, ...]  # the way to a value inside an answer


def transaction(value: int, witness: bool = False) -> CTransaction:
    vin = [CTxIn(COutPoint(b"\1" * 32, value), CScript(b""))]
    stack = CTxWitness([CTxInWitness(CScriptWitness([b"signature"]))]) if witness else CTxWitness()
    return CTransaction(vin, [CTxOut(value, CScript(SCRIPT))], 0, 2, stack)


OLD, NEW = transaction(123_456_789), transaction(546, witness=True)
OLD_ID, NEW_ID = bytes(OLD.GetTxid()), bytes(NEW.GetTxid())
OLD_RAW, NEW_RAW = OLD.serialize(), NEW.serialize()
QUERY = Query([ADDRESS], [ADDRESS], [ADDRESS], options=[ADDRESS], transactions=[OLD_ID, bytes(32)])


def shown(txid: bytes) -> str:
    return txid[::-1].hex()


# Honest answers -----------------------------------------------------------------------------------------------------

HUB: dict[str, Any] = {
    "get_running_info": {"bitcoin_block_count": TIP, "fee_rate": 3},
    "get_unspent_txouts": [
        {"txid": shown(OLD_ID), "vout": 0, "amount": 1.23456789, "confirmations": 6, "scriptPubKey": SCRIPT.hex()},
        {"txid": shown(NEW_ID), "vout": 0, "amount": "0.00000546", "confirmations": 0, "scriptPubKey": SCRIPT.hex()},
    ],
    "search_raw_transactions": [
        {"txid": shown(NEW_ID), "hex": NEW_RAW.hex()},
        {"txid": shown(OLD_ID), "hex": OLD_RAW.hex(), "confirmations": 6},
    ],
    "get_balances": [
        {"address": ADDRESS, "asset": "XCP", "quantity": 7},
        {"address": None, "asset": "XCP", "quantity": 90, "utxo": f"{shown(OLD_ID)}:0", "utxo_address": ADDRESS},
    ],
    "get_address_options": {"address": ADDRESS, "options": 3},
    "getrawtransaction_batch": {shown(OLD_ID): OLD_RAW.hex()},
    "utxos_with_balances": {f"{shown(OLD_ID)}:0": False, f"{shown(NEW_ID)}:0": True},
    "get_asset_info": [{"asset": "A18446744073709551615", "asset_id": "18446744073709551615", "divisible": False}],
}
OLD_STATUS = {"confirmed": True, "block_height": 195, "block_hash": "00" * 32, "block_time": 1}
BEST = "00" * 31 + "07"
NODE: dict[str, Any] = {
    "blocks/last": {"block_index": TIP, "block_hash": BEST},
    "": {"network": "testnet3", "backend_height": TIP, "counterparty_height": TIP, "version": "11.5.0"},
    "bitcoin/addresses/utxos": [
        {"txid": shown(OLD_ID), "vout": 0, "value": 123_456_789, "status": OLD_STATUS, "address": ADDRESS},
        {"txid": shown(NEW_ID), "vout": 0, "value": 546, "status": {"confirmed": False}, "address": ADDRESS},
    ],
    f"bitcoin/addresses/{ADDRESS}/transactions": [
        {"txid": shown(NEW_ID), "status": {"confirmed": False}},
        {"txid": shown(OLD_ID), "status": OLD_STATUS},
    ],
    "addresses/balances": [
        {
            "asset": "XCP",
            "addresses": [
                {"address": ADDRESS, "utxo": None, "quantity": 7},
                {"address": None, "utxo": f"{shown(OLD_ID)}:0", "quantity": 90},
            ],
        }
    ],
    f"addresses/{ADDRESS}": HUB["get_address_options"],
    "bitcoin/estimatesmartfee": 2500,
    "utxos/withbalances": HUB["utxos_with_balances"],
    "assets/A18446744073709551615": HUB["get_asset_info"][0],
}
TRANSACTION = "bitcoin/transactions/"
RAWS = {shown(OLD_ID): OLD_RAW.hex(), shown(NEW_ID): NEW_RAW.hex()}


@contextlib.contextmanager
def hub(answers: Mapping[str, Any]) -> Iterator[HubChain]:
    """A hub that answers each method with what stands in the table at that moment."""

    def method(name: str) -> Callable[..., Any]:
        return lambda **_params: answers[name]

    with json_rpc({name: method(name) for name in HUB}) as url:
        yield HubChain(RpcClient(url), TESTNET)


@contextlib.contextmanager
def node(answers: Mapping[str, Any], raws: Mapping[str, Any], patience: float = 0.2) -> Iterator[NodeChain]:
    """A Counterparty node that answers each path with what stands in the tables at that moment."""

    async def get(request: Request) -> JSONResponse:
        path = request.path_params["path"].strip("/")
        if path.startswith(TRANSACTION):
            return told_raw(raws.get(path.removeprefix(TRANSACTION)))
        answer = answers.get(path, KeyError)
        if answer is KeyError:
            return JSONResponse({"error": "Not found"}, 404)
        return JSONResponse({"result": answer, "next_cursor": None, "result_count": None})

    async def post(_request: Request) -> JSONResponse:
        return JSONResponse({"error": "Error broadcasting transaction: dust"}, 503)

    routes = [Route("/v2/bitcoin/transactions", post, methods=["POST"]), Route("/v2/{path:path}", get)]
    with serving(Starlette(routes=routes)) as url:
        yield NodeChain(url, TESTNET, patience=patience)


def changed(value: Any, path: Place, to: Any) -> Any:
    """A copy with another value at that place."""
    if not path:
        return to
    result = copy.copy(value)
    result[path[0]] = changed(value[path[0]], path[1:], to)
    return result


@contextlib.contextmanager
def listening_node(
    replies: Mapping[str, Any], raw_of: Callable[[str], Any] = lambda txid: None
) -> Iterator[tuple[NodeChain, list[tuple[str, dict[str, str]]]]]:
    """A node that answers as NODE does, or whole replies as it is told (a list: one after the other); what it heard."""
    heard: list[tuple[str, dict[str, str]]] = []
    following = {path: iter(reply) for path, reply in replies.items() if isinstance(reply, list)}

    async def answer(request: Request) -> JSONResponse:
        path = request.path_params["path"].strip("/")
        heard.append((path, {**request.query_params, **dict(parse_qsl((await request.body()).decode()))}))
        if path.startswith(TRANSACTION):
            return told_raw(raw_of(path.removeprefix(TRANSACTION)))
        reply = next(following[path]) if path in following else replies.get(path, {"result": NODE.get(path)})
        return JSONResponse(reply, reply.get("status", 200))

    with serving(Starlette(routes=[Route("/v2/{path:path}", answer, methods=["GET", "POST"])])) as url:
        yield NodeChain(url, TESTNET, patience=0), heard


def told_raw(raw: Any) -> JSONResponse:
    """Bitcoin Core's verdict on a txid, as Counterparty's server hands it on."""
    if raw is None:
        return JSONResponse({"error": "No such mempool or blockchain transaction. Use -txindex."}, 503)
    return JSONResponse({"result": raw})


def refusal(status: int) -> dict[str, Any]:
    """A node's whole reply that refuses."""
    return {"error": "Not now", "status": status}


def told(asset: str, number: int, longname: str | None = None) -> dict[str, Any]:
    """Return what a server says of an asset."""
    return {"asset": asset, "asset_id": str(number), "divisible": True, "asset_longname": longname}

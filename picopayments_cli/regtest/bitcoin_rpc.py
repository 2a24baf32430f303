"""The node's Bitcoin Core interface: the calls that following a chain needs, and those of its mempool."""

from __future__ import annotations

import asyncio
import inspect
import json
import struct
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from picopayments_cli.channel.values import Outpoint, from_hex
from picopayments_cli.errors import PicopaymentsError, UnknownTransaction
from picopayments_cli.jsontext import parse_json
from picopayments_cli.regtest.arguments import body_of, checked
from picopayments_cli.regtest.blocks import parse_block
from picopayments_cli.regtest.codes import (
    INVALID_PARAMETER,
    INVALID_PARAMS,
    INVALID_REQUEST,
    NO_METHOD,
    NOT_FOUND,
    PARSE_ERROR,
    RpcError,
)
from picopayments_cli.regtest.index import MEDIAN_SPAN, Block, Tx
from picopayments_cli.regtest.mempool import RELAY_MINIMUM
from picopayments_cli.regtest.mempool_rpc import MempoolRpc
from picopayments_cli.regtest.node import Node
from picopayments_cli.regtest.queries import find, txid_of
from picopayments_cli.regtest.replacement import INCREMENTAL_RATE
from picopayments_cli.regtest.rest import MAX_BODY
from picopayments_cli.regtest.shapes import bitcoins, core_script, core_tx, display

_DIFFICULTY = 4.656542373906925e-10
_VERSION = 300000


class BitcoinRpc:
    """Every public method but ``endpoint`` is a call of the interface; hashes in display order, amounts in bitcoins."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._calls: dict[str, Callable[..., Any]] = {}
        for part in (self, MempoolRpc(node)):
            names = (name for name in vars(type(part)) if not name.startswith("_") and name != "endpoint")
            self._calls |= {name: checked(getattr(part, name)) for name in names}

    async def endpoint(self, request: Request) -> Response:
        """Answer one request or a batch, of JSON-RPC 2.0 or of the older form that Bitcoin Core knows."""
        await asyncio.sleep(self._node.mood.hang)
        if not self._node.mood.bitcoin:
            return Response("Work queue depth exceeded", 503)
        body = await body_of(request, MAX_BODY)
        if body is None:
            return Response("", 413)
        try:
            given = parse_json(body)
        except ValueError:
            given = None
        if isinstance(given, list):
            return Response(json.dumps([self._answer(item)[0] for item in given]), 200, None, "application/json")
        reply, status = self._answer(given)
        return Response(json.dumps(reply), status, None, "application/json")

    def _answer(self, given: Any) -> tuple[dict[str, Any], int]:
        modern = isinstance(given, dict) and given.get("jsonrpc") == "2.0"
        number = given.get("id") if isinstance(given, dict) else None
        try:
            if not isinstance(given, dict):
                raise RpcError(PARSE_ERROR, "Parse error")
            result = self._call(given.get("method"), given.get("params") or [])
        except RpcError as error:
            refusal = {"code": error.code, "message": error.message}
            if modern:
                return {"jsonrpc": "2.0", "error": refusal, "id": number}, 200
            return {"result": None, "error": refusal, "id": number}, 404 if error.code == NO_METHOD else 500
        if modern:
            return {"jsonrpc": "2.0", "result": result, "id": number}, 200
        return {"result": result, "error": None, "id": number}, 200

    def _call(self, name: Any, params: Any) -> Any:
        call = self._calls.get(name) if isinstance(name, str) else None
        if call is None:
            raise RpcError(NO_METHOD, "Method not found")
        if not isinstance(params, (dict, list)):
            raise RpcError(INVALID_REQUEST, "Params must be an array or object")
        args, kwargs = ([], params) if isinstance(params, dict) else (params, {})
        try:
            inspect.signature(call).bind(*args, **kwargs)
        except TypeError as error:
            raise RpcError(INVALID_PARAMS, str(error)) from error
        try:
            return call(*args, **kwargs)
        except UnknownTransaction as error:
            text = "No such mempool or blockchain transaction. Use gettransaction for wallet transactions."
            raise RpcError(NOT_FOUND, text) from error
        except PicopaymentsError as error:
            raise RpcError(INVALID_PARAMETER, error.message) from error

    # Blocks ----------------------------------------------------------------------------------------------------

    def getblockcount(self) -> int:
        """Return the height of the tip."""
        return self._node.index.height

    def getbestblockhash(self) -> str:
        """Return the hash of the tip."""
        return display(self._node.index.blocks[-1].hash)

    def getblockhash(self, height: int) -> str:
        """Return the hash of the block at a height."""
        if not isinstance(height, int) or not 0 <= height <= self._node.index.height:
            raise RpcError(INVALID_PARAMETER, "Block height out of range")
        return display(self._node.index.blocks[height].hash)

    def getblockheader(self, blockhash: str, verbose: bool = True) -> Any:
        """Return a header, of a stale block too."""
        found, raw = self._block(blockhash)
        return self._header(found, raw) if verbose else raw[:80].hex()

    def getblock(self, blockhash: str, verbosity: int | bool = 1) -> Any:
        """Return a block, of a stale one too: hex (0), with txids (1), with transactions (2)."""
        found, raw = self._block(blockhash)
        if not verbosity:
            return raw.hex()
        txs = parse_block(raw).vtx
        shown = self._header(found, raw)
        witness = sum(len(tx.serialize()) - len(tx.serialize({"include_witness": False})) for tx in txs)
        shown |= {"size": len(raw), "strippedsize": len(raw) - witness, "weight": 4 * len(raw) - 3 * witness}
        if verbosity is True or verbosity == 1:
            return shown | {"tx": [display(bytes(tx.GetTxid())) for tx in txs]}
        items = [Tx(tx, tx.serialize(), bytes(tx.GetTxid())) for tx in txs]
        return shown | {"tx": [core_tx(item, None, self._node.index.height) for item in items]}

    def _block(self, blockhash: str) -> tuple[bytes, bytes]:
        found = from_hex(blockhash, "block hash", 32)[::-1]
        raw = self._node.kernel.genesis() if self._node.index.height_of(found) == 0 else self._node.journal.block(found)
        if raw is None:
            raise RpcError(NOT_FOUND, "Block not found")
        return found, raw

    def _header(self, found: bytes, raw: bytes) -> dict[str, Any]:
        version, previous, root, time, bits, nonce = struct.unpack("<i32s32sIII", raw[:80])
        height = self._node.index.height_of(found)
        tip = self._node.index.height
        at = self._height(found)
        shown = {
            "hash": display(found),
            "confirmations": -1 if height is None else tip - height + 1,
            "height": at,
            "version": version,
            "versionHex": f"{version:08x}",
            "merkleroot": display(root),
            "time": time,
            "mediantime": self._median_time(found),
            "nonce": nonce,
            "bits": f"{bits:08x}",
            "difficulty": _DIFFICULTY,
            "chainwork": f"{2 * (at + 1):064x}",
            "nTx": len(parse_block(raw).vtx),
        }
        if at:
            shown["previousblockhash"] = display(previous)
        if height is not None and height < tip:
            shown["nextblockhash"] = display(self._node.index.blocks[height + 1].hash)
        return shown

    def _height(self, found: bytes) -> int:
        """Return the height of a block, stale or not."""
        steps = 0
        while (height := self._node.index.height_of(found)) is None:
            found = self._block(display(found))[1][4:36]
            steps += 1
        return height + steps

    def _median_time(self, found: bytes) -> int:
        times: list[int] = []
        while len(times) < MEDIAN_SPAN and found != bytes(32):
            header = self._block(display(found))[1][:80]
            times.append(int.from_bytes(header[68:72], "little"))
            found = header[4:36]
        return sorted(times)[len(times) // 2]

    def getblockchaininfo(self) -> dict[str, Any]:
        """Return the chain as a whole."""
        tip = self._node.index.blocks[-1]
        return {
            "chain": "regtest",
            "blocks": tip.height,
            "headers": tip.height,
            "bestblockhash": display(tip.hash),
            "difficulty": _DIFFICULTY,
            "time": tip.time,
            "mediantime": self._node.index.median_time(tip.height),
            "verificationprogress": 1,
            "initialblockdownload": False,
            "chainwork": f"{2 * (tip.height + 1):064x}",
            "pruned": False,
            "warnings": [],
        }

    def getnetworkinfo(self) -> dict[str, Any]:
        """Return the version and relay fees."""
        return {
            "version": _VERSION,
            "subversion": "/regtest/",
            "networkactive": False,
            "connections": 0,
            "relayfee": bitcoins(RELAY_MINIMUM),
            "incrementalfee": bitcoins(1000 * INCREMENTAL_RATE),
        }

    # Transactions ----------------------------------------------------------------------------------------------

    def getrawtransaction(self, txid: str, verbose: bool | int = False, blockhash: str | None = None) -> Any:
        """Return a transaction, in the mempool or in any block of the active chain."""
        item, block = find(self._node, txid_of(txid))
        return core_tx(item, block, self._node.index.height) if verbose else item.raw.hex()

    def gettxout(self, txid: str, n: int, include_mempool: bool = True) -> dict[str, Any] | None:
        """Return an output that nothing spends, or null."""
        outpoint = Outpoint(txid_of(txid), n)
        out = self._node.mempool.coin(outpoint) if include_mempool else self._node.index.coins.get(outpoint)
        if out is None:
            return None
        tip: Block = self._node.index.blocks[-1]
        return {
            "bestblock": display(tip.hash),
            "confirmations": 0 if out.height is None else tip.height - out.height + 1,
            "value": bitcoins(out.value),
            "scriptPubKey": core_script(out.script),
            "coinbase": out.coinbase,
        }

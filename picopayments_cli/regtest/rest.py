"""The node's REST interface: the part of Counterparty Core's v2 that coins, balances and broadcasts need."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from picopayments_cli.errors import PicopaymentsError, UnknownTransaction
from picopayments_cli.regtest.arguments import body_of
from picopayments_cli.regtest.ledger import AssetRow, SendRow
from picopayments_cli.regtest.node import Node
from picopayments_cli.regtest.policy import Refused
from picopayments_cli.regtest.queries import (
    VERSION,
    coins,
    estimate,
    find,
    history,
    mempool_info,
    raw_of,
    script_of,
    txid_of,
)
from picopayments_cli.regtest.shapes import address, core_tx, display

MAX_BODY = 1_000_000  # bytes
_DEFAULT_LIMIT, _MAX_LIMIT = 100, 1000
_HISTORY_PAGE, _MEMPOOL_PAGE = 25, 50  # what an Esplora server lists of a history
_PAGING = ("cursor", "limit", "offset")
_BEHIND = {  # what answers need beside the ledger: the index of addresses, or a method of Bitcoin Core
    "_utxos": "electrs",
    "_history": "electrs",
    "_transaction": "getrawtransaction",
    "_estimate": "estimatesmartfee",
    "_mempool_info": "getmempoolinfo",
    "_send": "sendrawtransaction",
}
Params = Mapping[str, str]


class _BadRequest(Exception):
    """The request can't be answered; the text goes to who asked.

    Refusals of Bitcoin Core are 503, like its failures.
    """

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class _Page:
    """A list with the cursor of the next page and the number of all rows."""

    def __init__(self, rows: Sequence[Any], next_cursor: Any = None, count: int | None = None) -> None:
        self.rows, self.next_cursor, self.count = rows, next_cursor, count


class RestApi:
    """Answers in Counterparty Core's shapes, in its envelopes, with its headers.

    ``cached`` does what the real server does to its clients: each 200 to a GET is kept until the next block, a
    transaction looked up before it confirmed never shows confirmations, and a history is one page of it, not counted.
    """

    def __init__(self, node: Node, cached: bool = False) -> None:
        self._node = node
        self._cached = cached
        self._cache: dict[tuple[bytes, str], Response] = {}
        self._frozen: dict[bytes, Any] = {}

    def routes(self) -> list[Route]:
        """Return all routes, trailing slash optional."""
        gets: list[tuple[str, Callable[[Params], Any], tuple[str, ...]]] = [
            ("", self._root, ()),
            ("/healthz", self._health, ("check_type",)),
            ("/blocks/last", self._last_block, ()),
            ("/addresses/balances", self._balances_of_many, ("addresses", "asset", "type", *_PAGING)),
            ("/addresses/{address}", self._address, ()),
            ("/addresses/{address}/balances", self._balances, ("type", "sort", *_PAGING)),
            ("/addresses/{address}/balances/{asset}", self._balances, ("type", *_PAGING)),
            ("/addresses/{address}/sends", self._sends_of, ("send_type", *_PAGING)),
            ("/addresses/{address}/sends/{asset}", self._sends_of, ("send_type", *_PAGING)),
            ("/addresses/{address}/receives", self._receives_of, ("send_type", *_PAGING)),
            ("/addresses/{address}/receives/{asset}", self._receives_of, ("send_type", *_PAGING)),
            ("/transactions/{tx_hash}/sends", self._sends_in, ("send_type", *_PAGING)),
            ("/sends", self._sends, ("send_type", *_PAGING)),
            ("/assets", self._assets, ("named", *_PAGING)),
            ("/assets/{asset}", self._asset, ()),
            ("/assets/{asset}/subassets", self._subassets, _PAGING),
            ("/utxos/withbalances", self._with_balances, ("utxos",)),
            ("/bitcoin/addresses/utxos", self._utxos, ("addresses", "unconfirmed", "unspent_tx_hash")),
            ("/bitcoin/addresses/{address}/utxos", self._utxos, ("unconfirmed", "unspent_tx_hash")),
            ("/bitcoin/addresses/{address}/transactions", self._history, ("unconfirmed",)),
            ("/bitcoin/transactions/{tx_hash}", self._transaction, ("result_format",)),
            ("/bitcoin/estimatesmartfee", self._estimate, ("conf_target", "mode")),
            ("/bitcoin/getmempoolinfo", self._mempool_info, ()),
        ]
        routes = [
            Route(f"/v2{path}{slash}", self._get(answer, allowed), methods=["GET"])
            for path, answer, allowed in gets
            for slash in ("", "/")
        ]
        for slash in ("", "/"):
            routes.append(Route(f"/v2/bitcoin/transactions{slash}", self._broadcast, methods=["POST"]))
        return routes

    # Requests --------------------------------------------------------------------------------------------------

    def _get(self, answer: Callable[[Params], Any], allowed: tuple[str, ...]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            await asyncio.sleep(self._node.mood.hang)
            url = str(request.url)
            key = (self._node.index.blocks[-1].hash, url)
            cachable = self._cached and "show_unconfirmed=true" not in url
            if cachable and key in self._cache:
                return self._cache[key]
            response = self._answer(answer, _params(request, allowed), cachable)
            if cachable and response.status_code == 200:
                self._cache[key] = response
            return response

        return endpoint

    def _answer(self, answer: Callable[[Params], Any], params: Params | str, cachable: bool = False) -> Response:
        if isinstance(params, str):
            return self._reply({"error": params}, 400)
        trouble = self._node.mood.trouble(_BEHIND.get(answer.__name__, ""))
        if trouble is not None:
            return self._reply({"error": trouble[1]}, trouble[0])
        try:
            result = answer(params)
        except UnknownTransaction as error:
            return self._reply({"error": str(error)}, 503)
        except (_BadRequest, PicopaymentsError) as error:
            return self._reply({"error": str(error)}, getattr(error, "status", 400))
        if result is None:
            return self._reply({"error": "Not found"}, 404)
        body: dict[str, Any] = {"result": result}
        if isinstance(result, _Page):
            body = {"result": result.rows, "next_cursor": result.next_cursor, "result_count": result.count}
        return self._reply(body, 200, cachable)

    def _reply(self, body: Mapping[str, Any], status: int, cachable: bool = False) -> Response:
        height = str(self._node.index.height)
        headers = {
            "X-COUNTERPARTY-HEIGHT": height,
            "X-COUNTERPARTY-READY": "True",
            "X-COUNTERPARTY-VERSION": VERSION,
            "X-BITCOIN-HEIGHT": height,
            "X-LEDGER-STATE": "Following",
            "Cache-Control": "public, max-age=60" if cachable else "no-store",
        }
        return Response(json.dumps(body), status, headers, "application/json")

    async def _broadcast(self, request: Request) -> Response:
        await asyncio.sleep(self._node.mood.hang)
        params = {name: request.query_params.getlist(name)[0] for name in request.query_params}
        if "x-www-form-urlencoded" in request.headers.get("content-type", ""):
            body = await body_of(request, MAX_BODY)
            if body is None:
                return self._reply({"error": "Request too large"}, 413)
            params |= {name: values[0] for name, values in parse_qs(body.decode("latin-1")).items()}
        return self._answer(self._send, params)

    def _send(self, params: Params) -> str:
        if "signedhex" not in params:
            raise _BadRequest("Missing required parameter: signedhex")
        try:
            return display(self._node.submit([raw_of(params["signedhex"])])[0])
        except Refused as error:
            raise _BadRequest(f"Error broadcasting transaction: {error.reason}", 503) from error

    # The server itself -----------------------------------------------------------------------------------------

    def _root(self, _params: Params) -> dict[str, Any]:
        height = self._node.index.height
        return {
            "server_ready": True,
            "network": "regtest",
            "version": VERSION,
            "backend_height": height,
            "counterparty_height": height,  # as if it were there, whatever the mood
            "ledger_state": "Following",
            "documentation": "",
            "routes": "",
            "openapi": "",
            "current_commit": "Unknown",
        }

    def _health(self, _params: Params) -> dict[str, str]:
        return {"status": "Healthy"}

    def _last_block(self, _params: Params) -> dict[str, Any]:
        block = self._node.index.blocks[self._node.ledger.height]
        return {
            "block_index": block.height,
            "block_hash": display(block.hash),
            "block_time": block.time,
            "ledger_hash": None,
            "txlist_hash": None,
            "messages_hash": None,
            "previous_block_hash": display(self._node.index.blocks[block.height - 1].hash),
            "difficulty": 0,
            "transaction_count": sum(self._node.ledger.read(item) is not None for item in block.transactions),
        }

    # Balances and assets ---------------------------------------------------------------------------------------

    def _address(self, params: Params) -> dict[str, Any]:
        options = self._node.address_options.get(_script(params["address"]), 0)
        return {"address": params["address"], "options": options, "block_index": None}

    def _balances(self, params: Params) -> _Page:
        rows = self._rows([params["address"]], params.get("asset"), params)
        return _page([row for row in rows if row["quantity"]], params)

    def _balances_of_many(self, params: Params) -> _Page:
        grouped: dict[str, dict[str, Any]] = {}
        for row in self._rows(_addresses(params), params.get("asset"), params):
            if row["quantity"]:
                group = grouped.setdefault(
                    row["asset"],
                    {"asset": row["asset"], "asset_longname": row["asset_longname"], "total": 0, "addresses": []},
                )
                group["total"] += row["quantity"]
                group["addresses"].append({name: row[name] for name in ("address", "utxo", "utxo_address", "quantity")})
        return _page(list(grouped.values()), params)

    def _rows(self, addresses: Iterable[str], asset: str | None, params: Params) -> list[dict[str, Any]]:
        if params.get("type") == "utxo":
            return []
        rows = []
        for owner in addresses:
            for name, quantity in self._node.ledger.balances(_script(owner)).items():
                longname = self._node.ledger.assets()[name].longname
                if asset is None or asset == longname or asset.upper() == name:
                    rows.append(
                        {
                            "address": owner,
                            "asset": name,
                            "asset_longname": longname,
                            "quantity": quantity,
                            "utxo": None,
                            "utxo_address": None,
                        }
                    )
        return rows

    def _asset(self, params: Params) -> dict[str, Any] | None:
        row = self._node.ledger.asset(params["asset"])
        return None if row is None else _asset_row(row)

    def _assets(self, params: Params) -> _Page:
        return _page([_asset_row(row) for row in self._node.ledger.assets().values()], params)

    def _subassets(self, params: Params) -> _Page:
        parent = f"{params['asset'].upper()}."
        rows = self._node.ledger.assets().values()
        return _page([_asset_row(row) for row in rows if (row.longname or "").upper().startswith(parent)], params)

    def _with_balances(self, params: Params) -> dict[str, bool]:
        return {utxo: False for utxo in params.get("utxos", "").split(",") if utxo}

    # Sends -----------------------------------------------------------------------------------------------------

    def _sends(self, params: Params) -> _Page:
        return self._listed(params, lambda row: True)

    def _sends_in(self, params: Params) -> _Page:
        txid = txid_of(params["tx_hash"])
        return self._listed(params, lambda row: row.txid == txid)

    def _sends_of(self, params: Params) -> _Page:
        script = _script(params["address"])
        return self._listed(params, lambda row: script in (row.source, row.destination))

    def _receives_of(self, params: Params) -> _Page:
        script = _script(params["address"])
        return self._listed(params, lambda row: row.destination == script)

    def _listed(self, params: Params, wanted: Callable[[SendRow], bool]) -> _Page:
        """Return the rows that are wanted, newest first. Those that move or attach are not among this ledger's."""
        asset = params.get("asset", "").upper()
        kinds = params.get("send_type", "all").split(",")
        rows = self._node.ledger.sends() if not {"all", "send"}.isdisjoint(kinds) else ()
        return _page([_send_row(row) for row in reversed(rows) if wanted(row) and asset in ("", row.asset)], params)

    # Bitcoin ---------------------------------------------------------------------------------------------------

    def _utxos(self, params: Params) -> _Page:
        many = "addresses" in params
        wanted = params.get("unspent_tx_hash")
        rows = []
        for owner in _addresses(params):
            for row in coins(self._node, _script(owner), _boolean(params, "unconfirmed")):
                if wanted in (None, row["txid"]):
                    rows.append(row | {"address": owner} if many else row)
        return _Page(rows)

    def _history(self, params: Params) -> _Page:
        rows = history(self._node, _script(params["address"]), _boolean(params, "unconfirmed"))
        if not self._cached:
            return _Page(rows, count=len(rows))
        waiting = [row for row in rows if not row["status"]["confirmed"]]
        return _Page([*waiting[:_MEMPOOL_PAGE], *rows[len(waiting) :][:_HISTORY_PAGE]])

    def _transaction(self, params: Params) -> Any:
        txid = txid_of(params["tx_hash"])
        item, block = find(self._node, txid)
        if params.get("result_format", "json") != "json":
            return item.raw.hex()
        shown = core_tx(item, block, self._node.index.height)
        return self._frozen.setdefault(txid, shown) if self._cached else shown

    def _estimate(self, _params: Params) -> int | None:
        return estimate(self._node)

    def _mempool_info(self, _params: Params) -> dict[str, Any]:
        return mempool_info(self._node)


def _params(request: Request, allowed: Sequence[str]) -> Params | str:
    """Return the parameters of query and path, or what is wrong with them."""
    given = {name: request.query_params.getlist(name)[0] for name in request.query_params}
    unknown = [name for name in given if name not in allowed and name != "verbose"]
    if unknown:
        return f"Unrecognized parameter(s): {', '.join(unknown)}"
    given = {name: value for name, value in given.items() if value not in ("none", "null")}
    for name in ("addresses", "utxos"):
        if name in allowed and name not in given:
            return f"Missing required parameter: {name}"
    return given | {name: str(value) for name, value in request.path_params.items()}


def _addresses(params: Params) -> list[str]:
    return params.get("addresses", params.get("address", "")).split(",")


def _script(owner: str) -> bytes:
    try:
        return script_of(owner)
    except PicopaymentsError as error:
        raise _BadRequest(f"Invalid address: {owner}") from error


def _boolean(params: Params, name: str) -> bool:
    text = params.get(name, "false").lower()
    if text not in ("true", "1", "false", "0"):
        raise _BadRequest(f"Invalid boolean: {text}")
    return text in ("true", "1")


def _integer(params: Params, name: str, default: int) -> int:
    text = params.get(name, str(default))
    if not text.lstrip("-").isdecimal():
        raise _BadRequest(f"Invalid integer: {text}")
    return int(text)


def _page(rows: Sequence[Any], params: Params) -> _Page:
    limit = min(_integer(params, "limit", _DEFAULT_LIMIT), _MAX_LIMIT)
    if limit <= 0:
        raise _BadRequest("limit must be greater than 0")
    start = max(_integer(params, "offset", 0) if "offset" in params else _integer(params, "cursor", 0), 0)
    more = start + limit if start + limit < len(rows) and "offset" not in params and "sort" not in params else None
    return _Page(rows[start : start + limit], more, len(rows))


def _send_row(row: SendRow) -> dict[str, Any]:
    return {
        "tx_index": row.number,
        "tx_hash": display(row.txid),
        "block_index": row.height,
        "source": address(row.source),
        "destination": None if row.destination is None else address(row.destination),
        "asset": row.asset,
        "quantity": row.quantity,
        "status": row.status,
        "msg_index": 0,
        "memo": None if row.memo is None else row.memo.hex(),
        "fee_paid": 0,
        "send_type": "send",
        "source_address": None,
        "destination_address": None,
    }


def _asset_row(row: AssetRow) -> dict[str, Any]:
    owner, issuer = (None if script is None else address(script) for script in (row.owner, row.issuer))
    return {
        "asset": row.name,
        "asset_id": None if row.number is None else str(row.number),
        "asset_longname": row.longname,
        "issuer": issuer,
        "owner": owner,
        "divisible": row.divisible,
        "locked": row.locked,
        "supply": row.supply,
        "description": row.description,
        "description_locked": row.description_locked,
        "first_issuance_block_index": row.issued_at or None,
        "last_issuance_block_index": row.changed_at or None,
        "mime_type": "text/plain",
    }

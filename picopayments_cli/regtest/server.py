"""One web application for all that the regtest node answers: v2 REST, Bitcoin Core's JSON-RPC, its own controls."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from picopayments_cli.regtest.bitcoin_rpc import BitcoinRpc
from picopayments_cli.regtest.methods import Methods
from picopayments_cli.regtest.node import Node
from picopayments_cli.regtest.rest import RestApi
from picopayments_cli.web import JsonRpcEndpoint

log = logging.getLogger(__name__)


def create_app(node: Node, cached: bool = False) -> Starlette:
    """Build the application; ``cached``: answer as late, and as little, as a Counterparty server (see RestApi)."""
    controls = JsonRpcEndpoint(Methods(node).table())
    bitcoin = BitcoinRpc(node)
    routes = RestApi(node, cached).routes()
    routes += [Route(path, controls, methods=["POST"]) for path in ("/regtest", "/regtest/")]
    routes += [Route(path, bitcoin.endpoint, methods=["POST"]) for path in ("/bitcoin", "/bitcoin/")]

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        ticker = asyncio.create_task(_tick(node, node.block_time)) if node.block_time else None
        try:
            yield
        finally:
            if ticker is not None:
                ticker.cancel()

    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={404: _not_found})


async def _tick(node: Node, seconds: int) -> None:
    while True:
        await asyncio.sleep(seconds)
        found = node.generate(1)
        log.info("mined block %s at height %d", found[0][::-1].hex(), node.index.height)


async def _not_found(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": "Not found"}, 404)

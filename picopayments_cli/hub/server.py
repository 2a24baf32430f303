"""The hub's web application: its own methods and the proxied ones, JSON-RPC at any path."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from picopayments_cli.hub.proxy import Nodes, Proxy
from picopayments_cli.hub.rounds import Rounds
from picopayments_cli.limits import Limits
from picopayments_cli.web import JsonRpcEndpoint

log = logging.getLogger(__name__)


def create_app(rounds: Rounds, methods: Mapping[str, Callable[..., Any]], slow: Collection[str]) -> Starlette:
    """Build the application, which starts the hub's rounds, and stops them at its own end.

    ``methods`` by name are the hub's; those named in ``slow`` ask the chain, and so run beside the others.
    """
    hub = rounds.hub
    nodes = Nodes(hub.chain, hub.bitcoin, hub.node)
    proxied = Proxy(hub.network, nodes, lambda: hub.rate.value, rounds.await_round).methods()
    endpoint = JsonRpcEndpoint(
        {**proxied, **methods}, slow={*proxied, *slow}, on_error=_log_unexpected, limits=Limits()
    )

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        rounds.start()
        try:
            yield
        finally:
            rounds.stop()

    return Starlette(routes=[Mount("", endpoint)], lifespan=lifespan)


def _log_unexpected(method: str, error: Exception) -> None:
    log.error("request failed", extra={"fields": {"method": method}}, exc_info=error)

"""The hub's web application: its own methods and the proxied ones, JSON-RPC at any path."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from starlette.applications import Starlette

from picopayments_cli.hub.proxy import Nodes, Proxy
from picopayments_cli.hub.rounds import Rounds
from picopayments_cli.hub2.server import application


def create_app(rounds: Rounds, methods: Mapping[str, Callable[..., Any]], slow: Collection[str]) -> Starlette:
    """Build the application, which starts the hub's rounds, and stops them at its own end.

    ``methods`` by name are the hub's; those named in ``slow`` ask the chain, and so run beside the others.
    """
    hub, loop = rounds.hub, rounds.loop
    nodes = Nodes(hub.chain, hub.bitcoin, hub.node)
    proxied = Proxy(hub.network, nodes, lambda: hub.rate.value, loop.await_round).methods()
    return application({**proxied, **methods}, {*proxied, *slow}, loop.start, loop.stop)

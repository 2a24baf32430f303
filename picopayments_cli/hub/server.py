"""The hub's web application: its own methods and the proxied ones, JSON-RPC at any path."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.routing import Mount, Route

from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.hub.discretion import for_strangers
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.methods import Methods
from picopayments_cli.hub.proxy import Nodes, Proxy
from picopayments_cli.lanes import Divided, Lane
from picopayments_cli.limits import Limits
from picopayments_cli.web import JsonRpcEndpoint

log = logging.getLogger(__name__)

# Threads: nothing holds the event loop, and questions to a node hold up none that only need the database. With those of
# mph_waiting and the rounds they are as many as the database lets read at a time.
_OWN, _ASKING, _PROXIED = 4, 4, 4
_EACH = 2  # of them for one address: the others stay free for others
_SWITCH_SECONDS = 0.0005  # after which a thread that computes lets another one in: a sync has to get in 40 times
# Methods that may be answered otherwise the second time, or do something twice.
_NOT_ONCE = {"get_running_info", "sendrawtransaction", "submitpackage", "generate", "faucet", "reorganise", "feerate"}


class Rounding(Protocol):
    """The rounds of a hub, or what takes their place in a process that does not do them."""

    hub: Hub

    def start(self) -> None:
        """Begin, in a thread."""

    def stop(self) -> None:
        """End the thread."""

    def await_round(self) -> None:
        """Wait for a round that begins from now on."""


def create_app(
    rounds: Rounding,
    methods: Mapping[str, Callable[..., Any]],
    slow: Collection[str],
    *,
    counted: Callable[[str, Callable[..., Any]], Callable[..., Any]] = lambda _, method: method,
    pages: Sequence[Route] = (),
) -> Starlette:
    """Build the application, which starts the hub's rounds, and stops them at its own end.

    ``methods`` by name are the hub's; those named in ``slow`` ask the chain, and so run beside the others. ``counted``
    wraps each of them; ``pages`` are answered to GET before all else.
    """
    hub = rounds.hub
    nodes = Nodes(hub.chain, hub.bitcoin, hub.controls)
    proxied = Proxy(hub.network, nodes, lambda: hub.rate, rounds.await_round).methods()
    table = {name: counted(name, _discreet(method)) for name, method in {**proxied, **methods}.items()}
    nodes_clock = Divided()
    lanes = {
        **dict.fromkeys(set(methods) - set(Methods.ALONE), Lane(_OWN, _EACH)),
        **dict.fromkeys(slow, Lane(_ASKING, _EACH, nodes_clock)),
        **dict.fromkeys(proxied, Lane(_PROXIED, _EACH, nodes_clock)),
    }
    endpoint = JsonRpcEndpoint(
        table,
        lanes=lanes,
        alone=Methods.ALONE,
        once=set(table) - _NOT_ONCE,
        on_error=_log_unexpected,
        limits=Limits(),
    )

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        _settle_in()
        rounds.start()
        try:
            yield
        finally:
            rounds.stop()

    return Starlette(routes=[*pages, Mount("", endpoint)], lifespan=lifespan)


def _settle_in() -> None:
    """Let no request wait long for other threads, or for a garbage collector that looks at the whole program.

    The second collection counts nothing but what comes from now on: else garbage may become as large as the program.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.collect()


def _discreet(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, whose errors strangers may see."""

    @wraps(method)
    def told(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except PicopaymentsError as error:
            raise for_strangers(error) from error

    return told


def _log_unexpected(method: str, error: Exception) -> None:
    log.error("request failed", extra={"fields": {"method": method}}, exc_info=error)

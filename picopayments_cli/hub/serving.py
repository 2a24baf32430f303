"""Puts a hub's methods, page and figures behind a web server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.front import Front
from picopayments_cli.hub.health import Health
from picopayments_cli.hub.methods import Methods
from picopayments_cli.hub.metrics import Metrics
from picopayments_cli.hub.overview import Overviews
from picopayments_cli.hub.page import Page
from picopayments_cli.hub.server import Rounding, create_app
from picopayments_cli.web import WebServer


@dataclass(frozen=True)
class Serving:
    """The server of one process, and what its operator looks at, too."""

    server: WebServer
    overviews: Overviews
    metrics: Metrics


def serving(rounds: Rounding, folder: Folder, **where: Any) -> Serving:
    """Make the server, which starts and stops the rounds; ``where``: of ``WebServer``. Raises as that does."""
    hub = rounds.hub
    overviews = Overviews(hub)
    metrics = Metrics(hub, overviews)
    front = Front(Page(hub, overviews), Health(hub), metrics, folder.token())
    app = create_app(rounds, Methods(hub).table(), Methods.SLOW, counted=metrics.counted, pages=front.routes())
    server = WebServer(app, **where)
    server.when_stopping = hub.book.arrivals.close
    return Serving(server, overviews, metrics)

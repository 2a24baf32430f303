"""One of a hub's several processes on a machine: one of those that answer requests, or the one that does the rounds.

The supervisor starts it, tells it on stdin what to do, and hears on stdout what comes of it. It ends with that pipe.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError, TimeoutError

from picopayments_cli.config import choose_network
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.hub.database import Database
from picopayments_cli.hub.descriptors import raise_limit
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.hearing import Hearing
from picopayments_cli.hub.hub import Hub, Urls
from picopayments_cli.hub.lease import Lease
from picopayments_cli.hub.metrics import Metrics
from picopayments_cli.hub.operator import Operator
from picopayments_cli.hub.operator_socket import served
from picopayments_cli.hub.overview import Overviews
from picopayments_cli.hub.rounds import Rounds
from picopayments_cli.hub.serving import serving
from picopayments_cli.hub.stale_database import Witness
from picopayments_cli.hub.terms import nothing_yet
from picopayments_cli.jsonlog import log_to_stderr
from picopayments_cli.processes import follow_parent

log = logging.getLogger(__name__)

READY, DRAINED, FAILED = "ready", "drained", "error"  # words on stdout
TRIED_EVERY = 0.5  # seconds between two trials of the lease


@dataclass(frozen=True)
class Orders:
    """All that a process is told: where its hub's files, nodes and database are, and where it serves.

    ``member``: the name by which this machine's processes hold the lease. ``sockets``: their descriptors, which it
    inherits; none: it does the rounds.
    """

    network: str
    basedir: str
    chain_url: str = field(repr=False)  # which may have passwords in them
    bitcoin_url: str = field(repr=False)
    database: str = field(repr=False)
    member: str
    host: str
    ssl_cert: str | None
    ssl_key: str | None
    debug: bool
    sockets: tuple[int, ...] = ()

    def text(self) -> str:
        """Write them in one line."""
        return json.dumps(asdict(self)) + "\n"


def main() -> int:
    """Do what the first line of stdin says, until SIGTERM or the end of stdin; the exit code."""
    signal.signal(signal.SIGTERM, _end)  # it ends the start as well as the service
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    line = sys.stdin.readline()
    if not line:
        return 0
    orders = Orders(**json.loads(line))
    follow_parent()
    log_to_stderr(logging.DEBUG if orders.debug else logging.INFO)
    try:
        raise_limit()
        (_serve if orders.sockets else _do_rounds)(orders)
    except KeyboardInterrupt:
        return 0
    except PicopaymentsError as error:
        _say(FAILED, error.as_json())
        return error.exit_code
    except Exception as error:
        log.error("the hub failed", exc_info=error)
        return 1
    return 0


def _end(_number: int, _frame: Any) -> None:
    """End once: what puts things in order is not interrupted by a second signal."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _say(word: str, more: Any = True) -> None:
    """Tell the supervisor; to one that is gone nothing need be told."""
    try:
        os.write(1, json.dumps({word: more}).encode() + b"\n")
    except OSError:
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _hub_of(orders: Orders) -> Iterator[tuple[Hub, Folder]]:
    """The hub, as one that hears from others what it is to offer."""
    network = choose_network(orders.network, os.environ)
    folder = Folder(Path(orders.basedir), network)
    with closing(Database(orders.database, orders.member)) as database:
        urls = Urls(orders.chain_url, orders.bitcoin_url)
        yield Hub(network, folder.key(), nothing_yet(network), database, urls, folder.marks_path), folder


def _serve(orders: Orders) -> None:
    """Answer requests at sockets that the supervisor has bound."""
    with _hub_of(orders) as (hub, folder):
        bound = [socket.socket(fileno=number) for number in orders.sockets]
        where = {"host": orders.host, "ssl_cert": orders.ssl_cert, "ssl_key": orders.ssl_key}
        made = serving(Hearing(hub), folder, sockets=bound, **where)
        signal.signal(signal.SIGHUP, lambda *_: _reload_certificate(made.server.reload_certificate))
        with made.metrics.counting_events():
            made.server.run(lambda url: _say(READY, url))


def _reload_certificate(step: Any) -> None:
    fields: dict[str, Any] = {"name": "certificate"}
    try:
        step()
        log.info("read anew", extra={"fields": fields})
    except PicopaymentsError as error:
        log.error("not read anew", extra={"fields": {**fields, "error": error.as_json()}})


# The rounds ---------------------------------------------------------------------------------------------------------


def _do_rounds(orders: Orders) -> None:
    """Do the rounds once this process may, and answer the operator meanwhile, too."""
    ended = threading.Event()

    def drained() -> None:
        _say(DRAINED)
        ended.set()

    with _hub_of(orders) as (hub, folder), ExitStack() as stack:
        witness = Witness(folder.witness_path, hub.database, hub.book)
        rounds = Rounds(hub, witness.note)
        rounds.reloads = {"terms": lambda: rounds.take_offer(folder.offer())}
        rounds.when_drained = drained
        signal.signal(signal.SIGHUP, lambda *_: rounds.ask_reload())
        overviews = Overviews(hub)
        metrics = Metrics(hub, overviews)
        rounds.timed = metrics.rounds.time
        stack.enter_context(metrics.counting_events())
        operator = Operator(rounds, folder, overviews, witness.outdate_copies)
        stack.enter_context(served(folder.socket_path, operator.table()))
        _await_lease(rounds, witness)
        stack.callback(rounds.stop)
        hub.database.lease.keep(ended.set)
        hub.follows = True
        rounds.prepare()
        rounds.start()
        _say(READY)
        ended.wait()


def _await_lease(rounds: Rounds, witness: Witness) -> None:
    """Wait until this process may do the rounds, and hear meanwhile from the one that does them."""
    hub, lease = rounds.hub, rounds.hub.database.lease
    hearing = Hearing(hub)
    hearing.steps += [witness.copy, rounds.reload_where_asked]
    hearing.start()
    stands_by = False
    try:
        while not _taken(lease):
            if not stands_by:
                _say(READY)
                log.info("stands by for the rounds")
            stands_by = True
            time.sleep(TRIED_EVERY)
    finally:
        hearing.stop()
    log.info("does the rounds")


def _taken(lease: Lease) -> bool:
    """Whether this process holds the lease now; not while the database is away."""
    try:
        return lease.try_take()
    except (DBAPIError, TimeoutError):
        return False

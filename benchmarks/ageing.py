"""A connection's long life in short: thousands of syncs by the hub's own code on its own database, without HTTP."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from party import Party

from picopayments_cli.chain import Query, View
from picopayments_cli.channel.networks import network_named
from picopayments_cli.channel.values import Height
from picopayments_cli.hub import chores
from picopayments_cli.hub.database import Database, default_url
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.hub import Hub, Urls
from picopayments_cli.hub.methods import Methods
from picopayments_cli.web import RawJson

_NOWHERE = "http://127.0.0.1:9/"
_COUNTED = 1000  # syncs at the beginning, and at the end, whose times are compared


class _CleanChain:
    """A chain on which nobody has paid to a commit's address: all that a sync asks."""

    def view(self, query: Query) -> View:
        return View(Height(0), 1, history=dict.fromkeys(query.history, ()))


def age(basedir: Path, payer: Party, payee: Party, syncs: int, seed: int) -> dict[str, Any]:
    """Small payments, mostly one way: the hub ends with thousands of commits of both, active and revoked.

    ``syncs``: of the payer; the payee syncs half as often. What the hub took for the first of them and for the last.
    """
    draw = random.Random(seed)
    times: list[float] = []
    with _methods(basedir) as (hub, methods):
        for number in range(syncs):
            times.append(_sync(hub, methods, payer, payer.prepare([payee.handle], 20, draw)))
            if number % 2:
                back = [payer.handle] if draw.random() < 0.3 else []
                _sync(hub, methods, payee, payee.prepare(back, 20, draw))
    return {
        "earlier_syncs": syncs,
        "active_commits": len(payer.duplex.sending.active) + len(payee.duplex.receiving.active),
        "revoked_commits": len(payer.duplex.sending.revoked) + len(payee.duplex.sending.revoked),
        "hub_cpu_ms_of_the_first": round(statistics.median(times[:_COUNTED]) * 1000, 3),
        "hub_cpu_ms_of_the_last": round(statistics.median(times[-_COUNTED:]) * 1000, 3),
    }


def _sync(hub: Hub, methods: Methods, party: Party, body: dict[str, Any]) -> float:
    """One sync and the look at its hash that a round takes; the processor time of the sync alone."""
    received = json.loads(json.dumps(body))
    begun = time.thread_time()
    reply = methods.sync(received)
    used = time.thread_time() - begun
    if not isinstance(reply, RawJson):
        raise RuntimeError("The sync waits for the chain.")
    party.settle(json.loads(reply.text))
    chores.check_hashes(hub, [party.handle])
    return used


@contextmanager
def _methods(basedir: Path) -> Iterator[tuple[Hub, Methods]]:
    """The hub's methods on a basedir that no hub runs on, without waiting for the disk."""
    folder = Folder(basedir, network_named("regtest"))
    with folder.locked():
        database = Database(default_url(basedir, "regtest"))
        with database.transaction("not waiting") as connection:
            raw = connection.connection
        raw.cursor().execute("PRAGMA synchronous = OFF")
        hub = Hub(folder.network, folder.key(), folder.offer(), database, Urls(_NOWHERE, _NOWHERE))
        hub.chain = _CleanChain()  # type: ignore[assignment]
        try:
            yield hub, Methods(hub)
        finally:
            database.close()

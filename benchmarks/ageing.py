"""Syncs by the hub's own code on its own database, without HTTP: what one takes, when a connection is new and old."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from party import Party

from picopayments_cli.channel.networks import network_named
from picopayments_cli.hub.database import Database, default_url
from picopayments_cli.hub.embedded import EmbeddedNode
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.hub import Hub, Urls
from picopayments_cli.hub.methods import Methods
from picopayments_cli.hub.rounds import Rounds
from picopayments_cli.web import RawJson

_COUNTED = 1000  # syncs at the beginning, and at the end, whose times are compared


class InProcess:
    """The hub's methods on a basedir that no hub runs on, without waiting for the disk."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    def age(self, payer: Party, payee: Party, syncs: int, seed: int) -> dict[str, Any]:
        """Small payments, mostly one way: thousands of commits, active and revoked. ``syncs``: of the payer.

        The payee syncs half as often. What the hub took for the first of them and for the last.
        """
        draw = random.Random(seed)
        times: list[float] = []
        for number in range(syncs):
            times.append(self._sync(payer, payer.prepare([payee.handle], 20, draw)))
            if number % 2:
                back = [payer.handle] if draw.random() < 0.3 else []
                self._sync(payee, payee.prepare(back, 20, draw))
        return {
            "earlier_syncs": syncs,
            "active_commits": len(payer.duplex.sending.active) + len(payee.duplex.receiving.active),
            "hub_cpu_ms_of_the_first": round(statistics.median(times[:_COUNTED]) * 1000, 3),
            "hub_cpu_ms_of_the_last": round(statistics.median(times[-_COUNTED:]) * 1000, 3),
        }

    def mixed(self, parties: Sequence[Party], syncs: int, seed: int) -> float:
        """What one sync of a mixed load takes the hub on average, in seconds of processor time."""
        draw, handles = random.Random(seed), [party.handle for party in parties]
        turns = (parties[number % len(parties)] for number in range(syncs))
        return statistics.fmean(self._sync(party, party.prepare_mixed(handles, draw)) for party in turns)

    def _sync(self, party: Party, body: dict[str, Any]) -> float:
        """One sync, and the processor time that the hub took from the request's text to the reply's."""
        text = json.dumps(body)
        begun = time.thread_time()
        reply = self._methods.sync(json.loads(text))
        used = time.thread_time() - begun
        if not isinstance(reply, RawJson):
            raise RuntimeError("The sync waits for the chain.")
        party.settle(json.loads(reply.text))
        return used


@contextmanager
def in_process(basedir: Path) -> Iterator[InProcess]:
    """The hub of a basedir, its chain as it stood when it stopped."""
    folder = Folder(basedir, network_named("regtest"))
    node = EmbeddedNode(basedir / "node", 0, 0)
    try:
        with folder.locked():
            database = Database(default_url(basedir, "regtest"))
            with database.transaction("not waiting") as connection:
                raw = connection.connection
            raw.cursor().execute("PRAGMA synchronous = OFF")
            urls = Urls(node.chain_url, node.chain_url + "bitcoin/")
            hub = Hub(folder.network, folder.key(), folder.offer(), database, urls, folder.marks_path)
            Rounds(hub).prepare()
            hub.fresh_seconds = float("inf")
            try:
                yield InProcess(Methods(hub))
            finally:
                database.close()
    finally:
        node.stop()

"""The load, made beforehand: clients that pay each other play their syncs with the hub's own code, and keep them.

All that a hub draws for a sync is derived from its key and from what is in its database, and its signatures have no
randomness. So a sync rehearsed on a copy of the database is answered by the hub process with the very same bytes, and
the load can be signed before the clock starts. Two connections that pay each other make a *lane*, whose syncs follow
one another; lanes know nothing of each other, so their order does not matter.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from picopayments_cli.channel import duplex as pair
from picopayments_cli.channel import envelope
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.messages import Payment, SyncReply, SyncRequest
from picopayments_cli.channel.networks import network_named
from picopayments_cli.channel.values import Hash, Quantity, Secret, Token
from picopayments_cli.client.record import Connection
from picopayments_cli.hub.database import Database, default_url
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.hub import Hub, Urls
from picopayments_cli.hub.methods import Methods

_NOWHERE = "http://127.0.0.1:9/"  # a sync asks no node
_HOW_MANY = (0, 1, 1, 1, 1, 1, 1, 2, 2, 5)  # payments in a sync
MAX_AMOUNT = 2000


@dataclass
class Party:
    """A client's side of one connection, in memory."""

    key: Key
    connection: Connection
    numbers: dict[Hash, int]  # of the own revoke hashes

    def prepare(self, payments: tuple[Payment, ...]) -> dict[str, object]:
        """The signed body of the next sync; its state is taken as sent."""
        now = self.connection
        secrets = now.secrets(self.key)

        def secret_of(revoke_hash: Hash) -> Secret:
            return secrets.revoke(self.numbers[revoke_hash])

        total = now.terms.sync_fee + sum(payment.amount for payment in payments)
        if not pair.transferable(now.duplex, total):
            raise RuntimeError("The deposits are too small for this many payments.")
        moved, half = pair.transfer(now.duplex, total, self.key, secret_of)
        own_hash = secrets.revoke_hash(now.next_number)
        self.numbers[own_hash] = now.next_number
        self.connection = replace(now, duplex=pair.hand_out(moved, own_hash), next_number=now.next_number + 1)
        return envelope.seal(self.key, SyncRequest(now.handle, half, payments, own_hash).as_json())

    def settle(self, text: str) -> int:
        """Apply the hub's reply; what was received."""
        reply = SyncReply.parse(json.loads(text))
        received = sum(receipt.amount for receipt in reply.receipts)
        channels, _ = pair.settle(self.connection.duplex, reply.half, received)
        self.connection = replace(self.connection, duplex=pair.add_request(channels, reply.next_hash))
        return received


@dataclass(frozen=True)
class Exchange:
    """One sync: the body of the client's HTTP request, and the text of the hub's result."""

    request: str
    result: str


class Lane:
    """Two connections that pay each other."""

    def __init__(self, methods: Methods, first: Party, second: Party, draw: random.Random) -> None:
        self._methods = methods
        self._parties = (first, second)
        self._draw = draw
        self._count = 0

    def play(self, syncs: int) -> list[Exchange]:
        """A mixed load: idle syncs, one payment or several, both ways and so with give-backs."""
        return [self._sync(self._draw.randrange(2), self._draw.choice(_HOW_MANY), MAX_AMOUNT) for _ in range(syncs)]

    def age(self, syncs: int) -> None:
        """A life of small payments, mostly one way: the hub ends with thousands of commits, active and revoked."""
        for number in range(syncs):
            self._sync(0, 1, 20)
            if number % 2:
                self._sync(1, 0 if self._draw.random() < 0.7 else 1, 20)

    def _sync(self, who: int, payments: int, most: int) -> Exchange:
        payer, payee = self._parties[who], self._parties[1 - who]
        sends = tuple(
            Payment(
                payee.connection.handle, Quantity(self._draw.randint(1, most)), Token(self._draw.randbytes(32))
            )
            for _ in range(payments)
        )
        body = payer.prepare(sends)
        result = self._methods.sync(json.loads(json.dumps(body))).text
        payer.settle(result)
        self._count += 1
        return Exchange(json.dumps({"method": "mph_sync", "params": body, "jsonrpc": "2.0", "id": self._count}), result)


@contextmanager
def hub_methods(basedir: Path) -> Iterator[Methods]:
    """The hub's methods on a basedir that no hub runs on, without waiting for the disk."""
    folder = Folder(basedir, network_named("regtest"))
    with folder.locked():
        database = Database(default_url(basedir, "regtest"))
        with database.transaction("no waiting") as connection:
            raw = connection.connection
        raw.cursor().execute("PRAGMA synchronous = OFF")
        try:
            yield Methods(Hub(folder.network, folder.key(), folder.offer(), database, Urls(_NOWHERE, _NOWHERE)))
        finally:
            database.close()

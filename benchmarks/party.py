"""A client's side of one connection, in memory: makes syncs, and takes the hub's replies."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from picopayments_cli.channel import duplex as pair
from picopayments_cli.channel import envelope
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.messages import SyncReply, SyncRequest
from picopayments_cli.channel.state import known_anchor
from picopayments_cli.channel.values import Handle, Pubkey, Quantity, Token
from picopayments_cli.channel.wire import Anchors, Payment

HOW_MANY = (0, 1, 1, 1, 1, 1, 1, 2, 2, 5)  # payments in a sync
MOST = 2000  # that one payment moves
STATE = 1000  # bytes of a sealed state


@dataclass
class Party:
    """A client's side of one connection. ``secret`` is the wallet's key, which no signature has been made with yet.

    ``hub``: the hub's key.
    """

    hub: Pubkey
    secret: bytes
    salt: bytes
    handle: Handle
    fee: int
    duplex: Duplex
    counter: int = 0

    def __post_init__(self) -> None:
        self._secrets = Secrets(Key(self.secret), self.salt)

    def __reduce__(self) -> tuple[Any, ...]:
        """What a pickle holds: libsecp256k1's own objects are not in it."""
        return Party, (self.hub, self.secret, self.salt, self.handle, self.fee, self.duplex, self.counter)

    def prepare(self, payees: Sequence[Handle], most: int, draw: random.Random) -> dict[str, Any]:
        """The signed body of the next sync, with payments of 1 to ``most``; the state counts it as sent."""
        payments = tuple(Payment(payee, Quantity(draw.randint(1, most)), Token(draw.randbytes(32))) for payee in payees)
        total = self.fee + sum(payment.amount for payment in payments)
        moved, half, _ = pair.transfer(self.duplex, total, self._secrets)
        self.duplex, own_hash = pair.hand_out(moved, self._secrets)
        self.counter += 1
        anchors = Anchors(known_anchor(moved.sending).outpoint, known_anchor(moved.receiving).outpoint)
        request = SyncRequest(self.handle, anchors, half, payments, own_hash, self.counter, bytes(STATE))
        return envelope.seal(self._secrets.key, request.as_json(), envelope.asking("mph_sync", self.hub))

    def prepare_mixed(self, handles: Sequence[Handle], draw: random.Random) -> dict[str, Any]:
        """The next sync of a mixed load: idle, one payment or several, to any of the other handles."""
        payees = draw.choices(handles, k=draw.choice(HOW_MANY))
        return self.prepare([handle for handle in payees if handle != self.handle], MOST, draw)

    def settle(self, reply: Any) -> None:
        """Apply the hub's reply, with every check of the channel's rules."""
        answer = SyncReply.parse(reply)
        if answer.refused:
            raise RuntimeError(f"The hub refused payments: {answer.refused}")
        expected = sum(receipt.amount for receipt in answer.receipts)
        channels, _, _ = pair.settle(self.duplex, answer.half, expected)
        self.duplex = pair.add_request(channels, answer.next_hash, seen=False)


def request_text(body: dict[str, Any], number: int) -> str:
    """The JSON-RPC request of a sync."""
    return json.dumps({"method": "mph_sync", "params": body, "jsonrpc": "2.0", "id": number})

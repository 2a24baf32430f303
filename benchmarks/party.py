"""A client's side of one connection, in memory: makes syncs, and takes the hub's replies."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from picopayments_cli.channel2 import duplex as pair
from picopayments_cli.channel2.duplex import Duplex
from picopayments_cli.channel2.keys import Key, Secrets
from picopayments_cli.channel2.messages import Payment, SyncReply, SyncRequest

from picopayments_cli.channel import envelope
from picopayments_cli.channel.values import Handle, Hash, Quantity, Secret, Token


@dataclass
class Party:
    """A client's side of one connection."""

    key: Key
    salt: bytes
    handle: Handle
    fee: int
    duplex: Duplex
    next_number: int = 1
    numbers: dict[Hash, int] = field(default_factory=dict)  # of the own revoke hashes

    def prepare(self, payees: Sequence[Handle], most: int, draw: random.Random) -> dict[str, Any]:
        """The signed body of the next sync, with payments of 1 to ``most``; the state counts it as sent."""
        payments = tuple(Payment(payee, Quantity(draw.randint(1, most)), Token(draw.randbytes(32))) for payee in payees)
        secrets = Secrets(self.key, self.salt)

        def secret_of(revoke_hash: Hash) -> Secret:
            return secrets.revoke(self.numbers.pop(revoke_hash))

        total = self.fee + sum(payment.amount for payment in payments)
        moved, half = pair.transfer(self.duplex, total, self.key, secret_of)
        own_hash = secrets.revoke_hash(self.next_number)
        self.numbers[own_hash] = self.next_number
        self.next_number += 1
        self.duplex = pair.hand_out(moved, own_hash)
        return envelope.seal(self.key, SyncRequest(self.handle, half, payments, own_hash).as_json())

    def settle(self, reply: Any) -> None:
        """Apply the hub's reply, with every check of the channel's rules."""
        answer = SyncReply.parse(reply)
        if answer.refused:
            raise RuntimeError(f"The hub refused payments: {answer.refused}")
        expected = sum(receipt.amount for receipt in answer.receipts)
        channels, _ = pair.settle(self.duplex, answer.half, expected)
        self.duplex = pair.add_request(channels, answer.next_hash)


def request_text(body: dict[str, Any], number: int) -> str:
    """The JSON-RPC request of a sync."""
    return json.dumps({"method": "mph_sync", "params": body, "jsonrpc": "2.0", "id": number})

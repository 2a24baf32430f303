"""The hub's keeping for a client that loses its files: the newest request with the client's state, and its count.

The state is sealed by the client and only the client can read it. The hub signs how many syncs there have been, in each
reply and when it is asked: two such counts, of which the later one is less, convict it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from picopayments_cli.channel import envelope
from picopayments_cli.channel.halves import Commit
from picopayments_cli.channel.state import Signed
from picopayments_cli.channel.values import SECRET_SIZE, Handle, Hash, Pubkey, Secret
from picopayments_cli.channel.wire import (
    LONG_SIZE,
    NONCE_SIZE,
    Reader,
    commit_json,
    of_request,
    optional_hex,
    reply_json,
    request_json,
)
from picopayments_cli.errors import BadHubSignature, BadReply

MOST_STATE = 16_384  # bytes of a sealed state
MOST_COUNTER = 2**53 - 1  # which every reader of JSON takes for what it is
MOST_ROWS = 100  # commits in one answer of mph_state
_COUNT = {"handle", "counter", "time", "pubkey", "signature"}
_SIGNED = {"quantity", "revoke_hash", "remainder", "secret"}


@dataclass(frozen=True)
class Count:
    """How many syncs a connection has had, and when that was so, by the hub's clock (Unix time)."""

    handle: Handle
    counter: int
    time: int

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        return {"handle": self.handle.hex(), "counter": self.counter, "time": self.time}

    @staticmethod
    def parse(body: Any) -> Count:
        """Read a count, whoever signed it. Raises BadReply."""
        reader = Reader(body, BadReply, _COUNT)
        return Count(reader.handle(), reader.number("counter", 0, MOST_COUNTER), reader.time("time"))

    def convicts(self, earlier: Count) -> bool:
        """Whether who signed both has lied in this one: it is later, and counts fewer syncs."""
        return self.handle == earlier.handle and self.time > earlier.time and self.counter < earlier.counter


def counted(body: Mapping[str, Any], handle: Handle, hub_key: Pubkey) -> Count:
    """Read a count of a connection that its hub has signed. Raises BadReply, BadHubSignature."""
    found = Count.parse(body)
    if envelope.signed_by(body, hub_key, envelope.counting(hub_key)) is None:
        raise BadHubSignature("The hub's count of the syncs is not signed with its key. Nothing was taken.")
    if found.handle != handle:
        raise BadReply("The hub's count is of another connection. Nothing was taken.", handle=found.handle.hex())
    return found


# mph_state ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StateRequest:
    """Asks for what the hub keeps of a connection, with the commits behind the hash ``after``, in its order.

    ``nonce``: drawn for each request, so that no older answer passes for this one's.
    """

    nonce: bytes
    handle: Handle
    after: Hash | None = None

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        told = {"nonce": self.nonce.hex(), "handle": self.handle.hex(), "after": optional_hex(self.after)}
        return request_json(told)

    @staticmethod
    @of_request
    def parse(reader: Reader) -> StateRequest:
        """Raises BadRequest."""
        after = reader.optional("after", reader.revoke_hash)
        return StateRequest(reader.hex("nonce", NONCE_SIZE), reader.handle(), after)


@dataclass(frozen=True)
class StateReply:
    """The hub's count, None where its database is not the newest; the newest request with a state, and its result.

    ``signed``: commits that the client has signed, with the remainders and secrets that are the client's; ``held``:
    commits to the client that it has not given back. Both are at most ``MOST_ROWS`` together. Request and result come
    with the first of them only.
    """

    request: bytes
    count: Mapping[str, Any] | None = None
    asked: Mapping[str, Any] | None = field(default=None, repr=False)
    answered: Mapping[str, Any] | None = field(default=None, repr=False)
    signed: tuple[Signed, ...] = ()
    held: tuple[Commit, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The body, unsigned."""
        told = {
            "count": self.count and dict(self.count),
            "asked": self.asked and dict(self.asked),
            "answered": self.answered and dict(self.answered),
            "signed": [_signed_json(item) for item in self.signed],
            "held": [commit_json(item) for item in self.held],
        }
        return reply_json(self.request, told)

    @staticmethod
    def parse(body: Any) -> StateReply:
        """Raises BadReply."""
        reader = Reader(body, BadReply)
        count = reader.optional("count", lambda name: dict(reader.mapping(name)))
        if count is not None:
            Count.parse(count)
        return StateReply(
            reader.request(),
            count,
            reader.optional("asked", lambda name: dict(reader.mapping(name))),
            reader.optional("answered", lambda name: dict(reader.mapping(name))),
            tuple(_read_signed(item) for item in reader.items("signed", _SIGNED, MOST_ROWS)),
            reader.commits("held", MOST_ROWS),
        )


def _signed_json(item: Signed) -> dict[str, Any]:
    named = {"quantity": item.quantity, "revoke_hash": item.revoke_hash.hex()}
    return {**named, "remainder": optional_hex(item.remainder), "secret": optional_hex(item.secret)}


def _read_signed(item: Reader) -> Signed:
    secret = item.optional("secret", lambda name: item.hex(name, SECRET_SIZE))
    return Signed(
        item.quantity("quantity"),
        item.revoke_hash("revoke_hash"),
        item.optional("remainder", lambda name: item.hex(name, LONG_SIZE)),
        None if secret is None else Secret(secret),
    )

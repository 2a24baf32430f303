"""A connection as the client knows it: one immutable value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from picopayments_cli.channel.deadlines import Expiry
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.facts import Counter, Sent
from picopayments_cli.channel.halves import Closing, Remainder
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.payment_request import Requested
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, PROPOSED
from picopayments_cli.channel.state import Changes, Signed
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.values import Handle, Hash, Pubkey, Token
from picopayments_cli.channel.wire import Payment

STAGES = (PROPOSED, AGREED, CLOSING, CLOSED)


@dataclass(frozen=True)
class Pending:
    """A sync that was sent, or is about to be, and has no answer yet.

    ``bodies``: its signed versions, newest last. They differ in the payments only: what left the machine counts.
    ``cause``: the error with which the hub refused the payments, which the newest body leaves out then, or all of it.
    """

    bodies: tuple[Mapping[str, Any], ...] = field(repr=False)
    payments: tuple[Payment, ...]
    cause: str | None = None

    @property
    def is_repaired(self) -> bool:
        """Whether the payments were left out once the hub had refused them."""
        return len(self.bodies) > 1


@dataclass(frozen=True)
class Ending:
    """How far the close of a connection has come.

    ``since``: the tip at which it was stopped. ``asked``: the newest mph_close that left, or is about to.
    ``counters``: closes of h2c that this party signed as payee; ``closings``: closes of c2h that the hub signed as
    payee. ``remainders``: the hub's signatures for the rest of commits that this file does not know, as it may be old.
    ``told``: whether the hub has answered for the last time that is needed. ``rival``: the txid (hex) of what has spent
    a coin of the own deposit, which then never comes.
    """

    since: int | None = None
    asked: Mapping[str, Any] | None = field(default=None, repr=False)
    counters: tuple[Counter, ...] = ()
    closings: tuple[Closing, ...] = ()
    remainders: tuple[Remainder, ...] = ()
    told: bool = False
    rival: str | None = None


@dataclass(frozen=True)
class Rows:
    """Rows that grow with a connection's age. ``signed``: every commit ever signed; ``own``: every own hash given."""

    signed: Mapping[Hash, Signed] = field(default_factory=dict)
    own: frozenset[Hash] = frozenset()


@dataclass(frozen=True)
class Connection:
    """A connection: this party pays on c2h and is paid on h2c. All active commits are loaded.

    ``proposal``: the signed mph_deposit. ``deposit_raw``, ``hub_deposit``: both deposits, the own one empty where it
    never leaves, the hub's as the chain showed it. ``counted``: the heights at which the two were found to count.
    ``deposit_by``: the last block that may hold the own deposit, None where the hub did not say. ``lock_due``: what the
    hub's deposit waits for, which the first sync pays. ``owed``: refused payments that have not come back yet, and that
    no other payment took. ``sent``: what a node took of one's own, for c2h and for h2c. ``publishing``: name and txid
    (hex) of what is about to leave; ``published``: txids of what left. ``final``: closed, and too deep to be looked at
    again. ``longname``: that of a subasset, for showing. ``requests``: payment requests, the oldest first.
    ``receipts_due``: tokens of requests that were paid and whose receipts are not here. ``counter``: the number of the
    last sync that was prepared; ``count``: the hub's newest signed count. ``jumps``: where the numbers of own hashes go
    on elsewhere, as ``fresh_numbers`` has it. ``restored``: it came from a backup, and its newest state may be missing:
    it only closes, and of its commits the highest may have been given back. ``unproven``: the hub gave it back without
    the proof that its state is the newest, so that of its commits, too, the highest may have been given back.
    """

    handle: Handle
    hub_url: str
    hub_key: Pubkey
    asset: str
    terms: Terms
    salt: bytes = field(repr=False)
    duplex: Duplex
    expiry: Expiry
    stage: str
    proposal: Mapping[str, Any]
    deposit_raw: bytes
    hub_deposit: bytes | None = None
    counted: tuple[int | None, int | None] = (None, None)
    rows: Rows = field(default_factory=Rows, repr=False)
    queue: tuple[Payment, ...] = ()
    pending: Pending | None = None
    owed: int = 0
    ending: Ending = field(default_factory=Ending)
    sent: tuple[tuple[Sent, ...], tuple[Sent, ...]] = ((), ())
    publishing: tuple[str, str] | None = None
    published: tuple[str, ...] = ()
    final: bool = False
    longname: str | None = None
    requests: tuple[Requested, ...] = ()
    receipts_due: tuple[Token, ...] = ()
    deposit_by: int | None = None
    lock_due: int = 0
    counter: int = 0
    count: Mapping[str, Any] | None = field(default=None, repr=False)
    jumps: tuple[tuple[int, int], ...] = ()
    restored: bool = False
    unproven: bool = False

    @property
    def next_fee(self) -> int:
        """Return what the hub takes with the next sync."""
        return self.terms.sync_fee + self.lock_due

    def to_move(self, amount: int) -> int:
        """Return what a sync moves that carries payments of an amount: the fee, and of the amount what is not owed.

        The hub takes payments from what it owes first. The fee is always moved, so that it has it whatever it owes.
        """
        return self.next_fee + max(amount - self.owed, 0)

    @property
    def returnable(self) -> int:
        """Return how much of what is owed a sync may bring back: the rest comes with the agreed close."""
        receiving = self.duplex.receiving
        return min(self.owed, receiving.contract.quantity - receiving.moved)

    @property
    def to_return(self) -> int:
        """Return what an agreed close must give back beyond what has moved: what is owed, and what the hub refused."""
        pending = self.pending
        if pending is None or pending.cause is None:
            return self.owed
        fee = 0 if pending.is_repaired else self.next_fee
        return self.owed + sum(payment.amount for payment in pending.payments) + fee

    def secrets(self, key: Key) -> Secrets:
        """Derive this party's keys and secrets of the connection. ``key``: the wallet's."""
        return Secrets(key, self.salt)

    def with_state(self, duplex: Duplex, changes: Changes | None = None, own: Hash | None = None) -> Connection:
        """Put in a new state of the channels, the rows that the step changed, and an own hash that it handed out."""
        signed = dict(self.rows.signed)
        for item in changes.signed if changes else ():
            signed[item.revoke_hash] = item
        given = self.rows.own if own is None else self.rows.own | {own}
        return replace(self, duplex=duplex, rows=Rows(signed, given))

    def fresh_numbers(self, begin: int, used: Hash | None) -> Connection:
        """Have the numbers of own hashes go on at a number: those between may have been used and forgotten.

        No commit is taken on a hash of before any more, but on the one that is ``used``.
        """
        receiving = self.duplex.receiving
        left = tuple(item for item in receiving.requested if item.revoke_hash == used)
        duplex = replace(self.duplex, receiving=replace(receiving, requested=left, next_number=begin))
        return replace(self, duplex=duplex, jumps=(*self.jumps, (receiving.next_number, begin)))

    @property
    def is_doubtful(self) -> bool:
        """Whether the highest commit received is on a hash from before ``fresh_numbers``: its secret may have left."""
        receiving = self.duplex.receiving
        if not self.jumps or not receiving.active:
            return False
        return not self.jumps[-1][1] <= receiving.active[-1].number < receiving.next_number

    def own_hashes(self, key: Key) -> dict[Hash, int]:
        """Derive all hashes that this party has handed out, each with its number. ``key``: the wallet's."""
        secrets, last = self.secrets(key), self.duplex.receiving.next_number
        begins, ends = (0, *(to for _, to in self.jumps)), (*(at for at, _ in self.jumps), last)
        numbers = (number for begin, end in zip(begins, ends, strict=True) for number in range(begin, end))
        return {secrets.revoke_hash(number): number for number in numbers}

    def signed(self, given: Remainder) -> bool:
        """Tell whether a remainder is that of a commit in this file: an old one may have another on the same hash."""
        row = self.rows.signed.get(given.revoke_hash)
        return row is not None and row.quantity == given.quantity

    def knows(self, revoke_hash: Hash) -> bool:
        """Tell whether the connection has seen a hash before, on either side."""
        return revoke_hash in self.rows.signed or revoke_hash in self.rows.own

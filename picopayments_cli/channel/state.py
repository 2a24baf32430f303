"""One one-way channel, from the payer's side and from the payee's: what was asked for, signed, received, given back.

A commit names the cumulative quantity; the highest active one counts, and lower ones stay active so that the payee can
fall back on them. Neither side holds more here than a sync needs: the highest active commits, without a gap, and
whether there are lower ones (``deeper``). The rows of all others stay where the owner keeps them:

* the payee forgets a commit once it is given back, as it derives the secret anew from its number;
* the payer forgets none while its anchor is unspent. One that was revoked moves more than is due as soon as enough has
  been given back, to nothing at the last, so each can be a theft one day. It is found by its quantity and hash then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from picopayments_cli.channel.halves import (
    Commit,
    Remainder,
    check_commit,
    check_remainder,
    sign_commit,
    sign_remainder,
)
from picopayments_cli.channel.keys import Key, read_secret
from picopayments_cli.channel.transactions import Contract
from picopayments_cli.channel.values import Coin, Hash, Quantity, Secret, hash_of
from picopayments_cli.errors import (
    BadCommitQuantity,
    BadSecret,
    ConnectionNotOpen,
    NotTransferable,
    RemainderMissing,
    RepeatedHash,
    UnknownRevokeHash,
)

# Hashes handed out and not used yet that are kept: a payer uses the newest that it has, one answer behind at most.
KEPT_REQUESTS = 8
MOST_REVOKED = 256  # commits that one message gives back


@dataclass(frozen=True)
class Handed:
    """A hash that the payee handed out for a commit to come; ``number``: that of its secret."""

    revoke_hash: Hash
    number: int


@dataclass(frozen=True)
class Held:
    """A commit that the payee received and has not given back; ``number``: that of its secret."""

    commit: Commit
    number: int

    @property
    def quantity(self) -> Quantity:
        """Return what it moves, with all that was moved before."""
        return self.commit.quantity

    @property
    def revoke_hash(self) -> Hash:
        """The hash that it is on."""
        return self.commit.revoke_hash


@dataclass(frozen=True)
class Signed:
    """A commit that the payer signed: with the payee's signature of its remainder, and the secret once it is revoked.

    Its own signatures the payer can make again.
    """

    quantity: Quantity
    revoke_hash: Hash
    remainder: bytes | None = None
    secret: Secret | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Sending:
    """The payer's side. ``requested``: hashes from the payee without a commit; ``active``: by quantity, ascending.

    The newest commit is the highest active one until a remainder for it is here.
    """

    contract: Contract
    anchor: Coin | None = None
    requested: tuple[Hash, ...] = ()
    active: tuple[Signed, ...] = ()
    deeper: bool = False

    def __post_init__(self) -> None:
        _check_window(self.active, self.deeper)

    @property
    def moved(self) -> int:
        """Return what has moved to the payee: the highest commit that was not revoked."""
        return self.active[-1].quantity if self.active else 0

    @property
    def room(self) -> int:
        """Return what a new commit can still move: nothing without a hash for it."""
        return self.contract.quantity - self.moved if self.requested else 0

    @property
    def awaited(self) -> Signed | None:
        """The newest commit, where the payee owes its remainder."""
        newest = self.active[-1] if self.active else None
        return newest if newest is not None and newest.remainder is None else None


@dataclass(frozen=True)
class Receiving:
    """The payee's side. ``requested``: hashes handed out that no commit has used; ``active`` by quantity, ascending.

    ``newest``: the last commit received, given back since or not; ``owing``: no message carried its remainder yet.
    ``half_left``: the payee's own signature of a commit has left the machine. ``next_number``: of the next secret.
    """

    contract: Contract
    anchor: Coin | None = None
    requested: tuple[Handed, ...] = ()
    active: tuple[Held, ...] = ()
    deeper: bool = False
    newest: Commit | None = None
    owing: bool = False
    half_left: bool = False
    next_number: int = 0

    def __post_init__(self) -> None:
        _check_window(self.active, self.deeper)

    @property
    def moved(self) -> int:
        """Return what has moved to the payee: the highest commit that was not given back."""
        return self.active[-1].quantity if self.active else 0


@dataclass(frozen=True)
class Changes:
    """The rows that a step changes. ``signed``: written, new or not; ``held``: added; ``given_back``: dropped.

    They are written in the transaction, or the file, that holds the new state.
    """

    signed: tuple[Signed, ...] = ()
    held: tuple[Held, ...] = ()
    given_back: tuple[Held, ...] = ()

    def __add__(self, later: Changes) -> Changes:
        return Changes(
            self.signed + later.signed, self.held + later.held, self.given_back + later.given_back
        )  # a later row of the same hash replaces an earlier one


def _check_window(active: Sequence[Held | Signed], deeper: bool) -> None:
    if deeper and not active:
        raise ValueError("lower active commits must be loaded first: none is left of the highest")


def known_anchor(side: Sending | Receiving) -> Coin:
    """The channel's anchor. Raises ConnectionNotOpen."""
    if side.anchor is None:
        raise ConnectionNotOpen("The deposit has not been seen on the chain yet: wait until it is confirmed.")
    return side.anchor


def deepened(receiving: Receiving, lower: Sequence[Held], deeper: bool) -> Receiving:
    """The payee's side with the next lower active commits loaded, ascending."""
    joined = (*lower, *receiving.active)
    if any(one.quantity > other.quantity for one, other in pairwise(joined)):
        raise ValueError("the commits loaded are not the next lower ones")
    return replace(receiving, active=joined, deeper=deeper)


# The payee hands out hashes -----------------------------------------------------------------------------------------


def hand_out(receiving: Receiving, revoke_hash: Hash) -> Receiving:
    """The payee's side with the hash of its next secret handed out."""
    handed = Handed(revoke_hash, receiving.next_number)
    requested = (*receiving.requested, handed)[-KEPT_REQUESTS:]
    return replace(receiving, requested=requested, next_number=receiving.next_number + 1)


def request_commit(sending: Sending, revoke_hash: Hash, *, seen: bool) -> Sending:
    """The payer's side with one more hash for a later commit. Raises RepeatedHash.

    ``seen``: whether the connection's rows have the hash, on either side: its secret could be known.
    """
    if seen or revoke_hash in sending.requested or any(item.revoke_hash == revoke_hash for item in sending.active):
        raise RepeatedHash("The hash for the next commit was used before in this connection.", hash=revoke_hash.hex())
    return replace(sending, requested=(*sending.requested, revoke_hash)[-KEPT_REQUESTS:])


# The payer commits --------------------------------------------------------------------------------------------------


def commit(sending: Sending, quantity: int, key: Key) -> tuple[Sending, Commit]:
    """The payer's side with a new highest commit, and the commit as it goes to the payee. ``key``: the payer's.

    Raises NotTransferable where the deposit is too small, UnknownRevokeHash where the payee gave no hash,
    RemainderMissing where it owes a remainder, ConnectionNotOpen.
    """
    if not sending.moved < quantity <= sending.contract.quantity:
        raise NotTransferable(
            f"The deposit of {sending.contract.quantity} can't cover a commit of {quantity}.",
            quantity=quantity,
            moved=sending.moved,
            deposit=sending.contract.quantity,
        )
    if not sending.requested:
        raise UnknownRevokeHash(
            "The payee has given no hash for another commit. Run `picopayments-cli sync` again, or close the "
            "connection."
        )
    if sending.awaited is not None:
        raise _remainder_missing(sending.awaited)
    made = sign_commit(sending.contract, known_anchor(sending), Quantity(quantity), sending.requested[-1], key)
    row = Signed(made.quantity, made.revoke_hash)
    # Hashes older than the one that is used are never used.
    return replace(sending, active=(*sending.active, row), requested=()), made


def accept_commit(receiving: Receiving, made: Commit) -> Receiving:
    """The payee's side with a commit received. Both of its signatures are checked.

    Raises UnknownRevokeHash, BadCommitQuantity, BadPayerSignature, ConnectionNotOpen.
    """
    place = next((n for n, item in enumerate(receiving.requested) if item.revoke_hash == made.revoke_hash), None)
    if place is None:
        raise UnknownRevokeHash("The commit is on a hash that is not open for one.", hash=made.revoke_hash.hex())
    if not receiving.moved < made.quantity <= receiving.contract.quantity:
        raise BadCommitQuantity(
            f"A commit of {made.quantity} does not lie between the {receiving.moved} moved and the deposit of "
            f"{receiving.contract.quantity}.",
            quantity=made.quantity,
            moved=receiving.moved,
            deposit=receiving.contract.quantity,
        )
    check_commit(receiving.contract, known_anchor(receiving), made)
    return replace(
        receiving,
        requested=receiving.requested[place + 1 :],
        active=(*receiving.active, Held(made, receiving.requested[place].number)),
        newest=made,
        owing=True,
    )


# Remainders ---------------------------------------------------------------------------------------------------------


def newest_remainder(receiving: Receiving, key: Key) -> Remainder | None:
    """The remainder of the newest commit received. ``key``: the payee's."""
    if receiving.newest is None:
        return None
    return sign_remainder(receiving.contract, known_anchor(receiving), receiving.newest, key)


def give_remainder(receiving: Receiving, key: Key) -> tuple[Receiving, Remainder | None]:
    """The payee's side once a message carries the remainder that is owed, and that remainder."""
    if not receiving.owing:
        return receiving, None
    return replace(receiving, owing=False), newest_remainder(receiving, key)


def accept_remainder(sending: Sending, given: Remainder | None) -> Sending:
    """The payer's side with the remainder that the payee owes; one that it does not owe is passed over.

    Raises RemainderMissing, BadPayeeSignature.
    """
    awaited = sending.awaited
    if awaited is None:
        return sending
    if given is None or (given.quantity, given.revoke_hash) != (awaited.quantity, awaited.revoke_hash):
        raise _remainder_missing(awaited)
    check_remainder(sending.contract, known_anchor(sending), given)
    return replace(sending, active=(*sending.active[:-1], replace(awaited, remainder=given.signature)))


def _remainder_missing(awaited: Signed) -> RemainderMissing:
    return RemainderMissing(
        f"The peer owes the signature of the remainder of the commit of {awaited.quantity}. Nothing of the message was "
        "taken. If it happens again, close the connection.",
        quantity=awaited.quantity,
        hash=awaited.revoke_hash.hex(),
    )


# The payee gives back -----------------------------------------------------------------------------------------------


def floor_of(receiving: Receiving, amount: int) -> int:
    """The active commits that giving back an amount needs: of this quantity at least, and the next lower one.

    ``MOST_REVOKED`` and one of the highest always suffice.
    """
    return max(receiving.moved - amount, 0)


def to_revoke(receiving: Receiving, amount: int) -> tuple[Held, ...]:
    """The commits, highest first, whose secrets give back as much of ``amount`` as can be without passing it.

    At most ``MOST_REVOKED``, and none once the payee's half of a commit has left. Raises ValueError where
    ``floor_of`` says that lower commits are needed, and they are not loaded.
    """
    active, count = receiving.active, 0
    floor = receiving.moved - amount
    while not receiving.half_left and count < min(len(active), MOST_REVOKED):
        if count + 1 == len(active) and receiving.deeper:
            raise ValueError(f"active commits lower than {active[0].quantity} must be loaded first")
        if quantity_beneath(receiving, count + 1) < floor:
            break
        count += 1
    return tuple(reversed(active[len(active) - count :]))


def quantity_beneath(side: Sending | Receiving, count: int) -> int:
    """Return what stays moved once that many of the highest commits are given back."""
    return side.active[-count - 1].quantity if count < len(side.active) else 0


def give_back(receiving: Receiving, commits: Sequence[Held]) -> Receiving:
    """The payee's side without its highest commits, whose secrets leave the machine: they are never published."""
    kept = len(receiving.active) - len(commits)
    if receiving.half_left and commits:
        raise ValueError("no secret of a channel leaves once the own half of one of its commits has")
    if receiving.active[kept:] != tuple(reversed(commits)):
        raise ValueError("only the highest commits are given back, the highest first")
    return replace(receiving, active=receiving.active[:kept])


def revoke(sending: Sending, secrets: Sequence[bytes]) -> tuple[Sending, tuple[Signed, ...]]:
    """The payer's side without the highest commits, whose secrets the payee revealed; and these, with their secrets.

    One more than are revoked must be loaded. Raises BadSecret, RemainderMissing: then nothing is credited.
    """
    revoked = []
    for number, data in enumerate(secrets, start=1):
        secret = read_secret(data)
        item = sending.active[-number] if number <= len(sending.active) else None
        if item is None or hash_of(secret) != item.revoke_hash:
            raise BadSecret(
                "A secret was revealed that does not revoke the highest active commit.", hash=hash_of(secret).hex()
            )
        if item.remainder is None:
            raise _remainder_missing(item)
        revoked.append(replace(item, secret=secret))
    return replace(sending, active=sending.active[: len(sending.active) - len(revoked)]), tuple(revoked)

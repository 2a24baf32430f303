"""The pair of channels that a connection is, from one party's side: what it can send, sends, and accepts.

The same code serves client and hub: each *sends* on the channel that its own deposit backs and *receives* on the other.
All that has left the machine counts, answered or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from picopayments_cli.channel.halves import Commit, Remainder
from picopayments_cli.channel.keys import Secrets
from picopayments_cli.channel.state import (
    MOST_REVOKED,
    Changes,
    Held,
    Receiving,
    Sending,
    accept_commit,
    accept_remainder,
    commit,
    give_back,
    give_remainder,
    quantity_beneath,
    request_commit,
    revoke,
    to_revoke,
)
from picopayments_cli.channel.state import hand_out as hand_out_hash
from picopayments_cli.channel.values import HASH_SIZE, Hash, Quantity, Secret
from picopayments_cli.errors import AmountsDiffer, CloseSigned, NotTransferable, PicopaymentsError, RepeatedHash


@dataclass(frozen=True)
class Duplex:
    """A connection's two channels: on ``sending`` this party is the payer, on ``receiving`` the payee.

    ``close_signed``: a signature of this party's on a close has left. From then on nothing of the connection is
    credited, signed or revealed any more but closes.
    """

    sending: Sending
    receiving: Receiving
    close_signed: bool = False

    @property
    def net(self) -> int:
        """Return what has moved to this party, less what has moved from it."""
        return self.receiving.moved - self.sending.moved

    @property
    def guaranteed(self) -> int:
        """Return the guaranteed balance: the quantity that this party can get on the chain alone.

        Its deposit less the highest commit signed and not revoked to it, and the highest commit received whose secret
        never left. A close that it signs leaves it at least that.
        """
        return self.sending.contract.quantity + self.net


@dataclass(frozen=True)
class Half:
    """One party's half of a sync: the remainder it owes, secrets of commits given back, a new commit for the rest."""

    remainder: Remainder | None = None
    revokes: tuple[Secret, ...] = field(default=(), repr=False)
    commit: Commit | None = None


def check_unsigned(duplex: Duplex) -> None:
    """Refuse to go on with a connection on whose close this party's signature has left. Raises CloseSigned."""
    if duplex.close_signed:
        raise CloseSigned(
            "The connection's close is signed: nothing moves on it any more. Run `picopayments-cli sync` to settle it."
        )


# Moving a quantity --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How an amount is moved: the commits given back (highest first) and the new cumulative quantity, or None."""

    given_back: tuple[Held, ...]
    quantity: int | None


def plan(duplex: Duplex, amount: int) -> Plan | None:
    """How to move an amount to the peer: give back first, then commit to the rest. None: it can't be done.

    Giving back comes first because it frees room on both sides, where a commit uses it up.
    """
    given_back = to_revoke(duplex.receiving, amount)
    rest = amount - _returned(duplex.receiving, given_back)
    if rest > duplex.sending.room or duplex.close_signed:
        return None
    return Plan(given_back, duplex.sending.moved + rest if rest else None)


def _returned(receiving: Receiving, given_back: Sequence[Held]) -> int:
    """Return what revoking the highest commits takes off a channel."""
    return receiving.moved - quantity_beneath(receiving, len(given_back))


def most_transferable(duplex: Duplex, amount: int) -> int:
    """The largest part of an amount that can be moved to the peer now."""
    if duplex.close_signed:
        return 0
    returned = _returned(duplex.receiving, to_revoke(duplex.receiving, amount))
    return returned + min(duplex.sending.room, amount - returned)


def charged(duplex: Duplex, fee: int) -> Duplex | None:
    """The state once the peer has moved a fee as its own ``plan`` does it; None where it can't.

    It is for looking ahead only: the commit has no signatures, and no secret is here of what is given back.
    """
    sending, receiving = duplex.sending, duplex.receiving
    count, loaded = 0, len(sending.active) - (1 if sending.deeper else 0)
    while count < min(loaded, MOST_REVOKED) and sending.moved - quantity_beneath(sending, count + 1) <= fee:
        count += 1
    rest = fee - (sending.moved - quantity_beneath(sending, count))
    if rest > receiving.contract.quantity - receiving.moved:
        return None
    left = replace(sending, active=sending.active[: len(sending.active) - count])
    if not rest:
        return replace(duplex, sending=left)
    made = Commit(Quantity(receiving.moved + rest), Hash(bytes(HASH_SIZE)), b"", b"")
    paid = replace(receiving, active=(*receiving.active, Held(made, receiving.next_number)))
    return replace(duplex, sending=left, receiving=paid)


def transferable(duplex: Duplex, amount: int) -> bool:
    """Whether an amount can be moved to the peer now: the same function plans the transfer itself."""
    return plan(duplex, amount) is not None


def transfer(duplex: Duplex, amount: int, secrets: Secrets) -> tuple[Duplex, Half, Changes]:
    """The state once an amount is on its way to the peer, what carries it, and the rows that it changes.

    ``secrets``: this party's of the connection. Raises CloseSigned, NotTransferable, RemainderMissing.
    """
    check_unsigned(duplex)
    planned = plan(duplex, amount)
    if planned is None:
        raise NotTransferable(
            f"The connection can't move {amount} now: its deposit has room for {duplex.sending.room}, and of the "
            f"{duplex.receiving.moved} received only whole commits can be given back, {MOST_REVOKED} at once. Send "
            "less, or receive first.",
            quantity=amount,
            room=duplex.sending.room,
            received=duplex.receiving.moved,
        )
    receiving, remainder = give_remainder(duplex.receiving, secrets.payee)
    revoked = tuple(secrets.revoke(item.number) for item in planned.given_back)
    moved = replace(duplex, receiving=give_back(receiving, planned.given_back))
    gone = Changes(given_back=planned.given_back)
    if planned.quantity is None:
        return moved, Half(remainder, revoked), gone
    sending, made = commit(duplex.sending, planned.quantity, secrets.payer)
    return replace(moved, sending=sending), Half(remainder, revoked, made), gone + Changes(sending.active[-1:])


def deliverable(duplex: Duplex, due: int, amounts: Sequence[int]) -> tuple[int, int]:
    """Return what can be moved to the peer now, of what is due and of amounts that wait, oldest first.

    How many of the amounts, and the sum to move: those and all that is due. Where no such sum can be moved whole, as
    much of what is due as can, and none of the amounts.
    """
    total = due + sum(amounts)
    for count in range(len(amounts), -1, -1):
        if transferable(duplex, total):  # not every smaller sum needs to be: whole commits are given back
            return count, total
        total -= amounts[count - 1] if count else 0
    return 0, most_transferable(duplex, due)


# Taking what the peer sent ------------------------------------------------------------------------------------------


def accept(duplex: Duplex, half: Half) -> tuple[Duplex, Changes]:
    """The state with the peer's half of a sync applied, and the rows that it changes.

    The remainder comes first: a secret counts only where the remainder of its commit is held. Raises CloseSigned, and
    what ``accept_remainder``, ``revoke`` and ``accept_commit`` raise; then nothing counts.
    """
    check_unsigned(duplex)
    awaited = duplex.sending.awaited is not None
    sending = accept_remainder(duplex.sending, half.remainder)
    completed = sending.active[-1:] if awaited else ()
    sending, revoked = revoke(sending, half.revokes)
    if half.commit is None:
        return replace(duplex, sending=sending), Changes(completed + revoked)
    receiving = accept_commit(duplex.receiving, half.commit)
    return replace(duplex, sending=sending, receiving=receiving), Changes(completed + revoked, receiving.active[-1:])


def settle(duplex: Duplex, half: Half, expected: int) -> tuple[Duplex, Changes, int]:
    """The state with a reply's half applied, the rows changed, and how much more than ``expected`` it moved.

    More is taken (a peer heals itself so after a lost answer), less is refused. Raises AmountsDiffer, and what
    ``accept`` raises.
    """
    settled, changes = accept(duplex, half)
    gained = settled.net - duplex.net
    if gained < expected:
        raise AmountsDiffer(
            f"The peer moved {gained} where its payments add up to {expected}. Nothing of the reply was taken.",
            moved=gained,
            expected=expected,
        )
    return settled, changes, gained - expected


def noted(duplex: Duplex, half: Half) -> Duplex:
    """The state once a reply was refused for what else it holds: its commit is not credited, its remainder is owed.

    A commit that would not be credited by itself is passed over.
    """
    if half.commit is None:
        return duplex
    try:
        taken = accept_commit(duplex.receiving, half.commit)
    except PicopaymentsError:
        return duplex
    return replace(duplex, receiving=replace(duplex.receiving, newest=taken.newest, owing=True))


def add_request(duplex: Duplex, next_hash: Hash, *, seen: bool) -> Duplex:
    """The state with the peer's hash for this party's next commit. Raises RepeatedHash, CloseSigned.

    ``seen``: whether a row of the connection has that hash, on either side.
    """
    check_unsigned(duplex)
    receiving = duplex.receiving
    own = {item.revoke_hash for item in receiving.requested} | {item.revoke_hash for item in receiving.active}
    if next_hash in own:
        raise RepeatedHash("The hash for the next commit is one of this connection's own.", hash=next_hash.hex())
    return replace(duplex, sending=request_commit(duplex.sending, next_hash, seen=seen))


def hand_out(duplex: Duplex, secrets: Secrets) -> tuple[Duplex, Hash]:
    """The state with a hash of this party's own for the peer's next commit, and that hash. Raises CloseSigned."""
    check_unsigned(duplex)
    own_hash = secrets.revoke_hash(duplex.receiving.next_number)
    return replace(duplex, receiving=hand_out_hash(duplex.receiving, own_hash)), own_hash


def expecting(duplex: Duplex) -> Duplex:
    """The state as it will be once the peer's next hash is there, for what is to be moved later."""
    if duplex.sending.requested:
        return duplex
    return replace(duplex, sending=replace(duplex.sending, requested=(Hash(bytes(HASH_SIZE)),)))


def half_left(duplex: Duplex) -> Duplex:
    """The state once this party's own half of a commit to it may have left the machine."""
    return replace(duplex, receiving=replace(duplex.receiving, half_left=True))

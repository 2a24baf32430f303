"""The pair of channels that a connection is, from one party's side: what it can send, sends, and accepts.

The same code serves client and hub: each *sends* on the channel that its own deposit backs and *receives* on the
other. What has left the machine counts, answered or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from picopayments_cli.channel.values import HASH_SIZE, Hash, Secret, hash_of
from picopayments_cli.channel2.keys import Key
from picopayments_cli.channel2.scripts import CommitScript
from picopayments_cli.channel2.state import (
    Channel,
    Commit,
    Offer,
    accept_commit,
    commit,
    give_back,
    is_known,
    offer_of,
    request_commit,
    revoke,
    to_revoke,
)
from picopayments_cli.errors import AmountsDiffer, NotTransferable, RepeatedHash


@dataclass(frozen=True)
class Duplex:
    """A connection's two channels: on ``sending`` this party is the payer, on ``receiving`` the payee."""

    sending: Channel
    receiving: Channel

    @property
    def net(self) -> int:
        """Return what has moved to this party, less what has moved from it."""
        return self.receiving.moved - self.sending.moved

    @property
    def guaranteed(self) -> int:
        """Return the guaranteed balance: the quantity that this party can get on the chain alone.

        Its deposit less the highest commit signed and not revoked to it, and the highest commit received whose secret
        never left.
        """
        return self.sending.quantity + self.net


@dataclass(frozen=True)
class Half:
    """One party's half of a sync: revoke secrets of commits given back, and a new commit for the rest."""

    revokes: tuple[Secret, ...] = field(default=(), repr=False)
    offer: Offer | None = None


def standing(channel: Channel) -> Half:
    """Return a payer's highest commit that was not given back, and the secrets of those that were and are not lower.

    By it a payee that has lost its newest state knows which commit it may publish, see ``corrected``.
    """
    given_back = tuple(item.secret for item in channel.revoked if item.quantity >= channel.moved)
    known = channel.active and channel.anchor is not None
    return Half(given_back, offer_of(channel, channel.active[-1]) if known else None)


def corrected(channel: Channel, said: Half, is_own: Callable[[Hash], bool]) -> Channel:
    """Return a payee's channel with what its payer shows (``standing``) of a state that is newer than the payee's own.

    A commit counts as given back where its revoke secret is shown, which the payee alone could reveal; and one that the
    payee does not know is taken if it is on a hash that it may have handed out since (``is_own``). What is up to date
    stays as it is. Raises what ``accept_commit`` raises.
    """
    given_back = {hash_of(secret) for secret in said.revokes}
    active = tuple(item for item in channel.active if item.revoke_hash not in given_back)
    known = replace(channel, active=active) if active != channel.active else channel
    if said.offer is None:
        return known
    named = CommitScript.parse(said.offer.script).revoke_hash
    if named in given_back or any(item.revoke_hash == named for item in active) or not is_own(named):
        return known
    (made,) = accept_commit(replace(channel, active=(), requested=(named,)), said.offer).active
    return replace(known, active=tuple(sorted((*active, made), key=lambda item: item.quantity)))


@dataclass(frozen=True)
class Plan:
    """How an amount is moved: the commits given back (highest first) and the new cumulative quantity, or None."""

    given_back: tuple[Commit, ...]
    quantity: int | None


def plan(duplex: Duplex, amount: int, *, giving_back: bool = True) -> Plan | None:
    """Tell how to move an amount to the peer: give back first, then commit to the rest. None: it can't be done.

    Giving back comes first because it frees room on both sides, where a commit uses it up.
    """
    given_back = to_revoke(duplex.receiving, amount) if giving_back else ()
    rest = amount - _returned(duplex.receiving, given_back)
    if rest > duplex.sending.room:
        return None
    return Plan(given_back, duplex.sending.moved + rest if rest else None)


def _returned(receiving: Channel, given_back: Sequence[Commit]) -> int:
    """Return what revoking the highest commits takes off a channel."""
    kept = len(receiving.active) - len(given_back)
    return receiving.moved - (receiving.active[kept - 1].quantity if kept else 0)


def most_transferable(duplex: Duplex, amount: int) -> int:
    """Return the largest part of an amount that can be moved to the peer now."""
    given_back = _returned(duplex.receiving, to_revoke(duplex.receiving, amount))
    return given_back + min(duplex.sending.room, amount - given_back)


def transferable(duplex: Duplex, amount: int) -> bool:
    """Tell whether an amount can be moved to the peer now: the same function plans the transfer itself."""
    return plan(duplex, amount) is not None


def transfer(
    duplex: Duplex, amount: int, key: Key, secret_of: Callable[[Hash], Secret], *, giving_back: bool = True
) -> tuple[Duplex, Half]:
    """Return the state once an amount is on its way to the peer, and what carries it.

    ``secret_of`` gives this party's revoke secret of a hash. Raises NotTransferable.
    """
    planned = plan(duplex, amount, giving_back=giving_back)
    if planned is None:
        raise NotTransferable(
            f"The connection can't move {amount} now: its deposit has room for {duplex.sending.room}, and of the "
            f"{duplex.receiving.moved} received only whole commits can be given back. Send less, or receive first.",
            quantity=amount,
            room=duplex.sending.room,
            received=duplex.receiving.moved,
        )
    secrets = tuple(secret_of(item.revoke_hash) for item in planned.given_back)
    receiving = give_back(duplex.receiving, planned.given_back)
    if planned.quantity is None:
        return Duplex(duplex.sending, receiving), Half(secrets)
    sending, made = commit(duplex.sending, planned.quantity, key)
    return Duplex(sending, receiving), Half(secrets, made)


def accept(duplex: Duplex, half: Half) -> Duplex:
    """Return the state with the peer's half of a sync applied: its revocations credited, its commit taken.

    Raises what ``revoke`` and ``accept_commit`` raise; then nothing counts.
    """
    sending = revoke(duplex.sending, half.revokes)
    receiving = accept_commit(duplex.receiving, half.offer) if half.offer else duplex.receiving
    return Duplex(sending, receiving)


def settle(duplex: Duplex, half: Half, expected: int) -> tuple[Duplex, int]:
    """Return the state with a reply's half applied, and how much more than ``expected`` it moved.

    More is taken (a peer heals itself so after a lost answer), less is refused. Raises AmountsDiffer, and what
    ``accept`` raises.
    """
    settled = accept(duplex, half)
    gained = settled.net - duplex.net
    if gained < expected:
        raise AmountsDiffer(
            f"The peer moved {gained} where its payments add up to {expected}. Nothing of the reply was taken.",
            moved=gained,
            expected=expected,
        )
    return settled, gained - expected


def add_request(duplex: Duplex, next_hash: Hash) -> Duplex:
    """Return the state with the peer's hash for this party's next commit. Raises RepeatedHash.

    It must differ from every hash of the connection, on either side.
    """
    if is_known(duplex.receiving, next_hash):
        raise RepeatedHash("The hash for the next commit is one of this connection's own.", hash=next_hash.hex())
    return replace(duplex, sending=request_commit(duplex.sending, next_hash))


def hand_out(duplex: Duplex, own_hash: Hash) -> Duplex:
    """Return the state with a hash of this party's own, for the peer's next commit."""
    return replace(duplex, receiving=request_commit(duplex.receiving, own_hash))


def expecting(duplex: Duplex) -> Duplex:
    """Return the state as it will be once the peer's next hash is there, for what is to be moved later."""
    if duplex.sending.requested:
        return duplex
    return replace(duplex, sending=replace(duplex.sending, requested=(Hash(bytes(HASH_SIZE)),)))


def deliverable(duplex: Duplex, due: int, amounts: Sequence[int]) -> tuple[int, int]:
    """Return what can be moved to the peer now, of what is due and of amounts that wait, oldest first.

    How many of the amounts, and the sum to move: those and all that is due. Where no such sum can be moved whole, as
    much of what is due as can, and none of the amounts.
    """
    best: tuple[int, int] | None = None
    total = due
    for count in range(len(amounts) + 1):
        total += amounts[count - 1] if count else 0
        if transferable(duplex, total):  # not every smaller sum needs to be: whole commits are given back
            best = count, total
    return best or (0, most_transferable(duplex, due))

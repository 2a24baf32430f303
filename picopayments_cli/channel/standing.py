"""How a connection stands by one party's word, and how the other, whose state may be older, learns from it.

A payer names its highest commit that was not revoked to it. A payee that holds higher ones *doubts* those: it names
their hashes, and a secret shown for one proves that it was given back, as the payee alone could reveal it. So a party
with an old state catches up, ``MOST_REVOKED`` commits in each exchange, however many there ever were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.halves import Commit, Remainder, check_commit, sign_commit
from picopayments_cli.channel.keys import Secrets
from picopayments_cli.channel.state import (
    MOST_REVOKED,
    Changes,
    Handed,
    Held,
    Receiving,
    Sending,
    Signed,
    accept_remainder,
    newest_remainder,
)
from picopayments_cli.channel.values import Hash, Secret, hash_of
from picopayments_cli.errors import PicopaymentsError


@dataclass(frozen=True)
class Standing:
    """The word of one party: its highest commit as payer; the remainder of the newest commit that it received.

    ``revokes``: secrets that the peer's doubts ask for, and own ones that left before; ``doubts``: hashes of commits
    that it holds as payee, higher than what the peer named.
    """

    commit: Commit | None = None
    remainder: Remainder | None = None
    revokes: tuple[Secret, ...] = field(default=(), repr=False)
    doubts: tuple[Hash, ...] = ()


@dataclass(frozen=True)
class Found:
    """The rows that the hashes of secrets shown, or of doubts, find beyond what is loaded."""

    signed: Sequence[Signed] = ()
    held: Sequence[Held] = ()


def standing(duplex: Duplex, secrets: Secrets, revokes: Iterable[Secret] = (), doubts: Iterable[Hash] = ()) -> Standing:
    """How the connection stands by this party. Its signature of the commit has left before, and is made again."""
    sending, receiving = duplex.sending, duplex.receiving
    top = sending.active[-1] if sending.active and sending.anchor is not None else None
    made = None
    if top is not None and sending.anchor is not None:
        made = sign_commit(sending.contract, sending.anchor, top.quantity, top.revoke_hash, secrets.payer)
    remainder = newest_remainder(receiving, secrets.payee) if receiving.anchor is not None else None
    return Standing(made, remainder, tuple(revokes)[:MOST_REVOKED], tuple(doubts)[:MOST_REVOKED])


def doubts(receiving: Receiving, named: Commit | None) -> tuple[Hash, ...]:
    """The hashes of active commits higher than the one that the payer names, highest first, of those loaded."""
    least = named.quantity if named is not None else 0
    return tuple(item.revoke_hash for item in reversed(receiving.active) if item.quantity > least)[:MOST_REVOKED]


def proofs(doubted: Sequence[Hash], found: Sequence[Signed]) -> tuple[Secret, ...]:
    """The secrets that the payee of those commits has revealed."""
    return tuple(item.secret for item in found if item.secret is not None and item.revoke_hash in doubted)


# Learning -----------------------------------------------------------------------------------------------------------


def learned(duplex: Duplex, said: Standing, found: Found, secrets: Secrets) -> tuple[Duplex, Changes]:
    """The state with what the peer's standing shows, and the rows that it changes; what is not valid is passed over.

    A secret counts for the commit that it opens, on either channel, with or without a remainder. Once this party's
    signature on a close has left, only what it has given back itself is learned, and the remainder, without which the
    rest would lie until the expiry where the peer publishes its commit all the same. As many of the highest active
    commits as there are secrets, and one more, must be loaded on both channels.
    """
    shown = {hash_of(secret): secret for secret in said.revokes}
    receiving, given_back = _given_back(duplex.receiving, shown, found.held)
    sending = _with_remainder(duplex.sending, said.remainder)
    if duplex.close_signed:
        taken = sending.active[-1:] if sending != duplex.sending else ()
        return replace(duplex, sending=sending, receiving=receiving), Changes(signed=taken, given_back=given_back)
    sending, signed = _credited(sending, shown, found.signed)
    if sending.active[-1:] != duplex.sending.active[-1:] and sending.active and sending.active[-1].remainder:
        signed = (*signed, sending.active[-1])
    receiving, held = _with_commit(receiving, said.commit, shown, secrets)
    return replace(duplex, sending=sending, receiving=receiving), Changes(signed, held, given_back)


def _with_remainder(sending: Sending, given: Remainder | None) -> Sending:
    try:
        return accept_remainder(sending, given)
    except PicopaymentsError:
        return sending


def _credited(
    sending: Sending, shown: Mapping[Hash, Secret], found: Sequence[Signed]
) -> tuple[Sending, tuple[Signed, ...]]:
    """The payer's side without the commits that secrets open, and these."""
    rows = {item.revoke_hash: item for item in (*found, *sending.active)}
    revoked = [
        replace(rows[name], secret=secret)
        for name, secret in shown.items()
        if name in rows and rows[name].secret is None
    ]
    active = tuple(item for item in sending.active if item.revoke_hash not in shown)
    return replace(sending, active=active), tuple(revoked)


def _given_back(
    receiving: Receiving, shown: Mapping[Hash, Secret], found: Sequence[Held]
) -> tuple[Receiving, tuple[Held, ...]]:
    """The payee's side without the commits that secrets open, and these."""
    rows = {item.revoke_hash: item for item in (*found, *receiving.active)}
    active = tuple(item for item in receiving.active if item.revoke_hash not in shown)
    return replace(receiving, active=active), tuple(item for name, item in rows.items() if name in shown)


def _with_commit(
    receiving: Receiving, named: Commit | None, shown: Mapping[Hash, Secret], secrets: Secrets
) -> tuple[Receiving, tuple[Held, ...]]:
    """The payee's side with the commit that its payer names, where that is valid and may be newer than this state."""
    known = {*shown, *(item.revoke_hash for item in receiving.active)}
    lowest = receiving.active[0].quantity if receiving.deeper else 0
    if named is None or receiving.anchor is None or named.revoke_hash in known or named.quantity < lowest:
        return receiving, ()
    number = _number_of(receiving, named.revoke_hash, secrets)
    if number is None:
        return receiving, ()
    try:
        check_commit(receiving.contract, receiving.anchor, named)
    except PicopaymentsError:
        return receiving, ()
    row = Held(named, number)
    corrected = replace(
        receiving,
        requested=_unused(receiving.requested, named.revoke_hash),
        active=tuple(sorted((*receiving.active, row), key=lambda item: item.quantity)),
        newest=named,
        owing=True,
        next_number=max(receiving.next_number, number + 1),
    )
    return corrected, (row,)


def _number_of(receiving: Receiving, revoke_hash: Hash, secrets: Secrets) -> int | None:
    """The number of a hash that waits for a commit, or was handed out after this state was written.

    Every other hash of this party's own has had its commit: that was given back, and who publishes it loses all.
    """
    for item in receiving.requested:
        if item.revoke_hash == revoke_hash:
            return item.number
    return secrets.number_of(revoke_hash, receiving.next_number)


def _unused(requested: tuple[Handed, ...], used: Hash) -> tuple[Handed, ...]:
    return tuple(item for item in requested if item.revoke_hash != used)

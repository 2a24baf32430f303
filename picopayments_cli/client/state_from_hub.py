"""Bring a connection back from the state that its hub keeps, sealed, for the wallet: exactly as it was, or to close.

The newest state is the one sealed in the last request that the hub has answered, and the hub's stored result of it:
the connection comes back as if that request had just left. It goes on where the hub has signed that this is the last
one and all commits are there; else it only closes.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from picopayments_cli.channel import envelope
from picopayments_cli.channel.duplex import Half
from picopayments_cli.channel.halves import Commit, Remainder, check_commit, check_remainder
from picopayments_cli.channel.kept import MOST_ROWS, StateReply, StateRequest, counted
from picopayments_cli.channel.messages import DepositReply, DepositRequest, SyncReply, SyncRequest, request_of
from picopayments_cli.channel.stages import AGREED
from picopayments_cli.channel.state import Held, Signed, known_anchor
from picopayments_cli.channel.values import Entry, Hash, hash_of
from picopayments_cli.channel.wire import NONCE_SIZE
from picopayments_cli.client.agreement import agreed_by
from picopayments_cli.client.connection import Connection, Pending
from picopayments_cli.client.document import Row, from_document, held_row, signed_row
from picopayments_cli.client.sealed import digest_of, open_state
from picopayments_cli.client.session import Session
from picopayments_cli.errors import BadReply, LocalFiles, PicopaymentsError, Unreachable

log = logging.getLogger(__name__)

CLOCK_SLACK = 600  # seconds by which the hub's clock and this machine's may differ
_MOST_PAGES = 10_000
_NUMBERS = 2**52  # of own hashes, from which on none was given before a state was brought back


@dataclass(frozen=True)
class Kept:
    """A connection as the hub keeps it; ``rows`` and ``held`` as they are after the result that it stores."""

    count: Mapping[str, Any] | None
    asked: Mapping[str, Any]
    answered: Mapping[str, Any]
    signed: Sequence[Signed]
    held: Sequence[Commit]


@dataclass(frozen=True)
class State:
    """A state as it was opened: the document, the number of its sync, and the connection with the highest commits."""

    document: Mapping[str, Any]
    counter: int
    connection: Connection


def bring_back(session: Session, bare: Connection, deposits: Sequence[Entry]) -> Connection:
    """Give a connection back with its newest state; ``bare``, which only closes, where the hub has none that is good.

    ``deposits``: what ever paid to the own deposit's address. Raises Unreachable, and then nothing is known.
    """
    try:
        kept = _ask(session, bare)
        state = _opened(session, bare, kept, deposits)
    except (LocalFiles, Unreachable):
        raise
    except PicopaymentsError as error:
        log.warning("connection %s comes back without its state, and closes: %s", bare.handle.hex(), error.message)
        return bare
    try:
        return _newest(session, state, kept)
    except PicopaymentsError as error:
        log.warning("connection %s closes, as its state is not proven: %s", bare.handle.hex(), error.message)
        closing = _closing(session, state, kept)
        ending = replace(bare.ending, remainders=tuple(_told_of(closing, kept.signed)))
        return replace(closing, stage=bare.stage, ending=ending, unproven=bare.unproven)


# Kept by the hub ----------------------------------------------------------------------------------------------------


def _ask(session: Session, bare: Connection) -> Kept:
    """Ask for all that the hub keeps of a connection. Raises BadReply, and what ``call`` raises."""
    pages = list(_pages(session, bare))
    first = pages[0]
    if first.asked is None or first.answered is None:
        raise BadReply("The hub keeps no state of it.")
    if len({_counter(page) for page in pages}) > 1:
        raise BadReply("It was synced while the hub was asked.")
    signed = [item for page in pages for item in page.signed]
    return Kept(first.count, first.asked, first.answered, signed, [item for page in pages for item in page.held])


def _counter(page: StateReply) -> int | None:
    return None if page.count is None else page.count["counter"]


def _pages(session: Session, bare: Connection) -> Iterator[StateReply]:
    after: Hash | None = None
    for _ in range(_MOST_PAGES):
        request = StateRequest(os.urandom(NONCE_SIZE), bare.handle, after)
        body = session.sealed("mph_state", request.as_json(), bare.hub_key)
        page = StateReply.parse(session.call("mph_state", [body], bare.hub_key).body)
        yield page
        names = [*(item.revoke_hash for item in page.signed), *(item.revoke_hash for item in page.held)]
        if len(names) < MOST_ROWS:
            return
        if after is not None and min(names) <= after:
            raise BadReply("The hub's list of commits is not in order.")
        after = max(names)
    raise BadReply("The hub's list of commits has no end.")


# The state ----------------------------------------------------------------------------------------------------------


def _opened(session: Session, bare: Connection, kept: Kept, deposits: Sequence[Entry]) -> State:
    """Open the state in the request that the hub gives back, which this wallet must have signed. Raises BadReply."""
    key, method = session.wallet.key, "mph_sync" if "counter" in kept.asked else "mph_deposit"
    digest = envelope.signed_by(kept.asked, key.pubkey, envelope.asking(method, bare.hub_key))
    if digest is None:
        raise BadReply("The request that the hub gives back was not signed with this wallet's key.")
    asked: SyncRequest | DepositRequest
    if method == "mph_sync":
        asked = SyncRequest.parse(kept.asked)
        counter = asked.counter
    else:
        asked, counter = DepositRequest.parse(kept.asked), 0
    if asked.handle != bare.handle:
        raise BadReply("The request that the hub gives back is of another connection.")
    is_its = envelope.signed_by(kept.answered, bare.hub_key, envelope.answering(method, bare.hub_key)) is not None
    if not is_its or request_of(kept.answered) != digest:
        raise BadReply("The result that the hub gives back is not its own of that request.")
    try:
        document = open_state(key, bare.handle, counter, asked.state)
        found = from_document(bare.handle, document)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BadReply(f"The state can't be opened, or read by this version ({error}).") from error
    anchor = found.duplex.sending.anchor
    raw = next((item.raw for item in deposits if anchor is not None and item.txid == anchor.outpoint.txid), None)
    if found.hub_key != bare.hub_key or raw is None:
        raise BadReply("The state is of another hub, or its deposit is not on the chain.")
    found = replace(found, hub_url=bare.hub_url, deposit_raw=raw, hub_deposit=bare.hub_deposit)
    if isinstance(asked, SyncRequest):
        return State(document, counter, replace(found, pending=Pending((kept.asked,), asked.payments)))
    answer = DepositReply.parse(kept.answered)
    return State(document, counter, agreed_by(replace(found, proposal=kept.asked), answer))


def _with_rows(state: State, rows: Sequence[Row]) -> Connection:
    """Return the connection of a state with these rows in the place of the highest commits."""
    whole, found = from_document(state.connection.handle, {**state.document, "rows": rows}), state.connection
    sending = replace(found.duplex.sending, active=whole.duplex.sending.active)
    receiving = replace(found.duplex.receiving, active=whole.duplex.receiving.active)
    return replace(found, rows=whole.rows, duplex=replace(found.duplex, sending=sending, receiving=receiving))


# All of it, or to close ---------------------------------------------------------------------------------------------


def _newest(session: Session, state: State, kept: Kept) -> Connection:
    """Return the connection as it goes on: with all commits, proven by the digest, and by the hub's count of now.

    The hub may have hidden syncs, and know secrets of all hashes that were handed out. So the own hashes go on at
    numbers that were never used, and of the others only that of the commit in the stored result is taken yet. Raises
    BadReply, BadHubSignature, and what a signature of the hub's fails.
    """
    found = state.connection
    if kept.count is None:
        raise BadReply("The hub says that its own database is not the newest.")
    count = counted(kept.count, found.handle, found.hub_key)
    if count.counter != state.counter:
        raise BadReply("The hub counts other syncs than the one whose state it gives back.", counter=count.counter)
    if abs(count.time - time.time()) > CLOCK_SLACK:
        raise BadReply("The hub has not signed its count just now, by this machine's clock.", time=count.time)
    half = _half(kept, found)
    signed, held = _before(kept, half)
    if digest_of(signed, held).hex() != state.document["digest"]:
        raise BadReply("The hub gives back other commits than there were.")
    for row in signed:
        _check_signed(found, row)
        if row.remainder is None:
            raise BadReply("The hub holds the remainder of a commit back.", hash=row.revoke_hash.hex())
    numbers = found.own_hashes(session.wallet.key)
    rows = [["own", name.hex()] for name in numbers]
    rows += [signed_row(row) for row in signed]
    rows += [held_row(_checked_held(found, made, numbers)) for made in held]
    used = None if half.commit is None else half.commit.revoke_hash
    begin = _NUMBERS + int.from_bytes(os.urandom(6), "big")
    return replace(_with_rows(state, rows).fresh_numbers(begin, used), stage=AGREED, count=kept.count)


def _half(kept: Kept, found: Connection) -> Half:
    """Return the hub's half of the sync whose result it stores; an empty one where there was none yet."""
    return Half() if found.pending is None else SyncReply.parse(kept.answered).half


def _before(kept: Kept, half: Half) -> tuple[list[Signed], list[Commit]]:
    """Return the commits as they were before the result that the hub stores, which the connection takes once more."""
    back = {hash_of(secret) for secret in half.revokes}
    signed = [replace(row, secret=None) if row.revoke_hash in back else row for row in kept.signed]
    return signed, [made for made in kept.held if made != half.commit]


def _check_signed(found: Connection, row: Signed) -> None:
    """Check secret and remainder of a commit that this wallet has signed. Raises BadReply, BadPayeeSignature."""
    if row.secret is not None and hash_of(row.secret) != row.revoke_hash:
        raise BadReply("The hub gives back a secret that does not revoke its commit.", hash=row.revoke_hash.hex())
    if row.remainder is not None:
        side = found.duplex.sending
        given = Remainder(row.quantity, row.revoke_hash, row.remainder)
        check_remainder(side.contract, known_anchor(side), given)


def _checked_held(found: Connection, made: Commit, numbers: Mapping[Hash, int]) -> Held:
    """Check a commit that this wallet holds. Raises BadReply, BadPayerSignature."""
    side = found.duplex.receiving
    if made.revoke_hash not in numbers:
        raise BadReply("The hub gives back a commit on a hash that is not this wallet's.", hash=made.revoke_hash.hex())
    check_commit(side.contract, known_anchor(side), made)
    return Held(made, numbers[made.revoke_hash])


def _closing(session: Session, state: State, kept: Kept) -> Connection:
    """Return the connection as it closes: with the state's own highest commits, and such as can be punished.

    No other commit counts: one that is not this wallet's would be signed for the hub, and one that was given back lost.
    """
    found, document = state.connection, state.document
    known = {*found.rows.signed}
    rows = [*document["rows"], *(["own", name.hex()] for name in found.own_hashes(session.wallet.key))]
    rows += [signed_row(row) for row in _revoked(found, kept.signed) if row.revoke_hash not in known]
    return _with_rows(state, rows)


def _told_of(found: Connection, signed: Iterable[Signed]) -> Iterator[Remainder]:
    """The hub's signatures for the rest of commits that only it names: they are known where they are published."""
    for row in signed:
        given = None if row.remainder is None else Remainder(row.quantity, row.revoke_hash, row.remainder)
        if given is not None and not found.signed(given) and _is_good(found, row):
            yield given


def _is_good(found: Connection, row: Signed) -> bool:
    try:
        _check_signed(found, row)
    except PicopaymentsError:
        return False
    return True


def _revoked(found: Connection, signed: Iterable[Signed]) -> Iterator[Signed]:
    """Of the commits that the hub says were signed, those that it has given back, whose remainders are good."""
    return (row for row in signed if row.secret is not None and _is_good(found, row))

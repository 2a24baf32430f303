"""Seal the state of a connection, which the hub keeps, and open it with nothing but the wallet's key.

Nothing that grows with a connection's age is in it: the hub has the commits of both channels itself, and the state
holds the digest of all of them, so that none can be left out, added or changed.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from picopayments_cli.channel.halves import Commit
from picopayments_cli.channel.kept import MOST_STATE
from picopayments_cli.channel.keys import Key, state_key
from picopayments_cli.channel.state import Held, Signed
from picopayments_cli.channel.values import Handle
from picopayments_cli.client import kinds
from picopayments_cli.client.connection import Connection, Rows
from picopayments_cli.client.document import rows_between, to_document
from picopayments_cli.encryption import OVERHEAD, seal, unseal

_QUEUED, _REQUESTED, _DUE = 20, 50, 50  # payments and requests that are handed over, beside what a sync needs


def seal_state(key: Key, connection: Connection) -> bytes:
    """Seal a connection as it stands when the request with its ``counter`` leaves, but for what that request says.

    ``key``: the wallet's. Where the lists of payments and requests are too long, the state goes without them.
    """
    open_requests = [item for item in connection.requests if not item.given]
    listed = replace(
        connection,
        queue=connection.queue[:_QUEUED],
        requests=tuple(open_requests[-_REQUESTED:]),
        receipts_due=connection.receipts_due[-_DUE:],
    )
    data = _text(connection, listed)
    if len(data) + OVERHEAD > MOST_STATE:
        data = _text(connection, replace(connection, queue=(), requests=(), receipts_due=()))
    return seal(state_key(key), data, _about(connection.handle, connection.counter))


def open_state(key: Key, handle: Handle, counter: int, sealed: bytes) -> dict[str, Any]:
    """Open a state: the connection's document, with its highest commits as ``rows``, and the ``digest`` of all.

    Raises ValueError where it was not sealed with the wallet's ``key`` for that connection and that counter.
    """
    data = zlib.decompress(unseal(state_key(key), sealed, _about(handle, counter)))
    return kinds.members(json.loads(data))


def digest_of(signed: Iterable[Signed], held: Iterable[Held | Commit]) -> bytes:
    """Return the digest of all commits that were signed, revoked or not, and of all that are held; in any order."""
    lines = [_line(item, b"signed" if item.secret is None else b"revoked") for item in signed]
    lines += [_line(item, b"held") for item in held]
    return hashlib.sha256(b"".join(sorted(lines))).digest()


def _line(item: Signed | Held | Commit, kind: bytes) -> bytes:
    return item.revoke_hash + item.quantity.to_bytes(8, "big") + kind.ljust(8)


def _text(connection: Connection, handed: Connection) -> bytes:
    """Write a state. ``handed``: the connection with as much of its lists as is handed over."""
    duplex, rows = connection.duplex, connection.rows
    top, held = duplex.sending.active[-1:], duplex.receiving.active[-1:]
    short = replace(
        handed,
        duplex=replace(
            duplex, sending=replace(duplex.sending, active=top), receiving=replace(duplex.receiving, active=held)
        ),
        rows=Rows({item.revoke_hash: item for item in top}),
        deposit_raw=b"",
        hub_deposit=None,
        proposal={},
        pending=None,
        count=None,
    )
    digest = digest_of(rows.signed.values(), duplex.receiving.active)
    document = {**to_document(short), "rows": rows_between(None, short), "digest": digest.hex()}
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 9)


def _about(handle: Handle, counter: int) -> bytes:
    return handle + counter.to_bytes(8, "big")

"""Hold the hub's count of a connection's syncs against the newest that it has signed before, which is here."""

from __future__ import annotations

import os

from picopayments_cli.channel.kept import StateReply, StateRequest, counted
from picopayments_cli.channel.wire import NONCE_SIZE
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.session import Session
from picopayments_cli.errors import LocalFiles, PicopaymentsError, SyncsHidden


def proof(session: Session, connection: Connection) -> SyncsHidden | None:
    """Make the error for a hub that counts fewer syncs than it has signed before; None where nothing proves that."""
    if connection.count is None:
        return None
    request = StateRequest(os.urandom(NONCE_SIZE), connection.handle)
    body = session.sealed("mph_state", request.as_json(), connection.hub_key)
    try:
        found = StateReply.parse(session.call("mph_state", [body], connection.hub_key).body).count
        if found is None:
            return None
        earlier, later = (counted(item, connection.handle, connection.hub_key) for item in (connection.count, found))
    except LocalFiles:
        raise
    except PicopaymentsError:
        return None
    if not later.convicts(earlier):
        return None
    return SyncsHidden(
        f"The hub counts {later.counter} syncs of the connection {connection.handle.hex()}, and has signed "
        f"{earlier.counter} before: it hides some, or has lost them. Close the connection. The two counts that this "
        "error carries are signed by the hub: keep them, and show them to its operator.",
        handle=connection.handle.hex(),
        earlier=dict(connection.count),
        later=dict(found),
    )

"""Find the hub of a connection, at its own URL first, whichever hub the settings name.

Without a node of one's own the chain is seen through that hub, too, once it has proven its key. Anybody who hands calls
on to it proves that as well: so the settings' hub is asked only where nobody at the connection's URL has the key.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from picopayments_cli.chain import View
from picopayments_cli.chain.hub import check_network
from picopayments_cli.channel.stages import AGREED, PROPOSED
from picopayments_cli.channel.status import MOST_HANDLES, StatusReply, StatusRequest
from picopayments_cli.client import funds
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.looking import Look
from picopayments_cli.client.session import Session
from picopayments_cli.config import place_of
from picopayments_cli.errors import LocalFiles, PicopaymentsError, Unreachable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """Connections of one hub, a session at that hub, and what the chain shows of them or why it shows nothing."""

    session: Session
    connections: Sequence[Connection]
    outcome: Look | PicopaymentsError

    def look(self) -> Look:
        """Get the look. Raises what stood in its way."""
        if isinstance(self.outcome, PicopaymentsError):
            raise self.outcome
        return self.outcome


def status(session: Session, assets: tuple[str, ...] | None) -> StatusReply:
    """Ask the settings' hub for its status in these assets (None: all), with what it says of the wallet's connections.

    Raises as ``RpcClient.call``, BadReply.
    """
    key = session.pinned_key()
    if key is None:
        check_network(session.rpc, session.network)
    own = [item for item in session.connections().values() if item.hub_key == key and not item.final]
    handles = [item.handle for item in own if assets is None or item.asset in assets]
    pages = [tuple(handles[at : at + MOST_HANDLES]) for at in range(0, len(handles), MOST_HANDLES)] or [()]
    asked = (StatusRequest(assets, page).as_json() for page in pages)
    answers = [StatusReply.parse(session.rpc.call("mph_status", one, retry=True)) for one in asked]
    connections = {handle: item for answer in answers for handle, item in answer.connections.items()}
    return replace(answers[-1], connections=connections)


def seen(session: Session, connections: Iterable[Connection]) -> list[Seen]:
    """Look at connections, once for all of a hub.

    A hub that is silent, or not the one that it was, does not stop the others. Connections that are closing are seen
    through the settings' hub then, if that is another one. Raises what is wrong with local files.
    """
    found: list[Seen] = []
    for group in by_hub(connections):
        at, error = _reached(session, group[0])
        if error is None:
            found.append(_looked(at, group))
            continue
        other = _seen_otherwise(session, at, error)
        ending = [item for item in group if other is not None and item.stage not in (PROPOSED, AGREED)]
        waiting = [item for item in group if item not in ending]
        found += [_looked(other, ending)] if other is not None and ending else []
        found += [Seen(at, waiting, error)] if waiting else []
    return found


def look_at(at: Session, connections: Sequence[Connection]) -> Look:
    """Look at connections, by Bitcoin Core alone where that is one's own and the Counterparty node is away."""
    return at.sight.look_or_alone(at.wallet, funds.kept(at), connections)


def wallets(session: Session, groups: Iterable[Seen]) -> View | PicopaymentsError | None:
    """Find how the settings' chain shows the wallet, or why it is silent, in looks at it; None if there was none."""
    own = session.chain_source == "own"
    for group in groups:
        if own or group.session is session:
            if isinstance(group.outcome, Look):
                return group.outcome.view if group.outcome.whole else group.outcome.away
            if isinstance(group.outcome, Unreachable):
                return group.outcome
    return None


def _looked(at: Session, group: Sequence[Connection]) -> Seen:
    try:
        return Seen(at, group, look_at(at, group))
    except LocalFiles:
        raise
    except PicopaymentsError as error:
        return Seen(at, group, error)


def alone(session: Session, connection: Connection) -> Session:
    """Open a session to close a connection: at its hub, else seeing the chain through another hub of the settings.

    Raises what the connection's hub fails with where there is no other view of the chain.
    """
    at, error = _reached(session, connection)
    if error is None:
        return at
    other = _seen_otherwise(session, at, error)
    if other is None:
        error.message += (
            " To close the connection without that hub, name one with --hub-url whose word about the chain you take, "
            "or set chain_url."
        )
        raise error
    return other


def by_hub(connections: Iterable[Connection]) -> list[list[Connection]]:
    """Group the connections by their hub."""
    groups: dict[object, list[Connection]] = {}
    for item in connections:
        groups.setdefault((way_to(item.hub_url), item.hub_key), []).append(item)
    return list(groups.values())


def _reached(session: Session, connection: Connection) -> tuple[Session, PicopaymentsError | None]:
    """Open a session at a connection's hub, and say why that hub is not believed about the chain, if it must be.

    At the settings' hub only where that has the key, and nobody at the connection's own URL.
    """
    own_chain = session.chain_source == "own"
    at, *others = ways_to(session, connection)
    elsewhere = bool(others)
    if own_chain and not elsewhere:
        return at, None
    error = _unproven(at, connection)
    if error is not None and elsewhere and _unproven(session, connection) is None:
        log.warning("%s The hub of the settings has that hub's key, and is asked in its place.", error.message)
        return session, None
    return at, None if own_chain else error


def ways_to(session: Session, connection: Connection) -> list[Session]:
    """Open sessions where a connection's hub may be: at its own URL, then at the settings' hub if that is another."""
    configured = session.settings.hub_url
    if configured is None:
        return [session.with_hub(connection.hub_url)]
    if way_to(configured) == way_to(connection.hub_url):
        return [session]
    return [session.with_hub(connection.hub_url), session]


def way_to(url: str) -> tuple[str, str]:
    """Find where a hub is, and the path there: several hubs may share a place."""
    return place_of(url), urlsplit(url).path.strip("/")


def _unproven(at: Session, connection: Connection) -> PicopaymentsError | None:
    """Say why a session's hub does not prove the key of a connection's hub; None if it does."""
    try:
        at.proven_key(connection.hub_key)
    except LocalFiles:
        raise
    except PicopaymentsError as error:
        return error
    return None


def _seen_otherwise(session: Session, at: Session, error: PicopaymentsError) -> Session | None:
    """Have the session at a hub that is not believed see the chain through the settings' hub; None if that is it."""
    if at is session or session.settings.hub_url is None:
        return None
    log.warning("%s The chain is seen through the hub of the settings.", error.message)
    at.sight = session.sight
    return at

"""Find the hubs that are asked for connections which are missing here, and remember which of them have answered."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from picopayments_cli.channel import envelope
from picopayments_cli.channel.values import Handle, Pubkey
from picopayments_cli.client.restore_marks import answered, have_asked, was_asked
from picopayments_cli.client.session import Session
from picopayments_cli.config import place_of
from picopayments_cli.errors import PicopaymentsError

_PATH = "/api/"  # of a hub of which the place is known only


@dataclass(frozen=True)
class Asked:
    """A session at a hub, and its key, None where that is new here. ``idle``: no connection here or missed is its."""

    session: Session
    key: Pubkey | None
    idle: bool


def to_ask(session: Session, lost: Collection[Handle], *, always: bool) -> list[Asked]:
    """List the hubs that are to be asked, that of the settings first. ``lost``: connections without a usable file.

    That is each hub of a lost connection, and the settings' hub where nothing goes on with it. All that this wallet
    knows are asked while one of them may have more than is here, or where nobody tells whose a lost one is.
    """
    store, url = session.store, session.settings.hub_url
    listed, before = store.listed.all(), answered(store.basedir, session.network)
    everywhere = always or any(listed.get(handle) is None for handle in lost)
    away = {item.hub_key: item.hub_url for handle in lost if (item := listed.get(handle)) is not None}
    here, hubs = _of_connections(session), dict(away)
    if everywhere or before is not None:
        done = frozenset() if everywhere or before is None else before
        hubs |= {key: at for key, at in known(session).items() if key.hex() not in done and key not in away}
    found = []
    if url is not None:
        key = session.pinned_key()
        goes_on = {item.hub_key for item in session.connections().values() if not (item.restored or item.final)}
        if everywhere or key not in goes_on or key in hubs:
            found.append(Asked(session, key, idle=False))
            hubs = {name: at for name, at in hubs.items() if name != key}
    return found + [Asked(session.with_hub(at), key, key not in here) for key, at in hubs.items()]


def known(session: Session) -> Mapping[Pubkey, str]:
    """Find the hubs that this wallet has, or had, to do with, each by its key, with its URL. Raises StoreDamaged."""
    found = dict(_of_connections(session))
    with suppress(PicopaymentsError):  # what can't be read of the archive stands in the way of no money
        for item in session.archived().values():
            found.setdefault(item.hub_key, item.hub_url)
    path = urlsplit(session.settings.hub_url or "").path or _PATH
    for url, text in session.store.notes.hub_keys().items():
        key = envelope.named_key({"pubkey": text})
        if key is not None:
            found.setdefault(key, url + path if url == place_of(url) else url)
    return found


def _of_connections(session: Session) -> Mapping[Pubkey, str]:
    """Find the hubs of the connections that are here, or are missed."""
    found = {item.hub_key: item.hub_url for item in session.store.listed.all().values() if item is not None}
    return found | {item.hub_key: item.hub_url for item in session.connections().values()}


def note(session: Session, hub_key: Pubkey, *, whole: bool) -> None:
    """Remember whether a hub has given back all that it has: else it is asked again. Raises StoreUnusable."""
    basedir, network = session.store.basedir, session.network
    before = answered(basedir, network)
    if whole and before is None:
        return
    own, hubs = {hub_key.hex()}, {key.hex() for key in known(session)}
    done = hubs if before is None else before
    after = done | own if whole else done - own
    if hubs | own <= after:
        was_asked(basedir, network)
    elif after != before:
        have_asked(basedir, network, after)

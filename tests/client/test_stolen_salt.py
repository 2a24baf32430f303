"""A hub that gives "back" the salt of a connection that is here, under another handle and at another place."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from channel_support import close_transaction
from client_support import QUANTITY, Doors, Hub, Life, WatchedSession, _Line

from picopayments_cli import api
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.values import Handle
from picopayments_cli.client.session import Session
from picopayments_cli.errors import PicopaymentsError

ELSEWHERE = "http://elsewhere.invalid/api/"


class Twin(Hub):
    """The hub's other place: it lists the connection under another handle, as one on which nothing was paid."""

    def __init__(self, hub: Hub, key: Key) -> None:
        super().__init__(hub.node, key)
        self.secrets, self.script = hub.secrets, hub.script
        self.handle = Handle(b"\x07" * 32)
        self.agreed, self._salt, self._client = hub.agreed, hub._salt, hub._client
        self.now = replace(hub.now, sending=replace(hub.now.sending, active=(), deeper=False))


def visit(it: Life, twin: Hub) -> None:
    """Sync, with the twin's place in the settings."""
    it.session.close()
    session = WatchedSession(it.basedir, twin, it.node, Doors(), bitcoin=True)
    session.settings = replace(session.settings, hub_url=ELSEWHERE)
    assert isinstance(session.rpc, _Line)
    with contextlib.suppress(PicopaymentsError):  # the connection's own hub is not there
        api.sync(session)
    session.close()
    it.session = it._open()


@pytest.mark.parametrize("same_key", [True, False])
def test_a_hub_gives_nothing_back_that_is_here_under_another_handle(
    it: Life, same_key: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    it.open()
    it.receive(400)
    received = it.connection.duplex.receiving.moved
    assert (received, it.held(it.hub.script)) == (398, 0)
    twin = Twin(it.hub, it.hub.key if same_key else Key(b"\x09" * 32))
    it.hub.silent = True
    monkeypatch.setattr(Session, "with_hub", lambda self, _url: silent(self, it.hub))
    visit(it, twin)
    if twin.outcome.h2c is not None:  # the client has signed away what it received: 398 of 398 before it looked
        raw = close_transaction(it.hub.now.sending, twin.outcome.h2c)
        it.node.bitcoin("sendrawtransaction", raw.hex())
    it.mine(2)
    assert it.held(it.hub.script) <= QUANTITY - received
    assert len(it.session.connections()) == 1


def silent(session: Session, hub: Hub) -> Session:
    other = Session(replace(session.settings, hub_url="http://hub.invalid/api/", hub_auth=None), None, session.home)
    other.sight = session.sight
    other.__dict__.update(rpc=_Line(hub, Doors()))
    return other

"""A machine that has nothing but the wallet's key: the hub gives the newest state back, or lies about it."""

from __future__ import annotations

from client_support import Life

from client.test_lost import lose
from picopayments_cli import api


def whole(it: Life) -> dict[str, object]:
    """The connection's state, as far as it matters for money."""
    found = it.connection
    receiving = found.duplex.receiving
    shown = (found.duplex.sending, receiving.active, receiving.newest, receiving.owing, receiving.requested)
    names = ("terms", "salt", "expiry", "stage", "counted", "queue", "owed", "counter", "lock_due", "deposit_raw")
    return {"channels": shown, **{name: getattr(found, name) for name in names}, "signed": dict(found.rows.signed)}


def test_it_goes_on_where_it_was_and_pays(it: Life) -> None:
    it.open()
    it.pay(300, b"one")
    it.receive(250)
    it.pay(200, b"two")
    it.receive(70)
    before = whole(it)
    lose(it)
    api.sync(it.session)
    print(len(it.hub.kept[it.hub.counter][0]["state"]) // 2)
    it.restart()
    assert whole(it) == before

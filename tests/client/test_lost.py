"""A client that has nothing left but its wallet's key: the hub gives back what settles its connections."""

from __future__ import annotations

import shutil

import pytest
from client_support import QUANTITY, Life

from picopayments_cli import api
from picopayments_cli.errors import BadReply, HubUnreachable


def lose(it: Life) -> None:
    """Leave nothing of the folder but the wallet's key."""
    it.session.close()
    wallet = it.session.wallet.file
    shutil.rmtree(it.basedir)
    it.restart()
    it.session.store.save_wallet(wallet)
    it.restart()


def settle(it: Life, blocks: int) -> None:
    """Sync before each block until everything is closed."""
    for _ in range(blocks):
        it.restart()
        if not api.sync(it.session):
            return
        it.mine()
    raise AssertionError(f"not closed: {it.connection.ending}")


def test_what_was_received_comes_home_by_an_agreed_close(it: Life) -> None:
    it.open()
    it.receive(120)
    received = it.connection.duplex.receiving.moved
    lose(it)
    settle(it, 10)
    assert it.held() == QUANTITY + received
    assert [event["kind"] for event in it.told() if event["action"] == "published"] == ["close", "close"]


def test_a_deposit_comes_home_though_the_hub_goes_silent_after_it_gave_the_salt(it: Life) -> None:
    it.open()
    lose(it)
    api.sync(it.session)
    it.hub.silent = True
    it.until(it.connection.expiry.height)
    settle(it, 20)
    assert it.held() == QUANTITY


@pytest.mark.parametrize("wait", [False, True])
def test_a_sync_of_the_key_alone_fails_while_the_hub_cannot_be_asked(it: Life, wait: bool) -> None:
    it.open()
    lose(it)
    it.hub.silent = True
    with pytest.raises(HubUnreachable, match="is not known"):
        api.sync(it.session, wait=wait)  # type: ignore[call-arg]
    it.hub.silent = False
    assert list(api.sync(it.session)) == [it.handle]


def test_what_the_hub_published_leaves_the_rest(it: Life) -> None:
    it.open()
    it.pay(300)
    commit = it.hub.now.receiving.active[-1].commit
    lose(it)
    it.hub.publish(commit)
    it.mine()
    settle(it, 10)
    assert it.held() == QUANTITY - commit.quantity


def test_a_connection_of_another_key_is_none(it: Life) -> None:
    it.open()
    lose(it)
    it.hub._salt = bytes(16)
    with pytest.raises(BadReply, match="not of this wallet's key"):
        api.sync(it.session)
    assert it.session.connections() == {}


def test_a_folder_that_has_its_connections_asks_for_none(it: Life) -> None:
    it.open()
    it.doors.passed.clear()
    api.sync(it.session)
    assert "call mph_key" not in it.doors.passed


def test_what_was_never_deposited_or_is_over_is_left_alone(it: Life) -> None:
    it.killed_at("save agreed", it.connect)  # the hub has agreed, and nothing was deposited
    lose(it)
    assert api.sync(it.session) == {}
    it.connect()
    it.mine()
    it.hub.see(it.connection)
    it.close()  # before the hub deposited
    it.settle()
    assert it.held() == QUANTITY
    lose(it)
    assert api.sync(it.session) == {}


def test_a_deposit_that_is_not_in_a_block_is_waited_for(it: Life, caplog: pytest.LogCaptureFixture) -> None:
    it.connect()
    lose(it)
    assert api.sync(it.session) == {}
    assert "not in a block" in caplog.text
    it.mine()
    it.restart()
    assert list(api.sync(it.session)) == [it.handle]

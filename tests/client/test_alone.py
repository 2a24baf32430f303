"""A client whose Counterparty node, or the index behind it, is away has its own back by its Bitcoin node alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from client_support import DELAY, QUANTITY, Life
from regtest_support import running_node

from picopayments_cli import api
from picopayments_cli.chain import node as node_module
from picopayments_cli.client.notes import Notes
from picopayments_cli.errors import HubUnreachable, NodeBehind, NodeUnreachable, SyncIncomplete

MOODS: dict[str, dict[str, Any]] = {
    "index": {"electrs": False},
    "both": {"electrs": False, "backend": False},
    "ledger": {"behind": 1},
}


@pytest.fixture(autouse=True)
def well(it: Life, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """See that the next test finds its nodes well."""
    monkeypatch.setattr(node_module, "PATIENCE", 0.2)
    yield
    it.node.rpc("setmood")
    it.node.rpc("feerate", rate="none")


def paid(it: Life) -> None:
    """Open a connection that has received 250; the hub may publish a commit, and a revoked one."""
    it.open()
    it.pay(300)
    it.receive(250)


def cheat(it: Life) -> None:
    """Have the hub publish a revoked commit, and fall silent."""
    revoked = max(it.hub.received, key=lambda commit: commit.quantity)
    assert it.connection.rows.signed[revoked.revoke_hash].secret is not None
    it.hub.publish(revoked)
    it.hub.silent = True


def sync(it: Life) -> list[str]:
    """Sync, and list what has left."""
    with suppress(HubUnreachable):
        it.sync()
    return [door.removeprefix("broadcast ") for door in it.doors.passed if door.startswith("broadcast ")]


def settled(it: Life) -> int:
    """What the wallet holds once all nodes are back and the connection is closed."""
    it.node.rpc("setmood")
    it.hub.silent = True
    if it.tip < it.connection.expiry.height:
        it.until(it.connection.expiry.height)
    it.settle()
    return it.held()


@pytest.mark.parametrize(("mood", "blocks"), [("index", 0), ("both", 1), ("ledger", 1)])
def test_a_revoked_commit_is_punished_all_the_same(it: Life, mood: str, blocks: int) -> None:
    paid(it)
    cheat(it)
    it.node.rpc("setmood", **MOODS[mood])
    if blocks:
        it.mine(blocks)
    assert {"revoke", "commit"} <= set(sync(it))  # and what was received is settled
    assert it.connection.stage == "closing"
    it.mine(DELAY + 1)
    assert "revoke" not in sync(it)  # it is seen to be in a block
    assert it.connection.stage == "closing"  # over it is once the ledger has been asked
    assert settled(it) == QUANTITY + it.connection.duplex.receiving.moved


def test_its_punishment_is_raised_by_coins_that_are_still_there(it: Life) -> None:
    paid(it)
    cheat(it)
    it.node.rpc("setmood", **MOODS["both"])
    it.node.rpc("feerate", rate=30)
    assert "revoke" in sync(it)
    raised = [txid for txid in it.mempool() if len(it.node.bitcoin("getrawtransaction", txid, True)["vin"]) > 1]
    assert raised
    it.mine()
    assert not set(raised) & set(it.mempool())
    assert settled(it) == QUANTITY + it.connection.duplex.receiving.moved


def test_it_settles_before_its_deadline_and_takes_its_deposit_back(it: Life) -> None:
    paid(it)
    it.hub.silent = True
    it.node.rpc("setmood", **MOODS["both"])
    it.until(it.connection.expiry.settle_height)
    assert sync(it) == ["commit"]
    assert not any(door.startswith("call mph_sync") for door in it.doors.passed)
    it.mine(DELAY)
    assert sync(it) == ["payout"]
    it.until(it.connection.expiry.height)
    assert sync(it) == ["expire"]
    it.mine()
    assert sync(it) == []
    assert settled(it) == QUANTITY + it.connection.duplex.receiving.moved


def test_the_hubs_commit_leaves_the_rest_to_it(it: Life) -> None:
    it.open()
    it.pay(300)
    active = max(it.hub.received, key=lambda commit: commit.quantity)
    it.hub.publish(active)
    it.hub.silent = True
    it.node.rpc("setmood", **MOODS["index"])
    it.mine()
    assert sync(it) == ["remainder"]
    it.mine(DELAY)
    assert settled(it) == QUANTITY - it.connection.duplex.sending.moved


@pytest.mark.parametrize("mood", ["both", "ledger"])
def test_what_is_open_waits_and_close_closes_it(it: Life, mood: str) -> None:
    paid(it)
    before = it.files()
    it.node.rpc("setmood", **MOODS[mood])
    with pytest.raises((NodeUnreachable, NodeBehind)):
        it.sync()
    assert it.doors.passed == []
    assert it.files() == before
    it.hub.silent = True
    it.close()
    assert "broadcast commit" in it.doors.passed
    assert settled(it) == QUANTITY + it.connection.duplex.receiving.moved


def test_a_client_without_a_bitcoin_node_can_not(it: Life) -> None:
    paid(it)
    cheat(it)
    it.bitcoin = False
    it.node.rpc("setmood", **MOODS["index"])
    with pytest.raises(NodeUnreachable):
        it.sync()


def test_a_bitcoin_node_of_another_chain_closes_nothing(it: Life, tmp_path: Path) -> None:
    paid(it)
    it.node.rpc("setmood", **MOODS["index"])
    with running_node(tmp_path / "other", 0) as other:
        other.rpc("generate", blocks=it.connection.expiry.height)
        for command in (api.sync, lambda session: api.close(session, it.handle)):
            it.restart()
            it.session.settings = replace(it.session.settings, bitcoin_url=f"{other.url}bitcoin/")
            with pytest.raises((NodeBehind, SyncIncomplete), match="The node's ledger is at block"):
                command(it.session)
    assert it.connection.stage == "agreed"


def test_the_wallets_coins_are_read_and_written_once_a_look(it: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    it.open()
    it.sync()
    read: list[Notes] = []
    honest = Notes.coins

    def counted(notes: Notes) -> dict[str, Any]:
        read.append(notes)
        return honest(notes)

    monkeypatch.setattr(Notes, "coins", counted)
    it.sync()
    assert len(read) == 2  # for the look, and behind it

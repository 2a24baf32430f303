"""A client against a hub that cheats, dust that blinds, a backup, and children that are evicted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
from client_support import EXPIRE, QUANTITY, Life
from regtest_support import NodeProcess, address_of, running_node

from picopayments_cli.channel.facts import Kind
from picopayments_cli.channel.keys import Key
from picopayments_cli.errors import HubUnreachable, StaleRequest


@pytest.fixture(scope="module")
def cut_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node that lists one page of a history, as a real one does."""
    with running_node(tmp_path_factory.mktemp("chain") / "node", 0, "--cached") as running:
        yield running


@pytest.fixture
def blinded(tmp_path: Path, cut_node: NodeProcess) -> Iterator[Life]:
    """A client without a Bitcoin node, whose Counterparty node lists one page."""
    made = Life(tmp_path / "client", cut_node, Key(sha256(str(tmp_path).encode()).digest()), bitcoin=False)
    yield made
    made.session.close()


def dust(it: Life) -> None:
    """More than a page of payments to the deposit's address."""
    deposit = address_of(it.connection.duplex.sending.contract.deposit.output)
    for _ in range(30):
        it.node.rpc("faucet", address=deposit, btc=600, asset="XCP", quantity=0)
    it.mine()


def test_dust_on_a_deposit_does_not_hide_a_revoked_commit(blinded: Life) -> None:
    it = blinded
    it.open()
    it.pay(300)
    it.receive(250)
    it.hub.publish(max(it.hub.received, key=lambda commit: commit.quantity))
    it.mine()
    dust(it)
    it.hub.silent = True
    with suppress(HubUnreachable):
        it.sync()
    assert "broadcast revoke" in it.doors.passed


def test_dust_on_a_deposit_does_not_hide_a_close_that_leaves_nothing_there(blinded: Life) -> None:
    it = blinded
    it.connect()
    it.mine()
    it.hub.see(it.connection)
    it.close()  # before the hub has deposited: all of the asset goes home
    assert it.connection.ending.closings[-1].quantity == 0
    it.mine()
    dust(it)
    look = it.session.sight.look(it.session.wallet.address, [it.connection])
    spend = look.facts[it.hub.handle][0].spend
    assert spend is not None
    assert spend.kind is Kind.CLOSE
    assert spend.seen.height == it.tip - 1


def test_a_hub_that_deposits_after_the_close_gets_its_deposit_back_by_the_next_sync(it: Life) -> None:
    it.connect()
    it.mine()
    it.hub.see(it.connection)
    it.close()
    it.hub.fund(it.coins(it.hub.script))
    it.mine()
    it.sync()
    assert it.hub.outcome.h2c is not None
    assert it.hub.outcome.h2c.closing.quantity == 0
    it.settle()
    assert it.held() == QUANTITY


def test_a_folder_from_a_backup_signs_nothing_away(it: Life, tmp_path: Path) -> None:
    it.open()
    it.pay(10)
    it.session.close()
    shutil.copytree(it.basedir, tmp_path / "backup")
    it.restart()
    it.receive(400)
    it.pay(7, b"later")
    due = it.connection.duplex.guaranteed
    it.session.close()
    shutil.rmtree(it.basedir)
    shutil.copytree(tmp_path / "backup", it.basedir)
    it.restart()
    assert it.connection.duplex.guaranteed < due
    it.hub.refuses = StaleRequest("The sync was overtaken.")
    it.close()
    signed = [item.h2c_close for item in it.hub.asked]
    assert signed[0] is None
    assert {item.quantity for item in signed if item} == {it.hub.now.sending.moved}
    it.settle()
    assert it.held() == due


def test_a_payer_from_a_backup_gets_the_rest_of_a_commit_that_it_does_not_know(it: Life, tmp_path: Path) -> None:
    it.open()
    it.pay(10)
    it.session.close()
    shutil.copytree(it.basedir, tmp_path / "backup")
    it.restart()
    it.pay(300, b"later")
    newest = it.hub.now.receiving.active[-1].commit
    it.session.close()
    shutil.rmtree(it.basedir)
    shutil.copytree(tmp_path / "backup", it.basedir)
    it.restart()
    it.hub.refuses = StaleRequest("The sync was overtaken.")
    it.close()
    assert it.hub.outcome.c2h is None  # it signs no more than it knows of
    it.hub.publish(newest)
    it.settle(10)
    assert it.held() == QUANTITY - newest.quantity
    assert [event["kind"] for event in it.told() if event["action"] == "published"] == ["remainder"]


def test_a_child_that_was_evicted_goes_out_again_with_a_higher_fee(it: Life) -> None:
    it.open()
    it.receive(120)
    it.hub.silent = True
    it.node.rpc("feerate", rate=8, minimum=1)
    try:
        it.close()
        first = _fees(it)
        it.node.rpc("feerate", rate=16, minimum=1)
        with suppress(HubUnreachable):
            it.sync()
        assert len(it.mempool()) == 2  # the parent stays, the child is another
        assert _fees(it) > first
        it.restart()
        assert len(it.connection.sent[1]) == 3  # the commit and both children, known again after a restart
    finally:
        it.node.rpc("feerate", rate=1, minimum=1)


def _fees(it: Life) -> float:
    return float(sum(it.node.bitcoin("getmempoolentry", txid)["fees"]["base"] for txid in it.mempool()))


def test_a_wallet_that_requires_memos_waits_until_it_takes_sends(it: Life) -> None:
    it.open()
    it.receive(120)
    it.hub.silent = True
    it.close()
    it.mine(4)
    it.node.rpc("setaddressoptions", address=it.session.wallet.address, options=1)
    it.sync()
    assert it.mempool() == []
    it.node.rpc("setaddressoptions", address=it.session.wallet.address, options=0)
    it.sync()
    assert len(it.mempool()) == 1
    it.settle(EXPIRE + 20)
    duplex = it.connection.duplex
    assert it.held() == duplex.guaranteed + duplex.sending.moved


def test_a_deposit_with_another_quantity_is_not_the_hubs(it: Life) -> None:
    it.connect()
    it.mine()
    it.hub.see(it.connection)
    contract = it.hub.now.sending.contract
    it.node.rpc("faucet", address=address_of(contract.deposit.output), btc=5000, asset="XCP", quantity=QUANTITY - 1)
    it.mine(2)
    assert it.status() == "opening"
    it.hub.fund(it.coins(it.hub.script))
    it.mine()
    assert it.status() == "open"

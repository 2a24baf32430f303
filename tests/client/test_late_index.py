"""An index of addresses that is behind its Bitcoin node: nothing is taken for unspent that is spent, nor paid twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from client_support import QUANTITY, Life
from regtest_support import address_of, key_of, script_of_key

from picopayments_cli import api
from picopayments_cli.channel.drafts import parse_transaction, spent_outpoints
from picopayments_cli.client import funds
from picopayments_cli.errors import BroadcastRefused, InsufficientFunds


@pytest.fixture(autouse=True)
def up_to_date(it: Life) -> Iterator[None]:
    """See that the next test finds an index that is not late."""
    yield
    it.node.rpc("setindexdelay", blocks=None)


def shown(it: Life) -> dict[str, object]:
    """What `status` says of the connection."""
    it.restart()
    found: dict[str, object] = api.status(it.session)["connections"][it.handle]
    return found


def paid(it: Life) -> None:
    """Open a connection with a payment, of which the hub may publish the commit."""
    it.open()
    it.pay(300)


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_spent_deposit_that_a_late_index_lists_is_not_open(it: Life, blocks: int) -> None:
    paid(it)
    it.hub.publish(it.hub.received[-1])
    if blocks:
        it.mine(blocks)
    it.node.rpc("setindexdelay", blocks=blocks)
    assert shown(it)["status"] == "closing"
    it.sync()
    assert not any(door.startswith("call mph_sync") for door in it.doors.passed)
    assert it.connection.stage == "closing"
    it.node.rpc("setindexdelay", blocks=None)
    assert shown(it)["status"] == "closing"


def test_a_late_index_stops_no_sync_while_nothing_is_spent(it: Life) -> None:
    paid(it)
    it.mine()
    it.node.rpc("setindexdelay", blocks=0)
    it.pay(100)
    assert it.connection.duplex.receiving.anchor is not None
    assert shown(it)["status"] == "open"


# One's own past -----------------------------------------------------------------------------------------------------

THERE = address_of(script_of_key(key_of("elsewhere")))


def send(it: Life, asset: str, quantity: int) -> str:
    """Send from the wallet by a command of its own; the txid."""
    it.restart()
    txid: str = api.blocksend(it.session, asset, THERE, quantity)
    return txid


def remembered(it: Life) -> list[str]:
    """The txids of what the wallet has sent and remembers."""
    return [own.txid[::-1].hex() for own in it.session.store.notes.sent()]


def test_a_connect_leaves_the_coins_of_a_send_that_the_index_has_not_seen(it: Life) -> None:
    it.node.rpc("setindexdelay", blocks=0)
    txid = send(it, "BTC", 10_000)
    it.restart()
    it.connect()
    assert len(it.mempool()) == 2
    assert txid in it.mempool()
    other = send(it, "BTC", 10_000)
    assert {txid, other} < set(it.mempool())


def test_an_asset_is_not_spent_twice_while_the_index_is_late(it: Life) -> None:
    it.node.rpc("setindexdelay", blocks=0)
    send(it, "XCP", QUANTITY - 100)
    with pytest.raises(InsufficientFunds) as refused:
        send(it, "XCP", 200)
    assert refused.value.data["available"] == 100


def test_what_is_buried_is_forgotten(it: Life) -> None:
    first = send(it, "BTC", 10_000)
    second = send(it, "BTC", 10_000)
    assert remembered(it) == [first, second]
    it.mine()
    it.node.rpc("setindexdelay", blocks=1)  # the list shows their coins yet
    third = send(it, "BTC", 10_000)
    assert remembered(it) == [first, second, third]
    assert len({spent for own in it.session.store.notes.sent() for spent in own.spends}) == 3
    it.mine()
    it.node.rpc("setindexdelay", blocks=None)
    last = send(it, "BTC", 1000)
    assert remembered(it) == [last]


def test_the_coins_of_a_send_that_no_node_knows_come_free(it: Life) -> None:
    txid = send(it, "BTC", 10_000)
    (lost,) = it.session.store.notes.sent()
    it.mine()
    it.node.rpc("reorganise", depth=1, forget=True)
    assert txid not in it.mempool()
    taken = [send(it, "BTC", 1000) for _ in range(2)]  # it may be on its way yet
    assert remembered(it) == [txid, *taken]
    assert all(lost.spends.isdisjoint(own.spends) for own in it.session.store.notes.sent()[1:])
    it.mine(it.session.network.safe_depth)
    used = set()
    for _ in range(3):
        send(it, "BTC", 1000)
        assert txid not in remembered(it)
        used |= {spent for own in it.session.store.notes.sent() for spent in own.spends}
    assert lost.spends <= used


def test_what_can_not_wait_takes_the_coins_of_a_send_that_no_node_knows(it: Life) -> None:
    send(it, "BTC", 10_000)
    it.mine()
    it.node.rpc("reorganise", depth=1, forget=True)
    it.restart()
    look = it.session.sight.look(it.session.wallet.address, [])
    assert len(funds.free_coins(it.session, look.view, can_wait=False)) == 4
    assert len(funds.free_coins(it.session, look.view, can_wait=True)) == 3


def test_what_the_network_refuses_is_not_remembered(it: Life) -> None:
    it.connect()
    raw = it.connection.deposit_raw
    (promised,) = [own for own in it.session.store.notes.sent() if own.raw == raw]
    it.session.store.notes.save_sent([])
    it.node.rpc("feerate", minimum=100)
    with pytest.raises(BroadcastRefused):
        it.session.broadcast(raw, "deposit")
    assert remembered(it) == []
    it.node.rpc("feerate", minimum=1)
    tx = parse_transaction(raw)
    assert tx is not None
    assert promised.spends == set(spent_outpoints(tx))

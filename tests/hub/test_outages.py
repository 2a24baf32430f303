"""A hub whose Counterparty node, or the index of addresses behind it, is away still has its own back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from socket import socket
from typing import Any

import pytest
from channel_support import finish_commit
from hub_support import DEPOSIT, Client, Desk, open_all, payment, running_desk
from servers import talking

from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.halves import Commit
from picopayments_cli.channel.state import known_anchor

AWAY: tuple[dict[str, Any], ...] = ({"electrs": False}, {"backend": False, "electrs": False}, {"behind": 1})


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_desk(tmp_path) as found:
        found.hub.chain._patience = 0.2
        found.node.rpc("generate", blocks=2)
        yield found


def held(desk: Desk) -> int:
    """The XCP of the hub's wallet, as the ledger alone tells."""
    rows = desk.node.get(f"addresses/{desk.hub.address}/balances")
    return sum(row["quantity"] for row in rows if row["asset"] == "XCP")


def _silent(connection: socket) -> None:
    connection.recv(1)


def revoked(desk: Desk, bob: Client, alice: Client) -> Commit:
    """A commit to bob that he has given back."""
    alice.sync(payment(bob.handle, 5000))
    bob.sync()
    made = bob.commits[-1]
    bob.sync(payment(alice.handle, made.quantity - 1))
    return made


def cheat(bob: Client, made: Commit) -> None:
    receiving = bob.duplex.receiving
    bob.publish(finish_commit(receiving.contract, known_anchor(receiving), made, bob.secrets.payee))


@pytest.mark.parametrize("mood", AWAY, ids=("electrs", "both", "ledger"))
@pytest.mark.parametrize("confirmed", [False, True])
def test_a_revoked_commit_is_punished_all_the_same(desk: Desk, mood: dict[str, Any], confirmed: bool) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    open_all(desk, alice, bob)
    made = revoked(desk, bob, alice)
    before = held(desk)
    cheat(bob, made)
    desk.node.rpc("setmood", **mood)
    if confirmed:
        desk.node.rpc("generate", blocks=1)
    desk.rounds.once()
    assert desk.account(bob.handle).stage == "closing"
    assert len(desk.mempool()) == 2  # commit and revoke; once the commit is mined, revoke and remainder
    desk.mine(3)
    assert desk.account(bob.handle).stage == "closing"  # over it is once the ledger has been asked
    desk.node.rpc("setmood")
    assert held(desk) == before + DEPOSIT
    desk.until("closed", bob.handle)


def test_its_punishment_is_raised_by_coins_that_are_still_there(desk: Desk) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    open_all(desk, alice, bob)
    made = revoked(desk, bob, alice)
    desk.node.rpc("setmood", electrs=False)
    cheat(bob, made)
    desk.rounds.once()
    first = desk.mempool()
    desk.node.rpc("feerate", rate=30)
    desk.rounds.once()
    (revoke,) = set(desk.mempool()) - set(first)
    spent = desk.node.bitcoin("getrawtransaction", revoke, True)["vin"]
    assert len(spent) == 2  # the commit's output, and a coin of the wallet's
    before = held(desk)
    desk.mine(2)
    assert desk.mempool() == []
    assert held(desk) == before + DEPOSIT


def test_it_closes_alone_and_takes_its_payout(desk: Desk) -> None:
    alice = Client(desk, "alice")
    open_all(desk, alice)
    alice.sync(payment(None, 5000))
    before = held(desk)
    desk.node.rpc("setmood", electrs=False, backend=False)
    desk.node.rpc("feerate", rate=20)  # so that each step needs coins of the wallet's
    desk.hub.draining = True
    desk.mine(5)
    assert held(desk) == before + 5001


def test_it_takes_its_deposit_back_at_the_expiry(desk: Desk) -> None:
    alice = Client(desk, "alice")
    before = held(desk)
    alice.agree(time=20)
    alice.endow()
    desk.mine()
    alice.deposit()
    desk.mine(2)
    assert desk.account(alice.handle).stage == "open"
    desk.node.rpc("setmood", electrs=False)
    desk.mine(22)
    assert held(desk) == before
    desk.node.rpc("setmood")
    desk.until("closed", alice.handle)


def test_what_is_closed_stays_closed(desk: Desk) -> None:
    alice = Client(desk, "alice")
    open_all(desk, alice)
    alice.agree_close()
    desk.until("closed", alice.handle)
    desk.node.rpc("setmood", electrs=False)
    desk.rounds._tip = None  # a round that looks at everything
    desk.rounds.once()
    assert desk.account(alice.handle).stage == "closed"


def test_syncs_go_on_and_nothing_new_is_opened(desk: Desk) -> None:
    alice, bob, carol = (Client(desk, name) for name in ("alice", "bob", "carol"))
    open_all(desk, alice, bob)
    carol.agree()
    carol.endow()
    desk.mine()
    carol.deposit()
    desk.node.rpc("setmood", electrs=False, backend=False)
    desk.mine(2)
    paid = payment(bob.handle, 5000)
    alice.sync(paid)
    assert [item.token for item in bob.sync().receipts] == [paid.token]
    assert desk.account(carol.handle).stage == "agreed"
    desk.node.rpc("setmood")
    for _ in range(30):
        desk.rounds.once()
    desk.mine(2)
    assert desk.account(carol.handle).stage == "open"


def test_a_node_that_hangs_is_waited_for_once_in_a_round(desk: Desk) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    open_all(desk, alice, bob)
    made = revoked(desk, bob, alice)
    cheat(bob, made)
    hub = desk.hub
    with talking(_silent) as (url, heard):
        hub.chain = NodeChain(url, hub.network, timeout=(1.0, 0.2), retries=0, bitcoin=hub.bitcoin)
        desk.rounds.once()
    assert len(desk.mempool()) == 2
    assert len(heard) == 1

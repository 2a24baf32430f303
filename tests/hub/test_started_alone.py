"""A hub that is started while its Counterparty node, or the index behind it, is away still has its own back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from channel_support import finish_commit
from hub_support import DEPOSIT, Client, Desk, open_all, payment, running_desk

from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.messages import ConnectRequest
from picopayments_cli.channel.state import known_anchor
from picopayments_cli.errors import NodeUnreachable
from picopayments_cli.hub.rounds import RETRY_ROUNDS
from picopayments_cli.hub.schema import meta

AWAY: tuple[dict[str, Any], ...] = ({"electrs": False}, {"backend": False, "electrs": False}, {"behind": 1})
MEMBERS = {"deposit_min": 0, "deposit_max": 0, "deposit_ratio": 1.0, "expire_min": 12, "expire_max": 0, "sync_fee": 1}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_desk(tmp_path) as found:
        found.node.rpc("generate", blocks=2)
        yield found


def restart(desk: Desk, **mood: Any) -> None:
    """Start the hub anew while its nodes are in a mood."""
    desk.patience = 0.2
    desk.stop()
    desk.node.rpc("setmood", **mood)
    desk.start()


def held(desk: Desk) -> int:
    """The XCP of the hub's wallet, as the ledger alone tells."""
    rows = desk.node.get(f"addresses/{desk.hub.address}/balances")
    return sum(row["quantity"] for row in rows if row["asset"] == "XCP")


@pytest.mark.parametrize("mood", AWAY, ids=("electrs", "both", "ledger"))
def test_a_cheat_is_punished_and_raised_by_the_coins_of_before(desk: Desk, mood: dict[str, Any]) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    open_all(desk, alice, bob)
    alice.sync(payment(bob.handle, 5000))
    bob.sync()
    made, receiving = bob.commits[-1], bob.duplex.receiving
    bob.sync(payment(alice.handle, made.quantity - 1))
    bob.publish(finish_commit(receiving.contract, known_anchor(receiving), made, bob.secrets.payee))
    desk.node.rpc("feerate", rate=30)
    before = held(desk)
    restart(desk, **mood)
    desk.rounds.once()
    commit, revoke = desk.mempool()
    spent = [desk.node.bitcoin("getrawtransaction", txid, True)["vin"] for txid in (commit, revoke)]
    assert max(map(len, spent)) >= 2  # the commit's output, and coins of the wallet's
    desk.mine(3)
    desk.node.rpc("setmood")
    assert held(desk) == before + DEPOSIT
    desk.until("closed", bob.handle)


def test_it_closes_at_the_deadline_and_takes_no_new_connection(desk: Desk) -> None:
    alice, carol = Client(desk, "alice"), Client(desk, "carol")
    open_all(desk, alice)
    alice.sync(payment(None, 5000))
    before = held(desk)
    restart(desk, electrs=False, backend=False)
    carol.request()
    proposed = carol.proposal()
    with pytest.raises(NodeUnreachable):
        carol.propose(proposed)
    assert desk.account(alice.handle).stage == "open"
    expiry = desk.account(alice.handle).fixed.agreed.expiry
    desk.node.rpc("generate", blocks=expiry.settle_height - desk.node.bitcoin("getblockcount"))
    desk.mine(8)
    assert desk.account(alice.handle).stage == "closing"
    assert held(desk) == before + 5001
    desk.node.rpc("setmood")
    desk.until("closed", alice.handle)


def test_names_that_can_not_be_looked_up_end_no_connection(desk: Desk) -> None:
    desk.node.rpc("faucet", address=desk.hub.address, btc=0, asset="PARENT.child", quantity=20 * DEPOSIT)
    desk.node.rpc("generate", blocks=1)
    desk.folder.terms_path.write_text(json.dumps({"XCP": MEMBERS, "PARENT.child": MEMBERS}))
    restart(desk)
    alice, bob, carol = (Client(desk, name, desk.hub.chain.asset("PARENT.child").name) for name in ("a", "b", "c"))
    open_all(desk, alice)
    desk.chain_url = "http://127.0.0.1:1/"
    restart(desk)
    desk.mine(2)
    assert desk.account(alice.handle).stage == "open"
    assert bob.refused("mph_request", ConnectRequest(bob.asset, bob.party, bob.secrets.salt).as_json()) == (
        "NodeUnreachable"
    )
    desk.hub.chain = NodeChain(desk.node.url, desk.hub.network, bitcoin=desk.hub.bitcoin)
    for _ in range(RETRY_ROUNDS):
        desk.rounds.once()
    assert desk.account(alice.handle).stage == "open"
    carol.agree()


def test_a_hub_that_never_saw_its_wallet_does_not_start(desk: Desk) -> None:
    with desk.database.transaction("forget") as db:
        db.execute(meta.delete().where(meta.c.key == "last look at the wallet"))
    with pytest.raises(NodeUnreachable):
        restart(desk, electrs=False)

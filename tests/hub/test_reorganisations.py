"""Reorganisations at the hub: a deposit comes back with less, a punishment is undone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from channel_support import finish_commit
from hub_support import DEPOSIT, Client, Desk, open_all, payment, running_desk

from picopayments_cli.channel.counterparty import asset_id, p2pkh, pack_send
from picopayments_cli.channel.drafts import DUST, Output, parse_transaction, spent_outpoints
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.state import known_anchor
from picopayments_cli.channel.transactions import compose_send


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_desk(tmp_path) as found:
        yield found


def deposit_of(desk: Desk, client: Client) -> bytes:
    """A client's deposit, which is in a block."""
    anchor = known_anchor(client.duplex.sending)
    return bytes.fromhex(desk.node.bitcoin("getrawtransaction", anchor.outpoint.txid[::-1].hex()))


def send_one(desk: Desk, client: Client, deposit: bytes) -> None:
    """Have a client's wallet send a single unit away, by a coin that its deposit does not spend; a block with it."""
    tx = parse_transaction(deposit)
    assert tx is not None
    taken, purse = set(spent_outpoints(tx)), client.purse()
    purse = replace(purse, coins=tuple(coin for coin in purse.coins if coin.outpoint not in taken))
    elsewhere = Output(DUST, p2pkh(b"\x11" * 20))
    client.publish(finish_wallet(compose_send(purse, elsewhere, pack_send(asset_id("XCP"), 1)), client.key))
    desk.node.rpc("generate", blocks=1)


@pytest.mark.parametrize("looks", [False, True])
def test_a_deposit_that_comes_back_with_less_ends_the_connection(desk: Desk, looks: bool) -> None:
    """The transaction is the one of before, and its satoshis too: only the ledger says that it moved less.

    ``looks``: whether the hub sees the chain without it first.
    """
    alice = Client(desk, "alice")
    open_all(desk, alice)
    alice.sync(payment(None, 5000))
    deposit = deposit_of(desk, alice)
    desk.node.rpc("reorganise", depth=2, forget=True)
    send_one(desk, alice, deposit)
    if looks:
        desk.rounds.once()
        assert desk.account(alice.handle).stage == "agreed"
    alice.publish(deposit)
    desk.node.rpc("generate", blocks=1)
    desk.mine(2)
    assert desk.account(alice.handle).stage == "closing"
    request, _ = alice.sync_request(1)
    assert alice.refused("mph_sync", request.as_json()) == "ConnectionNotOpen"


def test_a_deposit_that_comes_back_whole_in_another_block_counts_as_before(desk: Desk) -> None:
    alice = Client(desk, "alice")
    open_all(desk, alice)
    alice.sync(payment(None, 5000))
    deposit = deposit_of(desk, alice)
    desk.node.rpc("reorganise", depth=2, forget=True)
    desk.rounds.once()
    alice.publish(deposit)
    desk.mine(3)
    assert desk.account(alice.handle).stage == "open"
    alice.sync(payment(None, 7))


def test_a_punishment_that_a_reorganisation_takes_away_goes_out_again(desk: Desk) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    open_all(desk, alice, bob)
    alice.sync(payment(bob.handle, 5000))
    bob.sync()
    made = bob.commits[-1]
    bob.sync(payment(alice.handle, made.quantity - 1))
    before = desk.balance(desk.hub.script)
    side = bob.duplex.receiving
    commit = finish_commit(side.contract, known_anchor(side), made, bob.secrets.payee)
    bob.publish(commit)
    desk.mine(2)
    assert desk.balance(desk.hub.script) > before
    desk.node.rpc("reorganise", depth=2, forget=True)
    desk.rounds.once()
    assert desk.balance(desk.hub.script) == before
    bob.publish(commit)  # the cheat tries again
    desk.mine(4)
    assert desk.balance(desk.hub.script) == before + DEPOSIT

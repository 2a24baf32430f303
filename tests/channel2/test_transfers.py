"""Moving a sum: with commits given back or without, a half without a commit, and before the peer's hash is there."""

from __future__ import annotations

from dataclasses import replace

from channel2_support import connect, with_commits

from picopayments_cli.channel.values import Secret
from picopayments_cli.channel2.duplex import Half, accept, expecting, plan, transfer


def test_nothing_is_given_back_where_that_is_not_wanted() -> None:
    client, _ = connect()
    received = with_commits(client.duplex.receiving, [300])
    duplex = replace(client.duplex, receiving=received)
    back = plan(duplex, 300)
    assert back is not None
    assert (len(back.given_back), back.quantity) == (1, None)
    kept = plan(duplex, 300, giving_back=False)
    assert kept is not None
    assert (kept.given_back, kept.quantity) == ((), 300)
    moved, half = transfer(duplex, 300, client.key, lambda _: Secret(bytes(32)), giving_back=False)
    assert half.revokes == ()
    assert moved.receiving.active == received.active


def test_a_half_without_a_commit_is_one() -> None:
    client, _ = connect()
    assert accept(client.duplex, Half()) == client.duplex


def test_a_sum_can_be_moved_once_the_peers_hash_is_there() -> None:
    client, _ = connect(client_deposit=700)
    lacking = replace(client.duplex, sending=replace(client.duplex.sending, requested=()))
    assert lacking.sending.room == 0
    assert expecting(lacking).sending.room == 700
    assert expecting(lacking).receiving == lacking.receiving
    assert expecting(client.duplex) is client.duplex

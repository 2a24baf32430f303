"""How connections end on the hub: alone, by punishment, at the expiry, and after a restore."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from channel_support import finish_commit
from hub_support import DEPOSIT, Client, Desk, open_all, payment, running_desk

from picopayments_cli.channel.halves import Commit
from picopayments_cli.channel.state import known_anchor
from picopayments_cli.channel.values import Handle, Quantity
from picopayments_cli.errors import DatabaseOutdated
from picopayments_cli.hub import chores
from picopayments_cli.hub.chores import Shown, Work
from picopayments_cli.hub.hub import Hub


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_desk(tmp_path) as found:
        yield found


def test_the_hub_closes_alone_with_a_child_and_takes_its_payout(desk: Desk) -> None:
    alice = Client(desk, "alice")
    open_all(desk, alice)
    alice.sync(payment(None, 5000))
    before = desk.balance(desk.hub.script)
    desk.hub.draining = True
    desk.mine()
    assert desk.account(alice.handle).stage == "closing"
    assert desk.account(alice.handle).channels.receiving.half_left
    assert alice.handle in desk.hub.marks.handles
    desk.mine(5)
    assert desk.balance(desk.hub.script) == before + 5001


def test_a_commit_that_pays_too_little_is_raised_by_a_child_and_after_a_restart_again(desk: Desk) -> None:
    alice = Client(desk, "alice")
    open_all(desk, alice)
    alice.sync(payment(None, 5000))
    desk.node.rpc("feerate", rate=20)
    desk.hub.draining = True
    desk.rounds.once()
    commit, child = desk.mempool()
    pair = [desk.node.bitcoin("getmempoolentry", txid) for txid in (commit, child)]
    fee = sum(item["fees"]["base"] for item in pair) * 1e8
    assert pair[0]["spentby"] == [child]
    assert fee >= 20 * sum(item["vsize"] for item in pair) - 1
    desk.stop()
    desk.start()
    desk.hub.draining = True
    desk.node.rpc("feerate", rate=40)
    desk.rounds.once()
    again, better = desk.mempool()
    assert again == commit
    assert better != child
    before = desk.balance(desk.hub.script)
    desk.mine(5)
    assert desk.mempool() == []
    assert desk.balance(desk.hub.script) == before + 5001


def revoked(desk: Desk, bob: Client, alice: Client) -> Commit:
    """A commit to bob that he has given back."""
    alice.sync(payment(bob.handle, 5000))
    bob.sync()
    made = bob.commits[-1]
    bob.sync(payment(alice.handle, made.quantity - 1))
    assert bob.duplex.receiving.moved < made.quantity
    return made


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_revoked_commit_is_punished_and_all_comes_home(desk: Desk, confirmed: bool) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    open_all(desk, alice, bob)
    made = revoked(desk, bob, alice)
    before = desk.balance(desk.hub.script)
    receiving = bob.duplex.receiving
    bob.publish(finish_commit(receiving.contract, known_anchor(receiving), made, bob.secrets.payee))
    if confirmed:
        desk.node.rpc("generate", blocks=1)
    desk.rounds.once()
    assert desk.account(bob.handle).stage == "closing"
    assert len(desk.mempool()) == 2  # commit and revoke; once the commit is mined, revoke and remainder
    desk.mine(3)
    assert desk.balance(desk.hub.script) == before + DEPOSIT
    request, _ = bob.sync_request(10)
    assert bob.refused("mph_sync", request.as_json()) == "ConnectionNotOpen"


def test_a_revoked_commit_is_punished_before_any_connection_is_looked_at_and_whatever_is_odd_in_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, carol = Client(desk, "alice"), Client(desk, "bob"), Client(desk, "carol")
    open_all(desk, alice, bob, carol)
    made = revoked(desk, bob, alice)
    carol.sync(payment(None, 5000))
    carol.ask_close()
    receiving = bob.duplex.receiving
    bob.publish(finish_commit(receiving.contract, known_anchor(receiving), made, bob.secrets.payee))
    done: list[str] = []
    submit, look_at, shown = desk.hub.bitcoin.submit, Work._look_at, chores.show

    def noted_look(work: Work, handle: Handle) -> None:
        done.append("look")
        look_at(work, handle)

    def odd_show(hub: Hub, handle: Handle, *, addresses: bool = True) -> Shown:
        if handle == carol.handle:
            raise ValueError("a row that nobody understands")
        return shown(hub, handle, addresses=addresses)

    def noted_submit(raws: Sequence[bytes]) -> None:
        done.append("submit")
        submit(raws)

    monkeypatch.setattr(desk.hub.bitcoin, "submit", noted_submit)
    monkeypatch.setattr(Work, "_look_at", noted_look)
    monkeypatch.setattr(chores, "show", odd_show)
    desk.rounds.once()
    assert done[0] == "submit"
    assert done.count("look") >= 2
    assert len(desk.mempool()) == 2  # commit and revoke, which is made once
    monkeypatch.setattr(chores, "show", shown)
    desk.mine(4)
    assert desk.mempool() == []
    assert desk.account(bob.handle).stage == "closed"


def test_the_hub_takes_its_deposit_back_at_the_expiry(desk: Desk) -> None:
    alice = Client(desk, "alice")
    before = desk.balance(desk.hub.script)
    alice.agree(time=20)
    alice.endow()
    desk.mine()
    alice.deposit()
    desk.mine(2)
    assert desk.account(alice.handle).stage == "open"
    assert desk.balance(desk.hub.script) == before - DEPOSIT
    desk.until("closed", alice.handle)
    assert desk.balance(desk.hub.script) == before


def test_a_restart_goes_on_where_it_was(desk: Desk) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    alice.agree()
    alice.endow()
    desk.mine()
    alice.deposit()
    desk.stop()
    desk.node.rpc("generate", blocks=1)  # while nobody looks
    desk.start()
    desk.rounds.once()
    desk.mine()
    assert desk.account(alice.handle).stage == "open"
    alice.see_deposits()
    open_all(desk, bob)
    alice.sync(payment(bob.handle, 5000))
    desk.stop()
    desk.start()
    desk.rounds.once()
    assert [item.amount for item in bob.sync().receipts] == [5000]


def test_a_database_from_before_a_close_only_closes(desk: Desk) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    open_all(desk, alice, bob)
    copy = desk.copy_books()
    alice.ask_close()
    for count in (False, True):  # the count shows it, or else the mark of the close
        desk.restore(copy, count=count)
        with pytest.raises(DatabaseOutdated, match="--restored"):
            desk.start()
        desk.start(restored=True)
    assert {desk.account(hand.handle).stage for hand in (alice, bob)} == {"closing"}
    request, _ = bob.sync_request(1)
    assert bob.refused("mph_sync", request.as_json()) == "HubRestored"


def test_what_waits_for_a_closed_connection_goes_back_to_its_payer(desk: Desk) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    open_all(desk, alice, bob)
    paid = payment(bob.handle, 5000)
    alice.sync(paid)
    bob.ask_close()
    reply = alice.sync()
    assert [(item.amount, item.token) for item in reply.receipts] == [(Quantity(5000), paid.token)]


def test_a_spend_of_an_anchor_in_the_mempool_stops_the_connection_at_once(desk: Desk) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    open_all(desk, alice, bob)
    alice.sync(payment(bob.handle, 5000))
    bob.sync()
    alice.sync(payment(bob.handle, 70))
    receiving, made = bob.duplex.receiving, bob.commits[-1]
    bob.publish(finish_commit(receiving.contract, known_anchor(receiving), made, bob.secrets.payee))
    desk.hub.follower.catch_up()  # no chore was done yet
    assert desk.account(bob.handle).stage == "closing"
    request, _ = bob.sync_request(10)
    assert bob.refused("mph_sync", request.as_json()) == "ConnectionNotOpen"
    desk.rounds.once()
    reply = alice.sync(payment(bob.handle, 10))
    assert [item.cause for item in reply.refused] == ["ConnectionNotOpen"]
    assert [item.amount for item in reply.receipts] == [70]

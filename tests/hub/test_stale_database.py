"""A hub whose database came back from a backup notices it, publishes nothing that it gave back, and all are paid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bitcoin.core import CTransaction
from channel_support import close_transaction
from hub_support import DEPOSIT, FEE, TIME, Client, Desk, amounts, open_all, payment, running_desk

from picopayments_cli.channel.drafts import spent_outpoints
from picopayments_cli.channel.halves import sign_commit
from picopayments_cli.channel.state import known_anchor
from picopayments_cli.channel.values import Hash
from picopayments_cli.errors import DatabaseOutdated


class Story:
    """Alice has paid Bob; the database is copied; then the hub gives commits of hers back, and takes newer ones."""

    def __init__(self, desk: Desk, time: int = TIME) -> None:
        self.desk = desk
        self.alice, self.bob, self.carol = (Client(desk, name) for name in ("alice", "bob", "carol"))
        for hand in self.all:
            hand.agree(time)
        open_all(desk, *self.all)
        self.before = desk.balance(desk.hub.script)
        for amount in (100, 5000):
            self.alice.sync(payment(self.bob.handle, amount))
            assert amounts(self.bob.sync()) == [amount]
        self.copy = desk.copy_books()
        self.bob.sync(payment(self.alice.handle, 5000 + 2 * FEE))
        given_back = {item.revoke_hash for item in self.alice.duplex.sending.active}
        assert amounts(self.alice.sync()) == [5002]
        self.given_back = given_back - {item.revoke_hash for item in self.alice.duplex.sending.active}
        assert self.given_back

    @property
    def all(self) -> tuple[Client, Client, Client]:
        """All clients."""
        return self.alice, self.bob, self.carol

    def stale(self) -> list[bool]:
        """Whether the hub knows that it knows too little of each."""
        return [self.desk.account(hand.handle).stale for hand in self.all]

    def stages(self) -> list[str]:
        """Each one's stage at the hub."""
        return [self.desk.account(hand.handle).stage for hand in self.all]

    def restore(self) -> None:
        """Put the copy in the place of the database, and the count beside it too: so the hub starts on it."""
        self.desk.restore(self.copy, count=True)
        self.desk.start()
        self.desk.rounds.once()

    def declare(self) -> None:
        """Put the copy in the place of the database, and say so."""
        self.desk.restore(self.copy)
        self.desk.start(restored=True)
        self.desk.rounds.once()

    def published(self) -> list[str]:
        """The transactions in the mempool that spend alice's deposit."""
        anchor = known_anchor(self.alice.duplex.sending).outpoint
        found = ((txid, CTransaction.deserialize(self.desk.raw(txid))) for txid in self.desk.mempool())
        return [txid for txid, tx in found if anchor in spent_outpoints(tx)]


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    with running_desk(tmp_path) as desk:
        yield Story(desk)


# What is noticed ----------------------------------------------------------------------------------------------------


def test_a_hub_does_not_start_on_an_old_database_until_it_is_told_that_it_is_one(story: Story) -> None:
    desk = story.desk
    desk.restore(story.copy)
    with pytest.raises(DatabaseOutdated, match="--restored"):
        desk.start()
    desk.start(restored=True)
    assert story.stages() == ["closing"] * 3
    desk.stop()
    desk.start()  # once is enough
    assert story.stale() == [True] * 3


def test_a_commit_on_a_hash_that_the_database_lacks_shows_that_it_is_old(story: Story) -> None:
    asked = Client(story.desk, "asked")
    story.alice.sync()
    story.restore()
    asked.request()
    desk, alice = story.desk, story.alice
    right, _ = alice.sync_request(11, payment(None, 10))
    made = right.half.commit
    assert made is not None
    sending = alice.duplex.sending
    strange = sign_commit(sending.contract, known_anchor(sending), made.quantity, Hash(bytes(20)), alice.secrets.payer)
    other = replace(right, half=replace(right.half, commit=strange))
    assert alice.sync_refused(other) == "UnknownRevokeHash"  # nobody but a hub hands that out
    assert (story.stages(), story.stale()) == (["open"] * 3, [False] * 3)
    assert alice.sync_refused(right) == "HubRestored"
    assert (story.stages(), story.stale()) == (["closing"] * 3, [True] * 3)
    assert asked.refused("mph_deposit", asked.proposal().as_json()) == "UnknownHandle"
    request, _ = story.carol.sync_request(FEE)
    assert story.carol.sync_refused(request) == "HubRestored"
    assert alice.proposed is not None
    assert alice.refused("mph_deposit", alice.proposed.as_json()) == "HubRestored"
    desk.mine(2)
    assert story.published() == []


def test_a_close_shows_that_the_database_is_old_too_and_is_agreed_as_its_client_says(story: Story) -> None:
    story.alice.sync(payment(None, 30))
    story.restore()
    assert story.stages() == ["open"] * 3
    outcome = story.alice.agree_close()
    assert outcome.c2h is not None
    assert outcome.c2h.closing.quantity == story.alice.duplex.sending.moved
    assert story.stale() == [True] * 3
    assert story.stages() == ["closing"] * 3


def test_a_close_that_shows_what_the_database_has_closes_that_connection_alone(story: Story) -> None:
    story.alice.agree_close()
    assert (story.stages(), story.stale()) == (["closing", "open", "open"], [False] * 3)


# What becomes of the money ------------------------------------------------------------------------------------------


def test_after_a_restore_everybody_has_what_it_had(story: Story) -> None:
    desk = story.desk
    story.alice.sync(payment(None, 30))
    moved = [hand.duplex.net for hand in story.all]
    story.declare()
    desk.mine(3)
    assert story.published() == []  # the highest in the database is one that was given back
    for hand in story.all:
        outcome = hand.agree_close()
        if outcome.c2h is not None and outcome.c2h.closing.quantity:
            hand.publish(close_transaction(hand.duplex.sending, outcome.c2h))
        if outcome.h2c is not None and outcome.h2c.closing.quantity:
            hand.publish(close_transaction(hand.duplex.receiving, outcome.h2c))
    for hand in story.all:
        desk.until("closed", hand.handle, 200)
    assert [hand.duplex.net for hand in story.all] == moved
    assert desk.balance(desk.hub.script) == story.before + 3 * DEPOSIT - sum(moved)


def test_what_was_not_given_back_can_not_be_denied(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk:
        hand, bob = Client(desk, "alice"), Client(desk, "bob")
        open_all(desk, hand, bob)
        hand.sync(payment(None, 5000))
        desk.restore(desk.copy_books())
        desk.start(restored=True)
        desk.rounds.once()
        truth = hand.duplex
        hand.duplex = replace(truth, sending=replace(truth.sending, active=()))
        outcome = hand.agree_close()
        assert outcome.c2h is None  # the hub doubts it, and signs nothing
        hand.duplex = replace(truth, close_signed=hand.duplex.close_signed)
        assert hand.agree_close().c2h is not None


def test_a_newer_commit_of_the_hubs_own_in_the_mempool_is_not_replaced_by_one_that_it_gave_back(story: Story) -> None:
    desk = story.desk
    story.alice.sync(payment(None, 30))
    desk.hub.draining = True
    desk.rounds.once()
    there = story.published()
    assert len(there) == 1
    story.declare()
    for _ in range(3):
        desk.rounds.once()
    assert story.published() == there
    desk.mine(5)
    assert desk.account(story.alice.handle).stage == "closing"


def test_without_its_clients_word_the_highest_is_published_at_the_deadline(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk:
        story = Story(desk, time=60)
        story.declare()
        settle = desk.account(story.alice.handle).due_height
        desk.mine(settle - 1 - desk.node.bitcoin("getblockcount"))
        assert story.published() == []
        desk.mine()
        assert len(story.published()) == 1

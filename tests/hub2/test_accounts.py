"""The hub's connections as its database keeps them: read again as they were written, and where it is an old one."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from channel2_support import parsed
from hub2_support import EXPIRE, Desk, ScriptedClient, amounts, open_all, payment, running_desk
from network_support import FEE
from picopayments_cli.hub2.account import Account

from picopayments_cli.channel.values import Handle, Hash
from picopayments_cli.channel2.duplex import Half, standing
from picopayments_cli.channel2.messages import CloseRequest
from picopayments_cli.channel2.state import Channel, Commit, Offer, finished, offer_of
from picopayments_cli.channel2.transactions import spent_outpoints
from picopayments_cli.errors import DatabaseUnusable
from picopayments_cli.hub import stale_database


def pay(alice: ScriptedClient, bob: ScriptedClient, amount: int) -> None:
    """One payment, received."""
    alice.sync(amount + FEE, payment(bob.handle, amount))
    assert amounts(bob.sync(FEE)) == [amount]


# Read again ---------------------------------------------------------------------------------------------------------


def known_numbers(account: Account) -> dict[Hash, int]:
    """The numbers of the hub's own hashes that commits are on, or may be."""
    receiving = account.channels.receiving
    return {item: account.numbers[item] for item in (*receiving.requested, *(c.revoke_hash for c in receiving.active))}


def check_reading(desk: Desk, *hands: ScriptedClient) -> None:
    """Compare connections with what another hub reads from the same database."""
    before = [desk.account(hand.handle) for hand in hands]
    desk.stop()
    desk.start()
    after = [desk.account(hand.handle) for hand in hands]
    assert after == before
    for old, new in zip(before, after, strict=True):
        if old.duplex is not None:
            assert known_numbers(new) == known_numbers(old)


def test_a_connection_is_read_as_it_was_written_all_its_life(
    desk: Desk, alice: ScriptedClient, bob: ScriptedClient
) -> None:
    new = ScriptedClient(desk, "new")
    hubs = new.request()
    check_reading(desk, new)
    new.call("mph_deposit", new.body(new.proposal(hubs)))
    other = ScriptedClient(desk, "opening")
    other.agree()
    check_reading(desk, new, other)
    other.fund()
    desk.mine()  # the hub's deposit is on its way
    check_reading(desk, other)
    desk.mine()
    other.see_deposits()
    check_reading(desk, other)
    pay(alice, bob, 500)
    pay(alice, bob, 300)
    pay(bob, alice, 250)
    alice.sync(41, payment(bob.handle, 20), payment(bob.handle, 20))
    assert (len(desk.account(bob.handle).waiting), desk.account(bob.handle).listed) == (2, False)
    check_reading(desk, alice, bob)
    assert amounts(bob.sync(FEE)) == [20, 20]
    assert desk.account(bob.handle).listed
    check_reading(desk, alice, bob)
    pay(bob, alice, 5)
    pay(alice, bob, 7)
    alice.close()
    alice.close(alice.secrets.spend)
    check_reading(desk, alice, bob)
    bob.close()
    desk.mine()
    check_reading(desk, alice, bob)


def test_a_sync_answered_before_a_restart_is_answered_the_same_after_it(desk: Desk, alice: ScriptedClient) -> None:
    body = alice.sealed(alice.sync_body(alice.sync_request(5, payment(None, 4))))
    first = desk.call("mph_sync", body)
    desk.stop()
    desk.start()
    assert desk.call("mph_sync", body) == first
    assert alice.paid == 5


def test_a_connection_goes_on_after_many_syncs_and_a_restart(
    desk: Desk, alice: ScriptedClient, bob: ScriptedClient
) -> None:
    for _ in range(12):
        pay(alice, bob, 30)
    in_use = known_numbers(desk.account(alice.handle))
    assert len(desk.account(alice.handle).numbers) <= 2 * (len(in_use) + 8)
    check_reading(desk, alice, bob)
    for _ in range(25):
        pay(bob, alice, 10)
    check_reading(desk, alice, bob)
    assert len(desk.account(bob.handle).numbers) <= 2 * (len(known_numbers(desk.account(bob.handle))) + 8)
    assert (alice.paid, bob.paid) == (12 * 31 + 25 - 250, 12 + 25 * 11 - 360)


def test_a_sync_leaves_what_changes_rarely_alone(desk: Desk, alice: ScriptedClient) -> None:
    with desk.database.transaction("mark") as connection:
        connection.exec_driver_sql("update connections set fixed = fixed || ' '")
    alice.sync(FEE)
    assert all(text.endswith(" ") for (text,) in desk.rows("select fixed from connections"))


def test_who_reads_does_not_wait_for_who_writes(desk: Desk, alice: ScriptedClient) -> None:
    with ThreadPoolExecutor(1) as pool, desk.hub.book.transaction("another request") as work:
        work.keep(replace(work.get(alice.handle), due=5))
        status = json.loads(pool.submit(desk.call, "mph_status", {}).result(timeout=60))
        account = pool.submit(desk.hub.book.look_up, alice.handle).result(timeout=60)
    assert status["connections"][alice.handle.hex()]["status"] == "open"
    assert account.due == 0  # as it was committed
    with desk.hub.book.transaction("undo") as work:
        work.keep(account)


def test_a_row_that_another_hub_wrote_is_not_written_over(desk: Desk, alice: ScriptedClient) -> None:
    alice.sync(FEE)
    with desk.database.transaction("another hub") as connection:
        connection.exec_driver_sql(f"update heads set version = version + 1 where handle = x'{alice.handle.hex()}'")
    assert alice.sync_refused(alice.sync_request(FEE)) == "DatabaseUnusable"
    with desk.database.transaction("another hub") as connection:
        connection.exec_driver_sql(f"update heads set version = version - 1 where handle = x'{alice.handle.hex()}'")
    alice.sync(FEE)
    assert alice.paid == 2 * FEE


def test_what_was_read_before_another_wrote_is_not_written(desk: Desk, alice: ScriptedClient) -> None:
    old = desk.account(alice.handle)
    alice.sync(FEE)
    newest = desk.account(alice.handle)
    with pytest.raises(DatabaseUnusable), desk.hub.book.transaction("a hub that has read it before") as work:
        work.put(old)
    assert desk.account(alice.handle) == newest
    alice.sync(FEE)


def test_what_fails_half_way_is_kept_nowhere(desk: Desk, alice: ScriptedClient, bob: ScriptedClient) -> None:
    before = desk.account(alice.handle), desk.account(bob.handle)
    two = alice.sync_request(30, payment(bob.handle, 10), payment(Handle(bytes(32)), 10))
    assert alice.sync_refused(two) == "UnknownHandle"
    assert (desk.account(alice.handle), desk.account(bob.handle)) == before
    assert desk.rows(f"select amount from payments where payer = x'{alice.handle.hex()}'") == []
    assert amounts(bob.sync(FEE)) == []
    alice.sync(FEE)


# An old database ----------------------------------------------------------------------------------------------------


class RestoredDatabase:
    """Alice has paid Bob; the database is copied; then the hub gives commits of hers back, and takes newer ones."""

    def __init__(self, desk: Desk, expire: int = EXPIRE) -> None:
        self.desk = desk
        self.alice, self.bob, self.carol = (ScriptedClient(desk, name) for name in ("alice", "bob", "carol"))
        for hand in (self.alice, self.bob, self.carol):
            hand.agree(expire)
        open_all(desk, self.alice, self.bob, self.carol)
        pay(self.alice, self.bob, 100)
        pay(self.alice, self.bob, 5000)
        self.copy = desk.folder.basedir / "copy.db"
        desk.stop()
        shutil.copy(desk.folder.basedir / "regtest.db", self.copy)
        desk.start()
        self.then = self.alice.duplex.sending
        pay(self.bob, self.alice, 5000 + 2 * FEE)
        self.given_back = tuple(item for item in self.then.active if item not in self.alice.duplex.sending.active)
        assert self.given_back

    def restore(self) -> None:
        """Put the copy in the place of the database."""
        self.desk.stop()
        path = self.desk.folder.basedir / "regtest.db"
        for part in path.parent.glob("regtest.db*"):
            part.unlink()
        path.touch(0o600)
        path.write_bytes(self.copy.read_bytes())
        self.desk.start()


def published(desk: Desk, channel: Channel) -> list[bytes]:
    """The transactions in the mempool that spend a deposit."""
    assert channel.anchor is not None
    found = (desk.raw(txid) for txid in desk.mempool())
    return [raw for raw in found if channel.anchor.outpoint in spent_outpoints(parsed(raw))]


def commit_of(desk: Desk, channel: Channel, made: Commit) -> bytes:
    return finished(channel, made, desk.hub.key)


def test_a_commit_on_a_hash_that_the_database_lacks_shows_that_it_is_old(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk:
        story = RestoredDatabase(desk)
        story.alice.sync(901, payment(story.bob.handle, 900))
        asked = ScriptedClient(desk, "asked")
        story.restore()
        hubs = asked.request()
        waits = desk.account(story.alice.handle)
        right = story.alice.sync_request(11, payment(None, 10))
        assert right.half.offer is not None
        strange = story.alice.duplex.sending.commit_script(Hash(bytes(20)))
        other = replace(right, half=Half((), Offer(right.half.offer.raw, strange.redeem)))
        assert story.alice.sync_refused(other) == "UnknownRevokeHash"  # which nobody but a hub hands out
        foreign = replace(right, half=Half((), Offer(right.half.offer.raw, b"\x51")))
        assert story.alice.sync_refused(foreign) == "BadCommitScript"
        assert {desk.account(hand.handle).stage for hand in (story.alice, story.bob, story.carol)} == {"open"}
        assert desk.account(story.alice.handle) == waits
        assert story.alice.sync_refused(right) == "HubRestored"
        for hand in (story.alice, story.bob, story.carol):
            account = desk.account(hand.handle)
            assert (account.stage, account.restored, account.waiting) == ("closing", True, ())
        assert asked.refused("mph_deposit", asked.body(asked.proposal(hubs))) == "UnknownHandle"
        assert story.carol.sync_refused(story.carol.sync_request(FEE)) == "HubRestored"
        assert story.alice.refused("mph_deposit", story.alice.body(story.alice.proposal(hubs))) == "HubRestored"
        desk.stop()
        desk.start()
        assert desk.account(story.carol.handle).restored
        desk.mine()
        assert published(desk, story.then) == []


def test_after_a_restore_the_commit_is_the_one_that_its_client_shows(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk:
        story = RestoredDatabase(desk)
        alice, channel = story.alice, story.alice.duplex.sending
        alice.sync(7)
        newest = alice.duplex.sending
        story.restore()
        stale_database.give_up(desk.hub)
        assert alice.close()["spend_secret"] is None  # as an original client closes
        desk.mine()
        assert published(desk, channel) == []
        said = standing(newest)
        assert said.offer is not None
        revoked = offer_of(story.then, story.given_back[-1])
        unknown = Commit(newest.active[-1].quantity, Hash(bytes(20)), newest.active[-1].signature)
        for wrong in (Half(said.revokes, revoked), Half((), offer_of(newest, unknown))):
            assert alice.refused("mph_close", CloseRequest(alice.handle, None, wrong).as_json()) == "UnknownRevokeHash"
        assert desk.account(alice.handle).restored
        assert published(desk, channel) == []
        reply = alice.close(None, said)
        assert (reply["spend_secret"], desk.account(alice.handle).restored) == (None, False)
        active = desk.account(alice.handle).channels.receiving.active
        assert [item.revoke_hash for item in active] == [item.revoke_hash for item in newest.active]
        assert published(desk, newest) == [commit_of(desk, newest, newest.active[-1])]
        check_reading(desk, alice)
        desk.mine()
        assert alice.close()["spend_secret"] is None


def test_a_close_shows_that_the_database_is_old_too(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk:
        story = RestoredDatabase(desk)
        alice, carol = story.alice, story.carol
        alice.sync(7)
        said = standing(alice.duplex.sending)
        story.restore()
        assert desk.account(carol.handle).stage == "open"
        alice.close(None, said)
        newest = alice.duplex.sending
        assert published(desk, newest) == [commit_of(desk, newest, newest.active[-1])]
        account = desk.account(carol.handle)
        assert (account.stage, account.restored) == ("closing", True)


def test_a_close_that_shows_what_the_database_has_closes_that_connection_alone(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk:
        story = RestoredDatabase(desk)
        story.alice.close(None, standing(story.alice.duplex.sending))
        assert {desk.account(hand.handle).stage for hand in (story.bob, story.carol)} == {"open"}
        assert not desk.account(story.alice.handle).restored


def test_a_close_by_old_files_ends_the_connection_by_what_the_hub_has(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk:
        story = RestoredDatabase(desk)
        alice = story.alice
        alice.sync(7)
        highest = alice.duplex.sending.active[-1]
        alice.close(alice.secrets.spend, Half((), offer_of(story.then, story.given_back[-1])))
        assert published(desk, story.then) == [commit_of(desk, alice.duplex.sending, highest)]
        assert desk.account(story.carol.handle).stage == "open"


def test_a_client_can_not_deny_what_was_not_given_back(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk:
        story = RestoredDatabase(desk)
        story.restore()
        stale_database.give_up(desk.hub)
        alice, bob = story.alice, story.bob
        assert alice.close(None, Half())["spend_secret"] is None
        assert published(desk, story.then) == [commit_of(desk, story.then, story.then.active[-1])]
        assert desk.account(bob.handle).channels.sending.active
        bob.close(bob.secrets.spend, Half())
        assert desk.account(bob.handle).client_secret == bob.secrets.spend  # what it has may have been given back


def test_without_its_clients_word_the_highest_is_published_at_the_deadline(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk:
        story = RestoredDatabase(desk, expire=60)
        story.restore()
        stale_database.give_up(desk.hub)
        account = desk.account(story.alice.handle)
        desk.mine(account.due_height - 1 - desk.node.bitcoin("getblockcount"))
        assert published(desk, story.then) == []
        desk.mine()
        assert published(desk, story.then) == [commit_of(desk, story.then, story.then.active[-1])]


def test_a_connection_where_nothing_moved_reveals_nothing_after_a_restore(tmp_path: Path) -> None:
    with running_desk(tmp_path) as desk:
        hand = ScriptedClient(desk, "quiet").open()
        stale_database.give_up(desk.hub)
        assert hand.close()["spend_secret"] is None
        assert not desk.account(hand.handle).revealed
        assert hand.close(None, Half())["spend_secret"] is not None  # it says that there is no commit
        assert desk.account(hand.handle).revealed

"""How a client closes: what leaves the machine, what it believes of the hub's last words, and what comes home."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from channel2_support import parsed
from memory_life_support import DELAY, QUANTITY, SILENT, XCP, LifeInMemory, it
from memory_support import STRANGER
from picopayments_cli.channel2.deadlines import FINAL_DEPTH
from picopayments_cli.channel2.facts import anchor_spender, first_output
from picopayments_cli.channel2.state import finished
from picopayments_cli.channel2.transactions import spent_outpoints, txid_of

from picopayments_cli import api
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.errors import (
    BadRequest,
    BroadcastRefused,
    HubRefused,
    HubUnreachable,
    NodeUnreachable,
    PicopaymentsError,
    StoreUnusable,
    UnknownHandle,
)

__all__ = ["it"]


def closed(it: LifeInMemory) -> str | None:
    """Close by command: the commit's txid, if there is one."""
    return api.close(it.session, it.handle)


def shown(it: LifeInMemory) -> str:
    """Return what `status` says of the connection."""
    return str(api.status(it.session)["connections"][it.handle]["status"])


def kinds(it: LifeInMemory) -> list[str]:
    """Return what the history says was published."""
    return [action["kind"] for action in it.told() if action["action"] == "published"]


# At the close -------------------------------------------------------------------------------------------------------


def test_what_was_not_agreed_on_is_given_up(it: LifeInMemory) -> None:
    it.killed_at("save proposed", it.connect)
    it.doors.passed.clear()
    assert closed(it) is None
    assert it.doors.passed == ["save given up"]
    assert it.connection.stage == CLOSED
    assert it.told() == [{"action": "closed"}]
    it.sync()
    assert it.connection.stage == CLOSED
    assert it.chain.held(it.session.wallet.script, XCP) == QUANTITY


def test_the_queue_is_paid_before_the_close(it: LifeInMemory) -> None:
    it.open()
    it.queue(100)
    it.hub.to_pay = [30]
    assert closed(it) is not None
    actions = [action["action"] for action in it.told()]
    assert actions == ["connected", "sent", "fee", "received", "closing", "published"]
    assert it.hub.accepted[-1].quantity == 101


def test_nothing_received_gives_the_secret_and_takes_all_back(it: LifeInMemory) -> None:
    it.open()
    assert closed(it) is None
    connection = it.connection
    assert (connection.told, connection.revealed) == (True, True)
    assert it.hub.client_secret == connection.secrets(it.session.wallet.key).spend
    assert connection.hub_secret is None  # the hub holds a commit for the fee
    it.hub.publish(it.hub.accepted[-1])
    it.chain.mine(DELAY)
    it.hub.pay_out()
    it.chain.mine()
    it.sync()
    it.chain.mine()
    it.sync()
    assert (it.connection.stage, it.chain.held(it.session.wallet.script, XCP)) == (CLOSED, QUANTITY - 1)


def test_what_was_received_keeps_the_secret_and_is_published(it: LifeInMemory) -> None:
    it.receive()
    received = it.connection.duplex.receiving
    txid = closed(it)
    assert it.hub.client_secret is None
    assert (it.connection.revealed, it.connection.told) == (False, True)
    raw = finished(received, it.connection.duplex.receiving.active[-1], it.session.wallet.key)
    assert txid == txid_of(raw)[::-1].hex()
    assert it.chain.output(Outpoint(txid_of(raw), 0)) is not None
    assert kinds(it) == ["commit"]


def test_a_silent_hub_is_named_where_nothing_could_be_published(it: LifeInMemory) -> None:
    it.open()
    it.hub.refuses = SILENT
    with pytest.raises(HubUnreachable):
        closed(it)
    assert (it.connection.stage, it.connection.told) == (CLOSING, False)


def test_a_silent_hub_keeps_no_commit_from_being_published(it: LifeInMemory) -> None:
    it.receive()
    it.hub.refuses = SILENT
    assert closed(it) is not None
    assert kinds(it) == ["commit"]


def test_an_unanswered_sync_keeps_the_secret(it: LifeInMemory) -> None:
    """The hub may have sent a commit in the answer that was lost."""
    it.open()
    it.queue(100)
    honest = it.hub.call

    def lost(method: str, params: Mapping[str, Any], *, retry: bool = False) -> Any:
        answer = honest(method, params, retry=retry)
        if method == "mph_sync":
            raise HubRefused("The server failed.")
        return answer

    it.hub.call = lost  # type: ignore[method-assign]
    it.hub.to_pay = [300]
    assert closed(it) is None
    assert it.connection.pending is not None
    assert (it.hub.client_secret, it.connection.revealed, it.connection.told) == (None, False, True)


@pytest.mark.parametrize("times", [1, 2])
def test_a_hub_that_did_not_answer_the_last_sync_is_not_told_before_it_has(it: LifeInMemory, times: int) -> None:
    """The commit that this sync gave back stays so: else the hub could have its deposit at expiry only."""
    it.receive()
    it.queue(298)
    silences = [SILENT] * times
    honest = it.hub.call

    def down(method: str, params: Mapping[str, Any], *, retry: bool = False) -> Any:
        if method == "mph_sync" and silences:
            raise silences.pop()
        return honest(method, params, retry=retry)

    it.hub.call = down  # type: ignore[method-assign]
    with pytest.raises(HubUnreachable):
        closed(it)
    for _ in range(times - 1):
        api.sync(it.session)
    assert "call mph_close" not in it.doors.passed
    assert (it.connection.stage, it.connection.duplex.receiving.active) == (CLOSING, ())
    passed = it.sync()
    assert passed.index("call mph_sync") < passed.index("call mph_close")
    assert it.hub.client_secret == it.connection.secrets(it.session.wallet.key).spend
    assert [action["amount"] for action in it.told() if action["action"] == "sent"] == [298]


def test_once_the_commit_is_out_a_sync_without_an_answer_is_not_sent_again(it: LifeInMemory) -> None:
    it.receive()
    it.queue(100)
    it.hub.refuses = SILENT
    assert closed(it) is not None
    assert it.connection.pending is not None
    it.hub.refuses = None
    passed = it.sync()
    assert "call mph_close" in passed
    assert "call mph_sync" not in passed
    assert "call mph_sync" not in it.sync()
    assert it.hub.duplex.net == -299  # nothing has come back


def test_the_answer_to_the_last_sync_is_fetched_before_the_hub_is_told(it: LifeInMemory) -> None:
    it.open()
    it.queue(100)
    it.hub.to_pay = [300]
    it.close_silently()
    it.hub.refuses = None
    it.sync()
    assert it.connection.duplex.receiving.moved > 0
    assert it.hub.client_secret is None
    assert kinds(it) == ["commit", "change"]


def test_an_unanswered_sync_is_finished_before_the_last_one(it: LifeInMemory) -> None:
    it.open()
    it.queue(100)
    it.hub.refuses = SILENT
    it.sync()
    it.hub.refuses = None
    it.queue(5)
    it.hub.to_pay = [300]
    assert closed(it) is not None
    actions = [action["action"] for action in it.told()]
    assert actions == ["connected", "sent", "fee", "received", "sent", "fee", "closing", "published"]


def take_the_lock_away_with_each_answer(it: LifeInMemory) -> None:
    """Have the hub's answers come after somebody took the lock's file away, so that nothing can be written."""
    honest = it.hub.call

    def unlocked(method: str, params: Mapping[str, Any], *, retry: bool = False) -> Any:
        answer = honest(method, params, retry=retry)
        (it.session.settings.basedir / "regtest.lock").unlink(missing_ok=True)
        return answer

    it.hub.call = unlocked  # type: ignore[method-assign]


def test_files_that_can_not_be_written_are_no_refusal_of_the_hubs(it: LifeInMemory) -> None:
    it.open()
    it.queue(100)
    take_the_lock_away_with_each_answer(it)
    with pytest.raises(StoreUnusable):
        closed(it)
    assert it.connection.stage == AGREED


def test_files_that_can_not_be_written_while_it_closes(it: LifeInMemory) -> None:
    it.open()
    it.queue(100)
    it.close_silently()
    it.hub.refuses = None
    take_the_lock_away_with_each_answer(it)
    with pytest.raises(StoreUnusable):
        api.sync(it.session)
    assert it.connection.pending is not None


# The hub's last words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["ab" * 32, "ab", "", "AB" * 32, 5])
def test_a_spend_secret_that_is_none_is_not_used(it: LifeInMemory, secret: object) -> None:
    it.open()
    it.hub.lies["mph_close"] = {"spend_secret": secret}
    closed(it)
    assert (it.connection.hub_secret, it.connection.told) == (None, False)
    it.hub.lies.clear()
    it.sync()
    assert it.connection.told


@pytest.mark.parametrize("members", [{"request_sha256": "ab" * 32}, {"pubkey": "ab" * 33}])
def test_last_words_that_are_not_the_hubs_answer(it: LifeInMemory, members: Mapping[str, Any]) -> None:
    it.open()
    it.hub.lies["mph_close"] = members
    if "pubkey" in members:
        it.hub.key = STRANGER
    closed(it)
    assert not it.connection.told


def test_the_secret_that_the_hub_gives_brings_the_deposit_back_at_once(it: LifeInMemory) -> None:
    it.connect()
    it.chain.mine(3)
    assert closed(it) is None
    assert it.connection.hub_secret == it.hub.secrets.spend
    it.chain.mine()
    it.sync()
    assert kinds(it) == ["change"]
    assert it.connection.stage == CLOSED
    assert it.chain.held(it.session.wallet.script, XCP) == QUANTITY


def received_and_given_back(it: LifeInMemory) -> tuple[int, int]:
    """Receive, and give a part back, after a copy was made: the quantities of the lost and of the newest commit."""
    it.receive(300)
    folder = it.session.settings.basedir / "regtest.connections"
    shutil.copytree(folder, folder.with_name("copy"))
    (older,) = it.connection.duplex.receiving.active
    it.queue(older.quantity - 1)
    it.sync()
    assert it.connection.duplex.receiving.moved == 0
    it.hub.to_pay = [50]
    it.sync()
    (newer,) = it.connection.duplex.receiving.active
    return older.quantity, newer.quantity


def restore(it: LifeInMemory) -> None:
    """Put the copy in the place of the connection's file."""
    folder = it.session.settings.basedir / "regtest.connections"
    for path in folder.with_name("copy").iterdir():
        shutil.copy(path, folder / path.name)


def test_a_folder_from_a_backup_publishes_what_the_hub_shows_to_count(it: LifeInMemory) -> None:
    _, newer = received_and_given_back(it)
    restore(it)
    it.hub.shows = True
    txid = closed(it)
    active = it.connection.duplex.receiving.active[-1]
    assert active.quantity == newer
    assert txid is not None
    entry = anchor_spender(it.connection.duplex.receiving, it.chain.facts(it.connection.duplex.receiving))
    assert entry is not None
    assert first_output(entry) == it.connection.duplex.receiving.commit_script(active.revoke_hash).output
    it.chain.mine(DELAY)
    it.sync()
    it.chain.mine()
    assert it.chain.held(it.session.wallet.script, XCP) == QUANTITY + newer


def test_what_the_hub_shows_may_be_newer_than_any_hash_that_an_old_folder_knows(it: LifeInMemory) -> None:
    received_and_given_back(it)
    for _ in range(12):
        it.sync()
    it.hub.to_pay = [500]
    it.sync()
    newest = it.connection.duplex.receiving.active[-1]
    restore(it)
    assert newest.revoke_hash not in it.connection.numbers
    it.hub.shows = True
    closed(it)
    assert it.connection.duplex.receiving.active[-1] == newest
    it.chain.mine(DELAY)
    it.sync()
    it.chain.mine()
    assert it.chain.held(it.session.wallet.script, XCP) == QUANTITY + newest.quantity


@pytest.mark.parametrize("members", [{"revokes": ["ab"]}, {"revokes": None}, {"commit": 5}, {"commit": {}}])
def test_last_words_that_make_no_sense_change_nothing(it: LifeInMemory, members: Mapping[str, Any]) -> None:
    it.receive()
    before = it.connection.duplex.receiving.active[-1].quantity
    it.hub.shows = True
    it.hub.lies["mph_close"] = members
    assert closed(it) is not None
    assert it.connection.duplex.receiving.active[-1].quantity >= before
    assert it.connection.told


def test_a_hub_that_shows_what_is_known_changes_nothing(it: LifeInMemory) -> None:
    it.receive()
    it.hub.shows = True
    assert closed(it) is not None
    assert [action["action"] for action in it.told()][-2:] == ["closing", "published"]


# Afterwards ---------------------------------------------------------------------------------------------------------


def test_what_is_refused_waits_and_stops_nothing_else(it: LifeInMemory) -> None:
    it.receive()
    honest = it.chain.broadcast

    def picky(raw: bytes) -> bytes:
        raise BroadcastRefused("Not now.")

    it.chain.broadcast = picky  # type: ignore[method-assign]
    assert closed(it) is not None
    assert kinds(it) == []
    it.chain.broadcast = honest  # type: ignore[method-assign]
    it.sync()
    assert kinds(it) == ["commit"]
    it.chain.mine(DELAY)
    it.chain.broadcast = picky  # type: ignore[method-assign]
    it.sync()
    assert kinds(it) == ["commit"]
    it.chain.broadcast = honest  # type: ignore[method-assign]
    it.sync()
    assert kinds(it) == ["commit", "payout"]


def unattached(outpoints: object) -> set[Outpoint]:
    """A node that does not say which coins assets are attached to."""
    raise NodeUnreachable("The node does not answer.")


def test_a_coin_that_nobody_knows_waits_and_stops_no_command(it: LifeInMemory) -> None:
    it.receive()
    it.hub.reveals = False
    closed(it)
    it.chain.mine(DELAY)
    honest = it.chain.view
    it.chain.view = lambda query: replace(honest(query), transactions={})  # type: ignore[method-assign]
    assert api.sync(it.session)[it.handle]["txids"] == []
    it.chain.view = honest  # type: ignore[method-assign]
    it.sync()
    assert kinds(it) == ["commit", "payout"]


@pytest.mark.parametrize("error", [BadRequest("Wrong."), UnknownHandle("Which?")])
def test_a_hub_that_does_not_close_is_told_again(it: LifeInMemory, error: PicopaymentsError) -> None:
    it.open()
    it.hub.refuses = error
    assert closed(it) is None
    assert (it.connection.stage, it.connection.told) == (CLOSING, False)
    it.hub.refuses = None
    it.sync()
    assert it.connection.told
    assert "call mph_close" not in it.sync()


def test_a_deposit_that_is_refused_waits(it: LifeInMemory) -> None:
    it.open()
    it.queue(100)
    it.sync()
    it.hub.reveals = False
    closed(it)
    deposit = it.connection.deposit_raw
    it.chain.drop(txid_of(deposit))
    honest = it.chain.broadcast

    def refuse(raw: bytes) -> bytes:
        raise BroadcastRefused("Not now.")

    it.chain.broadcast = refuse  # type: ignore[method-assign]
    assert api.sync(it.session)[it.handle]["txids"] == []
    it.chain.broadcast = honest  # type: ignore[method-assign]
    assert api.sync(it.session)[it.handle]["txids"] == [txid_of(deposit)[::-1].hex()]


def test_what_a_sync_published_is_told(it: LifeInMemory) -> None:
    it.killed_at("save agreed", it.connect)
    deposit = txid_of(it.connection.deposit_raw)[::-1].hex()
    assert api.sync(it.session) == {it.handle: {"txids": [deposit], "received_payments": []}}
    assert api.sync(it.session) == {it.handle: {"txids": [], "received_payments": []}}
    it.chain.mine(3)
    closed(it)
    (published,) = (action["txid"] for action in it.told() if action["action"] == "published")
    assert it.connection.published == (published,)
    it.chain.drop(bytes.fromhex(published)[::-1])
    assert api.sync(it.session)[it.handle]["txids"] == [published]
    assert it.connection.published == (published,)
    assert kinds(it) == ["change"]


@pytest.mark.parametrize("command", [LifeInMemory.sync, closed])
@pytest.mark.parametrize("out", [True, False])
def test_what_was_leaving_when_the_process_ended_is_told_once(
    it: LifeInMemory, out: bool, command: Callable[[LifeInMemory], object]
) -> None:
    it.connect()
    it.chain.mine(3)
    it.killed_at("change is out" if out else "broadcast change", lambda: closed(it))
    before = it.connection
    assert before.publishing is not None
    command(it)
    assert it.connection.publishing is None
    assert kinds(it) == ["change"]
    assert len(it.connection.published) == 1


@pytest.mark.parametrize(("own", "paid"), [(None, 100), (40, 40)])
def test_what_can_t_wait_pays_the_ceiling_and_no_more_or_ones_own_rate(
    it: LifeInMemory, own: int | None, paid: int
) -> None:
    it.connect()
    it.chain.mine(3)
    it.chain.fee_rate = 1000
    it.session.settings = replace(it.session.settings, fee_rate=own)
    closed(it)
    (change,) = (parsed(entry.raw) for entry in it.chain.entries if entry.height is None)
    spent = [it.chain.output(outpoint) for outpoint in spent_outpoints(change)]
    fee = sum(found[0].value for found in spent if found) - sum(out.nValue for out in change.vout)
    assert 0.9 * paid <= fee / len(change.serialize()) <= 1.1 * paid


def test_what_can_t_wait_spends_no_coin_that_may_carry_assets(it: LifeInMemory) -> None:
    it.connect()
    it.chain.mine(3)
    it.chain.attached = unattached  # type: ignore[method-assign]
    closed(it)
    (change,) = (parsed(entry.raw) for entry in it.chain.entries if entry.height is None)
    deposit = txid_of(it.connection.deposit_raw)
    assert {outpoint.txid for outpoint in spent_outpoints(change)} == {deposit}


def test_the_stages_that_status_shows(it: LifeInMemory) -> None:
    it.hub.reveals = False
    it.connect()
    assert shown(it) == "opening"
    it.chain.mine()
    assert shown(it) == "opening"
    it.hub.see(it.connection.duplex.sending.anchor)
    it.hub.fund()
    assert shown(it) == "opening"
    it.chain.mine()
    assert shown(it) == "open"
    it.until(it.deadline - 1)
    assert shown(it) == "open"
    it.until(it.deadline)
    assert shown(it) == "closing"
    assert it.connection.stage == AGREED  # looking changes nothing
    it.sync()
    assert shown(it) == "closing"
    it.until(it.expiry)
    for _ in range(3):
        it.sync()
        it.chain.mine()
    assert shown(it) == "closed"
    assert kinds(it) == ["expire"]


def test_what_is_closed_is_looked_at_until_it_is_final(it: LifeInMemory) -> None:
    it.connect()
    it.chain.mine(3)
    closed(it)
    it.chain.mine()
    it.sync()
    assert (it.connection.stage, it.connection.final) == (CLOSED, False)
    it.chain.mine(FINAL_DEPTH - 2)
    assert it.sync() == []
    it.chain.mine()
    assert it.sync() == ["save final"]
    assert it.connection.final
    assert api.sync(it.session) == {}


def test_what_a_reorganisation_undoes_is_settled_again(it: LifeInMemory) -> None:
    it.connect()
    it.chain.mine(3)
    closed(it)
    it.chain.mine()
    it.sync()
    assert shown(it) == "closed"
    it.chain.disconnect(1)
    assert shown(it) == "closing"
    assert it.connection.stage == CLOSED
    it.sync()
    assert it.connection.stage == CLOSING
    it.chain.mine()
    it.sync()
    assert it.connection.stage == CLOSED
    assert kinds(it) == ["change"]
    assert [action["action"] for action in it.told()].count("closing") == 2


@pytest.mark.parametrize("claimed", ["a commit", "the hub's deposit", ""])
def test_a_deposit_that_a_reorganisation_lost_is_published_again_where_the_hub_has_a_claim(
    it: LifeInMemory, claimed: str
) -> None:
    if claimed == "a commit":
        it.open()
        it.queue(100)
        it.sync()
    elif claimed == "the hub's deposit":  # whose commits the hub has, it knows
        it.open()
        it.hub.refuses = SILENT
        it.until(it.deadline)
        it.sync()
        it.hub.refuses = None
    else:
        it.connect()
    it.hub.reveals = False
    if claimed != "the hub's deposit":
        closed(it)
    it.chain.drop(txid_of(it.connection.deposit_raw))
    it.sync()
    assert (it.doors.passed.count("broadcast deposit") == 1) is bool(claimed)
    it.chain.drop(txid_of(it.connection.deposit_raw))
    it.until(it.expiry - 1)
    it.sync()
    assert (it.doors.passed.count("broadcast deposit") == 1) is bool(claimed)
    it.chain.drop(txid_of(it.connection.deposit_raw))
    it.until(it.expiry)
    it.sync()
    assert "broadcast deposit" not in it.doors.passed

"""A client that has nothing left but its wallet's key: the hub gives back what it takes to go on, or to settle."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import pytest
from channel_support import compose_revoke
from client_support import DELAY, QUANTITY, XCP, Life
from envelope_support import answered, asked, bare, digest_of

from picopayments_cli import api
from picopayments_cli.channel import payment_request
from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.halves import sign_commit
from picopayments_cli.channel.kept import StateReply, counted
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.messages import SyncReply
from picopayments_cli.channel.signing import finish_alone
from picopayments_cli.channel.state import Signed, known_anchor
from picopayments_cli.channel.transactions import compose_commit
from picopayments_cli.channel.values import Quantity, Secret
from picopayments_cli.channel.wire import Receipt
from picopayments_cli.client import requesting
from picopayments_cli.client.state_from_hub import CLOCK_SLACK
from picopayments_cli.errors import (
    BadHubSignature,
    BadReply,
    BadWalletScript,
    ConnectionNotOpen,
    HubRestored,
    HubUnreachable,
    PicopaymentsError,
    StaleRequest,
    SyncIncomplete,
    SyncsHidden,
)

FEE = 1  # for a sync
STRANGER = Key(bytes(31) + b"\7")


def listed(it: Life, since: int = 0) -> list[dict[str, Any]]:
    """The payments behind an index."""
    return cast("list[dict[str, Any]]", api.payments(it.session, since=since))


def lose(it: Life) -> None:
    """Leave nothing of the folder but the wallet's key."""
    it.session.close()
    wallet = it.session.wallet.file
    shutil.rmtree(it.basedir)
    it.restart()
    it.session.store.save_wallet(wallet)
    it.restart()


def sync(it: Life) -> None:
    """Sync as one command does, whether the hub answers or not."""
    it.restart()
    with suppress(SyncIncomplete):
        api.sync(it.session)


def settle(it: Life, blocks: int) -> None:
    """Sync before each block until everything is closed."""
    for _ in range(blocks):
        sync(it)
        if all(item.stage == "closed" for item in it.session.connections().values()):
            return
        it.mine()
    raise AssertionError(f"not closed: {it.connection.ending}")


def whole(it: Life) -> dict[str, object]:
    """The connection, as far as it matters for money."""
    found = it.connection
    receiving = replace(found.duplex.receiving, next_number=0, requested=())  # those go on elsewhere
    names = ("terms", "salt", "expiry", "stage", "counted", "queue", "pending", "owed", "counter", "deposit_raw")
    kept = {name: getattr(found, name) for name in (*names, "lock_due", "deposit_by")}
    return {"c2h": found.duplex.sending, "h2c": receiving, "rows": found.rows, **kept}


def used(it: Life) -> None:
    """Open a connection, and move something both ways: commits are signed, given back, and held on both sides."""
    it.open()
    it.pay(300, b"one")
    it.receive(250)
    it.pay(200, b"two")
    it.receive(70)


def goes_on(it: Life) -> None:
    """The connection pays and is paid, and all comes home by an agreed close."""
    moved = it.connection.duplex.net + 90 - 20 - 2 * FEE
    it.pay(20, b"afterwards")
    it.receive(90)
    assert it.connection.duplex.net == moved
    it.close()
    settle(it, 10)
    assert it.held() == QUANTITY + moved - FEE


# An honest hub ------------------------------------------------------------------------------------------------------


def test_a_connection_goes_on_exactly_where_it_was(it: Life) -> None:
    used(it)
    before = whole(it)
    lose(it)
    api.sync(it.session)
    it.restart()
    assert whole(it) == before
    goes_on(it)


def test_no_index_of_a_lost_file_is_used_again(it: Life) -> None:
    used(it)
    last = it.session.store.payments.last
    lose(it)
    api.sync(it.session)
    it.restart()
    it.receive(90)
    assert listed(it, last)[-1]["amount"] == 90


def test_an_answer_that_was_lost_with_the_folder_is_had(it: Life) -> None:
    used(it)
    moved, it.hub.lost, it.hub.to_pay = it.connection.duplex.net, 9, [80]
    with pytest.raises(HubUnreachable):
        it.pay(30, b"unanswered")
    it.hub.lost = 0
    lose(it)
    api.sync(it.session)
    it.restart()
    assert it.connection.duplex.net == moved + 80 - 30 - FEE
    goes_on(it)


def test_a_request_that_never_came_counts_for_nothing(it: Life) -> None:
    used(it)
    moved, it.hub.silent = it.connection.duplex.net, True
    with pytest.raises(HubUnreachable):
        it.pay(30, b"unheard")
    it.hub.silent = False
    lose(it)
    api.sync(it.session)
    it.restart()
    assert it.connection.duplex.net == moved
    goes_on(it)


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_a_connection_that_opens_goes_on_opening(it: Life, blocks: int) -> None:
    """Blocks since the own deposit; the hub's comes in the second."""
    it.connect()
    agreed = it.connection
    if blocks:
        it.mine()
        it.hub.see(agreed)
    if blocks == 2:
        it.hub.fund(it.coins(it.hub.script))
        it.mine()
    lose(it)
    if not blocks:
        assert api.sync(it.session) == {}  # waits for the block
        it.mine()
        it.hub.see(agreed)
        it.restart()
    api.sync(it.session)
    it.restart()
    if blocks < 2:
        it.hub.fund(it.coins(it.hub.script))
        it.mine()
        it.sync()
    assert it.connection.deposit_raw == agreed.deposit_raw
    assert it.status() == "open"
    goes_on(it)


def test_a_request_that_waits_stays_one(it: Life) -> None:
    it.open()
    api.request(it.session, it.handle, 50)
    (asked,) = it.connection.requests
    it.pay(1)
    lose(it)
    api.sync(it.session)
    it.restart()
    assert it.connection.requests == (asked,)


def test_what_was_asked_for_and_never_deposited_is_left_alone(it: Life) -> None:
    it.killed_at("mph_request is answered", it.connect)
    lose(it)
    assert api.sync(it.session) == {}
    it.killed_at("save agreed", it.connect)  # the hub has agreed, and nothing was deposited
    lose(it)
    assert api.sync(it.session) == {}
    it.connect()
    it.mine()
    it.hub.see(it.connection)
    it.close()  # before the hub deposited
    it.settle()
    assert it.held() == QUANTITY
    lose(it)
    assert api.sync(it.session) == {}  # it is over


@pytest.mark.parametrize("door", ["mph_close is answered", "save hub told", "close is out", "save close left"])
def test_a_connection_that_closes_comes_home(it: Life, door: str) -> None:
    used(it)
    held = QUANTITY + it.connection.duplex.net - FEE  # for the last sync
    it.killed_at(door, it.close)
    lose(it)
    it.hub.refuses = ConnectionNotOpen("It is closing.", stage="closing")
    settle(it, 12)
    assert it.held() == held


def test_a_close_that_is_not_in_a_block_yet_does_not_make_its_deposit_one_that_is_not(
    it: Life, caplog: pytest.LogCaptureFixture
) -> None:
    used(it)
    held = QUANTITY + it.connection.duplex.net - FEE
    it.close()
    lose(it)
    it.hub.refuses = ConnectionNotOpen("It is closing.", stage="closing")
    sync(it)
    assert "is not in a block" not in caplog.text
    assert it.connection.stage == "closing"
    settle(it, 12)
    assert it.held() == held


def test_a_payout_that_waits_for_its_delay_comes_home(it: Life) -> None:
    used(it)
    held = QUANTITY + it.connection.duplex.net
    top = it.hub.now.receiving.active[-1].commit
    it.hub.silent = True
    it.close()
    it.mine()
    it.hub.publish(top)
    it.mine(DELAY)
    lose(it)
    it.hub.silent = False
    settle(it, 12)
    assert it.held() == held


def test_a_deposit_comes_home_though_the_hub_goes_silent_after_it_gave_the_state(it: Life) -> None:
    used(it)
    held = QUANTITY + it.connection.duplex.net
    top = it.hub.now.receiving.active[-1].commit
    lose(it)
    api.sync(it.session)
    it.restart()
    it.hub.silent = True
    it.close()
    it.hub.publish(top)
    it.mine(DELAY)
    settle(it, 12)
    assert it.held() == held


def test_a_cheat_is_punished_all_the_same(it: Life) -> None:
    it.open()
    it.pay(300, b"one")
    given_back = it.hub.now.receiving.active[-1].commit
    it.receive(400)  # which gives it back
    it.receive(10)
    held = QUANTITY + it.connection.duplex.net
    lose(it)
    api.sync(it.session)
    it.hub.publish(given_back)
    it.hub.silent = True
    settle(it, 20)
    assert it.held() >= held


@pytest.mark.parametrize("wait", [False, True])
def test_a_sync_of_the_key_alone_fails_while_the_hub_cannot_be_asked(it: Life, wait: bool) -> None:
    it.open()
    lose(it)
    it.hub.silent = True
    with pytest.raises(HubUnreachable, match="is not known"):
        api.sync(it.session, wait=wait)  # type: ignore[call-arg]
    it.hub.silent = False
    assert list(api.sync(it.session)) == [it.handle]


def test_what_the_hub_published_leaves_the_rest(it: Life) -> None:
    it.open()
    it.pay(300)
    commit = it.hub.now.receiving.active[-1].commit
    lose(it)
    it.hub.publish(commit)
    it.mine()
    settle(it, 10)
    assert it.held() == QUANTITY - commit.quantity


def test_a_connection_of_another_key_is_none(it: Life) -> None:
    it.open()
    lose(it)
    it.hub._salt = bytes(16)
    with pytest.raises(BadReply, match="not of this wallet's key"):
        api.sync(it.session)
    assert it.session.connections() == {}


def test_a_strangers_hub_gets_no_connections_out_of_the_honest_one(it: Life) -> None:
    """It hands on what the client signs, and signs the answers itself."""
    used(it)
    before = whole(it)
    lose(it)
    honest, handed = it.hub.call, []

    def stranger(method: str, params: Mapping[str, Any]) -> Any:
        handed.append(method)
        answer = bare(honest(method, params))
        if "request_sha256" in answer:
            answer["request_sha256"] = digest_of(method, STRANGER.pubkey, params).hex()
        return answered(method, STRANGER, answer)

    it.hub.call = stranger  # type: ignore[method-assign]
    with pytest.raises(BadHubSignature):  # of the refusal, which is the honest one's
        api.sync(it.session)
    assert set(handed) == {"mph_key"}
    assert it.session.connections() == {}
    it.hub.call = honest  # type: ignore[method-assign]
    it.restart()
    api.sync(it.session)
    it.restart()
    assert whole(it) == before
    goes_on(it)


def test_a_connection_with_another_hub_is_none_of_this_one(it: Life) -> None:
    """Though it knew the salt and all keys."""
    it.open()
    lose(it)
    it.hub.key = STRANGER
    with pytest.raises(BadWalletScript):
        api.sync(it.session)
    assert it.session.connections() == {}


def test_a_folder_that_has_its_connections_asks_for_none(it: Life) -> None:
    it.open()
    it.doors.passed.clear()
    api.sync(it.session)
    assert "call mph_key" not in it.doors.passed


# A hub that lies ----------------------------------------------------------------------------------------------------


def nothing(it: Life, reply: StateReply) -> StateReply:
    return replace(reply, count=None, asked=None, answered=None, signed=(), held=())


def a_state_changed(it: Life, reply: StateReply) -> StateReply:
    assert reply.asked is not None
    return replace(reply, asked={**reply.asked, "state": "00" * 500})


def a_request_of_somebody_elses(it: Life, reply: StateReply) -> StateReply:
    assert reply.asked is not None
    forged = asked("mph_sync", Key(bytes(31) + b"\1"), it.hub.key.pubkey, bare(reply.asked))
    return replace(reply, asked=forged)


def another_result(it: Life, reply: StateReply) -> StateReply:
    return replace(reply, answered=it.hub.kept[it.hub.counter - 1][1])


def an_older_state(it: Life, reply: StateReply) -> StateReply:
    asked, answered = it.hub.kept[it.hub.counter - 1]
    return replace(reply, asked=asked, answered=answered)


def no_count(it: Life, reply: StateReply) -> StateReply:
    return replace(reply, count=None)


def an_old_count(it: Life, reply: StateReply) -> StateReply:
    return replace(reply, count=it.hub.count(it.hub.counter, CLOCK_SLACK + 100))


def another_count(it: Life, reply: StateReply) -> StateReply:
    return replace(reply, count=it.hub.count(it.hub.counter + 1))


def a_commit_less(it: Life, reply: StateReply) -> StateReply:
    return replace(reply, signed=reply.signed[1:])


def a_commit_held_less(it: Life, reply: StateReply) -> StateReply:
    return replace(reply, held=())


def a_commit_made_up(it: Life, reply: StateReply) -> StateReply:
    made = Signed(Quantity(QUANTITY), it.hub.secrets.revoke_hash(10**6))
    return replace(reply, signed=(*reply.signed, made))


def a_secret_less(it: Life, reply: StateReply) -> StateReply:
    return replace(reply, signed=tuple(replace(item, secret=None) for item in reply.signed))


def no_remainders(it: Life, reply: StateReply) -> StateReply:
    return replace(reply, signed=tuple(replace(item, remainder=None) for item in reply.signed))


Lie = Callable[[Life, StateReply], StateReply]
NO_STATE: list[Lie] = [nothing, a_state_changed, a_request_of_somebody_elses, another_result]
NOT_PROVEN: list[Lie] = [
    *(no_count, an_old_count, another_count, a_commit_less, a_commit_held_less, a_commit_made_up, a_secret_less),
    an_older_state,
]


@pytest.mark.parametrize("lie", NO_STATE)
def test_without_a_state_the_hub_is_asked_for_what_was_received_and_all_comes_home(it: Life, lie: Lie) -> None:
    it.open()
    it.receive(120)
    it.receive(70)
    received = it.connection.duplex.receiving.moved
    lose(it)
    it.hub.lies = lambda reply: lie(it, reply)
    sync(it)
    assert it.connection.unproven
    settle(it, 12)
    assert it.held() == QUANTITY + received


@pytest.mark.parametrize("lie", NOT_PROVEN)
def test_what_is_not_proven_only_closes_and_comes_home(it: Life, lie: Lie) -> None:
    used(it)
    held = QUANTITY + it.connection.duplex.net
    lose(it)
    it.hub.lies = lambda reply: lie(it, reply)
    api.sync(it.session)
    assert it.connection.stage != "agreed"
    if lie is not an_older_state:  # then the close is agreed; else the client signs none for what it does not know
        it.hub.publish(it.hub.now.receiving.active[-1].commit)
    settle(it, 12)
    assert it.held() == held


@pytest.mark.parametrize("lie", [no_count, a_commit_held_less, a_commit_made_up, no_remainders])
def test_what_is_not_proven_comes_home_alone(it: Life, lie: Lie) -> None:
    used(it)
    held = QUANTITY + it.connection.duplex.net
    lose(it)
    it.hub.lies = lambda reply: lie(it, reply)
    it.hub.closes_alone = True  # it signs nothing
    comes_home_alone(it)
    assert it.held() >= held


def comes_home_alone(it: Life) -> None:
    """Publish what can be published at once, then wait for the expiry."""
    for _ in range(6):
        sync(it)
        it.hub.silent = True
        it.mine()
    it.until(it.connection.expiry.height)
    settle(it, 20)


def test_no_commit_of_what_is_not_proven_is_published_before_the_deadline(it: Life) -> None:
    used(it)
    shown = copy.copy(it.hub.__dict__) | {"received": list(it.hub.received)}
    it.pay(60, b"hidden")  # gives the highest commit back, whose secret the hub has from now on
    lose(it)
    it.hub.__dict__.update(shown)
    it.hub.lies = lambda reply: no_count(it, reply)
    it.hub.closes_alone = True
    sync(it)
    it.hub.silent = True
    deadline = it.connection.expiry.settle_height
    while it.node.bitcoin("getblockcount") < deadline - 1:
        it.mine()
        sync(it)
        assert it.connection.published == ()
    comes_home_alone(it)
    assert it.connection.published != ()


def test_a_hub_that_hides_syncs_takes_no_more_than_it_hid_and_is_convicted_by_its_own_count(it: Life) -> None:
    used(it)
    before, shown = it.connection, copy.copy(it.hub.__dict__) | {"received": list(it.hub.received)}
    it.pay(60, b"hidden")  # gives a commit back, whose secret the hub has from now on
    it.receive(500)
    hidden, given = it.connection.count, it.connection.own_hashes(it.session.wallet.key)
    lose(it)
    it.hub.__dict__.update(shown)
    api.sync(it.session)
    it.restart()
    assert it.connection.stage == "agreed"
    assert whole(it)["c2h"] == before.duplex.sending
    it.receive(90)
    top = it.connection.duplex.receiving.active[-1]
    assert top.revoke_hash not in given  # the hub knows no secret of what is paid from now on
    found = it.connection
    assert found.duplex.net == before.duplex.net + 90 - FEE
    assert hidden is not None
    assert found.count is not None
    old, new = (counted(item, found.handle, found.hub_key) for item in (hidden, found.count))
    assert new.counter < old.counter
    assert replace(new, time=old.time + 1).convicts(old)
    it.hub.silent = True
    it.close()
    comes_home_alone(it)
    assert it.held() >= QUANTITY + found.duplex.net


def comes_back_to_a_made_up_result(it: Life) -> Secret:
    """Pay a shop's request by a result made up since, on a commit whose secret the hub has; that secret."""
    it.open()
    request = payment_request.read(requesting.make(it.session, it.connection, Quantity(850), "goods", 600))
    it.receive(10)
    hub = it.hub
    shown = copy.copy(hub.__dict__) | {"received": list(hub.received), "kept": dict(hub.kept)}
    top = it.connection.duplex.receiving.active[-1]
    it.pay(9, b"hidden")  # gives that commit back
    secret = hub.signed[top.revoke_hash].secret
    assert secret is not None
    lose(it)
    hub.__dict__.update(shown)
    asked, result = hub.kept[hub.counter]
    real, side = SyncReply.parse(result), hub.now.sending
    made = sign_commit(side.contract, known_anchor(side), Quantity(900), top.revoke_hash, hub.secrets.payer)
    paid = Receipt(hub.handle, Quantity(890), request.token, int(time.time()))
    forged = replace(real, half=replace(real.half, commit=made), receipts=(paid,)).as_json()
    hub._answers[digest_of("mph_sync", hub.key.pubkey, asked)] = forged
    hub.kept[hub.counter] = asked, answered("mph_sync", hub.key, forged)
    row = replace(side.active[-1], quantity=Quantity(900))
    hub.now = replace(hub.now, sending=replace(side, active=(*side.active[:-1], row)))
    hub.signed = {**hub.signed, top.revoke_hash: row}
    api.sync(it.session)
    it.restart()
    return secret


def test_a_result_made_up_for_who_comes_back_pays_no_request(it: Life) -> None:
    secret = comes_back_to_a_made_up_result(it)
    found = it.connection
    assert found.stage == "agreed"
    assert found.duplex.receiving.moved == 900
    told = [event for event in it.told() if event["action"] == "received"]
    before, side = it.held(it.hub.script), it.hub.now.sending
    it.hub.silent = True
    it.close()
    it.mine()
    top = found.duplex.receiving.active[-1]
    commit = compose_commit(side.contract, known_anchor(side), 900, top.revoke_hash)
    purse = Purse(it.hub.script, it.coins(it.hub.script), 5)
    revoke = compose_revoke(side.contract, commit.coin(0), top.revoke_hash, XCP, purse)
    it.node.bitcoin("sendrawtransaction", finish_alone(revoke, it.hub.secrets.payer, it.hub.key, secret).hex())
    it.mine()
    assert it.held(it.hub.script) == before + 900  # what the shop believed to have
    assert [event.get("request") for event in told] == [None]
    assert it.hub.given == []  # so it proves nothing


@pytest.mark.parametrize("cause", [StaleRequest, HubRestored])
def test_a_newer_copy_of_the_files_proves_that_syncs_are_hidden(
    it: Life, cause: type[PicopaymentsError], caplog: pytest.LogCaptureFixture
) -> None:
    used(it)
    newest = it.connection.count
    assert newest is not None
    held, it.hub.counter = QUANTITY + it.connection.duplex.net, it.hub.counter - 1
    it.hub.refuses, it.hub.clock = cause("Your request is not the next one."), 5
    it.restart()
    if cause is StaleRequest:
        with pytest.raises(SyncsHidden) as caught:
            it.sync()
        data = caught.value.data
        assert data["earlier"] == newest
        assert counted(data["later"], it.connection.handle, it.connection.hub_key).counter == it.hub.counter
        it.close()
    else:
        it.sync()
        assert "SyncsHidden" in caplog.text
        assert newest["signature"] in caplog.text
    settle(it, 12)
    assert held - FEE <= it.held() <= held


def test_a_request_that_is_not_the_next_proves_nothing_by_itself(it: Life) -> None:
    used(it)
    it.hub.refuses, it.hub.clock = StaleRequest("Your request is not the next one."), 5
    with pytest.raises(StaleRequest):
        it.sync()
    it.hub.lies = lambda reply: replace(reply, count=None)
    with pytest.raises(StaleRequest):
        it.sync()

"""How a client closes: what leaves the machine, what it believes of the hub's last words, and what comes home."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from client_support import EXPIRE, QUANTITY, SILENT, Life
from envelope_support import answered

from picopayments_cli import api
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.errors import (
    AnchorsDiffer,
    BadRequest,
    BroadcastRefused,
    HubUnreachable,
    NodeUnreachable,
    PicopaymentsError,
    StoreUnusable,
    SyncIncomplete,
    UnknownHandle,
)


def closed(it: Life) -> str | None:
    """Close by command: the txid of the commit or close, if there is one."""
    it.restart()
    txid: str | None = api.close(it.session, it.handle)["txid"]
    return txid


def sync(it: Life) -> list[str]:
    """The doors that one sync by command went through, whatever became of it."""
    it.restart()
    it.doors.passed.clear()
    with suppress(HubUnreachable, SyncIncomplete):
        api.sync(it.session)
    return list(it.doors.passed)


def shown(it: Life) -> str:
    """Return what `status` says of the connection."""
    it.restart()
    return str(api.status(it.session)["connections"][it.handle]["status"])


def actions(it: Life) -> list[str]:
    """The actions of the history."""
    return [event["action"] for event in it.told()]


def kinds(it: Life) -> list[str]:
    """Return what the history says was published."""
    return [event["kind"] for event in it.told() if event["action"] == "published"]


Answer = Callable[[str, Mapping[str, Any]], Any]


def answers(it: Life, answer: Callable[[Answer, str, Mapping[str, Any]], Any]) -> None:
    """Have the hub answer by a function that is given its honest way."""
    honest = it.hub.call
    it.hub.call = lambda method, params: answer(honest, method, params)  # type: ignore[method-assign]


def refusing(it: Life, method: str, *errors: PicopaymentsError) -> None:
    """Have the hub refuse the next calls of a method."""
    left = list(errors)

    def answer(honest: Answer, called: str, params: Mapping[str, Any]) -> Any:
        if called == method and left:
            raise left.pop(0)
        return honest(called, params)

    answers(it, answer)


# At the close -------------------------------------------------------------------------------------------------------


def test_what_was_not_agreed_on_is_given_up(it: Life) -> None:
    it.killed_at("save proposed", it.connect)
    it.restart()
    it.doors.passed.clear()
    told = {"txid": None, "hub": None, "sync_fee": 0}
    assert api.close(it.session, it.handle).items() >= told.items()
    assert it.doors.passed == ["save given up"]
    assert it.connection.stage == CLOSED
    assert actions(it) == ["closed"]
    sync(it)
    assert (it.connection.stage, it.held()) == (CLOSED, QUANTITY)


def test_the_queue_is_paid_before_the_close(it: Life) -> None:
    it.open()
    it.queue(100)
    it.hub.to_pay = [30]
    it.restart()
    done = api.close(it.session, it.handle)
    assert done.pop("txid") in it.mempool()
    paid = {"payee_handle": None, "amount": 100, "token": b"token".hex(), "index": 1}
    received = {"payer_handle": it.handle, "amount": 30, "token": b"paid 30".hex(), "index": 2}
    payments = {"sent_payments": [paid], "received_payments": [received], "refused_payments": []}
    assert done == {"hub": "agreed", "sync_fee": 1, **payments}
    assert actions(it) == ["connected", "fee", "sent", "fee", "received", "closing", "published", "published"]
    assert it.hub.received[-1].quantity == 102


def test_the_same_txid_is_told_again(it: Life) -> None:
    it.open()
    it.receive(120)
    txid = closed(it)
    assert txid is not None
    assert closed(it) == txid
    it.mine()
    assert closed(it) == txid
    assert kinds(it).count("close") == 2


def test_a_silent_hub_is_named_where_nothing_could_be_published(it: Life) -> None:
    it.open()
    it.hub.silent = True
    with pytest.raises(HubUnreachable) as refused:
        closed(it)
    assert "The connection is closing all the same" in refused.value.message
    assert refused.value.result | {"hub": "silent", "txid": None, "sync_fee": 0} == refused.value.result
    assert (it.connection.stage, it.connection.ending.told) == (CLOSING, False)


@pytest.mark.parametrize("times", [1, 2])
def test_a_hub_that_did_not_answer_the_last_sync_is_not_told_before_it_has(it: Life, times: int) -> None:
    it.open()
    it.receive(300)
    it.queue(297)  # all that was received: its commit is given back
    refusing(it, "mph_sync", *[SILENT] * times)
    it.restart()
    it.doors.passed.clear()
    with pytest.raises(HubUnreachable):
        api.close(it.session, it.handle)
    for _ in range(times - 1):
        assert "call mph_close" not in sync(it)
    passed = sync(it)
    assert passed.index("call mph_sync") < passed.index("call mph_close")
    assert [event["amount"] for event in it.told() if event["action"] == "sent"] == [297]
    it.settle()
    assert it.held() == QUANTITY + 300 - 297 - 3


def test_once_the_commit_is_out_a_sync_without_an_answer_is_not_sent_again(it: Life) -> None:
    it.open()
    it.receive(300)
    it.queue(100)
    it.hub.silent = True
    assert closed(it) is not None
    assert it.connection.pending is not None
    it.hub.silent = False
    assert "call mph_sync" not in sync(it)
    assert "call mph_sync" not in sync(it)


def test_the_answer_to_the_last_sync_is_fetched_before_the_hub_is_told(it: Life) -> None:
    it.open()
    it.queue(100)
    it.hub.to_pay = [300]
    it.hub.silent = True
    it.close()
    it.hub.silent = False
    passed = sync(it)
    assert passed.index("mph_sync is answered") < passed.index("call mph_close")
    assert it.connection.duplex.receiving.moved > 0
    it.settle()
    assert it.held() == QUANTITY + 200 - 2


def test_an_unanswered_sync_is_finished_before_the_last_one(it: Life) -> None:
    it.open()
    it.queue(100)
    it.hub.silent = True
    sync(it)
    it.hub.silent = False
    it.queue(5, b"later")
    it.hub.to_pay = [300]
    closed(it)
    assert actions(it)[2:8] == ["sent", "fee", "received", "sent", "fee", "closing"]


def take_the_lock_away_with_each_answer(it: Life) -> None:
    """Have the hub's answers come after somebody took the lock's file away, so that nothing can be written."""

    def unlocked(honest: Answer, method: str, params: Mapping[str, Any]) -> Any:
        answer = honest(method, params)
        (it.basedir / "regtest.lock").unlink(missing_ok=True)
        return answer

    answers(it, unlocked)


def test_files_that_can_not_be_written_are_no_refusal_of_the_hubs(it: Life) -> None:
    it.open()
    it.queue(100)
    take_the_lock_away_with_each_answer(it)
    with pytest.raises(StoreUnusable):
        closed(it)
    assert it.connection.stage == AGREED


def test_files_that_can_not_be_written_while_it_closes(it: Life) -> None:
    it.open()
    it.queue(100)
    it.hub.silent = True
    it.close()
    it.hub.silent = False
    take_the_lock_away_with_each_answer(it)
    it.restart()
    with pytest.raises(StoreUnusable):
        api.sync(it.session)
    assert it.connection.pending is not None


# The hub's last words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stranger", [False, True])
def test_last_words_that_are_not_the_hubs_answer(it: Life, stranger: bool) -> None:
    it.open()
    it.receive(120)
    key = Key(bytes(31) + b"\5") if stranger else it.hub.key

    def answer(honest: Answer, method: str, params: Mapping[str, Any]) -> Any:
        body = honest(method, params)
        return answered(method, key, {**body, "request_sha256": "ab" * 32}) if method == "mph_close" else body

    answers(it, answer)
    closed(it)
    assert not it.connection.ending.told
    assert kinds(it) == ["commit"]


@pytest.mark.parametrize("members", [{"revokes": ["ab"]}, {"revokes": None}, {"commit": 5}, {"commit": {}}])
def test_last_words_that_make_no_sense_change_nothing(it: Life, members: Mapping[str, Any]) -> None:
    it.open()
    it.receive(120)
    before = it.connection.duplex.receiving.moved

    def answer(honest: Answer, method: str, params: Mapping[str, Any]) -> Any:
        body = honest(method, params)
        return answered(method, it.hub.key, {**body, **members}) if method == "mph_close" else body

    answers(it, answer)
    assert closed(it) is not None
    assert it.connection.duplex.receiving.moved >= before
    assert kinds(it) == ["commit"]


@pytest.mark.parametrize("error", [BadRequest("Wrong."), UnknownHandle("Which?")])
def test_a_hub_that_does_not_close_is_asked_again(it: Life, error: PicopaymentsError) -> None:
    it.open()
    refusing(it, "mph_close", error)
    assert closed(it) is None
    assert (it.connection.stage, it.connection.ending.told) == (CLOSING, False)
    sync(it)
    assert it.connection.ending.told
    assert "call mph_close" not in sync(it)


def test_a_hub_whose_anchors_differ_is_closed_with(it: Life, caplog: pytest.LogCaptureFixture) -> None:
    it.open()
    it.pay(300)
    refusing(it, "mph_sync", AnchorsDiffer("Other outputs."))
    it.restart()
    assert list(api.sync(it.session)) == [it.handle]
    assert it.connection.stage == CLOSING
    assert "closes: Other outputs." in caplog.text
    it.settle()
    assert it.connection.stage == CLOSED


# Afterwards ---------------------------------------------------------------------------------------------------------


def node_of(it: Life) -> Any:
    """The chain of the command that comes next, to be changed."""
    it.restart()
    return it.session.sight.chain


def picky(raw: bytes) -> bytes:
    """A node that takes nothing."""
    raise BroadcastRefused("Not now.")


def test_what_is_refused_waits_and_stops_nothing_else(it: Life) -> None:
    it.open()
    it.receive(300)
    it.hub.silent = True
    node_of(it).broadcast = picky
    with pytest.raises(HubUnreachable):
        api.close(it.session, it.handle)
    assert kinds(it) == []
    sync(it)
    assert kinds(it) == ["commit"]
    it.mine(4)
    node_of(it).broadcast = picky
    with pytest.raises(SyncIncomplete, match="is closing, and that is not done"):
        api.sync(it.session)
    assert kinds(it) == ["commit"]
    sync(it)
    assert kinds(it) == ["commit", "payout"]


def test_a_coin_that_nobody_knows_waits_and_stops_no_command(it: Life) -> None:
    it.open()
    it.receive(300)
    it.hub.silent = True
    it.node.rpc("feerate", rate=20, minimum=3)
    try:
        chain = node_of(it)
        honest = chain.view
        chain.view = lambda query: replace(honest(query), transactions={})
        with pytest.raises(HubUnreachable):
            api.close(it.session, it.handle)
        assert kinds(it) == []
        sync(it)
        assert kinds(it) == ["commit"]
    finally:
        it.node.rpc("feerate", rate="none", minimum=1)


def unattached(outpoints: object) -> set[Outpoint]:
    """A node that does not say which coins assets are attached to."""
    raise NodeUnreachable("The node does not answer.")


def test_what_can_t_wait_spends_no_coin_that_may_carry_assets(it: Life) -> None:
    it.connect()
    it.mine()
    it.hub.silent = True
    it.close()
    it.until(it.connection.expiry.height)
    node_of(it).attached = unattached
    api.sync(it.session)
    (expiry,) = it.mempool()
    assert len(it.node.bitcoin("getrawtransaction", expiry, True)["vin"]) == 1


@pytest.mark.parametrize(("own", "paid"), [(None, 100), (40, 40)])
def test_what_can_t_wait_pays_the_ceiling_and_no_more_or_ones_own_rate(it: Life, own: int | None, paid: int) -> None:
    it.connect()
    it.mine()
    it.hub.silent = True
    it.close()
    it.until(it.connection.expiry.height)
    it.node.rpc("feerate", rate=1000)
    try:
        it.restart()
        it.session.settings = replace(it.session.settings, fee_rate=own)
        api.sync(it.session)
        (expiry,) = it.mempool()
        entry = it.node.bitcoin("getmempoolentry", expiry)
        assert 0.9 * paid <= 1e8 * entry["fees"]["base"] / entry["vsize"] <= 1.1 * paid
    finally:
        it.node.rpc("feerate", rate="none")


def test_the_last_estimate_is_paid_while_there_is_none(it: Life) -> None:
    it.connect()
    it.mine()
    it.hub.silent = True
    it.node.rpc("feerate", rate=30)
    it.close()
    it.session.keep_rate()  # as every command does at its end
    it.node.rpc("feerate", rate="none")
    it.until(it.connection.expiry.height)
    sync(it)
    entry = it.node.bitcoin("getmempoolentry", it.mempool()[0])
    assert 27 <= 1e8 * entry["fees"]["base"] / entry["vsize"] <= 33


def test_the_stages_that_status_shows(it: Life) -> None:
    it.connect()
    assert shown(it) == "opening"
    it.mine()
    assert shown(it) == "opening"
    it.hub.see(it.connection)
    it.hub.fund(it.coins(it.hub.script))
    assert shown(it) == "opening"
    it.mine()
    assert shown(it) == "open"
    it.hub.silent = True
    deadline = it.connection.expiry.settle_height
    it.until(deadline - 1)
    assert shown(it) == "open"
    it.until(deadline)
    assert shown(it) == "closing"
    assert it.connection.stage == AGREED  # looking changes nothing
    sync(it)
    assert shown(it) == "closing"
    it.settle(EXPIRE)
    assert shown(it) == "closed"
    assert kinds(it) == ["expire"]


def test_what_is_closed_is_looked_at_until_it_is_final(it: Life) -> None:
    it.open()
    it.close()
    it.settle()
    assert (it.connection.stage, it.connection.final) == (CLOSED, False)
    for _ in range(7):
        assert sync(it) in ([], ["save final"])
        it.mine()
    assert it.connection.final
    it.restart()
    assert api.sync(it.session) == {}

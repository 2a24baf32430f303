"""Opening a connection: what is refused of a hub, of a chain and of the wallet, and that nothing was deposited then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from channel2_support import parsed
from memory_life_support import DELAY, EXPIRE, QUANTITY, XCP, LifeInMemory, it
from memory_support import STRANGER, ScriptedHub
from picopayments_cli.channel2 import keys
from picopayments_cli.channel2.transactions import spent_outpoints
from picopayments_cli.client2 import opening

from picopayments_cli import api
from picopayments_cli.chain import Query, View
from picopayments_cli.channel import envelope
from picopayments_cli.channel.stages import AGREED, PROPOSED
from picopayments_cli.channel.values import Handle, Outpoint
from picopayments_cli.errors import (
    AddressUsed,
    BadDepositScript,
    BadHubSignature,
    BadPreviousTransaction,
    BadReply,
    BadTerms,
    DepositRefused,
    FeeTooHigh,
    InsufficientBitcoin,
    InsufficientFunds,
    InvalidTime,
    MemoRequired,
    NodeUnreachable,
    PicopaymentsError,
    RepeatedHash,
    StoreDamaged,
)

__all__ = ["it"]
OTHER = Handle(bytes(32))


def nothing_left(it: LifeInMemory) -> None:
    """Nothing was deposited, and no connection is there."""
    assert it.session.connections() == {}
    assert it.session.store.handles() == []
    assert not any(label.startswith("broadcast") for label in it.doors.passed)
    assert it.chain.held(it.session.wallet.script, XCP) == QUANTITY


def deposits(it: LifeInMemory) -> list[set[Outpoint]]:
    """The coins that each connection's deposit spends."""
    return [set(spent_outpoints(parsed(item.deposit_raw))) for item in it.session.connections().values()]


# The hub's answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "error"),
    [
        ({"sync_fee": QUANTITY}, BadTerms),  # it could never move anything
        ({"deposit_ratio": 0.0009}, BadTerms),  # nothing in return
        ({"deposit_ratio": "1"}, BadTerms),
        ({"fee_rate": 101}, BadTerms),
        ({"deposit_min": QUANTITY + 1}, DepositRefused),
        ({"deposit_max": QUANTITY - 1}, DepositRefused),
        ({"expire_min": EXPIRE + 1}, InvalidTime),
        ({"expire_max": EXPIRE - 1}, InvalidTime),
    ],
)
def test_terms_that_eat_the_deposit_or_do_not_fit_it(
    it: LifeInMemory, terms: Mapping[str, Any], error: type[PicopaymentsError]
) -> None:
    it.hub.lies["mph_request"] = {"channel_terms": {**it.hub.terms.as_json(), **terms}}
    with pytest.raises(error):
        it.connect()
    nothing_left(it)
    assert it.session.store.hub_keys() == {}


def test_terms_at_their_limits_are_taken(it: LifeInMemory) -> None:
    it.hub.terms = replace(
        it.hub.terms, sync_fee=QUANTITY - 1, deposit_ratio=0.001, deposit_min=QUANTITY, deposit_max=QUANTITY
    )
    it.connect()
    assert it.connection.terms == it.hub.terms
    assert it.connection.duplex.receiving.quantity == 1


@pytest.mark.parametrize(
    ("method", "members", "error"),
    [
        ("mph_request", {"handle": "ab"}, BadReply),
        ("mph_request", {"channel_terms": None}, BadTerms),
        ("mph_request", {"request_sha256": "ab" * 32}, BadReply),
        ("mph_request", {"request_sha256": None}, BadReply),
        ("mph_deposit", {"request_sha256": "ab" * 32}, BadReply),
        ("mph_deposit", {"deposit_script": "ab"}, BadDepositScript),
        ("mph_deposit", {"quantity": QUANTITY - 1}, BadReply),
        ("mph_deposit", {"quantity": str(QUANTITY)}, BadReply),
        ("mph_deposit", {"delay_time": 0}, InvalidTime),
        ("mph_deposit", {"delay_time": 2017}, InvalidTime),
        ("mph_deposit", {"delay_time": True}, BadReply),
        ("mph_deposit", {"next_revoke_secret_hash": "ab"}, BadReply),
    ],
)
def test_an_answer_that_is_not_the_agreed_one(
    it: LifeInMemory, method: str, members: Mapping[str, Any], error: type[PicopaymentsError]
) -> None:
    it.hub.lies[method] = members
    with pytest.raises(error):
        it.connect()
    nothing_left(it)
    it.hub.lies.clear()
    it.connect()
    assert len(it.session.connections()) == 1


@pytest.mark.parametrize("place", ["open", "archive", "waiting", "own request"])
@pytest.mark.parametrize("then", ["agrees", "refuses"])
def test_a_handle_that_is_taken_touches_no_file(it: LifeInMemory, place: str, then: str) -> None:
    """The hub draws the handles, and a handle is a file's name: a second hub could have the first one's replaced."""
    it.connect()
    it.chain.mine()
    it.chain.grant(it.session.wallet.script, XCP, QUANTITY)
    taken = it.connection.handle
    if place == "archive":
        it.session.store.archive(taken)
    if place == "waiting":  # of a process that was killed
        it.session.store.save(OTHER, {"stage": "asked", "salt": "ab"}, "test")
        taken = OTHER
    before = it.files()
    evil = ScriptedHub(it.chain, it.hub.terms)
    honest = evil.call

    def call(method: str, params: Mapping[str, Any], *, retry: bool = False) -> Any:
        if method == "mph_deposit" and then == "refuses":
            raise InsufficientFunds("None.")
        handle = taken
        if place == "own request":
            (handle,) = {*it.session.store.handles()} - {taken}
        evil.lies["mph_request"] = {"handle": handle.hex()}
        return honest(method, params, retry=retry)

    evil.call = call  # type: ignore[method-assign]
    it.session.rpc.hub = evil  # type: ignore[attr-defined]
    with pytest.raises(BadReply, match="has already"):
        it.connect()
    assert it.files() == before


@pytest.mark.parametrize("whose", ["the hub's spend hash", "the client's spend hash", "the client's revoke hash"])
def test_a_first_hash_that_is_not_new(it: LifeInMemory, whose: str) -> None:
    it.killed_at("save proposed", it.connect)
    duplex = it.connection.duplex
    known = {
        "the hub's spend hash": duplex.sending.script.spend_hash,
        "the client's spend hash": duplex.receiving.script.spend_hash,
        "the client's revoke hash": duplex.receiving.requested[0],
    }
    it.hub.lies["mph_deposit"] = {"next_revoke_secret_hash": known[whose].hex()}
    with pytest.raises(RepeatedHash):
        api.sync(it.session)
    assert it.connection.stage == PROPOSED


def test_a_spend_hash_that_is_the_clients_own(it: LifeInMemory) -> None:
    honest = it.hub.call

    def echo(method: str, params: Mapping[str, Any], *, retry: bool = False) -> Any:
        it.hub.lies["mph_request"] = {"spend_secret_hash": params.get("spend_secret_hash")}
        return honest(method, params, retry=retry)

    it.hub.call = echo  # type: ignore[method-assign]
    with pytest.raises(RepeatedHash):
        it.connect()
    nothing_left(it)


def test_more_than_agreed_is_taken_and_other_delays_are_kept(it: LifeInMemory) -> None:
    it.hub.lies["mph_deposit"] = {"quantity": QUANTITY + 5, "delay_time": 2016}
    it.connect()
    duplex = it.connection.duplex
    assert (duplex.receiving.quantity, duplex.receiving.delay) == (QUANTITY + 5, 2016)
    assert (duplex.sending.quantity, duplex.sending.delay) == (QUANTITY, DELAY)


@pytest.mark.parametrize("mined", [False, True])
def test_a_deposit_address_that_was_paid_before(it: LifeInMemory, mined: bool) -> None:
    it.killed_at("save proposed", it.connect)
    it.chain.fund(it.connection.duplex.receiving.script.output, 600, mined=mined)
    with pytest.raises(AddressUsed):
        api.sync(it.session)
    assert it.connection.stage == PROPOSED
    assert not any(label.startswith("broadcast") for label in it.doors.passed)


# Whose answers they are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forge", "error"),
    [
        (lambda body: {**body, "handle": "ab" * 32}, BadHubSignature),
        (lambda body: {**body, "signature": "ab"}, BadHubSignature),
        (lambda body: {name: value for name, value in body.items() if name != "signature"}, BadHubSignature),
        (lambda body: {name: value for name, value in body.items() if name != "pubkey"}, BadHubSignature),
        (lambda body: {**envelope.seal(STRANGER, body), "pubkey": body["pubkey"]}, BadHubSignature),
        (lambda body: [body], BadReply),
        (lambda body: None, BadReply),
    ],
)
def test_an_answer_that_its_key_has_not_signed(
    it: LifeInMemory, forge: Callable[[dict[str, Any]], Any], error: type[PicopaymentsError]
) -> None:
    honest = it.hub.call
    it.hub.call = lambda *given, **named: forge(honest(*given, **named))  # type: ignore[method-assign]
    with pytest.raises(error):
        it.connect()
    nothing_left(it)
    assert it.session.store.hub_keys() == {}


def test_a_hub_is_known_by_its_first_key(it: LifeInMemory) -> None:
    known = {"http://hub.invalid": it.hub.key.pubkey.hex()}
    it.open()
    assert it.session.store.hub_keys() == known
    it.chain.grant(it.session.wallet.script, XCP, QUANTITY)
    it.hub.key = STRANGER
    for step in (it.connect, lambda: api.sync(it.session)):
        with pytest.raises(BadHubSignature):
            step()
    assert it.session.store.hub_keys() == known
    assert len(it.session.connections()) == 1


def test_a_connections_own_key_counts_whatever_the_list_of_hubs_says(it: LifeInMemory) -> None:
    it.open()
    it.session.store.save_hub_key(it.hub.url, STRANGER.pubkey.hex())
    it.queue(100)
    it.sync()
    assert it.connection.pending is None
    it.chain.grant(it.session.wallet.script, XCP, QUANTITY)
    with pytest.raises(BadHubSignature):
        it.connect()


@pytest.mark.parametrize("content", ["{", "[]", '{"http://hub.invalid/api/": 5}', '{"http://hub.invalid/api/": "ab"}'])
def test_a_list_of_hubs_that_is_none(it: LifeInMemory, content: str) -> None:
    it.session.store.save_hub_key(it.hub.url, "ab")
    it.session.store.hubs_path.write_text(content)
    with pytest.raises(StoreDamaged):
        it.connect()
    nothing_left(it)
    assert it.session.store.hubs_path.read_text() == content
    assert "call mph_request" not in it.doors.passed


# The wallet ---------------------------------------------------------------------------------------------------------


def test_more_than_the_wallet_holds(it: LifeInMemory) -> None:
    before = it.files()
    with pytest.raises(InsufficientFunds) as refused:
        opening.connect(it.session, it.chain.asset("XCP"), QUANTITY + 1, EXPIRE, DELAY)
    assert (refused.value.data["needed"], refused.value.data["available"]) == (QUANTITY + 1, QUANTITY)
    assert it.files() == before
    assert it.doors.passed == []


@pytest.mark.parametrize("delay", [0, -1, 2017])
def test_a_delay_that_no_commit_may_have(it: LifeInMemory, delay: int) -> None:
    with pytest.raises(InvalidTime):
        opening.connect(it.session, it.chain.asset("XCP"), QUANTITY, EXPIRE, delay)
    assert it.doors.passed == []


def test_what_is_on_its_way_into_a_deposit_is_not_there_for_another(it: LifeInMemory) -> None:
    it.connect()
    for _ in range(2):  # in the mempool, and in a block
        with pytest.raises(InsufficientFunds) as refused:
            opening.connect(it.session, it.chain.asset("XCP"), 1, EXPIRE, DELAY)
        assert refused.value.data["available"] == 0
        it.chain.mine()
    it.chain.grant(it.session.wallet.script, XCP, 10)
    with pytest.raises(InsufficientFunds) as refused:
        opening.connect(it.session, it.chain.asset("XCP"), 11, EXPIRE, DELAY)
    assert refused.value.data["available"] == 10


@pytest.mark.parametrize("left", [True, False])
def test_what_a_deposit_that_no_block_holds_spends_is_left_alone(it: LifeInMemory, left: bool) -> None:
    it.connect() if left else it.killed_at("save agreed", it.connect)
    it.chain.grant(it.session.wallet.script, XCP, 10)
    it.hub.handle = OTHER
    with pytest.raises(InsufficientFunds) as refused:
        opening.connect(it.session, it.chain.asset("XCP"), 11, EXPIRE, DELAY)
    assert refused.value.data["available"] == 10
    opening.connect(it.session, it.chain.asset("XCP"), 10, EXPIRE, DELAY)
    one, two = deposits(it)
    assert one.isdisjoint(two)
    assert [item.stage for item in it.session.connections().values()] == [AGREED, AGREED]


def test_the_reserve_stays_in_the_wallet_to_the_satoshi(it: LifeInMemory) -> None:
    it.chain.entries.clear()
    it.chain.fund(it.session.wallet.script, 25_000)
    it.chain.fee_rate = 10
    with pytest.raises(InsufficientBitcoin) as refused:
        it.connect()
    needed, available = refused.value.data["needed"], refused.value.data["available"]
    assert needed > available == 25_000
    nothing_left(it)
    it.chain.entries.clear()
    it.chain.fund(it.session.wallet.script, needed - 1)
    with pytest.raises(InsufficientBitcoin):
        it.connect()
    it.chain.entries.clear()
    it.chain.fund(it.session.wallet.script, needed)
    it.connect()
    it.chain.mine()
    (change,) = it.chain.view(Query(coins=[it.session.wallet.address])).coins[it.session.wallet.address]
    assert change.value == 20_000


def test_the_network_asks_more_than_the_ceiling(it: LifeInMemory) -> None:
    it.chain.fee_rate = it.session.settings.fee_ceiling + 1
    with pytest.raises(FeeTooHigh) as refused:
        it.connect()
    assert refused.value.data == {"rate": 101, "fee_ceiling": 100}
    nothing_left(it)
    it.chain.fee_rate = it.session.settings.fee_ceiling
    it.connect()
    it.chain.fee_rate += 1
    it.chain.mine()
    it.chain.grant(it.session.wallet.script, XCP, QUANTITY)
    it.hub.handle = OTHER
    with pytest.raises(FeeTooHigh):
        it.connect()
    it.session.settings = replace(it.session.settings, fee_rate=2)
    it.connect()


def test_a_coin_of_another_value_is_not_spent(it: LifeInMemory) -> None:
    """Legacy signatures do not commit to the values of what they spend: the difference would go to the miners."""
    honest = it.chain.view

    def lying(query: Query) -> View:
        view = honest(query)
        named = {at: tuple(replace(coin, value=coin.value - 1) for coin in coins) for at, coins in view.coins.items()}
        return replace(view, coins=named)

    it.chain.view = lying  # type: ignore[method-assign]
    with pytest.raises(BadPreviousTransaction) as refused:
        it.connect()
    assert (refused.value.data["value"], refused.value.data["named"]) == (1_000_000, 999_999)
    nothing_left(it)


def test_a_coin_that_nobody_knows_is_not_spent(it: LifeInMemory) -> None:
    honest = it.chain.view
    it.chain.view = lambda query: replace(honest(query), transactions={})  # type: ignore[method-assign]
    with pytest.raises(BadPreviousTransaction):
        it.connect()
    nothing_left(it)


def test_coins_with_assets_attached_are_left_alone(it: LifeInMemory) -> None:
    coins = it.chain.view(Query(coins=[it.session.wallet.address])).coins[it.session.wallet.address]
    it.chain.with_assets = {coin.outpoint for coin in coins[:2]}
    it.connect()
    assert deposits(it) == [{coins[2].outpoint}]


@pytest.mark.parametrize("options", [1, 3, 2**63 - 1])
def test_nothing_is_deposited_that_could_not_come_back_for_want_of_a_memo(it: LifeInMemory, options: int) -> None:
    it.chain.options[it.session.wallet.address] = options
    with pytest.raises(MemoRequired) as refused:
        it.connect()
    assert refused.value.data == {"address": it.session.wallet.address}
    nothing_left(it)
    it.chain.options[it.session.wallet.address] = 2
    it.connect()


def test_no_coin_is_spent_where_nobody_says_what_is_attached(it: LifeInMemory) -> None:
    def silent(outpoints: object) -> set[Outpoint]:
        raise NodeUnreachable("The node does not answer.")

    it.chain.attached = silent  # type: ignore[method-assign]
    with pytest.raises(NodeUnreachable):
        it.connect()
    nothing_left(it)


# What stands afterwards ---------------------------------------------------------------------------------------------


def test_each_step_is_on_disk_before_the_next_leaves(it: LifeInMemory) -> None:
    it.killed_at("save asked", it.connect)
    assert it.session.store.load_wif() is not None  # the key that all of it is signed with
    (asked,) = it.session.store.load_all().values()
    it.doors.passed.clear()
    it.connect()
    assert it.doors.passed == [
        "save asked",
        "call mph_request",
        "save proposed",
        "remove",
        "call mph_deposit",
        "save agreed",
        "broadcast deposit",
    ]
    assert asked["stage"] == "asked"
    assert bytes.fromhex(asked["salt"]) != it.connection.salt


def test_what_was_agreed_is_on_disk_before_the_deposit_leaves(it: LifeInMemory) -> None:
    it.killed_at("save agreed", it.connect)
    agreed = it.connection
    anchor = agreed.duplex.sending.anchor
    assert anchor is not None
    txid = str(anchor.outpoint).partition(":")[0]
    assert (agreed.stage, agreed.agreed_height, agreed.asset) == (AGREED, it.chain.tip, "XCP")
    assert (agreed.hub_url, agreed.hub_key) == (it.hub.url, it.hub.key.pubkey)
    assert (agreed.duplex.sending.quantity, agreed.duplex.sending.script.expire) == (QUANTITY, EXPIRE)
    assert agreed.duplex.receiving.script.spend_hash == agreed.secrets(it.session.wallet.key).spend_hash
    assert it.told() == [{"action": "connected", "asset": "XCP", "quantity": QUANTITY, "txid": txid}]
    assert it.sync() == ["broadcast deposit"]
    assert it.chain.output(anchor.outpoint) is not None
    salts = {agreed.salt}
    it.hub.handle = OTHER
    it.chain.grant(it.session.wallet.script, XCP, QUANTITY)
    it.connect()
    salts |= {item.salt for item in it.session.connections().values()}
    assert [len(salt) for salt in salts] == [keys.SALT_SIZE] * 2

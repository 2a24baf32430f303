"""Opening a connection: what is refused of a hub, of a chain and of the wallet, and that nothing was deposited then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import client_support
import pytest
from client_support import DELAY, EXPIRE, QUANTITY, URL, Hub, Life
from envelope_support import answered
from regtest_support import address_of

from picopayments_cli import api
from picopayments_cli.chain import Query, View
from picopayments_cli.channel.counterparty import p2pkh
from picopayments_cli.channel.drafts import parse_transaction, spent_outpoints
from picopayments_cli.channel.keys import SALT_SIZE, Key
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.stages import AGREED, PROPOSED
from picopayments_cli.channel.values import Handle, Outpoint
from picopayments_cli.channel.wire import terms_json
from picopayments_cli.client import funds, opening
from picopayments_cli.client.nodes import OwnNodes
from picopayments_cli.errors import (
    BadDepositScript,
    BadHubSignature,
    BadPreviousTransaction,
    BadReply,
    BadTerms,
    BadWalletScript,
    DepositRefused,
    ExtraMissing,
    FeeTooHigh,
    FeeUnknown,
    InsufficientBitcoin,
    InsufficientFunds,
    InvalidTime,
    LockFeeTooHigh,
    MemoRequired,
    NodeBehind,
    NodeUnreachable,
    PicopaymentsError,
    RepeatedHash,
    RepeatedKey,
    StoreDamaged,
    SyncFeeTooHigh,
    TaprootInactive,
)

STRANGER = Key(bytes(31) + b"\5")
OTHER = Handle(bytes(32))


def test_on_a_ledger_that_stands_nothing_is_opened_and_all_is_settled(
    it: Life, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    it.open()
    it.pay(300)

    def stands(*_: Any) -> None:
        raise NodeBehind("The newest block is old.")

    monkeypatch.setattr(OwnNodes, "check_current", stands)
    it.restart()
    with pytest.raises(NodeBehind):
        it.connect()
    it.close()
    it.settle()
    assert it.connection.stage == "closed"
    assert "The newest block is old." in caplog.text


def test_without_the_kernel_the_hub_is_not_asked(it: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would judge whether the deposit can be taken back."""
    monkeypatch.setitem(sys.modules, "pbk", None)
    monkeypatch.setattr(it.hub, "call", pytest.fail)
    with pytest.raises(ExtraMissing) as refused:
        it.connect()
    assert refused.value.data == {"extra": "kernel", "missing": ["py-bitcoinkernel"]}
    assert it.session.connections() == {}


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("call mph_request", "no connection was begun: run the command again"),
        ("mph_request is answered", "no connection was begun: run the command again"),
        ("call mph_deposit", "its deposit has not left"),
        ("mph_deposit is answered", "its deposit has not left"),
        ("broadcast deposit", "its deposit may have left"),
        ("deposit is out", "its deposit may have left"),
    ],
)
def test_an_interrupt_says_how_far_a_connection_has_come_and_how_to_go_on(
    it: Life, label: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_support, "Killed", KeyboardInterrupt)
    it.doors.deadly = label
    with pytest.raises(KeyboardInterrupt, match=told) as stopped:
        it.connect()
    it.restart()
    if "sync --wait" in str(stopped.value):
        assert f"`picopayments-cli close {it.handle}`" in str(stopped.value)
        it.sync()
        assert it.connection.stage == AGREED
        assert len(it.mempool()) == 1
    else:
        it.connect()


def lying(it: Life, method: str, members: Mapping[str, Any]) -> Callable[[], None]:
    """Have the hub's answers to a method have other members; how to end that."""
    honest = it.hub.call

    wanted = method

    def call(method: str, params: Mapping[str, Any]) -> Any:
        body = honest(method, params)
        return answered(method, it.hub.key, {**body, **members}) if method == wanted else body

    it.hub.call = call  # type: ignore[method-assign]
    return lambda: setattr(it.hub, "call", honest)


def grant(it: Life, quantity: int) -> None:
    """Give the wallet some of the asset."""
    it.node.rpc("faucet", address=it.session.wallet.address, btc=0, asset="XCP", quantity=quantity)
    it.mine()


def another(it: Life) -> None:
    """Have the hub forget the connection, and give another one."""
    hub = Hub(it.node, it.hub.key)
    hub.handle, hub.secrets = OTHER, replace(hub.secrets, salt=b"another salt....")
    it.hub = hub
    it.restart()


def chain_of(it: Life) -> Any:
    """The chain of the command that comes next, to be changed."""
    it.restart()
    return it.session.sight.chain


def nothing_left(it: Life) -> None:
    """Nothing was deposited, and no connection is there."""
    assert it.session.connections() == {}
    assert it.session.store.handles() == []
    assert not any(label.startswith("broadcast") for label in it.doors.passed)
    assert it.held() == QUANTITY


def deposits(it: Life) -> list[set[Outpoint]]:
    """The coins that each connection's deposit spends."""
    found = [parse_transaction(item.deposit_raw) for item in it.session.connections().values()]
    return [set(spent_outpoints(tx)) for tx in found if tx is not None]


# The hub's answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "error"),
    [
        ({"sync_fee": QUANTITY}, DepositRefused),  # it could never move anything, where a larger one could
        ({"sync_fee": QUANTITY, "deposit_max": QUANTITY}, BadTerms),  # none could
        ({"deposit_ratio": 0.0009}, DepositRefused),  # nothing in return
        ({"deposit_ratio": 0.0009, "deposit_max": QUANTITY}, BadTerms),
        ({"deposit_ratio": "1"}, BadTerms),
        ({"lock_base": QUANTITY // 20 + 1}, LockFeeTooHigh),  # more than five hundredths
        ({"lock_base": 1, "lock_rate": 1_000_000_000}, LockFeeTooHigh),
        ({"lock_base": None}, BadTerms),
        ({"sync_fee": QUANTITY // 100 + 1}, SyncFeeTooHigh),  # more than a hundredth
        ({"fee_rate": 101}, BadTerms),
        ({"fee_rate": 7}, BadTerms),  # more than an honest hub needs at 1 sat/vB
        ({"fee_rate_max": 0}, BadTerms),
        ({"deposit_min": QUANTITY + 1}, DepositRefused),
        ({"deposit_max": QUANTITY - 1}, DepositRefused),
        ({"expire_min": EXPIRE + 1}, InvalidTime),
        ({"expire_max": EXPIRE - 1}, InvalidTime),
    ],
)
def test_terms_that_eat_the_deposit_or_do_not_fit_it(
    it: Life, terms: Mapping[str, Any], error: type[PicopaymentsError]
) -> None:
    lying(it, "mph_request", {"channel_terms": {**terms_json(it.hub.terms), **terms}})
    with pytest.raises(error):
        it.connect()
    nothing_left(it)
    assert it.session.store.notes.hub_keys() == {}


def test_terms_at_their_limits_are_taken(it: Life) -> None:
    it.hub.terms = replace(
        it.hub.terms, sync_fee=QUANTITY // 100, deposit_ratio=0.001, deposit_min=QUANTITY, deposit_max=QUANTITY
    )
    it.connect()
    assert it.connection.terms == it.hub.terms
    assert it.connection.duplex.receiving.contract.quantity == 1


@pytest.mark.parametrize(
    ("method", "members", "error"),
    [
        ("mph_request", {"handle": "ab"}, BadReply),
        ("mph_request", {"channel_terms": None}, BadTerms),
        ("mph_deposit", {"lock_fee": 1}, BadReply),  # which its terms do not name
        ("mph_deposit", {"deposit_by": 1}, InvalidTime),  # no deposit could be in time
        ("mph_deposit", {"deposit_by": None}, BadReply),
        ("mph_request", {"request_sha256": "ab" * 32}, BadReply),
        ("mph_request", {"request_sha256": None}, BadReply),
        ("mph_deposit", {"request_sha256": "ab" * 32}, BadReply),
        ("mph_deposit", {"deposit_output": "ab"}, BadReply),
        ("mph_deposit", {"deposit_output": "ab" * 34}, BadDepositScript),
        ("mph_deposit", {"expiry_height": 5}, BadDepositScript),
        ("mph_deposit", {"h2c": {"quantity": QUANTITY - 1, "delay_time": DELAY, "fee_rate": 1}}, BadReply),
        ("mph_deposit", {"h2c": {"quantity": str(QUANTITY), "delay_time": DELAY, "fee_rate": 1}}, BadReply),
        ("mph_deposit", {"h2c": {"quantity": QUANTITY, "delay_time": 0, "fee_rate": 1}}, BadReply),
        ("mph_deposit", {"h2c": {"quantity": QUANTITY, "delay_time": 2017, "fee_rate": 1}}, BadReply),
        ("mph_deposit", {"h2c": {"quantity": QUANTITY, "delay_time": DELAY, "fee_rate": 2}}, BadReply),
        ("mph_deposit", {"next_revoke_hash": "ab"}, BadReply),
    ],
)
def test_an_answer_that_is_not_the_agreed_one(
    it: Life, method: str, members: Mapping[str, Any], error: type[PicopaymentsError]
) -> None:
    end = lying(it, method, members)
    with pytest.raises(error):
        it.connect()
    nothing_left(it)
    end()
    it.connect()
    assert len(it.session.connections()) == 1


@pytest.mark.parametrize("place", ["open", "archive", "waiting", "own request"])
@pytest.mark.parametrize("then", ["agrees", "refuses"])
def test_a_handle_that_is_taken_touches_no_file(it: Life, place: str, then: str) -> None:
    """The hub draws the handles, and a handle is a file's name: a second hub could have the first one's replaced."""
    it.connect()
    it.mine()
    grant(it, QUANTITY)
    taken = it.connection.handle
    if place == "archive":
        it.session.store.archive(taken)
    if place == "waiting":  # of a process that was killed
        it.session.store.save(OTHER, {"stage": "asked", "salt": "ab"}, "test")
        taken = OTHER
    before = it.files()
    another(it)
    honest = it.hub.call

    def call(method: str, params: Mapping[str, Any]) -> Any:
        if method == "mph_deposit" and then == "refuses":
            raise InsufficientFunds("None.")
        handle = taken
        if place == "own request" and method == "mph_request":
            (handle,) = {*it.session.store.handles()} - {taken}
        it.hub.handle = handle
        return honest(method, params)

    it.hub.call = call  # type: ignore[method-assign]
    with pytest.raises(BadReply, match="has already"):
        it.connect()
    assert it.files() == before


def test_a_first_hash_that_is_not_new(it: Life) -> None:
    it.killed_at("save proposed", it.connect)
    it.restart()
    known = it.connection.duplex.receiving.requested[0].revoke_hash
    lying(it, "mph_deposit", {"next_revoke_hash": known.hex()})
    with pytest.raises(RepeatedHash):
        api.sync(it.session)
    assert it.connection.stage == PROPOSED


def test_keys_that_are_the_clients_own(it: Life) -> None:
    honest = it.hub.call

    def echo(method: str, params: Mapping[str, Any]) -> Any:
        body = honest(method, params)
        return answered(method, it.hub.key, {**body, "hub": params["client"]}) if method == "mph_request" else body

    it.hub.call = echo  # type: ignore[method-assign]
    with pytest.raises(RepeatedKey):
        it.connect()
    nothing_left(it)


def test_a_wallet_that_is_not_of_the_hubs_key(it: Life) -> None:
    it.hub.script = p2pkh(STRANGER.pubkey_hash)
    with pytest.raises(BadWalletScript):
        it.connect()
    nothing_left(it)


# Whose answers they are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forge", "error"),
    [
        (lambda body: {**body, "handle": "ab" * 32, "connections": None}, BadHubSignature),
        (lambda body: {**body, "signature": "ab"}, BadHubSignature),
        (lambda body: {name: value for name, value in body.items() if name != "signature"}, BadHubSignature),
        (lambda body: {name: value for name, value in body.items() if name != "pubkey"}, BadHubSignature),
        (lambda body: {**answered("mph_request", STRANGER, body), "pubkey": body["pubkey"]}, BadHubSignature),
        (lambda body: [body], BadReply),
        (lambda body: None, BadReply),
    ],
)
@pytest.mark.parametrize("of", ["mph_key", "mph_request"])
def test_an_answer_that_its_key_has_not_signed(
    it: Life, of: str, forge: Callable[[dict[str, Any]], Any], error: type[PicopaymentsError]
) -> None:
    honest = it.hub.call

    def call(method: str, params: Mapping[str, Any]) -> Any:
        return forge(honest(method, params)) if method == of else honest(method, params)

    it.hub.call = call  # type: ignore[method-assign]
    with pytest.raises(error):
        it.connect()
    nothing_left(it)
    assert it.session.store.notes.hub_keys() == {}


def test_a_hub_is_known_by_its_first_key(it: Life) -> None:
    known = {"http://hub.invalid": it.hub.key.pubkey.hex()}
    it.open()
    assert it.session.store.notes.hub_keys() == known
    grant(it, QUANTITY)
    it.hub.key = STRANGER
    it.restart()
    for step in (it.connect, lambda: api.sync(it.session)):
        with pytest.raises(BadHubSignature):
            step()
    assert it.session.store.notes.hub_keys() == known
    assert len(it.session.connections()) == 1


def test_a_connections_own_key_counts_whatever_the_list_of_hubs_says(it: Life) -> None:
    it.open()
    it.session.store.notes.save_hub_key(URL, STRANGER.pubkey.hex())
    it.queue(100)
    it.sync()
    assert it.connection.pending is None
    grant(it, QUANTITY)
    with pytest.raises(BadHubSignature):
        it.connect()


@pytest.mark.parametrize("content", ["{", "[]", '{"http://hub.invalid/api/": 5}', '{"http://hub.invalid/api/": "ab"}'])
def test_a_list_of_hubs_that_is_none(it: Life, content: str) -> None:
    it.session.store.notes.save_hub_key(URL, "ab")
    it.session.store.notes.hubs_path.write_text(content)
    with pytest.raises(StoreDamaged):
        it.connect()
    nothing_left(it)
    assert it.session.store.notes.hubs_path.read_text() == content
    assert "call mph_request" not in it.doors.passed


# The wallet ---------------------------------------------------------------------------------------------------------


def test_more_than_the_wallet_holds(it: Life) -> None:
    before = it.files()
    with pytest.raises(InsufficientFunds) as refused:
        opening.connect(it.session, it.session.chain.asset("XCP"), QUANTITY + 1, EXPIRE, DELAY)
    assert (refused.value.data["needed"], refused.value.data["available"]) == (QUANTITY + 1, QUANTITY)
    assert it.files() == before
    assert it.doors.passed == []


@pytest.mark.parametrize("delay", [0, -1, 2017])
def test_a_delay_that_no_commit_may_have(it: Life, delay: int) -> None:
    with pytest.raises(InvalidTime):
        opening.connect(it.session, it.session.chain.asset("XCP"), QUANTITY, EXPIRE, delay)
    assert it.doors.passed == []


def test_what_is_on_its_way_into_a_deposit_is_not_there_for_another(it: Life) -> None:
    it.connect()
    for _ in range(2):  # in the mempool, and in a block
        with pytest.raises(InsufficientFunds) as refused:
            opening.connect(it.session, it.session.chain.asset("XCP"), 1, EXPIRE, DELAY)
        assert refused.value.data["available"] == 0
        it.mine()
    grant(it, 10)
    with pytest.raises(InsufficientFunds) as refused:
        opening.connect(it.session, it.session.chain.asset("XCP"), 11, EXPIRE, DELAY)
    assert refused.value.data["available"] == 10


@pytest.mark.parametrize("left", [True, False])
def test_what_a_deposit_that_no_block_holds_spends_is_left_alone(it: Life, left: bool) -> None:
    grant(it, 100)
    it.connect() if left else it.killed_at("save agreed", it.connect)
    another(it)
    with pytest.raises(InsufficientFunds) as refused:
        opening.connect(it.session, it.session.chain.asset("XCP"), 101, EXPIRE, DELAY)
    assert refused.value.data["available"] == 100
    opening.connect(it.session, it.session.chain.asset("XCP"), 100, EXPIRE, DELAY)
    one, two = deposits(it)
    assert one.isdisjoint(two)
    assert [item.stage for item in it.session.connections().values()] == [AGREED, AGREED]
    it.mine()


def test_a_deposit_leaves_the_reserve_in_the_wallet(it: Life) -> None:
    held = sum(coin.value for coin in it.coins(it.wallet))
    api.blocksend(it.session, "BTC", address_of(it.hub.script), held - 22_000)
    it.mine()
    it.restart()
    it.doors.passed.clear()
    with pytest.raises(InsufficientBitcoin):
        it.connect()
    nothing_left(it)


def test_the_network_asks_more_than_the_ceiling(it: Life) -> None:
    ceiling = it.session.settings.fee_ceiling
    it.hub.terms = replace(it.hub.terms, fee_rate_max=100)
    it.node.rpc("feerate", rate=ceiling + 1)
    try:
        with pytest.raises(FeeTooHigh) as refused:
            it.connect()
        assert refused.value.data == {"rate": 101, "fee_ceiling": 100}
        nothing_left(it)
        it.session.settings = replace(it.session.settings, fee_rate=2)
        it.connect()
    finally:
        it.node.rpc("feerate", rate="none")
    it.mine()


def test_what_a_connection_fixes_is_built_on_no_guess(it: Life) -> None:
    view = it.session.chain.view(Query())
    assert view.fee_rate is None
    assert funds.known_rate(it.session, view).guess  # which the regtest node never minds
    it.session.network = NETWORKS["testnet4"]
    with pytest.raises(FeeUnknown, match="set fee_rate"):
        funds.known_rate(it.session, view)
    assert not funds.known_rate(it.session, replace(view, fee_rate=7)).guess
    with pytest.raises(FeeUnknown):
        funds.known_rate(it.session, view)
    assert funds.rate(it.session, view).value == 7  # the last one that the chain had
    it.session.settings = replace(it.session.settings, fee_rate=3)
    assert funds.known_rate(it.session, view).value == 3


def test_nothing_is_deposited_before_the_ledger_knows_taproot(it: Life) -> None:
    it.session.network = replace(it.session.network, taproot_height=it.tip + 1)
    with pytest.raises(TaprootInactive) as refused:
        it.connect()
    assert refused.value.data == {"network": "regtest", "height": it.tip, "needed": it.tip + 1}
    nothing_left(it)
    it.mine()
    it.connect()
    assert it.connection.stage == AGREED


def test_a_coin_of_another_value_is_not_spent(it: Life) -> None:
    """Legacy signatures do not commit to the values of what they spend: the difference would go to the miners."""
    chain = chain_of(it)
    honest = chain.view

    def lying(query: Query) -> View:
        view: View = honest(query)
        named = {at: tuple(replace(coin, value=coin.value - 1) for coin in coins) for at, coins in view.coins.items()}
        return replace(view, coins=named)

    chain.view = lying
    with pytest.raises(BadPreviousTransaction) as refused:
        it.connect()
    assert (refused.value.data["value"], refused.value.data["named"]) == (100_000, 99_999)
    nothing_left(it)


def test_a_coin_that_nobody_knows_is_not_spent(it: Life) -> None:
    chain = chain_of(it)
    honest = chain.view
    chain.view = lambda query: replace(honest(query), transactions={})
    with pytest.raises(BadPreviousTransaction):
        it.connect()
    nothing_left(it)


def test_coins_with_assets_attached_are_left_alone(it: Life) -> None:
    *others, kept = sorted(it.coins(it.wallet), key=lambda coin: (coin.value, coin.outpoint))
    chain_of(it).attached = lambda outpoints: {coin.outpoint for coin in others}
    it.connect()
    assert deposits(it) == [{kept.outpoint}]


@pytest.mark.parametrize("options", [1, 3])
def test_nothing_is_deposited_that_could_not_come_back_for_want_of_a_memo(it: Life, options: int) -> None:
    it.node.rpc("setaddressoptions", address=it.session.wallet.address, options=options)
    with pytest.raises(MemoRequired) as refused:
        it.connect()
    assert refused.value.data == {"address": it.session.wallet.address}
    nothing_left(it)
    it.node.rpc("setaddressoptions", address=it.session.wallet.address, options=2)
    it.connect()


def test_no_coin_is_spent_where_nobody_says_what_is_attached(it: Life) -> None:
    def silent(outpoints: object) -> set[Outpoint]:
        raise NodeUnreachable("The node does not answer.")

    chain_of(it).attached = silent
    with pytest.raises(NodeUnreachable):
        it.connect()
    nothing_left(it)


# What stands afterwards ---------------------------------------------------------------------------------------------


def test_each_step_is_on_disk_before_the_next_leaves(it: Life) -> None:
    it.killed_at("save asked", it.connect)
    it.restart()
    assert it.session.store.load_wallet() is not None  # the key that all of it is signed with
    (asked,) = it.session.store.load_all().values()
    assert isinstance(asked, dict)
    it.doors.passed.clear()
    it.connect()
    assert [label for label in it.doors.passed if not label.endswith(("is answered", "is out"))] == [
        "call mph_key",
        "call mph_key",
        "save asked",
        "call mph_request",
        "save proposed",
        "call mph_deposit",
        "save agreed",
        "broadcast deposit",
    ]
    assert asked["stage"] == "asked"
    assert bytes.fromhex(asked["salt"]) != it.connection.salt


def test_what_was_agreed_is_on_disk_before_the_deposit_leaves(it: Life) -> None:
    it.killed_at("save agreed", it.connect)
    it.restart()
    agreed = it.connection
    sending = agreed.duplex.sending
    assert sending.anchor is not None
    txid = str(sending.anchor.outpoint).partition(":")[0]
    assert (agreed.stage, agreed.asset) == (AGREED, "XCP")
    assert (agreed.hub_url, agreed.hub_key) == (URL, it.hub.key.pubkey)
    assert (sending.contract.quantity, agreed.expiry.height) == (QUANTITY, it.tip + EXPIRE)
    (event,) = it.told()
    assert {name: event[name] for name in ("action", "asset", "quantity", "txid")} == {
        "action": "connected", "asset": "XCP", "quantity": QUANTITY, "txid": txid,
    }  # fmt: skip
    it.sync()
    assert it.mempool() == [txid]
    salts = {agreed.salt}
    another(it)
    grant(it, QUANTITY)
    it.connect()
    salts |= {item.salt for item in it.session.connections().values()}
    assert [len(salt) for salt in salts] == [SALT_SIZE] * 2

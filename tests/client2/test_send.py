"""`blocksend` sends from the wallet, refuses each send that can't be, and takes words as they are meant."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
from channel2_support import parsed, wallet_coin
from memory_life_support import QUANTITY, XCP, LifeInMemory, it
from memory_support import REGTEST, STRANGER, address
from picopayments_cli.channel2.scripts import wallet_unlock
from picopayments_cli.channel2.transactions import DUST, Output, Purse, compose_send, spent_outpoints

from picopayments_cli import api
from picopayments_cli.chain import Asset, Query
from picopayments_cli.channel.counterparty import p2pkh, pack_send
from picopayments_cli.channel.values import Handle, hash160
from picopayments_cli.client.arguments import asset_named, handle_named, quantity_of
from picopayments_cli.errors import (
    AmbiguousHandle,
    BadPreviousTransaction,
    BroadcastRefused,
    FeeTooHigh,
    InsufficientBitcoin,
    InsufficientFunds,
    InvalidAddress,
    InvalidHex,
    InvalidParams,
    InvalidQuantity,
    MemoRequired,
    NodeUnreachable,
    PicopaymentsError,
    UnknownAsset,
    UnknownHandle,
)

__all__ = ["it"]
THEIRS = p2pkh(hash160(STRANGER.pubkey))
THERE = address(THEIRS)


def paid(it: LifeInMemory, txid: str) -> int:
    """The satoshis that a transaction of the mempool pays to the stranger."""
    (raw,) = (entry.raw for entry in it.chain.entries if entry.txid == bytes.fromhex(txid)[::-1])
    return sum(out.nValue for out in parsed(raw).vout if bytes(out.scriptPubKey) == THEIRS)


@pytest.mark.parametrize(("extra", "value"), [(0, DUST), (DUST - 1, DUST), (DUST + 1, DUST + 1), ("0", DUST)])
def test_an_asset_goes_with_the_dust_that_an_output_must_hold(it: LifeInMemory, extra: Any, value: int) -> None:
    txid = api.blocksend(it.session, "XCP", THERE, QUANTITY, extra)
    assert paid(it, txid) == value
    it.chain.mine()
    assert (it.chain.held(THEIRS, XCP), it.chain.held(it.session.wallet.script, XCP)) == (QUANTITY, 0)


def test_bitcoins_go_alone(it: LifeInMemory) -> None:
    assert paid(it, api.blocksend(it.session, "BTC", THERE, DUST)) == DUST
    assert paid(it, api.blocksend(it.session, "BTC", REGTEST.burn_address, 700)) == 0
    it.chain.mine()
    assert it.chain.held(it.session.wallet.script, XCP) == QUANTITY


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("BTC", THERE, DUST - 1), InvalidQuantity),
        (("BTC", THERE, DUST, 1), InvalidParams),
        (("BTC", THERE, 0), InvalidQuantity),
        (("BTC", THERE, 2_990_000), InsufficientBitcoin),
        (("BTC", THERE, 30_000_000), InsufficientBitcoin),
        (("XCP", THERE, QUANTITY + 1), InsufficientFunds),
        (("XCP", THERE, 5, 2_990_000), InsufficientBitcoin),
        (("XCP", REGTEST.burn_address, 5), InvalidAddress),
        (("XCP", "nowhere", 5), InvalidAddress),
        (("xcp", THERE, 5), UnknownAsset),
        (("XCP", THERE, True), InvalidQuantity),
        (("XCP", THERE, "5BTC"), InvalidQuantity),
        (("XCP", THERE, 5, -1), InvalidQuantity),
    ],
)
def test_a_send_that_can_t_be_is_refused(
    it: LifeInMemory, words: tuple[Any, ...], error: type[PicopaymentsError]
) -> None:
    before = list(it.chain.entries)
    with pytest.raises(error):
        api.blocksend(it.session, *words)
    assert it.chain.entries == before


def test_no_asset_is_sent_to_where_the_ledger_wants_a_memo(it: LifeInMemory) -> None:
    it.chain.options = {THERE: 1, it.session.wallet.address: 1}
    before = list(it.chain.entries)
    with pytest.raises(MemoRequired) as refused:
        api.blocksend(it.session, "XCP", THERE, 5)
    assert (refused.value.data, it.chain.entries) == ({"address": THERE}, before)
    api.blocksend(it.session, "BTC", THERE, 5000)
    it.chain.options[THERE] = 2
    api.blocksend(it.session, "XCP", THERE, 5)
    it.chain.mine()
    assert it.chain.held(THEIRS, XCP) == 5


def test_the_reserve_stays_to_the_satoshi(it: LifeInMemory) -> None:
    it.chain.fee_rate = 2
    with pytest.raises(InsufficientBitcoin) as refused:
        api.blocksend(it.session, "BTC", THERE, 2_990_000)
    assert refused.value.data["available"] == 3_000_000
    most = 2_990_000 - (refused.value.data["needed"] - 3_000_000)
    with pytest.raises(InsufficientBitcoin):
        api.blocksend(it.session, "BTC", THERE, most + 1)
    api.blocksend(it.session, "BTC", THERE, most)
    it.chain.mine()
    (change,) = it.chain.view(Query(coins=[it.session.wallet.address])).coins[it.session.wallet.address]
    assert change.value == 20_000


def test_what_is_on_its_way_out_is_not_sent_again(it: LifeInMemory) -> None:
    api.blocksend(it.session, "XCP", THERE, 600)
    for _ in range(2):
        with pytest.raises(InsufficientFunds) as refused:
            api.blocksend(it.session, "XCP", THERE, 401)
        assert (refused.value.data["needed"], refused.value.data["available"]) == (401, 400)
    api.blocksend(it.session, "XCP", THERE, 400)
    it.chain.mine()
    assert it.chain.held(THEIRS, XCP) == QUANTITY


def test_other_sends_of_the_mempool_are_not_the_wallets(it: LifeInMemory) -> None:
    """A stranger's send to the wallet, one of another asset, and a payment of bitcoins."""
    coin = wallet_coin(it.chain.fund(THEIRS, 100_000), 100_000)
    it.chain.grant(THEIRS, XCP, 500)
    purse = Purse(wallet_unlock(STRANGER.pubkey, THEIRS), (coin,), 2)
    draft = compose_send(purse, Output(DUST, it.session.wallet.script), pack_send(XCP, 500))
    it.chain.broadcast(draft.signed(STRANGER).serialize())
    it.chain.fund(it.session.wallet.script, 5000, mined=False)
    api.blocksend(it.session, "BTC", THERE, 5000)
    other = it.chain.asset("PEPECASH")
    it.chain.grant(it.session.wallet.script, other.number, 50)
    api.blocksend(it.session, "PEPECASH", THERE, 50)
    with pytest.raises(InsufficientFunds) as refused:
        api.blocksend(it.session, "XCP", THERE, QUANTITY + 1)
    assert refused.value.data["available"] == QUANTITY


def test_unconfirmed_coins_are_not_spent(it: LifeInMemory) -> None:
    it.chain.fund(it.session.wallet.script, 50_000_000, mined=False)
    with pytest.raises(InsufficientBitcoin):
        api.blocksend(it.session, "BTC", THERE, 3_000_000)
    it.chain.mine()
    api.blocksend(it.session, "BTC", THERE, 3_000_000)


def test_one_command_spends_no_coin_twice(it: LifeInMemory) -> None:
    for _ in range(3):
        api.blocksend(it.session, "BTC", THERE, 900_000)
    spent = [outpoint for entry in it.chain.entries[-3:] for outpoint in spent_outpoints(parsed(entry.raw))]
    assert len(set(spent)) == 3


def test_a_rate_above_the_ceiling_is_not_paid(it: LifeInMemory) -> None:
    it.chain.fee_rate = 101
    with pytest.raises(FeeTooHigh):
        api.blocksend(it.session, "BTC", THERE, 5000)
    it.session.settings = replace(it.session.settings, fee_rate=7)
    txid = api.blocksend(it.session, "BTC", THERE, 5000)
    (raw,) = (entry.raw for entry in it.chain.entries if entry.txid == bytes.fromhex(txid)[::-1])
    tx = parsed(raw)
    spent = [it.chain.output(outpoint) for outpoint in spent_outpoints(tx)]
    fee = sum(found[0].value for found in spent if found) - sum(out.nValue for out in tx.vout)
    assert 6.5 < fee / len(raw) < 7.5


def test_a_coin_of_another_value_is_not_spent(it: LifeInMemory) -> None:
    honest = it.chain.view
    it.chain.view = lambda query: replace(honest(query), transactions={})  # type: ignore[method-assign]
    with pytest.raises(BadPreviousTransaction):
        api.blocksend(it.session, "BTC", THERE, 5000)


@pytest.mark.parametrize("error", [NodeUnreachable("It does not answer."), BroadcastRefused("No.")])
def test_a_payment_that_may_have_left_is_named(it: LifeInMemory, error: PicopaymentsError) -> None:
    left: list[bytes] = []

    def broken(raw: bytes) -> bytes:
        left.append(bytes(parsed(raw).GetTxid()))
        raise error

    it.chain.broadcast = broken  # type: ignore[method-assign]
    with pytest.raises(type(error)) as refused:
        api.blocksend(it.session, "BTC", THERE, 5000)
    named = left[0][::-1].hex()
    assert refused.value.data == ({"txid": named} if isinstance(error, NodeUnreachable) else {})
    assert (named in refused.value.message) is isinstance(error, NodeUnreachable)


# Words --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "XC", "xc", "A1", ".", "XCP.", "xcp.", "PARENT.", "parent..child", "BTC.child"])
def test_what_can_be_no_assets_name_is_not_asked_for(it: LifeInMemory, name: str) -> None:
    def unasked(name: str) -> Asset:
        raise AssertionError(name)

    it.chain.asset = unasked  # type: ignore[method-assign]
    with pytest.raises(UnknownAsset):
        asset_named(it.session, name)


@pytest.mark.parametrize(
    ("value", "asset", "quantity"),
    [
        (5, "XCP", 5),
        ("5", "XCP", 5),
        ("5XCP", "XCP", 500_000_000),
        ("0.00000001XCP", "XCP", 1),
        ("5PEPECASH", "PEPECASH", 5),
        ("5PARENT.child", "A95428956661682177", 5),
    ],
)
def test_a_quantity_with_its_unit(it: LifeInMemory, value: int | str, asset: str, quantity: int) -> None:
    plain = it.chain.asset
    it.chain.asset = lambda name: replace(plain(asset), divisible=False) if "." in name else plain(name)  # type: ignore[method-assign]
    assert quantity_of(it.session, value, asset) == quantity


@pytest.mark.parametrize("whose", ["hub", "own"])
@pytest.mark.parametrize(
    ("value", "asset"), [("5DEMOCOIN", "DEMOCOIN"), ("5XCP", "XCP"), ("5BTC", "BTC"), ("5", "DEMOCOIN")]
)
def test_how_much_a_unit_of_the_hubs_word_is_is_said(
    it: LifeInMemory, whose: str, value: str, asset: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A hub that lies about an asset's decimals has another quantity signed."""
    it.session.settings = replace(it.session.settings, chain_url=None if whose == "hub" else "http://node.invalid/")
    it.chain.asset = lambda name: Asset(name, 5, True)  # type: ignore[method-assign]
    with caplog.at_level(logging.INFO):
        quantity_of(it.session, value, asset)
    said = whose == "hub" and value == "5DEMOCOIN"
    assert [record.getMessage() for record in caplog.records] == (
        ["5DEMOCOIN is 500000000 satoshis, says the hub."] if said else []
    )


@pytest.mark.parametrize(
    ("value", "asset"),
    [
        (0, "XCP"),
        (2**63, "XCP"),
        ("5.5", "XCP"),
        ("5BTC", "XCP"),
        ("5XCP", "BTC"),
        ("0.000000001XCP", "XCP"),
        ("5.5PEPECASH", "PEPECASH"),
        ("5PARENT.child", "XCP"),
    ],
)
def test_a_quantity_of_something_else(it: LifeInMemory, value: int | str, asset: str) -> None:
    plain = it.chain.asset
    it.chain.asset = lambda name: plain("A95428956661682177") if "." in name else plain(name)  # type: ignore[method-assign]
    with pytest.raises(InvalidQuantity):
        quantity_of(it.session, value, asset)


ONE, TWO = (Handle(bytes(31) + bytes((last,))) for last in (0x1F, 0x2F))
WHOLE = ONE.hex()


@pytest.mark.parametrize("text", [WHOLE, WHOLE[:63], "f" * 8])
def test_a_handle_by_what_it_begins_with(text: str) -> None:
    known = [TWO, ONE, Handle(b"\xff" * 32)]
    assert handle_named(text, known).hex().startswith(text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", InvalidHex),
        ("f" * 7, InvalidHex),
        (WHOLE + "0", InvalidHex),
        (WHOLE + "00", InvalidHex),
        ("F" * 8, InvalidHex),
        ("g" * 9, InvalidHex),
        ("e" * 8, UnknownHandle),
        (WHOLE[:-1] + "0", UnknownHandle),
        ("0" * 8, AmbiguousHandle),
        ("0" * 62, AmbiguousHandle),
    ],
)
def test_a_handle_that_names_no_connection_is_refused(text: str, error: type[PicopaymentsError]) -> None:
    with pytest.raises(error):
        handle_named(text, [TWO, ONE, Handle(b"\xff" * 32)])

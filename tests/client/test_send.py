"""`blocksend` sends from the wallet, refuses each send that can't be, and takes words as they are meant."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any

import pytest
from client_support import QUANTITY, XCP, Life
from regtest_support import REGTEST, address_of

from picopayments_cli import api
from picopayments_cli.chain import Asset, Query
from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.counterparty import p2pkh, pack_send
from picopayments_cli.channel.drafts import DUST, Output, parse_transaction, spent_outpoints
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.transactions import compose_send
from picopayments_cli.channel.values import Handle
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

STRANGER = Key(os.urandom(32))
THEIRS = p2pkh(STRANGER.pubkey_hash)
THERE = address_of(THEIRS)


def nowhere() -> str:
    """An address that nobody has used."""
    return address_of(p2pkh(os.urandom(20)))


def transaction(it: Life, txid: str) -> Any:
    """A transaction of the mempool."""
    return parse_transaction(bytes.fromhex(it.node.bitcoin("getrawtransaction", txid)))


def holds(it: Life, address: str) -> int:
    """The XCP of an address."""
    return it.session.chain.view(Query(balances=[address])).balances[address].get("XCP", 0)


@pytest.mark.parametrize(("extra", "value"), [(0, DUST), (DUST - 1, DUST), (DUST + 1, DUST + 1), ("0", DUST)])
def test_an_asset_goes_with_the_dust_that_an_output_must_hold(it: Life, extra: Any, value: int) -> None:
    there = nowhere()
    tx = transaction(it, api.blocksend(it.session, "XCP", there, QUANTITY, extra))
    assert (address_of(bytes(tx.vout[0].scriptPubKey)), tx.vout[0].nValue) == (there, value)
    it.mine()
    assert (holds(it, there), it.held()) == (QUANTITY, 0)


def test_bitcoins_go_alone(it: Life) -> None:
    tx = transaction(it, api.blocksend(it.session, "BTC", THERE, DUST))
    assert (bytes(tx.vout[0].scriptPubKey), tx.vout[0].nValue, len(tx.vout)) == (THEIRS, DUST, 2)
    api.blocksend(it.session, "BTC", REGTEST.burn_address, 700)
    it.mine()
    assert it.held() > QUANTITY  # burnt bitcoins make the ledger's own asset


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("BTC", THERE, DUST - 1), InvalidQuantity),
        (("BTC", THERE, DUST, 1), InvalidParams),
        (("BTC", THERE, 0), InvalidQuantity),
        (("BTC", THERE, 290_000), InsufficientBitcoin),
        (("BTC", THERE, 3_000_000), InsufficientBitcoin),
        (("XCP", THERE, QUANTITY + 1), InsufficientFunds),
        (("XCP", THERE, 5, 290_000), InsufficientBitcoin),
        (("XCP", REGTEST.burn_address, 5), InvalidAddress),
        (("XCP", "nowhere", 5), InvalidAddress),
        (("xcp", THERE, 5), UnknownAsset),
        (("XCP", THERE, True), InvalidQuantity),
        (("XCP", THERE, "5BTC"), InvalidQuantity),
        (("XCP", THERE, 5, -1), InvalidQuantity),
    ],
)
def test_a_send_that_can_t_be_is_refused(it: Life, words: tuple[Any, ...], error: type[PicopaymentsError]) -> None:
    with pytest.raises(error):
        api.blocksend(it.session, *words)
    assert it.mempool() == []


def test_no_asset_is_sent_to_where_the_ledger_wants_a_memo(it: Life) -> None:
    there = nowhere()
    for address in (there, it.session.wallet.address):
        it.node.rpc("setaddressoptions", address=address, options=1)
    with pytest.raises(MemoRequired) as refused:
        api.blocksend(it.session, "XCP", there, 5)
    assert (refused.value.data, it.mempool()) == ({"address": there}, [])
    api.blocksend(it.session, "BTC", there, 5000)
    it.node.rpc("setaddressoptions", address=there, options=2)
    api.blocksend(it.session, "XCP", there, 5)
    it.mine()
    assert holds(it, there) == 5


def test_the_reserve_stays_to_the_satoshi(it: Life) -> None:
    it.session.settings = replace(it.session.settings, fee_rate=2)
    held = sum(coin.value for coin in it.coins(it.wallet))
    with pytest.raises(InsufficientBitcoin) as refused:
        api.blocksend(it.session, "BTC", THERE, held - 20_000)
    assert refused.value.data["available"] == held
    most = 2 * held - 20_000 - refused.value.data["needed"]
    with pytest.raises(InsufficientBitcoin):
        api.blocksend(it.session, "BTC", THERE, most + 1)
    api.blocksend(it.session, "BTC", THERE, most)
    it.mine()
    assert sum(coin.value for coin in it.coins(it.wallet)) == 20_000


def test_what_is_on_its_way_out_is_not_sent_again(it: Life) -> None:
    there = nowhere()
    api.blocksend(it.session, "XCP", there, 600)
    for _ in range(2):
        with pytest.raises(InsufficientFunds) as refused:
            api.blocksend(it.session, "XCP", there, 401)
        assert (refused.value.data["needed"], refused.value.data["available"]) == (401, 400)
    api.blocksend(it.session, "XCP", there, 400)
    it.mine()
    assert holds(it, there) == QUANTITY


def test_other_sends_of_the_mempool_are_not_the_wallets(it: Life) -> None:
    """A stranger's send to the wallet, one of another asset, and a payment of bitcoins."""
    it.node.rpc("faucet", address=THERE, btc=100_000, asset="XCP", quantity=500)
    it.node.rpc("faucet", address=it.session.wallet.address, btc=0, asset="DEMOCOIN", quantity=50)
    it.mine()
    draft = compose_send(Purse(THEIRS, it.coins(THEIRS), 2), Output(DUST, it.wallet), pack_send(XCP, 500))
    it.node.bitcoin("sendrawtransaction", finish_wallet(draft, STRANGER).hex())
    api.blocksend(it.session, "BTC", THERE, 5000)
    api.blocksend(it.session, "DEMOCOIN", THERE, 50)
    with pytest.raises(InsufficientFunds) as refused:
        api.blocksend(it.session, "XCP", THERE, QUANTITY + 1)
    assert refused.value.data["available"] == QUANTITY
    it.mine()


def test_unconfirmed_coins_are_not_spent(it: Life) -> None:
    it.node.rpc("faucet", address=it.session.wallet.address, btc=50_000_000, asset="XCP", quantity=0)
    with pytest.raises(InsufficientBitcoin):
        api.blocksend(it.session, "BTC", THERE, 300_000)
    it.mine()
    api.blocksend(it.session, "BTC", THERE, 300_000)
    it.mine()


def test_one_command_spends_no_coin_twice(it: Life) -> None:
    txids = [api.blocksend(it.session, "BTC", THERE, 60_000) for _ in range(3)]
    spent = [outpoint for txid in txids for outpoint in spent_outpoints(transaction(it, txid))]
    assert len(set(spent)) == 3
    it.mine()


def test_a_rate_above_the_ceiling_is_not_paid(it: Life) -> None:
    it.session.settings = replace(it.session.settings, fee_rate=101)
    with pytest.raises(FeeTooHigh):
        api.blocksend(it.session, "BTC", THERE, 5000)
    it.session.settings = replace(it.session.settings, fee_rate=7)
    txid = api.blocksend(it.session, "BTC", THERE, 5000)
    entry = it.node.bitcoin("getmempoolentry", txid)
    assert 6.5 < 1e8 * entry["fees"]["base"] / entry["vsize"] < 7.5
    it.mine()


def test_a_coin_of_another_value_is_not_spent(it: Life) -> None:
    chain: Any = it.session.sight.chain
    honest = chain.view
    chain.view = lambda query: replace(honest(query), transactions={})
    with pytest.raises(BadPreviousTransaction):
        api.blocksend(it.session, "BTC", THERE, 5000)


@pytest.mark.parametrize("error", [NodeUnreachable("It does not answer."), BroadcastRefused("No.")])
def test_a_payment_that_may_have_left_is_named(it: Life, error: PicopaymentsError) -> None:
    left: list[bytes] = []

    def broken(raw: bytes) -> bytes:
        tx = parse_transaction(raw)
        assert tx is not None
        left.append(bytes(tx.GetTxid()))
        raise error

    chain: Any = it.session.sight.chain
    chain.broadcast = broken
    with pytest.raises(type(error)) as refused:
        api.blocksend(it.session, "BTC", THERE, 5000)
    named = left[0][::-1].hex()
    assert refused.value.data == ({"txid": named} if isinstance(error, NodeUnreachable) else {})
    assert (named in refused.value.message) is isinstance(error, NodeUnreachable)


# Words --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "XC", "xc", "A1", ".", "XCP.", "xcp.", "PARENT.", "parent..child", "BTC.child"])
def test_what_can_be_no_assets_name_is_not_asked_for(it: Life, name: str) -> None:
    def unasked(name: str) -> Asset:
        raise AssertionError(name)

    chain: Any = it.session.sight.chain
    chain.asset = unasked
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
def test_a_quantity_with_its_unit(it: Life, value: int | str, asset: str, quantity: int) -> None:
    chain: Any = it.session.sight.chain
    chain.asset = lambda name: Asset(asset if "." in name else name, 5, name in ("XCP", "BTC"))
    assert quantity_of(it.session, value, asset) == quantity


@pytest.mark.parametrize("whose", ["hub", "own"])
@pytest.mark.parametrize(
    ("value", "asset"), [("5DEMOCOIN", "DEMOCOIN"), ("5XCP", "XCP"), ("5BTC", "BTC"), ("5", "DEMOCOIN")]
)
def test_how_much_a_unit_of_the_hubs_word_is_is_said(
    it: Life, whose: str, value: str, asset: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A hub that lies about an asset's decimals has another quantity signed."""
    sight: Any = it.session.sight
    it.session.settings = replace(it.session.settings, chain_url=None if whose == "hub" else "http://node.invalid/")
    sight.chain.asset = lambda name: Asset(name, 5, True)
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
def test_a_quantity_of_something_else(it: Life, value: int | str, asset: str) -> None:
    chain: Any = it.session.sight.chain
    chain.asset = lambda name: Asset("A95428956661682177" if "." in name else name, 5, name in ("XCP", "BTC"))
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

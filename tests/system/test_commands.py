"""The commands beside those of a connection's life, and the words they take: right ones, and wrong ones refused."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bitcoin.core import CTransaction
from hypothesis import given
from hypothesis import strategies as st
from network_support import ASSETS, COINS, Client, Network, refusal, running_network
from servers import json_rpc

from picopayments_cli import cli
from picopayments_cli.channel.counterparty import message_of, pack_send
from picopayments_cli.channel.drafts import DUST
from picopayments_cli.channel.networks import NETWORKS, address_of_script, script_of_address
from picopayments_cli.channel.values import MAX_QUANTITY, Handle
from picopayments_cli.client.arguments import handle_named
from picopayments_cli.client.funds import WALLET_RESERVE
from picopayments_cli.errors import AmbiguousHandle, InvalidQuantity, NodeUnreachable
from picopayments_cli.quantities import read_quantity
from picopayments_cli.rpc import RpcClient

REGTEST = NETWORKS["regtest"]
LONGNAME, CHILD = "PARENT.child", "A95428959371716303"
MAINNET = "1CounterpartyXXXXXXXXXXXXXXXUWLpVr"
SEGWIT = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
NOWHERE = "ab" * 32
NOBODY = "http://127.0.0.1:9/api/"
STRANGERS = iter(range(1, 1000))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A network whose mempool holds nothing but what is sent here."""
    with running_network(tmp_path_factory.mktemp("commands")) as running:
        yield running


@pytest.fixture(scope="module")
def alice(network: Network) -> Client:
    """With BTC, XCP, DEMOCOIN and a subasset, each confirmed; tests here leave her without an unconfirmed coin."""
    client = network.client("alice")
    for asset in ("DEMOCOIN", LONGNAME):
        client.run("faucet", "--asset", asset, "--quantity", "500")
    network.mine()
    return client


@pytest.fixture(params=["hub", "own"])
def source(request: pytest.FixtureRequest, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source that the chain may be asked of."""
    if request.param == "own":
        monkeypatch.setenv("PICOPAYMENTS_CHAIN_URL", network.chain_url)


def stranger() -> str:
    """An address that nobody has used yet."""
    return str(address_of_script(REGTEST, b"\x76\xa9\x14" + next(STRANGERS).to_bytes(20, "big") + b"\x88\xac"))


def address_of(client: Client) -> str:
    address: str = client.run("status")["wallet"]["address"]
    return address


# blocksend ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    ("words", "quantity", "satoshis"),
    [
        (("XCP", "1.5XCP"), 150_000_000, DUST),
        (("XCP", "7", "--extra_btc", "0.00001BTC"), 7, 1000),
        (("XCP", "7", "--extra-btc", "5"), 7, DUST),
        (("XCP", "7", "--extra-btc=0"), 7, DUST),
    ],
)
def test_an_asset_is_sent(
    network: Network, alice: Client, words: tuple[str, ...], quantity: int, satoshis: int
) -> None:
    destination, before = stranger(), alice.balances()
    txid = alice.run("blocksend", words[0], destination, *words[1:])
    tx = network.raw(txid)
    assert [bytes(out.scriptPubKey) for out in tx.vout][::2] == [
        script_of_address(REGTEST, destination),
        alice.wallet_script,
    ]
    assert message_of(bytes(tx.vout[1].scriptPubKey), tx.vin[0].prevout.hash) == pack_send(1, quantity)
    network.mine()
    assert alice.run("balances", "--address", destination) == {"BTC": satoshis, "XCP": quantity}
    after = alice.balances()
    fee = network.fee_of(tx)
    assert (before["XCP"] - after["XCP"], before["BTC"] - after["BTC"]) == (quantity, satoshis + fee)
    bare = CTransaction(tx.vin, tx.vout, tx.nLockTime, tx.nVersion)
    size = (len(tx.serialize()) + 3 * len(bare.serialize())) / 4
    assert size <= fee <= 3 * size


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("destination", [None, SEGWIT])
def test_bitcoin_is_sent_plainly(network: Network, alice: Client, destination: str | None) -> None:
    address = destination or stranger()
    before = alice.run("balances", "--address", address)["BTC"]
    tx = network.raw(alice.run("blocksend", "BTC", address, "0.0001BTC"))
    network.mine()
    assert [out.nValue for out in tx.vout][:1] == [10_000]
    assert len(tx.vout) == 2
    assert alice.run("balances", "--address", address)["BTC"] == before + 10_000


def test_a_subasset_is_sent_by_either_name(network: Network, alice: Client) -> None:
    destination = stranger()
    alice.run("blocksend", LONGNAME, destination, f"0.000001{LONGNAME}")
    network.mine()
    alice.run("blocksend", CHILD, destination, f"0.00000003{CHILD}")
    network.mine()
    assert alice.run("balances", "--address", destination, "--asset", LONGNAME) == {LONGNAME: 103}


def test_the_same_command_again_is_another_payment(network: Network) -> None:
    client = network.client("again")
    client.run("faucet", "--btc", "1BTC")
    network.mine()
    destination = stranger()
    first, second = (client.run("blocksend", "XCP", destination, "40XCP") for _ in range(2))
    assert first != second
    assert client.fails("blocksend", "XCP", destination, "1") == (1, "InsufficientBitcoin")  # both coins are on the way
    network.mine()
    assert client.balances()["XCP"] == ASSETS - 80 * COINS


def test_what_is_on_its_way_out_is_not_sent_again(network: Network) -> None:
    client = network.client("leaving")
    for _ in range(3):
        client.run("faucet", "--btc", str(COINS))
    network.mine()
    client.run("blocksend", "XCP", stranger(), "60XCP")
    client.run("connect", "XCP", "30XCP")
    code, name, data = refusal(client, "blocksend", "XCP", stranger(), "10.00000001XCP")
    assert (code, name, data["available"]) == (1, "InsufficientFunds", 10 * COINS)
    assert refusal(client, "connect", "XCP", "10.00000001XCP")[1] == "InsufficientFunds"
    client.run("blocksend", "XCP", stranger(), "10XCP")
    network.mine()
    assert client.balances().get("XCP", 0) == 0


def test_the_reserve_stays_in_the_wallet(network: Network) -> None:
    client = network.client("reserve")
    code, name, data = refusal(client, "blocksend", "BTC", stranger(), str(COINS - WALLET_RESERVE))
    assert (code, name, data["available"]) == (1, "InsufficientBitcoin", COINS)
    most = COINS - (data["needed"] - COINS) - WALLET_RESERVE
    assert refusal(client, "blocksend", "BTC", stranger(), str(most + 1))[1] == "InsufficientBitcoin"
    assert refusal(client, "blocksend", "XCP", stranger(), "1", f"--extra-btc={most}")[1] == "InsufficientBitcoin"
    client.run("blocksend", "BTC", stranger(), str(most))
    network.mine()
    assert client.balances()["BTC"] == WALLET_RESERVE


@contextlib.contextmanager
def lying(network: Network, **answers: Callable[..., Any]) -> Iterator[str]:
    """A hub that answers some methods itself, and hands on the calls of all others that ``blocksend`` needs."""
    handed_on = ("get_running_info", "get_unspent_txouts", "utxos_with_balances", "get_balances", "get_address_options")

    def handing_on(name: str) -> Callable[..., Any]:
        return lambda **params: network.hub.call(name, **params)

    transactions = ("getrawtransaction_batch", "search_raw_transactions", "sendrawtransaction")
    with json_rpc({name: handing_on(name) for name in (*handed_on, *transactions)} | answers) as url:
        yield url


def test_where_the_ledger_wants_a_memo_nothing_is_sent_or_deposited(network: Network) -> None:
    """A wallet whose owner has asked for memos elsewhere: what a connection pays back would never arrive."""
    client, there = network.client("memo"), stranger()
    client.run("faucet")
    network.mine()
    node = RpcClient(network.chain_url + "regtest/")
    for address in (address_of(client), there):
        node.call("setaddressoptions", [address, 1], retry=False)
    before = client.run("balances")
    assert refusal(client, "connect", "XCP", "1000000")[:2] == (1, "MemoRequired")
    assert refusal(client, "blocksend", "XCP", there, "1000")[:2] == (1, "MemoRequired")
    assert network.bitcoin("getrawmempool") == []
    assert client.run("balances") == before
    node.call("setaddressoptions", [address_of(client), 0], retry=False)
    client.run("connect", "XCP", "1000000")
    network.mine(2)


def test_a_coin_of_another_value_is_not_spent(network: Network, alice: Client) -> None:
    """Legacy signatures don't commit to values: what the hub leaves out would go to the miners."""

    def half(**params: Any) -> Any:
        return [coin | {"value": coin["value"] // 2} for coin in network.hub.call("get_unspent_txouts", **params)]

    with lying(network, get_unspent_txouts=half) as url:
        for asset in ("BTC", "XCP"):
            outcome = refusal(Client(alice.basedir, url), "blocksend", asset, stranger(), "1000")
            assert outcome[:2] == (5, "BadPreviousTransaction")
    assert network.bitcoin("getrawmempool") == []


def test_what_pays_less_than_the_estimate_waits(network: Network) -> None:
    client = network.client("waiting")
    client.run("faucet", "--btc", "1BTC")
    network.mine()
    txid = client.run("blocksend", "BTC", stranger(), "1000")
    assert client.run("feerate", "50") == {"fee_rate": 50, "minimum": 1}
    client.run("mine", "2")
    assert network.bitcoin("getrawmempool") == [txid]
    assert client.run("feerate", "--minimum", "50") == {"fee_rate": 50, "minimum": 50}
    assert network.bitcoin("getrawmempool") == []
    assert client.run("feerate", "none", "--minimum", "1") == {"fee_rate": None, "minimum": 1}
    client.run("mine")


def test_a_coin_that_assets_are_attached_to_is_not_spent(network: Network) -> None:
    """A spend of it moves them; the regtest ledger has none, so the hub is made to say so."""
    client = network.client("attached")
    client.run("faucet")
    network.mine()
    coins = client.run("listutxos", address_of(client))
    kept = {f"{coin['txid']}:{coin['vout']}" for coin in coins[1:]}

    def told(utxos: list[str]) -> dict[str, bool]:
        return {utxo: utxo in kept for utxo in utxos}

    with lying(network, utxos_with_balances=told) as url:
        done = Client(client.basedir, url).done("blocksend", "BTC", stranger(), "1000")
        assert f"{len(kept)} coins of the wallet are left alone" in done.stderr
        network.mine()
        left = client.run("listutxos", address_of(client))
        assert kept < {f"{coin['txid']}:{coin['vout']}" for coin in left}
        outcome = refusal(Client(client.basedir, url), "blocksend", "BTC", stranger(), str(COINS))
        assert outcome[:2] == (1, "InsufficientBitcoin")
    with lying(network, utxos_with_balances=lambda utxos: {}) as url:  # silent on what was asked
        assert refusal(Client(client.basedir, url), "blocksend", "BTC", stranger(), "1000")[1] == "BadAnswer"


def test_an_answer_that_is_lost_names_the_payment_that_may_have_left(network: Network, alice: Client) -> None:
    def lose(**params: Any) -> Any:
        network.hub.call("sendrawtransaction", **params)
        raise NodeUnreachable("gone")

    with lying(network, sendrawtransaction=lose) as url:
        outcome = Client(alice.basedir, url).done("blocksend", "XCP", stranger(), "1000")
    data = outcome.error["data"]
    assert (outcome.code, outcome.error["name"]) == (3, "NodeUnreachable")
    assert network.bitcoin("getrawmempool") == [data["txid"]]
    network.mine()
    assert alice.run("getrawtx", data["txid"], "--verbose")["confirmations"] == 1


SEND = ("blocksend", "XCP")


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        ((*SEND, "nobody", "5"), 1, "InvalidAddress"),
        ((*SEND, "", "5"), 1, "InvalidAddress"),
        ((*SEND, "mvCounterpartyXXXXXXXXXXXXXXW24Hee", "5"), 1, "InvalidAddress"),
        ((*SEND, MAINNET, "5"), 1, "InvalidAddress"),
        ((*SEND, REGTEST.burn_address, "5"), 1, "InvalidAddress"),
        (("blocksend", "NOTISSUED", SEGWIT, "5"), 1, "UnknownAsset"),
        (("blocksend", "xcp", SEGWIT, "5"), 1, "UnknownAsset"),
        (("blocksend", "", SEGWIT, "5"), 1, "UnknownAsset"),
        (("blocksend", "..", SEGWIT, "5"), 1, "UnknownAsset"),
        (("blocksend", "PARENT.other", SEGWIT, "5"), 1, "UnknownAsset"),
        (("blocksend", "BTC", SEGWIT, "545"), 1, "InvalidQuantity"),
        (("blocksend", "BTC", SEGWIT, "0.000001BTC", "--extra-btc", "600"), 1, "InvalidParams"),
        (("blocksend", "BTC", SEGWIT, str(MAX_QUANTITY)), 1, "InsufficientBitcoin"),
        ((*SEND, SEGWIT, "5", "--extra-btc", str(MAX_QUANTITY)), 1, "InsufficientBitcoin"),
        ((*SEND, SEGWIT, str(MAX_QUANTITY)), 1, "InsufficientFunds"),
        ((*SEND, SEGWIT, "1BTC"), 1, "InvalidQuantity"),
        ((*SEND, SEGWIT, "1DEMOCOIN"), 1, "InvalidQuantity"),
        ((*SEND, SEGWIT, f"1{LONGNAME}"), 1, "InvalidQuantity"),
        ((*SEND, SEGWIT, "1PARENT.other"), 1, "UnknownAsset"),
        ((*SEND, SEGWIT, "0.000000001XCP"), 1, "InvalidQuantity"),
        ((*SEND, SEGWIT, "0XCP"), 1, "InvalidQuantity"),
        ((*SEND, SEGWIT, "92233720368.54775808XCP"), 1, "InvalidQuantity"),
        ((*SEND, SEGWIT, "5", "--extra-btc", "1XCP"), 1, "InvalidQuantity"),
        ((*SEND, SEGWIT, "5", "--extra-btc", "-1"), 2, "UsageError"),
        ((*SEND, SEGWIT, "-5XCP"), 2, "UsageError"),
        ((*SEND, SEGWIT), 2, "UsageError"),
    ],
)
def test_a_send_that_can_t_be_is_refused(alice: Client, words: tuple[str, ...], code: int, name: str) -> None:
    assert refusal(alice, *words)[:2] == (code, name)


QUANTITIES = [
    "0",
    "-1",
    "1.5",
    "1e3",
    "1E3",
    "1.XCP",
    ".5XCP",
    "1.5xcp",
    "1 XCP",
    "1,5XCP",
    "0x10",
    "\u0661XCP",
    "1XC",
    "XCP",
]


@pytest.mark.parametrize("text", [*QUANTITIES, "", "1" * 31 + "XCP", "NaNXCP", "infXCP", "1XCP1", "1ABCD"])
def test_what_is_no_quantity_is_wrong_usage(alice: Client, text: str) -> None:
    for words in (
        ("blocksend", "XCP", SEGWIT, text),
        ("blocksend", "XCP", SEGWIT, "5", f"--extra-btc={text}" if text != "0" else "--extra-btc=00"),
        ("connect", "XCP", text),
        ("queuepayment", NOWHERE, NOWHERE, text),
        ("faucet", f"--btc={text}"),
        ("faucet", f"--quantity={text}"),
    ):
        assert refusal(alice, *words)[:2] == (2, "UsageError")


def test_nothing_is_written_for_a_wallet_without_funds(network: Network) -> None:
    client = network.client("poor", funded=False)
    client.run("address")
    assert refusal(client, "blocksend", "BTC", SEGWIT, "1000")[:2] == (1, "InsufficientBitcoin")
    assert refusal(client, "blocksend", "XCP", SEGWIT, "1000")[:2] == (1, "InsufficientFunds")


# Quantities ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, MAX_QUANTITY))
def test_decimals_are_exact(quantity: int) -> None:
    whole = format(Decimal(quantity).scaleb(-8), "f")
    assert read_quantity(f"{whole}XCP").quantity(True) == quantity
    assert read_quantity(f"{quantity}TICKET").quantity(False) == quantity
    assert read_quantity(str(quantity)).quantity(True) == quantity


@given(st.text("0123456789.XCPA", max_size=12))
def test_whatever_is_written_is_a_quantity_or_refused(text: str) -> None:
    try:
        quantity = read_quantity(text).quantity(True)
    except InvalidQuantity:
        return
    number = re.split("[XCPA]", text, maxsplit=1)[0]
    assert quantity == Decimal(number) * (1 if number == text else COINS)


def test_an_indivisible_asset_has_no_decimals() -> None:
    with pytest.raises(InvalidQuantity) as refused:
        read_quantity("1.0TICKET").quantity(False)
    assert refused.value.data["decimals"] == 0


def test_quantities_with_units_in_a_connections_life(network: Network) -> None:
    client = network.client("units", funded=False)
    client.run("faucet", "--btc", "0.5BTC", "--quantity", "3XCP")
    network.mine()
    assert client.balances() == {"BTC": COINS // 2, "XCP": 3 * COINS}
    handle = client.run("connect", "XCP", "1.5XCP")["handle"]
    network.mine(2)
    assert client.shown(handle)["deposit"] == 150_000_000
    payee = network.open_connection(client)
    client.run("queuepayment", handle, payee, "0.1XCP")
    assert [payment["amount"] for payment in client.shown(handle)["payments_queued"]] == [COINS // 10]
    assert refusal(client, "queuepayment", handle, NOWHERE, "0.1BTC")[1] == "InvalidQuantity"
    assert refusal(client, "queuepayment", handle, NOWHERE, "0.000000001XCP")[1] == "InvalidQuantity"
    assert refusal(client, "faucet", "--asset", "DEMOCOIN", "--quantity", "5XCP")[1] == "InvalidQuantity"


# What the chain holds -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("source")
def test_coins_and_transactions_of_an_address(network: Network, alice: Client) -> None:
    address = stranger()
    assert alice.run("listutxos", address) == alice.run("searchrawtxs", address, "--unconfirmed") == []
    first = alice.run("blocksend", "XCP", address, "5")
    network.mine()
    second = alice.run("blocksend", "BTC", address, "20000")
    script = script_of_address(REGTEST, address).hex()
    older = {"txid": first, "vout": 0, "value": 546, "amount": 5.46e-06, "confirmations": 1, "scriptPubKey": script}
    newer = older | {"txid": second, "value": 20_000, "amount": 0.0002, "confirmations": 0}
    assert alice.run("listutxos", address) == [older]
    assert alice.run("listutxos", address, "--unconfirmed") == sorted([older, newer], key=lambda coin: coin["txid"])
    told = {"txid": first, "hex": network.raw(first).serialize().hex(), "confirmations": 1}
    assert alice.run("searchrawtxs", address) == [told]
    unconfirmed = {"txid": second, "hex": network.raw(second).serialize().hex()}
    assert alice.run("searchrawtxs", address, "--unconfirmed") == [unconfirmed, told]
    network.mine()
    assert [entry["txid"] for entry in alice.run("searchrawtxs", address)] == [first, second]
    wallet = address_of(alice)
    assert alice.run("listutxos", wallet) == network.hub.call("get_unspent_txouts", address=wallet)


@pytest.mark.usefixtures("source")
def test_a_transaction_in_hex_and_in_its_parts(network: Network, alice: Client) -> None:
    address = stranger()
    txid = alice.run("blocksend", "XCP", address, "5")
    tx = network.raw(txid)
    assert alice.run("getrawtx", txid) == tx.serialize().hex()
    shown = alice.run("getrawtx", txid, "--verbose")
    coin, wallet = tx.vin[0], address_of(alice)
    assert shown == {
        "txid": txid,
        "hex": tx.serialize().hex(),
        "size": len(tx.serialize()),
        "version": tx.nVersion,
        "locktime": 0,
        "confirmations": 0,
        "vin": [
            {
                "txid": coin.prevout.hash[::-1].hex(),
                "vout": coin.prevout.n,
                "scriptSig": bytes(coin.scriptSig).hex(),
                "sequence": coin.nSequence,
                "witness": [bytes(item).hex() for item in tx.wit.vtxinwit[0].scriptWitness.stack],
            }
        ],
        "vout": [
            {"n": 0, "value": 546, "scriptPubKey": bytes(tx.vout[0].scriptPubKey).hex(), "address": address},
            {"n": 1, "value": 0, "scriptPubKey": bytes(tx.vout[1].scriptPubKey).hex()},
            {
                "n": 2,
                "value": tx.vout[2].nValue,
                "scriptPubKey": bytes(tx.vout[2].scriptPubKey).hex(),
                "address": wallet,
            },
        ],
    }
    network.mine(3)
    assert alice.run("getrawtx", txid, "--verbose")["confirmations"] == 3
    assert alice.run("getrawtx", NOWHERE) is alice.run("getrawtx", NOWHERE, "--verbose") is None


def test_a_coinbase_with_its_witness(network: Network, alice: Client) -> None:
    block = network.bitcoin("getblock", network.bitcoin("getbestblockhash"), 1)
    shown = alice.run("getrawtx", block["tx"][0], "--verbose")
    assert list(shown["vin"][0]) == ["coinbase", "sequence"]
    assert shown["txid"] == block["tx"][0]
    assert CTransaction.deserialize(bytes.fromhex(shown["hex"])).is_coinbase()


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("listutxos", MAINNET), "InvalidAddress"),
        (("listutxos", "../blocks"), "InvalidAddress"),
        (("searchrawtxs", MAINNET), "InvalidAddress"),
        (("searchrawtxs", "", "--unconfirmed"), "InvalidAddress"),
        (("getrawtx", "ab" * 31), "InvalidHex"),
        (("getrawtx", "AB" * 32), "InvalidHex"),
        (("getrawtx", "../../x", "--verbose"), "InvalidHex"),
        (("balances", "--address", MAINNET), "InvalidAddress"),
        (("balances", "--asset", "NOTISSUED"), "UnknownAsset"),
        (("balances", "--asset", "PARENT.other"), "UnknownAsset"),
        (("balances", "--asset", "xcp"), "UnknownAsset"),
        (("balances", "--asset", ""), "UnknownAsset"),
        (("hubstatus", "--asset", "NOTISSUED"), "AssetNotInTerms"),
        (("hubstatus", "--asset", "PARENT.other"), "UnknownAsset"),
        (("hubstatus", "--asset", LONGNAME), "AssetNotInTerms"),  # the ledger knows it, but the hub does not offer it
        (("hubstatus", "--asset", "xcp"), "UnknownAsset"),
        (("hubstatus", "--asset", "..."), "UnknownAsset"),
        (("hubstatus", "--asset", ""), "UnknownAsset"),
    ],
)
def test_a_question_that_has_no_answer_is_refused(alice: Client, words: tuple[str, ...], name: str) -> None:
    assert refusal(alice, *words)[:2] == (1, name)


@pytest.mark.parametrize("words", [("listutxos",), ("searchrawtxs",), ("getrawtx",), ("getrawtx", "a", "b")])
def test_a_question_without_its_words_is_wrong_usage(alice: Client, words: tuple[str, ...]) -> None:
    assert refusal(alice, *words)[:2] == (2, "UsageError")


@pytest.mark.parametrize(
    "words",
    [
        ("listutxos", SEGWIT),
        ("searchrawtxs", SEGWIT),
        ("getrawtx", NOWHERE),
        ("blocksend", "BTC", SEGWIT, "1000"),
        ("blocksend", "XCP", SEGWIT, "1XCP"),
        ("balances", "--asset", "XCP"),
        ("hubstatus", "--asset", LONGNAME),
    ],
)
def test_a_hub_that_is_down_is_named(alice: Client, words: tuple[str, ...]) -> None:
    assert refusal(Client(alice.basedir, NOBODY), *words)[:2] == (3, "HubUnreachable")


@pytest.mark.usefixtures("source")
def test_balances_of_one_asset(network: Network, alice: Client) -> None:
    held = alice.balances()
    assert alice.run("balances", "--asset", "DEMOCOIN") == {"DEMOCOIN": held["DEMOCOIN"]}
    assert alice.run("--string-amounts", "balances") == {asset: str(quantity) for asset, quantity in held.items()}
    for name in (LONGNAME, CHILD):
        assert alice.run("balances", "--asset", name) == {LONGNAME: held[LONGNAME]}
        assert alice.run("balances", "--address", stranger(), "--asset", name) == {LONGNAME: 0}
    assert alice.run("balances", "--address", stranger()) == {"BTC": 0}
    assert list(alice.run("hubstatus", "--asset", "XCP")["current_terms"]) == ["XCP"]


def test_the_hubs_terms_for_a_subasset_by_its_longname(tmp_path: Path) -> None:
    with running_network(tmp_path) as network:
        client = network.client("client", funded=False)
        hub = client.run("hubstatus")["funding_addresses"]["XCP"]
        client.run("faucet", hub, "--asset", LONGNAME, "--quantity", "500")
        client.run("mine")
        assert list(client.run("hubstatus", "--asset", LONGNAME)["current_terms"]) == [LONGNAME]


# Handles ------------------------------------------------------------------------------------------------------------


def test_a_part_of_an_own_handle_suffices_and_a_payees_is_whole(network: Network) -> None:
    client = network.client("handles")
    handle = network.open_connection(client)
    for digits in (8, 9, 63, 64):
        part = handle[:digits]
        assert list(client.run("status", "--handle", part)["connections"]) == [handle]
        assert client.run("history", "--handle", part)[0]["handle"] == handle
    part = handle[:8]
    for words in (
        ("close", handle[:7]),
        ("sync", "--handle", handle[:63].upper()),
        ("cull", "--handle", handle[:7]),
        ("queuepayment", handle, part, "5"),
        ("queuepayment", part, NOWHERE[:63], "5"),
        ("status", "--handle", handle[:7]),
        ("history", "--handle", handle[:7]),
        ("status", "--handle", handle.upper()),
        ("status", "--handle", handle + "00"),
        ("history", "--handle", "g" * 8),
        ("status", "--handle", ""),
    ):
        assert refusal(client, *words)[:2] == (1, "InvalidHex")
    for words in (("status", "--handle", "00" * 5), ("history", "--handle", "00" * 5), ("close", "00" * 32)):
        assert refusal(client, *words)[:2] == (1, "UnknownHandle")
    token = client.queue_unseen(part, NOWHERE, 5)
    assert client.run("cancelpayment", token) is True
    assert list(client.run("sync", "--handle", part)) == [handle]
    assert refusal(client, "cull", "--handle", part)[:2] == (1, "ConnectionNotOver")
    assert client.run("close", part)
    assert client.run("status", "--handle", part)["connections"][handle]["status"] == "closing"


def test_the_faucet_gives_some_of_an_asset_whose_quantity_is_left_out(network: Network, alice: Client) -> None:
    address = stranger()
    assert alice.run("faucet", address, "--asset", "XCP")
    network.mine()
    assert alice.run("balances", "--address", address)["XCP"] == 10_000_000_000


def test_a_part_of_two_handles_names_none() -> None:
    one, two = (Handle(bytes(31) + bytes((last,))) for last in (1, 2))
    with pytest.raises(AmbiguousHandle) as refused:
        handle_named("00000000", [one, two])
    assert refused.value.data["handles"] == [one.hex(), two.hex()]
    assert all(handle.hex() in refused.value.message for handle in (one, two))
    assert handle_named(two.hex(), [one, two]) == two


@pytest.mark.parametrize(
    "words",
    ["status", "balances", "hubstatus", "sync", "connect XCP 5", "connect DEMOCOIN 5", "balances --asset DEMOCOIN"],
)
def test_a_hub_of_another_network_is_the_first_and_only_error(
    words: str, network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["--testnet4", "--basedir", str(tmp_path), "--hub-url", network.hub_url]
    assert cli.main([*typed, "address"]) == 0
    capsys.readouterr()
    assert cli.main([*typed, *words.split()]) == 1
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert error["name"] == "WrongNetwork"
    told = f"The hub at {network.hub_url} is on regtest, not on testnet4. Name a hub of testnet4 with --hub-url"
    assert told in error["message"]
    assert error["message"].endswith("or put --network regtest before the command.")

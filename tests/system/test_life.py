"""The life of connections as their owners see it: commands typed, what they print, and balances to the satoshi."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from network_support import (
    ASSETS,
    COINS,
    DEPOSIT,
    FEE,
    Client,
    Network,
    refusal,
    running_network,
    tokens_of,
    wait_until,
)
from regtest_support import NodeProcess
from served_support import QuickNetwork

from picopayments_cli.channel.transactions import Budget

TOKEN = "ab" * 32
STRANGER = "cd" * 32


@pytest.fixture
def pair(network: Network, request: pytest.FixtureRequest) -> tuple[Client, str, Client, str]:
    """Two clients, each with an open connection."""
    name = request.node.name
    alice, bob = network.client(f"{name}-alice"), network.client(f"{name}-bob")
    return alice, network.open_connection(alice), bob, network.open_connection(bob)


def pay(payer: Client, source: str, payee: str, *amounts: int) -> list[str]:
    """Queue payments; their tokens."""
    return [payer.run("queuepayment", source, payee, str(amount)) for amount in amounts]


def amounts(client: Client, handle: str) -> tuple[int, int]:
    """Return what has moved on a connection: sent and received."""
    shown = client.shown(handle)
    return shown["sent"], shown["received"]


# The whole life -----------------------------------------------------------------------------------------------------


def test_a_whole_life_typed_command_by_command(tmp_path: Path) -> None:
    """As a stranger would type it: Alice's commands are real processes, and the network mines what arrives."""
    with running_network(tmp_path, "--node-port", "0") as network:
        alice, bob = Client(tmp_path / "alice", network.hub_url), Client(tmp_path / "bob", network.hub_url)
        assert alice.typed("faucet")
        bob.run("faucet")
        assert alice.typed("balances") == {"BTC": COINS, "XCP": ASSETS}
        made = alice.typed("connect", "XCP", str(DEPOSIT), "--expire_time", "100", "--delay_time", "3")
        a, b = made["handle"], bob.run("connect", "XCP", str(DEPOSIT))["handle"]
        assert network.raw(made["send_deposit_txid"]).vout[0].nValue == Budget(1).anchor
        pairs = ((alice, a), (bob, b))
        wait_until(lambda: {client.shown(handle)["status"] for client, handle in pairs} == {"open"}, "both open")
        assert alice.typed("queuepayment", a, b, "1000", "--token", TOKEN) == TOKEN
        second = alice.typed("queuepayment", a, b, "337")
        assert alice.typed("status")["connections"][a]["payments_queued"] == [
            {"payee_handle": b, "amount": 1000, "token": TOKEN},
            {"payee_handle": b, "amount": 337, "token": second},
        ]
        made = ((1000, TOKEN, 1), (337, second, 2))
        sent, received = (
            [{of: whom, "amount": amount, "token": token, "index": index} for amount, token, index in made]
            for of, whom in (("payee_handle", b), ("payer_handle", a))
        )
        nothing: dict[str, list[object]] = {
            "txids": [],
            "sent_payments": [],
            "refused_payments": [],
            "received_payments": [],
        }
        assert alice.typed("sync") == {a: {**nothing, "sent_payments": sent}}
        assert bob.run("sync") == {b: {**nothing, "received_payments": received}}
        back = bob.run("queuepayment", b, a, "7")
        bob.run("sync")
        assert tokens_of(alice.typed("sync"), a) == [back]
        # Two syncs each, and the 7 came back by revoking: not a unit more or less.
        balances = [client.shown(handle)["balance"] for client, handle in pairs]
        assert balances == [DEPOSIT - 1337 + 7 - 2 * FEE, DEPOSIT + 1337 - 7 - 2 * FEE]
        closes = [alice.typed("close", a), bob.run("close", b)]
        assert all(network.mined_at(done["txid"]) <= network.height for done in closes)
        assert {(done["hub"], done["sync_fee"]) for done in closes} == {("agreed", FEE)}
        alice.typed("mine", "2")
        for _ in range(2):  # what the closes leave to their payers
            alice.typed("sync")
            bob.run("sync")
        for client, handle, change in ((alice, a, -1337 + 7 - 3 * FEE), (bob, b, 1337 - 7 - 3 * FEE)):
            assert client.shown(handle)["status"] == "closed"
            assert client.balances() == {"XCP": ASSETS + change, "BTC": network.bitcoins_of(client)}


# Paying -------------------------------------------------------------------------------------------------------------


def test_many_payments_go_in_one_sync_for_one_fee(pair: tuple[Client, str, Client, str]) -> None:
    alice, a, bob, b = pair
    tokens = pay(alice, a, b, *range(1, 21))
    alice.run("sync")
    assert tokens_of(bob.run("sync"), b) == tokens
    assert alice.shown(a)["balance"] == DEPOSIT - sum(range(1, 21)) - FEE
    assert bob.shown(b)["balance"] == DEPOSIT + sum(range(1, 21)) - FEE
    assert alice.shown(a)["payments_queued"] == []


def test_payments_cross_and_neither_is_lost(pair: tuple[Client, str, Client, str]) -> None:
    alice, a, bob, b = pair
    (there,), (back,) = pay(alice, a, b, 500), pay(bob, b, a, 300)
    assert tokens_of(alice.run("sync"), a) == []
    assert tokens_of(bob.run("sync"), b) == [there]
    assert tokens_of(alice.run("sync"), a) == [back]
    assert alice.shown(a)["balance"] == DEPOSIT - 500 + 300 - 2 * FEE
    assert bob.shown(b)["balance"] == DEPOSIT + 500 - 300 - FEE


def test_the_client_gives_back_what_it_received_before_it_spends_its_deposit(
    pair: tuple[Client, str, Client, str],
) -> None:
    alice, a, bob, b = pair
    for amount in (1000, 300):
        pay(alice, a, b, amount)
        alice.run("sync")
        bob.run("sync")
    assert amounts(bob, b) == (0, 1298)  # the hub gave the fees back first
    pay(bob, b, a, 298)
    bob.run("sync")
    assert amounts(bob, b) == (0, 999)  # payment and fee by a revocation alone
    pay(bob, b, a, 1500)
    bob.run("sync")
    assert amounts(bob, b) == (502, 0)
    alice.run("sync")
    assert bob.shown(b)["balance"] == DEPOSIT + 1300 - 1798 - 4 * FEE
    assert alice.shown(a)["balance"] == DEPOSIT - 1300 + 1798 - 3 * FEE


def test_the_hub_gives_back_too(pair: tuple[Client, str, Client, str]) -> None:
    alice, a, bob, b = pair
    for amount in (1000, 300):
        pay(alice, a, b, amount)
        alice.run("sync")
    assert amounts(alice, a) == (1302, 0)
    bob.run("sync")
    pay(bob, b, a, 302)
    bob.run("sync")
    alice.run("sync")
    assert amounts(alice, a) == (1001, 0)  # the fee's own commit and the second payment's are revoked


def test_nobody_pays_himself_or_a_stranger(pair: tuple[Client, str, Client, str]) -> None:
    alice, a, _, _ = pair
    for command in ("queuepayment", "pay"):
        assert refusal(alice, command, a, a, "250")[:2] == (1, "PaymentToSelf")
        assert refusal(alice, command, a, STRANGER, "250")[:2] == (1, "UnknownHandle")


def test_an_unknown_payee_is_refused_and_the_amount_comes_back(pair: tuple[Client, str, Client, str]) -> None:
    alice, a, bob, b = pair
    wrong, good = alice.queue_unseen(a, STRANGER, 400), pay(alice, a, b, 100)
    done = alice.run("sync")[a]
    told = {"payee_handle": STRANGER, "amount": 400, "token": wrong, "cause": "UnknownHandle", "index": 1}
    assert (done["refused_payments"], [item["index"] for item in done["sent_payments"]]) == ([told], [2])
    shown = alice.shown(a)
    assert (shown["balance"], shown["owed"], shown["payments_queued"]) == (DEPOSIT - 100 - FEE, 0, [])
    assert tokens_of(bob.run("sync"), b) == good


def test_a_payee_that_can_take_no_more_is_refused_until_it_can(network: Network, tmp_path: Path) -> None:
    alice = network.client("rich-alice")
    bob = network.client("poor-bob")
    a, b = network.open_connection(alice), network.open_connection(bob, quantity=1000)
    pay(alice, a, b, 1002)  # with the sync's fee given back that would be 1001, and the hub's deposit is 1000
    assert "PaymentExceedsReceivable" in alice.done("sync").stderr
    assert alice.shown(a)["balance"] == DEPOSIT - FEE
    tokens = pay(alice, a, b, 600, 400)
    alice.run("sync")
    assert tokens_of(bob.run("sync"), b) == tokens
    assert bob.shown(b)["balance"] == 2000 - FEE


def test_a_payee_without_the_fee_of_a_sync_is_refused_as_it_could_never_fetch_the_payment(
    network: Network, pair: tuple[Client, str, Client, str]
) -> None:
    alice, a, _, b = pair
    empty = network.client("empty")
    e = network.open_connection(empty, quantity=1000)
    pay(empty, e, b, 1000 - FEE)
    empty.run("sync")
    assert empty.shown(e)["balance"] == 0
    pay(alice, a, e, 150)
    assert "PaymentExceedsReceivable" in alice.done("sync").stderr
    assert (alice.shown(a)["balance"], alice.shown(a)["owed"]) == (DEPOSIT - FEE, 0)
    failed = empty.done("sync")
    assert (failed.code, failed.error["name"]) == (1, "NotTransferable")
    assert failed.stdout == ""


def test_a_closing_payee_is_refused_and_the_amount_comes_back(
    network: Network, pair: tuple[Client, str, Client, str]
) -> None:
    alice, a, bob, b = pair
    bob.run("close", b)
    alice.queue_unseen(a, b, 400)
    assert "ConnectionNotOpen" in alice.done("sync").stderr
    assert (alice.shown(a)["balance"], alice.shown(a)["owed"]) == (DEPOSIT - FEE, 0)
    assert bob.fails("queuepayment", b, a, "1") == (1, "ConnectionNotOpen")


def test_a_payment_queued_twice_with_one_token_is_one_payment(pair: tuple[Client, str, Client, str]) -> None:
    alice, a, bob, b = pair
    for _ in range(2):
        assert alice.run("queuepayment", a, b, "70", "--token", TOKEN) == TOKEN
    before = alice.files()
    for words in ((a, b, "71"), (a, STRANGER, "70")):
        assert alice.fails("queuepayment", *words, "--token", TOKEN) == (1, "TokenInUse")
    assert alice.files() == before
    alice.run("sync")
    assert tokens_of(bob.run("sync"), b) == [TOKEN]
    assert bob.shown(b)["balance"] == DEPOSIT + 70 - FEE


def test_no_more_is_queued_than_the_connection_can_move(pair: tuple[Client, str, Client, str]) -> None:
    alice, a, bob, b = pair
    pay(alice, a, b, 600_000)
    before = alice.files()
    for amount in (DEPOSIT - 600_000, 2**63 - 1):  # the sync's fee is part of it
        assert alice.fails("queuepayment", a, b, str(amount)) == (1, "NotTransferable")
    assert alice.files() == before
    pay(alice, a, b, DEPOSIT - 600_000 - FEE)
    alice.run("sync")
    bob.run("sync")
    assert alice.shown(a)["balance"] == 0
    assert bob.shown(b)["balance"] == 2 * DEPOSIT - 2 * FEE


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("queuepayment", STRANGER, STRANGER, "5"), "UnknownHandle"),
        (("close", STRANGER), "UnknownHandle"),
        (("sync", "--handle", STRANGER), "UnknownHandle"),
        (("status", "--handle", STRANGER), "UnknownHandle"),
        (("close", "xyz"), "InvalidHex"),
        (("queuepayment", STRANGER, "ab", "5"), "InvalidHex"),
        (("connect", "BTC", "5"), "InvalidAsset"),
        (("connect", "NOSUCHASSET", "5"), "UnknownAsset"),
        (("connect", "XCP", "5", "--expire_time", "11"), "InvalidTime"),
        (("connect", "XCP", "5", "--delay_time", "2017"), "InvalidTime"),
        (("connect", "XCP", str(ASSETS + 1)), "InsufficientFunds"),
        (("hubstatus", "--asset", "NOSUCHASSET"), "AssetNotInTerms"),
        (("balances", "--address", "nowhere"), "InvalidAddress"),
    ],
)
def test_a_refused_command_names_the_cause_and_writes_nothing(
    network: Network, words: tuple[str, ...], error: str
) -> None:
    client = network.client(f"refused-{error}-{words[-1]}", funded=words[0] == "connect")
    client.run("address")  # makes the wallet
    before = client.files()
    assert client.fails(*words) == (1, error)
    assert client.files() == before


# Several connections ------------------------------------------------------------------------------------------------


def test_one_client_may_have_several_connections_and_sync_one(network: Network) -> None:
    client = network.client("several")
    first, second = network.open_connection(client), network.open_connection(client, quantity=5000)
    (token,) = pay(client, first, second, 1234)
    assert list(client.run("sync", "--handle", first)) == [first]
    assert amounts(client, second) == (0, 0)
    result = client.run("sync")
    assert sorted(result) == sorted([first, second])
    assert tokens_of(result, second) == [token]
    assert client.shown(first)["balance"] == DEPOSIT - 1234 - 2 * FEE
    assert client.shown(second)["balance"] == 5000 + 1234 - FEE
    assert set(client.run("status", "--handle", second)["connections"]) == {second}
    assert set(client.run("status")["connections"]) == {first, second}


# Closing ------------------------------------------------------------------------------------------------------------


def test_who_received_is_paid_by_the_close(network: Network, pair: tuple[Client, str, Client, str]) -> None:
    alice, a, bob, b = pair
    pay(alice, a, b, 4321)
    alice.run("sync")
    close = bob.run("close", b)["txid"]  # which receives what waits first
    assert bytes(network.raw(close).vout[0].scriptPubKey) == bob.wallet_script
    assert bob.shown(b)["status"] == "closing"
    network.settle(bob, b)
    assert bob.balances()["XCP"] == ASSETS + 4321 - FEE
    assert bob.run("sync") == {}
    assert alice.shown(a)["balance"] == DEPOSIT - 4321 - FEE


def test_who_received_nothing_closes_by_what_it_paid(network: Network, pair: tuple[Client, str, Client, str]) -> None:
    alice, a, _, b = pair
    pay(alice, a, b, 1000)
    alice.run("sync")
    close = network.raw(alice.run("close", a)["txid"])
    deposit = alice.connection(a).duplex.sending.contract.deposit.output
    assert [bytes(out.scriptPubKey) for out in close.vout][2] == deposit  # its rest, which comes home behind it
    network.settle(alice, a)
    assert alice.balances() == {"XCP": ASSETS - 1000 - 2 * FEE, "BTC": network.bitcoins_of(alice)}


def test_a_connection_closed_before_it_opened_gives_the_deposit_back_at_once(network: Network) -> None:
    client = network.client("early")
    handle = client.run("connect", "XCP", str(DEPOSIT))["handle"]
    assert client.shown(handle)["status"] == "opening"
    assert client.run("close", handle)["txid"] is None
    network.mine()  # the deposit
    (txid,) = client.run("sync")[handle]["txids"]
    assert bytes(network.raw(txid).vout[0].scriptPubKey) == client.wallet_script
    network.settle(client, handle)
    assert client.balances() == {"XCP": ASSETS, "BTC": network.bitcoins_of(client)}


def test_the_hub_ends_with_the_fees_and_all_of_its_own(tmp_path: Path, chains: Callable[[int], NodeProcess]) -> None:
    with ExitStack() as stack:
        network = QuickNetwork(tmp_path, chains(1))
        stack.callback(network.stop)
        before = network.hub.call("mph_status", assets=None)["funds"]["liquidity"]["XCP"]
        alice, bob = network.client("alice"), network.client("bob")
        a, b = network.open_connection(alice), network.open_connection(bob)
        pay(alice, a, b, 5000)
        alice.run("sync")
        bob.run("sync")
        pay(bob, b, a, 100)
        bob.run("sync")
        alice.run("close", a)
        bob.run("close", b)
        network.settle(alice, a)
        network.settle(bob, b)
        network.mine(2)  # for what is left to the hub
        held = network.hub.call("mph_status", assets=None)["funds"]["liquidity"]["XCP"]
        assert held == before + 5 * FEE
        assert alice.balances()["XCP"] + bob.balances()["XCP"] == 2 * ASSETS - 5 * FEE


# Shapes -------------------------------------------------------------------------------------------------------------


def test_status_has_its_documented_shape(network: Network, pair: tuple[Client, str, Client, str]) -> None:
    alice, a, _, b = pair
    pay(alice, a, b, 5)
    status = alice.run("status")
    assert set(status) == {"chain", "connections", "wallet"}
    assert status["chain"] == "hub"  # whose word it is
    shown = status["connections"][a]
    assert set(shown) == {"asset", "balance", "status", "ttl", "payments_queued"}
    assert (shown["asset"], shown["balance"], shown["status"]) == ("XCP", DEPOSIT, "open")
    assert shown["ttl"] == alice.connection(a).expiry.height - network.height - 6
    assert status["wallet"]["balances"] == alice.balances()
    assert set(status["wallet"]) == {"address", "balances"}
    assert alice.run("balances", "--asset", "XCP") == {"XCP": ASSETS - DEPOSIT}
    assert alice.run("balances", "--address", status["wallet"]["address"]) == alice.balances()


def test_hubstatus_has_its_documented_shape(network: Network, pair: tuple[Client, str, Client, str]) -> None:
    alice, a, _, b = pair
    status = alice.run("hubstatus")
    assert set(status) == {"connections", "totals", "current_terms", "funding_addresses", "liquidity"}
    assert a in status["connections"]
    assert b not in status["connections"]  # which is somebody else's
    assert set(status["totals"]) == {"opening", "open", "closing"}
    assert status["totals"]["open"] >= 2
    shown = status["connections"][a]
    assert set(shown) == {"asset", "balance", "status", "ttl"}
    assert (shown["asset"], shown["balance"], shown["status"]) == ("XCP", DEPOSIT, "open")
    assert shown["ttl"] == alice.shown(a)["ttl"]
    terms = status["current_terms"]["XCP"]
    names = {"deposit_max", "deposit_min", "deposit_ratio", "expire_max", "expire_min", "sync_fee", "fee_rate",
             "fee_rate_max", "lock_base", "lock_rate"}  # fmt: skip
    assert set(terms) == names
    assert (terms["sync_fee"], terms["expire_min"], terms["deposit_ratio"]) == (FEE, 12, 1.0)
    address = status["funding_addresses"]["XCP"]
    assert status["funding_addresses"] == {"BTC": address, "XCP": address}
    (row,) = status["liquidity"]["addresses"]["XCP"]
    assert row["address"] == address
    assert row["balances"] == status["liquidity"]["total"] == alice.run("balances", "--address", address)
    assert alice.run("hubstatus", "--asset", "XCP")["connections"].keys() >= {a}


# The hub away -------------------------------------------------------------------------------------------------------


def test_without_the_hub_commands_fail_with_3_and_change_nothing(network: Network) -> None:
    client = network.client("alone")
    handle = network.open_connection(client)
    client.queue_unseen(handle, STRANGER, 5)
    client.lose_hub(handle)
    before = client.files()
    for words in ("sync", "balances", "hubstatus", f"close {handle}", "connect XCP 9"):
        assert client.fails(*words.split()) == (3, "HubUnreachable")
    assert client.files() == before

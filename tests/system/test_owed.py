"""Payments that the hub refused or that nobody fetched: they are somebody's when all is over, to the satoshi."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_support import ASSETS, DEPOSIT, FEE, Client, Network, running_network

from picopayments_cli.client import life
from picopayments_cli.hub import operator_socket

SMALL = {"deposit_min": 0, "deposit_max": 0, "deposit_ratio": 0.1, "expire_min": 12, "expire_max": 0, "sync_fee": FEE}


@pytest.fixture
def pair(network: Network) -> tuple[Client, str, Client, str]:
    """Two clients, each with an open connection."""
    one, other = network.client("one"), network.client("other")
    return one, network.open_connection(one), other, network.open_connection(other)


@pytest.fixture
def stingy(tmp_path: Path) -> Iterator[Network]:
    """A network whose hub deposits a tenth of what its clients do."""
    folder = tmp_path / "hub"
    folder.mkdir(mode=0o700)
    terms = folder / "hub.regtest.terms.json"
    terms.write_text(json.dumps({"XCP": SMALL}))
    terms.chmod(0o600)
    with running_network(tmp_path) as network:
        yield network


def close_unfetched(network: Network, client: Client, handle: str, patch: pytest.MonkeyPatch) -> None:
    """Close without the last sync, which would fetch what waits; settle."""
    with patch.context() as patched:
        patched.setattr(life, "_last_sync", lambda _session, connection, _outcome: connection)
        assert client.run("close", handle)["hub"] == "agreed"
    network.settle(client, handle)


def test_a_refused_payment_that_the_hub_s_deposit_has_no_room_for_comes_with_the_close(stingy: Network) -> None:
    payer, payee = stingy.client("payer"), stingy.client("payee")
    source, handle = stingy.open_connection(payer), stingy.open_connection(payee)
    assert payer.fails("pay", source, handle, str(DEPOSIT // 2)) == (1, "PaymentRefused")
    owed = payer.shown(source)["owed"]
    assert owed == DEPOSIT // 2 - DEPOSIT // 10  # the rest came at once
    assert payer.run("pay", source, handle, "50000")["state"] == "sent"  # from what is owed
    assert payer.shown(source)["owed"] == owed - 50_000 - FEE  # the commit of the fee was given back
    payer.run("close", source)
    stingy.settle(payer, source)
    fees = 3 * FEE  # of two payments and the last sync
    assert payer.balances()["XCP"] == ASSETS - 50_000 - fees
    payee.run("close", handle)
    stingy.settle(payee, handle)
    assert payee.balances()["XCP"] == ASSETS + 50_000 - FEE


def test_what_a_payee_leaves_comes_back_to_a_payer_whose_channel_is_full(
    network: Network, pair: tuple[Client, str, Client, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, source, thief, handle = pair
    filled, paid = DEPOSIT - 10, DEPOSIT - 100_000
    thief.run("pay", handle, source, str(filled))
    victim.run("sync")
    assert victim.run("pay", source, handle, str(paid))["state"] == "sent"
    close_unfetched(network, thief, handle, monkeypatch)
    assert thief.balances()["XCP"] == ASSETS - filled - FEE
    victim.run("close", source)
    network.settle(victim, source)
    assert victim.balances()["XCP"] == ASSETS + filled - 3 * FEE


def test_what_waits_for_a_payee_that_closes_is_its_own_where_the_payer_has_closed_before(
    network: Network, pair: tuple[Client, str, Client, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    payer, source, payee, handle = pair
    payer.run("pay", source, handle, "300000")
    payer.run("close", source)
    network.settle(payer, source)
    close_unfetched(network, payee, handle, monkeypatch)
    assert payer.balances()["XCP"] == ASSETS - 300_000 - 2 * FEE
    assert payee.balances()["XCP"] == ASSETS + 300_000


def test_a_payment_is_refused_that_the_payee_s_own_fee_would_keep_from_it(network: Network) -> None:
    payee, payer = network.client("payee"), network.client("payer")
    handle, source = network.open_connection(payee, quantity=1000), network.open_connection(payer)
    payer.run("pay", source, handle, "997")
    payee.run("sync")
    payee.run("pay", handle, source, "500")  # whose commit goes back whole or not at all
    refused = payer.done("pay", source, handle, "501")
    assert refused.error["data"]["cause"] == "PaymentExceedsReceivable"
    payee.run("sync")
    assert payer.run("pay", source, handle, "2")["state"] == "sent"
    assert [item["amount"] for item in payee.run("sync")[handle]["received_payments"]] == [2]


def test_a_payment_that_a_close_has_given_to_its_payee_never_goes_back(
    network: Network, pair: tuple[Client, str, Client, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    payer, source, payee, handle = pair
    third = network.client("third")
    rich = network.open_connection(third, quantity=3 * DEPOSIT)
    assert payer.run("pay", source, handle, "900000")["state"] == "sent"
    for amount in (DEPOSIT, 899_000):  # so much waits for the payer that the 900,000 have no place any more
        assert third.run("pay", rich, source, str(amount))["state"] == "sent"
    close_unfetched(network, payee, handle, monkeypatch)
    assert payee.balances()["XCP"] == ASSETS + 900_000
    payer.run("sync")
    network.mine()
    payer.run("close", source)
    network.settle(payer, source)
    assert payer.balances()["XCP"] == ASSETS - 900_000 + DEPOSIT + 899_000 - 3 * FEE


# A sync that is refused whole: its commit has left --------------------------------------------------------------------


def listed(client: Client) -> list[tuple[str, int, str | None]]:
    """State, amount and cause of each payment of a wallet."""
    return [(item["state"], item["amount"], item.get("cause")) for item in client.run("payments")]


def test_payments_of_a_last_sync_that_is_refused_for_fees_come_back_with_the_close(
    network: Network, pair: tuple[Client, str, Client, str]
) -> None:
    payer, source, payee, handle = pair
    assert payer.run("pay", source, handle, "1000")["state"] == "sent"
    payer.run("queuepayment", source, handle, "600000")
    payer.run("feerate", "150")
    assert payer.run("close", source)["hub"] == "agreed"
    payer.run("feerate", "1")
    network.settle(payer, source)
    assert payer.balances()["XCP"] == ASSETS - 1000 - FEE
    assert listed(payer) == [("sent", 1000, None), ("refused", 600_000, "FeeTooHigh")]
    assert payer.shown(source)["owed"] == 0
    payee.run("close", handle)
    network.settle(payee, handle)
    assert payee.balances()["XCP"] == ASSETS + 1000 - FEE


def test_a_payment_on_a_connection_that_the_hub_has_ended_comes_back_with_the_close(
    network: Network, pair: tuple[Client, str, Client, str]
) -> None:
    payer, source, _, handle = pair
    operator_socket.ask(network.basedir / "hub.regtest.sock", "close", {"handle": source})
    failed = payer.done("pay", source, handle, "400000").error
    assert failed["name"] == "PaymentNotSent"
    assert "listed as refused once the connection is closed" in failed["message"]
    network.settle(payer, source)
    assert payer.balances()["XCP"] == ASSETS
    assert listed(payer) == [("refused", 400_000, "ConnectionNotOpen")]


def test_a_payment_from_an_older_copy_comes_back_with_the_close(
    network: Network, pair: tuple[Client, str, Client, str], tmp_path: Path
) -> None:
    payer, source, payee, handle = pair
    payee.run("pay", handle, source, "5000")
    payer.run("sync")
    shutil.copytree(payer.basedir, tmp_path / "copy")
    payer.run("sync")  # which gives the hub back what it has, and takes none of its hashes
    copy = Client(tmp_path / "copy", network.hub_url)
    assert copy.fails("pay", source, handle, "400000") == (4, "StaleRequest")
    assert copy.run("close", source)["hub"] == "agreed"
    network.settle(copy, source)
    assert copy.balances()["XCP"] == ASSETS + 5000 - 2 * FEE
    assert ("refused", 400_000, "StaleRequest") in listed(copy)

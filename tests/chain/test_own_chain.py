"""A client with a node of its own: the hub's word about the chain is neither asked for nor believed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from network_support import DEPOSIT, Client, Network, wait_until
from servers import json_rpc

NOT_ABOUT_THE_CHAIN = ("mph_key", "mph_status", "mph_request", "mph_deposit", "mph_sync", "mph_close", "faucet")
CHAIN_METHODS = (
    *("get_running_info", "get_unspent_txouts", "get_address_options", "utxos_with_balances"),
    *("getrawtransaction_batch", "sendrawtransaction", "get_asset_info", "get_balances", "search_raw_transactions"),
)
NOBODY = "http://127.0.0.1:9/api/"


@pytest.fixture
def own_chain(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICOPAYMENTS_CHAIN_URL", network.chain_url)
    monkeypatch.setenv("PICOPAYMENTS_BITCOIN_URL", network.chain_url + "bitcoin/")


@contextlib.contextmanager
def front(network: Network, methods: Mapping[str, Callable[..., Any] | None]) -> Iterator[str]:
    """A hub that hands on calls of these methods (None) or answers them itself, and knows no others."""

    def handing_on(name: str) -> Callable[..., Any]:
        return lambda **params: network.hub.call(name, **params)

    with json_rpc({name: answer or handing_on(name) for name, answer in methods.items()}) as url:
        yield url


@pytest.mark.usefixtures("own_chain")
def test_a_whole_life_without_asking_the_hub_about_the_chain(network: Network) -> None:
    with front(network, dict.fromkeys(NOT_ABOUT_THE_CHAIN)) as url:
        alice, bob = (network.client(name, hub_url=url) for name in ("alice", "bob"))
        (one, two) = (network.open_connection(client) for client in (alice, bob))
        assert alice.run("status")["chain"] == "own"
        alice.run("queuepayment", one, two, "1337")
        alice.run("sync")
        (received,) = bob.run("sync")[two]["received_payments"]
        assert (received["payer_handle"], received["amount"]) == (one, 1337)
        before = bob.balances()["XCP"]
        bob.run("close", two)
        network.settle(bob, two)
        fees = 2 * 1  # of the sync above and of the one that closes
        assert bob.balances()["XCP"] == before + DEPOSIT + 1337 - fees


def test_a_deposit_that_is_the_hubs_word_only_is_not_believed(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub shows its deposit, but does not let it be mined: it could still spend the coins elsewhere."""
    lies = False

    def buried(**params: Any) -> Any:
        told = network.hub.call("get_unspent_txouts", **params)
        return [{**item, "confirmations": 9} for item in told] if lies else told

    def sent(**params: Any) -> Any:
        if not lies:
            return network.hub.call("get_sends", **params)
        address = params["filters"][0]["value"]
        (coin,) = network.hub.call("get_unspent_txouts", address=address, unconfirmed=True)
        row = {"tx_index": 1, "send_type": "send", "status": "valid", "asset": "XCP", "quantity": DEPOSIT}
        return [{**row, "tx_hash": coin["txid"], "destination": address}]

    methods = dict.fromkeys((*NOT_ABOUT_THE_CHAIN, *CHAIN_METHODS))
    with front(network, {**methods, "get_unspent_txouts": buried, "get_sends": sent}) as url:
        client = network.client("carol", hub_url=url)
        handle = client.run("connect", "XCP", str(DEPOSIT))["handle"]
        network.mine()
        wait_until(lambda: network.bitcoin("getrawmempool"), "the hub's deposit")
        lies = True
        assert chain_and_status(client, handle) == ("hub", "open")
        monkeypatch.setenv("PICOPAYMENTS_CHAIN_URL", network.chain_url)
        assert chain_and_status(client, handle) == ("own", "opening")
        network.mine()
        assert chain_and_status(client, handle) == ("own", "open")


def chain_and_status(client: Client, handle: str) -> tuple[str, str]:
    shown = client.run("status")
    return shown["chain"], shown["connections"][handle]["status"]


@pytest.mark.usefixtures("own_chain")
def test_what_concerns_the_chain_only_works_without_a_hub(network: Network) -> None:
    client = network.client("dave")
    alone = Client(client.basedir, NOBODY)
    assert alone.balances() == client.balances()
    assert alone.run("status") == client.run("status")


def test_without_a_node_of_ones_own_the_hub_is_needed(network: Network) -> None:
    client = network.client("erin")
    assert Client(client.basedir, NOBODY).fails("balances") == (3, "HubUnreachable")


def test_the_urls_of_the_settings_file(network: Network) -> None:
    client = network.client("frank")
    settings = client.basedir / "regtest.cfg"
    settings.write_text(json.dumps({"chain_url": network.chain_url}))
    assert client.run("status")["chain"] == "own"
    settings.write_text(json.dumps({"chain_url": NOBODY}))
    assert client.run("status")["error"]["name"] == "NodeUnreachable"
    settings.write_text(json.dumps({"bitcoin_url": network.chain_url + "bitcoin/"}))
    assert client.fails("status") == (1, "InvalidSetting")


@pytest.mark.usefixtures("own_chain")
def test_connect_says_whose_word_it_believes(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    client = network.client("grace")
    done = client.done("connect", "XCP", str(DEPOSIT))
    assert set(done.result) == {"deposit_by", "handle", "lock_fee", "send_deposit_txid", "sync_fee"}
    assert "chain: own" in done.stderr
    network.mine()
    monkeypatch.delenv("PICOPAYMENTS_CHAIN_URL")
    monkeypatch.delenv("PICOPAYMENTS_BITCOIN_URL")
    assert "chain: hub" in client.done("connect", "XCP", str(DEPOSIT)).stderr

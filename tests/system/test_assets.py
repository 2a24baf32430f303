"""Assets other than XCP: their issuances as messages, the faucet, what a hub offers, and payments in many at once."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chain_support import CHILD, LONGNAME, told
from hypothesis import given
from hypothesis import strategies as st
from network_support import COINS, FEE, Client, HubProcess, Network, running_network, tokens_of, wait_until
from regtest_support import BTC, XCP, NodeProcess, Spend, address_of, key_of, running_node, script_of_key

from picopayments_cli.chain import Asset
from picopayments_cli.chain.answers import asset_of
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.counterparty import (
    Issuance,
    asset_id,
    compact_longname,
    data_script,
    expand_longname,
    pack_issuance,
    pack_send,
    parent_of,
    unpack_issuance,
    unpack_send,
)
from picopayments_cli.channel.drafts import txid_of
from picopayments_cli.channel.networks import NETWORKS, script_of_address
from picopayments_cli.channel.values import MAX_QUANTITY, Outpoint
from picopayments_cli.errors import BadAnswer, InvalidAsset, InvalidSetting, UnknownAsset
from picopayments_cli.hub.terms import default_text, read_offer

ALICE = address_of(script_of_key(key_of("Alice")))
LONG = "PARENT." + "x" * 243

# Messages -----------------------------------------------------------------------------------------------------------

DEMO = Issuance(asset_id("TEST"), 100_000_000, description="demo")


def test_an_issuance_is_packed_as_counterparty_core_packs_it() -> None:
    assert pack_issuance(DEMO).hex() == "16871a000524ef1a05f5e100010000604464656d6f"
    for layout in ("16871a000524ef1a05f5e100010000604464656d6f", "1600000000000524ef0000000005f5e10001000064656d6f"):
        assert unpack_issuance(bytes.fromhex(layout)) == DEMO


@pytest.mark.parametrize(
    ("longname", "compacted"), [("PARENT.child", "014a74856171cbc166c4"), ("PARENT.a", "01034bec72f89d")]
)
def test_longnames_are_compacted_as_counterparty_does(longname: str, compacted: str) -> None:
    assert compact_longname(longname).hex() == compacted
    assert expand_longname(bytes.fromhex(compacted)) == longname


NAMES = st.text("abcxyzABCXYZ0189.-_@!", min_size=1, max_size=240)


@given(
    st.builds(
        Issuance,
        asset_id=st.integers(2, 2**64 - 1),
        quantity=st.integers(0, MAX_QUANTITY),
        divisible=st.booleans(),
        lock=st.booleans(),
        reset=st.booleans(),
        description=st.none() | st.text(),
        longname=st.none() | NAMES,
    )
)
def test_every_issuance_comes_back_as_it_was(issuance: Issuance) -> None:
    message = pack_issuance(issuance)
    assert unpack_issuance(message) == issuance
    assert unpack_send(message) is None


@given(st.sampled_from([b"\x14", b"\x15", b"\x16", b"\x17", b"\0\0\0\x16", b""]), st.binary(max_size=80))
def test_whatever_stands_in_a_message_is_an_issuance_or_none(head: bytes, body: bytes) -> None:
    found = unpack_issuance(head + body)
    assert found is None or isinstance(found, Issuance)


@pytest.mark.parametrize(
    "name",
    ["TEST.", "TEST..a", "TEST.a..b", "TEST.a.", "TEST.ä", "TEST.a b", "ABCD.a", "XCP.a", "BTC.a", "TEST", LONG + "x"],
)
def test_what_is_no_subasset_is_refused(name: str) -> None:
    with pytest.raises(InvalidAsset):
        parent_of(name)


def test_a_subasset_names_its_parent() -> None:
    assert [parent_of(name) for name in (LONGNAME, "TEST.a.b", "A95428956661682177.x", LONG)] == [
        "PARENT",
        "TEST",
        "A95428956661682177",
        "PARENT",
    ]


# What servers say of assets -----------------------------------------------------------------------------------------


def test_a_server_names_the_asset_that_was_asked_for() -> None:
    assert asset_of(told("TEST", asset_id("TEST")), "TEST") == Asset("TEST", 337135, True)
    for asked in (LONGNAME, CHILD):
        assert asset_of(told(CHILD, int(CHILD[1:]), LONGNAME), asked) == Asset(CHILD, int(CHILD[1:]), True, LONGNAME)


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        (told("TEST", asset_id("PEPECASH")), "TEST"),
        (told("PEPECASH", asset_id("PEPECASH")), "TEST"),
        (told("TEST", asset_id("TEST")), "test"),
        (told(CHILD, int(CHILD[1:]), "PARENT.CHILD"), LONGNAME),
        (told("PEPECASH", asset_id("PEPECASH"), "TEST"), "TEST"),
        (told("PEPECASH", asset_id("PEPECASH"), LONGNAME), LONGNAME),
        (told(CHILD, int(CHILD[1:]), "PARENT.other"), LONGNAME),
        (told(CHILD, int(CHILD[1:]) + 1, LONGNAME), LONGNAME),
        (told("XCP", 1), "TEST"),
        (told("TEST", 26**12), "TEST"),
    ],
)
def test_a_server_that_names_another_asset_is_not_believed(row: dict[str, Any], asked: str) -> None:
    with pytest.raises(BadAnswer):
        asset_of(row, asked)


# The faucet ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node that mines only when told."""
    with running_node(tmp_path_factory.mktemp("node"), 0) as started:
        yield started


def holdings(node: NodeProcess, address: str = ALICE) -> dict[str, int]:
    """The confirmed balances of an address."""
    return {row["asset"]: row["quantity"] for row in node.get(f"addresses/{address}/balances")}


def test_the_faucet_issues_what_nobody_has_issued_in_one_block(node: NodeProcess) -> None:
    height = node.bitcoin("getblockcount")
    (txid,) = node.rpc("faucet", address=ALICE, asset="DEMOCOIN", quantity=1000)
    assert node.bitcoin("getblockcount") == height + 1
    assert node.bitcoin("getrawmempool") == [txid]
    node.rpc("generate", blocks=1)
    node.rpc("faucet", address=ALICE, btc=BTC, asset="DEMOCOIN", quantity=5)
    assert node.bitcoin("getblockcount") == height + 2  # it is there: no block of its own
    node.rpc("generate", blocks=1)
    assert holdings(node)["DEMOCOIN"] == 1005
    row = node.get("assets/democoin")
    assert (row["asset"], row["asset_id"], row["asset_longname"]) == ("DEMOCOIN", str(asset_id("DEMOCOIN")), None)
    assert (row["divisible"], row["locked"], row["supply"]) == (True, False, 10**18)
    assert row["owner"] == row["issuer"]
    assert row["first_issuance_block_index"] == row["last_issuance_block_index"] == height + 1
    assert holdings(node, row["owner"])["DEMOCOIN"] == 10**18 - 1005
    listed = {item["asset"]: item["asset_id"] for item in node.get("assets")}
    assert listed["DEMOCOIN"] == str(asset_id("DEMOCOIN"))


def test_the_faucet_issues_a_subasset_with_its_parent(node: NodeProcess) -> None:
    height = node.bitcoin("getblockcount")
    for longname in (LONGNAME, LONG):
        node.rpc("faucet", address=ALICE, asset=longname, quantity=7)
    node.rpc("generate", blocks=1)
    assert node.bitcoin("getblockcount") == height + 4
    assert holdings(node)[CHILD] == 7
    (row,) = node.get(f"addresses/{ALICE}/balances/{LONGNAME}")
    assert (row["asset"], row["asset_longname"], row["quantity"]) == (CHILD, LONGNAME, 7)
    assert node.get(f"assets/{LONGNAME}")["asset"] == CHILD
    assert node.get(f"assets/{LONG}")["asset_longname"] == LONG
    chain = NodeChain(node.url, NETWORKS["regtest"])
    assert chain.asset(LONGNAME) == chain.asset(CHILD) == Asset(CHILD, int(CHILD[1:]), True, LONGNAME)
    with pytest.raises(UnknownAsset):
        chain.asset("PARENT.other")


@pytest.mark.parametrize(
    "name",
    ["ABCD", "AAA", "lower", "democoin", "parent.child", "BTC", "XCP.sub", "TEST.", "A1", "TOOLONGANAMEX"],
)
def test_the_faucet_refuses_what_is_no_asset_and_mines_nothing(node: NodeProcess, name: str) -> None:
    height = node.bitcoin("getblockcount")
    request = {"address": ALICE, "asset": name, "quantity": 1}
    reply = node.post("regtest/", {"jsonrpc": "2.0", "id": 0, "method": "faucet", "params": request})
    assert reply["error"]["data"]["type"] == "InvalidAsset"
    assert node.bitcoin("getblockcount") == height


def test_a_node_that_was_killed_knows_its_assets_again(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        node.rpc("faucet", address=ALICE, asset=LONGNAME, quantity=1000)
        before = node.get("assets"), holdings(node)
        node.kill()
    with running_node(tmp_path) as node:
        assert (node.get("assets"), holdings(node)) == before
        assert before[1] == {CHILD: 1000}


# What a hub offers --------------------------------------------------------------------------------------------------


def test_a_regtest_hub_offers_what_it_was_given(tmp_path: Path) -> None:
    with running_network(tmp_path) as network:
        client = network.client("client", funded=False)
        assert list(client.run("hubstatus")["current_terms"]) == ["XCP"]
        hub_address = client.run("hubstatus")["funding_addresses"]["XCP"]
        client.run("faucet", hub_address, "--asset", "DEMOCOIN", "--quantity", "5000")
        client.run("mine")
        shown = client.run("hubstatus")
        assert shown["current_terms"]["DEMOCOIN"] == shown["current_terms"]["XCP"]
        assert shown["liquidity"]["total"]["DEMOCOIN"] == 5000
        assert client.run("hubstatus", "--asset", "DEMOCOIN")["funding_addresses"]["DEMOCOIN"] == hub_address
        client.run("faucet", "--btc", str(BTC), "--asset", "DEMOCOIN", "--quantity", "5000")
        client.run("mine")
        handle = connect(client, "DEMOCOIN", 5000)
        open_all(network, client)
        assert client.run("hubstatus")["liquidity"]["total"]["DEMOCOIN"] == 0  # all of it is in the deposit
        network.kill()
        network.restart()
        wait_until(lambda: "DEMOCOIN" in client.run("hubstatus")["current_terms"], "the offer")
        assert client.run("status")["connections"][handle]["status"] == "open"


def test_terms_that_are_null_are_withdrawn(tmp_path: Path) -> None:
    hub = HubProcess(tmp_path / "hub")
    hub.end(signal.SIGTERM)
    path = tmp_path / "hub" / "hub.regtest.terms.json"
    members = json.loads(path.read_bytes())["XCP"]
    path.write_text(json.dumps({"XCP": None, "DEMOCOIN": members}))
    hub = HubProcess(tmp_path / "hub")
    try:
        hub.call("generate", blocks=1)  # its wallet is full of XCP
        assert list(hub.call("mph_status")["current_terms"]) == ["DEMOCOIN"]
    finally:
        hub.end(signal.SIGTERM)


@pytest.mark.parametrize("name", ["BTC", "parent.child", "PARENT.", "lower", ""])
def test_a_terms_file_names_assets_exactly(tmp_path: Path, name: str) -> None:
    path = tmp_path / "terms.json"
    for network in (NETWORKS["regtest"], NETWORKS["mainnet"]):
        members = json.loads(default_text(network))["XCP"]
        path.write_text(json.dumps({name: members}))
        with pytest.raises(InvalidSetting):
            read_offer(path, network)
        path.write_text(json.dumps({CHILD: members, "TEST": None}))
        offer = read_offer(path, network)
        offer.include(["TEST", "XCP"])
        assert offer.assets == ((CHILD, "XCP") if network.name == "regtest" else (CHILD,))


# Payments -----------------------------------------------------------------------------------------------------------


def connect(client: Client, asset: str, quantity: int) -> str:
    """The handle of a new connection."""
    handle: str = client.run("connect", asset, str(quantity))["handle"]
    return handle


def open_all(network: Network, *clients: Client) -> None:
    """Mine until all connections of the clients are open."""

    def statuses() -> set[str]:
        shown = [client.run("status")["connections"].values() for client in clients]
        return {item["status"] for items in shown for item in items}

    network.mine(2)
    wait_until(lambda: statuses() == {"open"}, "open connections")


class Issuer:
    """Somebody with a coin and XCP of their own, who issues an asset and gives it to others."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._key = key_of("issuer")
        self._script = script_of_key(self._key)
        network.hub.call("faucet", address=address_of(self._script), btc=BTC, quantity=XCP)
        network.mine()
        (coin,) = network.hub.call("get_unspent_txouts", address=address_of(self._script))
        self._coin, self._value = Outpoint.parse(f"{coin['txid']}:{coin['vout']}"), coin["value"]

    def publish(self, message: bytes, *before: tuple[int, bytes]) -> None:
        """Spend the coin for a message."""
        self._value -= 5000 + sum(value for value, _ in before)
        outputs = [*before, (0, data_script(message, self._coin.txid)), (self._value, self._script)]
        raw = Spend(self._key, [self._coin], outputs).signed()
        self._network.hub.call("sendrawtransaction", tx_hex=raw.hex())
        self._coin = Outpoint(txid_of(raw), len(outputs) - 1)

    def give(self, asset: str, quantity: int, address: str) -> None:
        """Send some of the asset."""
        self.publish(pack_send(asset_id(asset), quantity), (546, script_of_address(NETWORKS["regtest"], address)))


START = {"XCP": 10_000, "DEMOCOIN": 5_000_000_000, "TICKET": 40, CHILD: 700}
DEPOSITS = {"XCP": 1000, "DEMOCOIN": 2_000_000_000, "TICKET": 15, CHILD: 300}
NAMED = {CHILD: LONGNAME}  # what the clients type
PAID = {"XCP": 100, "DEMOCOIN": 1_234_567_890, "TICKET": 4, CHILD: 77}


def holdings_of(client: Client) -> dict[str, int]:
    """The wallet's balances, by name or number."""
    return {CHILD if name == LONGNAME else name: quantity for name, quantity in client.balances().items()}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A network whose hub holds four assets, one of them indivisible and one a subasset."""
    with running_network(tmp_path_factory.mktemp("assets")) as running:
        hub = running.hub.call("mph_status", assets=None)["funds"]["address"]
        issuer = Issuer(running)
        issuer.publish(pack_issuance(Issuance(asset_id("TICKET"), 1000, divisible=False)))
        issuer.give("TICKET", 500, hub)
        for asset in ("DEMOCOIN", LONGNAME):
            running.hub.call("faucet", address=hub, asset=asset, quantity=10**10)
        running.mine()
        for name in ("alice", "bob", "carol"):
            client = Client(running.folder / name, running.hub_url)
            if name != "carol":  # who asks the hub about the chain; the others have nodes of their own
                client.basedir.mkdir()
                views = {"chain_url": running.chain_url, "bitcoin_url": f"{running.chain_url}bitcoin/"}
                (client.basedir / "regtest.cfg").write_text(json.dumps(views))
            address = client.run("address")
            client.run("faucet", "--btc", str(COINS))
            for asset in ("XCP", "DEMOCOIN", CHILD):
                client.run("faucet", "--asset", NAMED.get(asset, asset), "--quantity", str(START[asset]))
            issuer.give("TICKET", START["TICKET"], address)
        running.mine()
        yield running


def test_three_clients_pay_each_other_in_four_assets_and_all_come_home(network: Network) -> None:
    before = network.hub.call("mph_status", assets=None)["funds"]["liquidity"]
    clients = [Client(network.folder / name, network.hub_url) for name in ("alice", "bob", "carol")]
    assert [START.items() <= holdings_of(client).items() for client in clients] == [True] * 3
    handles: list[dict[str, str]] = [{}, {}, {}]
    for asset, deposit in DEPOSITS.items():
        for client, own in zip(clients, handles, strict=True):
            own[asset] = connect(client, NAMED.get(asset, asset), deposit)
        network.mine()  # which confirms the change that the next deposit is paid from
    open_all(network, *clients)
    for client, own in zip(clients, handles, strict=True):
        shown = client.run("status")["connections"]
        assert {item["asset"]: item["balance"] for item in shown.values()} == DEPOSITS
        assert set(shown) == set(own.values())
    tokens: dict[str, str] = {}  # of payments by the payee's handle: Alice pays Bob, who pays Carol, who pays Alice
    for number, payer in enumerate(clients):
        payee = handles[(number + 1) % 3]
        for asset, amount in PAID.items():
            tokens[payee[asset]] = payer.run("queuepayment", handles[number][asset], payee[asset], str(amount))
        payer.run("sync")
    for client, own in zip(clients[:2], handles, strict=False):
        result = client.run("sync")
        if client is clients[0]:
            assert {handle: tokens_of(result, handle) for handle in own.values()} == {
                handle: [tokens[handle]] for handle in own.values()
            }
    named = [own["TICKET"] for own in handles]
    assert network.hub.call("mph_status", assets=["TICKET"], handles=named)["connections"].keys() == set(named)
    for client, own in zip(clients, handles, strict=True):
        for handle in own.values():
            client.run("close", handle)
    for client, own in zip(clients, handles, strict=True):
        network.settle(client, *own.values())
    network.mine(4)
    syncs = (3, 3, 2)  # one when paying, one to be paid, one at the close
    for client, count in zip(clients, syncs, strict=True):
        held = holdings_of(client)
        assert {asset: held[asset] for asset in START} == {asset: START[asset] - count * FEE for asset in START}
    after = network.hub.call("mph_status", assets=None)["funds"]["liquidity"]
    assert {asset: after[asset] - before[asset] for asset in START} == dict.fromkeys(START, sum(syncs) * FEE)


def test_a_payment_to_a_connection_in_another_asset_comes_back(network: Network) -> None:
    alice, bob = network.client("other-alice"), network.client("other-bob")
    for client in (alice, bob):
        client.run("faucet", "--asset", "DEMOCOIN", "--quantity", "5000")
    network.mine()
    a, b = connect(alice, "XCP", 1000), connect(bob, "DEMOCOIN", 1000)
    open_all(network, alice, bob)
    assert alice.fails("queuepayment", a, b, "100") == (1, "AssetMismatch")
    alice.queue_unseen(a, b, 100)
    assert "AssetMismatch" in alice.done("sync").stdout
    assert alice.run("status")["connections"][a]["balance"] == 1000 - FEE
    assert bob.run("sync")[b]["received_payments"] == []


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("PARENT.other", "5"), "UnknownAsset"),
        (("NOTISSUED", "5"), "UnknownAsset"),
        (("OTHERCOIN", "5"), "AssetNotInTerms"),
        (("TICKET", "5"), "InsufficientFunds"),
    ],
)
def test_a_connection_that_can_t_be_is_refused_by_name(network: Network, words: tuple[str, ...], error: str) -> None:
    client = network.client(f"refused-{words[0]}")
    if words[0] == "OTHERCOIN":
        client.run("faucet", "--asset", "OTHERCOIN", "--quantity", "5000")
        network.mine()
    assert client.fails("connect", *words) == (1, error)

"""Assets go by exactly the name that was written: subassets whose long names differ in capitals only are others."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chain_support import TESTNET, listening_node, refusal, told
from network_support import Client, HubProcess, Network, running_network, wait_until
from servers import json_rpc

from picopayments_cli.chain.answers import longnames_of
from picopayments_cli.chain.hub import HubChain
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.errors import BadAnswer, InvalidSetting, PicopaymentsError, UnknownAsset
from picopayments_cli.hub.terms import default_text, read_offer
from picopayments_cli.rpc import RpcClient
from system.test_commands import stranger

SMALL, CAPITAL, MIXED = "TWINSY.gold", "TWINSY.GOLD", "TWINSY.Gold"
HELD = 10**9

# At the command line ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A network whose ledger has two subassets of nearly one name, both held by the hub."""
    with running_network(tmp_path_factory.mktemp("twins")) as running:
        hub = running.hub.call("mph_status", assets=None)["funds"]["address"]
        for name in (SMALL, CAPITAL):
            running.hub.call("faucet", address=hub, asset=name, quantity=10**10)
        running.mine()
        yield running


@pytest.fixture(scope="module", params=["hub", "own"])
def client(network: Network, request: pytest.FixtureRequest) -> Client:
    """A wallet that holds both, which asks the hub or a node of its own."""
    made = network.client(f"client-{request.param}")
    if request.param == "own":
        made.run("config", "chain_url", network.chain_url)
    for name in (SMALL, CAPITAL):
        made.run("faucet", "--asset", name, "--quantity", str(HELD))
    network.mine()
    return made


def assets_at(client: Client, address: str) -> dict[str, int]:
    """Return what an address holds besides bitcoin."""
    held: dict[str, int] = client.run("balances", "--address", address)
    return {name: quantity for name, quantity in held.items() if name != "BTC"}


def test_a_send_moves_the_asset_that_was_named(network: Network, client: Client) -> None:
    for named, other in ((SMALL, CAPITAL), (CAPITAL, SMALL)):
        assert client.balances()[named] == client.balances()[other] == HELD
        destination = stranger()
        client.run("blocksend", named, destination, "100")
        network.mine()
        client.run("blocksend", named, destination, f"1.5{named}")
        network.mine()
        assert assets_at(client, destination) == {named: 150_000_100}
        assert client.run("balances", "--address", destination, "--asset", other) == {other: 0}
        client.run("faucet", "--asset", named, "--quantity", "150000100")
        network.mine()


def number_of(network: Network, name: str) -> str:
    """The number that a subasset is on the ledger."""
    (row,) = network.hub.call("get_asset_info", assets=[name])
    assert row["asset_longname"] == name
    return str(row["asset"])


def refusal_of(client: Client, *words: str) -> dict[str, Any]:
    before = client.files()
    error = client.done(*words).error
    assert client.files() == before
    return error


@pytest.mark.parametrize(
    ("written", "spellings"),
    [
        (MIXED, [CAPITAL, SMALL]),
        ("twinsy.gold", [SMALL]),
        ("Twinsy.GOLD", [CAPITAL]),
        ("twinsy.Gold", [CAPITAL, SMALL]),
    ],
)
def test_another_spelling_is_refused_by_those_that_there_are(
    client: Client, written: str, spellings: list[str]
) -> None:
    for words in (
        ("blocksend", written, stranger(), "5"),
        ("blocksend", SMALL, stranger(), f"1.5{written}"),
        ("connect", written, "5"),
        ("connect", CAPITAL, f"5{written}"),
        ("balances", "--asset", written),
        ("hubstatus", "--asset", written),
        *([("faucet", "--asset", written, "--quantity", "5")] if written != MIXED else []),  # it would issue that one
    ):
        error = refusal_of(client, *words)
        assert error["name"] == "UnknownAsset"
        assert error["data"] == {"asset": written, "spellings": spellings}
        assert all(name in error["message"] for name in (written, *spellings))


def test_a_name_in_small_letters_is_refused_by_the_right_one(client: Client) -> None:
    for words in (("balances", "--asset", "xcp"), ("blocksend", "xcp", stranger(), "5"), ("connect", "xcp", "5")):
        assert refusal_of(client, *words)["data"] == {"asset": "xcp", "spellings": ["XCP"]}
    error = refusal_of(client, "blocksend", "TWINSY.copper", stranger(), "5")
    assert (error["name"], error["data"]) == ("UnknownAsset", {"asset": "TWINSY.copper"})


def test_a_quantity_in_the_other_asset_is_refused(network: Network, client: Client) -> None:
    error = refusal_of(client, "blocksend", SMALL, stranger(), f"1.5{CAPITAL}")
    assert (error["name"], error["data"]["unit"]) == ("InvalidQuantity", SMALL)
    assert SMALL in error["message"]
    assert number_of(network, SMALL) in error["message"]


def test_errors_name_a_subasset_by_both_names(network: Network, client: Client) -> None:
    number = number_of(network, CAPITAL)
    for words in (("blocksend", CAPITAL, stranger(), str(10**10)), ("connect", number, str(10**10))):
        error = refusal_of(client, *words)
        assert error["name"] == "InsufficientFunds"
        assert (error["data"]["asset"], error["data"]["asset_longname"]) == (number, CAPITAL)
        assert f"{CAPITAL} ({number})" in error["message"]
    client.run("faucet", "--asset", "TWINSY.silver", "--quantity", "50")
    network.mine()
    error = client.done("connect", "TWINSY.silver", "5").error
    assert (error["name"], error["data"]["asset_longname"]) == ("AssetNotInTerms", "TWINSY.silver")
    assert all(name in error["message"] for name in ("TWINSY.silver", SMALL, CAPITAL))
    error = refusal_of(client, "hubstatus", "--asset", "TWINSY.silver")
    assert (error["name"], error["data"]["asset_longname"]) == ("AssetNotInTerms", "TWINSY.silver")


def test_a_connection_in_a_subasset_by_its_long_name(network: Network) -> None:
    alice, bob = network.client("alice"), network.client("bob")
    for party in (alice, bob):
        for name in (SMALL, CAPITAL):
            party.run("faucet", "--asset", name, "--quantity", str(HELD))
    network.mine()
    a, b = (party.run("connect", CAPITAL, f"2.0{CAPITAL}")["handle"] for party in (alice, bob))
    network.mine(2)
    wait_until(
        lambda: [party.shown(handle)["status"] for party, handle in ((alice, a), (bob, b))] == ["open"] * 2, "both open"
    )
    number = number_of(network, CAPITAL)
    for shown in (alice.shown(a), alice.run("hubstatus", "--asset", CAPITAL)["connections"][a]):
        assert (shown["asset"], shown["asset_longname"], shown["balance"]) == (number, CAPITAL, 200_000_000)
    assert {SMALL: HELD, CAPITAL: HELD - 200_000_000}.items() <= alice.run("status")["wallet"]["balances"].items()
    assert refusal_of(alice, "queuepayment", a, b, f"0.5{SMALL}")["name"] == "InvalidQuantity"
    assert refusal_of(alice, "queuepayment", a, b, f"0.5{MIXED}")["data"]["spellings"] == [CAPITAL, SMALL]
    alice.run("queuepayment", a, b, f"0.5{CAPITAL}")
    alice.run("sync")
    bob.run("sync")
    for party, handle in ((alice, a), (bob, b)):
        party.run("close", handle)
        assert party.run("history", "--handle", handle)[0]["asset_longname"] == CAPITAL
    network.settle(alice, a)
    network.settle(bob, b)
    network.mine(4)
    moved = [party.balances()[CAPITAL] - HELD for party in (alice, bob)]
    assert [round(quantity / 10**7) for quantity in moved] == [-5, 5]  # but for fees of a few satoshis
    assert [party.balances()[SMALL] for party in (alice, bob)] == [HELD, HELD]


def test_a_hubs_terms_name_a_subasset_by_its_long_name(tmp_path: Path) -> None:
    with running_network(tmp_path) as network:
        client = network.client("client")
        hub = client.run("hubstatus")["funding_addresses"]["XCP"]
        for name in (SMALL, CAPITAL):
            client.run("faucet", "--asset", name, "--quantity", "1000")
            client.run("faucet", hub, "--asset", name, "--quantity", "1000")
        network.mine()
        number = number_of(network, CAPITAL)
        path = network.folder / "hub" / "hub.regtest.terms.json"
        members = json.loads(path.read_bytes())["XCP"]
        path.write_text(json.dumps({"XCP": members, CAPITAL: members | {"sync_fee": 7}, SMALL: None}))
        network.kill()
        network.restart()
        shown = client.run("hubstatus")
        assert {name: terms["sync_fee"] for name, terms in shown["current_terms"].items()} == {"XCP": 1, CAPITAL: 7}
        assert shown["funding_addresses"][CAPITAL] == hub
        assert shown["liquidity"]["total"][CAPITAL] == 1000
        assert list(network.hub.call("mph_status", assets=[number])["current_terms"]) == [number]
        assert client.done("connect", SMALL, "100").error["name"] == "AssetNotInTerms"
        assert client.run("connect", CAPITAL, "1000")["handle"]
        chain = NodeChain(network.chain_url, NETWORKS["regtest"])
        for wrong, named in (
            ({MIXED: members}, [CAPITAL, SMALL]),
            ({CAPITAL: members, number: None}, [CAPITAL, number]),
        ):
            path.write_text(json.dumps(wrong))
            with pytest.raises(InvalidSetting) as refused:
                read_offer(path, NETWORKS["regtest"]).resolve(chain)
            assert all(name in refused.value.message for name in named)
        network.hub.end(signal.SIGTERM)
        path.write_text(json.dumps({MIXED: members}))
        failed = HubProcess(network.folder / "hub")
        assert failed.process.wait(60) == 1
        assert "InvalidSetting" in failed.log.read_text().splitlines()[-1]
        path.write_text(default_text(NETWORKS["regtest"]))


# What nodes and hubs answer -----------------------------------------------------------------------------------------

STATE: dict[str, Any] = {"get_running_info": lambda: {"network": "testnet"}}
NUMBER, TWIN = 95428956661682177, 95428956661682178
RIGHT, OTHER = told(f"A{NUMBER}", NUMBER, CAPITAL), told(f"A{TWIN}", TWIN, SMALL)
BOTH = {"assets/TWINSY/subassets": {"result": [OTHER, RIGHT]}}
PATH = f"assets/{CAPITAL}"


@pytest.mark.parametrize(
    "replies",
    [
        {PATH: {"result": RIGHT}},
        {PATH: {"result": OTHER}, **BOTH},
        {PATH: {"result": [OTHER, RIGHT]}},
        {PATH: {"result": [OTHER]}, **BOTH},
        {PATH: {"result": told("TWINSY", 1)}, **BOTH},
    ],
)
def test_a_node_that_looks_names_up_in_any_case_is_asked_for_all(replies: dict[str, Any]) -> None:
    with listening_node(replies) as (chain, _):
        found = chain.asset(CAPITAL)
        assert (found.number, found.longname) == (NUMBER, CAPITAL)


def test_subassets_are_gone_through_page_by_page() -> None:
    pages = [{"result": [OTHER], "next_cursor": 5}, {"result": [RIGHT], "next_cursor": None}]
    with listening_node({PATH: {"result": OTHER}, "assets/TWINSY/subassets": pages}) as (chain, heard):
        assert chain.asset(CAPITAL).number == NUMBER
        assert heard[-1][1]["cursor"] == "5"


@pytest.mark.parametrize(
    ("replies", "spellings"),
    [
        ({PATH: {"result": OTHER}, "assets/TWINSY/subassets": {"result": [OTHER]}}, [SMALL]),
        ({PATH: {"result": OTHER}, "assets/TWINSY/subassets": {"result": []}}, None),
        ({PATH: {"result": told("TWINSY", 1)}, "assets/TWINSY/subassets": {"result": [told("TWINSY", 1)]}}, None),
        ({PATH: refusal(404)}, None),
    ],
)
def test_a_node_that_has_another_spelling_only(replies: dict[str, Any], spellings: list[str] | None) -> None:
    with listening_node(replies) as (chain, _), pytest.raises(UnknownAsset) as refused:
        chain.asset(CAPITAL)
    assert refused.value.data.get("spellings") == spellings


@pytest.mark.parametrize(
    ("asked", "row"),
    [
        (CAPITAL, RIGHT | {"asset_id": str(TWIN)}),
        (CAPITAL, RIGHT | {"asset": "PEPECASH"}),
        (f"A{NUMBER}", OTHER),
        (f"A{NUMBER}", told("TWINSY", 1)),
        ("TWINSY", RIGHT),
        ("TWINSY", told("TWINSY", NUMBER)),
    ],
)
def test_another_asset_s_number_is_not_believed(asked: str, row: dict[str, Any]) -> None:
    everywhere = {f"assets/{asked}": {"result": row}, "assets/TWINSY/subassets": {"result": [row]}}
    with listening_node(everywhere) as (chain, _), pytest.raises((BadAnswer, UnknownAsset)):
        chain.asset(asked)
    methods: dict[str, Any] = {**STATE, "get_asset_info": lambda assets: [row], "get_asset_spellings": lambda asset: []}
    with json_rpc(methods) as url, pytest.raises((BadAnswer, UnknownAsset)):
        HubChain(RpcClient(url), TESTNET).asset(asked)


@pytest.mark.parametrize(
    ("rows", "told_spellings", "spellings"),
    [
        ([OTHER], [], [SMALL]),
        ([], [SMALL, MIXED, 5, "TWINSY.silver", CAPITAL], [MIXED, SMALL]),
        ([], [], None),
        ([], None, None),
    ],
)
def test_a_hub_that_tells_of_another_spelling(
    rows: list[Any], told_spellings: Any, spellings: list[str] | None
) -> None:
    methods: dict[str, Any] = {**STATE, "get_asset_info": lambda assets: rows}
    if told_spellings is not None:  # else a hub of another make
        methods["get_asset_spellings"] = lambda asset: told_spellings
    with json_rpc(methods) as url, pytest.raises(UnknownAsset) as refused:
        HubChain(RpcClient(url), TESTNET).asset(CAPITAL)
    assert refused.value.data.get("spellings") == spellings
    with json_rpc({**STATE, "get_asset_info": lambda assets: [OTHER, RIGHT]}) as url:
        assert HubChain(RpcClient(url), TESTNET).asset(CAPITAL).number == NUMBER


def test_long_names_are_shown_where_they_can_be_true() -> None:
    assert longnames_of([RIGHT, OTHER, told("TWINSY", 1)]) == {f"A{NUMBER}": CAPITAL, f"A{TWIN}": SMALL}
    for wrong in (
        [RIGHT, OTHER | {"asset_longname": CAPITAL}],
        [RIGHT | {"asset_longname": "XCP"}],
        [told("TWINSY", 1, SMALL)],
    ):
        assert longnames_of(wrong) == {}


def test_a_hub_tells_of_exactly_what_it_was_asked(network: Network) -> None:
    info = network.hub.call("get_asset_info", assets=[CAPITAL, MIXED, SMALL, "twinsy", "TWINSY", "x" * 9000, CAPITAL])
    assert [row["asset_longname"] or row["asset"] for row in info] == [CAPITAL, SMALL, "TWINSY"]
    assert [row["asset_id"] for row in info[:2]] == [row["asset"][1:] for row in info[:2]]
    for asked, spellings in ((MIXED, [CAPITAL, SMALL]), (SMALL, [SMALL]), ("TWINSY.x", []), ("TWINSY", []), (5, [])):
        assert network.hub.call("get_asset_spellings", asset=asked) == spellings


def test_the_faucet_pays_what_was_named(network: Network) -> None:
    for name in ("twinsy.gold", "twinsy"):
        with pytest.raises(PicopaymentsError, match="asset"):
            network.hub.call("faucet", address=stranger(), asset=name, quantity=5)

"""Networks: their keys, addresses and scripts, with those of private key 1 as they are published everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import (
    NETWORKS,
    Network,
    address_of_script,
    check_taproot,
    network_named,
    script_of_address,
    secret_of_wif,
    wif_of_secret,
)
from picopayments_cli.errors import InvalidAddress, InvalidKey, TaprootInactive, WrongNetwork

ONE = (1).to_bytes(32, "big")
HASHED = bytes.fromhex("751e76e8199196d454941c45d1b3a323f1433bd6")  # of its public key
TAPROOT = bytes.fromhex("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
WIFS = {
    "mainnet": "KwDiBf89QgGbjEhKnhXJuH7LrciVrZi3qYjgd9M7rFU73sVHnoWn",
    "testnet": "cMahea7zqjxrtgAbB7LSGbcQUr1uX1ojuat9jZodMN87JcbXMTcA",
}
UNCOMPRESSED = "5HpHagT65TZzG1PH3CSu63k8DbpvD8s5ip4nEB3kEsreAnchuDf"
ADDRESSES = {
    "mainnet": "1BgGZ9tcN4rm9KBzDn7KprQz87SZ26SAMH",
    "testnet": "mrCDrCybB6J1vRfbwM5hemdJz73FwDBC8r",
}
SEGWIT = {
    "mainnet": "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
    "testnet": "tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx",
}
LIKE = {"testnet4": "testnet", "signet": "testnet", "regtest": "testnet"}
every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


def of(network: Network, table: dict[str, str]) -> str:
    return table[LIKE.get(network.name, network.name)]


@every_network
def test_the_key_and_the_address_of_private_key_1(network: Network) -> None:
    wif = of(network, WIFS)
    assert wif_of_secret(network, ONE) == wif
    assert secret_of_wif(network, f" {wif}\n") == ONE
    script = b"\x76\xa9\x14" + HASHED + b"\x88\xac"
    assert address_of_script(network, script) == of(network, ADDRESSES)
    assert script_of_address(network, of(network, ADDRESSES)) == script
    assert Key(ONE).pubkey[1:] == TAPROOT


@pytest.mark.parametrize("name", SEGWIT)
def test_segwit_addresses(name: str) -> None:
    script = b"\0\x14" + HASHED
    assert address_of_script(NETWORKS[name], script) == SEGWIT[name]
    assert script_of_address(NETWORKS[name], SEGWIT[name]) == script


@every_network
@given(data=st.binary(min_size=32, max_size=32))
@settings(max_examples=20)
def test_every_script_with_an_address_comes_back_from_it(network: Network, data: bytes) -> None:
    for script in (
        b"\x76\xa9\x14" + data[:20] + b"\x88\xac",
        b"\xa9\x14" + data[:20] + b"\x87",
        b"\0\x14" + data[:20],
        b"\0\x20" + data,
        b"\x51\x20" + data,
    ):
        address = address_of_script(network, script)
        assert address is not None
        assert script_of_address(network, address) == script


@pytest.mark.parametrize("script", [b"", b"\x6a\x04\0\0\0\0", b"\x51\x21" + b"\2" * 33 + b"\x51\xae"])
def test_scripts_without_an_address(script: bytes) -> None:
    assert address_of_script(NETWORKS["mainnet"], script) is None


ODD_HASHES = ["1MSp9Dq1gadqWMGiytTxHRVkfCkQ8nCu", "17sJVfvMWz5aMVTuwpRkaD97VcGzqH2pF78"]  # of 19 and 21 bytes
NO_KEYS = [  # with right checksums: 0, another ending than 1, a byte too many, a number above the curve's order
    "KwDiBf89QgGbjEhKnhXJuH7LrciVrZi3qYjgd9M7rFU73Nd2Mcv1",
    "KxN4XYdzu6f9j3EMryaMwZvUVLk3y29M4QZ2xwPoFP2zwkeHazny",
    "2SfMxZpeJYwyPWYqy5aiFRrK2L6926G3qY2xPfu5d8UFpkwN1AUFae",
    "L5oLkpV3aqBjhki6LmvChTCq73v9gyymzzMpBbhDLjDpKCuAXpsi",
]
MISTYPED = [ADDRESSES["mainnet"][:-1] + "J", SEGWIT["mainnet"][:-1] + "5", WIFS["mainnet"]]


@pytest.mark.parametrize("address", ["", "x", "\u0661BgGZ9tcN4rm", *MISTYPED, *ODD_HASHES])
def test_what_is_no_address_of_the_network(address: str) -> None:
    with pytest.raises(InvalidAddress) as refused:
        script_of_address(NETWORKS["mainnet"], address)
    assert refused.value.data == {"address": address, "network": "mainnet", "networks": []}
    assert "not an address of mainnet. Check it for typing errors" in refused.value.message


TESTS = ["testnet", "testnet4", "signet"]
FOREIGN = {
    ADDRESSES["mainnet"]: ["mainnet"],
    SEGWIT["mainnet"]: ["mainnet"],
    "3P14159f73E4gFr7JterCCQh9QjiTjiZrG": ["mainnet"],
    "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0": ["mainnet"],
    ADDRESSES["testnet"]: [*TESTS, "regtest"],
    SEGWIT["testnet"]: TESTS,
    "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080": ["regtest"],
}


@every_network
@pytest.mark.parametrize("address", FOREIGN)
def test_an_address_of_other_networks_is_refused_with_their_names(network: Network, address: str) -> None:
    if network.name in FOREIGN[address]:
        assert script_of_address(network, address)
        return
    with pytest.raises(InvalidAddress) as refused:
        script_of_address(network, address)
    assert refused.value.data["networks"] == FOREIGN[address]
    assert f"It is one of {' or '.join(FOREIGN[address])}." in refused.value.message


@pytest.mark.parametrize(
    ("name", "height"), [("mainnet", 902_000), ("testnet", 4_410_000), ("testnet4", 85_000), ("signet", 0)]
)
def test_no_connection_opens_before_the_ledger_knows_taproot(name: str, height: int) -> None:
    check_taproot(NETWORKS[name], height)
    check_taproot(NETWORKS["regtest"], 0)
    if height:
        with pytest.raises(TaprootInactive, match=f"{height}.*{height - 1}") as refused:
            check_taproot(NETWORKS[name], height - 1)
        assert refused.value.data == {"network": name, "height": height - 1, "needed": height}


@pytest.mark.parametrize("wif", ["", "x", WIFS["testnet"], UNCOMPRESSED, ADDRESSES["mainnet"], ONE.hex(), *NO_KEYS])
def test_what_is_no_key_of_the_network(wif: str) -> None:
    with pytest.raises(InvalidKey) as refused:
        secret_of_wif(NETWORKS["mainnet"], wif)
    assert refused.value.data == {"network": "mainnet"}  # and never what the file holds
    assert not wif or wif not in refused.value.message


def test_networks_by_name() -> None:
    assert [network_named(name).name for name in NETWORKS] == list(NETWORKS)
    with pytest.raises(WrongNetwork, match=r"'testnet3'.*mainnet, testnet, testnet4, signet, regtest") as refused:
        network_named("testnet3")
    assert refused.value.data == {"network": "testnet3"}


def test_what_differs_between_networks() -> None:
    burns = {"mainnet": "1CounterpartyXXXXXXXXXXXXXXXUWLpVr"}
    nodes = {"mainnet": 4000, "testnet": 14000, "testnet4": 44000, "signet": 34000, "regtest": 24000}
    hubs = {"mainnet": 5000, "testnet": 15000, "testnet4": 45000, "signet": 35000, "regtest": 25000}
    bitcoins = {"mainnet": 8332, "testnet": 18332, "testnet4": 48332, "signet": 38332, "regtest": 18443}
    for name, network in NETWORKS.items():
        assert network.burn_address == burns.get(name, "mvCounterpartyXXXXXXXXXXXXXXW24Hef")
        assert script_of_address(network, network.burn_address)
        assert (network.node_port, network.hub_port, network.bitcoin_port) == (nodes[name], hubs[name], bitcoins[name])
        # a reorganisation of six blocks must be survived; on regtest nothing waits that need not
        assert (network.safe_depth, network.expire_min, network.expire_max) == (
            (1, 12, 65535) if name == "regtest" else (7, 144, 65535)
        )


def test_a_script_that_pushes_a_hash_at_greater_length_has_no_address() -> None:
    network = NETWORKS["regtest"]
    for script in (b"\x76\xa9\x4c\x14" + bytes(20) + b"\x88\xac", b"\xa9\x4c\x14" + bytes(20) + b"\x87"):
        assert address_of_script(network, script) is None

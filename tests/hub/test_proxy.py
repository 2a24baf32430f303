"""The hub of protocol 3 bounds what a stranger asks of its nodes; these questions reach none."""

from __future__ import annotations

from typing import Any

import pytest
from regtest_support import REGTEST, address_of, key_of, script_of_key

from picopayments_cli.chain.packages import LedgerChain, PackageNode
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.errors import InvalidParams, PicopaymentsError
from picopayments_cli.hub.proxy import Nodes, Proxy
from picopayments_cli.rpc import RpcClient

ADDRESS = address_of(script_of_key(key_of("stranger")))
NOBODY = "http://127.0.0.1:1/"
RIGHT: dict[str, Any] = {"field": "destination", "op": "==", "value": ADDRESS}


@pytest.fixture
def proxy() -> Proxy:
    nodes = Nodes(LedgerChain(NOBODY, REGTEST), PackageNode(NOBODY), RpcClient(NOBODY))
    return Proxy(REGTEST, nodes, lambda: Rate(1, guess=False), lambda: None)


@pytest.mark.parametrize("name", NETWORKS)
def test_both_methods_are_on_offer_beside_the_others_on_every_network(name: str) -> None:
    network = NETWORKS[name]
    nodes = Nodes(LedgerChain(NOBODY, network), PackageNode(NOBODY), RpcClient(NOBODY))
    offered = Proxy(network, nodes, lambda: Rate(1, guess=False), lambda: None).methods()
    assert {"get_sends", "submitpackage", "sendrawtransaction"} <= offered.keys()


@pytest.mark.parametrize(
    "filters",
    [
        *((), [], None, 5, "destination", [5], [[RIGHT]], [RIGHT, RIGHT]),
        *(RIGHT | {"field": field} for field in ("source", "address", None, ["destination"])),
        *(RIGHT | {"op": op} for op in ("!=", ">", None, ["=="])),
        *(RIGHT | {"value": value} for value in (None, 5, [ADDRESS], {"a": 1})),
        {"field": "destination", "op": "=="},
    ],
    ids=str,
)
def test_sends_are_asked_for_by_one_destination(proxy: Proxy, filters: Any) -> None:
    with pytest.raises(InvalidParams):
        proxy.get_sends(filters)


@pytest.mark.parametrize("address", ["", "nowhere", "1BitcoinEaterAddressDontSendf59kuE", "../" + ADDRESS])
def test_a_destination_is_an_address_of_this_network(proxy: Proxy, address: str) -> None:
    with pytest.raises(PicopaymentsError) as caught:
        proxy.get_sends([RIGHT | {"value": address}])
    assert caught.value.name in ("InvalidAddress", "WrongNetwork")


PACKAGES: dict[str, list[Any]] = {
    "InvalidParams": [None, 5, "00", {}, [], ["00"] * 3, ["00" * 400_001]],
    "InvalidHex": [[None], [5], [["00"]], ["xx"], ["0"]],
    "BroadcastRefused": [[""], ["00"], ["00", "00"]],
}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_one_or_two_transactions(proxy: Proxy, name: str) -> None:
    for package in PACKAGES[name]:
        with pytest.raises(PicopaymentsError) as caught:
            proxy.submitpackage(package)
        assert caught.value.name == name

"""The chain's sources against the regtest node: all tell the same, see what is new, and broadcast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bitcoin.core import CBlock, CTransaction
from regtest_support import (
    REGTEST,
    NodeProcess,
    Spend,
    address_of,
    key_of,
    running_node,
    script_of_key,
    send_outputs,
)
from servers import json_rpc

from picopayments_cli.chain import Asset, Chain, Query
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.hub import HubChain
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.rates import Bounds, Rate, believed
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.errors import (
    BadAnswer,
    BroadcastRefused,
    InvalidAddress,
    NodeRefused,
    NodeUnreachable,
    UnknownAsset,
    UnknownTransaction,
    WrongNetwork,
)
from picopayments_cli.hub.proxy import Nodes, Proxy
from picopayments_cli.lanes import Lane
from picopayments_cli.rpc import RpcClient, controls_of

ALICE, BOB = key_of("alice"), key_of("bob")
A, B = address_of(script_of_key(ALICE)), address_of(script_of_key(BOB))
ALL = Query(coins=[A, B], history=[A, B], balances=[A, B])


@dataclass
class Sources:
    """A node in its own process, as stale as a real one, and every way to ask it; ``both`` asks Bitcoin too."""

    process: NodeProcess
    node: NodeChain
    both: NodeChain
    hub: HubChain
    bitcoin: BitcoinNode

    @property
    def chains(self) -> tuple[Chain, ...]:
        return self.node, self.both, self.hub


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[Sources]:
    with running_node(tmp_path, 0, "--cached") as process:
        node = NodeChain(process.url, REGTEST)
        bitcoin = BitcoinNode(process.url + "bitcoin/")
        both = NodeChain(process.url, REGTEST, bitcoin=bitcoin)

        def rate() -> Rate:
            return believed(bitcoin.estimate(), None, None, Bounds(1, 100))

        proxy = Proxy(REGTEST, Nodes(both, bitcoin, controls_of(process.url)), rate, lambda: None)
        methods = proxy.methods()
        with json_rpc(methods, lanes=dict.fromkeys(methods, Lane(40))) as url:
            yield Sources(process, node, both, HubChain(RpcClient(url), REGTEST), bitcoin)


def fund(sources: Sources, satoshis: int = 1_000_000, quantity: int = 0) -> None:
    sources.process.rpc("faucet", address=A, btc=satoshis, asset="XCP", quantity=quantity)
    sources.process.rpc("generate", blocks=1)


def pay(sources: Sources, satoshis: int, asset_id: int = 0, quantity: int = 0) -> bytes:
    """A signed payment of Alice's oldest coin to Bob; with a quantity, one that sends an asset."""
    coin = min(sources.node.view(Query(coins=[A])).coins[A], key=lambda coin: (coin.height or 10**9, -coin.value))
    change = (coin.value - satoshis - 1000, script_of_key(ALICE))
    outputs = [(satoshis, script_of_key(BOB)), change]
    if quantity:
        outputs = send_outputs(coin.outpoint, asset_id, quantity, script_of_key(BOB), change, satoshis)
    return Spend(ALICE, [coin.outpoint], outputs).signed()


def test_every_source_tells_the_same(sources: Sources) -> None:
    fund(sources, 1_000_000, 500)
    raw = pay(sources, 12_345, 1, 200)
    txid = sources.node.broadcast(raw)
    for confirmed in (False, True):
        if confirmed:
            sources.process.rpc("generate", blocks=2)
        query = Query(coins=[A, B], history=[A, B], balances=[A, B], transactions=[txid, bytes(32)])
        view = sources.node.view(query)
        told, both = sources.hub.view(query), sources.both.view(query)
        assert both == view
        assert told.height == view.height == sources.process.bitcoin("getblockcount")
        assert (told.fee_rate, view.fee_rate, sources.bitcoin.estimate()) == (None, None, None)
        assert told.transactions == view.transactions == {txid: raw}
        assert told.balances == view.balances
        for address in (A, B):
            assert set(told.coins[address]) == set(view.coins[address])
            assert set(told.history[address]) == set(view.history[address])
        (coin,) = view.coins[B]
        assert (coin.outpoint, coin.value, coin.script) == (Outpoint(txid, 0), 12_345, script_of_key(BOB))
        assert coin.depth(view.height) == (2 if confirmed else 0)
        (entry,) = view.history[B]
        assert (entry.txid, entry.raw, entry.height) == (txid, raw, coin.height)
        assert view.balances[B] == ({"XCP": 200, "BTC": 12_345} if confirmed else {"BTC": 0})
    assert view.balances[A]["XCP"] == 300


def test_what_is_new_is_seen_at_once_in_the_same_block(sources: Sources) -> None:
    fund(sources)
    for chain in sources.chains:
        assert chain.view(ALL).coins[B] == ()
    txid = sources.hub.broadcast(pay(sources, 5000))
    for chain in sources.chains:
        view = chain.view(ALL)
        assert [coin.outpoint for coin in view.coins[B]] == [Outpoint(txid, 0)]
        assert Outpoint(txid, 1) in [coin.outpoint for coin in view.coins[A]]


def test_more_addresses_and_txids_than_one_call_takes(sources: Sources) -> None:
    fund(sources)
    many = [address_of(script_of_key(key_of(str(number)))) for number in range(120)]
    txids = [entry.txid for entry in sources.node.view(ALL).history[A]]
    query = Query(coins=[*many, A], balances=[*many, A], transactions=[*(bytes((n,)) * 32 for n in range(230)), *txids])
    for chain in sources.chains:
        view = chain.view(query)
        assert len(view.coins) == len(view.balances) == 121
        assert view.balances[A]["BTC"] == 1_000_000
        assert set(view.transactions) == set(txids)


def test_broadcast_twice_is_once_and_a_refusal_has_its_reason(sources: Sources) -> None:
    fund(sources)
    raw = pay(sources, 5000)
    conflict = pay(sources, 4000)
    txid = bytes(CTransaction.deserialize(raw).GetTxid())
    broadcasters: tuple[Chain | BitcoinNode, ...] = (*sources.chains, sources.bitcoin)
    for confirmed in (False, True):
        for source in broadcasters:
            assert source.broadcast(raw) == txid
        if not confirmed:
            sources.process.rpc("generate", blocks=1)
    for source in broadcasters:
        with pytest.raises(BroadcastRefused, match="missing") as refused:
            source.broadcast(conflict)
        assert refused.value.data["txid"] == bytes(CTransaction.deserialize(conflict).GetTxid())[::-1].hex()
        with pytest.raises(BroadcastRefused, match="no transaction"):
            source.broadcast(b"\1\2\3")


def test_assets_are_told_alike(sources: Sources) -> None:
    for chain in sources.chains:
        assert chain.asset("BTC") == Asset("BTC", 0, True)
        assert chain.asset("XCP") == Asset("XCP", 1, True)
        for name in ("NOSUCHASSET", "a/../b?c", ""):
            with pytest.raises((UnknownAsset, BadAnswer)):
                chain.asset(name)


def test_only_addresses_of_the_network(sources: Sources) -> None:
    for chain in sources.chains:
        with pytest.raises(InvalidAddress):
            chain.view(Query(history=["../../v2"]))
    for name in ("mainnet", "testnet"):
        with pytest.raises(WrongNetwork, match="regtest"):
            NodeChain(sources.process.url, NETWORKS[name]).view(Query())


def test_fee_rates_are_rounded_up_to_whole_satoshis(sources: Sources) -> None:
    for rate, expected in ((58_675, 59), (2000, 2), (2001, 3), (1000, 1), (None, None)):
        sources.process.rpc("setfeerate", sat_per_kvb=rate)
        assert sources.bitcoin.estimate() == expected
        told = {chain: chain.view(Query()).fee_rate for chain in sources.chains}
        assert told.pop(sources.hub) == expected
        assert set(told.values()) == {expected}


def test_blocks_can_be_followed(sources: Sources) -> None:
    fund(sources)
    bitcoin = sources.bitcoin
    tip = bitcoin.best_block()
    height = bitcoin.height_of(tip)
    assert height == sources.node.view(Query()).height
    assert bitcoin.block_hash(height) == tip
    assert bitcoin.block_hash(height + 1) is None
    block = CBlock.deserialize(bitcoin.block(tip))
    assert (block.GetHash(), block.hashPrevBlock) == (tip, bitcoin.block_hash(height - 1))
    with pytest.raises(NodeRefused):
        bitcoin.block(bytes(32))
    raw = pay(sources, 5000)
    txid = bitcoin.broadcast(raw)
    assert bitcoin.mempool() == [txid]
    assert bitcoin.transactions([txid, bytes(32), txid]) == {txid: raw}
    assert bitcoin.verbose_transaction(txid)["vout"][0]["value"] == 0.00005
    with pytest.raises(UnknownTransaction):
        bitcoin.verbose_transaction(bytes(32))


def test_a_node_that_is_gone_is_unreachable(sources: Sources) -> None:
    sources.process.kill()
    quick = BitcoinNode(sources.process.url + "bitcoin/", timeout=(1, 1), retries=0)
    with pytest.raises(NodeUnreachable, match="refused"):
        quick.best_block()
    with pytest.raises(NodeUnreachable, match="refused"):
        sources.node.view(Query())
    with pytest.raises(NodeUnreachable, match="did not answer"):
        sources.hub.view(Query())

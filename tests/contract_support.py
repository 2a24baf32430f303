"""The nodes that the contract is held against: the embedded one, or real ones that the environment names.

``COUNTERPARTY_URL``: Counterparty Core's API; ``BITCOIN_URL``: Bitcoin Core's JSON-RPC, with user and password;
``CONTRACT_WIF``: the key of a P2PKH address with bitcoins and ``CONTRACT_ASSET`` (XCP), which the suite spends from.
Without ``COUNTERPARTY_URL`` all that is Bitcoin Core's is held to it, and the rest is skipped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import requests
from regtest_support import NodeProcess, key_of, running_node, script_of_key
from taproot_support import Coin as TaprootCoin
from taproot_support import payment

from picopayments_cli.chain import Query
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import NETWORKS, Network, address_of_script, secret_of_wif
from picopayments_cli.channel.values import Coin, Height, Outpoint

PATIENCE = 30.0  # seconds in which ledger and index see a broadcast or a block
BLOCK_PATIENCE = 7200.0  # seconds for a block of a network that nobody here mines on
MOST_BLOCKS = 3  # that are waited for there
SPREAD, VALUE, LEAST = 45, 30_000, 25_000  # coins that the suite needs, their satoshis, and the least that do
FUNDS, HELD = 5_000_000, 1_000_000  # that the embedded node gives: satoshis, and units of the asset
_CHAINS = {"main": "mainnet", "test": "testnet", "testnet4": "testnet4", "signet": "signet", "regtest": "regtest"}
Reply = tuple[int, Any]


class Nodes:
    """Both nodes, a funded key, and how to wait for them. ``embedded``: the node's process, None where it is another's.

    A coin that ``coin`` has given out is not given again.
    """

    def __init__(
        self, counterparty: str | None, bitcoin: str, key: Key, asset: str, embedded: NodeProcess | None
    ) -> None:
        self._url = counterparty
        parts = urlsplit(bitcoin)
        self._bitcoin_url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self._auth = (parts.username, parts.password or "") if parts.username else None
        self._session = requests.Session()
        self.key, self.asset, self.embedded = key, asset, embedded
        self.script = script_of_key(key)
        self.core = BitcoinNode(bitcoin)
        self._given: set[Outpoint] = set()

    @cached_property
    def network(self) -> Network:
        """Return the network that Bitcoin Core is on."""
        return NETWORKS[_CHAINS[self.bitcoin("getblockchaininfo")["chain"]]]

    @property
    def url(self) -> str:
        """Return where Counterparty Core answers; a test that needs it is skipped without."""
        if self._url is None:
            pytest.skip("needs Counterparty Core: COUNTERPARTY_URL")
        return self._url.rstrip("/") + "/"

    @cached_property
    def chain(self) -> NodeChain:
        """Return what the program sees through both nodes."""
        return NodeChain(self.url, self.network, bitcoin=self.core)

    @property
    def address(self) -> str:
        """Return the funded address."""
        return self.address_of(self.script)

    def address_of(self, script: bytes) -> str:
        """The address of a script."""
        found = address_of_script(self.network, script)
        assert found is not None
        return found

    # Questions ------------------------------------------------------------------------------------------------------

    def get(self, path: str, **params: Any) -> Reply:
        """Status and JSON of a path below the API's root."""
        reply = self._session.get(self.url + path, params=params, timeout=60)
        return reply.status_code, reply.json()

    def post(self, path: str, **form: str) -> Reply:
        """Status and JSON that answer a form."""
        reply = self._session.post(self.url + path, data=form, timeout=60)
        return reply.status_code, reply.json()

    def result(self, path: str, **params: Any) -> Any:
        """The result at a path."""
        status, body = self.get(path, **params)
        assert status == 200, (path, status, body)
        return body["result"]

    def reply(self, method: str, *params: Any) -> dict[str, Any]:
        """The whole reply to a call of Bitcoin Core."""
        asked = {"jsonrpc": "2.0", "id": 0, "method": method, "params": params}
        found: dict[str, Any] = self._session.post(self._bitcoin_url, json=asked, auth=self._auth, timeout=60).json()
        return found

    def bitcoin(self, method: str, *params: Any) -> Any:
        """The result of a call of Bitcoin Core."""
        reply = self.reply(method, *params)
        assert reply.get("error") is None, (method, reply)
        return reply["result"]

    def refused(self, method: str, *params: Any) -> tuple[int, str]:
        """Code and message that a call of Bitcoin Core is refused with."""
        error = self.reply(method, *params)["error"]
        return error["code"], error["message"]

    def held(self, script: bytes) -> int:
        """The asset on a script, as the ledger tells."""
        address = self.address_of(script)
        return self.chain.view(Query(balances=[address])).balances[address].get(self.asset, 0)

    # Money ----------------------------------------------------------------------------------------------------------

    @cached_property
    def rate(self) -> int:
        """Return sat/vB that are mined soon."""
        return max(2, self.core.estimate() or 0)

    def _coins(self) -> list[Coin]:
        coins = self._scanned() if self._url is None else self._listed()
        fresh = [coin for coin in coins if coin.height is not None and coin.outpoint not in self._given]
        return sorted(fresh, key=lambda coin: -coin.value)

    def _listed(self) -> Sequence[Coin]:
        return self.chain.view(Query(coins=[self.address])).coins[self.address]

    def _scanned(self) -> Sequence[Coin]:
        """The coins that nothing in the mempool spends, as Bitcoin Core finds them without an index of addresses."""
        rows = self.bitcoin("scantxoutset", "start", [f"addr({self.address})"])["unspents"]
        left = [row for row in rows if self.bitcoin("gettxout", row["txid"], row["vout"], True) is not None]
        return [
            Coin(
                Outpoint(bytes.fromhex(row["txid"])[::-1], row["vout"]),
                round(row["amount"] * 10**8),
                self.script,
                Height(row["height"]),
            )
            for row in left
        ]

    def coin(self) -> Coin:
        """A confirmed coin of the key that no other test spends."""
        found = next((coin for coin in self._coins() if coin.value >= LEAST), None)
        if found is None:
            pytest.skip(f"{self.address} has no more coins of {LEAST} satoshis: send it some")
        self._given.add(found.outpoint)
        return found

    def pair(self) -> TaprootCoin:
        """The same as outpoint and satoshis."""
        found = self.coin()
        return found.outpoint, found.value

    def purse(self) -> Purse:
        """A wallet of one such coin."""
        return Purse(self.script, (self.coin(),), self.rate)

    def spread(self) -> None:
        """Split the largest coin, where there are too few."""
        coins = self._coins()
        missing = SPREAD - sum(coin.value >= LEAST for coin in coins[1:])
        if missing > 0:
            assert coins, f"{self.address} has no confirmed coins: send it {SPREAD * VALUE} satoshis"
            fee = self.rate * (200 + 34 * missing)
            outputs = [(VALUE, self.script)] * missing
            raw = payment(self.key, (coins[0].outpoint, coins[0].value), fee, *outputs, version=2)
            self.send(raw)
            self.mine()

    # Time -----------------------------------------------------------------------------------------------------------

    def wait(self, reached: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        """Return what a condition comes to. Raises AssertionError after some time."""
        deadline = time.monotonic() + seconds
        while not (found := reached()):
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
            time.sleep(0.05 if self.embedded else 1.0)
        return found

    def send(self, *raws: bytes) -> None:
        """Hand a transaction, or a parent and its child, to the network."""
        self.core.submit(raws)

    @property
    def height(self) -> int:
        """Return the tip's height."""
        return int(self.bitcoin("getblockcount"))

    def mine(self, blocks: int = 1) -> None:
        """Have blocks made, or wait for them; then for the ledger and for the index."""
        aim = self.height + blocks
        if self.embedded is not None:
            self.embedded.rpc("generate", blocks=blocks)
        elif self.network.name == "regtest":
            # not to the funded address: a coinbase waits for 100 blocks, and no answer tells it from other coins
            self.bitcoin("generatetoaddress", blocks, self.address_of(script_of_key(derived(self.key, "miner"))))
        elif blocks > MOST_BLOCKS:
            pytest.skip(f"nobody mines on {self.network.name} at will, and {blocks} blocks take too long")
        else:
            self.wait(lambda: self.height >= aim, "the next block", BLOCK_PATIENCE * blocks)
        self.wait(self._is_level, "a ledger and an index at the tip")

    def mine_to(self, height: int) -> None:
        """Mine up to a height."""
        if height > self.height:
            self.mine(height - self.height)

    def _is_level(self) -> bool:
        if self._url is None:
            return True
        return bool(self.result("v2/blocks/last")["block_hash"] == self.bitcoin("getbestblockhash"))

    def confirm(self, *txids: str) -> None:
        """Mine until these are in a block."""
        for _ in range(MOST_BLOCKS):
            self.mine()
            if all(self.bitcoin("getrawtransaction", txid, True).get("confirmations") for txid in txids):
                return
        raise AssertionError(f"not mined: {txids}")

    @contextlib.contextmanager
    def mood(self, **trouble: Any) -> Iterator[None]:
        """Have the embedded node's servers be away; a test of others is skipped."""
        if self.embedded is None:
            pytest.skip("nobody here can take a real node's servers away")
        self.embedded.rpc("setmood", **trouble)
        try:
            yield
        finally:
            self.embedded.rpc("setmood")


@contextlib.contextmanager
def chosen_nodes(folder: Path) -> Iterator[Nodes]:
    """The nodes that the environment names, else an embedded one."""
    url, bitcoin, wif = (os.environ.get(name) for name in ("COUNTERPARTY_URL", "BITCOIN_URL", "CONTRACT_WIF"))
    if not url and not bitcoin:
        with running_node(folder / "node", 0) as node:
            key = key_of("contract")
            nodes = Nodes(node.url, node.url + "bitcoin/", key, "XCP", node)
            node.rpc("faucet", address=nodes.address, btc=FUNDS, asset="XCP", quantity=HELD)
            nodes.mine(3)
            nodes.spread()
            yield nodes
        return
    if not bitcoin or not wif:
        pytest.exit("real nodes need BITCOIN_URL and CONTRACT_WIF", returncode=2)
    key = Key(secret_of_wif(_network_of(bitcoin), wif))
    nodes = Nodes(url, bitcoin, key, os.environ.get("CONTRACT_ASSET", "XCP"), None)
    nodes.spread()
    yield nodes


def _network_of(bitcoin: str) -> Network:
    return Nodes(None, bitcoin, key_of("nobody"), "XCP", None).network


def members_of(row: Any, **kinds: Any) -> None:
    """Hold an object to members of these types."""
    assert isinstance(row, dict), row
    for name, kind in kinds.items():
        assert name in row, (name, row)
        assert isinstance(row[name], kind), (name, row)


def txids(rows: Sequence[dict[str, Any]]) -> set[str]:
    """The txids of rows."""
    return {row["txid"] for row in rows}


def derived(key: Key, role: str) -> Key:
    """Another key of whoever has the first: what is sent there is not lost."""
    return Key(hashlib.sha256(key.secret + role.encode()).digest())

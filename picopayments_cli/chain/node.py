"""The chain as a Counterparty Core node tells it by its v2 REST, and Bitcoin Core where one is named beside it."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any
from urllib.parse import quote

from picopayments_cli.chain import Asset, Coin, Entry, Query, View
from picopayments_cli.chain.answers import (
    MAX_MONEY,
    Moved,
    asset_of,
    attached_of,
    checked_transaction,
    longnames_of,
    member,
    members,
    raw_of,
    row_among,
    send_rows,
    settled,
    txid_of,
    txid_to_broadcast,
    unissued_asset,
    unknown_asset,
    whole,
)
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.channel.facts import SendRow
from picopayments_cli.channel.networks import Network, script_of_address
from picopayments_cli.channel.values import Height, Outpoint
from picopayments_cli.errors import (
    BadAnswer,
    BroadcastRefused,
    NodeBehind,
    NodeRefused,
    NodeTooOld,
    TooMuchAsked,
    UnknownAsset,
    WrongNetwork,
)
from picopayments_cli.rpc import RETRIES, TIMEOUT, RestClient
from picopayments_cli.transport import SYSTEM, Trust

PATIENCE = 10.0  # seconds for a ledger that lags behind its chain
PAGE, MEMPOOL_PAGE = 25, 50  # confirmed and unconfirmed transactions that a page of an Esplora server holds
_ADDRESSES = _OUTPOINTS = 50  # in one URL
_LIMIT = 1000
_PAGES = 1000  # of balances: more than anybody has
_AT_ONCE = 8  # questions to a node
_RATE_FLOOR = 1024  # sat/kvB that the node tells where Bitcoin Core has 1 sat/vB or less
# Before, a miner could move what is left on a deposit's address by the outputs that raise a commit's fee.
_LEAST_VERSION = (11, 5, 0)
_UNKNOWN = "No such mempool or blockchain transaction"
_NETWORK_NAMES = {"testnet": "testnet3"}

STANDING_BLOCKS = 18  # times without a block, after which a node is taken to stand: one in 10^7 is as long by chance

Tip = tuple[int, bytes | None]  # height and hash of a block; no hash where no Bitcoin node tells it


class NodeChain:
    """A Chain (see the package) asked of a Counterparty Core node of version 11.5 or later.

    ``url``: the node's base, before ``v2/``; ``timeout``: seconds for a connection, and for the whole call with it;
    ``patience``: seconds that a ledger may lag behind its chain before NodeBehind. ``bitcoin``: the Bitcoin node that
    is asked for raw transactions and the fee rate instead, and that broadcasts.
    """

    def __init__(
        self,
        url: str,
        network: Network,
        *,
        timeout: tuple[float, float] = TIMEOUT,
        retries: int = RETRIES,
        patience: float = PATIENCE,
        bitcoin: BitcoinNode | None = None,
        trust: Trust = SYSTEM,
    ) -> None:
        self._rest = RestClient(url, timeout=timeout, retries=retries, trust=trust)
        self._network = network
        self._patience = patience
        self._bitcoin = bitcoin
        self._nonces = map("{}-{}".format, itertools.repeat(os.urandom(6).hex()), itertools.count())

    def view(self, query: Query) -> View:
        """Return all that the query asks, as of one block.

        Raises NodeUnreachable, NodeBehind, BadAnswer, WrongNetwork, BadPreviousTransaction, InvalidAddress.
        """
        return settled(lambda: self._view(query), self._rest.url)

    def asset(self, name: str) -> Asset:
        """Find the asset of exactly this name or long name. Raises UnknownAsset, NodeUnreachable, BadAnswer.

        The node looks a name up in any case, and answers one asset: where that is another one, all subassets of the
        parent are gone through.
        """
        return unissued_asset(name) or asset_of(self.asset_row(name), name)

    def asset_row(self, name: str) -> dict[str, Any]:
        """Return all that the ledger tells of the asset of exactly this name or long name. Raises as ``asset``."""
        try:
            found = self._get(f"v2/assets/{quote(name, safe='')}")
        except NodeRefused as error:
            if error.data.get("status") not in (400, 404):
                raise
            raise unknown_asset(name) from error
        try:
            row = row_among(found if isinstance(found, list) else [found], name)
        except UnknownAsset:
            row = row_among(self._subassets(name.partition(".")[0]), name)
        return dict(row)

    def assets(self) -> list[dict[str, Any]]:
        """Return the ledger's newest assets, a page of them. Raises NodeUnreachable, BadAnswer."""
        return [member({"row": row}, "row", dict) for row in members(self._get("v2/assets", {"limit": _LIMIT}), "rows")]

    def tip(self) -> Height:
        """Return the chain's height once the ledger has reached it. Raises NodeBehind, NodeUnreachable."""
        return Height(self._tip()[0])

    def check_current(self, now: float) -> None:
        """Refuse a ledger that stands, or hides newer blocks: by the time of its last one, as its heights all agree.

        ``now`` in seconds since 1970. Never on regtest. Raises NodeBehind, NodeUnreachable, BadAnswer.
        """
        most = STANDING_BLOCKS * self._network.block_seconds
        age = now - whole(self._get("v2/blocks/last"), "block_time") if most else 0
        if age > most:
            raise NodeBehind(
                f"The newest block that the node shows is {age / 3600:.0f} hours old: it stands, or hides newer ones, "
                "or this machine's clock is wrong. Nothing is deposited meanwhile. See with another node, or name a "
                "Bitcoin Core node of your own as bitcoin_url.",
                url=self._rest.url,
                seconds=int(age),
            )

    @property
    def url(self) -> str:
        """Return the node's URL, without credentials."""
        return self._rest.url

    def _subassets(self, parent: str) -> Iterator[Any]:
        return self._pages(f"v2/assets/{quote(parent, safe='')}/subassets", {})

    def attached(self, outpoints: Collection[Outpoint]) -> set[Outpoint]:
        """Tell which confirmed coins have assets attached. Raises NodeUnreachable, BadAnswer, NodeRefused."""
        found = set()
        for part in _parts(list(outpoints), _OUTPOINTS):
            told = self._get("v2/utxos/withbalances", {"utxos": ",".join(map(str, part))})
            found |= attached_of(told, part)
        return found

    def sends_to(self, address: str, most: int | None = None) -> tuple[SendRow, ...]:
        """The ledger's rows of sends to an address, valid or not. Raises NodeUnreachable, BadAnswer.

        Where there are more than ``most`` it raises TooMuchAsked.
        """
        script_of_address(self._network, address)  # nothing but an address goes into a path
        rows = self._pages(f"v2/addresses/{address}/receives", {})
        return send_rows(self._network, rows if most is None else _bounded(rows, most))

    def broadcast(self, raw: bytes) -> bytes:
        """Hand a signed transaction to the network; its txid. Raises BroadcastRefused, NodeUnreachable.

        The node's text can't tell a refusal from a transaction that it has, so it is asked whether it knows it.
        """
        if self._bitcoin is not None:
            return self._bitcoin.broadcast(raw)
        txid = txid_to_broadcast(raw)
        try:
            self._rest.rest_post("v2/bitcoin/transactions", {"signedhex": raw.hex()}, retry=True)
        except NodeRefused as error:
            if txid not in self._raw_transactions([txid]):
                reason = str(error.data.get("reason"))
                raise BroadcastRefused(
                    f"The node refused the transaction: {reason}", txid=txid[::-1].hex(), reason=reason
                ) from error
        return txid

    # One view ---------------------------------------------------------------------------------------------------

    def _view(self, query: Query) -> View:
        """Ask in four rounds for any number of addresses: height, what concerns addresses, raw transactions, height.

        A fifth one where a history is longer than its list: the coins of the address.
        """
        tip, estimate = self._begin()
        addresses = list(dict.fromkeys(query.history))
        for address in (*addresses, *query.options):
            script_of_address(self._network, address)  # nothing but an address goes into a path
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # the interface has no call for several histories
            asked_coins = pool.submit(self._coins, [*query.coins, *query.balances])
            asked_balances = pool.submit(self._balances, query.balances)
            asked_rate = pool.submit(estimate)
            options = dict(zip(query.options, pool.map(self._options, query.options), strict=True))
            pages = dict(zip(addresses, pool.map(self._history, addresses), strict=True))
            coins, fee_rate = asked_coins.result(), asked_rate.result()
            balances, longnames = asked_balances.result()
        found = {address: entries for address, (entries, _) in pages.items()}
        truncated = frozenset(address for address, (_, complete) in pages.items() if not complete)
        for address, unspent in self._coins(sorted(truncated)).items():
            found[address] |= {coin.outpoint.txid: coin.height for coin in unspent}
        wanted = [txid for entries in found.values() for txid in entries]
        raws = self._raw_transactions([*wanted, *query.transactions])
        if self._tip() != tip:
            raise Moved
        return View(
            height=Height(tip[0]),
            fee_rate=fee_rate,
            coins={address: coins[address] for address in query.coins},
            history={
                address: tuple(Entry(txid, self._present(raws, txid), height) for txid, height in entries.items())
                for address, entries in found.items()
            },
            balances={address: {**held, "BTC": _confirmed(coins[address])} for address, held in balances.items()},
            longnames=longnames,
            options=options,
            transactions={txid: raws[txid] for txid in query.transactions if txid in raws},
            truncated=truncated,
        )

    @staticmethod
    def _present(raws: Mapping[bytes, bytes], txid: bytes) -> bytes:
        if txid not in raws:
            raise Moved  # it was replaced in the mempool since the list was made
        return raws[txid]

    def _begin(self) -> tuple[Tip, Callable[[], int | None]]:
        """Return the tip as ``_tip`` does, and what tells the fee rate: Bitcoin Core tells both in one answer."""
        if self._bitcoin is None:
            return self._tip(), self._fee_rate
        best, estimate = self._bitcoin.best_block_and_estimate()
        return self._tip(best), lambda: estimate

    def _tip(self, best: bytes | None = None) -> Tip:
        """Return the chain's last block once the ledger has reached it. Raises NodeBehind, WrongNetwork, NodeTooOld.

        ``best``: what Bitcoin Core has just told of it.
        """
        deadline = time.monotonic() + self._patience
        while True:
            ledger, chain = self._tips(best)
            if ledger == chain:
                return chain
            best = None
            if time.monotonic() >= deadline:
                raise NodeBehind(
                    f"The node's ledger is at block {ledger[0]}, its chain at {chain[0]}. Repeat the command later.",
                    ledger=ledger[0],
                    chain=chain[0],
                )
            time.sleep(0.1)

    def _tips(self, best: bytes | None) -> tuple[Tip, Tip]:
        """Return the last block of the ledger and that of the chain.

        The chain's is Bitcoin Core's word where it is there: the ledger's server goes on telling the last one that it
        heard of while Bitcoin Core is away, and for seconds after a reorganisation.
        """
        if self._bitcoin is None:
            server = self._server()
            height = whole(server, "backend_height")
            return (min(whole(server, "counterparty_height"), height), None), (height, None)
        self._is_right  # noqa: B018
        best = best or self._bitcoin.best_block()
        last = self._get("v2/blocks/last")
        ledger = whole(last, "block_index"), txid_of(member(last, "block_hash", str), "block hash")
        return ledger, (ledger[0] if ledger[1] == best else self._bitcoin.height_of(best), best)

    @cached_property
    def _is_right(self) -> bool:
        """Whether the node is of the network and new enough; it was, once."""
        return bool(self._server())

    def _server(self) -> Any:
        """Return what the node says of itself. Raises WrongNetwork, NodeTooOld."""
        server = self._get("v2/")
        name = member(server, "network", str)
        if name != _NETWORK_NAMES.get(self._network.name, self._network.name):
            raise WrongNetwork(
                f"The node at {self._rest.url} is on {name}, not on {self._network.name}: name another node, or that "
                "network.",
                network=name,
            )
        self._check_version(server)
        return server

    def _check_version(self, server: Any) -> None:
        """Refuse a node that is too old, except on regtest."""
        if self._network.name == "regtest":
            return
        version = member(server, "version", str)
        if _numbers(version) < _LEAST_VERSION:
            least = ".".join(map(str, _LEAST_VERSION))
            raise NodeTooOld(
                f"The node at {self._rest.url} runs Counterparty Core {version}; channels need {least} or later. "
                "Upgrade the node, or name another one.",
                version=version,
                least=least,
            )

    def _coins(self, addresses: Sequence[str]) -> dict[str, tuple[Coin, ...]]:
        found: dict[str, list[Coin]] = {address: [] for address in addresses}
        scripts = {address: script_of_address(self._network, address) for address in found}
        for part in _parts(list(found), _ADDRESSES):
            params = {"addresses": ",".join(part), "unconfirmed": "true"}
            for item in members(self._get("v2/bitcoin/addresses/utxos", params), "coins"):
                address = member(item, "address", str)
                if address not in part:
                    raise BadAnswer(f"The node told of {address}, which was not asked for.", address=address)
                outpoint = Outpoint(txid_of(member(item, "txid", str)), whole(item, "vout", 0, 2**32 - 1))
                value = whole(item, "value", 0, MAX_MONEY)
                found[address].append(Coin(outpoint, value, scripts[address], _height_of(item)))
        return {address: tuple(coins) for address, coins in found.items()}

    def _history(self, address: str) -> tuple[dict[bytes, Height | None], bool]:
        """Return the listed transactions of an address with their heights, and whether these are all.

        The interface has one page and says nothing of a next one. A node that counts them lists them all.
        """
        path = f"v2/bitcoin/addresses/{address}/transactions"
        answer = self._answer(path, {"unconfirmed": "true"})
        items = members(answer["result"], "txs")
        entries = {txid_of(member(item, "txid", str)): _height_of(item) for item in items}
        waiting = sum(height is None for height in entries.values())
        complete = len(entries) - waiting < PAGE and waiting < MEMPOOL_PAGE
        return entries, complete or answer.get("result_count") == len(items)

    def _raw_transactions(self, txids: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return those that are known, each checked against its txid. A Bitcoin node without an index knows few."""
        unasked = list(dict.fromkeys(txids))
        found = {} if self._bitcoin is None else self._bitcoin.transactions(unasked)
        left = [txid for txid in unasked if txid not in found]
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # the interface has no call for several
            raws = zip(left, pool.map(self._raw_transaction, left), strict=True)
            return found | {txid: raw for txid, raw in raws if raw is not None}

    def _raw_transaction(self, txid: bytes) -> bytes | None:
        path = f"v2/bitcoin/transactions/{txid[::-1].hex()}"
        try:
            raw = raw_of(self._get(path, {"result_format": "hex"}))
        except NodeRefused as error:
            if not str(error.data.get("reason")).startswith(_UNKNOWN):
                raise
            return None
        return checked_transaction(raw, txid)

    def _balances(self, addresses: Sequence[str]) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
        """Return what the addresses hold, and the long names of subassets among it."""
        found: dict[str, dict[str, int]] = {address: {} for address in addresses}
        rows = []
        for part in _parts(list(found), _ADDRESSES):
            params = {"addresses": ",".join(part), "type": "address"}
            for row in self._pages("v2/addresses/balances", params):
                asset = member(row, "asset", str)
                rows.append(row)
                for holding in members(member(row, "addresses", list), "holdings"):
                    address = member(holding, "address", str, None)
                    if address in part and member(holding, "utxo", str, None) is None:
                        quantity = whole(holding, "quantity")
                        found[address][asset] = found[address].get(asset, 0) + quantity
        return found, longnames_of(rows)

    def _options(self, address: str) -> int:
        return whole(self._get(f"v2/addresses/{address}"), "options")

    def _fee_rate(self) -> int | None:
        try:
            rate = whole({"rate": self._get("v2/bitcoin/estimatesmartfee", {"conf_target": 3})}, "rate")
        except NodeRefused as error:
            if error.data.get("status") != 404:
                raise
            return None  # no estimate: the usual state of a chain with few payments
        return 1 if rate <= _RATE_FLOOR else -(-rate // 1000)

    # The wire ---------------------------------------------------------------------------------------------------

    def _fresh(self, params: Mapping[str, str | int] | None) -> dict[str, str | int]:
        """Change the URL by ``verbose`` and nothing else, since the node keeps answers for a whole block by URL."""
        return {**(params or {}), "verbose": next(self._nonces)}

    def _get(self, path: str, params: Mapping[str, str | int] | None = None) -> Any:
        return self._answer(path, params)["result"]

    def _answer(self, path: str, params: Mapping[str, str | int] | None) -> dict[str, Any]:
        answer = self._rest.rest_get(path, self._fresh(params))
        if "result" not in answer:
            raise self._rest.bad(path, "no result")
        return answer

    def _pages(self, path: str, params: Mapping[str, str | int]) -> Iterator[Any]:
        cursor: dict[str, str | int] = {}
        seen: set[int | str] = set()
        while True:
            answer = self._rest.rest_get(path, self._fresh({**params, **cursor, "limit": _LIMIT}))
            yield from members(answer.get("result"), "rows")
            following = answer.get("next_cursor")
            if following is None:
                return
            if not isinstance(following, (int, str)) or following in seen or len(seen) == _PAGES:
                raise self._rest.bad(path, "pages without end")
            seen.add(following)
            cursor = {"cursor": following}


def _bounded(rows: Iterator[Any], most: int) -> Iterator[Any]:
    for count, row in enumerate(rows):
        if count == most:
            raise TooMuchAsked(f"The address has more than {most} rows: ask a node of your own.", limit=most)
        yield row


def _height_of(item: Any) -> Height | None:
    status = member(item, "status", dict)
    return Height(whole(status, "block_height")) if member(status, "confirmed", bool) else None


def _confirmed(coins: Sequence[Coin]) -> int:
    return sum(coin.value for coin in coins if coin.height is not None)


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, whatever is behind them. Raises BadAnswer."""
    found = re.match(r"([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})", version)
    if found is None:
        raise BadAnswer("The answer has no usable version.", member="version")
    return tuple(map(int, found.groups()))


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]

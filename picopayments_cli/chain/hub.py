"""The chain as a hub tells it, by the Counterparty methods that it proxies: a client's default."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from picopayments_cli.chain import Asset, Coin, Entry, Query, View
from picopayments_cli.chain.answers import (
    MAX_MONEY,
    Moved,
    asset_among,
    attached_of,
    checked_transaction,
    longnames_of,
    member,
    members,
    raw_of,
    satoshis_of,
    settled,
    txid_of,
    txid_to_broadcast,
    unissued_asset,
    unknown_asset,
    whole,
)
from picopayments_cli.channel.networks import NETWORKS, Network, script_of_address
from picopayments_cli.channel.values import Height, Outpoint
from picopayments_cli.errors import (
    BadAnswer,
    BroadcastRefused,
    HubRefused,
    InvalidAddress,
    InvalidParams,
    NodeRefused,
    PicopaymentsError,
    UnknownAsset,
    UnknownMethod,
    UnknownTransaction,
    Unreachable,
    WrongNetwork,
)
from picopayments_cli.rpc import RpcClient

_INFO: tuple[str, dict[str, Any]] = ("get_running_info", {})
_MAX_RATE = 100_000
_OUTPOINTS = 100  # in one call
_TRANSACTIONS = 5  # in one call: as many of the largest that nodes relay as the answer to it holds
# The refusals that a question about the chain may have. Nobody signs them: one about a connection would be anybody's.
_REFUSALS = (
    BroadcastRefused,
    HubRefused,
    InvalidAddress,
    InvalidParams,
    NodeRefused,
    UnknownAsset,
    UnknownMethod,
    UnknownTransaction,
    Unreachable,
)


def check_network(rpc: RpcClient, network: Network) -> None:
    """Refuse a hub that says that it is on another network. Raises WrongNetwork.

    One that does not say it goes on to be asked: its node may be away, or it is of another make.
    """
    try:
        name = member(rpc.call(*_INFO, retry=True), "network", str, None)
    except PicopaymentsError:
        return
    _check_name(name, rpc, network)


def _check_name(name: str | None, rpc: RpcClient, network: Network) -> None:
    if name in (None, network.name):
        return
    there = name if name in NETWORKS else "another network"
    other = f", or put --network {name} before the command" if name in NETWORKS else ""
    raise WrongNetwork(
        f"The hub at {rpc.url} is on {there}, not on {network.name}. Name a hub of {network.name} with --hub-url or by "
        f"the setting hub_url{other}.",
        hub_url=rpc.url,
        network=there,
    )


class HubChain:
    """A Chain (see the package) asked of a hub, one POST for each view.

    Heights, amounts and lists are the hub's word; raw transactions are checked against their txids, and scripts come
    from the addresses.
    """

    def __init__(self, rpc: RpcClient, network: Network) -> None:
        self._rpc = rpc
        self._network = network
        self._is_right = False  # whether the hub is of the network; it was, once

    def view(self, query: Query) -> View:
        """Return all that the query asks, as of one block.

        Raises HubUnreachable, NodeUnreachable (the hub's), NodeBehind, BadAnswer, BadPreviousTransaction,
        InvalidAddress.
        """
        return settled(lambda: self._view(query), self._rpc.url)

    def asset(self, name: str) -> Asset:
        """Find the asset of exactly this name or long name. Raises UnknownAsset, HubUnreachable, BadAnswer."""
        if (known := unissued_asset(name)) is not None:
            return known
        rows = members(self._first_of_all("get_asset_info", {"assets": [name]}), "assets")
        if not rows and "." in name:
            raise unknown_asset(name, self._spellings(name))
        return asset_among(rows, name)

    def _spellings(self, name: str) -> list[Any]:
        try:
            return members(self._call("get_asset_spellings", {"asset": name}), "spellings")
        except UnknownMethod:
            return []  # a hub of another make

    def attached(self, outpoints: Collection[Outpoint]) -> set[Outpoint]:
        """Tell which confirmed coins have assets attached. Raises HubUnreachable, BadAnswer, HubRefused."""
        asked, found = list(outpoints), set()
        for start in range(0, len(asked), _OUTPOINTS):
            part = asked[start : start + _OUTPOINTS]
            told = self._call("utxos_with_balances", {"utxos": list(map(str, part))})
            found |= attached_of(told, part)
        return found

    def broadcast(self, raw: bytes) -> bytes:
        """Hand a signed transaction to the network; its txid. Raises BroadcastRefused, HubUnreachable."""
        txid = txid_to_broadcast(raw)
        self._call("sendrawtransaction", {"tx_hex": raw.hex()})
        return txid

    def _call(self, method: str, params: dict[str, Any]) -> Any:
        with only_of_the_chain():
            return self._rpc.call(method, params, retry=True)

    def _first_of_all(self, method: str, params: dict[str, Any]) -> Any:
        """Call a method, together with the question of which network the hub is, unless that is known."""
        return self._call(method, params) if self._is_right else self._batch([(method, params)])[1]

    def _batch(self, calls: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
        """Make calls in one batch behind the hub's state; that and their results. Raises WrongNetwork before all else.

        A hub of another network may refuse the others for being of another one.
        """
        with only_of_the_chain():
            results = self._rpc.outcomes([_INFO, *calls])
        refused = next((result for result in results if isinstance(result, PicopaymentsError)), None)
        if results[0] is not refused:
            _check_name(member(results[0], "network", str, None), self._rpc, self._network)
            self._is_right = True
        if refused is not None:
            with only_of_the_chain():
                raise refused
        return results

    def _view(self, query: Query) -> View:
        """Ask in one batch that begins and ends with the height. Raises Moved."""
        with_coins = list(dict.fromkeys([*query.coins, *query.balances]))
        with_history, with_balances = list(dict.fromkeys(query.history)), list(dict.fromkeys(query.balances))
        with_options = list(dict.fromkeys(query.options))
        scripts = {address: script_of_address(self._network, address) for address in [*with_coins, *with_history]}
        calls: list[tuple[str, dict[str, Any]]] = [
            *(("get_unspent_txouts", {"address": address, "unconfirmed": True}) for address in with_coins),
            *(("search_raw_transactions", {"address": address, "unconfirmed": True}) for address in with_history),
            *(("get_balances", {"filters": [_is(address)]}) for address in with_balances),
            *(("get_address_options", {"address": address}) for address in with_options),
        ]
        txids = [txid[::-1].hex() for txid in dict.fromkeys(query.transactions)]
        for start in range(0, len(txids), _TRANSACTIONS):
            calls.append(("getrawtransaction_batch", {"txhash_list": txids[start : start + _TRANSACTIONS]}))
        results = self._batch([*calls, _INFO])
        height = whole(results[0], "bitcoin_block_count")
        if whole(results[-1], "bitcoin_block_count") != height:
            raise Moved
        answers = iter(results[1:-1])
        coins = {address: _coins(next(answers), scripts[address], height) for address in with_coins}
        histories = {address: members(next(answers), "transactions") for address in with_history}
        holdings = {address: members(next(answers), "balances") for address in with_balances}
        return View(
            height=Height(height),
            fee_rate=_rate(results[0]),
            coins={address: coins[address] for address in query.coins},
            history={address: _entries(items, height) for address, items in histories.items()},
            balances={address: _balances(rows, address, coins[address]) for address, rows in holdings.items()},
            longnames=longnames_of(row for rows in holdings.values() for row in rows),
            options={address: whole(next(answers), "options") for address in with_options},
            transactions=_transactions(answers, query.transactions),
            truncated=frozenset(address for address, items in histories.items() if _is_truncated(items)),
        )


@contextmanager
def only_of_the_chain() -> Iterator[None]:
    """Raise HubRefused in the place of a refusal that no question about the chain can have."""
    try:
        yield
    except _REFUSALS:
        raise
    except PicopaymentsError as error:
        raise HubRefused(
            f"The hub refused a question about the chain with {error.name}: {error.message}",
            refusal=error.name,
            reason=error.message,
        ) from error


def _is(address: str) -> dict[str, str]:
    return {"field": "address", "op": "==", "value": address}


def _coins(answer: Any, script: bytes, tip: int) -> tuple[Coin, ...]:
    coins = []
    for item in members(answer, "coins"):
        outpoint = Outpoint(txid_of(member(item, "txid", str)), whole(item, "vout", 0, 2**32 - 1))
        coins.append(Coin(outpoint, _satoshis(item), script, _height(item, tip)))
    return tuple(coins)


def _satoshis(item: Any) -> int:
    """Return a coin's satoshis: ``value``, else ``amount`` in BTC by decimal arithmetic on its shortest text."""
    if member(item, "value", int, None) is not None:
        return whole(item, "value", 0, MAX_MONEY)
    amount = member(item, "amount", (int, float, str))
    try:
        exact = satoshis_of(amount)
        if exact == int(exact):
            return int(exact)
    except ValueError:
        pass
    raise BadAnswer(f"The hub gave {amount!r} as an amount of bitcoins.", member="amount")


def _height(item: Any, tip: int) -> Height | None:
    if not member(item, "confirmations", int, 0):
        return None
    return Height(tip - whole(item, "confirmations", 1, tip + 1) + 1)


def _is_truncated(items: Iterable[Any]) -> bool:
    return any(member(item, "truncated", bool, False) for item in items)


def _rate(info: Any) -> int | None:
    """The fee rate in sat/vB, None where the hub has no estimate."""
    return None if member(info, "fee_rate", (int, float), None) is None else whole(info, "fee_rate", 1, _MAX_RATE)


def _entries(items: Iterable[Any], tip: int) -> tuple[Entry, ...]:
    entries = []
    for item in items:
        txid = txid_of(member(item, "txid", str))
        entries.append(Entry(txid, checked_transaction(raw_of(member(item, "hex", str)), txid), _height(item, tip)))
    return tuple(entries)


def _balances(rows: Iterable[Any], address: str, coins: Sequence[Coin]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        if member(row, "address", str, None) == address and member(row, "utxo", str, None) is None:
            asset = member(row, "asset", str)
            found[asset] = found.get(asset, 0) + whole(row, "quantity")
    found["BTC"] = sum(coin.value for coin in coins if coin.height is not None)
    return found


def _transactions(answers: Iterable[Any], txids: Iterable[bytes]) -> dict[bytes, bytes]:
    told: dict[str, Any] = {}
    for answer in answers:
        told |= member({"batch": answer}, "batch", dict)
    wanted = {txid: told.get(txid[::-1].hex()) for txid in txids}
    return {txid: checked_transaction(raw_of(raw), txid) for txid, raw in wanted.items() if raw is not None}

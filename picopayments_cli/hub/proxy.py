"""Answer about the chain for clients without a node: the counterparty methods, in the shapes of 9.55."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from picopayments_cli.chain import Query
from picopayments_cli.chain.answers import txid_to_broadcast
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.node import NodeChain
from picopayments_cli.chain.shapes import coins_shown, history_shown
from picopayments_cli.channel.counterparty import XCP_ID, asset_id, asset_members, asset_name, is_longname
from picopayments_cli.channel.facts import SendRow
from picopayments_cli.channel.networks import Network, address_of_script, script_of_address
from picopayments_cli.channel.rates import Rate
from picopayments_cli.channel.values import Outpoint, from_hex
from picopayments_cli.errors import (
    InvalidAsset,
    InvalidParams,
    TooMuchAsked,
    UnknownAsset,
    UnknownMethod,
    UnknownTransaction,
)
from picopayments_cli.rpc import RpcClient
from picopayments_cli.web import MAX_ANSWER_BYTES

MAX_TXIDS = 100  # of one getrawtransaction_batch
MAX_UTXOS = 100  # of one utxos_with_balances
MAX_ASSETS = 20  # of one get_asset_info: each may have the node list all subassets of another
MAX_SENDS = 10_000  # of one get_sends: as many as an answer holds
_TXIDS_AT_ONCE = 10  # asked of the node, so that no more is read than is answered
MAX_TRANSACTION = 400_000  # bytes: what a node relays
MAX_PACKAGE = 2  # transactions: a parent and its child
MAX_FILTERS = 10
_BALANCE_FIELDS = ("address", "asset")

_BTC_ROW = {
    "asset": "BTC",
    "asset_id": "0",
    "asset_longname": None,
    "owner": None,
    "divisible": True,
    "locked": False,
    "supply": 0,
    "description": "The Bitcoin protocol native currency",
    "issuer": None,
}

Method = Callable[..., Any]


@dataclass(frozen=True)
class Nodes:
    """Where the answers come from; ``controls`` are those of a regtest network."""

    chain: NodeChain
    bitcoin: BitcoinNode
    controls: RpcClient


class Proxy:
    """The methods, each named as on the wire. They ask the hub's nodes, and never its database.

    Every method raises InvalidParams and its kind for what a stranger sent, and NodeUnreachable and its kind.
    """

    def __init__(self, network: Network, nodes: Nodes, rate: Callable[[], Rate], after: Callable[[], object]) -> None:
        """``rate``: the one that the hub believes; ``after`` runs when a call may have made a block on regtest."""
        self._network = network
        self._chain = nodes.chain
        self._bitcoin = nodes.bitcoin
        self._controls = nodes.controls
        self._rate = rate
        self._after = after

    def methods(self) -> dict[str, Method]:
        """Return the methods on offer; on regtest also those that make blocks and money."""
        offered: list[Method] = [
            self.get_balances,
            self.get_address_options,
            self.get_unspent_txouts,
            self.utxos_with_balances,
            self.search_raw_transactions,
            self.getrawtransaction,
            self.getrawtransaction_batch,
            self.sendrawtransaction,
            self.submitpackage,
            self.get_sends,
            self.get_assets,
            self.get_asset_info,
            self.get_asset_spellings,
            self.get_running_info,
            self.fee_per_kb,
        ]
        if self._network.name == "regtest":
            offered += [self.generate, self.faucet, self.reorganise, self.feerate]
        return {method.__name__: method for method in offered}

    # Addresses ------------------------------------------------------------------------------------------------------

    def get_balances(self, filters: Any = (), filterop: str = "AND") -> list[dict[str, Any]]:
        """Return the confirmed balances of one address, BTC included; attached holdings left out."""
        wanted = self._filters(filters)
        if "address" not in wanted or filterop != "AND":
            raise InvalidParams('get_balances needs a filter {"field": "address", "op": "==", "value": ADDRESS}.')
        address = wanted["address"]
        view = self._chain.view(Query(balances=[address]))
        return [
            {"address": address, **asset_members(asset, view.longnames.get(asset)), "quantity": quantity}
            for asset, quantity in view.balances[address].items()
            if wanted.get("asset", asset) == asset
        ]

    def _filters(self, filters: Any) -> dict[str, str]:
        wanted = {}
        if isinstance(filters, Mapping):
            filters = [filters]
        if not isinstance(filters, Sequence) or len(filters) > MAX_FILTERS:
            raise InvalidParams("filters must be a list of objects.")
        for item in filters:
            if not isinstance(item, Mapping) or item.get("op") not in ("=", "=="):
                raise InvalidParams('A filter must be {"field": "address" or "asset", "op": "==", "value": text}.')
            field, value = item.get("field"), item.get("value")
            if field not in _BALANCE_FIELDS or not isinstance(value, str):
                raise InvalidParams('A filter must be {"field": "address" or "asset", "op": "==", "value": text}.')
            wanted[field] = self._address(value) if field == "address" else value
        return wanted

    def get_address_options(self, address: str) -> dict[str, Any]:
        """Return the options that the owner of an address has set for it, 0 for none."""
        options = self._chain.view(Query(options=[self._address(address)])).options[address]
        return {"address": address, "options": options}

    def get_unspent_txouts(self, address: str, unconfirmed: bool = False) -> list[dict[str, Any]]:
        """Return the coins of an address, by txid; with ``unconfirmed`` those of the mempool too."""
        view = self._chain.view(Query(coins=[self._address(address)]))
        return coins_shown(view, address, unconfirmed)

    def utxos_with_balances(self, utxos: Any) -> dict[str, bool]:
        """Tell whether assets are attached to each of these confirmed coins, each written ``<txid>:<number>``."""
        if not isinstance(utxos, list) or len(utxos) > MAX_UTXOS or not all(isinstance(utxo, str) for utxo in utxos):
            raise InvalidParams(
                f"`utxos` must be a list of {MAX_UTXOS} coins at most, <txid>:<number>.", limit=MAX_UTXOS
            )
        asked = {utxo: Outpoint.parse(utxo) for utxo in utxos}
        attached = self._chain.attached(set(asked.values()))
        return {utxo: outpoint in attached for utxo, outpoint in asked.items()}

    def search_raw_transactions(self, address: str, unconfirmed: bool = True) -> list[dict[str, Any]]:
        """Return the transactions of an address: unconfirmed first, then from the oldest to the newest."""
        view = self._chain.view(Query(history=[self._address(address)]))
        return history_shown(view, address, unconfirmed)

    def _address(self, address: Any) -> str:
        if not isinstance(address, str):
            raise InvalidParams("The address must be text.")
        script_of_address(self._network, address)
        return address

    # Transactions ---------------------------------------------------------------------------------------------------

    def getrawtransaction(self, tx_hash: str, verbose: bool = False) -> Any:
        """Return a transaction as hex, or with ``verbose`` as the Bitcoin node does. Raises UnknownTransaction."""
        txid = _txid(tx_hash)
        if verbose:
            return self._bitcoin.verbose_transaction(txid)
        found = self._bitcoin.transactions([txid])
        if txid not in found:
            raise UnknownTransaction(f"The node knows no transaction {tx_hash}.", txid=tx_hash)
        return found[txid].hex()

    def getrawtransaction_batch(self, txhash_list: Any) -> dict[str, str]:
        """Return transactions as hex, in the order asked; unknown ones are left out."""
        if not isinstance(txhash_list, list) or len(txhash_list) > MAX_TXIDS:
            raise InvalidParams(f"txhash_list must be a list of at most {MAX_TXIDS} txids.", limit=MAX_TXIDS)
        txids = [_txid(text) for text in txhash_list]
        found: dict[bytes, bytes] = {}
        for start in range(0, len(txids), _TXIDS_AT_ONCE):
            found |= self._bitcoin.transactions(txids[start : start + _TXIDS_AT_ONCE])
            if 2 * sum(map(len, found.values())) > MAX_ANSWER_BYTES:
                text = f"The transactions have more than {MAX_ANSWER_BYTES} bytes of hex: ask for fewer at a time."
                raise TooMuchAsked(text, limit=MAX_ANSWER_BYTES)
        return {txid[::-1].hex(): found[txid].hex() for txid in txids if txid in found}

    def sendrawtransaction(self, tx_hex: str) -> str:
        """Hand a signed transaction to the network, and return its txid. Raises BroadcastRefused."""
        raw = from_hex(tx_hex, "transaction")
        if len(raw) > MAX_TRANSACTION:
            raise InvalidParams(f"A transaction has at most {MAX_TRANSACTION} bytes.", limit=MAX_TRANSACTION)
        txid = self._chain.broadcast(raw)
        if self._network.name == "regtest":
            self._after()  # the node may have mined it at once
        return txid[::-1].hex()

    def submitpackage(self, package: Any) -> dict[str, Any]:
        """Hand a parent and its child, or one transaction, to the network; Core's answer. Raises BroadcastRefused."""
        if not isinstance(package, list) or not 1 <= len(package) <= MAX_PACKAGE:
            raise InvalidParams(f"package must be a list of 1 to {MAX_PACKAGE} transactions.", limit=MAX_PACKAGE)
        raws = [from_hex(text, "transaction") for text in package]
        if any(len(raw) > MAX_TRANSACTION for raw in raws):
            raise InvalidParams(f"A transaction has at most {MAX_TRANSACTION} bytes.", limit=MAX_TRANSACTION)
        for raw in raws:
            txid_to_broadcast(raw)
        try:
            answer = self._bitcoin.package(raws)
        except UnknownMethod as error:
            raise UnknownMethod("The hub's node takes no packages.", call="submitpackage") from error
        if self._network.name == "regtest":
            self._after()  # the node may have mined it at once
        return answer

    # The ledger -----------------------------------------------------------------------------------------------------

    def get_sends(self, filters: Any = ()) -> list[dict[str, Any]]:
        """Return the ledger's confirmed sends to one address, valid or not, without those that it could not read."""
        rows = self._chain.sends_to(self._destination(filters), MAX_SENDS)
        return [_send_shown(self._network, row) for row in rows]

    def _destination(self, filters: Any) -> str:
        """Read the one filter that there must be."""
        found = filters[0] if isinstance(filters, list) and len(filters) == 1 else filters
        if not isinstance(found, Mapping) or found.get("field") != "destination" or found.get("op") not in ("=", "=="):
            raise InvalidParams('get_sends needs one filter {"field": "destination", "op": "==", "value": ADDRESS}.')
        return self._address(found.get("value"))

    def get_assets(self) -> list[dict[str, Any]]:
        """Return the ledger's newest assets, a thousand at most."""
        return [
            {
                "asset_id": row.get("asset_id"),
                "asset_name": row.get("asset"),
                "block_index": row.get("first_issuance_block_index"),
                "asset_longname": row.get("asset_longname"),
            }
            for row in self._chain.assets()
        ]

    def get_asset_info(self, assets: Any = None, asset: Any = None) -> list[dict[str, Any]]:
        """Return the node's rows of assets, with their ``asset_id`` in decimal; unknown ones are left out.

        Names are exact: a long name in other capitals is unknown, whatever the node makes of it.
        """
        names = assets if asset is None else [asset]
        if not isinstance(names, list) or len(names) > MAX_ASSETS or not all(isinstance(name, str) for name in names):
            raise InvalidParams(f"assets must be a list of at most {MAX_ASSETS} names.", limit=MAX_ASSETS)
        rows = (self._row(name) for name in dict.fromkeys(names))
        return [row for row in rows if row is not None]

    def get_asset_spellings(self, asset: Any) -> list[str]:
        """The long names of subassets that differ from this one in capitals only."""
        if not is_longname(asset):
            return []
        try:
            return [self._chain.asset(asset).longname or asset]
        except UnknownAsset as error:
            return list(error.data.get("spellings", ()))

    def _row(self, name: str) -> dict[str, Any] | None:
        """The row of an asset by its exact name; None where there is none, or the name can be none."""
        try:
            exact = name if is_longname(name) else asset_name(asset_id(name))
            if exact == "BTC":
                return _BTC_ROW
            row = self._chain.asset_row(exact) | ({"asset_id": str(XCP_ID)} if exact == "XCP" else {})
        except (InvalidAsset, UnknownAsset):
            return None
        return {member_name: row.get(member_name) for member_name in _BTC_ROW}

    def get_running_info(self) -> dict[str, Any]:
        """Return the height that chain and ledger have reached, and the rate in sat/vB, null where it is a guess.

        Raises NodeBehind.
        """
        height, rate = self._chain.tip(), self._rate()
        return {
            "server_ready": True,
            "db_caught_up": True,
            "bitcoin_block_count": height,
            "last_block": {"block_index": height},
            "network": self._network.name,
            "running_testnet": self._network.name != "mainnet",
            "fee_rate": None if rate.guess else rate.value,
        }

    def fee_per_kb(self, conf_target: int = 3, nblocks: int = 3) -> int:
        """Return the rate that the hub believes in, in satoshis per 1000 vB, whatever the target asked for."""
        return 1000 * self._rate().value

    # Regtest --------------------------------------------------------------------------------------------------------

    def generate(self, blocks: int = 1) -> Any:
        """Mine blocks, and return their hashes. The hub has read them, and done its chores, when this answers."""
        return self._make_blocks("generate", {"blocks": blocks})

    def reorganise(self, depth: int, forget: bool = False) -> Any:
        """Replace the last blocks by a longer branch. The hub has read it when this answers.

        Their transactions go back to the mempool, with ``forget`` nowhere.
        """
        return self._make_blocks("reorganise", {"depth": depth, "forget": forget})

    def faucet(self, address: str, btc: int = 0, asset: str = "XCP", quantity: int = 0) -> Any:
        """Give an address satoshis and a quantity of an asset, and return the txids."""
        asked = {"address": self._address(address), "btc": btc, "asset": asset, "quantity": quantity}
        return self._make_blocks("faucet", asked)

    def feerate(self, rate: Any = None, minimum: Any = None) -> Any:
        """Set the node's estimate (``none``: to have none) and its mempool's minimum, in sat/vB; both as they are now.

        The hub goes by them when this answers.
        """
        return self._make_blocks("feerate", {"rate": rate, "minimum": minimum})

    def _make_blocks(self, method: str, params: Mapping[str, Any]) -> Any:
        result = self._controls.call(method, params, retry=False)
        self._after()
        return result


def _send_shown(network: Network, row: SendRow) -> dict[str, Any]:
    return {
        "tx_hash": row.txid[::-1].hex(),
        "tx_index": row.number,
        "send_type": row.send_type,
        "status": row.status,
        "asset": asset_name(row.asset_id),
        "destination": None if row.destination is None else address_of_script(network, row.destination),
        "quantity": row.quantity,
    }


def _txid(text: Any) -> bytes:
    return from_hex(text, "txid", 32)[::-1]

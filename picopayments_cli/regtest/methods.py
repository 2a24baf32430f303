"""The node's JSON-RPC methods: those of Counterparty Core's v1, and what only a regtest chain can do."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bitcoin.core import CTransaction, CTxIn

from picopayments_cli.channel.counterparty import asset_id, read_transaction, unpack_send
from picopayments_cli.channel.networks import NETWORKS, script_of_address
from picopayments_cli.channel.values import MAX_QUANTITY, from_hex
from picopayments_cli.errors import (
    InvalidParams,
    InvalidQuantity,
    UnknownTransaction,
)
from picopayments_cli.regtest.arguments import checked
from picopayments_cli.regtest.index import Output, outpoint_of
from picopayments_cli.regtest.ledger import AssetRow
from picopayments_cli.regtest.mempool import decode
from picopayments_cli.regtest.node import MAX_BLOCK_VSIZE, Node
from picopayments_cli.regtest.policy import MAX_FEE_RATE, MAX_MONEY, Refused
from picopayments_cli.regtest.queries import coins, estimate, find, history, raw_of, script_of, txid_of
from picopayments_cli.regtest.shapes import address, core_tx, display

_MAX_ROWS = 1000
_NO_MESSAGE: list[Any] = ["", None, None, None, ""]
_SIGNATURE = bytes.fromhex("09300602010102010101")  # pushes the smallest thing that passes for one
_BTC_ROW = AssetRow("BTC", 0, None, None, True, False, 0, "The Bitcoin protocol native currency", 0)
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
    "IN": lambda value, listed: value in listed,
    "NOT IN": lambda value, listed: value not in listed,
}


class Methods:
    """One method of the interface per public method here; hashes in display order."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def table(self) -> dict[str, Callable[..., Any]]:
        """Return all methods by name."""
        names = (name for name in vars(type(self)) if not name.startswith("_") and name != "table")
        return {name: checked(getattr(self, name)) for name in names}

    # Only on regtest -------------------------------------------------------------------------------------------

    def generate(self, blocks: int = 1) -> list[str]:
        """Mine blocks; their hashes."""
        return [display(found) for found in self._node.generate(blocks)]

    def reorganise(self, depth: int, forget: bool = False) -> dict[str, list[str]]:
        """Replace the last blocks by a longer branch of empty ones; the hashes of both.

        Their transactions go back to the mempool, or with ``forget`` nowhere, as if no node had kept them.
        """
        lost, gained = self._node.reorganise(depth, forget=forget)
        return {"disconnected": [display(found) for found in lost], "connected": [display(found) for found in gained]}

    def faucet(self, address: str, btc: int = 0, asset: str = "XCP", quantity: int = 0) -> list[str]:
        """Pay satoshis and a quantity of an asset from the treasury; the txids.

        An asset that nobody has issued yet is issued first; that mines a block, even where blocks come by ``generate``
        alone, or two for a subasset and its parent.
        """
        for amount in (btc, quantity):
            if not 0 <= amount <= MAX_QUANTITY:
                raise InvalidQuantity("Quantities are whole numbers of satoshis, not below zero.", value=str(amount))
        return [display(txid) for txid in self._node.faucet(script_of(address), btc, asset, quantity)]

    def setfeerate(self, sat_per_kvb: int | None = None) -> int | None:
        """Set what the node estimates from now on, in sat/kvB; null: nothing."""
        if sat_per_kvb is not None and not 0 <= sat_per_kvb <= MAX_MONEY:
            raise InvalidParams(f"sat_per_kvb is between 0 and {MAX_MONEY}.")
        self._node.fee_rate = sat_per_kvb
        return sat_per_kvb

    def feerate(self, rate: int | str | None = None, minimum: int | None = None) -> dict[str, int | None]:
        """Set the estimate (``none``: to have none) and what the mempool asks for at least; both, in sat/vB.

        What is left out stays. Blocks leave out what pays less than the estimate, the mempool throws out what pays less
        than the minimum.
        """
        number = rate if isinstance(rate, int) else 1
        if (isinstance(rate, str) and rate != "none") or not 1 <= number <= MAX_FEE_RATE:
            raise InvalidParams(f"rate is none, or a whole number from 1 to {MAX_FEE_RATE}.")
        if minimum is not None and not 1 <= minimum <= MAX_FEE_RATE:
            raise InvalidParams(f"minimum is a whole number from 1 to {MAX_FEE_RATE}.")
        if rate is not None:
            self._node.fee_rate = None if isinstance(rate, str) else 1000 * rate
        if minimum is not None:
            self._node.set_minimum(1000 * minimum)
        estimated = self._node.fee_rate
        return {
            "fee_rate": None if estimated is None else -(-estimated // 1000),
            "minimum": self._node.mempool.minimum // 1000,
        }

    def setblockroom(self, vbytes: int) -> int:
        """Set how many vB of transactions a block has room for from now on."""
        if not 0 < vbytes <= MAX_BLOCK_VSIZE:
            raise InvalidParams(f"vbytes is between 1 and {MAX_BLOCK_VSIZE}.")
        self._node.block_room = vbytes
        return vbytes

    def setaddressoptions(self, address: str, options: int) -> int:
        """Set what the node tells as an address's options from now on, without a broadcast of its owner."""
        if not 0 <= options <= MAX_QUANTITY:
            raise InvalidParams(f"options is between 0 and {MAX_QUANTITY}.")
        self._node.address_options[script_of(address)] = options
        return options

    # Transactions ----------------------------------------------------------------------------------------------

    def getrawtransaction(self, tx_hash: str, verbose: bool = False) -> Any:
        """Return a transaction in hex, or as Bitcoin Core shows it."""
        item, block = find(self._node, txid_of(tx_hash))
        return core_tx(item, block, self._node.index.height) if verbose else item.raw.hex()

    def getrawtransaction_batch(self, txhash_list: list[str], verbose: bool = False) -> dict[str, Any]:
        """Return the transactions by txid in the order asked; unknown ones are left out."""
        found = {}
        for text in txhash_list:
            try:
                found[text] = self.getrawtransaction(text, verbose)
            except UnknownTransaction:
                continue
        return found

    def get_unspent_txouts(
        self,
        address: str,
        unconfirmed: bool = False,
        unspent_tx_hash: str | None = None,
        order_by: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return the unspent outputs of an address."""
        rows = coins(self._node, script_of(address), unconfirmed)
        rows = [row for row in rows if unspent_tx_hash in (None, row["txid"])]
        if order_by in ("value", "-value"):
            rows.sort(key=lambda row: int(row["value"]), reverse=order_by == "-value")
        return rows

    def search_raw_transactions(self, address: str, unconfirmed: bool = True) -> list[dict[str, Any]]:
        """Return the history of an address, newest first."""
        return history(self._node, script_of(address), unconfirmed)

    def get_tx_info(self, tx_hex: str, block_index: int | None = None) -> list[Any]:
        """Return the source, destination, satoshis, fee and data of a transaction, signed or not."""
        try:
            tx = decode(raw_of(tx_hex))
        except Refused as error:
            raise InvalidParams(f"tx_hex is no transaction: {error.reason}") from error
        if not tx.vin:
            raise InvalidParams("tx_hex has no inputs.")
        spent = [self._output(txin) for txin in tx.vin]
        burn = script_of_address(NETWORKS["regtest"], NETWORKS["regtest"].burn_address)
        signed = CTransaction([CTxIn(tx.vin[0].prevout, _SIGNATURE), *tx.vin[1:]], tx.vout)
        reading = read_transaction(signed, spent[0].script, burn)
        if reading is None or (reading.message is None and reading.destinations != (burn,)):
            return _NO_MESSAGE
        destination = "-".join(address(script) or "" for script in reading.destinations)
        fee = sum(out.value for out in spent) - sum(out.nValue for out in tx.vout)
        return [address(reading.source), destination, reading.btc_amount, fee, (reading.message or b"").hex()]

    def _output(self, txin: CTxIn) -> Output:
        outpoint = outpoint_of(txin)
        item, block = find(self._node, outpoint.txid)
        if outpoint.vout >= len(item.tx.vout):
            raise UnknownTransaction(f"{outpoint} does not exist.", outpoint=str(outpoint))
        out = item.tx.vout[outpoint.vout]
        return Output(out.nValue, bytes(out.scriptPubKey), None if block is None else block.height)

    def unpack(self, data_hex: str) -> list[Any]:
        """Return the type id and the fields of a send's message."""
        send = unpack_send(from_hex(data_hex, "message"))
        if send is None:
            raise InvalidParams("Not the message of a send.")
        asset = self._name(send.asset_id)
        if send.destination is None:
            return [0, {"asset": asset, "quantity": send.quantity}]
        memo = send.memo.hex() or None
        return [2, {"asset": asset, "quantity": send.quantity, "address": address(send.destination), "memo": memo}]

    def _name(self, number: int) -> str | int:
        rows = (_BTC_ROW, *self._node.ledger.assets().values())
        return next((row.name for row in rows if _number(row) == number), 0)

    # The ledger ------------------------------------------------------------------------------------------------

    def get_balances(self, **query: Any) -> list[dict[str, Any]]:
        """Return the balance rows, zero rows included, filtered and ordered."""
        assets = self._node.ledger.assets()
        rows = [
            {
                "address": address(script),
                "asset": name,
                "quantity": quantity,
                "asset_longname": assets[name].longname,
                "divisible": assets[name].divisible,
                "utxo": None,
                "utxo_address": None,
            }
            for script, name, quantity in self._node.ledger.rows()
        ]
        return _selected(rows, query)

    def get_assets(self, **query: Any) -> list[dict[str, Any]]:
        """Return all assets, BTC and XCP included, filtered and ordered."""
        rows = [
            {
                "asset_id": str(_number(row)),
                "asset_name": row.name,
                "block_index": row.issued_at or None,
                "asset_longname": row.longname,
            }
            for row in (_BTC_ROW, *self._node.ledger.assets().values())
        ]
        return _selected(rows, query)

    def get_asset_info(self, assets: list[str] | None = None, asset: str | None = None) -> list[dict[str, Any]]:
        """Return the assets by their exact name or longname; unknown ones are left out."""
        found = []
        for name in [*(assets or []), *([asset] if asset else [])]:
            row = _BTC_ROW if name == "BTC" else self._node.ledger.named(name)
            if row is not None:
                owner, issuer = (None if script is None else address(script) for script in (row.owner, row.issuer))
                found.append(
                    {
                        "asset": row.name,
                        "asset_longname": row.longname,
                        "owner": owner,
                        "divisible": row.divisible,
                        "locked": row.locked,
                        "supply": row.supply,
                        "description": row.description,
                        "issuer": issuer,
                    }
                )
        return found

    # The server ------------------------------------------------------------------------------------------------

    def get_running_info(self) -> dict[str, Any]:
        """Return the heights and version."""
        block = self._node.index.blocks[-1]
        return {
            "server_ready": True,
            "db_caught_up": True,
            "bitcoin_block_count": block.height,
            "last_block": {
                "block_index": block.height,
                "block_hash": display(block.hash),
                "block_time": block.time,
            },
            "bitcoind_caught_up": True,
            "bitcoind_blocks_behind": 0,
            "last_message_index": None,
            "api_limit_rows": _MAX_ROWS,
            "running_testnet": False,
            "running_testnet4": False,
            "running_regtest": True,
            "running_signet": False,
            "version_major": 11,
            "version_minor": 5,
            "version_revision": 0,
        }

    def fee_per_kb(self, conf_target: int = 3, mode: str = "CONSERVATIVE") -> int | None:
        """Return the estimated fee rate in sat/kvB, null where there is no estimate."""
        return estimate(self._node)


def _number(row: AssetRow) -> int:
    return asset_id(row.name) if row.number is None else row.number


def _selected(rows: list[dict[str, Any]], query: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that a stranger's query asks for. Raises InvalidParams."""
    try:
        return checked(_select)(rows, **query)
    except TypeError as error:  # a member that there is not, or values that can't be compared
        raise InvalidParams(f"The query can't be answered: {error}.") from error


def _select(
    rows: list[dict[str, Any]],
    *,
    filters: Any = None,
    filterop: str = "AND",
    order_by: str | None = None,
    order_dir: str = "ASC",
    limit: int = _MAX_ROWS,
    offset: int = 0,
) -> list[dict[str, Any]]:
    if not 0 < limit <= _MAX_ROWS:
        raise InvalidParams(f"limit is between 1 and {_MAX_ROWS}: page with offset.")
    tests = [_test(given) for given in ([filters] if isinstance(filters, Mapping) else filters or [])]
    joined = any if filterop.upper() == "OR" and tests else all
    chosen = [row for row in rows if joined(test(row) for test in tests)]
    if order_by is not None:
        chosen.sort(key=lambda row: (row.get(order_by) is None, row.get(order_by)), reverse=order_dir.upper() == "DESC")
    return chosen[offset : offset + limit]


def _test(given: Any) -> Callable[[Mapping[str, Any]], bool]:
    if isinstance(given, Mapping):
        given = (given.get("field"), given.get("op"), given.get("value"))
    if not isinstance(given, Sequence) or len(given) != 3 or given[1] not in _OPERATORS:
        raise InvalidParams(f"A filter is a field, an operator ({', '.join(_OPERATORS)}) and a value.")
    name, compare, value = given[0], _OPERATORS[given[1]], given[2]
    if given[1].endswith("IN") and not isinstance(value, Iterable):
        raise InvalidParams("IN takes a list.")
    return lambda row: name in row and compare(row[name], value)

"""The regtest Counterparty ledger: burns and sends, applied block by block and undone block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from picopayments_cli.channel.counterparty import BTC_ID, Reading, Send, asset_name, read_transaction, unpack_send
from picopayments_cli.channel.errors import InvalidAsset
from picopayments_cli.channel.values import MAX_QUANTITY
from picopayments_cli.regtest.blocks import COIN
from picopayments_cli.regtest.index import Block, Tx

FIRST_BLOCK = 101  # before it nothing is read
BURN_START, BURN_END = 101, 150_000_000
BURN_CAP = COIN  # satoshis that one address can burn in all
_UNITS_PER_SATOSHI, _BONUS = 1000, 500
XCP = "XCP"


@dataclass(frozen=True)
class AssetRow:
    """An asset: name, decimal id (None for XCP, as the API shows it), longname, owner's script, quantity issued."""

    name: str
    number: int | None
    longname: str | None
    owner: bytes | None
    divisible: bool
    locked: bool
    supply: int
    description: str
    issued_at: int


_XCP_ROW = AssetRow(XCP, None, None, None, True, False, 0, "The Counterparty protocol native currency", 0)


def burn_reward(satoshis: int, height: int) -> int:
    """XCP, in satoshis, that burned satoshis earn in the block at a height: some 1500 each, rounded half to even."""
    bonus = Fraction(_BONUS * (BURN_END - height), BURN_END - BURN_START)
    return round(satoshis * (_UNITS_PER_SATOSHI + bonus))


class Ledger:
    """Balances by scriptPubKey and asset name. A balance that has ever been credited stays as a row, 0 included.

    A message type is one entry of ``_handlers``: it gets the source, what was read, the message and the height.
    """

    def __init__(self, burn_script: bytes) -> None:
        self._burn_script = burn_script
        self._balances: dict[tuple[bytes, str], int] = {}
        self._burned: dict[bytes, int] = {}
        self._assets: dict[str, AssetRow] = {XCP: _XCP_ROW}
        self._of_script: dict[bytes, dict[str, int]] = {}
        self._undo: list[list[tuple[dict[Any, Any], Any, Any]]] = []
        self._handlers: tuple[Callable[[Reading, int], bool], ...] = (self._send,)

    # What it knows ---------------------------------------------------------------------------------------------

    @property
    def height(self) -> int:
        """Height of the last block applied; -1 before the first."""
        return len(self._undo) - 1

    def balances(self, script: bytes) -> dict[str, int]:
        """All balance rows of a script, zero rows included, by asset name."""
        return dict(self._of_script.get(script, {}))

    def rows(self) -> Iterator[tuple[bytes, str, int]]:
        """All balance rows, zero rows included: script, asset name, quantity."""
        for (script, name), held in self._balances.items():
            yield script, name, held

    def assets(self) -> Mapping[str, AssetRow]:
        """All assets by name."""
        return self._assets

    def asset(self, name: str) -> AssetRow | None:
        """An asset by its name in any case, or by its longname in any case."""
        wanted = name.upper()
        if wanted in self._assets:
            return self._assets[wanted]
        longnames = (row for row in self._assets.values() if row.longname and row.longname.upper() == wanted)
        return next(longnames, None)

    def read(self, item: Tx) -> Reading | None:
        """What Counterparty reads in a transaction; None where it is none of its own."""
        if not item.spent:
            return None
        reading = read_transaction(item.tx, item.spent[0].script, self._burn_script)
        if reading is None or (reading.message is None and reading.destinations != (self._burn_script,)):
            return None
        return reading

    # Following -------------------------------------------------------------------------------------------------

    def connect(self, block: Block) -> None:
        """Apply a block's transactions in their order."""
        self._undo.append([])
        if block.height < FIRST_BLOCK - 1:
            return
        for item in block.transactions:
            reading = self.read(item)
            if reading is not None:
                self._apply(reading, block.height)

    def disconnect(self) -> None:
        """Undo the last block."""
        for table, key, before in reversed(self._undo.pop()):
            if before is None:
                del table[key]
            else:
                table[key] = before

    def _apply(self, reading: Reading, height: int) -> None:
        if reading.destinations == (self._burn_script,):
            self._burn(reading, height)
        elif len(reading.destinations) <= 1:
            any(handler(reading, height) for handler in self._handlers)

    def _burn(self, reading: Reading, height: int) -> None:
        if not BURN_START - 1 <= height <= BURN_END:
            return
        before = self._burned.get(reading.source, 0)
        counted = min(reading.btc_amount, BURN_CAP - before)
        earned = burn_reward(counted, height)
        self._set(self._burned, reading.source, before + counted)
        self._credit(reading.source, XCP, earned)
        row = self._assets[XCP]
        self._set(self._assets, XCP, replace(row, supply=row.supply + earned))

    def _send(self, reading: Reading, _height: int) -> bool:
        send = unpack_send(reading.message or b"")
        if send is None:
            return False
        name = _name_of(send)
        held = None if name is None else self._balances.get((reading.source, name))
        if name is None or held is None:
            return True
        destination, quantity = send.destination, send.quantity
        if destination is None:  # a classic send: to output 0, and of what is there
            destination = reading.destinations[0] if reading.destinations else None
            quantity = min(quantity, held)
        if destination is not None and quantity <= held:
            self._set_balance(reading.source, name, held - quantity)
            self._credit(destination, name, quantity)
        return True

    def _credit(self, script: bytes, asset: str, quantity: int) -> None:
        held = self._balances.get((script, asset), 0)
        if held + quantity <= MAX_QUANTITY:
            self._set_balance(script, asset, held + quantity)

    def _set_balance(self, script: bytes, asset: str, quantity: int) -> None:
        self._set(self._balances, (script, asset), quantity)
        self._set(self._of_script.setdefault(script, {}), asset, quantity)

    def _set(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        self._undo[-1].append((table, key, table.get(key)))
        table[key] = value


def _name_of(send: Send) -> str | None:
    if send.asset_id == BTC_ID:
        return None
    try:
        return asset_name(send.asset_id)
    except InvalidAsset:
        return None

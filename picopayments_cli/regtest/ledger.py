"""The regtest Counterparty ledger: burns, sends and issuances, applied block by block and undone block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

from picopayments_cli.channel.counterparty import (
    BTC_ID,
    CLASSIC_SEND,
    ENHANCED_SEND,
    XCP_ID,
    Issuance,
    Reading,
    asset_name,
    message_type,
    parent_of,
    read_transaction,
    unpack_issuance,
    unpack_send,
)
from picopayments_cli.channel.values import MAX_QUANTITY
from picopayments_cli.errors import InvalidAsset
from picopayments_cli.regtest.blocks import COIN
from picopayments_cli.regtest.index import Block, Tx

FIRST_BLOCK = 101  # before it nothing is read
BURN_START, BURN_END = 101, 150_000_000
BURN_CAP = COIN  # satoshis that one address can burn in all
_UNITS_PER_SATOSHI, _BONUS = 1000, 500
XCP, BTC = "XCP", "BTC"
ISSUANCE_FEE = 50_000_000  # satoshis of XCP, for a name of letters
_LOCK, _LOCK_DESCRIPTION = "lock", "lock_description"  # descriptions that are commands, in any case


@dataclass(frozen=True)
class AssetRow:
    """An asset: name, id (None for XCP, as the API shows it), longname, quantity issued, heights of its issuances.

    ``owner`` may issue more, ``issuer`` was the first to do so; both are scripts.
    """

    name: str
    number: int | None
    longname: str | None
    owner: bytes | None
    divisible: bool
    locked: bool
    supply: int
    description: str
    issued_at: int
    issuer: bytes | None = None
    changed_at: int = 0
    description_locked: bool = False


class Place(NamedTuple):
    """Where a message stands: its transaction's number among Counterparty's, its txid, the height of its block."""

    number: int
    txid: bytes
    height: int


@dataclass(frozen=True)
class SendRow:
    """A send as the ledger recorded it, valid or not, where its ``Place`` says.

    ``asset``, ``quantity`` and ``destination`` are None where they could not be read; ``quantity`` is what moved, or
    was to move.
    """

    number: int
    txid: bytes
    height: int
    source: bytes
    destination: bytes | None
    asset: str | None
    quantity: int | None
    status: str
    memo: bytes | None = None


VALID = "valid"
_UNREADABLE, _NO_FUNDS = "invalid: could not unpack", "invalid: insufficient funds"
_NO_DESTINATION = "invalid: destination is required"

_XCP_ROW = AssetRow(XCP, None, None, None, True, True, 0, "The Counterparty protocol native currency", 0)


def burn_reward(satoshis: int, height: int) -> int:
    """Return the XCP, in satoshis, that burned satoshis earn at a height: some 1500 each, rounded half to even."""
    bonus = Fraction(_BONUS * (BURN_END - height), BURN_END - BURN_START)
    return round(satoshis * (_UNITS_PER_SATOSHI + bonus))


class Ledger:
    """Balances by scriptPubKey and asset name. A balance that has ever been credited stays as a row, 0 included.

    A message type is one entry of ``_handlers``: it gets what was read, and where that stands.
    """

    def __init__(self, burn_script: bytes) -> None:
        self._burn_script = burn_script
        self._balances: dict[tuple[bytes, str], int] = {}
        self._burned: dict[bytes, int] = {}
        self._assets: dict[str, AssetRow] = {XCP: _XCP_ROW}
        self._of_script: dict[bytes, dict[str, int]] = {}
        self._sends: list[SendRow] = []
        self._count = 0  # of Counterparty's transactions
        self._marks: list[tuple[int, int]] = []
        self._undo: list[list[tuple[dict[Any, Any], Any, Any]]] = []
        self._handlers: tuple[Callable[[Reading, Place], bool], ...] = (self._send, self._issue)

    # Queries ---------------------------------------------------------------------------------------------------

    @property
    def height(self) -> int:
        """Return the height of the last block applied; -1 before the first."""
        return len(self._undo) - 1

    def balances(self, script: bytes) -> dict[str, int]:
        """Return all balance rows of a script, zero rows included, by asset name."""
        return dict(self._of_script.get(script, {}))

    def rows(self) -> Iterator[tuple[bytes, str, int]]:
        """Return all balance rows, zero rows included: script, asset name, quantity."""
        for (script, name), held in self._balances.items():
            yield script, name, held

    def sends(self) -> Sequence[SendRow]:
        """Return all sends, valid or not, oldest first."""
        return self._sends

    def assets(self) -> Mapping[str, AssetRow]:
        """Return all assets by name."""
        return self._assets

    def named(self, name: str) -> AssetRow | None:
        """Return the asset of exactly this name or longname."""
        if name in self._assets:
            return self._assets[name]
        return next((row for row in self._assets.values() if row.longname == name), None)

    def asset(self, name: str) -> AssetRow | None:
        """Find an asset by its name or longname in any case: the first of those that differ in it.

        So Counterparty Core's REST looks them up.
        """
        wanted = name.upper()
        if wanted in self._assets:
            return self._assets[wanted]
        longnames = (row for row in self._assets.values() if row.longname and row.longname.upper() == wanted)
        return next(longnames, None)

    def read(self, item: Tx) -> Reading | None:
        """Return what Counterparty reads in a transaction; None where it is none of its own."""
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
        self._marks.append((len(self._sends), self._count))
        if block.height < FIRST_BLOCK - 1:
            return
        for item in block.transactions:
            reading = self.read(item)
            if reading is not None:
                self._apply(reading, Place(self._count, item.txid, block.height))
                self._count += 1

    def disconnect(self) -> None:
        """Undo the last block."""
        kept, self._count = self._marks.pop()
        del self._sends[kept:]
        for table, key, before in reversed(self._undo.pop()):
            if before is None:
                del table[key]
            else:
                table[key] = before

    def _apply(self, reading: Reading, place: Place) -> None:
        if reading.destinations == (self._burn_script,):
            self._burn(reading, place.height)
        elif len(reading.destinations) <= 1:
            any(handler(reading, place) for handler in self._handlers)

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

    def _send(self, reading: Reading, place: Place) -> bool:
        if message_type(reading.message or b"") not in (CLASSIC_SEND, ENHANCED_SEND):
            return False
        row = self._judge_send(reading, place)
        self._sends.append(row)
        if row.status == VALID and row.asset is not None and row.destination is not None:
            quantity = row.quantity or 0
            self._set_balance(row.source, row.asset, self._balances[row.source, row.asset] - quantity)
            self._credit(row.destination, row.asset, quantity)
        return True

    def _judge_send(self, reading: Reading, place: Place) -> SendRow:
        """Return what a send does: a classic one goes to output 0, and moves what is there of what it names."""
        message = reading.message or b""
        send, classic = unpack_send(message), message_type(message) == CLASSIC_SEND
        first = reading.destinations[0] if classic and reading.destinations else None
        row = SendRow(*place, reading.source, first, None, None, _UNREADABLE)
        if send is None:
            return row
        name = BTC if send.asset_id == BTC_ID else _name_of(send.asset_id)
        if name is None or (classic and name != BTC and name not in self._assets):
            return row
        row = replace(row, asset=name, quantity=send.quantity, status=_NO_FUNDS)
        held = self._balances.get((reading.source, name))
        if not classic:
            status = VALID if held and send.quantity <= held else _NO_FUNDS
            return replace(row, destination=send.destination, memo=send.memo, status=status)
        if held is None:
            return row
        return replace(row, quantity=min(send.quantity, held), status=_NO_DESTINATION if first is None else VALID)

    def _issue(self, reading: Reading, place: Place) -> bool:
        issuance = unpack_issuance(reading.message or b"")
        if issuance is None:
            return False
        name = _name_of(issuance.asset_id)
        if name is None or issuance.asset_id == XCP_ID or not 0 <= issuance.quantity <= MAX_QUANTITY:
            return True
        row = self._assets.get(name)
        if row is None:
            self._first_issue(name, issuance, reading, place.height)
        elif row.owner == reading.source:
            self._issue_again(row, issuance, reading, place.height)
        return True

    def _first_issue(self, name: str, issuance: Issuance, reading: Reading, height: int) -> None:
        """Create an asset, for a fee where it is named; an output before the data gets the right to issue more."""
        source, longname = reading.source, issuance.longname
        named = not name.startswith("A")
        if longname is not None and (named or not self._may_be_child(longname, source)):
            return
        fee = ISSUANCE_FEE if named else 0
        held = self._balances.get((source, XCP), 0)
        description = issuance.description or ""
        if held < fee or issuance.reset or description.lower() == _LOCK:
            return
        if fee:
            self._set_balance(source, XCP, held - fee)
            xcp = self._assets[XCP]
            self._set(self._assets, XCP, replace(xcp, supply=xcp.supply - fee))
        locks_description = description.lower() == _LOCK_DESCRIPTION
        row = AssetRow(
            name=name,
            number=issuance.asset_id,
            longname=longname,
            owner=(reading.destinations or (source,))[0],
            divisible=issuance.divisible,
            locked=issuance.lock,
            supply=issuance.quantity,
            description=description,
            issued_at=height,
            issuer=source,
            changed_at=height,
            description_locked=locks_description,
        )
        self._set(self._assets, name, row)
        self._credit(source, name, issuance.quantity)

    def _may_be_child(self, longname: str, source: bytes) -> bool:
        try:
            parent = self._assets.get(parent_of(longname))
        except InvalidAsset:
            return False
        taken = any(row.longname == longname for row in self._assets.values())
        return parent is not None and parent.owner == source and not taken

    def _issue_again(self, row: AssetRow, issuance: Issuance, reading: Reading, height: int) -> None:
        """Issue more, lock, describe or hand over an asset, or start it anew where nobody else holds any of it."""
        source, given = reading.source, issuance.description
        if row.locked and (issuance.quantity or issuance.reset):
            return
        if row.description_locked and (given is not None or issuance.reset):
            return
        if issuance.reset:
            self._reset(row, issuance, source, height)
            return
        if row.divisible != issuance.divisible or row.supply + issuance.quantity > MAX_QUANTITY:
            return
        command = (given or "").lower()
        changed = replace(
            row,
            owner=(reading.destinations or (source,))[0],
            locked=row.locked or issuance.lock or command == _LOCK,
            supply=row.supply + issuance.quantity,
            description=row.description if given is None or command in (_LOCK, _LOCK_DESCRIPTION) else given,
            description_locked=row.description_locked or command == _LOCK_DESCRIPTION,
            changed_at=height,
        )
        self._set(self._assets, row.name, changed)
        self._credit(source, row.name, issuance.quantity)

    def _reset(self, row: AssetRow, issuance: Issuance, source: bytes, height: int) -> None:
        holders = {script for (script, name), held in self._balances.items() if name == row.name and held}
        if not holders <= {source}:
            return
        description = row.description if issuance.description is None else issuance.description
        changed = replace(
            row,
            divisible=issuance.divisible,
            locked=issuance.lock,
            supply=issuance.quantity,
            description=description,
            changed_at=height,
        )
        self._set(self._assets, row.name, changed)
        self._set_balance(source, row.name, issuance.quantity)

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


def _name_of(number: int) -> str | None:
    if number == BTC_ID:
        return None
    try:
        return asset_name(number)
    except InvalidAsset:
        return None

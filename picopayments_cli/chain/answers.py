"""Check what nodes and hubs tell about the chain, before it is believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, TypeVar

from picopayments_cli.chain import Asset
from picopayments_cli.channel.counterparty import BTC_ID, XCP_ID, asset_id, asset_name, is_longname
from picopayments_cli.channel.drafts import parse_transaction
from picopayments_cli.channel.facts import SendRow
from picopayments_cli.channel.networks import Network, script_of_address
from picopayments_cli.channel.values import MAX_QUANTITY, Outpoint, from_hex
from picopayments_cli.errors import (
    BadAnswer,
    BadPreviousTransaction,
    BroadcastRefused,
    InvalidAddress,
    InvalidAsset,
    InvalidHex,
    NodeBehind,
    UnknownAsset,
)

T = TypeVar("T")
MAX_MONEY = 21_000_000 * 10**8
_REQUIRED = object()
_ATTEMPTS = 5  # to read all at one block
_BY_TRANSACTION = "transaction failed"  # what is told of a package whose faults are its transactions' own


def member(value: Any, name: str, kind: type | tuple[type, ...], default: Any = _REQUIRED) -> Any:
    """Return a member of a JSON object, of that kind (a boolean is no number). Raises BadAnswer."""
    if not isinstance(value, dict):
        raise BadAnswer(f"The answer has no object where {name} is expected.", member=name)
    found = value.get(name)
    if found is None and default is not _REQUIRED:
        return default
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        raise BadAnswer(f"The answer has no usable {name}.", member=name)
    return found


def members(value: Any, what: str) -> list[Any]:
    """Return a JSON list. Raises BadAnswer."""
    if not isinstance(value, list):
        raise BadAnswer(f"The answer has no list of {what}.", member=what)
    return value


def whole(value: Any, name: str, least: int = 0, most: int = MAX_QUANTITY) -> int:
    """Return a whole number inside its limits, member of a JSON object. Raises BadAnswer."""
    number: int = member(value, name, int)
    if not least <= number <= most:
        raise BadAnswer(f"The answer has an impossible {name}: {number}.", member=name, value=number)
    return number


def txid_of(text: Any, name: str = "txid") -> bytes:
    """Return a txid in wire order from its hex in display order. Raises BadAnswer."""
    try:
        return from_hex(text, name, 32)[::-1]
    except InvalidHex as error:
        raise BadAnswer(f"The answer has a bad {name}: {error.message}", member=name) from error


def raw_of(text: Any, name: str = "transaction") -> bytes:
    """Return the bytes from hex. Raises BadAnswer."""
    try:
        return from_hex(text, name)
    except InvalidHex as error:
        raise BadAnswer(f"The answer has a bad {name}: {error.message}", member=name) from error


def checked_transaction(raw: bytes, txid: bytes) -> bytes:
    """Return a raw transaction whose hash, without its witness, is the txid. Raises BadPreviousTransaction."""
    tx = parse_transaction(raw)
    found = b"" if tx is None else bytes(tx.GetTxid())
    if found != txid:
        shown = txid[::-1].hex()
        raise BadPreviousTransaction(
            f"The transaction that was given as {shown} has another txid. Ask another node or hub.",
            txid=shown,
            found=found[::-1].hex(),
        )
    return raw


def txid_to_broadcast(raw: bytes) -> bytes:
    """Return the txid, in wire order, of a transaction that is to go out. Raises BroadcastRefused for other bytes."""
    tx = parse_transaction(raw)
    if tx is None:
        raise BroadcastRefused("These bytes are no transaction.", size=len(raw))
    return bytes(tx.GetTxid())


def satoshis_of(amount: float | str) -> Decimal:
    """Return the satoshis of an amount in BTC, exactly as its shortest text says. Raises ValueError."""
    try:
        found = Decimal(str(amount)).scaleb(8)
        possible = 0 <= found <= MAX_MONEY
    except ArithmeticError as error:
        raise ValueError(f"{amount!r} is no number") from error
    if not possible:
        raise ValueError(f"{amount!r} is no amount of bitcoins")
    return found


def asset_of(row: Any, asked: str) -> Asset:
    """Read an asset, of which the server gives name, id (in decimal) and divisibility. Raises BadAnswer.

    The name follows from the id, and is the one asked for or that of the subasset asked for, letter for letter: who
    could give another would have an asset deposited that its owner did not name. Only a subasset's id is the server's
    word.
    """
    name, text, longname = member(row, "asset", str), member(row, "asset_id", str), _longname(row)
    if not text.isdecimal() or not text.isascii() or len(text) > 20 or not XCP_ID < int(text) < 2**64:
        raise BadAnswer(f"The answer about {name} has an impossible asset_id: {text[:30]!r}.", member="asset_id")
    try:
        right = asset_name(int(text)) == name
    except InvalidAsset:
        right = False
    if not right or asked not in (name, longname):
        raise BadAnswer(f"The answer about {asked} names {name} and the id {text}.", asset=asked, asset_id=text)
    return Asset(name, int(text), member(row, "divisible", bool), longname)


def unissued_asset(name: str) -> Asset | None:
    """Return the asset of this name that nobody has issued, BTC or XCP; None where the ledger has to be asked."""
    number = {"BTC": BTC_ID, "XCP": XCP_ID}.get(name)
    return None if number is None else Asset(name, number, divisible=True)


def asset_among(rows: Iterable[Any], asked: str) -> Asset:
    """Find the asset that has exactly the name asked for. Raises as ``row_among``."""
    return asset_of(row_among(rows, asked), asked)


def row_among(rows: Iterable[Any], asked: str) -> Any:
    """Find the row of the asset that has exactly the name asked for. Raises BadAnswer, UnknownAsset with the spellings.

    A ledger may have several subassets whose long names differ in capitals only, and servers tell of any of them.
    """
    spellings = []
    for row in rows:
        told = (_longname(row) if "." in asked else None) or member(row, "asset", str)
        if told == asked or "." not in asked:
            return row
        spellings.append(told)
    raise unknown_asset(asked, spellings)


def unknown_asset(asked: str, others: Iterable[Any] = ()) -> UnknownAsset:
    """Return the refusal of a name that no asset has; it names those of the ``others`` that differ in capitals only."""
    same = {other for other in others if isinstance(other, str) and other.lower() == asked.lower() and other != asked}
    spellings = sorted(same)
    if not spellings:
        return UnknownAsset(f"The ledger knows no asset {asked!r}.", asset=asked)
    return UnknownAsset(
        f"The ledger knows no asset {asked!r}, but {' and '.join(spellings)}: capitals count. Name the one you mean.",
        asset=asked,
        spellings=spellings,
    )


def _longname(row: Any) -> str | None:
    """Return the long name in a row about an asset; None where that is no subasset, or the name can be none."""
    longname = member(row, "asset_longname", str, None)
    return longname if member(row, "asset", str).startswith("A") and is_longname(longname) else None


def longnames_of(rows: Iterable[Any]) -> dict[str, str]:
    """Return the long names in rows about holdings, by asset. A name that is told of two assets is left out."""
    found = {member(row, "asset", str): longname for row in rows if (longname := _longname(row)) is not None}
    times = Counter(found.values())
    return {asset: longname for asset, longname in found.items() if times[longname] == 1}


def attached_of(told: Any, outpoints: Iterable[Outpoint]) -> set[Outpoint]:
    """Read which of the coins asked for hold assets. Raises BadAnswer where the answer is silent on one."""
    return {outpoint for outpoint in outpoints if member(told, str(outpoint), bool)}


class Moved(Exception):
    """The chain went on while it was asked about: ask again."""


def settled(ask: Callable[[], T], url: str | None = None) -> T:
    """Return the first answer that is not Moved; ``url``: of whom is asked. Raises NodeBehind after some attempts."""
    for _ in range(_ATTEMPTS):
        try:
            return ask()
        except Moved:
            continue
    asked = {} if url is None else {"url": url}
    raise NodeBehind("New blocks came while the chain was read. Repeat the command.", **asked)


def send_rows(network: Network, rows: Iterable[Any]) -> tuple[SendRow, ...]:
    """Read rows of the ledger's sends, without those whose asset or quantity the ledger could not read.

    Raises BadAnswer.
    """
    found = (_send_row(network, row) for row in rows)
    return tuple(row for row in found if row is not None)


def _send_row(network: Network, row: Any) -> SendRow | None:
    """A row of the ledger's; None where its asset or its quantity could not be read by the ledger."""
    if member(row, "asset", str, None) is None or member(row, "quantity", int, None) is None:
        return None
    destination = member(row, "destination", str, None)
    try:
        number = asset_id(row["asset"])
    except InvalidAsset as error:
        raise BadAnswer(f"The answer tells of an impossible asset: {error.message}") from error
    try:
        script = None if destination is None else script_of_address(network, destination)
    except InvalidAddress:
        script = None  # a ``txid:n``
    return SendRow(
        txid_of(member(row, "tx_hash", str)),
        whole(row, "tx_index"),
        member(row, "send_type", str),
        member(row, "status", str),
        number,
        script,
        whole(row, "quantity"),
    )


def package_fault(answer: Any) -> str:
    """Tell why a package was refused: what it breaks as a whole, else what its transactions break.

    A fault of the whole hides behind those that each transaction has alone, such as too low a fee.
    """
    fault: str = member(answer, "package_msg", str)
    return "; ".join(package_faults(answer)) or fault if fault == _BY_TRANSACTION else fault


def package_faults(answer: Any) -> list[str]:
    """Return what is wrong with each transaction of a package, those that are not refused left out."""
    results = member(answer, "tx-results", dict).values()
    return [str(item["error"]) for item in results if isinstance(item, dict) and item.get("error")]

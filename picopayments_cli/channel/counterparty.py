"""Counterparty's messages as its ledger reads them: asset ids, sends, issuances, and which transaction carries what.

The facts are those of Counterparty Core 11: the message type is one byte, or four zero bytes for a classic send;
the message stands ARC4-encrypted in one OP_RETURN, keyed with the first input's txid in display order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import cbor2
from bitcoin.core import CTransaction
from bitcoin.core.script import CScript, CScriptInvalidError

from picopayments_cli.channel.arc4 import arc4
from picopayments_cli.channel.values import MAX_QUANTITY, looks_like_signature
from picopayments_cli.errors import InvalidAsset

PREFIX = b"CNTRPRTY"
CLASSIC_SEND = 0
ENHANCED_SEND = 2
ISSUANCE, SUBASSET = 22, 23  # what Counterparty Core 11 composes
BTC_ID = 0
XCP_ID = 1
_ISSUANCES, _SUBASSETS = (20, ISSUANCE), (21, SUBASSET)
_SEND = struct.Struct(">IQQ")
_ISSUE = struct.Struct(">QQ???")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NAMED_MIN = 26**3
_NAMED_LIMIT = 26**12
_NUMERIC_MAX = 2**64 - 1
_LONGNAME_DIGITS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_@!"  # worth 1 to 67
_MAX_LONGNAME, _MAX_COMPACTED = 250, 200
_KEEP_DESCRIPTION = b"\xc0NULL"  # in the older layout, which has no null
_SIGHASH_ALL = 0x01
_ACCEPTED_SIGHASHES = frozenset((_SIGHASH_ALL, 0x81))
_FIELD_SIZE = 2**256 - 2**32 - 977
_CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_SEGWIT_1, _SEGWIT_10, _SEGWIT_16 = 0x51, 0x5A, 0x60


@dataclass(frozen=True)
class Send:
    """A send: ``destination`` is a scriptPubKey for an enhanced send, None for a classic one (output 0 tells)."""

    asset_id: int
    quantity: int
    destination: bytes | None = None
    memo: bytes = b""


@dataclass(frozen=True)
class Issuance:
    """An issuance: ``description`` None keeps the last one; ``longname`` is that of a new subasset, else None."""

    asset_id: int
    quantity: int
    divisible: bool = True
    lock: bool = False
    reset: bool = False
    description: str | None = ""
    longname: str | None = None


@dataclass(frozen=True)
class Reading:
    """A transaction as Counterparty reads it: scriptPubKeys, satoshis, and the decrypted message (or None)."""

    source: bytes
    destinations: tuple[bytes, ...]
    btc_amount: int
    message: bytes | None


# Assets -------------------------------------------------------------------------------------------------------------


def asset_id(name: str) -> int:
    """Return the id of a named or numeric asset, BTC 0 and XCP 1 included.

    Named: 4 to 12 letters, not beginning with A, in base 26. Numeric: ``A`` and a number from 26^12 + 1 to 2^64 - 1.
    Subassets have no computable id: the ledger tells. Raises InvalidAsset.
    """
    if name in ("BTC", "XCP"):
        return BTC_ID if name == "BTC" else XCP_ID
    if name.startswith("A") and name[1:].isdecimal() and name.isascii() and not name[1:].startswith("0"):
        number = int(name[1:]) if len(name) <= 21 else 0
        if _NAMED_LIMIT < number <= _NUMERIC_MAX:
            return number
    elif 4 <= len(name) <= 12 and name[0] != "A" and all(letter in _LETTERS for letter in name):
        number = 0
        for letter in name:
            number = number * 26 + _LETTERS.index(letter)
        return number
    raise InvalidAsset(f"{name!r} is not the name of a Counterparty asset.", asset=name)


def asset_name(number: int) -> str:
    """Return the name of an asset id. Raises InvalidAsset."""
    if number in (BTC_ID, XCP_ID):
        return "BTC" if number == BTC_ID else "XCP"
    if _NAMED_LIMIT < number <= _NUMERIC_MAX:
        return f"A{number}"
    if not _NAMED_MIN <= number < _NAMED_LIMIT:
        raise InvalidAsset(f"No asset has the id {number}.", asset_id=number)
    letters = []
    rest = number
    while rest:
        rest, digit = divmod(rest, 26)
        letters.append(_LETTERS[digit])
    return "".join(reversed(letters))


def parent_of(longname: str) -> str:
    """Return the name of the asset that a subasset ``PARENT.child`` belongs to. Raises InvalidAsset.

    The child has letters, digits and ``.-_@!``, no dot at its ends and no two together; 250 characters in all.
    """
    parent, _, child = longname.partition(".")
    well_formed = all(child.split(".")) and all(letter in _LONGNAME_DIGITS for letter in child)
    if not well_formed or len(longname) > _MAX_LONGNAME or asset_id(parent) <= XCP_ID:
        raise InvalidAsset(f"{longname!r} is not the name of a Counterparty subasset.", asset=longname)
    return parent


def is_longname(text: object) -> bool:
    """Tell whether this can be the long name of a subasset."""
    try:
        return isinstance(text, str) and bool(parent_of(text))
    except InvalidAsset:
        return False


def both_names(asset: str, longname: str | None) -> str:
    """Return an asset as messages name it: a subasset by its long name and its number."""
    return f"{longname} ({asset})" if longname else asset


def asset_members(asset: str, longname: str | None) -> dict[str, str]:
    """Return an asset as JSON objects name it: ``asset``, and for a subasset ``asset_longname`` beside it."""
    return {"asset": asset, "asset_longname": longname} if longname else {"asset": asset}


def compact_longname(longname: str) -> bytes:
    """Return a subasset's longname as messages carry it: a number in base 68, big-endian."""
    number = 0
    for letter in longname:
        number = number * 68 + _LONGNAME_DIGITS.index(letter) + 1
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def expand_longname(packed: bytes) -> str | None:
    """Return the longname that was compacted, or None where it is none."""
    number = int.from_bytes(packed[: _MAX_COMPACTED + 1], "big")
    letters = []
    while number:
        number, digit = divmod(number, 68)
        if not digit:
            return None
        letters.append(_LONGNAME_DIGITS[digit - 1])
    longname = "".join(reversed(letters))
    return longname if longname and len(packed) <= _MAX_COMPACTED else None


# Messages -----------------------------------------------------------------------------------------------------------


def pack_send(number: int, quantity: int) -> bytes:
    """Return the message of a classic send: type, asset id and quantity, 20 bytes."""
    return _SEND.pack(CLASSIC_SEND, number, quantity)


def unpack_send(message: bytes) -> Send | None:
    """Return the send that a message is, classic or enhanced (both layouts), or None where it is none."""
    kind, body = _split(message)
    if kind == ENHANCED_SEND:
        return _unpack_enhanced(body)
    if kind != CLASSIC_SEND or len(message) != _SEND.size:
        return None
    _, number, quantity = _SEND.unpack(message)
    return Send(number, min(quantity, MAX_QUANTITY))


def pack_issuance(issuance: Issuance) -> bytes:
    """Write an issuance in the layout of Counterparty Core 11: type 22, or 23 for a new subasset, and CBOR."""
    text = None if issuance.description is None else issuance.description.encode()
    fields: list[Any] = [issuance.asset_id, issuance.quantity]
    fields += [int(flag) for flag in (issuance.divisible, issuance.lock, issuance.reset)]
    if issuance.longname is None:
        return bytes((ISSUANCE,)) + cbor2.dumps([*fields, "", text])
    compacted = compact_longname(issuance.longname)
    return bytes((SUBASSET,)) + cbor2.dumps([*fields, len(compacted), compacted, "", text])


def unpack_issuance(message: bytes) -> Issuance | None:
    """Return the issuance that a message is, in either layout, or None where it is none."""
    kind, body = _split(message)
    if kind in _ISSUANCES:
        return _cbor_issuance(body, []) or _older_issuance(body, b"")
    if kind not in _SUBASSETS:
        return None
    found = _cbor_issuance(body, [int, bytes])
    if found is None and len(body) > _ISSUE.size:
        end = _ISSUE.size + 1 + body[_ISSUE.size]
        found = _older_issuance(body[: _ISSUE.size] + body[end:], body[_ISSUE.size + 1 : end])
    return None if found is None or found.longname is None else found


def message_type(message: bytes) -> int | None:
    """Return the type of a message, None for one too short to have any."""
    return _split(message)[0] if len(message) > 1 else None


def _split(message: bytes) -> tuple[int | None, bytes]:
    """Return the type and body; the type is one byte, or four that begin with 0."""
    if message[:1] > b"\0":
        return message[0], message[1:]
    return (int.from_bytes(message[:4], "big"), message[4:]) if len(message) >= 4 else (None, b"")


def _cbor(body: bytes) -> Any:
    try:
        return cbor2.loads(body)
    except (cbor2.CBORError, ValueError):
        return None


def _cbor_issuance(body: bytes, middle: list[type]) -> Issuance | None:
    """Read an issuance from a CBOR array; ``middle``: the kinds of a subasset's two more, length and longname."""
    fields = _cbor(body)
    if not isinstance(fields, list) or len(fields) != 7 + len(middle):
        return None
    number, quantity, divisible, lock, reset, *extra, mime, text = fields
    if [type(item) for item in (number, quantity, *extra, mime)] != [int, int, *middle, str]:
        return None
    if not all(isinstance(flag, int) for flag in fields[2:5]) or not isinstance(text, (bytes, type(None))):
        return None
    longname = expand_longname(extra[1]) if middle else None
    return Issuance(number, quantity, bool(divisible), bool(lock), bool(reset), _description(text), longname)


def _older_issuance(body: bytes, compacted: bytes) -> Issuance | None:
    if len(body) < _ISSUE.size:
        return None
    number, quantity, divisible, lock, reset = _ISSUE.unpack(body[: _ISSUE.size])
    text: bytes | None = body[_ISSUE.size :]
    if text == _KEEP_DESCRIPTION:
        text = None
    return Issuance(number, quantity, divisible, lock, reset, _description(text), expand_longname(compacted))


def _description(text: bytes | None) -> str | None:
    try:
        return None if text is None else text.decode()
    except UnicodeDecodeError:
        return ""


def _unpack_enhanced(body: bytes) -> Send | None:
    fields = _cbor(body)
    if isinstance(fields, list) and [type(field) for field in fields] == [int, int, bytes, bytes]:
        number, quantity, packed, memo = fields
        destination = _unpack_script(packed)
    elif len(body) >= 37:
        number, quantity = struct.unpack(">QQ", body[:16])
        destination, memo = _legacy_script(body[16:37]), body[37:]
    else:
        return None
    if destination is None or len(memo) > 34 or not (0 < quantity <= MAX_QUANTITY and 0 <= number <= _NUMERIC_MAX):
        return None
    return Send(number, quantity, destination, memo)


def _unpack_script(packed: bytes) -> bytes | None:
    if len(packed) == 21 and packed[0] == 1:
        return p2pkh(packed[1:])
    if len(packed) == 21 and packed[0] == 2:
        return p2sh(packed[1:])
    if len(packed) in (22, 34) and packed[0] == 3 and packed[1] <= 16:
        return bytes((packed[1] + 0x50 if packed[1] else 0, len(packed) - 2)) + packed[2:]
    return None


def _legacy_script(packed: bytes) -> bytes | None:
    if packed[0] in (0x00, 0x6F):
        return p2pkh(packed[1:])
    if packed[0] in (0x05, 0xC4):
        return p2sh(packed[1:])
    return b"\0\x14" + packed[1:] if packed[0] == 0x80 else None


# Transactions -------------------------------------------------------------------------------------------------------


def data_script(message: bytes, first_txid: bytes) -> bytes:
    """Return the OP_RETURN output of a message; ``first_txid``: the first input's, in wire order."""
    data = arc4(first_txid[::-1], PREFIX + message)
    return b"\x6a" + bytes(CScript([data]))


def read_transaction(tx: CTransaction, spent_script: bytes, burn_script: bytes = b"") -> Reading | None:
    """Return what Counterparty reads in a transaction, or None where it takes it for none of its own.

    ``spent_script``: the scriptPubKey that the first input spends; its address is the source. Outputs are scanned in
    order: before the data each is a destination, the first after it is change and ends the scan. The signatures of
    the first input must all be SIGHASH_ALL, with or without ANYONECANPAY, and there must be one. Of its witness the
    first item alone may be one: a DER signature where there are two items, else a Schnorr signature.
    """
    if not tx.vin or tx.is_coinbase() or not _is_source(spent_script) or not _sighash_accepted(tx):
        return None
    first_txid = tx.vin[0].prevout.hash
    destinations: list[bytes] = []
    amount = 0
    message: bytes | None = None
    for out in tx.vout:
        script = bytes(out.scriptPubKey)
        if script[:1] == b"\x6a":
            chunk = message_of(script, first_txid)
            if chunk is None:
                return None
            message = (message or b"") + chunk
        elif not is_destination(script):
            return None
        elif message is not None or (destinations and destinations == [burn_script]):
            break
        else:
            destinations.append(script)
            amount += out.nValue
    return Reading(spent_script, tuple(destinations), amount, message)


def message_of(script: bytes, first_txid: bytes) -> bytes | None:
    """Return the message in an OP_RETURN output, or None where Counterparty reads none in it."""
    words = _words(script)
    if script[:1] != b"\x6a" or words is None or len(words) != 2 or words[1] is None:
        return None
    plain = arc4(first_txid[::-1], words[1])
    return plain[len(PREFIX) :] if plain.startswith(PREFIX) else None


def _sighash_accepted(tx: CTransaction) -> bool:
    pushes = script_pushes(bytes(tx.vin[0].scriptSig))
    if pushes is None:
        return False
    flags = {item[-1] for item in pushes if looks_like_signature(item)}
    witness = list(tx.wit.vtxinwit[0].scriptWitness.stack) if tx.wit.vtxinwit else []
    if witness:
        flag = (_der_flag if len(witness) == 2 else _schnorr_flag)(bytes(witness[0]))
        flags |= set() if flag is None else {flag}
    return bool(flags) and flags <= _ACCEPTED_SIGHASHES


def _der_flag(item: bytes) -> int | None:
    """Return the hash type of a DER signature; neither of its integers is empty."""
    return item[-1] if looks_like_signature(item) and item[3] and item[5 + item[3]] else None


def _schnorr_flag(item: bytes) -> int | None:
    """Return the hash type of a Schnorr signature: the byte behind its 64, or ALL where there is none."""
    if len(item) not in (64, 65) or int.from_bytes(item[:32], "big") >= _FIELD_SIZE:
        return None
    if int.from_bytes(item[32:64], "big") >= _CURVE_ORDER:
        return None
    return item[64] if len(item) == 65 else _SIGHASH_ALL


def script_pushes(script: bytes) -> list[bytes] | None:
    """List the data that a script pushes, without 1 to 16 pushed by an opcode; None where it does not parse."""
    words = _words(script)
    return None if words is None else [word for word in words if word is not None]


def _words(script: bytes) -> list[bytes | None] | None:
    """Return the data of each opcode of a script, None for one that pushes none; None alone: it does not parse."""
    try:
        return [None if data is None else bytes(data) for _, data, _ in CScript(script).raw_iter()]
    except CScriptInvalidError:
        return None


# Scripts of addresses -----------------------------------------------------------------------------------------------


def p2pkh(hashed: bytes) -> bytes:
    """Return the scriptPubKey that pays to the hash of a public key."""
    return b"\x76\xa9\x14" + hashed + b"\x88\xac"


def p2sh(hashed: bytes) -> bytes:
    """Return the scriptPubKey that pays to the hash of a script (BIP 16)."""
    return b"\xa9\x14" + hashed + b"\x87"


def is_p2pkh(script: bytes) -> bool:
    """Tell whether a scriptPubKey pays to the hash of a public key."""
    return len(script) == 25 and script[:3] == b"\x76\xa9\x14" and script[23:] == b"\x88\xac"


def is_p2sh(script: bytes) -> bool:
    """Tell whether a scriptPubKey pays to the hash of a script."""
    return len(script) == 23 and script[:2] == b"\xa9\x14" and script[22:] == b"\x87"


def is_address(script: bytes) -> bool:
    """Tell whether Counterparty sees an address in an output: P2PKH, P2SH, segwit 0, taproot, small bare multisig."""
    if is_p2pkh(script) or is_p2sh(script):
        return True
    if script[:2] in (b"\0\x14", b"\0\x20", b"\x51\x20"):
        return len(script) == 2 + script[1]
    return _is_multisig(script)


def is_destination(script: bytes) -> bool:
    """Tell whether Counterparty sees a destination or change in an output: an address, or a later segwit program.

    Its parser knows versions 1 and 10 to 16 of that, P2A among them.
    """
    return is_address(script) or (_is_program(script) and _SEGWIT_10 <= script[0] <= _SEGWIT_16) or _is_segwit_1(script)


def _is_source(script: bytes) -> bool:
    return is_address(script) or _is_segwit_1(script)


def _is_segwit_1(script: bytes) -> bool:
    return _is_program(script) and script[0] == _SEGWIT_1


def _is_program(script: bytes) -> bool:
    return 4 <= len(script) <= 42 and script[1] == len(script) - 2


def _is_multisig(script: bytes) -> bool:
    pushes = script_pushes(script)
    if pushes is None or len(pushes) not in (2, 3) or script[-1:] != b"\xae":
        return False
    needed, total = script[0] - 0x50, script[-2] - 0x50
    return total == len(pushes) and 1 <= needed <= total and all(len(push) in (33, 65) for push in pushes)

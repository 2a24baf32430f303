"""Every kind of change that a liar makes to a member of a message."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bitcoin.core import CMutableTransaction, CTransaction, CTxIn, CTxOut
from bitcoin.core.script import CScript

from picopayments_cli.channel.values import MAX_QUANTITY
from picopayments_cli.channel2.keys import Key

Path = tuple[str | int, ...]
_DELETED = object()
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@dataclass(frozen=True)
class Mutation:
    """One change: the member (its path, list positions as ``[]``), the kind, and what it makes of a message."""

    member: str
    kind: str
    apply: Callable[[Any], Any]

    @property
    def pair(self) -> str:
        """Member and kind."""
        return f"{self.member} | {self.kind}"


@dataclass
class Known:
    """Values that a liar has at hand: hashes and secrets of the connection, other messages of any kind."""

    hashes: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    messages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    key: Key | None = None


def mutations(message: Mapping[str, Any], known: Known, rng: random.Random) -> list[Mutation]:
    """All changes of a message, each member by each kind that it can have."""
    found: dict[str, Mutation] = {}
    for path, value in _members(message, ()):
        for kind, replacement in _kinds(path, value, known, rng):
            change = Mutation(_name(path), kind, setter(path, replacement))
            if replacement is _DELETED or json.dumps(replacement) != json.dumps(value):
                found.setdefault(change.pair, change)
        for kind, other in known.messages.items():
            taken = _get(other, path)
            if taken is not _DELETED and taken != value:
                change = Mutation(_name(path), kind, setter(path, taken))
                found.setdefault(change.pair, change)
    for kind, other in known.messages.items():
        found[f"(whole) | {kind}"] = Mutation("(whole)", kind, _constant(other))
    for kind, whole in (("null", None), ("text", "x"), ("list", []), ("object without members", {}), ("number", 1)):
        found[f"(whole) | {kind}"] = Mutation("(whole)", kind, _constant(whole))
    extra = {"another": [1, {"deep": None}]}
    found["(whole) | additional member"] = Mutation("(whole)", "additional member", lambda body: {**body, **extra})
    return list(found.values())


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda _message: copy.deepcopy(value)


def _members(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    items: Iterator[tuple[str | int, Any]] | None = None
    if isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value[:1]))
    for name, member in items or ():
        yield (*path, name), member
        yield from _members(member, (*path, name))


def _name(path: Path) -> str:
    text = ""
    for part in path:
        shown = part if isinstance(part, int) or not _is_hex(part) else "{}"  # the key of a table
        text += "[]" if isinstance(shown, int) else f".{shown}" if text else shown
    return text


def _get(message: Any, path: Path) -> Any:
    for part in path:
        try:
            message = message[part]
        except (KeyError, IndexError, TypeError):
            return _DELETED
    return message


def setter(path: Path, value: Any) -> Callable[[Any], Any]:
    """Return what puts a value in the place that a path names."""

    def apply(message: Any) -> Any:
        changed = json.loads(json.dumps(message))
        place = changed
        for part in path[:-1]:
            place = place[part]
        if value is _DELETED:
            del place[path[-1]]
        else:
            place[path[-1]] = copy.deepcopy(value)
        return changed

    return apply


# Kinds --------------------------------------------------------------------------------------------------------------


def _kinds(path: Path, value: Any, known: Known, rng: random.Random) -> Iterator[tuple[str, Any]]:
    yield "missing", _DELETED
    for kind, other in (("null", None), ("false", False), ("zero", 0), ("text", "x"), ("list", []), ("object", {})):
        if other != value or isinstance(other, bool):
            yield kind, other
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _numbers(value)
    elif isinstance(value, str) and _is_hex(value):
        yield from _hexes(path, value, known, rng)
    elif isinstance(value, list):
        yield from _lists(value)
    elif isinstance(value, Mapping):
        yield "additional member", {**value, "another": 1}
    elif value is None:
        yield "a number", 1
        yield "a hash", rng.randbytes(20).hex()
        yield "a secret", rng.randbytes(32).hex()
        yield "a secret like a signature", signature_shaped(rng).hex()
        yield from known.secrets.items()


def _numbers(value: float) -> Iterator[tuple[str, Any]]:
    yield "one more", value + 1
    yield "one less", value - 1
    yield "negative", -value or -1
    yield "tenfold", value * 10 or 10
    yield "as text", str(value)
    yield "as a fraction", value + 0.5
    yield "as a float", float(value) if isinstance(value, int) else int(value)
    yield "2^63 - 1", MAX_QUANTITY
    yield "2^63", MAX_QUANTITY + 1
    yield "10^30", 10**30
    yield "10^300, a float", 1e300
    yield "true", True


def _is_hex(text: str) -> bool:
    return len(text) >= 40 and len(text) % 2 == 0 and set(text) <= set("0123456789abcdef")


def _hexes(path: Path, text: str, known: Known, rng: random.Random) -> Iterator[tuple[str, Any]]:
    data = bytes.fromhex(text)
    yield "one bit changed", _flip(data, 0, 1).hex()
    yield "last bit changed", _flip(data, -1, 1).hex()
    yield "one byte less", data[:-1].hex()
    yield "one byte more", (data + b"\0").hex()
    yield "half a byte less", text[:-1]
    yield "nothing", ""
    yield "zeros", bytes(len(data)).hex()
    yield "at random", rng.randbytes(len(data)).hex()
    yield "upper case", text.upper() if text.upper() != text else text + "A"
    yield "520 bytes more", (data + bytes(520)).hex()
    yield "reversed", data[::-1].hex()
    yield "with a space", text[:2] + " " + text[3:]
    if len(data) == 32:
        yield "shaped like a signature", signature_shaped(rng).hex()
    pool = {20: known.hashes, 32: known.secrets}.get(len(data), {})
    yield from ((kind, other) for kind, other in pool.items() if other != text)
    if path[-1] == "rawtx":
        yield from _transactions(data, known)
    if path[-1] == "script" or path[-1] == "deposit_script":
        yield from _scripts(data, known, rng)
    if path[-1] == "signature":
        yield "high S", high_s(data).hex()
    if path[-1] == "pubkey":
        yield "the other of the same x", _flip(data, 0, 1).hex()
        yield "no point of the curve", b"\x02".hex() + "ff" * 32


def _flip(data: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= bit
    return bytes(changed)


def _lists(value: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    if value:
        yield "empty", []
        yield "repeated", [*value, value[-1]]
        yield "an item of another type", [*value, 5]
        yield "null in it", [*value, None]
        yield "nested", [list(value)]
        yield "ten thousand", [value[0]] * 10_000
    if len(value) > 1:
        yield "swapped", list(reversed(value))
        yield "one left out", list(value[:-1])
    else:
        yield "an item more", [*value, "00" * 32]


def signature_shaped(rng: random.Random) -> bytes:
    """A secret that Counterparty takes for a signature."""
    return b"\x30\x1d\x02\x0c" + rng.randbytes(12) + b"\x02\x0d" + rng.randbytes(13) + b"\x02"


def high_s(der: bytes) -> bytes:
    """The other valid signature of the same message: with the high S; the same bytes where it is no DER."""
    if len(der) < 8 or der[0] != 0x30 or der[3] + 6 > len(der):
        return der[::-1]
    r_end = 4 + der[3]
    r, s = der[4:r_end], int.from_bytes(der[r_end + 2 : r_end + 2 + der[r_end + 1]], "big")
    other = (_ORDER - s).to_bytes(33, "big").lstrip(b"\0")
    other = b"\0" + other if other[0] & 0x80 else other
    body = b"\x02" + bytes((len(r),)) + r + b"\x02" + bytes((len(other),)) + other
    return b"\x30" + bytes((len(body),)) + body


# Scripts and transactions -------------------------------------------------------------------------------------------


def _scripts(data: bytes, known: Known, rng: random.Random) -> Iterator[tuple[str, Any]]:
    items = list(CScript(data))
    own = [n for n, item in enumerate(items) if isinstance(item, bytes) and len(item) in (20, 33)]
    for count, n in enumerate(own):
        size = len(items[n])
        other = rng.randbytes(20) if size == 20 else Key(rng.randbytes(32)).pubkey
        what = "hash" if size == 20 else "key"
        yield f"another {what} ({count})", CScript([*items[:n], other, *items[n + 1 :]]).hex()
        if size == 20:
            for kind, text in known.hashes.items():
                changed = CScript([*items[:n], bytes.fromhex(text), *items[n + 1 :]]).hex()
                if changed != data.hex():
                    yield f"{kind} ({count})", changed
    keys = [n for n in own if len(items[n]) == 33]
    if len(keys) > 1:
        swapped = list(items)
        swapped[keys[0]], swapped[keys[1]] = items[keys[1]], items[keys[0]]
        yield "keys swapped", CScript(swapped).hex()
    yield "an opcode more", (data + b"\x51").hex()
    yield "OP_TRUE", "51"


def _transactions(raw: bytes, known: Known) -> Iterator[tuple[str, Any]]:
    tx = CTransaction.deserialize(raw)
    changes: dict[str, Callable[[CMutableTransaction], None]] = {
        "version 2": lambda new: setattr(new, "nVersion", 2),
        "version 3": lambda new: setattr(new, "nVersion", 3),
        "a lock time": lambda new: setattr(new, "nLockTime", 2**31 - 1),
        "another sequence": lambda new: setattr(new.vin[0], "nSequence", 0xFFFFFFFE),
        "a relative lock": lambda new: setattr(new.vin[0], "nSequence", 500),
        "another output first": lambda new: new.vout.insert(0, CTxOut(546, new.vout[0].scriptPubKey)),
        "another output last": lambda new: new.vout.append(CTxOut(546, new.vout[0].scriptPubKey)),
        "no change": lambda new: new.vout.pop(),
        "outputs swapped": lambda new: new.vout.reverse(),
        "data left out": lambda new: new.vout.pop(1),
        "a satoshi less for the commit": lambda new: _value(new, 0, -1),
        "a satoshi more for the commit": lambda new: _value(new, 0, 1),
        "a satoshi more for the change": lambda new: _value(new, 2, 1),
        "dust": lambda new: _value(new, 0, 500 - new.vout[0].nValue),
        "another outpoint": lambda new: setattr(new.vin[0].prevout, "n", 1),
        "two inputs": lambda new: new.vin.append(new.vin[0]),
        "another input first": lambda new: new.vin.insert(0, CTxIn()),
        "no inputs": lambda new: new.vin.clear(),
        "no signature": lambda new: setattr(new.vin[0], "scriptSig", CScript()),
        "another data": lambda new: _script(new, 1, _flip(bytes(new.vout[1].scriptPubKey), -1, 1)),
        "paid elsewhere": lambda new: _script(new, 0, bytes(new.vout[2].scriptPubKey)),
    }  # fmt: skip
    for kind, change in changes.items():
        new = CMutableTransaction.from_tx(tx)
        change(new)
        yield kind, _serialized(new)
    yield from _signatures(raw)
    yield "twice", (raw + raw).hex()


def _serialized(tx: CMutableTransaction) -> str:
    text: str = tx.serialize().hex()
    return text


def _value(tx: CMutableTransaction, number: int, more: int) -> None:
    tx.vout[number].nValue += more


def _script(tx: CMutableTransaction, number: int, script: bytes) -> None:
    tx.vout[number].scriptPubKey = CScript(script)


def _signatures(raw: bytes) -> Iterator[tuple[str, Any]]:
    """The payer's signature, the first push of the only scriptSig, changed; the rest as it is."""
    start = 44 if raw[41] == 0xFD else 42
    size = raw[start + 1]
    signature = raw[start + 2 : start + 2 + size]
    for kind, other in {
        "signature of something else": _flip(signature, 20, 1),
        "SIGHASH_NONE": signature[:-1] + b"\x02",
        "SIGHASH_SINGLE": signature[:-1] + b"\x03",
        "SIGHASH_ALL|ANYONECANPAY": signature[:-1] + b"\x81",
        "hash type 0": signature[:-1] + b"\x00",
        "no hash type": signature[:-1],
        "signature with high S": high_s(signature[:-1]) + b"\x01",
    }.items():
        grown = len(other) - size
        head = raw[:start]
        length = int.from_bytes(raw[42:44], "little") if start == 44 else raw[41]
        counted = (length + grown).to_bytes(2, "little") if start == 44 else bytes((length + grown,))
        head = raw[:42] + counted if start == 44 else raw[:41] + counted
        yield kind, (head + raw[start : start + 1] + bytes((len(other),)) + other + raw[start + 2 + size :]).hex()

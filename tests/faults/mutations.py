"""Every kind of change that a liar makes to a member of a message."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from envelope_support import ENVELOPE, bare

from picopayments_cli.channel.counterparty import p2pkh, p2sh
from picopayments_cli.channel.keys import NUMS, SCHNORR_SIZE
from picopayments_cli.channel.values import MAX_QUANTITY

T = TypeVar("T")
Path = tuple[str | int, ...]
Sign = Callable[[Mapping[str, Any]], dict[str, Any]]  # adds the envelope to a body
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

    def forged(self, message: Any, sign: Sign | None) -> Any:
        """The changed message, signed again where there is ``sign``, and the change leaves anything to sign."""
        changed = self.apply(message)
        whole = self.member == "(whole)" and self.kind != "additional member"
        if sign is None or not isinstance(changed, Mapping) or self.member in ENVELOPE or whole:
            return changed
        return sign(bare(changed))


@dataclass
class Known:
    """Values that a liar has at hand, by their sizes in bytes, and other messages."""

    values: Mapping[str, bytes] = field(default_factory=dict)
    messages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def mutations(message: Mapping[str, Any], known: Known, rng: random.Random) -> list[Mutation]:
    """All changes of a message, each member by each kind that it can have."""
    found: dict[str, Mutation] = {}
    for path, value in _members(message, ()):
        kinds = [*_kinds(path, value, known, rng)]
        kinds += [(kind, _get(other, path)) for kind, other in known.messages.items()]
        for kind, replacement in kinds:
            if replacement is _DELETED or json.dumps(replacement) != json.dumps(value):
                change = Mutation(_name(path), kind, setter(path, replacement))
                found.setdefault(change.pair, change)
    wholes: dict[str, Any] = {
        "null": None,
        "text": "x",
        "list": [],
        "object without members": {},
        "number": 1,
        "in a list": [message],
    }
    for kind, other in {**known.messages, **wholes}.items():
        found[f"(whole) | {kind}"] = Mutation("(whole)", kind, _constant(other))
    extra = {"another": [1, {"deep": None}]}
    found["(whole) | additional member"] = Mutation("(whole)", "additional member", lambda body: {**body, **extra})
    return list(found.values())


def chosen(found: Sequence[T], number: int | None, rng: random.Random) -> list[T]:
    """So many of them, or all."""
    return list(found) if number is None else rng.sample(found, min(number, len(found)))


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


def _get(message: Any, path: Sequence[Any]) -> Any:
    for part in path:
        try:
            message = message[part]
        except (KeyError, IndexError, TypeError):
            return _DELETED
    return message


def setter(path: Path, value: Any) -> Callable[[Any], Any]:
    """Return what puts a value in the place that a path names; it leaves alone what has no such place."""

    def apply(message: Any) -> Any:
        last: Any
        changed = json.loads(json.dumps(message))
        place, last = _get(changed, path[:-1]), path[-1]
        if value is not _DELETED:
            if isinstance(place, dict) or (isinstance(place, list) and place):
                place[last] = copy.deepcopy(value)
        elif _get(place, path[-1:]) is not _DELETED:
            del place[last]
        return changed

    return apply


# Kinds --------------------------------------------------------------------------------------------------------------


def _kinds(path: Path, value: Any, known: Known, rng: random.Random) -> Iterator[tuple[str, Any]]:
    yield "missing", _DELETED
    for kind, other in (("null", None), ("false", False), ("zero", 0), ("text", "x"), ("list", []), ("object", {})):
        if other != value or isinstance(other, bool):
            yield kind, other
    yield "in a list", [value]
    yield "in an object", {path[-1] if isinstance(path[-1], str) else "0": value}
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _numbers(value)
    elif isinstance(value, str) and _is_hex(value):
        yield from _hexes(path, value, known, rng)
    elif isinstance(value, str) and ":" in value:
        yield from _outpoints(value, rng)
    elif isinstance(value, list):
        yield from _lists(value)
    elif isinstance(value, Mapping):
        yield "additional member", {**value, "another": 1}
        yield "pairs", [list(item) for item in value.items()]
    elif value is None:
        yield "a number", 1
        yield from ((kind, other.hex()) for kind, other in known.values.items())


def _numbers(value: float) -> Iterator[tuple[str, Any]]:
    yield "one more", value + 1
    yield "one less", value - 1
    yield "one", 1
    yield "negative", -value or -1
    yield "tenfold", value * 10 or 10
    yield "as text", str(value)
    yield "as a fraction", value + 0.5
    yield "as a float", float(value) if isinstance(value, int) else int(value)
    yield "2^31", 2**31
    yield "500,000,000", 500_000_000
    yield "2^63 - 1", MAX_QUANTITY
    yield "2^63", MAX_QUANTITY + 1
    yield "10^400", 10**400
    yield "10^300, a float", 1e300
    yield "true", True


def _is_hex(text: str) -> bool:
    return len(text) >= 32 and len(text) % 2 == 0 and set(text) <= set("0123456789abcdef")


def _hexes(path: Path, text: str, known: Known, rng: random.Random) -> Iterator[tuple[str, Any]]:
    data = bytes.fromhex(text)
    yield "one bit changed", _flip(data, 0, 1).hex()
    yield "last bit changed", _flip(data, -1, 1).hex()
    yield "one byte less", data[:-1].hex()
    yield "one byte more", (data + b"\0").hex()
    yield "one byte before", (b"\x02" + data).hex()
    yield "half a byte less", text[:-1]
    yield "nothing", ""
    yield "zeros", bytes(len(data)).hex()
    yield "ones", "ff" * len(data)
    yield "at random", rng.randbytes(len(data)).hex()
    yield "upper case", text.upper() if text.upper() != text else text + "A"
    yield "520 bytes more", (data + bytes(520)).hex()
    yield "reversed", data[::-1].hex()
    yield "with a space", text[:2] + " " + text[3:]
    yield from ((kind, other.hex()) for kind, other in known.values.items() if len(other) == len(data))
    if path[-1] == "signature" and len(path) == 1:
        yield "high S", high_s(data).hex()
    elif str(path[-1]).endswith("signature"):
        yield from _schnorr(data)
    elif str(path[-1]).endswith("_key"):
        yield "the point without an owner", NUMS.data.hex()
        yield "an uncompressed key", (b"\x04" + data + rng.randbytes(32)).hex()
    elif path[-1] in ("wallet_script", "deposit_output"):
        yield from _scripts(rng)
    elif path[-1] == "pubkey":
        yield "the other of the same x", _flip(data, 0, 1).hex()
        yield "no point of the curve", b"\x02".hex() + "ff" * 32


def _schnorr(data: bytes) -> Iterator[tuple[str, Any]]:
    """Other forms of a channel signature, with its hash type or without."""
    bare, s = data[:SCHNORR_SIZE], int.from_bytes(data[32:SCHNORR_SIZE], "big")
    hash_type = data[SCHNORR_SIZE:]
    for number in (0, 1, 2, 3, 0x81, 0x82, 0x83, 0xFF):
        if hash_type != bytes((number,)):
            yield f"hash type {number:#04x}", (bare + bytes((number,))).hex()
    yield "no hash type", (bare if hash_type else bare[:-1]).hex()
    yield "s negated", (bare[:32] + (_ORDER - s).to_bytes(32, "big") + hash_type).hex()
    yield "s and the order", (bare[:32] + ((s + _ORDER) % 2**256).to_bytes(32, "big") + hash_type).hex()
    yield "halves swapped", (bare[32:] + bare[:32] + hash_type).hex()


def _scripts(rng: random.Random) -> Iterator[tuple[str, Any]]:
    program = rng.randbytes(32)
    yield "another's P2PKH", p2pkh(program[:20]).hex()
    yield "another's P2WPKH", (b"\x00\x14" + program[:20]).hex()
    yield "P2SH", p2sh(program[:20]).hex()
    yield "P2WSH", (b"\x00\x20" + program).hex()
    yield "P2TR", (b"\x51\x20" + program).hex()
    yield "data", (b"\x6a\x20" + program).hex()
    yield "P2A", "51024e73"


def _outpoints(text: str, rng: random.Random) -> Iterator[tuple[str, Any]]:
    txid, _, number = text.partition(":")
    yield "another output", f"{txid}:{int(number) + 1}"
    yield "another transaction", f"{rng.randbytes(32).hex()}:{number}"
    yield "upper case", text.upper() if text.upper() != text else text + "0"
    yield "reversed", f"{bytes.fromhex(txid)[::-1].hex()}:{number}"
    for kind, other in (("leading zero", "00"), ("negative", "-1"), ("2^32", str(2**32)), ("other digits", "\u0663")):
        yield kind, f"{txid}:{other}"
    yield "without a number", txid


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
        yield "as an object", {str(n): item for n, item in enumerate(value)}
        yield "ten thousand", [value[0]] * 10_000
    if len(value) > 1:
        yield "swapped", list(reversed(value))
        yield "the first left out", list(value[1:])
        yield "the last left out", list(value[:-1])
    else:
        yield "an item more", [*value, "00" * 32]


def high_s(der: bytes) -> bytes:
    """The other valid ECDSA signature of the same message: with the high S; reversed bytes where it is no DER."""
    if len(der) < 8 or der[0] != 0x30 or der[3] + 6 > len(der):
        return der[::-1]
    r_end = 4 + der[3]
    r, s = der[4:r_end], int.from_bytes(der[r_end + 2 : r_end + 2 + der[r_end + 1]], "big")
    other = (_ORDER - s).to_bytes(33, "big").lstrip(b"\0")
    other = b"\0" + other if other[0] & 0x80 else other
    body = b"\x02" + bytes((len(r),)) + r + b"\x02" + bytes((len(other),)) + other
    return b"\x30" + bytes((len(body),)) + body

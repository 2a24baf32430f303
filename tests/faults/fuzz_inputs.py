"""Inputs of the fuzzers: junk, and valid values after something happened to them."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

_SEEDS = st.integers(0, 2**64 - 1)
BYTES = (
    *(b"", b"\x00", b"\xff", b"\x00" * 33, b"\xff" * 9, b"\x4c", b"\x4d\xff\xff", b"\x4e\xff\xff\xff\xff", b"\x80"),
    *(b"\xfd\xff\xff", b"\xfe\xff\xff\xff\x7f", b"\xff" * 8 + b"\x7f", b"\x30\x1d\x02", b"\n", b"\r\n\r\n", b'"'),
    *(b"[" * 70, b'{"":' * 70, b"9" * 5000, b"1e999", b"-0", b"NaN", b"null", b"\\ud800", b"%00", b"../"),
    "é\uffff\U00010000".encode(),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400, 0.1, -0.0, 1e308),
    *("", "0", "00", "ff" * 20, "00" * 32, "FF" * 32, "x" * 300, "9" * 5000, "-1", "1e5", "٣", "\x00", "\U0010ffff"),
    *([], {}, [[]], [None], {"": None}, {"0": []}, [0] * 300, "XCP", "BTC", "A" + "9" * 20, "../..", "é"),
)


def mutated_bytes(sample: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """A text or message to which one to four things have happened."""
    data = bytearray(sample)
    for _ in range(rng.randint(1, 4)):
        at, to = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        other, junk = rng.choice(others), rng.randbytes(rng.randint(1, 9))
        put = rng.choice((b"", junk, rng.choice(BYTES), data[at:to] * 2, other[: rng.randrange(40)], other))
        data[at : rng.choice((at, at + 1, to))] = put
    return bytes(data[:20_000])


def mutated_value(sample: Any, rng: random.Random) -> Any:
    """A JSON value of which one to three members have changed."""
    value = json.loads(json.dumps(sample))
    for _ in range(rng.randint(1, 3)):
        value = _changed(value, rng)
    return value


def _changed(value: Any, rng: random.Random) -> Any:
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        if rng.random() < 0.15:
            del value[key]
        else:
            value[key] = _changed(value[key], rng)
        return value
    if isinstance(value, dict) and rng.random() < 0.3:
        return {**value, rng.choice(("", "another", "handle", "__class__")): copy.deepcopy(rng.choice(VALUES))}
    if isinstance(value, str) and value and rng.random() < 0.6:
        return mutated_bytes(value.encode("utf-8", "surrogatepass"), BYTES, rng).decode("utf-8", "replace")
    if isinstance(value, int) and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 2**32, -(2**63), 10**30))
    return copy.deepcopy(rng.choice(([value], {"a": value}, rng.choice(VALUES), rng.choice(VALUES))))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def _drawn(make: Callable[[random.Random], Any]) -> SearchStrategy[Any]:
    return _SEEDS.map(lambda seed: make(random.Random(seed)))


def some_bytes(*samples: bytes) -> SearchStrategy[bytes]:
    """Junk, samples, and mostly samples to which something happened."""
    known = samples or (b"",)
    changed = _drawn(lambda rng: mutated_bytes(rng.choice(known), (*known, *BYTES), rng))
    return st.one_of(changed, changed, changed, st.sampled_from(known), st.binary(max_size=120))


def some_text(*samples: str) -> SearchStrategy[str]:
    """Text, valid until something happened to it."""
    changed = some_bytes(*(sample.encode() for sample in samples)).map(lambda data: data.decode("utf-8", "replace"))
    return st.one_of(changed, changed, st.text(max_size=60))


def some_json(*samples: Any) -> SearchStrategy[Any]:
    """JSON values, valid until something happened to them."""
    known = samples or ({},)
    changed = _drawn(lambda rng: mutated_value(rng.choice(known), rng))
    return st.one_of(changed, changed, changed, st.sampled_from(known), st.sampled_from(VALUES), JSON)

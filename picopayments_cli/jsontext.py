"""JSON that came from a stranger, parsed within bounds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

MAX_NUMBER = (
    32  # characters of a number: long ones take long to read; a quantity has 19 digits, a fraction 24 characters
)
MAX_DEPTH = 64  # of nested objects and lists: what handles them later recurses and must not run out of stack


def parse_json(body: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises ValueError for what is no JSON, and for NaN, infinities, numbers of more than MAX_NUMBER characters, nesting
    deeper than MAX_DEPTH, and text that is not Unicode (half a surrogate pair).
    """
    try:
        value = _decode(body.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise ValueError("nested too deeply")
    if b"\\u" in body:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _whole(text: str) -> int:
    return int(_short(text))


def _finite(text: str) -> float:
    number = float(_short(text))
    if not math.isfinite(number):
        raise ValueError(f"{text} is out of range")
    return number


def _short(text: str) -> str:
    if len(text) > MAX_NUMBER:
        raise ValueError(f"a number has {len(text)} characters")
    return text


_decode: Callable[[str], Any] = json.JSONDecoder(
    parse_constant=_no_constant, parse_int=_whole, parse_float=_finite
).decode


def _deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True

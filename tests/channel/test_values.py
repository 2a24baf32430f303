"""The values that everything is made of, at their bounds."""

from __future__ import annotations

from typing import Any

import pytest

from picopayments_cli.channel.values import (
    MAX_TOKEN_SIZE,
    Coin,
    Entry,
    Height,
    Outpoint,
    check_quantity,
    check_token,
    from_hex,
)
from picopayments_cli.errors import InvalidHex, InvalidQuantity


@pytest.mark.parametrize("value", ["", "ab", "00ff"])
def test_lower_case_hex_is_read(value: str) -> None:
    assert from_hex(value, "thing").hex() == value


NO_HEX: list[Any] = ["a", "AB", "aB", "0x00", " ab", "ab ", "gg", "\uff10\uff10", b"ab", None, 5, ["ab"], {}]


@pytest.mark.parametrize("value", NO_HEX)
def test_other_text_than_lower_case_hex_is_refused(value: Any) -> None:
    with pytest.raises(InvalidHex):
        from_hex(value, "thing")


def test_hex_of_another_size_is_refused() -> None:
    for value in ("", "ab", "abab" * 2):
        with pytest.raises(InvalidHex):
            from_hex(value, "thing", 2)


@pytest.mark.parametrize(
    ("value", "size", "told"),
    [
        ("abc", None, "an even number of hex digits, two for each byte, not 3"),
        ("abc", 2, "2 bytes of hex (4 digits), not 3 digits"),
        ("ab", 2, "2 bytes of hex (4 digits), not 2 digits"),
        ("ab" * 3, 2, "2 bytes of hex (4 digits), not 6 digits"),
        ("ABC", 2, "lower-case hex"),
    ],
)
def test_hex_of_a_wrong_length_is_told_its_length(value: str, size: int | None, told: str) -> None:
    with pytest.raises(InvalidHex) as refused:
        from_hex(value, "thing", size)
    assert refused.value.message == f"The thing must {'be' if size else 'have'} {told}."


def test_an_outpoint_has_a_txid_and_one_number() -> None:
    assert Outpoint.parse(f"{'ab' * 32}:{2**32 - 1}").vout == 2**32 - 1
    for end in ("", "x", "-1", "1.0", "\u00b2", str(2**32), "9" * 5000, "1:1"):
        with pytest.raises(InvalidHex):
            Outpoint.parse(f"{'ab' * 32}:{end}")
    for bad in ("ab:1", "ab" * 32, f"{'ab' * 31}:1"):
        with pytest.raises(InvalidHex):
            Outpoint.parse(bad)
    assert str(Outpoint.parse(f"{'ab' * 31}cd:7")) == f"{'ab' * 31}cd:7"
    assert Outpoint.parse(f"{'ab' * 31}cd:7").txid == b"\xcd" + b"\xab" * 31


@pytest.mark.parametrize("value", [0, -1, 2**63, True, 1.0, "1", None, [1], float("nan")])
def test_other_values_than_quantities_are_refused(value: Any) -> None:
    with pytest.raises(InvalidQuantity):
        check_quantity(value)


def test_quantities_are_taken_to_their_limits() -> None:
    assert [check_quantity(value) for value in (1, 2**63 - 1)] == [1, 2**63 - 1]


def test_a_token_has_a_byte_at_least_and_a_longest_size() -> None:
    assert check_token("00") == b"\0"
    assert len(check_token("ab" * MAX_TOKEN_SIZE)) == MAX_TOKEN_SIZE
    for bad in ("", "ab" * (MAX_TOKEN_SIZE + 1), "AB", None):
        with pytest.raises(InvalidHex):
            check_token(bad)


def test_an_unconfirmed_coin_has_no_depth() -> None:
    height, outpoint = Height(100), Outpoint(bytes(32), 0)
    assert Coin(outpoint, 1, b"", height).depth(100) == 1
    assert Entry(b"", b"", height).depth(105) == 6
    assert Coin(outpoint, 1, b"", None).depth(105) == 0
    assert Entry(b"", b"", None).depth(105) == 0

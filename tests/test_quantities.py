"""Quantities as people write them: exact, or refused."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel.values import MAX_QUANTITY
from picopayments_cli.errors import InvalidQuantity
from picopayments_cli.quantities import read_quantity


@given(st.integers(1, MAX_QUANTITY))
def test_satoshis_are_read_as_they_are(quantity: int) -> None:
    assert read_quantity(str(quantity)).quantity(True) == quantity
    assert read_quantity(f"{quantity}MYTOKEN").quantity(False) == quantity


@given(st.integers(1, MAX_QUANTITY))
def test_satoshis_are_read_as_people_are_shown_them(quantity: int) -> None:
    """Never with a unit: to one reader 1,500XCP is more than a thousand times what it is to another."""
    assert read_quantity(f"{quantity:,}").quantity(True) == quantity
    for text in (f"{quantity:,}XCP" if quantity > 999 else "1,5", f"{quantity},00", f",{quantity}", "1000,000"):
        with pytest.raises(InvalidQuantity):
            read_quantity(text)


UNITS = ["BTC", "XCP", "MYTOKEN", "A95428956661682177", "PARENT.child_1-@!."]


@given(st.integers(1, MAX_QUANTITY), st.sampled_from(UNITS))
def test_a_unit_with_decimals_counts_exactly(quantity: int, unit: str) -> None:
    text = f"{Decimal(quantity).scaleb(-8):f}{unit}"
    written = read_quantity(text)
    assert written.unit == unit
    assert written.quantity(True) == quantity
    assert str(written) == text


@pytest.mark.parametrize(
    ("text", "divisible", "satoshis"),
    [
        ("1.5XCP", True, 150_000_000),
        ("0.00000001XCP", True, 1),
        ("1XCP", True, 100_000_000),
        ("007", True, 7),
        ("7MYTOKEN", False, 7),
        (f"{MAX_QUANTITY}", True, MAX_QUANTITY),
    ],
)
def test_quantities(text: str, divisible: bool, satoshis: int) -> None:
    assert read_quantity(text).quantity(divisible) == satoshis


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "-1", "+1", "1.5", "1.", ".5XCP", "1.XCP", "1e8", "1 XCP", " 1", "1\n", "1,5XCP", "1xcp", "٣"),
        *("1.٣XCP", "1XCP.", "1AB", "1ABCD", "1A12345", "1XC", "1BCDEFGHIJKLMN", "1XCP2", "1MYTOKEN/x"),
        *("9" * 31, "1." + "1" * 31 + "XCP"),
    ],
)
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(InvalidQuantity) as refused:
        read_quantity(text, "fee")
    assert refused.value.data == {"what": "fee", "value": text}
    assert refused.value.message.startswith("The fee must be a whole number")


@pytest.mark.parametrize(
    ("text", "divisible"), [("1.000000001XCP", True), ("1.5MYTOKEN", False), ("1.0MYTOKEN", False)]
)
def test_more_decimals_than_the_unit_has_are_refused(text: str, divisible: bool) -> None:
    with pytest.raises(InvalidQuantity, match=r"has \d decimals; \w+ has [08]") as refused:
        read_quantity(text).quantity(divisible)
    assert refused.value.data == {"what": "quantity", "value": text, "decimals": 8 if divisible else 0}


@pytest.mark.parametrize("text", [str(MAX_QUANTITY + 1), "92233720368.54775808XCP", "9" * 30])
def test_more_than_the_ledger_can_hold_is_refused(text: str) -> None:
    with pytest.raises(InvalidQuantity):
        read_quantity(text).quantity(True)

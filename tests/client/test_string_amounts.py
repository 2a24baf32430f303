"""Every quantity as text: all that the documents show, and any document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.client.string_amounts import with_string_amounts
from picopayments_cli.quantities import BY_ASSET, QUANTITIES

REFERENCE = (Path(__file__).parents[2] / "docs" / "commands.rst").read_text(encoding="utf-8")
NUMBERS = {  # that are no quantities: times, counts, places, rates
    *("confirmations", "deposit_ratio", "expire_max", "expire_min", "fee_rate", "fee_rate_max", "locktime", "minimum"),
    *("count", "index", "n", "number", "sequence", "size", "ttl", "version", "vout"),
    *("closing", "deposit_by", "lock_rate", "open", "opening"),
    *("age", "bytes", "changes", "payments"),
}


def examples() -> Iterator[tuple[str, Any]]:
    """Each command of the reference with the document that it is shown to print."""
    for section in re.split(r"\n\n\n(?=\w+\n=+\n)", REFERENCE.split("\nCommands\n########\n")[1]):
        name = section.strip().partition("\n")[0]
        block = re.search(r"\n\.\. code::\n\n((?:    .*\n|\n)+)", section + "\n")
        if block is not None and name.isalpha() and name.islower():
            yield name, json.loads(block[1])


EXAMPLES = list(examples())


def numbers(value: Any, name: str = "", above: str = "") -> Iterator[tuple[str, str, int | float]]:
    """Each number of a document, with its name and that of the object it stands in."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers(item, key, name)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item, name, above)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, above, value


@pytest.mark.parametrize(("command", "document"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_every_number_of_the_reference_is_known_for_what_it_is(command: str, document: Any) -> None:
    found = list(numbers(document, command))
    unknown = [name for name, above, _ in found if name not in QUANTITIES | NUMBERS and above not in BY_ASSET]
    assert [name for name in unknown if command != "config"] == []
    written = list(numbers(with_string_amounts(command, document), command))
    assert [name for name, _, _ in written if name not in NUMBERS and command != "config"] == []


def test_the_reference_shows_what_most_commands_print() -> None:
    assert {"hubstatus", "balances", "status", "sync", "history", "listutxos", "getrawtx"} <= dict(EXAMPLES).keys()


def test_a_document_of_each_shape() -> None:
    big = 2**63 - 1
    assert with_string_amounts("balances", {"BTC": 1, "XCP": big}) == {"BTC": "1", "XCP": str(big)}
    assert with_string_amounts("listutxos", [{"amount": 0.00000001, "value": 1, "vout": 1}]) == [
        {"amount": "1", "value": "1", "vout": 1}
    ]
    assert with_string_amounts("listutxos", [{"amount": 20999999.9769}]) == [{"amount": "2099999997690000"}]
    assert with_string_amounts("config", {"source": "file", "value": 20}) == {"source": "file", "value": 20}
    for same in (None, True, "token", ["ab"], {"sent": None, "received": True}):
        assert with_string_amounts("sync", same) == same


@given(st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**63 - 1) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["amount", "balance", "ttl", "x"]), inner, max_size=3),
))  # fmt: skip
def test_nothing_is_lost_but_the_kind_of_number(document: Any) -> None:
    written = with_string_amounts("sync", document)
    assert json.loads(json.dumps(written)) == written
    before = [(name, str(value)) for name, _, value in numbers(document)]
    for name, _, value in numbers(written):
        assert name not in QUANTITIES
        assert (name, str(value)) in before

"""Cut what is asked of the database into lists that one statement takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

AT_ONCE = 500  # values in one statement; databases take a thousand at least

Item = TypeVar("Item")


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Cut items into lists of at most ``AT_ONCE``; none where there is no item."""
    rest = iter(items)
    while some := list(islice(rest, AT_ONCE)):
        yield some

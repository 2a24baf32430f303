"""Tell why connections failed: one line for each cause, and none for the cause that the command's own error names."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from picopayments_cli.channel.values import LEAST_DIGITS, Handle
from picopayments_cli.errors import PicopaymentsError

log = logging.getLogger(__name__)


def cause(error: PicopaymentsError) -> tuple[str, ...]:
    """Return what is the same in all errors of one cause: of a server that is away its URL and the reason."""
    url = error.data.get("url")
    return (error.message,) if url is None else (error.name, str(url), str(error.data.get("reason")))


def tell(failed: Mapping[Handle, PicopaymentsError], told: Iterable[tuple[str, ...]] = ()) -> None:
    """Write a line for each cause that is not ``told``, with the connections that it has."""
    causes: dict[tuple[str, ...], list[Handle]] = {}
    for handle, error in failed.items():
        causes.setdefault(cause(error), []).append(handle)
    known = set(told)
    for key, (first, *others) in causes.items():
        if key not in known:
            names = ", ".join(item.hex()[:LEAST_DIGITS] for item in (first, *others)) if others else first.hex()
            log.warning("connection%s %s: %s", "s" if others else "", names, failed[first].message)

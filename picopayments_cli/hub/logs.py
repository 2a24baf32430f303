"""Write a line about a connection into the log. Its text stands where that comes about; docs/hub.rst lists them all."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from picopayments_cli.hub.account import Account


def note(log: logging.Logger, event: str, account: Account, **fields: Any) -> None:
    """Write a line with the connection's handle."""
    log.info(event, extra={"fields": {"handle": account.handle.hex(), **fields}})

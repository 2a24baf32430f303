"""Log what comes about with a connection."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from picopayments_cli.hub.account import Account


def note(log: logging.Logger, event: str, account: Account, **fields: Any) -> None:
    """Log what has come about with a connection."""
    log.info(event, extra={"fields": {"handle": account.handle.hex(), **fields}})

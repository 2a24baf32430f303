"""The hub's log: one JSON object a line on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

from picopayments_cli.errors import PicopaymentsError

if TYPE_CHECKING:
    from picopayments_cli.hub.account import Account


class JsonLines(logging.Formatter):
    """A record as ``{"time", "level", "event", ...}``: the message is the event, the extra ``fields`` its numbers.

    Of an expected error only its cause, message and data are told, of any other the traceback too.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write the record's line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            error = record.exc_info[1]
            if isinstance(error, PicopaymentsError):
                line["error"] = error.as_json()
            else:
                line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(debug: bool) -> None:
    """Send every logger's records to stderr; ``debug`` adds those of our own that are of level debug."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("picopayments_cli").setLevel(logging.DEBUG if debug else logging.INFO)


def note(log: logging.Logger, event: str, account: Account, **fields: Any) -> None:
    """Log what has come about with a connection."""
    log.info(event, extra={"fields": {"handle": account.handle.hex(), **fields}})

"""A log of one JSON object a line on stderr, for hub and regtest node."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time

from picopayments_cli.errors import PicopaymentsError

log = logging.getLogger(__name__)


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


def log_to_stderr(own: int) -> None:
    """Send every logger's records to stderr, other programs' from level warning on, our own from level ``own`` on.

    Python's warnings, and the failures of threads, go there too.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("picopayments_cli").setLevel(own)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # what comes of repeated requests, our own errors tell
    logging.captureWarnings(True)
    threading.excepthook = _log_thread


def _log_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        log.error("a thread failed", exc_info=args.exc_value)

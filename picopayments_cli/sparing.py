"""Let few of those log lines through that strangers can cause, and say how many were left out."""

from __future__ import annotations

import logging
import threading
import time

log = logging.getLogger(__name__)

MOST = 10  # lines of one logger, from level warning on, in so many
SECONDS = 60.0
# Of the server, which warns of each request that is none, and of programs' faults that a request may hit.
LOGGERS = ("uvicorn.error", "asyncio", "picopayments_cli.door", "picopayments_cli.web", "picopayments_cli.hub.server")


class Sparing(logging.Filter):
    """Passes the first few lines of a minute; one line tells at its end how many were left out."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._of = name
        self._lock = threading.Lock()
        self._begun = float("-inf")
        self._passed = self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line may be written."""
        if record.levelno < logging.WARNING:
            return True
        with self._lock:
            now = time.monotonic()
            if now - self._begun >= SECONDS and not self._left_out:
                self._begun, self._passed = now, 0
            self._passed += 1
            if self._passed <= MOST:
                return True
            self._left_out += 1
            if self._left_out == 1:
                telling = threading.Timer(max(self._begun + SECONDS - now, 0), self._tell)
                telling.daemon = True
                telling.start()
        return False

    def _tell(self) -> None:
        with self._lock:
            number, self._left_out = self._left_out, 0
        log.warning("log lines left out", extra={"fields": {"logger": self._of, "number": number}})


def spare_logs() -> None:
    """Have all loggers that strangers can make write go through such a filter; once is enough."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(item, Sparing) for item in logger.filters):
            logger.addFilter(Sparing(name))

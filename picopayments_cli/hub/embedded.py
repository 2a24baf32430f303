"""The embedded regtest node: a child process that ends with the hub, however the hub ends."""

from __future__ import annotations

import json
import logging
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from picopayments_cli.errors import NodeUnreachable, PicopaymentsError
from picopayments_cli.processes import end, python, told_error

log = logging.getLogger(__name__)
START_SECONDS = 60
STOP_SECONDS = 10


class EmbeddedNode:
    """The regtest network of one basedir, running and ready; ``chain_url`` is where it listens."""

    def __init__(self, basedir: Path, port: int, block_time: int | None) -> None:
        """Start it and wait until it is ready. ``port`` 0: a free one. Raises NodeUnreachable, or its own error."""
        command = python("picopayments_cli.regtest.__main__", "--basedir", str(basedir))
        command += ["--port", str(port), "--with-parent"]
        if block_time is not None:
            command += ["--block-time", str(block_time)]
        # It ends when its standard input does: the pipe closes with this process, even killed. It has a session of its
        # own, so that Ctrl-C reaches the hub alone, which stops the node once it needs it no longer.
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._cause: dict[str, Any] | None = None
        self._relay = threading.Thread(target=self._pass_on, daemon=True)
        self._relay.start()
        try:
            self.chain_url: str = json.loads(self._first_line())["chain_url"]
        except BaseException:
            self.stop()
            raise

    def _pass_on(self) -> None:
        """Put what the node says on stderr into the log: its own log as it is, other lines, as of a crash, as text.

        An error that ends it is kept.
        """
        for line in self._process.stderr or ():
            try:
                told = json.loads(line)
            except (ValueError, RecursionError):
                told = None
            if not isinstance(told, dict):
                log.warning("node", extra={"fields": {"line": line.rstrip()}})
            elif set(told) == {"error"}:
                self._cause = told["error"]
            else:
                print(line, end="", file=sys.stderr, flush=True)

    def _first_line(self) -> str:
        stdout = self._process.stdout
        if stdout is None:
            raise NodeUnreachable("The embedded node has no output.")
        ready, _, _ = select.select([stdout], [], [], START_SECONDS)
        line = stdout.readline() if ready else ""
        if not line:
            code = self._process.poll() if not ready else self._process.wait(STOP_SECONDS)
            self._relay.join(STOP_SECONDS if ready else 0)
            raise self._failed(code, "" if ready else f" in {START_SECONDS} s")
        return line

    def _failed(self, code: int | None, late: str) -> PicopaymentsError:
        """Make the error of a start: the node's own where it told one."""
        named = None if self._cause is None else told_error(self._cause, "The embedded regtest node: ")
        return named or NodeUnreachable(
            f"The embedded regtest node did not start{late}: its own messages stand above.", exit_code=code
        )

    def stop(self) -> None:
        """End it cleanly; by force where it does not end in time."""
        end(self._process, STOP_SECONDS)
        self._relay.join(STOP_SECONDS)
        if self._process.stderr is not None and not self._relay.is_alive():
            self._process.stderr.close()

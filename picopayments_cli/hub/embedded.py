"""The embedded regtest node: a child process that ends with the hub, however the hub ends."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path

from picopayments_cli.errors import NodeUnreachable
from picopayments_cli.processes import end

START_SECONDS = 60
STOP_SECONDS = 10


class EmbeddedNode:
    """The regtest network of one basedir, running and ready; ``chain_url`` is where it listens."""

    def __init__(self, basedir: Path, port: int, block_time: int | None) -> None:
        """Start it and wait until it is ready. ``port`` 0 takes a free one. Raises NodeUnreachable."""
        command = [sys.executable, "-m", "picopayments_cli.regtest", "--basedir", str(basedir)]
        command += ["--port", str(port), "--with-parent"]
        if block_time is not None:
            command += ["--block-time", str(block_time)]
        # It ends when its standard input does: the pipe closes with this process, even killed. It has a session of its
        # own, so that Ctrl-C reaches the hub alone, which stops the node once it needs it no longer.
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            self.chain_url: str = json.loads(self._first_line())["chain_url"]
        except BaseException:
            self.stop()
            raise

    def _first_line(self) -> str:
        stdout = self._process.stdout
        if stdout is None:
            raise NodeUnreachable("The embedded node has no output.")
        ready, _, _ = select.select([stdout], [], [], START_SECONDS)
        line = stdout.readline() if ready else ""
        if not line:
            code = self._process.poll() if not ready else self._process.wait(STOP_SECONDS)
            raise NodeUnreachable(
                f"The embedded regtest node did not start{'' if ready else f' in {START_SECONDS} s'}: its own messages "
                "stand above.",
                exit_code=code,
            )
        return line

    def stop(self) -> None:
        """End it cleanly; by force where it does not end in time."""
        end(self._process, STOP_SECONDS)

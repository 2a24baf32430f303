"""Child processes: how one is started, how it ends with its parent, and how it is ended, its pipes with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from picopayments_cli import errors
from picopayments_cli.errors import PicopaymentsError

# It imports nothing from the current folder, which may be anybody's: `-m` would.
_START = "import sys; sys.path = [at for at in sys.path if at]; from {} import main; sys.exit(main())"
_FOLLOW = "import sys; sys.path = [at for at in sys.path if at]; from {} import follow_parent; follow_parent(); "


def python(module: str, *words: str, followed: bool = False) -> list[str]:
    """The command line that runs a module's ``main``; ``followed``: its standard input ends with its parent."""
    start = _START.format(module)
    return [sys.executable, "-c", (_FOLLOW.format(__name__) if followed else "") + start, *words]


def follow_parent() -> None:
    """End this process by SIGTERM when its standard input does: a pipe closes with a parent, even with a killed one."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def told_error(told: Mapping[str, Any], before: str = "") -> PicopaymentsError | None:
    """Make the error that a process told of as its last word, with ``before`` its message; None where it is none."""
    named = getattr(errors, str(told.get("name")), None)
    if not (isinstance(named, type) and issubclass(named, PicopaymentsError)):
        return None
    return named(f"{before}{told['message']}", **told["data"])


def end(process: subprocess.Popen[str], seconds: float) -> None:
    """Ask a process to end; by force where it does not in that time. Its pipes are closed."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # what it has never read goes with it
                pipe.close()

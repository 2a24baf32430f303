"""Child processes: how one is ended, and its pipes with it."""

from __future__ import annotations

import subprocess


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
            pipe.close()

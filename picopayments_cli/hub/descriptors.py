"""See that there are file descriptors enough for all connections that the hub takes."""

from __future__ import annotations

import resource

from picopayments_cli.door import AT_ONCE, MAX_CONNECTIONS
from picopayments_cli.errors import ResourcesExhausted

_OTHERS = 200  # beside the connections: files, the database's own connections, those to nodes
NEEDED = MAX_CONNECTIONS + 4 * AT_ONCE + _OTHERS  # two sockets; it takes two turns to close what gave its place


def raise_limit() -> None:
    """Take as many descriptors as the hub may need, where the system lets it. Raises ResourcesExhausted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= NEEDED:
        return
    if hard != resource.RLIM_INFINITY and hard < NEEDED:
        raise ResourcesExhausted(
            f"The hub may open {hard} files at a time, and needs {NEEDED} for all the connections that it takes. "
            "Raise the limit: `ulimit -n 1024` before the start, or LimitNOFILE=1024 in the service's unit.",
            limit=hard,
            needed=NEEDED,
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (NEEDED, hard))

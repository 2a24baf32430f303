"""See that there are file descriptors enough for all connections that the hub takes."""

from __future__ import annotations

import resource

from picopayments_cli.errors import ResourcesExhausted
from picopayments_cli.web import MAX_CONNECTIONS

_OTHERS = 100  # beside the connections: files, the database's own connections, those to nodes
_BURST = 4096  # taken where the system lets it: connections come faster than idle ones make room for them


def raise_limit() -> None:
    """Take as many descriptors as the hub may need, where the system lets it. Raises ResourcesExhausted."""
    needed = MAX_CONNECTIONS + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _BURST:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ResourcesExhausted(
            f"The hub may open {hard} files at a time, and needs {needed} for all the connections that it takes. Raise "
            "the limit: `ulimit -n 1024` before the start, or LimitNOFILE=1024 in the service's unit.",
            limit=hard,
            needed=needed,
        )
    most = _BURST if hard == resource.RLIM_INFINITY else min(_BURST, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))

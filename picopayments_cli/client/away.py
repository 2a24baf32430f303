"""Tell what can be done alone while a hub is away, and from which block on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from picopayments_cli.channel.stages import AGREED, CLOSING
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.session import Session
from picopayments_cli.config import Settings, place_of
from picopayments_cli.errors import HubUnreachable, PicopaymentsError


def advise(session: Session, error: HubUnreachable) -> None:
    """Add to a command's error what can be done alone with the connections of the hub that is away."""
    try:
        known = session.connections().values() if session.home.is_open else ()
    except PicopaymentsError:  # the error that there is counts
        known = ()
    told = advised(error, session.settings, at_hub(known, error))
    error.message, error.data = told.message, told.data


def at_hub(connections: Iterable[Connection], error: HubUnreachable) -> list[Connection]:
    """Choose the connections with a deposit at the hub that did not answer."""
    place = place_of(str(error.data.get("url")))
    return [item for item in connections if item.stage in (AGREED, CLOSING) and place_of(item.hub_url) == place]


def advised(error: HubUnreachable, settings: Settings, connections: Sequence[Connection]) -> HubUnreachable:
    """Make the error that also says what can be done alone; ``alone`` in its data has the blocks, by handle."""
    if "alone" in error.data:
        return error
    heights = {item.handle.hex(): item.expiry.height for item in connections}
    return HubUnreachable(f"{error.message}{_advice(settings, heights)}", **error.data, alone=heights)


def _advice(settings: Settings, heights: dict[str, int]) -> str:
    own, raises = settings.chain_url is not None, settings.bitcoin_url is not None
    if not heights:
        return "" if own else " With chain_url, a Counterparty node of your own, the chain is seen without a hub."
    first, last = min(heights.values()), max(heights.values())
    if len(heights) == 1:
        back = f"the deposit of {next(iter(heights))[:8]} comes back from block {first} on at the latest"
    else:
        back = f"the deposits of {len(heights)} connections come back from block {first} on, the last from {last} on"
    ways = [
        *(() if own else ("chain_url, a Counterparty node of your own",)),
        *(() if raises else ("bitcoin_url, a Bitcoin node beside it, which raises fees",)),
    ]
    given = f"with {', and '.join(ways)}, " if ways else ""
    closing = "`picopayments-cli close HANDLE`, then `picopayments-cli sync`, settle alone"
    return f" Without this hub, {given}{closing}: {back}."

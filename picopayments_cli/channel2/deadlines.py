"""How long a connection may go on: margins before an expiry, time to live, and how often to look.

Times are in blocks, heights those of the tip that the facts name.
"""

from __future__ import annotations

from picopayments_cli.channel2.duplex import Duplex
from picopayments_cli.channel2.facts import (
    Facts,
    anchor_spender,
    deposit_depth,
    is_replaced,
)
from picopayments_cli.channel2.state import Channel, Revoked

WIRE_CLEARANCE = 6  # blocks before expiry at which a connection's time to live is over
MIN_MARGIN, MAX_MARGIN = 6, 144  # blocks before expiry by which a payee settles
FINAL_DEPTH = 7  # blocks that no reorganisation of six takes away
WATCHED_REVOKED = 100  # revoked commits that a client without a Bitcoin node can watch


def time_to_live(channel: Channel, facts: Facts) -> int | None:
    """Count the blocks until six before anything on the deposit's address can expire: 0 or more; None: unconfirmed."""
    if not deposit_depth(channel, facts):
        return None
    oldest = max(entry.depth(facts.tip) for entry in facts.history)
    return max(channel.script.expire - oldest - WIRE_CLEARANCE, 0)


def connection_ttl(duplex: Duplex, sending: Facts, receiving: Facts) -> int | None:
    """Return the shorter time to live of the two deposits, or None while either is unconfirmed."""
    times = (time_to_live(duplex.sending, sending), time_to_live(duplex.receiving, receiving))
    return None if None in times else min(time for time in times if time is not None)


def settle_height(channel: Channel, agreed: int) -> int:
    """Return the height to settle at: an eighth of the expiry before anything there can expire, 6 to 144 blocks.

    The address was virgin at height ``agreed``, so that no coin on it is older, whatever a history shows: dust that the
    payer sends early moves the whole asset when it expires.
    """
    expire = channel.script.expire
    return agreed + 1 + expire - min(max(expire // 8, MIN_MARGIN), MAX_MARGIN)


def is_open(duplex: Duplex, sending: Facts, receiving: Facts, agreed: int, safe_depth: int) -> bool:
    """Tell whether both deposits are buried and unspent, and the deadline to settle by lies ahead."""
    pairs = ((duplex.sending, sending), (duplex.receiving, receiving))
    return receiving.tip < settle_height(duplex.receiving, agreed) and all(
        deposit_depth(channel, facts) >= safe_depth
        and anchor_spender(channel, facts) is None
        and bool(time_to_live(channel, facts))
        for channel, facts in pairs
    )


def must_close(duplex: Duplex, sending: Facts, receiving: Facts, agreed: int) -> bool:
    """Tell whether to settle: a deposit is spent or replaced, the deadline has come, or a history is not seen whole."""
    return (
        receiving.tip >= settle_height(duplex.receiving, agreed)
        or sending.truncated
        or receiving.truncated
        or is_replaced(duplex.sending, sending)
        or is_replaced(duplex.receiving, receiving)
        or anchor_spender(duplex.sending, sending) is not None
        or anchor_spender(duplex.receiving, receiving) is not None
        or time_to_live(duplex.sending, sending) == 0
        or time_to_live(duplex.receiving, receiving) == 0
    )


def exposed(channel: Channel) -> tuple[Revoked, ...]:
    """List the payer's revoked commits that would take more than the highest active one does; greatest first."""
    found = [item for item in channel.revoked if item.quantity > channel.moved]
    return tuple(sorted(found, key=lambda item: -item.quantity))


def at_risk(duplex: Duplex) -> int:
    """Return what is lost at most if this party does not look at the chain in time.

    What the greatest revoked commit would take from its deposit, and what it received and has not settled.
    """
    most = max((item.quantity for item in duplex.sending.revoked), default=0)
    return max(most - duplex.sending.moved, 0) + duplex.receiving.moved


def check_every(channel: Channel) -> int:
    """Tell how often a payer looks, in blocks, so that a revoked commit is punished before its delay is over."""
    return max(channel.delay - 1, 1)

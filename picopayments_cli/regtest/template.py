"""Choose what the next block holds: what pays best, parents with their children, as far as it pays enough and fits."""

from __future__ import annotations

import heapq
from fractions import Fraction

from picopayments_cli.regtest.graph import Entries, Entry, ancestors, descendants, rate, totals
from picopayments_cli.regtest.sigops import COINBASE_COST, MAX_BLOCK_COST


def choose(entries: Entries, room: int, least: Fraction) -> list[Entry]:
    """Return the entries for a block with ``room`` vB and 80,000 of signature checks, in the order of their arrival.

    A transaction is judged by what it pays together with all that it hangs on and that is not chosen yet; what pays
    less than ``least`` sat/vB so waits. One that does not fit is passed over.
    """
    below: dict[bytes, list[bytes]] = {txid: [] for txid in entries}
    for txid, entry in entries.items():
        for parent in entry.parents:
            below[parent].append(txid)
    chosen: set[bytes] = set()
    places = {txid: place for place, txid in enumerate(entries)}

    def package(txid: bytes) -> list[Entry]:
        return [entries[above] for above in ancestors(entries, [txid]) - chosen]

    checks = MAX_BLOCK_COST - COINBASE_COST
    waiting = [(-rate(package(txid)), place, txid) for txid, place in places.items()]
    heapq.heapify(waiting)
    while waiting and -waiting[0][0] >= least:
        worth, _, txid = heapq.heappop(waiting)
        if txid in chosen:
            continue
        taken = package(txid)
        size, cost = totals(taken)[1], sum(entry.sigops for entry in taken)
        if -worth != rate(taken) or size > room or cost > checks:
            continue  # judged anew since, or too large
        room, checks = room - size, checks - cost
        added = {entry.item.txid for entry in taken}
        chosen |= added
        for child in descendants(below.__getitem__, added) - chosen:
            heapq.heappush(waiting, (-rate(package(child)), places[child], child))
    return [entry for txid, entry in entries.items() if txid in chosen]

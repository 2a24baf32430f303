"""Name what is wrong with the network's servers at the moment, and the errors that Counterparty Core tells of it."""

from __future__ import annotations

from dataclasses import dataclass

_REFUSED = "Max retries exceeded with url: / (Caused by NewConnectionError('Connection refused'))"


@dataclass(frozen=True)
class Mood:
    """A mood of the servers; each that is there by default.

    ``electrs``: the index of addresses behind Counterparty Core; ``backend``: the Bitcoin Core behind it; ``bitcoin``:
    Bitcoin Core's own RPC. ``behind``: blocks that the ledger lacks, while ``/v2/`` says that it has all. ``hang``:
    seconds that pass before each answer.
    """

    electrs: bool = True
    backend: bool = True
    bitcoin: bool = True
    behind: int = 0
    hang: float = 0.0

    def trouble(self, server: str) -> tuple[int, str] | None:
        """Return status and text where what an answer needs is away: ``electrs``, or a method of Bitcoin Core."""
        if server == "electrs":
            return None if self.electrs else (400, f"All Electrs backends failed. Last error: {_REFUSED}")
        if self.backend or not server:
            return None
        text = f"Error calling {server}: {_REFUSED}"
        return 503, f"Error broadcasting transaction: {text}" if server == "sendrawtransaction" else text


WELL = Mood()

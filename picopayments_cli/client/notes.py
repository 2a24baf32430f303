"""Keep what is remembered beside the connections, a small file each: rate, own transactions, coins, last look, hubs.

And which payments commands have reported. Some of it can be done without: where that can't be read or written, a
command goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from picopayments_cli.channel.past import Own
from picopayments_cli.client import kinds
from picopayments_cli.client.folder import Folder
from picopayments_cli.client.payments import Reported
from picopayments_cli.errors import LocalFiles
from picopayments_cli.files import damaged, read_text


class Notes:
    """The small files of one network in a folder, which is locked."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        names = ("rate", "sent", "coins", "seen", "hubs", "reported")
        paths = [folder.path / f"{folder.network.name}.{name}" for name in names]
        self.rate_path, self.sent_path, self.coins_path, self.seen_path, self.hubs_path, self.reported_path = paths

    @property
    def private(self) -> tuple[Path, ...]:
        """List the files that are refused where others may open them."""
        return (self.hubs_path, self.rate_path, self.sent_path, self.coins_path, self.reported_path)

    # The last fee rate ----------------------------------------------------------------------------------------------

    def last_rate(self) -> int | None:
        """Read the last fee rate (sat/vB) that a chain estimated; None if there is none, or it can't be read."""
        try:
            text = (read_text(self.rate_path) or "").strip()
        except LocalFiles:
            return None
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None

    def save_rate(self, rate: int) -> None:
        """Write the fee rate that a chain estimates, for the time when it has none."""
        self._folder.remember(self.rate_path, f"{rate}\n", "fee rate")

    # The last look at the chain -------------------------------------------------------------------------------------

    def last_look(self) -> dict[str, Any]:
        """Read what the last look at the chain showed; nothing where that can't be read, as it is only for showing."""
        try:
            found = json.loads(read_text(self.seen_path) or "{}")
        except (LocalFiles, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def save_last_look(self, told: dict[str, Any]) -> None:
        """Write what this look at the chain showed. It may be lost with the power."""
        self._folder.remember(self.seen_path, json.dumps(told) + "\n", "last look", flush=False)

    # The wallet's own transactions ---------------------------------------------------------------------------------

    def sent(self) -> list[Own]:
        """Read the wallet's transactions that hold its coins yet. Raises StoreDamaged."""
        text = read_text(self.sent_path)
        try:
            return [] if text is None else [kinds.own_transaction(item) for item in kinds.items(json.loads(text))]
        except (TypeError, ValueError, RecursionError):
            raise damaged(self.sent_path, "it does not list transactions") from None

    def save_sent(self, sent: Sequence[Own]) -> None:
        """Write the wallet's transactions that hold its coins yet. Raises StoreUnusable."""
        items = [[item.raw.hex(), item.height, item.missing] for item in sent]
        self._folder.write(self.sent_path, json.dumps(items) + "\n", "sent")

    def coins(self) -> dict[str, Any]:
        """Read how the wallet was seen last; empty where it never was. Raises StoreDamaged."""
        text = read_text(self.coins_path)
        try:
            return {} if text is None else kinds.members(json.loads(text))
        except (TypeError, ValueError, RecursionError):
            raise damaged(self.coins_path, "it does not list coins") from None

    def save_coins(self, document: dict[str, Any]) -> None:
        """Write how the wallet is seen. Raises StoreUnusable."""
        self._folder.write(self.coins_path, json.dumps(document) + "\n", "wallet seen")

    # Hubs ----------------------------------------------------------------------------------------------------------

    def hub_keys(self) -> dict[str, str]:
        """Read the public key (hex) that each hub's URL is bound to. Raises StoreDamaged."""
        text = read_text(self.hubs_path)
        try:
            keys = json.loads(text) if text is not None else {}
        except ValueError:
            raise damaged(self.hubs_path, "it is not JSON") from None
        if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
            raise damaged(self.hubs_path, "it does not map URLs to keys")
        return keys

    def save_hub_key(self, url: str, key: str) -> None:
        """Bind a hub's URL to its public key (hex). Raises StoreUnusable, StoreDamaged."""
        self._folder.write(self.hubs_path, json.dumps({**self.hub_keys(), url: key}, indent=2) + "\n", "hub key")

    # Payments that were reported -----------------------------------------------------------------------------------

    def reported(self) -> Reported:
        """Read which payments commands have reported. Raises StoreDamaged."""
        text = read_text(self.reported_path)
        try:
            if text is None:
                return Reported()
            found = kinds.members(json.loads(text))
            return Reported(kinds.whole(found["upto"]), tuple(map(kinds.whole, kinds.items(found["left"]))))
        except (KeyError, TypeError, ValueError, RecursionError):
            raise damaged(self.reported_path, "it does not tell which payments were reported") from None

    def save_reported(self, reported: Reported) -> None:
        """Write which payments commands have reported. Raises StoreUnusable."""
        told = json.dumps({"upto": reported.upto, "left": reported.left})
        self._folder.write(self.reported_path, told + "\n", "reported")

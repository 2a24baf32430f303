"""The JSON-RPC methods by which a regtest chain is steered: blocks, money, fees, and moods of its servers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from picopayments_cli.channel.values import MAX_QUANTITY
from picopayments_cli.errors import (
    InvalidParams,
    InvalidQuantity,
)
from picopayments_cli.regtest.arguments import checked
from picopayments_cli.regtest.moods import Mood
from picopayments_cli.regtest.node import MAX_BLOCK_VSIZE, MAX_INDEX_DELAY, Node
from picopayments_cli.regtest.policy import MAX_FEE_RATE, MAX_MONEY
from picopayments_cli.regtest.queries import script_of
from picopayments_cli.regtest.shapes import display

MAX_BEHIND, MAX_HANG = 1000, 600  # blocks, seconds


class Methods:
    """One method of the interface per public method here; hashes in display order."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def table(self) -> dict[str, Callable[..., Any]]:
        """Return all methods by name."""
        names = (name for name in vars(type(self)) if not name.startswith("_") and name != "table")
        return {name: checked(getattr(self, name)) for name in names}

    def generate(self, blocks: int = 1) -> list[str]:
        """Mine blocks; their hashes."""
        return [display(found) for found in self._node.generate(blocks)]

    def reorganise(self, depth: int, forget: bool = False) -> dict[str, list[str]]:
        """Replace the last blocks by a longer branch of empty ones; the hashes of both.

        Their transactions go back to the mempool, or with ``forget`` nowhere, as if no node had kept them.
        """
        lost, gained = self._node.reorganise(depth, forget=forget)
        return {"disconnected": [display(found) for found in lost], "connected": [display(found) for found in gained]}

    def faucet(self, address: str, btc: int = 0, asset: str = "XCP", quantity: int = 0) -> list[str]:
        """Pay satoshis and a quantity of an asset from the treasury; the txids.

        An asset that nobody has issued yet is issued first; that mines a block, even where blocks come by ``generate``
        alone, or two for a subasset and its parent.
        """
        for amount in (btc, quantity):
            if not 0 <= amount <= MAX_QUANTITY:
                raise InvalidQuantity("Quantities are whole numbers of satoshis, not below zero.", value=str(amount))
        return [display(txid) for txid in self._node.faucet(script_of(address), btc, asset, quantity)]

    def setfeerate(self, sat_per_kvb: int | None = None) -> int | None:
        """Set what the node estimates from now on, in sat/kvB; null: nothing."""
        if sat_per_kvb is not None and not 0 <= sat_per_kvb <= MAX_MONEY:
            raise InvalidParams(f"sat_per_kvb is between 0 and {MAX_MONEY}.")
        self._node.fee_rate = sat_per_kvb
        return sat_per_kvb

    def feerate(self, rate: int | str | None = None, minimum: int | None = None) -> dict[str, int | None]:
        """Set the estimate (``none``: to have none) and what the mempool asks for at least; both, in sat/vB.

        A value that is left out stays. Blocks leave out what pays less than the estimate, the mempool throws out what
        pays less than the minimum.
        """
        number = rate if isinstance(rate, int) else 1
        if (isinstance(rate, str) and rate != "none") or not 1 <= number <= MAX_FEE_RATE:
            raise InvalidParams(f"rate is none, or a whole number from 1 to {MAX_FEE_RATE}.")
        if minimum is not None and not 1 <= minimum <= MAX_FEE_RATE:
            raise InvalidParams(f"minimum is a whole number from 1 to {MAX_FEE_RATE}.")
        if rate is not None:
            self._node.fee_rate = None if isinstance(rate, str) else 1000 * rate
        if minimum is not None:
            self._node.set_minimum(1000 * minimum)
        estimated = self._node.fee_rate
        return {
            "fee_rate": None if estimated is None else -(-estimated // 1000),
            "minimum": self._node.mempool.minimum // 1000,
        }

    def setblockroom(self, vbytes: int) -> int:
        """Set how many vB of transactions a block has room for from now on."""
        if not 0 < vbytes <= MAX_BLOCK_VSIZE:
            raise InvalidParams(f"vbytes is between 1 and {MAX_BLOCK_VSIZE}.")
        self._node.block_room = vbytes
        return vbytes

    def setindexdelay(self, blocks: int | None = None) -> int | None:
        """Have /v2/bitcoin/addresses answer as of so many blocks ago, without the mempool; null: as of now.

        So a real node answers whose index of addresses is behind its Bitcoin Core.
        """
        if blocks is not None and not 0 <= blocks <= MAX_INDEX_DELAY:
            raise InvalidParams(f"blocks is null, or between 0 and {MAX_INDEX_DELAY}.")
        self._node.index_delay = blocks
        return blocks

    def setaddressoptions(self, address: str, options: int) -> int:
        """Set what the node tells as an address's options from now on, without a broadcast of its owner."""
        if not 0 <= options <= MAX_QUANTITY:
            raise InvalidParams(f"options is between 0 and {MAX_QUANTITY}.")
        self._node.address_options[script_of(address)] = options
        return options

    def setmood(
        self, electrs: bool = True, backend: bool = True, bitcoin: bool = True, behind: int = 0, hang: float = 0.0
    ) -> dict[str, Any]:
        """Set what is wrong with the servers from now on, as ``Mood`` tells; without arguments all are well."""
        if not 0 <= behind <= MAX_BEHIND or not 0 <= hang <= MAX_HANG:
            raise InvalidParams(f"behind is between 0 and {MAX_BEHIND}, hang between 0 and {MAX_HANG}.")
        self._node.mood = Mood(electrs, backend, bitcoin, behind, hang)
        return asdict(self._node.mood)

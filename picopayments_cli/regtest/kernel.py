"""Bitcoin Core's kernel as the judge of blocks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pbk

from picopayments_cli.errors import StoreUnusable

FUTURE = "time_future"  # the verdict on a block that is later than this machine's clock
_LEAST_MB = 100


class Kernel:
    """The kernel's chain in a folder of its own, emptied at every start: what lasts is the node's journal.

    The kernel writes its index only when it is closed, so after a kill its files are worth nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        self._verdicts: dict[bytes, str | None] = {}
        # what a callback raises is lost, so it only takes notes
        callbacks = pbk.ValidationInterfaceCallbacks(block_checked=self._note)
        context = pbk.make_context(pbk.ChainType.REGTEST, callbacks)
        options = pbk.ChainstateManagerOptions(context, str(folder), str(folder / "blocks"))
        options.update_block_tree_db_in_memory(True)
        options.update_chainstate_db_in_memory(True)
        try:
            self._manager = pbk.ChainstateManager(options)
        except RuntimeError as error:
            raise self._failed(error) from error
        self._chain = self._manager.get_active_chain()

    def _note(self, _data: Any, block: Any, state: Any) -> None:
        valid = state.validation_mode == pbk.ValidationMode.VALID
        self._verdicts[bytes(block.block_hash)] = None if valid else str(state.block_validation_result.name).lower()

    def close(self) -> None:
        """End the kernel and remove its files; nothing else can be asked afterwards."""
        del self._chain, self._manager
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def height(self) -> int:
        """Return the height of the active chain's tip."""
        return int(self._chain.height)

    def hash_at(self, height: int) -> bytes:
        """Return the hash, in wire order, of the active chain's block at a height."""
        return bytes(self._chain.block_tree_entries[height].block_hash)

    def genesis(self) -> bytes:
        """Return the raw first block."""
        return bytes(self._manager.blocks[self._chain.block_tree_entries[0]])

    def _failed(self, error: Exception) -> StoreUnusable:
        """Make the error of a kernel that can't work: mostly for lack of disk space."""
        free = shutil.disk_usage(self._folder.parent).free // 1_000_000
        return StoreUnusable(
            f"Bitcoin Core's kernel can't use {self._folder}, whose disk has {free} MB left: it needs "
            f"{_LEAST_MB}. Make room, and start again; no block is lost. ({error})",
            path=str(self._folder),
            free_mb=free,
        )

    def submit(self, raw: bytes) -> str | None:
        """Hand a block to the kernel; None where it is valid or stands on a side branch, else why it is refused.

        Raises StoreUnusable where the kernel fails, and says nothing of the block.
        """
        self._verdicts.clear()
        block = pbk.Block(raw)
        try:
            self._manager.process_block(block)
        except pbk.ProcessBlockException as error:
            verdict = self._verdicts.get(bytes(block.block_hash))
            if verdict is None:
                raise self._failed(error) from error
            return verdict
        return self._verdicts.get(bytes(block.block_hash))

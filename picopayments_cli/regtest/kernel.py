"""Bitcoin Core's kernel as the judge of blocks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pbk


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
        self._manager = pbk.ChainstateManager(options)
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

    def submit(self, raw: bytes) -> str | None:
        """Hand a block to the kernel; None where it is valid or stands on a side branch, else why it is refused."""
        self._verdicts.clear()
        block = pbk.Block(raw)
        try:
            self._manager.process_block(block)
        except pbk.ProcessBlockException as error:
            return self._verdicts.get(bytes(block.block_hash)) or str(error)
        return self._verdicts.get(bytes(block.block_hash))

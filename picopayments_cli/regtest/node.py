"""The regtest node: kernel, journal, index, mempool and ledger, kept at one tip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from fractions import Fraction
from pathlib import Path

from bitcoin.core import CTransaction
from filelock import FileLock, Timeout

from picopayments_cli.channel.networks import NETWORKS, script_of_address
from picopayments_cli.errors import InvalidTime, LocalFiles, StoreDamaged, StoreLocked, StoreUnusable
from picopayments_cli.regtest.blocks import Template, build_block
from picopayments_cli.regtest.faucet import FEE_RATE, Treasury
from picopayments_cli.regtest.graph import Entry
from picopayments_cli.regtest.index import Index
from picopayments_cli.regtest.journal import Journal
from picopayments_cli.regtest.kernel import FUTURE, Kernel
from picopayments_cli.regtest.ledger import Ledger
from picopayments_cli.regtest.mempool import RELAY_MINIMUM, Mempool, decode
from picopayments_cli.regtest.moods import WELL, Mood
from picopayments_cli.regtest.packages import Verdict, check_package, submit
from picopayments_cli.regtest.template import choose

REGTEST = NETWORKS["regtest"]
MAX_GENERATE = 10_000  # blocks of one call
MAX_BLOCK_VSIZE = 950_000
MAX_INDEX_DELAY = 1000  # blocks
LOCK_WAIT = 5.0  # seconds


class BlockRefused(Exception):
    """The kernel found a block invalid; the chain is as it was."""


class Node:
    """A regtest chain in a folder, for one process and one thread.

    ``block_time`` None: every transaction that the mempool takes is mined at once; 0: blocks come by ``generate``
    alone; N: whoever runs the node calls ``generate`` every N seconds. Every call returns with mempool and index at the
    tip, and the ledger too, unless its ``mood`` leaves it behind. Raises StoreLocked, StoreUnusable, StoreDamaged,
    StoreNewer.
    """

    def __init__(self, folder: Path, block_time: int | None = None) -> None:
        self.block_time = block_time
        self.block_room = MAX_BLOCK_VSIZE  # vB of transactions in one block
        self._fee_rate: int | None = None
        self.address_options: dict[bytes, int] = {}  # by scriptPubKey
        self.index_delay: int | None = None  # blocks by which the index of addresses is late, without the mempool then
        self._mood = WELL
        self._lock = _locked(folder)
        self.journal = Journal(folder / "journal.sqlite")
        self.kernel = Kernel(folder / "kernel")
        self.index = Index()
        self.ledger = Ledger(script_of_address(REGTEST, REGTEST.burn_address))
        self.mempool = Mempool(self.index)
        self.treasury = Treasury(self.index, self.mempool, self.ledger, self.journal)
        try:
            self._replay()
            if self.journal.get("funded") is None:
                self._fund()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free the folder for another process."""
        self.kernel.close()
        self.journal.close()
        self._lock.release()

    # Fees ------------------------------------------------------------------------------------------------------

    @property
    def fee_rate(self) -> int | None:
        """Return the sat/kvB that it estimates when asked; None: it has no estimate.

        A block takes what pays that at least, by itself or with all that it hangs on, and without an estimate all.
        """
        return self._fee_rate

    @fee_rate.setter
    def fee_rate(self, sat_per_kvb: int | None) -> None:
        self._fee_rate = sat_per_kvb
        self._set_treasury_rate()

    def set_minimum(self, sat_per_kvb: int) -> list[bytes]:
        """Let the mempool ask that rate from now on; the txids that it throws out for it."""
        gone = self.mempool.set_minimum(sat_per_kvb)
        self.journal.set_mempool(self._waiting())
        self._set_treasury_rate()
        return gone

    def _set_treasury_rate(self) -> None:
        asked = max(self._fee_rate or 0, self.mempool.minimum)
        self.treasury.fee_rate = max(FEE_RATE, -(-asked // 1000))

    def _chosen(self) -> list[Entry]:
        least = Fraction(max(self._fee_rate or 0, RELAY_MINIMUM), 1000)
        return choose(self.mempool.entries, self.block_room, least)

    # Moods -----------------------------------------------------------------------------------------------------

    @property
    def mood(self) -> Mood:
        """Return what is wrong with the servers."""
        return self._mood

    @mood.setter
    def mood(self, mood: Mood) -> None:
        self._mood = mood
        self._follow_by_ledger()

    # Actions ---------------------------------------------------------------------------------------------------

    def submit(self, raws: Sequence[bytes]) -> list[bytes]:
        """Take signed transactions into the mempool and, by the mining policy, into a block; their txids.

        Raises Refused at the first that the mempool does not take; those before it stay.
        """
        txids: list[bytes] = []
        try:
            txids.extend(map(self.mempool.accept, raws))
        finally:
            if txids:
                self._after_taking()
        return txids

    def submit_package(self, txs: Sequence[CTransaction]) -> Verdict:
        """Take a parent and its child into the mempool and, by the mining policy, into a block. Raises Refused."""
        check_package(txs)
        verdict = submit(self.mempool, txs)
        if verdict.taken:
            self._after_taking()
        return verdict

    def _after_taking(self) -> None:
        self.journal.set_mempool(self._waiting())
        if self.block_time is None and self._chosen():
            self.generate(1)

    def generate(self, blocks: int) -> list[bytes]:
        """Mine blocks with what waits in the mempool; their hashes. Raises InvalidTime."""
        _check_blocks(blocks, MAX_GENERATE, "Between 1 and {} blocks can be mined at once.")
        return [self.mine([entry.item.raw for entry in self._chosen()]) for _ in range(blocks)]

    def mine(self, transactions: Iterable[bytes]) -> bytes:
        """Mine one block of exactly these raw transactions, whatever the mempool thinks of them; its hash.

        Raises BlockRefused where the kernel finds it invalid.
        """
        tip = self.index.height
        txs = [decode(raw) for raw in transactions]
        fees = sum(entry.fee for tx in txs if (entry := self.mempool.entries.get(bytes(tx.GetTxid()))) is not None)
        template = self._template(self.index.blocks[tip].hash, tip + 1, self.index.median_time(tip) + 1, fees)
        found, raw = build_block(template, txs)
        self._submit_block(found, raw)
        self._follow()
        return found

    def reorganise(self, depth: int, *, forget: bool = False) -> tuple[list[bytes], list[bytes]]:
        """Replace the last ``depth`` blocks by ``depth + 1`` empty ones; what the tip loses and gains, in order.

        The transactions of the lost blocks wait in the mempool again, as far as they are still valid there; with
        ``forget`` they are gone until somebody publishes them again. Raises InvalidTime.
        """
        tip = self.index.height
        _check_blocks(depth, tip - self._funded_height(), "Between 1 and {} blocks can be reorganised.")
        base = tip - depth
        lost = [block.hash for block in reversed(self.index.blocks[base + 1 :])]
        gained: list[bytes] = []
        previous = self.index.blocks[base].hash
        times = [block.time for block in self.index.blocks[max(0, base - 10) : base + 1]]
        with self.journal.batch():
            for height in range(base + 1, tip + 2):
                recent = sorted(times[-11:])
                times.append(recent[len(recent) // 2] + 1)
                found, raw = build_block(self._template(previous, height, times[-1], 0), [])
                self._submit_block(found, raw)
                gained.append(found)
                previous = found
            self._follow(forget=forget)
        return lost, gained

    def faucet(self, script: bytes, satoshis: int, asset: str, quantity: int) -> list[bytes]:
        """Pay bitcoins and an asset from the treasury; the txids.

        An asset that nobody has issued yet is issued first, in a block that is mined for it whatever ``block_time``
        says (a subasset's parent, if need be, in one before). Raises InsufficientFunds and its kind, InvalidAsset.
        """
        self.treasury.check_output(script, satoshis)
        for issuance in self.treasury.issue(asset) if quantity else ():
            self.submit([issuance])
            if self.block_time is not None:
                self.generate(1)
        return self.submit(self.treasury.pay(script, satoshis, asset, quantity))

    # Keeping together ------------------------------------------------------------------------------------------

    def _template(self, previous: bytes, height: int, time: int, fees: int) -> Template:
        return Template(previous, height, time, fees, self.treasury.script, self.journal.next_number())

    def _submit_block(self, block_hash: bytes, raw: bytes) -> None:
        self.journal.add_block(block_hash, raw)
        reason = self.kernel.submit(raw)
        if reason is not None:
            self.journal.drop_block(block_hash)
            raise BlockRefused(reason)

    def _follow(self, *, forget: bool = False) -> None:
        """Bring index, ledger and mempool to the kernel's tip; ``forget``: without what lost blocks held."""
        returned: list[bytes] = []
        while self.index.blocks[-1].hash != self._kernel_hash(self.index.height):
            block = self.index.disconnect()
            if self.ledger.height > self.index.height:
                self.ledger.disconnect()
            returned[:0] = [item.raw for item in block.transactions[1:]]
        for height in range(self.index.height + 1, self.kernel.height + 1):
            found = self.kernel.hash_at(height)
            raw = self.journal.block(found)
            if raw is None:
                raise RuntimeError(f"the journal lacks block {found[::-1].hex()} of the kernel's chain")
            self.index.connect(raw, found)
        self._follow_by_ledger()
        waiting = [*(() if forget else returned), *self._waiting()]
        if returned or waiting:
            self.mempool.rebuild(waiting)
            self.journal.set_mempool(self._waiting())

    def _follow_by_ledger(self) -> None:
        """Bring the ledger to the tip, or as far behind it as it is to be; what the treasury burned stays."""
        wanted = self.index.height
        if self._mood.behind:
            wanted = max(wanted - self._mood.behind, self._funded_height())
        while self.ledger.height > wanted:
            self.ledger.disconnect()
        while self.ledger.height < wanted:
            self.ledger.connect(self.index.blocks[self.ledger.height + 1])

    def _kernel_hash(self, height: int) -> bytes | None:
        return self.kernel.hash_at(height) if height <= self.kernel.height else None

    def _waiting(self) -> list[bytes]:
        return [entry.item.raw for entry in self.mempool.entries.values()]

    def _replay(self) -> None:
        """Tell a new kernel all that the journal knows, then take up its tip and the mempool.

        A last block that it calls invalid is dropped: the process died between writing it and its verdict. Raises
        StoreUnusable, StoreDamaged where others are refused; nothing is changed then.
        """
        genesis = self.kernel.genesis()
        self.ledger.connect(self.index.connect(genesis, self.kernel.hash_at(0)))
        verdicts = [(found, self.kernel.submit(raw)) for found, raw in self.journal.blocks()]
        refused = [(number, found, reason) for number, (found, reason) in enumerate(verdicts, 1) if reason is not None]
        if refused:
            number, found, reason = refused[0]
            if reason == FUTURE or number < len(verdicts):
                raise _unusable(self.journal.path, number, reason)
            self.journal.drop_block(found)
        self._follow()
        self.mempool.rebuild(self.journal.mempool())

    def _fund(self) -> None:
        """Mine and burn what the treasury pays from: all of it is written, or nothing."""
        with self.journal.batch():
            for transactions in self.treasury.endow():
                self.mine(transactions)
            self.journal.put("funded", self.index.height.to_bytes(4, "big"))

    def _funded_height(self) -> int:
        return int.from_bytes(self.journal.get("funded") or b"", "big")


def _unusable(path: Path, number: int, reason: str) -> LocalFiles:
    """Make the error for a journal whose blocks the kernel refuses, the one of a number first."""
    if reason == FUTURE:
        now = datetime.now(timezone.utc).isoformat(" ", "seconds")
        return StoreUnusable(
            f"Block {number} of {path} is later than this machine's clock, which says {now}. Set the clock, and start "
            "again; nothing was changed.",
            path=str(path),
            number=number,
        )
    return StoreDamaged(
        f"Bitcoin Core's kernel refuses block {number} of {path} ({reason}). Start in another folder, or remove this "
        "one: its coins are worth nothing. Nothing was changed.",
        path=str(path),
        number=number,
        reason=reason,
    )


def _locked(folder: Path) -> FileLock:
    """Take the chain's folder, once a node has ended that ends just now with its hub."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(folder / "node.lock", timeout=LOCK_WAIT)
        lock.acquire()
    except Timeout as error:
        raise StoreLocked(
            f"Another process runs the regtest chain in {folder}. Use that one, end it, or choose another folder.",
            path=str(folder),
        ) from error
    except OSError as error:
        raise StoreUnusable(
            f"The folder {folder} can't be used for a chain: {error.strerror}. Choose another one.", path=str(folder)
        ) from error
    return lock


def _check_blocks(number: int, limit: int, message: str) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= limit:
        raise InvalidTime(message.format(limit), limit=limit)

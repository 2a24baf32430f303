"""The journal: nothing of it is given up for a clock, a disk, or a block that is wrong."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from regtest_support import open_node

from picopayments_cli.errors import LocalFiles, StoreDamaged, StoreUnusable
from picopayments_cli.regtest.blocks import build_block
from picopayments_cli.regtest.node import Node

HOURS = 3600
FULL = """
import resource, sys
from pathlib import Path
from picopayments_cli.errors import LocalFiles
from picopayments_cli.regtest.node import Node
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    Node(Path(sys.argv[1]), 0)
except LocalFiles as error:
    print(error.name, error.message)
"""


def add(node: Node, *, late: int = 0, fees: int = 0, times: int = 1) -> None:
    """Put blocks into the journal of which the kernel hears at the next start: late ones, or with too much money."""
    previous, height = node.index.blocks[-1].hash, node.index.height + 1
    for number in range(times):
        at = int(time.time()) + late if late else node.index.median_time(node.index.height) + 1 + number
        previous, raw = build_block(node._template(previous, height + number, at, fees), [])
        node.journal.add_block(previous, raw)


def written(folder: Path) -> list[bytes]:
    """The blocks on disk."""
    with sqlite3.connect(folder / "journal.sqlite") as journal:
        return [row[0] for row in journal.execute("SELECT hash FROM blocks ORDER BY number")]


def refused(folder: Path, error: type[LocalFiles], words: str) -> None:
    """Start on the folder, which is refused in these words and changes nothing."""
    before = written(folder)
    with pytest.raises(error, match=words), open_node(folder, 0):
        pass
    assert written(folder) == before


def test_a_wrong_clock_is_named_and_costs_no_block(tmp_path: Path) -> None:
    with open_node(tmp_path, 0) as node:
        add(node, late=5 * HOURS)
    refused(tmp_path, StoreUnusable, "later than this machine's clock")


def test_a_last_block_that_is_invalid_is_dropped(tmp_path: Path) -> None:
    with open_node(tmp_path, 0) as node:
        height = node.index.height
        add(node, fees=10**9)
    before = written(tmp_path)
    with open_node(tmp_path, 0) as node:
        assert node.index.height == height
        assert written(tmp_path) == before[:-1]
        node.generate(1)


def test_a_block_before_the_last_one_that_is_invalid_is_named(tmp_path: Path) -> None:
    with open_node(tmp_path, 0) as node:
        add(node, fees=10**9, times=2)
    refused(tmp_path, StoreDamaged, "Nothing was changed")


def test_a_full_disk_is_named_and_costs_no_block(tmp_path: Path) -> None:
    with open_node(tmp_path / "old", 0) as node:
        node.generate(3)
    before = written(tmp_path / "old")
    for name, room in (("old", 0), ("new", 0), ("new", 100_000)):
        line = [sys.executable, "-c", FULL, str(tmp_path / name), str(room)]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
        assert done.stdout.startswith("StoreUnusable"), done.stdout + done.stderr
        assert "room" in done.stdout
    assert written(tmp_path / "old") == before

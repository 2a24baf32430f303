"""The fault harness itself: after a power cut, what was synced is there, and what was not may be missing or torn."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from faults.disk import Disk, read_log, tear
from faults.kill_planner import MAIN_DOORS, doors_named

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 60
OLD, NEW = b"old content", b"content that is new"

# Replaces a file as the program does, but for the call that is named; its changes are entered in a log.
_REPLACE = """
import os, sys
from pathlib import Path
from faults.disk import Recorder
root, log, without = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
Recorder(root, log, lambda: None).stand()
from picopayments_cli import files
if without == "file":
    real = os.fsync
    os.fsync = lambda descriptor: None if os.path.isfile(f"/dev/fd/{descriptor}") else real(descriptor)
if without == "folder":
    files.flush_folder = lambda folder: None
files.replace_file(root / "file", b"content that is new")
"""


def images(tmp_path: Path, without: str) -> set[bytes]:
    """Return what is found in the file after power cuts right after it was replaced."""
    root, log = tmp_path / "root", tmp_path / "log"
    root.mkdir()
    (root / "file").write_bytes(OLD)
    found = set()
    before = Disk(root)
    command = [sys.executable, "-c", _REPLACE, str(root), str(log), without]
    path = {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    subprocess.run(command, check=True, env=path, timeout=30)
    before.follow(read_log(log))
    assert before.is_as_seen()
    for seed in range(IMAGES):
        before.cut(random.Random(seed))
        found.add((root / "file").read_bytes() if (root / "file").exists() else b"")
    return found


def test_what_the_program_writes_is_there_after_a_power_cut(tmp_path: Path) -> None:
    assert images(tmp_path, "") == {NEW}


def test_without_the_folder_synced_the_old_content_comes_back(tmp_path: Path) -> None:
    assert images(tmp_path, "folder") == {OLD, NEW}


def test_without_the_file_synced_it_is_torn(tmp_path: Path) -> None:
    found = images(tmp_path, "file")
    assert b"" in found
    assert any(content not in (b"", NEW) and NEW.startswith(content) for content in found)


def test_a_torn_log_holds_what_was_synced() -> None:
    kept, tail = b"k" * 1000, b"t" * 3000
    torn = {kept + tear(b"", tail, random.Random(seed)) for seed in range(IMAGES)}
    assert all(content.startswith(kept) for content in torn)
    assert len(torn) > IMAGES // 4


def test_the_doors_are_read_from_the_document() -> None:
    named = doors_named()
    assert named > MAIN_DOORS
    assert {door.split()[1] for door in named} == {"save", "call", "broadcast", "transaction", "reply"}

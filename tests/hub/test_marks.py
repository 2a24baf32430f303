"""The marks outside the database: what a power cut leaves of the file, and what somebody else wrote into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from picopayments_cli.channel.values import Handle
from picopayments_cli.errors import StoreDamaged
from picopayments_cli.hub.marks import Marks

ONE, OTHER = (Handle(bytes([n]) * 32) for n in (1, 2))


@pytest.mark.parametrize("left", [0, 1, 2, 32, 63, 64])
def test_a_mark_that_was_cut_off_is_written_over(tmp_path: Path, left: int) -> None:
    path = tmp_path / "marks"
    Marks(path).add(ONE)
    Marks(path).add(OTHER)
    path.write_bytes(path.read_bytes()[: 65 + left])
    path.chmod(0o600)
    found = Marks(path)
    assert found.handles == {ONE}
    found.add(OTHER)
    assert Marks(path).handles == {ONE, OTHER}


def test_whole_lines_that_are_no_handles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "marks"
    path.write_text("something else\n")
    path.chmod(0o600)
    with pytest.raises(StoreDamaged):
        Marks(path)

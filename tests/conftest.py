"""Fixtures that tests of several folders use, how hard hypothesis tries, interrupts, and how many tests at a time.

``HYPOTHESIS_PROFILE=slow`` tries ten times as hard.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from cheats import Town
    from network_support import Network

settings.register_profile("default", deadline=None, max_examples=50)
settings.register_profile("slow", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are cores: many tests wait for processes."""
    return (os.cpu_count() or 1) * 3 // 2


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """One network for all tests of a module, which mines only when told."""
    from network_support import running_network  # loads all of the client: not every folder's tests need it

    with running_network(tmp_path_factory.mktemp("network")) as running:
        yield running


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """A chain that mines only when told, a hub, and clients of one's own."""
    from cheats import running_town
    from regtest_support import running_node

    with running_node(tmp_path / "chain", 0) as node, running_town(tmp_path, node) as running:
        yield running

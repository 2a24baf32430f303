"""Fixtures that tests of several folders use, how hard hypothesis tries, interrupts, and how many tests at a time.

``HYPOTHESIS_PROFILE=slow`` tries ten times as hard.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from cheats import Town
    from network_support import Network
    from regtest_support import NodeProcess

HUBS_OF_A_NODE = 5  # that its treasury can fund

settings.register_profile("default", deadline=None, max_examples=50)
settings.register_profile("slow", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as nohup does, under which `serve` rightly goes on
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Twice as many as there are cores: many tests wait for processes, disks and deadlines."""
    return (os.cpu_count() or 1) * 2


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keep the modules and tests, which all stay, out of the collections of garbage to come."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """One network for all tests that do it no harm, which mines only when told: to start one takes longer than most."""
    from network_support import running_network  # loads all of the client: not every folder's tests need it

    with running_network(tmp_path_factory.mktemp("network")) as running:
        yield running


@pytest.fixture(scope="session")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], NodeProcess]]:
    """Nodes for tests that start so many hubs of their own, which mine only when told; one funds a few hubs."""
    from regtest_support import running_node

    left = 0
    node: NodeProcess | None = None
    with ExitStack() as stack:

        def get(hubs: int) -> NodeProcess:
            nonlocal left, node
            if node is None or left < hubs:
                stack.close()
                node, left = stack.enter_context(running_node(tmp_path_factory.mktemp("chain"), 0)), HUBS_OF_A_NODE
            left -= hubs
            return node

        yield get


@pytest.fixture
def town(tmp_path: Path, chains: Callable[[int], NodeProcess]) -> Iterator[Town]:
    """A hub and clients of one's own."""
    from cheats import QuickTown, running_town

    with running_town(tmp_path, chains(1), QuickTown) as running:
        yield running

"""Fixtures of the hub's tests: one hub inside the test's process, and clients with open connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hub_support import Desk, ScriptedClient, clients, running_desk


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One hub for all tests of a module that leave it as they found it."""
    with running_desk(tmp_path_factory.mktemp("desk")) as running:
        yield running


@pytest.fixture(scope="module")
def opened(desk: Desk) -> Iterator[ScriptedClient]:
    """As many clients as are asked for."""
    return clients(desk)


@pytest.fixture
def alice(opened: Iterator[ScriptedClient]) -> ScriptedClient:
    """A client that has paid for nothing yet."""
    return next(opened)


@pytest.fixture
def bob(opened: Iterator[ScriptedClient]) -> ScriptedClient:
    """Another one."""
    return next(opened)

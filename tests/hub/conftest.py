"""Fixtures of the hub's tests: a hub inside the test's process, and its clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hub_support import Client, Desk, clients, running_desk


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One hub for all tests of a module that leave it as they found it."""
    with running_desk(tmp_path_factory.mktemp("desk")) as running:
        yield running


@pytest.fixture(scope="module")
def open_clients(desk: Desk) -> Iterator[Client]:
    """As many clients as are asked for."""
    return clients(desk)


@pytest.fixture
def alice(open_clients: Iterator[Client]) -> Client:
    """A client that has paid for nothing yet."""
    return next(open_clients)


@pytest.fixture
def bob(open_clients: Iterator[Client]) -> Client:
    """Another one."""
    return next(open_clients)

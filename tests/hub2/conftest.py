"""Fixtures of the hub's tests: a hub inside the test's process with its clients, and clients of a hub over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hub2_support import Desk, ScriptedClient, clients, running_desk
from hub_http_support import OpenConnection, ProposingClient
from network_support import Network


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One hub for all tests of a module that leave it as they found it."""
    with running_desk(tmp_path_factory.mktemp("desk")) as running:
        yield running


@pytest.fixture(scope="module")
def open_clients(desk: Desk) -> Iterator[ScriptedClient]:
    """As many clients as are asked for."""
    return clients(desk)


@pytest.fixture
def alice(open_clients: Iterator[ScriptedClient]) -> ScriptedClient:
    """A client that has paid for nothing yet."""
    return next(open_clients)


@pytest.fixture
def bob(open_clients: Iterator[ScriptedClient]) -> ScriptedClient:
    """Another one."""
    return next(open_clients)


@pytest.fixture
def hand(network: Network, request: pytest.FixtureRequest) -> ProposingClient:
    """A client that has asked for nothing yet."""
    return ProposingClient(network, request.node.name)


@pytest.fixture
def opened(network: Network, request: pytest.FixtureRequest) -> OpenConnection:
    """An open connection with one sync behind it."""
    client = network.client(request.node.name)
    handle = network.open_connection(client)
    client.run("sync")  # from then on the hub's deposit is in the state on disk
    return OpenConnection(network, client, handle)

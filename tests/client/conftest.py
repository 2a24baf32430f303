"""Lives of clients, on one chain that only grows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from client_support import Life
from regtest_support import NodeProcess, running_node

from picopayments_cli.channel.keys import Key


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node of which blocks are made by ``generate`` alone."""
    with running_node(tmp_path_factory.mktemp("chain") / "node", 0) as running:
        yield running


@pytest.fixture
def it(tmp_path: Path, node: NodeProcess) -> Iterator[Life]:
    """A client with a wallet and a Bitcoin node of its own, before its first command."""
    yield from _life(tmp_path, node, bitcoin=True)


@pytest.fixture
def lone(tmp_path: Path, node: NodeProcess) -> Iterator[Life]:
    """A client without a Bitcoin node, which can't submit packages."""
    yield from _life(tmp_path, node, bitcoin=False)


def _life(tmp_path: Path, node: NodeProcess, *, bitcoin: bool) -> Iterator[Life]:
    from hashlib import sha256

    made = Life(tmp_path / "client", node, Key(sha256(str(tmp_path).encode()).digest()), bitcoin=bitcoin)
    yield made
    made.session.close()

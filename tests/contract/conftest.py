"""The one pair of nodes that all tests of the contract share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract_support import Nodes, chosen_nodes


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """The embedded node, or those that the environment names."""
    with chosen_nodes(tmp_path_factory.mktemp("contract")) as found:
        yield found

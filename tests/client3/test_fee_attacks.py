"""Attacks on a client of protocol 3 by fees."""

from __future__ import annotations

import pytest
from client3_support import Life

from picopayments_cli.channel3.terms import Terms
from picopayments_cli.errors import BadTerms


def test_a_proposal_made_while_fees_were_high_is_not_agreed_to_once_they_are_low(it: Life) -> None:
    it.hub.terms = Terms(0, 1, 1.0, 0, 12, 1, 34, 100)
    refuse_after(it, 34, 1)


def test_a_proposal_made_while_fees_were_low_is_not_agreed_to_by_a_client_that_can_raise_nothing(lone: Life) -> None:
    lone.hub.terms = Terms(0, 1, 1.0, 0, 12, 1, 1, 100)
    refuse_after(lone, 1, 34)


def refuse_after(it: Life, asked: int, used: int) -> None:
    """Kill a client at its proposal, and see the next one refuse it at another rate."""
    try:
        it.node.rpc("feerate", rate=asked)
        it.killed_at("save proposed", it.connect)
        it.node.rpc("feerate", rate=used)
        with pytest.raises(BadTerms):
            it.sync()
        assert it.mempool() == []
        it.node.rpc("feerate", rate=asked)
        it.sync()  # nothing was lost by it
        assert it.connection.stage == "agreed"
    finally:
        it.node.rpc("feerate", rate=1)

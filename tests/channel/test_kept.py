"""The hub's signed count of a connection's syncs: whose it is, and when it convicts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from channel_support import PAYER, digest, key
from envelope_support import counted_by

from picopayments_cli.channel.kept import Count, counted
from picopayments_cli.channel.keys import Secrets, state_key
from picopayments_cli.channel.values import Handle
from picopayments_cli.errors import BadHubSignature, BadReply

HANDLE = Handle(digest("handle"))
COUNT = Count(HANDLE, 7, 1000)


def test_a_count_is_read_that_its_hub_has_signed_for_the_connection() -> None:
    body = counted_by(PAYER, COUNT.as_json())
    assert counted(body, HANDLE, PAYER.pubkey) == COUNT
    with pytest.raises(BadHubSignature):
        counted({**body, "counter": 8}, HANDLE, PAYER.pubkey)
    with pytest.raises(BadHubSignature):
        counted(body, HANDLE, key("another").pubkey)
    with pytest.raises(BadReply):
        counted(body, Handle(digest("another")), PAYER.pubkey)
    with pytest.raises(BadReply):
        counted({**body, "more": 1}, HANDLE, PAYER.pubkey)


@pytest.mark.parametrize(
    ("later", "convicts"),
    [
        (Count(HANDLE, 6, 1001), True),
        (Count(HANDLE, 0, 9999), True),
        (Count(HANDLE, 7, 1001), False),
        (Count(HANDLE, 8, 1001), False),
        (Count(HANDLE, 6, 1000), False),  # in one second there may be a sync after it
        (Count(HANDLE, 6, 999), False),
        (Count(Handle(digest("another")), 6, 1001), False),
    ],
)
def test_a_later_count_of_fewer_syncs_convicts_and_no_other(later: Count, convicts: bool) -> None:
    assert later.convicts(COUNT) is convicts


def test_states_are_sealed_with_a_key_of_their_own() -> None:
    wallet = key("wallet")
    others = {wallet.secret, Secrets(wallet, bytes(16)).payer.secret, Secrets(wallet, bytes(16)).payee.secret}
    assert state_key(wallet) not in others
    assert state_key(wallet) != state_key(key("another"))
    assert len(state_key(wallet)) == 32
    assert replace(COUNT).as_json() == {"handle": HANDLE.hex(), "counter": 7, "time": 1000}

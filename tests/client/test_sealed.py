"""A state as it is sealed: how large it is, what opens it, and what its digest holds together."""

from __future__ import annotations

import os
from dataclasses import replace
from hashlib import sha256

import pytest
from exchange_support import HANDLE, Side, prepare, serve, settle, two_parties

from picopayments_cli.channel.deadlines import Expiry
from picopayments_cli.channel.kept import MOST_STATE
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.messages import SyncReply, SyncRequest
from picopayments_cli.channel.payment_request import Requested
from picopayments_cli.channel.stages import AGREED
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.values import Handle, Quantity, Secret, Token
from picopayments_cli.channel.wire import Payment
from picopayments_cli.client.connection import Connection, Rows
from picopayments_cli.client.sealed import digest_of, open_state, seal_state

TERMS = Terms(10**12, 1, 1.5, 4032, 144, 1, 5, 100)


def after(syncs: int) -> tuple[Side, Connection]:
    """A client after so many syncs that moved something both ways, and its connection."""
    client, hub = two_parties()
    for number in range(syncs):
        body = prepare(client, 10 + number % 7).as_json()
        hub.due += 10 + 3 * number % 7
        answer = serve(hub, SyncRequest.parse(body), sha256(b"asked").digest()).as_json()
        settle(client, SyncReply.parse(answer))
    made = Connection(
        HANDLE,
        "https://hub.example.org/api/",
        hub.wallet.pubkey,
        "XCP",
        TERMS,
        client.secrets.salt,
        client.now,
        Expiry(900_000, 1000),
        AGREED,
        {},
        bytes(300),
        bytes(300),
        (899_000, 899_010),
        Rows(dict(client.signed)),
        counter=syncs,
    )
    return client, made


def test_a_state_is_as_large_as_the_document_says_however_many_syncs_there_were() -> None:
    sizes = [len(seal_state(client.wallet, made)) for client, made in map(after, (4, 120))]
    assert all(abs(size - 1250) < 100 for size in sizes)


def test_it_opens_with_the_key_the_handle_and_the_counter_only() -> None:
    client, made = after(4)
    sealed = seal_state(client.wallet, made)
    document = open_state(client.wallet, HANDLE, 4, sealed)
    assert document["salt"] == client.secrets.salt.hex()
    assert client.secrets.salt not in sealed
    for wrong in (
        (Key(bytes(31) + b"\1"), HANDLE, 4, sealed),
        (client.wallet, Handle(bytes(32)), 4, sealed),
        (client.wallet, HANDLE, 3, sealed),
        (client.wallet, HANDLE, 4, sealed[:-1] + bytes((sealed[-1] ^ 1,))),
        (client.wallet, HANDLE, 4, b""),
    ):
        with pytest.raises(ValueError, match=r"changed|short"):
            open_state(*wrong)


def test_the_digest_is_another_where_any_commit_is() -> None:
    client, made = after(9)
    signed, held = list(client.signed.values()), list(made.duplex.receiving.active)
    whole = digest_of(signed, held)
    assert open_state(client.wallet, HANDLE, 9, seal_state(client.wallet, made))["digest"] == whole.hex()
    assert digest_of(reversed(signed), reversed(held)) == whole
    first = signed[0]
    flipped = replace(first, secret=Secret(bytes(32)) if first.secret is None else None)
    others = [
        digest_of(signed[1:], held),
        digest_of([*signed, replace(first, quantity=Quantity(first.quantity + 1))], held),
        digest_of([flipped, *signed[1:]], held),
        digest_of([replace(first, quantity=Quantity(first.quantity + 1)), *signed[1:]], held),
        digest_of(signed, held[1:]),
        digest_of(signed, [*held, *held[:1]]),
    ]
    assert len({whole, *others}) == 1 + len(others)


@pytest.mark.parametrize("most", [256, 32])
def test_what_is_too_long_for_a_state_is_left_out(most: int) -> None:
    client, made = after(4)
    queue = tuple(Payment(HANDLE, Quantity(1), Token(os.urandom(most))) for _ in range(100))
    requests = tuple(Requested(Token(os.urandom(32)), os.urandom(16), Quantity(5), 2**31) for _ in range(1000))
    full = replace(made, queue=queue, requests=requests, receipts_due=tuple(item.token for item in requests))
    sealed = seal_state(client.wallet, full)
    assert len(sealed) <= MOST_STATE
    kept = open_state(client.wallet, HANDLE, 4, sealed)
    assert [item["token"] for item in kept["queue"]] == [item.token.hex() for item in queue[:20]]
    assert [item[0] for item in kept["requests"]] == [item.token.hex() for item in requests[-50:]]

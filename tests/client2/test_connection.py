"""A connection's document: all of it comes back, and what is no document of one is named and left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from channel2_support import PAYEE, PAYER, hashed, open_channel, secret
from hypothesis import example, given
from hypothesis import strategies as st
from memory_life_support import LifeInMemory, it
from picopayments_cli.channel2.duplex import Duplex, corrected, standing
from picopayments_cli.channel2.messages import Payment
from picopayments_cli.channel2.state import Channel, accept_commit, commit, give_back, request_commit, revoke, to_revoke
from picopayments_cli.channel2.terms import Terms
from picopayments_cli.client2 import exchange, life
from picopayments_cli.client2.connection import Connection
from picopayments_cli.client2.document import from_document, to_document

from picopayments_cli import api
from picopayments_cli.channel.stages import CLOSING
from picopayments_cli.channel.values import Handle, Pubkey, Quantity, Secret, Token
from picopayments_cli.errors import PicopaymentsError, StoreDamaged

__all__ = ["it"]


def document_of(it: LifeInMemory) -> tuple[Path, dict[str, Any]]:
    """The one connection's file, and what it holds."""
    path = it.session.store.folder / f"{it.handle}.json"
    return path, json.loads(path.read_bytes())


@pytest.fixture
def full(it: LifeInMemory) -> Connection:
    """A connection with something in every member."""
    it.receive(300)
    it.queue(400, b"given back soon")
    it.sync()
    it.hub.to_pay = [200]
    it.sync()
    it.hub.to_pay = [50]
    it.sync()
    it.queue(100, b"sent")
    life.queue(it.session, it.connection, Payment(None, Quantity(5), Token(b"to the hub")))
    it.session.save(exchange.prepare(it.session, it.connection), "test")
    it.queue(7, b"waits")
    made = replace(
        it.connection,
        stage=CLOSING,
        owed=12,
        hub_secret=Secret(b"h" * 32),
        revealed=True,
        told=True,
        commit_raw=b"raw",
        final=True,
        publishing=("payout", "ab" * 32),
        published=("cd" * 32, "ef" * 32),
    )
    channels = (made.duplex.sending, made.duplex.receiving)
    assert all(channel.anchor is not None for channel in channels)
    assert all(made.duplex.__dict__)
    assert made.duplex.sending.active
    assert made.duplex.sending.revoked
    assert made.duplex.receiving.active
    assert made.pending is not None
    assert {payment.payee is None for payment in made.pending.payments} == {True, False}
    return it.session.save(made, "test")


def test_all_of_it_comes_back(it: LifeInMemory, full: Connection) -> None:
    found = it.connection
    assert replace(found, numbers={}) == replace(full, numbers={})
    receiving = full.duplex.receiving
    kept = {*receiving.requested, *(commit.revoke_hash for commit in receiving.active)}
    assert found.numbers == {item: full.numbers[item] for item in kept}
    assert from_document(found.handle, json.loads(json.dumps(to_document(found)))) == found


def reloaded(sending: Channel, receiving: Channel) -> tuple[Channel, Channel]:
    """Two channels as their connection's document gives them back."""
    kept = Connection(
        handle=Handle(bytes(32)),
        hub_url="",
        hub_key=Pubkey(PAYEE.pubkey),
        asset="XCP",
        terms=Terms(0, 0, 1.0, 0, 12, 1, sending.fee_rate),
        salt=b"",
        duplex=Duplex(sending, receiving),
        stage=CLOSING,
        proposal={},
        deposit_raw=b"",
    )
    found = from_document(kept.handle, json.loads(json.dumps(to_document(kept)))).duplex
    return found.sending, found.receiving


# A payee keeps nothing of what it gave back, reloaded or not.
FORGOTTEN = [((0, "commit"), "", 5), ((1, "accept"), "", 1), ((1, "give back"), "", 5), ((1, "request"), "one", 1)]


def stepped(channel: Channel, step: str, name: str, amount: int, other: Channel) -> tuple[Any, Any]:
    """A channel after one step of its payer's or payee's, and what was said; or what is raised, and its data."""
    try:
        match step:
            case "request":
                return request_commit(channel, hashed(name)), None
            case "commit":
                return commit(channel, amount, PAYER)
            case "revoke":
                return revoke(channel, [secret(name)]), standing(channel)
            case "accept":
                offered = standing(other).offer
                return accept_commit(channel, offered) if offered else channel, None
            case "correct":
                return corrected(channel, standing(other), hashed(name).__eq__), None
            case _:
                back = to_revoke(channel, amount)
                return give_back(channel, back), back
    except PicopaymentsError as refused:
        return type(refused), refused.data


@given(
    st.lists(
        st.tuples(
            st.sampled_from([(0, "request"), (0, "commit"), (0, "revoke")])
            | st.sampled_from([(1, "request"), (1, "accept"), (1, "correct"), (1, "give back")]),
            st.sampled_from(["one", "two"]),
            st.integers(1, 40),
        ),
        max_size=20,
    )
)
@example(FORGOTTEN)
def test_a_channel_behaves_alike_after_a_reload(steps: list[tuple[tuple[int, str], str, int]]) -> None:
    """The payer's and the payee's, each after a life of its own in which it never was reloaded."""
    ends = [open_channel(100), open_channel(100)]
    for (side, step), name, amount in steps:
        again = reloaded(*ends)
        assert list(again) == ends
        there = stepped(ends[side], step, name, amount, ends[1 - side])
        assert stepped(again[side], step, name, amount, again[1 - side]) == there
        if isinstance(there[0], Channel):
            ends[side] = there[0]


def test_what_has_a_default_may_be_missing(it: LifeInMemory, full: Connection) -> None:
    """Of documents that are older than that member."""
    path, document = document_of(it)
    del document["final"]
    path.write_text(json.dumps(document))
    assert it.connection.final is False


# Values that no member has, by its kind.
OTHERS: tuple[Any, ...] = (None, "x", 5, -1, True, [], [5], [[]], {}, {"x": 5})


def is_damaged(it: LifeInMemory, path: Path, document: Any) -> bool:
    """Whether the file with that in it is refused by its name."""
    path.write_text(json.dumps(document))
    try:
        it.session.connections()
    except StoreDamaged as refused:
        return path.name in refused.message
    return False


def fits(name: str, value: Any, other: Any) -> bool:
    """Whether another value may stand in a member's place for all that its kind says."""
    if other is None:
        return name in ("pending", "hub_secret", "commit", "publishing", "anchor", "payee")
    if type(value) is not type(other):
        return False
    if name in ("hub_url", "asset") or (isinstance(value, int) and other != -1):
        return True
    return other in ([], {}) and name in ("queue", "published", "numbers", "requested", "active", "revoked", "proposal")


def test_each_member_must_be_there_and_of_its_kind(it: LifeInMemory, full: Connection) -> None:
    path, document = document_of(it)
    header = ("format", "version", "network", "event_count", "events", "terms")
    members = {name: value for name, value in document.items() if name not in header}
    assert [
        (name, other)
        for name, value in members.items()
        for other in OTHERS
        if not fits(name, value, other) and not is_damaged(it, path, {**document, name: other})
    ] == [("proposal", {"x": 5})]  # the hub judges that
    for name in members:
        less = {key: value for key, value in document.items() if key != name}
        assert is_damaged(it, path, less) is (name != "final"), name


@pytest.mark.parametrize("channel", ["c2h", "h2c"])
def test_each_member_of_a_channel_must_be_there_and_of_its_kind(
    it: LifeInMemory, full: Connection, channel: str
) -> None:
    path, document = document_of(it)
    whole = document[channel]
    for name, value in whole.items():
        for other in OTHERS:
            if not fits(name, value, other):
                assert is_damaged(it, path, {**document, channel: {**whole, name: other}}), (name, other)
        less = {key: item for key, item in whole.items() if key != name}
        assert is_damaged(it, path, {**document, channel: less}), name
    for name in ("active", "revoked", "anchor"):
        row = whole[name] if name == "anchor" else whole[name][0] if whole[name] else []
        for place, value in enumerate(row):
            for other in OTHERS:
                if type(other) is not type(value) or other == -1:
                    changed = [*row[:place], other, *row[place + 1 :]]
                    wrong = changed if name == "anchor" else [changed]
                    assert is_damaged(it, path, {**document, channel: {**whole, name: wrong}}), (name, place, other)


@pytest.mark.parametrize("where", ["queue", "pending"])
def test_each_member_of_a_payment_must_be_there_and_of_its_kind(it: LifeInMemory, full: Connection, where: str) -> None:
    path, document = document_of(it)
    payment = document["queue"][0]

    def changed(wrong: Any) -> dict[str, Any]:
        return (
            {**document, "queue": [wrong]}
            if where == "queue"
            else {**document, "pending": {**document["pending"], "payments": [wrong]}}
        )

    assert not is_damaged(it, path, changed(payment))
    for name, value in payment.items():
        for other in (*OTHERS, 0, 2**63, "ab" * 31):
            if (not fits(name, value, other) and not (name == "token" and other == "ab" * 31)) or other in (0, 2**63):
                assert is_damaged(it, path, changed({**payment, name: other})), (name, other)
        assert is_damaged(it, path, changed({key: item for key, item in payment.items() if key != name})), name
    for token in ("", "ab" * 257):
        assert is_damaged(it, path, changed({**payment, "token": token}))
    assert not is_damaged(it, path, changed({**payment, "token": "ab" * 256}))


def test_a_sync_that_waits_is_one(it: LifeInMemory, full: Connection) -> None:
    path, document = document_of(it)
    pending = document["pending"]
    (body,) = pending["bodies"]
    wrong: tuple[Any, ...] = ([], [5], {}, [{}], [{**body, "sends": None}], [{**body, "revokes": ["x"]}], [body, {}])
    for bodies in wrong:
        assert is_damaged(it, path, {**document, "pending": {**pending, "bodies": bodies}}), bodies
    assert not is_damaged(it, path, {**document, "pending": {**pending, "bodies": [body, body]}})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stage", "asking"),
        ("stage", "opening"),
        ("hub_key", "ab" * 32),
        ("hub_secret", "ab" * 31),
        ("hub_secret", "ab" * 33),
        ("hub_secret", ""),
        ("published", ["ab"]),
        ("publishing", ["payout", "ab"]),
        ("publishing", ["payout"]),
        ("numbers", {"x": 0}),
        ("numbers", {"ab" * 20: -1}),
        ("numbers", {"ab" * 20: True}),
        ("asset_id", "one"),
        ("deposit", "abc"),
        ("terms", {}),
        ("terms", None),
    ],
)
def test_a_member_of_the_right_kind_and_a_wrong_value(
    it: LifeInMemory, full: Connection, name: str, value: Any
) -> None:
    path, document = document_of(it)
    assert is_damaged(it, path, {**document, name: value})


def test_a_damaged_document_is_left_alone_by_every_command(it: LifeInMemory, full: Connection) -> None:
    path, document = document_of(it)
    handle = it.handle
    path.write_text(json.dumps({**document, "agreed_height": "1000"}))
    before = it.files()
    steps: tuple[Callable[[], object], ...] = (
        lambda: api.sync(it.session),
        lambda: api.status(it.session),
        lambda: api.close(it.session, handle),
        lambda: api.queuepayment(it.session, handle, handle, 5),
    )
    for step in steps:
        with pytest.raises(StoreDamaged):
            step()
    assert it.files() == before


def test_a_handle_that_was_asked_for_and_never_given_is_no_connection(it: LifeInMemory) -> None:
    it.killed_at("call mph_request", it.connect)
    it.session.store.save(Handle(b"w" * 32), {"stage": "asked", "salt": "ab"}, "test")
    assert it.session.connections() == {}
    assert api.sync(it.session) == {}

"""A connection's document: all of it comes back, and what is no document of one is named and left alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from client_support import Life
from regtest_support import NodeProcess

from picopayments_cli import api
from picopayments_cli.channel.facts import Counter
from picopayments_cli.channel.halves import Closing, Remainder
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.payment_request import Requested
from picopayments_cli.channel.stages import CLOSING
from picopayments_cli.channel.values import Handle, Hash, Quantity, Token
from picopayments_cli.channel.wire import Payment
from picopayments_cli.client import exchange, life
from picopayments_cli.client.connection import Connection
from picopayments_cli.errors import StoreDamaged, SyncIncomplete

HEADER = ("format", "version", "network", "changes", "event_count", "events", "rows_size", "terms", "protocol",
          "asset_longname")  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, node: NodeProcess) -> Iterator[tuple[Life, Connection]]:
    """A client of a connection with something in every member."""
    it = Life(tmp_path_factory.mktemp("full") / "client", node, Key(sha256(b"full").digest()))
    it.open()
    it.pay(400, b"given back soon")
    it.receive(200)
    it.queue(100, b"sent")
    life.queue(it.session, it.connection, Payment(Handle(b"p" * 32), Quantity(5), Token(b"to somebody"), 2**33))
    it.session.save(exchange.prepare(it.session, it.connection), "test")
    it.queue(7, b"waits")
    found = it.connection
    full = replace(
        found,
        stage=CLOSING,
        owed=12,
        final=True,
        publishing=("payout", "ab" * 32),
        published=("cd" * 32, "ef" * 32),
        ending=replace(
            found.ending,
            since=5,
            counters=(Counter(5, b"c" * 64),),
            closings=(Closing(7, b"p" * 64, b"r" * 65),),
            remainders=(Remainder(Quantity(9), Hash(b"h" * 20), b"s" * 65),),
            told=True,
        ),
        requests=(
            Requested(Token(b"t" * 32), b"s" * 16, Quantity(3), 5, Handle(b"p" * 32), given=True),
            Requested(Token(b"u" * 32), b"s" * 16, Quantity(4), 5),
        ),
        receipts_due=(Token(b"d" * 32),),
    )
    it.session.save(full, "test")
    yield it, full
    it.session.close()


@pytest.fixture
def full(kept: tuple[Life, Connection]) -> Iterator[Life]:
    """That client, its files as they were."""
    it, _ = kept
    path = it.session.store.folder / f"{it.handle}.json"
    whole = path.read_bytes()
    yield it
    path.write_bytes(whole)
    it.restart()


def document_of(it: Life) -> tuple[Path, dict[str, Any]]:
    """The one connection's file, and what it holds."""
    (path,) = it.session.store.folder.glob("*.json")
    return path, json.loads(path.read_bytes())


def test_all_of_it_comes_back(kept: tuple[Life, Connection]) -> None:
    it, full = kept
    it.restart()
    assert it.connection == full
    assert full.duplex.sending.active
    assert any(item.secret for item in full.rows.signed.values())
    assert full.pending is not None
    assert {payment.payee is None for payment in full.pending.payments} == {True, False}


# Values that no member has, by its kind.
OTHERS: tuple[Any, ...] = (None, "x", 5, -1, True, [], [5], [[]], {}, {"x": 5})


def is_damaged(it: Life, path: Path, document: Any) -> bool:
    """Whether the file with that in it is refused by its name."""
    path.write_text(json.dumps(document))
    it.session.connections()
    refused = it.session.unusable.get(Handle(bytes.fromhex(path.stem)))
    return isinstance(refused, StoreDamaged) and path.name in refused.message


def fits(name: str, value: Any, other: Any) -> bool:
    """Whether another value may stand in a member's place for all that its kind says."""
    if other is None:
        return name in (
            "pending",
            "publishing",
            "anchor",
            "payee",
            "hub_deposit",
            "newest",
            "since",
            "asked",
            "rival",
            "count",
        )
    if type(value) is not type(other):
        return False
    if name in ("hub_url", "asset") or (isinstance(value, int) and other != -1):
        return True
    return other in ([], {}) and name in (
        "queue",
        "published",
        "requested",
        "proposal",
        "counters",
        "closings",
        "remainders",
        "requests",
        "receipts_due",
        "jumps",
    )


def test_each_member_must_be_there_and_of_its_kind(full: Life) -> None:
    path, document = document_of(full)
    members = {name: value for name, value in document.items() if name not in HEADER}
    assert [
        (name, other)
        for name, value in members.items()
        for other in OTHERS
        if not fits(name, value, other) and not is_damaged(full, path, {**document, name: other})
    ] == [("proposal", {"x": 5}), ("deposit_by", None)]  # the hub judges the one, the other is not known of old
    for name in members.keys() - {
        *("deposit_by", "lock_due", "restored", "unproven", "taken_back", "counter", "count", "jumps"),
    }:
        less = {key: value for key, value in document.items() if key != name}
        assert is_damaged(full, path, less), name


@pytest.mark.parametrize("part", ["c2h", "h2c", "ending"])
def test_each_member_of_a_part_must_be_there_and_of_its_kind(full: Life, part: str) -> None:
    path, document = document_of(full)
    whole = document[part]
    for name, value in whole.items():
        for other in OTHERS:
            if not fits(name, value, other):
                assert is_damaged(full, path, {**document, part: {**whole, name: other}}), (name, other)
        less = {key: item for key, item in whole.items() if key != name}
        assert is_damaged(full, path, {**document, part: less}), name


@pytest.mark.parametrize("where", ["queue", "pending"])
def test_each_member_of_a_payment_must_be_there_and_of_its_kind(full: Life, where: str) -> None:
    path, document = document_of(full)
    payment = document["queue"][0]

    def changed(wrong: Any) -> dict[str, Any]:
        return (
            {**document, "queue": [wrong]}
            if where == "queue"
            else {**document, "pending": {**document["pending"], "payments": [wrong]}}
        )

    assert not is_damaged(full, path, changed(payment))
    for name, value in payment.items():
        for other in (*OTHERS, 0, 2**63):
            if not fits(name, value, other) or other in (0, 2**63):
                assert is_damaged(full, path, changed({**payment, name: other})), (name, other)
        assert is_damaged(full, path, changed({key: item for key, item in payment.items() if key != name})), name


def test_a_sync_that_waits_is_one(full: Life) -> None:
    path, document = document_of(full)
    pending = document["pending"]
    (body,) = pending["bodies"]
    wrong: tuple[Any, ...] = ([], [5], {}, [{}], [{**body, "sends": None}], [{**body, "revokes": ["x"]}], [body, {}])
    for bodies in wrong:
        assert is_damaged(full, path, {**document, "pending": {**pending, "bodies": bodies}}), bodies
    assert not is_damaged(full, path, {**document, "pending": {**pending, "bodies": [body, body]}})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("protocol", 2),
        ("stage", "asking"),
        ("stage", "opening"),
        ("hub_key", "ab" * 32),
        ("published", ["ab"]),
        ("publishing", ["payout", "ab"]),
        ("publishing", ["payout"]),
        ("deposit", "abc"),
        ("counted", [1]),
        ("counted", [-1, None]),
        ("expiry", [5]),
        ("sent", [[]]),
        ("terms", {}),
        ("terms", None),
    ],
)
def test_a_member_of_the_right_kind_and_a_wrong_value(full: Life, name: str, value: Any) -> None:
    path, document = document_of(full)
    assert is_damaged(full, path, {**document, name: value})


def test_a_damaged_document_is_left_alone_by_every_command_for_it(full: Life) -> None:
    path, document = document_of(full)
    handle = full.handle
    path.write_text(json.dumps({**document, "expiry": ["1000", 5]}))
    before = full.files()
    steps: tuple[Callable[[], object], ...] = (
        lambda: api.sync(full.session, handle),
        lambda: api.status(full.session, handle),
        lambda: api.close(full.session, handle),
        lambda: api.queuepayment(full.session, handle, handle, 5),
    )
    for step in steps:
        with pytest.raises((StoreDamaged, SyncIncomplete), match=path.name):
            step()
    assert api.status(full.session)["connections"][handle]["error"]["name"] == "StoreDamaged"
    left = {name: data for name, data in full.files().items() if not str(name).endswith(".seen")}
    assert left == before  # but what `status` saw


def test_a_handle_that_was_asked_for_and_never_given_is_no_connection(it: Life) -> None:
    it.killed_at("call mph_request", it.connect)
    it.session.store.save(Handle(b"w" * 32), {"stage": "asked", "salt": "ab"}, "test")
    assert it.session.connections() == {}
    it.restart()
    assert api.sync(it.session) == {}

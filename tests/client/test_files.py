"""A connection on disk: its document does not grow, its rows do, and both are one change."""

from __future__ import annotations

import json

import pytest
from client_support import Life

from picopayments_cli import api
from picopayments_cli.errors import LocalFiles, OldProtocol, StoreDamaged, SyncIncomplete


def sizes(it: Life) -> tuple[int, int]:
    """The bytes of the document, and of the rows."""
    document, rows = sorted(it.session.store.folder.iterdir(), key=lambda path: path.suffix)
    assert (document.suffix, rows.suffix) == (".json", ".jsonl")
    return document.stat().st_size, rows.stat().st_size


def test_a_document_does_not_grow_with_the_connections_age(it: Life) -> None:
    it.open()
    for number in range(4):
        it.pay(5, b"token %d" % number)
    early = sizes(it)
    for number in range(4, 24):
        it.pay(5, b"token %d" % number)
        it.receive(3)
    late = sizes(it)
    assert late[0] < early[0] + 400  # the newest commit received, and longer numbers
    assert late[1] > early[1]
    assert len(it.connection.rows.signed) > 24


def test_rows_of_a_save_that_was_cut_off_do_not_count(it: Life) -> None:
    it.open()
    it.pay(30)
    before = it.connection
    (rows,) = it.session.store.folder.glob("*.commits.jsonl")
    size = rows.stat().st_size
    with rows.open("ab") as file:
        file.write(b'["back","' + bytes(20).hex().encode() + b'"]\n["own')
    it.restart()
    assert it.connection == before
    it.pay(5, b"another")
    assert rows.read_bytes()[size:].count(b'["own') == 1
    it.restart()
    assert it.connection.duplex.sending.moved == before.duplex.sending.moved + 6


def test_rows_that_are_missing_or_cut_are_refused_by_name(it: Life) -> None:
    it.open()
    it.pay(30)
    (rows,) = it.session.store.folder.glob("*.commits.jsonl")
    whole = rows.read_bytes()
    for damage in (whole[:-1], b"{" + whole[1:], b'["none"' + whole[8:]):
        rows.write_bytes(damage)
        it.restart()
        with pytest.raises(StoreDamaged):
            it.session.connection(it.hub.handle)
    rows.unlink()
    it.restart()
    with pytest.raises(StoreDamaged):
        it.session.connection(it.hub.handle)
    rows.write_bytes(whole)
    rows.chmod(0o600)
    it.restart()
    assert it.connection.stage == "agreed"


def test_an_archived_connection_takes_its_rows_along(it: Life) -> None:
    it.open()
    it.pay(30)
    kept = it.connection
    it.session.store.archive(kept.handle)
    assert list(it.session.store.folder.iterdir()) == []
    assert it.session.archived() == {kept.handle: kept}


def test_every_value_is_as_it_was_after_a_reload(it: Life) -> None:
    it.open()
    it.pay(30)
    it.hub.silent = True
    it.queue(5)
    with pytest.raises(Exception, match="does not answer"):
        it.sync()
    written = it.session.home.written[it.hub.handle]
    it.restart()
    assert it.connection == written


def test_a_connection_of_protocol_2_is_named_and_the_others_go_on(it: Life, caplog: pytest.LogCaptureFixture) -> None:
    it.open()
    (path,) = it.session.store.folder.glob("*.json")
    old = "ab" * 32
    document = json.loads(path.read_text())
    path.with_name(f"{old}.json").write_text(json.dumps({**document, "version": 1, "events": []}))
    path.with_name(f"{old}.json").chmod(0o600)
    it.restart()
    it.hub.to_pay = [120]
    with pytest.raises(SyncIncomplete) as refused:
        api.sync(it.session)
    assert refused.value.data["failed"][old]["name"] == "OldProtocol"
    assert list(refused.value.result) == [it.handle]
    assert it.connection.duplex.guaranteed == 1000 + 120 - 2
    it.restart()
    caplog.clear()
    assert list(api.status(it.session)["connections"]) == [it.handle]
    assert "Nothing is lost" in caplog.text
    for command in (
        lambda: api.status(it.session, old[:8]),
        lambda: api.sync(it.session, old),
        lambda: api.close(it.session, old),
        lambda: api.queuepayment(it.session, old, it.handle, 5),
        lambda: api.cull(it.session, old),
    ):
        with pytest.raises(OldProtocol):
            command()
    api.sync(it.session, it.handle)
    assert api.queuepayment(it.session, it.handle, "cd" * 32, 5, "ab") == "ab"
    assert api.cull(it.session) == []
    assert [event["action"] for event in api.history(it.session)][:1] == ["connected"]


@pytest.mark.parametrize("damage", [b"", b"{}", b"\0" * 4096, None])
def test_a_file_that_can_not_be_read_costs_no_other_connection(it: Life, damage: bytes | None) -> None:
    it.open()
    (path,) = it.session.store.folder.glob("*.json")
    other = path.with_name("ab" * 32 + ".json")
    if damage is None:
        other.mkdir(mode=0o700)
    else:
        other.touch(mode=0o600)
        other.write_bytes(damage)
    it.restart()
    it.hub.to_pay = [120]
    token = api.queuepayment(it.session, it.handle, "cd" * 32, 5)
    with pytest.raises(SyncIncomplete) as incomplete:
        api.sync(it.session)
    refused = incomplete.value.data["failed"][other.stem]
    assert refused["data"]["path"] == str(other)
    assert it.connection.duplex.receiving.moved
    it.restart()
    found = api.status(it.session)["connections"]
    assert (found[it.handle]["status"], found[other.stem]["status"]) == ("open", "unknown")
    assert found[other.stem]["error"]["name"] == refused["name"]
    assert api.history(it.session)
    assert api.cull(it.session) == []
    with pytest.raises(LocalFiles):  # the file may hold the token
        api.queuepayment(it.session, it.handle, "cd" * 32, 5, "ab")
    with pytest.raises(LocalFiles):
        api.cancelpayment(it.session, token)
    api.sync(it.session, it.handle)
    it.session.store.remove(it.connection.handle)  # as if it were lost, too: the hub could name the other one again
    it.restart()
    with pytest.raises(SyncIncomplete):  # it reports what nobody was told
        api.sync(it.session)
    assert it.session.connections() == {}

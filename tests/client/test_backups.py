"""A client that comes back from a backup: its connections only close, and all is paid as it stood."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from client_support import NO_BACKUP, QUANTITY, Killed, Life
from envelope_support import answered, digest_of

from picopayments_cli import api
from picopayments_cli.channel.messages import SyncReply
from picopayments_cli.channel.networks import NETWORKS, wif_of_secret
from picopayments_cli.client import wallet_commands
from picopayments_cli.client.backup_file import files_in, owner_of, read
from picopayments_cli.client.restore_marks import check_restored, is_to_ask
from picopayments_cli.errors import (
    BackupDamaged,
    ConnectionNotOpen,
    FolderNotEmpty,
    ForeignBackup,
    HubUnreachable,
    PicopaymentsError,
    RestoreUnfinished,
    StaleRequest,
    SyncIncomplete,
)

REGTEST = NETWORKS["regtest"]
STALE = StaleRequest("The sync was overtaken.")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backup"


def forget(it: Life) -> str:
    """Leave nothing of the folder, and return the wallet's words."""
    key = it.session.home.unlocker.secret(it.session.wallet.file)
    it.session.close()
    shutil.rmtree(it.basedir)
    it.restart()
    it.session.read_key = lambda: key
    return key


def listed(it: Life, since: int = 0) -> list[dict[str, Any]]:
    """The payments behind an index."""
    return cast("list[dict[str, Any]]", api.payments(it.session, since=since))


def restore(it: Life, path: Path) -> None:
    """Leave nothing of the folder, and bring it back from a backup."""
    forget(it)
    api.restore(it.session, str(path))
    it.restart()


def outdate(it: Life, path: Path) -> int:
    """Make a backup, and go on paying and being paid; what is guaranteed since."""
    it.open()
    it.pay(10)
    api.backup(it.session, str(path))
    it.restart()
    it.receive(400)
    it.pay(7, b"later")
    return it.connection.duplex.guaranteed


def keeps_nothing(it: Life) -> None:
    """Have the hub keep no state of its clients that could be proven."""
    it.hub.lies = lambda reply: replace(reply, count=None)


def settle(it: Life, blocks: int = 12) -> None:
    """Sync before each block until everything is closed."""
    for _ in range(blocks):
        it.restart()
        api.sync(it.session)
        if it.connection.stage == "closed":
            return
        it.mine()
    raise AssertionError(f"not closed: {it.connection.ending}")


def test_the_automatic_one_is_at_the_newest_state_at_every_door(
    it: Life, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it.backup = path
    it.restart()
    owner, through, seen = owner_of(REGTEST, it.session.wallet), it.doors.through, []

    def compare(label: str) -> None:
        through(label)
        if not it.session.store.handles():
            return  # nothing was written yet
        seen.append(label)
        assert dict(read(path, REGTEST, owner).files) == dict(files_in(it.basedir, REGTEST)), label

    it.session.wallet_or_new()
    monkeypatch.setattr(it.doors, "through", compare)
    it.open()
    it.pay(30)
    it.receive(120)
    it.close()
    assert {"broadcast deposit", "call mph_sync", "call mph_close", "broadcast close"} <= set(seen)
    due = it.connection.duplex.guaranteed
    restore(it, path)
    settle(it)
    assert it.held() == due


def test_the_newest_one_brings_all_home(it: Life, path: Path) -> None:
    it.open()
    it.receive(120)
    it.pay(30)
    due, paid = it.connection.duplex.guaranteed, api.payments(it.session)
    told = api.backup(it.session, str(path))
    assert (told["address"], list(told["connections"]), told["payments"]) == (it.session.wallet.address, [it.handle], 2)
    files = it.files()
    read_through = api.backup(it.session, str(path), "verify")
    assert {**read_through, "age": 0} == {**told, "age": 0}
    assert it.files() == files
    with pytest.raises(FolderNotEmpty):
        api.restore(it.session, str(path))
    assert it.files() == files
    keeps_nothing(it)
    restore(it, path)
    assert it.connection.stage == "closing"
    assert api.payments(it.session) == paid
    with pytest.raises(ConnectionNotOpen):
        it.queue(1)
    settle(it)
    assert it.held() == due


def test_where_the_hub_keeps_the_newest_state_a_restored_connection_goes_on_with_it(it: Life, path: Path) -> None:
    due = outdate(it, path)
    restore(it, path)
    api.sync(it.session)
    assert (it.connection.stage, it.connection.restored) == ("agreed", False)
    fees = due - it.connection.duplex.guaranteed
    assert 0 <= fees <= 2
    it.restart()
    it.pay(20, b"last")
    it.receive(30)
    it.close()
    due = it.connection.duplex.guaranteed
    settle(it)
    assert it.held() == due


def test_a_result_that_the_hub_makes_up_takes_nothing_that_is_in_the_backup(it: Life, path: Path) -> None:
    it.open()
    for amount in (10, 400):
        it.receive(amount)
    api.backup(it.session, str(path))
    due, hub, side = it.connection.duplex.guaranteed, it.hub, it.hub.now.sending
    asked, result = hub.kept[hub.counter]
    real, top = SyncReply.parse(result), side.active[-1].revoke_hash
    forged = replace(real, half=replace(real.half, commit=None), receipts=()).as_json()
    hub._answers[digest_of("mph_sync", hub.key.pubkey, asked)] = forged
    hub.kept[hub.counter] = asked, answered("mph_sync", hub.key, forged)
    hub.now = replace(hub.now, sending=replace(side, active=side.active[:-1]))
    hub.signed = {name: row for name, row in hub.signed.items() if name != top}
    restore(it, path)
    with suppress(PicopaymentsError):
        api.sync(it.session)
    it.hub.silent = True
    while it.connection.stage != "closed":
        it.mine()
        it.restart()
        with suppress(SyncIncomplete):
            api.sync(it.session)
    assert it.held() >= due - 1  # less what a sync costs


def test_the_hub_is_asked_after_a_restore_until_it_has_answered(it: Life, path: Path) -> None:
    outdate(it, path)
    restore(it, path)
    it.hub.silent = True
    with suppress(SyncIncomplete):
        api.sync(it.session)
    it.restart()
    assert is_to_ask(it.basedir, REGTEST)
    it.hub.silent = False
    it.doors.passed.clear()
    api.sync(it.session)
    assert "call mph_key" in it.doors.passed
    assert not is_to_ask(it.basedir, REGTEST)
    it.restart()
    it.doors.passed.clear()
    with suppress(PicopaymentsError):
        api.sync(it.session)
    assert it.connection.restored or "call mph_key" not in it.doors.passed


def test_what_was_closing_in_a_backup_goes_on_closing(it: Life, path: Path) -> None:
    it.open()
    it.receive(400)
    it.hub.silent = True
    it.close()
    assert it.connection.stage == "closing"
    api.backup(it.session, str(path))
    restore(it, path)
    it.hub.silent = False
    api.sync(it.session)
    assert it.connection.stage != "agreed"


def test_no_index_of_a_lost_file_is_used_again(it: Life, path: Path) -> None:
    it.open()
    it.pay(10)
    api.backup(it.session, str(path))
    it.restart()
    for amount in (400, 300):
        it.receive(amount)
    last = it.session.store.payments.last
    restore(it, path)
    api.sync(it.session)
    it.restart()
    it.receive(30)
    assert listed(it, last)[-1]["amount"] == 30
    assert listed(it)[0]["index"] == 1


def test_a_state_of_the_hubs_that_is_older_than_the_backup_does_not_count(it: Life, path: Path) -> None:
    it.open()
    it.pay(10)
    kept, counter = it.hub.kept[it.hub.counter], it.hub.counter
    it.receive(400)
    due = it.connection.duplex.guaranteed
    api.backup(it.session, str(path))
    restore(it, path)
    newest, it.hub.kept[it.hub.counter] = it.hub.counter, kept
    it.hub.lies = lambda reply: replace(reply, count=it.hub.count(counter))
    api.sync(it.session)
    assert newest > counter
    assert it.connection.stage == "closing"
    settle(it)
    assert it.held() == due


def test_an_older_one_signs_nothing_away_and_gets_what_came_since(it: Life, path: Path) -> None:
    due = outdate(it, path)
    keeps_nothing(it)
    restore(it, path)
    assert it.connection.duplex.guaranteed < due
    it.hub.refuses = STALE
    settle(it)
    signed = [item.h2c_close for item in it.hub.asked]
    assert signed[0] is None
    assert {item.quantity for item in signed if item} == {it.hub.now.sending.moved}
    assert it.held() == due


def test_no_commit_that_was_given_back_since_is_published_while_the_hub_is_away(it: Life, path: Path) -> None:
    it.open()
    it.receive(100)
    it.receive(300)
    first, highest = it.connection.duplex.receiving.active
    api.backup(it.session, str(path))
    it.restart()
    it.pay(highest.quantity - first.quantity - 1, b"back")
    assert it.connection.duplex.receiving.active == (first,)  # the highest was given back
    due, expiry = it.connection.duplex.guaranteed, it.connection.expiry
    keeps_nothing(it)
    restore(it, path)
    it.hub.silent = True
    for blocks in (1, expiry.settle_height - it.tip - 2):
        it.mine(blocks)
        it.restart()
        with pytest.raises(SyncIncomplete, match="was not told"):
            api.sync(it.session)
        assert it.mempool() == []
    it.hub.silent = False
    settle(it)
    assert it.held() == due
    assert "commit" not in [event["kind"] for event in it.told() if event["action"] == "published"]


def test_where_the_hub_is_gone_all_that_is_in_it_comes_home_at_the_deadline(it: Life, path: Path) -> None:
    it.open()
    it.receive(400)
    due, expiry = it.connection.duplex.guaranteed, it.connection.expiry
    api.backup(it.session, str(path))
    restore(it, path)
    it.hub.silent = True
    it.until(expiry.settle_height)
    for _ in range(40):
        it.restart()
        with suppress(SyncIncomplete):
            api.sync(it.session)
        if it.connection.stage == "closed":
            break
        it.mine()
    assert it.held() == due
    assert "commit" in [event["kind"] for event in it.told() if event["action"] == "published"]


def test_what_was_only_proposed_in_it_is_asked_of_the_hub(it: Life, path: Path) -> None:
    it.killed_at("save proposed", it.connect)
    it.restart()
    api.backup(it.session, str(path))
    it.sync()  # agrees
    it.sync()  # and deposits
    it.fund()
    it.sync()
    it.receive(50)
    due = it.connection.duplex.guaranteed
    keeps_nothing(it)
    restore(it, path)
    assert it.connection.stage == "proposed"
    with pytest.raises(ConnectionNotOpen):
        it.queue(1)
    settle(it)
    assert it.held() == due


def test_what_was_only_proposed_in_it_has_its_deposit_back_without_the_hub(it: Life, path: Path) -> None:
    it.killed_at("save proposed", it.connect)
    it.restart()
    api.backup(it.session, str(path))
    it.sync()
    it.sync()
    it.mine()
    expiry = it.connection.expiry
    restore(it, path)
    it.hub.silent = True
    with pytest.raises(HubUnreachable):
        api.close(it.session, it.handle)
    assert it.connection.stage == "closing"
    it.until(expiry.height)
    settle(it, 20)
    assert it.held() == QUANTITY


def test_a_restore_that_was_killed_is_refused_and_done_again(it: Life, path: Path) -> None:
    it.open()
    it.receive(120)
    due = it.connection.duplex.guaranteed
    api.backup(it.session, str(path))
    keeps_nothing(it)
    key = forget(it)
    it.doors.deadly = "save restored"
    with pytest.raises(Killed):
        api.restore(it.session, str(path))
    it.restart()
    with pytest.raises(RestoreUnfinished):
        check_restored(it.basedir, REGTEST)
    it.session.read_key = lambda: key
    api.restore(it.session, str(path))
    check_restored(it.basedir, REGTEST)
    settle(it)
    assert it.held() == due


def test_one_that_is_damaged_at_its_end_is_refused_by_verify_and_restored_as_far_as_it_is_whole(
    it: Life, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    it.backup = path
    it.restart()
    it.open()
    it.receive(120)
    due = it.connection.duplex.guaranteed
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BackupDamaged, match="`picopayments-cli restore FILE` takes that"):
        api.backup(it.session, str(path), "verify")
    it.backup = NO_BACKUP
    keeps_nothing(it)
    restore(it, path)
    assert "damaged or cut off" in caplog.text
    settle(it)
    assert it.held() == due


def test_a_key_of_another_wallet_changes_nothing(it: Life, path: Path) -> None:
    api.backup(it.session, str(path))
    forget(it)
    before = it.files()
    it.session.read_key = lambda: wif_of_secret(REGTEST, bytes([9]) * 32)
    with pytest.raises(ForeignBackup):
        api.restore(it.session, str(path))
    with pytest.raises(ForeignBackup):
        api.backup(it.session, str(path), "verify")
    assert it.files() == before


def test_a_wallet_that_is_in_the_folder_already_is_named_where_it_does_not_open_one(it: Life, path: Path) -> None:
    api.backup(it.session, str(path))
    forget(it)
    wallet_commands.wallet_new(it.session)
    it.session.read_key = lambda: pytest.fail("it reads words that it does not use")
    with pytest.raises(ForeignBackup) as refused:
        api.restore(it.session, str(path))
    assert it.session.wallet.address in refused.value.message


def test_after_a_restore_the_own_sync_is_next_and_then_a_deadline_that_does_not_move(it: Life, path: Path) -> None:
    outdate(it, path)
    restore(it, path)
    assert awaited(it)[0] == "sync"
    keeps_nothing(it)
    it.hub.closes_alone = True
    for _ in range(3):
        it.restart()
        api.sync(it.session)
        assert awaited(it) == ("hub", it.connection.duplex.sending.contract.deposit.height)
        it.mine()


def awaited(it: Life) -> tuple[str, int | None]:
    shown = api.status(it.session)["connections"][it.handle]
    return shown["waiting_for"], shown["until_height"]

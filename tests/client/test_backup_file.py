"""The file of a backup: nobody else opens it, no byte of it can be changed, and nothing newer is replaced by it."""

from __future__ import annotations

import json
import resource
import stat
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from picopayments_cli.channel.networks import NETWORKS, wif_of_secret
from picopayments_cli.channel.values import Handle
from picopayments_cli.client import history
from picopayments_cli.client.backup_file import Content, files_in, owner_of, read, write
from picopayments_cli.client.key_file import KeyFile
from picopayments_cli.client.mirror import Mirror, MirroredStore
from picopayments_cli.client.store import Store
from picopayments_cli.client.wallet import Wallet
from picopayments_cli.errors import BackupDamaged, BackupNewer, ForeignBackup, StoreNewer, StoreUnusable
from picopayments_cli.sealed_file import Place

REGTEST = NETWORKS["regtest"]
WALLET, OTHER = (Wallet(KeyFile.of_wif(REGTEST, wif_of_secret(REGTEST, bytes([number]) * 32))) for number in (1, 2))
ONE, TWO = (Handle(bytes([number]) * 32) for number in (1, 2))
PAID = [history.closed()]


def save(store: Store, handle: Handle = ONE, stage: str = "agreed", rows: int = 1) -> None:
    """One change of a connection."""
    if store.has(handle):
        store.load(handle)
    store.save(handle, {"stage": stage}, "test", PAID, [["own", f"{number:064x}"] for number in range(rows)])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "base", REGTEST)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backup"


def back_up(store: Store, path: Path, wallet: Wallet = WALLET) -> Place:
    return write(path, REGTEST, wallet, files_in(store.basedir, REGTEST))


def opened(path: Path, wallet: Wallet = WALLET) -> Content:
    return read(path, REGTEST, owner_of(REGTEST, wallet))


def mirrored(store: Store, path: Path, wallet: Wallet | None = WALLET) -> MirroredStore:
    return MirroredStore(store.basedir, REGTEST, 1.0, mirror_of(store, path, wallet))


def mirror_of(store: Store, path: Path, wallet: Wallet | None = WALLET) -> Mirror:
    return Mirror(path, store.basedir, REGTEST, lambda: wallet)


def test_it_holds_every_file_and_none_but_its_owner_reads_it(store: Store, path: Path) -> None:
    with store:
        save(store)
        save(store)
        store.notes.save_hub_key("http://hub.invalid", "02" * 33)
        save(store, TWO)
        store.archive(TWO)
        store.notes.save_rate(7)
    back_up(store, path)
    content = opened(path)
    assert dict(content.files) == dict(files_in(store.basedir, REGTEST))
    assert len(content.files) == 6  # two documents with their rows, hubs and history
    assert (content.address, content.broken) == (WALLET.address, None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"agreed" not in path.read_bytes()
    assert ONE.hex().encode() not in path.read_bytes()


def test_no_byte_of_it_can_be_changed_or_cut_off(store: Store, path: Path) -> None:
    with mirrored(store, path) as kept:
        save(kept)
    states = [dict(opened(path).files)]
    with mirrored(store, path) as kept:
        save(kept)
    states.append(dict(opened(path).files))
    data, other = path.read_bytes(), path.with_name("other")
    for position in range(0, len(data), 11):
        for changed in (
            data[:position],
            data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :],
            data[:position] + data[position + 1 :],
        ):
            other.write_bytes(changed)
            try:
                content = opened(other)
            except (BackupDamaged, ForeignBackup, StoreNewer):
                continue
            whole = content.broken is None or "first line" in content.broken.message
            assert dict(content.files) in states[: 2 if whole else 1]


def test_a_damaged_first_line_is_said_to_be_damaged_and_what_follows_can_be_had(store: Store, path: Path) -> None:
    with store:
        save(store)
    back_up(store, path)
    data, files = path.read_bytes(), dict(opened(path).files)
    for position in range(data.index(b"\n") + 1):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        content = opened(path)
        assert dict(content.files) == files
        assert "first line is damaged" in str(content.broken)


def test_a_part_that_was_left_out_or_moved_is_noticed(store: Store, path: Path) -> None:
    sizes = []
    for _ in range(4):
        with mirrored(store, path) as kept:
            save(kept)
        sizes.append(path.stat().st_size)
    data = path.read_bytes()
    first, second, third, fourth = data[: sizes[0]], *(data[a:b] for a, b in pairwise(sizes))
    assert opened(path).broken is None
    for order in (first + third, first + third + second + fourth, first + second + second):
        path.write_bytes(order)
        assert opened(path).broken is not None


def test_another_wallet_network_or_version_is_refused_by_name_and_not_replaced(store: Store, path: Path) -> None:
    with store:
        save(store)
    back_up(store, path, OTHER)
    before = path.read_bytes()
    with pytest.raises(ForeignBackup, match="not sealed with this key"):
        back_up(store, path)
    with pytest.raises(ForeignBackup, match="of regtest, not of signet"):
        read(path, NETWORKS["signet"], owner_of(NETWORKS["signet"], OTHER))
    line, _, rest = before.partition(b"\n")
    newer = json.dumps({**json.loads(line), "version": 2}).encode() + b"\n" + rest
    for data, error in ((newer, StoreNewer), (b"", BackupDamaged), (b"my diary\n", BackupDamaged)):
        path.write_bytes(data)
        with pytest.raises(error):
            back_up(store, path, OTHER)
        assert path.read_bytes() == data
    path.unlink()
    with pytest.raises(StoreUnusable):
        opened(path)


def test_a_newer_one_is_not_replaced_by_an_older_an_empty_or_a_parted_folder(
    store: Store, path: Path, tmp_path: Path
) -> None:
    with store:
        save(store)
    back_up(store, path)
    old = dict(files_in(store.basedir, REGTEST))
    with store:
        save(store)
    back_up(store, path)
    back_up(store, path)  # the same again
    kept = path.read_bytes()
    parted = Store(tmp_path / "parted", REGTEST)
    with parted:
        for number in range(3):
            parted.has(ONE) and parted.load(ONE)
            parted.save(ONE, {"stage": "agreed"}, "test", PAID, [["own", f"{number + 9:064x}"]])
    for files in (old, {}, files_in(parted.basedir, REGTEST)):
        with pytest.raises(BackupNewer, match="was replaced"):
            write(path, REGTEST, WALLET, files)
        assert path.read_bytes() == kept
    (store.folder / f"{ONE.hex()}.json").write_text("{")
    with pytest.raises(BackupNewer):  # a folder that is damaged does not cost its backup
        back_up(store, path)
    with store:
        save(store, TWO, "proposed")
    (store.folder / f"{ONE.hex()}.json").write_bytes(dict(opened(path).files)[f"regtest.connections/{ONE.hex()}.json"])
    back_up(store, path)
    with store:
        store.remove(TWO)
    back_up(store, path)  # nothing was deposited for that one
    with store:
        store.archive(ONE)
    back_up(store, path)
    assert len([name for name in opened(path).files if "archive" in name]) == 2


def test_a_full_disk_leaves_the_old_one(store: Store, path: Path) -> None:
    with store:
        save(store)
    back_up(store, path)
    before = path.read_bytes()
    with store:
        save(store, rows=200)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), limit[1]))
    try:
        with pytest.raises(StoreUnusable):
            back_up(store, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before
    assert sorted(item.name for item in path.parent.iterdir()) == ["backup", "base"]


# By itself ----------------------------------------------------------------------------------------------------------


def test_each_change_is_in_it_when_it_is_done(store: Store, path: Path) -> None:
    for number in range(2, 5):
        handle = Handle(bytes([number]) * 32)
        with mirrored(store, path) as kept:
            save(kept)
            assert dict(opened(path).files) == dict(files_in(store.basedir, REGTEST))
            save(kept, handle, rows=3)
            assert dict(opened(path).files) == dict(files_in(store.basedir, REGTEST))
            kept.notes.save_hub_key("http://hub.invalid", "02" * 33)
            kept.archive(handle)
            assert dict(opened(path).files) == dict(files_in(store.basedir, REGTEST))


def test_a_change_costs_what_it_is_long_and_not_what_there_is(store: Store, path: Path) -> None:
    with mirrored(store, path) as kept:
        save(kept, rows=500)
    inode, sizes = path.stat().st_ino, [path.stat().st_size]
    for _ in range(10):
        with mirrored(store, path) as kept:
            save(kept)
        sizes.append(path.stat().st_size)
    assert path.stat().st_ino == inode  # added to, by each process
    assert max(b - a for a, b in pairwise(sizes)) < 1000 < sizes[0]


@pytest.mark.parametrize("harm", ["killed", "cut off", "taken away", "without", "mark lost"])
def test_where_it_is_not_at_the_newest_state_it_is_written_anew(
    store: Store, path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        with mirrored(store, path) as kept:
            save(kept)
    if harm == "killed":  # between the file and the backup
        mirror = mirror_of(store, path)
        monkeypatch.setattr(mirror, "keep", _interrupt)
        with suppress(KeyboardInterrupt), MirroredStore(store.basedir, REGTEST, 1.0, mirror) as kept:
            save(kept)
    elif harm == "cut off":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "taken away":
        path.unlink()
    elif harm == "without":  # the setting
        with store:
            save(store)
    else:
        (store.basedir / "regtest.mirrored").unlink()
    with mirrored(store, path) as kept:
        save(kept)
    content = opened(path)
    assert (content.broken, dict(content.files)) == (None, dict(files_in(store.basedir, REGTEST)))


def _interrupt(_change: object) -> None:
    raise KeyboardInterrupt


def test_it_is_written_anew_once_what_was_added_is_twice_the_rest(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("picopayments_cli.client.mirror._LEAST", 0)
    numbers = []
    for _ in range(12):
        with mirrored(store, path) as kept:
            save(kept)
        numbers.append(opened(path).place.number)
    assert 1 in numbers[1:]
    assert dict(opened(path).files) == dict(files_in(store.basedir, REGTEST))


def test_one_that_cannot_be_written_stops_nothing_and_is_told(
    store: Store, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.mkdir()
    with mirrored(store, path) as kept:
        save(kept)
        save(kept)
    assert [record.getMessage().count("NOT written") for record in caplog.records] == [1]
    path.rmdir()
    with mirrored(store, path) as kept:
        save(kept)
    assert dict(opened(path).files) == dict(files_in(store.basedir, REGTEST))


def test_a_change_that_a_full_disk_cut_off_leaves_the_last_state_whole(store: Store, path: Path) -> None:
    with mirrored(store, path) as kept:
        save(kept)
    before, files = path.read_bytes(), dict(opened(path).files)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limit[1]))  # the files themselves are smaller
    try:
        with mirrored(store, path) as kept:
            save(kept)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before
    content = opened(path)
    assert (dict(content.files), content.broken) == (files, None)


def test_an_older_folder_does_not_write_over_it_by_itself(
    store: Store, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with mirrored(store, path) as kept:
        save(kept)
    old = {name: (store.basedir / name).read_bytes() for name in files_in(store.basedir, REGTEST)}
    with mirrored(store, path) as kept:
        save(kept)
        save(kept)
    newest = path.read_bytes()
    for name, data in old.items():
        (store.basedir / name).write_bytes(data)
    with mirrored(store, path) as kept:
        save(kept)
    assert path.read_bytes() == newest
    assert "may be an old copy" in caplog.text


def test_nothing_is_sealed_with_a_key_that_is_not_on_disk(store: Store, path: Path) -> None:
    with mirrored(store, path, None) as kept:
        kept.notes.save_hub_key("http://hub.invalid", "02" * 33)
    assert not path.exists()
    with mirrored(store, path) as kept:
        save(kept)
    assert dict(opened(path).files) == dict(files_in(store.basedir, REGTEST))

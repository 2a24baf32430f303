"""A hub's backup: sealed with its key, on SQLite and PostgreSQL; a hub that comes back from one only closes."""

from __future__ import annotations

import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from books_support import ON_POSTGRES
from forked import completed
from hub_support import Client, Desk, open_all, payment, running_desk
from postgres_support import server
from regtest_support import REGTEST
from sqlalchemy import text
from sqlalchemy.engine import URL

from picopayments_cli.errors import (
    BackupDamaged,
    DatabaseOutdated,
    FolderNotEmpty,
    ForeignBackup,
    RestoreUnfinished,
    StoreDamaged,
    StoreUnusable,
)
from picopayments_cli.hub.database import Database, default_url, sqlite_path
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.operator import Operator
from picopayments_cli.hub.overview import Overviews
from picopayments_cli.hub.restoring import restore, verify
from picopayments_cli.hub.schema import METADATA, payments
from picopayments_cli.hub.stale_database import Witness


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Desk]:
    """A hub of the test's own."""
    with running_desk(tmp_path) as running:
        yield running


def operator_of(desk: Desk) -> Operator:
    """The commands on a hub, as the program has them."""
    witness = Witness(desk.folder.witness_path, desk.database, desk.hub.book)
    return Operator(desk.rounds, desk.folder, Overviews(desk.hub), witness.outdate_copies)


def new_folder(desk: Desk, name: str) -> Folder:
    """A folder that has the hub's key and nothing else."""
    folder = Folder(desk.folder.basedir.with_name(name), REGTEST)
    folder.basedir.mkdir(mode=0o700)
    folder.wif_path.write_bytes(desk.folder.wif_path.read_bytes())
    folder.wif_path.chmod(0o600)
    return folder


def new_url(folder: Folder) -> URL:
    """An empty database."""
    if not ON_POSTGRES:
        return default_url(folder.basedir, "regtest")
    name = f"restored_{folder.basedir.name}_{secrets.token_hex(4)}"
    server()._admin(f"CREATE DATABASE {name}")
    return server().url(name)


def rows_of(database: Database) -> dict[str, list[tuple[object, ...]]]:
    """All that is in the tables, but the lease and the hub's own count."""
    with database.reading() as connection:
        found = {
            name: sorted(map(tuple, connection.execute(text(f"SELECT * FROM {name}"))), key=repr)
            for name in METADATA.tables
            if name != "leases"
        }
    found["meta"] = [row for row in found["meta"] if row[0] != "witness"]
    return found


def test_a_hub_comes_back_from_its_backup_to_close_and_all_is_as_it_was(own: Desk, tmp_path: Path) -> None:
    alice = Client(own, "alice")
    open_all(own, alice)
    alice.sync(payment(None, 100))
    before, path = rows_of(own.database), tmp_path / "hub.backup"
    told = operator_of(own).backup(str(path))
    assert (told["file"], told["rows"]["connections"]) == (str(path), 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert alice.handle.hex().encode() not in path.read_bytes()
    for place in (path, tmp_path / "nowhere" / "hub.backup"):
        with pytest.raises(StoreUnusable):
            operator_of(own).backup(str(place))
    assert not list(tmp_path.glob("*.tmp"))
    own.rounds.once()
    own.stop()
    own.start()  # the hub itself goes on
    folder = new_folder(own, "new")
    url = new_url(folder)
    assert verify(folder, path)["rows"] == told["rows"]
    assert restore(folder, url, path)["rows"] == told["rows"]
    assert folder.terms_path.read_bytes() == own.folder.terms_path.read_bytes()
    with pytest.raises(FolderNotEmpty):
        restore(folder, url, path)
    own.stop()
    own.folder, own.books = folder, _Books(url)  # type: ignore[assignment]
    with pytest.raises(DatabaseOutdated):
        own.start()
    database = Database(url)
    assert rows_of(database) == before
    database.close()
    own.start(restored=True)
    assert own.account(alice.handle).stage == "closing"
    assert alice.paid == 101
    with own.database.transaction("test") as connection:  # numbers go on behind those that are there
        row = {"payer": alice.handle, "amount": 1, "token": b"t", "state": "done", "time": 1}
        connection.execute(payments.insert(), [row, row])


class _Books:
    """A database that is there."""

    def __init__(self, url: URL) -> None:
        self.url = url


def test_a_backup_that_is_damaged_or_of_another_hub_changes_nothing(own: Desk, tmp_path: Path) -> None:
    path = tmp_path / "hub.backup"
    operator_of(own).backup(str(path))
    data, folder = path.read_bytes(), new_folder(own, "new")
    url = new_url(folder)
    for position in (5, 200, len(data) // 2, len(data) - 3):
        for changed in (data[:position], data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]):
            path.write_bytes(changed)
            with pytest.raises((BackupDamaged, ForeignBackup)):
                restore(folder, url, path)
    line, _, rest = data.partition(b"\n")
    size = int.from_bytes(rest[:4], "big")
    path.write_bytes(line + b"\n" + rest[: 4 + size])  # whole parts, and not all of them
    with pytest.raises(BackupDamaged, match="last part"):
        verify(folder, path)
    path.write_bytes(data)
    other = Folder(tmp_path / "other", REGTEST)
    other.basedir.mkdir(mode=0o700)
    with pytest.raises(StoreDamaged, match="opens a backup"):
        restore(other, url, path)
    other.key()
    with pytest.raises(ForeignBackup):
        restore(other, url, path)
    assert sorted(item.name for item in folder.basedir.iterdir()) == ["hub.regtest.lock", "hub.regtest.wif"]


@pytest.mark.skipif(ON_POSTGRES, reason="it is of SQLite's files")
@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
def test_no_database_is_put_beside_what_is_left_of_another(own: Desk, tmp_path: Path, end: str) -> None:
    path = tmp_path / "hub.backup"
    operator_of(own).backup(str(path))
    folder = new_folder(own, "new")
    left = folder.basedir / f"regtest.db{end}"
    left.write_bytes(b"")
    with pytest.raises(FolderNotEmpty, match=end):
        restore(folder, new_url(folder), path)
    left.unlink()
    restore(folder, new_url(folder), path)


_KILLED = """
import os, sys
from pathlib import Path
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.hub import restoring
from picopayments_cli.hub.folder import Folder

door, basedir, url, path = sys.argv[1:]
setattr(Folder if door == "_restored" else restoring, door, lambda *_: os._exit(9))
restoring.restore(Folder(Path(basedir), NETWORKS["regtest"]), url, Path(path))
"""


@pytest.mark.parametrize("door", ["_insert_all", "_restored"])
def test_no_hub_starts_where_a_restore_was_killed_and_the_restore_is_done_again(
    own: Desk, tmp_path: Path, door: str
) -> None:
    alice, path = Client(own, "alice"), tmp_path / "hub.backup"
    open_all(own, alice)
    before, told = rows_of(own.database), operator_of(own).backup(str(path))
    folder = new_folder(own, "new")
    url = new_url(folder)
    shown = url.render_as_string(hide_password=False)
    assert completed(["-c", _KILLED, door, str(folder.basedir), shown, str(path)], 60)[0] == 9
    words = ["--regtest", "--basedir", str(folder.basedir), "--database", shown, "--workers", "1"]
    code, _, stderr = completed(["-m", "picopayments_cli.hub.cli", *words], 60)
    assert (code, "RestoreUnfinished" in stderr, "restore FILE" in stderr) == (4, True, True)
    with pytest.raises(RestoreUnfinished):
        folder.check_restored(sqlite_path(url))
    assert restore(folder, url, path)["rows"] == told["rows"]
    folder.check_restored(sqlite_path(url))
    database = Database(url)
    assert rows_of(database) == before
    database.close()

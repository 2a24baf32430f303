"""The hub's database: durable, private, one writer at a time, and never changed by a program that is too old."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.engine import URL

from picopayments_cli.errors import DatabaseUnusable, StoreLocked, UnknownHandle
from picopayments_cli.hub import migrations
from picopayments_cli.hub.database import Database, default_url, meta_get, meta_set
from picopayments_cli.hub.schema import METADATA


@pytest.fixture
def url(tmp_path: Path) -> URL:
    return default_url(tmp_path / "hub", "regtest")


def file_of(url: URL) -> Path:
    return Path(str(url.database))


def test_the_file_is_private_and_every_commit_is_flushed(url: URL) -> None:
    database = Database(url)
    with database.transaction("test") as connection:
        meta_set(connection, "a", "1")
    with database.reading() as connection:
        pragmas = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", 2]
    folder = file_of(url).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    database.close()


def test_migrations_make_the_tables_that_the_program_uses(url: URL) -> None:
    database = Database(url)
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    database.close()


def test_what_was_committed_survives_sigkill(url: URL) -> None:
    program = (
        "import os, signal, sys\n"
        "from picopayments_cli.hub.database import Database, meta_set\n"
        "database = Database(sys.argv[1])\n"
        "with database.transaction('kept') as connection:\n"
        "    meta_set(connection, 'kept', 'yes')\n"
        "with database.transaction('cut') as connection:\n"
        "    meta_set(connection, 'kept', 'no')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", program, url.render_as_string()], cwd=root, timeout=60, check=False)
    assert killed.returncode == -9
    database = Database(url)
    with database.reading() as connection:
        assert meta_get(connection, "kept") == "yes"
    database.close()


def test_an_error_undoes_the_whole_transaction_and_the_next_one_works(url: URL) -> None:
    database = Database(url)

    def refused() -> None:
        with database.transaction("refused") as connection:
            meta_set(connection, "a", "1")
            raise UnknownHandle("no")

    with pytest.raises(UnknownHandle):
        refused()
    with database.transaction("next") as connection:
        assert meta_get(connection, "a") is None
        meta_set(connection, "a", "2")
    with database.reading() as connection:
        assert meta_get(connection, "a") == "2"
    database.close()


def test_threads_write_one_after_the_other(url: URL) -> None:
    database = Database(url)
    with database.transaction("start") as connection:
        meta_set(connection, "count", "0")

    def count() -> None:
        for _ in range(50):
            with database.transaction("count") as connection:
                meta_set(connection, "count", str(int(meta_get(connection, "count") or 0) + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as connection:
        assert meta_get(connection, "count") == "200"
    database.close()


def test_a_reader_sees_the_last_commit_while_a_transaction_is_open(url: URL) -> None:
    database = Database(url)
    with database.transaction("first") as connection:
        meta_set(connection, "a", "1")
    with database.transaction("second") as connection:
        meta_set(connection, "a", "2")
        with database.reading() as reader:
            assert meta_get(reader, "a") == "1"
    database.close()


def test_a_database_of_a_newer_program_is_left_as_it_is(url: URL) -> None:
    Database(url).close()
    path = file_of(url)
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseUnusable, match="newer") as caught:
        Database(url)
    assert caught.value.data == {"revisions": ["9999"]}
    assert path.read_bytes() == before


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_a_database_of_protocol_2_is_left_as_it_is(url: URL, revision: str) -> None:
    Database(url).close()
    path = file_of(url)
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    raw.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseUnusable, match="protocol 2") as caught:
        Database(url)
    assert caught.value.data == {"revisions": [revision]}
    assert path.read_bytes() == before


def test_another_programs_database_is_left_as_it_is(url: URL) -> None:
    path = file_of(url)
    path.parent.mkdir()
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE theirs (a)")
    raw.commit()
    raw.close()
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(DatabaseUnusable, match="another program"):
        Database(url)
    assert path.read_bytes() == before


@pytest.mark.parametrize("url", ["sqlite://", "nonsense", "nosuchdatabase://x", "sqlite:////proc/nowhere/x.db"])
def test_a_url_that_can_hold_no_money_is_refused(url: str) -> None:
    with pytest.raises(DatabaseUnusable):
        Database(url)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "regtest.db"
    path.write_bytes(b"not a database " * 100)
    path.chmod(0o600)
    with pytest.raises(DatabaseUnusable, match="not a database"):
        Database(default_url(tmp_path, "regtest"))


def test_a_failing_disk_is_named_and_no_parameter_shown(url: URL) -> None:
    database = Database(url)
    with database.transaction("fill") as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
    with pytest.raises(DatabaseUnusable, match="'sync'") as caught, database.transaction("sync") as connection:
        meta_set(connection, "secret", os.urandom(500_000).hex() + "tell-nobody")
    assert "tell-nobody" not in str(caught.value)
    database.close()


def test_a_database_is_of_one_hub(url: URL) -> None:
    first = Database(url)
    with pytest.raises(StoreLocked, match="Another hub uses the database"):
        Database(url)
    with first.transaction("test") as connection:
        meta_set(connection, "goes", "on")
    first.close()
    Database(url).close()


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_written_into_a_database_that_was_taken_away(url: URL, end: str, replaced: bool) -> None:
    database = Database(url)
    for _ in range(2):
        with database.transaction("test") as connection:
            meta_set(connection, "key", "value")
    path = Path(f"{url.database}{end}")
    kept = path.read_bytes()
    path.unlink()
    if replaced:
        path.write_bytes(kept)
    with pytest.raises(DatabaseUnusable, match="taken away"), database.transaction("test"):
        raise AssertionError
    database.close()


def test_what_is_written_while_the_database_is_taken_away_is_not_taken_for_kept(url: URL) -> None:
    database = Database(url)

    def write() -> None:
        with database.transaction("test") as connection:
            meta_set(connection, "key", "value")
            Path(str(url.database)).unlink()

    with pytest.raises(DatabaseUnusable, match="taken away"):
        write()
    database.close()


def test_a_driver_that_is_missing_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DatabaseUnusable, match=r"pip install 'picopayments-cli\[postgres\]'") as caught:
        Database("postgresql://hub@127.0.0.1:1/hub")
    assert caught.value.exit_code == 4


def test_a_database_of_a_kind_that_was_never_tried_is_refused() -> None:
    with pytest.raises(DatabaseUnusable, match="SQLite or PostgreSQL"):
        Database("mysql://hub@127.0.0.1/hub")


def test_promises_of_an_older_database_are_in_the_table_that_bounds_them(url: URL) -> None:
    file = file_of(url)
    file.parent.mkdir(mode=0o700)
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    engine = create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "postgres_01")
        for handle, stage, anchor, more in (
            (b"a", "requested", None, {}),
            (b"b", "agreed", None, {"c2h": {"quantity": 7}, "h2c": {"quantity": 5}}),
            (b"c", "agreed", "of the hub's deposit", {"c2h": {"quantity": 7}, "h2c": {"quantity": 5}}),
            (b"d", "open", None, {"c2h": {"quantity": 7}, "h2c": {"quantity": 5}}),
        ):
            fixed = json.dumps({"asset": "XCP", **more})
            row = (handle, b"client", stage, 1, fixed, anchor, False)
            connection.exec_driver_sql(
                "insert into connections (handle, client, stage, due_height, fixed, h2c_anchor, stale) "
                "values (?, ?, ?, ?, ?, ?, ?)",
                row,
            )
    engine.dispose()
    file.chmod(0o600)
    database = Database(url)
    with database.reading() as db:
        rows = db.exec_driver_sql("select handle, asset, client, asker, quantity, matching, backed from promises")
        assert sorted(tuple(row) for row in rows) == [
            (b"a", "XCP", b"client", None, 0, 0, False),
            (b"b", "XCP", b"client", None, 7, 5, False),
        ]
    database.close()

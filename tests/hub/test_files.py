"""The hub's files beside its database: which terms, keys, counts and locks it takes, and which it refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from regtest_support import REGTEST

from picopayments_cli.channel.networks import NETWORKS, wif_of_secret
from picopayments_cli.channel.rates import Bounds, Rate
from picopayments_cli.channel.values import Handle
from picopayments_cli.errors import (
    DatabaseOutdated,
    DatabaseUnusable,
    InvalidSetting,
    PicopaymentsError,
    StoreDamaged,
    StoreLocked,
    StoreUnusable,
)
from picopayments_cli.hub.book import Book
from picopayments_cli.hub.database import Database, default_url
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.marks import Marks
from picopayments_cli.hub.sqlite_file import SqliteFile
from picopayments_cli.hub.stale_database import Witness
from picopayments_cli.hub.terms import read_offer

MEMBERS = {
    "deposit_max": 0,
    "deposit_min": 0,
    "deposit_ratio": 1.0,
    "expire_max": 0,
    "expire_min": 12,
    "sync_fee": 1,
}
NUMERIC = "A95428956661682177"
RATE, BOUNDS = Rate(2, guess=False), Bounds(1, 100)


# Terms --------------------------------------------------------------------------------------------------------------


def offered(tmp_path: Path, content: Any, network: str = "regtest") -> Any:
    """Return what a terms file offers."""
    path = tmp_path / "terms.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_offer(path, NETWORKS[network])


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", "5", '"XCP"', "null", "[" * 5000, b"\xff\xfe".decode("latin-1")],
    ids=["empty", "cut", "list", "no asset", "number", "text", "null", "deep", "no json"],
)
def test_a_terms_file_of_another_shape_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(InvalidSetting):
        offered(tmp_path, content)


def test_a_terms_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting):
        read_offer(tmp_path / "none.json", REGTEST)


@pytest.mark.parametrize("asset", ["BTC", "nothing", "", "XCP ", "A1", "parent.child", "A" * 30])
def test_an_asset_that_no_connection_can_be_in_is_refused(tmp_path: Path, asset: str) -> None:
    for members in (MEMBERS, None):
        with pytest.raises(InvalidSetting):
            offered(tmp_path, {"XCP": MEMBERS, asset: members})
    assert set(offered(tmp_path, {"XCP": MEMBERS, NUMERIC: MEMBERS, "DEMOCOIN": None}).assets) == {"XCP", NUMERIC}


@pytest.mark.parametrize(
    "members",
    [
        {},
        [],
        5,
        "text",
        *({name: value for name, value in MEMBERS.items() if name != left} for left in MEMBERS),
        MEMBERS | {"fee_rate": 5},
        MEMBERS | {"sync_fee": 0},
        MEMBERS | {"sync_fee": -1},
        MEMBERS | {"sync_fee": True},
        MEMBERS | {"deposit_ratio": -0.5},
        MEMBERS | {"deposit_min": 1.5},
        MEMBERS | {"expire_min": 11},
        MEMBERS | {"expire_min": 40, "expire_max": 39},
        MEMBERS | {"expire_max": 65536},
        MEMBERS | {"expire_min": 65536},
        MEMBERS | {"expire_max": 11},
    ],
    ids=str,
)
def test_terms_that_can_not_be_kept_are_refused(tmp_path: Path, members: Any) -> None:
    with pytest.raises(InvalidSetting):
        offered(tmp_path, {"DEMOCOIN": MEMBERS, "XCP": members})


@pytest.mark.parametrize(
    "members", [{"expire_min": 40, "expire_max": 40}, {"expire_max": 65535}, {"expire_min": 65535}, {"expire_min": 12}]
)
def test_terms_at_the_bounds_are_taken(tmp_path: Path, members: dict[str, int]) -> None:
    terms = offered(tmp_path, {"XCP": MEMBERS | members}).terms("XCP", RATE, BOUNDS)
    assert {name: getattr(terms, name) for name in members} == members


def test_an_asset_is_on_offer_as_the_file_says_and_by_default_on_regtest_only(tmp_path: Path) -> None:
    offer = offered(tmp_path, {"XCP": MEMBERS, "DEMOCOIN": None})
    assert (offer.assets, offer.terms("DEMOCOIN", RATE, BOUNDS), offer.terms("TICKET", RATE, BOUNDS)) == (
        ("XCP",),
        None,
        None,
    )
    offer.include(["TICKET", "DEMOCOIN", "XCP"])
    assert offer.assets == ("XCP", "TICKET")
    assert (offer.terms("DEMOCOIN", RATE, BOUNDS), offer.terms("TICKET", RATE, BOUNDS).sync_fee) == (None, 1)
    real = offered(tmp_path, {"XCP": MEMBERS | {"expire_min": 144}}, "mainnet")
    real.include(["TICKET"])
    assert (real.assets, real.terms("TICKET", RATE, BOUNDS)) == (("XCP",), None)


@pytest.mark.parametrize(("network", "least"), [("regtest", 0), ("testnet", 10**9), ("mainnet", 10**9)])
def test_the_terms_of_a_new_hub_refuse_small_deposits_where_they_cost(tmp_path: Path, network: str, least: int) -> None:
    folder = Folder(tmp_path, NETWORKS[network])
    terms = folder.offer().terms("XCP", RATE, BOUNDS)
    assert terms is not None
    assert (terms.deposit_min, terms.deposit_max, terms.deposit_ratio, terms.sync_fee) == (least, 0, 1.0, 1)
    assert (terms.expire_min, terms.expire_max) == (NETWORKS[network].expire_min, 0 if network == "regtest" else 2016)
    folder.terms_path.write_text(json.dumps({"XCP": MEMBERS | {"sync_fee": 9, "expire_min": 200}}))
    again = folder.offer().terms("XCP", RATE, BOUNDS)
    assert again is not None
    assert again.sync_fee == 9


# The key ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, REGTEST)


def test_a_key_is_made_once_and_private(folder: Folder) -> None:
    first = folder.key()
    assert folder.key().secret == first.secret
    assert folder.wif_path.stat().st_mode & 0o777 == 0o600
    assert folder.wif_path.read_text().strip() == wif_of_secret(REGTEST, first.secret)


@pytest.mark.parametrize(
    "damage", [b"", b"no key", b"\xff\xfe", wif_of_secret(NETWORKS["mainnet"], b"\x01" * 32).encode()]
)
def test_a_damaged_key_is_refused_and_left_alone(folder: Folder, damage: bytes) -> None:
    folder.key()
    folder.wif_path.write_bytes(damage)
    with pytest.raises(StoreDamaged):
        folder.key()
    assert folder.wif_path.read_bytes() == damage


def test_a_key_that_others_may_read_is_refused(folder: Folder) -> None:
    folder.key()
    folder.wif_path.chmod(0o640)
    with pytest.raises(StoreUnusable):
        folder.key()


def test_no_key_is_made_where_there_was_a_hub(folder: Folder) -> None:
    folder.witness_path.write_text("{}")
    with pytest.raises(StoreDamaged):
        folder.key()
    assert not folder.wif_path.exists()


def test_files_that_can_not_be_written_have_an_error_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = Folder(tmp_path / "file" / "hub", REGTEST)

    def lock() -> None:
        with folder.locked():
            raise AssertionError

    for action in (folder.key, folder.offer, lock):
        with pytest.raises(StoreUnusable):
            action()


def test_a_folder_is_of_one_hub_of_a_network(folder: Folder) -> None:
    with folder.locked():
        with pytest.raises(StoreLocked), Folder(folder.basedir, REGTEST).locked():
            raise AssertionError
        with Folder(folder.basedir, NETWORKS["mainnet"]).locked():
            pass
    with Folder(folder.basedir, REGTEST).locked():
        pass
    assert (folder.basedir / "hub.regtest.lock").stat().st_mode & 0o777 == 0o600


def test_the_folders_of_a_new_hub_are_its_owners_only(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "new" / "hub", REGTEST)
    for _ in range(2):
        with folder.locked():
            assert folder.basedir.stat().st_mode & 0o777 == 0o700
    path = tmp_path / "other" / "new" / "x.db"
    for _ in range(2):
        SqliteFile(path).close()
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_database_is_missed_where_a_hub_has_run_and_only_there(folder: Folder) -> None:
    path = folder.basedir / "regtest.db"
    folder.check_database(path)
    path.touch(0o600)
    folder.check_database(path)
    folder.witness_path.write_text("{}")
    folder.check_database(path)
    path.unlink()
    with pytest.raises(DatabaseOutdated):
        folder.check_database(path)


# The count beside the database --------------------------------------------------------------------------------------


class Counted:
    """A database, its book, and the count beside it; ``written``: that the book has changed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "witness"
        self.database = Database(default_url(folder, "regtest"))
        self.book = Book(self.database)
        self.witness = Witness(self.path, self.database, self.book)

    def written(self, *, at_once: bool = True) -> int:
        """Note a change; the count beside the database then."""
        self.book.changed = True
        self.witness.note(at_once)
        return self.count

    @property
    def count(self) -> int:
        """Return what the file says."""
        return int(json.loads(self.path.read_text())["count"])


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    made = Counted(tmp_path / "one")
    yield made
    made.database.close()


def test_what_is_written_is_counted_on_both_sides(counted: Counted) -> None:
    counted.witness.check()
    assert counted.count == 0
    counted.witness.note(at_once=True)
    assert counted.count == 0  # nothing was written
    assert [counted.written(), counted.written()] == [1, 2]
    counted.witness.note(at_once=True)
    assert (counted.count, counted.book.changed) == (2, False)
    counted.witness.check()


def test_it_is_counted_now_and_then_and_at_the_end(counted: Counted) -> None:
    counted.witness.check()
    counted.written()
    for _ in range(3):  # in the same second
        assert counted.written(at_once=False) == 1
    assert counted.book.changed
    assert counted.written() == 2


def test_what_is_written_first_is_counted_whenever_it_is(counted: Counted) -> None:
    counted.witness.check()
    assert counted.written(at_once=False) == 1


def test_nothing_is_counted_before_the_age_was_seen(counted: Counted) -> None:
    counted.book.changed = True
    counted.witness.note(at_once=True)
    assert not counted.path.exists()


def outdated(counted: Counted) -> str:
    with pytest.raises(DatabaseOutdated) as caught:
        counted.witness.check()
    return caught.value.message


def note_of(counted: Counted, **changes: object) -> str:
    return json.dumps(json.loads(counted.path.read_text()) | changes)


def test_a_count_beside_that_is_lower_is_of_a_hub_that_was_killed_and_a_higher_one_is_of_a_newer_database(
    counted: Counted,
) -> None:
    counted.witness.check()
    counted.written()
    counted.written()
    for lower in (0, 1, 2):
        counted.path.write_text(note_of(counted, count=lower))
        counted.witness.check()
    counted.path.write_text(note_of(counted, count=3))
    assert "newer state" in outdated(counted)
    counted.path.write_text(note_of(counted, count=2, database="other"))
    assert "another database" in outdated(counted)
    counted.path.unlink()
    assert "is not there" in outdated(counted)
    counted.witness.begin()
    counted.witness.check()
    assert counted.written() == 1


def test_a_new_database_beside_a_count_is_an_outdated_one(counted: Counted, tmp_path: Path) -> None:
    counted.witness.check()
    other = Counted(tmp_path / "two")
    other.path.write_bytes(counted.path.read_bytes())
    other.witness.check()  # nothing was ever written to either
    counted.written()
    third = Counted(tmp_path / "three")
    third.path.write_bytes(counted.path.read_bytes())
    assert "another database" in outdated(third)
    for made in (other, third):
        made.database.close()


# The marks ----------------------------------------------------------------------------------------------------------


def test_marks_are_on_disk_once_each_and_private(folder: Folder) -> None:
    marks, one, two = Marks(folder.marks_path), Handle(b"\x01" * 32), Handle(b"\x02" * 32)
    for handle in (one, two, one):
        marks.add(handle)
    assert folder.marks_path.read_text() == f"{one.hex()}\n{two.hex()}\n"
    assert folder.marks_path.stat().st_mode & 0o777 == 0o600
    assert Marks(folder.marks_path).handles == {one, two}


def test_marks_that_the_database_has_seen_are_not_read_again(folder: Folder) -> None:
    marks, one, two, three = Marks(folder.marks_path), *(Handle(bytes([number]) * 32) for number in (1, 2, 3))
    assert marks.place() is None
    marks.add(one)
    first = marks.place()
    marks.add(two)
    assert Marks(folder.marks_path, first).handles == {two}
    assert Marks(folder.marks_path, marks.place()).handles == set()
    folder.marks_path.write_text(f"{three.hex()}\n{two.hex()}\n")  # another file: nothing of it was seen
    assert Marks(folder.marks_path, first).handles == {three, two}
    folder.marks_path.write_text("")
    assert Marks(folder.marks_path, first).handles == set()


@pytest.mark.parametrize("damage", ["zz\n", "00" * 31 + "\n", "\n", "\xff\n", "AB" * 32 + "\n"])
def test_a_damaged_file_of_marks_is_refused_and_left_alone(folder: Folder, damage: str) -> None:
    Marks(folder.marks_path).add(Handle(b"\x01" * 32))
    with folder.marks_path.open("a") as file:
        file.write(damage)
    before = folder.marks_path.read_bytes()
    with pytest.raises(StoreDamaged):
        Marks(folder.marks_path)
    assert folder.marks_path.read_bytes() == before


@pytest.mark.parametrize("cut", ["0", "02" * 31, "02" * 32])
def test_a_mark_that_a_power_failure_cut_off_is_none_and_hinders_none(folder: Folder, cut: str) -> None:
    one, two = Handle(b"\x01" * 32), Handle(b"\x02" * 32)
    Marks(folder.marks_path).add(one)
    with folder.marks_path.open("a") as file:
        file.write(cut)
    marks = Marks(folder.marks_path)
    assert marks.handles == {one}
    marks.add(two)
    assert Marks(folder.marks_path).handles == {one, two}


# The file of the database -------------------------------------------------------------------------------------------


def refusal(action: Callable[[], object]) -> str:
    """The name of an error that leaves no file open."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(PicopaymentsError) as caught:
        action()
    assert len(os.listdir("/proc/self/fd")) == len(before)
    return caught.value.name


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
def test_a_database_that_others_may_read_is_refused_and_not_kept_locked(tmp_path: Path, end: str) -> None:
    path = tmp_path / "x.db"
    SqliteFile(path).close()
    part = Path(f"{path}{end}")
    part.touch()
    part.chmod(0o604)
    assert refusal(lambda: SqliteFile(path)) == "StoreUnusable"
    part.chmod(0o600)
    SqliteFile(path).close()


def test_a_file_is_locked_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.db"
    first = SqliteFile(path)
    assert path.stat().st_mode & 0o777 == 0o600
    for _ in range(2):
        assert refusal(lambda: SqliteFile(path)) == "StoreLocked"
    first.check()
    first.close()
    SqliteFile(path).close()


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
def test_a_part_that_goes_or_is_replaced_is_missed_and_a_new_one_taken(tmp_path: Path, end: str) -> None:
    path = tmp_path / "x.db"
    file = SqliteFile(path)
    file.check()
    part = Path(f"{path}{end}")
    if end:
        part.touch(0o600)
        file.check()  # SQLite makes these itself
    file.check()
    kept = part.rename(tmp_path / "kept")
    for _ in range(2):
        with pytest.raises(DatabaseUnusable):
            file.check()
    part.touch(0o600)
    with pytest.raises(DatabaseUnusable):
        file.check()
    part.unlink()
    kept.rename(part)
    file.check()
    file.close()

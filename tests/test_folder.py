"""The folder: which one it is, whose it is, and that links in it stay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from regtest_support import REGTEST

from picopayments_cli.client.key_file import KeyFile
from picopayments_cli.client.store import Store
from picopayments_cli.config import choose_basedir, choose_client_basedir, read_settings
from picopayments_cli.errors import InvalidSetting, StoreUnusable
from picopayments_cli.files import append_lines, check_own, check_private, remove_file, replace_file
from picopayments_cli.hub.database import Database, default_url
from picopayments_cli.hub.folder import Folder

STRANGER = 12345  # a user's number
OTHERS = r"[oO]ther users|another user"
NOBODY = "import os; os.setuid(54321); os.environ.pop('HOME', None); "  # of a user that no file names


# Which folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choose", [choose_basedir, choose_client_basedir])
def test_an_empty_one_is_refused(choose: type, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="--basedir is empty"):
        choose("", {"PICOPAYMENTS_BASEDIR": str(tmp_path)})
    with pytest.raises(InvalidSetting, match="PICOPAYMENTS_BASEDIR is empty"):
        choose(None, {"PICOPAYMENTS_BASEDIR": ""})


def as_nobody(code: str) -> str:
    """What a line of Python prints for a user without a home."""
    asked = "from picopayments_cli.config import choose_client_basedir as choose; "
    asked += "import appdirs; from picopayments_cli.errors import PicopaymentsError; "
    done = subprocess.run(
        [sys.executable, "-c", asked + NOBODY + code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_given_one_needs_no_home(tmp_path: Path) -> None:
    assert as_nobody("print(choose('/srv/wallet', {}))") == "/srv/wallet"
    refused = "\ntry: choose({}, {{}})\nexcept PicopaymentsError as error: print(error.name)"
    assert as_nobody(refused.format("None")) == "InvalidSetting"
    assert as_nobody(refused.format("'~/wallet'")) == "InvalidSetting"
    tmp_path.chmod(0o700)
    unreadable = f"os.environ['HOME'] = {str(tmp_path)!r}; os.environ.pop('XDG_DATA_HOME', None)"
    assert as_nobody(unreadable + refused.format("None")) == "StoreUnusable"
    assert as_nobody(unreadable + "; print(choose('/srv/wallet', {}))") == "/srv/wallet"


# Whose it is --------------------------------------------------------------------------------------------------------


def of_another(path: Path) -> None:
    """Give a file or folder to another user, or, where that can't be done, to all."""
    if os.geteuid() == 0:
        os.chown(path, STRANGER, -1)
    else:
        path.chmod(0o777)


@pytest.mark.parametrize("spoil", [of_another, lambda path: path.chmod(0o770), lambda path: path.chmod(0o702)])
@pytest.mark.parametrize("name", [".", "regtest.hubs", "regtest.connections", "regtest.cfg", "regtest.rate"])
def test_a_client_refuses_what_others_may_change(tmp_path: Path, spoil: type, name: str) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / name
    if name.endswith(".connections"):
        path.mkdir(mode=0o700)
    elif name != ".":
        replace_file(path, b"{}\n")
    read_settings(REGTEST, tmp_path)
    with Store(tmp_path, REGTEST):
        pass
    spoil(path)
    with pytest.raises(StoreUnusable, match=OTHERS):  # noqa: PT012
        read_settings(REGTEST, tmp_path)
        with Store(tmp_path, REGTEST):
            pass


@pytest.mark.parametrize("spoil", [of_another, lambda path: path.chmod(0o770)])
@pytest.mark.parametrize("name", [".", "hub.regtest.wif", "hub.regtest.terms.json"])
def test_a_hub_refuses_what_others_may_change(tmp_path: Path, spoil: type, name: str) -> None:
    def start() -> None:
        folder = Folder(tmp_path, REGTEST)
        with folder.locked():
            folder.offer()
            folder.key()

    start()
    (tmp_path / "hub.regtest.terms.json").chmod(0o644)  # others may read it
    start()
    spoil(tmp_path / name)
    with pytest.raises(StoreUnusable, match=OTHERS):
        start()


def test_roots_files_are_nobodys(tmp_path: Path) -> None:
    check_own(Path("/etc"))
    check_own(tmp_path / "not there")


# Links --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A link to a file in another folder."""
    there = tmp_path / "there"
    there.mkdir()
    (there / "file").write_bytes(b"old\n")
    link = tmp_path / "link"
    link.symlink_to(Path("there") / "file")
    return link


def test_a_link_is_followed_and_never_replaced(linked: Path) -> None:
    replace_file(linked, b"new\n")
    append_lines(linked, b"more\n")
    assert linked.is_symlink()
    assert linked.resolve().read_bytes() == b"new\nmore\n"
    assert sorted(path.name for path in linked.resolve().parent.iterdir()) == ["file"]


def test_a_link_to_what_is_not_there_yet_is_followed(linked: Path) -> None:
    linked.resolve().unlink()
    replace_file(linked, b"new\n")
    assert linked.is_symlink()
    assert (linked.parent / "there" / "file").read_bytes() == b"new\n"


def test_what_a_link_leads_to_is_removed_with_it(linked: Path) -> None:
    there = linked.resolve()
    remove_file(linked)
    assert not os.path.lexists(linked)
    assert not there.exists()


def test_the_clients_files_stay_links(tmp_path: Path) -> None:
    home, disk, drawn = tmp_path / "home", tmp_path / "disk", KeyFile.drawn(REGTEST)
    home.mkdir(mode=0o700)
    disk.mkdir(mode=0o700)
    for name in ("regtest.wallet", "regtest.hubs", "regtest.cfg"):
        (home / name).symlink_to(disk / name)
    (home / "regtest.connections").symlink_to(disk)
    with Store(home, REGTEST) as store:
        store.save_wallet(drawn)
        store.notes.save_hub_key("http://here", "ab")
        store.save_settings({"timeout": 20})
        assert store.load_wallet() == drawn
    assert all(path.is_symlink() for path in home.iterdir() if path.name != "regtest.lock")
    assert {path.name for path in disk.iterdir()} == {"regtest.wallet", "regtest.hubs", "regtest.cfg"}


def test_a_hubs_database_stays_a_link(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    (tmp_path / "regtest.db").symlink_to(disk / "hub.db")
    database = Database(default_url(tmp_path, "regtest"))
    with database.transaction("test"):
        pass
    database.close()
    assert (tmp_path / "regtest.db").is_symlink()
    assert (disk / "hub.db").exists()
    assert [path.name for path in tmp_path.iterdir() if "regtest.db" in path.name] == ["regtest.db"]


def test_a_file_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked, honest = tmp_path / "key", [], Path.stat
    path.touch(mode=0o600)

    def counted(self: Path, **options: bool) -> os.stat_result:
        asked.append(self)
        return honest(self, **options)

    monkeypatch.setattr(Path, "stat", counted)
    check_private(path)
    assert asked == [path]

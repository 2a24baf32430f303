"""The client's files: private, whole, refused where they are not ours to overwrite, one writer at a time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from picopayments_cli.chain import Coin
from picopayments_cli.channel.networks import NETWORKS, script_of_address
from picopayments_cli.channel.values import Handle, Height, Outpoint
from picopayments_cli.client.key_file import KeyFile
from picopayments_cli.client.session import Home
from picopayments_cli.client.store import Store
from picopayments_cli.client.wallet import Wallet, confirmed, make_first
from picopayments_cli.config import Settings
from picopayments_cli.errors import (
    OldProtocol,
    StoreDamaged,
    StoreLocked,
    StoreNewer,
    StoreUnusable,
    UnknownHandle,
    WalletExists,
    WalletMissing,
)

REGTEST = NETWORKS["regtest"]
ONE = Handle(bytes([1]) * 32)
TWO = Handle(bytes([2]) * 32)
DOCUMENT = {"asset": "XCP", "quantity": 2**63 - 1, "queue": [{"token": "00ff"}], "pending": None}
LOADED = {**DOCUMENT, "rows": []}

HOLD = """
import sys, time
from pathlib import Path
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.client.store import Store
with Store(Path(sys.argv[1]), NETWORKS["regtest"]):
    print("held", flush=True)
    time.sleep(60)
"""
COUNT = """
import sys
from pathlib import Path
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.values import Handle
from picopayments_cli.client.store import Store
handle = Handle(bytes([1]) * 32)
for _ in range(25):
    with Store(Path(sys.argv[1]), NETWORKS["regtest"]) as store:
        count = store.load(handle)["count"]
        store.save(handle, {"count": count + 1}, "count")
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "base", REGTEST)


def file_of(store: Store, handle: Handle) -> Path:
    return store.folder / f"{handle.hex()}.json"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def saved(store: Store) -> Path:
    with store:
        store.save(ONE, DOCUMENT, "test")
    return file_of(store, ONE)


def test_a_document_that_was_taken_away_does_not_come_back_after_a_power_cut(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(store)
    synced = []
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        there = os.path.samestat(os.fstat(descriptor), store.folder.stat())
        synced.append(there and not file_of(store, ONE).exists())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    with store:
        store.remove(ONE)
    assert True in synced


def test_a_document_comes_back_as_it_was(store: Store) -> None:
    with store:
        store.save(TWO, {"asset": "A"}, "test")
        store.save(ONE, DOCUMENT, "test")
    with Store(store.basedir, REGTEST) as again:
        assert again.handles() == [ONE, TWO]
        assert again.load(ONE) == LOADED
        assert again.load_all() == {ONE: LOADED, TWO: {"asset": "A", "rows": []}}
    document = json.loads(file_of(store, ONE).read_text())
    assert (document["format"], document["version"], document["network"]) == ("picopayments-connection", 2, "regtest")


def test_looking_writes_nothing_but_the_lock(store: Store) -> None:
    with store:
        assert store.load_wallet() is None
        assert store.handles() == []
        with pytest.raises(UnknownHandle):
            store.load(ONE)
    assert [path.name for path in store.basedir.iterdir()] == ["regtest.lock"]


def test_files_are_private_under_any_umask(store: Store) -> None:
    old = os.umask(0)
    try:
        with store:
            make_first(store, REGTEST)
            store.save(ONE, DOCUMENT, "test", [{"action": "closed"}])
            store.save(TWO, DOCUMENT, "test", [{"action": "closed"}])
            store.archive(TWO)
    finally:
        os.umask(old)
    assert [mode_of(path) for path in (store.basedir, store.folder, store.archived.path)] == [0o700] * 3
    files = (store.wallet_path, file_of(store, ONE), store.history_path, *store.archived.path.iterdir())
    assert {mode_of(path) for path in (*files, store.basedir / "regtest.lock")} == {0o600}


@pytest.mark.parametrize("which", ["wallet", "connection", "folder", "archive", "history"])
@pytest.mark.parametrize("mode", [0o040, 0o004, 0o001])
def test_files_open_to_others_are_refused_with_the_command_that_helps(store: Store, which: str, mode: int) -> None:
    with store:
        make_first(store, REGTEST)
        store.save(TWO, DOCUMENT, "test", [{"action": "closed"}])
        store.archive(TWO)
    path = saved(store)
    open_path = {
        "wallet": store.wallet_path,
        "connection": path,
        "folder": store.folder,
        "archive": store.archived.path,
        "history": store.history_path,
    }[which]
    open_path.chmod(mode_of(open_path) | mode)
    with pytest.raises(StoreUnusable, match="chmod go= ") as refused, store:
        store.load(ONE)
    subprocess.run(refused.value.message.rpartition("run: ")[2], shell=True, check=True)
    with store:
        assert store.load(ONE) == LOADED


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", StoreDamaged),
        (b"{", StoreDamaged),
        (b"[]", StoreDamaged),
        (b"{}", StoreDamaged),
        (b"\xff\xfe", StoreDamaged),
        (b"[" * 100_000, StoreDamaged),
        (b'{"format": "picopayments-connection", "network": "regtest"}', StoreDamaged),
        (b'{"format": "picopayments-connection", "version": 2, "network": "mainnet"}', StoreDamaged),
        (b'{"format": "picopayments-connection", "version": 2}', StoreDamaged),
        (b'{"format": "picopayments-connection", "version": 0, "network": "regtest"}', StoreDamaged),
        (b'{"format": "picopayments-connection", "version": "1", "network": "regtest"}', StoreDamaged),
        (b'{"format": "picopayments-hub", "version": 2, "network": "regtest"}', StoreDamaged),
        (b'{"version": 2, "network": "regtest"}', StoreDamaged),
        (b'{"format": "picopayments-connection", "version": 3, "network": "regtest"}', StoreNewer),
    ],
)
def test_damaged_and_newer_files_are_refused_and_left_alone(
    store: Store, content: bytes, error: type[Exception]
) -> None:
    path = saved(store)
    path.write_bytes(content)
    with store:
        with pytest.raises(error, match=path.name) as refused:
            store.load(ONE)
        assert "nothing was changed" in str(refused.value)
        assert isinstance(store.load_all()[ONE], error)
        with pytest.raises(error):
            store.save(ONE, DOCUMENT, "test")
    assert path.read_bytes() == content


def test_connections_of_protocol_2_are_named_and_cost_the_others_nothing(store: Store) -> None:
    path = saved(store)
    old = path.read_text().replace('"version":2', '"version":1')
    path.write_text(old)
    with store:
        store.save(TWO, DOCUMENT, "test")
        for step in (store.load, store.archive):
            with pytest.raises(OldProtocol, match="Nothing is lost") as refused:
                step(ONE)
        with pytest.raises(OldProtocol):
            store.save(ONE, DOCUMENT, "test")
        assert refused.value.data["path"] == str(path)
        found = store.load_all()
        assert (list(found), found[TWO], isinstance(found[ONE], OldProtocol)) == ([ONE, TWO], LOADED, True)
        store.history()
        store.archive(TWO)
        (store.archived.path / path.name).write_text(old)
        assert list(store.archived.load_all()) == [TWO]
    assert path.read_text() == old


def test_the_last_fee_rate_is_kept(store: Store) -> None:
    with store:
        assert store.notes.last_rate() is None
        store.notes.save_rate(7)
        assert store.notes.last_rate() == 7
        for damage in ("", "x", "-1", "1.5", "9" * 40):
            store.notes.rate_path.write_text(damage)
            assert store.notes.last_rate() is None


def test_a_file_damaged_after_it_was_loaded_is_looked_at_again_under_the_next_lock(store: Store) -> None:
    path = saved(store)
    path.write_bytes(b"{")
    with store, pytest.raises(StoreDamaged):
        store.save(ONE, DOCUMENT, "test")
    assert path.read_bytes() == b"{"


def test_a_document_cut_short_anywhere_is_refused(store: Store) -> None:
    path = saved(store)
    whole = path.read_bytes().rstrip()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with store, pytest.raises(StoreDamaged):
            store.load(ONE)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(store: Store) -> None:
    path = saved(store)
    before = path.read_bytes()
    with store:
        with pytest.raises(ValueError, match="JSON"):
            store.save(ONE, {"number": float("nan")}, "test")
        with pytest.raises(ValueError, match="version"):
            store.save(ONE, {"version": 7}, "test")
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from picopayments_cli.errors import StoreUnusable\n"
        "from picopayments_cli.channel.networks import NETWORKS\n"
        "from picopayments_cli.channel.values import Handle\n"
        "from picopayments_cli.client.store import Store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "with Store(Path(sys.argv[1]), NETWORKS['regtest']) as store:\n"
        "    try:\n"
        "        store.save(Handle(bytes([1]) * 32), {'long': 'x' * 2000}, 'test')\n"
        "    except StoreUnusable as error:\n"
        "        print(error.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.basedir)], capture_output=True, text=True, check=True)
    assert done.stdout == "StoreUnusable\n"
    assert path.read_bytes() == before
    assert os.listdir(store.folder) == [path.name]


def test_a_reader_sees_the_old_or_the_new_document_and_never_a_part(store: Store) -> None:
    path = saved(store)
    stop = threading.Event()
    broken: list[Exception] = []

    def read() -> None:
        while not stop.is_set():
            try:
                json.loads(path.read_bytes())
            except (OSError, ValueError) as error:
                broken.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    with store:
        for number in range(100):
            store.save(ONE, {"fill": "x" * 50_000, "number": number}, "test")
    stop.set()
    reader.join()
    assert broken == []


def test_a_file_is_flushed_before_it_takes_its_place_and_the_folder_after(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No machine loses its power here: what is watched is the order of the calls that a loss would tell apart."""
    path = saved(store)
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append("flush folder" if folder else f"flush file of {os.fstat(descriptor).st_size} bytes")
        fsync(descriptor)

    def watched_replace(source: Path, target: Path) -> Path:
        events.append("replace")
        assert mode_of(source) == 0o600
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    with store:
        store.save(ONE, DOCUMENT, "test")
    assert events == [f"flush file of {path.stat().st_size} bytes", "replace", "flush folder"]


def test_what_a_killed_writer_left_is_no_hindrance(store: Store) -> None:
    path = saved(store)
    left = path.with_name(path.name + ".tmp")
    left.write_text("{")
    left.chmod(0o644)
    with store:
        assert store.handles() == [ONE]
        store.save(ONE, {"new": True}, "test")
        assert store.load(ONE) == {"new": True, "rows": []}
    assert mode_of(path) == 0o600
    assert not left.exists()


def test_files_of_other_names_are_no_connections(store: Store) -> None:
    path = saved(store)
    name = path.name
    stem = ONE.hex()
    for other in (name.upper(), f"{name}.tmp", name[2:], f"00{name}", stem, f"{stem}.JSON", f"g{name[1:]}"):
        (store.folder / other).write_text("nonsense")
    with store:
        assert store.handles() == [ONE]
        assert store.load_all() == {ONE: LOADED}


def test_what_is_put_into_the_archive_is_found_there(store: Store) -> None:
    path = saved(store)
    content = path.read_bytes()
    with store:
        store.archive(ONE)
        assert (list(store.archived.load_all()), store.handles()) == ([ONE], [])
        for step in (store.load, store.archive):
            with pytest.raises(UnknownHandle):
                step(ONE)
        store.save(TWO, DOCUMENT, "test")
        file_of(store, TWO).write_text("{")
        with pytest.raises(StoreDamaged):
            store.archive(TWO)
        assert file_of(store, TWO).read_text() == "{"
    assert (store.archived.path / path.name).read_bytes() == content
    assert [item.name for item in store.archived.path.iterdir()] == [path.name]


def test_settings_are_kept_for_their_owner_only(store: Store) -> None:
    with store:
        store.save_settings({"timeout": 5})
        with pytest.raises(ValueError, match="JSON"):
            store.save_settings({"timeout": float("nan")})
    path = store.basedir / "regtest.cfg"
    assert (json.loads(path.read_text()), mode_of(path)) == ({"timeout": 5}, 0o600)


def test_hubs_are_kept_beside_each_other(store: Store) -> None:
    with store:
        assert store.notes.hub_keys() == {}
        store.notes.save_hub_key("http://a/", "ab")
        store.notes.save_hub_key("http://b/", "cd")
        store.notes.save_hub_key("http://a/", "ef")
        assert store.notes.hub_keys() == {"http://a/": "ef", "http://b/": "cd"}


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusable), Store(tmp_path / "file", REGTEST):
        pass


# One writer ----------------------------------------------------------------------------------------------------------


def test_two_processes_take_turns(store: Store) -> None:
    with store:
        store.save(ONE, {"count": 0}, "test")
    command = [sys.executable, "-c", COUNT, str(store.basedir)]
    writers = [subprocess.Popen(command) for _ in range(2)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    with store:
        assert store.load(ONE) == {"count": 50, "rows": []}


def test_a_folder_that_was_in_use_is_not_made_anew(tmp_path: Path) -> None:
    basedir = tmp_path / "basedir"
    home = Home(Settings(REGTEST, basedir))
    assert home.store.handles() == []
    home.let_go()
    shutil.move(basedir, tmp_path / "away")
    with pytest.raises(StoreUnusable, match="taken away"):
        home.store  # noqa: B018 - opened again, as between two looks of a command that waits
    assert not basedir.exists()
    shutil.move(tmp_path / "away", basedir)
    assert home.store.handles() == []
    home.close()


def test_the_lock_is_waited_for_named_and_freed_by_sigkill(store: Store) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(store.basedir)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        begun = time.monotonic()
        with pytest.raises(StoreLocked, match="Another process"), Store(store.basedir, REGTEST, lock_wait=0.3):
            pass
        assert time.monotonic() - begun >= 0.3
        with Store(store.basedir, NETWORKS["testnet"], lock_wait=0.3) as other:
            assert other.handles() == []
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=30)
        with store:
            assert store.handles() == []
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_written_once_the_lock_was_taken_away(store: Store, replaced: bool) -> None:
    path = saved(store)
    before = path.read_bytes()
    with store:
        lock = store.basedir / "regtest.lock"
        lock.unlink()
        if replaced:
            lock.touch()
        with pytest.raises(StoreUnusable, match="taken away"):
            store.save(ONE, {"new": True}, "test")
        with pytest.raises(StoreUnusable, match="taken away"):
            store.remove(ONE)
    assert path.read_bytes() == before


def test_nothing_is_written_without_the_lock(store: Store) -> None:
    with pytest.raises(RuntimeError):
        store.save(ONE, DOCUMENT, "test")
    assert not store.folder.exists()


# The wallet ----------------------------------------------------------------------------------------------------------


def test_the_key_is_made_once_and_kept(store: Store) -> None:
    with store:
        with pytest.raises(WalletMissing):
            Wallet.open(store, REGTEST)
        make_first(store, REGTEST)
        wallet = Wallet.open(store, REGTEST)
        make_first(store, REGTEST)
        assert Wallet.open(store, REGTEST) == wallet
    with Store(store.basedir, REGTEST) as again:
        assert Wallet.open(again, REGTEST).address == wallet.address
        with pytest.raises(WalletExists):
            again.save_wallet(KeyFile.drawn(REGTEST))
    assert script_of_address(REGTEST, wallet.address) == wallet.script
    assert wallet.key.secret.hex() not in repr(wallet)


@pytest.mark.parametrize("left", ["connections", "archive", "history"])
def test_no_new_key_takes_the_place_of_one_that_is_missing(store: Store, left: str) -> None:
    with store:
        make_first(store, REGTEST)
        store.save(ONE, DOCUMENT, "test", [{"action": "closed"}])
        if left != "connections":
            store.archive(ONE)
    if left == "history":
        shutil.rmtree(store.archived.path)
    store.wallet_path.unlink()
    with store, pytest.raises(StoreDamaged, match=r"regtest\.wallet can't be used: it is missing"):
        Wallet.open(store, REGTEST)
    assert not store.wallet_path.exists()


@pytest.mark.parametrize("content", ["", "nonsense", "KwDiBf89QgGbjEhKnhXJuH7LrciVrZi3qYjgd9M7rFU73sVHnoWn"])
def test_a_key_file_that_holds_no_key_of_the_network_is_refused(store: Store, content: str) -> None:
    """The last one is a good key, of another network."""
    store.basedir.mkdir()
    store.wif_path.write_text(content)
    store.wif_path.chmod(0o600)
    with store, pytest.raises(StoreDamaged, match=r"regtest\.wif"):
        Wallet.open(store, REGTEST)
    assert store.wif_path.read_text() == content


def test_only_confirmed_coins_are_spent() -> None:
    coins = [Coin(Outpoint(bytes([n]) * 32, n), n, b"", Height(n) if n % 2 else None) for n in range(4)]
    assert confirmed(coins) == [coins[1], coins[3]]

"""A folder that can't be written: commands that only read work there, the others say so, and the lock holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_support import NOBODY, Client
from regtest_support import REGTEST

from picopayments_cli.client.store import Store
from picopayments_cli.errors import StoreLocked

MOUNT = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
# Root writes where a mode forbids it, until it has lost that capability (CAP_DAC_OVERRIDE).
DROPPED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
HELD = """
import sys
from pathlib import Path
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.client.store import Store
from picopayments_cli.errors import PicopaymentsError
try:
    with Store(Path(sys.argv[1]), NETWORKS["regtest"], lock_wait=0.3) as store:
        print("held", len(store.handles()), flush=True)
        sys.stdin.read()
except PicopaymentsError as error:
    print(error.name, flush=True)
"""


class Sealed:
    """A wallet's folder, and a backup beside it, that processes see without the right to write there."""

    def __init__(self, folder: Path, way: str) -> None:
        self.basedir, self.backup, self._way = folder / "wallet", folder / "backup", way
        client = Client(self.basedir, NOBODY)
        client.run("address")
        client.run("backup", str(self.backup))

    def line(self, *command: str) -> list[str]:
        """The command line that has a command see it so."""
        if self._way == "mode":
            self.basedir.chmod(0o500)
            return [sys.executable, "-c", DROPPED, *command]
        spaces = ["-m"] if os.geteuid() == 0 else ["-r", "-m"]
        return ["unshare", *spaces, "sh", "-c", MOUNT, "sh", str(self.basedir), *command]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Type a command."""
        options = ("--regtest", "--basedir", str(self.basedir), "--hub-url", NOBODY)
        line = self.line(sys.executable, "-m", "picopayments_cli", *options, *words)
        return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)

    def held(self) -> subprocess.Popen[str]:
        """A process that reads, and keeps the lock as long as its stdin is open."""
        line = self.line(sys.executable, "-c", HELD, str(self.basedir))
        return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.basedir.iterdir() if path.is_file()}


@pytest.fixture(params=["mount", "mode"])
def sealed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sealed]:
    made = Sealed(tmp_path, request.param)
    probe = subprocess.run(made.line("/bin/true"), capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no such folder can be made here: {probe.stderr.decode()}")
    yield made
    made.basedir.chmod(0o700)


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("locked_before", [True, False])
def test_commands_that_only_read_work_and_change_nothing(sealed: Sealed, locked_before: bool) -> None:
    if not locked_before:
        (sealed.basedir / "regtest.lock").unlink()
    before = sealed.files()
    for words in (["status"], ["history"], ["payments"], ["address"], ["wallet", "show"]):
        done = sealed.run(*words)
        assert done.returncode == 0, done.stderr
        assert f"{sealed.basedir} can't be written (" in done.stderr
        assert "was not written down" not in done.stderr
    done = sealed.run("backup", "verify", str(sealed.backup))
    assert (done.returncode, json.loads(done.stdout)["connections"]) == (0, {}), done.stderr
    assert sealed.files() == before


def test_commands_that_write_say_what_cant_be_written(sealed: Sealed) -> None:
    (sealed.basedir / "regtest.wallet").rename(sealed.basedir.parent / "away")
    before = sealed.files()
    for words in (["config", "timeout", "20"], ["address"]):
        done = sealed.run(*words)
        error = json.loads(done.stderr.splitlines()[-1])["error"]
        assert (done.returncode, error["name"]) == (4, "StoreUnusable")
        assert f"{sealed.basedir} can't be written: " in error["message"]
    assert sealed.files() == before


def test_readers_share_the_lock_and_writers_wait_for_them(sealed: Sealed) -> None:
    lock = sealed.basedir / "regtest.lock"
    lock.chmod(0o400)
    with sealed.held() as one, sealed.held() as other:
        assert heard(one) == heard(other) == "held 0"
        sealed.basedir.chmod(0o700)
        lock.chmod(0o600)
        with pytest.raises(StoreLocked), Store(sealed.basedir, REGTEST, lock_wait=0.3):
            pass
        for process in (one, other):
            process.communicate(timeout=60)
    with Store(sealed.basedir, REGTEST, lock_wait=10), sealed.held() as late:
        assert heard(late) == "StoreLocked"

"""The wallet commands as people and scripts type them: stdin, file descriptors, the environment, a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from regtest_support import REGTEST

from picopayments_cli.client import key_file
from picopayments_cli.client.key_file import KeyFile
from picopayments_cli.client.store import Store
from picopayments_cli.encryption import Cost

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "wallet.rst"
NOBODY = "http://127.0.0.1:9/api/"
ABOUT = "abandon " * 11 + "about"
WIF = "cTGhosGriPpuGA586jemcuH9pE9spwUmneMBmYYzrQEbY92DJrbo"
PASSPHRASE = "Größe 7"
SEALED = KeyFile.of_words(REGTEST, ABOUT).sealed_under(normalize("NFKD", PASSPHRASE), ABOUT, Cost(1, 1 << 13))


@pytest.fixture
def basedir(tmp_path: Path) -> Path:
    """With an encrypted wallet, which is quick to open."""
    folder = tmp_path / "client"
    with Store(folder, REGTEST) as store:
        store.save_wallet(SEALED)
    return folder


def run(basedir: Path, *words: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """A command, without a terminal."""
    how = {"stdin": subprocess.DEVNULL, **how} if "input" not in how else how
    environment = {name: value for name, value in os.environ.items() if name != "PICOPAYMENTS_PASSPHRASE"}
    environment |= {"PICOPAYMENTS_HUB_URL": NOBODY, **how.pop("env", {})}
    command = [sys.executable, "-m", "picopayments_cli", "--regtest", "--basedir", str(basedir), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment, **how)


def error_of(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    return done.returncode, json.loads(done.stderr.splitlines()[-1])["error"]["name"]


def test_a_passphrase_comes_from_a_descriptor_or_the_environment_and_is_never_waited_for(basedir: Path) -> None:
    missing = run(basedir, "wallet", "export")
    assert error_of(missing) == (4, "PassphraseMissing")
    told = json.loads(missing.stderr.splitlines()[-1])["error"]["message"]
    assert all(way in told for way in ("terminal", "--passphrase-fd", "PICOPAYMENTS_PASSPHRASE"))
    for words in (["pay", "ab" * 32, "cd" * 32, "1"], ["serve", "--port", "0"], ["connect", "XCP", "5"]):
        assert error_of(run(basedir, *words)) == (4, "PassphraseMissing"), words
    assert json.loads(run(basedir, "address").stdout) == SEALED.address
    given = run(basedir, "wallet", "export", env={"PICOPAYMENTS_PASSPHRASE": PASSPHRASE})
    assert json.loads(given.stdout)["words"] == ABOUT
    for end in ("\n", "\r\n", ""):
        read, write = os.pipe()
        os.write(write, f"{PASSPHRASE}{end}".encode())
        os.close(write)
        given = run(basedir, "--passphrase-fd", str(read), "wallet", "export", pass_fds=[read])
        os.close(read)
        assert json.loads(given.stdout)["words"] == ABOUT
    for fails in (
        run(basedir, "--passphrase-fd", "0", "wallet", "export", input="x" * 5000),
        run(basedir, "--passphrase-fd", "77", "wallet", "export"),
        run(basedir, "--passphrase-fd", "0", "wallet", "export", input=""),
        run(basedir, "wallet", "export", env={"PICOPAYMENTS_PASSPHRASE": ""}),
    ):
        assert error_of(fails) == (4, "PassphraseMissing")


def test_who_gives_nothing_on_stdin_is_told_so_and_no_folder_is_made(tmp_path: Path) -> None:
    file = tmp_path / "no-backup"
    file.write_text("x")
    new = tmp_path / "new"
    for words, name in (
        (("wallet", "import"), "InvalidKey"),
        (("wallet", "restore"), "InvalidWords"),
        (("backup", "verify", str(file)), "InvalidWords"),
        (("restore", str(file)), "InvalidWords"),
        (("backup", "verify", str(tmp_path / "none")), "StoreUnusable"),
        (("restore", str(tmp_path / "none")), "StoreUnusable"),
    ):
        done = run(new, *words)
        assert error_of(done)[1] == name, words
        assert not new.exists(), words
    done = run(new, "--backup", "", "address")
    assert error_of(done) == (1, "InvalidSetting")


def test_a_wrong_passphrase_changes_nothing_and_nothing_secret_is_told(basedir: Path) -> None:
    before = (basedir / "regtest.wallet").read_bytes()
    for command in ("export", "decrypt", "passphrase"):
        done = run(basedir, "--debug", "wallet", command, env={"PICOPAYMENTS_PASSPHRASE": "hunter2"})
        assert error_of(done) == (4, "WrongPassphrase")
        assert done.stdout == ""
        assert not any(secret in done.stderr for secret in ("abandon", "hunter2", WIF))
    assert (basedir / "regtest.wallet").read_bytes() == before


def typed(basedir: Path, lines: list[str], *words: str) -> tuple[int, str]:
    """A command at a terminal, at which lines are typed as it asks for them; its code, and all that was shown."""
    process, near = pty.fork()
    if process == 0:
        os.environ.pop("PICOPAYMENTS_PASSPHRASE", None)
        config = ["--regtest", "--basedir", str(basedir), "--hub-url", NOBODY]
        os.execv(sys.executable, [sys.executable, "-m", "picopayments_cli", *config, *words])
    shown, left = b"", list(lines)
    while True:
        try:
            read = os.read(near, 4096)
        except OSError:  # it has ended
            break
        if not read:
            break
        shown += read
        if left and re.search(rb"(?:Passphrase of|New passphrase|The words|The key)[^:\n]*: $", shown):
            os.write(near, f"{left.pop(0)}\n".encode())
            shown += b"<asked>\n"
    os.close(near)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown.decode()


def test_at_a_terminal_it_is_typed_without_an_echo(basedir: Path) -> None:
    code, shown = typed(basedir, [PASSPHRASE], "wallet", "export")
    assert (code, shown.count("<asked>")) == (0, 1)
    assert ABOUT in shown
    assert PASSPHRASE not in shown
    code, shown = typed(basedir, [PASSPHRASE, "one", "another"], "wallet", "passphrase")
    assert (code, shown.count("<asked>")) == (4, 3)
    assert "not the same" in shown
    assert key_file.parse(Path(), REGTEST, (basedir / "regtest.wallet").read_text()) == SEALED
    code, shown = typed(basedir, [WIF], "wallet", "import")
    assert (code, WIF in shown) == (4, False)  # there is a wallet already


def test_the_guides_command_lines_run_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(ABOUT.replace(" ", "\n", 5))
    (tmp_path / "key.txt").write_text(WIF)
    lines = re.findall(r"^    \$ (.+)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) > 6
    told, codes = [], []
    environment = {**os.environ, "PICOPAYMENTS_HUB_URL": NOBODY}
    for line in lines:
        if line.startswith("export "):
            name, _, value = shlex.split(line)[1].partition("=")
            environment[name] = value
            continue
        program = f"{sys.executable} -m picopayments_cli"
        inside = ["/bin/sh", "-c", line.replace("/tmp/", f"{tmp_path}/").replace("picopayments-cli", program)]
        done = subprocess.run(inside, cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=False)
        codes.append(done.returncode)
        told.append(json.loads(done.stdout))
    assert codes == [0, 0, 3, 0, 0, 0, 0]  # nobody was there to be asked for connections
    new, exported, restored, imported, shown, encrypted, decrypted = told
    assert (exported["words"], exported["address"]) == (new["words"], new["address"])
    assert restored == {"address": SEALED.address, "connections": []}
    assert imported == shown
    assert (imported["kind"], encrypted["encrypted"], decrypted["encrypted"]) == ("p2pkh", True, False)

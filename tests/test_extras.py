"""The client alone: it runs without what hub and regtest need, and names the extra where a command lacks one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from exchange_support import two_parties

from picopayments_cli.consensus import check_ways_back
from picopayments_cli.errors import ExtraMissing
from picopayments_cli.extras import EXTRAS, check_extra

HUB_ONLY = sorted(EXTRAS["hub"].keys() - EXTRAS["kernel"].keys())
# Commands that answer from the files, and the modules of all that others load. None of it may load what is missing.
CLIENT_ALONE = """
import contextlib, importlib, io, sys
sys.modules.update(dict.fromkeys(sys.argv[2:]))
from picopayments_cli.cli import main
for name in ("client.serve", "client.opening", "client.closing", "client.paying", "client.listen", "human",
             "completion", "manpages", "regtest.server", "hub.commands"):
    importlib.import_module(f"picopayments_cli.{name}")
with contextlib.redirect_stdout(io.StringIO()) as told:
    codes = [main(["--regtest", "--basedir", sys.argv[1], *words.split()])
             for words in ("config", "address", "history", "payments")]
print(codes)
"""


def refused(call: str, *missing: str) -> dict[str, object]:
    """The error that a program ends with, run without some libraries; nothing went to stdout."""
    code = f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n{call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    error: dict[str, object] = json.loads(done.stderr.splitlines()[-1])["error"]
    return error


def test_the_client_runs_without_the_libraries_of_the_hub(tmp_path: Path) -> None:
    words = [sys.executable, "-c", CLIENT_ALONE, str(tmp_path), *HUB_ONLY]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "[0, 0, 0, 0]\n"), done.stderr


def test_hub_and_demo_name_the_extra_that_they_lack(tmp_path: Path) -> None:
    words = ["--regtest", "--basedir", str(tmp_path)]
    hub = refused(f"from picopayments_cli.hub.cli import main; sys.exit(main({words!r}))", "sqlalchemy", "alembic")
    demo = refused(f"from picopayments_cli.cli import main; sys.exit(main({[*words, 'demo']!r}))", "pbk")
    assert [error["name"] for error in (hub, demo)] == ["ExtraMissing", "ExtraMissing"]
    assert hub["data"] == {"extra": "hub", "missing": ["alembic", "sqlalchemy"]}
    assert demo["data"] == {"extra": "regtest", "missing": ["py-bitcoinkernel"]}
    assert str(hub["message"]).endswith("pip install 'picopayments-cli[hub]'")
    assert list(tmp_path.iterdir()) == []


def test_no_deposit_is_judged_without_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = two_parties()
    monkeypatch.setitem(sys.modules, "pbk", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'picopayments-cli\[kernel\]'"):
        check_ways_back(client.now, client.secrets)


def test_what_is_installed_lacks_nothing() -> None:
    for extra in EXTRAS:
        check_extra(extra, "a test")


def test_the_extras_are_those_that_pip_knows() -> None:
    setup = (Path(__file__).parents[1] / "setup.py").read_text(encoding="utf-8")
    hub = next(line for line in setup.splitlines() if line.startswith("HUB = "))
    assert {package for package in EXTRAS["hub"].values() if package in hub or f'KERNEL = "{package}=' in setup} == {
        *EXTRAS["hub"].values()
    }

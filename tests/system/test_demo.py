"""The demonstration, as a stranger runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = [sys.executable, "-m", "picopayments_cli", "--regtest"]


@pytest.mark.timeout(600)  # some eighty commands, each a process
def test_the_demo_adds_up_and_leaves_nothing_running(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--basedir", str(tmp_path), "demo"], capture_output=True, text=True, check=False, timeout=570
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["conserved"] is True
    assert set(told["parties"]) == {"alice", "bob", "carol", "dave", "hub"}
    for sums in told["parties"].values():
        asset, btc = sums["XCP"], sums["BTC"]
        assert asset["after"] == asset["before"] + asset["received"] - asset["paid"] - asset["sync_fees"]
        assert btc["after"] == btc["before"] + btc["received"] - btc["paid"] - btc["transaction_fees"]
    for moment in ("before", "after"):
        assert sum(sums["XCP"][moment] for sums in told["parties"].values()) == 4 * 10**10 + 10**12
    paid = told["parties"]["alice"]["XCP"]["paid"]
    assert paid == 1000 + 31337 + 4000 + 6000 + 500
    commands = [line.strip() for line in done.stderr.splitlines() if line.strip().startswith("$ ")]
    assert any(line.startswith("$ alice queuepayment ") for line in commands)
    assert sum(line.startswith("$ alias ") for line in commands) == 6  # Carol's with her copy, and back
    assert set(told["commits"]) == {"alice", "bob", "carol", "dave"}
    assert told["parties"]["carol"]["XCP"]["after"] <= 10**10  # she cheated, and has nothing of it
    assert "takes one to three minutes" in done.stderr
    assert [f"[{number}/14," in done.stderr for number in range(1, 16)] == [True] * 14 + [False]
    assert "Every sum adds up." in done.stderr
    assert any(line.split()[:1] == ["carol"] for line in done.stderr.splitlines())
    assert str(tmp_path) not in processes()


def processes() -> str:
    """The command lines of all processes."""
    return subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout


def test_a_demo_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*DEMO, "--basedir", str(tmp_path), "demo"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stderr is not None
        assert any(line.startswith("[1/14,") for line in demo.stderr)
        assert f"{tmp_path}/hub" in processes()
        demo.kill()
    end = time.monotonic() + 30
    while str(tmp_path) in processes():
        assert time.monotonic() < end, processes()
        time.sleep(0.1)


def test_the_demo_is_for_regtest_only(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "picopayments_cli", "--testnet", "--basedir", str(tmp_path), "demo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (done.returncode, error["name"], done.stdout) == (1, "WrongNetwork", "")

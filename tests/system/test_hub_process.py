"""The hub as a process: its log, its current directory, SIGHUP, and what stands in the way of a start."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from picopayments_cli.rpc import RpcClient
from picopayments_cli.transport import Trust

HUB = shutil.which("picopayments-hub", path=str(Path(sys.executable).parent)) or "picopayments-hub"
SPY = "open({!r}, 'a').write(__name__ + chr(10)); raise ImportError(__name__)\n"


@pytest.fixture
def anywhere(tmp_path: Path) -> Path:
    """A current directory in which somebody has put modules by the names of those that programs load."""
    folder = tmp_path / "anywhere"
    for name in ("argparse", "json", "logging", "pbk", "sqlite3", "uvicorn", "picopayments_cli"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(SPY.format(str(folder / "loaded")))
    return folder


@contextlib.contextmanager
def started(basedir: Path, cwd: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str], Path]]:
    """A hub with its own node, its first line, and its log."""
    log = basedir.with_suffix(".log")
    command = [HUB, "--regtest", "--basedir", str(basedir), "--port", "0", "--node-port", "0", *words]
    with log.open("a") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=cwd)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        yield process, json.loads(line), log
    finally:
        process.terminate()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


def until(true: Callable[[], bool]) -> None:
    """Wait for something."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def certificate(folder: Path) -> bytes:
    """Put a new certificate and its key into files; the certificate."""
    made = trustme.CA().issue_cert("127.0.0.1")
    (folder / "cert.pem").write_bytes(made.cert_chain_pems[0].bytes())
    (folder / "key.pem").write_bytes(made.private_key_pem.bytes())
    return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())


def shown(url: str) -> bytes:
    """The certificate that a server shows."""
    port = int(url.split(":")[2].partition("/")[0])
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))


def events(log: Path) -> list[dict[str, Any]]:
    """The log, of which every line is a JSON object."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_life_of_a_hub(tmp_path: Path, anywhere: Path) -> None:
    first = certificate(tmp_path)
    words = ["--ssl-cert", str(tmp_path / "cert.pem"), "--ssl-key", str(tmp_path / "key.pem")]
    terms = tmp_path / "hub" / "hub.regtest.terms.json"
    with started(tmp_path / "hub", anywhere, *words) as (hub, ready, log):
        rpc = RpcClient(ready["hub_url"], trust=Trust(verify=False))
        assert shown(ready["hub_url"]) == first

        def fee() -> int:
            return int(rpc.call("mph_status", {}, retry=True)["current_terms"]["XCP"]["sync_fee"])

        assert fee() == 1
        offered = json.loads(terms.read_text())
        terms.write_text(json.dumps({"XCP": {**offered["XCP"], "sync_fee": 7}}))
        second = certificate(tmp_path)
        hub.send_signal(signal.SIGHUP)
        until(lambda: fee() == 7)
        until(lambda: shown(ready["hub_url"]) == second)
        terms.write_text("{")
        (tmp_path / "key.pem").write_bytes(b"none")
        hub.send_signal(signal.SIGHUP)
        until(lambda: sum(event["event"] == "not read anew" for event in events(log)) == 2)
        assert (fee(), shown(ready["hub_url"])) == (7, second)
        node = next(pid for pid in map(int, Path(f"/proc/{hub.pid}/task/{hub.pid}/children").read_text().split()))
        os.kill(node, signal.SIGABRT)  # which leaves its own words on stderr, or none
        until(lambda: any(event["event"] == "round failed" for event in events(log)))
    assert {event.get("level") for event in events(log)} <= {"info", "warning", "error"}
    assert not (anywhere / "loaded").exists()


def test_a_node_that_does_not_start_says_why_as_json(tmp_path: Path) -> None:
    (tmp_path / "hub" / "node").mkdir(parents=True)
    (tmp_path / "hub").chmod(0o700)
    (tmp_path / "hub" / "node" / "journal.sqlite").write_bytes(b"nonsense" * 1000)
    code, lines = failed(tmp_path, "--node-port", "0")
    assert code == 4
    assert [line["error"]["name"] for line in lines if "error" in line] == ["StoreDamaged"]


def failed(tmp_path: Path, *words: str, **settings: Any) -> tuple[int, list[dict[str, Any]]]:
    """The exit code of a hub that does not start, and the lines on its stderr, all of them JSON."""
    command = [HUB, "--regtest", "--basedir", str(tmp_path / "hub"), "--port", "0", *words]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=60, **settings)
    return done.returncode, [json.loads(line) for line in done.stderr.splitlines()]


NOWHERE = ("--counterparty-url", "http://127.0.0.1:1/")


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))


@pytest.mark.parametrize(
    ("words", "before", "error", "told"),
    [
        ((*NOWHERE, "--database", "postgresql+nodriver://x/y"), None, "DatabaseUnusable", "--database"),
        ((*NOWHERE, "--database", "mysql+pymysql://x/y"), None, "DatabaseUnusable", "SQLite or PostgreSQL"),
        (NOWHERE, few_files, "ResourcesExhausted", "LimitNOFILE=1024"),
        (NOWHERE, no_room, "StoreUnusable", "hub.regtest.terms.json"),
    ],
)
def test_what_stands_in_the_way_is_one_clear_line(
    tmp_path: Path, words: tuple[str, ...], before: Callable[[], None] | None, error: str, told: str
) -> None:
    code, lines = failed(tmp_path, *words, stdout=subprocess.DEVNULL, preexec_fn=before)
    last = lines[-1]["error"]
    assert (code, last["name"]) == (4, error)
    assert told in last["message"]
    assert not any("traceback" in line for line in lines)

"""Above ``ask_above`` nothing moves on mainnet without a yes: at a terminal, or with the command."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from client_support import Life

from picopayments_cli import api, cli
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.client.consent import check_consent
from picopayments_cli.client.session import Session
from picopayments_cli.config import Settings
from picopayments_cli.errors import NotConfirmed

ADDRESS = "1BgGZ9tcN4rm9KBzDn7KprQz87SZ26SAMH"
MUCH = "0.01000001"
CONNECT = ("connect", "XCP", f"{MUCH}XCP")
SEND = ("blocksend", "XCP", ADDRESS, f"{MUCH}XCP")
BITCOIN = ("blocksend", "BTC", ADDRESS, f"{MUCH}BTC")
EXTRA = ("blocksend", "XCP", ADDRESS, "1", "--extra-btc", f"{MUCH}BTC")
EVERY = [CONNECT, SEND, BITCOIN, EXTRA]
SILENT = "http://127.0.0.1:9/"  # nobody is there: a command that passes the question comes to NodeUnreachable


def words(folder: Path, *command: str, network: str = "mainnet") -> list[str]:
    """A command's words, in a folder that has a wallet."""
    with closing(Session(Settings(NETWORKS[network], folder))) as session:
        session.wallet_or_new()
    (folder / f"{network}.cfg").write_text(json.dumps({"chain_url": SILENT, "hub_url": SILENT}))
    return ["--network", network, "--basedir", str(folder), *command]


def ended(folder: Path, *command: str, network: str = "mainnet") -> tuple[int, str]:
    """The exit code of a command without a terminal, and its error's name."""
    process = [sys.executable, "-m", "picopayments_cli", *words(folder, *command, network=network)]
    done = subprocess.run(process, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == ""
    return done.returncode, json.loads(done.stderr.splitlines()[-1])["error"]["name"]


@pytest.mark.parametrize("command", EVERY, ids=lambda command: f"{command[1]} {len(command)}")
def test_a_script_needs_yes_for_much_on_mainnet_and_there_alone(tmp_path: Path, command: tuple[str, ...]) -> None:
    assert ended(tmp_path, *command) == (1, "NotConfirmed")
    assert ended(tmp_path, *command, "--yes") == (3, "NodeUnreachable")


def test_little_needs_no_yes_and_nothing_does_on_a_test_network(tmp_path: Path) -> None:
    assert ended(tmp_path, "connect", "XCP", "1000000") == (3, "NodeUnreachable")
    assert ended(tmp_path, *CONNECT, network="testnet4") == (3, "NodeUnreachable")


def typed(folder: Path, answer: str, *command: str) -> tuple[int, str]:
    """What a command at a terminal ends with: its exit code, and all that it wrote to stderr."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "picopayments_cli", *words(folder, *command)],
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=follower,
    )
    os.close(follower)
    seen = ""
    try:
        while "[y/N]" not in seen:
            seen += os.read(leader, 4096).decode()
        os.write(leader, answer.encode())
        assert process.stdout is not None
        assert process.stdout.read() == b""
        code = process.wait(60)
        while True:
            try:
                seen += os.read(leader, 4096).decode()
            except OSError:  # a terminal that nobody holds any more
                return code, seen
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
        os.close(leader)


@pytest.mark.parametrize(
    ("answer", "code", "name"),
    [
        ("y\n", 3, "NodeUnreachable"),
        ("Yes\n", 3, "NodeUnreachable"),
        ("n\n", 1, "NotConfirmed"),
        ("\n", 1, "NotConfirmed"),
        ("yesterday\n", 1, "NotConfirmed"),
        ("\4", 1, "NotConfirmed"),
    ],
    ids=["y", "Yes", "n", "nothing", "yesterday", "end"],
)
def test_at_a_terminal_it_is_asked(tmp_path: Path, answer: str, code: int, name: str) -> None:
    ended, seen = typed(tmp_path, answer, *CONNECT)
    assert "Deposit 1000001 satoshis of XCP, on mainnet? [y/N]" in seen
    assert (ended, f'"name": "{name}"' in seen) == (code, True)


def test_a_question_that_nobody_answers_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "ASK_SECONDS", 0.05)
    reader, writer = os.pipe()
    with os.fdopen(reader) as silent:
        monkeypatch.setattr(sys, "stdin", silent)
        assert not cli._ask("Pay?")
    os.close(writer)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A session on mainnet that has asked nothing."""
    return Session(Settings(NETWORKS["mainnet"], tmp_path, ask_above=10))


def answering(asked: list[str], answer: bool) -> Callable[[str], bool]:
    def ask(question: str) -> bool:
        asked.append(question)
        return answer

    return ask


def test_the_setting_is_the_greatest_quantity_that_goes_unasked(session: Session) -> None:
    check_consent(session, "pay", 10, "XCP", yes=False)
    with pytest.raises(NotConfirmed, match="--yes") as refused:
        check_consent(session, "pay", 11, "XCP", yes=False)
    assert refused.value.data == {"asset": "XCP", "quantity": 11, "ask_above": 10}
    check_consent(session, "pay", 11, "XCP", yes=True)
    session.settings = replace(session.settings, ask_above=0)
    with pytest.raises(NotConfirmed):
        check_consent(session, "pay", 1, "XCP", yes=False)


def test_the_answer_decides(session: Session) -> None:
    asked: list[str] = []
    session.ask = answering(asked, True)
    check_consent(session, "pay", 11, "XCP", yes=False)
    session.ask = answering(asked, False)
    with pytest.raises(NotConfirmed, match="Nobody said yes"):
        check_consent(session, "pay", 11, "XCP", yes=False)
    check_consent(session, "pay", 11, "XCP", yes=True)
    assert asked == ["Pay 11 satoshis of XCP, on mainnet?"] * 2


def test_a_payment_is_queued_once_it_is_consented_to_and_its_token_asks_no_second_time(it: Life) -> None:
    it.open()
    it.session.network = replace(it.session.network, name="mainnet")
    it.session.settings = replace(it.session.settings, ask_above=10)
    source, payee = it.handle, "03" * 32
    with pytest.raises(NotConfirmed):
        api.queuepayment(it.session, source, payee, 11, "c0ffee")
    assert list(it.connection.queue) == []
    assert api.queuepayment(it.session, source, payee, 11, "c0ffee", yes=True) == "c0ffee"
    assert api.queuepayment(it.session, source, payee, 11, "c0ffee") == "c0ffee"
    assert api.queuepayment(it.session, source, payee, 10)
    assert [item.amount for item in it.connection.queue] == [11, 10]

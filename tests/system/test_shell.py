"""At home in a shell: version and help, guesses, completion, manual pages, closed streams, text for quantities."""

from __future__ import annotations

import json
import os
import pty
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from picopayments_cli import __version__, cli, commands, manpages
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.hub import cli as hub_cli
from picopayments_cli.hub import operator_socket
from picopayments_cli.hub.folder import Folder

BIN = Path(sys.executable).parent
PROGRAMS = {"picopayments-cli": "picopayments_cli", "picopayments-hub": "picopayments_cli.hub.cli"}
HANDLES = ("ab" * 32, "ac" * 32)


def in_shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line as /bin/sh runs it; ``cli`` and ``hub`` are the programs, whose streams are buffered as Python has it."""
    programs = "".join(
        f'{name.rpartition("-")[2]}() {{ "{sys.executable}" -m {module} "$@"; }}\n' for name, module in PROGRAMS.items()
    )
    return subprocess.run(
        ["/bin/sh", "-c", programs + line],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | environment,
    )


def error_of(stderr: str) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(stderr.splitlines()[-1])["error"]
    return error


# Version and help ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("main", [cli.main, hub_cli.main])
def test_the_version_as_an_option(main: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    name, version = capsys.readouterr().out.split()
    assert (stopped.value.code, version) == (0, __version__)
    assert name in PROGRAMS


@pytest.mark.parametrize("topic", [[], ["connect"], ["help"], ["wallet"], ["wallet", "restore"]])
def test_help_is_the_help_of_the_command(topic: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for words in (["help", *topic], [*topic, "--help"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(words)
        assert stopped.value.code == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert shown[0].startswith("usage: ")


# Guesses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["stauts"], "Did you mean status?"),
        (["help", "conect"], "Did you mean connect?"),
        (["--network", "regtset", "status"], "Did you mean regtest?"),
        (["--networt", "regtest", "status"], "Did you mean --network?"),
        (["status", "--verbos"], "Did you mean --verbose?"),
        (["connect", "XCP", "5", "--expire_tim=20"], "Did you mean --expire-time?"),
        (["status", "--regtest"], "--regtest goes before status."),
        (["sync", "--hub-url=http://a/"], "--hub-url goes before sync."),
        (["qqqqq"], "Choose from version, hubstatus,"),
        (["status", "abcd12345"], "by an option here: `picopayments-cli status --handle abcd12345`."),
        (["hubstatus", "XCP"], "hubstatus takes values by options alone: --asset ASSET."),
        (["listen", "17"], "listen takes values by options alone: --after INDEX, --timeout SECONDS."),
        (["pay", "a", "b", "5", "c0ffee"], "SOURCE DESTINATION [QUANTITY]`, and all else by options: --token TOKEN."),
        (["version", "all"], "version takes no values."),
        (["close", "--handle", "abcd12345"], "its value is typed alone: `picopayments-cli close HANDLE`."),
        (["close", "--handle=abcd12345"], "its value is typed alone: `picopayments-cli close HANDLE`."),
        (["connect", "--asset", "XCP", "--quantity", "5"], "`picopayments-cli connect ASSET QUANTITY`."),
        (["mine", "--blocks", "6"], "`picopayments-cli mine [BLOCKS]`."),
        (["--handle", "abcd", "status"], "--handle goes behind status."),
        (["--words", "24", "wallet", "new"], "--words goes behind wallet new."),
        (["wallet", "--words", "24", "new"], "--words goes behind new."),
        (["--state", "sent"], "--state is an option of payments, and goes behind the command."),
    ],
)
def test_a_mistyped_word_is_guessed(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2
    error = error_of(capsys.readouterr().err)
    assert error["name"] == "UsageError"
    assert told in error["message"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["connections", "open"], "connections takes values by options alone: --stage STAGE,"),
        (["close", "--handle", "abcd"], "its value is typed alone: `picopayments-hub close HANDLE`."),
        (["--stage", "open", "connections"], "--stage goes behind connections."),
    ],
)
def test_the_hubs_words_have_their_places_too(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        hub_cli.main(words)
    assert told in error_of(capsys.readouterr().err)["message"]


def test_a_command_of_the_hub_that_a_message_names_has_what_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(operator_socket, "ANSWER_SECONDS", 0.2)
    words = ["--regtest", "--basedir", str(tmp_path), "--bitcoin-url=http://me:secret@host/"]
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(Folder(Path(), NETWORKS["regtest"]).socket_path.name)
        Folder(tmp_path, NETWORKS["regtest"]).socket_path.chmod(0o600)
        silent.listen()
        assert hub_cli.main([*words, "connections"]) == 3
    stderr = capsys.readouterr().err
    typed = f"--regtest --basedir {tmp_path} '--bitcoin-url=http://***@host/'"
    assert f"see its log, and `picopayments-hub {typed} status`." in error_of(stderr)["message"]
    assert "secret" not in stderr


@pytest.mark.parametrize("given", ["--bitcoin-url", "PICOPAYMENTS_BITCOIN_URL"])
def test_the_embedded_network_of_a_hub_takes_no_bitcoin_node(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PICOPAYMENTS_BITCOIN_URL", "http://b/" if given.startswith("P") else "")
    option = ["--bitcoin-url", "http://b/"] if given.startswith("-") else []
    with pytest.raises(SystemExit):
        hub_cli.main(["--regtest", "--basedir", str(tmp_path), *option])
    told = f"{given} is for a Bitcoin node of your own, and the embedded network of regtest needs none: leave it out"
    assert told in error_of(capsys.readouterr().err)["message"]


def test_a_mistyped_option_of_the_hub_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        hub_cli.main(["--blocktime", "5"])
    assert "Did you mean --block-time?" in error_of(capsys.readouterr().err)["message"]


def test_a_mistyped_setting_is_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--regtest", "--basedir", str(tmp_path), "config", "feerate"]) == 1
    error = error_of(capsys.readouterr().err)
    assert error["name"] == "InvalidSetting"
    assert "Did you mean fee_rate?" in error["message"]


# Streams ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["cli", "hub"])
def test_what_is_shown_to_nobody_is_an_error(program: str) -> None:
    for option in ("--help", "--version"):
        for redirection in (">&-", ">/dev/full"):
            done = in_shell(f"{program} {option} {redirection}")
            assert (done.returncode, error_of(done.stderr)["name"]) == (1, "OutputLost"), (option, redirection)
            assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "0<&- 2>&-"])
def test_a_closed_stderr_changes_nothing_else(redirection: str, tmp_path: Path) -> None:
    client = f"cli --debug --regtest --basedir {tmp_path}"
    done = in_shell(f"{client} config timeout 20 {redirection}")  # which logs
    assert (done.returncode, json.loads(done.stdout)) == (0, {"source": "file", "value": 20})
    assert json.loads((tmp_path / "regtest.cfg").read_text()) == {"timeout": 20}
    for words, code in (("close 00", 4), ("nosuch", 2), ("hubstatus", 3)):
        done = in_shell(f"{client} --hub-url http://127.0.0.1:9/ {words} {redirection}")
        assert (done.returncode, done.stdout) == (code, ""), words


def test_all_streams_closed(tmp_path: Path) -> None:
    done = in_shell(f"cli --regtest --basedir {tmp_path} config timeout 20 <&- >&- 2>&-; echo $?")
    assert done.stdout == "1\n"  # nobody got the result
    assert json.loads((tmp_path / "regtest.cfg").read_text()) == {"timeout": 20}


@pytest.mark.parametrize("words", [["stauts"], ["--help"], ["--debug", "--regtest", "close", "00"]])
def test_nothing_is_coloured(words: list[str], tmp_path: Path) -> None:
    """On a terminal that could, with NO_COLOR in the environment."""
    near, far = pty.openpty()
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color", "PICOPAYMENTS_BASEDIR": str(tmp_path)}
    command = [sys.executable, "-m", "picopayments_cli", *words]
    subprocess.run(command, stdin=far, stdout=far, stderr=far, timeout=60, check=False, env=environment)
    os.close(far)
    shown = b""
    with os.fdopen(near, "rb", buffering=0) as terminal:
        while not shown.endswith(b"\n") or len(shown) < 100:
            shown += terminal.read(65536)
    assert b"\x1b" not in shown


# Completion ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def basedir(tmp_path: Path) -> Path:
    """With two connections on regtest, as far as the names of files tell."""
    folder = tmp_path / "regtest.connections"
    folder.mkdir()
    for handle in HANDLES:
        (folder / f"{handle}.json").write_text("{}")
        (folder / f"{handle}.commits.jsonl").write_text("")
    return tmp_path


def completed(line: str, program: str = "picopayments-cli") -> set[str]:
    """The words that bash offers where a line ends."""
    script = f"""
        eval "$({BIN}/picopayments-cli completion bash)"
        COMP_LINE={program!r}" "{line!r} COMP_POINT=$((${{#COMP_LINE}})) COMP_TYPE=9
        _python_argcomplete {BIN}/{program}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return {word.strip() for word in done.stdout.splitlines()} - {""}


def test_bash_completes_words_of_the_parser(basedir: Path) -> None:
    assert completed("hubs") == {"hubstatus"}
    assert completed("") >= {"status", "sync", "help"}
    assert completed("--reg") == {"--regtest"}
    assert completed("status --v") == {"--verbose"}
    assert completed("help conn") == {"connect"}
    assert completed("wallet dec") == {"decrypt"}
    assert completed("wallet new --w") == {"--words"}
    assert completed("config fee_") == {"fee_rate", "fee_ceiling"}
    assert completed("--blo", "picopayments-hub") == {"--block-time"}
    assert completed(f"--basedir {basedir.parent}/{basedir.name[:-1]}") >= {f"{basedir}/"}


def test_bash_completes_own_handles_and_asks_nobody(basedir: Path) -> None:
    """With a hub that nobody is at, and files that nobody could read."""
    client = f"--basedir {basedir} --regtest --hub-url http://127.0.0.1:9/"
    assert completed(f"{client} close ") == set(HANDLES)
    assert completed(f"{client} close ab") == {HANDLES[0]}
    for words in ("status --handle ", "sync --handle ", "queuepayment "):
        assert completed(f"{client} {words}") == set(HANDLES)
    for words in (f"queuepayment {HANDLES[0]} ", "balances --asset ", "mine "):
        assert completed(f"{client} {words}") == set()
    assert completed(f"--basedir {basedir} --testnet close ") == set()
    before = sorted(path.name for path in basedir.rglob("*"))
    assert before == sorted(path.name for path in basedir.rglob("*") if "lock" not in path.name)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(program in script for program in PROGRAMS)
    installed = shutil.which(shell)
    if installed:
        subprocess.run([installed, "-n"], input=script, text=True, check=True, timeout=60)


# Manual pages -------------------------------------------------------------------------------------------------------


def test_the_manual_has_all_that_the_parsers_have(tmp_path: Path) -> None:
    assert manpages.main([str(tmp_path / "man1")]) == 0
    pages = {path.name: path.read_text() for path in (tmp_path / "man1").iterdir()}
    assert set(pages) == {"picopayments-cli.1", "picopayments-hub.1"}
    client = pages["picopayments-cli.1"].replace("\\-", "-")
    for name, command in commands.COMMANDS.items():
        section = client.split(f".SS {name}\n")[1].partition(".SS ")[0]
        assert all(line in section for line in command.text.splitlines())
        for flag, settings in command.arguments:
            shown = settings["help"] % {"default": settings.get("default")}
            assert f"{shown}\n" in section, (name, flag)
    assert "--block-time SECONDS" in pages["picopayments-hub.1"].replace("\\-", "-")
    assert manpages.main([]) == 2


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_roff_has_no_complaint(tmp_path: Path) -> None:
    assert manpages.main([str(tmp_path)]) == 0
    pages = sorted(tmp_path.iterdir())
    assert [page.name for page in pages] == ["picopayments-cli.1", "picopayments-hub.1"]
    for page in pages:
        done = subprocess.run(
            ["groff", "-man", "-ww", "-Tutf8", page], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stderr == ""
        assert "User Commands" in done.stdout


# Quantities as text -------------------------------------------------------------------------------------------------


def test_settings_stay_as_they_are_with_string_amounts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--regtest", "--basedir", str(tmp_path), "--string-amounts", "config", "ask_above"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == 1_000_000

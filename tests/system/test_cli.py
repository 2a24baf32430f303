"""The command line as a shell sees it: stdout, the last line of stderr, exit codes, help."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from picopayments_cli import __version__, cli, commands
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.client.key_file import KeyFile
from picopayments_cli.client.store import Store
from picopayments_cli.commands import COMMANDS
from picopayments_cli.hub import cli as hub_cli
from picopayments_cli.json_arguments import from_json, plain

CONNECTION = "ab" * 32
PACKAGE = Path(cli.__file__).parent
REFERENCE = (Path(__file__).parents[2] / "docs" / "commands.rst").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a wallet."""
    with Store(tmp_path, NETWORKS["regtest"]) as store:
        store.save_wallet(KeyFile.drawn(NETWORKS["regtest"]))
    return tmp_path


def run(*words: str, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "picopayments_cli", *words]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False)


def in_shell(basedir: Path, redirections: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A command whose stdout or stderr a shell has redirected or closed."""
    command = [sys.executable, "-m", "picopayments_cli", "--regtest", "--basedir", str(basedir), *words]
    script = ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", *command]
    return subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)


def error_of(stderr: str) -> dict[str, Any]:
    document = json.loads(stderr.splitlines()[-1])
    assert list(document) == ["error"]
    assert set(document["error"]) == {"name", "message", "data"}
    error: dict[str, Any] = document["error"]
    return error


def parsed(*words: str) -> dict[str, Any]:
    return vars(cli._parser().parse_args(cli.dashed(list(words))))


def test_version_is_one_json_string() -> None:
    done = run("version")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == __version__


def test_the_version_is_printed_in_process_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--regtest", "version"]) == 0
    assert json.loads(capsys.readouterr().out) == __version__


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--test", "version"],
        ["--reg", "version"],
        ["nosuch"],
        ["version", "extra"],
        ["--network", "simnet", "version"],
        ["--testnet", "--regtest", "version"],
        ["status", "--verb"],
        ["connect", "XCP"],
        ["connect", "XCP", "10", "--expire", "20"],
        ["queuepayment", CONNECTION, CONNECTION],
    ],
)
def test_usage_errors_end_in_json_with_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("usage: picopayments-cli")
    assert error_of(captured.err)["name"] == "UsageError"


@pytest.mark.parametrize("words", [["pay"], ["pay", "a", "b", "1", "2"], ["pay", "a", "b", "--tokne", "c0"]])
def test_a_usage_error_of_a_command_shows_its_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(words)
    stderr = capsys.readouterr().err
    assert stderr.startswith("usage: picopayments-cli pay [-h]")
    assert "`picopayments-cli pay --help`" in error_of(stderr)["message"]


def test_a_usage_error_of_the_process() -> None:
    done = run("--test", "version")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--test" in error_of(done.stderr)["message"]


def test_a_fraction_without_a_unit_is_told_of_units(tmp_path: Path) -> None:
    done = run("--regtest", "--basedir", str(tmp_path), "connect", "XCP", "1.5")
    told = "must be a whole number of satoshis, or a number with its unit such as 1.5XCP, not '1.5'."
    assert told in error_of(done.stderr)["message"]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "1e3", "+1", " 1", "1_000", "٣", "", "abc", "9" * 19, "9" * 5000])
def test_quantities_are_plain_positive_integers(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["connect", "XCP", text],
        ["connect", "XCP", "1", f"--expire-time={text}"],
        ["queuepayment", "a", "b", text],
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(words)
        assert stopped.value.code == 2
        assert error_of(capsys.readouterr().err)["name"] == "UsageError"


@pytest.mark.parametrize("text", ["-1XCP", "-1.5XCP", "1,500XCP", "1,5", "1,5000"])
def test_what_is_no_quantity_is_told_what_one_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["connect", "XCP", text])
    told = f"must be a whole number of satoshis, or a number with its unit such as 1.5XCP, not {text!r}."
    assert told in error_of(capsys.readouterr().err)["message"]


QUANTITIES_TYPED = {"1500000": 1_500_000, "1,500,000": 1_500_000, "1.5XCP": "1.5XCP", "2PARENT.child": "2PARENT.child"}


@pytest.mark.parametrize("text", QUANTITIES_TYPED)
def test_a_quantity_is_typed_as_the_documents_say_wherever_one_is_taken(text: str) -> None:
    taken = QUANTITIES_TYPED[text]
    for name, command in COMMANDS.items():
        for argument, settings in command.arguments:
            if argument.strip("-") in ("quantity", "extra-btc", "btc"):
                assert settings["type"](text) == taken, name
                given = from_json(name, [(argument, settings)], (), {plain(argument): text})
                assert given[plain(argument)] == taken, name
    assert parsed("connect", "XCP", text)["quantity"] == taken
    assert vars(hub_cli._parser().parse_args(["withdraw", "ADDRESS", text]))["quantity"] == taken


def test_a_backup_to_be_verified_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for main in (cli.main, hub_cli.main):
        with pytest.raises(SystemExit) as stopped:
            main(["--regtest", "--basedir", str(tmp_path / "wallet"), "backup", "verify"])
        assert stopped.value.code == 2
    assert list(tmp_path.iterdir()) == []
    assert parsed("backup", "verify", "FILE") | {"action": "verify", "file": "FILE"} == parsed(
        "backup", "verify", "FILE"
    )
    assert parsed("backup", "./verify")["file"] == "./verify"


def test_the_greatest_quantity_is_taken() -> None:
    assert parsed("connect", "XCP", str(2**63 - 1))["quantity"] == 2**63 - 1


def test_dash_and_underscore_are_the_same() -> None:
    dashed = parsed("--hub-url", "http://a_b/", "connect", "XCP", "5", "--expire-time", "20", "--delay-time=3")
    scored = parsed("--hub_url", "http://a_b/", "connect", "XCP", "5", "--expire_time", "20", "--delay_time=3")
    assert dashed == scored
    assert (scored["hub_url"], scored["expire_time"], scored["delay_time"]) == ("http://a_b/", 20, 3)


def test_values_keep_their_underscores() -> None:
    assert parsed("queuepayment", "a", "b", "5", "--token=my_own_token")["token"] == "my_own_token"
    assert parsed("close", "--", "--a_b")["handle"] == "--a_b"


def test_defaults() -> None:
    connect = parsed("connect", "XCP", "5")
    assert (connect["expire_time"], connect["delay_time"]) == (1024, None)  # the delay is the network's
    assert [connect[name] for name in ("network", "basedir", "hub_url", "debug")] == [None, None, None, False]
    assert parsed("mine")["blocks"] == 1
    faucet = parsed("faucet")
    assert [faucet[name] for name in ("address", "btc", "asset", "quantity")] == [None] * 4
    assert parsed("status")["verbose"] is False


def test_a_fee_rate_is_a_whole_number_or_none() -> None:
    rates = [parsed("feerate", *words) for words in ([], ["none"], ["20", "--minimum", "5"])]
    assert [(given["rate"], given["minimum"]) for given in rates] == [(None, None), ("none", None), (20, 5)]
    for words in (["0"], ["-1"], ["1.5"], ["None"], ["20", "--minimum", "none"]):
        with pytest.raises(SystemExit) as stopped:
            parsed("feerate", *words)
        assert stopped.value.code == 2


def test_networks_are_those_of_the_program() -> None:
    assert set(cli.NETWORKS) == set(NETWORKS)
    for name in NETWORKS:
        assert parsed("--network", name, "status")["network"] == name
    assert parsed("status")["network"] is None  # PICOPAYMENTS_NETWORK, else mainnet
    for name in ("testnet", "testnet4", "signet", "regtest"):
        assert parsed(f"--{name}", "status")["network"] == name


@pytest.mark.parametrize("command", [None, *commands.COMMANDS])
def test_help_fits_80_columns_and_has_an_example(
    command: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        cli.main([*(command or "").split(), "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert max(len(line) for line in text.splitlines()) <= 80
    example = text.split("example:\n")[1].split()
    assert example[0] == "picopayments-cli"
    assert parsed(*example[1:])["command"] == command or command is None


def test_a_command_that_fails_leaves_stdout_empty(folder: Path) -> None:
    done = run("--regtest", "--basedir", str(folder), "close", "not-a-handle")
    assert done.returncode == 1
    assert done.stdout == ""
    error = error_of(done.stderr)
    assert error["name"] == "InvalidHex"
    typed = shlex.join(["picopayments-cli", "--regtest", "--basedir", str(folder), "status"])
    assert error["message"].endswith(f"`{typed}` shows your own in full.")
    assert "Traceback" not in done.stderr


def commands_in(text: str) -> list[str]:
    """The words between backquotes that begin with the name of this program, or of one of its commands in a line."""
    first = {name.split()[0] for name in COMMANDS}
    found = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    return [item for item in found if item.split()[0] == "picopayments-cli" or item.partition(" ")[0] in first - {item}]


def texts_of(path: Path) -> Iterator[str]:
    """The texts of a module; what is filled in is a 1."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "1" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def test_each_command_that_a_text_names_can_be_typed_as_it_stands() -> None:
    """With the program's name, behind which its config arguments are put, and with all that the command needs."""
    modules = [path for path in PACKAGE.rglob("*.py") if path.name != "commands.py"]  # help names commands alone
    found = {item for path in modules for text in texts_of(path) for item in commands_in(text)}
    assert len(found) > 20
    for item in found:
        program, *words = shlex.split(item)
        assert program == "picopayments-cli", item
        numbered = ["1" if word in ("INDEX", "SECONDS", "QUANTITY") else word for word in words]
        try:
            parsed(*numbered)
        except SystemExit:
            raise AssertionError(item) from None


def test_the_commands_in_errors_are_typed_out_wherever_they_stand_and_a_memo_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, typed = "`picopayments-cli sync`", "`picopayments-cli --regtest sync`"
    monkeypatch.setattr(cli.Parser, "typed", ("--regtest",))
    error = {"name": "StoreDamaged", "message": step, "data": {"why": step, "failed": {"ab": {}}}}
    error["data"]["failed"]["ab"] = {"name": "X", "message": step, "data": {}}  # type: ignore[index]
    told = cli.all_typed({"connections": {"ab": {"error": error}}, "payments": [{"memo": step, "message": step}]})
    assert told["payments"] == [{"memo": step, "message": step}]
    assert json.dumps(told["connections"]).count(typed) == 3


def test_a_password_in_a_url_stands_in_no_message(tmp_path: Path) -> None:
    url = "http://me:secret=@127.0.0.1:9/api/?a=b"
    folder = tmp_path / "me@home"
    for words in (["--hub-url", url], [f"--hub-url={url}"]):
        done = run("--regtest", "--basedir", str(folder), *words, "close", "not-a-handle")
        message = error_of(done.stderr)["message"]
        assert "***@127.0.0.1:9/api/" in message
        assert str(folder) in message
        assert "secret" not in done.stderr
    done = run("--regtest", "--hub-url", "http://me:secret@[::1/", "status")
    assert error_of(done.stderr)["name"] == "InvalidUrl"


def test_a_payees_handle_is_the_payees_to_tell(folder: Path) -> None:
    done = run("--regtest", "--basedir", str(folder), "queuepayment", CONNECTION, CONNECTION[:8], "1")
    message = error_of(done.stderr)["message"]
    assert "Ask the payee for it: " in message
    assert message.endswith("their `status` shows it in full.")


def test_debug_shows_the_traceback(folder: Path) -> None:
    done = run("--regtest", "--basedir", str(folder), "--debug", "close", "not-a-handle")
    assert "Traceback" in done.stderr
    assert error_of(done.stderr)["name"] == "InvalidHex"


def test_a_result_that_nobody_reads_is_an_error_without_a_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run("version", stdout=writer)
    os.close(writer)
    assert done.returncode == 1
    assert error_of(done.stderr)["name"] == "OutputLost"
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("redirections", [">&-", "> /dev/full"])
@pytest.mark.parametrize("words", [["version"], ["serve", "--port", "0"]])
def test_a_stdout_that_takes_nothing_is_an_error(folder: Path, words: list[str], redirections: str) -> None:
    done = in_shell(folder, redirections, *words)
    assert done.returncode == 1
    assert error_of(done.stderr)["name"] == "OutputLost"
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("redirections", ["2>&-", "2> /dev/full"])
@pytest.mark.parametrize(
    ("words", "code"), [(["hubstatus"], 3), (["close", "00"], 1), (["close"], 2), (["status", "--nope"], 2)]
)
def test_an_error_that_nobody_reads_keeps_its_code(
    folder: Path, words: list[str], code: int, redirections: str
) -> None:
    done = in_shell(folder, redirections, "--hub-url", "http://127.0.0.1:9/api/", *words)
    assert (done.returncode, done.stdout) == (code, "")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_with_its_code_and_a_line_of_json(folder: Path, how: signal.Signals) -> None:
    """A command that waits for the store's lock is interrupted by the terminal, or is told to end."""
    with Store(folder, NETWORKS["regtest"]):
        command = [sys.executable, "-m", "picopayments_cli", "--debug", "--regtest", "--basedir", str(folder)]
        waiting = subprocess.Popen([*command, "status"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert waiting.stderr is not None
            seen = ""
            while "wait for the lock" not in seen:
                line = waiting.stderr.readline()
                assert line, seen
                seen += line
            waiting.send_signal(how)
            out, err = waiting.communicate(timeout=30)
        finally:
            waiting.kill()
    assert (waiting.returncode, out) == (128 + how, "")
    assert error_of(err)["name"] == "Interrupted"


def test_the_reference_names_the_ports_of_serve() -> None:
    reference = " ".join(REFERENCE.split())
    ports = ", ".join(f"{network.hub_port + 1000} on {name}" for name, network in NETWORKS.items())
    assert f"Default: {ports}." in reference


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sync"], "it goes on where it stopped"),
        (["blocksend", "XCP", "nobody", "1"], "run again the command pays again"),
        (["connect", "XCP", "1"], "run again the command opens another one"),
        (["queuepayment", "a", "b", "1"], "run again without its --token the command queues another one"),
        (["faucet"], "gives as much once more"),
        (["mine"], "mines as many blocks once more"),
        (["demo"], "starts anew"),
    ],
)
def test_an_interrupt_tells_what_another_run_does(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main(["--regtest", *words]) == 130
    assert told in error_of(capsys.readouterr().err)["message"]


def test_a_time_out_of_no_wait_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["connect", "XCP", "5"], ["sync"], ["close", "ab" * 32]):
        assert cli.main(["--regtest", "--basedir", str(folder), *words, "--timeout", "5"]) == 2
        assert "--timeout goes with --wait" in error_of(capsys.readouterr().err)["message"]


def test_every_command_stands_in_the_reference() -> None:
    for name, command in commands.COMMANDS.items():
        section = REFERENCE.split(f"\n{name}\n{'=' * len(name)}\n")[1].split("\n\n\n")[0]
        for flag, settings in command.arguments:
            assert f"``{flag if flag.startswith('--') else settings['metavar']}" in section, (name, flag)

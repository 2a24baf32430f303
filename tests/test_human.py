"""Results as people see them: in terminals of any width, and of any encoding."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

from picopayments_cli import cli, human

PAYMENT = {
    "index": 1,
    "state": "received",
    "handle": "a8" * 32,
    "time": "2026-11-29T17:35:20.123Z",
    "payer_handle": "50" * 32,
    "amount": 1337,
    "token": "e5" * 32,
    "fee": 1,
    "asset": "XCP",
}
REQUESTED = {"request": "paid", "too_late": False, "memo": "one coffee"}
PAYMENTS = [PAYMENT, {**PAYMENT, "index": 2, "state": "refused", "cause": "unknown_payee"}, {**PAYMENT, **REQUESTED}]
CONNECTION: dict[str, Any] = {"status": "open", "asset": "XCP", "balance": 998_663, "ttl": 1014, "payments_queued": []}
WALLET = {"address": "bcrt1qwvsn5syavltkez88jjwuku9ysn62lts2cu5ljh", "balances": {"XCP": 9_999_000_000}}
STATUS = {"chain": "hub", "wallet": WALLET, "connections": {"a8" * 32: CONNECTION, "b7" * 32: CONNECTION}}
HISTORY = [{"handle": "a8" * 32, "time": PAYMENT["time"], "action": "connected", "quantity": 1_000_000, "asset": "XCP"}]
RESULTS = [("payments", PAYMENTS), ("payments", PAYMENTS[:2]), ("status", STATUS), ("history", HISTORY)]


class Terminal(io.TextIOWrapper):
    """A terminal's stdout."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding)

    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, command: str, result: Any, columns: int, encoding: str = "utf-8") -> str:
    """A result as it is written for a terminal."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout", Terminal(encoding))
    return human.text_of(command, result)


@pytest.mark.parametrize("columns", [10, 20, 40, 60, 80, 100, 120, 140, 200])
@pytest.mark.parametrize(("command", "result"), RESULTS)
def test_nothing_is_cut_off_whatever_the_width(
    command: str, result: Any, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown(monkeypatch, command, result, columns)
    assert "…" not in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= columns
    written = re.sub(r"\s", "", text)
    last = "".join(line.split()[-1] for line in text.splitlines() if line)  # of values that go on in further lines
    told = result if isinstance(result, list) else list(result["connections"].values())
    for name in ("state", "action", "status", "request", "cause", "asset"):
        for word in {item[name] for item in told if name in item}:
            assert word in written or word in last, name


def test_what_a_terminal_can_not_write_costs_no_command_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command was carried out: no error may follow."""
    rows = [{**PAYMENT, "memo": "Größe ☕"}]
    text = shown(monkeypatch, "payments", rows, 200, "latin-1")
    assert "Größe \\u2615" in text
    assert "─" not in text
    stdout = Terminal("ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    cli.write_out("☕ \udcff")
    assert stdout.buffer.getvalue() == b"\\u2615 \\udcff\n"  # type: ignore[attr-defined]

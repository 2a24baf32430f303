"""Settings as the command line shows and takes them, and what they do."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from network_support import WAIT, Client, refusal
from servers import talking

SEGWIT = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
NOBODY = "http://127.0.0.1:9/api/"


def settings_of(client: Client) -> Any:
    return json.loads((client.basedir / "regtest.cfg").read_bytes())


def test_settings_and_where_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(tmp_path, "https://user:secret@hub/api/")
    path = tmp_path / "regtest.cfg"
    path.touch(0o600)
    path.write_text(json.dumps({"fee_rate": 7, "hub_username": "u", "hub_password": "secret", "timeout": 20}))
    monkeypatch.setenv("PICOPAYMENTS_BITCOIN_URL", "http://u:secret@[::1]:8332/x?y=1")
    monkeypatch.setenv("PICOPAYMENTS_CHAIN_URL", "http://node:4000/")
    monkeypatch.setenv("PICOPAYMENTS_TIMEOUT", "30.5")
    shown = client.run("config")
    assert shown == {
        "hub_url": {"value": "https://***@hub/api/", "source": "flag"},
        "chain_url": {"value": "http://node:4000/", "source": "environment"},
        "bitcoin_url": {"value": "http://***@[::1]:8332/x?y=1", "source": "environment"},
        "timeout": {"value": 30.5, "source": "environment"},
        "verify_tls": {"value": True, "source": "default"},
        "ca_file": {"value": None, "source": "default"},
        "pinned_certificates": {"value": None, "source": "default"},
        "fee_ceiling": {"value": 100, "source": "default"},
        "fee_rate": {"value": 7, "source": "file"},
        "lock_ceiling": {"value": 5, "source": "default"},
        "sync_ceiling": {"value": 1, "source": "default"},
        "ask_above": {"value": 1_000_000, "source": "default"},
        "backup": {"value": None, "source": "default"},
        "hub_username": {"value": "u", "source": "file"},
        "hub_password": {"value": "***", "source": "file"},
        "hub_verify_ssl_cert": {"value": None, "source": "default"},
    }
    for name, choice in shown.items():
        assert client.run("config", name) == choice
    assert client.run("--timeout", "12", "config", "timeout") == {"value": 12.0, "source": "flag"}
    assert client.done("config").stderr == ""


def test_a_setting_is_set_in_the_file_and_taken_out(tmp_path: Path) -> None:
    client = Client(tmp_path / "new", NOBODY)
    assert client.run("config", "timeout", "2.5") == {"value": 2.5, "source": "file"}
    assert client.run("config", "verify_tls", "false") == {"value": False, "source": "file"}
    assert client.run("config", "fee_rate", "7") == {"value": 7, "source": "file"}
    assert client.run("config", "hub_password", "007") == {"value": "***", "source": "file"}
    assert settings_of(client) == {"timeout": 2.5, "verify_tls": False, "fee_rate": 7, "hub_password": "007"}
    assert stat.S_IMODE((client.basedir / "regtest.cfg").stat().st_mode) == 0o600
    assert client.run("config", "fee_rate", "") == {"value": None, "source": "default"}
    assert client.run("config", "timeout", "") == {"value": 60.0, "source": "default"}
    overridden = client.done("config", "hub_url", "http://other/")
    assert overridden.result == {"value": NOBODY, "source": "flag"}
    assert "flag" in overridden.stderr
    assert settings_of(client) == {"verify_tls": False, "hub_password": "007", "hub_url": "http://other/"}
    assert sorted(client.files()) == ["regtest.cfg"]


@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        (("config", "hub_ulr"), 1, "InvalidSetting"),
        (("config", "hub_ulr", "http://x/"), 1, "InvalidSetting"),
        (("config", "network", "testnet"), 1, "InvalidSetting"),
        (("config", "timeout", "0"), 1, "InvalidSetting"),
        (("config", "timeout", "3601"), 1, "InvalidSetting"),
        (("config", "timeout", "NaN"), 1, "InvalidSetting"),
        (("config", "timeout", "soon"), 1, "InvalidSetting"),
        (("config", "timeout", "[" * 100_000), 1, "InvalidSetting"),
        (("config", "verify_tls", "no"), 1, "InvalidSetting"),
        (("config", "verify_tls", "1"), 1, "InvalidSetting"),
        (("config", "fee_rate", "101"), 1, "InvalidSetting"),
        (("config", "fee_rate", "1.5"), 1, "InvalidSetting"),
        (("config", "ask_above", "-1"), 1, "InvalidSetting"),
        (("config", "ask_above", "0.5"), 1, "InvalidSetting"),
        (("config", "bitcoin_url", "http://x/"), 1, "InvalidSetting"),
        (("config", "hub_url", "x"), 1, "InvalidUrl"),
        (("config", "timeout", "5", "6"), 2, "UsageError"),
        (("--timeout", "0", "config"), 2, "UsageError"),
        (("--timeout", "3601", "config"), 2, "UsageError"),
        (("--timeout", "-5", "config"), 2, "UsageError"),
        (("--timeout", "1e1", "config"), 2, "UsageError"),
        (("--timeout", "nan", "config"), 2, "UsageError"),
        (("--timeout", "5.", "config", "fee_rate", "0"), 1, "InvalidSetting"),
    ],
)
def test_a_setting_that_can_t_be_is_refused(tmp_path: Path, words: tuple[str, ...], code: int, name: str) -> None:
    (tmp_path / "regtest.cfg").write_text('{"timeout": 20}')
    assert refusal(Client(tmp_path, NOBODY), *words)[:2] == (code, name)


@pytest.mark.parametrize(
    ("content", "code", "name"),
    [("{", 4, "StoreDamaged"), ('{"hub_ulr": "x"}', 1, "InvalidSetting"), ('{"timeout": "x"}', 1, "InvalidSetting")],
)
def test_a_settings_file_that_is_wrong_is_left_alone(tmp_path: Path, content: str, code: int, name: str) -> None:
    (tmp_path / "regtest.cfg").write_text(content)
    for words in (("config",), ("config", "timeout", "5"), ("status",)):
        assert refusal(Client(tmp_path, NOBODY), *words)[:2] == (code, name)


def test_a_silent_hub_is_waited_for_no_longer_than_told(tmp_path: Path) -> None:
    with talking(lambda connection: time.sleep(WAIT)) as (url, heard):
        start = time.monotonic()
        assert refusal(Client(tmp_path, url), "--timeout", "0.2", "listutxos", SEGWIT)[:2] == (3, "HubUnreachable")
        assert time.monotonic() - start < WAIT / 3
        assert heard

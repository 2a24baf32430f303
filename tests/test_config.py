"""Where a setting comes from, and what is said about one that can't be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from picopayments_cli.channel.errors import InvalidSetting, InvalidUrl, StoreDamaged, WrongNetwork
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.config import Settings, choose_basedir, choose_network, load_settings, settings_file

TESTNET = NETWORKS["testnet"]
REGTEST = NETWORKS["regtest"]


def load(basedir: Path, file: Any = None, flags: Any = None, environ: Any = None, network: Any = TESTNET) -> Settings:
    if file is not None:
        path = settings_file(network, basedir)
        path.touch(0o600)
        path.write_text(file if isinstance(file, str) else json.dumps(file))
    return load_settings(network, basedir, flags or {}, environ or {})


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    variable = {"PICOPAYMENTS_HUB_URL": "http://environment/"}
    assert load(tmp_path).hub_url is None
    assert load(tmp_path, {"hub_url": "http://file/"}).hub_url == "http://file/"
    assert load(tmp_path, environ=variable).hub_url == "http://environment/"
    assert load(tmp_path, flags={"hub_url": "http://flag/"}, environ=variable).hub_url == "http://flag/"
    assert load(tmp_path, flags={"hub_url": None}, environ=variable).hub_url == "http://environment/"
    assert load(tmp_path, environ={"PICOPAYMENTS_HUB_URL": ""}).hub_url == "http://file/"


def test_every_setting_of_the_file(tmp_path: Path) -> None:
    given = {
        "hub_url": "https://a/api/",
        "chain_url": "http://b:4000/",
        "bitcoin_url": "http://u:p@c:8332/",
        "timeout": 2.5,
        "verify_tls": False,
        "fee_ceiling": 50,
        "fee_rate": 7,
    }
    assert load(tmp_path, given) == Settings(TESTNET, tmp_path, **given)  # type: ignore[arg-type]


def test_a_hub_is_known_on_regtest_only(tmp_path: Path) -> None:
    assert load(tmp_path, network=REGTEST).require_hub_url == "http://127.0.0.1:25000/api/"
    with pytest.raises(InvalidSetting, match="--hub-url") as refused:
        _ = load(tmp_path).require_hub_url
    assert str(settings_file(TESTNET, tmp_path)) in refused.value.message


def test_the_file_of_the_original_client(tmp_path: Path) -> None:
    original = {"hub_url": "https://h/", "hub_username": None, "hub_password": None, "hub_verify_ssl_cert": False}
    settings = load(tmp_path, original)
    assert (settings.hub_url, settings.verify_tls, settings.hub_auth) == ("https://h/", False, None)
    settings = load(tmp_path, original | {"hub_username": "u", "hub_password": "p", "verify_tls": True})
    assert (settings.verify_tls, settings.hub_auth) == (True, ("u", "p"))


@pytest.mark.parametrize("content", ["", "{", "[]", "5", "[" * 100_000])
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    with pytest.raises(StoreDamaged, match=r"testnet\.cfg"):
        load(tmp_path, content)
    assert settings_file(TESTNET, tmp_path).read_text() == content


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    settings_file(TESTNET, tmp_path).mkdir()
    with pytest.raises(StoreDamaged, match=r"testnet\.cfg"):
        load(tmp_path)


def test_an_unknown_setting_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"'hub_ulr'.*hub_url") as refused:
        load(tmp_path, {"hub_ulr": "http://x/"})
    assert "hub_url" in refused.value.data["known"]


IMPOSSIBLE: list[tuple[str, Any]] = [
    ("timeout", 0),
    ("timeout", "10"),
    ("timeout", True),
    ("verify_tls", "no"),
    ("verify_tls", 0),
    ("fee_rate", 0),
    ("fee_rate", 1.5),
    ("fee_rate", 101),  # above the ceiling
    ("fee_ceiling", -1),
    ("hub_url", 5),
    ("hub_username", 5),
]


@pytest.mark.parametrize(("name", "value"), IMPOSSIBLE)
def test_impossible_values(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(InvalidSetting, match=name):
        load(tmp_path, {name: value})


@pytest.mark.parametrize("url", ["x", "ftp://x/", "http://", "http://h:99999/", "http://a b/", "http://a\n/"])
def test_urls(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidUrl, match="hub_url"):
        load(tmp_path, flags={"hub_url": url})


def test_network_and_folder(tmp_path: Path) -> None:
    assert choose_network(None, {}).name == "mainnet"
    assert choose_network(None, {"PICOPAYMENTS_NETWORK": "signet"}).name == "signet"
    assert choose_network("regtest", {"PICOPAYMENTS_NETWORK": "signet"}).name == "regtest"
    with pytest.raises(WrongNetwork, match="testnet4"):
        choose_network("simnet", {})
    assert choose_basedir(None, {"PICOPAYMENTS_BASEDIR": str(tmp_path)}) == tmp_path
    assert choose_basedir("~/x", {"PICOPAYMENTS_BASEDIR": str(tmp_path)}) == Path.home() / "x"
    assert choose_basedir(None, {}).name == "picopayments-cli"


def test_how_deep_is_final_can_be_set_on_regtest_only() -> None:
    variable = {"PICOPAYMENTS_SAFE_DEPTH": "6"}
    assert choose_network("regtest", {}).safe_depth == 1
    assert choose_network("regtest", variable).safe_depth == 6
    assert choose_network("mainnet", {"PICOPAYMENTS_SAFE_DEPTH": "1"}) == NETWORKS["mainnet"]
    for wrong in ("0", "101", "-1", "six", "1.5"):
        with pytest.raises(InvalidSetting):
            choose_network("regtest", {"PICOPAYMENTS_SAFE_DEPTH": wrong})

"""Where a setting comes from, and what is said about one that can't be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from picopayments_cli.channel.networks import NETWORKS, Network
from picopayments_cli.config import (
    Settings,
    check_url,
    choose_basedir,
    choose_client_basedir,
    choose_network,
    load_settings,
    place_of,
    settings_file,
    shown,
    with_setting,
)
from picopayments_cli.errors import InvalidSetting, InvalidUrl, StoreDamaged, StoreUnusable, WrongNetwork

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
        "ask_above": 0,
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
    assert load(tmp_path, original | {"hub_username": "u"}).hub_auth is None
    assert load(tmp_path, original | {"hub_password": "p"}).hub_auth is None
    assert load(tmp_path, {"hub_verify_ssl_cert": True}).verify_tls is True
    settings = load(tmp_path, original | {"hub_url": "http://u:p@h/"})
    settings_file(TESTNET, tmp_path).chmod(0o644)  # which becomes private with the others
    assert load(tmp_path).hub_url == settings.hub_url


def test_the_folder_of_the_original_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    original, ours = tmp_path / ".picopayments", tmp_path / "data" / "picopayments-cli"
    assert choose_client_basedir(None, {}) == ours
    original.mkdir()
    assert choose_client_basedir(None, {}) == original
    assert choose_client_basedir(str(tmp_path / "x"), {}) == tmp_path / "x"
    assert choose_client_basedir(None, {"PICOPAYMENTS_BASEDIR": str(tmp_path / "y")}) == tmp_path / "y"
    ours.mkdir(parents=True)
    assert choose_client_basedir(None, {}) == ours


@pytest.mark.parametrize("content", ["", "{", "[]", "5", "[" * 100_000])
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    with pytest.raises(StoreDamaged, match=r"testnet\.cfg"):
        load(tmp_path, content)
    assert settings_file(TESTNET, tmp_path).read_text() == content


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    settings_file(TESTNET, tmp_path).mkdir()
    with pytest.raises(StoreDamaged, match=r"testnet\.cfg"):
        load(tmp_path)


def test_a_basedir_that_is_no_folder_is_said_to_be_none(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for basedir in (file, file / "below"):
        with pytest.raises(StoreUnusable, match="is no folder"):
            load(basedir)


def test_an_unknown_setting_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"'hub_ulr'.*hub_url") as refused:
        load(tmp_path, {"hub_ulr": "http://x/"})
    assert "hub_url" in refused.value.data["known"]


IMPOSSIBLE: list[tuple[str, Any]] = [
    ("timeout", 0),
    ("timeout", -1),
    ("timeout", 3600.5),
    ("timeout", "10"),
    ("timeout", True),
    ("verify_tls", "no"),
    ("verify_tls", 0),
    ("fee_rate", 0),
    ("fee_rate", True),
    ("fee_rate", "7"),
    ("fee_rate", 1.5),
    ("fee_rate", 101),  # above the ceiling
    ("fee_ceiling", -1),
    ("fee_ceiling", 0),
    ("fee_ceiling", 10_001),
    ("fee_ceiling", True),
    ("fee_ceiling", 2.0),
    ("hub_url", 5),
    ("hub_username", 5),
    ("hub_password", 5),
    ("hub_verify_ssl_cert", "yes"),
    ("hub_verify_ssl_cert", 1),
    ("chain_url", 5),
    ("bitcoin_url", 5),
    ("bitcoin_url", "http://b/"),  # of no use without chain_url
]


@pytest.mark.parametrize(("name", "value"), IMPOSSIBLE)
def test_impossible_values(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(InvalidSetting, match=name):
        load(tmp_path, {name: value})


@pytest.mark.parametrize("network", [REGTEST, TESTNET])
@pytest.mark.parametrize("name", ["hub_url", "chain_url", "bitcoin_url"])
def test_the_example_of_a_url_is_one_that_the_setting_takes(tmp_path: Path, name: str, network: Network) -> None:
    with pytest.raises(InvalidUrl) as refused:
        load(tmp_path, {"chain_url": "http://c/", name: "nowhere"}, network=network)
    example = refused.value.message.partition("a URL like ")[2].partition(", not ")[0]
    assert (
        example
        == {
            ("hub_url", "testnet"): "http://127.0.0.1:15000/api/",
            ("chain_url", "testnet"): "http://127.0.0.1:14000/",
            ("bitcoin_url", "testnet"): "http://USER:PASSWORD@127.0.0.1:18332/",
            ("hub_url", "regtest"): "http://127.0.0.1:25000/api/",
            ("chain_url", "regtest"): "http://127.0.0.1:24000/",
            ("bitcoin_url", "regtest"): "http://127.0.0.1:24000/bitcoin/",
        }[name, network.name]
    )
    assert getattr(load(tmp_path, {"chain_url": "http://c/", name: example}, network=network), name) == example


def test_a_bitcoin_node_alone_is_refused_with_what_goes_with_it(tmp_path: Path) -> None:
    for network, told in (
        (TESTNET, "Set chain_url too, such as http://127.0.0.1:14000/ of Counterparty Core"),
        (REGTEST, "the embedded network of regtest needs none: take it out."),
    ):
        with pytest.raises(InvalidSetting) as refused:
            load(tmp_path, environ={"PICOPAYMENTS_BITCOIN_URL": "http://b/"}, network=network)
        assert told in refused.value.message
        assert "bitcoin_url (PICOPAYMENTS_BITCOIN_URL)" in refused.value.message


def test_values_at_their_limits(tmp_path: Path) -> None:
    given = {"timeout": 3600, "fee_ceiling": 10_000, "fee_rate": 10_000}
    settings = load(tmp_path, given)
    assert (settings.timeout, settings.fee_ceiling, settings.fee_rate) == (3600, 10_000, 10_000)
    settings = load(tmp_path, {"timeout": 0.001, "fee_ceiling": 1, "fee_rate": 1})
    assert (settings.timeout, settings.fee_ceiling, settings.fee_rate) == (0.001, 1, 1)
    assert load(tmp_path, {"fee_rate": 100}).fee_rate == 100


def test_values_of_the_environment(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        environ={
            "PICOPAYMENTS_HUB_URL": "http://h/",
            "PICOPAYMENTS_CHAIN_URL": "http://c/",
            "PICOPAYMENTS_BITCOIN_URL": "http://b/",
            "PICOPAYMENTS_TIMEOUT": "2.5",
        },
    )
    assert (settings.hub_url, settings.chain_url, settings.bitcoin_url) == ("http://h/", "http://c/", "http://b/")
    assert settings.timeout == 2.5
    assert {name for name, choice in settings.choices.items() if choice.source == "environment"} == {
        "hub_url",
        "chain_url",
        "bitcoin_url",
        "timeout",
    }
    for wrong in ("soon", "[" * 100_000, "0", "NaN"):
        with pytest.raises(InvalidSetting, match="timeout"):
            load(tmp_path, environ={"PICOPAYMENTS_TIMEOUT": wrong})


@pytest.mark.parametrize(
    "given",
    [
        {"hub_password": "p"},
        {"hub_url": "http://u:p@h/"},
        {"chain_url": "http://u:p@h/"},
        {"chain_url": "http://h/", "bitcoin_url": "http://u:p@h/"},
    ],
)
def test_a_file_with_a_password_that_others_can_read(tmp_path: Path, given: Any) -> None:
    path = settings_file(TESTNET, tmp_path)
    path.write_text(json.dumps(given))
    for mode in (0o640, 0o604, 0o601):
        path.chmod(mode)
        with pytest.raises(StoreUnusable, match="chmod go="):
            load(tmp_path)
        with pytest.raises(StoreUnusable):
            with_setting(TESTNET, tmp_path, "timeout", "5")
    path.chmod(0o600)
    load(tmp_path)
    path.write_text(json.dumps({"hub_url": "http://h/@"}))
    path.chmod(0o644)
    with pytest.raises(StoreUnusable):
        load(tmp_path)
    path.write_text(json.dumps({"hub_url": "http://h/", "timeout": 5, "hub_password": None}))
    assert load(tmp_path).timeout == 5


def test_a_setting_is_set_and_taken_out_where_all_is_right_then(tmp_path: Path) -> None:
    load(tmp_path, {"fee_rate": 50, "timeout": 5})
    assert with_setting(TESTNET, tmp_path, "timeout", "7.5") == {"fee_rate": 50, "timeout": 7.5}
    assert with_setting(TESTNET, tmp_path, "timeout", "") == {"fee_rate": 50}
    assert with_setting(TESTNET, tmp_path, "verify_tls", "false") == {"fee_rate": 50, "timeout": 5, "verify_tls": False}
    assert with_setting(TESTNET, tmp_path, "hub_password", "007")["hub_password"] == "007"
    for name, text in (("fee_ceiling", "49"), ("fee_rate", "101"), ("timeout", "soon"), ("bitcoin_url", "http://b/")):
        with pytest.raises(InvalidSetting):
            with_setting(TESTNET, tmp_path, name, text)
    with pytest.raises(InvalidUrl):
        with_setting(TESTNET, tmp_path, "hub_url", "x")
    with pytest.raises(InvalidSetting, match="'network'"):
        with_setting(TESTNET, tmp_path, "network", "regtest")
    assert json.loads(settings_file(TESTNET, tmp_path).read_text()) == {"fee_rate": 50, "timeout": 5}


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("hub_password", "p", "***"),
        ("hub_password", None, None),
        ("hub_username", "u@h", "u@h"),
        ("hub_url", "https://u:p@h:1/x?y", "https://***@h:1/x?y"),
        ("chain_url", "https://p@h/", "https://***@h/"),
        ("bitcoin_url", "http://u:p@q@h/", "http://***@h/"),
        ("hub_url", "http://h/", "http://h/"),
        ("hub_url", None, None),
    ],
)
def test_what_is_shown_of_a_setting(name: str, value: Any, seen: Any) -> None:
    assert shown(name, value) == seen


def test_a_url_with_a_password_is_not_quoted(tmp_path: Path) -> None:
    for url in ("http://u:p455@h:x/", "ftp://u:p455@h/", "http://u:p455@h h/"):
        with pytest.raises(InvalidUrl) as refused:
            load(tmp_path, flags={"hub_url": url})
        assert "p455" not in refused.value.message
    with pytest.raises(InvalidUrl, match="not 'nowhere'"):
        load(tmp_path, flags={"hub_url": "nowhere"})


@pytest.mark.parametrize("url", ["http://h:1/", "https://h:65535", "http://[::1]:25000/api/", "HTTP://h/"])
def test_urls_that_are_right(tmp_path: Path, url: str) -> None:
    assert load(tmp_path, flags={"hub_url": url}).hub_url == url


WRONG_URLS = ["x", "ftp://x/", "http://", "http://h:99999/", "http://h:65536/", "http://a b/", "http://a\n/", "//h/"]


@pytest.mark.parametrize("url", WRONG_URLS)
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
    assert choose_network("regtest", {"PICOPAYMENTS_SAFE_DEPTH": "100"}).safe_depth == 100
    assert choose_network("regtest", {"PICOPAYMENTS_SAFE_DEPTH": ""}).safe_depth == 1
    for wrong in ("0", "101", "-1", "six", "1.5", "\u0663"):
        with pytest.raises(InvalidSetting):
            choose_network("regtest", {"PICOPAYMENTS_SAFE_DEPTH": wrong})


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://hub.example/api/", "https://hub.example"),
        ("HTTPS://Hub.Example:443", "https://hub.example"),
        ("http://hub.example:80/a?b#c", "http://hub.example"),
        ("http://hub.example:443/", "http://hub.example:443"),
        ("https://me:pass@hub.example:5000/api/", "https://hub.example:5000"),
        ("http://[::1]:25000/api/", "http://[::1]:25000"),
        ("http://127.0.0.1:25000/api/", "http://127.0.0.1:25000"),
        ("https://Hub.Example./api/", "https://hub.example"),
        ("https://hub.example.:443/", "https://hub.example"),
        ("http://127.0.0.1./", "http://127.0.0.1"),
        ("http://127.1/", "http://127.1"),  # a name: not every library takes it for an address
        ("http://[0:0:0:0:0:0:0:1]:25000/", "http://[::1]:25000"),
        ("http://[FE80::0A]/", "http://[fe80::a]"),
        ("http://b\u00fccher.example/", "http://xn--bcher-kva.example"),
        ("http://B\u00dcCHER.example./", "http://xn--bcher-kva.example"),
        ("http://XN--BCHER-KVA.example/", "http://xn--bcher-kva.example"),
        ("", ""),
        ("hub.example", "hub.example"),
        ("http://hub.example:port/", "http://hub.example:port/"),
    ],
)
def test_a_hub_is_at_one_place_however_its_url_is_spelled(url: str, place: str) -> None:
    assert place_of(url) == place
    assert place_of(place) == place


@pytest.mark.parametrize(
    "url",
    [
        "http://127%2e0.0.1:25000/api/",
        "http://hub%2eexample/",
        "http://hub.example%2eevil.example/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://me@hub%2eexample/",
        "http://hub.example\\@evil.example/",
        "http://evil.example\\.hub.example/",
        "http://./",
        "http://me@/",
        "http://stra\u00dfe.example/",  # one library's strasse.example
        "http://\uff45vil.example/",
        "http://evil\u3002example/",
        "http://\ufb00oo.example/",
        "http://hub\u200d.example/",
        "http://\u00fc..example/",
        "http://\u2024/",
    ],
)
def test_a_host_that_may_be_read_in_another_way_is_refused(url: str) -> None:
    with pytest.raises(InvalidUrl):
        check_url(url, "hub_url")


def test_a_password_may_have_what_a_host_may_not() -> None:
    assert check_url("http://me:50%25@hub.example/", "hub_url")
